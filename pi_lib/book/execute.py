"""Run one notebook with papermill, in a process of its own: begun by `pi_lib.book.runner`.

It and the notebook's kernel are forks of a process that has loaded torch: see
`pi_lib.processes`.
"""

import asyncio
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from multiprocessing import get_context
from pathlib import Path

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

from pi_lib import processes

INLINE = "module://matplotlib_inline.backend_inline"  # shows a cell's figures below it
LONGEST = 80  # bytes of a folder in which a unix socket may be, of whose path 103 fit everywhere


def injected(cell) -> bool:
    """Whether papermill put this cell in: the one that sets the parameters."""
    return "injected-parameters" in cell["metadata"].get("tags", [])


def execute(
    notebook: Path,
    parameters: dict,
    cwd: Path,
    lines: Path,
    log: Path,
    environment: Mapping[str, str],
) -> None:
    """Execute a notebook in place; each code cell that begins is a line in the file `lines`.

    What notebook and kernel say goes to the file `log`.
    """
    processes.begin(environment)
    with open(log, "w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    import nbformat
    import papermill
    from traitlets.config import Config

    cells = nbformat.read(notebook, as_version=4).cells
    total = sum(cell.cell_type == "code" for cell in cells)
    started = iter(range(1, total + 1))

    def on_cell_start(cell, cell_index):
        if cell.cell_type == "code" and not injected(cell):
            with open(lines, "a", encoding="utf-8") as file:
                file.write(f"cell {next(started)}/{total}\n")

    if sys.platform == "linux":
        kernels = KernelProvisionerFactory.instance()
        kernels.provisioners["fork"] = EntryPoint("fork", f"{__name__}:Fork", kernels.GROUP_NAME)
        kernels.default_provisioner_name = "fork"
    temporary = tempfile.gettempdir()
    if len(os.fsencode(temporary)) > LONGEST:
        temporary = "/tmp"
    with tempfile.TemporaryDirectory(prefix="pi_lib", dir=temporary) as folder:
        papermill.execute_notebook(
            notebook,
            notebook,
            parameters=parameters,
            kernel_name="python3",
            cwd=cwd,
            progress_bar=False,
            log_output=True,
            # TCP ports can be taken between choice and use; sockets of its own cannot.
            config=Config(KernelManager={"transport": "ipc", "ip": f"{folder}/k"}),
            on_cell_start=on_cell_start,
        )


class Fork(LocalProvisioner):
    """Begins a kernel as a fork of this process."""

    async def launch_kernel(self, cmd, *, env, **_):
        self.process = Kernel(target=_kernel, args=(cmd[cmd.index("-f") :], env))
        self.process.start()
        self.pid = self.pgid = self.process.pid
        return self.connection_info


class Kernel(get_context("fork").Process):
    """A process as jupyter_client knows them, by the names of `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int:
        self.join()
        return self.exitcode


def _kernel(arguments: list[str], environment: Mapping[str, str]) -> None:
    """The kernel itself, in a group of its own, where Ctrl-C is no more than what is sent to it."""
    processes.begin(environment)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    sys.argv = ["ipykernel_launcher.py", *arguments]
    asyncio.set_event_loop(asyncio.new_event_loop())  # not its owner's, which is running

    import matplotlib
    from ipykernel.kernelapp import launch_new_instance

    # The kernel names it in MPLBACKEND, which matplotlib, loaded before, does not read again.
    matplotlib.rcParams["backend"] = environment.get("MPLBACKEND") or INLINE
    launch_new_instance([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])

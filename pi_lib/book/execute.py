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

LONGEST_SOCKET = 103  # bytes that the path of a unix socket may have everywhere


def injected(cell) -> bool:
    """Whether papermill put this cell in: the one that sets the parameters."""
    return "injected-parameters" in cell["metadata"].get("tags", [])


def sockets(folder: str) -> str:
    """How the names of a kernel's sockets begin: in `folder`, if its path is short enough.

    Raises
    ------
    OSError
        If the path is too long, on a system whose sockets are all files.
    """
    begin = f"{folder}/k"
    if len(os.fsencode(begin)) + len("-5") <= LONGEST_SOCKET:
        return begin
    if sys.platform != "linux":
        raise OSError(
            f"{folder} is too long a path for a kernel's sockets, of at most {LONGEST_SOCKET} "
            "bytes: name a shorter folder for temporary files in the variable TMPDIR"
        )
    return f"@{Path(folder).name}"  # Linux takes names that are no files


def execute(
    notebook: str, parameters: dict, cwd: str, lines: str, log: str, environment: Mapping[str, str]
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

    kernels = KernelProvisionerFactory.instance()
    kernels.provisioners["fork"] = EntryPoint("fork", f"{__name__}:Fork", kernels.GROUP_NAME)
    kernels.default_provisioner_name = "fork"
    with tempfile.TemporaryDirectory(prefix="pi_lib") as folder:
        papermill.execute_notebook(
            notebook,
            notebook,
            parameters=parameters,
            kernel_name="python3",
            cwd=cwd,
            progress_bar=False,
            log_output=True,
            # TCP ports can be taken between choice and use; sockets of its own cannot.
            config=Config(KernelManager={"transport": "ipc", "ip": sockets(folder)}),
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

    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])

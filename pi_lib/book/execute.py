"""Run one notebook with papermill, in an interpreter of its own: started by `pi_lib.book.runner`.

It is run as a file and imports nothing of pi_lib, which would load torch a second time, beside the
kernel that needs it.
"""

import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from threading import Thread

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


def execute(notebook: str, parameters: dict, cwd: str, lines: str) -> None:
    """Execute a notebook in place; each code cell that begins is a line in the file `lines`."""
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


def _end_with_parent() -> None:
    """Wait for the end of what started this process, which holds its standard input open."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    execute(**json.loads(sys.argv[1]))

"""Run one notebook with papermill, in an interpreter of its own: started by `pi_lib.book.runner`.

It is run as a file and imports nothing of pi_lib, which would load torch a second time, beside the
kernel that needs it.
"""

import json
import logging
import os
import sys
import tempfile
from threading import Thread

LONGEST = 80  # bytes of a folder in which a unix socket may be, of whose path 103 fit everywhere


def injected(cell) -> bool:
    """Whether papermill put this cell in: the one that sets the parameters."""
    return "injected-parameters" in cell["metadata"].get("tags", [])


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


def _end_with_parent() -> None:
    """Wait for the end of what started this process, which holds its standard input open."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    execute(**json.loads(sys.argv[1]))

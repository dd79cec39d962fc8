"""Processes that have torch loaded when they begin: forks of one that loads it once.

A process of a study, and that of a notebook, would otherwise spend its first seconds on imports.
"""

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.context import BaseContext
from threading import Lock, Thread

# What takes long to import, but nothing of pi_lib, which may change while a session is open. None
# of it may ask for a GPU: a process that did leaves its forks without one.
LOADED = [
    "torch", "torchvision.transforms.v2", "transformers.trainer", "accelerate", "peft", "datasets",
    "sklearn.linear_model", "scipy.stats", "pandas", "seaborn", "papermill", "ipykernel.ipkernel",
]  # fmt: skip

ALONE = {  # variables of the process that loads
    "PYTHONSAFEPATH": "1",  # what stands in this folder cannot be taken for a package
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # looks for a GPU without asking it
}
_STARTING = Lock()


def context(**variables: str) -> BaseContext:
    """How processes are begun that compute: the first waits for the imports, others do not.

    Parameters
    ----------
    **variables : str
        Variables of the environment that count when packages are loaded, as ``OMP_NUM_THREADS``.
        The first call in a process sets them for all; `begin` gives each process its own.
    """
    if sys.platform != "linux":  # elsewhere forks of loaded libraries may crash
        return get_context("spawn")
    forks = get_context("forkserver")
    forks.set_forkserver_preload(LOADED)
    variables |= ALONE
    with _STARTING, interrupts_wait():
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            forkserver.ensure_running()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
    return forks


def begin(environment: Mapping[str, str]) -> None:
    """In such a process, first of all: take these variables, and end with the process' owner.

    Ctrl-C is sent to all processes of a terminal; here it does nothing: the owner decides.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.clear()
    os.environ.update(environment)

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


@contextmanager
def interrupts_wait():
    """Ctrl-C waits for the end of the block, and never reaches processes begun in it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

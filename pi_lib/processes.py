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
from threading import Thread

# What takes long to import, but nothing of pi_lib, which may change while a session is open. None
# of it may ask for a GPU: a process that did leaves its forks without one.
LOADED = [
    "torch", "torchvision.transforms.v2", "transformers.trainer", "accelerate", "peft", "datasets",
    "sklearn.linear_model", "scipy.stats", "pandas", "seaborn", "papermill", "ipykernel.ipkernel",
]  # fmt: skip


def context(environment: Mapping[str, str] = os.environ) -> BaseContext:
    """How processes are begun that compute: the first waits for the imports, others do not.

    Parameters
    ----------
    environment : mapping, default that of this process
        Variables that count when packages are loaded, as ``OMP_NUM_THREADS``. Only the first call
        in a process sets them; `begin` gives each process its own.
    """
    if sys.platform != "linux":  # elsewhere forks of loaded libraries may crash
        return get_context("spawn")
    forks = get_context("forkserver")
    forks.set_forkserver_preload(LOADED)
    before = dict(os.environ)
    with interrupts_wait():
        try:
            # what stands in this folder cannot be taken for a package
            os.environ.update(environment, PYTHONSAFEPATH="1")
            forkserver.ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(before)
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

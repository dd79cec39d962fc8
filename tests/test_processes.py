"""Processes that begin with torch loaded. That they end with their owner: study/test_interrupts."""

import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection

from pi_lib import processes

NO_GPU = """
import importlib, sys, torch
from pi_lib import processes

def asked(*_, **__):
    raise AssertionError("asked for a GPU")

for name in ("is_available", "device_count", "current_device", "init", "_lazy_init"):
    setattr(torch.cuda, name, asked)
for module in processes.LOADED:
    importlib.import_module(module)
"""


def _loaded(environment: dict, answer: Connection) -> None:
    processes.begin(environment)
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    answer.send([{*processes.LOADED} <= {*sys.modules}, os.environ.copy(), blocked])


def test_what_is_loaded_beforehand_asks_for_no_gpu():
    """A process that did leaves its forks without one."""
    subprocess.run([sys.executable, "-c", NO_GPU], check=True)


def test_a_process_begins_with_all_loaded_and_its_own_variables(monkeypatch):
    monkeypatch.setenv("PI_LIB_TEST", "not this")
    context = processes.context()
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_loaded, args=({"PI_LIB_TEST": "this"}, writer))
    process.start()
    loaded, environment, blocked = reader.recv()
    process.join()
    assert loaded and environment == {"PI_LIB_TEST": "this"} and blocked
    assert os.environ["PI_LIB_TEST"] == "not this" and "PYTHONSAFEPATH" not in os.environ


def test_where_forks_may_crash_processes_begin_afresh(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert processes.context().get_start_method() == "spawn"

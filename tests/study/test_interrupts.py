"""Ctrl-C and kill, for real: nothing lost, no process left, and in the end the same bits."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_study

from pi_lib import study
from pi_lib.book import runner
from pi_lib.study.store import Store

# The command line on small data, in the worker processes too; every step of training is saved.
SCRIPT = """
import functools, pathlib, signal, sys
import small_study
from pi_lib import __main__, processes
from pi_lib.book import runner
from pi_lib.training import loop

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background ignores it
small_study.dask_setup(None)
loop.SAVE_EVERY = 0
processes.LOADED = ["torch"]  # small data need no more, and every start loads it anew
runner.run = functools.partial(runner.run, root=pathlib.Path(__file__).parent)
if __name__ == "__main__":
    sys.exit(__main__.main())
"""
NOTEBOOK = """# %% tags=["parameters"]
profile = "smoke"

# %%
import pathlib, os, sys, time
pathlib.Path("../kernel").write_text(str(os.getpid()))
"""
STUDY = """
import small_study
from pi_lib import study
from pi_lib.training import loop
small_study.dask_setup(None)
loop.SAVE_EVERY = 0
study.run(study.Cell(**small_study.CELL))
"""


@pytest.fixture
def start(tmp_path):
    """Start the command line as a terminal does, in a group of processes of its own."""
    (tmp_path / "cli.py").write_text(SCRIPT)
    (tmp_path / "grid.yml").write_text(f"cells: [{small_study.CELL}]".replace("'", '"'))
    (tmp_path / "notebooks").mkdir()
    shutil.copy(runner.ROOT / "notebooks" / "jupytext.toml", tmp_path / "notebooks")
    here = Path(__file__).parents[1]
    about = os.environ | {"PI_LIB_HOME": str(tmp_path / "home")}
    about["PYTHONPATH"] = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "cli.py", *arguments], cwd=tmp_path, env=about, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def until(happened, seconds=120):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def ended(pid, group=False) -> bool:
    """Whether a process, or all of a group, has ended."""
    listed = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True)
    rows = (line.split() for line in listed.stdout.splitlines())
    return not any(str(pid) == row[group] and not row[2].startswith("Z") for row in rows)


def results(root) -> study.Record:
    return study.run(study.Cell(**small_study.CELL), Store(root))


def check_same(found, expected):
    assert found.header["logs"] == expected.header["logs"]
    assert found.games.keys() == expected.games.keys()
    assert all((found.games[key] == expected.games[key]).all() for key in found.games)


def check_nothing_left(root):
    left = [p for p in root.rglob("*") if ".partial" in p.name or ".aside" in p.name]
    left += [p for p in root.rglob("*") if p.name in ("state", "values")]
    assert not left


def test_a_study_is_interrupted_killed_and_goes_on(small, start, tmp_path):
    store = tmp_path / "home" / "results"
    command = ("study", "--grid", "grid.yml", "--jobs", "1")
    process = start(*command)
    until(lambda: list(store.glob("pretrain/.*.partial")))
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in said
    assert "go on with: python -m pi_lib study --grid grid.yml --jobs 1\n" in said
    until(lambda: ended(process.pid, group=True))

    process = start(*command)
    until(lambda: list(store.glob("train/.*.partial/state/state.pt")))
    process.kill()
    process.wait()
    until(lambda: ended(process.pid, group=True))

    kept = len(list(store.glob("*/*/record.json")))
    found = results(store)
    assert 0 < kept < len(list(store.glob("*/*/record.json")))
    check_same(found, results(tmp_path / "whole"))
    check_nothing_left(store)


def test_interrupted_notebooks_end_with_their_kernels(start, tmp_path):
    (tmp_path / "notebooks" / "01_long.py").write_text(NOTEBOOK + "time.sleep(60)\n")
    for stop in (signal.SIGINT, signal.SIGKILL):
        process = start("run", "--profile", "smoke")
        until((tmp_path / "kernel").exists)
        time.sleep(0.1)
        kernel = int((tmp_path / "kernel").read_text())
        process.send_signal(stop)  # to the runner alone: it ends the others
        said = process.communicate(timeout=60)[1]
        assert "Traceback" not in said
        if stop == signal.SIGINT:
            assert process.returncode == 130
            assert "go on with: python -m pi_lib run --profile smoke\n" in said
        until(lambda: ended(process.pid, group=True) and ended(kernel))  # noqa: B023
        (tmp_path / "kernel").unlink()
    assert not list((tmp_path / "book" / "executed").glob("*.ipynb"))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", ["study", "notebooks"])
def test_stopped_at_25_random_moments(what, small, start, tmp_path):
    """By Ctrl-C and by kill in turn; whenever it comes to an end, the results are the same."""
    expected, home = results(tmp_path / "whole"), tmp_path / "home"
    (tmp_path / "notebooks" / "01_study.py").write_text(NOTEBOOK + STUDY)
    command = ("run", "--profile", "smoke", "--jobs", "2")
    if what == "study":
        command = ("study", "--grid", "grid.yml", "--jobs", "2")
    moments, stopped, whole = random.Random(0), 0, 0
    while stopped < 25 or not whole:
        process = start(*command)
        try:
            said = process.communicate(timeout=moments.uniform(1, 25))[1]
            assert process.returncode == 0, said
        except subprocess.TimeoutExpired:
            stopped += 1
            if stopped % 2:
                os.killpg(process.pid, signal.SIGINT)
                said = process.communicate(timeout=60)[1]
                # -SIGINT: Python was still loading packages, and had done nothing
                assert process.returncode in (0, 130, -signal.SIGINT), said
                assert process.returncode == -signal.SIGINT or "Traceback" not in said
            else:
                process.kill()
                process.communicate()
            until(lambda: ended(process.pid, group=True))  # noqa: B023
            if (tmp_path / "kernel").exists():
                until(lambda: ended(int((tmp_path / "kernel").read_text() or 0)))
            continue
        whole += 1
        check_same(results(home / "results"), expected)
        check_nothing_left(tmp_path)
        shutil.rmtree(home)
        shutil.rmtree(tmp_path / "book", ignore_errors=True)
    print(f"{what}: stopped {stopped} times, came to an end {whole} times")

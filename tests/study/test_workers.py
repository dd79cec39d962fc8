"""A cluster of two processes that share no disk: same bits as here, also when one is lost."""

import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import small_study
import torch

from pi_lib import study
from pi_lib.__main__ import main
from pi_lib.study.store import Store
from pi_lib.study.workers import _work


@pytest.fixture
def scheduler():
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as cluster:
        yield cluster.scheduler


@pytest.fixture
def workers(scheduler, tmp_path):
    """Two, each with a home of its own."""
    processes = []
    for name in ("one", "two"):
        command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler.address]
        command += ["--no-nanny", "--nthreads", "1", "--name", name, "--no-dashboard"]
        command += ["--resources", "GPU=1", "--local-directory", str(tmp_path / name)]
        command += ["--host", "127.0.0.1", "--preload", small_study.__file__]
        about = os.environ | {"PI_LIB_HOME": str(tmp_path / name / "home")}
        with open(tmp_path / f"{name}.log", "w") as log:
            processes.append(subprocess.Popen(command, env=about, stdout=log, stderr=log))
    yield dict(zip(("one", "two"), processes, strict=True))
    for process in processes:
        process.kill()
        process.wait()


def with_two_threads(compute):
    """A worker has one, by `make test`: a step has one whatever its process has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return compute()
    finally:
        assert torch.get_num_threads() == 2  # a step hands them back
        torch.set_num_threads(threads)


def test_a_lost_workers_steps_are_computed_by_another(
    small, scheduler, workers, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PI_LIB_HOME", str(tmp_path / "home"))
    grid = tmp_path / "g.yml"
    grid.write_text(json.dumps({"cells": [small_study.CELL]}))

    def lose_one():
        while not all(worker.processing for worker in scheduler.workers.values()) or (
            len(scheduler.workers) < 2
        ):
            if over.wait(0.05):
                return
        lost.append(len(store_files()))
        workers["one"].kill()

    def store_files():
        return sorted((tmp_path / "home" / "results").glob("*/*/record.json"))

    over, lost = threading.Event(), []
    thread = threading.Thread(target=lose_one)
    thread.start()
    command = ["study", "--grid", str(grid), "--scheduler", scheduler.address]
    try:
        assert main([*command, "--resources", "GPU=1"]) == 0
    finally:
        over.set()
        thread.join()
    assert "stored        resnet20 (fashion-mnist) on digits" in capsys.readouterr().out
    assert lost and lost[0] < len(store_files())
    assert not list((tmp_path / "two").rglob("*.safetensors"))  # nothing stays with a worker
    assert not list((tmp_path / "home").rglob(".*.partial"))

    cell = study.Cell(**small_study.CELL)
    expected = with_two_threads(lambda: study.run(cell, Store(tmp_path / "here")))
    found = study.run(cell, Store(tmp_path / "home" / "results"))
    assert found.header["rates"] == expected.header["rates"]
    assert found.header["logs"] == expected.header["logs"]
    assert found.games.keys() == expected.games.keys()
    assert all((found.games[key] == expected.games[key]).all() for key in found.games)


def test_what_cannot_be_had_is_refused(tmp_path, monkeypatch, capsys):
    grid = tmp_path / "g.yml"
    grid.write_text("cells: [{backbone: minilm, task: sst2, profile: smoke}]")

    def said(*arguments):
        assert main(["study", "--grid", str(grid), *arguments]) == 2
        return capsys.readouterr().err

    monkeypatch.setattr("pi_lib.study.workers.TIMEOUT", 0.3)
    assert "no Dask scheduler answers at 'tcp://127.0.0.1:9'" in said(
        "--scheduler", "tcp://127.0.0.1:9"
    )
    assert "no Dask scheduler answers at 'nowhere'" in said("--scheduler", "nowhere")
    assert "NAME=NUMBER" in said("--scheduler", "tcp://127.0.0.1:9", "--resources", "GPU=many")
    assert "name a --scheduler" in said("--resources", "GPU=1")
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "pip install 'pi_lib[dask]'" in said("--scheduler", "tcp://127.0.0.1:9")


def test_a_worker_with_other_code_is_named(small, monkeypatch, tmp_path):
    import distributed

    here = SimpleNamespace(address="tcp://10.0.0.7:1", local_directory=str(tmp_path))
    monkeypatch.setattr(distributed, "get_worker", lambda: here)
    step = study.Step(study.Cell(**small_study.CELL), "pretrain")
    with pytest.raises(RuntimeError, match="10.0.0.7:1 has another version of pi_lib"):
        _work(step, [], "0123456789abcdef")
    assert not list(tmp_path.iterdir())

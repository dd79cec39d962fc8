"""What a study costs apart from its work: cells whose steps do nothing but write a file."""

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pi_lib import study, training
from pi_lib.study import schedule, steps, workers
from pi_lib.study.store import Store


def dask_setup(_=None) -> None:
    """Make steps trivial; called by the workers, which preload this file."""

    def train(step, store, folder):
        model = torch.nn.Linear(1, 1)
        states = {at: model.state_dict() for at in (0, 4, 8)}
        training.Run(model, states, log=[], settings={}, seconds=0).save(folder)

    def extract(step, store, folder):
        (folder / "interactions.safetensors").touch()

    steps._pretrain = steps._train = train
    steps._extract = extract


def milliseconds(cells: int, pool: workers.Cluster | None = None) -> float:
    """Wall time a cell, on a cluster or in this process."""
    asked = [
        job
        for number in range(cells)
        for job in schedule.jobs(study.Cell(profile="smoke", changes={"n_train": 64 + number}))
    ]
    with TemporaryDirectory() as folder:
        start, store, failed = time.perf_counter(), Store(folder), []
        if pool is None:
            for job in asked:
                schedule.compute(job, store)
        else:
            failed = [error for *_, error in schedule.finished(asked, store, pool) if error]
        seconds = time.perf_counter() - start
        steps = len(list(Path(folder).glob("*/*/record.json")))
    # of each run: its training, and its games with either set of players
    assert not failed and steps == 3 * len(asked), failed[:1]
    return 1000 * seconds / cells


def _here(cells: int) -> float:
    dask_setup()
    return milliseconds(cells)


def _on_dask(cells: int) -> float:
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, preload=[__file__]
        ) as cluster,
        workers.Cluster(cluster.scheduler_address) as pool,
    ):
        return milliseconds(cells, pool)


def rows(cells: int = 1000) -> Iterator[dict]:
    """Milliseconds on the clock for a cell of ten steps, results stored, in one process and on a
    Dask cluster of two worker processes on this machine.
    """
    spawn = multiprocessing.get_context("spawn")
    for pool, work in (("one process", _here), ("Dask, two workers", _on_dask)):
        with ProcessPoolExecutor(1, mp_context=spawn) as process:  # whose steps alone are trivial
            yield {
                "what": f"{cells:,} cells of ten trivial steps, {pool}",
                "pool": pool,
                "ms_per_cell": process.submit(work, cells).result(),
            }

"""What a study costs apart from its work: 1,000 cells whose steps do nothing but write a file.

``python -m benchmarks.cells [CELLS]`` prints milliseconds a cell, here and on a Dask cluster of
two worker processes on this machine. A cell has ten steps.
"""

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pi_lib import study, training, workers
from pi_lib.store import Store


def dask_setup(_=None) -> None:
    """Make steps trivial; called by the workers, which preload this file."""

    def train(step, store, folder):
        model = torch.nn.Linear(1, 1)
        states = {at: model.state_dict() for at in (0, 4, 8)}
        training.Run(model, states, log=[], settings={}, seconds=0).save(folder)

    def extract(step, store, folder):
        (folder / "interactions.safetensors").touch()

    study._pretrain = study._train = train
    study._extract = extract


def milliseconds(cells: int, pool: workers.Pool) -> float:
    """Wall time a cell."""
    asked = [
        (study.Cell(profile="smoke", seed=seed), phase)
        for seed in range(cells)
        for phase in study.PHASES
    ]
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        failed = [error for *_, error in study._finished(asked, Store(folder), pool) if error]
        seconds = time.perf_counter() - start
        steps = len(list(Path(folder).glob("*/*/record.json")))
    assert not failed and steps == 10 * cells, failed[:1]
    return 1000 * seconds / cells


def main(cells: int = 1000) -> None:
    from distributed import LocalCluster

    dask_setup()
    print(json.dumps({"cells": cells, "here": milliseconds(cells, workers.Here())}))
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, preload=[__file__]
        ) as cluster,
        workers.Cluster(cluster.scheduler_address) as pool,
    ):
        print(json.dumps({"cells": cells, "Dask": milliseconds(cells, pool)}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

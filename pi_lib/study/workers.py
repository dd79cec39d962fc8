"""Who computes the steps of a study beside this process: others on this machine, or a Dask cluster.

Each is a context manager with `slots`, how many steps it takes at a time, and ``submit(step,
store)``, which gives a future: when it is done, the store has the step's entry, or it raises.
"""

import os
import socket
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING

from pi_lib import processes
from pi_lib.study.store import Store, contents

if TYPE_CHECKING:
    from pi_lib.study.steps import Step

TIMEOUT = 5  # seconds that a scheduler has to answer
_ONE_STEP = Lock()  # in a worker: training sets the random state of its whole process


def usual_slots() -> int:
    """How many processes a machine takes: one a core, and 6 GiB of a GPU's memory for each."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not torch.cuda.is_available():
        return cores
    memory = min(
        torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())
    )
    return max(1, min(cores - 1, memory // (6 * 2**30)))


class Processes:
    """Processes on this machine, which write to the store themselves.

    They end with this process, however it ends, and at once when the ``with`` block is left by an
    exception: what they had in hand goes on from its last state when it is asked for again.
    """

    def __init__(self, slots: int):
        self.slots = slots

    def __enter__(self) -> "Processes":
        begin = (processes.begin, (dict(os.environ),))
        self._pool = ProcessPoolExecutor(self.slots, processes.context(), *begin)
        return self

    def submit(self, step: "Step", store: Store) -> Future:
        with processes.interrupts_wait():
            try:
                return self._pool.submit(step.compute, store)
            except BrokenProcessPool:  # one was killed, as for want of memory: the others go on
                self.__enter__()
                return self._pool.submit(step.compute, store)

    def __exit__(self, kind, *_) -> None:
        if kind is not None:
            for process in [*self._pool._processes.values()]:
                process.kill()  # the pool's own `kill_workers`, from Python 3.14 on
        self._pool.shutdown(cancel_futures=True)


class Cluster:
    """The workers of a Dask cluster, which need share no disk with this process.

    With a step go the weights that it starts from; its entry comes back whole. Data and
    pre-trained weights a worker fetches for itself, as `pi_lib.study.assets` says. Each worker
    computes one step at a time, and a step whose worker is lost is computed by another.

    Parameters
    ----------
    address : str
        Of the scheduler, such as "tcp://10.0.0.5:8786": a ConnectionError if none answers there
        within 5 seconds, an ImportError without Dask.
    slots : int, optional
        Steps under way at a time; default twice the workers' threads, at least 8.
    resources : dict of str to float, optional
        What a step takes of a worker's resources, such as ``{"GPU": 1}``.
    """

    def __init__(
        self, address: str, slots: int | None = None, resources: Mapping[str, float] | None = None
    ):
        try:
            import dask
            from distributed import Client
            from distributed.comm import get_address_host_port
        except ImportError as error:
            raise ImportError("a cluster needs Dask: pip install 'pi_lib[dask]'") from error
        # Weights are sent with the steps on purpose.
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"})
        try:
            # Knock first: a client that finds nobody complains again when it is collected.
            socket.create_connection(get_address_host_port(address), TIMEOUT).close()
            self._client = Client(address, timeout=TIMEOUT, set_as_default=False)
        except Exception as error:  # what answers may be anything
            raise ConnectionError(
                f"no Dask scheduler answers at {address!r} ({error}); start one with "
                "`dask scheduler`, which says its address"
            ) from error
        self.workers = len(self._client.nthreads())
        self.slots = slots or max(8, 2 * sum(self._client.nthreads().values()))
        self._resources = dict(resources or {})

    def __enter__(self) -> "Cluster":
        self._threads = ThreadPoolExecutor(self.slots)  # they only wait
        return self

    def submit(self, step: "Step", store: Store) -> Future:
        return self._threads.submit(self._compute, step, store)

    def __exit__(self, *_) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()
        self._threads.shutdown()

    def _compute(self, step: "Step", store: Store) -> Path:
        sent = [contents(need.path(store)) for need in step.needs]
        name = step.path(store).name
        done = self._client.submit(_work, step, sent, name, pure=False, resources=self._resources)
        store.put(*step.key, done.result())
        return step.compute(store)  # raises if the run diverged


def _work(step: "Step", sent: list[dict[str, bytes]], name: str) -> dict[str, bytes]:
    """Compute a step in a store of the worker's own, beside what it needs; returns its entry."""
    from distributed import get_worker

    from pi_lib.training import TrainingDiverged

    folder = TemporaryDirectory(prefix="pi_lib", dir=get_worker().local_directory)
    with _ONE_STEP, folder as root:
        store = Store(root)
        if step.path(store).name != name:
            raise RuntimeError(
                f"worker {get_worker().address} has another version of pi_lib, or other data or "
                "weights, than the process that sent the step: install the same on both, and "
                "name folders of the same content in PI_LIB_DATA"
            )
        for need, files in zip(step.needs, sent, strict=True):
            store.put(*need.key, files)
        with suppress(TrainingDiverged):  # stored all the same
            step.compute(store)
        return contents(step.path(store))

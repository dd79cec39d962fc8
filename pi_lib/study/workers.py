"""Who computes the steps of a study: this process, processes beside it, or a Dask cluster.

Each is a context manager with `slots`, how many steps it takes at a time, and ``submit(step,
store)``, which gives a future: when it is done, the store has the step's entry, or it raises.
"""

import os
import socket
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from pi_lib import processes
from pi_lib.study.store import Store, write

if TYPE_CHECKING:
    from pi_lib.study.steps import Step

TIMEOUT = 5  # seconds that a scheduler has to answer
_ONE_STEP = Lock()  # in a worker: training sets the random state of its whole process


class Pool(Protocol):
    """What computes steps."""

    slots: int

    def submit(self, step: "Step", store: Store) -> Future: ...


def usual_slots() -> int:
    """How many processes a machine takes: one a core, and 6 GiB of a GPU's memory for each."""
    import torch

    cores = os.cpu_count() or 1
    if not torch.cuda.is_available():
        return cores
    memory = min(
        torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())
    )
    return max(1, min(cores - 1, memory // (6 * 2**30)))


class Here:
    """This process, one step after the other."""

    slots = 1

    def submit(self, step: "Step", store: Store) -> Future:
        future = Future()
        try:
            future.set_result(step.compute(store))
        except Exception as error:
            future.set_exception(error)
        return future


class Processes:
    """Processes on this machine, which write to the store themselves.

    They end with this process, however it ends, and at once when the ``with`` block is left by an
    exception: what they had in hand goes on from its last state when it is asked for again.

    Parameters
    ----------
    slots : int
        How many.
    """

    def __init__(self, slots: int):
        self.slots = slots

    def __enter__(self) -> "Processes":
        begin = (processes.begin, (dict(os.environ),))
        self._pool = ProcessPoolExecutor(self.slots, processes.context(), *begin)
        return self

    def submit(self, step: "Step", store: Store) -> Future:
        with processes.interrupts_wait():
            return self._pool.submit(_compute, step, store.root)

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
        Of the scheduler, such as "tcp://10.0.0.5:8786".
    slots : int, optional
        Steps under way at a time; default twice the workers' threads, at least 8.
    resources : dict of str to float, optional
        What a step takes of a worker's resources, such as ``{"GPU": 1}``.

    Raises
    ------
    ImportError
        If Dask is not installed.
    ConnectionError
        If no scheduler answers at the address within 5 seconds.
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
        sent = {_place(need, store): _files(need, store) for need in step.needs}
        done = self._client.submit(
            _work, step, sent, _place(step, store), pure=False, resources=self._resources
        )
        store.put(*step.key, done.result())
        return step.compute(store)  # raises if the run diverged


def _compute(step: "Step", root: Path) -> None:
    step.compute(Store(root))


# ---------------------------------------------------------------- to a worker and back


def _place(step: "Step", store: Store) -> str:
    return step.path(store).relative_to(store.root).as_posix()


def _files(step: "Step", store: Store) -> dict[str, bytes]:
    """Of a stored step, its files by their paths within its entry."""
    entry = step.path(store)
    files = (path for path in entry.rglob("*") if path.is_file())
    return {path.relative_to(entry).as_posix(): path.read_bytes() for path in files}


def _work(step: "Step", sent: dict[str, dict[str, bytes]], place: str) -> dict[str, bytes]:
    """Compute a step in a store of the worker's own; returns the files of its entry."""
    from distributed import get_worker

    from pi_lib.training import TrainingDiverged

    folder = TemporaryDirectory(prefix="pi_lib", dir=get_worker().local_directory)
    with _ONE_STEP, folder as root:
        store = _Sent(Path(root), sent)
        if _place(step, store) != place:
            raise RuntimeError(
                f"worker {get_worker().address} has another version of pi_lib than the process "
                "that sent the step: install the same on both"
            )
        with suppress(TrainingDiverged):  # stored all the same
            step.compute(store)
        return _files(step, store)


class _Sent(Store):
    """A store in which the entries that were sent are there, though not with all their files."""

    def __init__(self, root: Path, sent: dict[str, dict[str, bytes]]):
        super().__init__(root)
        self.sent = {root / place for place in sent}
        for place, files in sent.items():
            write(root / place, files)

    def get(self, step, spec, modules, compute) -> Path:
        entry = self.path(step, spec, modules)
        return entry if entry in self.sent else super().get(step, spec, modules, compute)

"""Growth with the number of players and with the batch: seconds, games a second, peak memory."""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import pi_lib as pi
from benchmarks.split import network_games

METHODS: dict[str, Callable[[Tensor], object]] = {
    "split, noise 0.04": partial(pi.and_or_split, noise=0.04),
    "split, no noise": pi.and_or_split,
    "AND transform": pi.and_transform,
    "OR transform": pi.or_transform,
}
PLAYERS = {  # method -> n, one game at a time
    "split, noise 0.04": (8, 10, 12, 14),
    "split, no noise": (8, 10, 12, 14, 16),
    "AND transform": (8, 10, 12, 14, 16),
    "OR transform": (8, 10, 12, 14, 16),
}
BATCHES = {method: (1, 4, 16, 64, 256) for method in METHODS if method != "split, no noise"}
BATCHES_N = 10


def rows(players: dict = PLAYERS, batches: dict = BATCHES) -> Iterator[dict]:
    """One row a measurement, each made in a process of its own; on a GPU too where there is one.

    ``peak_gb`` is the most that the process held, with Python, torch and the games;
    ``peak_added_gb`` what the method added to it. On a GPU both count the GPU's memory alone.
    """
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for method, sizes in players.items():
            for n in sizes:
                yield {"what": f"against n: {method}", **_apart(method, n, 1, device)}
        for method, sizes in batches.items():
            for batch in sizes:
                yield {
                    "what": f"against batch: {method}",
                    **_apart(method, BATCHES_N, batch, device),
                }


def _apart(method: str, n: int, batch: int, device: str) -> dict:
    """The measurement in a new process, whose peak memory is then the method's."""
    games = network_games(batch, n)
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(send, method, games.numpy(), device))
    process.start()
    send.close()  # the child's end alone is open now: if it dies, `recv` raises
    row = receive.recv()
    process.join()
    return row


def _measure(send, method: str, games, device: str) -> None:
    """Time `method` until a second has passed, 20 times at most; the least counts."""
    v = torch.from_numpy(games).to(device)
    batch, n = len(v), v.shape[-1].bit_length() - 1
    before = _memory(device)
    METHODS[method](v[:1, :16])  # loads what the first call of any size loads
    times = []
    while not times or len(times) < 20 and sum(wall for wall, _ in times) < 1:
        wall, cpu = time.perf_counter(), time.process_time()
        answer = METHODS[method](v)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    seconds, cpu = (min(each) for each in zip(*times, strict=True))
    peak = peak_gb(device)
    row = {
        "method": method,
        "device": device,
        "threads": torch.get_num_threads(),
        "n": n,
        "batch": batch,
        "s_per_game": seconds / batch,
        "cpu_s_per_game": cpu / batch,
        "games_per_s": batch / seconds,
        "peak_gb": peak,
        "peak_added_gb": peak - before,
    }
    if isinstance(answer, pi.AndOrSplit):
        row |= {
            "worst_gap": answer.gap.max().item(),
            "median_iterations": answer.iterations.median().item(),
        }
    send.send(row)


def _memory(device: str) -> float:
    return torch.cuda.memory_allocated() / 1e9 if device == "cuda" else peak_gb(device)


def peak_gb(device: str) -> float:
    """Most memory in use so far, in GB: on the GPU, or by this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # Linux: its ru_maxrss is never less than the parent's at the start
        (line,) = (row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e9 if sys.platform == "darwin" else 1e6
    )


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)

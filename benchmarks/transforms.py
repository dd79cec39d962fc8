"""The transforms against shapiq's exact computer, on the same random games."""

from collections.abc import Iterator

import numpy as np
import torch

import pi_lib as pi
from benchmarks.split import timed

SIZES = (10, 12, 14, 16)


def rows(sizes: tuple[int, ...] = SIZES) -> Iterator[dict]:
    """CPU seconds for all AND interactions of one game, and how far the two answers differ."""
    return map(_against_shapiq, sizes)


def _against_shapiq(n: int) -> dict:
    from shapiq import ExactComputer, Game

    v = np.random.default_rng(0).standard_normal(2**n)
    v[0] = 0.0

    class Lookup(Game):
        def value_function(self, coalitions: np.ndarray) -> np.ndarray:
            return v[np.asarray(coalitions, dtype=int) @ (1 << np.arange(n))]

    game = torch.from_numpy(v)
    ours = pi.and_transform(game)
    repeats = max(3, 2**18 // 2**n)
    cpu, wall, _ = timed(lambda: [pi.and_transform(game) for _ in range(repeats)])
    shapiq_cpu, shapiq_wall, theirs = timed(
        lambda: ExactComputer(Lookup(n, normalize=False), n_players=n)("Moebius")
    )
    values = theirs.values  # made anew at each look
    apart = max(
        abs(values[at] - ours[pi.coalitions.coalition(members)].item())
        for members, at in theirs.interaction_lookup.items()
    )
    return {
        "what": f"AND transform, n = {n}",
        "peer": "shapiq",
        "n": n,
        "batch": 1,
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "ours_cpu_s_per_game": cpu / repeats,
        "peer_cpu_s_per_game": shapiq_cpu,
        "ours_s_per_game": wall / repeats,
        "peer_s_per_game": shapiq_wall,
        "times_less": shapiq_cpu / (cpu / repeats),
        "largest_difference": float(apart),
    }


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)

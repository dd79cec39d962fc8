"""The transforms against shapiq's exact computer, on the same random games."""

import time
from collections.abc import Iterator

import numpy as np
import torch

import pi_lib as pi

SIZES = (10, 12, 14, 16)


def rows(sizes: tuple[int, ...] = SIZES) -> Iterator[dict]:
    """Seconds for all AND interactions of one game, and how far the two answers differ."""
    from shapiq import ExactComputer, Game

    for n in sizes:
        v = np.random.default_rng(0).standard_normal(2**n)
        v[0] = 0.0

        def values(coalitions: np.ndarray, v: np.ndarray = v, n: int = n) -> np.ndarray:
            return v[np.asarray(coalitions, dtype=int) @ (1 << np.arange(n))]

        class Lookup(Game):
            value_function = staticmethod(values)

        start = time.perf_counter()
        theirs = ExactComputer(Lookup(n, normalize=False), n_players=n)("Moebius")
        shapiq_s = time.perf_counter() - start

        game = torch.from_numpy(v)
        ours = pi.and_transform(game)
        repeats = max(3, 2**18 // 2**n)
        start = time.perf_counter()
        for _ in range(repeats):
            pi.and_transform(game)
        ours_s = (time.perf_counter() - start) / repeats

        theirs_values = theirs.values  # made anew at each look
        apart = max(
            abs(theirs_values[at] - ours[pi.coalitions.coalition(members)].item())
            for members, at in theirs.interaction_lookup.items()
        )
        yield {
            "what": f"AND transform, n = {n}",
            "peer": "shapiq",
            "n": n,
            "batch": 1,
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "ours_s_per_game": ours_s,
            "peer_s_per_game": shapiq_s,
            "times_less": shapiq_s / ours_s,
            "largest_difference": float(apart),
        }


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)

"""Interactions of many players, up to 64: found by SPEX from a budget of coalitions.

A network's output is mostly the sum of few interactions, of low order; SPEX (arXiv 2502.13870)
finds those by a sparse Fourier transform, which is shapiq's. What it finds is an estimate, so every
sample is checked on coalitions that it never saw.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pi_lib.coalitions import coalition

MOST_PLAYERS = 64
HELD_OUT = 256  # coalitions per sample that check the estimate
ROUNDING = 1e-6  # of the strongest: weaker terms are what float32 leaves of a zero


def search(
    pairs: Iterable[tuple[Callable[[Tensor], Tensor], np.random.Generator]],
    n: int,
    budget: int,
    max_order: int,
) -> dict[str, Any]:
    """What ``extract(..., method="search")`` calls: fields of its result, `details` for its `meta`.

    `pairs` are each sample's game, from coalitions, bool (m, n), to values (m,), and a generator.
    A ValueError for more than 64 players or a `max_order` below 1; else errors as `spex`.
    """
    if n > MOST_PLAYERS:
        raise ValueError(
            f"{n} players; method='search' takes at most {MOST_PLAYERS}: use fewer, larger players "
            "(a coarser grid), or method='sampled', which takes any number"
        )
    if max_order < 1:
        raise ValueError(f"max_order={max_order}; expected at least 1")
    ends = torch.tensor([[False] * n, [True] * n])
    dividends, r2, v, forwards = [], [], [], 0
    for game, rng in pairs:
        v.append(game(ends))
        seen = []

        def observed(coalitions: np.ndarray, game=game, seen=seen) -> np.ndarray:
            seen.append(coalitions)
            return game(torch.from_numpy(coalitions)).numpy()

        dividends.append(spex(observed, n, budget=budget, max_order=max_order, rng=rng))
        unseen = torch.from_numpy(held_out(np.concatenate(seen), rng))
        r2.append(explained(dividends[-1], unseen, game(unseen)))
        forwards = sum(map(len, seen))
    coalitions = sorted(set().union({0}, *dividends), key=lambda s: (s.bit_count(), s))
    i_and = [[values.get(s, 0.0) for s in coalitions] for values in dividends]
    return {
        "coalitions": coalitions,
        "i_and": torch.tensor(i_and, dtype=torch.float64).view(len(v), len(coalitions)),
        "r2": torch.tensor(r2, dtype=torch.float64),
        "v": torch.stack(v) if v else torch.zeros(0, 2, dtype=torch.float64),
        "details": {"forwards": forwards},
    }


def spex(
    game: Callable[[np.ndarray], np.ndarray],
    n: int,
    *,
    budget: int,
    max_order: int,
    rng: np.random.Generator,
) -> dict[int, float]:
    """Harsanyi dividends of a game by SPEX (arXiv 2502.13870): bitmask to value.

    Of a game from coalitions, bool (m, n), to values (m,), of which it evaluates at most `budget`;
    `max_order` is the largest order looked for. A ValueError if the budget is too small for that,
    an ImportError without shapiq.
    """
    try:
        from shapiq import SPEX
    except ImportError as error:
        raise ImportError("method='search' needs shapiq: pip install 'pi_lib[search]'") from error

    # Faith-Banzhaf interactions of order up to n are the Harsanyi dividends themselves
    approximator = SPEX(n=n, index="FBII", max_order=n, degree_parameter=max_order)
    with _process_kept(rng), np.errstate(divide="ignore", invalid="ignore"):
        try:
            values = approximator.approximate(budget, game).dict_values
        except ValueError as error:
            if "Insufficient budget" not in str(error):
                raise
            raise ValueError(
                f"budget={budget:,} is too small for SPEX with {n} players; a few hundred "
                "coalitions are the least, some thousands give it orders above 2"
            ) from error
    values = {coalition(map(int, players)): float(value) for players, value in values.items()}
    least = ROUNDING * max((abs(value) for s, value in values.items() if s), default=0.0)
    return {s: value for s, value in values.items() if s == 0 or abs(value) > least}


def held_out(seen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Up to 256 random coalitions, bool (m, n), that differ and are not among those `seen`."""
    taken, chosen = {row.tobytes() for row in seen}, []
    for row in rng.random((16 * HELD_OUT, seen.shape[1])) < 0.5:
        if row.tobytes() not in taken and len(chosen) < HELD_OUT:
            taken.add(row.tobytes())
            chosen.append(row)
    return np.array(chosen, dtype=bool).reshape(-1, seen.shape[1])


def explained(dividends: dict[int, float], coalitions: Tensor, values: Tensor) -> float:
    """R² of the sums of `dividends` within each of `coalitions` (m, n) against `values` (m,)."""
    n = coalitions.shape[1]
    terms = torch.tensor([[s >> i & 1 for i in range(n)] for s in dividends]).double().view(-1, n)
    inside = coalitions.double() @ terms.T == terms.sum(-1)
    sums = inside.double() @ torch.tensor(list(dividends.values()), dtype=torch.float64)
    spread = (values - values.mean()).square().sum()
    return 1 - ((values - sums).square().sum() / spread).item() if spread > 0 else float("nan")


@contextmanager
def _process_kept(rng: np.random.Generator) -> Iterator[None]:
    """What SPEX does to the whole process, undone after it.

    It draws from numpy's global generator, whatever its own seed: that is seeded from `rng`. And
    it loads numba, which sets the threads of OpenMP, and so torch's, to all cores.
    """
    state, threads = np.random.get_state(), torch.get_num_threads()
    np.random.seed(rng.integers(2**32))
    try:
        yield
    finally:
        np.random.set_state(state)
        torch.set_num_threads(threads)

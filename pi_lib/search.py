"""Interactions of many players, up to 64: found by SPEX from a budget of coalitions.

Enumeration ends at 16 players. A network's output is mostly the sum of few interactions, of low
order; SPEX (arXiv 2502.13870) finds those by a sparse Fourier transform, from coalitions chosen
like the parity checks of an error-correcting code. The transform is shapiq's. What it finds is an
estimate, so every sample is checked on coalitions that it never saw.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from pi_lib.coalitions import coalition
from pi_lib.engine import games
from pi_lib.interactions import SparseInteractions, label_numbers
from pi_lib.players import sample_ids

if TYPE_CHECKING:
    pass

MOST_PLAYERS = 64
HELD_OUT = 256  # coalitions per sample that check what was found
ROUNDING = 1e-6  # of the strongest: weaker terms are what float32 leaves of a zero


def extract_sparse(
    model,
    inputs,
    labels: Sequence[int] | Tensor,
    players,
    *,
    kind: Literal["and"] = "and",
    budget: int = 2**13,
    max_order: int = 5,
    seed: int = 0,
    ids: Sequence[int] | None = None,
    **engine,
) -> SparseInteractions:
    """What ``extract(..., method="sparse")`` calls; arguments and errors as there.

    Examples
    --------
    >>> from pi_lib import LabelMapPlayers
    >>> model = lambda x: torch.stack([x[:, :3].prod(-1), torch.zeros(len(x))], -1)
    >>> players = LabelMapPlayers(torch.arange(20), baseline=0.0)
    >>> found = extract_sparse(model, torch.ones(1, 20), [0], players)
    >>> found.top(1)[["players", "value"]].values.tolist(), round(found.r2.item(), 3)
    ([['{0, 1, 2}', 1.0]], 1.0)
    """
    n = players.n
    if kind != "and":
        raise ValueError(
            f"kind={kind!r} with method='sparse': the split into AND and OR needs the value of "
            "every coalition, of which SPEX sees few; use kind='and', or method='exact'"
        )
    if n > MOST_PLAYERS:
        raise ValueError(
            f"{n} players; method='sparse' takes at most {MOST_PLAYERS}: use fewer, larger players "
            "(a coarser grid)"
        )
    if budget >= 2**n:
        raise ValueError(
            f"{n} players have {2**n:,} coalitions, no more than budget={budget:,}: "
            "method='exact' evaluates them all and is exact; or give a smaller budget"
        )
    if max_order < 1:
        raise ValueError(f"max_order={max_order}; expected at least 1")
    placements = players.place(inputs, ids)
    seeds = sample_ids([placement.inputs for placement in placements], ids)
    ends = torch.tensor([[False] * n, [True] * n])
    found, r2, v = [], [], []
    with games(model, inputs, labels, players, ids=ids, **engine) as samples:
        for game, sample in zip(samples, seeds, strict=True):
            v.append(game(ends))
            seen = []

            def observed(coalitions: np.ndarray, game=game, seen=seen) -> np.ndarray:
                seen.append(coalitions)
                return game(torch.from_numpy(coalitions)).numpy()

            rng = np.random.default_rng([seed, sample])
            found.append(spex(observed, n, budget=budget, max_order=max_order, rng=rng))
            unseen = torch.from_numpy(held_out(np.concatenate(seen), rng))
            r2.append(explained(found[-1], unseen, game(unseen)))
    coalitions = sorted(set().union({0}, *found), key=lambda s: (s.bit_count(), s))
    return SparseInteractions(
        n=n,
        coalitions=coalitions,
        i_and=torch.tensor(
            [[one.get(s, 0.0) for s in coalitions] for one in found], dtype=torch.float64
        ).view(len(found), len(coalitions)),
        r2=torch.tensor(r2, dtype=torch.float64),
        v=torch.stack(v) if v else torch.zeros(0, 2, dtype=torch.float64),
        players=[placement.names for placement in placements],
        labels=label_numbers(labels),
        ids=list(ids) if ids is not None else [],
        meta={
            "kind": "and", "method": "sparse", "players": type(players).__name__, "n": n,
            "budget": budget, "max_order": max_order, "seed": seed,
            "forwards": sum(map(len, seen)) if found else 0,
        },
    )  # fmt: skip


def spex(
    game: Callable[[np.ndarray], np.ndarray],
    n: int,
    *,
    budget: int,
    max_order: int,
    rng: np.random.Generator,
) -> dict[int, float]:
    """Harsanyi dividends of a game by SPEX (arXiv 2502.13870): bitmask to value.

    Parameters
    ----------
    game : callable
        From coalitions, bool (m, n), to their values (m,).
    n, budget, max_order
        Players, coalitions to evaluate at most, largest order looked for.
    rng : numpy Generator
        Draws the coalitions.

    Raises
    ------
    ValueError
        If the budget is too small for SPEX.
    ImportError
        If shapiq is not installed.
    """
    try:
        from shapiq import SPEX
    except ImportError as error:
        raise ImportError('method="sparse" needs shapiq: pip install shapiq') from error

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

"""Interactions of many players, up to 64: found by SPEX from a budget of coalitions.

Enumeration ends at 16 players. A network's output is mostly the sum of few interactions, of low
order; SPEX (arXiv 2502.13870) finds those by a sparse Fourier transform, from coalitions chosen
like the parity checks of an error-correcting code. The transform is shapiq's. What it finds is an
estimate, so every sample is checked on coalitions that it never saw.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from pi_lib.coalitions import coalition, label, members
from pi_lib.interactions import Selection, label_numbers, read
from pi_lib.players import sample_ids
from pi_lib.values import games

if TYPE_CHECKING:
    import pandas as pd

MOST_PLAYERS = 64
HELD_OUT = 256  # coalitions per sample that check what was found
ROUNDING = 1e-6  # of the strongest: weaker terms are what float32 leaves of a zero


@dataclass(frozen=True, eq=False)
class SparseInteractions(Selection):
    """Estimated AND interactions of B samples with n players each: the strong ones, few of 2**n.

    Made by ``extract(..., method="sparse")``. It selects, shows, keeps and hands on as
    `Interactions` does. Interactions that are not listed are estimated as 0.

    Attributes
    ----------
    n : int
        Number of players.
    coalitions : list of M int
        Bitmasks of the coalitions found in any sample, the empty one first, by order. They are
        Python integers: with 64 players they exceed int64.
    i_and : (B, M) float64
        Harsanyi dividends; 0 where a sample has none. Column 0 estimates ``v({})``.
    r2 : (B,) float64
        Share of the variance of v over coalitions, each player in with probability 1/2, that the
        interactions explain; measured on 256 coalitions that the estimate was not made from.
        NaN where v does not vary.
    v : (B, 2) float64
        The model's own ``v({})`` and ``v(N)``, which the interactions add up to but roughly.
    players : list of list of str
        Names of each sample's players.
    labels, ids : list of int
        True class and id of each sample; where what is true is no one number, labels are 0.
    meta : dict
        How it was made, as JSON values.
    """

    n: int
    coalitions: list[int]
    i_and: Tensor
    r2: Tensor
    v: Tensor
    players: list[list[str]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        samples = len(self.v)
        for name, shape in {
            "i_and": (samples, len(self.coalitions)), "r2": (samples,), "v": (samples, 2)
        }.items():  # fmt: skip
            if (found := tuple(getattr(self, name).shape)) != shape:
                raise ValueError(f"expected {name} of shape {shape}; got {found}")
        if self.coalitions[:1] != [0] or len(set(self.coalitions)) != len(self.coalitions):
            raise ValueError("expected coalitions that differ, the empty one (0) first")
        fill = object.__setattr__
        fill(self, "players", self.players or [[str(i) for i in range(self.n)]] * samples)
        fill(self, "labels", self.labels or [0] * samples)
        fill(self, "ids", self.ids or list(range(samples)))
        lengths = {len(self.players), len(self.labels), len(self.ids)}
        if lengths != {samples} or {len(names) for names in self.players} - {self.n}:
            raise ValueError(
                f"players, labels and ids must name {samples} samples of {self.n} players"
            )

    def __repr__(self) -> str:
        return (
            f"SparseInteractions({len(self)} samples, n={self.n}, "
            f"{len(self.coalitions)} coalitions, mean r2={self.r2.mean().item():.3g})"
        )

    @property
    def kind(self) -> Literal["and"]:
        """What v was written as a sum of."""
        return "and"

    @property
    def terms(self) -> Tensor:
        """All interactions, ``(B, M)``."""
        return self.i_and

    @property
    def orders(self) -> Tensor:
        """Order of each of `terms`, int64 ``(M,)``; order 0 is the empty coalition."""
        return torch.tensor([s.bit_count() for s in self.coalitions])

    def to_frame(self) -> "pd.DataFrame":
        """One row per interaction found in a sample: columns as `Interactions.to_frame`."""
        import pandas as pd

        rows = [
            (i, self.ids[i], self.labels[i], "and", s, s.bit_count(), label(s, self.players[i]), x)
            for i in range(len(self))
            for s, x in self._found(i).items()
        ]
        columns = ["sample", "id", "label", "kind", "coalition", "order", "players", "value"]
        return pd.DataFrame(rows, columns=columns).astype({"coalition": "uint64"})

    def __getitem__(self, samples: slice | Sequence[int]) -> "SparseInteractions":
        """Interactions of some of the samples."""
        chosen = list(range(len(self))[samples] if isinstance(samples, slice) else samples)
        return SparseInteractions(
            n=self.n,
            coalitions=self.coalitions,
            i_and=self.i_and[chosen],
            r2=self.r2[chosen],
            v=self.v[chosen],
            players=[self.players[i] for i in chosen],
            labels=[self.labels[i] for i in chosen],
            ids=[self.ids[i] for i in chosen],
            meta=self.meta,
        )

    def to_shapiq(self, sample: int = 0):
        """Interactions of one sample as `shapiq.InteractionValues` of index "Moebius".

        Raises
        ------
        ImportError
            If shapiq is not installed.
        """
        try:
            from shapiq import InteractionValues
        except ImportError as error:
            raise ImportError("to_shapiq needs shapiq: pip install shapiq") from error

        found = self._found(sample)
        return InteractionValues(
            values=np.array(list(found.values())),
            # without it shapiq lists all 2**n coalitions
            interaction_lookup={tuple(members(s)): k for k, s in enumerate(found)},
            index="Moebius",
            n_players=self.n,
            min_order=0,
            max_order=self.n,
            estimated=True,
            estimation_budget=self.meta.get("forwards"),
            baseline_value=self.i_and[sample, 0].item(),
        )

    def save(self, path: str | Path) -> Path:
        """Write to one safetensors file: float32 arrays beside a JSON header. Returns the path."""
        from safetensors.torch import save_file

        header = {
            "n": self.n, "coalitions": [members(s) for s in self.coalitions],
            "players": self.players, "labels": self.labels, "ids": self.ids, "meta": self.meta,
        }  # fmt: skip
        arrays = {name: getattr(self, name) for name in ("i_and", "r2", "v")}
        save_file(
            {name: x.float().contiguous().cpu() for name, x in arrays.items()},
            path,
            metadata={"pi_lib": json.dumps(header)},
        )
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "SparseInteractions":
        """Read what `save` wrote; arrays come back as float64.

        Raises
        ------
        ValueError
            If the file holds something else, or is damaged.
        FileNotFoundError
            If there is no such file.
        """
        arrays, header = read(path)
        if "coalitions" not in header:
            raise ValueError(f"{path} holds no sparse interactions: Interactions.load reads it")
        header["coalitions"] = [coalition(players) for players in header["coalitions"]]
        return cls(**arrays, **header)

    def _found(self, sample: int) -> dict[int, float]:
        """Coalition to value, of those found in one sample, and the empty one."""
        values = zip(self.coalitions, self.i_and[sample].tolist(), strict=True)
        return {s: value for s, value in values if value != 0 or s == 0}


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

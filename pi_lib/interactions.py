"""The result: interactions of a batch of samples, with what they came from.

Select (`salient`, `by_order`, `top`), show (`to_frame`), keep (`save`, `load`), hand on
(`to_shapiq`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from pi_lib.coalitions import coalition, label, members, order, players_in_game
from pi_lib.transforms import and_inverse

if TYPE_CHECKING:
    import pandas as pd

    pass


class Selection:
    """What `Interactions` and `SparseInteractions` select alike, from `v`, `terms` and `orders`."""

    def __len__(self) -> int:
        return len(self.v)

    @property
    def scale(self) -> float:
        """Mean over samples of ``|v(N) - v({})|``, by which models are made comparable."""
        return (self.v[:, -1] - self.v[:, 0]).abs().mean().item()

    def salient(self, tau: float = 0.05) -> Tensor:
        """Which of `terms` are salient: ``|I(S)| > tau * max_S |I(S)|`` of that sample.

        Parameters
        ----------
        tau : float, default 0.05
            Threshold; the paper's is not stated, this is that of arXiv 2407.19198.

        Returns
        -------
        (B, M) bool
            The empty coalition is no interaction and never salient.
        """
        if not 0 <= tau < 1:
            raise ValueError(f"tau={tau}; expected 0 <= tau < 1, a fraction of the strongest")
        strength = self.terms.abs().masked_fill(self.orders == 0, 0)
        return strength > tau * strength.amax(-1, keepdim=True)

    def by_order(self) -> Tensor:
        """Strength by order, ``sum_{|S|=m} |I(S)|``: (B, n + 1) in the unit of v; order 0 is 0."""
        return sum_by_order(self.terms.abs(), self.orders, self.n)

    def top(self, k: int = 10, sample: int = 0) -> "pd.DataFrame":
        """The k strongest interactions of one sample, strongest first; columns as `to_frame`."""
        if not -len(self) <= sample < len(self):
            raise IndexError(f"sample {sample} of {len(self)}")
        frame = self[[range(len(self))[sample]]].to_frame()
        frame = frame[frame["order"] > 0]
        strongest = frame["value"].abs().sort_values(ascending=False, kind="stable").index[:k]
        return frame.loc[strongest].reset_index(drop=True).assign(sample=sample)


@dataclass(frozen=True, eq=False)
class Interactions(Selection):
    """Interactions of B samples with n players each.

    Attributes
    ----------
    v : (B, 2**n) float64
        Value of every coalition, in nats for log-odds.
    i_and : (B, 2**n) float64
        AND interactions; index 0 is ``v({})``.
    i_or : (B, 2**n) float64 or None
        OR interactions, if v was split into AND and OR.
    players : list of list of str
        Names of each sample's players.
    labels, ids : list of int
        True class and id of each sample; where what is true is no one number, labels are 0.
    meta : dict
        How it was made, as JSON values.
    """

    v: Tensor
    i_and: Tensor
    i_or: Tensor | None = None
    players: list[list[str]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("v", "i_and", "i_or"):
            x = getattr(self, name)
            if x is not None and (x.ndim != 2 or x.shape != self.v.shape):
                raise ValueError(
                    f"expected {name} of shape (samples, 2**n) = {tuple(self.v.shape)}; "
                    f"got {tuple(x.shape)}"
                )
        n, samples = players_in_game(self.v), len(self.v)
        fill = object.__setattr__
        fill(self, "players", self.players or [[str(i) for i in range(n)]] * samples)
        fill(self, "labels", self.labels or [0] * samples)
        fill(self, "ids", self.ids or list(range(samples)))
        lengths = {len(self.players), len(self.labels), len(self.ids)}
        if lengths != {samples} or {len(names) for names in self.players} - {n}:
            raise ValueError(f"players, labels and ids must name {samples} samples of {n} players")

    def __repr__(self) -> str:
        return f"Interactions({len(self)} samples, n={self.n}, kind={self.kind!r})"

    @property
    def n(self) -> int:
        """Number of players."""
        return players_in_game(self.v)

    @property
    def kind(self) -> Literal["and", "and-or"]:
        """What v was written as a sum of."""
        return "and" if self.i_or is None else "and-or"

    @property
    def terms(self) -> Tensor:
        """All interactions side by side, ``(B, M)``: AND first, then OR if any."""
        return self.i_and if self.i_or is None else torch.cat([self.i_and, self.i_or], -1)

    @property
    def orders(self) -> Tensor:
        """Order of each of `terms`, int64 ``(M,)``; order 0 is the empty coalition."""
        return order(self.n).repeat(1 if self.i_or is None else 2)

    def to_frame(self) -> "pd.DataFrame":
        """One row per interaction: sample, id, label, kind, coalition, order, players, value."""
        import pandas as pd

        size = 2**self.n
        kinds = [("and", self.i_and)] + ([] if self.i_or is None else [("or", self.i_or)])
        return pd.concat(
            [
                pd.DataFrame(
                    {
                        "sample": sample,
                        "id": self.ids[sample],
                        "label": self.labels[sample],
                        "kind": kind,
                        "coalition": range(size),
                        "order": order(self.n).numpy(),
                        "players": [label(s, self.players[sample]) for s in range(size)],
                        "value": values[sample].cpu().numpy(),
                    }
                )
                for sample in range(len(self))
                for kind, values in kinds
            ],
            ignore_index=True,
        )

    def __getitem__(self, samples: slice | Sequence[int]) -> "Interactions":
        """Interactions of some of the samples."""
        chosen = list(range(len(self))[samples] if isinstance(samples, slice) else samples)
        return Interactions(
            v=self.v[chosen],
            i_and=self.i_and[chosen],
            i_or=None if self.i_or is None else self.i_or[chosen],
            players=[self.players[i] for i in chosen],
            labels=[self.labels[i] for i in chosen],
            ids=[self.ids[i] for i in chosen],
            meta=self.meta,
        )

    def to_shapiq(self, sample: int = 0):
        """AND interactions of one sample as `shapiq.InteractionValues` of index "Moebius".

        Raises
        ------
        ImportError
            If shapiq is not installed.
        """
        try:
            from shapiq import InteractionValues
        except ImportError as error:
            raise ImportError("to_shapiq needs shapiq: pip install shapiq") from error

        return InteractionValues(
            values=self.i_and[sample].cpu().numpy(),
            index="Moebius",
            n_players=self.n,
            min_order=0,
            max_order=self.n,
            interaction_lookup={tuple(members(s)): s for s in range(2**self.n)},
            estimated=False,
            baseline_value=self.v[sample, 0].item(),
        )

    @classmethod
    def from_shapiq(cls, values: Sequence, **fields) -> "Interactions":
        """AND interactions from `shapiq.InteractionValues` of index "Moebius", one per sample.

        Parameters
        ----------
        values : sequence of shapiq.InteractionValues
            Of the same number of players. Interactions that they leave out are 0.
        **fields
            `players`, `labels`, `ids` and `meta` of the result.

        Raises
        ------
        ValueError
            If an index is not "Moebius", or the numbers of players differ.
        """
        if wrong := sorted({one.index for one in values} - {"Moebius"}):
            raise ValueError(f"expected values of index 'Moebius'; got {wrong[0]!r}")
        sizes = {one.n_players for one in values}
        if len(sizes) != 1:
            raise ValueError(f"expected samples of one number of players; got {sorted(sizes)}")
        i_and = torch.zeros(len(values), 2 ** sizes.pop(), dtype=torch.float64)
        for row, one in zip(i_and, values, strict=True):
            for players, position in one.interaction_lookup.items():
                row[coalition(players)] = float(one.values[position])
            row[0] = one.baseline_value
        return cls(v=and_inverse(i_and), i_and=i_and, **fields)

    def save(self, path: str | Path) -> Path:
        """Write to one safetensors file: float32 arrays beside a JSON header. Returns the path."""
        from safetensors.torch import save_file

        path = Path(path)
        arrays = {"v": self.v, "i_and": self.i_and, "i_or": self.i_or}
        header = {
            "players": self.players, "labels": self.labels, "ids": self.ids, "meta": self.meta,
        }  # fmt: skip
        save_file(
            {k: x.float().contiguous().cpu() for k, x in arrays.items() if x is not None},
            path,
            metadata={"pi_lib": json.dumps(header)},
        )
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Interactions":
        """Read what `save` wrote; arrays come back as float64.

        Raises
        ------
        ValueError
            If the file holds something else, or is damaged.
        FileNotFoundError
            If there is no such file.
        """
        arrays, header = read(path)
        if "coalitions" in header:
            raise ValueError(f"{path} holds sparse interactions: SparseInteractions.load reads it")
        return cls(**arrays, **header)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Arrays (float64) and header of a file that interactions were saved to."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["pi_lib"])
            return {name: file.get_tensor(name).double() for name in file.keys()}, header
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} holds no interactions: it was not written by pi_lib, or is damaged ({error})"
        ) from error


def label_numbers(labels) -> list[int]:
    """Labels as a list; empty where they are no numbers, but label maps or boxes."""
    labels = torch.as_tensor(labels)
    return labels.tolist() if labels.ndim == 1 else []


def sum_by_order(terms: Tensor, orders: Tensor, n: int) -> Tensor:
    """Sum of `terms` (..., M) over each order: (..., n + 1); order 0 is no interaction and is 0."""
    sums = torch.zeros(*terms.shape[:-1], n + 1, dtype=terms.dtype, device=terms.device)
    sums.index_add_(-1, orders.to(terms.device), terms)
    sums[..., 0] = 0
    return sums


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

"""The result: interactions of a batch of samples, with what they came from.

Select (`salient`, `by_order`, `top`), show (`to_frame`), keep (`save`, `load`), hand on
(`to_shapiq`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pi_lib.coalitions import coalition, label, members, order, players_in_game
from pi_lib.transforms import and_inverse, and_transform
from pi_lib.values import coalition_values

if TYPE_CHECKING:
    import pandas as pd

    from pi_lib.spex import SparseInteractions


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


def extract(
    model,
    inputs,
    labels: Sequence[int] | Tensor,
    players,
    *,
    kind: Literal["and", "and-or"] = "and",
    method: Literal["exact", "sparse"] = "exact",
    noise: float = 0.0,
    tol: float = 1e-3,
    budget: int = 2**13,
    max_order: int = 5,
    seed: int = 0,
    ids: Sequence[int] | None = None,
    **engine,
) -> "Interactions | SparseInteractions":
    """Interactions between the players of each sample, as the model sees them.

    Parameters
    ----------
    model, inputs, labels, players, ids
        As in `coalition_values`.
    kind : "and" or "and-or"
        Harsanyi dividends (the paper's Eq. 2), or the sparsest split into AND and OR.
    method : "exact" or "sparse"
        All ``2**n`` coalitions, up to 16 players; or SPEX (arXiv 2502.13870) as shapiq implements
        it, which finds the few strong interactions of up to 64 players from `budget` coalitions.
    noise, tol
        Of `pi_lib.and_or_split`, for kind "and-or".
    budget : int, default 8192
        For method "sparse": coalitions per sample that SPEX may evaluate. It takes the largest
        of its designs that fits; `meta` says how many that were. 258 more check the result.
    max_order : int, default 5
        For method "sparse": largest order looked for. SPEX lowers it where the budget is short.
    seed : int
        For method "sparse": draws the coalitions, together with each sample's id.
    **engine
        `value`, `device`, `batch_size`, `autocast`, `share`, `keep` of `coalition_values`.

    Returns
    -------
    Interactions or SparseInteractions
        By method "exact" or "sparse". A sparse result is an estimate: look at its `r2`.

    Raises
    ------
    ValueError
        As `coalition_values`; if `kind` or `method` is neither; for method "sparse" also if the
        kind is "and-or", for more than 64 players, or if the budget is too small for SPEX, or so
        large that enumeration costs less.
    ImportError
        If method "sparse" finds no shapiq.

    Examples
    --------
    >>> from pi_lib import LabelMapPlayers
    >>> model = lambda x: torch.stack([x.prod(-1), torch.zeros(len(x))], -1)  # a AND b
    >>> players = LabelMapPlayers(torch.tensor([0, 1]), baseline=0.0)
    >>> extract(model, torch.ones(1, 2), [0], players).i_and
    tensor([[0., 0., 0., 1.]], dtype=torch.float64)
    """
    if kind not in ("and", "and-or"):
        raise ValueError(f"kind={kind!r}; expected 'and' or 'and-or'")
    if method == "sparse":
        from pi_lib.spex import extract_sparse

        return extract_sparse(
            model, inputs, labels, players,
            kind=kind, budget=budget, max_order=max_order, seed=seed, ids=ids, **engine,
        )  # fmt: skip
    if method != "exact":
        raise ValueError(f"method={method!r}; expected 'exact' or 'sparse'")
    placements = players.place(inputs, ids)
    v = coalition_values(model, inputs, labels, players, ids=ids, **engine)
    meta = {"kind": kind, "players": type(players).__name__, "n": players.n}
    if kind == "and":
        i_and, i_or = and_transform(v), None
    else:
        from pi_lib.sparse import and_or_split

        split = and_or_split(v, noise=noise, tol=tol)
        i_and, i_or = split.i_and, split.i_or
        meta |= {"noise": noise, "tol": tol, "gap": split.gap.tolist()}
    return Interactions(
        v=v,
        i_and=i_and,
        i_or=i_or,
        players=[placement.names for placement in placements],
        labels=label_numbers(labels),
        ids=list(ids) if ids is not None else [],
        meta=meta,
    )


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

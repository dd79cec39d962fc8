"""The result: v of a batch of samples, and what v is a sum of; exact, searched or sampled.

Select (`salient`, `by_order`, `top`), show (`to_frame`), store (`save`, `load`), hand on
(`to_shapiq`); and `check_comparable`, which refuses to compare what is not alike.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pi_lib.coalitions import coalition, label, members, order, players_in_game
from pi_lib.transforms import and_inverse, and_transform, checked

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Interactions:
    """Interactions of B samples with n players each, from `pi_lib.extract`.

    What there is depends on `method`: "exact" has v and the interactions of all ``2**n``
    coalitions; "search" has the few strong interactions that SPEX found, each an estimate, those
    not listed being estimated as 0; "sampled" has v of M random coalitions and no interactions.

    Attributes
    ----------
    v : (B, 2**n), for "search" (B, 2), for "sampled" (B, M) float64
        Value of every coalition, in nats for log-odds; for "search" the model's own ``v({})`` and
        ``v(N)``, which the interactions add up to but roughly; for "sampled" of each coalition of
        `sampled`.
    i_and : (B, 2**n), for "search" (B, M) float64; None for "sampled"
        AND interactions; index 0 is ``v({})``.
    i_or : (B, 2**n) float64 or None
        OR interactions, if v was split into AND and OR.
    players : list of list of str
        Names of each sample's players.
    labels, ids : list of int
        True class and id of each sample; where what is true is no one number, labels are 0.
    digests : list of str
        Of each sample's content, where `pi_lib.extract` was given no ids; else empty.
    meta : dict
        How it was made, as JSON values: see `pi_lib.extract`.
    coalitions : list of M int, only for "search"
        Bitmask of each interaction, the empty coalition first. They are Python integers: with 64
        players they exceed int64.
    r2 : (B,) float64, only for "search"
        Share of the variance of v over coalitions, each player in with probability 1/2, that the
        interactions explain; measured on 256 coalitions that the estimate was not made from.
        NaN where v does not vary.
    sampled : (B, M, n) bool, only for "sampled"
        The coalitions that v is of, drawn uniformly and independently.
    ends : (B, 2) float64, only for "sampled"
        ``v({})`` and ``v(N)``.
    n : int
        Number of players; need not be given where `v`, `sampled` or `players` tell it.

    Raises
    ------
    ValueError
        If shapes do not match the method, or players, labels and ids are not of B samples.

    Examples
    --------
    >>> Interactions.from_values(torch.tensor([[0., 1., 2., 5.]])).i_and
    tensor([[0., 1., 2., 2.]], dtype=torch.float64)
    """

    v: Tensor
    i_and: Tensor | None = None
    i_or: Tensor | None = None
    players: list[list[str]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    coalitions: list[int] | None = None
    r2: Tensor | None = None
    sampled: Tensor | None = None
    ends: Tensor | None = None
    n: int | None = None
    digests: list[str] = field(default_factory=list)

    _ARRAYS = ("v", "i_and", "i_or", "r2", "sampled", "ends")
    _LISTS = ("players", "labels", "ids", "digests")
    __iter__ = None  # a result is not a sequence of runs

    def __post_init__(self):
        samples, fill = len(self.v), object.__setattr__
        n = self._count_players()
        if self.n not in (None, n):
            raise ValueError(f"n={self.n}, but these are values of {n} players")
        terms = self.v.shape[-1] if self.coalitions is None else len(self.coalitions)
        shapes = {
            "exact": {"v": (samples, 2**n), "i_and": (samples, 2**n), "i_or": (samples, 2**n)},
            "search": {"v": (samples, 2), "i_and": (samples, terms), "r2": (samples,)},
            "sampled": {
                "v": (samples, terms), "sampled": (samples, terms, n), "ends": (samples, 2)
            },
        }[self.method]  # fmt: skip
        for name in self._ARRAYS:
            x, expected = getattr(self, name), shapes.get(name)
            shape = None if x is None else tuple(x.shape)
            if shape != expected and not (name == "i_or" and x is None):
                raise ValueError(
                    f"a result of method {self.method!r}: expected {name} of shape {expected}; "
                    f"got {shape}"
                )
        if self.coalitions is not None and (
            self.coalitions[:1] != [0] or len(set(self.coalitions)) != terms
        ):
            raise ValueError("expected coalitions that differ, the empty one (0) first")
        fill(self, "n", n)
        fill(self, "players", self.players or [[str(i) for i in range(n)]] * samples)
        fill(self, "labels", self.labels or [0] * samples)
        fill(self, "ids", self.ids or list(range(samples)))
        lengths = {len(x) for x in (self.players, self.labels, self.ids, self.digests or self.ids)}
        if lengths != {samples} or {len(names) for names in self.players} - {n}:
            raise ValueError(f"players, labels and ids must name {samples} samples of {n} players")

    def _count_players(self) -> int:
        if self.method == "sampled":
            return self.sampled.shape[-1]
        if self.method == "exact":
            return players_in_game(self.v)
        if self.n is None and not self.players:
            raise ValueError("interactions of some coalitions need n or players: of how many?")
        return len(self.players[0]) if self.n is None else self.n

    @classmethod
    def from_values(cls, v: Tensor, labels=None, ids=None, players=None, meta=None):
        """AND interactions from the values of all coalitions.

        `v` (B, 2**n) real holds the value of every coalition of each sample; bit i of the index is
        player i. The other arguments, all optional, as the attributes of these names. A ValueError
        if `v` has another shape, or holds a value that is not finite.

        Examples
        --------
        >>> Interactions.from_values(torch.tensor([[0., 1., 2., 5.]]), ids=[7]).top(1)["players"][0]
        '{1}'
        """
        v = checked(v)
        if v.ndim != 2:
            raise ValueError(f"expected v of shape (samples, 2**n); got {tuple(v.shape)}")
        return cls(
            v=v,
            i_and=and_transform(v),
            players=[list(names) for names in ([] if players is None else players)],
            labels=[] if labels is None else label_numbers(labels),
            ids=[int(i) for i in ([] if ids is None else ids)],
            meta=meta or {},
        )

    def __len__(self) -> int:
        return len(self.v)

    def __repr__(self) -> str:
        if self.method == "exact":
            made = f"kind={self.kind!r}"
        elif self.method == "search":
            made = f"search: {len(self.coalitions)} terms, mean r2={self.r2.mean().item():.3g}"
        else:
            made = f"sampled: {self.v.shape[-1]} coalitions each"
        return f"Interactions({len(self)} samples, n={self.n}, {made})"

    @property
    def method(self) -> Literal["exact", "search", "sampled"]:
        """Which coalitions it is of: all, those that a search found, or some at random."""
        if self.sampled is not None:
            return "sampled"
        return "exact" if self.coalitions is None else "search"

    @property
    def kind(self) -> Literal["and", "and-or"] | None:
        """What v was written as a sum of; None for a sampled result."""
        return None if self.method == "sampled" else "and" if self.i_or is None else "and-or"

    @property
    def scale(self) -> float:
        """Mean over samples of ``|v(N) - v({})|``, by which models are made comparable."""
        ends = self.v[:, [0, -1]] if self.ends is None else self.ends
        return (ends[:, 1] - ends[:, 0]).abs().mean().item()

    @property
    def terms(self) -> Tensor:
        """All interactions side by side, ``(B, M)``: AND first, then OR if any.

        Raises ValueError if the result is sampled: values of some coalitions determine no single
        interaction.
        """
        if self.method == "sampled":
            raise ValueError(
                f"this result is sampled: it holds v of {self.v.shape[-1]} random coalitions a "
                "sample, which determine no single interaction. pi_lib.reliability, "
                "pi_lib.similarity and pi_lib.origins take such results; for interactions, extract "
                "with method='exact' (up to 16 players) or 'search' (up to 64)"
            )
        return self.i_and if self.i_or is None else torch.cat([self.i_and, self.i_or], -1)

    @property
    def orders(self) -> Tensor:
        """Order of each of `terms`, int64 ``(M,)``; order 0 is the empty coalition."""
        if self.coalitions is not None:
            return torch.tensor([s.bit_count() for s in self.coalitions])
        terms = self.terms.shape[-1]
        return order(self.n).repeat(terms >> self.n)

    def salient(self, tau: float = 0.05) -> Tensor:
        """Which of `terms` are salient: ``|I(S)| > tau * max_S |I(S)|`` of that sample.

        (B, M) bool; the empty coalition is no interaction and never salient. The paper's `tau`, at
        least 0 and below 1, is not stated; 0.05 is that of arXiv 2407.19198.
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

    def to_frame(self) -> "pd.DataFrame":
        """One row per interaction: sample, id, label, kind, coalition, order, players, value.

        Of a search, one row per interaction found in that sample, and one for ``v({})``.
        """
        import pandas as pd

        rows = [
            (i, self.ids[i], self.labels[i], kind, s, s.bit_count(), label(s, self.players[i]), x)
            for i in range(len(self))
            for kind, s, x in self._terms_of(i)
        ]
        columns = ["sample", "id", "label", "kind", "coalition", "order", "players", "value"]
        unsigned = {"coalition": "uint64" if self.n > 62 else "int64"}
        return pd.DataFrame(rows, columns=columns).astype(unsigned)

    def _terms_of(self, sample: int) -> Iterator[tuple[str, int, float]]:
        """Kind, coalition and value of one sample's interactions; of a search, those it found."""
        coalitions = range(2**self.n) if self.coalitions is None else self.coalitions
        values = self.terms[sample].tolist()
        for k, value in enumerate(values):
            s = coalitions[k % len(coalitions)]
            if value != 0 or s == 0 or self.coalitions is None:
                yield ("and" if k < len(coalitions) else "or"), s, value

    def __getitem__(self, samples: int | slice | Sequence[int]) -> "Interactions":
        """The result for some of the samples: by their places, or by a mask of them, bool (B,)."""
        if not isinstance(samples, slice):
            samples = [samples] if isinstance(samples, int) else list(samples)
        chosen = np.arange(len(self))[samples].tolist()
        arrays = {name: getattr(self, name) for name in self._ARRAYS}
        lists = {name: getattr(self, name) for name in self._LISTS}
        return Interactions(
            **{name: x if x is None else x[chosen] for name, x in arrays.items()},
            **{name: [x[i] for i in chosen] for name, x in lists.items() if x},
            meta=self.meta, coalitions=self.coalitions, n=self.n,
        )  # fmt: skip

    def to_shapiq(self, sample: int = 0):
        """AND interactions of one sample as `shapiq.InteractionValues` of index "Moebius".

        Raises ImportError if shapiq is not installed.
        """
        try:
            from shapiq import InteractionValues
        except ImportError as error:
            raise ImportError("to_shapiq needs shapiq: pip install 'pi_lib[search]'") from error

        values = {s: value for kind, s, value in self._terms_of(sample) if kind == "and"}
        searched = self.method == "search"
        return InteractionValues(
            values=np.array(list(values.values())),
            # without it shapiq lists all 2**n coalitions
            interaction_lookup={tuple(members(s)): k for k, s in enumerate(values)},
            index="Moebius",
            n_players=self.n,
            min_order=0,
            max_order=self.n,
            estimated=searched,
            estimation_budget=self.meta.get("forwards") if searched else None,
            baseline_value=values[0],
        )

    @classmethod
    def from_shapiq(cls, values: Sequence, **fields) -> "Interactions":
        """AND interactions from `shapiq.InteractionValues` of index "Moebius", one per sample.

        Interactions that they leave out are 0; `fields` are `players`, `labels`, `ids` and `meta`
        of the result. A ValueError if an index is not "Moebius", or numbers of players differ.
        """
        if wrong := sorted({game.index for game in values} - {"Moebius"}):
            raise ValueError(f"expected values of index 'Moebius'; got {wrong[0]!r}")
        sizes = {game.n_players for game in values}
        if len(sizes) != 1:
            raise ValueError(f"expected samples of one number of players; got {sorted(sizes)}")
        i_and = torch.zeros(len(values), 2 ** sizes.pop(), dtype=torch.float64)
        for row, game in zip(i_and, values, strict=True):
            for players, position in game.interaction_lookup.items():
                row[coalition(players)] = float(game.values[position])
            row[0] = game.baseline_value
        return cls(v=and_inverse(i_and), i_and=i_and, **fields)

    def save(self, path: str | Path) -> Path:
        """Write to one safetensors file: float32 arrays beside a JSON header. Returns the path."""
        arrays = {name: getattr(self, name) for name in self._ARRAYS if name != "sampled"}
        arrays = {k: x.float().contiguous().cpu() for k, x in arrays.items() if x is not None}
        header = {name: getattr(self, name) for name in ("n", *self._LISTS, "meta")}
        if self.coalitions is not None:
            header["coalitions"] = [members(s) for s in self.coalitions]
        if self.sampled is not None:
            arrays["sampled"] = torch.from_numpy(np.packbits(self.sampled.numpy(), axis=-1))
        text = json.dumps(header, default=lambda number: number.item())  # of numpy
        save_file(arrays, path, metadata={"pi_lib": text})
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "Interactions":
        """Read what `save` wrote, in this version or an earlier one; float64 arrays.

        A ValueError if the file holds something else, or is damaged.
        """
        try:
            with safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {})["pi_lib"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(
                f"{path} holds no interactions: it was not written by pi_lib, or is damaged "
                f"({error})"
            ) from error
        packed = arrays.pop("sampled", None)
        fields = {name: x.double() for name, x in arrays.items()} | header
        if packed is not None:
            bits = np.unpackbits(packed.numpy(), axis=-1, count=header["n"])
            fields["sampled"] = torch.from_numpy(bits.astype(bool))
        if "coalitions" in header:
            fields["coalitions"] = [coalition(players) for players in header["coalitions"]]
        return cls(**fields)


# What two results must have in common to be compared: keys of `meta`, and how an error calls them.
_SETTINGS = {
    "labels": "labels",  # a digest, where they are no class numbers
    "value": "value",
    "output": "output",
    "players": "class of players",
    "baseline": "baseline",
    "background": "background",
    "masking": "masking",
    "precision": "precision",
}


def check_comparable(*results: Interactions) -> None:
    """Refuse results that cannot be compared: of other samples, players, values or settings.

    A key of `meta` that one of two results lacks is not compared. Samples are told apart by their
    ids, and by their content where neither was given ids.

    A ValueError names all in which they differ: method, n, kind, ids, content, players, labels,
    value, output, baseline, background, masking, precision, or, where they are sampled,
    coalitions. A
    ValueError too if one is of method "search"; a TypeError if one is no `Interactions`.
    """
    for result in results:
        if not isinstance(result, Interactions):
            raise TypeError(
                f"got {type(result).__name__}; expected Interactions, from pi_lib.extract"
            )
        if result.method == "search":
            raise ValueError(
                "results of method 'search' are not compared: an interaction that one of them "
                "lacks may only have been missed. Extract with method='exact' or 'sampled'"
            )
    differing: dict[str, str] = {}
    for other in results[1:]:
        first = results[0]
        names = ["method", "n", "kind", "ids", "labels"]
        names += ["players"] * (first.n == other.n)  # else they differ anyway
        pairs = [(name, getattr(first, name), getattr(other, name)) for name in names]
        if first.digests and other.digests:
            pairs.append(("content of samples without ids", first.digests, other.digests))
        pairs += [
            (what, first.meta[key], other.meta[key])
            for key, what in _SETTINGS.items()
            if key in first.meta and key in other.meta
        ]
        if first.method == other.method == "sampled" and first.sampled.shape == other.sampled.shape:
            same = torch.equal(first.sampled, other.sampled)
            pairs.append(("coalitions", "those drawn", "those drawn" if same else "others"))
        for what, here, there in pairs:
            if here != there:
                differing.setdefault(what, f"{what} ({_short(here)} against {_short(there)})")
    if differing:
        raise ValueError(
            f"the results differ in {', '.join(differing.values())}: extract both models on the "
            "same samples, with the same ids, labels, players, value and precision (inputs of "
            "another form, as of another size, are of the same samples if you give them ids=)"
        )


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


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

"""What fine-tuning preserved, discarded and learned anew, and what scratch training learned of it
(arXiv 2410.08455, section 3).

Everything here compares `Interactions` of the same samples and players under different models.
Each model's interactions are divided by its mean ``|v(N) - v({})|``, then those that are not
salient are dropped. A sample whose value does not move under one of the models is left out. Every
`Share` stands beside what chance and a second run give: alone it says nothing.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from pi_lib.coalitions import order
from pi_lib.interactions import Interactions, check_comparable, sum_by_order
from pi_lib.statistics import Difference, Estimate, bootstrap, ratio_of_sums, resample_weights

if TYPE_CHECKING:
    import pandas as pd


ONE_RUN = "one fine-tuned run: what another would have is not known; give compare() second_runs"
ROUNDING = 4 * torch.finfo(torch.float32).eps  # of the largest |v|: less is no movement


@dataclass(frozen=True)
class Share(Estimate):
    """A share of one network's strength that another has, beside chance and a second run.

    Attributes
    ----------
    chance : Estimate
        Mean of the same share over all ways to shuffle the other network's interactions within
        each sample and order, positions and signs.
    second_run : Estimate
        The same share of a second fine-tuned run; not measurable where none was given.
    over_chance, under_second_run : Difference
        The share minus chance; that of the second run minus the share. Paired by sample.

    Examples
    --------
    >>> share = Share.of_sums(np.ones(9), np.full(9, 2.0), np.full(9, 0.5))
    >>> print(share, share.chance, share.second_run)
    0.50 [0.50, 0.50] 0.25 [0.25, 0.25] not measurable
    >>> share.row()["verdict"]
    'above chance'
    """

    chance: Estimate = field(kw_only=True)
    second_run: Estimate = field(kw_only=True)
    over_chance: Difference = field(kw_only=True)
    under_second_run: Difference = field(kw_only=True)

    @classmethod
    def of_sums(
        cls,
        part: np.ndarray,
        whole: np.ndarray,
        chance: np.ndarray,
        second_runs: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    ) -> "Share":
        """Ratios of sums over samples, all (B,) float64.

        Strength that the other network has, of how much, and how much of it by chance; part and
        whole of each second run.
        """
        nothing = [np.full_like(whole, np.nan)] * 2
        runs = np.mean([np.stack(pair) for pair in second_runs], 0) if second_runs else nothing
        rows = np.stack([part, chance, whole, *runs])
        measured = ~np.isnan(rows if second_runs else rows[:3]).any(0)
        moving = int(measured.sum())
        still = len(whole) - moving
        note = f"{still} of {len(whole)} samples do not move" if still else ""
        counts, _ = resample_weights(moving)
        part, chance, whole, second, second_whole = (counts @ rows[:, measured].T).T
        with np.errstate(divide="ignore", invalid="ignore"):
            share, by_chance = (np.where(whole > 0, x / whole, np.nan) for x in (part, chance))
            second = np.where(second_whole > 0, second / second_whole, np.nan)
        if np.isnan(share[0]):
            note = "there is no strength" if moving else "no sample moves under both networks"
        note_of_second = note if second_runs else ONE_RUN
        return cls(
            **vars(Estimate.of_resamples(share, note)),
            chance=Estimate.of_resamples(by_chance, note),
            second_run=Estimate.of_resamples(second, note_of_second),
            over_chance=Difference.of_resamples(share - by_chance, note),
            under_second_run=Difference.of_resamples(second - share, note_of_second),
        )

    @property
    def verdict(self) -> str:
        """ "above chance", "below chance", "undecided" or "not measurable"."""
        if not self.measurable:
            return "not measurable"
        side = self.over_chance.compared_with(0)
        return side if side == "undecided" else f"{side} chance"

    def row(self) -> dict[str, "Estimate | str"]:
        """What a table shows: observed, chance, second_run, verdict."""
        return {
            "observed": Estimate(self.value, self.low, self.high, self.note),
            "chance": self.chance, "second_run": self.second_run, "verdict": self.verdict,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Knowledge:
    """Interactions of a pre-trained and a fine-tuned model, split into three parts.

    Attributes
    ----------
    preserved, discarded, new : (B, M) float64
        Normalised interactions per sample and coalition. ``preserved + discarded`` is the
        pre-trained model's, ``preserved + new`` the fine-tuned model's, sign by sign.
    orders : (M,) int64
        Order of each coalition.
    n : int
        Players.
    tau : float
        The salience threshold they were made with.
    results : tuple of Interactions
        What it was made from: the pre-trained model's, the fine-tuned model's, those of second
        fine-tuned runs.
    """

    preserved: Tensor
    discarded: Tensor
    new: Tensor
    orders: Tensor
    n: int
    tau: float
    results: tuple[Interactions, ...]

    PARTS = ("preserved", "discarded", "new")

    @property
    def pretrained(self) -> Tensor:
        """The pre-trained model's salient, normalised interactions (B, M)."""
        return self.preserved + self.discarded

    @property
    def finetuned(self) -> Tensor:
        """The fine-tuned model's salient, normalised interactions (B, M)."""
        return self.preserved + self.new

    @cached_property
    def second_runs(self) -> list[Tensor]:
        """Salient, normalised interactions (B, M) of each second fine-tuned run."""
        return [normalised(result, self.tau) for result in self.results[2:]]

    def strength(self, part: str) -> Tensor:
        """``sum_{|S|=m} |K(S)|`` of one of `PARTS` by sample and order: (B, n + 1) float64."""
        if part not in self.PARTS:
            raise ValueError(f"part={part!r}; expected one of {', '.join(self.PARTS)}")
        return sum_by_order(getattr(self, part).abs(), self.orders, self.n)

    def agreement_by_order(self) -> "pd.DataFrame":
        """``sum K(S) / sum |K(S)|`` of each order and part, over all samples.

        1 if all interactions raise the log-odds of the true class, -1 if all lower them, 0 if they
        cancel, NaN if there are none. Columns as `by_order`.
        """

        def agreement(part: str, m: int) -> Estimate:
            signed = sum_by_order(getattr(self, part), self.orders, self.n)
            return bootstrap(signed[:, m], self.strength(part)[:, m], statistic=ratio_of_sums)

        return self._by_part(agreement)

    def by_order(self) -> "pd.DataFrame":
        """Mean strength of each part by order, with intervals: part, order, value, low, high."""
        return self._by_part(lambda part, m: bootstrap(self.strength(part)[:, m]))

    def _by_part(self, estimate: Callable[[str, int], Estimate]) -> "pd.DataFrame":
        return _frame(
            {"part": part, "order": m, **_fields(estimate(part, m))}
            for part in self.PARTS
            for m in range(1, self.n + 1)
        )

    def preserved_share(self) -> Share:
        """Share of the pre-trained strength that is preserved: a ratio of sums over samples.

        The second run: the share of a second fine-tuned run's strength that this one has.
        """
        return self._preserved_share(slice(1, None))

    def preserved_share_by_order(self) -> "pd.DataFrame":
        """Within each order: order, value, low, high, chance, second_run, verdict."""
        return _frame(
            {"order": m, **_beside(self._preserved_share(slice(m, m + 1)))}
            for m in range(1, self.n + 1)
        )

    def new_share(self) -> Share:
        """Share of the fine-tuned strength that is new: a ratio of sums over samples.

        The second run: the share of it that a second fine-tuned run has not.
        """
        strengths = {name: x.sum(-1) for name, x in self._strengths.items()}
        whole = strengths["finetuned"]
        parts = [whole - strengths[name] for name in ("preserved", "chance")]
        seconds = [(whole - in_both.sum(-1), whole) for in_both, _ in self._second_strengths]
        return Share.of_sums(parts[0], whole, parts[1], seconds)

    def mean_order(self, part: str) -> Estimate:
        """Mean order of one part, weighted by strength: how complex it is."""
        return bootstrap(*self._weighted_orders(part), statistic=ratio_of_sums)

    def order_gap(self, first: str, second: str) -> Estimate:
        """Mean order of the `first` part minus that of the `second`."""

        def difference(a, b, c, d, axis=-1):
            return ratio_of_sums(a, b, axis) - ratio_of_sums(c, d, axis)

        sums = *self._weighted_orders(first), *self._weighted_orders(second)
        return bootstrap(*sums, statistic=difference)

    def _weighted_orders(self, part: str) -> tuple[Tensor, Tensor]:
        """By sample, sums of strength times order and of strength."""
        strength = self.strength(part)
        return (strength * torch.arange(self.n + 1)).sum(-1), strength.sum(-1)

    def _of(self, terms: Tensor) -> np.ndarray:
        return sum_by_order(terms.abs(), self.orders, self.n).numpy()

    @cached_property
    def _strengths(self) -> dict[str, np.ndarray]:
        """By sample and order, what the shares are made of."""
        chance = chance_overlap(self.pretrained, self.finetuned, self.n).numpy()
        terms = {name: getattr(self, name) for name in ("pretrained", "finetuned", "preserved")}
        return {name: self._of(x) for name, x in terms.items()} | {"chance": chance}

    @cached_property
    def _second_strengths(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """By sample and order, what each second run shares with this one, and all that it has."""
        return [(self._of(shared(x, self.finetuned)), self._of(x)) for x in self.second_runs]

    def _preserved_share(self, orders: slice) -> Share:
        names = "preserved", "pretrained", "chance"
        seconds = [tuple(x[:, orders].sum(-1) for x in p) for p in self._second_strengths]
        return Share.of_sums(*(self._strengths[x][:, orders].sum(-1) for x in names), seconds)

    def plot(self, **options):
        """Strength by order of the three parts; see `pi_lib.book.figures.knowledge`."""
        from pi_lib.book import figures

        return figures.knowledge(self, **options)


def compare(
    pretrained: Interactions,
    finetuned: Interactions,
    tau: float = 0.05,
    *,
    second_runs: Sequence[Interactions] = (),
) -> Knowledge:
    """Preserved, discarded and new knowledge (method of arXiv 2410.08455, section 3.2).

    ``K_preserve(S) = sign(I_ft) min(|I_pre|, |I_ft|)`` where both have the same sign, else 0;
    ``K_discard = I_pre - K_preserve``; ``K_new = I_ft - K_preserve``.

    Parameters
    ----------
    pretrained, finetuned : Interactions
        Of the linear probe and of the fine-tuned model, on the same samples and players.
    tau : float, default 0.05
        Salience threshold. A set salient in only one of the models counts as not shared.
    second_runs : sequence of Interactions, optional
        Of other fine-tuned models that differ from the first in head and batch order alone:
        without any, shares cannot say what would come back.

    Raises
    ------
    ValueError
        If they are not of the same samples, players, labels, values and kind.

    Examples
    --------
    >>> game = torch.tensor([[0., 1.]], dtype=torch.float64)
    >>> before = Interactions(v=game, i_and=game)
    >>> compare(before, before).preserved
    tensor([[0., 1.]], dtype=torch.float64)
    """
    results = (pretrained, finetuned, *second_runs)
    check_comparable(*results)
    if len({id(result) for result in results[1:]}) < len(results[1:]):
        raise ValueError("second_runs: the same result is given twice")
    before, after = normalised(pretrained, tau), normalised(finetuned, tau)
    preserved = shared(before, after)
    parts = preserved, before - preserved, after - preserved
    return Knowledge(*parts, pretrained.orders, pretrained.n, tau, results)


@dataclass(frozen=True, eq=False)
class Learned:
    """How much of the preserved knowledge another model has; strengths by sample and order.

    Attributes
    ----------
    learned, preserved : (B, n + 1) float64
        Strength that the other model has, strength preserved.
    chance : (B, n + 1) float64
        Strength that the other model would have by chance, its interactions being shuffled.
    second_runs : list of (B, n + 1) float64
        Strength that each second fine-tuned run has.
    """

    learned: Tensor
    preserved: Tensor
    chance: Tensor
    second_runs: list[Tensor]

    def ratio(self) -> Share:
        """Ratio of the sums over samples."""
        return self._share(slice(None))

    def mean_ratio(self) -> Share:
        """Mean over samples of each sample's ratio; samples that preserve nothing are left out."""
        measured = self.preserved.sum(-1) > 0
        whole = self.preserved[measured].sum(-1)
        return self._of_sums([(x[measured].sum(-1) / whole).numpy() for x in self._parts])

    def by_order(self) -> "pd.DataFrame":
        """Ratio within each order: order, value, low, high, chance, second_run, verdict."""
        return _frame(
            {"order": m, **_beside(self._share(slice(m, m + 1)))}
            for m in range(1, self.learned.shape[-1])
        )

    @property
    def _parts(self) -> list[Tensor]:
        return [self.learned, self.preserved, self.chance, *self.second_runs]

    def _share(self, orders: slice) -> Share:
        return self._of_sums([x[:, orders].sum(-1).numpy() for x in self._parts])

    @staticmethod
    def _of_sums(parts: list[np.ndarray]) -> Share:
        part, whole, chance, *seconds = parts
        return Share.of_sums(part, whole, chance, [(second, whole) for second in seconds])


def learned_by_scratch(knowledge: Knowledge, scratch: Interactions) -> Learned:
    """Share of the preserved knowledge that a model trained from scratch learned.

    ``sum_S [K_preserve I_scr > 0] min(|K_preserve|, |I_scr|) / sum_S |K_preserve|``
    (arXiv 2410.08455, section 3.3; it reports 13 to 45 %).

    `knowledge` is from `compare`, with second runs if their share is to stand beside; `scratch` is
    of the model trained from scratch. A ValueError if it is of other samples, players, labels,
    values or kind.
    """
    check_comparable(knowledge.results[1], scratch)
    preserved, n = knowledge.preserved, knowledge.n
    other = normalised(scratch, knowledge.tau)

    def strength_in(terms: Tensor) -> Tensor:
        return sum_by_order(shared(preserved, terms).abs(), knowledge.orders, n)

    by_chance = chance_overlap(preserved, other, n)
    second_runs = [strength_in(terms) for terms in knowledge.second_runs]
    return Learned(strength_in(other), knowledge.strength("preserved"), by_chance, second_runs)


@dataclass(frozen=True)
class LearnedPart:
    """Shares of a part of the fine-tuned knowledge that other networks have.

    Of networks from `scratch`, of a `second_run` of fine-tuning; of either by chance, if its
    interactions are shuffled, `chance` and `second_run_chance`. `excess` is what the second run has
    beyond chance minus what scratch has beyond chance, paired by sample: stronger interactions
    alone, of one or the other, do not move it.
    """

    scratch: Estimate
    second_run: Estimate
    chance: Estimate
    second_run_chance: Estimate
    excess: Difference


@dataclass(frozen=True)
class HardToLearn:
    """Whether what was preserved is harder to learn from scratch than what is new, the control.

    `special` is the excess of the preserved part minus that of the new part, since a second
    fine-tuned run resembles the first in everything. `shares` are those of each part, in the order
    of `LearnedPart`, of all samples and of each resample (1 + N,).
    """

    preserved: LearnedPart
    new: LearnedPart
    special: Difference
    shares: Mapping[str, Sequence[np.ndarray]] = field(repr=False, compare=False)

    @classmethod
    def mean(cls, several: Sequence[Self]) -> Self:
        """Mean of several about the same samples, as of several pre-trainings.

        Samples are resampled for all together.
        """
        notes = dict.fromkeys(one.special.note for one in several)
        shares = {
            part: list(np.mean([one.shares[part] for one in several], 0))
            for part in ("preserved", "new")
        }
        return cls._of(shares, "; ".join(filter(None, notes)))

    @classmethod
    def _of(cls, shares: Mapping[str, Sequence[np.ndarray]], note: str) -> Self:
        excess = {
            part: second - second_chance - (scratch - chance)
            for part, (scratch, second, chance, second_chance) in shares.items()
        }
        of = Difference.of_resamples
        learned = {
            part: LearnedPart(
                *(Estimate.of_resamples(x, note) for x in each), excess=of(excess[part], note)
            )
            for part, each in shares.items()
        }
        special = of(excess["preserved"] - excess["new"], note)
        return cls(**learned, special=special, shares=shares)

    def to_frame(self) -> "pd.DataFrame":
        """One row per part and number: part, number, value, low, high, p, note."""
        rows = [
            {"part": part, "number": name, "p": np.nan} | vars(estimate)
            for part in ("preserved", "new")
            for name, estimate in vars(getattr(self, part)).items()
        ]
        special = {"part": "preserved minus new", "number": "excess", **vars(self.special)}
        return _frame([*rows, special])


def hard_to_learn(
    probes: Sequence[Interactions],
    finetuned_runs: Sequence[Interactions],
    scratch_runs: Sequence[Interactions],
    tau: float = 0.05,
    *,
    second_runs: Sequence[Interactions] | None = None,
    orders: Collection[int] | None = None,
    resample_runs: bool | None = None,
) -> HardToLearn:
    """Whether preserved knowledge is hard to learn from scratch: more than new knowledge is.

    The preserved part ``K_preserve(P, F)`` of every fine-tuned run is compared with every second
    run and every network from scratch, as in `learned_by_scratch`; so is its new part. Ratios of
    sums over samples and pairs of runs.

    Parameters
    ----------
    probes, finetuned_runs, scratch_runs : sequence of Interactions
        At least one probe, two fine-tuned runs, one network from scratch (of the same budget, or
        trained to its plateau), of the same samples and players.
    tau : float, default 0.05
        Salience threshold.
    second_runs : sequence of Interactions, optional
        By default the other fine-tuned runs. They start from the same weights, so what these have
        by chance is in them too; runs that were fine-tuned from another pre-training do not.
    orders : collection of int, optional
        Orders that count; all by default.
    resample_runs : bool, optional
        Whether intervals resample runs beside samples; by default with five or more.

    Raises
    ------
    ValueError
        If there are too few runs, or one is of other samples, players, labels or values.
    """
    given = {"probes": probes, "finetuned_runs": finetuned_runs, "scratch_runs": scratch_runs}
    least_of = {"probes": 1, "finetuned_runs": 2, "scratch_runs": 1}
    if second_runs is not None:
        given |= {"second_runs": second_runs}
        least_of |= {"finetuned_runs": 1, "second_runs": 1}
    for name, runs in given.items():
        if len(runs) < (least := least_of[name]):
            raise ValueError(f"{name}: got {len(runs)}; the test needs at least {least}")
    runs = [run for arm in given.values() for run in arm]
    check_comparable(*runs)
    if len({id(run) for run in runs}) < len(runs):
        raise ValueError("the same result is given twice: a run has all of itself")
    n, terms = runs[0].n, torch.stack([normalised(run, tau) for run in runs])
    if orders is not None:
        terms = terms * torch.isin(runs[0].orders, torch.tensor(check_orders(orders, n)))
    terms = terms[:, ~terms.isnan().any(-1).any(0)]  # samples that move under every network
    before, finetuned, *others = terms.split([len(arm) for arm in given.values()])
    note = f"{terms.shape[1]} of {len(runs[0])} samples move" * (terms.shape[1] < len(runs[0]))
    arms = [len(arm) for arm in (finetuned, *others)]
    counts, (own, *weights) = resample_weights(terms.shape[1], arms, resample_runs)
    across = [own.T[:, None] * other.T[None] for other in weights]  # (F, runs, 1 + N)
    if second_runs is None:
        pairs = own.T[:, None] * own.T[None]
        pairs[range(len(finetuned)), range(len(finetuned))] = 0  # a run has all of itself
        others, across = [*others, finetuned], [*across, pairs]
    preserved = [shared(probe.expand_as(finetuned), finetuned) for probe in before]
    parts = {"preserved": preserved, "new": [finetuned - x for x in preserved]}
    shares = {
        name: _shares_in_others(part, list(zip(others, across, strict=True)), n, counts, own)
        for name, part in parts.items()
    }
    return HardToLearn._of(shares, note)


def _shares_in_others(parts, others, n, counts, own) -> list[np.ndarray]:
    """Shares of a part in scratch, in second runs, and by chance in either: (1 + N,) each.

    `parts` holds, for each probe, that part (F, B, M) of each fine-tuned run, of weights `own`
    (1 + N, F) in each resample; `others` the runs of scratch and the second runs, with the weights
    (F, runs, 1 + N) of their pairs with these.
    """

    def strength(first: Tensor, second: Tensor) -> Tensor:
        return shared(first, second).abs().sum(-1)

    def by_chance(first: Tensor, second: Tensor) -> Tensor:
        return chance_overlap(first, second, n).sum(-1)

    def share(overlap, runs: Tensor, weights: np.ndarray) -> np.ndarray:
        sums = [[[overlap(terms, x).numpy() for x in runs] for terms in part] for part in parts]
        in_runs = np.mean(sums, 0) @ counts.T  # (F, runs, 1 + N)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (weights * in_runs).sum((0, 1)) / (weights * whole[:, None]).sum((0, 1))

    whole = np.mean([part.abs().sum(-1).numpy() for part in parts], 0) @ counts.T  # (F, 1 + N)
    return [
        share(overlap, runs, weights)
        for overlap in (strength, by_chance)
        for runs, weights in others
    ]


def jaccard(first: Interactions, second: Interactions, tau: float = 0.05) -> Tensor:
    """Signed weighted Jaccard similarity of two models' interactions, per sample.

    ``sum_S min(I1+, I2+) + min(I1-, I2-)`` over ``sum_S max(..) + max(..)``, with
    ``I+ = max(I, 0)``, ``I- = max(-I, 0)`` (arXiv 2410.08455, section 3.4).

    From 0, nothing in common, to 1, equal, (B,) float64; NaN where a model's value does not move.
    Raises ValueError if the two are not of the same samples, players, labels, values and kind.
    """
    check_comparable(first, second)
    a, b = normalised(first, tau), normalised(second, tau)
    return _jaccard(shared(a, b).abs().sum(-1), a, b)


def _jaccard(common: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Of strengths in common (B,); max = a + b - min, sign by sign."""
    return common / (a.abs().sum(-1) + b.abs().sum(-1) - common)


def jaccard_share(
    first: Interactions,
    second: Interactions,
    tau: float = 0.05,
    *,
    second_runs: Sequence[Interactions] = (),
) -> Share:
    """Mean of `jaccard` over samples, beside chance and second runs of the arm of `second`.

    Chance takes the strength in common that shuffling gives on average.
    """
    check_comparable(first, second, *second_runs)
    a, b = normalised(first, tau), normalised(second, tau)
    by_chance = chance_overlap(a, b, first.n).sum(-1)
    values = jaccard(first, second, tau).numpy()
    whole = np.ones_like(values)
    others = [(jaccard(other, second, tau).numpy(), whole) for other in second_runs]
    return Share.of_sums(values, whole, _jaccard(by_chance, a, b).numpy(), others)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """How similar a run's interactions are to a target's as it trains.

    `similarity` (T, B) float64 is the Jaccard similarity with the target at each of T ascending
    training `steps`, per sample.
    """

    steps: list[int]
    similarity: Tensor

    @cached_property
    def progress(self) -> np.ndarray:
        """Steps as a fraction of the run: (T,)."""
        return np.array(self.steps) / self.steps[-1]

    def to_frame(self) -> "pd.DataFrame":
        """Mean similarity at each checkpoint, with intervals: step, progress, value, low, high."""
        rows = zip(self.steps, self.progress, map(bootstrap, self.similarity), strict=True)
        return _frame({"step": step, "progress": p, **_fields(x)} for step, p, x in rows)

    def areas(self) -> np.ndarray:
        """Area under each sample's similarity curve, over the run as [0, 1]: (B,).

        From the first checkpoint on whose value moves, as an untrained network's may not.
        """
        moving = ~self.similarity.isnan().all(-1).numpy()
        return np.trapezoid(self.similarity.numpy()[moving], self.progress[moving], axis=0)


def trajectory(
    checkpoints: Sequence[Interactions],
    target: Interactions,
    steps: Sequence[int],
    tau: float = 0.05,
) -> Trajectory:
    """Similarity to `target` at every checkpoint of a run.

    Parameters
    ----------
    checkpoints : sequence of Interactions
        The run's interactions, at each of `steps`.
    target : Interactions
        The run's own final model (the paper), or another.
    steps : sequence of int
        Training steps, ascending; at least two. A ValueError if not, or of another number.
    tau : float, default 0.05
        Salience threshold.
    """
    steps = check_steps(steps, checkpoints)
    return Trajectory(steps, torch.stack([jaccard(c, target, tau) for c in checkpoints]))


def check_steps(steps: Sequence[int], *runs: Sequence[Interactions]) -> list[int]:
    """Steps as a list, refused if they do not ascend, or a run has not a checkpoint for each."""
    steps, given = [int(step) for step in steps], list(steps)
    for checkpoints in runs:
        if len(steps) != len(checkpoints) or len(steps) < 2 or sorted(set(steps)) != given:
            raise ValueError(
                "expected at least two checkpoints at ascending steps, whole numbers; got "
                f"{len(checkpoints)} checkpoints at steps {given}"
            )
    return steps


def check_orders(orders: Collection[int], n: int) -> list[int]:
    """Orders ascending, refused if n players have no such interactions, or there are none."""
    orders = list(orders)
    if not orders or any(isinstance(m, bool) or m not in range(1, n + 1) for m in orders):
        raise ValueError(
            f"orders={orders}; expected some of 1 to {n}, the number of players (order 0 is the "
            "empty set, which is no interaction)"
        )
    return sorted({int(m) for m in orders})


def moves(interactions: Interactions) -> Tensor:
    """Under which samples the value moves with what is visible, beyond rounding: bool (B,)."""
    v = interactions.v
    return v.amax(-1) - v.amin(-1) > ROUNDING * v.abs().amax(-1)


def normalised(interactions: Interactions, tau: float) -> Tensor:
    """Salient terms divided by the model's mean ``|v(N) - v({})|``; the others are 0.

    NaN where the value of the sample, or of the model, does not move: that is not 0.
    """
    terms = interactions.terms.where(interactions.salient(tau), 0)
    scale = interactions.scale or torch.nan
    return torch.where(moves(interactions)[:, None], terms / scale, torch.nan)


def chance_overlap(first: Tensor, second: Tensor, n: int) -> Tensor:
    """Strength shared, on average over all ways to shuffle `second` within sample and order.

    Positions and signs are shuffled, AND and OR apart: a pair of terms meets in one of the K
    positions of an order and has the same sign half of the time, so the mean is
    ``sum_{S, S'} min(|I(S)|, |J(S')|) / 2K``. From terms (..., M) of n players, AND first, then OR
    if any, to (..., n + 1) float64 by order; order 0 is 0.
    """
    kinds = first.shape[-1] >> n
    first, second = (x.abs().unflatten(-1, (kinds, 2**n)) for x in (first, second))
    sizes, overlap = order(n), first.new_zeros(*first.shape[:-2], n + 1)
    for m in range(1, n + 1):
        own, other = (x[..., sizes == m].contiguous() for x in (first, second))
        other, count = other.sort(-1).values, own.shape[-1]
        smaller = torch.searchsorted(other, own)  # how many of the other are
        below = torch.nn.functional.pad(other.cumsum(-1), (1, 0)).gather(-1, smaller)
        overlap[..., m] = (below + own * (count - smaller)).sum((-1, -2)) / (2 * count)
    return overlap


def shared(first: Tensor, second: Tensor) -> Tensor:
    """``sign(second) min(|first|, |second|)`` where both have the same sign, else 0; NaN stays."""
    smaller = torch.minimum(first.abs(), second.abs())
    same_sign = first * second > 0
    return torch.where(same_sign | smaller.isnan(), smaller * second.sign(), 0.0)


def _fields(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _beside(share: Share) -> dict[str, float | str]:
    """Columns of a share in a table."""
    return {
        **_fields(share), "chance": share.chance.value, "second_run": share.second_run.value,
        "verdict": share.verdict,
    }  # fmt: skip


def _frame(rows) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(list(rows))

"""What fine-tuning preserved, discarded and learned anew; what scratch training learned of it;
how directly a run approached its target (arXiv 2410.08455, section 3).

Everything here compares `Interactions` of the same samples and players under different models.
Each model's interactions are divided by its mean ``|v(N) - v({})|``, then those that are not
salient are dropped. Means over samples carry bootstrap confidence intervals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pi_lib.interactions import Interactions, check_comparable, sum_by_order
from pi_lib.statistics import Estimate, bootstrap, ratio_of_sums
from pi_lib.transforms import and_inverse, or_inverse

if TYPE_CHECKING:
    import pandas as pd


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
    """

    preserved: Tensor
    discarded: Tensor
    new: Tensor
    orders: Tensor
    n: int
    tau: float

    PARTS = ("preserved", "discarded", "new")

    @property
    def pretrained(self) -> Tensor:
        """The pre-trained model's salient, normalised interactions (B, M)."""
        return self.preserved + self.discarded

    @property
    def finetuned(self) -> Tensor:
        """The fine-tuned model's salient, normalised interactions (B, M)."""
        return self.preserved + self.new

    def strength(self, part: str) -> Tensor:
        """``sum_{|S|=m} |K(S)|`` of one of `PARTS` by sample and order: (B, n + 1) float64.

        Raises
        ------
        ValueError
            If there is no such part.
        """
        if part not in self.PARTS:
            raise ValueError(f"part={part!r}; expected one of {', '.join(self.PARTS)}")
        return sum_by_order(getattr(self, part).abs(), self.orders, self.n)

    def agreement_by_order(self) -> "pd.DataFrame":
        """How far the interactions of an order speak for the true class, or cancel each other.

        ``sum K(S) / sum |K(S)|`` over the interactions of an order and all samples, for each of
        `PARTS`: 1 if all raise the log-odds of the true class, -1 if all lower them, 0 if they
        cancel. NaN where a part has none.

        Returns
        -------
        DataFrame
            Columns ``part``, ``order``, ``value``, ``low``, ``high`` (95 % bootstrap over samples).
        """
        import pandas as pd

        rows = []
        for part in self.PARTS:
            signed = sum_by_order(getattr(self, part), self.orders, self.n)
            size = self.strength(part)
            for m in range(1, self.n + 1):
                estimate = bootstrap(signed[:, m], size[:, m], statistic=ratio_of_sums)
                rows.append({"part": part, "order": m} | vars(estimate))
        return pd.DataFrame(rows)

    def by_order(self) -> "pd.DataFrame":
        """Mean strength of each part by order, with intervals: part, order, value, low, high."""
        return _frame(
            {"part": part, "order": m, **_fields(bootstrap(strength[:, m]))}
            for part in self.PARTS
            for strength in [self.strength(part)]
            for m in range(1, self.n + 1)
        )

    def preserved_share(self) -> Estimate:
        """Share of the pre-trained strength that is preserved: a ratio of sums over samples."""
        return self._share(slice(1, None))

    def preserved_share_by_order(self) -> "pd.DataFrame":
        """The same share within each order: order, value, low, high."""
        return _frame(
            {"order": m, **_fields(self._share(slice(m, m + 1)))} for m in range(1, self.n + 1)
        )

    def new_share(self) -> Estimate:
        """Share of the fine-tuned strength that is new: a ratio of sums over samples."""
        new, kept = self.strength("new").sum(-1), self.strength("preserved").sum(-1)
        return bootstrap(new, new + kept, statistic=ratio_of_sums)

    def mean_order(self, part: str) -> Estimate:
        """Mean order of one part, weighted by strength: how complex it is."""
        strength = self.strength(part)
        weighted = (strength * torch.arange(self.n + 1)).sum(-1)
        return bootstrap(weighted, strength.sum(-1), statistic=ratio_of_sums)

    def order_gap(self, first: str, second: str) -> Estimate:
        """Mean order of the `first` part minus that of the `second`."""
        parts = [self.strength(part) for part in (first, second)]
        weighted = [(strength * torch.arange(self.n + 1)).sum(-1) for strength in parts]
        totals = [strength.sum(-1) for strength in parts]

        def difference(a, b, c, d, axis=-1):
            return ratio_of_sums(a, b, axis) - ratio_of_sums(c, d, axis)

        return bootstrap(weighted[0], totals[0], weighted[1], totals[1], statistic=difference)

    def _share(self, orders: slice) -> Estimate:
        kept = self.strength("preserved")[:, orders].sum(-1)
        dropped = self.strength("discarded")[:, orders].sum(-1)
        return bootstrap(kept, kept + dropped, statistic=ratio_of_sums)

    def plot(self, **options):
        """Strength by order of the three parts; see `pi_lib.book.figures.knowledge`."""
        from pi_lib.book import figures

        return figures.knowledge(self, **options)


def compare(pretrained: Interactions, finetuned: Interactions, tau: float = 0.05) -> Knowledge:
    """Preserved, discarded and new knowledge (method of arXiv 2410.08455, section 3.2).

    ``K_preserve(S) = sign(I_ft) min(|I_pre|, |I_ft|)`` where both have the same sign, else 0;
    ``K_discard = I_pre - K_preserve``; ``K_new = I_ft - K_preserve``.

    Parameters
    ----------
    pretrained, finetuned : Interactions
        Of the linear probe and of the fine-tuned model, on the same samples and players.
    tau : float, default 0.05
        Salience threshold. A set salient in only one of the models counts as not shared.

    Raises
    ------
    ValueError
        If the two are not of the same samples, players and kind.

    Examples
    --------
    >>> game = torch.tensor([[0., 1.]], dtype=torch.float64)
    >>> before = Interactions(v=game, i_and=game)
    >>> compare(before, before).preserved
    tensor([[0., 1.]], dtype=torch.float64)
    """
    check_comparable(pretrained, finetuned)
    before, after = normalised(pretrained, tau), normalised(finetuned, tau)
    preserved = shared(before, after)
    return Knowledge(
        preserved=preserved,
        discarded=before - preserved,
        new=after - preserved,
        orders=pretrained.orders,
        n=pretrained.n,
        tau=tau,
    )


@dataclass(frozen=True, eq=False)
class Learned:
    """How much of the preserved knowledge another model has.

    Attributes
    ----------
    found, preserved : (B, n + 1) float64
        By sample and order: strength found in the other model, strength preserved.
    """

    found: Tensor
    preserved: Tensor

    def ratio(self) -> Estimate:
        """Ratio of the sums over samples."""
        return bootstrap(self.found.sum(-1), self.preserved.sum(-1), statistic=ratio_of_sums)

    def mean_ratio(self) -> Estimate:
        """Mean over samples of each sample's ratio; samples that preserve nothing are left out."""
        return bootstrap(ratio_of_sums(self.found.numpy(), self.preserved.numpy()))

    def by_order(self) -> "pd.DataFrame":
        """Ratio of the sums within each order: order, value, low, high."""
        return _frame(
            {
                "order": m,
                **_fields(
                    bootstrap(self.found[:, m], self.preserved[:, m], statistic=ratio_of_sums)
                ),
            }
            for m in range(1, self.found.shape[-1])
        )


def learned_by_scratch(knowledge: Knowledge, scratch: Interactions) -> Learned:
    """Share of the preserved knowledge that a model trained from scratch learned.

    ``sum_S [K_preserve I_scr > 0] min(|K_preserve|, |I_scr|) / sum_S |K_preserve|``
    (arXiv 2410.08455, section 3.3; it reports 13 to 45 %).

    Parameters
    ----------
    knowledge : Knowledge
        From `compare`.
    scratch : Interactions
        Of the model trained from scratch, on the same samples and players.

    Raises
    ------
    ValueError
        If `scratch` is of other samples or players.
    """
    if scratch.terms.shape != knowledge.preserved.shape:
        raise ValueError(
            f"knowledge of {tuple(knowledge.preserved.shape)} (samples, interactions) cannot be "
            f"compared with {tuple(scratch.terms.shape)}: extract the same samples and players"
        )
    found = shared(knowledge.preserved, normalised(scratch, knowledge.tau)).abs()
    return Learned(
        found=sum_by_order(found, knowledge.orders, knowledge.n),
        preserved=knowledge.strength("preserved"),
    )


def only_scratch(
    finetuned: Interactions, scratch: Interactions, tau: float = 0.05
) -> tuple[Tensor, Tensor]:
    """What the model trained from scratch has and the fine-tuned model has not.

    Returns
    -------
    only, total : (B, n + 1) float64
        Strength by sample and order of the scratch model's interactions that the fine-tuned model
        does not share, and of all its interactions. As ever normalised and salient.

    Raises
    ------
    ValueError
        If the two are not of the same samples, players and kind.
    """
    check_comparable(finetuned, scratch)
    own = normalised(scratch, tau)
    only = own - shared(normalised(finetuned, tau), own)
    return tuple(sum_by_order(x.abs(), scratch.orders, scratch.n) for x in (only, own))


def salient_error(interactions: Interactions, tau: float = 0.05) -> tuple[Tensor, Tensor]:
    """How far the salient interactions alone are from rebuilding v.

    Returns
    -------
    residual, total : (B,) float64
        Sums over coalitions of the squared error and of the squared distance of v from its mean;
        their ratio is the part of v's variance that the salient set leaves out (1 - R2).
    """
    kept = interactions.salient(tau) | (interactions.orders == 0)
    terms = interactions.terms.where(kept, 0).split(2**interactions.n, -1)
    rebuilt = and_inverse(terms[0]) + (or_inverse(terms[1]) if len(terms) == 2 else 0)
    v = interactions.v
    return (v - rebuilt).square().sum(-1), (v - v.mean(-1, keepdim=True)).square().sum(-1)


def jaccard(first: Interactions, second: Interactions, tau: float = 0.05) -> Tensor:
    """Signed weighted Jaccard similarity of two models' interactions, per sample.

    ``sum_S min(I1+, I2+) + min(I1-, I2-)`` over ``sum_S max(..) + max(..)``, with
    ``I+ = max(I, 0)``, ``I- = max(-I, 0)`` (arXiv 2410.08455, section 3.4).

    Returns
    -------
    (B,) float64
        From 0, nothing in common, to 1, equal; 1 where neither has any interaction.
    """
    check_comparable(first, second)
    a, b = normalised(first, tau), normalised(second, tau)
    common = shared(a, b).abs().sum(-1)
    union = a.abs().sum(-1) + b.abs().sum(-1) - common  # max = a + b - min, sign by sign
    return torch.where(union > 0, common / union.where(union > 0, 1), 1.0)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """How similar a run's interactions are to a target's as it trains.

    Attributes
    ----------
    steps : list of int
        Training steps of the checkpoints, ascending.
    similarity : (T, B) float64
        Jaccard similarity with the target at each checkpoint, per sample.
    """

    steps: list[int]
    similarity: Tensor

    @cached_property
    def progress(self) -> np.ndarray:
        """Steps as a fraction of the run: (T,)."""
        return np.array(self.steps) / self.steps[-1]

    def to_frame(self) -> "pd.DataFrame":
        """Mean similarity at each checkpoint, with intervals: step, progress, value, low, high."""
        return _frame(
            {"step": step, "progress": progress, **_fields(bootstrap(similarity))}
            for step, progress, similarity in zip(
                self.steps, self.progress, self.similarity, strict=True
            )
        )

    def areas(self) -> np.ndarray:
        """Area under each sample's similarity curve, over the run as [0, 1]: (B,)."""
        return np.trapezoid(self.similarity.numpy(), self.progress, axis=0)

    def area(self) -> Estimate:
        """Speed: mean over samples of the area under the similarity curve, over [0, 1]."""
        return bootstrap(self.areas())

    def reaches(self, level: float) -> Estimate:
        """Speed: fraction of the run at which the mean similarity first reaches `level`.

        Interpolated between checkpoints; NaN if never reached.
        """
        return self._of_mean(lambda curve: _first_crossing(self.progress, curve, level))

    def directness(self) -> Estimate:
        """Total rise of the mean similarity over its total variation; 1 is monotone."""
        return self._of_mean(rise_over_variation)

    def _of_mean(self, number: Callable[[np.ndarray], float]) -> Estimate:
        """A number read off the mean curve; the bootstrap resamples the samples behind it."""

        def statistic(*curves, axis=-1):
            means = np.stack([curve.mean(axis) for curve in curves], -1)
            return np.apply_along_axis(number, -1, means)

        return bootstrap(*self.similarity, statistic=statistic)


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
        The run's interactions, one per step.
    target : Interactions
        The run's own final model (the paper), or another.
    steps : sequence of int
        Training step of each checkpoint, ascending; at least two.
    tau : float, default 0.05
        Salience threshold.

    Raises
    ------
    ValueError
        If steps and checkpoints do not match, or the steps do not ascend.
    """
    steps = [int(step) for step in steps]
    if len(steps) != len(checkpoints) or len(steps) < 2 or sorted(set(steps)) != steps:
        raise ValueError(
            f"expected at least two checkpoints at ascending steps; got {len(checkpoints)} "
            f"checkpoints at steps {steps}"
        )
    return Trajectory(steps, torch.stack([jaccard(c, target, tau) for c in checkpoints]))


def normalised(interactions: Interactions, tau: float) -> Tensor:
    """Salient terms divided by the model's mean ``|v(N) - v({})|``; the others are 0."""
    terms = interactions.terms.where(interactions.salient(tau), 0)
    scale = interactions.scale
    return terms / scale if scale > 0 else terms


def shared(first: Tensor, second: Tensor) -> Tensor:
    """``sign(second) min(|first|, |second|)`` where both have the same sign, else 0."""
    smaller = torch.minimum(first.abs(), second.abs()) * second.sign()
    return torch.where(first * second > 0, smaller, 0.0)


def _first_crossing(times: np.ndarray, curve: np.ndarray, level: float) -> float:
    above = np.flatnonzero(curve >= level)
    if len(above) == 0:
        return np.nan
    k = above[0]
    if k == 0:
        return times[0]
    fraction = (level - curve[k - 1]) / (curve[k] - curve[k - 1])
    return times[k - 1] + fraction * (times[k] - times[k - 1])


def rise_over_variation(curve: np.ndarray) -> float:
    variation = np.abs(np.diff(curve)).sum()
    return (curve[-1] - curve[0]) / variation if variation > 0 else np.nan


def _fields(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _frame(rows) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(list(rows))

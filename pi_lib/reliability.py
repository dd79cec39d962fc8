"""What would come back in a second run, and where it comes from.

Two runs that differ only in head and batch order agree on a part of their interactions; the rest
is noise of the run. Over pairs of runs noise averages out of products, so what is reproducible can
be measured, and arms of a study compared in it alone. With interactions ``I_X^r(x, S)`` of arm X
(pre-trained, fine-tuned, from scratch) and run r, each run divided by its mean
``|v(N) - v({})|``::

    C_XY = mean over x and pairs of runs (r != r' if X = Y) of sum_S I_X^r(x, S) I_Y^r'(x, S)
    V_X  = mean over x and r of sum_S I_X^r(x, S)**2
    reliability of X = C_XX / V_X           similarity of X and Y = C_XY / sqrt(C_XX C_YY)

The similarity is corrected for attenuation (Spearman 1904): chance is 0 and a perfect match 1,
however noisy single runs are. All functions read the values of runs alone: of every coalition, or
of coalitions drawn at random (``extract(..., method="sampled")``), where
``sum_S w_X w_Y = Cov_T(v_X, v_Y)``. Intervals resample the samples, and the runs too if there are
five or more, or if `resample_runs` is True; the divisor of a run is not resampled.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
from torch import Tensor

from pi_lib.coalitions import order
from pi_lib.interactions import Interactions, check_comparable
from pi_lib.knowledge import check_orders, check_steps, moves
from pi_lib.statistics import TAIL, Difference, Estimate, resample_weights
from pi_lib.transforms import and_transform, walsh_transform

if TYPE_CHECKING:
    import pandas as pd


# With their words: a linear probe on the frozen pre-trained encoder; fine-tuned from it; trained
# from random weights with as many steps; and with several times as many.
ARMS = {
    "probe": "linear probe",
    "finetuned": "fine-tuned",
    "scratch": "scratch",
    "long": "long scratch",
}
Basis = Literal["walsh", "harsanyi"]
BASES = {"walsh": walsh_transform, "harsanyi": and_transform}
FEWEST_SAMPLES = 5  # for an interval
MOST_SAMPLED_ORDER = 3  # the sampling noise of order m grows with the number of its sets
LEAST_WAY = 0.5  # of the straight way; shorter than that, the way taken is mostly noise


def reliability(
    runs: Sequence[Interactions],
    *,
    basis: Basis = "walsh",
    orders: Collection[int] | None = None,
    centred: bool = False,
    resample_runs: bool | None = None,
) -> Estimate:
    """How much of what a run knows would come back in another: ``C_XX / V_X``.

    Parameters
    ----------
    runs : sequence of Interactions
        At least two runs of one arm, of the same samples and players.
    basis : "walsh" or "harsanyi"
        Walsh coefficients do not amplify noise; dividends are the paper's interactions.
    orders : collection of int, optional
        Orders of the interactions that count; all but the empty set by default. Of coalitions
        drawn at random: all, or some of 1, 2 and 3, in the Walsh basis.
    centred : bool, default False
        Take each sample's mean within each order out first: how many players are visible has a
        common effect, which is not knowledge of the sample.
    resample_runs : bool, optional
        Whether the interval resamples runs beside samples; by default with five or more.

    Returns
    -------
    Estimate
        1 if all runs are equal, 0 if they share nothing; not measurable where the output of a run
        does not move. No interval from fewer than 5 samples.

    Raises
    ------
    ValueError
        For one run, or the same result twice; for runs of other samples, players, labels or
        values; if there is no such basis or order.

    Examples
    --------
    >>> random = torch.Generator().manual_seed(0)
    >>> signal, *noise = torch.randn(3, 200, 16, generator=random)
    >>> runs = [Interactions.from_values(signal + x) for x in noise]
    >>> print(reliability(runs))  # as much noise as signal
    0.49 [0.47, 0.52]
    """
    arms = Arms({"runs": runs}, basis, several=["runs"], resample_runs=resample_runs)
    return arms.moments(orders, centred).reliability("runs")


def similarity(
    first_runs: Interactions | Sequence[Interactions],
    second_runs: Interactions | Sequence[Interactions],
    *,
    basis: Basis = "walsh",
    orders: Collection[int] | None = None,
    centred: bool = False,
    resample_runs: bool | None = None,
) -> Estimate:
    """How much alike the reproducible parts of two arms are: ``C_XY / sqrt(C_XX C_YY)``.

    Parameters
    ----------
    first_runs, second_runs : sequence of Interactions
        At least two runs of each arm, all of the same samples and players. An `Interactions` in
        place of a sequence is an arm without chance in it, such as a probe that is an optimum: a
        second run would give the same.
    basis, orders, centred, resample_runs
        As in `reliability`.

    Returns
    -------
    Estimate
        1 if both know the same, 0 if they have nothing in common; above 1 only by noise. Not
        measurable where the interval of ``C_XX`` or ``C_YY`` reaches 0: there is nothing
        reproducible to compare. A limit is infinite where resamples are. Errors as `reliability`.

    Examples
    --------
    >>> random = torch.Generator().manual_seed(0)
    >>> signal, *noise = torch.randn(5, 200, 16, generator=random)
    >>> a, b, c, d = (Interactions.from_values(signal + x) for x in noise)
    >>> print(similarity([a, b], [c, d]))  # the same signal, other noise
    0.99 [0.96, 1.02]
    """
    arms = {"first": first_runs, "second": second_runs}
    arms = Arms(arms, basis, several=list(arms), resample_runs=resample_runs)
    return arms.moments(orders, centred).similarity("first", "second")


@dataclass(frozen=True)
class Origins:
    """Of what fine-tuned runs reproducibly know, the shares that two other arms explain.

    The probe of the pre-trained network alone explains `pretraining`, it and training from scratch
    `both`, `scratch` alone, and `neither`, Estimates that add up to 1; noise may take one of them
    a little below 0.
    """

    pretraining: Estimate
    both: Estimate
    scratch: Estimate
    neither: Estimate

    PARTS = ("pretraining", "both", "scratch", "neither")

    @property
    def measurable(self) -> bool:
        """Whether all three arms have something reproducible to compare."""
        return self.neither.measurable

    @property
    def explained(self) -> float:
        """What the probe explains, alone or with scratch."""
        return self.pretraining.value + self.both.value

    @property
    def note(self) -> str:
        """Why it is not measurable, or has no interval."""
        return self.neither.note

    def __str__(self) -> str:
        if not self.measurable:
            return "not measurable"
        return ", ".join(f"{part} {getattr(self, part)}" for part in self.PARTS)

    def to_frame(self) -> "pd.DataFrame":
        """One row per share: part, value, low, high, note."""
        import pandas as pd

        return pd.DataFrame([{"part": x} | vars(getattr(self, x)) for x in self.PARTS])


def origins(
    probe_runs: Interactions | Sequence[Interactions],
    finetuned_runs: Sequence[Interactions],
    scratch_runs: Sequence[Interactions],
    *,
    basis: Basis = "walsh",
    orders: Collection[int] | None = None,
    centred: bool = False,
    resample_runs: bool | None = None,
) -> Origins:
    """Where what fine-tuned runs reproducibly know comes from (commonality analysis).

    With similarities ``a`` of probe and fine-tuned, ``b`` of scratch and fine-tuned, ``c`` of
    probe and scratch, both together explain ``R2 = (a^2 + b^2 - 2abc) / (1 - c^2)``; the probe
    alone ``R2 - b^2``, scratch alone ``R2 - a^2``, both ``a^2 + b^2 - R2``, neither ``1 - R2``
    (Mood 1971; Newton and Spurrell 1967).

    Parameters
    ----------
    probe_runs, finetuned_runs, scratch_runs : sequence of Interactions
        At least two runs of each arm, or one `Interactions`, as in `similarity`.
    basis, orders, centred, resample_runs
        As in `reliability`.

    Returns
    -------
    Origins
        Not measurable where one of the similarities is not, or where probe and scratch are the
        same within noise. Errors as `reliability`.

    Examples
    --------
    >>> random = torch.Generator().manual_seed(0)
    >>> old, new, *noise = torch.randn(8, 200, 16, generator=random)
    >>> probe, finetuned, scratch = (
    ...     [Interactions.from_values(signal + x) for x in pair]
    ...     for signal, pair in zip((old, old + new, new), zip(noise[::2], noise[1::2]))
    ... )
    >>> print(origins(probe, finetuned, scratch).pretraining)  # half of what they know is old
    0.50 [0.45, 0.55]
    """
    arms = {"probe": probe_runs, "finetuned": finetuned_runs, "scratch": scratch_runs}
    arms = Arms(arms, basis, several=list(arms), resample_runs=resample_runs)
    return arms.moments(orders, centred).origins()


def order_groups(n: int) -> dict[str, list[int]]:
    """The groups of orders that results are shown for, by name, as far as n players have them.

    Examples
    --------
    >>> order_groups(3)
    {'1': [1], '2': [2], '3': [3], 'all': [1, 2, 3]}
    """
    groups = {str(m): [m] for m in range(1, min(n, 3) + 1)}
    if n > 3:
        groups |= {"4+": list(range(4, n + 1)), "1-3": [1, 2, 3]}
    return groups | {"all": list(range(1, n + 1))}


def yardstick(
    arms: Mapping[str, Interactions | Sequence[Interactions]],
    *,
    bases: Sequence[Basis] = ("walsh", "harsanyi"),
    orders: Mapping[str, Collection[int]] | None = None,
    centred: bool = False,
    resample_runs: bool | None = None,
) -> "pd.DataFrame":
    """Reliability of every arm, similarity of every two, and origins: one table.

    Parameters
    ----------
    arms : mapping of str to sequence of Interactions
        Runs by the name of their arm, at least two each, or one `Interactions` as in `similarity`.
        Origins are given if there are arms "probe", "finetuned" and "scratch".
    bases : sequence of "walsh" or "harsanyi"
    orders : mapping of str to collection of int, optional
        Orders by the name of their group; `order_groups` by default.
    centred, resample_runs
        As in `reliability`.

    Returns
    -------
    DataFrame
        ``basis, orders, quantity, first, second, value, low, high, note``. Quantities are
        "reliability" (``second`` is empty), "similarity", and those of `Origins`. Errors as
        `reliability`.
    """
    import pandas as pd

    rows = []
    for basis in bases:
        products = Arms(arms, basis, several=list(arms), resample_runs=resample_runs)
        for group, chosen in (orders or order_groups(products.n)).items():
            moments = products.moments(chosen, centred)
            estimates = {("reliability", arm, ""): moments.reliability(arm) for arm in arms}
            for pair in combinations(arms, 2):
                estimates["similarity", *pair] = moments.similarity(*pair)
            if {"probe", "finetuned", "scratch"} <= set(arms):
                for part, estimate in vars(moments.origins()).items():
                    estimates[part, "finetuned", ""] = estimate
            rows += [
                {"basis": basis, "orders": group, "quantity": q, "first": a, "second": b} | vars(x)
                for (q, a, b), x in estimates.items()
            ]
    return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class Approach:
    """How a run comes to what other runs of its arm end at.

    Attributes
    ----------
    steps : list of int
        Training steps of the checkpoints, ascending; the last is the run's end.
    similarity : list of Estimate
        With the ends of other runs, at each checkpoint; at the end the root of the reliability.
    directness : Estimate
        Length of the straight way from start to end over the length of the way taken, both of
        what replicates of the run share: 1 is straight. Not measurable without replicates, since
        noise looks like detours; nor where noise is most of the way: the 95 % interval of the way
        taken, which cannot be shorter than the straight one, reaches below half of that.
    curves, ratios : (1 + N, T) and (1 + N,) float64
        Similarities and directness, then those of N resamples; two approaches of the same samples
        are resampled alike.
    """

    steps: list[int]
    similarity: list[Estimate]
    directness: Estimate
    curves: np.ndarray
    ratios: np.ndarray

    @classmethod
    def mean(cls, ways: Sequence[Self]) -> Self:
        """Of several runs of an arm, on the same samples and steps, each with the others' ends.

        Directness is of all pairs of runs already, and is that of the first.
        """
        first, curves = ways[0], np.mean([way.curves for way in ways], 0)
        similarity = [
            Estimate.of_resamples(curve, next((x.note for x in at if x.note), ""))
            for curve, *at in zip(curves.T, *(way.similarity for way in ways), strict=True)
        ]
        return replace(first, similarity=similarity, curves=curves)

    def to_frame(self) -> "pd.DataFrame":
        """One row per checkpoint: step, value, low, high, note."""
        import pandas as pd

        rows = zip(self.steps, self.similarity, strict=True)
        return pd.DataFrame([{"step": step} | vars(estimate) for step, estimate in rows])

    def steps_to(self, share: float) -> Estimate:
        """Steps until the run has a share of its own final similarity, between checkpoints too.

        Examples
        --------
        >>> half = np.array([[0.0, 0.4, 0.8]])
        >>> run = Approach([0, 10, 30], [], Estimate.unmeasurable(""), half, half[:, 0])
        >>> run.steps_to(0.5).value
        10.0
        """
        return Estimate.of_resamples(steps_to_share(self.steps, self.curves, share), self._note)

    def sooner_than(self, other: "Approach", share: float) -> Difference:
        """By how many steps this run has a share of its own end before `other` has of its own.

        Raises ValueError if only one of the two has enough samples for an interval.
        """
        self._check_paired(other)
        own, others = (steps_to_share(x.steps, x.curves, share) for x in (self, other))
        return Difference.of_resamples(others - own, self._note or other._note)

    def more_direct_than(self, other: "Approach") -> Difference:
        """Directness of this run minus that of `other`, paired by sample; errors as above."""
        self._check_paired(other)
        note = self.directness.note or other.directness.note
        return Difference.of_resamples(self.ratios - other.ratios, note)

    def _check_paired(self, other: "Approach"):
        if len(self.curves) != len(other.curves):
            raise ValueError(
                "one of the two has too few samples for an interval: nothing is paired"
            )

    @property
    def _note(self) -> str:
        return self.similarity[-1].note if self.similarity else ""


def approach(
    checkpoints: Sequence[Interactions],
    ends: Sequence[Interactions],
    steps: Sequence[int],
    *,
    replicates: Sequence[Sequence[Interactions]] = (),
    basis: Basis = "walsh",
    orders: Collection[int] | None = None,
) -> Approach:
    """How a run comes to the ends of *other* runs of its arm, as it trains.

    ``C(X^1_t, X^r_end) / sqrt(V(X^1_t) C_XX(end))``: the noise of checkpoint t counts against it,
    that of the ends does not.

    Parameters
    ----------
    checkpoints : sequence of Interactions
        Of one run, the last at its end.
    ends : sequence of Interactions
        Of other runs of the same arm, at least one.
    steps : sequence of int
        Training step of each checkpoint, ascending; at least two.
    replicates : sequence of sequences of Interactions, optional
        Checkpoints of other runs at the same steps; without any, directness cannot be told from
        noise.
    basis, orders
        As in `reliability`.

    Raises
    ------
    ValueError
        As `reliability`; if steps and checkpoints do not match, or the steps do not ascend.
    """
    steps = check_steps(steps, checkpoints, *replicates)
    arms = Arms({"run": checkpoints, "ends": ends}, basis)
    moments = arms.moments(orders)
    run, others = arms.members["run"], arms.members["ends"]
    ends_shared = moments.shared(np.append(run[-1], others))
    nothing = moments.nothing_shared(ends_shared, "the ends")
    with np.errstate(divide="ignore", invalid="ignore"):
        curves = moments.products[:, run][:, :, others].mean(-1) / np.sqrt(
            moments.products[:, run, run]
            * np.where((ends_shared > 0) & (not nothing), ends_shared, np.nan)[:, None]
        )
    ratios, note = _directness([checkpoints, *replicates], arms, orders)
    still = ["the output does not move" * bool(np.isnan(value)) for value in curves[0]]
    notes = [nothing or why or arms.note for why in still]
    similarities = [Estimate.of_resamples(*x) for x in zip(curves.T, notes, strict=True)]
    directness = Estimate.of_resamples(ratios, note or arms.note)
    return Approach(steps, similarities, directness, curves, ratios)


def steps_to_share(steps: Sequence[int], curves: np.ndarray, share: float) -> np.ndarray:
    """Steps at which curves first have a share of their own last value: (...,) float64.

    `curves` (..., T) are of similarity or accuracy, `share` is above 0 and at most 1. Interpolated
    between checkpoints; NaN where the last value is not above 0.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}; expected 0 < share <= 1, of the final value")
    steps, curves = np.asarray(steps, dtype=np.float64), np.asarray(curves, dtype=np.float64)
    level = share * curves[..., -1:]
    first = (curves >= level).argmax(-1)[..., None]
    before = np.maximum(first - 1, 0)
    high, low = (np.take_along_axis(curves, k, -1) for k in (first, before))
    rise = np.where(np.isnan(high - low) | (high <= low), np.inf, high - low)
    # a checkpoint before it that is not measurable says nothing of the way in between
    crossed = steps[first] - (steps[first] - steps[before]) * (high - level) / rise
    return np.where(level > 0, crossed, np.nan)[..., 0]


def inner_products(
    v: Tensor, n: int, *, basis: Basis = "walsh", centred: bool = False
) -> np.ndarray:
    """Products ``sum_{|S|=m} I_r(S) I_s(S)`` of games (R, B, 2**n) by sample and order.

    Returns (B, n + 1, R, R) float64; order 0, the empty set, is 0.
    """
    terms = BASES[basis](v).transpose(0, 1)  # (B, R, 2**n)
    products = terms.new_zeros(len(terms), n + 1, terms.shape[1], terms.shape[1])
    sizes = order(n).to(terms.device)
    for m in range(1, n + 1):
        of_order = terms[..., sizes == m]
        if centred:
            of_order = of_order - of_order.mean(-1, keepdim=True)
        products[:, m] = of_order @ of_order.transpose(-1, -2)
    return products.cpu().numpy()


def sampled_products(
    v: Tensor, coalitions: Tensor, orders: Collection[int] | None, *, centred: bool = False
) -> np.ndarray:
    """The same products from values (R, B, M) on random coalitions (B, M, n): (B, R, R) float64.

    Over all orders they are covariances over coalitions. Of order m they are means of
    ``v_r(T) v_s(T') sum_{|S|=m} chi_S(T) chi_S(T')`` over pairs of *different* coalitions, so that
    the sampling noise of both averages out; the inner sum depends on how many players differ.
    """
    v = v.double().transpose(0, 1)
    v = v - v.mean(-1, keepdim=True)
    draws, n = coalitions.shape[1:]
    products = v @ v.transpose(-1, -2) / (draws - 1)
    if orders is None and not centred:
        return products.cpu().numpy()
    if orders is not None:
        products.zero_()
    # centring takes 2/M - 2/M**2 of every product with it
    pairs = draws * (draws - 1) * (1 - 2 / draws + 2 / draws**2)
    for sample, drawn in enumerate(coalitions):  # a kernel (M, M) at a time stays in the cache
        kernel = _kernel(drawn, orders, centred).fill_diagonal_(0)
        products[sample] += v[sample] @ kernel @ v[sample].T / pairs
    return products.cpu().numpy()


def _kernel(drawn: Tensor, orders: Collection[int] | None, centred: bool) -> Tensor:
    """``sum_{|S| in orders} chi_S(T) chi_S(T')`` for every two of the coalitions `drawn` (M, n).

    Centred, less what depends on the sizes of T and T' alone; of all orders only that.
    """
    n, signs = drawn.shape[-1], drawn.double() * 2 - 1
    if orders is None:
        sizes = drawn.sum(-1)
        chances = torch.tensor([comb(n, k) * 0.5**n for k in range(n + 1)]).to(signs)
        return 1 - (sizes[:, None] == sizes) / chances[sizes]
    between, visible = signs @ signs.T, signs.sum(-1)
    kernel = torch.zeros_like(between)
    for m in orders:
        kernel += _elementary(between, n, m)
        if centred:
            common = _elementary(visible, n, m)
            kernel -= common[:, None] * common / comb(n, m)
    return kernel


def _elementary(total: Tensor, n: int, m: int) -> Tensor:
    """Elementary symmetric polynomial of degree 1 to 3 of n signs, from their sum."""
    if m < 3:
        return total if m == 1 else (total**2 - n) / 2
    return (total**3 - (3 * n - 2) * total) / 6


class Arms:
    """Runs by arm, checked; products of all of them, for any orders.

    Arguments as `yardstick` and `reliability` take them; the arms in `several` need two runs.
    """

    def __init__(
        self,
        arms: Mapping[str, Interactions | Sequence[Interactions]],
        basis: Basis,
        *,
        several: Collection[str] = (),
        resample_runs: bool | None = False,
    ):
        if basis not in BASES:
            raise ValueError(f"basis={basis!r}; expected one of {', '.join(BASES)}")
        self.exact = {name for name, arm in arms.items() if isinstance(arm, Interactions)}
        arms = {name: [arm] if name in self.exact else list(arm) for name, arm in arms.items()}
        runs = [run for arm in arms.values() for run in arm]
        for name, arm in arms.items():
            if len(arm) < (2 if name in several and name not in self.exact else 1):
                raise ValueError(
                    f"{name}: got {len(arm)} run{'s' * (len(arm) != 1)}; what would come back in "
                    "another run cannot be known from fewer than two, which differ in head, batch "
                    "order and, from scratch, in all weights"
                )
        if len({id(run) for run in runs}) < len(runs):
            raise ValueError("the same result is given twice: a run agrees with itself in all")
        check_comparable(*runs)
        self.basis, self.n, self.runs = basis, runs[0].n, runs
        self.coalitions = runs[0].sampled  # check_comparable: the same in all runs, or in none
        if self.coalitions is not None and basis != "walsh":
            raise ValueError(
                f"basis={basis!r} needs every coalition; coalitions drawn at random give 'walsh'"
            )
        first, self.members = 0, {}
        for name, arm in arms.items():
            self.members[name] = np.arange(first, first + len(arm))
            first += len(arm)
        samples = len(runs[0])
        few = samples < FEWEST_SAMPLES
        self.note = f"{samples} samples: an interval needs {FEWEST_SAMPLES}" if few else ""
        self.counts, weights = resample_weights(
            samples, [len(arm) for arm in arms.values()], resample_runs, FEWEST_SAMPLES
        )
        self.weights = dict(zip(arms, weights, strict=True))
        self.scales = np.array([run.scale if moves(run).any() else np.nan for run in runs])
        self._by_order = {}

    def products(
        self, orders: Collection[int] | None, centred: bool = False, v: Tensor | None = None
    ) -> np.ndarray:
        """Inner products (B, R, R) over some orders, of the runs or of games `v` (R, B, M)."""
        chosen, is_own = self.checked(orders), v is None
        if is_own:
            v = torch.stack([run.v.double() for run in self.runs])
        if self.coalitions is not None:
            return sampled_products(v, self.coalitions, chosen, centred=centred)
        by_order = self._by_order.get(centred) if is_own else None
        if by_order is None:
            by_order = inner_products(v, self.n, basis=self.basis, centred=centred)
        if is_own:
            self._by_order[centred] = by_order
        return by_order.sum(1) if chosen is None else by_order[:, chosen].sum(1)

    def checked(self, orders: Collection[int] | None) -> list[int] | None:
        """Orders as a list, None for all of sampled coalitions, refused if there are none such."""
        if orders is None:
            return None
        orders = check_orders(orders, self.n)
        if self.coalitions is None:
            return orders
        if orders == list(range(1, self.n + 1)):
            return None
        if orders[-1] > MOST_SAMPLED_ORDER:
            raise ValueError(
                f"orders={orders}; coalitions drawn at random give orders 1, 2 and 3, or all "
                "(orders=None): beyond, sampling noise is larger than what it hides"
            )
        return orders

    def moments(self, orders: Collection[int] | None, centred: bool = False) -> "Moments":
        """Means over samples of the products, of all samples and of each resample."""
        products = self.products(orders, centred)
        samples, runs = products.shape[:2]
        means = (self.counts @ products.reshape(samples, -1)).reshape(-1, runs, runs) / samples
        with np.errstate(divide="ignore", invalid="ignore"):
            means = means / np.outer(self.scales, self.scales)
        return Moments(self, np.where(np.isfinite(means), means, np.nan))


@dataclass(frozen=True)
class Moments:
    """Mean products (1 + N, R, R) of runs, over all samples and each of N resamples."""

    arms: Arms
    products: np.ndarray

    def shared(self, first: str | np.ndarray, second: str | None = None) -> np.ndarray:
        """``C_XY`` (1 + N,); ``C_XX`` of different runs without `second`."""
        rows, row_weights = self._weighted(first)
        columns, column_weights = self._weighted(first if second is None else second)
        weights = row_weights[:, :, None] * column_weights[:, None, :]
        if second is None and not (isinstance(first, str) and first in self.arms.exact):
            weights[:, range(len(rows)), range(len(rows))] = 0
        total = weights.sum((1, 2))
        total = np.where(total > 0, total, np.nan)  # a resample of a single run has no pair
        return (weights * self.products[:, rows][:, :, columns]).sum((1, 2)) / total

    def power(self, arm: str) -> np.ndarray:
        """``V_X`` (1 + N,)."""
        runs, weights = self._weighted(arm)
        return (weights * self.products[:, runs, runs]).sum(1) / weights.sum(1)

    def reliability(self, arm: str) -> Estimate:
        """As the function of this name."""
        power = self.power(arm)
        if not power[0] > 0:
            return Estimate.unmeasurable(f"{ARMS.get(arm, arm)}: the output of a run does not move")
        with np.errstate(invalid="ignore"):  # a resample of samples whose output does not move
            return Estimate.of_resamples(self.shared(arm) / power, self.arms.note)

    def similarity(self, first: str, second: str) -> Estimate:
        """As the function of this name."""
        curve, note = self.similarities(first, second)
        return Estimate.unmeasurable(note) if note else Estimate.of_resamples(curve, self.arms.note)

    def similarities(self, first: str, second: str) -> tuple[np.ndarray, str]:
        """Of all samples and of each resample; why they are not measurable, if so."""
        cross, xx, yy = self.shared(first, second), self.shared(first), self.shared(second)
        least = np.minimum(xx, yy)
        with np.errstate(divide="ignore", invalid="ignore"):
            # where nothing is reproducible the quotient has no bound
            rho = np.where(least > 0, cross / np.sqrt(xx * yy), np.sign(cross) * np.inf)
        note = self.nothing_shared(xx, first) or self.nothing_shared(yy, second)
        return np.where(np.isnan(least), np.nan, rho), note

    def nothing_shared(self, shared: np.ndarray, arm: str) -> str:
        """Words for a ``C_XX`` whose interval reaches 0, else nothing."""
        arm = ARMS.get(arm, arm)
        if np.isnan(shared[0]):
            return f"{arm}: the output of a run does not move"
        resampled = shared[1:][~np.isnan(shared[1:])]
        if shared[0] <= 0 or (len(resampled) and np.quantile(resampled, TAIL) <= 0):
            return f"{arm}: what two runs share cannot be told from 0, there is nothing to compare"
        return ""

    def origins(self) -> Origins:
        """As the function of this name, of arms "probe", "finetuned" and "scratch"."""
        parts, note = self.origin_parts()
        if note:
            return Origins(*[Estimate.unmeasurable(note)] * len(Origins.PARTS))
        return Origins(
            **{part: Estimate.of_resamples(x, self.arms.note) for part, x in parts.items()}
        )

    def origin_parts(self) -> tuple[dict[str, np.ndarray], str]:
        """The shares of `Origins`, of all samples and of each resample; why not, if so."""
        pairs = ("probe", "finetuned"), ("scratch", "finetuned"), ("probe", "scratch")
        rho, notes = zip(*(self.similarities(*pair) for pair in pairs), strict=True)
        parts, alike = commonality(*rho)
        return parts, next(filter(None, notes), alike)

    def _weighted(self, arm: str | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Runs of an arm, or runs by number, and their weights in each resample."""
        if isinstance(arm, str):
            return self.arms.members[arm], self.arms.weights[arm]
        return arm, np.ones((len(self.products), len(arm)))


def commonality(
    probe: np.ndarray, scratch: np.ndarray, both: np.ndarray
) -> tuple[dict[str, np.ndarray], str]:
    """The shares of `Origins`, and why they are not measurable, if so.

    From similarities (1 + N,), of all samples and of each resample: of probe and of scratch with
    the fine-tuned runs, and of `both` with each other.
    """
    a, b, c = probe, scratch, both
    known = c[~np.isnan(c)]
    alike = len(known) and max(abs(c[0]), np.quantile(known, 1 - TAIL, method="higher")) >= 1
    with np.errstate(divide="ignore", invalid="ignore"):
        explained = np.where(abs(c) < 1, (a**2 + b**2 - 2 * a * b * c) / (1 - c**2), np.nan)
        parts = explained - b**2, a**2 + b**2 - explained, explained - a**2, 1 - explained
    named = dict(zip(Origins.PARTS, parts, strict=True))
    return named, "probe and scratch cannot be told apart" if alike else ""


def _directness(
    runs: Sequence[Sequence[Interactions]], arms: Arms, orders: Collection[int] | None
) -> tuple[np.ndarray, str]:
    """Straight way over way taken, of what runs share, each in units of its own end; why not."""
    unknown = np.full(len(arms.counts), np.nan)
    if len(runs) < 2:
        return unknown, (
            "one run: its noise cannot be told from detours; give replicates of its checkpoints"
        )
    check_comparable(*(run for checkpoints in runs for run in checkpoints))
    values = torch.stack([torch.stack([x.v.double() for x in run]) for run in runs])
    ends = torch.tensor([run[-1].scale for run in runs])
    if not (ends > 0).all():
        return unknown, "the output of a run does not move"
    values = values / ends[:, None, None, None].to(values)
    # (runs, T, B, values): from each checkpoint to the next, then from the first to the last
    legs = torch.cat([values.diff(dim=1), values[:, -1:] - values[:, :1]], 1)
    inner = arms.products(orders, v=legs.flatten(0, 1))
    samples, parts = len(inner), legs.shape[1]
    inner = inner.reshape(samples, len(runs), parts, len(runs), parts)
    pairs = list(combinations(range(len(runs)), 2))
    squares = np.mean([np.einsum("bii->bi", inner[:, r, :, s]) for r, s in pairs], 0)
    squares = arms.counts @ squares / samples
    # noise that averages to 0 may take a square below 0; its signed root averages to 0 too
    lengths = np.sign(squares) * np.sqrt(abs(squares))
    straight, taken = lengths[:, -1], lengths[:, :-1].sum(1)
    drawn = slice(1, None) if len(straight) > 1 else slice(None)
    if not np.quantile(straight[drawn], TAIL) > 0:
        return unknown, "the runs share no way from start to end"
    if np.mean(taken[drawn] < LEAST_WAY * straight[drawn]) > TAIL:
        return unknown, "noise hides the way: it may seem shorter than half the straight one"
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(taken > 0, straight / taken, np.nan), ""

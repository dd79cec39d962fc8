"""Numbers with their intervals: over samples, over runs, of proportions, of ranks."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
RESAMPLES = 2000
RUNS_AS_UNITS = 5  # runs from which intervals resample them too, unless asked otherwise


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % confidence interval, or the word that it cannot be measured.

    Attributes
    ----------
    value, low, high : float
        The number, NaN where it is not measurable; its limits, NaN where no interval is known.
    note : str
        Why it is not measurable or has no interval, and what to do.

    Examples
    --------
    >>> print(Estimate(0.5, 0.4, 0.6))
    0.50 [0.40, 0.60]
    >>> print(Estimate(-0.001, -0.1, 0.1))
    0.00 [-0.10, 0.10]
    >>> print(Estimate(np.nan, np.nan, np.nan, "the output does not move"))
    not measurable
    """

    value: float
    low: float
    high: float
    note: str = field(default="", compare=False)

    @classmethod
    def unmeasurable(cls, note: str) -> Self:
        """No number; `note` says why."""
        return cls(np.nan, np.nan, np.nan, note)

    @classmethod
    def of(cls, value: float, resampled: np.ndarray, note: str = "") -> Self:
        """`value` with the 95 % percentile interval of its `resampled` values (N,), NaN left out.

        The limits are resampled values themselves: infinite ones need no interpolation.
        """
        resampled = resampled[~np.isnan(resampled)]
        if np.isnan(value) or not len(resampled):
            return cls(float(value), np.nan, np.nan, note)
        low = np.quantile(resampled, TAIL, method="lower")
        high = np.quantile(resampled, 1 - TAIL, method="higher")
        return cls(float(value), float(low), float(high), note)

    @classmethod
    def of_resamples(cls, values: np.ndarray, note: str = "") -> Self:
        """The first of `values` (1 + N,), with the interval of the N resampled ones after it."""
        return cls.of(values[0], values[1:], note)

    @property
    def measurable(self) -> bool:
        """Whether there is a number."""
        return not np.isnan(self.value)

    def __str__(self) -> str:
        return format(self)

    def compared_with(self, threshold: float) -> Literal["above", "below", "undecided"]:
        """On which side of a threshold the whole interval lies; "undecided" if on neither."""
        if self.low > threshold:
            return "above"
        return "below" if self.high < threshold else "undecided"

    def __format__(self, spec: str) -> str:
        if not self.measurable:
            return "not measurable"
        spec = "z" + (spec or ".2f")  # z: no minus zero
        value, low, high = (f"{x:{spec}}" for x in (self.value, self.low, self.high))
        return f"{value} (no interval)" if np.isnan(self.low) else f"{value} [{low}, {high}]"


@dataclass(frozen=True)
class Difference(Estimate):
    """How much a number exceeds another, and `p`, two-sided, that they are equal.

    That is twice the smaller share of resamples on either side of 0 (Efron and Tibshirani 1993,
    section 15.4); NaN where there is no interval.

    Examples
    --------
    >>> Difference.of(0.5, np.array([0.1, 0.4, 0.6, 0.9])).p
    0.4
    """

    p: float = np.nan

    @classmethod
    def of(cls, value: float, resampled: np.ndarray, note: str = "") -> "Difference":
        """As `Estimate.of`, with p."""
        estimate = Estimate.of(value, resampled, note)
        count = (~np.isnan(resampled)).sum()
        beyond = min((resampled <= 0).sum(), (resampled >= 0).sum()) + 1
        p = np.nan if np.isnan(estimate.low) else min(1.0, 2 * float(beyond) / (count + 1))
        return cls(**vars(estimate), p=float(p))


def resample_counts(count: int, seed: int = 0) -> np.ndarray:
    """How often each of `count` units is in each of 2,000 resamples: float64 (2000, count).

    The same `count` and `seed` give the same resamples, so that numbers made from them are paired.

    Examples
    --------
    >>> resample_counts(5).sum(1)[:3].tolist()
    [5.0, 5.0, 5.0]
    """
    chances = np.full(count, 1 / count)
    return np.random.default_rng(seed).multinomial(count, chances, RESAMPLES).astype(np.float64)


def resample_run_counts(
    runs: int, resamples: int, resample: bool | None = None, seed: int = 0
) -> np.ndarray:
    """How often each run is in each resample, (resamples, runs): once each, or drawn anew.

    By default they are drawn if there are five or more. Two are never drawn: every second draw
    would leave a single run, and no pair.

    Examples
    --------
    >>> resample_run_counts(3, 2).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    if runs < 3 or not (runs >= RUNS_AS_UNITS if resample is None else resample):
        return np.ones((resamples, runs))
    random = np.random.default_rng([seed, runs])
    return random.multinomial(runs, np.full(runs, 1 / runs), resamples).astype(np.float64)


def resample_weights(
    samples: int, arms: Sequence[int] = (), resample_runs: bool | None = None, fewest: int = 2
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Weights of samples, and of the runs of each arm: first all alike, then of N resamples.

    Returns (1 + N, samples), and (1 + N, runs) for each number of runs in `arms`; N is 0 with
    fewer than `fewest` samples. `resample_runs` is the `resample` of `resample_run_counts`.
    """
    resamples = RESAMPLES if samples >= fewest else 0
    resampled = [resample_counts(samples)] if resamples else []
    counts = np.vstack([np.ones(samples), *resampled])
    weights = [
        np.vstack([np.ones(runs), resample_run_counts(runs, resamples, resample_runs, arm)])
        for arm, runs in enumerate(arms)
    ]
    return counts, weights


def bootstrap(
    *samples: Tensor | np.ndarray,
    statistic: Callable[..., np.ndarray] = np.mean,
    seed: int = 0,
) -> Estimate:
    """A statistic of per-sample values with its 95 % percentile bootstrap interval.

    Parameters
    ----------
    *samples : (B,) arrays
        Values per sample. Several arrays are resampled together.
    statistic : callable, default mean
        Takes the arrays and ``axis``.
    seed : int
        Of the 2,000 resamples.

    Returns
    -------
    Estimate
        Of samples whose value is not NaN; without interval if there is one, without value if there
        is none.

    Raises
    ------
    ValueError
        If the arrays are not all of one shape (B,).

    Examples
    --------
    >>> print(bootstrap(np.array([1.0, 2.0, 3.0])))
    2.00 [1.00, 3.00]
    """
    from scipy import stats

    arrays = [np.asarray(s, dtype=np.float64) for s in samples]
    if not arrays or {array.shape for array in arrays} != {(len(arrays[0]),)}:
        raise ValueError(
            "expected one value per sample, of as many samples in each array; got arrays of shapes "
            f"{[array.shape[0] if array.ndim == 1 else array.shape for array in arrays]}"
        )
    arrays = np.stack(arrays)
    unknown = np.isnan(arrays).any(0)
    note = f"{unknown.sum()} of {len(unknown)} samples have no value" if unknown.any() else ""
    arrays = arrays[:, ~unknown]
    if arrays.shape[1] == 0:
        return Estimate.unmeasurable("no sample has a value")
    value = float(statistic(*arrays, axis=-1))
    if arrays.shape[1] == 1:
        return Estimate(value, np.nan, np.nan, "one sample says nothing of the spread")
    with warnings.catch_warnings():  # where resamples leave it undefined, the NaN says so
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            tuple(arrays), statistic, n_resamples=RESAMPLES, confidence_level=CONFIDENCE,
            method="percentile", paired=True, vectorized=True, rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
    return Estimate(value, float(interval.low), float(interval.high), note)


def ratio_of_sums(numerator: np.ndarray, denominator: np.ndarray, axis: int = -1) -> np.ndarray:
    """``sum(numerator) / sum(denominator)``, NaN where there is nothing to divide by."""
    numerator, denominator = numerator.sum(axis), denominator.sum(axis)
    nothing = np.full_like(denominator, np.nan)
    return np.divide(numerator, denominator, out=nothing, where=denominator != 0)


FEWEST_CELLS = 5  # for a correlation over cells
PERMUTATIONS = 9999  # for its p


def proportion(right: int, tested: int) -> Estimate:
    """How many of the tested were right, with the 95 % Wilson interval.

    Raises ValueError if fewer than none or more than all were right, or none was tested.

    Examples
    --------
    >>> print(proportion(10, 10))
    1.00 [0.72, 1.00]
    """
    from scipy.stats import binomtest

    if not 0 <= right <= tested or tested < 1:
        raise ValueError(f"{right} right of {tested} tested: expected 0 <= right <= tested")
    interval = binomtest(int(right), int(tested)).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(right / tested, float(interval.low), float(interval.high))


def difference(right: int, tested: int, other_right: int, other_tested: int) -> Difference:
    """One accuracy minus another of *other* test samples, with Newcombe's 95 % interval.

    The hybrid score interval for independent proportions (Newcombe 1998, method 10), which has a
    width at 0 and 100 % too; p is that of Fisher's exact test. On the same test samples:
    `paired_difference`.

    Examples
    --------
    >>> print(difference(90, 100, 50, 100))
    0.40 [0.28, 0.51]
    """
    from scipy.stats import fisher_exact

    first, second = proportion(right, tested), proportion(other_right, other_tested)
    counts = [[right, tested - right], [other_right, other_tested - other_right]]
    value = first.value - second.value
    below = np.hypot(first.value - first.low, second.high - second.value)
    above = np.hypot(first.high - first.value, second.value - second.low)
    p = float(fisher_exact(counts).pvalue)
    return Difference(value, float(value - below), float(value + above), p=p)


def paired_difference(
    correct: Sequence[bool] | np.ndarray, other_correct: Sequence[bool] | np.ndarray
) -> Difference:
    """One accuracy minus another of the *same* test samples, with Tango's 95 % score interval.

    The interval holds every difference that the score test of paired proportions does not reject
    (Tango 1998, *Statistics in Medicine* 17, 891); it has a width at 0 and 100 % too.

    `correct` and `other_correct` (N,), bool, say which test samples each model had right, in the
    same order; a ValueError for other shapes or values. Its p is that of McNemar's exact test.

    Examples
    --------
    >>> print(paired_difference([True] * 10, [True] * 10))
    0.00 [-0.28, 0.28]
    """
    from scipy.optimize import brentq
    from scipy.stats import binomtest, norm

    a, b = np.asarray(correct), np.asarray(other_correct)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(
            "expected which of the same test samples each model had right; got answers of shapes "
            f"{[a.shape, b.shape]}"
        )
    if not np.isin([a, b], (0, 1)).all():
        raise ValueError("expected True or False for each test sample, not rates or classes")
    a, b = a.astype(bool), b.astype(bool)
    n, gained, lost = len(a), int((a & ~b).sum()), int((~a & b).sum())
    value, z = (gained - lost) / n, norm.ppf(1 - TAIL)

    def score(delta: float) -> float:
        # the share of samples that only the other model has right, most likely given delta
        middle = -gained - lost + (2 * n - gained + lost) * delta
        only_other = (np.sqrt(middle**2 + 8 * n * lost * delta * (1 - delta)) - middle) / (4 * n)
        variance = n * (2 * only_other + delta * (1 - delta))
        return (gained - lost - n * delta) / np.sqrt(max(variance, 1e-300))

    low = -1.0 if value == -1 else brentq(lambda delta: score(delta) - z, -1 + 1e-12, value)
    high = 1.0 if value == 1 else brentq(lambda delta: score(delta) + z, value, 1 - 1e-12)
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return Difference(value, float(low), float(high), p=float(p))


def mean_accuracy(correct: np.ndarray) -> Estimate:
    """Mean accuracy of several runs on the same test samples, with its 95 % interval.

    `correct` (R, N) says which of N test samples each of R runs had right. The interval of one run
    is Wilson's; of several, test samples are resampled for all alike, and five runs or more too.

    Examples
    --------
    >>> mean_accuracy(np.array([[True, False], [True, True]])).value
    0.75
    """
    runs, tested = correct.shape
    if runs == 1:
        return proportion(int(correct.sum()), tested)
    spread = Estimate.of(*_accuracies(np.asarray(correct, dtype=np.float64), 0))
    # resamples of test samples that are all right, or all wrong, say nothing of others
    return spread if spread.low < spread.high else proportion(int(correct[0].sum()), tested)


def mean_of_runs(values: Sequence[float]) -> Estimate:
    """A number's mean over runs, with Student's 95 % interval; none from one run.

    Examples
    --------
    >>> print(mean_of_runs([0.5, 0.6, 0.7]))
    0.60 [0.35, 0.85]
    """
    from scipy.stats import sem, t

    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, np.nan, np.nan, "one run says nothing of the spread")
    half = float(t.ppf(1 - TAIL, len(values) - 1) * sem(values))
    return Estimate(mean, mean - half, mean + half)


def paired_gain(correct: np.ndarray, other_correct: np.ndarray) -> Difference:
    """Mean accuracy of an arm's runs minus that of another arm's, on the same test samples.

    `correct` (R, N) and `other_correct` (Q, N), bool, say which of N test samples each run had
    right; a ValueError for other shapes. Of one run each, `paired_difference`; of several, test
    samples are resampled for all alike, and five runs or more of an arm too.

    Examples
    --------
    >>> paired_gain(np.array([[True, True], [True, False]]), np.array([[True, False]])).value
    0.25
    """
    if correct.ndim != 2 or other_correct.ndim != 2 or correct.shape[1] != other_correct.shape[1]:
        raise ValueError(
            "expected which of the same test samples each run had right, (runs, samples); got "
            f"shapes {correct.shape} and {other_correct.shape}"
        )
    if len(correct) == len(other_correct) == 1:
        return paired_difference(correct[0], other_correct[0])
    arms = (np.asarray(x, dtype=np.float64) for x in (correct, other_correct))
    (value, resampled), (other, others) = (_accuracies(x, arm) for arm, x in enumerate(arms))
    spread = Difference.of(value - other, resampled - others)
    # where no test sample tells the arms apart, resamples do not either
    return spread if spread.low < spread.high else paired_difference(correct[0], other_correct[0])


def _accuracies(correct: np.ndarray, arm: int) -> tuple[float, np.ndarray]:
    """Mean accuracy of runs (R, N), and that of each resample, samples alike for every arm."""
    runs, tested = correct.shape
    by_run = resample_counts(tested) @ correct.T / tested
    weights = resample_run_counts(runs, len(by_run), seed=arm)
    return float(correct.mean()), (by_run * weights).sum(1) / runs


def auroc(own: Sequence[float], foreign: Sequence[float]) -> float:
    """How often a value of the first is above one of the second: 0.5 for guessing, equal ones half.

    Examples
    --------
    >>> auroc([0.9, 0.5], [0.5, 0.1])
    0.875
    """
    from scipy.stats import rankdata

    own, foreign = np.asarray(own), np.asarray(foreign)
    ranks = rankdata(np.concatenate([own, foreign]))[: len(own)]
    return float((ranks.sum() - len(own) * (len(own) + 1) / 2) / (len(own) * len(foreign)))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """P values corrected for how many there are (Holm 1979); NaN stays and is not counted.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    corrected = np.full_like(p, np.nan)
    ascending = np.argsort(p)[: np.isfinite(p).sum()]  # NaN is sorted last
    factors = np.arange(len(ascending), 0, -1)
    corrected[ascending] = np.minimum(np.maximum.accumulate(p[ascending] * factors), 1)
    return corrected


def rank_correlation(
    x: Sequence[float], y: Sequence[float], given: Sequence[float] | None = None
) -> Difference:
    """Spearman's rank correlation over cells, its 95 % interval from resampling them.

    Parameters
    ----------
    x, y : sequence of float
        A number for each cell; cells in which one of them is NaN are left out.
    given : sequence of float, optional
        A third number that is held fixed: the correlation is that of what its ranks leave of the
        ranks of the others (the partial rank correlation).

    Returns
    -------
    Difference
        Its p is that of 9,999 permutations. Not measurable with fewer than 5 cells.

    Raises
    ------
    ValueError
        If there are not as many numbers of each.

    Examples
    --------
    >>> rho = rank_correlation([1, 2, 3, 4, 5, 6], [1, 4, 9, 16, 25, 36])
    >>> round(rho.value, 6), rho.p < 0.05
    (1.0, True)
    """
    numbers = [np.asarray(z, dtype=np.float64) for z in (x, y, given) if z is not None]
    if len({len(z) for z in numbers}) > 1:
        raise ValueError(f"expected a number for each cell; got {[len(z) for z in numbers]}")
    numbers = [z[~np.isnan(numbers).any(0)] for z in numbers]
    cells = len(numbers[0])
    if cells < FEWEST_CELLS:
        note = f"{cells} cells: a correlation needs {FEWEST_CELLS}"
        return Difference.unmeasurable(note)
    estimate = bootstrap(*numbers, statistic=_spearman)
    a, b = _ranks(*numbers)
    random = np.random.default_rng(0)
    permuted = random.permuted(np.tile(a, (PERMUTATIONS, 1)), axis=-1)
    by_chance = np.abs(_cosine(permuted, b[None]))
    beyond = (by_chance >= abs(estimate.value) - 1e-12).sum() + 1
    return Difference(**vars(estimate), p=float(beyond / (PERMUTATIONS + 1)))


def _ranks(x: np.ndarray, y: np.ndarray, given: np.ndarray | None = None, axis: int = -1):
    """Centred ranks of x and y, without what those of a third number explain."""
    from scipy.stats import rankdata

    ranks = [rankdata(z, axis=axis) for z in (x, y, given) if z is not None]
    x, y, *fixed = (r - r.mean(axis, keepdims=True) for r in ranks)
    for z in fixed:
        size = (z * z).sum(axis, keepdims=True)
        x, y = (r - z * _ratio((r * z).sum(axis, keepdims=True), size) for r in (x, y))
    return x, y


def _spearman(x: np.ndarray, y: np.ndarray, given: np.ndarray | None = None, axis: int = -1):
    return _cosine(*_ranks(x, y, given, axis), axis)


def _cosine(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """0 where one of them does not vary: beyond rounding, of ranks."""
    size = np.sqrt((x * x).sum(axis) * (y * y).sum(axis))
    return _ratio((x * y).sum(axis), np.where(size > 1e-9, size, 0))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def crossing(sizes: Sequence[float], gains: Sequence[Estimate], margin: float) -> Estimate:
    """The size of training data from which on a gain stays under a margin.

    Interpolated on the logarithm of the size; infinite where the largest size still gains as much,
    the smallest size where none does. The interval comes from 2,000 draws of all gains, each from
    the normal distribution that its own interval stands for.

    Parameters
    ----------
    sizes : sequence of float
        Ascending.
    gains : sequence of Estimate
        Of a size each, with symmetric 95 % intervals, as `paired_difference` gives them.
    margin : float
        In the unit of the gains, accuracy from 0 to 1.

    Returns
    -------
    Estimate
        Of a number of samples, or infinite.

    Raises
    ------
    ValueError
        If the sizes do not ascend, or there is not a gain for each.

    Examples
    --------
    >>> known = [Estimate(x, x, x) for x in (0.3, 0.1, 0.0)]
    >>> round(crossing([10, 100, 1000], known, 0.05).value)
    316
    """
    if len(sizes) != len(gains) or list(sizes) != sorted(set(sizes)):
        raise ValueError(f"expected a gain for each ascending size; got {list(sizes)}, {gains}")

    def cross(values: np.ndarray) -> float:
        above = np.flatnonzero(values >= margin)
        if not len(above):
            return float(sizes[0])
        last = above[-1]
        if last == len(sizes) - 1:
            return np.inf
        share = (values[last] - margin) / (values[last] - values[last + 1])
        return float(sizes[last] ** (1 - share) * sizes[last + 1] ** share)

    value = np.array([gain.value for gain in gains])
    spread = np.array([(gain.high - gain.low) / (2 * 1.96) for gain in gains])
    draws = np.random.default_rng(0).normal(value, spread, (2000, len(value)))
    low, high = np.quantile([cross(draw) for draw in draws], [0.025, 0.975], method="nearest")
    return Estimate(cross(value), low, high)


def energy_distance(x: Tensor, y: Tensor, resamples: int = 200) -> Estimate:
    """How far two sets of points are apart: 0 of the same distribution, 1 at most.

    ``(2 E|X - Y| - E|X - X'| - E|Y - Y'|) / (2 E|X - Y|)`` (Székely and Rizzo 2013), over pairs of
    different points, so that two samples of one distribution come out at 0, give or take; its 95 %
    interval from resampling the points of both sets. `x` is (N, D) and `y` (M, D), float64; a
    ValueError for other shapes, or fewer than two points.

    Examples
    --------
    >>> points = torch.arange(8.0)[:, None]
    >>> energy_distance(points, points + 100).value > 0.9
    True
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            "expected two sets of at least two points, (N, D) and (M, D); got shapes "
            f"{tuple(x.shape)} and {tuple(y.shape)}"
        )
    across = torch.cdist(x, y).numpy()
    within = [torch.cdist(points, points).numpy() for points in (x, y)]

    def distance(i: np.ndarray, j: np.ndarray) -> float:
        apart = across[np.ix_(i, j)].mean()
        # a point that is drawn twice would be at distance 0 from itself
        inner = [
            between[np.ix_(k, k)][k[:, None] != k[None]].mean()
            for between, k in zip(within, (i, j), strict=True)
        ]
        return (2 * apart - sum(inner)) / (2 * apart)

    random, all_x, all_y = np.random.default_rng(0), np.arange(len(x)), np.arange(len(y))
    draws = [
        distance(random.choice(all_x, len(x)), random.choice(all_y, len(y)))
        for _ in range(resamples)
    ]
    return Estimate.of(float(distance(all_x, all_y)), np.array(draws))

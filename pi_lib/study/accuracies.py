"""How accurate networks are, and how much more than others, with intervals."""

from collections.abc import Sequence

import numpy as np

from pi_lib.statistics import (
    CONFIDENCE,
    TAIL,
    Difference,
    Estimate,
    resample_counts,
    resample_run_counts,
)


def proportion(right: int, tested: int) -> Estimate:
    """How many of the tested were right, with the 95 % Wilson interval.

    Raises ValueError if fewer than none or more than all were right, or none was tested.
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
    from scipy.stats import mannwhitneyu

    own, foreign = (np.asarray(x, dtype=np.float64) for x in (own, foreign))
    above = mannwhitneyu(own, foreign, method="asymptotic").statistic
    return float(above / (len(own) * len(foreign)))

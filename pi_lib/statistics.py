"""Numbers with their intervals: over samples, over runs, of proportions, of ranks."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap confidence interval over samples.

    Examples
    --------
    >>> print(Estimate(0.5, 0.4, 0.6))
    0.50 [0.40, 0.60]
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def compared_with(self, threshold: float) -> Literal["above", "below", "undecided"]:
        """On which side of a threshold the whole interval lies; "undecided" if on neither.

        Examples
        --------
        >>> Estimate(0.5, 0.4, 0.6).compared_with(0.5)
        'undecided'
        """
        return (
            "above" if self.low > threshold else "below" if self.high < threshold else "undecided"
        )

    def __format__(self, spec: str) -> str:
        spec = spec or ".2f"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


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
        With one sample, or none, the interval is NaN: nothing is known of the spread.
        Samples whose value is NaN are left out.

    Raises
    ------
    ValueError
        If the arrays have other shapes, or there are none.

    Examples
    --------
    >>> print(bootstrap(np.array([1.0, 2.0, 3.0])))
    2.00 [1.00, 3.00]
    """
    from scipy.stats import DegenerateDataWarning
    from scipy.stats import bootstrap as scipy_bootstrap

    arrays = [np.asarray(s, dtype=np.float64) for s in samples]
    if not arrays or {array.shape for array in arrays} != {(len(arrays[0]),)}:
        raise ValueError(
            "expected one value per sample, of as many samples in each array; got arrays of shapes "
            f"{[array.shape[0] if array.ndim == 1 else array.shape for array in arrays]}"
        )
    arrays = np.stack(arrays)
    arrays = arrays[:, ~np.isnan(arrays).any(0)]
    if arrays.shape[1] == 0:
        return Estimate(np.nan, np.nan, np.nan)
    value = float(statistic(*arrays, axis=-1))
    if arrays.shape[1] == 1:
        return Estimate(value, np.nan, np.nan)
    with warnings.catch_warnings():  # where resamples leave it undefined, the NaN says so
        warnings.simplefilter("ignore", DegenerateDataWarning)
        interval = scipy_bootstrap(
            tuple(arrays),
            statistic,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            paired=True,
            vectorized=True,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def ratio_of_sums(numerator: np.ndarray, denominator: np.ndarray, axis: int = -1) -> np.ndarray:
    """``sum(numerator) / sum(denominator)``, NaN where there is nothing to divide by."""
    numerator, denominator = numerator.sum(axis), denominator.sum(axis)
    return np.divide(
        numerator, denominator, out=np.full_like(denominator, np.nan), where=denominator != 0
    )


FEWEST_CELLS = 5  # for a correlation over cells


def difference(right: int, tested: int, other_right: int, other_tested: int) -> Estimate:
    """One accuracy minus another, with the 95 % normal interval of independent proportions.

    On the same test samples the accuracies are not independent: the interval is rather too wide.

    Examples
    --------
    >>> print(difference(90, 100, 50, 100))
    0.40 [0.29, 0.51]
    """
    p, q = right / tested, other_right / other_tested
    reach = 1.96 * np.sqrt(p * (1 - p) / tested + q * (1 - q) / other_tested)
    return Estimate(p - q, p - q - reach, p - q + reach)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Estimate:
    """Spearman's rank correlation over cells, its 95 % interval from resampling them.

    `x` and `y` hold a number for each cell. NaN, which is undecided against any threshold, where
    there are fewer than 5.

    Examples
    --------
    >>> round(rank_correlation([1, 2, 3, 4, 5], [1, 4, 9, 16, 25]).value, 6)
    1.0
    """
    from scipy.stats import rankdata

    def spearman(a, b, axis=-1):
        a, b = rankdata(a, axis=axis), rankdata(b, axis=axis)
        a, b = a - a.mean(axis, keepdims=True), b - b.mean(axis, keepdims=True)
        norm = np.sqrt((a * a).sum(axis) * (b * b).sum(axis))
        return np.divide((a * b).sum(axis), norm, out=np.zeros_like(norm), where=norm > 0)

    if len(x) < FEWEST_CELLS:
        return Estimate(np.nan, np.nan, np.nan)
    return bootstrap(np.asarray(x), np.asarray(y), statistic=spearman)


def accuracy_estimate(accuracy: float, tested: int) -> Estimate:
    """An accuracy on `tested` samples with its 95 % Wilson interval."""
    from scipy.stats import binomtest

    interval = binomtest(round(accuracy * tested), tested).proportion_ci(method="wilson")
    return Estimate(accuracy, interval.low, interval.high)

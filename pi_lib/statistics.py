"""Numbers with their intervals, by resampling samples and runs."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Self

import numpy as np
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


@lru_cache(maxsize=4)  # drawing takes as long as all that is done with them
def resample_counts(count: int, seed: int = 0) -> np.ndarray:
    """How often each of `count` units is in each of 2,000 resamples: float64 (2000, count).

    The same `count` and `seed` give the same resamples, so that numbers made from them are paired.
    They cannot be written to.
    """
    chances = np.full(count, 1 / count)
    drawn = np.random.default_rng(seed).multinomial(count, chances, RESAMPLES).astype(np.float64)
    drawn.setflags(write=False)
    return drawn


def resample_run_counts(
    runs: int, resamples: int, resample: bool | None = None, seed: int = 0
) -> np.ndarray:
    """How often each run is in each resample, (resamples, runs): once each, or drawn anew.

    By default they are drawn if there are five or more. Two are never drawn: every second draw
    would leave a single run, and no pair.
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

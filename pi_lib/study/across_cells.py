"""What many cells say together: p corrected for how many there are, correlations, crossings.

And how far the data of two cells lie apart.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pi_lib.statistics import Difference, Estimate, bootstrap

FEWEST_CELLS = 5  # for a correlation
PERMUTATIONS = 9999  # for its p


def holm(p_values: Sequence[float]) -> np.ndarray:
    """P values corrected for how many there are (Holm 1979); NaN stays and is not counted."""
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

    Of numbers `x` and `y` (cells,); cells in which one is NaN are left out, and fewer than 5 are
    not measurable. A third number that is `given` is held fixed: the correlation is that of what
    its ranks leave of the ranks of the others (the partial rank correlation). p is that of 9,999
    permutations. Raises ValueError if there are not as many numbers of each.
    """
    numbers = [np.asarray(z, dtype=np.float64) for z in (x, y, given) if z is not None]
    if len({len(z) for z in numbers}) > 1:
        raise ValueError(f"expected a number for each cell; got {[len(z) for z in numbers]}")
    numbers = [z[~np.isnan(numbers).any(0)] for z in numbers]
    cells = len(numbers[0])
    if cells < FEWEST_CELLS:
        return Difference.unmeasurable(f"{cells} cells: a correlation needs {FEWEST_CELLS}")
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
    """The size of training data, in samples, from which on a gain stays under a margin.

    Interpolated on the logarithm of the size; infinite where the largest size still gains as much,
    the smallest size where none does. The interval comes from 2,000 draws of all gains, each from
    the normal distribution that its own interval stands for.

    `sizes` ascend; each has one of the `gains`, in accuracy from 0 to 1 as the `margin`, with a
    symmetric 95 % interval as `paired_difference` gives it. Else a ValueError.
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

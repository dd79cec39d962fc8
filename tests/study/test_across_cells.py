"""Numbers over cells: by hand, and how often they decide where there is nothing."""

import numpy as np
import pytest
import torch

from pi_lib.statistics import Estimate
from pi_lib.study.across_cells import crossing, energy_distance, holm, rank_correlation


def test_holm_by_hand():
    np.testing.assert_allclose(
        holm([0.04, 0.005, np.nan, 0.03, 0.5]), [0.09, 0.02, np.nan, 0.09, 0.5]
    )
    assert holm([0.6, 0.7]).tolist() == [1, 1] and holm([]).size == 0


def test_a_rank_correlation_is_decided_or_not():
    up, down = (rank_correlation(range(7), y) for y in (range(7), range(7, 0, -1)))
    assert up.value == pytest.approx(1) and up.compared_with(0) == "above" and up.p < 0.01
    assert down.value == pytest.approx(-1) and down.compared_with(0) == "below"
    flat = rank_correlation(range(7), [1.0] * 7)
    assert flat.value == 0 and flat.p == 1 and flat.compared_with(0) == "undecided"
    holes = rank_correlation([0, 1, np.nan, *range(2, 7)], [0, 1, 9, *range(2, 6), np.nan])
    assert holes == rank_correlation(range(6), range(6))
    few = rank_correlation([1, 2, 3, 4, 5], [1, 2, 3, 4, np.nan])
    assert not few.measurable and few.note.startswith("4 cells")


def test_a_rank_correlation_of_nothing_is_seldom_decided():
    random = np.random.default_rng(0)
    found = [rank_correlation(range(7), random.normal(size=7)) for _ in range(200)]
    assert np.mean([rho.compared_with(0) != "undecided" for rho in found]) < 0.1
    assert np.mean([rho.p < 0.05 for rho in found]) < 0.08


def test_a_third_number_is_held_fixed():
    random = np.random.default_rng(0)
    common, *noise = random.normal(size=(3, 40))
    x, y = (common + 0.3 * one for one in noise)  # alike through what they have in common alone
    assert rank_correlation(x, y).p < 0.001
    partial = rank_correlation(x, y, common)
    assert abs(partial.value) < 0.3 and partial.p > 0.05
    assert rank_correlation(x, x, common).value == pytest.approx(1)
    assert rank_correlation(x, y, x).value == 0  # nothing is left of x
    with pytest.raises(ValueError, match="a number for each cell"):
        rank_correlation(x, y[1:])


def test_the_size_at_which_a_gain_falls_under_a_margin():
    sizes = [10, 100, 1000, 10000]

    def at(*gains, spread=0.0):
        return crossing(sizes, [Estimate(g, g - spread, g + spread) for g in gains], 0.02)

    assert at(0.5, 0.3, 0.1, 0.05).value == np.inf  # not within what was tried
    assert at(0.01, 0.0, -0.1, 0.0).value == 10
    assert at(0.5, 0.01, 0.03, 0.01).value == pytest.approx(10**3.5)  # the last time that counts
    assert at(0.03, 0.01, 0.0, 0.0) == Estimate(*[pytest.approx(10**1.5)] * 3)
    wide = at(0.5, 0.1, 0.03, 0.01, spread=0.02)
    assert 100 < wide.low < wide.value < wide.high == np.inf
    with pytest.raises(ValueError, match="ascending"):
        crossing([100, 10], [Estimate(0, 0, 0)] * 2, 0.02)


def test_an_energy_distance_tells_distributions_apart():
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(60, 3, generator=random, dtype=torch.float64) for _ in range(2))
    same, near, far = (energy_distance(x, y + shift, resamples=50) for shift in (0, 1, 5))
    assert abs(same.value) < 0.03 and same.low < 0.03
    assert same.high < near.low and near.high < far.low and far.high <= 1
    # by its definition, over pairs of different points
    apart = torch.cdist(x, y + 1).mean()
    inner = sum(torch.cdist(z, z).sum() / (60 * 59) for z in (x, y + 1))
    assert near.value == pytest.approx(float((2 * apart - inner) / (2 * apart)))
    for wrong in (y[:, :2], y[0], y[:1]):
        with pytest.raises(ValueError, match="expected two sets of at least two points"):
            energy_distance(x, wrong)

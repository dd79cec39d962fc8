"""Intervals: published values, how often they hold the truth, and that none has a width of 0."""

import numpy as np
import pytest
import torch

from pi_lib.statistics import (
    Difference,
    Estimate,
    crossing,
    difference,
    energy_distance,
    holm,
    paired_difference,
    proportion,
    rank_correlation,
    resample_counts,
    resample_run_counts,
)


def answers(both, only_first, only_second, neither):
    """Correctness of two models on the same samples, from the four counts."""
    first = [1] * both + [1] * only_first + [0] * only_second + [0] * neither
    second = [1] * both + [0] * only_first + [1] * only_second + [0] * neither
    return np.array(first, dtype=bool), np.array(second, dtype=bool)


def test_paired_difference_is_tangos_published_interval():
    """Airway responsiveness before and after transplantation (Fagerland et al. 2014, table II)."""
    found = paired_difference(*answers(1, 1, 7, 12))
    assert found.value == pytest.approx(-6 / 21)
    assert (found.low, found.high) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert found.p == pytest.approx(2 * (1 + 8) / 2**8)  # McNemar's, exact


@pytest.mark.parametrize(
    "counts", [(9, 0, 0, 0), (0, 0, 0, 9), (4, 0, 0, 4), (0, 9, 0, 0), (0, 0, 9, 0)]
)
def test_no_interval_of_accuracies_is_without_width(counts):
    found, mirrored = (
        paired_difference(*pair) for pair in (answers(*counts), answers(*counts)[::-1])
    )
    assert found.high - found.low > 0.2 and -1 <= found.low <= found.value <= found.high <= 1
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )
    for right in (0, 9):
        assert proportion(right, 9).high - proportion(right, 9).low > 0.2
        apart = difference(right, 9, right, 9)
        assert apart.low < -0.2 and apart.high > 0.2


@pytest.mark.parametrize("chances", [(0.7, 0.1, 0.05, 0.15), (0.93, 0.04, 0.02, 0.01)])
def test_paired_difference_holds_the_truth(chances):
    random, hits = np.random.default_rng(0), 0
    for _ in range(300):
        found = paired_difference(*answers(*random.multinomial(80, chances)))
        hits += found.low <= chances[1] - chances[2] <= found.high
    assert 0.92 <= hits / 300 <= 0.99


def test_pairing_narrows_the_interval():
    first, second = answers(80, 8, 4, 28)
    paired = paired_difference(first, second)
    apart = difference(first.sum(), 120, second.sum(), 120)
    assert paired.value == pytest.approx(apart.value)
    assert paired.high - paired.low < 0.7 * (apart.high - apart.low)


def test_newcombes_published_interval():
    """56 of 70 against 48 of 80 (Newcombe 1998, table II, method 10)."""
    found = difference(56, 70, 48, 80)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_wilsons_published_interval():
    """81 of 263 (Newcombe 1998, table I, method 3)."""
    found = proportion(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_accuracies_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"shapes \[\(3,\), \(2,\)\]"):
        paired_difference([1, 0, 1], [1, 0])
    with pytest.raises(ValueError, match="True or False"):
        paired_difference([0.5, 0.7], [1, 0])
    for right, tested in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"{right} right of {tested}"):
            proportion(right, tested)


def test_holm_by_hand():
    np.testing.assert_allclose(
        holm([0.04, 0.005, np.nan, 0.03, 0.5]), [0.09, 0.02, np.nan, 0.09, 0.5]
    )
    assert holm([0.6, 0.7]).tolist() == [1, 1] and holm([]).size == 0


def test_resamples_are_paired_and_seeded():
    assert (resample_counts(7) == resample_counts(7)).all()
    assert (resample_counts(7, 1) != resample_counts(7)).any()
    assert (resample_counts(7).sum(1) == 7).all()
    assert (resample_run_counts(4, 50) == 1).all()  # few runs stay, unless asked for
    assert (resample_run_counts(2, 50, True) == 1).all()  # of two, one alone has no pair
    for drawn in (resample_run_counts(5, 50), resample_run_counts(3, 50, True)):
        assert (drawn.sum(1) == drawn.shape[1]).all() and (drawn != 1).any()


def test_estimates_in_words():
    assert str(Estimate(0.5, 0.4, np.inf)) == "0.50 [0.40, inf]"
    assert f"{Estimate(0.5, np.nan, np.nan):.1f}" == "0.5 (no interval)"
    nothing = Estimate.unmeasurable("why")
    assert str(nothing) == "not measurable" and nothing.note == "why"
    assert nothing.compared_with(0) == "undecided"
    assert Estimate.of(1.0, np.array([-np.inf, *range(100), np.inf])).high == 98
    assert np.isnan(Estimate.of(1.0, np.array([])).low)


def test_p_of_a_difference():
    random = np.random.default_rng(0).standard_normal(1999)
    assert Difference.of(0.0, random).p > 0.9
    assert Difference.of(2.0, random + 2).p == pytest.approx(0.0455, abs=0.02)
    assert Difference.of(9.0, random + 9).p == 2 / 2000
    assert np.isnan(Difference.of(1.0, np.array([])).p)


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

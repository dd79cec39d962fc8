"""Resamples and estimates."""

import numpy as np
import pytest

from pi_lib.statistics import Difference, Estimate, resample_counts, resample_run_counts


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

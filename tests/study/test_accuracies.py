"""Intervals of accuracies: published values, how often they hold the truth, none of width 0."""

import numpy as np
import pytest

from pi_lib.study.accuracies import difference, paired_difference, proportion


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

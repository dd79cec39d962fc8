"""Preserved, discarded, new; learned by scratch; Jaccard; trajectories: by hand and by identity."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pi_lib import (
    Interactions,
    and_inverse,
    and_or_split,
    bootstrap,
    compare,
    jaccard,
    learned_by_scratch,
    or_inverse,
    trajectory,
)
from pi_lib.knowledge import Trajectory, normalised, only_scratch, salient_error


def of(i_and, **fields):
    i_and = torch.tensor(i_and, dtype=torch.float64)
    return Interactions(v=and_inverse(i_and), i_and=i_and, **fields)


def random(seed, samples=4, n=4):
    generator = np.random.default_rng(seed)
    return of(generator.standard_normal((samples, 2**n)).tolist())


# Both models have |v(N) - v({})| = 10, so that normalising divides by 10.
BEFORE = of([[5, 8, 2, 0]])
AFTER = of([[7, 4, -1, 7]])


def test_agreement_says_which_way_an_order_pulls():
    found = compare(BEFORE, AFTER).agreement_by_order().set_index(["part", "order"])["value"]
    assert found["discarded", 1] == pytest.approx(1)  # 0.4 and 0.2
    assert found["new", 1] == pytest.approx(-1)  # -0.1 alone
    assert found["new", 2] == found["preserved", 1] == pytest.approx(1)
    assert np.isnan(found["preserved", 2]) and np.isnan(found["discarded", 2])
    other = of([[0, 9, -3, 4], [0, 6, 6, -2]])  # both |v(N) - v({})| = 10
    two = compare(other, other).agreement_by_order().set_index(["part", "order"])
    assert two.loc[("preserved", 1), "value"] == pytest.approx((9 - 3 + 12) / (9 + 3 + 12))
    assert two.loc[("preserved", 2), "value"] == pytest.approx((4 - 2) / (4 + 2))
    low, high = two.loc[("preserved", 2), ["low", "high"]]
    assert (low, high) == pytest.approx((-1, 1))  # either sample may be drawn twice


def test_by_hand():
    k = compare(BEFORE, AFTER)
    torch.testing.assert_close(k.preserved, torch.tensor([[0, 0.4, 0, 0]]).double())
    torch.testing.assert_close(k.discarded, torch.tensor([[0, 0.4, 0.2, 0]]).double())
    torch.testing.assert_close(k.new, torch.tensor([[0, 0, -0.1, 0.7]]).double())
    assert k.preserved_share().value == pytest.approx(0.4 / 1.0)
    assert k.new_share().value == pytest.approx(0.8 / 1.2)
    assert k.mean_order("new").value == pytest.approx((0.1 + 2 * 0.7) / 0.8)
    assert k.order_gap("new", "preserved").value == pytest.approx(1.5 / 0.8 - 1)


def test_learned_by_hand():
    scratch = of([[0, 2, 9, -1]])  # normalised: .2, .9, -.1
    found = learned_by_scratch(compare(BEFORE, AFTER), scratch)
    assert found.ratio().value == pytest.approx(0.2 / 0.4)
    assert learned_by_scratch(compare(BEFORE, AFTER), AFTER).ratio().value == pytest.approx(1)
    assert learned_by_scratch(compare(BEFORE, AFTER), of([[0, -4, 0, 14]])).ratio().value == 0


def test_only_scratch_by_hand():
    scratch = of([[0, 2, 9, -1]])  # normalised: .2, .9, -.1; fine-tuned: .4, -.1, .7
    only, total = only_scratch(AFTER, scratch)
    torch.testing.assert_close(only, torch.tensor([[0, 0.9, 0.1]]).double())
    torch.testing.assert_close(total, torch.tensor([[0, 1.1, 0.1]]).double())


@pytest.mark.parametrize("kind", ["and", "and-or"])
def test_salient_error_is_the_variance_left_out(kind):
    games = random(3)
    if kind == "and-or":
        split = and_or_split(games.v)
        games = Interactions(v=games.v, i_and=split.i_and, i_or=split.i_or)
    residual, total = salient_error(games, tau=0)
    assert (residual / total).max() < 1e-6
    residual, _ = salient_error(games, tau=0.5)
    kept = games.terms.where(games.salient(0.5) | (games.orders == 0), 0).split(16, -1)
    rebuilt = and_inverse(kept[0]) + (or_inverse(kept[1]) if kind == "and-or" else 0)
    torch.testing.assert_close(residual, (games.v - rebuilt).square().sum(-1))
    torch.testing.assert_close(total, games.v.var(-1, correction=0) * 16)


def test_two_ways_to_average_ratios():
    before, after = of([[0, 10, 0, 0], [0, 10, 0, 0]]), of([[0, 10, 0, 0], [0, 2, 0, 8]])
    scratch = of([[0, 5, 0, 5], [0, 10, 0, 0]])
    found = learned_by_scratch(compare(before, after), scratch)
    assert found.ratio().value == pytest.approx((0.5 + 0.2) / 1.2)
    assert found.mean_ratio().value == pytest.approx((0.5 + 1) / 2)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.05, 0.3]))
def test_identities(seed, tau):
    before, after = random(seed), random(seed + 1)
    k = compare(before, after, tau)
    pre, ft = normalised(before, tau), normalised(after, tau)
    torch.testing.assert_close(pre.abs(), k.preserved.abs() + k.discarded.abs())
    torch.testing.assert_close(ft.abs(), k.preserved.abs() + k.new.abs())
    torch.testing.assert_close(k.pretrained, pre)
    torch.testing.assert_close(k.finetuned, ft)
    assert (k.preserved * pre >= 0).all() and (k.preserved * ft >= 0).all()
    total = sum(k.strength(part).sum(-1) for part in ("preserved", "discarded"))
    torch.testing.assert_close(total, pre.abs().sum(-1))
    assert k.preserved[~(before.salient(tau) & after.salient(tau))].abs().max() == 0
    j = jaccard(before, after, tau)
    torch.testing.assert_close(j, jaccard(after, before, tau))
    assert (j >= 0).all() and (j <= 1).all()


@given(st.integers(0, 10**6))
def test_jaccard_is_the_formula(seed):
    before, after = random(seed), random(seed + 1)
    a, b = normalised(before, 0.05), normalised(after, 0.05)
    least = torch.minimum(a.clamp(min=0), b.clamp(min=0)) + torch.minimum(
        (-a).clamp(min=0), (-b).clamp(min=0)
    )
    most = torch.maximum(a.clamp(min=0), b.clamp(min=0)) + torch.maximum(
        (-a).clamp(min=0), (-b).clamp(min=0)
    )
    torch.testing.assert_close(jaccard(before, after), least.sum(-1) / most.sum(-1))


def test_jaccard_extremes():
    one = random(3)
    torch.testing.assert_close(jaccard(one, one), torch.ones(4).double())
    assert jaccard(of([[0, 1, 0, 0]]), of([[0, -1, 0, 0]])).item() == 0
    torch.testing.assert_close(jaccard(of([[0, 1, 0, 2]]), of([[0, 10, 0, 20]])).item(), 1.0)
    assert jaccard(of([[0, 0, 0, 0]]), of([[0, 0, 0, 0]])).item() == 1


def test_trajectory_numbers():
    t = Trajectory([0, 5, 10], torch.tensor([[0.0, 0.2], [0.4, 0.6], [1.0, 1.0]]).double())
    assert t.area().value == pytest.approx((0.45 + 0.6) / 2)
    assert t.reaches(0.5).value == pytest.approx(0.5)
    assert t.reaches(0.3).value == pytest.approx(0.25)
    assert np.isnan(t.reaches(1.1).value)
    assert t.directness().value == pytest.approx(1)
    back = Trajectory([0, 1, 2], torch.tensor([[0.4], [0.2], [1.0]]).double())
    assert back.directness().value == pytest.approx(0.6 / 1.0)
    ends = trajectory([random(1), random(2)], random(2), [0, 7])
    torch.testing.assert_close(ends.similarity[-1], torch.ones(4).double())


def test_bootstrap_covers():
    """The interval holds the true mean about as often as it says."""
    generator = np.random.default_rng(0)
    hits = 0
    for k in range(60):
        estimate = bootstrap(generator.standard_normal(40) + 1, seed=k)
        hits += estimate.low <= 1 <= estimate.high
    assert 50 <= hits <= 60


def test_bootstrap_of_little():
    assert str(bootstrap(torch.tensor([2.0]))) == "2.00 [nan, nan]"
    assert np.isnan(bootstrap(torch.tensor([])).value)
    with_gap = bootstrap(np.array([1.0, np.nan, 3.0]))
    assert with_gap.value == 2
    same = [bootstrap(np.arange(9.0)) for _ in range(2)]
    assert same[0] == same[1]
    assert bootstrap(np.arange(9.0) + 1).compared_with(0) == "above"
    assert bootstrap(np.arange(9.0) - 20).compared_with(0) == "below"


def test_results_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="differ in ids"):
        compare(random(1), of(random(1).i_and.tolist(), ids=[3, 4, 5, 6]))
    with pytest.raises(ValueError, match="differ in n"):
        jaccard(random(1), random(1, n=3))
    with pytest.raises(ValueError, match="same samples and players"):
        learned_by_scratch(compare(random(1), random(2)), random(1, samples=3))
    with pytest.raises(ValueError, match="ascending steps"):
        trajectory([random(1), random(2)], random(2), [7, 0])

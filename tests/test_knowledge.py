"""Preserved, discarded, new; learned by scratch; Jaccard; trajectories: by hand and by identity."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared_games import GAMES, REFERENCE

from pi_lib import (
    Interactions,
    and_inverse,
    bootstrap,
    compare,
    jaccard,
    learned_by_scratch,
    trajectory,
)
from pi_lib.coalitions import order
from pi_lib.interactions import sum_by_order
from pi_lib.knowledge import (
    Trajectory,
    chance_overlap,
    hard_to_learn,
    jaccard_share,
    normalised,
    shared,
)
from pi_lib.study import Record


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
    assert jaccard(of([[0, 0, 0, 0]]), of([[0, 0, 0, 0]])).isnan().all()  # nothing is measured


def test_trajectory_numbers():
    t = Trajectory([0, 5, 10], torch.tensor([[0.0, 0.2], [0.4, 0.6], [1.0, 1.0]]).double())
    assert t.areas() == pytest.approx([0.45, 0.6])
    ends = trajectory([random(1), random(2)], random(2), [0, 7])
    torch.testing.assert_close(ends.similarity[-1], torch.ones(4).double())


def shuffled(terms, n, random):
    """The slow obvious way: positions within each order, and signs."""
    out = torch.zeros_like(terms)
    for sample in range(len(terms)):
        for m in range(n + 1):
            places = (order(n) == m).nonzero()[:, 0]
            moved = terms[sample, places[torch.from_numpy(random.permutation(len(places)))]]
            signs = torch.from_numpy(random.choice([-1.0, 1.0], len(places)))
            out[sample, places] = moved * signs
    return out


def test_chance_is_the_mean_over_shuffles():
    first, second = (normalised(random(seed, samples=3), 0.3) for seed in (1, 2))
    generator = np.random.default_rng(0)
    draws = [
        sum_by_order(shared(first, shuffled(second, 4, generator)).abs(), order(4), 4)
        for _ in range(150)
    ]
    mean, error = torch.stack(draws).mean(0), torch.stack(draws).std(0) / 150**0.5
    found = chance_overlap(first, second, 4)
    assert ((found - mean).abs() <= 4.5 * error + 1e-12).all()
    both = torch.cat([first, second], -1), torch.cat([second, first], -1)  # AND and OR, apart
    torch.testing.assert_close(chance_overlap(*both, 4), found + chance_overlap(second, first, 4))


def test_shares_stand_beside_chance_and_a_second_run():
    before, after, again, scratch = (random(seed, samples=30) for seed in (1, 2, 3, 4))
    after = of((before.i_and + after.i_and).tolist())
    k = compare(before, after, second_runs=[again])
    share = k.preserved_share()
    by_chance = chance_overlap(k.pretrained, k.finetuned, 4).sum() / k.pretrained.abs().sum()
    assert share.chance.value == pytest.approx(by_chance.item())
    assert share.second_run.value == pytest.approx(compare(again, after).preserved_share().value)
    assert share.over_chance.value == pytest.approx(share.value - share.chance.value)
    assert share.under_second_run.value == pytest.approx(share.second_run.value - share.value)
    assert list(share.row()) == ["observed", "chance", "second_run", "verdict"]
    assert share.verdict == "above chance" and share.over_chance.p < 0.01
    new = k.new_share()
    assert new.second_run.value == pytest.approx(compare(again, after).new_share().value)
    whole = k.finetuned.abs().sum()
    assert new.chance.value == pytest.approx(
        1 - by_chance.item() * k.pretrained.abs().sum() / whole
    )
    assert new.verdict == "below chance"
    table = k.preserved_share_by_order()
    assert {"chance", "second_run", "verdict"} <= set(table)
    learned = learned_by_scratch(k, scratch)
    second = learned_by_scratch(k, again)
    assert learned.ratio().second_run.value == pytest.approx(second.ratio().value)
    assert learned.mean_ratio().second_run.value == pytest.approx(second.mean_ratio().value)
    assert learned.by_order().second_run.tolist() == second.by_order().value.tolist()
    assert learned.ratio().verdict == "undecided"  # independent of all
    similar = jaccard_share(before, after, second_runs=[again])
    assert similar.value == pytest.approx(jaccard(before, after).mean().item())
    assert similar.second_run.value == pytest.approx(jaccard(again, after).mean().item())
    assert similar.verdict == "above chance"
    alone = compare(before, after).preserved_share()
    assert (
        str(alone.second_run) == "not measurable" and "one fine-tuned run" in alone.second_run.note
    )


def test_chance_has_no_more_than_chance():
    """Of independent networks a share is chance, in 18 of 20 trials or more."""
    verdicts = [
        compare(random(k, samples=30), random(100 + k, samples=30)).preserved_share().verdict
        for k in range(20)
    ]
    assert verdicts.count("undecided") >= 17


@pytest.mark.parametrize("path", GAMES, ids=lambda path: path.stem)
def test_recorded_games_give_the_papers_shares(path):
    record = Record.load(path)
    arms = ("probe", "finetuned", "scratch", "long")
    runs = {
        f"{arm}{k}": run
        for arm in arms
        if record.count(arm)
        for k, run in enumerate(record.runs(arm), 1)
    }
    expected = REFERENCE[path.stem]["paper's shares, runs 1 (tau .05, all orders)"]
    k = compare(runs["probe1"], runs["finetuned1"], second_runs=[runs["finetuned2"]])
    share, known = k.preserved_share(), expected["preserved"]
    assert share.value == pytest.approx(known["observed"], abs=0.001)
    assert share.chance.value == pytest.approx(known["chance"], abs=0.004)
    assert share.second_run.value == pytest.approx(
        known["one fine-tuned run in another"], abs=0.001
    )
    ratio, known = (
        learned_by_scratch(k, runs["scratch1"]).ratio(),
        expected["learned of the preserved"],
    )
    assert ratio.value == pytest.approx(known["scratch"], abs=0.001)
    assert ratio.chance.value == pytest.approx(known["chance"], abs=0.004)
    assert ratio.second_run.value == pytest.approx(known["second fine-tuned run"], abs=0.001)
    if "long1" in runs:
        long = learned_by_scratch(k, runs["long1"]).ratio()
        assert long.value == pytest.approx(known["long scratch"], abs=0.001)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same weights", "other weights"])
def test_hard_to_learn_is_the_slow_comparison(elsewhere):
    probes, finetuned, scratch, second = (
        [random(10 * arm + k, samples=12) for k in range(count)]
        for arm, count in enumerate((1, 3, 2, 4))
    )
    second = second if elsewhere else None
    found = hard_to_learn(probes, finetuned, scratch, second_runs=second)
    sums = {(part, where): [] for part in ("preserved", "new") for where in ("again", "scratch")}
    lucky = {case: [] for case in sums}
    whole = {"preserved": [], "new": []}
    for i, own in enumerate(finetuned):
        k = compare(probes[0], own)
        for part in whole:
            terms = getattr(k, part)
            whole[part].append(terms.abs().sum().item())
            for where, others in (
                ("again", second or finetuned[:i] + finetuned[i + 1 :]),
                ("scratch", scratch),
            ):
                sums[part, where] += [
                    shared(terms, normalised(other, 0.05)).abs().sum().item() for other in others
                ]
                lucky[part, where] += [
                    chance_overlap(terms, normalised(other, 0.05), own.n).sum().item()
                    for other in others
                ]
    for part in whole:
        again, learned = (
            np.mean(sums[part, where]) / np.mean(whole[part]) for where in ("again", "scratch")
        )
        side = getattr(found, part)
        assert side.second_run.value == pytest.approx(again)
        assert side.scratch.value == pytest.approx(learned)
        again_chance, chance = (
            np.mean(lucky[part, where]) / np.mean(whole[part]) for where in ("again", "scratch")
        )
        assert side.second_run_chance.value == pytest.approx(again_chance)
        assert side.chance.value == pytest.approx(chance)
        assert side.excess.value == pytest.approx(again - again_chance - (learned - chance))
    assert found.special.value == pytest.approx(
        found.preserved.excess.value - found.new.excess.value
    )
    assert len(found.to_frame()) == 11
    runs_too = hard_to_learn(probes, finetuned, scratch, second_runs=second, resample_runs=True)
    assert runs_too != found
    if elsewhere:  # a single fine-tuned run will do
        assert hard_to_learn(probes, finetuned[:1], scratch, second_runs=second).special.measurable
        with pytest.raises(ValueError, match="second_runs: got 0"):
            hard_to_learn(probes, finetuned, scratch, second_runs=[])


def test_strength_alone_is_not_hard_to_learn():
    """What shares nothing has no more in the stronger of two networks."""
    probe, own, other, scratch = (random(seed, samples=200, n=5) for seed in range(4))
    terms = scratch.i_and.clone()
    terms[:, -1] -= 0.8 * terms[:, 1:].sum(-1)  # as strong, while the output moves less: in its
    found = hard_to_learn([probe], [own, other], [of(terms.tolist())])  # units, stronger
    scratch_more = found.preserved.chance.value - found.preserved.second_run_chance.value
    assert scratch_more > 0.05 > abs(found.preserved.excess.value)


def test_hard_to_learn_finds_what_was_planted():
    """Scratch has what is new, but not what was preserved; then it has nothing of either."""
    old, new, noise = (random(k, samples=40, n=5).i_and for k in (1, 2, 3))

    def runs(signal, seed, count=3):
        return [
            of((signal + 0.3 * random(seed + k, samples=40, n=5).i_and).tolist())
            for k in range(count)
        ]

    probes, finetuned = runs(old, 10, 1), runs(old + new, 20)
    knows_new = hard_to_learn(probes, finetuned, runs(new, 30))
    assert knows_new.preserved.excess.compared_with(0) == "above"
    assert knows_new.special.compared_with(0) == "above" and knows_new.special.p < 0.01
    knows_nothing = hard_to_learn(probes, finetuned, runs(noise, 40))
    assert knows_nothing.new.excess.compared_with(0) == "above"  # the control is not nothing
    only_low = hard_to_learn(probes, finetuned, runs(new, 30), orders=[1, 2])
    assert only_low.preserved.excess.value != knows_new.preserved.excess.value
    with pytest.raises(ValueError, match="finetuned_runs: got 1"):
        hard_to_learn(probes, finetuned[:1], runs(new, 30))
    with pytest.raises(ValueError, match="same result is given twice"):
        hard_to_learn(probes, finetuned[:1] * 2, runs(new, 30))
    with pytest.raises(ValueError, match="orders=.0.; expected some of 1 to 5"):
        hard_to_learn(probes, finetuned, runs(new, 30), orders=[0])


def test_an_output_that_does_not_move_is_not_measurable():
    still = Interactions.from_values(torch.full((4, 16), 3.0) + 1e-7 * torch.rand(4, 16))
    moving = random(1)
    for k in (compare(still, moving), compare(moving, still)):
        for share in (k.preserved_share(), k.new_share()):
            assert str(share) == share.verdict == "not measurable"
            assert "no sample moves" in share.note
            assert "not measurable" == str(share.chance)
    assert jaccard(still, moving).isnan().all() and jaccard(still, still).isnan().all()
    learned = learned_by_scratch(compare(moving, random(2)), still)
    assert str(learned.ratio()) == str(learned.mean_ratio()) == "not measurable"
    assert compare(moving, still).strength("preserved")[:, 1:].isnan().all()
    run = trajectory([still, random(2), moving], moving, [0, 3, 6])
    assert run.similarity[0].isnan().all() and str(run.to_frame()["value"][0]) == "nan"
    assert run.areas() == pytest.approx(0.5 * run.similarity[1:].mean(0).numpy())


def test_steps_are_whole_numbers():
    runs = [random(k) for k in range(3)]
    assert trajectory(runs, runs[-1], np.array([0, 3, 6])).steps == [0, 3, 6]
    with pytest.raises(ValueError, match=r"ascending steps, whole numbers.*\[0.5, 1.5, 2.5\]"):
        trajectory(runs, runs[-1], [0.5, 1.5, 2.5])


def test_a_sample_that_does_not_move_is_left_out():
    before, after = random(1, samples=6), random(2, samples=6)
    before.v[2], before.i_and[2] = 1.0, 0.0
    share = compare(before, after).preserved_share()
    assert "1 of 6 samples do not move" in share.note
    assert jaccard(before, after).isnan().tolist() == [False, False, True, False, False, False]
    others = [0, 1, 3, 4, 5]
    k = compare(before, after)
    kept, total = (x[others].abs().sum().item() for x in (k.preserved, k.pretrained))
    assert share.value == pytest.approx(kept / total)


def test_bootstrap_covers():
    """The interval holds the true mean about as often as it says."""
    generator = np.random.default_rng(0)
    hits = 0
    for k in range(60):
        estimate = bootstrap(generator.standard_normal(40) + 1, seed=k)
        hits += estimate.low <= 1 <= estimate.high
    assert 50 <= hits <= 60


def test_bootstrap_of_little():
    assert str(bootstrap(torch.tensor([2.0]))) == "2.00 (no interval)"
    assert np.isnan(bootstrap(torch.tensor([])).value)
    with_gap = bootstrap(np.array([1.0, np.nan, 3.0]))
    assert with_gap.value == 2 and with_gap.note == "1 of 3 samples have no value"
    same = [bootstrap(np.arange(9.0)) for _ in range(2)]
    assert same[0] == same[1]
    assert bootstrap(np.arange(9.0) + 1).compared_with(0) == "above"
    assert bootstrap(np.arange(9.0) - 20).compared_with(0) == "below"


def test_results_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="differ in ids"):
        compare(random(1), of(random(1).i_and.tolist(), ids=[3, 4, 5, 6]))
    with pytest.raises(ValueError, match="differ in n"):
        jaccard(random(1), random(1, n=3))
    with pytest.raises(ValueError, match="extract both models on the same samples"):
        learned_by_scratch(compare(random(1), random(2)), random(1, samples=3))
    v = random(1).v
    first, second = (Interactions.from_values(v, meta={"value": name}) for name in "ab")
    for comparison in (
        compare, jaccard, jaccard_share,
        lambda first, second: learned_by_scratch(compare(first, first), second),
        lambda first, second: hard_to_learn([first], [random(2), random(3)], [second]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="differ in value"):
            comparison(first, second)
    with pytest.raises(ValueError, match="ascending steps"):
        trajectory([random(1), random(2)], random(2), [7, 0])

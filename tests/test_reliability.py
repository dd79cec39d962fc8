"""What a second run has too: planted games, the slow sums, recorded games with known values."""

from itertools import product

import numpy as np
import pytest
import torch
from shared_games import GAMES, REFERENCE

from pi_lib import Interactions, LabelMapPlayers, and_transform, extract
from pi_lib.coalitions import membership, order
from pi_lib.reliability import (
    Arms,
    Origins,
    approach,
    order_groups,
    origins,
    reliability,
    similarity,
    steps_to_share,
    yardstick,
)
from pi_lib.study import Record
from pi_lib.transforms import walsh_inverse, walsh_transform


def random(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def run(v, **fields):
    """A run whose |v(N) - v({})| is 1 on average: the planted ratios hold without normalising."""
    return Interactions.from_values(v / (v[:, -1] - v[:, 0]).abs().mean(), **fields)


def arm(signal, noise, seed, count=3):
    """Runs of one signal, each with noise of its own."""
    return [run(signal + noise * random([seed, k], *signal.shape)) for k in range(count)]


def recorded(path):
    """Arms of one recorded cell, without checkpoints on the way."""
    record = Record.load(path)
    arms = ("probe", "finetuned", "scratch", "long")
    return {arm: record.runs(arm) for arm in arms if record.count(arm)}


@pytest.mark.parametrize("basis", ["walsh", "harsanyi"])
@pytest.mark.parametrize("path", GAMES, ids=lambda path: path.stem)
def test_recorded_games_give_the_reference(path, basis):
    """Values within .002 of an independent computation, intervals within .05.

    Where a share of 1 to 4 % of resamples has nothing reproducible, its own 1,000 resamples decide
    whether the reference calls it measurable (2.5 %), and how far its interval reaches.
    """
    arms = recorded(path)
    table = yardstick(arms, bases=[basis])
    table = table.set_index(["orders", "quantity", "first", "second"]).sort_index()
    products = Arms(arms, basis)
    compared = close_calls = 0
    for orders, expected in REFERENCE[path.stem][basis].items():
        moments = products.moments(order_groups(10)[orders])
        empty = {name: (moments.shared(name)[1:] <= 0).mean() for name in arms}
        for what, value in expected.items():
            if what.startswith("origins"):
                got = [table.loc[(orders, x, "finetuned", ""), "value"] for x in Origins.PARTS]
                np.testing.assert_allclose(got, value, atol=0.002)
                continue
            quantity, names = what.split()
            first, *second = sorted(names.split("-"), key=list(arms).index)
            key = "reliability" if quantity == "reliability" else "similarity"
            got = table.loc[(orders, key, first, *(second or [""])), ["value", "low", "high"]]
            compared += 1
            if second and any(0.01 < empty[name] < 0.04 for name in (first, *second)):
                close_calls += 1
            elif value == "not measurable":
                assert np.isnan(got.value), (orders, what)
            else:
                np.testing.assert_allclose(
                    got.value, value[0], atol=0.002, err_msg=f"{orders} {what}"
                )
                np.testing.assert_allclose(got, value, atol=0.05, err_msg=f"{orders} {what}")
    assert compared >= 30 and close_calls <= 4


def slow(runs, other, orders, transform):
    """The definition: mean over samples and pairs of runs of a sum over coalitions."""
    sizes, total, pairs = order(runs[0].n).tolist(), 0.0, 0
    for a, b in product(runs, other):
        if a is b:
            continue
        pairs += 1
        for sample in range(len(a)):
            x, y = (transform(each.v[sample]) / each.scale for each in (a, b))
            total += sum((x[s] * y[s]).item() for s in range(2**a.n) if sizes[s] in orders)
    return total / pairs / len(runs[0])


@pytest.mark.parametrize(
    "basis, transform", [("walsh", walsh_transform), ("harsanyi", and_transform)]
)
@pytest.mark.parametrize("orders", [{1}, {2, 3}, {1, 2, 3, 4}])
def test_equal_to_the_slow_sums(basis, transform, orders):
    signal = random(0, 6, 16)
    first = [Interactions.from_values(signal + random(k, 6, 16)) for k in (1, 2, 3)]
    second = [Interactions.from_values(2 * signal + random(k, 6, 16)) for k in (4, 5)]
    xx, yy, xy = (
        slow(*pair, orders, transform)
        for pair in ((first, first), (second, second), (first, second))
    )
    power = np.mean([slow([x], [Interactions(x.v, x.i_and)], orders, transform) for x in first])
    assert reliability(first, basis=basis, orders=orders).value == pytest.approx(xx / power)
    moments = Arms({"a": first, "b": second}, basis).moments(orders)
    assert moments.similarities("a", "b")[0][0] == pytest.approx(xy / np.sqrt(xx * yy))
    everything = reliability(first, basis=basis, orders=[1, 2, 3, 4])
    assert reliability(first, basis=basis) == everything


@pytest.mark.parametrize("noise, expected", [(0.5, 0.8), (1, 0.5), (2, 0.2)])
@pytest.mark.parametrize("basis", ["walsh", "harsanyi"])
def test_noise_of_known_size_is_measured(noise, expected, basis):
    found = reliability(arm(random(0, 300, 64), noise, 1), basis=basis)
    assert found.value == pytest.approx(expected, abs=0.02)
    assert found.low < expected < found.high and found.high - found.low < 0.1


def test_independent_noise_alone_is_not_reliable():
    found = reliability(arm(torch.zeros(200, 64).double(), 1, 1))
    assert found.compared_with(0) == "undecided" and abs(found.value) < 0.02


@pytest.mark.parametrize("shared", [1.0, 0.6, 0.0, -1.0])
@pytest.mark.parametrize("orders", [None, [1], [1, 2]])
def test_similarity_is_that_of_the_signals_whatever_the_noise(shared, orders):
    old, new = random(0, 2, 400, 64)
    other = shared * old + np.sqrt(1 - shared**2) * new
    found = similarity(arm(old, 1.5, 1), arm(other, 0.7, 2), orders=orders)
    assert found.low - 0.02 < shared < found.high + 0.02
    assert found.value == pytest.approx(shared, abs=0.1)


def test_nothing_to_compare_is_said_in_words():
    nothing = arm(torch.zeros(40, 32).double(), 1, 1)
    signal = arm(random(0, 40, 32), 0.5, 2)
    found = similarity(signal, nothing)
    assert str(found) == f"{found:.3f}" == "not measurable"
    assert np.isnan(found.value) and not found.measurable
    assert "second: what two runs share cannot be told from 0" in found.note
    parts = origins(nothing, signal, arm(random(0, 40, 32), 0.5, 3))
    assert str(parts) == "not measurable" and "probe" in parts.note
    still = [Interactions.from_values(torch.ones(6, 8)) for _ in range(2)]
    assert str(reliability(still)) == "not measurable"
    assert "does not move" in reliability(still).note
    assert "does not move" in similarity(still, arm(random(0, 6, 8), 0.1, 1)).note


def test_origins_are_the_planted_ones():
    old, common, new, own = random(0, 4, 400, 64)
    probe, scratch = arm(old + common, 0.5, 1), arm(common + new, 0.8, 2)
    finetuned = arm(old + common + new + own, 1, 3)
    # a = b = 2 / sqrt(2 * 4), c = 1/2: R2 = (a^2 + b^2 - 2abc) / (1 - c^2) = 2/3
    found = origins(probe, finetuned, scratch)
    expected = {"pretraining": 1 / 6, "both": 1 / 3, "scratch": 1 / 6, "neither": 1 / 3}
    for part, share in expected.items():
        estimate = getattr(found, part)
        assert estimate.value == pytest.approx(share, abs=0.03), part
        assert estimate.low < share < estimate.high and estimate.high - estimate.low < 0.2
    assert found.to_frame()["value"].sum() == pytest.approx(1)


def test_probe_and_scratch_that_know_the_same_cannot_be_told_apart():
    signal = random(0, 100, 32)
    found = origins(
        arm(signal, 0.1, 1), arm(signal + random(5, 100, 32), 0.1, 2), arm(signal, 0.1, 3)
    )
    assert not found.measurable and "told apart" in found.note


def test_centred_leaves_out_what_depends_on_how_many_are_visible():
    size = 3 * random(0, 200, 7)[:, order(6)]
    noise = arm(size, 1, 1)
    assert reliability(noise).value > 0.5
    assert abs(reliability(noise, centred=True).value) < 0.03
    coefficients = walsh_transform(random(1, 60, 64))
    for m in range(7):
        coefficients[:, order(6) == m] -= coefficients[:, order(6) == m].mean(-1, keepdim=True)
    rest = walsh_inverse(coefficients)  # nothing of it depends on size alone
    runs = [Interactions.from_values(rest + size[:60] * k) for k in (1, -1)]
    assert reliability(runs, centred=True).value == pytest.approx(1)
    assert reliability(runs).value < 0


def test_few_samples_give_a_value_without_interval():
    found = reliability(arm(random(0, 4, 16), 0.1, 1))
    assert found.value > 0.8 and np.isnan(found.low)
    assert str(found).endswith("(no interval)") and "4 samples: an interval needs 5" in found.note
    assert similarity(arm(random(0, 4, 16), 0.1, 1), arm(random(0, 4, 16), 0.1, 2)).value > 0.8


def test_runs_as_units_widen_the_interval():
    """Each run knows much of its own: with other runs the number would differ."""
    runs = [run((k % 2 + 0.3) * random(0, 40, 32) + random(k, 40, 32)) for k in range(1, 7)]
    alone = reliability(runs, resample_runs=False)
    both = reliability(runs)
    assert alone.value == both.value
    assert both.high - both.low > 1.3 * (alone.high - alone.low)
    assert reliability(runs, resample_runs=True) == both
    three = reliability(runs[:3])
    assert three == reliability(runs[:3], resample_runs=False)
    assert three != reliability(runs[:3], resample_runs=True)


def test_what_cannot_be_compared_is_refused_by_name():
    v = random(0, 6, 16)
    first, second = run(v), run(v + 1)
    with pytest.raises(ValueError, match="runs: got 1 run; .* fewer than two"):
        reliability([first])
    with pytest.raises(ValueError, match="second: got 0 runs"):
        similarity([first, second], [])
    with pytest.raises(ValueError, match="finetuned: got 1 run"):
        origins([first, second], [run(v)], [run(v), run(v)])
    with pytest.raises(ValueError, match="same result is given twice"):
        similarity([first, second], [first, run(v)])
    with pytest.raises(ValueError, match="ids"):
        reliability([first, run(v, ids=[9, 1, 2, 3, 4, 5])])
    with pytest.raises(ValueError, match="basis='fourier'; expected one of walsh, harsanyi"):
        reliability([first, second], basis="fourier")
    for wrong in ([0], [5], [], ["1"], [1.5], [True]):
        with pytest.raises(ValueError, match="orders=.*expected some of 1 to 4"):
            reliability([first, second], orders=wrong)


def planted_path(at, noise=0.0, seed=0, samples=200):
    """Checkpoints whose signal is at given points of a plane of two directions."""
    x, y = random(0, 2, samples, 32)
    return [
        Interactions.from_values(a * x + b * y + noise * random([seed + 1, t], samples, 32))
        for t, (a, b) in enumerate(at)
    ]


def test_approach_is_the_formula_and_counts_from_other_runs():
    at = [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (2.0, 0.0)]
    own = planted_path(at, 1, seed=1)
    ends = [planted_path(at[-1:], 1, seed=k)[0] for k in (2, 3)]
    found = approach(own, ends, [0, 10, 20, 40])
    expected = [a / np.sqrt(a * a + b * b + 1) for a, b in at]  # noise of the checkpoint counts
    np.testing.assert_allclose([x.value for x in found.similarity], expected, atol=0.03)
    assert found.similarity[-1].value == pytest.approx(np.sqrt(4 / 5), abs=0.02)
    assert found.to_frame()["step"].tolist() == [0, 10, 20, 40]
    half = found.steps_to(0.5)
    level = expected[-1] / 2
    inside = 10 + 10 * (level - expected[1]) / (expected[2] - expected[1])
    assert half.value == pytest.approx(inside, abs=1.5) and half.low < inside < half.high
    assert half.high - half.low < 5


def test_standing_still_wins_nothing():
    still = planted_path([(1.0, 0.0)] * 3, 1, seed=1)
    ends = [planted_path([(1.0, 0.0)], 1, seed=k)[0] for k in (2, 3)]
    at_once = approach(still, ends, [0, 10, 20])
    late = approach(
        planted_path([(0.0, 1.0), (0.2, 0.0), (1.0, 0.0)], 1, seed=4), ends, [0, 10, 20]
    )
    assert at_once.steps_to(0.8).value == 0
    assert at_once.similarity[-1].value < 0.8  # what it shares with others, not with itself
    sooner = at_once.sooner_than(late, 0.8)
    assert sooner.value == late.steps_to(0.8).value > 10 and sooner.p < 0.01
    noise = [Interactions.from_values(random(k, 200, 32)) for k in range(5)]
    nothing = approach(noise[:3], noise[3:], [0, 1, 2])
    assert (
        {str(x) for x in nothing.similarity} == {str(nothing.steps_to(0.5))} == {"not measurable"}
    )


def test_directness_leaves_the_noise_of_runs_out():
    ways = []
    straight = [(0.0, 0.0), (0.4, 0.0), (0.7, 0.0), (2.0, 0.0)]
    corner = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)]
    for at, expected in ((straight, 1.0), (corner, np.sqrt(2) / 2)):
        paths = [planted_path(at, 0.3, seed=k) for k in range(3)]
        for path in paths:  # the runs are of one scale
            unit = path[-1].scale
            for checkpoint in path:
                checkpoint.v.div_(unit)
        steps = list(range(len(at)))
        ends = [path[-1] for path in paths[1:]]
        found = approach(paths[0], ends, steps, replicates=paths[1:]).directness
        assert found.value == pytest.approx(expected, abs=0.04)
        assert found.low - 0.02 < expected < found.high + 0.02
        ways.append(approach(paths[0], ends, steps, replicates=paths[1:]))
        alone = approach(paths[0], ends, steps).directness
        assert str(alone) == "not measurable" and "replicates" in alone.note
    gap = ways[0].more_direct_than(ways[1])
    assert gap.compared_with(0) == "above" and gap.p < 0.01
    assert gap.value == pytest.approx(ways[0].directness.value - ways[1].directness.value)
    noise = [
        [Interactions.from_values(random([7 + t, k], 60, 32)) for t in range(3)] for k in range(2)
    ]
    ends = [Interactions.from_values(random(9, 60, 32))]
    assert not approach(noise[0], ends, [0, 1, 2], replicates=noise[1:]).directness.measurable


def test_a_way_that_is_mostly_noise_has_no_directness():
    """Many short steps: what is left without noise may seem far shorter than the straight way."""
    at = [(0.3 * step / 8, 0.0) for step in range(9)]
    for seed in range(3):
        first, second = (planted_path(at, 1.0, seed=10 * seed + k) for k in range(2))
        found = approach(first, second[-1:], list(range(9)), replicates=[second]).directness
        assert not found.measurable and "noise hides the way" in found.note


def test_approach_refuses_what_does_not_match():
    path = planted_path([(0.0, 1.0), (1.0, 0.0)], 1)
    ends = planted_path([(1.0, 0.0)], 1, seed=1)
    with pytest.raises(ValueError, match="ascending steps"):
        approach(path, ends, [1, 0])
    with pytest.raises(ValueError, match="ends: got 0 runs"):
        approach(path, [], [0, 1])
    with pytest.raises(ValueError, match="given twice"):
        approach(path, path[-1:], [0, 1])
    with pytest.raises(ValueError, match="share=2"):
        approach(path, ends, [0, 1]).steps_to(2)


def test_steps_to_share_against_the_slow_way():
    steps = [0, 5, 20, 30]
    curves = random(0, 200, 4).abs().numpy()
    for curve, found in zip(curves, steps_to_share(steps, curves, 0.8), strict=True):
        level, fine = 0.8 * curve[-1], np.linspace(0, 30, 30001)
        expected = fine[np.argmax(np.interp(fine, steps, curve) >= level - 1e-12)]
        assert found == pytest.approx(expected, abs=2e-3)


def sampled(runs, draws=200, seed=1):
    """The same runs, asked about random coalitions only."""
    samples, n = len(runs[0]), runs[0].n
    index = torch.from_numpy(np.random.default_rng(seed).integers(0, 2**n, (samples, draws)))
    return [
        Interactions(
            v=each.v.gather(1, index), sampled=membership(n)[index], ends=each.v[:, [0, -1]]
        )
        for each in runs
    ]


def low_order(seed, samples, n=6):
    """Games of which low orders are the larger part, as of networks."""
    return walsh_inverse(random(seed, samples, 2**n) * 0.5 ** order(n))


@pytest.mark.parametrize("orders", [None, [1], [2], [1, 2], [3]])
@pytest.mark.parametrize("centred", [False, True])
def test_random_coalitions_agree_with_all(orders, centred):
    old, new, own = (low_order(k, 150) for k in range(3))
    arms = [
        [run(v + 0.7 * low_order([seed, k], 150)) for k in range(3)]
        for seed, v in ((11, old), (12, old + new + own), (13, new))
    ]
    drawn = [sampled(each) for each in arms]
    exact, found = (reliability(x[1], orders=orders, centred=centred) for x in (arms, drawn))
    assert found.value == pytest.approx(exact.value, abs=0.05)
    assert found.low < exact.value < found.high
    exact, found = (similarity(*x[:2], orders=orders, centred=centred) for x in (arms, drawn))
    assert found.low < exact.value < found.high
    if orders != [3]:
        exact, found = (origins(*x, orders=orders, centred=centred) for x in (arms, drawn))
        for part in Origins.PARTS:
            assert getattr(found, part).low < getattr(exact, part).value < getattr(found, part).high


@pytest.mark.parametrize("orders", [None, [1], [2], [3], [1, 2, 3]])
@pytest.mark.parametrize("centred", [False, True])
def test_products_of_random_coalitions_are_without_bias(orders, centred):
    """Averaged over draws they are those of all coalitions, however few are drawn."""
    from pi_lib.reliability import inner_products, sampled_products

    v, n = random(3, 2, 1, 32).repeat(1, 3000, 1), 5
    index = torch.from_numpy(np.random.default_rng(1).integers(0, 32, (3000, 40)))
    expected = inner_products(v[:, :1], n, centred=centred)[0]
    expected = expected.sum(0) if orders is None else expected[orders].sum(0)
    drawn = torch.stack([each.gather(1, index) for each in v])
    found = sampled_products(drawn, membership(n)[index], orders, centred=centred)
    error = found.std(0) / np.sqrt(len(found))
    assert (abs(found.mean(0) - expected) < 4 * error).all()
    assert (error < 0.06 * abs(expected).max()).all()


def test_random_coalitions_are_refused_what_they_cannot_tell():
    runs = [run(low_order(k, 8)) for k in range(2)]
    drawn = sampled(runs)
    with pytest.raises(ValueError, match="orders 1, 2 and 3, or all"):
        reliability(drawn, orders=[4])
    with pytest.raises(ValueError, match="basis='harsanyi' needs every coalition"):
        reliability(drawn, basis="harsanyi")
    with pytest.raises(ValueError, match="method"):
        reliability([runs[0], drawn[1]])
    with pytest.raises(ValueError, match="coalitions"):
        reliability([drawn[0], sampled(runs, seed=2)[1]])


def test_extracted_on_random_coalitions():
    """As a user does it: 12 pixels are the players of small networks of two families."""
    players, inputs = LabelMapPlayers(torch.arange(12), baseline=0.0), random(0, 30, 12).float()

    def network(family, seed):
        generator = torch.Generator().manual_seed(family)
        weights = torch.randn(12, 8, generator=generator)
        weights = weights + 0.4 * torch.randn(12, 8, generator=generator.manual_seed(100 + seed))
        out = torch.randn(8, 2, generator=generator.manual_seed(family))
        return lambda x: torch.tanh(x @ weights) @ out

    exact, drawn = (
        [
            [
                extract(network(family, 10 * family + k), inputs, [0] * 30, players, **how)
                for k in (1, 2)
            ]
            for family in (1, 2)
        ]
        for how in ({}, {"method": "sampled", "budget": 400})
    )
    for orders in (None, [1], [1, 2]):
        whole, part = (reliability(x[0], orders=orders) for x in (exact, drawn))
        assert part.low < whole.value < part.high and whole.value == pytest.approx(
            part.value, abs=0.1
        )
        whole, part = (similarity(*x, orders=orders) for x in (exact, drawn))
        assert part.low < whole.value < part.high


def test_approach_of_random_coalitions():
    at = [(0.0, 1.0), (1.0, 1.0), (2.0, 0.0)]
    paths = [planted_path(at, 0.5, seed=k) for k in range(3)]
    drawn = sampled([x for path in paths for x in path])
    drawn = [drawn[:3], drawn[3:6], drawn[6:]]
    for each in ([x[0], [y[-1] for y in x[1:]], [0, 10, 20]] for x in (paths, drawn)):
        found = approach(*each, replicates=(paths if each[0] is paths[0] else drawn)[1:])
        np.testing.assert_allclose(
            [x.value for x in found.similarity], [0, 1 / 1.5, 2 / np.sqrt(4.25)], atol=0.05
        )
        assert found.directness.value == pytest.approx(np.sqrt(5) / (1 + np.sqrt(2)), abs=0.08)


def test_table_of_all_arms():
    signal = random(0, 30, 16)
    arms = {name: arm(signal, 1, k) for k, name in enumerate(["probe", "finetuned", "scratch"])}
    table = yardstick(arms, bases=["walsh"], orders={"low": [1, 2]})
    assert len(table) == 3 + 3 + 4 and set(table["orders"]) == {"low"}
    row = table.query("quantity == 'similarity' and first == 'probe' and second == 'scratch'").iloc[
        0
    ]
    alone = similarity(arms["probe"], arms["scratch"], orders=[1, 2])
    found, wanted = (row.value, row.low, row.high), (alone.value, alone.low, alone.high)
    assert found == pytest.approx(wanted, rel=1e-12)


def test_an_arm_without_chance_in_it_is_given_as_one_result():
    """As if it had been run twice with the same outcome; reliability is 1 by definition."""
    random = torch.Generator().manual_seed(0)
    signal, *noise = torch.randn(4, 60, 16, generator=random)
    probe, twin = (Interactions.from_values(signal) for _ in range(2))
    runs = [Interactions.from_values(signal + x) for x in noise]
    alone, twice = similarity(probe, runs), similarity([probe, twin], runs)
    assert [alone.value, alone.low] == pytest.approx([twice.value, twice.low])
    assert yardstick({"probe": probe}, bases=["walsh"])["value"].tolist() == pytest.approx([1] * 6)
    with pytest.raises(ValueError, match="first: got 1 run"):
        similarity([probe], runs)

"""From model to result: options that act, values sampled at random, and what a result says of
how it was made."""

import functools

import numpy as np
import pytest
import torch

import pi_lib as pi
from pi_lib.extraction import value_name, warn_of_error
from pi_lib.interactions import check_comparable


def model(x):
    """Waves of a sum, and a product: interactions of all orders."""
    weight = torch.linspace(-1, 1, x.shape[1], dtype=x.dtype)
    score = (x * weight).sum(-1).sin() + x[:, 0] * x[:, 1]
    return torch.stack([score, torch.zeros_like(score)], -1)


def extract(n, samples=2, labels=None, model=model, **options):
    players = pi.LabelMapPlayers(torch.arange(n), baseline=0.0)
    inputs = torch.arange(1.0, samples + 1, dtype=torch.float64)[:, None].expand(samples, n)
    labels = [0] * samples if labels is None else labels
    return pi.extract(model, inputs, labels, players, **options)


# ---- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": 0.0}, r"noise=0\.0 does nothing with kind='and': .*kind='and-or'"),
        ({"tol": 1e-3}, r"tol=0\.001 does nothing with kind='and': .*kind='and-or'"),
        ({"budget": 100}, "budget=100 does nothing with method='exact': .*'search' or 'sampled'"),
        ({"max_order": 5}, "max_order=5 does nothing with method='exact': .*method='search'"),
        ({"seed": 0}, "seed=0 does nothing with method='exact': .*'search' or 'sampled'"),
        ({"method": "sampled", "max_order": 2}, "max_order=2 does nothing with method='sampled'"),
        ({"method": "search", "noise": 0.1}, r"noise=0\.1 does nothing with kind='and'"),
        ({"method": "sampled", "kind": "and-or"}, "needs the value of every coalition"),
        ({"method": "sampled", "budget": 0}, "budget=0; expected at least 1 coalition"),
        ({"method": "sampled", "budget": 32}, r"5 players have 32 coalitions.*'exact' evaluates"),
    ],
)
def test_options_that_do_nothing_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        extract(5, **options)


def test_options_that_act_do():
    exact = extract(5, kind="and-or", noise=0.04, tol=1e-2)
    assert (exact.meta["noise"], exact.meta["tol"]) == (0.04, 1e-2)
    sampled = extract(5, method="sampled", budget=7, seed=3)
    assert (sampled.meta["budget"], sampled.meta["seed"], sampled.v.shape[1]) == (7, 3, 7)
    assert extract(12, method="sampled").v.shape == (2, 512)


# ---- sampled


def test_sampled_values_are_those_of_the_enumeration():
    exact, one = extract(8), extract(8, method="sampled", budget=200)
    masks = (one.sampled * 2 ** torch.arange(8)).sum(-1)
    torch.testing.assert_close(one.v, exact.v.gather(1, masks), rtol=0, atol=1e-12)
    torch.testing.assert_close(one.ends, exact.v[:, [0, -1]], rtol=0, atol=1e-12)
    assert one.scale == pytest.approx(exact.scale)
    assert (one.method, one.kind, one.i_and, one.n) == ("sampled", None, None, 8)


def test_coalitions_are_drawn_uniformly_and_independently():
    drawn = extract(40, samples=4, method="sampled", budget=500, ids=[3, 1, 4, 5]).sampled.double()
    assert abs(drawn.mean() - 0.5) < 0.01  # of 80,000 draws: 5 standard deviations
    flat = drawn.flatten(0, 1) - 0.5
    products = flat.T @ flat / len(flat) - torch.eye(40) / 4
    assert products.abs().max() < 0.25 * 5 / np.sqrt(len(flat))
    assert len(np.unique(drawn.flatten(0, 1).numpy(), axis=0)) == 2000


def test_all_models_are_asked_about_the_same_coalitions():
    both = extract(30, method="sampled", budget=50, ids=[4, 9])
    other = extract(30, method="sampled", budget=50, ids=[4, 9], model=lambda x: model(x).cos())
    check_comparable(both, other)
    alone = extract(30, samples=1, method="sampled", budget=50, ids=[9])
    assert torch.equal(alone.sampled[0], both.sampled[1])
    assert not torch.equal(both.sampled[0], both.sampled[1])
    seeded = extract(30, method="sampled", budget=50, ids=[4, 9], seed=1)
    with pytest.raises(ValueError, match="differ in coalitions"):
        check_comparable(both, seeded)


def test_a_picture_of_64_patches():
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    players = pi.PatchPlayers(grid=8, n=64, region="all", baseline="zero")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 3)).eval()
    one = pi.extract(network, image, [2], players, method="sampled", budget=20)
    masked = image * one.sampled[0].view(20, 1, 8, 8).repeat_interleave(2, 2).repeat_interleave(
        2, 3
    )
    with torch.no_grad():
        expected = pi.log_odds(network(masked).double(), torch.full((20,), 2))
    torch.testing.assert_close(one.v[0], expected, rtol=0, atol=1e-5)


def test_reliability_takes_what_is_sampled():
    def run(seed):
        own = torch.randn(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return lambda x: (
            model(x) + torch.stack([8 * (x * own).sum(-1).cos(), torch.zeros(len(x))], -1)
        )

    exact, few = (
        pi.reliability([extract(9, 6, model=run(k), **options) for k in range(3)])
        for options in ({}, {"method": "sampled", "budget": 300})
    )
    assert 0.2 < exact.value < 0.9
    assert few.value == pytest.approx(exact.value, abs=0.1)


# ---- how it was made


def margin(outputs, labels):
    return outputs[:, 0] - outputs[:, 1]


@pytest.mark.parametrize("method", ["exact", "sampled"])
def test_a_result_says_how_it_was_made(method):
    n, options = (5, {}) if method == "exact" else (20, {"budget": 9})
    image = torch.rand(1, 3, 32, 32)
    players = pi.PatchPlayers(grid=8, n=n, baseline="blur", background="mask")
    found = pi.extract(
        lambda x: model(x.flatten(1)), image, [0], players,
        method=method, value=margin, **options,
    )  # fmt: skip
    said = {"method": method, "n": n, "players": "PatchPlayers"}
    said |= {"baseline": "blur", "background": "mask", "value": value_name(margin)}
    said |= {"precision": "float32", "output": "'logits'"}
    assert said.items() <= found.meta.items() and 0 <= found.meta["error"] < 1e-3


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("baseline", {"baseline": "zero"}),
        ("baseline", {"mean": torch.tensor([0.2, 0.3, 0.4])}),
        ("baseline", {"baseline": torch.rand(3, 8, 8)}),
        ("background", {"background": "mask"}),
    ],
)
def test_other_settings_are_not_compared(what, options):
    images, labels = torch.rand(2, 3, 8, 8), [0, 1]

    def seen(**changes):
        players = pi.PatchPlayers(grid=4, n=3, **changes)
        return pi.extract(lambda x: model(x.flatten(1)), images, labels, players)

    check_comparable(seen(**options), seen(**options))
    with pytest.raises(ValueError, match=f"differ in {what} "):
        pi.compare(seen(), seen(**options))


def test_a_label_map_says_what_becomes_of_its_background():
    def seen(**changes):
        players = pi.LabelMapPlayers(torch.tensor([0, 1, -1]), **changes)
        return pi.extract(model, torch.ones(1, 3), [0], players)

    with pytest.raises(
        ValueError, match=r"in baseline \(0\.0 against 2\.0\), background \(keep aga"
    ):
        pi.compare(seen(), seen(baseline=2.0, background="mask"))


def test_other_outputs_and_precisions_are_not_compared():
    def several(x):
        return {"logits": model(x), "wide": 2 * model(x)}

    first, second = (extract(4, model=several, output=key) for key in ("logits", "wide"))
    with pytest.raises(ValueError, match="differ in output \\('logits' against 'wide'\\)"):
        pi.compare(first, second)
    with pytest.raises(ValueError, match=r"differ in precision \(float64 against float32\)"):
        pi.compare(extract(4), extract(4, model=lambda x: model(x.float())))


def test_other_labels_and_values_are_not_compared():
    with pytest.raises(ValueError, match=r"differ in labels \(\[0, 0\] against \[0, 1\]\)"):
        pi.jaccard(extract(4), extract(4, labels=[0, 1]))
    with pytest.raises(ValueError, match=r"differ in value \(log_odds against margin"):
        pi.jaccard(extract(4), extract(4, value=margin))
    area = {"value": lambda outputs, labels: outputs[:, 0]}
    boxes = torch.tensor([[0.0, 1, 2], [0, 1, 2]])
    first, second = extract(4, labels=boxes, **area), extract(4, labels=boxes + 1, **area)
    assert first.labels == second.labels
    with pytest.raises(ValueError, match="differ in labels"):
        pi.jaccard(first, second)


def test_a_value_is_named_by_its_code():
    assert value_name(pi.log_odds) == "log_odds"
    assert value_name(margin) == value_name(margin)

    def of(factor, sign=1):
        def scaled(outputs, labels):
            return sign * factor * outputs[:, 0]

        return scaled

    names = [value_name(of(1.0)), value_name(of(2.0)), value_name(of(1.0, -1))]
    assert len(set(names)) == 3 and value_name(of(1.0)) == names[0]
    partials = [value_name(functools.partial(of(1.0), labels=k)) for k in (0, 1)]
    assert partials[0] != partials[1]
    first, second = (lambda z, y: z[:, 0]), (lambda z, y: z[:, 1])
    assert value_name(first) != value_name(second)


# ---- the error of v


def test_rounding_that_reaches_the_salience_is_said():
    """Values near 1000 in float32 are off by some 3e-5, and 2**(m/2) times that at order m."""

    def far(x):
        logits = model(x) * 0.003
        return (logits + torch.tensor([1000.0, 0.0], dtype=x.dtype)).float()

    with pytest.warns(UserWarning, match=r"from order \d on .* in 2 of 2 samples.*float64"):
        one = extract(8, model=far)
    assert 1e-6 < one.meta["error"] < 1e-3


@pytest.mark.filterwarnings("error")
def test_no_warning_without_a_cause():
    one = extract(8)
    assert one.meta["error"] < 1e-12 and one.meta["precision"] == "float64"
    extract(3, model=lambda x: torch.tensor([[0.1, 0.0]]).expand(len(x), 2))  # no interactions


def test_the_lowest_order_concerned_by_hand():
    i_and = torch.zeros(2, 16, dtype=torch.float64)
    i_and[:, 1] = torch.tensor([1.0, 2.0])  # thresholds .05 and .1
    one = pi.Interactions(v=pi.and_inverse(i_and), i_and=i_and, meta={"error": 0.02})
    with pytest.warns(UserWarning, match=r"from order 3 on .* in 1 of 2 samples"):
        warn_of_error(one)  # .02 times 1.4, 2, 2.8, 4: .028, .04, .057, .08


def test_no_report_is_asked_for():
    assert extract(3, report=None).meta["precision"] == "float64"

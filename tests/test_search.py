"""Many players: planted games are found, and what is found is checked honestly."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pi_lib import Interactions, LabelMapPlayers, PatchPlayers, compare, extract
from pi_lib.coalitions import coalition, members
from pi_lib.search import HELD_OUT, explained, held_out, spex
from pi_lib.study import backbones


def planted(n, count=12, orders=(1, 5), seed=0):
    """Random terms, bitmask to value, the last player in one of them; and their model."""
    rng = np.random.default_rng(seed)
    terms = {coalition([0, n - 1]): 1.5}
    while len(terms) < count:
        players = rng.choice(n, rng.integers(*orders), replace=False).tolist()
        terms[coalition(players)] = float(rng.choice([-1, 1]) * rng.uniform(0.5, 2))

    def model(x):
        score = sum(value * x[:, members(s)].prod(-1) for s, value in terms.items())
        return torch.stack([score, torch.zeros_like(score)], -1)

    return terms, model


def searched(model, n, samples=1, **options):
    players = LabelMapPlayers(torch.arange(n), baseline=0.0)
    inputs, labels = torch.ones(samples, n, dtype=torch.float64), [0] * samples
    return extract(model, inputs, labels, players, **{"method": "search"} | options)


@pytest.fixture(scope="module")
def many():
    """Terms planted among 64 players, and what a search finds."""
    terms, model = planted(64)
    return terms, searched(model, 64, ids=[7])


@pytest.mark.parametrize("n", [20, pytest.param(32, marks=pytest.mark.soak), 64])
def test_planted_terms_are_found(n, request):
    terms, one = request.getfixturevalue("many") if n == 64 else (None, None)
    if one is None:
        terms, model = planted(n)
        one = searched(model, n)
    assert one.r2.item() > 0.99 and one.meta["forwards"] <= 2**13
    found = dict(zip(one.coalitions, one.i_and[0].tolist(), strict=True))
    assert {s for s, value in found.items() if abs(value) > 0.01} == set(terms)
    for s, value in terms.items():
        assert found[s] == pytest.approx(value, abs=0.01)
    assert one.v[0].tolist() == pytest.approx([0, sum(terms.values())])


def test_agrees_with_the_exact():
    _, model = planted(10, count=6, orders=(1, 4))
    players = LabelMapPlayers(torch.arange(10), baseline=0.0)
    exact = extract(model, torch.ones(1, 10, dtype=torch.float64), [0], players)
    one = searched(model, 10, budget=1000, max_order=3)
    estimate = torch.zeros(1, 2**10, dtype=torch.float64)
    estimate[:, one.coalitions] = one.i_and
    assert one.r2.item() > 0.99
    torch.testing.assert_close(estimate, exact.i_and, rtol=0, atol=0.01)
    torch.testing.assert_close(one.v, exact.v[:, [0, -1]])
    assert one.scale == exact.scale


def test_r2_tells_when_the_order_is_too_low():
    def model(x):
        score = x[:, :2].sum(-1) + 20 * x[:, 2:10].prod(-1)
        return torch.stack([score, torch.zeros_like(score)], -1)

    assert searched(model, 20, budget=1000, max_order=2).r2.item() < 0.9


def test_held_out_coalitions_were_never_seen():
    rng = np.random.default_rng(0)
    seen = rng.random((600, 10)) < 0.5
    held = held_out(seen, rng)
    rows = {row.tobytes() for row in held}
    assert len(rows) == len(held) == HELD_OUT and not rows & {row.tobytes() for row in seen}


def test_r2_by_hand():
    coalitions = torch.tensor([[False, False], [True, False], [True, True]])
    values = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    assert explained({0: 1.0, 1: 1.0, 3: 4.0}, coalitions, values) == 1
    assert explained({0: 3.0}, coalitions, values) == 0
    assert np.isnan(explained({0: 1.0}, coalitions, torch.ones(3, dtype=torch.float64)))


def test_a_rerun_gives_the_same_and_leaves_numpy_alone():
    def model(x):
        score = (x * torch.linspace(-1, 1, 18)).sum(-1).sin() * 3
        return torch.stack([score, torch.zeros_like(score)], -1)

    both = searched(model, 18, samples=2, ids=[4, 9], budget=2000)
    before = np.random.get_state()[1].tolist()
    alone = searched(model, 18, ids=[9], budget=2000)
    assert np.random.get_state()[1].tolist() == before
    assert alone.to_frame()["value"].tolist() == both[[1]].to_frame()["value"].tolist()
    assert alone.r2[0] == both.r2[1]
    assert searched(model, 18, ids=[9], budget=2000, seed=1).r2[0] != alone.r2[0]


def test_a_constant_model_has_no_interactions():
    one = searched(lambda x: torch.tensor([[2.0, 0.0]]).expand(len(x), 2), 18, budget=1000)
    assert one.coalitions == [0] and one.i_and.tolist() == [[2]] and one.r2.isnan().all()
    assert one.top().empty and not one.salient().any()


def test_selects_and_shows_as_the_exact_does(many):
    terms, one = many[0], many[1][[0, 0]]
    exact = Interactions.from_values(torch.zeros(1, 2))
    assert list(one.to_frame()) == list(exact.to_frame())
    top = one.top(3, sample=1)
    assert list(top) == list(one.to_frame()) and set(top["id"]) == {7} and set(top["sample"]) == {1}
    strongest = max(terms, key=lambda s: abs(terms[s]))
    assert top["coalition"][0] == strongest and top["value"][0] == pytest.approx(terms[strongest])
    salient = [s for s, yes in zip(one.coalitions, one.salient()[0], strict=True) if yes]
    assert set(salient) == set(terms)
    of_that_order = sum(abs(x) for s, x in terms.items() if s.bit_count() == strongest.bit_count())
    by_order = one.by_order()
    assert by_order.shape == (2, 65)
    assert by_order[0, strongest.bit_count()].item() == pytest.approx(of_that_order, abs=0.01)


def test_saved_and_loaded_alike(tmp_path, many):
    one = many[1]
    path = one.save(tmp_path / "one.safetensors")
    again = Interactions.load(path)
    torch.testing.assert_close(again.i_and, one.i_and.float().double(), rtol=0, atol=0)
    assert again.coalitions == one.coalitions and max(one.coalitions) >= 2**63
    assert (again.n, again.players, again.labels, again.ids, again.meta) == (
        one.n, one.players, one.labels, one.ids, one.meta,
    )  # fmt: skip


def test_files_of_version_0_1_load(tmp_path):
    header = {
        "n": 64, "coalitions": [[], [0, 63]], "players": [list("ab" * 32)], "labels": [1],
        "ids": [7], "meta": {"method": "sparse", "forwards": 3},
    }  # fmt: skip
    arrays = {"i_and": torch.ones(1, 2), "r2": torch.ones(1), "v": torch.zeros(1, 2)}
    save_file(arrays, tmp_path / "old", metadata={"pi_lib": json.dumps(header)})
    one = Interactions.load(tmp_path / "old")
    assert (one.method, one.n, one.coalitions) == ("search", 64, [0, 1 + 2**63])
    assert one.top()["players"].tolist() == ["{a, b}"] and one.i_and.tolist() == [[1, 1]]


def test_shapiq_holds_the_same_game(many):
    from shapiq.game_theory.moebius_converter import MoebiusConverter

    terms, values = many[0], many[1].to_shapiq()
    assert values.index == "Moebius" and values.estimated and values.n_players == 64
    shapley = MoebiusConverter(values)("SV", 1)
    for player in range(64):
        expected = sum(value / s.bit_count() for s, value in terms.items() if s >> player & 1)
        assert shapley[(player,)] == pytest.approx(expected, abs=0.01)


def test_a_network_of_20_patches():
    model = backbones.build("resnet20", 10, pretrained=False)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    one = extract(
        model, images, [3], PatchPlayers(grid=8, n=20), method="search", budget=2000, ids=[1]
    )
    assert one.r2.item() > 0.8
    said = {"method": "search", "players": "PatchPlayers", "baseline": "mean", "budget": 2000}
    said |= {"value": "log_odds", "background": "keep", "precision": "float32", "max_order": 5}
    assert said.items() <= one.meta.items() and one.meta["forwards"] <= 2000
    assert one.top(1)["players"][0].startswith("{r")


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (65, {}, "65 players; method='search' takes at most 64"),
        (20, {"kind": "and-or"}, "needs the value of every coalition"),
        (10, {}, "10 players have 1,024 coalitions, no more than budget=8,192"),
        (20, {"budget": 100}, "budget=100 is too small for SPEX with 20 players"),
        (20, {"max_order": 0}, "max_order=0"),
    ],
)
def test_what_it_cannot_do_is_refused(n, options, message):
    with pytest.raises(ValueError, match=message):
        searched(planted(n)[1], n, **options)


def test_without_shapiq_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "shapiq", None)
    with pytest.raises(ImportError, match=r"pip install 'pi_lib\[search\]'"):
        searched(planted(20)[1], 20)
    empty = torch.zeros(1, 1, dtype=torch.float64)
    one = Interactions(
        n=20, coalitions=[0], i_and=empty, r2=empty[0], v=torch.zeros(1, 2, dtype=torch.float64)
    )
    with pytest.raises(ImportError, match=r"pip install 'pi_lib\[search\]'"):
        one.to_shapiq()


def test_what_it_does_to_the_process_is_undone():
    """SPEX draws from numpy's global generator, and loads numba, which takes all cores."""
    threads, state = torch.get_num_threads(), np.random.get_state()[1].copy()

    def game(coalitions):
        torch.set_num_threads(threads + 1)
        return coalitions[:, 0] * 1.0

    found = spex(game, 20, budget=1000, max_order=2, rng=np.random.default_rng(0))
    assert found == pytest.approx({0: 0, 1: 1}, abs=1e-6)
    assert torch.get_num_threads() == threads
    assert np.array_equal(np.random.get_state()[1], state)


def test_estimates_are_not_compared(many):
    one = many[1]
    with pytest.raises(ValueError, match="method 'search' are not compared.*missed"):
        compare(one, one)


def test_shapes_are_checked():
    zeros = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"i_and of shape \(1, 3\).*got \(1, 2\)"):
        Interactions(n=20, coalitions=[0, 1, 2], i_and=zeros, r2=zeros[0, :1], v=zeros)
    with pytest.raises(ValueError, match="the empty one"):
        Interactions(n=20, coalitions=[1, 0], i_and=zeros, r2=zeros[0, :1], v=zeros)


def test_unknown_methods_are_refused():
    players = LabelMapPlayers(torch.arange(3), baseline=0.0)
    with pytest.raises(ValueError, match="method='spex'; expected 'exact', 'search' or 'sampled'"):
        extract(constant(0.0), torch.ones(1, 3), [0], players, method="spex")


def constant(value):
    return lambda x: torch.full((len(x), 2), value)


@pytest.mark.parametrize(
    ("model", "labels", "message"),
    [
        (torch.nn.Linear(20, 2).train(), [0], "training mode"),
        (lambda x: torch.rand(len(x), 2), [0], "for the same input"),
        (constant(0.0), [2], r"labels 2\.\.2 for a model with 2 output"),
        (constant(0.0), [0, 1], "2 labels for 1 samples"),
        (
            lambda x: torch.where(x[:, :2] == 0, torch.inf, x[:, :2]) * torch.tensor([1, 0.0]),
            [0],
            r"sample 0, coalition 0 \(players \[\] kept\) is (inf|nan)",
        ),
    ],
)
def test_bad_calls_are_refused(model, labels, message):
    players = LabelMapPlayers(torch.arange(20), baseline=0.0)
    with pytest.raises(ValueError, match=message):
        extract(model, torch.ones(1, 20), labels, players, method="search", budget=1000)

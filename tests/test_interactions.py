"""The result object: selection, storage, and what shapiq makes of it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pi_lib import Interactions, LabelMapPlayers, and_transform, extract
from pi_lib.coalitions import coalition, order
from pi_lib.interactions import check_comparable


def some(samples=3, n=4, seed=0, **fields):
    v = torch.from_numpy(np.random.default_rng(seed).standard_normal((samples, 2**n)))
    return Interactions(v=v, i_and=and_transform(v), **fields)


def test_saved_and_loaded_alike(tmp_path):
    one = some(players=[list("abcd")] * 3, labels=[1, 0, 2], ids=[5, 6, 7], meta={"seed": 3})
    again = Interactions.load(one.save(tmp_path / "some.safetensors"))
    torch.testing.assert_close(again.i_and, one.i_and.float().double(), rtol=0, atol=0)
    assert (again.players, again.labels, again.ids, again.meta) == (
        one.players, one.labels, one.ids, one.meta,
    )  # fmt: skip


def sampled(samples=2, n=40, budget=30, seed=0, **fields):
    rng = np.random.default_rng(seed)
    return Interactions(
        v=torch.from_numpy(rng.standard_normal((samples, budget))),
        sampled=torch.from_numpy(rng.random((samples, budget, n)) < 0.5),
        ends=torch.tensor([[1.0, 4.0]] * samples, dtype=torch.float64),
        **fields,
    )


def test_a_sampled_result_saved_and_loaded_alike(tmp_path):
    one = sampled(ids=[5, 6], labels=[1, 0], meta={"seed": 3})
    again = Interactions.load(one.save(tmp_path / "some.safetensors"))
    assert again.method == "sampled" and again.n == 40 and again.i_and is None
    assert torch.equal(again.sampled, one.sampled) and again.sampled.dtype == torch.bool
    torch.testing.assert_close(again.v, one.v.float().double(), rtol=0, atol=0)
    assert (again.scale, again.ids, again.meta) == (3, [5, 6], {"seed": 3})
    assert torch.equal(again[[1]].sampled[0], one.sampled[1]) and again[[1]].ids == [6]


def test_a_sampled_result_says_what_takes_it():
    one = sampled()
    for ask in (
        lambda: one.terms, lambda: one.orders, one.salient, one.by_order, one.top, one.to_frame,
        one.to_shapiq,
    ):  # fmt: skip
        with pytest.raises(ValueError, match="30 random coalitions.*reliability.*'exact'"):
            ask()
    assert one.kind is None and "sampled" in repr(one)


def test_from_values(tmp_path):
    v = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 8)))
    one = Interactions.from_values(
        v.float(),
        torch.tensor([3, 1]),
        np.array([8, 2**64 - 1], dtype=np.uint64),
        [list("abc")] * 2,
        {"k": 1},
    )
    one = Interactions.load(one.save(tmp_path / "one"))
    assert (one.method, one.kind, one.n) == ("exact", "and", 3)
    assert (one.labels, one.ids) == ([3, 1], [8, 2**64 - 1])
    torch.testing.assert_close(one.i_and, and_transform(v), rtol=0, atol=1e-5)
    assert Interactions.from_values(v.float()).v.dtype == torch.float64
    assert one.players[1] == list("abc") and one.meta == {"k": 1}
    with pytest.raises(ValueError, match=r"shape \(samples, 2\*\*n\); got \(8,\)"):
        Interactions.from_values(v[0])
    with pytest.raises(ValueError, match="finite values; got nan at sample 0, coalition 1"):
        Interactions.from_values(torch.tensor([[0, float("nan")]]))


OTHERS = {
    "n": {"n": 3},
    "ids": {"ids": [1, 2]},
    "labels": {"labels": [1, 0]},
    "players": {"players": [list("abcd")] * 2},
    "value": {"meta": {"value": "margin 7a"}},
    "baseline": {"meta": {"baseline": "zero"}},
    "background": {"meta": {"background": "mask"}},
    "masking": {"meta": {"masking": "drop"}},
    "precision": {"meta": {"precision": "bfloat16"}},
    "class of players": {"meta": {"players": "LabelMapPlayers"}},
}
META = {
    "value": "log_odds", "baseline": "mean", "background": "keep", "masking": "replace",
    "precision": "float32", "players": "PatchPlayers",
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_not_alike_is_named(what):
    one, fields = some(2, labels=[0, 1], meta=META), OTHERS[what]
    fields = {"labels": [0, 1]} | fields | {"meta": META | fields.get("meta", {})}
    with pytest.raises(ValueError, match=f"results differ in {what} \\([^)]* against [^)]*\\): "):
        check_comparable(one, one, some(2, **fields))


def test_all_that_differs_is_named_at_once():
    one, other = some(2, ids=[1, 2], meta=META), some(2, meta=META | {"value": "margin"})
    with pytest.raises(ValueError, match=r"in ids \(.*\), value \(log_odds against margin\): ext"):
        check_comparable(one, other)


def test_samples_without_ids_are_told_apart_by_their_content(tmp_path):
    inputs = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    players = LabelMapPlayers(torch.arange(4), baseline=0.0)

    def of(inputs, **options):
        return extract(lambda x: x[:, :2], inputs, [0] * len(inputs), players, **options)

    one, turned = of(inputs), of(inputs.flip(0))
    check_comparable(one, of(inputs.clone()), Interactions.load(one.save(tmp_path / "one")))
    check_comparable(one[1:], of(inputs)[1:])
    with pytest.raises(ValueError, match=r"differ in content of samples .*give them ids="):
        check_comparable(one, turned)
    with pytest.raises(ValueError, match="differ in content"):
        check_comparable(one, Interactions.load(turned.save(tmp_path / "turned")))
    check_comparable(of(inputs, ids=[5, 6, 7]), of(inputs.flip(0), ids=[5, 6, 7]))
    before = Interactions.from_values(turned.v, turned.labels)  # as results were, and as files are
    check_comparable(one, before)


def test_what_one_does_not_say_is_not_compared():
    check_comparable(some(meta=META), some(), some(meta={"value": "log_odds"}))


def test_sampled_results_are_compared_on_the_same_coalitions():
    check_comparable(sampled(), sampled())
    with pytest.raises(ValueError, match="differ in coalitions"):
        check_comparable(sampled(), sampled(seed=1))
    with pytest.raises(ValueError, match=r"differ in method \(sampled against exact\), kind"):
        check_comparable(sampled(n=4), some(2))
    with pytest.raises(TypeError, match="got dict; expected Interactions"):
        check_comparable(some(), {})


def test_files_of_version_0_1_load(tmp_path):
    header = {"players": [["a"]], "labels": [1], "ids": [7], "meta": {"kind": "and"}}
    arrays = {"v": torch.tensor([[0.0, 1]]), "i_and": torch.tensor([[0.0, 1]])}
    save_file(arrays, tmp_path / "old", metadata={"pi_lib": json.dumps(header)})
    one = Interactions.load(tmp_path / "old")
    assert (one.method, one.n, one.players, one.labels, one.ids) == ("exact", 1, [["a"]], [1], [7])
    assert one.top()["value"].tolist() == [1]


def test_a_foreign_file_is_refused(tmp_path):
    save_file({"v": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not written by pi_lib"):
        Interactions.load(tmp_path / "other.safetensors")


def test_salient_by_hand():
    i = torch.tensor([[9.0, 1.0, -0.04, 0.5], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    one = Interactions(v=i, i_and=i)
    assert one.salient(0.05).tolist() == [[False, True, False, True], [False] * 4]
    assert one.salient(0.0).tolist() == [[False, True, True, True], [False] * 4]
    with pytest.raises(ValueError, match="tau=1"):
        one.salient(1)


def test_by_order_and_top_and_frame():
    one = some(labels=[1, 0, 1])
    by_order = one.by_order()
    for m in range(1, 5):
        expected = one.i_and[:, order(4) == m].abs().sum(-1)
        torch.testing.assert_close(by_order[:, m], expected)
    assert by_order[:, 0].abs().max() == 0
    top = one.top(3, sample=1)
    strengths = one.i_and[1, 1:].abs().sort(descending=True).values[:3]
    np.testing.assert_allclose(top["value"].abs(), strengths)
    frame = one.to_frame()
    assert len(frame) == 3 * 16
    row = frame[(frame["sample"] == 2) & (frame["coalition"] == coalition([0, 3]))].iloc[0]
    assert row["order"] == 2 and row["players"] == "{0, 3}" and row["label"] == 1
    assert row["value"] == one.i_and[2, 9]


def test_selection_keeps_samples_together():
    one = some(ids=[4, 5, 6], labels=[0, 1, 2])
    part = one[[2, 0]]
    assert part.ids == [6, 4] and part.labels == [2, 0]
    assert torch.equal(part.v, one.v[[2, 0]])
    assert torch.equal(one[1:].v, one.v[1:])


def test_selection_by_a_mask():
    one = some(ids=[4, 5, 6], labels=[0, 1, 2])
    for mask in ([True, False, True], np.array([1, 0, 1]) > 0, torch.tensor([1, 0, 1]) > 0):
        part = one[mask]
        assert part.ids == [4, 6] and torch.equal(part.v, one.v[[0, 2]])
    assert one[[True] * 3].ids == [4, 5, 6]
    for places in ((2, 0), torch.tensor([2, 0]), np.array([-1, 0]), range(2, -1, -2)):
        assert one[places].ids == [6, 4]
    assert len(one[[]]) == 0 and one[-1].ids == [6]
    with pytest.raises(IndexError):
        one[[True, False]]


def test_a_result_is_no_sequence_of_results():
    with pytest.raises(TypeError, match="'Interactions' object is not iterable"):
        list(some())


def test_numbers_of_numpy_are_saved(tmp_path):
    one = some(meta={"seed": np.int64(3), "noise": np.float64(0.5)})
    assert Interactions.load(one.save(tmp_path / "one")).meta == {"seed": 3, "noise": 0.5}


def test_shapiq_holds_the_same_game():
    one = some()
    values = one.to_shapiq(1)
    for s in range(1, 16):
        players = tuple(i for i in range(4) if s >> i & 1)
        assert values[players] == one.i_and[1, s]
    assert values.baseline_value == one.v[1, 0]


def test_and_or_kind_splits_v():
    def model(x):
        score = 2 * x[:, :2].prod(-1) + 3 * x[:, 1:].amax(-1)
        return torch.stack([score, torch.zeros_like(score)], -1)

    players = LabelMapPlayers(torch.arange(4), baseline=0.0)
    one = extract(model, torch.ones(1, 4), [0], players, kind="and-or")
    assert one.kind == "and-or" and one.terms.shape == (1, 32)
    assert abs(one.i_and[0, coalition([0, 1])] - 2) < 0.02
    assert abs(one.i_or[0, coalition([1, 2, 3])] - 3) < 0.02
    with pytest.raises(ValueError, match="kind='or'"):
        extract(model, torch.ones(1, 4), [0], players, kind="or")


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="i_and of shape"):
        Interactions(v=torch.zeros(2, 8), i_and=torch.zeros(2, 4))
    with pytest.raises(ValueError, match="2 samples of 3 players"):
        Interactions(v=torch.zeros(2, 8), i_and=torch.zeros(2, 8), labels=[1])
    with pytest.raises(ValueError, match=r"i_and of shape \(2, 8\); got None"):
        Interactions(v=torch.zeros(2, 8))
    with pytest.raises(ValueError, match=r"expected i_and of shape None; got \(2, 30\)"):
        sampled(i_and=torch.zeros(2, 30))
    with pytest.raises(ValueError, match="n=4, but these are values of 3 players"):
        Interactions(v=torch.zeros(2, 8), i_and=torch.zeros(2, 8), n=4)


def test_shapley_values_from_ours_equal_shapiqs():
    from shapiq import ExactComputer, Game
    from shapiq.game_theory.moebius_converter import MoebiusConverter

    one = some(samples=1, n=5)

    class Lookup(Game):
        def value_function(self, coalitions):
            return one.v[0].numpy()[coalitions.astype(int) @ (1 << np.arange(5))]

    direct, ours = ExactComputer(Lookup(n_players=5, normalize=False)), one.to_shapiq()
    for index, largest in (("SV", 1), ("k-SII", 2)):
        expected, found = direct(index, largest), MoebiusConverter(ours)(index, largest)
        for players in [(i,) for i in range(5)] + ([(0, 3), (2, 4)] if largest == 2 else []):
            assert found[players] == pytest.approx(expected[players], abs=1e-10)


def test_there_and_back_through_shapiq():
    one = some()
    back = Interactions.from_shapiq([one.to_shapiq(i) for i in range(3)])
    torch.testing.assert_close(back.v, one.v)
    torch.testing.assert_close(back.i_and, one.i_and)


def test_other_indices_of_shapiq_are_refused():
    from shapiq import InteractionValues

    shapley = InteractionValues(
        np.zeros(3), index="SV", n_players=2, min_order=0, max_order=1, estimated=False
    )
    with pytest.raises(ValueError, match="index 'Moebius'; got 'SV'"):
        Interactions.from_shapiq([shapley])


@pytest.fixture
def figures():
    import matplotlib.pyplot as plt

    before = plt.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


def written(drawn) -> str:
    """All text of what a plot returned: a figure, axes, or both."""
    from matplotlib.text import Text

    drawn = drawn[0] if isinstance(drawn, tuple) else drawn
    return " ".join(text.get_text() for text in (drawn.figure or drawn).findobj(Text))


@pytest.mark.parametrize(
    "plot",
    ["network_plot", "si_graph_plot", "force_plot", "waterfall_plot", "upset_plot", "bar_plot"],
)
def test_shapiq_plots_ours_with_the_players_names(figures, plot):
    import shapiq

    one = some(samples=1, players=[["not", "a", "bad", "film"]])
    values = one.to_shapiq()
    given = [values] if plot == "bar_plot" else values
    text = written(getattr(shapiq.plot, plot)(given, feature_names=one.players[0], show=False))
    assert any(name in text for name in ("bad", "film", "fil."))  # shapiq may abbreviate


def test_the_force_plot_ends_at_the_models_output(figures):
    one = some(samples=1)
    text = written(one.to_shapiq().plot_force(show=False))
    assert f"{one.v[0, -1].item():.2f}" in text and "base value" in text

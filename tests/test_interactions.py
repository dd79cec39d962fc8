"""The result object: selection, storage, and what shapiq makes of it."""

import numpy as np
import pytest
import torch

from pi_lib import Interactions, LabelMapPlayers, and_transform, extract
from pi_lib.coalitions import coalition, order


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


def test_a_foreign_file_is_refused(tmp_path):
    from safetensors.torch import save_file

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


@pytest.mark.parametrize("index", ["Moebius", "SV", "k-SII"])
@pytest.mark.parametrize(
    "plot",
    ["network_plot", "si_graph_plot", "force_plot", "waterfall_plot", "upset_plot", "bar_plot"],
)
def test_shapiq_plots_ours_with_the_players_names(figures, plot, index):
    import shapiq
    from shapiq.game_theory.moebius_converter import MoebiusConverter

    one = some(samples=1, players=[["not", "a", "bad", "film"]])
    values = one.to_shapiq()
    if index != "Moebius":
        values = MoebiusConverter(values)(index, 1 if index == "SV" else 2)
    if plot == "network_plot" and index == "SV":
        pytest.skip("shapiq draws pairs there, and Shapley values have none")
    given = [values] if plot == "bar_plot" else values
    text = written(getattr(shapiq.plot, plot)(given, feature_names=one.players[0], show=False))
    assert any(name in text for name in ("bad", "film", "fil."))  # shapiq may abbreviate


def test_the_force_plot_ends_at_the_models_output(figures):
    one = some(samples=1)
    text = written(one.to_shapiq().plot_force(show=False))
    assert f"{one.v[0, -1].item():.2f}" in text and "base value" in text

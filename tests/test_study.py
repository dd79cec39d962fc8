"""One cell from data to results, on real images and weights at the smoke profile."""

import pytest
import torch

import pi_lib as pi
from pi_lib import study
from pi_lib.store import Store

CELL = study.Cell("efficientnet-lite0", "fashion-mnist", profile="smoke")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def result(store):
    return study.run(CELL, store)


def test_a_cell_has_all_three_models_on_the_same_samples(result):
    s = CELL.settings
    assert len(result.finetuned.steps) == len(result.scratch.steps) == s.checkpoints
    assert result.probe.final.players == result.scratch.final.players
    assert result.probe.final.ids == result.finetuned.final.ids
    assert result.probe.final.v.shape == (s.samples, 2**s.n)
    both = [p.settings["seed"] for p in (result.finetuned, result.scratch)]
    assert both == [CELL.seed] * 2
    assert set(result.accuracies()["phase"]) == set(study.PHASES)
    assert len(result.provenance()) == 6


def test_what_is_stored_is_what_the_model_says(result, store):
    """Extracting again from the trained network gives the stored values."""
    task = CELL.load()
    samples = CELL.samples(task)
    again = pi.extract(
        study.trained_model(CELL, "finetuned", store),
        pi.tasks.images(samples.inputs),
        samples.labels,
        CELL.players(task),
        ids=samples.ids,
    )
    torch.testing.assert_close(again.v, result.finetuned.final.v, rtol=1e-4, atol=1e-4)


def test_fine_tuning_starts_where_the_probe_starts(result):
    """Same pre-trained encoder, same head: the same accuracy at step 0; scratch differs."""
    probe, fine = result.probe.log[0], result.finetuned.log[0]
    assert fine["loss"] == pytest.approx(probe["loss"], rel=1e-3)
    assert result.scratch.log[0]["loss"] != pytest.approx(probe["loss"], rel=1e-3)


def test_a_second_run_computes_nothing(result, store, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(study.training, "fit", refuse)
    monkeypatch.setattr(study, "extract", refuse)
    again = study.run_all([CELL], store)[0]
    assert torch.equal(again.scratch.final.v, result.scratch.final.v)
    assert study.stored(CELL, store)
    assert not study.stored(study.Cell(profile="smoke", seed=1), store)


def test_trajectories_end_at_their_target(result):
    assert result.trajectory("scratch").similarity[-1].min() == 1
    assert result.trajectory("finetuned", "finetuned").similarity[-1].min() == 1
    with pytest.raises(ValueError, match="phase='probe'"):
        result.trajectory("probe")
    assert len(result.learned_over_time()) == CELL.settings.checkpoints


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="profile='long'; expected one of smoke, quick"):
        study.Cell(profile="long")
    with pytest.raises(ValueError, match="backbone='vgg'"):
        study.Cell(backbone="vgg")
    with pytest.raises(ValueError, match="phase='first'"):
        study.trained_model(CELL, "first")


def test_five_lines_on_a_model_of_ones_own():
    """The package's docstring, on torchvision networks that the project does not use."""
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(0)
    probe, finetuned = (mobilenet_v3_small(num_classes=3).eval() for _ in range(2))
    images, labels = torch.rand(2, 3, 64, 64), [0, 2]
    players = pi.PatchPlayers(grid=8, n=4, region="central")
    before = pi.extract(probe, images, labels, players)
    after = pi.extract(finetuned, images, labels, players)
    figure = pi.compare(before, after).plot()
    assert figure.axes[0].get_xlabel().startswith("order")

"""One cell from data to results, on real images and weights at the smoke profile."""

import json
import shutil

import pytest
import small_study
import torch

import pi_lib as pi
from pi_lib import study, training
from pi_lib.study import backbones, data, findings, steps
from pi_lib.study.store import Store

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
    assert len(result.provenance()) == 3 + 1 + 2 * s.checkpoints  # runs, and interactions


def test_what_is_stored_is_what_the_model_says(result, store):
    """Extracting again from the trained network gives the stored values."""
    task = study.load(CELL)
    samples = study.samples(CELL, task)
    again = pi.extract(
        study.trained_model(CELL, "finetuned", store),
        training.images(samples.inputs),
        samples.labels,
        study.players(CELL, task),
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

    monkeypatch.setattr(training, "fit", refuse)
    monkeypatch.setattr(steps, "extract", refuse)
    again = study.run_all([CELL], store)[0]
    assert torch.equal(again.scratch.final.v, result.scratch.final.v)
    assert study.stored(CELL, store)
    assert not study.stored(study.Cell(profile="smoke", seed=1), store)


def test_what_is_skipped_is_said(store):
    """Short sentences have too few players; how many were passed over stands with the result."""
    cell = study.Cell("minilm", "movie-reviews", "smoke")
    task = study.load(cell)
    chosen = study.samples(cell, task)
    last = task.test.ids.index(chosen.ids[-1])
    fits = [study.players(cell, task).fits(sentence) for sentence in task.test.inputs[: last + 1]]
    found = study.run(cell, store).scratch.final
    assert found.meta["skipped"] == fits.count(False) and found.ids == chosen.ids


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
    with pytest.raises(ValueError, match="no published weights: name a source"):
        study.Cell(backbone="vit-32")
    with pytest.raises(ValueError, match="of the same data"):
        study.Cell("vit-32", "cifar10", source="cifar10-jpeg")
    with pytest.raises(ValueError, match="takes images, but task='sst2' has texts"):
        study.Cell(task="sst2")
    with pytest.raises(ValueError, match="phase='first'"):
        study.trained_model(CELL, "first")


@pytest.mark.filterwarnings("ignore:.*leave some of the .* classes without any")
@pytest.mark.parametrize(
    ("backbone", "source", "task"),
    [
        *((name, None, "fashion-mnist") for name in ("vgg16", "resnet50", "vit-base", "vit-small")),
        *((name, None, "movie-reviews") for name in ("bert-base", "distilbert")),
        *((name, "digits", "fashion-mnist") for name in ("vgg16-32", "resnet50-32", "vit-32")),
    ],
)
def test_every_backbone_goes_through_the_whole_pipeline(
    backbone, source, task, tmp_path, monkeypatch, digits
):
    """With random weights in the place of those that cannot be downloaded here."""
    built = backbones.build
    monkeypatch.setattr(
        backbones, "build", lambda *a, pretrained=True, **k: built(*a, pretrained=False, **k)
    )
    monkeypatch.setitem(study.PROFILES, "smoke", small_study.profile())
    result = study.run(study.Cell(backbone, task, "smoke", source=source), Store(tmp_path))
    assert result.probe.final.v.isfinite().all() and result.scratch.final.v.shape == (1, 4)
    assert ("pre-train" in result.entries) == (source is not None)
    shutil.rmtree(tmp_path)  # hundreds of MB


def test_a_folder_of_ones_own_is_a_task(tmp_path):
    """Read as any other; results go by the folder's content, not by where it lies."""
    folder = tmp_path / "mine"
    folder.mkdir()
    words = {"good": "a truly fine and moving film", "bad": "one very dull and empty film"}
    for part, count in (("train", 40), ("test", 40)):
        rows = [f"{text} number {k},{label}" for k in range(count) for label, text in words.items()]
        (folder / f"{part}.csv").write_text("text,label\n" + "\n".join(rows))
    cell = study.Cell("minilm", f"folder:{folder}", "smoke")
    assert cell.name == "minilm on mine" and study.load(cell).classes == ("bad", "good")
    before = data.identity(cell.task)
    moved = folder.rename(tmp_path / "elsewhere")
    data.registry.digest_of_folder.cache_clear()
    assert data.identity(f"folder:{moved}") == before
    assert str(tmp_path) not in json.dumps(study.Step(cell, "train", "probe", 0.1).key[1])
    (moved / "test.csv").write_text("text,label\nfine,good")
    data.registry.digest_of_folder.cache_clear()
    assert data.identity(f"folder:{moved}") != before
    data.registry.kind_of_folder.cache_clear()
    with pytest.raises(ValueError, match="task: .*there is no folder"):
        study.Cell("minilm", f"folder:{folder}", "smoke")
    with pytest.raises(ValueError, match="vit-32 takes images, but task='folder:.*' has texts"):
        study.Cell("vit-32", f"folder:{moved}", "smoke", source="cifar10")


def test_learning_rates_are_chosen_on_validation_samples(tmp_path, monkeypatch, digits):
    """With seed 0, for all seeds; a rate that diverges is not chosen; the trials are kept."""
    rates = {phase: (1e38, 1e-6, 1e-2) for phase in study.PHASES}
    monkeypatch.setitem(study.LEARNING_RATES, "image", rates)
    about = dict(n_train=96, n_val=32, n_test=32, trials=3, epochs=3, probe_epochs=20)
    monkeypatch.setitem(
        study.PROFILES, "smoke", small_study.profile(**about, size=32, batch_size=16, n_source=64)
    )
    store = Store(tmp_path)
    cell = study.Cell("resnet20", "digits", "smoke", seed=3, source="fashion-mnist")
    result = study.run(cell, store)
    assert study.stored(cell, store)
    table = result.learning_rates()
    probe = table[table["phase"] == "probe"]
    best = probe.sort_values(["accuracy", "loss"], ascending=[False, True]).iloc[0]
    assert best["chosen"] and probe["chosen"].sum() == 1 and set(probe["rate"]) == {1e-6, 1e-2}
    assert result.probe.settings["learning_rate"] == best["rate"] == 1e-2
    assert (table["samples"] == 32).all()
    seeds = [
        Store.record(entry)["spec"]["seed"]
        for entry in (tmp_path / "train").iterdir()
        if entry.is_dir()
    ]
    assert sorted(seeds) == [0] * 9 + [3] * 3  # the rates of each phase with seed 0; the chosen
    assert len(list((tmp_path / "pretrain").glob("[!.]*"))) == 1  # one for all seeds


def test_frozen_layers_are_those_of_fine_tuning(tmp_path, small):
    """The phases beside it are shared with the cell that freezes none."""
    plain = study.Cell(**small_study.CELL)
    cell = study.Cell(**small_study.CELL, changes={"frozen": 0.5})
    for phase in study.PHASES:
        one, other = (study.Step(c, "train", phase, 0.1).key for c in (plain, cell))
        assert (one == other) == (phase != "finetuned")
    store = Store(tmp_path)
    start, end = (study.build(cell, 10, store=store), study.trained_model(cell, "finetuned", store))
    kept = training.first_layers(start, 0.5)
    same = [
        torch.equal(x, y)
        for x, y in zip(start.encoder.parameters(), end.encoder.parameters(), strict=True)
    ]
    count = sum(len([*layer.parameters()]) for layer in kept)
    assert count and all(same[:count]) and not any(same[count:])


def test_validation_samples_are_no_training_samples(monkeypatch):
    monkeypatch.setitem(study.PROFILES, "smoke", small_study.profile(n_train=20, n_val=10))
    task = study.load(study.Cell(profile="smoke"))
    assert len(set(task.train.ids)) == 30
    assert sorted(task.train.labels[20:].tolist()) == list(range(10))  # balanced too


def test_a_cell_that_fails_leaves_the_others(tmp_path, monkeypatch):
    """Flowers have no source on this machine: the other cell is computed all the same."""
    monkeypatch.delenv("PI_LIB_DATA", raising=False)
    store = Store(tmp_path)
    failing = study.Cell("efficientnet-lite0", "flowers", "smoke")
    with pytest.raises(study.StudyFailed, match="lite0 on flowers, seed 0: .*MissingAsset"):
        study.run_all([failing, CELL], store)
    assert study.stored(CELL, store) and not study.stored(failing, store)


def test_the_table_says_what_the_results_say(result):
    table = result.table()
    assert findings.share(table, "preserved").value == pytest.approx(
        result.knowledge.preserved_share().value
    )
    assert findings.share(table, "learned by scratch").value == pytest.approx(
        result.learned.ratio().value
    )
    assert findings.share(table, "new").value == pytest.approx(result.knowledge.new_share().value)
    assert findings.accuracy(table, "probe") == result.probe.accuracy
    gap = result.knowledge.order_gap("discarded", "preserved")
    assert findings.order_gap(table, "discarded").value == pytest.approx(gap.value)
    areas = result.trajectory("finetuned").areas() - result.trajectory("scratch").areas()
    assert findings.area_gain(table).value == pytest.approx(areas.mean())
    directness = (result.trajectory(phase).directness().value for phase in ("finetuned", "scratch"))
    fine, scratch = directness
    assert findings.directness_gain(table).value == pytest.approx(fine - scratch, nan_ok=True)


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

"""One cell from data to its record, on real images and weights at the smoke profile."""

import json
import os
import shutil
import signal
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import combinations

import pytest
import small_study
import torch

import pi_lib as pi
from pi_lib import study, training
from pi_lib.book import tables
from pi_lib.study import assets, backbones, data, schedule, steps, workers
from pi_lib.study.store import Store

CELL = study.Cell("efficientnet-lite0", "fashion-mnist", profile="smoke")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def record(store):
    return study.run(CELL, store)


def test_a_cell_has_all_arms_and_runs_on_the_same_samples(record):
    s = CELL.settings
    assert [record.count(arm) for arm in study.ARMS] == [1, s.runs, s.runs, s.long_runs]
    for which, n in (("drawn", s.n), ("covering", s.covering)):
        runs = [
            game for arm in ("probe", "finetuned", "scratch") for game in record.runs(arm, which)
        ]
        assert all(game.players == runs[0].players and game.ids == runs[0].ids for game in runs)
        assert all(game.v.shape == (s.samples, 2**n) for game in runs)
    times = record.over_time("finetuned")
    assert len(times) == s.checkpoints and list(times)[0] == 0
    end = record.runs("finetuned")[0]
    assert torch.equal(times[max(times)].v, end.v[: s.traced_samples])
    assert set(record.accuracies()["arm"]) == {"probe", "finetuned", "scratch"}


def test_runs_differ_and_come_back(record, store, tmp_path):
    """Runs differ in head, batches and weights; the same run gives the same bits elsewhere."""
    first, second = record.runs("finetuned")
    assert not torch.allclose(first.v, second.v)
    starts = [study.build(CELL, 10, arm, run) for arm in ("finetuned", "scratch") for run in (0, 1)]
    heads = [model.head.weight for model in starts]
    assert not any(torch.equal(a, b) for a, b in combinations(heads, 2))
    one, other, scratch, scratch_again = (next(m.encoder.parameters()) for m in starts)
    assert torch.equal(one, other) and not torch.equal(scratch, scratch_again)
    again = study.Step(CELL, "train", "scratch", 1, 1e-3).compute(Store(tmp_path))
    stored = study.Step(CELL, "train", "scratch", 1, 1e-3).path(store)
    for file in stored.glob("*.safetensors"):
        assert file.read_bytes() == (again / file.name).read_bytes()


def test_no_scratch_run_starts_where_pre_training_started(small):
    """Streams of pre-training, heads, scratch weights and batches never meet."""
    cell = study.Cell(**small_study.CELL)
    before = steps._untrained(cell, 10)
    for run in range(3):
        scratch = study.build(cell, 10, "scratch", run)
        long = study.build(cell, 10, "long", run)
        assert not torch.equal(before.encoder.stem.weight, scratch.encoder.stem.weight)
        assert not torch.equal(long.encoder.stem.weight, scratch.encoder.stem.weight)
        assert not torch.equal(before.head.weight, scratch.head.weight)


def test_what_is_stored_is_what_the_model_says(record, store):
    """Extracting again from the trained network gives the stored values."""
    task = study.load(CELL)
    samples = study.samples(CELL, task)
    again = pi.extract(
        study.trained_model(CELL, "finetuned", 0, store),
        training.images(samples.inputs),
        samples.labels,
        study.players(CELL, task),
        ids=samples.ids,
    )
    torch.testing.assert_close(again.v, record.runs("finetuned")[0].v, rtol=1e-4, atol=1e-4)


def test_correctness_is_that_of_the_accuracy(record):
    for key, right in record.correct.items():
        assert right.shape == (CELL.settings.n_test,)
        assert right.mean() == pytest.approx(record.header["accuracy"][key])
    assert record.gain().low <= record.gain().value <= record.gain().high


def test_a_record_says_how_many_samples_were_trained_on(record):
    """A profile's size is an upper limit."""
    assert record.header["n_train"] == CELL.settings.n_train
    fewer = study.Record(record.header | {"n_train": 9}, record.games, record.correct)
    assert tables.settings({"": fewer})["training samples"].item() == "9"


def test_a_second_time_nothing_is_computed(record, store, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(training.phases, "fit", refuse)
    monkeypatch.setattr(training, "linear_probe", refuse)
    monkeypatch.setattr(steps, "extract", refuse)
    again = study.run_all([CELL], store)[0]
    assert again.games.keys() == record.games.keys()
    assert all((again.games[key] == record.games[key]).all() for key in record.games)
    assert study.stored(CELL, store)
    assert not study.stored(study.Cell(profile="smoke", changes={"epochs": 2}), store)


def test_a_cell_stops_in_time_and_goes_on(tmp_path, small):
    cell, store = study.Cell(**small_study.CELL), Store(tmp_path)
    assert study.compute_all([cell], store, 1, minutes=0) == []
    assert not study.stored(cell, store)
    assert study.compute_all([cell], store, 1) == [] and study.stored(cell, store)


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
    with pytest.raises(ValueError, match="covering=8; expected a square number"):
        study.Cell(changes={"covering": 8})
    with pytest.raises(ValueError, match="arm='first'"):
        study.trained_model(CELL, "first")


@pytest.mark.filterwarnings("ignore:.*leave some of the .* classes without any")
@pytest.mark.parametrize(
    ("backbone", "source", "task"),
    [
        ("resnet50", None, "fashion-mnist"),
        ("distilbert", None, "movie-reviews"),
        *(
            pytest.param(name, None, task, marks=pytest.mark.soak)  # minutes, on the same ways
            for name, task in [
                *((name, "fashion-mnist") for name in ("vgg16", "vit-base", "vit-small")),
                ("bert-base", "movie-reviews"),
            ]
        ),
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
    record = study.run(study.Cell(backbone, task, "smoke", source=source), Store(tmp_path))
    (probe,), (scratch,) = record.runs("probe"), record.runs("scratch")
    assert probe.v.isfinite().all() and scratch.v.shape == (1, 4)
    assert ("pre-train" in record.header["provenance"]) == (source is not None)
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
    assets.digest_of.cache_clear()
    assert data.identity(f"folder:{moved}") == before
    assert str(tmp_path) not in json.dumps(study.Step(cell, "train", "probe").key[1])
    (moved / "test.csv").write_text("text,label\nfine,good")
    assets.digest_of.cache_clear()
    assert data.identity(f"folder:{moved}") != before
    data.registry.kind_of_folder.cache_clear()
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        study.load(study.Cell("minilm", f"folder:{folder}", "smoke"))
    with pytest.raises(ValueError, match="vit-32 takes images, but 'folder:.*' has texts"):
        study.load(study.Cell("vit-32", f"folder:{moved}", "smoke", source="cifar10"))


def test_learning_rates_are_chosen_on_validation_samples(tmp_path, monkeypatch, digits):
    """By the first run, for all; a rate that diverges is not chosen; beyond an edge one goes on."""
    monkeypatch.setitem(study.RATES, "image", (1e38, 1e-6, 1e-5))
    changes = dict(n_train=96, n_val=32, n_test=32, epochs=3, size=32, batch_size=16, n_source=64)
    monkeypatch.setitem(study.PROFILES, "smoke", small_study.profile(**changes))
    store = Store(tmp_path)
    cell = study.Cell("resnet20", "digits", "smoke", source="fashion-mnist")
    record = study.run(cell, store)
    assert study.stored(cell, store)
    for arm in ("finetuned", "scratch"):
        tried = record.header["rates"][arm]["tried"]
        best = max(tried, key=lambda rate: (tried[rate]["accuracy"], -tried[rate]["loss"]))
        assert record.header["rates"][arm]["chosen"] == float(best)
        assert "1e+38" not in tried and {"1e-06", "1e-05"} < set(tried)  # one beyond, or two
        assert all(found["samples"] == 32 for found in tried.values())
    assert record.header["rates"]["probe"]["tried"] == {}
    assert len(list((tmp_path / "pretrain").glob("[!.]*"))) == 1  # one for all arms and runs


def test_frozen_layers_are_those_of_fine_tuning(tmp_path, small):
    """The arms beside it are shared with the cell that freezes none."""
    plain = study.Cell(**small_study.CELL)
    cell = study.Cell(**small_study.CELL, changes={"frozen": 0.5})
    for arm in study.ARMS:
        one, other = (study.Step(c, "train", arm, 0, 0.1).key for c in (plain, cell))
        assert (one == other) == (arm != "finetuned")
    store = Store(tmp_path)
    start = study.build(cell, 10, store=store)
    end = study.trained_model(cell, "finetuned", 0, store)
    frozen = training.first_layers(start, 0.5)
    same = [
        torch.equal(x, y)
        for x, y in zip(start.encoder.parameters(), end.encoder.parameters(), strict=True)
    ]
    count = sum(len([*layer.parameters()]) for layer in frozen)
    assert count and all(same[:count]) and not any(same[count:])


@pytest.mark.parametrize("way", [{"lora": 1}, {"probe_first": 1}, {"pull": 0.1}])
def test_a_way_to_fine_tune_is_of_fine_tuning_alone(way, tmp_path, small):
    """The arms beside it are shared; what is stored loads into the plain network."""
    plain, cell = (study.Cell(**small_study.CELL, changes=changes) for changes in ({}, way))
    for arm in study.ARMS:
        one, other = (study.Step(c, "train", arm, 0, 0.1).key for c in (plain, cell))
        assert (one == other) == (arm != "finetuned")
    store = Store(tmp_path)
    end = study.trained_model(cell, "finetuned", 0, store)
    settings = json.loads(
        (study.Step(cell, "train", "finetuned", 0, 1e-3).path(store) / "run.json").read_text()
    )["settings"]
    assert all(settings[name] == value for name, value in way.items())
    assert end.state_dict().keys() == study.build(cell, 10, store=store).state_dict().keys()


def test_ends_are_tested_elsewhere(tmp_path, small):
    """On corrupted pictures and on the task of pre-training, by arm and run."""
    changes = {"elsewhere": 1, "n": 0, "traced": 0, "long_runs": 0}
    cell, store = study.Cell(**small_study.CELL, changes=changes), Store(tmp_path)
    record = study.run(cell, store)
    assert study.Record.load(record.save(tmp_path)).correct.keys() == record.correct.keys()
    assert record.elsewhere == ["blur", "inverted", "low contrast", "noise", "source"]
    runs = ["probe1", "finetuned1", "finetuned2", "scratch1", "scratch2"]
    assert record.header["surer_of_its_own"].keys() == set(runs)
    assert record.header["provenance"].keys() >= {f"test {run}" for run in runs}
    task, source = study.load(cell), steps.load_source(cell)
    model = study.trained_model(cell, "finetuned", 1, store)
    dark = 1 - training.images(task.test.inputs)
    right = model(dark).argmax(-1) == task.test.labels
    assert right.tolist() == record.correct["finetuned2/inverted"].tolist()
    again = pi.linear_probe(backbones.transfer(model, 10), source.train, source.test)
    assert again.correct[-1].tolist() == record.correct["finetuned2/source"].tolist()
    with torch.no_grad():
        own, foreign = (
            model(training.images(split.inputs)).softmax(-1).amax(-1)
            for split in (task.test, source.test)
        )
    surer = (own[:, None] > foreign).double().mean().item()
    assert record.header["surer_of_its_own"]["finetuned2"] == pytest.approx(surer)

    entries = [entry.parent.name for entry in schedule.entries(cell, store)]
    assert entries.count("test") == len(runs) and schedule.stored(cell, store)
    asked = study.Step(cell, "test", "scratch", 0, 1e-3).key
    for other in ({"lora": 2}, {"frozen": 0.5}):
        other = study.Cell(**small_study.CELL, changes=changes | other)
        assert study.Step(other, "test", "scratch", 0, 1e-3).key == asked


def test_validation_samples_are_no_training_samples(monkeypatch):
    monkeypatch.setitem(study.PROFILES, "smoke", small_study.profile(n_train=20, n_val=10))
    task = study.load(study.Cell(profile="smoke"))
    assert len(set(task.train.ids)) == 30
    assert sorted(task.train.labels[20:].tolist()) == list(range(10))  # balanced too


def test_a_named_learning_rate_is_of_its_arm_alone(tmp_path):
    """Long scratch has that of scratch; the other arm still chooses."""
    store, cell = Store(tmp_path), study.Cell(**small_study.CELL, changes={"n_val": 8})
    for name, arms in (("rate", {"finetuned"}), ("scratch_rate", {"scratch", "long"})):
        named = replace(cell, changes={"n_val": 8, name: 0.02})
        for arm in ("finetuned", "scratch", "long"):
            rates = [trial.rate for trial in schedule._trials(named, arm, store)]
            assert (rates == [0.02]) == (arm in arms) and (len(rates) > 1) == (arm not in arms)
    assert named.title.endswith("learning rate 0.02 of scratch")


def test_a_cell_that_fails_leaves_the_others(record, store, monkeypatch):
    """Flowers have no source here. That others are computed all the same, a grid's test sees."""
    monkeypatch.delenv("PI_LIB_DATA", raising=False)
    failing = study.Cell("efficientnet-lite0", "flowers", "smoke")
    with pytest.raises(study.StudyFailed, match="lite0 on flowers: .*MissingAsset"):
        study.run_all([failing, CELL], store)
    assert study.stored(CELL, store) and not study.stored(failing, store)


def test_a_run_that_diverged_is_among_the_entries_of_its_cell(small, tmp_path):
    cell, store = study.Cell(**small_study.CELL, changes={"rate": 1e30}), Store(tmp_path)
    with pytest.raises(training.TrainingDiverged, match="try a learning rate below 1e.30"):
        study.run(cell, store)
    assert sorted(study.entries(cell, store)) == store.entries()


class _Killed:
    def __init__(self, killed):
        self.killed = killed

    def compute(self, _):
        return os.kill(os.getpid(), signal.SIGKILL) if self.killed else "done"


def test_a_process_that_is_killed_takes_no_other_step_with_it():
    with workers.Processes(1) as pool:
        with pytest.raises(BrokenProcessPool):
            pool.submit(_Killed(True), None).result()
        assert pool.submit(_Killed(False), None).result() == "done"


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

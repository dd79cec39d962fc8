"""Records: what is written comes back; what is no record, or of another version, is named."""

import json

import numpy as np
import pytest
import torch

import pi_lib as pi
from pi_lib import study

RNG = np.random.default_rng(0)


def record(**changes) -> study.Record:
    """Two fine-tuned runs, one of them with a checkpoint, on three samples of three players."""
    games = {
        f"drawn/{key}": RNG.normal(size=(3, 8)).astype(np.float32)
        for key in ("probe1", "finetuned1", "finetuned2", "finetuned1@4", "scratch1", "scratch2")
    }
    right = {
        key: RNG.random(20) < 0.5 for key in ("finetuned1", "finetuned2", "scratch1", "scratch2")
    }
    header = {
        "cell": "net on data", "slug": "net-on-data", "labels": [0, 1, 0], "ids": [4, 5, 6],
        "players": {"drawn": [["a", "b", "c"]] * 3}, "tested": 20, "last_step": {"finetuned": 9},
        "accuracy": {key: float(x.mean()) for key, x in right.items()},
        "logs": {"finetuned1": [{"step": 0, "loss": 1.0, "accuracy": 0.1},
                                {"step": 9, "loss": 0.5, "accuracy": 0.4}]},
    }  # fmt: skip
    return study.Record(header | changes, games, right)


def test_what_is_written_comes_back(tmp_path):
    written = record()
    path = written.save(tmp_path)
    read = study.Record.load(path)
    assert path.name == "net-on-data.npz" and read.header.items() >= written.header.items()
    for key, v in written.games.items():  # a level is a 65,535th of the range
        assert (abs(read.games[key] - v).max(1) <= 0.6 * np.ptp(v, 1) / 65_535).all()
    assert all((read.correct[key] == x).all() for key, x in written.correct.items())
    assert list(study.read_all(tmp_path)) == ["net on data"]
    with np.load(path, allow_pickle=False) as arrays:  # numpy alone reads it
        assert json.loads(bytes(arrays["about"]))["ids"] == [4, 5, 6]


def test_runs_and_checkpoints_are_told_apart():
    r = record()
    assert [r.count(arm) for arm in study.ARMS] == [1, 2, 2, 0]
    first, second = r.runs("finetuned")
    assert first.players == second.players == [["a", "b", "c"]] * 3 and first.labels == [0, 1, 0]
    assert torch.equal(first.v, torch.from_numpy(r.games["drawn/finetuned1"]).double())
    assert list(r.over_time("finetuned")) == [4, 9]
    assert r.accuracies()["progress"].tolist() == [0, 1]
    assert r.steps_to_accuracy("finetuned", 0.5) == pytest.approx([3.0])  # .1 to .4: .2 on the way
    with pytest.raises(ValueError, match="no arm 'long'.*finetuned"):
        r.runs("long")
    with pytest.raises(ValueError, match="no arm 'finetuned' .covering"):
        r.runs("finetuned", "covering")
    with pytest.raises(ValueError, match="no checkpoints of scratch"):
        r.over_time("scratch")


def test_rounding_in_the_file_moves_no_share(tmp_path):
    """The paper's share and the similarity, of games of n = 10, before and after."""
    key = "finetuned1", "finetuned2"
    base = RNG.normal(size=(1, 8, 1024)).cumsum(-1)
    games = {f"drawn/{k}": (base[0] + RNG.normal(size=(8, 1024))).astype("f4") for k in key}
    games["drawn/flat1"] = np.ones((8, 1024), "f4")  # of a network that does not move
    about = {"labels": [0] * 8, "ids": [*range(8)], "players": {}}
    written = study.Record(record().header | about, games)
    read = study.Record.load(written.save(tmp_path))
    found = []
    for r in (written, read):
        first, second = r.runs("finetuned")
        found.append(
            [
                pi.compare(first, second).preserved_share().value,
                pi.reliability([first, second]).value,
            ]
        )
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    assert (read.games["drawn/flat1"] == 1).all()


def test_checkpoints_on_fewer_samples_cut_the_end(tmp_path):
    r = record()
    r.games["drawn/finetuned1@4"] = r.games["drawn/finetuned1@4"][:2]
    assert [len(game) for game in r.over_time("finetuned").values()] == [2, 2]
    assert len(r.runs("finetuned")[0]) == 3


def test_a_gain_is_paired_by_sample():
    """The same test samples right in both arms: no difference, and no doubt about it."""
    r = record()
    right = r.correct["finetuned1"]
    same = study.Record(r.header, r.games, dict.fromkeys(r.correct, right))
    assert same.gain().value == 0 and same.gain().high - same.gain().low < 0.5
    better = {key: right | key.startswith("finetuned") for key in r.correct}
    assert study.Record(r.header, r.games, better).gain().low > 0


def test_what_a_run_does_elsewhere_has_lengths_of_its_own(tmp_path):
    r = record()
    elsewhere = {"finetuned1/noise": RNG.random(20) < 0.5, "finetuned2/noise": RNG.random(20) < 0.5,
                 "finetuned1/source": RNG.random(13) < 0.5, "scratch1/noise": RNG.random(20) < 0.5,
                 "finetuned2/source": RNG.random(13) < 0.5}  # fmt: skip
    read = study.Record.load(study.Record(r.header, r.games, r.correct | elsewhere).save(tmp_path))
    assert read.elsewhere == ["noise", "source"] and not r.elsewhere
    assert all((read.correct[key] == x).all() for key, x in elsewhere.items())
    means = [elsewhere[f"finetuned{run}/source"].mean() for run in (1, 2)]
    assert read.accuracy("finetuned", on="source").value == pytest.approx(np.mean(means))
    assert read.accuracy("finetuned").value == pytest.approx(r.accuracy("finetuned").value)
    gain = read.accuracy("finetuned", "noise").value - read.accuracy("scratch", "noise").value
    assert read.gain(on="noise").value == pytest.approx(gain)
    with pytest.raises(ValueError, match="'scratch' was not tested on 'source'; there is noise"):
        read.gain(on="source")
    with pytest.raises(ValueError, match="not tested on 'noise'; .*elsewhere=1"):
        r.accuracy("finetuned", on="noise")


def test_what_is_no_record_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m pi_lib study"):
        study.Record.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("none")
    with pytest.raises(study.RecordError, match="text.npz is no record"):
        study.Record.load(tmp_path / "text.npz")
    about = np.frombuffer(json.dumps({"version": 1}).encode(), np.uint8)
    np.savez(tmp_path / "old.npz", about=about)
    with pytest.raises(study.RecordError, match="of version 1, not 3: make it by"):
        study.Record.load(tmp_path / "old.npz")

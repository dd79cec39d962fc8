"""The picture of the front page, drawn from records in which the truth is planted."""

import shutil
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from planted_records import SAMPLES, planted

from pi_lib.book import hero, runner
from pi_lib.study import Record

matplotlib.use("Agg")
FOLDER = runner.ROOT / "notebooks" / "recorded" / "hero"
WORDS = "well shot badly written".split()


def asked(players, **planting):
    """A planted record that names its players, with the samples of the page among its own."""
    record = planted(kept=0.5, noise=0.05, **planting)
    games = {key.replace("covering", players): v for key, v in record.games.items()}
    about = {"ids": [38, 315, *range(1000, 998 + SAMPLES)], "players": {players: [WORDS] * SAMPLES}}
    return Record(record.header | about, games, record.correct)


@pytest.fixture
def folder(tmp_path):
    """The page's folder with planted records in place of its own."""
    for name in ("photograph.jpg", "photograph.toml", "sentence.toml"):
        shutil.copy(FOLDER / name, tmp_path)
    return tmp_path


@pytest.fixture
def shown(folder):
    asked("covering", backbone="efficientnet-lite0", source=None, task="flowers").save(folder)
    asked("drawn", backbone="minilm", source=None, task="sst2").save(folder)
    return hero.examples(folder)


def test_the_picture_is_drawn_with_its_credits(shown):
    figure = hero.draw(shown)
    assert [axis.get_title() for axis in figure.axes[:3]] == [
        "linear probe", "fine-tuned, in all 3 runs", "scratch, in all 3 runs"
    ]  # fmt: skip
    assert all(axis.lines for axis in figure.axes)
    said = hero.credits(shown)
    assert "https://www.flickr.com/photo.gne?id=19975899671" in said and "CC BY 2.0" in said
    usual = hero.usual(shown)
    assert usual.shape == (8, 2) and "[" in usual.loc["kept, beyond chance"].iloc[0]
    with pytest.raises(ValueError, match=r"players \['badly'\] are no words"):
        text = replace(shown["sentence"], input=["well", "shot", "written"])
        hero.draw(shown | {"sentence": text})


def test_what_is_kept_is_in_the_probe_and_in_every_run():
    record = planted(kept=0.5, noise=0.3)
    found = hero.parts(record, "covering")
    runs = hero.signs(record.runs("finetuned"))
    probe = found["probe"]
    assert ((found["kept"] != 0) == ((runs == probe).all(0) & (probe != 0))).all()
    assert ((found["lost"] != 0) == ((runs != probe).all(0) & (probe != 0))).all()
    assert not (found["new"] & found["kept"]).any()
    assert (found["finetuned"][found["new"] != 0] != probe[found["new"] != 0]).all()


def test_chance_is_the_mean_over_shuffles():
    record, rng = planted(kept=0, learned=0, noise=3), np.random.default_rng(0)
    runs = hero.signs(record.runs("finetuned"))
    orders, times = np.array([bin(s).count("1") for s in range(16)]), 100
    found = hero.parts(record, "covering")
    agreed, kept = 0.0, 0.0
    for _ in range(times):
        shuffled, moved = runs.copy(), found["finetuned"].copy()
        for m in range(1, 5):
            shuffled[..., orders == m] = rng.permuted(runs[..., orders == m], axis=-1)
            moved[:, orders == m] = rng.permuted(moved[:, orders == m], axis=-1)
        agreed += ((shuffled == shuffled[0]).all(0) & (shuffled[0] != 0)).sum(-1).mean() / times
        kept += ((moved == found["probe"]) & (moved != 0)).sum(-1).mean() / times
    counted = hero.counts(record, "covering")
    assert counted["chance"].value == pytest.approx(agreed, abs=0.1)
    assert counted["kept by chance"].value == pytest.approx(kept, abs=0.1) and kept > 0.2
    above = counted["kept"].value - counted["kept by chance"].value
    assert counted["kept above chance"].value == pytest.approx(above)
    assert counted["kept above chance"].low < above < counted["kept above chance"].high


def test_without_records_the_page_says_how_to_make_them(folder):
    assert hero.examples(folder) is None
    asked("drawn", backbone="minilm", source=None, task="sst2").save(folder)
    assert hero.examples(folder) is None
    assert "python -m pi_lib study --grid notebooks/grids/paper.yml" in hero.in_words(None)


def test_a_photograph_without_a_credit_is_refused(tmp_path):
    shutil.copy(FOLDER / "photograph.jpg", tmp_path)
    with pytest.raises(
        ValueError, match="photograph.jpg has no credit: expected title, sample, fl"
    ):
        hero.examples(tmp_path)
    (tmp_path / "photograph.toml").write_text('title = "a flower"')
    with pytest.raises(ValueError, match="no credit: expected sample, flickr, licence"):
        hero.photograph(tmp_path / "photograph.jpg")

"""The report on a folder of one's own: from one command to one file, and what it refuses."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from pi_lib import study
from pi_lib.__main__ import main
from pi_lib.book import report
from pi_lib.study.cell import title_of
from pi_lib.study.store import Store


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Stripes across and along, in noise."""
    folder, rng = tmp_path_factory.mktemp("own") / "stripes & noise", np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 8)):
        for k, name in enumerate(("across", "along")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                pixels.swapaxes(0, k)[8:24:2] += 120
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A store of its own, and the assets that are there."""
    from pi_lib.study.store import home

    own, there = tmp_path / "home", home() / "data"
    own.mkdir()
    if there.exists():
        (own / "data").symlink_to(there.resolve())
    monkeypatch.setenv("PI_LIB_HOME", str(own))
    return own


def test_images_from_one_command_to_one_file(pictures, home, capsys):
    output = home / "report.html"
    command = ["report", f"folder:{pictures}", "--profile", "smoke", "--jobs", "1"]
    command += ["-p", "epochs=2"]
    command += ["--output", str(output)]
    assert main(command) == 0 and str(output) in capsys.readouterr().out
    cell = report.cell(pictures, None, "smoke", {"epochs": 2})
    record, page = study.collect(cell, Store()), output.read_text(encoding="utf-8")
    assert "<h1>EfficientNet-Lite0, ImageNet → stripes &amp; noise" in page
    words = page.replace("\N{NO-BREAK SPACE}", " ")
    for arm in ("probe", "finetuned", "scratch"):
        assert f"<td>{record.accuracy(arm)}</td>" in words
    assert f"a difference of {record.gain()}, paired by test sample" in page
    assert f"<td>{record.gain('probe')}</td>" in words
    assert record.header["settings"]["n_train"] == 32 and "<td>32</td>" in page
    assert record.header["identity"].removeprefix("folder:") in page
    assert re.findall(
        r'<img alt="[^"]+" width="\d+" height="\d+" src="data:image/png;base64,[\w+/=]+">', page
    )
    outside = re.sub(r"base64,[\w+/=]+", "", page)
    assert not re.search(r"https?:|//|<script|<link|@import|url\(", outside)
    assert str(pictures.parent) not in page and "None" not in page and "nan" not in outside.lower()
    made = {path: path.stat().st_mtime_ns for path in Store().entries()}
    assert main(command) == 0  # nothing is computed again
    assert made == {path: path.stat().st_mtime_ns for path in Store().entries()}


def test_a_folder_called_as_a_data_set_is_not_taken_for_it():
    assert (title_of("folder:/my/cars"), title_of("folder:cats+dogs")) == ("cars", "cats+dogs")


@pytest.fixture
def sentences(tmp_path):
    words = ("splendid moving brilliant funny", "tedious clumsy shallow awful")
    for part, count in (("train", 12), ("test", 8)):
        rows = [
            f"{words[i % 2]} film number {i} about distant harbour towns,{i % 2}"
            for i in range(count)
        ]
        (tmp_path / f"{part}.csv").write_text("\n".join(["text,label", *rows]))
    return tmp_path


def test_a_folder_of_sentences(sentences, home, capsys):
    cell = report.cell(sentences, None, "smoke")
    assert cell.backbone == "minilm"
    assert report.cell(f"folder:{sentences}", None, "smoke") == cell
    assert dict(cell.changes) == {"n_train": 12, "n_test": 8}
    reduced = report.cell(sentences, None, "reduced", {"samples": 5, "n": 4, "covering": 4})
    assert dict(reduced.changes).items() >= {"n_train": 9, "n_val": 3, "n_test": 8}.items()
    short = sentences / "short"  # a folder of its own: a process reads each once
    short.mkdir()
    for part in ("train", "test"):
        (short / f"{part}.csv").write_text("text,label\n" + "so dull,0\nso fine,1\n" * 4)
    assert main(["report", str(short), "--profile", "smoke"]) == 2
    assert "0 of 8 test samples have 4 players" in capsys.readouterr().err


@pytest.mark.soak
def test_sentences_from_one_command_to_one_file(sentences, home):
    output = home / "report.html"
    options = ["--profile", "smoke", "--jobs", "1", "--output", str(output), "-p", "traced=0"]
    assert main(["report", str(sentences), *options]) == 0
    assert "<h1>MiniLM, sentence pairs → " in output.read_text(encoding="utf-8")


def one_class(folder):
    for part in ("train", "test"):
        shutil.rmtree(folder / part / "along")


def none_to_test(folder):
    shutil.rmtree(folder / "test" / "along")


def none_to_train(folder):
    shutil.rmtree(folder / "train" / "along")


def no_test_part(folder):
    shutil.rmtree(folder / "test")


def few_to_test(folder):
    for picture in [*(folder / "test").glob("*/[1-7].png")]:
        picture.unlink()


def unreadable(folder):
    whole = (folder / "train" / "along" / "3.png").read_bytes()
    (folder / "train" / "along" / "3.png").write_bytes(whole[: len(whole) // 2])
    (folder / "test" / "across" / "5.png").write_text("no picture")
    (folder / "test" / "across" / "._5.png").write_text("what a Mac leaves, which is not read")


def table_of_one_class(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    for part in ("train", "test"):
        (folder / f"{part}.csv").write_text("text,label\na fine film,good\nfine,good")


def gone(folder):
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (one_class, r"there is one class, 'across'\. Expected train/CLASS/\*\.jpg and test/CLASS"),
        (table_of_one_class, r"there is one class, 'good'\. Expected .* at least two classes"),
        (none_to_test, r"no test sample of 1 of the 2 classes \(the first: 'along'\)"),
        (none_to_train, r"there is one class, 'across'"),
        (no_test_part, r"found the splits train, but no .* and test/CLASS/\*\.jpg"),
        (few_to_test, "2 test samples; expected at least 5"),
        (unreadable, r"2 of 48 files .* as images: test/across/5\.png, train/along/3\.png\. Mend"),
        (gone, "there is no folder"),
    ],
)
def test_a_folder_that_cannot_be_studied_is_named(pictures, home, tmp_path, capsys, spoil, message):
    folder = tmp_path / "spoiled"
    shutil.copytree(pictures, folder)
    spoil(folder)
    assert main(["report", str(folder), "--profile", "smoke", "--output", str(home / "x")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert Store().entries() == [] and not (home / "x").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runs", "1"], "runs=1; expected at least 2"),
        (["-p", "long_runs=1"], "long_runs=1; expected at least 2"),
        (["-p", "samples=4"], "4 test samples; expected at least 5"),
        (["--backbone", "resnet"], "backbone='resnet'; expected one of"),
        (["--backbone", "resnet20"], "resnet20 has no published weights"),
        (["--backbone", "minilm"], "minilm takes texts, but .* has images"),
        (["--profile", "small"], "profile='small'; expected one of"),
        (["--output", "nowhere/x.html"], "expected a file in a folder that is there"),
        (["-p", "epoch=2"], "no setting 'epoch' to change"),
        (["-p", "n_train=500"], "n_train=500, but there are 32 samples"),
    ],
)
def test_what_is_asked_for_wrongly_is_named(pictures, home, capsys, options, message):
    assert main(["report", str(pictures), "--profile", "smoke", *options]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert Store().entries() == []

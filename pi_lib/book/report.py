"""A folder of the reader's own, from its samples to one HTML file: ``python -m pi_lib report``."""

from collections.abc import Mapping
from html import escape
from importlib import metadata
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pi_lib.book import figures, study_figures, tables
from pi_lib.progress import track
from pi_lib.reliability import FEWEST_SAMPLES
from pi_lib.study import ARMS, Cell, Record, assets, data, findings, steps
from pi_lib.study.data import folder
from pi_lib.study.data.pictures import pixels
from pi_lib.study.data.registry import raw
from pi_lib.study.transfer import TransferStudy

BACKBONES = {"image": "efficientnet-lite0", "text": "minilm"}
EXPECTED = (
    "Expected train/CLASS/*.jpg and test/CLASS/*.jpg, or train.csv and test.csv with the columns "
    "text and label"
)
KINDS = {"observed": "observed", "chance": "chance", "second_run": "second run"}

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body {font: 1rem/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem}
table {border-collapse: collapse; font-size: .85rem}
div {overflow-x: auto}
th, td {border: 1px solid #c9c9c9; padding: .25rem .5rem; text-align: left; vertical-align: top}
figure {margin: 1.5rem 0} img {max-width: 100%; height: auto} footer {font-size: .85rem}
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")


def cell(
    path: str | Path,
    backbone: str | None = None,
    profile: str = "quick",
    changes: Mapping[str, Any] | None = None,
) -> Cell:
    """The cell as which a folder is studied, its samples looked at; nothing is trained.

    Parameters
    ----------
    path : path
        A folder of images or sentences, or ``folder:PATH`` as `pi_lib.study.data.load` takes it.
    backbone : str, optional
        Default EfficientNet-Lite0 for images, MiniLM for sentences.
    profile : str
        Its sizes are upper limits: a smaller folder is taken whole.
    changes : mapping, optional
        Fields of `pi_lib.study.Settings` that are other than in the profile.

    Raises
    ------
    ValueError
        If the folder has no training or test part, one class, a class without test samples, fewer
        than 5 test samples or too few that have enough players, or a picture that cannot be read;
        for fewer than two runs; as `pi_lib.study.Cell`.
    pi_lib.study.assets.MissingAsset
        If there is no such folder.
    """
    path, changes = folder.path_of(str(path)), dict(changes or {})
    task = f"{data.FOLDER}{path.resolve()}"
    found = _whole(task)
    asked = Cell(backbone or BACKBONES[found.kind], task, profile, changes=changes)
    s = asked.settings
    for name in ("runs", "long_runs"):
        if getattr(s, name) == 1:
            raise ValueError(f"{name}=1; expected at least 2: one run says nothing of a second")
    there, tested = len(found.train.labels), len(found.test.labels)
    if (least := min(tested, s.samples)) < FEWEST_SAMPLES:
        raise ValueError(f"{path}: {least} test samples; expected at least {FEWEST_SAMPLES}")
    train = min(there, s.n_train + s.n_val)
    n_val = train * s.n_val // (s.n_train + s.n_val)
    most = {
        "n_train": train - n_val, "n_val": n_val,
        "n_test": min(tested, s.n_test), "samples": min(tested, s.samples),
    }  # fmt: skip
    smaller = {name: size for name, size in most.items() if size != getattr(s, name)}
    if found.kind == "image":
        _refuse_unreadable(folder.path_of(task))
    asked = Cell(asked.backbone, task, profile, changes=smaller | changes)
    steps.samples(asked, steps.load(asked))
    return asked


def _whole(task: str) -> data.DataSet:
    """The folder's data set, of which no picture has been read yet."""
    path = folder.path_of(task)
    parts = [[x for x in (path / part).glob("*") if x.is_dir()] for part in ("train", "test")]
    try:
        if len(parts[0]) == 1:  # whose name `datasets` would not read as a label
            raise ValueError(f"{path}: there is one class, {parts[0][0].name!r}")
        found = raw(task)
        if len(found.classes) < 2:
            raise ValueError(f"{path}: there is one class, {found.classes[0]!r}")
    except ValueError as error:
        raise ValueError(f"{error}. {EXPECTED}, of at least two classes") from error
    tested = set(found.test.labels.tolist())
    if absent := [name for k, name in enumerate(found.classes) if k not in tested]:
        raise ValueError(
            f"{path}: no test sample of {len(absent)} of the {len(found.classes)} classes (the "
            f"first: {absent[0]!r}); complete the test part, or leave the classes out"
        )
    return found


def _refuse_unreadable(path: Path) -> None:
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
    from PIL import Image

    pictures = [x for x in assets.files_in(path) if x.suffix.lower() in ImageFolder.EXTENSIONS]
    wrong = []
    for file in track(pictures, "looking at the pictures"):
        try:
            with Image.open(file) as picture:
                pixels(picture, None, str(file))
        except (OSError, SyntaxError):
            wrong.append(file)
    if wrong:
        listed = ", ".join(str(file.relative_to(path)) for file in wrong[:5])
        raise ValueError(
            f"{path}: {len(wrong)} of {len(pictures)} files cannot be read as images: {listed}"
            f"{', ...' if len(wrong) > 5 else ''}. Mend them, or take them out"
        )


def write(record: Record, path: str | Path) -> None:
    """Write what a record says as one HTML file, which needs no other file."""
    Path(path).write_text(page(record), encoding="utf-8")


def page(record: Record) -> str:
    """What a record of several runs says: sentences, pictures and tables, as HTML."""
    figures.style()
    study, title = TransferStudy.of_record(record), record.title
    claims = findings.findings({title: findings.Runs(record)})
    similarity = {ARMS[arm]: number for arm, number in study.similarity().items()}
    shares = {
        name: {words: share.row()[kind] for kind, words in KINDS.items()}
        for name, share in study.shares().items()
    }
    accuracy = study.table()
    gains = {ARMS[arm]: str(study.gain(arm)) for arm in study.arms if arm != "finetuned"}
    accuracy.insert(3, "gain of fine-tuning over it", [gains.get(x, "") for x in accuracy.index])
    verdicts = tables.in_words(claims[["verdict"]].assign(cell=claims["claim"])).replace("**", "")
    sentences = [*study.sentences(), f"The paper's claims, on this folder: {verdicts}."]
    settings = tables.settings({title: record})
    digest = record.header["identity"].removeprefix(data.FOLDER)
    data_set = f"{folder.path_of(record.header['task']).name}, {digest}"
    parts = [
        "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>",
        _figure(
            study.plot(),
            "Left: where what fine-tuned runs reproducibly know comes from. Right: gain in "
            "accuracy of fine-tuning over training from scratch, with its 95 % interval.",
        ),
        _figure(
            study_figures.shares({title: similarity}, "similarity with fine-tuned runs"),
            "How much of what is reproducible other networks have in common with the fine-tuned "
            "ones: 0 is chance, 1 is all.",
        )
        if any(number.measurable for number in similarity.values())
        else "",
        _figure(
            study_figures.shares(shares, "share of the interactions' strength"),
            "Shares of single runs, as the paper takes them, beside chance and a second run.",
        ),
        _table("Accuracy, paired by test sample, and what comes back", accuracy),
        _table("The claims of arXiv 2410.08455", tables.claims(claims).droplevel(-1)),
        _table("What was trained", settings.loc[:, : tables.RUNS]),
        _table("Learning rates", tables.rates({title: record}).droplevel(0)),
        f"<footer>{_table('Where this comes from', tables.provenance({title: record}))}",
        f"<p>pi_lib {metadata.version('pi_lib')}; the data: {escape(data_set)}.</p></footer>",
    ]
    return PAGE.substitute(title=escape(title), body="\n".join(parts))


def _figure(figure: Figure, caption: str) -> str:
    picture = figures.image(figure, caption, dpi=120)
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(heading: str, frame: pd.DataFrame) -> str:
    html = frame.rename_axis(index=None, columns=None).to_html(border=0, justify="left")
    return f"<h2>{escape(heading)}</h2>\n<div>{html}</div>"

"""The picture of the front page: on a photograph and a sentence, what comes back in every run.

It draws records, so nothing is trained for it. Effects of groups of players are Walsh coefficients,
as in the book's other conclusions. An effect *comes back* in an arm if it has the same sign in each
of its runs, and in each at least the share `TAU` of the strongest one of the sample.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import pi
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from pi_lib.book import MAKES, tables
from pi_lib.book.figures import COLOURS
from pi_lib.coalitions import members, order
from pi_lib.interactions import Interactions
from pi_lib.players.words import distinct
from pi_lib.statistics import Estimate, bootstrap
from pi_lib.study import Record, RecordError, read_all
from pi_lib.transforms import walsh_transform

TAU = 0.1  # of the strongest effect of a sample
MOST_LOST = 8  # effects that are drawn; there are too many
PARTS = {  # colour of what is drawn
    "kept": COLOURS["preserved"],
    "lost": "#5F5F5F",
    "new": COLOURS["new"],
    "scratch": COLOURS["scratch"],
}
NAMES = {
    "kept": "kept: in the probe and in all fine-tuned runs",
    "lost": "lost: in the probe, in no fine-tuned run",
    "new": "new: in all fine-tuned runs, not in the probe",
    "scratch": "in all scratch runs, and not kept, lost or new",
}
COLUMNS = {"probe": "linear probe", "finetuned": "fine-tuned", "scratch": "scratch"}
CREDIT = ("title", "sample", "flickr", "licence", "licence_url", "changes")  # of a photograph


@dataclass(frozen=True)
class Example:
    """A photograph or a sentence, with a record that asked about it.

    `input` are its pixels (H, W, 3) uint8, or its words in their order. The `players` of the record
    are "covering", all patches of a square grid, or "drawn", some of the words. `sample` is its id,
    `title` and `credit` say what it is and where it is from.
    """

    input: np.ndarray | list[str]
    sample: int
    title: str
    credit: str
    record: Record
    players: str

    @property
    def row(self) -> int:
        """Where the sample stands in the games of the record."""
        return list(self.record.header["ids"]).index(self.sample)


def photograph(path: Path) -> dict[str, Any]:
    """Pixels, id, title and credit of a JPEG, as `Example` has them.

    ``NAME.toml`` beside ``NAME.jpg`` has the fields of `CREDIT`: ``sample`` is its id in the data
    set, ``flickr`` the photograph's number there. ValueError if one is missing: no page shows a
    photograph without its credit.
    """
    beside = path.with_suffix(".toml")
    about = tomllib.loads(beside.read_text("utf-8")) if beside.is_file() else {}
    if missing := [name for name in CREDIT if name not in about]:
        raise ValueError(
            f"{path.name} has no credit: expected {', '.join(missing)} in {beside.name} beside it; "
            "write them there, or show another photograph"
        )
    credit = (
        f"photograph [Flickr {about['flickr']}](https://www.flickr.com/photo.gne?id="
        f"{about['flickr']}), whose page names the photographer, under "
        f"[{about['licence']}]({about['licence_url']}), {about['changes']}"
    )
    same = {name: about[name] for name in ("sample", "title")}
    return {"input": plt.imread(path), "credit": credit} | same


def examples(folder: str | Path) -> dict[str, Example] | None:
    """The "photograph" and the "sentence" of a folder, with its records that asked about them.

    None if the folder has no record of the task of one of them that has it, with the players that
    `draw` needs and several fine-tuned runs; ValueError if the photograph has no credit.
    """
    folder = Path(folder)
    picture = photograph(folder / "photograph.jpg")
    text = tomllib.loads((folder / "sentence.toml").read_text("utf-8"))
    inputs = {
        "photograph": ("flowers", "covering", picture),
        "sentence": ("sst2", "drawn", {"input": distinct(text.pop("text").split())} | text),
    }
    try:
        records = read_all(folder).values()
    except (FileNotFoundError, RecordError):
        return None
    found = {}
    for name, (task, players, about) in inputs.items():
        for record in records:
            header = record.header
            named = header["players"] and record.count("finetuned", players) > 1
            if header["task"] == task and named and about["sample"] in header["ids"]:
                found[name] = Example(**about, record=record, players=players)
                break
    return found if found.keys() == inputs.keys() else None


def in_words(shown: Mapping[str, Example] | None) -> str:
    """How the picture is to be taken, as Markdown; without it, how it is made."""
    if shown is None:
        return (
            "The picture that stands here is drawn from records of EfficientNet-Lite0 on Flowers "
            "and of MiniLM on SST-2, which are not there or hold other players; this makes them: "
            f"`{MAKES.format('paper', 'hero')}`."
        )
    return (
        "One example proves nothing; it was chosen for how it looks. What only some of the "
        "fine-tuned runs have is drawn nowhere. The table says what is usual in the two records "
        "from which the example was taken: means over samples, with 95 % intervals."
    )


def usual(shown: Mapping[str, Example]) -> pd.DataFrame:
    """How many groups of players a sample has of each kind, in the records of the picture."""
    lines = {
        "in the probe": "probe",
        "lost: of these, in no fine-tuned run": "lost",
        "come back in all fine-tuned runs": "finetuned",
        "by chance: if the groups of each run were shuffled": "chance",
        "kept: come back, and are in the probe": "kept",
        "kept, beyond chance": "kept above chance",
        "new: come back, and are not in the probe": "new",
        "come back in all scratch runs": "scratch",
    }
    columns = {}
    for one, of in zip(shown.values(), ("patches", "words"), strict=True):
        found, samples = counts(one.record, one.players), len(one.record.header["ids"])
        heading = f"groups of {of} in a sample: {one.record.title}; {samples} samples"
        columns[heading] = {line: tables.said(found[name]) for line, name in lines.items()}
    return pd.DataFrame(columns)


def credits(shown: Mapping[str, Example] | None) -> str:
    """Whose photograph and sentence are shown, as Markdown; nothing where none is."""
    return f"*Credits: {'; '.join(one.credit for one in shown.values())}.*" if shown else ""


def signs(runs: Sequence[Interactions]) -> np.ndarray:
    """Sign of each effect that is at least `TAU` of its sample's strongest, else 0.

    (runs, B, 2**n) int8, by coalition; 0 at the empty one, which is no effect.
    """
    effects = torch.stack([walsh_transform(run.v) for run in runs])
    effects[..., 0] = 0
    strongest = effects.abs().amax(-1, keepdim=True)
    return (effects.sign() * (effects.abs() >= TAU * strongest)).to(torch.int8).numpy()


def parts(record: Record, players: str, run: int | None = None) -> dict[str, np.ndarray]:
    """What comes back in every run of the probe, of fine-tuning and of scratch, and what is shared.

    `run`, from 1 on, names one fine-tuned run to take instead of all of them.

    By name the signs, (B, 2**n) int8, 0 elsewhere: of ``probe``, ``finetuned`` and ``scratch``, and
    of ``kept`` (in the probe and all fine-tuned runs), ``lost`` (in the probe, in no fine-tuned
    run) and ``new`` (in all fine-tuned runs, in no probe).
    """
    runs = {arm: signs(record.runs(arm, players)) for arm in COLUMNS}
    if run is not None:
        runs["finetuned"] = runs["finetuned"][run - 1 : run]
    found = {arm: np.where((all_ == all_[0]).all(0), all_[0], 0) for arm, all_ in runs.items()}
    probe, fine = found["probe"], found["finetuned"]
    return found | {
        "kept": np.where(probe == fine, fine, 0),
        "lost": np.where((runs["finetuned"] == probe).any(0), 0, probe),
        "new": np.where((runs["probe"] == fine).any(0), 0, fine),
    }


def counts(record: Record, players: str) -> dict[str, Estimate]:
    """How many effects a sample has of each of `parts`, on average, and what chance would give.

    Means over samples, with 95 % bootstrap intervals.

    ``chance`` is how many would come back in all fine-tuned runs, and ``kept by chance`` how many
    of those that do come back would be kept, if the effects of each run, or those that come back,
    were shuffled within sample and order: the mean over all ways to shuffle.
    """
    found = parts(record, players)
    numbers = {name: np.count_nonzero(x, axis=-1).astype(float) for name, x in found.items()}
    runs = signs(record.runs("finetuned", players))
    orders = order(record.runs("probe", players)[0].n).numpy()

    def met_by_chance(*games: np.ndarray) -> np.ndarray:
        """By sample (B,), places at which all of these, (B, 2**n) each, have the same sign."""
        total = np.zeros(len(games[0]))
        for m, sign in product(range(1, orders.max() + 1), (1, -1)):
            shares = np.stack([(game[:, orders == m] == sign).mean(-1) for game in games])
            total += (orders == m).sum() * shares.prod(0)
        return total

    numbers["chance"] = met_by_chance(*runs)
    numbers["kept by chance"] = met_by_chance(found["probe"], found["finetuned"])
    numbers["kept above chance"] = numbers["kept"] - numbers["kept by chance"]
    return {name: bootstrap(torch.from_numpy(x)) for name, x in numbers.items()}


def draw(shown: Mapping[str, Example]) -> Figure:
    """What comes back on a photograph and on a sentence: probe, fine-tuned and scratch.

    ValueError if players of the sentence are none of its words.
    """
    picture, text = shown["photograph"], shown["sentence"]
    figure, axes = plt.subplots(2, 3, figsize=(8, 6.3), layout="constrained")
    for axis, (arm, name) in zip(axes[0], COLUMNS.items(), strict=True):
        count = picture.record.count(arm)
        axis.set_title(name if count == 1 else f"{name}, in all {count} runs")
    for axis, groups in zip(axes[0], _columns(picture), strict=True):
        _on_patches(axis, picture, groups)
    players = text.record.header["players"][text.players][text.row]
    if unknown := sorted(set(players) - set(text.input)):
        raise ValueError(f"players {unknown} are no words of the sentence {text.input}")
    for axis, groups in zip(axes[1], _columns(text), strict=True):
        _on_words(axis, text.input, players, groups)
    for axis, one in zip(axes[:, 0], (picture, text), strict=True):
        look = {"rotation": 90, "ha": "right", "va": "center", "fontsize": 10}
        axis.text(-0.02, 0.5, one.title, transform=axis.transAxes, **look)
    handles = [plt.Line2D([], [], color=c, lw=5, label=NAMES[x]) for x, c in PARTS.items()]
    for face, name in (("0.2", "speaks for the true class"), ("white", "speaks against it")):
        look = {"marker": "o", "ms": 8, "mec": "0.2", "mfc": face, "ls": ""}
        handles.append(plt.Line2D([], [], label=name, **look))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=10)
    return figure


@dataclass(frozen=True)
class Group:
    """Players that act together: what becomes of them, their sign, and a place of their own."""

    part: str
    sign: int
    players: list[int]
    place: int
    places: int


def _columns(shown: Example) -> list[list[Group]]:
    """The groups of each column; one that is in several columns has the same place in them.

    Of what is lost, the `MOST_LOST` strongest.
    """
    record, players, row = shown.record, shown.players, shown.row
    found = {name: signs[row] for name, signs in parts(record, players).items()}
    strength = walsh_transform(record.runs("probe", players)[0].v[row]).abs().numpy()
    lost = np.flatnonzero(found["lost"])
    weaker = lost[np.argsort(-strength[lost])[MOST_LOST:]]
    for name in ("lost", "probe"):
        found[name][weaker] = 0
    columns = []
    for arm in COLUMNS:
        column = {}
        for group in np.flatnonzero(found[arm]).tolist():
            sign = int(found[arm][group])
            shared = (part for part in ("kept", "lost", "new") if found[part][group] == sign)
            part = next(shared, "scratch" if arm == "scratch" else None)
            if part is not None:
                column[group] = (part, sign)
        columns.append(column)
    every = {group for column in columns for group in column}
    every = sorted(every, key=lambda group: (group.bit_count(), group))
    return [
        [
            Group(*column[group], members(group), place, len(every))
            for place, group in enumerate(every)
            if group in column
        ]
        for column in columns
    ]


def _on_patches(axis: Axes, picture: Example, groups: Iterable[Group]) -> None:
    """A band through the patches of each group, each a little beside the others."""
    pixels, grid = picture.input, round(picture.record.runs("probe", picture.players)[0].n ** 0.5)
    side = pixels.shape[0] / grid
    axis.imshow(pixels, extent=(0, pixels.shape[1], pixels.shape[0], 0))
    for k in range(1, grid):
        axis.axhline(k * side, color="white", lw=0.8, alpha=0.7)
        axis.axvline(k * side, color="white", lw=0.8, alpha=0.7)
    for group in groups:
        angle = 2 * pi * group.place / group.places
        middle = 0.5 * side + 0.33 * side * np.array([np.cos(angle), np.sin(angle)])
        points = [side * np.array([p % grid, p // grid]) + middle for p in group.players]
        for start, end in _tree(points):
            axis.plot(*zip(start, end, strict=True), **_band(group.part))
        axis.plot(*zip(*points, strict=True), ls="", **_dot(group))
    axis.set_axis_off()


def _on_words(
    axis: Axes, words: Sequence[str], players: Sequence[str], groups: Iterable[Group]
) -> None:
    """The sentence downwards, and arcs between the words of each group, a lane each."""
    for row, word in enumerate(words):
        shade = "0.1" if word in players else "0.55"
        axis.text(0.3, row, word, ha="right", va="center", fontsize=10, color=shade)
    for group in groups:
        lane = 0.37 + 0.53 * group.place / max(group.places - 1, 5)
        at = sorted(words.index(players[p]) for p in group.players)
        for start, end in pairwise(at):
            turn = np.linspace(0, pi, 30)
            bulge = min(0.03 + 0.008 * (end - start), 0.07)
            axis.plot(
                lane + bulge * np.sin(turn), start + (end - start) * (1 - np.cos(turn)) / 2,
                **_band(group.part),
            )  # fmt: skip
        axis.plot([lane] * len(at), at, ls="", **_dot(group))
    axis.set(xlim=(0, 1), ylim=(len(words) - 0.4, -0.6))
    axis.set_axis_off()


def _band(part: str) -> dict:
    casing = [Stroke(linewidth=6.5, foreground="white"), Normal()]
    look = {"clip_on": False, "color": PARTS[part], "lw": 4, "solid_capstyle": "round", "zorder": 2}
    return look | {"path_effects": casing}


def _dot(group: Group) -> dict:
    colour, casing = PARTS[group.part], [Stroke(linewidth=4, foreground="white"), Normal()]
    face = colour if group.sign > 0 else "white"
    look = {"marker": "o", "ms": 8, "mec": colour, "mfc": face, "mew": 2, "zorder": 3}
    return look | {"path_effects": casing}


def _tree(points: Sequence[np.ndarray]) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """The shortest lines that join all points."""
    inside, outside = list(points[:1]), list(points[1:])
    while outside:
        pairs = [(a, k) for a in inside for k in range(len(outside))]
        start, k = min(pairs, key=lambda pair: np.linalg.norm(pair[0] - outside[pair[1]]))
        inside.append(outside.pop(k))
        yield start, inside[-1]

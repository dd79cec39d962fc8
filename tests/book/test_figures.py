"""Every figure, drawn from recorded results: axes that are named, letters that can be read."""

import re
from itertools import combinations

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from matplotlib.text import Text

import pi_lib as pi
from pi_lib import study
from pi_lib.book import figures, runner, study_figures
from pi_lib.study import advice, comparisons, data, findings

matplotlib.use("Agg")
COLUMN = 7.84  # inches of a page 1,280 px wide that a figure has; a wider one is shown smaller
NUMBER = re.compile(r"[-−]?[\d.,]+%?$|\$")  # on an axis; a power of ten is a formula


def texts(figure):
    """Every text that is drawn, with its box: of ticks, those within the view."""
    figure.canvas.draw()
    hidden = set()
    for axes in figure.axes:
        if not axes.axison:
            hidden.update(text for part in (axes.xaxis, axes.yaxis) for text in part.findobj(Text))
        for part in (axes.xaxis, axes.yaxis):
            low, high = sorted(part.get_view_interval())
            for tick in [*part.get_major_ticks(), *part.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high:
                    hidden.update((tick.label1, tick.label2))
    every = [
        text
        for text in figure.findobj(Text)
        if text not in hidden and text.get_visible() and text.get_text().strip()
    ]
    return [(text, text.get_window_extent().padded(-0.5)) for text in every]


def faults(figure) -> list[str]:
    """What a reader would stumble over."""
    shown, wrong = texts(figure), []
    drawn = {text for text, _ in shown}
    for axes in figure.axes:
        across = axes.get_xlabel() or figure.get_supxlabel()
        up = axes.get_ylabel() or axes.get_title() or figure.axes[0].get_ylabel()
        for part, name in ((axes.xaxis, across), (axes.yaxis, up)):
            ticks = [text.get_text() for text in part.get_ticklabels() if text in drawn]
            if not name and any(map(NUMBER.match, ticks)):
                wrong.append("an axis without a name")
    for text, box in shown:
        name = text.get_text()
        if not (figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1):
            wrong.append(f"{name!r} is cut at a side")
        if not (figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1):
            wrong.append(f"{name!r} is cut above or below")
        if "nan" in name.split():
            wrong.append(f"{name!r} is no number")
        on_page = text.get_fontsize() / 0.96 * min(1, COLUMN / figure.get_figwidth())
        if min(on_page, text.get_fontsize()) < 8:
            wrong.append(f"{name!r} is too small")
    upright = [(text, box) for text, box in shown if text.get_rotation() in (0, 90)]
    for (text, box), (other, beside) in combinations(upright, 2):
        if box.overlaps(beside):
            wrong.append(f"{text.get_text()!r} lies on {other.get_text()!r}")
    return wrong


@pytest.fixture(scope="module")
def records():
    """Two recorded cells of the book, eight samples of each."""

    def part(record):
        players = {name: rows[:8] for name, rows in record.header["players"].items()}
        about = {key: record.header[key][:8] for key in ("labels", "ids")} | {"players": players}
        games = {key: v[:8] for key, v in record.games.items()}
        return study.Record(record.header | about, games, record.correct)

    folder = runner.ROOT / "notebooks" / "recorded" / "paper"
    names = ("minilm-on-sst2", "resnet20-cifar10-jpeg-on-fashion-mnist")
    read = [study.Record.load(folder / f"{name}.npz") for name in names]
    return {record.title: part(record) for record in read}


def figures_of_the_method(record):
    """Every figure of the method by name."""
    (probe, *_), (end, *again) = record.runs("probe"), record.runs("finetuned")
    known = pi.compare(probe, end, second_runs=again)
    pair = {"images": known, "sentences": known}
    split = pi.and_or_split(end.v)
    both = pi.Interactions(v=end.v, i_and=split.i_and, i_or=split.i_or)
    steps = record.over_time("finetuned")
    way = pi.trajectory([*steps.values()], end, [*steps]).to_frame()
    measures = ("preserved", "new", "jaccard_before", "jaccard_end")
    variants = pd.DataFrame({"value": [0.4, 0.3], "low": [0.3, 0.2], "high": [0.5, 0.4]})
    variants = variants.assign(choice="players", variant=["16", "8"], number="preserved share")
    times = pd.DataFrame({"what": ["a split\nagainst a recipe", "masks"], "times": [3.0, 400.0]})
    growth = pd.DataFrame(
        {"n": [8, 10] * 2, "seconds": [0.1, 1, 2, 20], "method": ["a", "a", "b", "b"]}
    )
    detect, segment = (
        data.load(f"fashion-mnist+even+{aim}", n_train=20, n_test=20, size=32)
        for aim in ("detection", "segmentation")
    )
    players = pi.PatchPlayers(grid=8, n=10)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    (placement,) = players.place(images)
    seen = pi.extract(lambda x: x.flatten(1)[:, ::400].sin(), images, [0], players)
    return {
        "knowledge": figures.knowledge(pair),
        "tracked": figures.tracked(pd.concat(way.assign(measure=name) for name in measures)),
        "choices": figures.choices(variants, {"preserved share": (0, 0.5)}),
        "and_or": figures.and_or({"exact": both, "with an allowance": both}),
        "splits_on_a_line": figures.splits_on_a_line(end.v[0], pi.and_or_split(end.v[0])),
        "strongest": figures.strongest(seen),
        "scenes": figures.scenes(detect.test, segment.test, classes=detect.classes),
        "players_on_image": figures.players_on_image(placement),
        "interactions_on_image": figures.interactions_on_image(placement, seen),
        "patches": figures.patches(placement, 0b101, "#000000"),
        "game": figures.game({"": 0, "not": -0.5, "good": 2, "not good": -1.5}, ["not", "good"]),
        "times_less": figures.times_less(times.assign(target=[10.0, float("nan")]), "times less"),
        "growth": figures.growth(
            growth.assign(peer=growth["method"] == "b"), "n", "seconds", ["a", "b"],
            xlabel="players", ylabel="seconds",
        ),
    }  # fmt: skip


def figures_of_the_study(records):
    """Every figure of many runs by name."""
    runs = {name: findings.Runs(record) for name, record in records.items()}
    gains = {name: record.gain() for name, record in records.items()}
    kinds = {
        name: {"observed": record.accuracy("finetuned"), "scratch": record.accuracy("scratch")}
        for name, record in records.items()
    }
    orders = pd.concat(one.similarities().assign(cell=name) for name, one in runs.items())
    approaches = pd.concat(
        one.approach(arm).to_frame().assign(cell=name, arm=arm)
        for name, one in runs.items()
        for arm in ("finetuned", "scratch")
    )
    found = comparisons.quantities(runs)
    found = found.assign(x=found["cell"].map(dict(zip(runs, (40, 1280), strict=True))))
    named = found.assign(x_low=found["x"] - 20, x_high=found["x"] + 90)
    settings = found.assign(
        rate=found["cell"].map(dict(zip(runs, (1e-4, 1e-3), strict=True))), epochs=2
    )
    four = [f"with the number of {what}" for what in ("epochs", "labels", "players", "runs")]
    names = ["half of the layers", "LoRA"]
    ways = pd.DataFrame([(cell, way) for cell in runs for way in names], columns=["cell", "way"])
    ways = ways.assign(name=ways["way"], tested=[*gains.values()] * 2, verdict="undecided")
    limits = {"x": [0.1, 0.3, 0.5, 0.7], "x_low": 0.0, "x_high": 0.8}
    limits |= {"value": [-0.3, -0.1, -0.2, 0.0], "low": -0.4, "high": 0.1}
    pictures = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    return {
        "over": study_figures.over(found, "labels", log=True, margin=0.02),
        "over, by name": study_figures.over(named, "energy distance", joined=False),
        "origins": study_figures.origins(findings.origins_table(runs), gains),
        "shares": study_figures.shares(kinds, "accuracy"),
        "differences": study_figures.differences(
            {name: dict.fromkeys(four, gain) for name, gain in gains.items()}, "accuracy"
        ),
        "by_order": study_figures.by_order(
            orders.rename(columns={"arm": "name", "cell": "panel"}), "similarity"
        ),
        "verdicts": study_figures.verdicts(findings.findings(runs)),
        "approaches": study_figures.approaches(approaches),
        "over_steps": study_figures.over_steps(
            approaches.rename(columns={"cell": "panel", "arm": "name"})
        ),
        "accuracies": study_figures.accuracies(records),
        "over_settings": study_figures.over_settings(settings),
        "panels": study_figures.panels(ways.assign(quantity="accuracy"), "minus all layers"),
        "scatter": study_figures.scatter(ways.assign(**limits), "similarity", "accuracy"),
        "corruptions": study_figures.corruptions(pictures),
        "effects": study_figures.effects(advice.advice({"paper": records})),
        "first_against_second": study_figures.first_against_second(
            *next(iter(records.values())).runs("finetuned")[:2]
        ),
    }


def test_every_figure_can_be_read(records):
    with matplotlib.rc_context({"figure.max_open_warning": 0}):
        figures.style()
        drawn = figures_of_the_method(next(iter(records.values()))) | figures_of_the_study(records)
        assert {name: wrong for name, figure in drawn.items() if (wrong := faults(figure))} == {}
    plt.close("all")


def test_quantities_over_a_number_show_every_number(records):
    runs = {k: findings.Runs(record) for k, record in enumerate(records.values(), 1)}
    found = comparisons.quantities(runs)
    found = found.assign(x=found["cell"]).dropna(subset="value")  # what is measurable
    panels = study_figures.over(found, "labels", log=True, margin=0.05).axes
    assert [len(axis.containers) for axis in panels] == [4, 1, 2, 4]  # a line for each `of`
    for axis, (_, rows) in zip(panels, found.groupby("quantity", sort=False), strict=True):
        assert axis.get_xscale() == "log"
        low, high = axis.get_ylim()
        assert ((low < rows["value"]) & (rows["value"] < high)).all()
        for line, (_, values) in zip(axis.containers, rows.groupby("of", sort=False), strict=True):
            assert line.lines[0].get_ydata().tolist() == values["value"].tolist()
    said = [text.get_text() for text in panels[0].texts]
    assert sorted(said) == ["fine-tuned", "linear probe", "long scratch", "scratch"]
    assert [text.get_text() for text in panels[1].texts] == ["margin, 0.05"]
    unknown = found.assign(value=found["value"].where(found["quantity"] == "gain"))
    (gain,) = study_figures.over(unknown, "labels", joined=False).axes
    assert len(gain.containers) == 2 and gain.get_ylabel() == "gain in accuracy over\nscratch"
    plt.close("all")


def test_effects_show_every_cell_and_count_every_verdict(records):
    lines = advice.advice({"paper": records})
    frames = [claim.frame for line in lines for claim in line.claims]
    panels = study_figures.effects(lines).axes
    measurable = sum((frame["verdict"] != "not measurable").sum() for frame in frames)
    assert sum(len(axis.containers) for axis in panels) == measurable > 0
    said = " ".join(text.get_text() for axis in panels for text in axis.texts)
    assert sum(map(int, re.findall(r": (\d+)", said))) == sum(map(len, frames))
    plt.close("all")


def test_a_fault_is_seen():
    """The test's own eyes: labels that collide, one beyond the edge, and no name."""
    figure, axes = plt.subplots(figsize=(2, 2))
    axes.set_xticks([0, 0.01, 1], ["a long label", "another", "one that leaves the figure behind"])
    said = " ".join(faults(figure))
    assert "'a long label' lies on 'another'" in said and "is cut at a side" in said
    assert "an axis without a name" in said
    plt.close(figure)


def test_names_are_drawn_as_they_are_written():
    """Two dollar signs are no formula to matplotlib, nor is an underscore between them."""
    v = torch.arange(8.0, dtype=torch.float64).square()[None]
    seen = pi.Interactions(v=v, i_and=pi.and_transform(v), players=[["$x_1$", "a_b", "<i>$"]])
    drawn = {}
    for names in (seen.players[0], ["€x_1€", "a_b", "<i>€"]):  # of the same width, and no formula
        figure = figures.strongest(pi.Interactions(v=v, i_and=seen.i_and, players=[names]))
        drawn[names[0]] = [box.width for text, box in texts(figure) if "_b" in text.get_text()]
        plt.close(figure)
    assert drawn["$x_1$"] == pytest.approx(drawn["€x_1€"])

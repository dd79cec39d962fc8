"""Figures of many runs: shares beside chance and a second run, similarities, origins, verdicts.

Numbers come from `pi_lib.study.findings`; whiskers and bands are their 95 % intervals. What is not
measurable is left out or said so. Style, colours and names are those of `pi_lib.book.figures`.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import Bbox, offset_copy
from torch import Tensor

from pi_lib.book import figures, tables
from pi_lib.book.figures import COLOURS, MARKERS, PALETTE, fill, name_rows, reach
from pi_lib.book.tables import ARMS, PARTS
from pi_lib.interactions import Interactions
from pi_lib.statistics import Estimate
from pi_lib.study.advice import Advice
from pi_lib.study.elsewhere import CORRUPTIONS, corrupted
from pi_lib.study.record import Record
from pi_lib.transforms import and_transform, walsh_transform

ORIGINS = {"pretraining": "#0173B2", "both": "#B565A7", "scratch": "#029E73", "neither": "#C9C9C9"}
WIDEST = 0.5  # interval of a share, beyond which it is drawn pale
LINES = COLOURS | ORIGINS | {"neither": "#858585", "long": "#A5703D"}  # of an arm or a part
AXES = {  # of quantities of several arms or parts
    "accuracy": "test accuracy",
    "similarity": "similarity with fine-tuned runs",
    "origins": "share of what fine-tuned runs reproducibly know",
}
ACROSS = ("x", "x_low", "x_high")
# of a name beside its mark: points to the right and up
PLACES = tuple((x, y) for x in (7, -7, 0) for y in (0, 6, -6, 14, -14) if (x, y) != (0, 0))
KINDS = {  # colour and marker of what stands beside each other in a row
    "observed": (COLOURS["finetuned"], "o"),
    "chance": ("#858585", "|"),
    "second run": (COLOURS["preserved"], "D"),
    "scratch": (COLOURS["scratch"], "s"),
    "long scratch": ("#A5703D", "^"),
    "linear probe": (COLOURS["probe"], "o"),
    "fine-tuned runs": (COLOURS["finetuned"], "D"),
}
VERDICT_COLOURS = {  # of squares
    "confirmed": "#029E73",
    "undecided": "#C9C9C9",
    "contradicted": "#D55E00",
    "not measurable": "#FFFFFF",
}
# Of dots and whiskers, which need more contrast; of what `pi_lib.study.comparisons` says too.
EFFECT_COLOURS = {"confirmed": "#029E73", "undecided": "#858585", "contradicted": "#D55E00"}
WORD_COLOURS = dict(zip(("more", "undecided", "less"), EFFECT_COLOURS.values(), strict=True))


def origins(
    frame: pd.DataFrame, gains: Mapping[str, Estimate], groups: Mapping[str, str] | None = None
) -> Figure:
    """Where what fine-tuned runs reproducibly know comes from, beside the gain in accuracy.

    Parameters
    ----------
    frame : DataFrame
        As `pi_lib.study.findings.origins_table`: ``cell, part, value, low, high``. Shares of which
        one has an interval wider than `WIDEST` are drawn pale.
    gains : mapping of str to Estimate
        By cell, in the order in which they are drawn: accuracy of fine-tuning minus scratch.
    groups : mapping of str to str, optional
        By cell, a heading under which cells that follow each other stand.
    """
    rows, headings = _grouped(gains, groups or {})
    depth = max(rows.values()) + 0.5
    labels = [fill(name, 34) for name in rows]
    height = max(0.5, *(0.22 * (label.count("\n") + 1) for label in labels))
    figure, (left, right) = plt.subplots(
        1, 2, sharey=True, figsize=(9.5, 1.3 + height * depth), layout="constrained",
        width_ratios=(3, 1.3),
    )  # fmt: skip
    wide = (frame["high"] - frame["low"]).groupby(frame["cell"]).max() > WIDEST
    for name, row in rows.items():
        _whiskers(right, gains[name], row, COLOURS["finetuned"], "o")
        parts = frame[frame["cell"] == name].set_index("part")["value"]
        if parts.isna().any():
            left.text(0.02, row, "not measurable", va="center")
            continue
        _stack(left, row, parts.clip(lower=0), 0.3 if wide[name] else 1)
    left.set(xlim=(0, 1), xlabel=AXES["origins"])
    left.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    right.axvline(0, color="0.3", lw=1)
    right.set_xlabel("gain in accuracy\nover scratch")
    left.set_yticks([*rows.values()], labels)
    left.set_ylim(depth, -0.5)
    for axis in (left, right):
        axis.grid(False, axis="y")
    for heading, row in headings.items():
        left.text(0, row, heading, va="center", fontsize=10, style="italic")
    key = {PARTS[part]: plt.Rectangle((0, 0), 1, 1, color=ORIGINS[part]) for part in ORIGINS}
    if wide.any():
        name = f"pale: a 95 % interval is wider than {100 * WIDEST:.0f} %"
        key[name] = plt.Rectangle((0, 0), 1, 1, color=ORIGINS["scratch"], alpha=0.3)
    figure.legend(key.values(), key.keys(), loc="outside upper left", ncols=5, fontsize=10)
    return figure


def _grouped(
    names: Iterable[str], groups: Mapping[str, str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Heights of rows, and of the headings over those that have another one than the row before."""
    rows, headings, height, last = {}, {}, 0.0, None
    for name in names:
        if (heading := groups.get(name)) != last:
            headings[heading], last = height, heading
            height += 0.75
        rows[name] = height
        height += 1
    return rows, headings


def shares(rows: Mapping[str, Mapping[str, Estimate]], label: str) -> Figure:
    """Numbers of several kinds beside each other, a row for each cell.

    Parameters
    ----------
    rows : mapping of str to mapping of str to Estimate
        By cell, then by kind, one of `KINDS`.
    label : str
        What the numbers are.
    """
    figure, axis = plt.subplots(figsize=(8.5, 1.2 + 0.55 * len(rows)), layout="constrained")
    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row))
    for row, estimates in enumerate(rows.values()):
        for k, kind in enumerate(kinds):
            if kind in estimates:
                shift = 0.17 * (k - (len(kinds) - 1) / 2)
                _whiskers(axis, estimates[kind], row + shift, *KINDS[kind])
    name_rows(axis, [fill(name, 34) for name in rows])
    if axis.get_xlim()[0] > -0.05:
        axis.set_xlim(0, None)
    else:
        axis.axvline(0, color="0.3", lw=1)
    axis.set_xlabel(label)
    looks = {kind: {"color": KINDS[kind][0], "marker": KINDS[kind][1], "mew": 2} for kind in kinds}
    handles = [axis.plot([], [], ls="", ms=8, label=x, **look)[0] for x, look in looks.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(kinds), fontsize=10)
    return figure


def differences(rows: Mapping[str, Mapping[str, Estimate]], label: str) -> Figure:
    """Differences of several kinds, a panel for each kind on one scale, a row for each cell."""
    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row))
    figure, axes = plt.subplots(
        1, len(kinds), sharex=True, sharey=True, squeeze=False, layout="constrained",
        figsize=(9.5, 1.3 + 0.42 * len(rows)),
    )  # fmt: skip
    for axis, kind in zip(axes[0], kinds, strict=True):
        for row, estimates in enumerate(rows.values()):
            if kind in estimates:
                _whiskers(axis, estimates[kind], row, COLOURS["finetuned"], "o")
        axis.axvline(0, color="0.3", lw=1)
        axis.set_title(fill(kind, 56 // max(2, len(kinds))))
        axis.xaxis.set_major_locator(MaxNLocator(4))
        name_rows(axis, [fill(name, 34) for name in rows])
    figure.supxlabel(label)
    return figure


def over(
    frame: pd.DataFrame, xlabel: str, *, joined: bool = True, log: bool = False,
    margin: float | None = None,
) -> Figure:  # fmt: skip
    """Quantities of cells against a number of them, a panel each with a scale of its own.

    Parameters
    ----------
    frame : DataFrame
        As `pi_lib.study.comparisons.quantities` gives it, with the number ``x`` of each cell, and
        ``x_low, x_high`` where it has an interval. What is not measurable is left out.
    xlabel : str
        What ``x`` is.
    joined : bool
        A panel for each ``quantity``, in it a line for each ``of``, with its name at its end; else
        a panel for each quantity and ``of``, in it a mark for each ``cell``, with its name.
    log : bool
        Whether ``x`` is on a logarithmic axis.
    margin : float, optional
        A gain that is shown as a dashed line.
    """
    frame = frame.dropna(subset=["x", "value"])
    panels = [*frame.groupby("quantity" if joined else ["quantity", "of"], sort=False)]
    colours = dict(zip(frame["cell"].unique(), cycle(PALETTE), strict=False))
    lines = -(-len(panels) // 2)
    figure, axes = plt.subplots(
        lines, 2, figsize=(9.5, 3.2 * lines), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (_, part) in zip(axes.flat, panels, strict=False):
        quantity, *several = part["quantity"].iloc[0], *part["of"].unique()[1:]
        words = AXES[quantity] if several else tables.quantities(part)[0]
        axis.set(xlabel=xlabel, ylabel=fill(words, 26))
        if log:
            ticks = sorted(frame["x"].unique())
            axis.set_xscale("log")
            axis.set_xticks(ticks, [f"{x:,g}" for x in ticks], rotation=30, rotation_mode="anchor")
            plt.setp(axis.get_xticklabels(), ha="right")
            axis.minorticks_off()
        else:
            axis.locator_params(axis="x", nbins=5)  # room for numbers, however close they are
        if joined:
            _lines(axis, part)
        else:
            _marks(axis, part, colours)
        if quantity != "accuracy":
            axis.axhline(0, color="0.3", lw=1, zorder=0)
        if quantity == "gain" and margin is not None:
            axis.axhline(margin, color="0.3", ls="--", lw=1.2)
            _name_ends(axis, {f"margin, {margin:g}": (margin, "#4D4D4D")})
    if not joined:
        figure.draw_without_rendering()
        for axis, (_, part) in zip(axes.flat, panels, strict=False):
            _name_marks(axis, part, colours)
    return figure


def panels(frame: pd.DataFrame, label: str) -> Figure:
    """Numbers in a panel for each ``quantity``, in words, and ``cell``, a row for each ``name``.

    `frame` has these columns and ``tested``, an `Estimate` each, drawn in the colour of its
    ``verdict``. What is not measurable is left out. Panels of a quantity have one scale.
    """
    quantities, cells, names = (list(frame[x].unique()) for x in ("quantity", "cell", "name"))
    figure, axes = plt.subplots(
        len(quantities), len(cells), sharex="row", sharey=True, squeeze=False, layout="constrained",
        figsize=(max(6, 2 + 2.4 * len(cells)), len(quantities) * (0.8 + 0.27 * len(names)) + 0.5),
    )  # fmt: skip
    for quantity, line in zip(quantities, axes, strict=True):
        for cell, axis in zip(cells, line, strict=True):
            rows = frame[(frame["quantity"] == quantity) & (frame["cell"] == cell)]
            for row in rows.itertuples():
                colour = WORD_COLOURS.get(row.verdict, "")
                _whiskers(axis, row.tested, names.index(row.name), colour, "o")
            axis.axvline(0, color="0.3", lw=1)
            axis.xaxis.set_major_locator(MaxNLocator(3))
            name_rows(axis, names)
        line[0].set_ylabel(fill(quantity, 20), labelpad=10)
    for cell, axis in zip(cells, axes[0], strict=True):
        axis.set_title(fill(cell, 24), fontsize=10)
    figure.supxlabel(label)
    return figure


def by_order(frame: pd.DataFrame, label: str) -> Figure:
    """A number by group of orders, a panel for each ``panel``, a marker for each ``name`` in it.

    `frame` has the columns ``panel, name, orders, value, low, high``; what is not measurable is
    left out. All panels have one scale, and one legend if there are several names.
    """
    panels, names = frame["panel"].unique(), frame["name"].unique()
    groups = list(frame["orders"].unique())
    rows = -(-len(panels) // 5)
    columns = -(-len(panels) // rows)
    figure, axes = plt.subplots(
        rows, columns, sharex=True, sharey=True, squeeze=False, layout="constrained",
        figsize=(8, 4 if rows == 1 else 2.2 * rows + 0.6),
    )  # fmt: skip
    for axis, panel in zip(axes.flat, panels, strict=False):
        for k, name in enumerate(names):
            part = frame[(frame["panel"] == panel) & (frame["name"] == name)].dropna(subset="value")
            at = np.array([groups.index(group) for group in part["orders"]], dtype=float)
            axis.errorbar(
                at + 0.24 * (k - (len(names) - 1) / 2), part["value"], yerr=reach(part), capsize=2,
                ms=5, ls="", marker=MARKERS[k], color=PALETTE[k], label=name,
            )  # fmt: skip
        axis.axhline(0, color="0.3", lw=1)
        axis.set_title(fill(panel, 84 // columns), fontsize=9 if rows > 1 else 11)
        axis.set_xticks(range(len(groups)), groups, fontsize=9)
        axis.tick_params(axis="y", labelsize=9)
        axis.margins(x=0.1)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis in axes.flat[len(panels) - columns : len(panels)]:  # with nothing below
        axis.tick_params(axis="x", labelbottom=True)
    figure.supxlabel("order: players of an interaction", fontsize=11)
    figure.supylabel(label, fontsize=11)
    if len(names) > 1:
        handles, _ = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=4, fontsize=10)
    return figure


def verdicts(frame: pd.DataFrame) -> Figure:
    """The verdict on every claim in every cell: a square each, with the word in it.

    `frame` has the columns ``claim, cell, verdict``. A row for each cell, a column for each claim.
    """
    claims, cells = list(frame["claim"].unique()), list(frame["cell"].unique())
    figure, axis = plt.subplots(
        figsize=(1.9 + 0.78 * len(claims), 1.1 + 0.42 * len(cells)), layout="constrained"
    )
    for claim, cell, verdict in zip(frame["claim"], frame["cell"], frame["verdict"], strict=True):
        row, column = cells.index(cell), claims.index(claim)
        colour = VERDICT_COLOURS[verdict]
        axis.add_patch(
            plt.Rectangle((column - 0.48, row - 0.44), 0.96, 0.88, fc=colour, ec="#C9C9C9")
        )
        axis.text(
            column, row, fill(verdict, 12), ha="center", va="center", fontsize=8, color=_ink(colour)
        )
    axis.set_yticks(range(len(cells)), [fill(cell, 24) for cell in cells], fontsize=8)
    axis.set_xticks(range(len(claims)), [fill(claim, 12) for claim in claims], fontsize=8)
    axis.tick_params(length=0)
    axis.set(xlim=(-0.5, len(claims) - 0.5), ylim=(len(cells) - 0.5, -0.5))
    axis.xaxis.tick_top()
    axis.grid(False)
    sns.despine(ax=axis, left=True, bottom=True)
    return figure


def approaches(frame: pd.DataFrame) -> Figure:
    """Similarity with the ends of other runs of the same arm, as a run trains.

    `frame` has the columns ``cell, arm, step, value, low, high``; a panel for each cell, on one
    scale. Steps are on a logarithmic axis, with step 0 left of the first.
    """
    figure, panels = _panels_of_cells(frame["cell"].unique(), "similarity with\nother runs' ends")
    for cell, axis in panels.items():
        axis.set_xlim(-1, 1.1 * frame["step"].max())
        for arm in ("finetuned", "scratch"):
            rows = frame[(frame["cell"] == cell) & (frame["arm"] == arm)].dropna(subset="value")
            colour = COLOURS[arm]
            axis.plot(rows["step"], rows["value"], "o-", color=colour, ms=4)
            axis.fill_between(rows["step"], rows["low"], rows["high"], color=colour, alpha=0.2)
        axis.axhline(0, color="0.3", lw=1)
    return figure


def over_steps(frame: pd.DataFrame) -> Figure:
    """Numbers over the steps of training, a panel for each ``panel``, a line for each ``name``.

    `frame` has these columns and ``step, value, low, high``; panels have scales of their own. What
    is not measurable is left out. Steps are on a logarithmic axis, with step 0 left of the first.
    """
    panels = [*frame.groupby("panel", sort=False)]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(max(6, 4.6 * len(panels)), 3.4), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axis, (panel, part) in zip(axes[0], panels, strict=True):
        shown = part.dropna(subset="value").groupby("name", sort=False)
        for (name, rows), colour in zip(shown, PALETTE, strict=False):
            figures._line(axis, rows, "step", colour, name, marker="o", markersize=4)
        axis.axhline(0, color="0.3", lw=1)
        _over_steps(axis)
        axis.set_xlim(-1, 1.1 * part["step"].max())
        axis.set_ylabel(fill(panel, 28))
        if len(shown):
            axis.legend(fontsize=10)
    return figure


def accuracies(records: Mapping[str, Record]) -> Figure:
    """Accuracy on the test samples along the first run of each arm; dashed: the linear probe."""
    titles = [record.title for record in records.values()]
    figure, panels = _panels_of_cells(titles, "accuracy")
    for record, axis in zip(records.values(), panels.values(), strict=True):
        log = record.accuracies()
        for arm in ("finetuned", "scratch"):
            rows = log[(log["arm"] == arm) & (log["run"] == 1)]
            axis.plot(rows["step"], rows["value"], "o-", color=COLOURS[arm], ms=4)
        axis.axhline(record.accuracy("probe").value, color=COLOURS["probe"], ls="--")
    last = max(axis.get_xlim()[1] for axis in panels.values())
    for axis in panels.values():
        axis.set_xlim(-1, last)
    return figure


def first_against_second(first: Interactions, second: Interactions) -> Figure:
    """Interactions of two runs against each other, as dividends and as Walsh coefficients.

    Each in units of its own standard deviation; dots beyond four of them lie on the border.
    """
    figure, axes = plt.subplots(
        1, 2, figsize=(8, 4), layout="constrained", sharex=True, sharey=True
    )
    bases = {"Harsanyi dividends": and_transform, "Walsh coefficients": walsh_transform}
    for axis, (name, transform) in zip(axes, bases.items(), strict=True):
        x, y = (transform(run.v)[:, 1:].flatten().numpy() for run in (first, second))
        correlation = np.corrcoef(x, y)[0, 1]
        x, y = ((values / values.std()).clip(-4, 4) for values in (x, y))
        axis.plot(x, y, ".", ms=2, alpha=0.25, color=COLOURS["finetuned"], rasterized=True)
        axis.plot([-4, 4], [-4, 4], color="0.3", lw=1)
        axis.set(xticks=range(-4, 5, 2), yticks=range(-4, 5, 2))
        axis.set(xlabel="first run", aspect="equal", xlim=(-4.2, 4.2), ylim=(-4.2, 4.2))
        axis.set_title(f"{name}: correlation {correlation:.2f}")
    axes[0].set_ylabel("second run")
    return figure


def over_settings(frame: pd.DataFrame, beside: pd.DataFrame | None = None) -> Figure:
    """Quantities over the learning rate, a panel each, a line for each number of epochs.

    Parameters
    ----------
    frame : DataFrame
        As `pi_lib.study.comparisons.quantities` gives it, with the ``rate`` and ``epochs`` of each
        cell. All panels have one scale, from 0 to 1, at which whiskers end.
    beside : DataFrame, optional
        What "probe" and "scratch" have of the same quantities: lines at the mean over cells.
    """
    panels = [*frame.groupby(["quantity", "of"], sort=False)]
    figure, axes = figures.grid(len(panels), 3, 9.5 / min(3, len(panels)), 2.5, 0.5, sharey=True)
    rates, epochs = (sorted(frame[name].unique()) for name in ("rate", "epochs"))
    for axis, ((quantity, _), part) in zip(axes.flat, panels, strict=False):
        for k, number in enumerate(epochs):
            line = part[part["epochs"] == number].sort_values("rate")
            axis.errorbar(
                line["rate"] * 1.05 ** (k - (len(epochs) - 1) / 2), line["value"], _reach(line),
                color=PALETTE[k], marker=MARKERS[k], ms=5, capsize=2, label=f"{number:g} epochs",
            )  # fmt: skip
        for arm, style in {"probe": "--", "scratch": ":"}.items() if beside is not None else ():
            rows = beside[(beside["quantity"] == quantity) & (beside["of"] == arm)]
            axis.axhline(rows["value"].mean(), color="0.3", ls=style, label=ARMS[arm])
        axis.set(xscale="log", xlabel="learning rate", ylim=(-0.05, 1.05))
        axis.set_xticks(rates, [tables.plain(rate) for rate in rates], fontsize=10)
        axis.minorticks_off()
        axis.set_title(fill(tables.quantities(part)[0], 30), fontsize=11)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def scatter(frame: pd.DataFrame, xlabel: str, ylabel: str) -> Figure:
    """A mark for each row, with whiskers: a colour for each ``cell``, a marker for each ``way``.

    `frame` has these columns and ``x, x_low, x_high, value, low, high``.
    """
    cells, ways = (list(frame[name].unique()) for name in ("cell", "way"))
    figure, axis = plt.subplots(figsize=(9, 4.6), layout="constrained")
    for (cell, way), mark in frame.groupby(["cell", "way"], sort=False):
        axis.errorbar(
            mark["x"], mark["value"], yerr=_reach(mark), xerr=_reach(mark, ACROSS), lw=0.8, ms=7,
            color=PALETTE[cells.index(cell)], marker=MARKERS[ways.index(way)], ls="", capsize=0,
        )  # fmt: skip
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.axhline(0, color="0.3", lw=1, zorder=0)
    axis.axvline(0, color="0.3", lw=1, zorder=0)
    marks = [
        plt.Line2D([], [], ls="", marker=MARKERS[k], color="0.35", label=way)
        for k, way in enumerate(ways)
    ]
    colours = [plt.Rectangle((0, 0), 1, 1, color=PALETTE[k]) for k in range(len(cells))]
    figure.legend(handles=marks, loc="outside right upper", fontsize=10)
    figure.legend(colours, cells, loc="outside upper left", fontsize=10)
    return figure


def corruptions(pictures: Tensor) -> Figure:
    """Pictures, uint8 (N, C, H, W), as they are and under each corruption: a row each."""
    shown = {"as it is": pictures} | {kind: corrupted(pictures, kind) for kind in CORRUPTIONS}
    figure, axes = figures.grid(len(pictures) * len(shown), len(shown), 1.5, 1.5, 0.3)
    for column, (name, images) in zip(axes.T, shown.items(), strict=True):
        for axis, image in zip(column, images, strict=True):
            axis.imshow(image.movedim(0, -1).numpy())
            axis.set_axis_off()
        column[0].set_title(name, fontsize=10)
    return figure


def effects(lines: Sequence[Advice]) -> Figure:
    """What lines of advice rest on: the effect in every cell, in the colour of its verdict.

    A panel for each unit that the lines have; within it a row for each claim, its cells sorted by
    the effect, and on the right how often each verdict fell. What is not measurable has no dot.
    """
    units = list(dict.fromkeys(line.unit for line in lines))
    claims = {
        unit: [
            (fill(f"{number}. {claim.label}", 38), claim.frame)
            for number, line in enumerate(lines, 1)
            for claim in line.claims
            if line.unit == unit
        ]
        for unit in units
    }
    inches = {unit: [_inches(*claim) for claim in claims[unit]] for unit in units}
    heights = [sum(rows) for rows in inches.values()]
    figure, axes = plt.subplots(
        len(units), 1, figsize=(9.5, sum(heights) + 0.7 * len(units) + 0.4), squeeze=False,
        layout="constrained", height_ratios=heights,
    )  # fmt: skip
    for axis, unit, height in zip(axes.flat, units, heights, strict=True):
        ends = np.cumsum(inches[unit])
        for end, inch, (_, frame) in zip(ends, inches[unit], claims[unit], strict=True):
            _effects_of_claim(axis, frame, end - inch, inch)
        axis.axvline(0, color="0.3", lw=1)
        names = [name for name, _ in claims[unit]]
        axis.set_yticks(ends - np.array(inches[unit]) / 2, names, fontsize=10)
        axis.set(ylim=(height, 0), xlabel=f"difference in {unit}" if unit == "accuracy" else unit)
        axis.grid(False, axis="y")
    handles = [plt.Line2D([], [], marker="o", color=c, label=x) for x, c in EFFECT_COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
    return figure


def _inches(name: str, frame: pd.DataFrame) -> float:
    """The height of a claim's row: room for its name, the counts and its cells."""
    lines = max(name.count("\n") + 1, frame["verdict"].nunique())
    return max(0.18 * lines, 0.055 * len(frame)) + 0.12


def _effects_of_claim(axis: Axes, frame: pd.DataFrame, top: float, height: float) -> None:
    """A row of `effects`: a dot and whiskers for each cell, counts on the right, a line below."""
    shown = frame[frame["verdict"] != "not measurable"]
    rows = sorted(shown.itertuples(), key=lambda row: row.tested.value)
    for k, row in enumerate(rows, 1):
        at = top + 0.06 + (height - 0.12) * (k - 0.5) / len(rows)
        reach = [[row.tested.value - row.tested.low], [row.tested.high - row.tested.value]]
        axis.errorbar(
            row.tested.value, at, xerr=np.clip(reach, 0, 9), fmt="o", lw=1, ms=3.5,
            color=EFFECT_COLOURS[row.verdict],
        )  # fmt: skip
    count = frame["verdict"].value_counts()
    words = [f"{word}: {count[word]}" for word in VERDICT_COLOURS if word in count]
    axis.text(
        1.02, top + height / 2, "\n".join(words), transform=axis.get_yaxis_transform(),
        va="center", fontsize=10,
    )  # fmt: skip
    axis.axhline(top + height, color="0.9", lw=1)


def _panels_of_cells(cells, label: str) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each cell, over steps of training, with one legend."""
    figure, axes = figures.grid(len(cells), 3, 3.3, 2.9, 0.4, sharey=True)
    panels = dict(zip(cells, axes.flat, strict=False))
    for cell, axis in panels.items():
        _over_steps(axis)
        axis.set_title(fill(cell, 28), fontsize=10)
    for axis in axes[:, 0]:
        axis.set_ylabel(label)
    arms = ("finetuned", "scratch")
    handles = [axes[0, 0].plot([], [], "o-", color=COLOURS[arm])[0] for arm in arms]
    figure.legend(handles, [ARMS[arm] for arm in arms], loc="outside lower center", ncols=2)
    return figure, panels


def _over_steps(axis: Axes) -> None:
    """Steps of training on a logarithmic axis, with step 0 left of the first."""
    axis.set_xscale("symlog", linthresh=5)
    axis.set_xticks([0, 10, 100, 1000], ["0", "10", "100", "1,000"])
    axis.minorticks_off()
    axis.set_xlabel("steps of training")


def _lines(axis: Axes, part: pd.DataFrame) -> None:
    """A line for each ``of`` with its name at its end; whiskers beside each other."""
    series = [(of, rows.sort_values("x")) for of, rows in part.groupby("of", sort=False)]
    quantity = part["quantity"].iloc[0]
    for k, (of, rows) in enumerate(series):
        shift = 4 * (k - (len(series) - 1) / 2)
        beside = offset_copy(axis.transData, axis.figure, x=shift, units="points")
        below, above = _reach(rows)
        axis.errorbar(
            rows["x"], rows["value"], yerr=(below, above), fmt=f"-{MARKERS[k]}", capsize=2, ms=5,
            color=COLOURS["finetuned"] if quantity == "gain" else LINES[of], lw=1.4,
            transform=beside,
        )  # fmt: skip
        for y in (rows["value"] - below, rows["value"] + above):  # what is moved has no limits
            axis.update_datalim(np.column_stack([rows["x"], y]))
    axis.margins(x=0.08)
    axis.autoscale_view()
    if len(series) > 1:
        words = PARTS if quantity == "origins" else ARMS
        ends = {words[of]: (rows["value"].iloc[-1], LINES[of]) for of, rows in series}
        _name_ends(axis, ends)


def _name_ends(axis: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Names right of lines that end at a height, in a colour, at least a line of letters apart."""
    low, high = axis.get_ylim()
    apart = 0.085 * (high - low)
    ends = sorted(ends.items(), key=lambda end: end[1][0])
    at = [height for _, (height, _) in ends]
    for k in range(1, len(at)):
        at[k] = max(at[k], at[k - 1] + apart)
    for k in reversed(range(len(at))):
        at[k] = min(at[k], high if k == len(at) - 1 else at[k + 1] - apart)
    for y, (name, (_, colour)) in zip(at, ends, strict=True):
        axis.text(
            1.02, y, name, transform=axis.get_yaxis_transform(), va="center", fontsize=10,
            color=_darker(colour),
        )  # fmt: skip


def _marks(axis: Axes, part: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """A mark for each cell, with whiskers."""
    for cell, row in part.groupby("cell", sort=False):
        across = _reach(row, ACROSS) if "x_low" in part else None
        axis.errorbar(
            row["x"], row["value"], yerr=_reach(row), xerr=across, fmt="o", capsize=2, ms=6,
            color=colours[cell], lw=1.2,
        )  # fmt: skip
    axis.margins(x=0.08, y=0.1)  # room for the names


def _name_marks(axis: Axes, part: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """The name of each cell beside its mark, where it hides least."""
    renderer, cells, taken = axis.figure.canvas.get_renderer(), part.to_dict("records"), []
    for cell in cells:
        x, y = axis.transData.transform((cell["x"], cell["value"]))
        left, low = axis.transData.transform((cell.get("x_low", cell["x"]), cell["low"]))
        right, high = axis.transData.transform((cell.get("x_high", cell["x"]), cell["high"]))
        taken.append(Bbox.from_extents(left, y - 4, right, y + 4))
        taken.append(Bbox.from_extents(x - 4, low, x + 4, high))

    def hides(name: Text, place: tuple[int, int]) -> float:
        box = _placed(name, *place).get_window_extent(renderer).padded(1)
        inside = Bbox.intersection(box, axis.bbox)
        outside = box.width * box.height - (inside.width * inside.height if inside else 0)
        covered = (Bbox.intersection(box, other) for other in taken)
        hidden = sum(both.width * both.height for both in covered if both)
        return 9 * outside + hidden + 4 * abs(place[1])

    for cell in cells:
        name = axis.annotate(
            cell["cell"], (cell["x"], cell["value"]), (0, 0), textcoords="offset points",
            fontsize=10, color=_darker(colours[cell["cell"]]),
        )  # fmt: skip
        name.set_in_layout(False)
        best = min(PLACES, key=lambda place: hides(name, place))  # noqa: B023 - called at once
        taken.append(_placed(name, *best).get_window_extent(renderer))


def _placed(name: Text, right: int, up: int) -> Text:
    """A name so many points right of and above its mark, or left of and below it."""
    name.set_position((right, up))
    name.set_horizontalalignment("left" if right > 0 else "right" if right else "center")
    name.set_verticalalignment("bottom" if up > 0 else "top" if up else "center")
    return name


def _reach(rows: pd.DataFrame, columns: Sequence[str] = figures.INTERVAL) -> np.ndarray:
    """As `reach`; whiskers without end leave the figure."""
    return reach(rows, columns).clip(max=9)


def _stack(axis: Axes, row: int, parts: pd.Series, alpha: float) -> None:
    start = 0.0
    for part, colour in ORIGINS.items():
        width = parts[part] / max(1.0, parts.sum())
        axis.barh(row, width, left=start, color=colour, height=0.66, alpha=alpha)
        if width >= 0.06:
            axis.text(
                start + width / 2, row, f"{100 * parts[part]:.0f} %", ha="center", va="center",
                color=_ink(colour) if alpha == 1 else "0.1", fontsize=10,
            )  # fmt: skip
        start += width


def _whiskers(axis: Axes, number: Estimate, row: float, colour: str, marker: str) -> None:
    if not number.measurable:
        return
    reach = np.nan_to_num([[number.value - number.low], [number.high - number.value]], posinf=9)
    axis.errorbar(
        number.value, row, xerr=reach.clip(0), fmt=marker, color=colour, capsize=2, ms=6,
        markeredgewidth=2 if marker == "|" else None,
    )  # fmt: skip


def _darker(colour: str) -> tuple[float, ...]:
    """A colour as letters need it on white."""
    return tuple(0.75 * part for part in to_rgb(colour))


def _ink(colour: str) -> str:
    """Black or white, whichever has the larger contrast to a colour (WCAG)."""
    light = sns.utils.relative_luminance(colour)
    return "black" if (light + 0.05) / 0.05 > 1.05 / (light + 0.05) else "white"

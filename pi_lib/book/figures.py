"""Every figure of the book, in one style: seaborn's, safe for colour-blind readers.

The same thing has the same colour throughout (`COLOURS`). Functions that compare take one result
or a dict of them, a panel each, and return the figure. Bands and whiskers are 95 % intervals.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import cycle
from textwrap import fill as wrapped
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pi_lib.and_or import AndOrSplit
from pi_lib.coalitions import coalition, label, members, order
from pi_lib.interactions import Interactions, sum_by_order
from pi_lib.knowledge import Knowledge
from pi_lib.players import Placement
from pi_lib.statistics import bootstrap
from pi_lib.transforms import and_inverse, and_transform, or_inverse, or_transform

try:
    import matplotlib.pyplot as plt
    import pandas as pd
    import seaborn as sns
    from matplotlib.axes import Axes
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from PIL import Image
except ImportError as error:
    raise ImportError(
        f"`.plot()` needs {error.name}: pip install 'pi_lib[figures]'", name=error.name
    ) from error

if TYPE_CHECKING:
    from pi_lib.training import Split

# Okabe and Ito's colours, as seaborn's "colorblind", the light ones darkened: against white, and
# against the page in dark mode, each has the contrast of 3:1 that bars and lines need.
COLOURS = {
    "preserved": "#0173B2",
    "discarded": "#858585",
    "new": "#C67B00",
    "probe": "#2F8FC7",
    "finetuned": "#D55E00",
    "scratch": "#029E73",
    "positive": "#D55E00",
    "negative": "#0173B2",
}
PALETTE = (
    "#0173B2", "#C67B00", "#029E73", "#D55E00", "#B565A7", "#A5703D", "#2F8FC7", "#858585",
)  # fmt: skip
MARKERS = "osD^vP*X<>"
COLOURS_OF_PNG = 64  # enough for a figure, at a third of the bytes
SIMILARITIES = {  # colour and name of what a run in training is compared with
    "before": (COLOURS["probe"], "to the model before"),
    "end": (COLOURS["finetuned"], "to the run's end"),
    "target": (COLOURS["scratch"], "to the target"),
}
STRENGTH = "strength per sample, mean\n(in units of |v(N) - v({})|)"
INTERVAL = ("value", "low", "high")


def style() -> None:
    """Set the house style; a notebook calls it once."""
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette=PALETTE,
        rc={"figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 100,
            "legend.frameon": False, "axes.titlesize": "medium"},
    )  # fmt: skip


def knowledge(results: Knowledge | Mapping[str, Knowledge], *, one_scale: bool = False) -> Figure:
    """Mean strength of preserved, discarded and new knowledge by order.

    Panels have the same vertical scale only if `one_scale`.
    """
    figure, panels = _panels(results, one_scale=one_scale)
    for axis, result in panels:
        frame = result.by_order()
        for k, (part, rows) in enumerate(frame.groupby("part", sort=False)):
            _bars(axis, rows, COLOURS[part], part, offset=(k - 1) * 0.27, width=0.27)
        _order_axis(axis, int(frame["order"].max()))
    for axis in figure.axes[::2]:
        axis.set_ylabel(STRENGTH)
    _legend(figure)
    return figure


def tracked(frame: pd.DataFrame) -> Figure:
    """What `pi_lib.KnowledgeTracker.to_frame` gives: shares, and similarities, over the steps."""
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.6), layout="constrained", sharey=True)
    for measure, rows in frame.groupby("measure", sort=False):
        what, _, reference = measure.partition("_")
        if what == "jaccard":
            _line(axes[1], rows, "step", *SIMILARITIES[reference], marker="o", markersize=5)
        else:
            _line(axes[0], rows, "step", COLOURS[measure], measure, marker="o", markersize=5)
    for axis, title in zip(axes, ("share of strength", "Jaccard similarity"), strict=True):
        axis.set(title=title, xlabel="training step", ylim=(0, 1.02))
        if axis.lines:
            axis.legend()
    return figure


def choices(frame: pd.DataFrame, holds: Mapping[str, tuple[float, float]]) -> Figure:
    """Numbers under variants of a choice, a panel per number; the first variant is the default.

    `frame` has columns ``choice, variant, number, value, low, high``; `holds` gives the region of
    each number in which the paper's claim holds.
    """
    variants = frame[["choice", "variant"]].drop_duplicates()
    figure, axes = plt.subplots(
        1, len(holds), figsize=(9, 0.29 * len(variants) + 1.3), layout="constrained",
        sharey=True, squeeze=False,
    )  # fmt: skip
    for axis, (number, region) in zip(axes[0], holds.items(), strict=True):
        rows = frame[frame["number"] == number]
        look = {"color": COLOURS["preserved"], "markersize": 5, "lw": 1.6}
        axis.errorbar(rows["value"], range(len(variants)), xerr=reach(rows), fmt="o", **look)
        left, right = axis.get_xlim()
        border = region[0] if np.isfinite(region[0]) else region[1]
        left, right = min(left, border - 0.02), max(right, border + 0.02)
        axis.axvspan(max(region[0], left), min(region[1], right), color="0.92", zorder=0)
        axis.set(xlim=(left, right))
        axis.axvline(rows["value"].iloc[0], color=COLOURS["preserved"], linestyle=":", lw=1.2)
        axis.set_xlabel(fill(number, 22), fontsize="small")
        axis.grid(False, axis="y")
    name_rows(axes[0, 0], (variants["choice"] + ": " + variants["variant"]).map(_plain))
    return figure


def and_or(results: Interactions | Mapping[str, Interactions]) -> Figure:
    """Mean strength of AND and of OR interactions by order, in units of ``|v(N) - v({})|``.

    The panels of a row have one scale.
    """
    figure, panels = _panels(results, width=3.6, one_scale="row")
    for axis, result in panels:
        n, kinds = result.n, (("AND", result.i_and, "preserved"), ("OR", result.i_or, "new"))
        for k, (kind, terms, colour) in enumerate(kinds):
            sums = sum_by_order(terms.abs(), order(n), n) / result.scale
            means = {m: vars(bootstrap(sums[:, m])) for m in range(1, n + 1)}
            rows = pd.DataFrame.from_dict(means, orient="index").rename_axis("order").reset_index()
            _bars(axis, rows, COLOURS[colour], kind, offset=(k - 0.5) * 0.4, width=0.4)
        _order_axis(axis, n)
        axis.set_xlabel("order")
    for axis in figure.axes[::2]:
        axis.set_ylabel(STRENGTH)
    _legend(figure)
    return figure


def splits_on_a_line(v: Tensor, split: AndOrSplit) -> Figure:
    """Sum of the sizes of all interactions from all-AND to all-OR, and a split's bound on it.

    `v` (2**n,) float64 is one game, `split` what `pi_lib.and_or_split` makes of it.
    """
    share = torch.linspace(-0.25, 1.25, 101, dtype=v.dtype)[:, None]
    sums = sum(
        transform(part * v)[:, 1:].abs().sum(-1)
        for transform, part in ((and_transform, 1 - share), (or_transform, share))
    )
    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    axis.plot(share[:, 0], sums, color=COLOURS["discarded"], label="splits on the line")
    for at, name in ((0, "all AND"), (1, "all OR")):
        value = sums[(share[:, 0] - at).abs().argmin()]
        axis.plot(at, value, "o", color=COLOURS["discarded"])
        axis.annotate(name, (at, value), (0, -16), textcoords="offset points", ha="center")
    axis.axhline(
        split.bound.item(), color=COLOURS["preserved"], linestyle="--",
        label="no split is below this; pi_lib's reaches it",
    )  # fmt: skip
    axis.set(xlabel="part of v that is written as OR", ylabel="sum of sizes", ylim=(0, None))
    axis.legend(loc="lower center")
    return figure


def strongest(interactions: Interactions, sample: int = 0, k: int = 10) -> Figure:
    """The k strongest interactions of one sample as signed bars."""
    frame = interactions.top(k, sample).iloc[::-1]
    figure, axis = plt.subplots(figsize=(7, 0.36 * len(frame) + 1), layout="constrained")
    names = frame["players"].map(_plain) + frame["kind"].map({"and": "", "or": " (or)"})
    axis.barh(range(len(frame)), frame["value"], color=_signs(frame["value"]))
    axis.set_yticks(range(len(frame)), names)
    axis.axvline(0, color="0.3", linewidth=1)
    axis.set_xlabel("interaction, nats of log-odds of the true class")
    axis.grid(False, axis="y")
    return figure


def rebuild_error(interactions: Interactions, counts: Sequence[int]) -> Tensor:
    """Relative RMS error of v from the k strongest interactions: (B, len(counts)).

    v({}), which is always known, counts as the first.
    """
    terms, orders, v = interactions.terms, interactions.orders, interactions.v
    strength = terms.abs().masked_fill(orders == 0, torch.inf)
    rank = strength.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    rank -= (orders == 0).sum() - 1  # AND and OR hold v({}) between them
    spread = (v - v.mean(-1, keepdim=True)).pow(2).mean(-1).sqrt().clamp(min=1e-12)
    inverses = (and_inverse, or_inverse)
    errors = []
    for count in counts:
        parts = (terms * (rank < count)).split(v.shape[-1], -1)
        rebuilt = sum(inverse(part) for inverse, part in zip(inverses, parts, strict=False))
        errors.append((rebuilt - v).pow(2).mean(-1).sqrt() / spread)
    return torch.stack(errors, -1)


def scenes(boxes: "Split", maps: "Split", classes: Sequence[str], k: int = 4) -> Figure:
    """The first k scenes with the boxes of both objects and, below, their masks; first in gold.

    `boxes` and `maps` are the same scenes as `pi_lib.study.data` loads them for detection and for
    segmentation.
    """
    colours = ("#FFD700", "#56B4E9")
    figure, axes = plt.subplots(2, k, figsize=(1.8 * k, 3.9), layout="constrained", squeeze=False)
    for i, (above, below) in enumerate(axes.T):
        picture = boxes.inputs[i].movedim(0, -1).numpy()
        above.imshow(picture)
        below.imshow(picture // 2)
        names = []
        for colour, (number, left, top, right, bottom), mask in zip(
            colours, boxes.targets[i].tolist(), maps.targets[i] >= 0, strict=True
        ):
            corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
            above.add_patch(plt.Rectangle(corner, *size, fill=False, edgecolor=colour, lw=1.5))
            cover = np.zeros((*mask.shape, 4))
            cover[mask] = (*to_rgb(colour), 0.75)
            below.imshow(cover)
            names.append(_plain(classes[int(number)]))
        above.set_title(",\n".join(names), fontsize="small")
    for axis in axes.flat:
        axis.set_axis_off()
    return figure


def players_on_image(placement: Placement) -> Figure:
    """An image with its players outlined and named."""
    figure, axis = plt.subplots(figsize=(3.5, 3.5), layout="constrained")
    axis.imshow(_picture(placement))
    for player, name in enumerate(placement.names):
        left, top, width, height = _outline(axis, placement, player, "#FFD700")
        axis.text(
            left + width / 2, top + height / 2, _plain(name), color="white", ha="center",
            va="center", fontsize=8, bbox={"facecolor": "black", "alpha": 0.6, "pad": 0.6, "lw": 0},
        )  # fmt: skip
    axis.set_axis_off()
    return figure


def interactions_on_image(
    placement: Placement, interactions: Interactions, sample: int = 0, k: int = 5
) -> Figure:
    """The image with its players, then the patches of each of its k strongest interactions."""
    frame = interactions.top(k, sample)
    # more than three in a row would be too small on a phone
    figure, axes = grid(1 + len(frame), 3, 1.2, 1.5)
    first, *others = axes.flat
    first.imshow(_picture(placement))
    first.set_title("players")
    for player in range(len(placement.names)):
        _outline(first, placement, player, "#FFD700")
    for axis, row in zip(others, frame.itertuples(), strict=False):
        _patches(axis, placement, members(row.coalition), _signs([row.value])[0])
        axis.set_title(signed(row.value))
    for axis in axes.flat:
        axis.set_axis_off()
    return figure


def signed(value: float) -> str:
    """A number with its sign and two decimals; minus zero never.

    Examples
    --------
    >>> signed(0.126), signed(-0.004)
    ('+0.13', '+0.00')
    """
    return f"{round(value, 2) + 0.0:+.2f}"


def patches(placement: Placement, group: int, colour: str) -> Figure:
    """A small picture of the image in which the patches of one coalition stand out."""
    figure = plt.figure(figsize=(1.2, 1.2))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    _patches(axis, placement, members(group), colour)
    return figure


def coalition_of(key: str, names: Sequence[str]) -> int:
    """The coalition of the players whose names `key` joins by spaces; ValueError for others."""
    if unknown := set(key.split()) - set(names):
        raise ValueError(f"{sorted(unknown)[0]!r} is no player; there are {', '.join(names)}")
    return coalition(names.index(name) for name in key.split())


def game_by_hand(values: Mapping[str, float], names: Sequence[str]) -> Tensor:
    """v (2**n,) float64 of the n players of `names` from the value of every coalition.

    The key of a value are the members' names joined by a space; "" is the empty coalition.

    Raises ValueError if a coalition has no value, or names none of the players.
    """
    v = {coalition_of(key, names): float(value) for key, value in values.items()}
    if missing := [label(s, names) for s in range(2 ** len(names)) if s not in v]:
        raise ValueError(f"no value for {', '.join(missing)}; every coalition has one")
    return torch.tensor([v[s] for s in range(len(v))], dtype=torch.float64)


def game(values: Mapping[str, float], names: Sequence[str]) -> Figure:
    """A small game by hand: the value of every coalition beside its AND interactions.

    `values` and `names` as `game_by_hand` takes them.
    """
    v = game_by_hand(values, names)
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained", sharey=True)
    ticks = [_plain(label(s, names)) for s in range(len(v))]
    for axis, numbers, title in (
        (axes[0], v, "v(T): output when T is present"),
        (axes[1], and_transform(v), "I(S): what S adds together"),
    ):
        axis.bar(range(len(v)), numbers.tolist(), color=_signs(numbers))
        axis.axhline(0, color="0.3", linewidth=1)
        axis.set_title(title)
        axis.set_xticks(range(len(v)), ticks, rotation=45, ha="right", fontsize=9)
        axis.grid(False, axis="x")
    axes[0].set_ylabel("output")
    return figure


def times_less(frame: pd.DataFrame, unit: str) -> Figure:
    """How many times less than its peers something takes, a row each, on a logarithmic axis.

    `frame` has columns ``what``, ``times`` and ``target`` (NaN where none was set).
    """
    frame = frame.iloc[::-1].reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(9, 0.42 * len(frame) + 1.5), layout="constrained")
    axis.hlines(frame.index, 1, frame["times"], color=COLOURS["preserved"], linewidth=3)
    axis.plot(frame["times"], frame.index, "o", color=COLOURS["preserved"], label="measured")
    axis.plot(
        frame["target"], frame.index, "|", color=COLOURS["finetuned"], markersize=18,
        markeredgewidth=3, label="target: at least",
    )  # fmt: skip
    for row in frame.itertuples():
        text = f"{row.times:,.0f}" if row.times >= 100 else f"{row.times:.3g}"
        if row.target > 0:
            text += f" (target {row.target:,.0f})"
        end = np.nanmax([row.times, row.target])
        axis.annotate(text, (end, row.Index), (10, 0), textcoords="offset points", va="center")
    axis.axvline(1, color="0.3", linewidth=1)
    axis.set(xscale="log", xlabel=unit, yticks=frame.index, yticklabels=frame["what"])
    axis.set_xlim(right=np.nanmax(frame[["times", "target"]]) ** 2)  # room for the numbers
    axis.grid(False, axis="y")
    figure.legend(loc="outside upper right", ncols=2)
    return figure


def growth(
    frame: pd.DataFrame, x: str, y: str, methods: Sequence[str], *,
    logarithmic: str = "y", xlabel: str, ylabel: str,
) -> Figure:  # fmt: skip
    """How `y` grows with `x`, a line per ``method`` of the frame; those of a ``peer`` are dashed.

    `methods` are all there are, so that each looks the same in every figure. `logarithmic` names
    the axes that are: "x", "y", "xy" or "".
    """
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    for k, (method, marker) in enumerate(zip(methods, cycle("os^DvPX*"), strict=False)):
        rows = frame[frame["method"] == method]
        if len(rows):
            line = "--" if rows["peer"].any() else "-"
            axis.plot(rows[x], rows[y], line, color=f"C{k}", marker=marker, label=method)
    ticks = sorted(set(frame[x]))
    axis.set(xlabel=xlabel, ylabel=ylabel)
    if "x" in logarithmic:
        axis.set_xscale("log")
        axis.minorticks_off()
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    if "y" in logarithmic:
        axis.set_yscale("log")
    else:
        axis.set_ylim(0, 1.1 * frame[y].max())
    figure.legend(loc="outside right center")
    return figure


def image(figure: Figure, alt: str, dpi: float | str = "figure") -> str:
    """A figure as HTML, a PNG of few colours within it; the figure is closed."""
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=dpi)
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB").quantize(COLOURS_OF_PNG)
    width, height = picture.size  # known before it is decoded, so that the page does not jump
    data = data_uri(picture, "png", optimize=True)
    return f'<img alt="{escape(alt)}" width="{width}" height="{height}" src="{data}">'


def data_uri(picture: Image.Image, form: str, **options) -> str:
    """A picture within an address; `options` are those of PIL for its form, "png" or "jpeg"."""
    picture.save(buffer := io.BytesIO(), form, **options)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _panels(results, width: float = 3.5, one_scale: bool | str = True):
    """A figure with a panel per result, two in a row, and (axis, result) pairs."""
    named = results if isinstance(results, Mapping) else {"": results}
    if not named:
        raise ValueError("nothing to draw: no results were given")
    figure, axes = grid(len(named), 2, width, 3.4, sharey=one_scale)
    for axis, name in zip(axes.flat, named, strict=False):
        axis.set_title(fill(_plain(name), 28))
    return figure, list(zip(axes.flat, named.values(), strict=False))


def grid(
    count: int, most: int, width: float, height: float, more: float = 0.0, **options
) -> tuple[Figure, np.ndarray]:
    """A figure of `count` panels, at most so many in a row, and its axes (rows, columns).

    `width` and `height` are a panel's, in inches, `more` is added to the figure's height.
    """
    columns = min(most, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows + more), layout="constrained",
        squeeze=False, **options,
    )  # fmt: skip
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return figure, axes


def reach(frame: pd.DataFrame, columns: Sequence[str] = INTERVAL) -> np.ndarray:
    """How far whiskers go below and above the values of a frame: (2, rows); 0 where unknown."""
    value, low, high = (frame[name].to_numpy(float) for name in columns)
    return np.nan_to_num(np.stack([value - low, high - value])).clip(min=0)


def name_rows(axis: Axes, names: Iterable[str]) -> None:
    """Name the rows of a figure, the first on top."""
    names = list(names)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(False, axis="y")


def _line(axis: Axes, frame, x: str, colour: str, name: str, **look) -> None:
    axis.plot(frame[x], frame["value"], color=colour, label=name, **look)
    axis.fill_between(frame[x], frame["low"], frame["high"], color=colour, alpha=0.2, linewidth=0)


def _bars(axis: Axes, frame, colour: str, name: str, *, width: float, offset: float) -> None:
    at = frame["order"] + offset
    axis.bar(at, frame["value"], width, color=colour, label=name)
    axis.errorbar(at, frame["value"], reach(frame), fmt="none", ecolor="0.25", lw=1)


def _order_axis(axis: Axes, n: int) -> None:
    axis.set_xlabel("order (number of players)")
    axis.set_xticks(range(1, n + 1))
    axis.grid(False, axis="x")


def _legend(figure: Figure) -> None:
    """One legend for all panels, below them, where it hides nothing."""
    named = {
        name: handle
        for axis in figure.axes
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(named.values(), named, loc="outside lower center", ncols=min(3, len(named)))


def fill(name: str, width: int) -> str:
    """A name in lines of so many letters, broken between words alone.

    Examples
    --------
    >>> fill("ResNet-20, CIFAR-10 → Fashion-MNIST", 24).splitlines()
    ['ResNet-20, CIFAR-10 →', 'Fashion-MNIST']
    """
    return wrapped(name, width, break_on_hyphens=False, break_long_words=False)


def _plain(name: str) -> str:
    """A name of a player, a class or data, in which matplotlib sees no formula."""
    return str(name).replace("$", r"\$")


def _signs(values) -> list[str]:
    return [COLOURS["positive" if value >= 0 else "negative"] for value in values]


def _picture(placement: Placement) -> np.ndarray:
    return placement.inputs[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy()


def _patches(axis: Axes, placement: Placement, players: Sequence[int], colour: str) -> None:
    """The image pale, but for the patches of some players, which are outlined."""
    picture = _picture(placement)
    inside = sum((placement.owner[0, 0] == player).int() for player in players).numpy()
    axis.imshow(np.where(inside[..., None] > 0, picture, picture * 0.35 + 0.65))
    for player in players:
        _outline(axis, placement, player, colour)


def _outline(axis: Axes, placement: Placement, player: int, colour: str):
    """Outline a player's patch; its left, top, width and height in pixels of the image."""
    rows, columns = torch.nonzero(placement.owner[0, 0] == player, as_tuple=True)
    top, left = rows.min().item() - 0.5, columns.min().item() - 0.5
    height, width = rows.max().item() + 0.5 - top, columns.max().item() + 0.5 - left
    axis.add_patch(plt.Rectangle((left, top), width, height, fill=False, edgecolor=colour, lw=1.8))
    return left, top, width, height

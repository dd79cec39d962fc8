"""Figures that the reader moves: `explore`, and the explorers built on it.

All work in JupyterLab and in the static book alike. Where there is nothing to explore yet, an
explorer shows a sentence that says how to make it, not an error.

What explorers draw themselves is text and bars in HTML: it follows the page's width, colours and
letter size, and a hundred frames of it weigh less than a figure.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from html import escape
from itertools import product
from typing import Any

import ipywidgets
import pandas as pd
import torch
from IPython import get_ipython
from IPython.display import HTML, display
from PIL import Image
from torch import Tensor

from pi_lib.book import MAKES, figures, hero
from pi_lib.book.tables import ARMS
from pi_lib.coalitions import label, members
from pi_lib.interactions import Interactions
from pi_lib.knowledge import compare, jaccard
from pi_lib.progress import building_book
from pi_lib.statistics import bootstrap
from pi_lib.study import Record
from pi_lib.study.accuracies import proportion
from pi_lib.transforms import and_transform, or_transform, walsh_transform

MAX_FRAMES = 150
MAX_BYTES = 3_000_000
# How explorers look, on the page and in JupyterLab; and for screen readers the label of a slider as
# its name, which ipywidgets does not give, and the value shown, where it gives the index.
HEAD = """<style>
.pi-explore { max-width: 100%; overflow: visible; }
.pi-explore img { display: block; max-width: 100%; height: auto; }
.pi-explore .widget-slider .noUi-target { background: #858585; }
.pi-explore .widget-slider .noUi-handle { background: #0173B2; border-color: #0173B2; }
.pi-explore .noUi-handle:focus-visible { outline: 3px solid #D55E00; outline-offset: 2px; }
.pi-explore > .widget-box, .pi-explore .pi-frame { flex-flow: row wrap; }
.pi-frame > * { flex: 1 1 100%; }
.pi-frame > :has(.pi-card) { flex: 0 0 7.6em; align-items: start; }
.pi-explore .widget-html-content { line-height: 1.45; white-space: normal; }
.pi-explore .pi-note { font-size: .85em; }
.pi-explore .pi-readout { margin: .4em 0; }
.pi-game td, .pi-game th { padding: .1em .5em; text-align: left; }
.pi-game td { white-space: nowrap; }
.pi-row { display: flex; gap: .8em; align-items: center; }
.pi-row > small { flex: 0 0 2.6em; }
.pi-row > :last-child { flex: 1; }
.pi-card > * { display: block; overflow-wrap: anywhere; }
.pi-frame > :has(.pi-two):has(.pi-card) { flex-basis: 11em; }
.pi-two { flex: none; white-space: nowrap; }
.pi-card:has(.pi-two) { padding-right: .8em; }
.pi-two small { display: inline-block; width: 3.2em; font-size: 1em; }
.pi-bar { display: inline-block; width: 4em; height: 1em; vertical-align: -.15em; background:
  linear-gradient(90deg, transparent calc(50% - .5px), currentColor 0 calc(50% + .5px),
    transparent 0),
  linear-gradient(90deg, transparent var(--from), var(--colour) 0 var(--to), transparent 0); }
.pi-number { display: inline-block; width: 3.4em; text-align: right;
  font-variant-numeric: tabular-nums; }
.pi-player { border-bottom: 1px dotted; }
.pi-row mark { color: #111; background: var(--tint); padding: 0 .15em; }
.pi-curve { width: 100%; max-width: 26em; }
</style><script>
window.piExplorers ||= new MutationObserver(() => {
  for (const slider of document.querySelectorAll(".pi-explore .widget-slider")) {
    const handle = slider.querySelector("[role=slider]");
    const value = slider.querySelector(".widget-readout")?.textContent;
    handle?.setAttribute("aria-label", slider.querySelector("label").textContent);
    if (value && handle && handle.getAttribute("aria-valuetext") !== value)
      handle.setAttribute("aria-valuetext", value);
  }
});
window.piExplorers.observe(document.body,
  {childList: true, subtree: true, attributeFilter: ["aria-valuetext"]});
</script>"""
TINTS = {"positive": "#F9D9C2", "negative": "#C4E1F5"}  # behind dark letters, in both modes


def explore(
    fn: Callable[..., Any],
    *,
    alt: str | None = None,
    start: Mapping[str, Any] | None = None,
    live: Mapping[str, Sequence] | None = None,
    **grid: Sequence,
):
    """One slider or menu per parameter, and what `fn` shows at the chosen point.

    In JupyterLab `fn` is called when a control moves, each point once. While the book is built
    every point of the grid is drawn beforehand, since a static page can only choose among
    frames.

    Parameters
    ----------
    fn : callable
        ``fn(**point)`` returns a matplotlib figure (closed afterwards), anything with
        ``_repr_html_`` (a data frame), a string, shown as plain text, or a list of these, shown
        one below the other.
    alt : str, optional
        What the figure shows, for readers who cannot see it; the point is named in any case.
    start : mapping, optional
        Values that are shown first; default the first of each parameter.
    live : mapping, optional
        Parameters and values for JupyterLab, where any number will do, in place of `grid`.
    **grid : sequence
        Values of each parameter: numbers become a slider, others a menu.

    Returns an `ipywidgets.VBox`, to be the last expression of a cell; so do all explorers.

    Raises
    ------
    ValueError
        No parameters, a parameter without values or without its `start`, or more than 150 frames
        or 3 MB of them.
    TypeError
        `fn` returned nothing that can be shown.

    Examples
    --------
    >>> box = explore(lambda k: f"k is {k}", k=[1, 2, 3])
    """
    _check_size(grid)
    shown = grid if live is None or building_book() else live
    shown = {name: list(values) for name, values in shown.items()}
    first = {name: values[0] for name, values in shown.items()} | dict(start or {})
    controls = [_control(name, values, first[name]) for name, values in shown.items()]
    frames = _Frames(fn, alt, shown, controls)
    _display(HEAD)
    parts = frames.static(live is not None) if building_book() else [frames.live()]
    return ipywidgets.VBox([ipywidgets.Box(controls), *parts], _dom_classes=["pi-explore"])


def explore_game(
    values: Mapping[str, float], names: Sequence[str], moved: Mapping[str, Sequence[float]]
):
    """A game of few players by hand: move its values, and see its AND interactions.

    Parameters
    ----------
    values : mapping
        v of every coalition, by the members' names joined by a space; "" is the empty one.
    names : sequence of str
        The players.
    moved : mapping
        Coalitions that move in the static page, with levels besides their own value; in JupyterLab
        all move freely.

    Raises
    ------
    ValueError
        As `explore`; or if a coalition has no value, or names none of the players.

    Examples
    --------
    >>> game = {"": 0.0, "a": 1.0, "b": 1.0, "a b": 3.0}
    >>> box = explore_game(game, ["a", "b"], {"a b": [1.0, 2.0, 3.0]})
    """
    v = figures.game_by_hand(values, names)
    titles = [f"v({label(s, names)})" for s in range(len(v))]

    def shown(**point: float) -> list:
        game = v.clone()
        for title, value in point.items():
            game[titles.index(title)] = value
        effects = and_transform(game)
        reach = max(4.0, game.abs().max().item(), effects.abs().max().item())
        rows = "".join(
            f'<tr><th scope="row">{escape(label(s, names))}</th>'
            f"<td>{_signed(a, reach)}</td><td>{_signed(b, reach)}</td></tr>"
            for s, (a, b) in enumerate(zip(game.tolist(), effects.tolist(), strict=True))
        )
        strongest = int(effects[1:].abs().argmax()) + 1
        text = (
            f"Strongest: I({label(strongest, names)}) = {effects[strongest]:+.1f}. All {len(v)} "
            f"add up to v({label(len(v) - 1, names)}) = {game[-1]:+.1f}."
        )
        head = "<th></th><th>v(T), T is present</th><th>I(S), what S adds</th>"
        return [_Html(f'<table class="pi-game"><tr>{head}</tr>{rows}</table>'), _readout(text)]

    levels = sorted({k / 2 for k in range(-8, 9)} | set(v.tolist()))
    steps = {figures.coalition_of(key, names): at for key, at in moved.items()}
    return explore(
        shown,
        start=dict(zip(titles, v.tolist(), strict=True)),
        live=dict.fromkeys(titles, levels),
        **{titles[s]: sorted({*map(float, at), v[s].item()}) for s, at in steps.items()},
    )


def explore_sample(
    interactions: Interactions | None,
    inputs: Tensor | Sequence[str] | None,
    players,
    *,
    samples: Sequence[int] = (0, 1, 2),
    thresholds: Sequence[float] = (0.05, 0.1, 0.2, 0.5),
    k: int = 5,
):
    """One sample: its strongest interactions, and how few of them rebuild the output.

    The kinds to choose from are AND and OR, each of which alone writes the whole output, and both
    together where the interactions are of kind "and-or".

    Parameters
    ----------
    interactions : Interactions
        From `pi_lib.extract`.
    inputs, players
        What they were extracted with: images ``(B, C, H, W)`` as floats in [0, 1], sentences, or
        other inputs, whose players are then shown by name.
    samples : sequence of int
        Which samples can be chosen.
    thresholds : sequence of float
        Thresholds of salience: fractions of the strongest interaction; the largest comes first.
    k : int
        How many of the salient interactions are drawn, at most.

    Raises
    ------
    ValueError
        As `explore`; or if inputs and players are not those of the interactions.
    TypeError
        If the interactions are not of method 'exact'.

    Examples
    --------
    >>> box = explore_sample(None, None, None)  # a sentence: how to extract them
    """
    if interactions is None or not len(interactions):
        return _sentence(
            "No interactions yet: extract them first, "
            "interactions = pi_lib.extract(model, inputs, labels, players), then "
            "explore_sample(interactions, inputs, players)."
        )
    if (method := getattr(interactions, "method", type(interactions).__name__)) != "exact":
        raise TypeError(
            f"got {method}; expected Interactions of method 'exact': no other has the value of "
            "every coalition to rebuild"
        )
    if not (there := [sample for sample in samples if 0 <= sample < len(interactions)]):
        return _sentence(
            f"No sample {', '.join(map(str, samples)) or 'was chosen'}: there are "
            f"{len(interactions)}, numbered from 0. Choose among them with samples=[0]."
        )
    draw = _drawing(interactions, inputs, players)
    shape = "pi-card" if isinstance(inputs, Tensor) and inputs.ndim == 4 else "pi-row"

    def shown(sample: int, kind: str, up_to_order: int, threshold: float) -> list:
        whole = _as_kind(interactions[[sample]], kind)
        chosen = _up_to(whole, up_to_order)
        strongest = whole.top(1)["value"].abs().item()
        salient = int(chosen.salient(threshold).sum())
        which = kind if up_to_order == whole.n else f"{kind}, up to order {up_to_order}"
        more = f"; the {k} strongest are shown" if salient > k else ""
        rebuilt, curve = _rebuilt(chosen, salient)
        text = (
            f"{which}: {salient} of {2**whole.n - 1} interactions are stronger than {threshold:g} "
            f"of the strongest{more}. {rebuilt}"
        )
        rows = [
            _Html(
                f'<div class="{shape}"><span>{_signed(row.value, strongest)}</span>'
                f"{draw(sample, row)}</div>"
            )
            for row in chosen.top(min(k, salient)).itertuples()
        ]
        return [_readout(text), *rows, curve]

    orders = sorted({1, 2, 3, interactions.n} & set(range(1, interactions.n + 1)))
    return explore(
        shown,
        start={"up_to_order": interactions.n, "threshold": max(thresholds)},
        sample=there,
        kind=["AND", "OR"] if interactions.kind == "and" else ["AND and OR", "AND", "OR"],
        up_to_order=orders,
        threshold=sorted(thresholds),
    )


def explore_training(records: Record | Mapping[str, Record] | None, tau: float = 0.05):
    """Preserved, new and discarded by order at each checkpoint, fine-tuned beside scratch.

    *Preserved* is what the checkpoint shares with the finished fine-tuned model; *discarded* is in
    that model only, *new* in the checkpoint only. Numbers stand with 95 % intervals.

    Parameters
    ----------
    records : Record or mapping of str to Record
        From `pi_lib.study.run`, `run_all` or `read_all`; of several, one is chosen. Those without
        checkpoints are left out.
    tau : float, default 0.05
        Threshold of salience.

    Examples
    --------
    >>> box = explore_training(None)  # a sentence: how to run a cell
    """
    named = records if isinstance(records, Mapping) else {"": records}
    named = {
        name: record
        for name, record in named.items()
        if record is not None and all(map(record.has_checkpoints, _TrainingView.ARMS))
    }
    if not named:
        return _sentence(
            "No checkpoints with interactions yet: compute a cell first, "
            'record = pi_lib.study.run(pi_lib.study.Cell("efficientnet-lite0", "fashion-mnist")), '
            "then explore_training(record)."
        )
    view = _TrainingView(named, tau)
    return explore(
        view.shown,
        alt="Preserved, discarded and new knowledge by order, fine-tuned beside scratch",
        **({"task": list(named)} if len(named) > 1 else {}),
        checkpoint=range(min(map(len, view.runs.values()))),
    )


def explore_transfer(shown: Mapping[str, hero.Example] | None):
    """A photograph and a sentence before and after fine-tuning: what is kept, lost and new.

    To choose are the input, what becomes of the groups, their order, and one fine-tuned run or all
    of them. Effects are Walsh coefficients, and counted as `pi_lib.book.hero.parts` does; *after*
    is the chosen run, or the mean over all runs. `shown` is from `pi_lib.book.hero.examples`.

    Examples
    --------
    >>> box = explore_transfer(None)  # a sentence: how to make the records
    """
    if shown is None:
        return _sentence(
            "No records of the photograph and of the sentence, with the players that are drawn "
            f"here: make them first, {MAKES.format('paper', 'hero')}."
        )
    view = _TransferView(shown)
    _display(view.picture())
    return explore(
        view.shown,
        start={"order": view.orders[min(1, len(view.orders) - 1)]},
        input=list(shown),
        groups=["kept", "lost", "new"],
        order=view.orders,
        run=list(view.runs),
    )


# ---------------------------------------------------------------- what `explore` is made of


class _Html(str):
    """A string that is HTML already, and holds no formula, whatever names stand in it."""

    def _repr_html_(self) -> str:
        return f'<div class="tex2jax_ignore mathjax_ignore">{self}</div>'


class _Frames:
    """What `fn` shows at the points of a grid, as widgets, each drawn once."""

    def __init__(self, fn: Callable[..., Any], alt: str | None, grid: dict, controls: list):
        self.fn, self.alt, self.grid, self.controls = fn, alt, grid, controls
        self.layout, style = ipywidgets.Layout(), ipywidgets.HTML().style  # for all: half the bytes
        self._part = cache(lambda html: ipywidgets.HTML(html, layout=self.layout, style=style))
        self.at = cache(self._at)

    def _at(self, place: tuple[int, ...]) -> tuple:
        """The widgets at a point, given by its place in each parameter's values."""
        point = {name: self.grid[name][i] for name, i in zip(self.grid, place, strict=True)}
        where = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in point.items())
        alt = f"{self.alt} ({where})" if self.alt else f"Figure at {where}"
        return tuple(map(self._part, _parts(self.fn(**point), alt)))

    def chosen(self) -> tuple:
        """The widgets at the point where the controls stand."""
        return self.at(tuple(control.index for control in self.controls))

    def live(self) -> ipywidgets.Box:
        """What is chosen, drawn when a control moves."""
        shown = ipywidgets.Box(self.chosen(), _dom_classes=["pi-frame"])
        for control in self.controls:
            control.observe(lambda _: setattr(shown, "children", self.chosen()), "index")
        return shown

    def static(self, free: bool) -> list:
        """Every frame, chosen by the controls without Python, and a note that says so."""
        frames = [self.at(place) for place in product(*map(range, map(len, self.grid.values())))]
        size = sum(len(part.value) for part in set().union(*frames))
        if size > MAX_BYTES:
            raise ValueError(
                f"{len(frames)} frames take {size / 1e6:.1f} MB; a page holds at most "
                f"{MAX_BYTES / 1e6:.0f} MB: draw smaller figures, or fewer of them"
            )
        # What a reader without scripts sees; with scripts the widget shows it.
        _display(f"<noscript>{''.join(part.value for part in self.chosen())}</noscript>")
        note = f"This page holds {len(frames)} frames, drawn when it was built. JupyterLab " + (
            "moves every value freely." if free else "draws them anew."
        )
        return [self.stack(), ipywidgets.HTML(f'<div class="pi-note">{note}</div>')]

    def stack(self, *place: int) -> ipywidgets.Widget:
        """Stacks in stacks, one level per control, each linked to its control."""
        if len(place) == len(self.controls):
            return ipywidgets.Box(self.at(place), layout=self.layout, _dom_classes=["pi-frame"])
        control = self.controls[len(place)]
        children = [self.stack(*place, i) for i in range(len(control.options))]
        stack = ipywidgets.Stack(children, selected_index=control.index, layout=self.layout)
        ipywidgets.jslink((control, "index"), (stack, "selected_index"))
        return stack


def _check_size(grid: Mapping[str, Sequence]) -> None:
    count = math.prod(map(len, grid.values()))
    if not grid or not count:
        raise ValueError(f"expected at least one value for each parameter; got {grid or 'none'}")
    if count > MAX_FRAMES:
        sizes = " x ".join(f"{len(values)} {name}" for name, values in grid.items())
        raise ValueError(f"{sizes} = {count} frames; a page holds at most {MAX_FRAMES}")


def _display(html: str) -> None:
    """Show HTML where there is a notebook to show it."""
    if get_ipython() is not None:
        display(HTML(html))


def _control(name: str, values: Sequence, first: Any):
    """A labelled slider over numbers, a menu over anything else."""
    if first not in values:
        raise ValueError(f"{name} starts at {first!r}; expected one of {values}")
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    kind = ipywidgets.SelectionSlider if numbers else ipywidgets.Dropdown
    options = [(f"{v:g}" if isinstance(v, float) else str(v), i) for i, v in enumerate(values)]
    return kind(
        options=options,
        value=list(values).index(first),
        description=name.replace("_", " ").replace("$", "\uff04"),  # no formula to JupyterLab
        style={"description_width": "initial"},
        layout={"max_width": "100%"},
    )


def _parts(shown: Any, alt: str) -> Iterable[str]:
    """What `fn` returned, as pieces of HTML."""
    for part in shown if isinstance(shown, list) else [shown]:
        if hasattr(part, "savefig"):
            yield figures.image(part, alt)
        elif isinstance(part, str) and not isinstance(part, _Html):
            yield f"<pre>{escape(part)}</pre>"
        elif (html := getattr(part, "_repr_html_", lambda: None)()) is not None:
            yield html
        else:
            raise TypeError(
                "expected a matplotlib figure, a string, something with _repr_html_, or a list of "
                f"these; got {part!r}"
            )


def _sentence(text: str):
    """What an explorer shows where there is nothing to explore."""
    return ipywidgets.HTML(f'<p class="pi-note">{escape(text)}</p>', _dom_classes=["pi-explore"])


def _readout(text: str) -> _Html:
    return _Html(f'<p class="pi-readout">{escape(text)}</p>')


def _signed(value: float, reach: float) -> str:
    """A number and its bar, left or right of zero; the bar's half is `reach`."""
    colour = figures.COLOURS[_sign(value)]
    end = 50 + 50 * max(-1.0, min(1.0, value / reach if reach else 0.0))
    left, right = sorted((50, round(end)))
    return (
        f'<i class="pi-bar" style="--from:{left}%;--to:{right}%;--colour:{colour}"></i>'
        f'<span class="pi-number">{figures.signed(value)}</span>'
    )


def _sign(value: float) -> str:
    return "positive" if value >= 0 else "negative"


# ---------------------------------------------------------------- what `explore_sample` is made of


def _rebuilt(chosen: Interactions, salient: int) -> tuple[str, _Html]:
    """How well the salient interactions rebuild the output: as a sentence, and as a curve."""
    counts = torch.logspace(0, chosen.n, 60, 2).round().int().unique().tolist()  # with v({})
    errors = figures.rebuild_error(chosen, [*counts, 1 + salient])[0].tolist()
    error, curve = errors.pop(), list(zip(counts, errors, strict=True))
    enough = next((count - 1 for count, at in curve if at <= 0.1), None)
    text = f"All {salient} rebuild the output to a relative error of {error:.2f}; " + (
        f"{enough} suffice for an error of 0.1."
        if enough is not None
        else f"with more of them it stays above {min(errors):.2f}."
    )
    return text, _Html(_curve(curve, (1 + salient, error)))


def _as_kind(interactions: Interactions, kind: str) -> Interactions:
    """The same output as a sum of interactions of another kind."""
    v = interactions.v
    if kind == "AND":
        return replace(interactions, i_and=and_transform(v), i_or=None)
    if kind == "OR":
        return replace(interactions, i_and=torch.zeros_like(v), i_or=or_transform(v))
    return interactions


def _up_to(interactions: Interactions, order: int) -> Interactions:
    """Without the interactions of higher order: what is left no longer adds up to v."""
    i_and, i_or = interactions.i_and, interactions.i_or
    low = (interactions.orders <= order)[: i_and.shape[-1]]
    return replace(interactions, i_and=i_and * low, i_or=None if i_or is None else i_or * low)


def _curve(points: Sequence[tuple[int, float]], chosen: tuple[int, float]) -> str:
    """Error of the rebuilt output against the number of interactions kept, on a log axis."""
    most = points[-1][0]

    def at(count: int, error: float) -> tuple[int, int]:
        return round(40 + 270 * math.log(count, most)), round(90 - 66 * min(error, 1.2))

    line = " ".join(f"{x},{y}" for x, y in (at(*point) for point in points))
    (left, bottom), (right, top), (x, y) = at(1, 0), at(most, 1), at(*chosen)
    colour = figures.COLOURS["preserved"]
    return (
        '<svg class="pi-curve" viewBox="0 0 330 125" role="img" aria-label="'
        f'Relative error by interactions kept: {chosen[1]:.2f} with {chosen[0] - 1}">'
        '<g font-size="11" fill="currentColor" stroke-width="1">'
        f'<path d="M{left} 10V{bottom}H{right}" fill="none" stroke="currentColor"/>'
        f'<path d="M{left} {top}H{right}" stroke="currentColor" stroke-dasharray="2 3"/>'
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
        f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}" stroke="currentColor"/>'
        f'<text x="34" y="{top + 4}" text-anchor="end">1</text>'
        f'<text x="34" y="{bottom}" text-anchor="end">0</text>'
        f'<text x="{left}" y="105">0</text>'
        f'<text x="{right}" y="105" text-anchor="end">{most - 1}</text>'
        '<text x="175" y="120" text-anchor="middle">relative error, by interactions kept '
        "(log scale)</text></g></svg>"
    )


def _drawing(interactions: Interactions, inputs, players) -> Callable[[int, Any], str]:
    """``draw(sample, row)``: the sample as HTML, with the players of a row of `top` marked."""
    for ids in (interactions.ids, None):  # `extract` was given the samples' ids, or none
        placements = players.place(inputs, ids)
        if [placement.names for placement in placements] == interactions.players:
            break
    else:
        raise ValueError(
            "these inputs and players are not those of the interactions: give what "
            "pi_lib.extract was given"
        )

    def acts(row) -> str:
        return "" if row.order == 1 else {"and": "all of ", "or": "any of "}[row.kind]

    def named(sample: int, row) -> str:
        return f"<span>{acts(row)}{escape(row.players)}</span>"

    @cache
    def patches(sample: int, group: int, sign: str) -> str:
        name = label(group, interactions.players[sample])
        figure = figures.patches(placements[sample], group, figures.COLOURS[sign])
        return figures.image(figure, name)

    def pictured(sample: int, row) -> str:
        return patches(sample, row.coalition, _sign(row.value)) + named(sample, row)

    def words(sample: int, row) -> str:
        text, tint, html, done = inputs[sample], TINTS[_sign(row.value)], "", 0
        for player, (start, end) in _spans(text, placements[sample].owner[0], players):
            inside = row.coalition >> player & 1
            html += escape(text[done:start]) + _word(text[start:end], tint if inside else "")
            done = end
        return f"<small>{acts(row)}</small><span>{html}{escape(text[done:])}</span>"

    if not isinstance(inputs, Tensor):
        return words
    return pictured if inputs.ndim == 4 else named


def _word(word: str, tint: str) -> str:
    """A word that is a player; with a tint behind it, if its group is shown."""
    if tint:
        return f'<mark style="--tint:{tint}">{escape(word)}</mark>'
    return f'<span class="pi-player">{escape(word)}</span>'


def _spans(text: str, owner: Tensor, players) -> list[tuple[int, tuple[int, int]]]:
    """Where each player stands in a sentence: (player, (start, end)), in reading order."""
    offsets = players.tokenizer(
        text, truncation=True, max_length=players.max_length, return_offsets_mapping=True
    )["offset_mapping"]
    spans = []
    for player in range(players.n):
        mine = [offsets[i] for i in torch.nonzero(owner == player)[:, 0].tolist()]
        spans.append((player, (mine[0][0], mine[-1][1])))
    return sorted(spans, key=lambda span: span[1])


# -------------------------------------------------------------- what `explore_training` is made of


class _TrainingView:
    """What `explore_training` shows: the first run of both arms at a checkpoint, held against the
    end of the fine-tuned one."""

    ARMS = ("finetuned", "scratch")

    def __init__(self, records: Mapping[str, Record], tau: float):
        self.records, self.tau = records, tau
        self.runs = {
            (name, arm): record.over_time(arm)
            for name, record in records.items()
            for arm in self.ARMS
        }
        self.compared = cache(self._compared)

    def end(self, task: str) -> Interactions:
        """The interactions of the fine-tuned run's end."""
        return [*self.runs[task, "finetuned"].values()][-1]

    def _compared(self, task: str, arm: str) -> list:
        """The end of fine-tuning against every checkpoint of a run."""
        return [compare(self.end(task), at, self.tau) for at in self.runs[task, arm].values()]

    def top(self, task: str) -> float:
        """One scale for all checkpoints, so that what moves is the knowledge."""
        every = (at.by_order() for arm in self.ARMS for at in self.compared(task, arm))
        return max(frame[["value", "high"]].max(axis=None) for frame in every)

    def shown(self, checkpoint: int, task: str | None = None) -> list:
        task = next(iter(self.records)) if task is None else task
        panels, columns = {}, {}
        for arm in self.ARMS:
            name, step = ARMS[arm], [*self.runs[task, arm]][checkpoint]
            panels[f"{name}, step {step}"] = self.compared(task, arm)[checkpoint]
            columns[name] = self.numbers(task, arm, checkpoint)
        figure = figures.knowledge(panels, one_scale=True)
        figure.axes[0].set_ylim(0, 1.05 * self.top(task))
        return [figure, pd.DataFrame(columns)]

    def numbers(self, task: str, arm: str, checkpoint: int) -> dict[str, str]:
        """A column of the table: a run at a checkpoint."""
        run, here = self.runs[task, arm], self.compared(task, arm)[checkpoint]
        step, interactions = [*run.items()][checkpoint]
        tested, log = self.records[task].header["tested"], self.records[task].accuracies()
        log = log[(log["arm"] == arm) & (log["run"] == 1) & (log["step"] == step)]
        similar = jaccard(self.end(task), interactions, self.tau)
        return {
            "step": f"{step} of {[*run][-1]}",
            "test accuracy": "".join(
                str(proportion(round(value * tested), tested)) for value in log["value"][:1]
            ),
            "share of the finished model's strength that it has": str(here.preserved_share()),
            "new, as a share of its own strength": (
                str(here.new_share()) if here.finetuned.any() else "it has none"
            ),
            "Jaccard similarity to the finished model": str(bootstrap(similar)),
        }


# -------------------------------------------------------------- what `explore_transfer` is made of


class _TransferView:
    """What `explore_transfer` shows: the groups of a photograph or a sentence, two strengths each.

    The photograph stands once on the page; every card draws it by reference.
    """

    MOST = 6  # groups that are shown at a time
    PLACES = (
        "top left, top, top right, left, centre, right, bottom left, bottom, bottom right"
    ).split(", ")

    def __init__(self, examples: Mapping[str, hero.Example]):
        self.examples = examples
        count = min(one.record.count("finetuned", one.players) for one in examples.values())
        self.runs = {f"all {count} runs": None} | {f"run {k}": k for k in range(1, count + 1)}
        self.parts = cache(self._parts)
        self.effects = cache(self._effects)
        there = [self.counts(which, run) for which in examples for run in self.runs.values()]
        self.orders = list(range(1, 1 + max(m for found in there for _, m in found)))

    def _parts(self, which: str, run: int | None) -> dict:
        """Kept, lost and new groups of an input: signs by coalition."""
        one = self.examples[which]
        found = hero.parts(one.record, one.players, run)
        return {name: found[name][one.row] for name in ("kept", "lost", "new")}

    def _effects(self, which: str, run: int | None) -> tuple[Tensor, Tensor]:
        """Effects before, and after in a run or on average: by coalition."""
        one = self.examples[which]
        runs = one.record.runs("finetuned", one.players)
        after = runs if run is None else runs[run - 1 : run]
        return tuple(
            torch.stack([walsh_transform(game.v[one.row]) for game in arm]).mean(0)
            for arm in (one.record.runs("probe", one.players), after)
        )

    def counts(self, which: str, run: int | None) -> Counter[tuple[str, int]]:
        """How many groups are kept, lost and new, by order."""
        return Counter(
            (name, group.bit_count())
            for name, signs in self.parts(which, run).items()
            for group in signs.nonzero()[0].tolist()
        )

    def picture(self) -> str:
        """The photograph, to be drawn by reference; it takes no room itself."""
        data = figures.data_uri(Image.fromarray(self.examples["photograph"].input), "jpeg")
        return (
            '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>'
            '<image id="pi-photograph" width="100" height="100" preserveAspectRatio="none" '
            f'href="{data}"/></defs></svg>'
        )

    def shown(self, input: str, groups: str, order: int, run: str) -> list:
        k = self.runs[run]
        before, after = self.effects(input, k)
        signs = self.parts(input, k)[groups]
        strength = {
            "kept": torch.minimum(before.abs(), after.abs()),
            "lost": before.abs(),
            "new": after.abs(),
        }[groups]
        chosen = [g for g in signs.nonzero()[0].tolist() if g.bit_count() == order]
        chosen.sort(key=lambda group: -strength[group].item())
        reach = max(before[1:].abs().max().item(), after[1:].abs().max().item())
        shape = "pi-card" if input == "photograph" else "pi-row"

        def draw(group: int) -> str:
            if input == "photograph":
                return self.on_patches(group, groups)
            return self.on_words(group, TINTS[_sign(signs[group])])

        cards = [
            _Html(
                f'<div class="{shape}"><span class="pi-two"><small>before</small> '
                f"{_signed(before[group].item(), reach)}<br><small>after</small> "
                f"{_signed(after[group].item(), reach)}</span>{draw(group)}"
                "</div>"
            )
            for group in chosen[: self.MOST]
        ]
        return [self.readout(input, groups, order, run, len(chosen)), *cards]

    def readout(self, which: str, groups: str, order: int, run: str, count: int) -> _Html:
        """What was chosen, as a sentence, within how many groups there are of each order."""
        there = self.counts(which, self.runs[run])
        more = f"; the {self.MOST} strongest are shown" if count > self.MOST else ""
        title = self.examples[which].title
        said = f"{title}, {run}: {count or 'no'} group{'' if count == 1 else 's'} of order {order} "
        said += f"{'is' if count == 1 else 'are'} {groups}{more}."

        def cell(name: str, m: int) -> str:
            mark = "strong" if (name, m) == (groups, order) else "span"
            return f"<td><{mark}>{there[name, m]}</{mark}></td>"

        rows = "".join(
            f'<tr><th scope="row">{name}</th>{"".join(cell(name, m) for m in self.orders)}</tr>'
            for name in ("kept", "lost", "new")
        )
        head = "".join(f'<th scope="col">{m}</th>' for m in self.orders)
        return _Html(
            f'<p class="pi-readout">{escape(said)}</p><table class="pi-game">'
            f'<tr><th scope="col">order</th>{head}</tr>{rows}</table>'
        )

    def on_patches(self, group: int, part: str) -> str:
        """The photograph with the patches of a group in a frame, the others pale."""
        one = self.examples["photograph"]
        n = one.record.runs("probe", one.players)[0].n
        grid = round(n**0.5)
        side, inside = 100 / grid, members(group)
        names = self.PLACES if n == 9 else [f"patch {k + 1}" for k in range(n)]
        pale = "".join(
            f"M{side * (k % grid):.4g} {side * (k // grid):.4g}h{side:.4g}v{side:.4g}h-{side:.4g}z"
            for k in range(n)
            if k not in inside
        )
        frames = "".join(
            f'<rect x="{side * (k % grid) + 1.5:.4g}" y="{side * (k // grid) + 1.5:.4g}" '
            f'width="{side - 3:.4g}" height="{side - 3:.4g}"/>'
            for k in inside
        )
        name = " + ".join(names[k] for k in inside)
        return (
            f'<svg viewBox="0 0 100 100" role="img" aria-label="{name}, {part}">'
            f'<use href="#pi-photograph"/><path d="{pale}" fill="#fff" fill-opacity=".75"/>'
            f'<g fill="none" stroke="{hero.PARTS[part]}" stroke-width="3">{frames}</g></svg>'
            f"<span>{name}</span>"
        )

    def on_words(self, group: int, tint: str) -> str:
        """The sentence with the words of a group marked."""
        one = self.examples["sentence"]
        names = one.record.header["players"][one.players][one.row]
        inside = {names[k] for k in members(group)}
        html = {word: _word(word, tint if word in inside else "") for word in names}
        words = (html.get(word, escape(word)) for word in one.input)
        return f"<span>{' '.join(words)}</span>"

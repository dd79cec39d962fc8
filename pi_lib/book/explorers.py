"""Figures that the reader moves: `explore`, and the explorers built on it.

All work in JupyterLab and in the static book alike. Where there is nothing to explore yet, an
explorer shows a sentence that says how to make it, not an error.

What explorers draw themselves is text and bars in HTML: it follows the page's width, colours and
letter size, and a hundred frames of it weigh less than a figure.
"""

import base64
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from html import escape
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pi_lib.coalitions import coalition, label
from pi_lib.interactions import Interactions
from pi_lib.knowledge import compare, jaccard
from pi_lib.progress import building_book
from pi_lib.statistics import bootstrap
from pi_lib.transforms import and_transform, or_transform

if TYPE_CHECKING:
    from pi_lib.study.results import Result

MAX_FRAMES = 150
MAX_BYTES = 3_000_000
COLOURS_OF_PNG = 64  # enough for a figure, at a third of the bytes
# How explorers look, on the page and in JupyterLab; and the label beside a slider as its accessible
# name, since ipywidgets gives it none.
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
    const handle = slider.querySelector("[role=slider]:not([aria-label])");
    if (handle) handle.setAttribute("aria-label", slider.querySelector("label").textContent);
  }
});
window.piExplorers.observe(document.body, {childList: true, subtree: true});
</script>"""
TINTS = {"positive": "#F9D9C2", "negative": "#C4E1F5"}  # behind dark letters, in both modes


def explore(
    fn: Callable[..., Any],
    *,
    alt: str | Callable[..., str] | None = None,
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
    alt : str or callable, optional
        What the figure shows, for readers who cannot see it: a sentence, or ``alt(**point)``.
        The point itself is named in any case.
    start : mapping, optional
        Values that are shown first; default the first of each parameter.
    live : mapping, optional
        Parameters and values for JupyterLab, where any number will do, in place of `grid`.
    **grid : sequence
        Values of each parameter: numbers become a slider, others a menu.

    Returns
    -------
    ipywidgets.VBox
        To be the last expression of a cell.

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
    import ipywidgets

    count = math.prod(map(len, grid.values()))
    if not grid or not count:
        raise ValueError(f"expected at least one value for each parameter; got {grid or 'none'}")
    if count > MAX_FRAMES:
        sizes = " x ".join(f"{len(values)} {name}" for name, values in grid.items())
        raise ValueError(f"{sizes} = {count} frames; a page holds at most {MAX_FRAMES}")

    static = building_book()
    grid = {name: list(values) for name, values in (grid if static else live or grid).items()}
    first = {name: values[0] for name, values in grid.items()} | dict(start or {})
    controls = {name: _control(name, values, first[name]) for name, values in grid.items()}
    places = [range(len(values)) for values in grid.values()]
    layout, style = ipywidgets.Layout(), ipywidgets.HTML().style  # one for all: half the bytes

    @cache  # what several frames show is kept once
    def html(part: str):
        return ipywidgets.HTML(part, layout=layout, style=style)

    @cache
    def frame(*place: int) -> tuple:
        point = {name: grid[name][i] for name, i in zip(grid, place, strict=True)}
        return tuple(html(part) for part in _parts(fn(**point), _alt(alt, point)))

    def chosen() -> tuple:
        return frame(*(control.index for control in controls.values()))

    _display(HEAD)
    if static:
        frames = {place: frame(*place) for place in product(*places)}
        size = sum(len(part.value) for part in set().union(*frames.values()))
        if size > MAX_BYTES:
            raise ValueError(
                f"{count} frames take {size / 1e6:.1f} MB; a page holds at most "
                f"{MAX_BYTES / 1e6:.0f} MB: draw smaller figures, or fewer of them"
            )
        # What a reader without scripts sees; with scripts the widget shows it.
        _display(f"<noscript>{''.join(part.value for part in chosen())}</noscript>")
        shown = _stack(frames, list(controls.values()), places, layout)
        text = f"This page holds {count} frames, drawn when it was built."
        free = " moves every value freely." if live else " draws them anew."
        notes = [ipywidgets.HTML(f'<div class="pi-note">{text} JupyterLab{free}</div>')]
    else:
        shown, notes = ipywidgets.Box(_dom_classes=["pi-frame"]), []

        def update(_change=None):
            shown.children = chosen()

        for control in controls.values():
            control.observe(update, "index")
        update()
    box = ipywidgets.VBox([ipywidgets.Box([*controls.values()]), shown, *notes])
    box.add_class("pi-explore")
    return box


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

    Returns
    -------
    ipywidgets.VBox

    Raises
    ------
    ValueError
        As `explore`; or if a coalition has no value, or names none of the players.

    Examples
    --------
    >>> game = {"": 0.0, "a": 1.0, "b": 1.0, "a b": 3.0}
    >>> box = explore_game(game, ["a", "b"], {"a b": [1.0, 2.0, 3.0]})
    """

    def index(key: str) -> int:
        if unknown := set(key.split()) - set(names):
            raise ValueError(f"{sorted(unknown)[0]!r} is no player; there are {', '.join(names)}")
        return coalition(names.index(name) for name in key.split())

    def title(s: int) -> str:
        return f"v({label(s, names)})"

    v = dict(sorted((index(key), float(value)) for key, value in values.items()))
    if missing := [label(s, names) for s in range(2 ** len(names)) if s not in v]:
        raise ValueError(f"no value for {', '.join(missing)}; every coalition has one")
    titles = {title(s): s for s in v}

    def shown(**point: float) -> list:
        now = v | {titles[name]: value for name, value in point.items()}
        both = torch.tensor([now[s] for s in sorted(now)], dtype=torch.float64)
        found = and_transform(both)
        reach = max(4.0, both.abs().max().item(), found.abs().max().item())
        rows = "".join(
            f'<tr><th scope="row">{escape(label(s, names))}</th>'
            f"<td>{_signed(a, reach)}</td><td>{_signed(b, reach)}</td></tr>"
            for s, (a, b) in enumerate(zip(both.tolist(), found.tolist(), strict=True))
        )
        strongest = int(found[1:].abs().argmax()) + 1
        text = (
            f"Strongest: I({label(strongest, names)}) = {found[strongest]:+.1f}. All {len(v)} add "
            f"up to v({label(len(v) - 1, names)}) = {both[-1]:+.1f}."
        )
        head = "<th></th><th>v(T), T is present</th><th>I(S), what S adds</th>"
        return [_Html(f'<table class="pi-game"><tr>{head}</tr>{rows}</table>'), _readout(text)]

    levels = sorted({k / 2 for k in range(-8, 9)} | set(v.values()))
    return explore(
        shown,
        start={title(s): value for s, value in v.items()},
        live={title(s): levels for s in v},
        **{
            title(s): sorted({*map(float, steps), v[s]})
            for s, steps in ((index(key), steps) for key, steps in moved.items())
        },
    )


def explore_sample(
    interactions: Interactions | None,
    inputs: Tensor | Sequence[str] | None,
    players,
    *,
    samples: Sequence[int] = (0, 1, 2),
    thresholds: Sequence[float] = (0.5, 0.2, 0.1, 0.05),
    k: int = 5,
):
    """One sample: its strongest interactions, and how few of them rebuild the output.

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
        Thresholds of salience: fractions of the strongest interaction.
    k : int
        How many of the salient interactions are drawn, at most.

    Returns
    -------
    ipywidgets.VBox or ipywidgets.HTML
        The kinds to choose from are AND and OR, each of which alone writes the whole output, and
        both together where the interactions are of kind "and-or".

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
    from pi_lib.book import figures

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
    n, drawing = interactions.n, _drawing(interactions, inputs, players)
    shape = "pi-card" if isinstance(inputs, Tensor) and inputs.ndim == 4 else "pi-row"
    kinds = ["AND", "OR"] if interactions.kind == "and" else ["AND and OR", "AND", "OR"]

    def shown(sample: int, kind: str, up_to_order: int, threshold: float) -> list:
        one = _written(interactions[[sample]], kind)
        strongest = one.top(1)["value"].abs().item()
        one = _up_to(one, up_to_order)
        salient = int(one.salient(threshold).sum())
        rows = [
            _Html(
                f'<div class="{shape}"><span>{_signed(row.value, strongest)}</span>'
                f"{drawing(sample, row)}</div>"
            )
            for row in one.top(min(k, salient)).itertuples()
        ]
        more = f"; the {k} strongest are shown" if salient > k else ""
        which = kind if up_to_order == n else f"{kind}, up to order {up_to_order}"
        counts = torch.logspace(0, n, 60, 2).round().int().unique().tolist()  # v({}) is the first
        errors = figures.rebuild_error(one, [*counts, 1 + salient])[0].tolist()
        error, curve = errors.pop(), list(zip(counts, errors, strict=True))
        enough = next((count - 1 for count, e in curve if e <= 0.1), None)
        text = (
            f"{which}: {salient} of {2**n - 1} interactions are stronger than {threshold:g} of the "
            f"strongest{more}. All {salient} rebuild the output to a relative error of "
            f"{error:.2f}; "
            + (f"{enough} would do for 0.1." if enough else f"at best {min(errors):.2f} is left.")
        )
        return [_readout(text), *rows, _Html(_curve(curve, (1 + salient, error)))]

    return explore(
        shown,
        start={"up_to_order": n},
        sample=there,
        kind=kinds,
        up_to_order=sorted({1, 2, 3, n} & set(range(1, n + 1))),
        threshold=list(thresholds),
    )


def explore_training(results: "Result | Mapping[str, Result] | None", tau: float = 0.05):
    """Preserved, new and discarded by order at each checkpoint, fine-tuned beside scratch.

    Parameters
    ----------
    results : Result or mapping of str to Result
        From `pi_lib.study.run` or `run_all`; of several, one is chosen.
    tau : float, default 0.05
        Threshold of salience.

    Returns
    -------
    ipywidgets.VBox or ipywidgets.HTML
        *Preserved* is what the checkpoint shares with the finished fine-tuned model, *discarded*
        what it lacks of it, *new* what it has beyond it. Numbers stand with 95 % intervals.

    Raises
    ------
    ValueError
        As `explore`.

    Examples
    --------
    >>> box = explore_training(None)  # a sentence: how to run a cell
    """
    from pi_lib.book import figures
    from pi_lib.statistics import accuracy_estimate

    phases = ("finetuned", "scratch")
    named = results if isinstance(results, Mapping) else {"": results}
    named = {name: one for name, one in named.items() if one is not None}
    if not named or not all(getattr(one, p).interactions for one in named.values() for p in phases):
        return _sentence(
            "No checkpoints with interactions yet: compute a cell first, "
            'result = pi_lib.study.run(pi_lib.study.Cell("efficientnet-lite0", "fashion-mnist")), '
            "then explore_training(result)."
        )

    @cache
    def compared(task: str, phase: str) -> list:
        run, end = getattr(named[task], phase), named[task].finetuned.final
        return [compare(end, run.interactions[step], tau) for step in run.steps]

    @cache
    def top(task: str) -> float:
        """One scale for all checkpoints, so that what moves is the knowledge."""
        frames = (one.by_order() for phase in phases for one in compared(task, phase))
        return max(frame[["value", "high"]].max(axis=None) for frame in frames)

    def shown(checkpoint: int, task: str = next(iter(named))) -> list:
        import pandas as pd

        panels, lines = {}, {}
        for phase in phases:
            run, now = getattr(named[task], phase), compared(task, phase)[checkpoint]
            step, name = run.steps[checkpoint], figures.NAMES[phase]
            panels[f"{name}, step {step}"] = now
            accuracy = next((at["accuracy"] for at in run.log if at["step"] == step), None)
            similar = jaccard(named[task].finetuned.final, run.interactions[step], tau)
            lines[name] = {
                "step": f"{step} of {run.steps[-1]}",
                "test accuracy": (
                    ""
                    if accuracy is None
                    else str(accuracy_estimate(accuracy, run.settings["test"]))
                ),
                "has of the fine-tuned model's strength": str(now.preserved_share()),
                "new within its own strength": (
                    str(now.new_share()) if now.finetuned.any() else "it has none"
                ),
                "similarity to the fine-tuned model": str(bootstrap(similar)),
            }
        figure = figures.knowledge(panels, one_scale=True)
        figure.axes[0].set_ylim(0, 1.05 * top(task))
        return [figure, pd.DataFrame(lines)]

    tasks = {"task": list(named)} if len(named) > 1 else {}
    fewest = min(len(getattr(one, phase).steps) for one in named.values() for phase in phases)
    return explore(
        shown,
        alt="Preserved, discarded and new knowledge by order, fine-tuned beside scratch",
        **tasks,
        checkpoint=range(fewest),
    )


# ---------------------------------------------------------------- what `explore` is made of


class _Html(str):
    """A string that is HTML already."""

    def _repr_html_(self) -> str:
        return str(self)


def _display(html: str) -> None:
    """Show HTML where there is a notebook to show it."""
    from IPython import get_ipython
    from IPython.display import HTML, display

    if get_ipython() is not None:
        display(HTML(html))


def _control(name: str, values: Sequence, first: Any):
    """A labelled slider over numbers, a menu over anything else."""
    import ipywidgets

    if first not in values:
        raise ValueError(f"{name} starts at {first!r}; expected one of {values}")
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    kind = ipywidgets.SelectionSlider if numbers else ipywidgets.Dropdown
    options = [(f"{v:g}" if isinstance(v, float) else str(v), i) for i, v in enumerate(values)]
    return kind(
        options=options,
        value=list(values).index(first),
        description=name.replace("_", " "),
        style={"description_width": "initial"},
        layout={"max_width": "100%"},
    )


def _stack(
    frames: dict[tuple[int, ...], tuple], controls: list, places: list[range], layout, at=()
):
    """Stacks in stacks, one level per control, each linked to its control."""
    import ipywidgets

    if len(at) == len(controls):
        return ipywidgets.Box(frames[at], layout=layout, _dom_classes=["pi-frame"])
    children = [_stack(frames, controls, places, layout, (*at, i)) for i in places[len(at)]]
    stack = ipywidgets.Stack(children, selected_index=controls[len(at)].index, layout=layout)
    ipywidgets.jslink((controls[len(at)], "index"), (stack, "selected_index"))
    return stack


def _parts(shown: Any, alt: str) -> Iterable[str]:
    """What `fn` returned, as pieces of HTML."""
    for one in shown if isinstance(shown, list) else [shown]:
        if hasattr(one, "savefig"):
            yield _image(one, alt)
        elif isinstance(one, str) and not isinstance(one, _Html):
            yield f"<pre>{escape(one)}</pre>"
        elif (html := getattr(one, "_repr_html_", lambda: None)()) is not None:
            yield html
        else:
            raise TypeError(
                "expected a matplotlib figure, a string, something with _repr_html_, or a list of "
                f"these; got {one!r}"
            )


def _image(figure, alt: str) -> str:
    """A figure as a PNG of few colours, in the page; the figure is closed."""
    import matplotlib.pyplot as plt
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB").quantize(COLOURS_OF_PNG)
    picture.save(buffer := io.BytesIO(), "png", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    width, height = picture.size  # known before it is decoded, so that the page does not jump
    return (
        f'<img alt="{escape(alt)}" width="{width}" height="{height}" '
        f'src="data:image/png;base64,{data}">'
    )


def _alt(alt: str | Callable[..., str] | None, point: dict[str, Any]) -> str:
    where = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in point.items())
    if callable(alt):
        return alt(**point)
    return f"{alt} ({where})" if alt else f"Figure at {where}"


def _sentence(text: str):
    """What an explorer shows where there is nothing to explore."""
    import ipywidgets

    box = ipywidgets.HTML(f'<p class="pi-note">{escape(text)}</p>')
    box.add_class("pi-explore")
    return box


def _readout(text: str) -> _Html:
    return _Html(f'<p class="pi-readout">{escape(text)}</p>')


def _signed(value: float, reach: float) -> str:
    """A number and its bar, left or right of zero; the bar's half is `reach`."""
    from pi_lib.book import figures

    colour = figures.COLOURS[_sign(value)]
    end = 50 + 50 * max(-1.0, min(1.0, value / reach if reach else 0.0))
    left, right = sorted((50, round(end)))
    return (
        f'<i class="pi-bar" style="--from:{left}%;--to:{right}%;--colour:{colour}"></i>'
        f'<span class="pi-number">{value:+.2f}</span>'
    )


def _sign(value: float) -> str:
    return "positive" if value >= 0 else "negative"


# ---------------------------------------------------------------- what `explore_sample` is made of


def _written(one: Interactions, kind: str) -> Interactions:
    """The same output as a sum of interactions of another kind."""
    if kind == "AND and OR":
        return one
    i_and, i_or = and_transform(one.v), None
    if kind == "OR":
        i_and, i_or = torch.zeros_like(one.v), or_transform(one.v)
    return Interactions(v=one.v, i_and=i_and, i_or=i_or, players=one.players)


def _up_to(one: Interactions, order: int) -> Interactions:
    """Without the interactions of higher order: what is left no longer adds up to v."""
    kept = (one.orders <= order).split(2**one.n)
    i_or = None if one.i_or is None else one.i_or * kept[1]
    return Interactions(v=one.v, i_and=one.i_and * kept[0], i_or=i_or, players=one.players)


def _curve(points: Sequence[tuple[int, float]], chosen: tuple[int, float]) -> str:
    """Error of the rebuilt output against the number of interactions kept, on a log axis."""
    from pi_lib.book import figures

    most = points[-1][0]

    def at(count: int, error: float) -> tuple[int, int]:
        return round(40 + 270 * math.log(count, most)), round(90 - 66 * min(error, 1.2))

    line = " ".join(f"{x},{y}" for x, y in (at(*point) for point in points))
    (left, bottom), (right, one), (x, y) = at(1, 0), at(most, 1), at(*chosen)
    colour = figures.COLOURS["preserved"]
    return (
        '<svg class="pi-curve" viewBox="0 0 330 125" role="img" aria-label="'
        f'Relative error by interactions kept: {chosen[1]:.2f} with {chosen[0] - 1}">'
        '<g font-size="11" fill="currentColor" stroke-width="1">'
        f'<path d="M{left} 10V{bottom}H{right}" fill="none" stroke="currentColor"/>'
        f'<path d="M{left} {one}H{right}" stroke="currentColor" stroke-dasharray="2 3"/>'
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
        f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}" stroke="currentColor"/>'
        f'<text x="34" y="{one + 4}" text-anchor="end">1</text>'
        f'<text x="34" y="{bottom}" text-anchor="end">0</text>'
        f'<text x="{left}" y="105">0</text>'
        f'<text x="{right}" y="105" text-anchor="end">{most - 1}</text>'
        '<text x="175" y="120" text-anchor="middle">relative error, by strongest interactions kept'
        "</text></g></svg>"
    )


def _drawing(interactions: Interactions, inputs, players) -> Callable[[int, Any], str]:
    """``draw(sample, row)``: the sample as HTML, with the players of a row of `top` marked."""
    from pi_lib.book import figures

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
        return _image(figures.patches(placements[sample], group, figures.COLOURS[sign]), name)

    def pictured(sample: int, row) -> str:
        return patches(sample, row.coalition, _sign(row.value)) + named(sample, row)

    def words(sample: int, row) -> str:
        text, tint, html, done = inputs[sample], TINTS[_sign(row.value)], "", 0
        for player, (start, end) in _spans(text, placements[sample].owner[0], players):
            inside = row.coalition >> player & 1
            marked = f'mark style="--tint:{tint}"' if inside else 'span class="pi-player"'
            html += f"{escape(text[done:start])}<{marked}>{escape(text[start:end])}"
            html += f"</{marked.split()[0]}>"
            done = end
        return f"<small>{acts(row)}</small><span>{html}{escape(text[done:])}</span>"

    if not isinstance(inputs, Tensor):
        return words
    return pictured if inputs.ndim == 4 else named


def _spans(text: str, owner: Tensor, players) -> list[tuple[int, tuple[int, int]]]:
    """Where each player stands in a sentence: (player, (start, end)), in reading order."""
    offsets = players.tokenizer(
        text, truncation=True, max_length=players.max_length, return_offsets_mapping=True
    )["offset_mapping"]
    spans = []
    for player in range(players.n):
        mine = [offsets[i] for i in torch.nonzero(owner == player)[:, 0].tolist()]
        spans.append((player, (mine[0][0], mine[-1][1])))
    return sorted(spans, key=lambda one: one[1])

"""Figures that the reader moves: `explore` works in JupyterLab and in the static book alike."""

import base64
import io
from collections.abc import Callable, Sequence
from functools import cache
from html import escape
from itertools import product
from math import prod
from typing import Any

from pi_lib.progress import building_book

MAX_FRAMES = 150
MAX_BYTES = 3_000_000


def explore(fn: Callable[..., Any], *, alt: str | Callable[..., str] | None = None, **grid):
    """One slider or menu per parameter, and what `fn` shows at the chosen point.

    In JupyterLab `fn` is called when a control moves, each point once. While the book is built
    every point of the grid is drawn beforehand, since a static page can only choose among
    frames.

    Parameters
    ----------
    fn : callable
        ``fn(**point)`` returns a matplotlib figure (closed afterwards), anything with
        ``_repr_html_`` (a data frame), or a string, shown as plain text.
    alt : str or callable, optional
        What the figure shows, for readers who cannot see it: a sentence, or ``alt(**point)``.
        The point itself is named in any case.
    **grid : sequence
        Values of each parameter: numbers become a slider, others a menu. The first value of
        each is shown first.

    Returns
    -------
    ipywidgets.VBox
        To be the last expression of a cell.

    Raises
    ------
    ValueError
        No parameters, a parameter without values, or more than 150 frames or 3 MB of them.
    TypeError
        `fn` returned nothing that can be shown.
    """
    import ipywidgets
    from IPython.display import HTML, display

    grid = {name: list(values) for name, values in grid.items()}
    if not grid or not all(grid.values()):
        raise ValueError(f"expected at least one value for each parameter; got {grid or 'none'}")
    count = prod(map(len, grid.values()))
    if count > MAX_FRAMES:
        sizes = " x ".join(f"{len(values)} {name}" for name, values in grid.items())
        raise ValueError(f"{sizes} = {count} frames; a page holds at most {MAX_FRAMES}")

    controls = {name: _control(name, values) for name, values in grid.items()}
    places = [range(len(values)) for values in grid.values()]

    @cache
    def frame(*place: int) -> str:
        point = {name: grid[name][i] for name, i in zip(grid, place, strict=True)}
        return _frame(fn(**point), _alt(alt, point))

    if building_book():
        frames = {place: frame(*place) for place in product(*places)}
        size = sum(map(len, frames.values()))
        if size > MAX_BYTES:
            raise ValueError(
                f"{count} frames take {size / 1e6:.1f} MB; a page holds at most "
                f"{MAX_BYTES / 1e6:.0f} MB: draw smaller figures, or fewer of them"
            )
        # What a reader without scripts sees; with scripts the widget shows it.
        display(HTML(f"<noscript>{frames[(0,) * len(grid)]}</noscript>"))
        shown = _stack(frames, list(controls.values()), places)
        text = f"This page holds {count} frames, drawn when it was built."
        notes = [ipywidgets.HTML(f'<div class="pi-note">{text} JupyterLab draws them anew.</div>')]
    else:
        shown = ipywidgets.HTML()

        def update(_change=None):
            shown.value = frame(*(control.index for control in controls.values()))

        for control in controls.values():
            control.observe(update, "index")
        update()
        notes = []
    box = ipywidgets.VBox([*controls.values(), shown, *notes])
    box.add_class("pi-explore")
    return box


def _control(name: str, values: Sequence):
    """A labelled slider over numbers, a menu over anything else."""
    import ipywidgets

    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    kind = ipywidgets.SelectionSlider if numbers else ipywidgets.Dropdown
    options = [(f"{v:g}" if isinstance(v, float) else str(v), i) for i, v in enumerate(values)]
    return kind(
        options=options,
        value=0,
        description=name.replace("_", " "),
        style={"description_width": "initial"},
        layout={"max_width": "100%"},
    )


def _stack(frames: dict[tuple[int, ...], str], controls: list, places: list[range], at=()):
    """Stacks in stacks, one level per control, each linked to its control."""
    import ipywidgets

    if len(at) == len(controls):
        return ipywidgets.HTML(frames[at])
    children = [_stack(frames, controls, places, (*at, i)) for i in places[len(at)]]
    stack = ipywidgets.Stack(children, selected_index=0)
    ipywidgets.jslink((controls[len(at)], "index"), (stack, "selected_index"))
    return stack


def _frame(shown: Any, alt: str) -> str:
    """What `fn` returned, as HTML."""
    if hasattr(shown, "savefig"):
        import matplotlib.pyplot as plt

        buffer = io.BytesIO()
        shown.savefig(buffer, format="png", metadata={"Software": None})
        plt.close(shown)
        data = base64.b64encode(buffer.getvalue()).decode()
        return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
    if isinstance(shown, str):
        return f"<pre>{escape(shown)}</pre>"
    if (html := getattr(shown, "_repr_html_", lambda: None)()) is not None:
        return html
    raise TypeError(
        f"expected a matplotlib figure, a string or something with _repr_html_; got {shown!r}"
    )


def _alt(alt: str | Callable[..., str] | None, point: dict[str, Any]) -> str:
    where = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in point.items())
    if callable(alt):
        return alt(**point)
    return f"{alt} ({where})" if alt else f"Figure at {where}"

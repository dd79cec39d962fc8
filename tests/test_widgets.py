"""Explorers: live as in JupyterLab, and as frames while the book is built."""

import ipywidgets
import matplotlib
import matplotlib.pyplot as plt
import pytest

from pi_lib import progress, widgets
from pi_lib.widgets import explore

matplotlib.use("Agg")


def line(slope, shift=0):
    figure, axis = plt.subplots(figsize=(1, 1))
    axis.plot([0, 1], [shift, slope + shift])
    return figure


def tree(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from tree(child)


def test_live_draws_a_point_once(monkeypatch):
    calls = []

    def text(k):
        calls.append(k)
        return f"k is {k} <b>"

    box = explore(text, k=[1, 2, 3])
    control, shown = box.children[0], box.children[1]
    assert "k is 1 &lt;b&gt;" in shown.value  # what comes from data is escaped
    control.index = 2
    assert "k is 3" in shown.value
    control.index = 0
    control.index = 2
    assert calls == [1, 3]


def test_frames_are_drawn_beforehand_for_the_static_page(tmp_path, monkeypatch):
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "lines"))
    plt.close("all")
    box = explore(line, slope=[1, 2], shift=[0, 1, 2])
    frames = [w for w in tree(box) if isinstance(w, ipywidgets.HTML) and "<img" in w.value]
    assert len(frames) == 6 and all(" alt=" in f.value for f in frames)
    stacks = [w for w in tree(box) if isinstance(w, ipywidgets.Stack)]
    assert len(stacks) == 1 + 2
    assert not plt.get_fignums()  # nothing is left open


def test_too_much_is_refused_with_the_numbers(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="200 frames; a page holds at most 150"):
        explore(line, slope=list(range(20)), shift=list(range(10)))
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "lines"))
    monkeypatch.setattr(widgets, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="MB; a page holds at most"):
        explore(line, slope=[1, 2])


def test_nothing_to_explore_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        explore(line, slope=[])
    with pytest.raises(TypeError, match="expected a matplotlib figure"):
        explore(lambda k: None, k=[1])

"""One progress line for whatever takes time: on a terminal, in Jupyter, or in a file.

A terminal and a live notebook show one line that updates itself. While the book is built,
the environment variable ``PI_LIB_PROGRESS`` names a file: the lines go there and nowhere
else, so that executed notebooks stay clean, and the runner shows them on its own terminal.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

VARIABLE = "PI_LIB_PROGRESS"

_started: dict[str, float] = {}  # label -> when its first report came
_shown: dict[str, float] = {}  # label -> when it was last shown


def building_book() -> bool:
    """Whether this process executes a notebook for the static book (``PI_LIB_PROGRESS`` is set)."""
    return bool(os.environ.get(VARIABLE))


def track(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Yield `items`, reporting after each how many are done.

    Parameters
    ----------
    items : iterable
        What is worked through.
    label : str
        What the line says is being done.
    total : int, optional
        How many items there are; taken from ``len(items)`` where it has one.

    Examples
    --------
    >>> list(track("abc", "letters"))
    ['a', 'b', 'c']
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    done = 0
    report(label, done, total)
    for item in items:
        yield item
        done += 1
        report(label, done, total)
    if total is None:
        report(label, done, done)


def report(label: str, done: int, total: int | None = None) -> None:
    """Say that `done` of `total` steps of `label` are done; for callbacks that cannot `track`.

    Frequent calls are cheap: only some are shown, and always the last (``done == total``).
    """
    now = time.monotonic()
    if done == 0 or label not in _started:
        _started[label] = now
        _shown.pop(label, None)
    last = total is not None and done >= total
    pause = 0.5 if building_book() else 0.1 if updates(sys.stderr) else 10.0
    if not last and now - _shown.get(label, -pause) < pause:
        return
    _shown[label] = now

    text = f"{label} {done}" if total is None else f"{label} {done}/{total}"
    if building_book():
        with open(os.environ[VARIABLE], "a", encoding="utf-8") as file:
            file.write(text + "\n")
    else:
        show(f"{text}  {clock(now - _started[label])}", last=last)
    if last:
        del _started[label]


def show(text: str, last: bool = True) -> None:
    """Put `text` on the line that updates itself; `last` keeps it there and begins a new line.

    Where no line can update itself (a log file), every text is a line of its own.
    """
    erase = "\033[K" if sys.stderr.isatty() else ""
    start, end = ("\r" + erase, "\n" if last else "") if updates(sys.stderr) else ("", "\n")
    print(start + text, end=end, file=sys.stderr, flush=True)


def updates(stream) -> bool:
    """Whether a carriage return goes back to the line's start: on a terminal, and in Jupyter."""
    return stream.isatty() or type(stream).__module__.startswith("ipykernel")


def clock(seconds: float) -> str:
    """A duration as people read it.

    Examples
    --------
    >>> clock(75)
    '1:15'
    """
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

"""How far whatever takes time is, by tqdm: on a terminal, in Jupyter, or in a file.

Shown on a terminal and in a live notebook, as text; elsewhere, as in a log, only where it is asked
for, and then as one line at the end. The environment variable ``PI_LIB_PROGRESS`` asks for it (1)
or for quiet (0); `verbose` of a function goes before it. While the book is built the variable names
a file: the lines go there and nowhere else, so that executed notebooks stay clean, and the runner
shows them on its own terminal.
"""

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm.std import tqdm  # not tqdm.auto: a widget would leave its state in the executed page

Item = TypeVar("Item")

VARIABLE = "PI_LIB_PROGRESS"

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


class _Bar(tqdm):
    monitor_interval = 0  # no thread that watches it


_Bar.set_lock(threading.RLock())  # tqdm's own takes a semaphore of the operating system


class _Lines:
    """A stream that makes whole lines of what tqdm writes for one line that updates itself."""

    def __init__(self, file: str | None):
        self.file, self.last = file, ""

    def write(self, text: str) -> None:
        self.last = text.strip() or self.last
        if self.file is not None and text.strip():
            with open(self.file, "a", encoding="utf-8") as lines:
                lines.write(self.last + "\n")
        elif self.file is None and text.endswith("\n"):  # of a log: the end alone
            print(self.last, file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass


def building_book() -> bool:
    """Whether this process executes a notebook for the static book: the variable names a file."""
    return os.environ.get(VARIABLE, "") not in ("", "0", "1")


def wanted(verbose: bool | None = None) -> bool:
    """Whether progress is to be shown: as `verbose` says, else as the module's first lines say."""
    if _quiet.get():
        return False
    if verbose is None:
        setting = os.environ.get(VARIABLE, "")
        return setting != "0" if setting else updates(sys.stderr)
    return verbose


@contextmanager
def quiet(on: bool = True) -> Iterator[None]:
    """Show no progress within the ``with`` block, of whatever is called there.

    Examples
    --------
    >>> with quiet():
    ...     wanted(verbose=True)
    False
    """
    token = _quiet.set(on or _quiet.get())
    try:
        yield
    finally:
        _quiet.reset(token)


def bar(
    label: str, total: int | None = None, verbose: bool | None = None, initial: int = 0
) -> tqdm:
    """A progress bar of tqdm, for a ``with`` block: call its `update` after each step.

    `label` says what is done, `total` in how many steps, `initial` how many were done before, as of
    a run that is resumed. Shown if `verbose`, by default as `wanted` says.

    Examples
    --------
    >>> with bar("letters", 2, verbose=False) as shown:
    ...     shown.update()
    """
    options = {"total": total, "desc": label, "initial": initial, "disable": not wanted(verbose)}
    counts = "{desc} {n_fmt}" + ("" if total is None else "/{total_fmt}")
    if building_book():
        options |= {"file": _Lines(os.environ[VARIABLE]), "bar_format": counts, "mininterval": 0.5}
    elif updates(sys.stderr):
        options |= {"file": sys.stderr, "leave": None, "dynamic_ncols": True}
    else:
        options |= {"file": _Lines(None), "bar_format": counts + "  {elapsed}"}
    return _Bar(**options)


def track(
    items: Iterable[Item], label: str, total: int | None = None, verbose: bool | None = None
) -> Iterator[Item]:
    """Yield `items`, showing after each how many are done.

    `label`, `total` and `verbose` as `bar` takes them; `total` from ``len(items)`` if it has one.

    Examples
    --------
    >>> list(track("abc", "letters"))
    ['a', 'b', 'c']
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    with bar(label, total, verbose) as shown:
        for item in items:
            yield item
            shown.update()


def show(text: str, last: bool = True) -> None:
    """Put `text` on the line that updates itself; `last` keeps it there and begins a new line.

    Where no line can update itself (a log file), every text is a line of its own.
    """
    erase = "\033[K" if sys.stderr.isatty() else ""
    start, end = ("\r" + erase, "\n" if last else "") if updates(sys.stderr) else ("", "\n")
    with _Bar.external_write_mode(file=sys.stderr):  # above the bars that are shown
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
    return tqdm.format_interval(seconds).removeprefix("0")

"""What people see: `figures`, `explorers`, and the `runner` of the notebooks and the build."""

import ast
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from pi_lib.study.record import Record

K = TypeVar("K")
MAKES = (  # records: of a grid file, in a folder
    "PI_LIB_DATA=FOLDER python -m pi_lib study --grid notebooks/grids/{}.yml "
    "--record notebooks/recorded/{}"
)


def begin(profile: str) -> None:
    """Begin a notebook: refuse parameters and profiles that do not exist, and set how results look.

    Papermill itself only warns of a mistyped parameter, and computes with the default.

    Parameters
    ----------
    profile : {"smoke", "quick", "reduced", "full"}
        How much the notebook computes.

    Raises
    ------
    ValueError
        A parameter that the notebook does not have was given to papermill, or the profile is none.

    Examples
    --------
    >>> begin("quik")
    Traceback (most recent call last):
    ValueError: unknown profile 'quik'; there are smoke, quick, reduced, full
    """
    import pandas as pd
    from IPython import get_ipython

    from pi_lib.book import figures
    from pi_lib.study import PROFILES

    if shell := get_ipython():
        check_parameters(shell.user_ns.get("In", []))
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; there are {', '.join(PROFILES)}")
    figures.style()
    pd.set_option("display.float_format", three_digits)
    pd.set_option("display.max_colwidth", None)  # nothing is cut
    # Python's own form names a file of this machine.
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"


def three_digits(number: float) -> str:
    """A number as tables of plain numbers show it: three digits, five decimals at most.

    Examples
    --------
    >>> [three_digits(x) for x in (0.252501, -0.000091, 1234.56, 0.0001, -0.000001, 2.0)]
    ['0.253', '-0.00009', '1,235', '0.0001', '0', '2']
    """
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    rounded = round(float(number), 5) or 0.0  # not minus zero
    return np.format_float_positional(rounded, 3, fractional=False, trim="-")


def recorded(folder: str | Path) -> "dict[str, Record]":
    """The records of a folder by the cells' names; where there are none, the page says so.

    A page shows one sentence, with the command that makes the records, in place of an error: it
    builds without them. The command takes the grid file that has the folder's name.

    Parameters
    ----------
    folder : path
        As a notebook names it, such as ``recorded/data_size``.

    Returns
    -------
    dict of str to Record
        Empty if the folder has no records, or if one of its files is of another version or no
        record at all.

    Examples
    --------
    >>> records = recorded("recorded/none")  # doctest: +ELLIPSIS
    <IPython.core.display.Markdown object>
    >>> records
    {}
    """
    from IPython.display import Markdown, display

    from pi_lib.study import RecordError, read_all

    try:
        return read_all(folder)
    except FileNotFoundError:
        why = "are not there"
    except RecordError:
        why = "are of another version than this book reads"
    name = Path(folder).name
    sentence = (
        f"The records of `recorded/{name}` {why}, so that their results are left out; this "
        f"makes them: `{MAKES.format(name, name)}`."
    )
    display(Markdown(sentence))
    return {}


def by(records: "Mapping[str, Record]", key: "Callable[[Record], K]") -> "dict[K, Record]":
    """Records by what they differ in, ascending.

    Raises
    ------
    ValueError
        If two records are alike in it.

    Examples
    --------
    >>> by({"b": 20, "a": 10}, lambda record: record // 10)
    {1: 10, 2: 20}
    """
    by_key = {}
    for name, record in records.items():
        if (at := key(record)) in by_key:
            raise ValueError(
                f"{name} and {by_key[at].name} are both {at}: expected records that differ in it; "
                "name a folder of fewer"
            )
        by_key[at] = record
    return dict(sorted(by_key.items()))


def check_parameters(cells: Sequence[str]) -> None:
    """Refuse what papermill set in its own cell, and the cell of parameters before it does not.

    Examples
    --------
    >>> check_parameters(["tau = 0.05", "# Parameters\\ntua = 0.1"])
    Traceback (most recent call last):
    ValueError: unknown parameter tua; this notebook has tau
    """
    for parameters, given in pairwise(cells):
        names = _assigned(parameters)
        if given.startswith("# Parameters\n") and (unknown := _assigned(given) - names):
            raise ValueError(
                f"unknown parameter {', '.join(sorted(unknown))}; this notebook has "
                f"{', '.join(sorted(names))}"
            )


def _assigned(cell: str) -> set[str]:
    """The names that a cell gives values to."""
    return {
        node.id
        for node in ast.walk(ast.parse(cell))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def as_markdown(text: str) -> str:
    r"""`text` as Markdown that shows every character of it as it is.

    Examples
    --------
    >>> as_markdown("a_b costs $5 <or> *more*")
    'a\\_b costs \\$5 \\<or\\> \\*more\\*'
    """
    return re.sub(r"([\\`*_{}\[\]<>#+\-.!|~$&])", r"\\\1", text)

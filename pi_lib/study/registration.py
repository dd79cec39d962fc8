"""What the tables of data sets and of backbones share: names that a reader adds."""

import hashlib
import importlib
import inspect
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

PLUGINS = "PI_LIB_PLUGINS"


def check_name(name: str, taken: Collection[str], own: Collection[str], replace: bool) -> None:
    """Refuse a name that is taken, with `replace` by one not among `own`, or that no cell can have.

    Raises TypeError if it is no string, else ValueError.
    """
    if not isinstance(name, str):
        raise TypeError(f"a name is a string; got {name!r}")
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"name={name!r}; expected letters, digits, '-', '_' and '.'")
    if name in taken and not (replace and name in own):
        advice = "pass replace=True" if name in own else "it is built in: choose another name"
        raise ValueError(f"there is a {name!r} already: {advice}")


def code_of(name: str, function: Callable, version: str) -> str:
    """16 hex digits naming the code of a function or class, and a version.

    The code is that of the whole file in which it is defined; in a notebook, its own.

    Raises ValueError if its code cannot be had, and there is no version.
    """
    code = ""
    try:
        methods = filter(inspect.isfunction, vars(function).values())
        parts = [*methods] if inspect.isclass(function) else [function]
        file = Path(inspect.getsourcefile(parts[0]))
        code = file.read_text("utf-8") if file.is_file() else "".join(map(inspect.getsource, parts))
    except (OSError, TypeError, IndexError):  # no Python file, a partial function, no method
        if not version:
            raise ValueError(
                f"{name}: the code of {function!r} cannot be read, so that stored results could "
                "not be told from those of other code: pass version='1', and change it with the "
                "code"
            ) from None
    return hashlib.sha256(f"{version}\0{code}".encode()).hexdigest()[:16]


def import_plugins() -> None:
    """Import the modules that ``PI_LIB_PLUGINS`` names, with commas between.

    Raises ImportError if there is no such module, saying where its name came from.
    """
    for module in filter(None, map(str.strip, os.environ.get(PLUGINS, "").split(","))):
        try:
            importlib.import_module(module)
        except ImportError as error:
            why = f"{PLUGINS} names {module!r}, which cannot be imported: {error}"
            raise ImportError(why) from error

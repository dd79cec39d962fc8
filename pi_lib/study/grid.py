"""Many cells: read from a YAML file, computed side by side, and recorded as one small table.

A grid file names cells, by the fields of `pi_lib.study.Cell`, and what they share::

    profile: reduced
    seeds: [0, 1, 2]
    cells:
      - {backbone: vit-32, source: cifar10-jpeg, task: flowers}
      - {backbone: efficientnet-lite0, task: flowers, seeds: [0], changes: {n_train: 100}}
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pi_lib.study.cell import COLUMNS, PROFILES, Cell
from pi_lib.study.results import Result, run
from pi_lib.study.schedule import stored
from pi_lib.study.store import Store, environment

if TYPE_CHECKING:
    import pandas as pd

_SHARED = ("profile", "seeds", "changes")
_KEYS = ("backbone", "task", "source", "pretraining", *_SHARED)


class GridError(ValueError):
    """A grid file is wrong; the message lists every error with its line."""


def read(path: str | Path, profile: str | None = None) -> list[Cell]:
    """The cells of a grid file, in its order, seeds innermost.

    Parameters
    ----------
    path : path
    profile : str, optional
        In place of the file's; what its cells change stays changed.

    Raises
    ------
    GridError
        If the file is no such grid, naming every error in it by its line; or if there is no such
        profile.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "two.yml"
    >>> _ = file.write_text("seeds: [0, 1]\\ncells: [{backbone: minilm, task: sst2}]")
    >>> [cell.seed for cell in read(file)]
    [0, 1]
    """
    import yaml

    if profile is not None and profile not in PROFILES:
        raise GridError(f"profile={profile!r}; expected one of {', '.join(PROFILES)}")
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        grid = yaml.safe_load(text)
    except OSError as error:
        raise GridError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise GridError(f"{path} is no YAML file: {error}") from None
    entries = grid.get("cells") if isinstance(grid, dict) else None
    if not isinstance(entries, list) or not entries:
        raise GridError(f"{path}: expected `cells:`, a list of at least one; see pi_lib.study.grid")
    lines = {key.value: (key.start_mark.line + 1, value) for key, value in root.value}
    wrong = [
        f"line {lines[key][0]}: unknown key {key!r}; expected {', '.join(_SHARED)} and cells"
        for key in grid
        if key not in (*_SHARED, "cells")
    ]
    shared = {key: grid[key] for key in _SHARED if key in grid}
    instead = {} if profile is None else {"profile": profile}
    cells: list[Cell] = []
    for entry, node in zip(entries, lines["cells"][1].value, strict=True):
        try:
            found = _cells(shared, entry, instead)
            if twice := [cell for cell in found if cell in cells]:
                raise ValueError(f"{twice[0].name}, seed {twice[0].seed}, is named twice")
            cells += found
        except ValueError as error:
            wrong.append(f"line {node.start_mark.line + 1}: {error}")
    if wrong:
        raise GridError(f"{path} has {len(wrong)} error(s):\n" + "\n".join(wrong))
    return cells


def _cells(shared: dict, entry, instead: dict) -> list[Cell]:
    if not isinstance(entry, dict):
        raise ValueError(f"expected a cell, {{backbone: ..., task: ...}}; got {entry!r}")
    wrong = [f"unknown key {key!r}; expected {', '.join(_KEYS)}" for key in entry.keys() - {*_KEYS}]
    wrong += [f"{key} is missing" for key in ("backbone", "task") if key not in entry]
    fields = shared | {key: value for key, value in entry.items() if key in _KEYS}
    changes = [one.get("changes") or {} for one in (shared, entry)]
    if not all(isinstance(one, dict) for one in changes):
        wrong.append(f"changes={entry.get('changes')!r}; expected a mapping, {{n_train: 100}}")
    else:
        fields["changes"] = changes[0] | changes[1]
    seeds = fields.pop("seeds", [0])
    if not isinstance(seeds, list) or not seeds:
        wrong.append(f"seeds={seeds!r}; expected a list such as [0, 1, 2]")
    if wrong:
        raise ValueError("; ".join(wrong))
    return [Cell(seed=seed, **fields | instead) for seed in seeds]


def recorded(path: str | Path) -> "tuple[pd.DataFrame, dict]":
    """What `record` wrote: the table, and where it comes from.

    Raises
    ------
    FileNotFoundError
        If there is no such record; the message says how to make one.
    """
    import pandas as pd

    path = Path(path)
    if not path.with_suffix(".parquet").is_file():
        raise FileNotFoundError(
            f"no record at {path.with_suffix('.parquet')}; make one by "
            f"python -m pi_lib study --grid FILE --record {path}"
        )
    return pd.read_parquet(path.with_suffix(".parquet")), json.loads(
        path.with_suffix(".json").read_text()
    )


def record(cells: Sequence[Cell], store: Store, path: str | Path) -> list[Cell]:
    """Write the table of the computed cells to ``path.parquet``, where they come from to ``.json``.

    Cells that the store does not have stay as an earlier record at `path` has them, if their
    settings are the same: a grid may be computed in parts, on several machines.

    Returns
    -------
    list of Cell
        Those that the record holds: the others are not computed yet.
    """
    import pandas as pd

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    earlier, came = recorded(path) if path.with_suffix(".parquet").is_file() else (None, {})
    known = {(one["name"], one["profile"], one["seed"]): one for one in came.get("cells", [])}
    held, tables, about = [], [], []
    for cell in cells:
        if stored(cell, store):
            result = run(cell, store)
            tables.append(result.table())
            about.append(_provenance(result, store))
        elif (one := known.get((cell.name, cell.profile, cell.seed))) and one[
            "settings"
        ].items() <= asdict(cell.settings).items():  # a profile may have changed
            tables.append(earlier[(earlier[list(COLUMNS)] == list(cell.columns)).all(axis=1)])
            about.append({"environment": came.get("environment")} | one)
        else:
            continue
        held.append(cell)
    if tables:
        table = pd.concat(tables, ignore_index=True)
        table.to_parquet(path.with_suffix(".parquet"), compression="zstd")
    missing = [f"{cell.name}, seed {cell.seed}" for cell in cells if cell not in held]
    text = json.dumps({"cells": about, "missing": missing}, indent=1)
    path.with_suffix(".json").write_text(text + "\n")
    return held


def _provenance(result: Result, store: Store) -> dict:
    steps = {name: store.record(entry) for name, entry in result.entries.items()}
    return {
        "name": result.cell.name,
        "environment": environment(),
        **asdict(result.cell) | {"changes": dict(result.cell.changes)},
        "settings": asdict(result.cell.settings),
        "learning_rates": result.learning_rates().to_dict("records"),
        "steps": {
            name: {key: about[key] for key in ("code", "seconds", "finished", "device", "commit")}
            for name, about in steps.items()
        },
    }

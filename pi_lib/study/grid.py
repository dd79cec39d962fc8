"""Many cells: read from a YAML file, and recorded as one small file each.

A grid file names cells, by the fields of `pi_lib.study.Cell`, and what they share::

    profile: reduced
    cells:
      - {backbone: vit-32, source: cifar10-jpeg, task: flowers}
      - {backbone: efficientnet-lite0, task: flowers, changes: {n_train: 100}}
"""

from collections.abc import Sequence
from pathlib import Path

from pi_lib.study.cell import PROFILES, Cell, Settings
from pi_lib.study.record import Record, collect
from pi_lib.study.schedule import stored
from pi_lib.study.store import Store

_SHARED = ("profile", "pretraining_runs", "changes")
_KEYS = ("backbone", "task", "source", "pretraining", *_SHARED)


class GridError(ValueError):
    """A grid file is wrong; the message lists every error with its line."""


def read(path: str | Path, profile: str | None = None) -> list[Cell]:
    """The cells of a grid file, in its order, pre-trainings innermost.

    A `profile` takes the place of the file's; what its cells change stays changed. Raises GridError
    if the file is no such grid, naming every error in it by its line, or there is no such profile.
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
        f"line {line}: unknown key {key!r}; expected {', '.join(_SHARED)} and cells"
        for key, (line, _) in lines.items()
        if key not in (*_SHARED, "cells", "<<")
    ]
    wrong += _repeated(root)
    shared = {key: grid[key] for key in _SHARED if key in grid}
    cells: list[Cell] = []
    files: set[str] = set()
    for entry, node in zip(entries, lines["cells"][1].value, strict=True):
        try:
            named = _cells(shared, entry, profile)
            for cell in named:
                if cell.slug in files:  # of its record
                    raise ValueError(f"{cell.name} is named twice")
                files.add(cell.slug)
            cells += named
        except ValueError as error:
            wrong.append(f"line {node.start_mark.line + 1}: {error}")
    if wrong:
        raise GridError(f"{path} has {len(wrong)} error(s):\n" + "\n".join(wrong))
    return cells


def _repeated(node) -> list[str]:
    """Keys that a mapping has twice, of which YAML takes the last in silence."""
    found, keys = [], set()
    for part in node.value if isinstance(node.value, list) else []:
        key, value = part if isinstance(part, tuple) else (None, part)
        if key is not None and key.value in keys:
            found.append(f"line {key.start_mark.line + 1}: {key.value!r} is there twice")
        keys |= {key.value} if key is not None else set()
        found += _repeated(value)
    return found


def _cells(shared: dict, entry, profile: str | None) -> list[Cell]:
    if not isinstance(entry, dict):
        raise ValueError(f"expected a cell, {{backbone: ..., task: ...}}; got {entry!r}")
    wrong = [f"unknown key {key!r}; expected {', '.join(_KEYS)}" for key in entry.keys() - {*_KEYS}]
    wrong += [f"{key} is missing" for key in ("backbone", "task") if key not in entry]
    fields = shared | {key: value for key, value in entry.items() if key in _KEYS}
    changes = [mapping.get("changes") or {} for mapping in (shared, entry)]
    if not all(isinstance(change, dict) for change in changes):
        wrong.append(f"changes={entry.get('changes')!r}; expected a mapping, {{n_train: 100}}")
    else:
        fields["changes"] = changes[0] | changes[1]
    runs = fields.pop("pretraining_runs", [0])
    if not isinstance(runs, list) or not runs:
        wrong.append(f"pretraining_runs={runs!r}; expected a list such as [0, 1, 2]")
    if wrong:
        raise ValueError("; ".join(wrong))
    fields |= {"profile": profile} if profile else {}
    return [Cell(pretraining_run=run, **fields) for run in runs]


def record(cells: Sequence[Cell], store: Store, folder: str | Path) -> list[Cell]:
    """Write the record of each computed cell into a folder; returns the cells that it holds.

    A cell that the store has not computed keeps the record that the folder has of it, if its
    settings are the same: a grid may be computed in parts, on several machines.
    """
    held = []
    for cell in cells:
        path = Path(folder) / f"{cell.slug}.npz"
        if stored(cell, store):
            collect(cell, store).save(folder)
        elif not path.is_file():
            continue
        elif Settings(**Record.load(path).header["settings"]) != cell.settings:  # or their defaults
            continue
        held.append(cell)
    return held

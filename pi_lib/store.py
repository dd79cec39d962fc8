"""Where results live: content-addressed, written whole or not at all, readable without the project.

An entry is a folder ``results/<step>/<digest>/``: the files that the step wrote, beside
``record.json``, which says what was asked for, by which code and versions, on what device,
when, and in how many seconds. The digest covers the step's name, its specification and the
source of the modules that compute it, so a changed setting or a changed method is another entry.
"""

import ast
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock

PACKAGE = Path(__file__).resolve().parent
SHORTAGES = (OSError, MemoryError)  # the machine's, not the specification's: trying again may do
# As they were when the package was loaded: an edit during a run is not what the run computes with.
_SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in PACKAGE.glob("*.py")}


def home() -> Path:
    """Folder of results and fetched assets.

    ``PI_LIB_HOME``, else the checkout that the package lies in, else ``.pi_lib`` where one is.
    """
    if named := os.environ.get("PI_LIB_HOME"):
        return Path(named).expanduser()
    checkout = PACKAGE.parent
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd() / ".pi_lib"


def digest(value: Any) -> str:
    """16 hex digits naming any JSON value, whatever the order of its keys.

    Examples
    --------
    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def source_digest(modules: Iterable[str]) -> str:
    """16 hex digits naming what the code of these `pi_lib` modules does; comments do not count."""
    return digest({module: _code(module) for module in sorted(modules)})


@cache
def _code(module: str) -> str:
    return digest(ast.dump(ast.parse(_SOURCES[module])))


def environment() -> dict[str, Any]:
    """Versions, machine, device and commit that a result was made with."""
    import torch

    versions, commit = _installed()
    cuda = torch.cuda.is_available()
    return {
        "versions": dict(versions),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "commit": commit,
    }


@cache  # as it was first asked for: what is loaded stays what it is
def _installed() -> tuple[dict[str, str], str | None]:
    """Versions of Python and packages, and the commit of the checkout."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "transformers", "numpy", "pi_lib"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=PACKAGE, capture_output=True, text=True, check=False
    )
    return versions, commit.stdout.strip() or None


class Store:
    """Results on disk, each computed once.

    Parameters
    ----------
    root : path, optional
        Folder of the entries; default ``home() / "results"``.
    """

    def __init__(self, root: str | Path | None = None):
        self.root = Path(root) if root is not None else home() / "results"

    def path(self, step: str, spec: dict, modules: Iterable[str]) -> Path:
        """Folder where the entry of `step` under `spec` is, or would be."""
        return self.root / step / digest([step, spec, source_digest(modules)])

    def get(
        self, step: str, spec: dict, modules: Iterable[str], compute: Callable[[Path], None]
    ) -> Path:
        """Folder of the finished entry, computed first if it is not there.

        Parameters
        ----------
        step : str
            What is computed, a word: the folder's name.
        spec : dict
            Everything that decides the result, as JSON values.
        modules : iterable of str
            `pi_lib` modules whose code decides the result.
        compute : callable
            Writes the result's files into the folder that it is given. The folder holds what an
            attempt that was interrupted has left there, and `compute` may go on from it.

        Notes
        -----
        The folder is written aside and renamed, so a reader never sees half an entry. A second
        process that asks for the same entry waits for the first. An attempt that fails leaves
        nothing; one that is interrupted, or short of memory or disk, leaves its folder.
        """
        entry = self.path(step, spec, modules)
        if (entry / "record.json").exists():
            return entry
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.with_name(f".{entry.name}.lock")):
            if (entry / "record.json").exists():
                return entry
            aside = entry.with_name(f".{entry.name}.partial")
            aside.mkdir(exist_ok=True)
            try:
                start = time.perf_counter()
                compute(aside)
                record = {
                    "step": step,
                    "spec": spec,
                    "code": source_digest(modules),
                    "seconds": round(time.perf_counter() - start, 3),
                    "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                    **environment(),
                }
                (aside / "record.json").write_text(json.dumps(record, indent=1) + "\n")
                os.replace(aside, entry)
            except Exception as error:
                if not isinstance(error, SHORTAGES):
                    shutil.rmtree(aside, ignore_errors=True)
                raise
        return entry

    @staticmethod
    def record(entry: Path) -> dict[str, Any]:
        """The record beside an entry's files."""
        return json.loads((entry / "record.json").read_text())

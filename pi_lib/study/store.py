"""Where results live: content-addressed, written whole or not at all, readable without the project.

An entry is a folder ``results/<step>/<digest>/``: the files that the step wrote, beside
``record.json``, which says what was asked for, by which code and versions, on what device,
when, and in how many seconds. The digest covers the step's name, its specification and the
source of the modules that compute it, so a changed setting or a changed method is another entry.

``SHA256SUMS`` beside them covers every file of an entry, in the format of ``sha256sum -c``. An
entry that does not agree with it is set aside under ``results/damaged`` and computed again.
"""

import ast
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

PACKAGE = Path(__file__).resolve().parents[1]  # pi_lib
SHORTAGES = (OSError, MemoryError)  # the machine's, not the specification's: trying again may do
UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}
SUMS = "SHA256SUMS"
DIGEST = "[0-9a-f]{16}"  # the name of an entry; other folders are not of the store
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
DAMAGED = "damaged"  # folder of the entries that were set aside
_sound: dict[Path, tuple] = {}  # entries checked by this process: sizes and times of their files
# As they were when the package was loaded: an edit during a run is not what the run computes with.
_SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text(encoding="utf-8")
    for path in PACKAGE.rglob("*.py")
}
MODULES = frozenset(_SOURCES)


def home() -> Path:
    """Folder of results and fetched assets.

    ``PI_LIB_HOME``, else the checkout that the package lies in, else ``.pi_lib`` where one is.
    """
    if named := os.environ.get("PI_LIB_HOME"):
        return Path(named).expanduser()
    checkout = PACKAGE.parent
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd() / ".pi_lib"


def digest(value: Any) -> str:
    """16 hex digits naming any JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def source_digest(modules: Iterable[str]) -> str:
    """16 hex digits naming what the code of these `pi_lib` modules does.

    Comments, docstrings, and the messages of errors and warnings do not count: rewording one loses
    no result.
    """
    return digest({module: _code(module) for module in sorted(modules)})


@cache
def _code(module: str) -> str:
    return digest(ast.dump(_Reworded().visit(ast.parse(_SOURCES[module]))))


class _Reworded(ast.NodeTransformer):
    """Code without its words: docstrings, and what errors and warnings say."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Attribute) and node.func.attr == "warn":
            return ast.Call(node.func, [], [])
        return self.generic_visit(node)


def environment() -> dict[str, Any]:
    """Versions, machine, device and commit that a result was made with."""
    import torch

    versions, commit = _installed()
    cuda = torch.cuda.is_available()
    return {
        "versions": dict(versions),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "machine": f"{platform.system()} {platform.machine()}",
        "commit": commit,
    }


@cache  # as it was first asked for: what is loaded stays what it is
def _installed() -> tuple[dict[str, str], str | None]:
    """Versions of Python and packages, and the commit of the checkout; None without git."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "transformers", "numpy", "pi_lib"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    command = ["git", "rev-parse", "HEAD", "HEAD:./"]  # fails where git knows nothing of the folder
    try:
        done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return versions, None
    return versions, None if done.returncode else done.stdout.split()[0]


class StoreError(OSError):
    """The store cannot be written to; the message says what to do. What it holds is intact."""


class DamagedEntry(UserWarning):
    """An entry was not what was written; it has been set aside and is computed again."""


class Store:
    """Results on disk, each computed once; any number of processes may share it.

    `root` is the folder of the entries; default ``home() / "results"``.
    """

    def __init__(self, root: str | Path | None = None):
        self.root = Path(root) if root is not None else home() / "results"

    def path(self, step: str, spec: dict, modules: Iterable[str]) -> Path:
        """Folder where the entry of `step` under `spec` is, or would be."""
        return self.root / step / digest([step, spec, source_digest(modules)])

    def has(self, step: str, spec: dict, modules: Iterable[str]) -> bool:
        """Whether the finished entry is there, and sound."""
        return fault(self.path(step, spec, modules)) is None

    def get(
        self, step: str, spec: dict, modules: Iterable[str], compute: Callable[[Path], None]
    ) -> Path:
        """Folder of the finished entry, computed first if it is not there or damaged.

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
        nothing; one that is interrupted, or short of memory or disk, leaves its folder. A full or
        unwritable disk raises StoreError; an entry that is not as written warns by DamagedEntry.
        """
        modules = sorted(modules)
        entry = self.path(step, spec, modules)
        if fault(entry) is None:
            return entry
        with self._alone(entry) as there:
            if not there:
                self._compute(entry, step, spec, modules, compute)
        return entry

    def put(
        self, step: str, spec: dict, modules: Iterable[str], files: Mapping[str, bytes]
    ) -> Path:
        """Take in an entry that another store computed: its `contents`.

        A sound one that is there stays. Raises and warns as `get`.
        """
        entry = self.path(step, spec, modules)
        with self._alone(entry) as there:
            if not there:
                aside = entry.with_name(f".{entry.name}.partial")
                shutil.rmtree(aside, ignore_errors=True)
                for name, content in files.items():
                    (aside / name).parent.mkdir(parents=True, exist_ok=True)
                    (aside / name).write_bytes(content)
                os.replace(aside, entry)
        return entry

    @contextmanager
    def _alone(self, entry: Path) -> Iterator[bool]:
        """Hold an entry's lock; whether it is there, once a damaged one has been set aside."""
        with self._writing():
            entry.parent.mkdir(parents=True, exist_ok=True)
            lock = _lock(entry)
            with FileLock(lock):
                if entry.is_dir() and (why := fault(entry)) is not None:
                    warnings.warn(
                        f"{entry.parent.name}/{entry.name} is damaged ({why}); it was moved to "
                        f"{self._set_aside(entry)} and is computed again",
                        DamagedEntry,
                        stacklevel=4,
                    )
                yield entry.is_dir()
                lock.unlink(missing_ok=True)  # whoever waits for it finds the entry

    def _compute(self, entry: Path, step: str, spec: dict, modules, compute) -> None:
        aside = entry.with_name(f".{entry.name}.partial")
        resumed = aside.exists()
        aside.mkdir(exist_ok=True)
        try:
            start = time.perf_counter()
            compute(aside)
            record = {
                "step": step,
                "spec": spec,
                "modules": modules,
                "code": source_digest(modules),
                "seconds": round(time.perf_counter() - start, 3),
                "resumed": resumed,
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                **environment(),
            }
            (aside / "record.json").write_text(json.dumps(record, indent=1) + "\n")
            (aside / SUMS).write_text(_sums(aside))
            os.replace(aside, entry)
        except Exception as error:
            if not isinstance(error, SHORTAGES) and not _no_space(error) and not _no_memory(error):
                shutil.rmtree(aside, ignore_errors=True)
            raise

    def _set_aside(self, entry: Path) -> Path:
        folder = self.root / DAMAGED / entry.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        to = next(path for k in range(10**6) if not (path := folder / f"{entry.name}-{k}").exists())
        os.replace(entry, to)
        _sound.pop(entry, None)
        return to

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Says of a disk that is full or cannot be written to what to do."""
        try:
            yield
        except Exception as error:
            number, name = getattr(error, "errno", None), getattr(error, "filename", None)
            if _no_space(error):
                why = "the disk is full: free some space (`python -m pi_lib store prune`)"
            elif (
                number in UNWRITABLE and name and Path(os.fsdecode(name)).is_relative_to(self.root)
            ):
                why = f"it cannot be written to ({os.strerror(number)}): make it writable"
            else:
                raise
            raise StoreError(
                f"{self.root}: {why}, or name another folder by PI_LIB_HOME, and start again; "
                "what was finished is kept"
            ) from error

    def entries(self) -> list[Path]:
        """Folders of all finished entries, by step and digest."""
        return sorted(
            path
            for path in self.root.glob("[!.]*/[!.]*")
            if path.is_dir() and path.parent.name != DAMAGED and re.fullmatch(DIGEST, path.name)
        )

    def waste(self, needed: Iterable[Path] | None = None) -> list[Path]:
        """What no specification needs: what `python -m pi_lib store prune` removes.

        Entries that other code than the present made (no specification finds them any more),
        damaged ones, folders of interrupted attempts and locks that no process holds. With
        `needed`, also every entry that is not among these.
        """
        entries = self.entries()
        kept = {*(entries if needed is None else needed)}
        waste = [
            entry
            for entry in entries
            if fault(entry) is not None or not is_current(entry) or entry not in kept
        ]
        waste += sorted((self.root / DAMAGED).glob("*/*"))
        for ending in ("partial", "lock"):
            left = sorted(self.root.glob(f"*/.*.{ending}"))
            waste += [path for path in left if not _held(path.with_suffix(".lock"))]
        return waste

    @staticmethod
    def record(entry: Path) -> dict[str, Any]:
        """The record beside an entry's files."""
        return json.loads((entry / "record.json").read_text())


def fault(entry: Path) -> str | None:
    """What is wrong with an entry; None if its files are those that were written.

    Within a process an entry is read once: after that, the sizes and times of its files count.
    """
    try:
        states = [(path, path.stat()) for path in _files(entry)]
        seen = tuple((path, at.st_size, at.st_mtime_ns, at.st_ino) for path, at in states)
        if _sound.get(entry) == seen:
            return None
        if not (entry / SUMS).is_file():
            return f"no {SUMS}: it is half an entry, or of an older version"
        written, present = (entry / SUMS).read_bytes(), _sums(entry).encode()
    except FileNotFoundError:
        return "some of its files are gone"
    if written == present:
        _sound[entry] = seen
        return None
    lines = set(written.splitlines()) ^ set(present.splitlines())
    names = sorted({line[66:].decode(errors="replace") for line in lines})
    return "not as written: " + ", ".join(names or [SUMS])


def is_current(entry: Path) -> bool:
    """Whether the present code made an entry, so that some specification may ask for it."""
    record = Store.record(entry)
    modules = record.get("modules", ())
    return MODULES.issuperset(modules) and record["code"] == source_digest(modules)


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else _files(path)))


def contents(entry: Path) -> dict[str, bytes]:
    """An entry's files, by their paths within it."""
    return {path.relative_to(entry).as_posix(): path.read_bytes() for path in _files(entry)}


def remove(path: Path) -> None:
    """Remove an entry, or whatever else `Store.waste` names."""
    _sound.pop(path, None)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sums(entry: Path) -> str:
    """What ``sha256sum`` says of an entry's files.

    Nothing is flushed to the disk: what a power cut takes is found missing by these sums.
    """
    lines = ""
    for path in _files(entry):
        if path != entry / SUMS:
            with path.open("rb") as file:
                digest_of_file = hashlib.file_digest(file, "sha256").hexdigest()
            lines += f"{digest_of_file}  {path.relative_to(entry).as_posix()}\n"
    return lines


def _lock(entry: Path) -> Path:
    return entry.with_name(f".{entry.name}.lock")


def _held(lock: Path) -> bool:
    """Whether a process holds a lock."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _no_space(error: BaseException | None) -> bool:
    """Whether the disk is full, whoever says so: safetensors has its own error, torch one on top"""
    full = {errno.ENOSPC, errno.EDQUOT}
    if getattr(error, "errno", None) in full or os.strerror(errno.ENOSPC) in str(error):
        return True
    return error is not None and _no_space(error.__context__)


def _no_memory(error: Exception) -> bool:
    """Whether memory ran short, of the machine or of a GPU: torch has errors of its own."""
    return "out of memory" in str(error) or "allocate memory" in str(error)

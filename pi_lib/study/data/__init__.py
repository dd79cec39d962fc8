"""Data sets by name, and how a sample becomes an input.

Some tasks work on any machine: pictures of clothes (Fashion-MNIST) and rated texts, of film and
product reviews, editorials and tweets. The paper's own (CIFAR-10, CUB-200-2011, Stanford Cars,
SST-2) are looked for in the reader's own folder (``PI_LIB_DATA``, or ``data=``), then in the
Hugging Face hub and its cache.
``folder:PATH`` is a data set of the reader's own. A name may go on with `SHIFTS`:
``fashion-mnist+odd+inverted`` is every second picture of Fashion-MNIST, dark made light, and
``fashion-mnist+segmentation`` asks for the class of every pixel of scenes made of its pictures.

Subsets are balanced over the classes, drawn by a seed, and nested: with one seed, the first
100 of 1,000 training samples are those that one gets by asking for 100.
"""

import gzip
import hashlib
import html
import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pi_lib.objectives import AIMS
from pi_lib.progress import track
from pi_lib.study import assets
from pi_lib.study.data.scenes import scenes
from pi_lib.training import Split

if TYPE_CHECKING:
    import PIL.Image

FOLDER = "folder:"
CROPPED = "cropped to the bounding boxes"
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels, counted from 0


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be learned.

    Attributes
    ----------
    name : str
    kind : "image" or "text"
    classes : tuple of str
        Names of the classes, by number.
    train, test : Split
    source : str
        One line: where the data come from and under which licence.
    mean : (C,) float32, or None for text
        Mean of each channel over the images of `train`, in [0, 1].
    aim : str
        One of `pi_lib.objectives.AIMS`: what a network is to say of a sample.
    """

    name: str
    kind: Literal["image", "text"]
    classes: tuple[str, ...]
    train: Split
    test: Split
    source: str
    mean: Tensor | None = None
    aim: str = "classification"


def load(
    name: str,
    *,
    n_train: int | None = None,
    n_test: int | None = None,
    size: int | None = None,
    seed: int = 0,
    data: str | Path | None = None,
) -> Task:
    """A task by name, or balanced subsets of its two splits.

    Parameters
    ----------
    name : str
        One of `NAMES`, or ``folder:PATH``: a folder of one's own with a training and a test set,
        as images (``train/CLASS/*.jpg``, ``test/CLASS/*.jpg``; 224 px by default) or as tables
        (``train.csv``, ``test.csv``, or TSV, JSON, Parquet) with the columns ``sentence`` or
        ``text``, or ``image``, and ``label``. A name of `NAMES` may be followed by `SHIFTS`, each
        after a ``+``, applied in turn; ``segmentation`` or ``detection`` comes last.
    n_train, n_test : int, optional
        Samples of each split; default all, in the order of the source. A subset's classes are
        equally many within one as long as each has enough samples, and it is in an order in which
        every beginning of it is balanced too. The test subset depends on `seed` and `n_test` alone.
    size : int, optional
        Side of the images in pixels; default 64 for Fashion-MNIST, 224 for CUB and Cars (which
        are cropped to their bounding boxes first), else that of the source. Bilinear, with
        antialiasing; the ratio of the sides is not kept. A scene is twice as wide and high as the
        pictures in it, which have this size.
    seed : int, optional
        Seed of the subsets.
    data : path, optional
        The reader's own folder; default: the environment variable ``PI_LIB_DATA``.

    Returns
    -------
    Task

    Raises
    ------
    ValueError
        If the name is unknown, more samples are asked for than there are, `size` is given for
        sentences, or the data are not of the task's schema: a column, a label or a class is
        missing, or a bounding box does not lie on its image.
    pi_lib.study.assets.MissingAsset, pi_lib.study.assets.ChecksumError
        If the data cannot be had.

    Warns
    -----
    UserWarning
        If `n_train` is smaller than the number of classes, so that some have no training sample.
    """
    base, shifts = _named(name)
    about = aim(name)
    task = _folder(name) if name.startswith(FOLDER) else _LOADERS[base](data)
    _check_labels(name, task)
    for shift in shifts:
        task = task if shift in SCENES else _shifted(task, shift)
    if size is not None and task.text:
        raise ValueError(f"{name} has sentences: size={size} is for images")
    if size is not None and size < 1:
        raise ValueError(f"size is the side of the images in pixels, at least 1; got {size}")
    splits = []
    for stream, (which, wanted) in enumerate((("n_train", n_train), ("n_test", n_test))):
        source = task.splits[stream]
        at = _subset(source.labels, wanted, [seed, stream], f"{name}: {which}")
        inputs = source.read(at) if task.text else _resized(source.read(at), size or task.size)
        labels = torch.from_numpy(source.labels[at].astype(np.int64))
        split = Split(inputs, labels, source.ids[at].tolist())
        splits.append(_scenes(split, source, stream, about) if about in SCENES else split)
    if n_train is not None and n_train < len(task.classes):
        warnings.warn(
            f"{name}: n_train={n_train} samples leave some of the {len(task.classes)} classes "
            f"without any; ask for at least {len(task.classes)}",
            stacklevel=2,
        )
    mean = None if task.text else _mean(splits[0].inputs)
    kind = "text" if task.text else "image"
    return Task(name, kind, task.classes, *splits, source=task.source, mean=mean, aim=about)


@cache
def kind(name: str) -> Literal["image", "text"]:
    """What a task's samples are. A folder is looked into, its samples are not read.

    Raises
    ------
    ValueError
        If there is no such task, or the folder holds none.
    pi_lib.study.assets.MissingAsset
        If there is no such folder.
    """
    base, _ = _named(name)
    if name.startswith(FOLDER):
        return "text" if _folder(name).text else "image"
    return "text" if base in TEXT else "image"


def aim(name: str) -> Literal["classification", "segmentation", "detection"]:
    """What a network is to say of a task's samples.

    Examples
    --------
    >>> aim("fashion-mnist"), aim("fashion-mnist+odd+detection")
    ('classification', 'detection')
    """
    _, shifts = _named(name)
    return next((shift for shift in shifts if shift in SCENES), "classification")


def overlap(one: str, other: str) -> bool:
    """Whether a network trained on one task may have seen samples of the other.

    Examples
    --------
    >>> overlap("cifar10", "cifar10-jpeg"), overlap("cifar10+odd", "cifar10+even+blurred")
    (True, False)
    """
    (base, shifts), (other_base, other_shifts) = _named(one), _named(other)
    if base != other_base:
        return {base, other_base} in SAME_DATA
    apart = ({"odd", "even"}, {"first-classes", "last-classes"})
    return not any({a, b} == pair for pair in apart for a in shifts for b in other_shifts)


def _named(name: str) -> tuple[str, list[str]]:
    """A task's name without its shifts, and these.

    Raises
    ------
    ValueError
        If there is no such task or shift, or sentences are to be shifted as pictures.
    """
    if name.startswith(FOLDER):
        return name, []
    base, *shifts = name.split("+")
    if base not in NAMES:
        raise ValueError(
            f"no task named {base!r}; there are {', '.join(NAMES)}, and {FOLDER}PATH for a folder "
            "of your own"
        )
    for shift in shifts:
        if shift not in SHIFTS:
            raise ValueError(f"{name}: no shift {shift!r}; there are {', '.join(SHIFTS)}")
        if base in TEXT and shift in (*_OF_PICTURES, *SCENES):
            raise ValueError(f"{name}: {shift!r} is for images; {base} has sentences")
        if shift in SCENES and (base != "fashion-mnist" or shift != shifts[-1]):
            raise ValueError(
                f"{name}: {shift!r} comes last, and needs pictures of one object on black, of "
                "which a mask can be made: fashion-mnist"
            )
    if any(shift in SCENES for shift in shifts) and any(shift in _OF_PICTURES for shift in shifts):
        raise ValueError(f"{name}: masks can be made of pictures as they are, not of changed ones")
    return base, shifts


@cache
def identity(name: str) -> str:
    """What a stored result says of its data: the name, or a digest of the folder's content.

    So a folder may be moved without losing results, and a change in it is noticed by the next
    process.
    """
    if not name.startswith(FOLDER):
        return name
    folder, digest = Path(name.removeprefix(FOLDER)).expanduser(), hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return FOLDER + digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Samples:
    """A whole split of a source; `read(positions)` gives inputs.

    Sentences are a list; images one array (N, H, W, C) uint8, or, where they differ in size, an
    iterator of arrays (H, W, C), which holds one of them at a time.
    """

    labels: np.ndarray
    ids: np.ndarray
    read: Callable[[np.ndarray], np.ndarray | Iterator[np.ndarray] | list[str]]


@dataclass(frozen=True)
class _Source:
    classes: tuple[str, ...]
    splits: tuple[_Samples, _Samples]
    source: str
    text: bool = False
    size: int | None = None  # default side of the images; None: as they are


def _scenes(split: Split, source: _Samples, stream: int, about: str) -> Split:
    """Scenes of a split's pictures, each with another picture of its source, of another class."""
    others = np.empty(len(split), dtype=np.int64)
    for i, (id, label) in enumerate(zip(split.ids, split.labels.tolist(), strict=True)):
        unlike = np.flatnonzero(source.labels != label)
        others[i] = np.random.default_rng([21, stream, id]).choice(unlike)
    pictures = _resized(source.read(others), split.inputs.shape[-1])
    labels = torch.from_numpy(source.labels[others].astype(np.int64))
    canvas, maps, boxes = scenes(split.inputs, split.labels, pictures, labels, split.ids)
    return replace(split, inputs=canvas, targets=maps if about == "segmentation" else boxes)


def _shifted(task: _Source, shift: str) -> _Source:
    """A source of which samples are chosen, or whose pictures are changed."""
    if shift in _OF_PICTURES:
        change = _OF_PICTURES[shift]

        def changed(samples: _Samples) -> _Samples:
            def read(at: np.ndarray):
                pictures = samples.read(at)
                found = map(change, pictures, samples.ids[at].tolist())
                return np.stack([*found]) if isinstance(pictures, np.ndarray) else found

            return replace(samples, read=read)

        return replace(task, splits=tuple(map(changed, task.splits)))
    half = (len(task.classes) + 1) // 2
    first = 0 if shift == "first-classes" else half

    def chosen(samples: _Samples) -> _Samples:
        labels = samples.labels
        if shift in ("odd", "even"):
            where = np.arange(len(labels)) % 2 == (shift == "odd")
        else:
            where = (labels < half) == (shift == "first-classes")
        at = np.flatnonzero(where)
        numbers = labels[at] - (first if shift.endswith("classes") else 0)
        return _Samples(numbers, samples.ids[at], lambda i: samples.read(at[i]))

    classes = task.classes
    if shift.endswith("classes"):
        classes = classes[:half] if shift == "first-classes" else classes[half:]
    return replace(task, classes=classes, splits=tuple(map(chosen, task.splits)))


def _inverted(picture: np.ndarray, _: int) -> np.ndarray:
    return 255 - picture


def _blurred(picture: np.ndarray, _: int) -> np.ndarray:
    from torchvision.transforms.functional import gaussian_blur

    sigma = max(picture.shape[:2]) / 14  # two of 28 pixels
    reach = 2 * math.ceil(2 * sigma) + 1
    reach = [min(reach, 2 * ((side + 1) // 2) - 1) for side in picture.shape[1::-1]]
    blurred = gaussian_blur(torch.from_numpy(np.array(picture)).permute(2, 0, 1), reach, sigma)
    return blurred.permute(1, 2, 0).numpy()


def _coloured(picture: np.ndarray, id: int) -> np.ndarray:
    """Dark and light become two random colours, the same for a sample whenever it is read."""
    light = picture.mean(-1, keepdims=True) / 255
    dark, bright = np.random.default_rng([20, id]).random((2, 3))
    return (255 * (dark + light * (bright - dark))).round().astype(np.uint8)


# How a task is made another one: which samples, or how its pictures look.
_OF_PICTURES = {"inverted": _inverted, "blurred": _blurred, "coloured": _coloured}
SCENES = tuple(name for name in AIMS if name != "classification")
SHIFTS = ("odd", "even", "first-classes", "last-classes", *_OF_PICTURES, *SCENES)


def _check_labels(name: str, task: _Source) -> None:
    """Refuse a source with labels beyond its classes, or a class that nothing can be learned of."""
    classes = len(task.classes)
    for which, samples in zip(("training", "test"), task.splits, strict=True):
        if len(samples.labels) == 0:
            raise ValueError(f"{name}: the {which} split has no samples")
        low, high = samples.labels.min(), samples.labels.max()
        if low < 0 or high >= classes:
            raise ValueError(
                f"{name}: the {which} split has labels from {low} to {high}, but there are "
                f"{classes} classes: expected 0 to {classes - 1} (-1 often stands for a label that "
                "was held back: such a split cannot be used)"
            )
    if absent := sorted(set(range(classes)) - set(task.splits[0].labels.tolist())):
        raise ValueError(
            f"{name}: no training sample of {len(absent)} of the {classes} classes (the first: "
            f"{task.classes[absent[0]]!r}); complete the data, or leave the classes out"
        )


def _subset(labels: np.ndarray, n: int | None, seed: list[int], what: str) -> np.ndarray:
    """Positions of a balanced sample of `n`: each class shuffled, then one of each in turn."""
    if n is None:
        return np.arange(len(labels))
    if not 1 <= n <= len(labels):
        raise ValueError(f"{what}={n}, but there are {len(labels)} samples: ask for 1 to that many")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    ranks = np.empty(len(labels), dtype=np.int64)  # of a sample within its class
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        ranks[members] = np.arange(len(members))
    return np.lexsort((labels, ranks))[:n]


def _resized(pictures: np.ndarray | Iterator[np.ndarray], size: int | None) -> Tensor:
    """(N, H, W, C) uint8 to (N, 3, size, size) uint8; grey becomes three equal channels."""
    if not isinstance(pictures, np.ndarray):
        return torch.cat([_resized(picture[None], size) for picture in pictures])
    out = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    if size is not None and tuple(out.shape[-2:]) != (size, size):
        resize = {"size": (size, size), "mode": "bilinear", "antialias": True}
        parts = [F.interpolate(part.float(), **resize).round().byte() for part in out.split(1024)]
        out = torch.cat(parts)
    return out.expand(-1, 3, -1, -1).contiguous()


def _mean(pictures: Tensor) -> Tensor:
    """Mean of each channel in [0, 1]: (N, C, H, W) uint8 to (C,) float32."""
    means = [part.float().mean((-2, -1)) for part in pictures.split(1024)]  # of each image
    return torch.cat(means).double().mean(0).div(255).float()


def _fashion_mnist(data: str | Path | None) -> _Source:
    folder = assets.fetch("fashion-mnist", data)

    def read(part: str) -> _Samples:
        pictures, labels = (
            # Headers of 16 and 8 bytes: a magic number, then each dimension as 4 bytes.
            np.frombuffer(gzip.decompress((folder / f"{part}-{file}.gz").read_bytes())[skip:], "u1")
            for file, skip in (("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8))
        )
        pictures = pictures.reshape(-1, 28, 28, 1)
        return _Samples(labels, np.arange(len(labels)), pictures.__getitem__)

    names = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle_boot"
    return _Source(
        classes=tuple(name.replace("_", " ") for name in names.split()),
        splits=(read("train"), read("t10k")),
        source="Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747), MIT",
        size=64,
    )


# By task: the asset, its file's beginning, and what the texts are.
_RATED = {
    "movie-reviews": (
        "movie-reviews",
        "movieReviewSnippets",
        "film review sentences of Pang and Lee (2004)",
    ),
    "product-reviews": (
        "rated-texts",
        "amazonReviewSnippets",
        "sentences of product reviews of Hu and Liu (2004)",
    ),
    "editorials": ("rated-texts", "nytEditorialSnippets", "sentences of newspaper editorials"),
    "tweets": ("rated-texts", "tweets", "tweets"),
}


def _rated(name: str, data: str | Path | None) -> _Source:
    """Texts that people rated; the others of VADER's collection are rated alike."""
    asset, file, what = _RATED[name]
    folder = assets.fetch(asset, data)
    lines = (folder / f"{file}_GroundTruth.txt").read_text("utf-8").splitlines()
    rows = {}  # by sentence: a sentence that comes twice counts once
    for at, line in enumerate(lines, 1):
        _, rating, sentence = line.split("\t")
        if abs(float(rating)) >= 1:  # the others are neither clearly negative nor positive
            rows.setdefault(_clean(sentence), (at, float(rating) > 0))
    sentences = list(rows)
    ids, labels = np.array(list(rows.values())).T
    # One split for good, of which no argument decides: 4 in 5 sentences are for training.
    shuffled = np.random.default_rng(20140601).permutation(len(sentences))
    parts = np.split(shuffled, [len(sentences) * 4 // 5])
    return _Source(
        classes=("negative", "positive"),
        splits=tuple(_sentences(sentences, labels, ids, np.sort(part)) for part in parts),
        source=f"{what}, rated by 20 people each for VADER (Hutto and Gilbert 2014), MIT; kept "
        "where the mean rating is at most -1 or at least 1",
        text=True,
    )


def _sentences(sentences: list[str], labels, ids, at: np.ndarray) -> _Samples:
    """The sentences at the positions `at`, as a split."""
    return _Samples(labels[at], ids[at], lambda chosen: [sentences[i] for i in at[chosen]])


def _clean(sentence: str) -> str:
    """A sentence without the traces of its file: doubled quotes, entities, runs of blanks.

    Examples
    --------
    >>> _clean("a  `new' ''Conan''   &amp; more ")
    'a \\'new\\' "Conan" & more'
    """
    return " ".join(html.unescape(sentence).replace("''", '"').replace("`", "'").split())


def _cifar10(data: str | Path | None) -> _Source:
    classes = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())

    def read(file: Path) -> _Source:
        with np.load(file, allow_pickle=False) as arrays:
            splits = tuple(
                _Samples(
                    arrays[f"y{part}"],
                    np.arange(len(arrays[f"y{part}"])),
                    arrays[f"X{part}"].__getitem__,
                )
                for part in ("train", "test")
            )
        source = "CIFAR-10 (Krizhevsky 2009), a subset with its pixels unchanged; no licence stated"
        return _Source(classes, splits, source)

    return _anywhere(
        "cifar10",
        data,
        ["cifar10_subset_5085_1017.npz"],
        read,
        hub="uoft-cs/cifar10",
        inputs=("img", "image"),
        source="CIFAR-10 (Krizhevsky 2009); no licence stated",
        classes=classes,
        size=32,
    )


def _cub(data: str | Path | None) -> _Source:
    patterns = {  # what follows a line's number
        "images": r".+",
        "image_class_labels": r"\d+",
        "train_test_split": r"[01]",
        "bounding_boxes": r"[\d.]+( [\d.]+){3}",
        "classes": r".+",
    }
    source = (
        "CUB-200-2011 (Wah, Branson, Welinder, Perona and Belongie 2011), {crop}; for "
        "non-commercial research and education, the photographs belong to their authors"
    )

    def read(*files: Path) -> _Source:
        paths, labels, training, boxes, names = map(_numbered, files, patterns.values())
        for file, rows in zip(files, (paths, labels, training, boxes), strict=False):
            if rows.keys() != paths.keys():
                raise ValueError(
                    f"{file} does not list the same images as {files[0].name}: take all files "
                    "from one copy of CUB-200-2011"
                )

        def corners(image: int) -> Box:
            left, top, width, height = map(float, boxes[image].split())
            return left, top, left + width, top + height

        def split(wanted: str) -> _Samples:
            ids = [image for image in sorted(paths) if training[image] == wanted]
            photos = [files[0].parent / "images" / paths[image] for image in ids]
            return _Samples(
                np.array([int(labels[image]) - 1 for image in ids], dtype=np.int64),
                np.array(ids, dtype=np.int64),
                _files("cub", photos, [corners(image) for image in ids]),
            )

        classes = tuple(names[number] for number in sorted(names))
        about = source.replace("{crop}", CROPPED)
        return _Source(classes, (split("1"), split("0")), about, size=224)

    found = _anywhere(
        "cub",
        data,
        [f"CUB_200_2011/{name}.txt" for name in patterns],
        read,
        hub="bentrevett/caltech-ucsd-birds-200-2011",
        inputs=("image",),
        source=source,
        size=224,
    )
    return replace(found, classes=tuple(map(_tidy, found.classes)))


def _numbered(file: Path, pattern: str) -> dict[int, str]:
    """Lines ``<number> <content>``, by number, whose content matches a pattern."""
    rows = {}
    for at, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        parts = re.fullmatch(rf"(\d+) ({pattern})", line.strip())
        if parts is None:
            raise ValueError(
                f"{file}, line {at}: expected a number, a blank and {pattern!r} (a regular "
                f"expression), as in CUB-200-2011; got {line[:80]!r}"
            )
        rows[int(parts[1])] = parts[2]
    return rows


def _tidy(name: str) -> str:
    """A class's name without its number.

    Examples
    --------
    >>> _tidy("001.Black_footed_Albatross")
    'Black footed Albatross'
    """
    return re.sub(r"^\d+\.", "", name).replace("_", " ")


def _cars(data: str | Path | None) -> _Source:
    source = (
        "Stanford Cars (Krause, Stark, Deng and Fei-Fei 2013), {crop}; no licence stated, the "
        "photographs belong to their authors"
    )

    def read(meta: Path, train: Path, test: Path, *photos: Path) -> _Source:
        classes = [str(name) for name in _matlab(meta, "class_names")]

        def split(file: Path, folder: Path) -> _Samples:
            rows = _matlab(file, "annotations")
            wanted = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
            found = rows.dtype.names or ()
            if absent := [name for name in wanted if name not in found]:
                raise ValueError(
                    f"{file}: annotations have the fields {', '.join(found)}, but not "
                    f"{', '.join(absent)} (the devkit's cars_test_annos.mat has no classes: "
                    "cars_test_annos_withlabels.mat has them)"
                )
            # MATLAB counts pixels from 1 and includes the last.
            boxes = [
                (row["bbox_x1"] - 1.0, row["bbox_y1"] - 1.0, row["bbox_x2"], row["bbox_y2"])
                for row in rows
            ]
            return _Samples(
                np.array([int(row["class"]) - 1 for row in rows], dtype=np.int64),
                np.arange(len(rows)),
                _files("cars", [folder / str(row["fname"]) for row in rows], boxes),
            )

        splits = (split(train, photos[0]), split(test, photos[1]))
        about = source.replace("{crop}", CROPPED)
        return _Source(tuple(classes), splits, about, size=224)

    files = "devkit/cars_meta.mat devkit/cars_train_annos.mat cars_test_annos_withlabels.mat"
    return _anywhere(
        "cars",
        data,
        [f"stanford_cars/{path}" for path in (*files.split(), "cars_train", "cars_test")],
        read,
        hub="tanganke/stanford_cars",
        inputs=("image",),
        source=source,
        size=224,
    )


def _matlab(file: Path, name: str) -> np.ndarray:
    """A variable of a MATLAB file (a format of arrays, nothing of which is run), as one axis."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(file, squeeze_me=True)
    # What SciPy raises for files that are no MATLAB file, of version 7.3, empty, or cut short.
    except (ValueError, NotImplementedError, MatReadError, OSError) as error:
        raise ValueError(f"{file} cannot be read as a MATLAB file: {error}") from error
    if name not in content:
        found = ", ".join(key for key in content if not key.startswith("__"))
        raise ValueError(f"{file} holds {found or 'nothing'}; expected {name}")
    return np.atleast_1d(content[name])


def _files(name: str, files: Sequence[Path], boxes: Sequence[Box]):
    """A reader of image files, each cropped to its box."""
    from PIL import Image

    return _photos(name, lambda i: Image.open(files[i]), lambda i: str(files[i]), boxes)


def _photos(
    name: str,
    picture: Callable[[int], "PIL.Image.Image"],
    what: Callable[[int], str],
    boxes: Sequence[Box] | None,
) -> Callable[[np.ndarray], Iterator[np.ndarray]]:
    """A reader that opens and decodes a picture when it is its turn."""

    def read(at: np.ndarray) -> Iterator[np.ndarray]:
        for i in track(at, f"{name}: images"):
            try:
                with picture(i) as opened:
                    pixels = _pixels(opened, None if boxes is None else boxes[i], what(i))
            except OSError as error:
                raise ValueError(f"{what(i)} cannot be read as an image: {error}") from error
            yield pixels

    return read


def _pixels(picture: "PIL.Image.Image", box: Box | None, what: str) -> np.ndarray:
    """The part of a picture that lies in a box, or all of it: (H, W, 3) uint8.

    What a box has beyond the border is cut off: annotators drew some a little too large.
    """
    if box is not None:
        width, height = picture.size
        left, top, right, bottom = map(float, box)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        inside = max(x1 - x0, 0) * max(y1 - y0, 0)
        area = (right - left) * (bottom - top)
        if not (left < right and top < bottom and inside >= area / 2):
            raise ValueError(
                f"{what}: the bounding box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) is "
                f"empty, or for the most part outside the image of {width}x{height} pixels: image "
                "and box are not of the same copy of the data"
            )
        picture = picture.crop((math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)))
    return np.array(picture.convert("RGB"))


def _packed_jpegs(name: str, files: list[str], source: str, data: str | Path | None) -> _Source:
    """Two files of JPEG images end to end: image i is ``jpeg[offset[i]:offset[i + 1]]``."""
    from PIL import Image

    def read(file: Path) -> tuple[_Samples, tuple[str, ...]]:
        with np.load(file, allow_pickle=False) as arrays:
            jpeg, offset, label, classes = (
                arrays[key] for key in ("jpeg", "offset", "label", "classes")
            )

        def decode(at: np.ndarray) -> np.ndarray:
            packed = (io.BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes()) for i in at)
            return np.stack([np.asarray(Image.open(image).convert("RGB")) for image in packed])

        return _Samples(label, np.arange(len(label)), decode), tuple(classes.tolist())

    (train, classes), (test, _) = map(read, assets.supplied(name, files, data))
    return _Source(classes, (train, test), source)


def _cifar10_jpeg(data: str | Path | None) -> _Source:
    return _packed_jpegs(
        "cifar10-jpeg",
        ["cifar10_jpeg_train.npz", "cifar10_jpeg_test.npz"],
        "CIFAR-10 (Krizhevsky 2009), all images as JPEG, lossy; no licence stated",
        data,
    )


def _flowers(data: str | Path | None) -> _Source:
    return _packed_jpegs(
        "flowers",
        ["flowers128_train.npz", "flowers128_val.npz"],
        "TF Flowers, photographs at 128 px by many authors on Flickr, CC BY 2.0",
        data,
    )


def _sst2(data: str | Path | None) -> _Source:
    classes = ("negative", "positive")
    source = "SST-2, film review sentences (Socher et al. 2013); no licence stated"

    def read(file: Path) -> _Samples:
        rows = [line.rpartition("\t") for line in file.read_text("utf-8").splitlines()]
        for at, (sentence, _, label) in enumerate(rows, 1):
            if not sentence or label not in ("0", "1"):
                raise ValueError(
                    f"{file}, line {at}: expected a sentence, a tab, and 0 or 1, without a header; "
                    f"got {(sentence + label)[:80]!r}"
                )
        labels, at = np.array([int(label) for _, _, label in rows]), np.arange(len(rows))
        return _sentences([sentence for sentence, _, _ in rows], labels, at, at)

    return _anywhere(
        "sst2",
        data,
        ["sst2/train.tsv", "sst2/test.tsv"],
        lambda *files: _Source(classes, tuple(map(read, files)), source, text=True),
        hub="stanfordnlp/sst2",
        inputs=("sentence",),
        source=source,
        classes=classes,
        splits=("train", "validation"),  # the labels of its test split were held back
    )


def _folder(name: str) -> _Source:
    path = Path(name.removeprefix(FOLDER)).expanduser()
    if not path.is_dir():
        raise assets.MissingAsset(
            f"{name}: there is no folder {path}; expected one with train/ and test/, or with "
            "train.csv and test.csv"
        )
    tables = _saved(path)
    test = "test" if "test" in tables else "validation"
    return _tabular(
        name,
        tables,
        inputs=("image", "sentence", "text"),
        source=f"{path}, a folder of the reader's own",
        splits=("train", test),
        size=224,
    )


def _anywhere(
    name: str,
    data: str | Path | None,
    files: list[str],
    read: Callable[..., _Source],
    *,
    hub: str,
    **schema,
) -> _Source:
    """A source from the reader's folder (its own layout, or tables like the hub's) or the hub."""

    def tables_of_folder() -> _Source:
        (folder,) = assets.own_paths([name], data)
        return _tabular(name, _saved(folder), **schema)

    def tables_of_hub() -> _Source:
        return _tabular(name, _downloaded(hub), **schema)

    return assets.first(
        name,
        [
            (assets.OWN, lambda: read(*assets.own_paths(files, data))),
            (f"{assets.OWN}, as tables", tables_of_folder),
            (f"the Hugging Face hub and its cache ({hub})", tables_of_hub),
        ],
        f"To supply it, put {', '.join(files)}, or the hub's files in {name}/, into a folder and "
        f"name that folder: {assets.NAMING}. Or, where there is internet: "
        f"python -c \"import datasets; datasets.load_dataset('{hub}')\" fills the hub's cache "
        "(HF_HOME), which may be copied.",
    )


def _saved(folder: Path):
    """Tables (`datasets.DatasetDict`) of a folder: Parquet, CSV, images, or `save_to_disk`'s."""
    import datasets

    if (folder / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(folder))
    try:
        return datasets.load_dataset(str(folder))
    except Exception as error:  # whatever the library makes of the reader's files
        raise ValueError(
            f"{folder} cannot be read as tables: {_short(error)}. Expected files of a training and "
            "a test split: train*.parquet and test*.parquet (or .csv, .tsv, .json), or images in "
            "train/CLASS/ and test/CLASS/"
        ) from error


def _downloaded(hub: str):
    """Tables of the hub, or of what it left in its cache."""
    try:
        import datasets

        return datasets.load_dataset(hub)
    except ImportError:
        raise assets.Unavailable("needs the package datasets (pip install datasets)") from None
    except Exception as error:  # whatever a library raises: it is one failed source
        raise assets.Unavailable(_short(error)) from error


def _short(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _tabular(
    name: str,
    tables,
    *,
    inputs: tuple[str, ...],
    source: str,
    splits: tuple[str, str] = ("train", "test"),
    classes: tuple[str, ...] = (),
    size: int | None = None,
) -> _Source:
    """A source from tables with a column of `inputs`, ``label``, and for images perhaps ``bbox``.

    A label is a number of `classes`, or of the classes that the tables name; failing both, each
    label that occurs in training is a class.
    """
    if absent := [split for split in splits if split not in tables]:
        raise ValueError(
            f"{name}: found the splits {', '.join(tables)}, but no {' or '.join(absent)}"
        )
    parts = [tables[split] for split in splits]
    for split, table in zip(splits, parts, strict=True):
        if "label" not in table.column_names or not set(inputs) & set(table.column_names):
            raise ValueError(
                f"{name}: the {split} split has the columns {', '.join(table.column_names)}; "
                f"expected {' or '.join(inputs)}, and label"
            )
    column = next(column for column in inputs if column in parts[0].column_names)
    named = getattr(parts[0].features["label"], "names", ())
    classes, labels = _classes(name, [table["label"][:] for table in parts], classes or named)
    read = _rows_of_text if column in ("sentence", "text") else _rows_of_images
    cropped = all("bbox" in table.column_names for table in parts)
    return _Source(
        tuple(classes),
        tuple(
            _Samples(numbers, np.arange(len(table)), read(f"{name}, {split} split", table, column))
            for split, table, numbers in zip(splits, parts, labels, strict=True)
        ),
        source.replace("{crop}", CROPPED if cropped else "whole images: this copy has no boxes"),
        text=read is _rows_of_text,
        size=size,
    )


def _classes(name: str, columns: list[list], classes: Sequence[str]):
    """Names of the classes, and the columns of labels as numbers of them."""
    if not all(type(label) in (int, str) for column in columns for label in column):
        raise ValueError(f"{name}: labels are whole numbers or names; some are missing or neither")
    if not classes:
        values = sorted(set(columns[0]), key=lambda label: (isinstance(label, str), label))
        number = {value: at for at, value in enumerate(values)}
        if strange := [label for label in columns[1] if label not in number]:
            raise ValueError(
                f"{name}: the label {strange[0]!r} of the test split does not occur in training"
            )
        classes = [str(value) for value in values]
        columns = [[number[label] for label in column] for column in columns]
    elif any(isinstance(label, str) for column in columns for label in column):
        raise ValueError(f"{name}: labels are names; expected numbers, 0 to {len(classes) - 1}")
    return classes, [np.array(column, dtype=np.int64) for column in columns]


def _rows_of_text(what: str, table, column: str):
    """A reader of the sentences of a table."""
    sentences = table[column][:]
    if not all(isinstance(sentence, str) for sentence in sentences):
        raise ValueError(f"{what}: the column {column} has rows without a sentence")
    return lambda at: [sentences[i] for i in at]


def _rows_of_images(what: str, table, column: str):
    """A reader of the images of a table, each cropped to its box if there is one."""
    if type(table.features[column]).__name__ != "Image":
        raise ValueError(
            f"{what}: the column {column} is {table.features[column]}; expected datasets.Image"
        )
    boxes = table["bbox"][:] if "bbox" in table.column_names else None
    if boxes is not None and not all(box is not None and len(box) == 4 for box in boxes):
        raise ValueError(f"{what}: expected four numbers in every row of bbox; some have others")
    pictures = table.select_columns([column])  # a row is decoded when it is asked for
    return _photos(what, lambda i: pictures[int(i)][column], lambda i: f"{what}, row {i}", boxes)


_LOADERS: dict[str, Callable[[str | Path | None], _Source]] = {
    "fashion-mnist": _fashion_mnist,
    **{name: partial(_rated, name) for name in _RATED},
    "cifar10": _cifar10,
    "cifar10-jpeg": _cifar10_jpeg,
    "cub": _cub,
    "cars": _cars,
    "flowers": _flowers,
    "sst2": _sst2,
}
NAMES = tuple(_LOADERS)
TEXT = (*_RATED, "sst2")  # the others are images
# Of the same pictures or sentences: a network pre-trained on one has seen the other.
SAME_DATA = ({"cifar10", "cifar10-jpeg"}, {"movie-reviews", "sst2"})

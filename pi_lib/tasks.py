"""Data sets by name, and how a sample becomes an input.

Two tasks work on any machine: pictures of clothes (Fashion-MNIST) and sentences of film
reviews. Others are read from the reader's own folder (``PI_LIB_DATA``, or ``data=``).

Subsets are balanced over the classes, drawn by a seed, and nested: with one seed, the first
100 of 1,000 training samples are those that one gets by asking for 100.
"""

import gzip
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pi_lib import assets


@dataclass(frozen=True, eq=False)
class Split:
    """Samples and their labels.

    Attributes
    ----------
    inputs : (N, C, H, W) uint8, or list of N str
        Images or sentences.
    labels : (N,) int64
        Class numbers.
    ids : list of N int
        Index of each sample in its source, which no subset or seed changes.

    Examples
    --------
    >>> split = Split(["good", "bad", "fine"], torch.tensor([1, 0, 1]), [7, 8, 9])
    >>> split.take([2, 0])
    Split(inputs=['fine', 'good'], labels=tensor([1, 1]), ids=[9, 7])
    """

    inputs: Tensor | list[str]
    labels: Tensor
    ids: list[int]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Sequence[int] | Tensor) -> "Split":
        """The samples at these positions of the split, in this order."""
        at = torch.as_tensor(indices, dtype=torch.int64).tolist()
        inputs = (
            self.inputs[at] if isinstance(self.inputs, Tensor) else [self.inputs[i] for i in at]
        )
        return Split(inputs, self.labels[at], [self.ids[i] for i in at])


@dataclass(frozen=True, eq=False)
class Task:
    """A classification task.

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
    """

    name: str
    kind: Literal["image", "text"]
    classes: tuple[str, ...]
    train: Split
    test: Split
    source: str
    mean: Tensor | None = None


def images(inputs: Tensor) -> Tensor:
    """Images as models take them: uint8 to float32 in [0, 1], same shape.

    Examples
    --------
    >>> images(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
    """
    if not isinstance(inputs, Tensor) or inputs.dtype != torch.uint8:
        got = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(f"expected images as a uint8 tensor; got {got}")
    return inputs.float() / 255


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
        One of `NAMES`.
    n_train, n_test : int, optional
        Samples of each split; default all, in the order of the source. A subset's classes are
        equally many within one as long as each has enough samples, and it is in an order in which
        every beginning of it is balanced too. The test subset depends on `seed` and `n_test` alone.
    size : int, optional
        Side of the images in pixels; default 64 for Fashion-MNIST, else that of the source.
        Bilinear, with antialiasing.
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
        If the name is unknown, more samples are asked for than there are, or `size` is given for
        sentences.
    pi_lib.assets.MissingAsset, pi_lib.assets.ChecksumError
        If the data cannot be had.
    """
    if name not in _LOADERS:
        raise ValueError(f"no task named {name!r}; there are {', '.join(NAMES)}")
    task = _LOADERS[name](data)
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
        splits.append(Split(inputs, labels, source.ids[at].tolist()))
    mean = None if task.text else _mean(splits[0].inputs)
    kind = "text" if task.text else "image"
    return Task(name, kind, task.classes, *splits, source=task.source, mean=mean)


@dataclass(frozen=True)
class _Samples:
    """A whole split of a source; `read(positions)` gives inputs, images as (N, H, W, C) uint8."""

    labels: np.ndarray
    ids: np.ndarray
    read: Callable[[np.ndarray], np.ndarray | list[str]]


@dataclass(frozen=True)
class _Source:
    classes: tuple[str, ...]
    splits: tuple[_Samples, _Samples]
    source: str
    text: bool = False
    size: int | None = None  # default side of the images; None: as they are


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


def _resized(pictures: np.ndarray, size: int | None) -> Tensor:
    """(N, H, W, C) uint8 to (N, 3, size, size) uint8; grey becomes three equal channels."""
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


def _movie_reviews(data: str | Path | None) -> _Source:
    folder = assets.fetch("movie-reviews", data)
    lines = (folder / "movieReviewSnippets_GroundTruth.txt").read_text("utf-8").splitlines()
    rows = {}  # by sentence: a sentence that comes twice counts once
    for line in lines:
        index, rating, sentence = line.split("\t")
        if abs(float(rating)) >= 1:  # the others are neither clearly negative nor positive
            rows.setdefault(_clean(sentence), (int(index), float(rating) > 0))
    sentences = list(rows)
    ids, labels = np.array(list(rows.values())).T
    # One split for good, of which no argument decides: 4 in 5 sentences are for training.
    shuffled = np.random.default_rng(20140601).permutation(len(sentences))
    parts = np.split(shuffled, [len(sentences) * 4 // 5])
    return _Source(
        classes=("negative", "positive"),
        splits=tuple(_sentences(sentences, labels, ids, np.sort(part)) for part in parts),
        source="film review sentences of Pang and Lee (2004), rated by 20 people each for VADER "
        "(Hutto and Gilbert 2014), MIT; kept where the mean rating is at most -1 or at least 1",
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
    (file,) = assets.supplied("cifar10", ["cifar10_subset_5085_1017.npz"], data)
    with np.load(file, allow_pickle=False) as arrays:
        splits = tuple(
            _Samples(
                arrays[f"y{part}"],
                np.arange(len(arrays[f"y{part}"])),
                arrays[f"X{part}"].__getitem__,
            )
            for part in ("train", "test")
        )
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    source = "CIFAR-10 (Krizhevsky 2009), a subset with its pixels unchanged; no licence stated"
    return _Source(tuple(names.split()), splits, source)


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
    def read(file: Path) -> _Samples:
        rows = [line.rsplit("\t", 1) for line in file.read_text("utf-8").splitlines()]
        labels = np.array([int(label) for _, label in rows])
        at = np.arange(len(rows))
        return _sentences([sentence for sentence, _ in rows], labels, at, at)

    train, test = map(read, assets.supplied("sst2", ["sst2/train.tsv", "sst2/test.tsv"], data))
    source = "SST-2, film review sentences (Socher et al. 2013); no licence stated"
    return _Source(("negative", "positive"), (train, test), source, text=True)


_LOADERS: dict[str, Callable[[str | Path | None], _Source]] = {
    "fashion-mnist": _fashion_mnist,
    "movie-reviews": _movie_reviews,
    "cifar10": _cifar10,
    "cifar10-jpeg": _cifar10_jpeg,
    "flowers": _flowers,
    "sst2": _sst2,
}
NAMES = tuple(_LOADERS)
TEXT = ("movie-reviews", "sst2")  # the others are images
# Of the same pictures or sentences: a network pre-trained on one has seen the other.
SAME_DATA = ({"cifar10", "cifar10-jpeg"}, {"movie-reviews", "sst2"})

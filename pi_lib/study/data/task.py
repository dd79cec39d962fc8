"""A task: subsets of a data set, ready to train on."""

import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pi_lib.study.data import pictures
from pi_lib.study.data.registry import aim as aim_of
from pi_lib.study.data.registry import raw
from pi_lib.study.data.samples import Samples, subset
from pi_lib.study.data.scenes import scenes
from pi_lib.study.data.shifts import SCENES
from pi_lib.training import Split


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
    origin : str
        One line: where the data come from and under which licence.
    mean : (C,) float32, or None for text
        Mean of each channel over the images of `train`, in [0, 1].
    aim : str
        One of `pi_lib.training.objectives.AIMS`: what a network is to say of a sample.
    """

    name: str
    kind: Literal["image", "text"]
    classes: tuple[str, ...]
    train: Split
    test: Split
    origin: str
    mean: Tensor | None = None
    aim: str = "classification"


def load(
    name: str,
    *,
    n_train: int | None = None,
    n_test: int | None = None,
    at_most: Collection[str] = (),
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
    at_most : collection of "n_train" and "n_test", optional
        Which of the two are upper limits: where there are fewer samples, all are taken, and a
        warning says so.
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
        If fewer samples are taken than `at_most`, or `n_train` is smaller than the number of
        classes, so that some have no training sample.
    """
    if not {*at_most} <= {"n_train", "n_test"}:
        raise ValueError(f"at_most={at_most!r}; expected n_train, n_test or both")
    data_set, aim = raw(name, data), aim_of(name)
    if size is not None and data_set.kind == "text":
        raise ValueError(f"{name} has sentences: size={size} is for images")
    if size is not None and size < 1:
        raise ValueError(f"size is the side of the images in pixels, at least 1; got {size}")
    splits = []
    wanted = {"n_train": (data_set.train, n_train), "n_test": (data_set.test, n_test)}
    for stream, (which, (samples, n)) in enumerate(wanted.items()):
        n = _available(len(samples.labels), n, f"{name}: {which}", which in at_most)
        at = subset(samples.labels, n, [seed, stream])
        inputs = samples.read(at)
        if data_set.kind == "image":
            inputs = pictures.resized(inputs, size or data_set.size)
        split = Split(inputs, _tensor(samples.labels[at]), samples.ids[at].tolist())
        splits.append(_scenes(split, samples, stream, aim) if aim in SCENES else split)
    classes = data_set.classes
    if n_train is not None and n_train < len(classes):
        warnings.warn(
            f"{name}: n_train={n_train} samples leave some of the {len(classes)} classes "
            f"without any; ask for at least {len(classes)}",
            stacklevel=2,
        )
    mean = pictures.mean(splits[0].inputs) if data_set.kind == "image" else None
    return Task(name, data_set.kind, classes, *splits, data_set.origin, mean, aim)


def _available(there: int, n: int | None, what: str, at_most: bool) -> int | None:
    """How many samples are taken of those that are there."""
    if at_most and n is not None and n > there:
        warnings.warn(f"{what}={n}, but there are {there} samples: all are taken", stacklevel=3)
        return there
    if n is not None and not 1 <= n <= there:
        raise ValueError(f"{what}={n}, but there are {there} samples: ask for 1 to that many")
    return n


def _tensor(labels: np.ndarray) -> Tensor:
    return torch.from_numpy(labels.astype(np.int64))


def _scenes(split: Split, samples: Samples, stream: int, aim: str) -> Split:
    """Scenes of a split's pictures, each with another picture of its data set and another class."""
    others = np.empty(len(split), dtype=np.int64)
    for i, (id, label) in enumerate(zip(split.ids, split.labels.tolist(), strict=True)):
        unlike = np.flatnonzero(samples.labels != label)
        others[i] = np.random.default_rng([21, stream, id]).choice(unlike)
    beside = pictures.resized(samples.read(others), split.inputs.shape[-1])
    labels = _tensor(samples.labels[others])
    canvas, maps, boxes = scenes(split.inputs, split.labels, beside, labels, split.ids)
    return replace(split, inputs=canvas, targets=maps if aim == "segmentation" else boxes)

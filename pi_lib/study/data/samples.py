"""What a loader gives: two splits of labelled samples, read when they are chosen; subsets."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

Read = Callable[[np.ndarray], np.ndarray | Iterator[np.ndarray] | list[str]]


@dataclass(frozen=True, eq=False)
class Samples:
    """A whole split.

    Attributes
    ----------
    inputs : (N, H, W, C) uint8 array, list of N str, or callable
        Images (C = 1 or 3) or sentences. A callable takes positions, (k,) int64, and gives the
        inputs there: an array, a list, or, where images differ in size, an iterator of (H, W, C)
        arrays.
    labels : (N,) int
        Class numbers, from 0.
    ids : (N,) int, optional
        What each sample is called for good: players are drawn by it. Default 0 to N - 1.

    Raises
    ------
    ValueError
        If labels are no whole numbers, or the lengths differ.

    Examples
    --------
    >>> Samples(["good", "bad", "fine"], [1, 0, 1]).read(np.array([2, 0]))
    ['fine', 'good']
    """

    inputs: np.ndarray | list[str] | Read
    labels: np.ndarray
    ids: np.ndarray | None = None

    def __post_init__(self):
        labels = np.asarray(self.labels)
        ids = np.arange(len(labels)) if self.ids is None else np.asarray(self.ids)
        for name, numbers in (("labels", labels), ("ids", ids)):
            if numbers.ndim != 1 or (len(numbers) and numbers.dtype.kind not in "iu"):
                raise ValueError(
                    f"{name} are whole numbers along one axis; got {numbers.dtype} of shape "
                    f"{numbers.shape}"
                )
            object.__setattr__(self, name, numbers)
        if isinstance(self.inputs, np.ndarray) and (
            self.inputs.dtype != np.uint8 or self.inputs.ndim != 4
        ):
            raise ValueError(
                "images are an array (N, H, W, C) of uint8; got "
                f"{self.inputs.dtype} of shape {self.inputs.shape}"
            )
        lengths = {"labels": len(labels), "ids": len(ids)}
        if not callable(self.inputs):
            lengths["inputs"] = len(self.inputs)
        if len(set(lengths.values())) > 1:
            raise ValueError(f"expected one of each for every sample; got {lengths}")

    def read(self, at: np.ndarray) -> np.ndarray | Iterator[np.ndarray] | list[str]:
        """The inputs at these positions."""
        if callable(self.inputs):
            return self.inputs(at)
        if isinstance(self.inputs, np.ndarray):
            return self.inputs[at]
        return [self.inputs[i] for i in at]


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set before shifts are applied and subsets drawn: what a loader returns.

    Attributes
    ----------
    classes : tuple of str
        Names of the classes, by number.
    train, test : Samples
    origin : str
        One line: where the data come from and under which licence.
    kind : "image" or "text"
    size : int, optional
        Default side of the images in pixels; None: as they are.
    """

    classes: tuple[str, ...]
    train: Samples
    test: Samples
    origin: str
    kind: Literal["image", "text"] = "image"
    size: int | None = None

    def check(self, name: str) -> "DataSet":
        """Itself, unless labels lie beyond its classes or a class has nothing to learn from.

        A ValueError naming the data set, the split and what is wrong.
        """
        classes = len(self.classes)
        for which, samples in (("training", self.train), ("test", self.test)):
            if len(samples.labels) == 0:
                raise ValueError(f"{name}: the {which} split has no samples")
            low, high = samples.labels.min(), samples.labels.max()
            if low < 0 or high >= classes:
                raise ValueError(
                    f"{name}: the {which} split has labels from {low} to {high}, but there are "
                    f"{classes} classes: expected 0 to {classes - 1} (-1 often stands for a label "
                    "that was held back: such a split cannot be used)"
                )
        if absent := sorted(set(range(classes)) - set(self.train.labels.tolist())):
            raise ValueError(
                f"{name}: no training sample of {len(absent)} of the {classes} classes (the first: "
                f"{self.classes[absent[0]]!r}); complete the data, or leave the classes out"
            )
        return self


def subset(labels: np.ndarray, n: int | None, seed: list[int]) -> np.ndarray:
    """Positions of a balanced sample of `n`: each class shuffled, then one of each in turn.

    Every beginning of it is balanced too. Default: all, in their order.

    Examples
    --------
    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> labels[subset(labels, 5, [0])].tolist()
    [0, 1, 0, 1, 0]
    """
    if n is None:
        return np.arange(len(labels))
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    ranks = np.empty(len(labels), dtype=np.int64)  # of a sample within its class
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        ranks[members] = np.arange(len(members))
    return np.lexsort((labels, ranks))[:n]

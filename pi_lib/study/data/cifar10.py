"""CIFAR-10: its pixels as published, or all images as JPEG."""

from pathlib import Path

import numpy as np

from pi_lib.study.data.pictures import packed_jpegs
from pi_lib.study.data.samples import DataSet, Samples
from pi_lib.study.data.tables import anywhere

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
ORIGIN = "CIFAR-10 (Krizhevsky 2009){}; no licence stated"
SUBSET = "cifar10_subset_5085_1017.npz"
JPEG = ("cifar10_jpeg_train.npz", "cifar10_jpeg_test.npz")


def load(folder: str | Path | None = None) -> DataSet:
    """A subset in the reader's folder, or all of it from tables."""

    def read(file: Path) -> DataSet:
        with np.load(file, allow_pickle=False) as arrays:
            train, test = (
                Samples(arrays[f"X{part}"], arrays[f"y{part}"]) for part in ("train", "test")
            )
        return DataSet(CLASSES, train, test, ORIGIN.format(", a subset with its pixels unchanged"))

    return anywhere(
        "cifar10",
        folder,
        [SUBSET],
        read,
        hub="uoft-cs/cifar10",
        inputs=("img", "image"),
        origin=ORIGIN.format(""),
        classes=CLASSES,
        size=32,
    )


def load_jpeg(folder: str | Path | None = None) -> DataSet:
    """All 60,000 images, lossy."""
    return packed_jpegs("cifar10-jpeg", JPEG, ORIGIN.format(", all images as JPEG, lossy"), folder)

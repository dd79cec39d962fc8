"""Fashion-MNIST: grey pictures of clothes, 28 x 28 pixels."""

import gzip
from pathlib import Path

import numpy as np

from pi_lib.study import assets
from pi_lib.study.data.samples import DataSet, Samples

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def load(folder: str | Path | None = None) -> DataSet:
    """60,000 + 10,000 pictures, fetched first if need be."""
    fetched = assets.fetch("fashion-mnist", folder)

    def read(part: str) -> Samples:
        pictures, labels = (
            # Headers of 16 and 8 bytes: a magic number, then each dimension as 4 bytes.
            np.frombuffer(
                gzip.decompress((fetched / f"{part}-{name}.gz").read_bytes())[skip:], "u1"
            )
            for name, skip in (("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8))
        )
        return Samples(pictures.reshape(-1, 28, 28, 1), labels)

    origin = "Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747), MIT"
    return DataSet(CLASSES, read("train"), read("t10k"), origin, size=64)

"""TF Flowers: photographs of five kinds of flowers, at 128 pixels."""

from pathlib import Path

from pi_lib.study.data.pictures import packed_jpegs
from pi_lib.study.data.samples import DataSet

FILES = ("flowers128_train.npz", "flowers128_val.npz")


def load(folder: str | Path | None = None) -> DataSet:
    """2,934 + 736 photographs from the reader's folder."""
    origin = "TF Flowers, photographs at 128 px by many authors on Flickr, CC BY 2.0"
    return packed_jpegs("flowers", FILES, origin, folder)

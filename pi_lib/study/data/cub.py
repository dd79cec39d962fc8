"""CUB-200-2011: photographs of 200 kinds of birds, cropped to their bounding boxes."""

import re
from dataclasses import replace
from pathlib import Path

from pi_lib.study.data.pictures import CROPPED, Box, files
from pi_lib.study.data.samples import DataSet, Samples
from pi_lib.study.data.tables import anywhere

LISTS = {  # text files of the data set, and what follows a line's number
    "images": r".+",
    "image_class_labels": r"\d+",
    "train_test_split": r"[01]",
    "bounding_boxes": r"[\d.]+( [\d.]+){3}",
    "classes": r".+",
}
FILES = (*(f"CUB_200_2011/{name}.txt" for name in LISTS), "CUB_200_2011/images")
ORIGIN = (
    "CUB-200-2011 (Wah, Branson, Welinder, Perona and Belongie 2011), {crop}; for non-commercial "
    "research and education, the photographs belong to their authors"
)


def load(folder: str | Path | None = None) -> DataSet:
    """The data set as published, from the reader's folder, or from tables."""
    data_set = anywhere(
        "cub",
        folder,
        FILES,
        _published,
        hub="bentrevett/caltech-ucsd-birds-200-2011",
        inputs=("image",),
        origin=ORIGIN,
        size=224,
    )
    return replace(data_set, classes=tuple(map(_tidy, data_set.classes)))


def _published(*parts: Path) -> DataSet:
    *lists, folder = parts
    paths, labels, training, boxes, names = map(_numbered, lists, LISTS.values())
    for file, rows in zip(lists, (paths, labels, training, boxes), strict=False):
        if rows.keys() != paths.keys():
            raise ValueError(
                f"{file} does not list the same images as {lists[0].name}: take all files from "
                "one copy of CUB-200-2011"
            )

    def corners(image: int) -> Box:
        left, top, width, height = map(float, boxes[image].split())
        return left, top, left + width, top + height

    def split(wanted: str) -> Samples:
        ids = [image for image in sorted(paths) if training[image] == wanted]
        photos = [folder / paths[image] for image in ids]
        read = files("cub", photos, [corners(image) for image in ids])
        return Samples(read, [int(labels[image]) - 1 for image in ids], ids)

    classes = tuple(names[number] for number in sorted(names))
    return DataSet(classes, split("1"), split("0"), ORIGIN.replace("{crop}", CROPPED), size=224)


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

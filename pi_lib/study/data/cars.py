"""Stanford Cars: photographs of 196 models of cars, cropped to their bounding boxes."""

from pathlib import Path

import numpy as np

from pi_lib.study.data.pictures import CROPPED, files
from pi_lib.study.data.samples import DataSet, Samples
from pi_lib.study.data.tables import anywhere

FILES = (
    "stanford_cars/devkit/cars_meta.mat",
    "stanford_cars/devkit/cars_train_annos.mat",
    "stanford_cars/cars_test_annos_withlabels.mat",
    "stanford_cars/cars_train",
    "stanford_cars/cars_test",
)
FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
ORIGIN = (
    "Stanford Cars (Krause, Stark, Deng and Fei-Fei 2013), {crop}; no licence stated, the "
    "photographs belong to their authors"
)


def load(folder: str | Path | None = None) -> DataSet:
    """The data set as published, from the reader's folder, or from tables."""
    return anywhere(
        "cars",
        folder,
        FILES,
        _published,
        hub="tanganke/stanford_cars",
        inputs=("image",),
        origin=ORIGIN,
        size=224,
    )


def _published(meta: Path, train: Path, test: Path, *photos: Path) -> DataSet:
    classes = tuple(str(name) for name in _matlab(meta, "class_names"))
    splits = map(_split, (train, test), photos)
    return DataSet(classes, *splits, ORIGIN.replace("{crop}", CROPPED), size=224)


def _split(annotations: Path, photos: Path) -> Samples:
    rows = _matlab(annotations, "annotations")
    names = rows.dtype.names or ()
    if absent := [name for name in FIELDS if name not in names]:
        raise ValueError(
            f"{annotations}: annotations have the fields {', '.join(names)}, but not "
            f"{', '.join(absent)} (the devkit's cars_test_annos.mat has no classes: "
            "cars_test_annos_withlabels.mat has them)"
        )
    # MATLAB counts pixels from 1 and includes the last.
    boxes = [
        (row["bbox_x1"] - 1.0, row["bbox_y1"] - 1.0, row["bbox_x2"], row["bbox_y2"]) for row in rows
    ]
    read = files("cars", [photos / str(row["fname"]) for row in rows], boxes)
    return Samples(read, [int(row["class"]) - 1 for row in rows])


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
        names = ", ".join(key for key in content if not key.startswith("__"))
        raise ValueError(f"{file} holds {names or 'nothing'}; expected {name}")
    return np.atleast_1d(content[name])

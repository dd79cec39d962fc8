"""A folder of the reader's own: images by class, or tables of sentences or images."""

from pathlib import Path

from pi_lib.study import assets
from pi_lib.study.data.samples import DataSet
from pi_lib.study.data.tables import saved, tabular

PREFIX = "folder:"


def path_of(name: str) -> Path:
    """The path in ``folder:PATH``."""
    return Path(name.removeprefix(PREFIX)).expanduser()


def load(name: str) -> DataSet:
    """``folder:PATH``, its test split being ``test``, or failing that ``validation``."""
    path = path_of(name)
    if not path.is_dir():
        raise assets.MissingAsset(
            f"{name}: there is no folder {path}; expected one with train/ and test/, or with "
            "train.csv and test.csv"
        )
    tables = saved(path)
    return tabular(
        name,
        tables,
        inputs=("image", "sentence", "text"),
        origin=f"{path}, a folder of the reader's own",
        splits=("train", "test" if "test" in tables else "validation"),
        size=224,
    )

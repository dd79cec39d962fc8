"""Tables of samples: from the Hugging Face hub, its cache, or a folder, through `datasets`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pi_lib.study import assets
from pi_lib.study.data.pictures import CROPPED, photos
from pi_lib.study.data.samples import DataSet, Samples


def anywhere(
    name: str,
    data: str | Path | None,
    files: Sequence[str],
    read: Callable[..., DataSet],
    *,
    hub: str,
    **schema,
) -> DataSet:
    """A data set by its name: from the reader's own folder `data`, or from the hub.

    In the folder it has its own layout, whose paths `files` are given to `read`, or it is a folder
    of its name with tables like those of `hub`, its name there. `schema` is what `tabular` is to
    know of them.
    """

    def tables_of_folder() -> DataSet:
        (folder,) = assets.own_paths([name], data)
        return tabular(name, saved(folder), **schema)

    def tables_of_hub() -> DataSet:
        return tabular(name, _downloaded(hub), **schema)

    return assets.first(
        name,
        [
            (assets.OWN, lambda: read(*assets.own_paths(files, data))),
            (f"{assets.OWN}, as tables", tables_of_folder),
            (f"the Hugging Face hub and its cache ({hub})", tables_of_hub),
        ],
        f"{', '.join(files)}, or the hub's files in {name}/,",
        " Or, where there is internet: "
        f"python -c \"import datasets; datasets.load_dataset('{hub}')\" fills the hub's cache "
        "(HF_HOME), which may be copied.",
    )


def saved(folder: Path):
    """Tables (`datasets.DatasetDict`) of a folder: Parquet, CSV, images, or `save_to_disk`'s."""
    import datasets

    if (folder / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(folder))
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # they speak of downloads, and nothing is downloaded
    try:
        parts = [x for x in ("train", "test", "validation") if (folder / x).is_dir()]
        named = None
        if parts[:1] == ["train"] != parts:  # else a class "train" or "test-tube" would be a part
            named = {part: _listed(folder.absolute() / part) for part in parts}
        elif signs := [x for x in ("[", "*", "?", "::") if x in str(folder.resolve())]:
            # a pattern to `datasets`, which may fit another folder
            raise ValueError(f"its path holds {signs[0]!r}: rename it")
        return datasets.load_dataset(str(folder), data_files=named)
    except Exception as error:  # whatever the library makes of the reader's files
        raise ValueError(
            f"{folder} cannot be read as tables: {_short(error.__cause__ or error)}. Expected "
            "files of a training and a test split: train*.parquet and test*.parquet (or .csv, "
            ".tsv, .json), or images in train/CLASS/ and test/CLASS/"
        ) from error
    finally:
        if shown:
            datasets.enable_progress_bars()


def _listed(folder: Path):
    """A folder's files, with what tells a later file from an earlier one of its name.

    Not as patterns: those that `datasets` resolves go behind no link once a name holds ``[``.
    """
    from datasets.data_files import DataFilesList

    files = sorted(assets.files_in(folder), key=lambda file: (file.parent, file.name))
    if strange := [file for file in files if "::" in str(file)]:  # it would be left out
        raise ValueError(f"'::' in {strange[0]} has a meaning of its own to `datasets`: rename it")
    states = [file.stat() for file in files]
    return DataFilesList([*map(str, files)], [(f"{x.st_mtime_ns} {x.st_size}",) for x in states])


def _downloaded(hub: str):
    """Tables of the hub, or of what it left in its cache."""
    try:
        import datasets

        return datasets.load_dataset(hub)
    except ImportError:
        raise assets.Unavailable("needs the package datasets (pip install datasets)") from None
    except Exception as error:  # whatever a library raises: the next place is tried
        raise assets.Unavailable(_short(error)) from error


def _short(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def tabular(
    name: str,
    tables,
    *,
    inputs: tuple[str, ...],
    origin: str,
    splits: tuple[str, str] = ("train", "test"),
    classes: tuple[str, ...] = (),
    size: int | None = None,
) -> DataSet:
    """A data set from tables with a column of `inputs`, ``label``, and for images perhaps ``bbox``.

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
    text = column in ("sentence", "text")
    rows = _sentences if text else _images
    train, test = (
        Samples(rows(f"{name}, {split} split", table, column), numbers)
        for split, table, numbers in zip(splits, parts, labels, strict=True)
    )
    cropped = all("bbox" in table.column_names for table in parts)
    crop = CROPPED if cropped else "whole images: this copy has no boxes"
    kind = "text" if text else "image"
    return DataSet(tuple(classes), train, test, origin.replace("{crop}", crop), kind, size)


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


def _sentences(what: str, table, column: str) -> list[str]:
    """The sentences of a table."""
    sentences = table[column][:]
    if not all(isinstance(sentence, str) for sentence in sentences):
        raise ValueError(f"{what}: the column {column} has rows without a sentence")
    return list(sentences)


def _images(what: str, table, column: str):
    """A reader of the images of a table, each cropped to its box if there is one."""
    if type(table.features[column]).__name__ != "Image":
        raise ValueError(
            f"{what}: the column {column} is {table.features[column]}; expected datasets.Image"
        )
    boxes = table["bbox"][:] if "bbox" in table.column_names else None
    if boxes is not None and not all(box is not None and len(box) == 4 for box in boxes):
        raise ValueError(f"{what}: expected four numbers in every row of bbox; some have others")
    pictures = table.select_columns([column])  # a row is decoded when it is asked for
    return photos(what, lambda i: pictures[int(i)][column], lambda i: f"{what}, row {i}", boxes)

"""The data sets by name: a table to which a reader can add, and what a name says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

from pi_lib.study import assets
from pi_lib.study.data import cars, cifar10, cub, fashion_mnist, flowers, folder, rated_texts, sst2
from pi_lib.study.data.samples import DataSet
from pi_lib.study.data.shifts import DISJOINT, OF_PICTURES, SCENES, SHIFTS, shifted
from pi_lib.study.registration import check_name, code_of

FOLDER = folder.PREFIX
Loader = Callable[[str | Path | None], DataSet]


@dataclass(frozen=True)
class Entry:
    """A row of the table: attributes as of `register_data`, `load` being the loader.

    `asset` is its name in `pi_lib.study.assets`, for data that are fetched; `files`, for the other
    built-in ones, what is read of the reader's own folder; `code`, of a reader's data set, a digest
    of the code that loads it.
    """

    load: Loader
    kind: Literal["image", "text"]
    overlaps: tuple[str, ...] = ()
    scenes: bool = False
    asset: str = ""
    files: Sequence[str] = ()
    code: str = ""


DATA = {
    "fashion-mnist": Entry(fashion_mnist.load, "image", scenes=True, asset="fashion-mnist"),
    **{
        name: Entry(partial(rated_texts.load, name), "text", asset=asset)
        for name, (asset, *_) in rated_texts.TEXTS.items()
    },
    "cifar10": Entry(cifar10.load, "image", ("cifar10-jpeg",), files=[cifar10.SUBSET]),
    "cifar10-jpeg": Entry(cifar10.load_jpeg, "image", files=cifar10.JPEG),
    "cub": Entry(cub.load, "image", files=cub.FILES),
    "cars": Entry(cars.load, "image", files=cars.FILES),
    "flowers": Entry(flowers.load, "image", files=flowers.FILES),
    "sst2": Entry(sst2.load, "text", ("movie-reviews",), files=sst2.FILES),
}
NAMES = DATA.keys()  # a view: what is registered later is in it


def register_data(
    name: str,
    loader: Loader,
    *,
    kind: Literal["image", "text"],
    overlaps: Sequence[str] = (),
    scenes: bool = False,
    version: str = "",
    replace: bool = False,
) -> None:
    """Add a data set of your own, so that a cell may name it as its task or source.

    Parameters
    ----------
    name : str
        Letters, digits, ``-``, ``_`` and ``.``. `SHIFTS` apply to it as to the others.
    loader : callable
        ``loader(folder)`` gives a `pi_lib.study.data.DataSet`; `folder` is the reader's own
        folder (``PI_LIB_DATA``), or None. It is called whenever samples are loaded.
    kind : "image" or "text"
        What its samples are.
    overlaps : sequence of str, optional
        Names of data sets with some of the same samples: a network pre-trained on one of them is
        not studied on the other.
    scenes : bool, optional
        Whether its pictures show one object on black, so that ``NAME+segmentation`` and
        ``NAME+detection`` can be made of them.
    version : str, optional
        Stored results are kept by the code of the file in which `loader` is defined (of the loader
        alone in a notebook), and by this. Change it when anything else that decides the data has
        changed.
    replace : bool, optional
        Whether to put it in the place of an earlier one of yours. Built-in ones stay.

    Raises
    ------
    ValueError
        If the name is taken or unusable, there is no such kind, or an overlap is unknown.
    TypeError
        If `loader` is not callable.

    Notes
    -----
    Worker processes start without it. Put the call into a module, and name the module in the
    environment variable ``PI_LIB_PLUGINS`` (several after commas): every process that imports
    `pi_lib.study` imports them. A script's own calls are repeated in its worker processes; a
    worker of a Dask cluster may preload the module instead.

    Examples
    --------
    >>> import numpy as np
    >>> from pi_lib import study
    >>> from pi_lib.study.data import DataSet, Samples
    >>> def stripes(folder):
    ...     pictures = np.zeros((40, 8, 8, 1), dtype=np.uint8)
    ...     pictures[::2, ::2], pictures[1::2, :, ::2] = 255, 255
    ...     labels = np.arange(40) % 2
    ...     train, test = Samples(pictures[:30], labels[:30]), Samples(pictures[30:], labels[30:])
    ...     return DataSet(("rows", "columns"), train, test, origin="drawn here")
    >>> study.register_data("stripes", stripes, kind="image")
    >>> study.data.load("stripes", n_train=4).train.labels.tolist()
    [0, 1, 0, 1]
    """
    check_name(name, DATA, {name for name, entry in DATA.items() if entry.code}, replace)
    if not callable(loader):
        raise TypeError(f"{name}: a loader is a function of a folder; got {type(loader).__name__}")
    if kind not in ("image", "text"):
        raise ValueError(f"{name}: kind={kind!r}; expected 'image' or 'text'")
    if isinstance(overlaps, str) or not set(overlaps) <= DATA.keys():
        raise ValueError(
            f"{name}: overlaps={overlaps!r}; expected a list of names among {', '.join(NAMES)}"
        )
    if scenes and kind == "text":
        raise ValueError(f"{name}: scenes are made of images, not of texts")
    DATA[name] = Entry(loader, kind, tuple(overlaps), scenes, code=code_of(name, loader, version))


def raw(name: str, own: str | Path | None = None) -> DataSet:
    """The whole data set of a name, with its shifts but for scenes.

    Raises
    ------
    TypeError
        If a registered loader gives something else than a `DataSet`.
    ValueError
        If its kind is not the registered one, or labels and classes do not agree.
    """
    base, shifts = parse(name)
    if name.startswith(FOLDER):
        return folder.load(name).check(name)
    data_set = DATA[base].load(own)
    if not isinstance(data_set, DataSet):
        raise TypeError(
            f"{base}: its loader gave {type(data_set).__name__}; expected pi_lib.study.data.DataSet"
        )
    if data_set.kind != DATA[base].kind:
        raise ValueError(
            f"{base} is registered as {DATA[base].kind}, but its loader gave {data_set.kind}"
        )
    data_set.check(base)
    for shift in shifts:
        data_set = data_set if shift in SCENES else shifted(data_set, shift)
    return data_set


def parse(name: str) -> tuple[str, list[str]]:
    """A name without its shifts, and these.

    Raises ValueError if there is no such data set or shift, or sentences are to be shifted as
    pictures.
    """
    if name.startswith(FOLDER):
        return name, []
    base, *shifts = name.split("+")
    if base not in DATA:
        raise ValueError(
            f"no task named {base!r}; there are {', '.join(NAMES)}, and {FOLDER}PATH for a folder "
            "of your own (see pi_lib.study.register_data to add one)"
        )
    entry = DATA[base]
    for shift in shifts:
        if shift not in SHIFTS:
            raise ValueError(f"{name}: no shift {shift!r}; there are {', '.join(SHIFTS)}")
        if entry.kind == "text" and shift in (*OF_PICTURES, *SCENES):
            raise ValueError(f"{name}: {shift!r} is for images; {base} has sentences")
        if shift in SCENES and (not entry.scenes or shift != shifts[-1]):
            raise ValueError(
                f"{name}: {shift!r} comes last, and needs pictures of one object on black, of "
                f"which a mask can be made: {', '.join(n for n in DATA if DATA[n].scenes)}"
            )
    if any(shift in SCENES for shift in shifts) and any(shift in OF_PICTURES for shift in shifts):
        raise ValueError(f"{name}: masks can be made of pictures as they are, not of changed ones")
    return base, shifts


def kind(name: str) -> Literal["image", "text"]:
    """What a task's samples are. A folder is looked into, its samples are not read.

    Raises
    ------
    ValueError
        If there is no such task, or the folder holds none.
    pi_lib.study.assets.MissingAsset
        If there is no such folder.
    """
    base, _ = parse(name)
    return kind_of_folder(name) if name.startswith(FOLDER) else DATA[base].kind


@cache
def kind_of_folder(name: str) -> Literal["image", "text"]:
    return folder.load(name).kind


def classes(name: str, own: str | Path | None = None) -> tuple[str, ...]:
    """Names of a task's classes, without reading an image.

    Raises
    ------
    ValueError, pi_lib.study.assets.MissingAsset, pi_lib.study.assets.ChecksumError
        As `load`.

    Examples
    --------
    >>> classes("fashion-mnist+last-classes")
    ('Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot')
    """
    return raw(name, own).classes


def aim(name: str) -> Literal["classification", "segmentation", "detection"]:
    """What a network is to say of a task's samples.

    Examples
    --------
    >>> aim("fashion-mnist"), aim("fashion-mnist+odd+detection")
    ('classification', 'detection')
    """
    _, shifts = parse(name)
    return next((shift for shift in shifts if shift in SCENES), "classification")


def overlap(name: str, other: str) -> bool:
    """Whether a network trained on one task may have seen samples of the other.

    Examples
    --------
    >>> overlap("cifar10", "cifar10-jpeg"), overlap("cifar10+odd", "cifar10+even+blurred")
    (True, False)
    """
    (base, shifts), (other_base, other_shifts) = parse(name), parse(other)
    if base != other_base:
        pairs = ((base, other_base), (other_base, base))
        return any(a in DATA and b in DATA[a].overlaps for a, b in pairs)
    return not any({a, b} == pair for pair in DISJOINT for a in shifts for b in other_shifts)


def identity(name: str) -> str:
    """What a stored result says of its data: the name, with what decides them beyond our code.

    That is a digest of what is fetched, of the files in the reader's own folder (``PI_LIB_DATA``;
    of tables from the hub the name alone), or of the code that loads a reader's data set. Of
    ``folder:PATH`` it is its content alone: it may be moved without losing results. A change of
    files is noticed by the next process.
    """
    if name.startswith(FOLDER):
        return FOLDER + assets.digest_of(folder.path_of(name))
    base, _ = parse(name)
    entry = DATA[base]
    code = assets.digest(entry.asset) if entry.asset else entry.code
    if entry.files:
        code = assets.own_digest(entry.files, [base])
    return f"{name} ({code})" if code else name

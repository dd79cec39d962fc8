"""Data sets by name, and how a sample becomes an input.

A module a data set, each with a function `load`; `samples` says what it gives, `registry` names
them, `shifts` and `scenes` make others of them, `task` draws the subsets, and `pictures` and
`tables` read files. `prepare` makes the project's files of the published archives.

Fashion-MNIST and the rated texts work on any machine. The paper's own (CIFAR-10, CUB-200-2011,
Stanford Cars, SST-2) are looked for in the reader's own folder (``PI_LIB_DATA``, or ``data=``),
then in the Hugging Face hub and its cache. A name may go on with `SHIFTS`:
``fashion-mnist+odd+inverted`` is every second picture of Fashion-MNIST, dark made light.

Subsets are balanced over the classes, drawn by a seed, and nested: with one seed, the first
100 of 1,000 training samples are those that one gets by asking for 100.
"""

from pi_lib.study.data.registry import (
    FOLDER,
    NAMES,
    aim,
    classes,
    identity,
    kind,
    overlap,
    register_data,
)
from pi_lib.study.data.samples import DataSet, Samples
from pi_lib.study.data.shifts import SCENES, SHIFTS
from pi_lib.study.data.task import Task, load
from pi_lib.training import Split, images

__all__ = [
    "FOLDER",
    "NAMES",
    "SCENES",
    "SHIFTS",
    "DataSet",
    "Samples",
    "Split",
    "Task",
    "aim",
    "classes",
    "identity",
    "images",
    "kind",
    "load",
    "overlap",
    "register_data",
]

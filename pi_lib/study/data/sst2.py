"""SST-2: film review sentences, negative or positive."""

from pathlib import Path

from pi_lib.study.data.samples import DataSet, Samples
from pi_lib.study.data.tables import anywhere

FILES = ("sst2/train.tsv", "sst2/test.tsv")
CLASSES = ("negative", "positive")
ORIGIN = "SST-2, film review sentences (Socher et al. 2013); no licence stated"


def load(folder: str | Path | None = None) -> DataSet:
    """Sentences from the reader's folder (``sentence<TAB>0|1``), or from tables.

    The tables' test split held its labels back: their validation split is tested on.
    """
    return anywhere(
        "sst2",
        folder,
        FILES,
        lambda *files: DataSet(CLASSES, *map(_read, files), ORIGIN, kind="text"),
        hub="stanfordnlp/sst2",
        inputs=("sentence",),
        origin=ORIGIN,
        classes=CLASSES,
        splits=("train", "validation"),
    )


def _read(file: Path) -> Samples:
    rows = [line.rpartition("\t") for line in file.read_text("utf-8").splitlines()]
    for at, (sentence, _, label) in enumerate(rows, 1):
        if not sentence or label not in ("0", "1"):
            raise ValueError(
                f"{file}, line {at}: expected a sentence, a tab, and 0 or 1, without a header; "
                f"got {(sentence + label)[:80]!r}"
            )
    return Samples([sentence for sentence, _, _ in rows], [int(label) for _, _, label in rows])

"""What is studied: a backbone, what it was pre-trained on, a downstream task, a seed, a profile.

A cell says what is wrong with it, and reads no disk: `pi_lib.study.steps` loads its data and builds
its networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pi_lib.objectives import OBJECTIVES
from pi_lib.study import assets, backbones, data

PHASES = ("probe", "finetuned", "scratch")
COLUMNS = ("backbone", "source", "task", "changes", "profile", "seed")  # of a table: the cell


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a profile decides for one kind of input."""

    n_train: int
    n_test: int
    n_val: int = 0  # further training samples, by which learning rates are chosen
    trials: int = 1  # how many learning rates of `LEARNING_RATES` are tried per phase
    size: int | None = None  # pixels, for backbones that take any size; None: the backbone's own
    batch_size: int = 32
    probe_epochs: int
    epochs: int  # of fine-tuning and of scratch training alike
    checkpoints: int
    samples: int  # on which interactions are extracted
    n: int  # players
    grid: int | None = 8
    n_source: int = 0  # samples and epochs of pre-training, where it is done here
    source_epochs: int = 1
    rate: float | None = None  # learning rate of fine-tuning, in place of a choice
    frozen: float | None = None  # share of the encoder's layers that fine-tuning leaves alone


# Fine-tuning and scratch training share data, order and schedule. Each phase has the learning rate
# that is best on the validation split among the first of these (a probe wants a far larger one),
# chosen with seed 0 and kept for the others.
LEARNING_RATES = {
    "image": {
        "probe": (1e-3, 1e-2, 1e-1),
        "finetuned": (1e-3, 3e-4, 1e-4),
        "scratch": (3e-3, 1e-3, 3e-4),
    },
    "text": {
        "probe": (1e-2, 1e-3, 1e-1),
        "finetuned": (5e-5, 1e-4, 2e-5),
        "scratch": (1e-4, 3e-4, 1e-3),
    },
}
SOURCE_RATE = {"image": 1e-3, "text": 1e-4}  # of pre-training

PROFILES = {
    "smoke": {  # seconds, for tests
        "image": Settings(
            n_train=64, n_test=64, size=32, batch_size=16, probe_epochs=5, epochs=1,
            checkpoints=3, samples=4, n=4, grid=4, n_source=64,
        ),
        "text": Settings(
            n_train=64, n_test=64, batch_size=16, probe_epochs=5, epochs=1,
            checkpoints=3, samples=4, n=4, n_source=64,
        ),
    },
    "quick": {  # the default of `make book`
        "image": Settings(
            n_train=700, n_val=200, trials=2, n_test=600, probe_epochs=30, epochs=6,
            checkpoints=5, samples=16, n=8, n_source=5000, source_epochs=5,
        ),
        "text": Settings(
            n_train=350, n_val=150, trials=2, n_test=300, probe_epochs=30, epochs=4,
            checkpoints=5, samples=12, n=8, n_source=5000, source_epochs=3,
        ),
    },
    "reduced": {  # several seeds and backbones on two cores in an evening
        "image": Settings(
            n_train=500, n_val=200, trials=2, n_test=500, probe_epochs=30, epochs=6,
            checkpoints=4, samples=12, n=8, n_source=8000, source_epochs=4,
        ),
        "text": Settings(
            n_train=500, n_val=200, trials=2, n_test=500, probe_epochs=30, epochs=3,
            checkpoints=4, samples=12, n=8, n_source=5000, source_epochs=3,
        ),
    },
    "full": {  # for a GPU
        "image": Settings(
            n_train=1000, n_val=300, trials=3, n_test=2000, probe_epochs=30, epochs=20,
            checkpoints=10, samples=50, n=10, n_source=50_000, source_epochs=30,
        ),
        "text": Settings(
            n_train=2000, n_val=500, trials=3, n_test=800, probe_epochs=30, epochs=10,
            checkpoints=10, samples=50, n=10, n_source=5000, source_epochs=10,
        ),
    },
}  # fmt: skip

_CHANGES = {  # what a cell may change, and of what type it is
    field.name: (int, float) if field.name in ("rate", "frozen") else int
    for field in fields(Settings)
}
PAPER_PLAYERS = {"cifar10": 12, "cifar10-jpeg": 12}  # the paper's n where it is not 10


@dataclass(frozen=True)
class Cell:
    """What is studied.

    Attributes
    ----------
    backbone : str
        A name of `pi_lib.study.backbones.BACKBONES`.
    task : str
        The downstream task, as `pi_lib.study.data.load` takes it: a name, or ``folder:PATH``.
    profile : "smoke", "quick", "reduced" or "full"
    seed : int
        Of everything random in the cell.
    source : str, optional
        The task on which the backbone is pre-trained here; default: its published weights.
    changes : mapping, optional
        Fields of `Settings` that are other in this cell than in its profile, such as
        ``{"n_train": 100}``. Kept as sorted pairs.
    pretraining : "supervised", "contrastive" or "adversarial"
        What the backbone is pre-trained to do on `source`; see `pi_lib.objectives`.

    Raises
    ------
    ValueError
        If a name is unknown or the combination impossible, naming everything that is wrong.
    """

    backbone: str = "efficientnet-lite0"
    task: str = "fashion-mnist"
    profile: str = "quick"
    seed: int = 0
    source: str | None = None
    changes: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    pretraining: str = "supervised"

    def __post_init__(self):
        object.__setattr__(self, "changes", tuple(sorted(dict(self.changes).items())))
        if wrong := list(self._wrong()):
            raise ValueError("; ".join(wrong))

    def _wrong(self):
        named = [
            ("profile", self.profile, PROFILES),
            ("backbone", self.backbone, backbones.BACKBONES),
            ("pretraining", self.pretraining, OBJECTIVES),
        ]
        for name, given, valid in named:
            if given not in valid:
                yield f"{name}={given!r}; expected one of {', '.join(valid)}"
        if not isinstance(self.seed, int) or self.seed < 0:
            yield f"seed={self.seed!r}; expected an integer, at least 0"
        for name, value in self.changes:
            if name not in _CHANGES:
                yield f"no setting {name!r} to change; there are {', '.join(_CHANGES)}"
            elif isinstance(value, bool) or not isinstance(value, _CHANGES[name]) or value <= 0:
                number = "an integer" if _CHANGES[name] is int else "a number"
                yield f"{name}={value!r}; expected {number} above 0"
            elif name == "frozen" and not value < 1:  # nor NaN
                yield f"frozen={value!r}; expected a share of the encoder's layers, below 1"
        about = backbones.BACKBONES.get(self.backbone)
        for name in ("task", "source"):
            given = getattr(self, name)
            if given is None and name == "source":
                continue
            if not isinstance(given, str):
                yield f"{name}={given!r}; expected one of {', '.join(data.NAMES)}"
                continue
            try:
                kind = data.kind(given)
            except (ValueError, assets.MissingAsset) as error:
                yield f"{name}: {error}"
                continue
            if about is not None and kind != about.kind:
                yield f"{self.backbone} takes {about.kind}s, but {name}={given!r} has {kind}s"
            if name == "source" and data.aim(given) != "classification":
                yield f"source={given!r}: backbones are pre-trained to classify; leave its end out"
        if about is None:
            return
        if (wanted := self.aim) != "classification" and not backbones.has_maps(self.backbone):
            valid = ", ".join(filter(backbones.has_maps, backbones.BACKBONES))
            yield f"{self.backbone} gives no feature map, which {wanted} needs; expected {valid}"
        if self.pretraining != "supervised" and (self.source is None or about.kind != "image"):
            yield (
                f"pretraining={self.pretraining!r} is done here, on images: name their source task"
            )
        if self.source is None and not about.published:
            yield f"{self.backbone} has no published weights: name a source task to pre-train it on"
        if self.source is not None and data.overlap(self.source, self.task):
            yield f"source={self.source!r} and task={self.task!r} are of the same data"

    @property
    def name(self) -> str:
        """One line for tables and plots.

        Examples
        --------
        >>> Cell("vit-32", "flowers", source="cifar10").name
        'vit-32 (cifar10) on flowers'
        """
        source = f" ({self.pretrained_on})" if self.source else ""
        changes = f", {self.changed}" if self.changes else ""
        return f"{self.backbone}{source} on {short_name(self.task)}{changes}"

    @property
    def pretrained_on(self) -> str:
        """Where the pre-trained weights come from, in words.

        Examples
        --------
        >>> Cell("vit-32", "flowers", source="cifar10", pretraining="contrastive").pretrained_on
        'cifar10, contrastive'
        """
        objective = "" if self.pretraining == "supervised" else f", {self.pretraining}"
        return "published" if self.source is None else short_name(self.source) + objective

    @property
    def changed(self) -> str:
        """`changes` in words; empty if there are none.

        Examples
        --------
        >>> Cell(changes={"n_train": 100, "epochs": 3}).changed
        'epochs=3, n_train=100'
        """
        return ", ".join(f"{name}={value:g}" for name, value in self.changes)

    @property
    def columns(self) -> tuple[str | int, ...]:
        """What a table says of the cell in its `COLUMNS`."""
        of = {"source": self.pretrained_on, "changes": self.changed}
        return tuple(of.get(name, getattr(self, name)) for name in COLUMNS)

    @property
    def aim(self) -> str:
        """What the networks are to say of an input: one of `pi_lib.objectives.AIMS`."""
        return data.aim(self.task)

    @property
    def kind(self) -> str:
        """Of its inputs: "image" or "text"."""
        return backbones.BACKBONES[self.backbone].kind

    @property
    def settings(self) -> Settings:
        """The profile's settings for this backbone's kind of input."""
        s, about = PROFILES[self.profile][self.kind], backbones.BACKBONES[self.backbone]
        if self.profile == "full":
            s = replace(s, n=PAPER_PLAYERS.get(self.task, s.n))
        s = replace(s, **dict(self.changes))
        return s if s.size and about.any_size else replace(s, size=about.size)


def offline_cells(profile: str = "quick", seed: int = 0) -> dict[str, Cell]:
    """The two cells of the book, "images" and "sentences", which need package registries alone.

    Examples
    --------
    >>> [cell.name for cell in offline_cells().values()]
    ['efficientnet-lite0 on fashion-mnist', 'minilm on movie-reviews']
    """
    pairs = {
        "images": ("efficientnet-lite0", "fashion-mnist"),
        "sentences": ("minilm", "movie-reviews"),
    }
    return {name: Cell(*pair, profile=profile, seed=seed) for name, pair in pairs.items()}


def short_name(task: str) -> str:
    """A task's name; of a folder's path, its end."""
    return Path(task).name if task.startswith(data.FOLDER) else task

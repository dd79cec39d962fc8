"""What is studied: a backbone, what it was pre-trained on, a downstream task, a profile.

A cell reads no disk. In it several networks are trained, in arms, each in several runs, which
differ in head, batches and dropout (from scratch: in all weights). All see the same training
samples, and are asked about the same test samples and players.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pi_lib.study import backbones, data
from pi_lib.training.objectives import OBJECTIVES

# Players drawn from a part of the input, as in the paper; and players that cover all of it.
PLAYERS = ("drawn", "covering")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a profile decides for one kind of input.

    Attributes
    ----------
    n_train, n_test, n_val : int
        Samples to train on, to test on, and to choose learning rates by; without the last, the
        first of `RATES` are taken.
    size : int, optional
        Side in pixels, for backbones that take any size; default the backbone's own.
    batch_size, epochs : int
        Of fine-tuning and of training from scratch alike.
    long : int
        Times the epochs that the arm "long" is trained for.
    checkpoints : int
        At which a run is evaluated.
    traced : int
        Of how many runs of an arm the games are extracted at every checkpoint; of the others at
        the end. How direct a way is takes two.
    traced_samples : int
        On how many of the samples; at the end games are extracted on all.
    runs, long_runs : int
        Of "finetuned" and "scratch"; of "long".
    samples : int
        On which interactions are extracted.
    n, grid : int
        Players that are drawn, 0 for none; patches a side that they are drawn from.
    covering : int
        Players that cover the input: a square number, or 0 for none.
    n_source, source_epochs : int
        Samples and epochs of pre-training, where it is done here.
    rate : float, optional
        Learning rate of fine-tuning, in place of a choice.
    scratch_rate : float, optional
        The same of training from scratch.
    frozen : float, optional
        Share of the encoder's layers that fine-tuning leaves as they were.
    lora : int
        Rank of the matrices that fine-tuning adds to the encoder's weights (LoRA), 0 for none: it
        trains the weights themselves.
    probe_first : int
        1: the head of fine-tuning starts as the linear probe's optimum.
    pull : float
        Strength with which fine-tuning is drawn towards the encoder's start (L2-SP), 0 for none.
    elsewhere : int
        1: the ends of probe, fine-tuned and scratch runs are tested on corrupted pictures, on the
        task of pre-training and on its pictures too; see `pi_lib.study.elsewhere`.
    """

    n_train: int
    n_test: int
    n_val: int = 0
    size: int | None = None
    batch_size: int = 32
    epochs: int
    long: int = 6
    checkpoints: int = 8
    traced: int = 2
    traced_samples: int = 12
    runs: int = 3
    long_runs: int = 2
    samples: int
    n: int
    grid: int = 8
    covering: int = 9
    n_source: int = 0
    source_epochs: int = 1
    rate: float | None = None
    scratch_rate: float | None = None
    frozen: float | None = None
    lora: int = 0
    probe_first: int = 0
    pull: float = 0.0
    elsewhere: int = 0


# Fine-tuning and training from scratch share data and schedule, and choose among the same learning
# rates, by the validation samples, with the first run. Where the smallest or largest of these wins,
# the next one beyond is tried too (`pi_lib.study.schedule`).
RATES = {"image": (1e-3, 3e-4, 3e-3), "text": (1e-4, 3e-5, 3e-4)}

PROFILES = {
    "smoke": {  # seconds, for tests
        "image": Settings(
            n_train=32, n_test=48, size=32, batch_size=16, epochs=1, checkpoints=3, traced=1,
            traced_samples=2, runs=2, long_runs=0, samples=5, n=4, grid=4, covering=4, n_source=64,
        ),
        "text": Settings(
            n_train=32, n_test=24, batch_size=16, epochs=1, checkpoints=3, traced=1,
            traced_samples=2, runs=2, long_runs=0, samples=5, n=4, covering=4, n_source=64,
        ),
    },
    "quick": {  # the default of `make book`
        "image": Settings(
            n_train=500, n_test=400, epochs=6, long_runs=0, traced=1, traced_samples=6,
            samples=12, n=8, n_source=5000, source_epochs=5,
        ),
        "text": Settings(
            n_train=300, n_test=200, epochs=3, checkpoints=6, long_runs=0, traced=1,
            traced_samples=6, samples=10, n=7, covering=4, n_source=5000, source_epochs=3,
        ),
    },
    "reduced": {  # one cell in an hour or two of two cores
        "image": Settings(
            n_train=500, n_val=200, n_test=500, epochs=6, samples=24, n=8,
            n_source=50_000, source_epochs=12,
        ),
        "text": Settings(
            n_train=500, n_val=200, n_test=500, epochs=3, samples=24, n=8,
            n_source=5000, source_epochs=3,
        ),
    },
    "full": {  # for a GPU
        "image": Settings(
            n_train=1000, n_val=300, n_test=2000, epochs=20, samples=40, n=10,
            n_source=50_000, source_epochs=12,
        ),
        "text": Settings(
            n_train=1000, n_val=300, n_test=800, epochs=6, samples=40, n=10,
            n_source=5000, source_epochs=10,
        ),
    },
}  # fmt: skip

# Networks, data and settings as people write them.
TITLES = {
    "efficientnet-lite0": "EfficientNet-Lite0",
    "minilm": "MiniLM",
    "resnet20": "ResNet-20",
    "vgg16-32": "VGG-16",
    "resnet50-32": "ResNet-50",
    "vit-32": "ViT",
    "vgg16": "VGG-16",
    "resnet50": "ResNet-50",
    "vit-base": "ViT-base",
    "vit-small": "ViT-small",
    "bert-base": "BERT-base",
    "distilbert": "DistilBERT",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar10-jpeg": "CIFAR-10",
    "flowers": "Flowers",
    "cub": "CUB-200",
    "cars": "Stanford Cars",
    "sst2": "SST-2",
    "movie-reviews": "film reviews",
    "product-reviews": "product reviews",
}
PUBLISHED = {"minilm": "sentence pairs", "bert-base": "text", "distilbert": "text"}  # or ImageNet
_CHANGED = {
    "n_train": "{:g} labels",
    "epochs": "{:g} epochs",
    "rate": "learning rate {:g}",
    "scratch_rate": "learning rate {:g} of scratch",
    "frozen": "{:.0%} of the layers frozen",
    "lora": "LoRA of rank {:g}",
    "probe_first": "probe first",
    "pull": "pull {:g}",
}
_FRACTIONS = ("rate", "scratch_rate", "frozen", "pull")  # the settings that are no whole numbers
_YES_OR_NO = ("probe_first", "elsewhere")
_MAY_BE_0 = ("n_val", "long_runs", "n", "covering", "traced", "lora", "pull", *_YES_OR_NO)


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
    source : str, optional
        The task on which the backbone is pre-trained here; default: its published weights.
    changes : mapping, optional
        Fields of `Settings` that are other in this cell than in its profile, such as
        ``{"n_train": 100}``. Kept as sorted pairs.
    pretraining : "supervised", "contrastive" or "adversarial"
        What the backbone is pre-trained to do on `source`; see `pi_lib.training.objectives`.
    pretraining_run : int
        Which of several pre-trainings, which differ in weights and batches.

    A ValueError names everything that is unknown or impossible together.
    """

    backbone: str = "efficientnet-lite0"
    task: str = "fashion-mnist"
    profile: str = "quick"
    source: str | None = None
    changes: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    pretraining: str = "supervised"
    pretraining_run: int = 0

    def __post_init__(self):
        object.__setattr__(
            self, "changes", tuple(sorted(dict(self.changes).items(), key=lambda x: str(x[0])))
        )
        if wrong := [*self._wrong_names(), *self._wrong_changes()] or [*self._wrong_together()]:
            raise ValueError("; ".join(wrong))

    def _wrong_names(self):
        for name, valid in (
            ("profile", PROFILES), ("backbone", backbones.BACKBONES), ("pretraining", OBJECTIVES)
        ):  # fmt: skip
            given = getattr(self, name)
            if not isinstance(given, str) or given not in valid:
                yield f"{name}={given!r}; expected one of {', '.join(valid)}"
        if not isinstance(self.pretraining_run, int) or self.pretraining_run < 0:
            yield f"pretraining_run={self.pretraining_run!r}; expected an integer, at least 0"
        for name, given in (("task", self.task), ("source", self.source)):
            if given is None and name == "source":
                continue
            if not isinstance(given, str):
                yield f"{name}={given!r}; expected one of {', '.join(data.NAMES)}"
                continue
            try:
                data.aim(given)
            except ValueError as error:
                yield f"{name}: {error}"

    def _wrong_changes(self):
        known = {field.name for field in fields(Settings)}
        for name, value in self.changes:
            if name not in known:
                yield f"no setting {name!r} to change; there are {', '.join(sorted(known))}"
                continue
            kinds = (int, float) if name in _FRACTIONS else int
            least = 0 if name in _MAY_BE_0 else 1 if kinds is int else 1e-12
            if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least:
                number = "an integer" if kinds is int else "a number"
                number += f", at least {least}" if least in (0, 1) else " above 0"
                text = " (1e-3 is text to YAML: write 0.001)" if isinstance(value, str) else ""
                yield f"{name}={value!r}; expected {number}{text}"
            elif name in _YES_OR_NO and value > 1:
                yield f"{name}={value!r}; expected 0 or 1"
            elif name == "frozen" and not value < 1:
                yield f"frozen={value!r}; expected a share of the encoder's layers, below 1"
            elif name == "covering" and round(value**0.5) ** 2 != value:
                yield f"covering={value!r}; expected a square number, such as 9"

    def _wrong_together(self):
        if not self.players:
            yield "n=0 and covering=0 leave no players to ask with"
        backbone = backbones.BACKBONES[self.backbone]
        for name, given in (("task", self.task), ("source", self.source)):
            if given is None or given.startswith(data.FOLDER):  # a folder is looked into later
                continue
            if (kind := data.kind(given)) != backbone.kind:
                yield f"{self.backbone} takes {backbone.kind}s, but {name}={given!r} has {kind}s"
        yield from self._wrong_ways()
        if self.source is not None and data.aim(self.source) != "classification":
            yield f"source={self.source!r}: backbones are pre-trained to classify; name its base"
        if self.aim != "classification" and not backbones.has_maps(self.backbone):
            valid = ", ".join(filter(backbones.has_maps, backbones.BACKBONES))
            yield f"{self.backbone} gives no feature map, which {self.aim} needs; expected {valid}"
        if self.pretraining != "supervised" and (self.source is None or backbone.kind != "image"):
            yield (
                f"pretraining={self.pretraining!r} is done here, on images: name their source task"
            )
        if self.source is None and not backbone.published:
            yield f"{self.backbone} has no published weights: name a source task to pre-train it on"
        if self.source is None and self.pretraining_run:
            yield "pretraining_run is of a pre-training done here: name its source task"
        if self.source is not None and data.overlap(self.source, self.task):
            yield f"source={self.source!r} and task={self.task!r} are of the same data"

    def _wrong_ways(self):
        s = self.settings
        for name, given in (("frozen", s.frozen), ("pull", s.pull)):
            if s.lora and given:
                yield (
                    f"{name}={given:g} with lora={s.lora}: LoRA leaves the encoder's own weights "
                    "where they are; choose one of the two"
                )
        if self.aim != "classification":
            for name in _YES_OR_NO:
                if getattr(s, name):
                    yield f"{name}=1 is for classification; {self.task!r} is {self.aim}"

    @property
    def name(self) -> str:
        """One line that tells cells apart, such as 'vit-32 (cifar10) on flowers'."""
        source = f" ({self.pretrained_on})" if self.source else ""
        changes = f", {self.changed}" if self.changes else ""
        return f"{self.backbone}{source} on {short_name(self.task)}{changes}"

    @property
    def title(self) -> str:
        """The cell as people write it, for figures and tables.

        Examples
        --------
        >>> Cell("vit-32", "flowers", source="cifar10", changes={"n_train": 100}).title
        'ViT, CIFAR-10 → Flowers, 100 labels'
        """
        start = PUBLISHED.get(self.backbone, "ImageNet")
        if self.source is not None:
            start = title_of(self.source)
            start += "" if self.pretraining == "supervised" else f" ({self.pretraining})"
            start += f" (run {self.pretraining_run + 1})" if self.pretraining_run else ""
        cell = f"{TITLES.get(self.backbone, self.backbone)}, {start} → {title_of(self.task)}"
        return ", ".join(filter(None, [cell, changes_in_words(dict(self.changes))]))

    @property
    def pretrained_on(self) -> str:
        """Where the pre-trained weights come from, in words, such as 'cifar10, contrastive'."""
        if self.source is None:
            return "published"
        objective = "" if self.pretraining == "supervised" else f", {self.pretraining}"
        run = f", run {self.pretraining_run}" if self.pretraining_run else ""
        return short_name(self.source) + objective + run

    @property
    def changed(self) -> str:
        """`changes` in words: settings and their values; empty if there are none."""
        return ", ".join(f"{name}={value:g}" for name, value in self.changes)

    @property
    def slug(self) -> str:
        """A file's name for the cell.

        Examples
        --------
        >>> Cell("vit-32", "flowers", "full", "cifar10", {"lora": 8}, "contrastive").slug
        'vit-32-cifar10-contrastive-on-flowers-lora=8'
        """
        return re.sub(r"[^\w.=+-]+", "-", self.name.lower()).strip("-")

    @property
    def aim(self) -> str:
        """What the networks are to say of an input: one of `pi_lib.training.objectives.AIMS`."""
        return data.aim(self.task)

    @property
    def kind(self) -> str:
        """Of its inputs: "image" or "text"."""
        return backbones.BACKBONES[self.backbone].kind

    @property
    def settings(self) -> Settings:
        """The profile's settings for this backbone's kind of input, with the cell's changes."""
        backbone = backbones.BACKBONES[self.backbone]
        settings = replace(PROFILES[self.profile][self.kind], **dict(self.changes))
        if settings.size and backbone.any_size:
            return settings
        return replace(settings, size=backbone.size)

    @property
    def players(self) -> tuple[str, ...]:
        """Those of `PLAYERS` that the cell is asked with."""
        counts = zip(PLAYERS, (self.settings.n, self.settings.covering), strict=True)
        return tuple(which for which, count in counts if count)

    def tested_elsewhere(self, arm: str) -> bool:
        """Whether an arm's runs are tested elsewhere: sentences are on the source task alone."""
        asked = self.settings.elsewhere and arm != "long"
        return bool(asked and (self.kind == "image" or self.source is not None))

    def runs(self, arm: str) -> range:
        """The runs of one of `ARMS`; a probe is an optimum, the same every time, and has one."""
        s = self.settings
        return range({"probe": 1, "long": s.long_runs}.get(arm, s.runs))


def offline_cells(profile: str = "quick") -> dict[str, Cell]:
    """The two cells of the book, "images" and "sentences", which need package registries alone.

    Examples
    --------
    >>> [cell.name for cell in offline_cells().values()]
    ['efficientnet-lite0 on fashion-mnist', 'minilm on movie-reviews']
    """
    return {
        "images": Cell("efficientnet-lite0", "fashion-mnist", profile),
        "sentences": Cell("minilm", "movie-reviews", profile),
    }


def title_of(task: str) -> str:
    """A task as people write it: its data, what was done to them, and what is asked of them.

    Examples
    --------
    >>> title_of("fashion-mnist+odd+first-classes")
    'Fashion-MNIST (odd, first classes)'
    >>> title_of("fashion-mnist+even+detection")
    'detection in Fashion-MNIST (even)'
    """
    if task.startswith(data.FOLDER):  # which may be called as a data set is
        return short_name(task)
    base, *shifts = task.split("+")
    title = TITLES.get(base, base)
    aims = [shift for shift in shifts if shift in data.SCENES]
    if shifts := [shift.replace("-", " ") for shift in shifts if shift not in aims]:
        title = f"{title} ({', '.join(shifts)})"
    return " in ".join([*aims, title])


def changes_in_words(changes: Mapping[str, Any]) -> str:
    """Changed settings as people write them; those that only size a study are left out.

    Examples
    --------
    >>> changes_in_words({"n_train": 100, "lora": 8, "runs": 2})
    '100 labels, LoRA of rank 8'
    """
    said = (_CHANGED[name].format(x) for name, x in changes.items() if name in _CHANGED and x)
    return ", ".join(said).replace("%", " %")


def short_name(task: str) -> str:
    """A task's name; of a folder's path, its end."""
    return Path(task.removeprefix(data.FOLDER)).name if task.startswith(data.FOLDER) else task

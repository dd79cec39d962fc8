"""One cell of the study, from data to results: train, extract, compare; each step stored once.

A cell is a backbone, what it was pre-trained on, a downstream task, a seed and a profile. It is a
pure function of these: three runs (linear probe, fine-tuned, scratch) and their interactions on
the same samples at every checkpoint. What is stored at a time is a `Step`: `run` computes the
missing ones here, `run_all` and `compute_all` in several processes or on a cluster.
"""

import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from heapq import heappop, heappush
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from pi_lib import assets, knowledge, models, tasks, training, workers
from pi_lib.aims import AIMS
from pi_lib.interactions import Interactions, extract, sum_by_order
from pi_lib.knowledge import Estimate, Knowledge, Learned, Trajectory
from pi_lib.players import PatchPlayers, WordPlayers
from pi_lib.pretraining import OBJECTIVES
from pi_lib.progress import track
from pi_lib.store import Store
from pi_lib.values import has_player

if TYPE_CHECKING:
    import pandas as pd

PHASES = ("probe", "finetuned", "scratch")
COLUMNS = ("backbone", "source", "task", "changes", "profile", "seed")  # of a table: the cell
_TRAINING = ("assets", "aims", "tasks", "models", "pretraining", "training", "study")
STEPS = {  # and the modules whose code decides a step's result
    "pretrain": _TRAINING,
    "train": _TRAINING,
    "extract": (
        *_TRAINING,
        "coalitions",
        "transforms",
        "players",
        "shared",
        "values",
        "interactions",
    ),
}


class StudyFailed(RuntimeError):
    """Some cells failed, each named with its reason; the others are stored."""


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
        A name of `pi_lib.models.SOURCES`.
    task : str
        The downstream task, as `pi_lib.tasks.load` takes it: a name, or ``folder:PATH``.
    profile : "smoke", "quick", "reduced" or "full"
    seed : int
        Of everything random in the cell.
    source : str, optional
        The task on which the backbone is pre-trained here; default: its published weights.
    changes : mapping, optional
        Fields of `Settings` that are other in this cell than in its profile, such as
        ``{"n_train": 100}``. Kept as sorted pairs.
    pretraining : "supervised", "contrastive" or "adversarial"
        What the backbone is pre-trained to do on `source`; see `pi_lib.pretraining`.

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
            ("backbone", self.backbone, models.SOURCES),
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
        about = models.SOURCES.get(self.backbone)
        for name in ("task", "source"):
            given = getattr(self, name)
            if given is None and name == "source":
                continue
            if not isinstance(given, str):
                yield f"{name}={given!r}; expected one of {', '.join(tasks.NAMES)}"
                continue
            try:
                kind = tasks.kind(given)
            except (ValueError, assets.MissingAsset) as error:
                yield f"{name}: {error}"
                continue
            if about is not None and kind != about.kind:
                yield f"{self.backbone} takes {about.kind}s, but {name}={given!r} has {kind}s"
            if name == "source" and tasks.aim(given) != "classification":
                yield f"source={given!r}: backbones are pre-trained to classify; leave its end out"
        if about is None:
            return
        if (wanted := self.aim) != "classification" and not models.has_maps(self.backbone):
            valid = ", ".join(filter(models.has_maps, models.SOURCES))
            yield f"{self.backbone} gives no feature map, which {wanted} needs; expected {valid}"
        if self.pretraining != "supervised" and (self.source is None or about.kind != "image"):
            yield (
                f"pretraining={self.pretraining!r} is done here, on images: name their source task"
            )
        if self.source is None and not about.published:
            yield f"{self.backbone} has no published weights: name a source task to pre-train it on"
        if self.source is not None and tasks.overlap(self.source, self.task):
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
        return f"{self.backbone}{source} on {_short(self.task)}{changes}"

    @property
    def pretrained_on(self) -> str:
        """Where the pre-trained weights come from, in words.

        Examples
        --------
        >>> Cell("vit-32", "flowers", source="cifar10", pretraining="contrastive").pretrained_on
        'cifar10, contrastive'
        """
        objective = "" if self.pretraining == "supervised" else f", {self.pretraining}"
        return "published" if self.source is None else _short(self.source) + objective

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
        """What the networks are to say of an input: one of `pi_lib.aims.AIMS`."""
        return tasks.aim(self.task)

    @property
    def kind(self) -> str:
        """Of its inputs: "image" or "text"."""
        return models.SOURCES[self.backbone].kind

    @property
    def settings(self) -> Settings:
        """The profile's settings for this backbone's kind of input."""
        s, about = PROFILES[self.profile][self.kind], models.SOURCES[self.backbone]
        if self.profile == "full":
            s = replace(s, n=PAPER_PLAYERS.get(self.task, s.n))
        s = replace(s, **dict(self.changes))
        return s if s.size and about.any_size else replace(s, size=about.size)

    def load(self) -> tasks.Task:
        """The downstream task's data; its training split holds the validation samples too.

        Raises
        ------
        ValueError
            As `pi_lib.tasks.load`; and if `changes` leave fewer training samples than classes.
        """
        s = self.settings
        task = self._load(self.task, s.n_train + s.n_val, s.n_test, self.seed)
        if "n_train" in dict(self.changes) and s.n_train < len(task.classes):
            raise ValueError(
                f"n_train={s.n_train} leaves some of the {len(task.classes)} classes of "
                f"{self.task} without a sample: ask for at least {len(task.classes)}"
            )
        return task

    def load_source(self) -> tasks.Task:
        """The data that the backbone is pre-trained on here."""
        s = self.settings
        return self._load(self.source, s.n_source, s.n_test, 0)

    def _load(self, task: str, n_train: int, n_test: int, seed: int) -> tasks.Task:
        size = {"size": self.settings.size} if self.kind == "image" else {}
        return tasks.load(task, n_train=n_train, n_test=n_test, seed=seed, **size)

    def build(
        self, n_classes: int, phase: str = "finetuned", store: Store | None = None
    ) -> models.Classifier:
        """The network that a phase starts from: pre-trained, or random for "scratch"."""
        if phase != "scratch" and self.source is not None:
            source = Step(self, "pretrain").compute(store or Store())
            classes = len(self.load_source().classes)
            model = models.build(self.backbone, classes, pretrained=False)
            model = training.Run.load_at(source, model)
            return models.transfer(model, n_classes, seed=self.seed, aim=self.aim)
        pretrained = phase != "scratch"
        return models.build(
            self.backbone, n_classes, pretrained=pretrained, seed=self.seed, aim=self.aim
        )

    @property
    def tokenizer(self):
        """The backbone's tokenizer; None for images."""
        return models.tokenizer(self.backbone) if self.kind == "text" else None

    def players(self, task: tasks.Task) -> PatchPlayers | WordPlayers:
        """Players of this cell, the same under every model and checkpoint."""
        if task.kind == "text":
            return WordPlayers(self.tokenizer, n=self.settings.n, seed=self.seed)
        region = "central" if self.aim == "classification" else "all"  # objects are anywhere
        s = self.settings
        return PatchPlayers(s.grid, n=s.n, region=region, mean=task.mean, seed=self.seed)

    def samples(self, task: tasks.Task) -> tasks.Split:
        """The first test samples that have enough players: where interactions are extracted.

        Those that have too few (a sentence with fewer than n content words, an object that no
        player owns a part of) are skipped; how many they are is in the ``meta`` of the
        interactions.

        Raises
        ------
        ValueError
            If the test split has too few of them.
        """
        players, wanted = self.players(task), self.settings.samples

        def fits(i: int) -> bool:
            if task.kind == "text":
                return players.fits(task.test.inputs[i])
            if task.test.targets is None:
                return True
            one = task.test.take([i])
            (placement,) = players.place(tasks.images(one.inputs), one.ids)
            return has_player(AIMS[task.aim].value, placement, _asked(one)[0])

        chosen = list(islice(filter(fits, range(len(task.test))), wanted))
        if len(chosen) < wanted:
            raise ValueError(
                f"{task.name}: {len(chosen)} of {len(task.test)} test samples have n={players.n} "
                f"players; {wanted} are asked for. Choose fewer players or samples"
            )
        return task.test.take(chosen)


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


@dataclass(frozen=True, eq=False)
class Phase:
    """One phase of a cell: how it trained, and its interactions at every checkpoint.

    Attributes
    ----------
    name : str
        One of `PHASES`.
    log : list of dict
        Step, epoch, loss and accuracy on the test split, per checkpoint.
    settings : dict
        What decided the run.
    interactions : dict of int to Interactions
        By step.
    seconds : dict of str to float
        Of training and of extraction, when they were computed.
    tried : dict of float to dict
        The learning rates that were tried, with accuracy and loss on the validation split; empty
        where there was no choice.
    """

    name: str
    log: list[dict[str, float]]
    settings: dict[str, Any]
    interactions: dict[int, Interactions]
    seconds: dict[str, float]
    tried: dict[float, dict[str, Any]]

    @property
    def steps(self) -> list[int]:
        """Steps at which there are interactions."""
        return sorted(self.interactions)

    @property
    def final(self) -> Interactions:
        """Interactions of the trained model."""
        return self.interactions[self.steps[-1]]

    @property
    def accuracy(self) -> Estimate:
        """Accuracy of the trained model on the test split, with its Wilson interval."""
        return accuracy_estimate(self.log[-1]["accuracy"], self.settings["test"])


@dataclass(frozen=True, eq=False)
class Result:
    """A computed cell."""

    cell: Cell
    probe: Phase
    finetuned: Phase
    scratch: Phase
    entries: dict[str, Path]  # where each step is stored

    @cached_property
    def knowledge(self) -> Knowledge:
        """What the fine-tuned model preserved, discarded and newly learned."""
        return knowledge.compare(self.probe.final, self.finetuned.final)

    @cached_property
    def learned(self) -> Learned:
        """How much of the preserved knowledge the scratch model has at its end."""
        return knowledge.learned_by_scratch(self.knowledge, self.scratch.final)

    def learned_over_time(self) -> dict[int, Learned]:
        """The same at every checkpoint of the scratch run, by step."""
        return {
            step: knowledge.learned_by_scratch(self.knowledge, interactions)
            for step, interactions in sorted(self.scratch.interactions.items())
        }

    def trajectory(self, phase: str, target: str = "own") -> Trajectory:
        """How "finetuned" or "scratch" approaches its own end, or "finetuned"'s end.

        Raises
        ------
        ValueError
            If `phase` or `target` is neither.
        """
        if phase not in PHASES[1:] or target not in ("own", "finetuned"):
            raise ValueError(
                f"phase={phase!r}, target={target!r}; expected phase 'finetuned' or 'scratch' and "
                "target 'own' or 'finetuned'"
            )
        run = getattr(self, phase)
        end = run.final if target == "own" else self.finetuned.final
        return knowledge.trajectory([run.interactions[s] for s in run.steps], end, run.steps)

    def accuracies(self) -> "pd.DataFrame":
        """Accuracy (value, low, high) and loss at every checkpoint of every phase."""
        import pandas as pd

        rows = []
        for name in PHASES:
            phase = getattr(self, name)
            last = phase.log[-1]["step"]
            for at in phase.log:
                estimate = accuracy_estimate(at["accuracy"], phase.settings["test"])
                rows.append(
                    {
                        "phase": name,
                        "step": at["step"],
                        "progress": at["step"] / last,
                        "value": estimate.value,
                        "low": estimate.low,
                        "high": estimate.high,
                        "loss": at["loss"],
                    }
                )
        return pd.DataFrame(rows)

    def learning_rates(self) -> "pd.DataFrame":
        """Every learning rate that was tried: phase, rate, accuracy, loss, chosen."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"phase": name, "rate": rate, **found, "chosen": rate == chosen}
                for name in PHASES
                for chosen in [getattr(self, name).settings["learning_rate"]]
                for rate, found in getattr(self, name).tried.items()
            ]
        )

    def table(self) -> "pd.DataFrame":
        """Everything that is reported of the cell, one row per sample and quantity.

        Columns: ``backbone, source, task, changes, profile, seed``; ``quantity``; ``phase``;
        ``order`` (0: not by order); ``step`` and ``progress`` of training; ``sample`` (-1: of the
        whole test split); ``numerator`` and ``denominator``. A quantity over samples, orders or
        seeds is the ratio of the sums, and its interval comes from resampling these rows.
        """
        import pandas as pd

        finetuned, scratch, k = self.finetuned, self.scratch, self.knowledge
        learned = self.learned
        by_order = {
            "preserved": (k.strength("preserved"), sum_by_order(k.pretrained.abs(), k.orders, k.n)),
            "new": (k.strength("new"), sum_by_order(k.finetuned.abs(), k.orders, k.n)),
            "learned by scratch": (learned.found, learned.preserved),
            "only scratch": knowledge.only_scratch(finetuned.final, scratch.final),
        }
        rows = [
            {"quantity": name, "order": m, "sample": i, "numerator": a, "denominator": b}
            for name, (above, below) in by_order.items()
            for m in range(1, k.n + 1)
            for i, (a, b) in enumerate(zip(above[:, m].tolist(), below[:, m].tolist(), strict=True))
        ]
        for phase in PHASES:
            run = getattr(self, phase)
            error = zip(*(x.tolist() for x in knowledge.salient_error(run.final)), strict=True)
            rows += [
                {"quantity": "salient error", "phase": phase, "sample": i,
                 "numerator": a, "denominator": b}
                for i, (a, b) in enumerate(error)
            ]  # fmt: skip
            tested = run.settings["test"]
            rows += [
                {"quantity": "accuracy", "phase": phase, "sample": -1, "step": at["step"],
                 "progress": at["step"] / run.log[-1]["step"],
                 "numerator": round(at["accuracy"] * tested), "denominator": tested}
                for at in run.log
            ]  # fmt: skip
        for phase in PHASES[1:]:
            for target in ("own", "finetuned"):
                path = self.trajectory(phase, target)
                rows += [
                    {"quantity": f"similarity to {target} end", "phase": phase, "step": step,
                     "progress": progress, "sample": i, "numerator": j, "denominator": 1}
                    for step, progress, row in zip(
                        path.steps, path.progress, path.similarity.tolist(), strict=True
                    )
                    for i, j in enumerate(row)
                ]  # fmt: skip
        table = pd.DataFrame(rows).fillna({"order": 0, "phase": "", "step": -1, "progress": -1})
        for at, (name, value) in enumerate(zip(COLUMNS, self.cell.columns, strict=True)):
            table.insert(at, name, value)
        return table.astype({"order": "int16", "step": "int32", "sample": "int16"})

    def provenance(self) -> "pd.DataFrame":
        """The record of every stored step: when, how long, on what, with which versions."""
        import pandas as pd

        rows = []
        for name, entry in self.entries.items():
            record = Store.record(entry)
            rows.append(
                {
                    "step": name,
                    "seconds": record["seconds"],
                    "finished": record["finished"],
                    "device": record["device"],
                    "torch": record["versions"]["torch"],
                    "entry": f"{entry.parent.name}/{entry.name}",
                }
            )
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class Step:
    """What the store keeps as one entry of a cell.

    Attributes
    ----------
    cell : Cell
    name : "pretrain", "train" or "extract"
        Pre-training, one for all seeds and phases; a phase's run; its interactions at one of the
        run's checkpoints.
    phase : str
        One of `PHASES`, except for pre-training.
    rate : float
        The phase's learning rate.
    at : int, optional
        For "extract": the checkpoint, by its step of training.
    """

    cell: Cell
    name: Literal["pretrain", "train", "extract"]
    phase: str = ""
    rate: float = 0.0
    at: int | None = None

    @cached_property
    def key(self) -> tuple[str, dict[str, Any], tuple[str, ...]]:
        """Name, specification and deciding modules, as the store wants them."""
        cell, s = self.cell, asdict(self.cell.settings)
        about = ["size", "batch_size"]
        spec = {"backbone": cell.backbone}
        if self.name == "pretrain" or (cell.source is not None and self.phase != "scratch"):
            spec["source"] = tasks.identity(cell.source)
            spec["pretraining"] = cell.pretraining
            about += ["n_source", "source_epochs"]
        if self.name != "pretrain":
            spec |= {
                "task": tasks.identity(cell.task),
                "seed": cell.seed,
                "phase": self.phase,
                "learning_rate": self.rate,
                "epochs": s["probe_epochs" if self.phase == "probe" else "epochs"],
            }
            about += ["n_train", "n_val", "checkpoints"]
            about += ["frozen"] if self.phase == "finetuned" else []
        about += ["n_test"]
        if self.name == "extract":
            spec["checkpoint"] = self.at
            about += ["samples", "n", "grid"]
        return self.name, spec | {name: s[name] for name in about}, STEPS[self.name]

    @property
    def needs(self) -> list[tuple["Step", int | None]]:
        """The runs whose weights this step starts from, each at a step of training; None: its end.

        Fine-tuning and a probe start from pre-training; interactions are those of a run, and a
        probe's run holds its head alone.
        """
        needs = []
        if self.name == "extract":
            needs.append((replace(self, name="train", at=None), self.at))
        pretrained = "probe" if self.name == "extract" else ("probe", "finetuned")
        if self.cell.source is not None and self.phase and self.phase in pretrained:
            needs.append((Step(self.cell, "pretrain"), None))
        return needs

    def path(self, store: Store) -> Path:
        """Folder of the step's entry."""
        return store.path(*self.key)

    def stored(self, store: Store) -> bool:
        """Whether the entry is there, and sound."""
        return store.has(*self.key)

    def compute(self, store: Store) -> Path:
        """The step's entry, computed first where it is missing, and so is what it needs.

        Raises
        ------
        TrainingDiverged
            If the run diverged. That is stored too: it is not tried twice.
        """
        entry = store.get(*self.key, partial(self._compute, store))
        if self.name != "extract":
            _about(entry)
        return entry

    def _compute(self, store: Store, folder: Path) -> None:
        compute = {"pretrain": _pretrain, "train": _train, "extract": _extract}[self.name]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the last bits of a sum depend on how many share it
        try:
            compute(self, store, folder)
        finally:
            torch.set_num_threads(threads)


def run(cell: Cell, store: Store | None = None) -> Result:
    """The cell's results, computing here what the store does not have yet.

    Parameters
    ----------
    cell : Cell
        What is studied.
    store : Store, optional
        Default the store under `pi_lib.store.home`.
    """
    store = store or Store()
    for *_, error in _finished([(cell, phase) for phase in PHASES], store, workers.Here()):
        if error:
            raise error
    phases, entries = {}, {}
    if cell.source is not None:
        entries["pre-train"] = Step(cell, "pretrain").path(store)
    for name in PHASES:
        rate, tried = _chosen(cell, name, store)
        step = Step(cell, "train", name, rate)
        trained = entries[f"train {name}"] = step.path(store)
        about = _about(trained)
        extracted = {at.at: at.path(store) for at in _extractions(step, store)}
        entries |= {f"extract {name}, step {at}": entry for at, entry in extracted.items()}
        phases[name] = Phase(
            name=name,
            log=about["log"],
            settings=about["settings"],
            interactions={
                at: Interactions.load(entry / "interactions.safetensors")
                for at, entry in extracted.items()
            },
            seconds={
                "training": about["seconds"],
                "extraction": sum(store.record(x)["seconds"] for x in extracted.values()),
            },
            tried=tried,
        )
    return Result(cell=cell, entries=entries, **phases)


def run_all(
    cells: Sequence[Cell], store: Store | None = None, processes: int | None = None
) -> list[Result]:
    """The results of several cells, computed side by side where they are not stored.

    Parameters
    ----------
    cells : sequence of Cell
    store : Store, optional
        Default the store under `pi_lib.store.home`.
    processes : int, optional
        Default one per core, no more than there are phases. A step takes one core, wherever it is
        computed: how many there are at a time never shows in the results.

    Raises
    ------
    StudyFailed
        If cells failed, after all the others were computed.
    """
    store = store or Store()
    failed = compute_all(cells, store, processes)
    if failed:
        raise StudyFailed(
            "\n".join(f"{cell.name}, seed {cell.seed}: {why}" for cell, why in failed)
        )
    return [run(cell, store) for cell in cells]


def compute_all(
    cells: Sequence[Cell],
    store: Store,
    processes: int | None = None,
    cluster: workers.Cluster | None = None,
) -> list[tuple[Cell, str]]:
    """Compute what the store does not have of the cells; returns those that failed, and why.

    Parameters
    ----------
    cells : sequence of Cell
        Those that come first are finished first.
    store : Store
    processes : int, optional
        As in `run_all`.
    cluster : pi_lib.workers.Cluster, optional
        Where the steps are computed instead.
    """
    jobs = [(cell, phase) for cell in cells for phase in PHASES]
    if all(stored(cell, store) for cell in cells):
        return []
    processes = max(1, min(processes or os.cpu_count() or 1, len(jobs)))
    failed = {}
    with cluster or workers.Processes(processes) as pool:
        for cell, phase, error in track(_finished(jobs, store, pool), "study", len(jobs)):
            if error:
                failed.setdefault(cell, f"{phase}: {type(error).__name__}: {error}")
    return list(failed.items())


def stored(cell: Cell, store: Store) -> bool:
    """Whether the store has every step of the cell."""
    try:
        return all(_missing(_rounds(cell, phase, store), store) is None for phase in PHASES)
    except training.TrainingDiverged:
        return False


def entries(cell: Cell, store: Store) -> list[Path]:
    """Folders of the cell's steps that the store has, each once."""
    found = {}
    for phase in PHASES:
        for steps in _rounds(cell, phase, store):
            there = [step for step in steps if step.stored(store)]
            found |= {step.path(store): step for step in there}
            if len(there) < len(steps):  # what comes next is not known yet
                break
    return list(found)


def trained_model(cell: Cell, phase: str, store: Store | None = None) -> models.Classifier:
    """The network that a phase of the cell ends with, trained first if need be."""
    if phase not in PHASES:
        raise ValueError(f"phase={phase!r}; expected one of {', '.join(PHASES)}")
    store = store or Store()
    for steps in _rounds(cell, phase, store):
        if steps[0].name == "extract":
            break
        for step in steps:
            try:
                step.compute(store)
            except training.TrainingDiverged:
                continue  # a rate that is not chosen
    return _model(Step(cell, "extract", phase, _chosen(cell, phase, store)[0]), store)


def accuracy_estimate(accuracy: float, tested: int) -> Estimate:
    """An accuracy on `tested` samples with its 95 % Wilson interval."""
    from scipy.stats import binomtest

    interval = binomtest(round(accuracy * tested), tested).proportion_ci(method="wilson")
    return Estimate(accuracy, interval.low, interval.high)


def _asked(split: tasks.Split) -> torch.Tensor:
    """What the value of a masked input is asked about: the class, or the first object's target."""
    return split.labels if split.targets is None else split.targets[:, 0]


def _short(task: str) -> str:
    """A task's name; of a folder's path, its end."""
    return Path(task).name if task.startswith(tasks.FOLDER) else task


def _rounds(cell: Cell, phase: str, store: Store) -> Iterator[list[Step]]:
    """The steps of a phase, those that may be computed at once together.

    A round is known when those before it are stored: trials choose the learning rate.
    """
    if cell.source is not None and phase != "scratch":
        yield [Step(cell, "pretrain")]
    if len(trials := _trials(cell, phase)) > 1:
        yield trials
    trained = Step(cell, "train", phase, _chosen(cell, phase, store)[0])
    yield [trained]
    yield _extractions(trained, store)


def _missing(rounds: Iterator[list[Step]], store: Store) -> list[Step] | None:
    """What the store lacks of the next round that is not complete; None if there is no such."""
    for steps in rounds:
        if missing := [step for step in steps if not step.stored(store)]:
            return missing
    return None


def _finished(
    jobs: Sequence[tuple[Cell, str]], store: Store, pool: workers.Pool
) -> Iterator[tuple[Cell, str, Exception | None]]:
    """Cells' phases as they are stored, or have failed; `pool` computes what is missing.

    A job asks for one round of steps at a time. Steps wait in a queue, those of earlier jobs
    first; one that several jobs ask for, as pre-training, is computed once.
    """
    rounds = [_rounds(cell, phase, store) for cell, phase in jobs]
    due, failed = deque(range(len(jobs))), {}
    queue: list[tuple[int, int, Step, Path]] = []
    running: dict[Future, Path] = {}
    waiting: dict[Path, list[int]] = {}  # by entry: the jobs that asked for it
    left = Counter()  # by job: steps of its round
    while due or queue or running:
        while due:
            job = due.popleft()
            try:
                missing = None if job in failed else _missing(rounds[job], store)
            except Exception as error:
                missing, failed[job] = None, error
            if missing is None:
                yield *jobs[job], failed.get(job)
                continue
            left[job] = len(missing)
            for i, step in enumerate(missing):
                entry = step.path(store)
                if entry not in waiting:
                    heappush(queue, (job, i, step, entry))
                waiting.setdefault(entry, []).append(job)
        while queue and len(running) < pool.slots:
            *_, step, entry = heappop(queue)
            running[pool.submit(step, store)] = entry
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            error = future.exception()
            for job in waiting.pop(running.pop(future)):
                if error and not isinstance(error, training.TrainingDiverged):
                    failed.setdefault(job, error)  # what diverged is stored, for `_chosen` to see
                left[job] -= 1
                if not left[job]:
                    due.append(job)


def _trials(cell: Cell, phase: str) -> list[Step]:
    """The runs among which the learning rate is chosen, all with seed 0."""
    s = cell.settings
    rates = LEARNING_RATES[cell.kind][phase][: s.trials]
    if phase == "finetuned" and s.rate is not None:
        rates = (s.rate,)
    return [Step(replace(cell, seed=0), "train", phase, rate) for rate in rates]


def _chosen(cell: Cell, phase: str, store: Store) -> tuple[float, dict[float, dict[str, Any]]]:
    """The learning rate that is best on the validation split with seed 0, and what was tried."""
    trials = _trials(cell, phase)
    if len(trials) == 1:
        return trials[0].rate, {}
    tried, diverged = {}, None
    for trial in trials:
        try:
            tried[trial.rate] = _about(trial.path(store))["settings"]["validation"]
        except training.TrainingDiverged as error:
            diverged = error
    if not tried:
        raise diverged
    best = max(tried, key=lambda rate: (tried[rate]["accuracy"], -tried[rate]["loss"]))
    return best, tried


def _extractions(trained: Step, store: Store) -> list[Step]:
    """Interactions at every checkpoint of a stored run; a probe's at its end."""
    about = _about(trained.path(store))
    steps = about["steps"][-1:] if trained.phase == "probe" else about["steps"]
    return [replace(trained, name="extract", at=at) for at in steps]


def _about(entry: Path) -> dict[str, Any]:
    """What a stored run says of itself; raises `TrainingDiverged` if it has no end."""
    about = json.loads((entry / "run.json").read_text())
    if "diverged" in about:
        raise training.TrainingDiverged(about["diverged"])
    return about


def _pretrain(step: Step, store: Store, folder: Path) -> None:
    cell, s, task = step.cell, step.cell.settings, step.cell.load_source()
    _fit(
        folder,
        training.pretrain,
        lambda: models.build(cell.backbone, len(task.classes), pretrained=False),
        task.train,
        task.test,
        epochs=s.source_epochs,
        learning_rate=SOURCE_RATE[cell.kind],
        batch_size=s.batch_size,
        checkpoints=2,
        tokenizer=cell.tokenizer,
        loss=OBJECTIVES[cell.pretraining],
    )


def _train(step: Step, store: Store, folder: Path) -> None:
    cell, s, task = step.cell, step.cell.settings, step.cell.load()
    train = {
        "probe": training.linear_probe,
        "finetuned": partial(training.finetune, frozen=s.frozen or 0),
        "scratch": training.train_from_scratch,
    }[step.phase]
    _fit(
        folder,
        train,
        lambda: cell.build(len(task.classes), step.phase, store),
        task.train.take(range(s.n_train)),
        task.test,
        validation=task.train.take(range(s.n_train, len(task.train))) if s.n_val else None,
        epochs=s.probe_epochs if step.phase == "probe" else s.epochs,
        learning_rate=step.rate,
        batch_size=s.batch_size,
        checkpoints=2 if step.phase == "probe" else s.checkpoints,
        seed=cell.seed,
        tokenizer=cell.tokenizer,
        loss=AIMS[task.aim].loss,
        correct=AIMS[task.aim].correct,
    )


def _fit(folder: Path, train: Callable, build: Callable, *splits: tasks.Split, **options) -> None:
    """Train into a folder of the store, going on from the state that an earlier attempt left."""
    state = folder / "state"
    if not (folder / "run.json").exists():  # else interrupted while it tidied up
        try:
            train(build(), *splits, resume=state, **options).save(folder)
        except training.TrainingDiverged as error:
            (folder / "run.json").write_text(json.dumps({"diverged": str(error)}) + "\n")
    shutil.rmtree(state, ignore_errors=True)


def _extract(step: Step, store: Store, folder: Path) -> None:
    cell, task, kept = step.cell, step.cell.load(), folder / "values"
    samples, players = cell.samples(task), cell.players(task)
    inputs = tasks.images(samples.inputs) if task.kind == "image" else samples.inputs
    model = _model(step, store, len(task.classes))
    found = extract(
        model, inputs, _asked(samples), players,
        value=AIMS[task.aim].value, ids=samples.ids, keep=kept,
    )  # fmt: skip
    found = replace(found, labels=samples.labels.tolist())
    # Of the test samples looked at, how many had too few players.
    found.meta["skipped"] = task.test.ids.index(samples.ids[-1]) + 1 - len(samples)
    found.save(folder / "interactions.safetensors")
    shutil.rmtree(kept)


def _model(step: Step, store: Store, n_classes: int | None = None) -> models.Classifier:
    """The network of a step's run at its checkpoint; the run is trained first if need be."""
    cell, trained = step.cell, replace(step, name="train", at=None).compute(store)
    # A probe's run holds its head; the others hold all weights, whatever they are put into.
    start = "probe" if step.phase == "probe" else "scratch"
    model = cell.build(n_classes or len(cell.load().classes), start, store)
    return training.Run.load_at(trained, model, step.at)

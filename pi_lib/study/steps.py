"""The steps of a cell: pre-train, train, extract; what is stored at a time, and what decides it.

A step is a pure function of its specification. Here a cell's data are loaded, its players drawn and
its networks built.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from pi_lib import probe, training
from pi_lib.extraction import extract
from pi_lib.objectives import AIMS, OBJECTIVES
from pi_lib.players import PatchPlayers, WordPlayers
from pi_lib.study import backbones, data
from pi_lib.study.cell import SOURCE_RATE, Cell
from pi_lib.study.store import Store
from pi_lib.values import has_player

_TRAINING = (
    "objectives",
    "probe",
    "seeds",
    "study.assets",
    "study.backbones",
    "study.data.__init__",
    "study.data.scenes",
    "study.steps",
    "training",
)
STEPS = {  # and the modules whose code decides a step's result
    "pretrain": _TRAINING,
    "train": _TRAINING,
    "extract": (
        *_TRAINING,
        "coalitions",
        "engine",
        "extraction",
        "interactions",
        "players",
        "sharing",
        "transforms",
        "values",
    ),
}


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
            spec["source"] = data.identity(cell.source)
            spec["pretraining"] = cell.pretraining
            about += ["n_source", "source_epochs"]
        if self.name != "pretrain":
            spec |= {
                "task": data.identity(cell.task),
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
            run_record(entry)
        return entry

    def _compute(self, store: Store, folder: Path) -> None:
        compute = {"pretrain": _pretrain, "train": _train, "extract": _extract}[self.name]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the last bits of a sum depend on how many share it
        try:
            compute(self, store, folder)
        finally:
            torch.set_num_threads(threads)


def load(cell: Cell) -> data.Task:
    """The downstream task's data; its training split holds the validation samples too.

    Raises
    ------
    ValueError
        As `pi_lib.study.data.load`; and if `changes` leave fewer training samples than classes.
    """
    s = cell.settings
    task = _load(cell, cell.task, s.n_train + s.n_val, s.n_test, cell.seed)
    if "n_train" in dict(cell.changes) and s.n_train < len(task.classes):
        raise ValueError(
            f"n_train={s.n_train} leaves some of the {len(task.classes)} classes of "
            f"{cell.task} without a sample: ask for at least {len(task.classes)}"
        )
    return task


def load_source(cell: Cell) -> data.Task:
    """The data that the backbone is pre-trained on here."""
    s = cell.settings
    return _load(cell, cell.source, s.n_source, s.n_test, 0)


def _load(cell: Cell, task: str, n_train: int, n_test: int, seed: int) -> data.Task:
    size = {"size": cell.settings.size} if cell.kind == "image" else {}
    return data.load(task, n_train=n_train, n_test=n_test, seed=seed, **size)


def build(
    cell: Cell, n_classes: int, phase: str = "finetuned", store: Store | None = None
) -> backbones.Classifier:
    """The network that a phase starts from: pre-trained, or random for "scratch"."""
    if phase != "scratch" and cell.source is not None:
        source = Step(cell, "pretrain").compute(store or Store())
        classes = len(load_source(cell).classes)
        model = backbones.build(cell.backbone, classes, pretrained=False)
        model = training.Run.load_at(source, model)
        return backbones.transfer(model, n_classes, seed=cell.seed, aim=cell.aim)
    pretrained = phase != "scratch"
    return backbones.build(
        cell.backbone, n_classes, pretrained=pretrained, seed=cell.seed, aim=cell.aim
    )


def tokenizer(cell: Cell):
    """The backbone's tokenizer; None for images."""
    return backbones.tokenizer(cell.backbone) if cell.kind == "text" else None


def players(cell: Cell, task: data.Task) -> PatchPlayers | WordPlayers:
    """Players of this cell, the same under every model and checkpoint."""
    if task.kind == "text":
        return WordPlayers(tokenizer(cell), n=cell.settings.n, seed=cell.seed)
    region = "central" if cell.aim == "classification" else "all"  # objects are anywhere
    s = cell.settings
    return PatchPlayers(s.grid, n=s.n, region=region, mean=task.mean, seed=cell.seed)


def samples(cell: Cell, task: data.Task) -> data.Split:
    """The first test samples that have enough players: where interactions are extracted.

    Those that have too few (a sentence with fewer than n content words, an object that no
    player owns a part of) are skipped; how many they are is in the ``meta`` of the
    interactions.

    Raises
    ------
    ValueError
        If the test split has too few of them.
    """
    drawn, wanted = players(cell, task), cell.settings.samples

    def fits(i: int) -> bool:
        if task.kind == "text":
            return drawn.fits(task.test.inputs[i])
        if task.test.targets is None:
            return True
        one = task.test.take([i])
        (placement,) = drawn.place(data.images(one.inputs), one.ids)
        return has_player(AIMS[task.aim].value, placement, true_values(one)[0])

    chosen = list(islice(filter(fits, range(len(task.test))), wanted))
    if len(chosen) < wanted:
        raise ValueError(
            f"{task.name}: {len(chosen)} of {len(task.test)} test samples have n={drawn.n} "
            f"players; {wanted} are asked for. Choose fewer players or samples"
        )
    return task.test.take(chosen)


def true_values(split: data.Split) -> torch.Tensor:
    """What the value of a masked input is asked about: the class, or the first object's target."""
    return split.labels if split.targets is None else split.targets[:, 0]


def run_record(entry: Path) -> dict[str, Any]:
    """What a stored run says of itself; raises `TrainingDiverged` if it has no end."""
    about = json.loads((entry / "run.json").read_text())
    if "diverged" in about:
        raise training.TrainingDiverged(about["diverged"])
    return about


def _pretrain(step: Step, store: Store, folder: Path) -> None:
    cell, s, task = step.cell, step.cell.settings, load_source(step.cell)
    _fit(
        folder,
        training.pretrain,
        lambda: backbones.build(
            cell.backbone, len(task.classes), pretrained=False, stream="pretrain"
        ),
        task.train,
        task.test,
        epochs=s.source_epochs,
        learning_rate=SOURCE_RATE[cell.kind],
        batch_size=s.batch_size,
        checkpoints=2,
        tokenizer=tokenizer(cell),
        loss=OBJECTIVES[cell.pretraining],
    )


def _train(step: Step, store: Store, folder: Path) -> None:
    cell, s, task = step.cell, step.cell.settings, load(step.cell)
    train = {
        "probe": probe.linear_probe,
        "finetuned": partial(training.finetune, frozen=s.frozen or 0),
        "scratch": training.train_from_scratch,
    }[step.phase]
    build_start = partial(build, cell, len(task.classes), step.phase, store)
    splits = task.train.take(range(s.n_train)), task.test
    held_out = task.train.take(range(s.n_train, len(task.train))) if s.n_val else None
    options = {"validation": held_out, "tokenizer": tokenizer(cell)}
    if step.phase == "probe" and task.aim == "classification":
        train(build_start(), *splits, **options).save(folder)
        return
    _fit(
        folder,
        train,
        build_start,
        *splits,
        **options,
        epochs=s.probe_epochs if step.phase == "probe" else s.epochs,
        learning_rate=step.rate,
        batch_size=s.batch_size,
        checkpoints=2 if step.phase == "probe" else s.checkpoints,
        seed=cell.seed,
        loss=AIMS[task.aim].loss,
        correct=AIMS[task.aim].correct,
    )


def _fit(folder: Path, train: Callable, build: Callable, *splits: data.Split, **options) -> None:
    """Train into a folder of the store, going on from the state that an earlier attempt left."""
    state = folder / "state"
    if not (folder / "run.json").exists():  # else interrupted while it tidied up
        try:
            train(build(), *splits, resume=state, **options).save(folder)
        except training.TrainingDiverged as error:
            (folder / "run.json").write_text(json.dumps({"diverged": str(error)}) + "\n")
    shutil.rmtree(state, ignore_errors=True)


def _extract(step: Step, store: Store, folder: Path) -> None:
    cell, task, kept = step.cell, load(step.cell), folder / "values"
    chosen, drawn = samples(cell, task), players(cell, task)
    inputs = data.images(chosen.inputs) if task.kind == "image" else chosen.inputs
    model = model_at(step, store, len(task.classes))
    found = extract(
        model, inputs, true_values(chosen), drawn,
        value=AIMS[task.aim].value, ids=chosen.ids, keep=kept,
    )  # fmt: skip
    found = replace(found, labels=chosen.labels.tolist())
    # Of the test samples looked at, how many had too few players.
    found.meta["skipped"] = task.test.ids.index(chosen.ids[-1]) + 1 - len(chosen)
    found.save(folder / "interactions.safetensors")
    shutil.rmtree(kept)


def model_at(step: Step, store: Store, n_classes: int | None = None) -> backbones.Classifier:
    """The network of a step's run at its checkpoint; the run is trained first if need be."""
    cell, trained = step.cell, replace(step, name="train", at=None).compute(store)
    # A probe's run holds its head; the others hold all weights, whatever they are put into.
    start = "probe" if step.phase == "probe" else "scratch"
    model = build(cell, n_classes or len(load(cell).classes), start, store)
    return training.Run.load_at(trained, model, step.at)

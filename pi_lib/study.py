"""One cell of the study, from data to results: train, extract, compare; each step stored once.

A cell is a backbone, a downstream task, a seed and a profile. It is a pure function of these:
three runs (linear probe, fine-tuned, scratch) and their interactions on the same samples at every
checkpoint.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pi_lib import knowledge, models, tasks, training
from pi_lib.interactions import Interactions, extract
from pi_lib.knowledge import Estimate, Knowledge, Learned, Trajectory
from pi_lib.players import PatchPlayers, WordPlayers
from pi_lib.store import Store

if TYPE_CHECKING:
    import pandas as pd

PHASES = ("probe", "finetuned", "scratch")
_TRAINING = ("assets", "tasks", "models", "training", "study")
STEPS = {  # and the modules whose code decides a step's result
    "train": _TRAINING,
    "extract": (*_TRAINING, "coalitions", "transforms", "players", "values", "interactions"),
}


@dataclass(frozen=True)
class Settings:
    """What a profile decides for one kind of input."""

    n_train: int
    n_test: int
    size: int | None  # pixels; None for text
    batch_size: int
    probe_epochs: int
    epochs: int  # of fine-tuning and of scratch training alike
    checkpoints: int
    samples: int  # on which interactions are extracted
    n: int  # players
    grid: int | None = 8


# Fine-tuning and scratch training share data, order and schedule; each phase has a learning rate
# that suits it, chosen by hand from a few short runs.
LEARNING_RATES = {
    "efficientnet-lite0": {"probe": 1e-3, "finetuned": 1e-3, "scratch": 3e-3},
    "minilm": {"probe": 1e-2, "finetuned": 5e-5, "scratch": 1e-4},
    "resnet20": {"probe": 1e-2, "finetuned": 1e-3, "scratch": 3e-3},
}

PROFILES = {
    "smoke": {
        "image": Settings(64, 64, 32, 16, 5, 1, 3, 4, 4, 4),
        "text": Settings(64, 64, None, 16, 5, 1, 3, 4, 4, None),
    },
    "quick": {
        "image": Settings(1000, 1000, 64, 32, 30, 6, 5, 16, 8, 8),
        "text": Settings(1000, 500, None, 32, 30, 4, 5, 12, 8, None),
    },
    "full": {
        "image": Settings(1000, 2000, 64, 32, 30, 20, 10, 50, 10, 8),
        "text": Settings(2000, 1500, None, 32, 30, 10, 10, 50, 10, None),
    },
}


@dataclass(frozen=True)
class Cell:
    """What is studied.

    Attributes
    ----------
    backbone : str
        A name of `pi_lib.models.SOURCES` with pre-trained weights.
    task : str
        A name that `pi_lib.tasks.load` knows.
    profile : "smoke", "quick" or "full"
    seed : int
        Of everything random in the cell.
    """

    backbone: str = "efficientnet-lite0"
    task: str = "fashion-mnist"
    profile: str = "quick"
    seed: int = 0

    def __post_init__(self):
        for name, given, valid in (
            ("profile", self.profile, PROFILES),
            ("backbone", self.backbone, LEARNING_RATES),
        ):
            if given not in valid:
                raise ValueError(f"{name}={given!r}; expected one of {', '.join(valid)}")

    @property
    def settings(self) -> Settings:
        """The profile's settings for this backbone's kind of input."""
        return PROFILES[self.profile][models.SOURCES[self.backbone].kind]

    def load(self) -> tasks.Task:
        """The downstream task's data."""
        s = self.settings
        size = {} if s.size is None else {"size": s.size}
        return tasks.load(self.task, n_train=s.n_train, n_test=s.n_test, seed=self.seed, **size)

    def build(self, n_classes: int, phase: str = "finetuned") -> models.Classifier:
        """The network that a phase starts from: pre-trained, or random for "scratch"."""
        return models.build(self.backbone, n_classes, pretrained=phase != "scratch", seed=self.seed)

    @property
    def tokenizer(self):
        """The backbone's tokenizer; None for images."""
        text = models.SOURCES[self.backbone].kind == "text"
        return models.tokenizer(self.backbone) if text else None

    def players(self, task: tasks.Task) -> PatchPlayers | WordPlayers:
        """Players of this cell, the same under every model and checkpoint."""
        if task.kind == "text":
            return WordPlayers(self.tokenizer, n=self.settings.n, seed=self.seed)
        return PatchPlayers(self.settings.grid, n=self.settings.n, mean=task.mean, seed=self.seed)

    def samples(self, task: tasks.Task) -> tasks.Split:
        """The first test samples that have enough players: where interactions are extracted.

        Raises
        ------
        ValueError
            If the test split has too few of them.
        """
        players, wanted = self.players(task), self.settings.samples
        fits = getattr(players, "fits", lambda _: True)
        chosen = []
        for i, x in enumerate(task.test.inputs):
            if len(chosen) == wanted:
                break
            if fits(x):
                chosen.append(i)
        if len(chosen) < wanted:
            raise ValueError(
                f"{task.name}: {len(chosen)} of {len(task.test)} test samples have n={players.n} "
                f"players; {wanted} are asked for. Choose fewer players or samples"
            )
        return task.test.take(chosen)


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
    """

    name: str
    log: list[dict[str, float]]
    settings: dict[str, Any]
    interactions: dict[int, Interactions]
    seconds: dict[str, float]

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


def run(cell: Cell, store: Store | None = None) -> Result:
    """The cell's results, computing what the store does not have yet.

    Parameters
    ----------
    cell : Cell
        What is studied.
    store : Store, optional
        Default the store under `pi_lib.store.home`.
    """
    store = store or Store()
    phases, entries = {}, {}
    for name in PHASES:
        trained = _trained(cell, name, store)
        extracted = _extracted(cell, name, trained, store)
        entries |= {f"train {name}": trained, f"extract {name}": extracted}
        about = json.loads((trained / "run.json").read_text())
        phases[name] = Phase(
            name=name,
            log=about["log"],
            settings=about["settings"],
            interactions={
                int(file.stem): Interactions.load(file) for file in extracted.glob("*.safetensors")
            },
            seconds={
                "training": about["seconds"],
                "extraction": store.record(extracted)["seconds"],
            },
        )
    return Result(cell=cell, entries=entries, **phases)


def run_all(
    cells: Sequence[Cell], store: Store | None = None, workers: int | None = None
) -> list[Result]:
    """The results of several cells, computed side by side where they are not stored.

    Parameters
    ----------
    cells : sequence of Cell
    store : Store, optional
        Default the store under `pi_lib.store.home`.
    workers : int, optional
        Processes; default one per core, no more than there are phases to compute. Each has its
        share of the cores.
    """
    store, cores = store or Store(), os.cpu_count() or 1
    missing = [(c, phase) for c in cells for phase in PHASES if not _stored(c, phase, store)]
    workers = min(workers or cores, len(missing))
    if workers > 1:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            threads = max(1, cores // workers)
            jobs = [pool.submit(_compute, *phase, store.root, threads) for phase in missing]
            for job in as_completed(jobs):
                job.result()
    return [run(cell, store) for cell in cells]


def stored(cell: Cell, store: Store) -> bool:
    """Whether the store has every step of the cell."""
    return all(_stored(cell, phase, store) for phase in PHASES)


def trained_model(cell: Cell, phase: str, store: Store | None = None) -> models.Classifier:
    """The network that a phase of the cell ends with, trained first if need be."""
    if phase not in PHASES:
        raise ValueError(f"phase={phase!r}; expected one of {', '.join(PHASES)}")
    return _load_run(cell, phase, _trained(cell, phase, store or Store())).model


def accuracy_estimate(accuracy: float, tested: int) -> Estimate:
    """An accuracy on `tested` samples with its 95 % Wilson interval."""
    from scipy.stats import binomtest

    interval = binomtest(round(accuracy * tested), tested).proportion_ci(method="wilson")
    return Estimate(accuracy, interval.low, interval.high)


def _stored(cell: Cell, phase: str, store: Store) -> bool:
    steps = [store.path(*_step(cell, phase, name)) for name in STEPS]
    return all((path / "record.json").exists() for path in steps)


def _compute(cell: Cell, phase: str, root: Path, threads: int) -> None:
    """Compute a phase of a cell into the store; what a worker process does."""
    torch.set_num_threads(threads)
    store = Store(root)
    _extracted(cell, phase, _trained(cell, phase, store), store)


def _step(cell: Cell, phase: str, step: str) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Name, specification and deciding modules of a step, as the store wants them."""
    s = asdict(cell.settings)
    spec = {
        "backbone": cell.backbone,
        "task": cell.task,
        "seed": cell.seed,
        "phase": phase,
        "learning_rate": LEARNING_RATES[cell.backbone][phase],
        "epochs": s["probe_epochs" if phase == "probe" else "epochs"],
        **{name: s[name] for name in ("n_train", "n_test", "size", "batch_size", "checkpoints")},
    }
    if step == "extract":
        spec |= {name: s[name] for name in ("samples", "n", "grid")}
    return step, spec, STEPS[step]


def _trained(cell: Cell, phase: str, store: Store) -> Path:
    """The store's entry with the phase's run."""

    def compute(folder: Path) -> None:
        task, s = cell.load(), cell.settings
        train = {
            "probe": training.linear_probe,
            "finetuned": training.finetune,
            "scratch": training.train_from_scratch,
        }[phase]
        train(
            cell.build(len(task.classes), phase),
            task.train,
            task.test,
            epochs=s.probe_epochs if phase == "probe" else s.epochs,
            learning_rate=LEARNING_RATES[cell.backbone][phase],
            batch_size=s.batch_size,
            checkpoints=2 if phase == "probe" else s.checkpoints,
            seed=cell.seed,
            tokenizer=cell.tokenizer,
        ).save(folder)

    return store.get(*_step(cell, phase, "train"), compute)


def _extracted(cell: Cell, phase: str, trained: Path, store: Store) -> Path:
    """The store's entry with the interactions of the run at `trained`; a probe's at its end."""

    def compute(folder: Path) -> None:
        task = cell.load()
        run = _load_run(cell, phase, trained, len(task.classes))
        samples, players = cell.samples(task), cell.players(task)
        inputs = tasks.images(samples.inputs) if task.kind == "image" else samples.inputs
        for step in run.steps[-1:] if phase == "probe" else run.steps:
            model = run.at(step)
            result = extract(model, inputs, samples.labels, players, ids=samples.ids)
            result.save(folder / f"{step}.safetensors")

    return store.get(*_step(cell, phase, "extract"), compute)


def _load_run(cell: Cell, phase: str, trained: Path, n_classes: int | None = None) -> training.Run:
    n_classes = n_classes or len(cell.load().classes)
    return training.Run.load(trained, cell.build(n_classes, phase))

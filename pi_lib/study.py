"""One cell of the study, from data to results: train, extract, compare; each step stored once.

A cell is a backbone, what it was pre-trained on, a downstream task, a seed and a profile. It is a
pure function of these: three runs (linear probe, fine-tuned, scratch) and their interactions on
the same samples at every checkpoint.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import torch

from pi_lib import assets, knowledge, models, tasks, training
from pi_lib.interactions import Interactions, extract, sum_by_order
from pi_lib.knowledge import Estimate, Knowledge, Learned, Trajectory
from pi_lib.players import PatchPlayers, WordPlayers
from pi_lib.progress import track
from pi_lib.store import Store

if TYPE_CHECKING:
    import pandas as pd

PHASES = ("probe", "finetuned", "scratch")
_TRAINING = ("assets", "tasks", "models", "training", "study")
STEPS = {  # and the modules whose code decides a step's result
    "pretrain": _TRAINING,
    "train": _TRAINING,
    "choose": _TRAINING,
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
            n_train=1000, n_val=200, trials=2, n_test=1000, probe_epochs=30, epochs=6,
            checkpoints=5, samples=16, n=8, n_source=5000, source_epochs=5,
        ),
        "text": Settings(
            n_train=500, n_val=150, trials=2, n_test=500, probe_epochs=30, epochs=4,
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

    def __post_init__(self):
        if wrong := list(self._wrong()):
            raise ValueError("; ".join(wrong))

    def _wrong(self):
        named = [
            ("profile", self.profile, PROFILES),
            ("backbone", self.backbone, models.SOURCES),
        ]
        for name, given, valid in named:
            if given not in valid:
                yield f"{name}={given!r}; expected one of {', '.join(valid)}"
        if not isinstance(self.seed, int) or self.seed < 0:
            yield f"seed={self.seed!r}; expected an integer, at least 0"
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
        if about is None:
            return
        if self.source is None and not about.published:
            yield f"{self.backbone} has no published weights: name a source task to pre-train it on"
        if self.source == self.task or {self.source, self.task} in tasks.SAME_DATA:
            yield f"source={self.source!r} and task={self.task!r} are of the same data"

    @property
    def name(self) -> str:
        """One line for tables and plots.

        Examples
        --------
        >>> Cell("vit-32", "flowers", source="cifar10").name
        'vit-32 (cifar10) on flowers'
        """
        source = f" ({_short(self.source)})" if self.source else ""
        return f"{self.backbone}{source} on {_short(self.task)}"

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
        return s if s.size and about.any_size else replace(s, size=about.size)

    def load(self) -> tasks.Task:
        """The downstream task's data; its training split holds the validation samples too."""
        s = self.settings
        return self._load(self.task, s.n_train + s.n_val, s.n_test, self.seed)

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
            return models.transfer(_pretrained(self, store or Store()), n_classes, seed=self.seed)
        return models.build(self.backbone, n_classes, pretrained=phase != "scratch", seed=self.seed)

    @property
    def tokenizer(self):
        """The backbone's tokenizer; None for images."""
        return models.tokenizer(self.backbone) if self.kind == "text" else None

    def players(self, task: tasks.Task) -> PatchPlayers | WordPlayers:
        """Players of this cell, the same under every model and checkpoint."""
        if task.kind == "text":
            return WordPlayers(self.tokenizer, n=self.settings.n, seed=self.seed)
        return PatchPlayers(self.settings.grid, n=self.settings.n, mean=task.mean, seed=self.seed)

    def samples(self, task: tasks.Task) -> tasks.Split:
        """The first test samples that have enough players: where interactions are extracted.

        Those that have too few (a sentence with fewer than n content words) are skipped; how many
        they are is in the ``meta`` of the interactions.

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

        Columns: ``backbone, source, task, profile, seed``; ``quantity``; ``phase``; ``order`` (0:
        not by order); ``step`` and ``progress`` of training; ``sample`` (-1: of the whole test
        split); ``numerator`` and ``denominator``. A quantity over samples, orders or seeds is the
        ratio of the sums, and its interval comes from resampling these rows.
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
        cell = asdict(self.cell) | {"source": self.cell.source or "published"}
        for at, name in enumerate(("backbone", "source", "task", "profile", "seed")):
            table.insert(at, name, cell[name])
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
    if cell.source is not None:
        entries["pre-train"] = _pretraining(cell, store)
    for name in PHASES:
        chosen = _chosen(cell, name, store)
        trained = _trained(cell, name, store, chosen["rate"])
        extracted = _extracted(cell, name, trained, store, chosen["rate"])
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
            tried={float(rate): found for rate, found in chosen["tried"].items()},
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

    Raises
    ------
    StudyFailed
        If cells failed, after all the others were computed.
    """
    store = store or Store()
    failed = compute_all(cells, store, workers)
    if failed:
        raise StudyFailed(
            "\n".join(f"{cell.name}, seed {cell.seed}: {why}" for cell, why in failed)
        )
    return [run(cell, store) for cell in cells]


def compute_all(
    cells: Sequence[Cell], store: Store, workers: int | None = None
) -> list[tuple[Cell, str]]:
    """Compute what the store does not have of the cells; returns those that failed, and why."""
    cores = os.cpu_count() or 1
    missing = [(c, phase) for c in cells for phase in PHASES if not _stored(c, phase, store)]
    # What others wait for comes first: pre-training, then seed 0, which chooses learning rates.
    sources = {(c.backbone, c.source, c.profile): c for c, _ in missing if c.source is not None}
    jobs = [(c, "pretrain") for c in sources.values()] + sorted(
        missing, key=lambda job: job[0].seed
    )
    workers = max(1, min(workers or cores, len(jobs)))
    threads, failed = max(1, cores // workers), {}
    if not jobs:
        return []
    with ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent) as pool:
        futures = {pool.submit(_compute, *job, store.root, threads): job for job in jobs}
        try:
            for done in track(as_completed(futures), "study", len(futures)):
                cell, phase = futures[done]
                if error := done.exception():
                    failed.setdefault(cell, f"{phase}: {type(error).__name__}: {error}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return list(failed.items())


def stored(cell: Cell, store: Store) -> bool:
    """Whether the store has every step of the cell."""
    return all(_stored(cell, phase, store) for phase in PHASES)


def trained_model(cell: Cell, phase: str, store: Store | None = None) -> models.Classifier:
    """The network that a phase of the cell ends with, trained first if need be."""
    if phase not in PHASES:
        raise ValueError(f"phase={phase!r}; expected one of {', '.join(PHASES)}")
    store = store or Store()
    trained = _trained(cell, phase, store, _chosen(cell, phase, store)["rate"])
    return _load_run(cell, phase, trained, store).model


def accuracy_estimate(accuracy: float, tested: int) -> Estimate:
    """An accuracy on `tested` samples with its 95 % Wilson interval."""
    from scipy.stats import binomtest

    interval = binomtest(round(accuracy * tested), tested).proportion_ci(method="wilson")
    return Estimate(accuracy, interval.low, interval.high)


def _stored(cell: Cell, phase: str, store: Store) -> bool:
    def there(*step) -> Path | None:
        path = store.path(*step)
        return path if (path / "record.json").exists() else None

    rates = _rates(cell, phase)
    first = replace(cell, seed=0)
    choice = there(*_step(first, phase, "choose", rates)) if len(rates) > 1 else None
    if len(rates) > 1 and choice is None:
        return False
    rate = json.loads((choice / "choice.json").read_text())["rate"] if choice else rates[0]
    return all(there(*_step(cell, phase, name, rate)) for name in ("train", "extract"))


def _short(task: str) -> str:
    """A task's name; of a folder's path, its end."""
    return Path(task).name if task.startswith(tasks.FOLDER) else task


def _end_with_parent() -> None:
    """Let this worker process end when the process that started it is killed."""

    def watch() -> None:
        wait([parent_process().sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _compute(cell: Cell, phase: str, root: Path, threads: int) -> None:
    """Compute a phase of a cell into the store; what a worker process does."""
    torch.set_num_threads(threads)
    store = Store(root)
    if phase == "pretrain":
        _pretraining(cell, store)
        return
    rate = _chosen(cell, phase, store)["rate"]
    _extracted(cell, phase, _trained(cell, phase, store, rate), store, rate)


def _step(
    cell: Cell, phase: str, step: str, rate: float | Sequence[float]
) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Name, specification and deciding modules of a step, as the store wants them."""
    s = asdict(cell.settings)
    about = ["size", "batch_size"]
    spec = {"backbone": cell.backbone}
    if step == "pretrain" or (cell.source is not None and phase != "scratch"):
        spec["source"] = tasks.identity(cell.source)
        about += ["n_source", "source_epochs"]
    if step != "pretrain":
        spec |= {
            "task": tasks.identity(cell.task),
            "seed": cell.seed,
            "phase": phase,
            "learning_rate": rate,
            "epochs": s["probe_epochs" if phase == "probe" else "epochs"],
        }
        about += ["n_train", "n_val", "checkpoints"]
    about += ["n_test"]
    if step == "extract":
        about += ["samples", "n", "grid"]
    return step, spec | {name: s[name] for name in about}, STEPS[step]


def _pretraining(cell: Cell, store: Store) -> Path:
    """The store's entry with the backbone trained on the source task: one for all seeds."""

    def compute(folder: Path) -> None:
        task, s = cell.load_source(), cell.settings
        training.pretrain(
            models.build(cell.backbone, len(task.classes), pretrained=False),
            task.train,
            task.test,
            epochs=s.source_epochs,
            learning_rate=SOURCE_RATE[cell.kind],
            batch_size=s.batch_size,
            checkpoints=2,
            tokenizer=cell.tokenizer,
        ).save(folder)

    return store.get(*_step(cell, "pretrain", "pretrain", SOURCE_RATE[cell.kind]), compute)


def _pretrained(cell: Cell, store: Store) -> models.Classifier:
    classes = len(cell.load_source().classes)
    model = models.build(cell.backbone, classes, pretrained=False)
    return training.Run.load(_pretraining(cell, store), model).model


def _rates(cell: Cell, phase: str) -> tuple[float, ...]:
    return LEARNING_RATES[cell.kind][phase][: cell.settings.trials]


def _chosen(cell: Cell, phase: str, store: Store) -> dict[str, Any]:
    """The learning rate that is best on the validation split with seed 0: rate, tried."""
    rates, first = _rates(cell, phase), replace(cell, seed=0)
    if len(rates) == 1:
        return {"rate": rates[0], "tried": {}}

    def compute(folder: Path) -> None:
        tried, failed = {}, None
        for rate in rates:
            try:
                trained = _trained(first, phase, store, rate)
            except training.TrainingDiverged as error:
                failed = error
                continue
            about = json.loads((trained / "run.json").read_text())
            tried[rate] = about["settings"]["validation"]
        if not tried:
            raise failed
        best = max(tried, key=lambda rate: (tried[rate]["accuracy"], -tried[rate]["loss"]))
        choice = {"rate": best, "tried": tried}
        (folder / "choice.json").write_text(json.dumps(choice, indent=1) + "\n")

    entry = store.get(*_step(first, phase, "choose", rates), compute)
    return json.loads((entry / "choice.json").read_text())


def _trained(cell: Cell, phase: str, store: Store, rate: float) -> Path:
    """The store's entry with the phase's run."""

    def compute(folder: Path) -> None:
        task, s = cell.load(), cell.settings
        train = {
            "probe": training.linear_probe,
            "finetuned": training.finetune,
            "scratch": training.train_from_scratch,
        }[phase]
        train(
            cell.build(len(task.classes), phase, store),
            task.train.take(range(s.n_train)),
            task.test,
            validation=task.train.take(range(s.n_train, len(task.train))) if s.n_val else None,
            epochs=s.probe_epochs if phase == "probe" else s.epochs,
            learning_rate=rate,
            batch_size=s.batch_size,
            checkpoints=2 if phase == "probe" else s.checkpoints,
            seed=cell.seed,
            tokenizer=cell.tokenizer,
        ).save(folder)

    return store.get(*_step(cell, phase, "train", rate), compute)


def _extracted(cell: Cell, phase: str, trained: Path, store: Store, rate: float) -> Path:
    """The store's entry with the interactions of the run at `trained`; a probe's at its end."""

    def compute(folder: Path) -> None:
        task = cell.load()
        run = _load_run(cell, phase, trained, store, len(task.classes))
        samples, players = cell.samples(task), cell.players(task)
        inputs = tasks.images(samples.inputs) if task.kind == "image" else samples.inputs
        skipped = task.test.ids.index(samples.ids[-1]) + 1 - len(samples)  # had too few players
        for step in run.steps[-1:] if phase == "probe" else run.steps:
            model = run.at(step)
            result = extract(model, inputs, samples.labels, players, ids=samples.ids)
            result.meta["skipped"] = skipped
            result.save(folder / f"{step}.safetensors")

    return store.get(*_step(cell, phase, "extract", rate), compute)


def _load_run(
    cell: Cell, phase: str, trained: Path, store: Store, n_classes: int | None = None
) -> training.Run:
    n_classes = n_classes or len(cell.load().classes)
    return training.Run.load(trained, cell.build(n_classes, phase, store))

"""The steps of a cell: pre-train, train, extract, test. Each is a pure function of its key."""

import json
import math
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from pi_lib import training
from pi_lib.extraction import extract
from pi_lib.files import write_json
from pi_lib.players import PatchPlayers, WordPlayers
from pi_lib.study import backbones, data, elsewhere
from pi_lib.study.cell import Cell
from pi_lib.study.store import MODULES, Store
from pi_lib.training.objectives import AIMS, OBJECTIVES
from pi_lib.values import has_player


def _of(folder: str) -> set[str]:
    """The modules of a folder of the package that compute: not its `__init__`, which only names."""
    return {name for name in MODULES if name.startswith(f"{folder}.") and "__init__" not in name}


# The modules whose code decides a step's result. Their docstrings and messages do not count.
_TRAINING = (
    *(_of("training") - {"training.tracker"}),  # it watches a run, and leaves it as it is
    "engine.outputs",
    "study.assets",
    "study.backbones",
    "study.encoders",
    *(_of("study.data") - {"study.data.prepare"}),
    "study.steps",
)
STEPS = {
    "pretrain": _TRAINING,
    "train": _TRAINING,
    "test": (*_TRAINING, "study.elsewhere"),
    "extract": (*_TRAINING, *_of("engine"), *_of("players"), "coalitions", "values"),
}

# Settings that decide an arm alone.
OF_ARMS = {"finetuned": ["frozen", "lora", "probe_first", "pull"], "long": ["long"]}
LONG_FROM = 1000  # runs of "long" are numbered from here on: no two networks start alike
SOURCE_RATE = {"image": 1e-3, "text": 1e-4}  # of pre-training
# A head that reads feature maps is no convex problem: it is trained on the frozen encoder.
MAP_PROBE = {"epochs": 30, "learning_rate": 1e-2}


@dataclass(frozen=True)
class Step:
    """What the store keeps as one entry of a cell.

    Attributes
    ----------
    cell : Cell
    name : "pretrain", "train", "extract" or "test"
        Pre-training, which all arms and runs share; one run of an arm; its games with one of
        `pi_lib.study.cell.PLAYERS`, at every checkpoint or at its end; what its end can do
        elsewhere (`pi_lib.study.elsewhere`).
    arm : str
        One of `pi_lib.reliability.ARMS`, except for pre-training.
    run : int
        Which run of the arm.
    rate : float
        The arm's learning rate; 0 for a probe, which has none.
    players : str
        For "extract": one of `pi_lib.study.cell.PLAYERS`.
    """

    cell: Cell
    name: Literal["pretrain", "train", "extract", "test"]
    arm: str = ""
    run: int = 0
    rate: float = 0.0
    players: str = ""

    @property
    def pretrained(self) -> bool:
        """Whether the step's network starts from a pre-training done here."""
        return self.cell.source is not None and self.arm in ("probe", "finetuned")

    @property
    def traced(self) -> bool:
        """Whether the run's weights are kept at every checkpoint, not at the end alone."""
        s, trained = self.cell.settings, self.arm in ("finetuned", "scratch")
        return bool(s.n) and self.run < s.traced and trained

    @property
    def all_checkpoints(self) -> bool:
        """Whether games are extracted at every checkpoint, not at the end alone."""
        return self.players == "drawn" and self.traced

    @cached_property
    def key(self) -> tuple[str, dict[str, Any], tuple[str, ...]]:
        """Name, specification and deciding modules, as the store wants them."""
        cell, settings = self.cell, self.cell.settings
        decisive = ["size", "batch_size", "n_test"]
        spec = {"backbone": backbones.identity(cell.backbone)}
        if self.name == "pretrain" or self.pretrained:
            spec["pretraining"] = cell.pretraining
            spec["pretraining_run"] = cell.pretraining_run
            decisive += ["source_epochs"]
        if self.name in ("pretrain", "test") or self.pretrained:
            spec["source"] = cell.source and data.identity(cell.source)
            decisive += ["n_source"]
        if self.name != "pretrain":
            spec |= {
                "task": data.identity(cell.task),
                "arm": self.arm,
                "run": self.run,
                "learning_rate": self.rate,
            }
            decisive += ["n_train", "n_val"]
            decisive += [] if self.arm == "probe" else ["epochs", "checkpoints"]
            spec["traced"] = self.traced
            decisive += OF_ARMS.get(self.arm, [])
        if self.name == "extract":
            spec["players"] = self.players
            spec["all_checkpoints"] = self.all_checkpoints
            decisive += ["samples", "n", "grid", "covering"]
            decisive += ["traced_samples"] if self.all_checkpoints else []
        values = asdict(settings)
        return self.name, spec | {name: values[name] for name in decisive}, STEPS[self.name]

    @property
    def needs(self) -> list["Step"]:
        """The steps whose results this one starts from."""
        needs = [Step(self.cell, "pretrain")] if self.pretrained else []
        if self.name in ("extract", "test"):
            needs.append(self.training)
        return needs

    @property
    def training(self) -> "Step":
        """The training whose networks "extract" and "test" ask."""
        return replace(self, name="train", players="")

    def path(self, store: Store) -> Path:
        """Folder of the step's entry."""
        return store.path(*self.key)

    def stored(self, store: Store) -> bool:
        """Whether the entry is there, and sound."""
        return store.has(*self.key)

    def compute(self, store: Store) -> Path:
        """The step's entry, computed first where it is missing, and so is what it needs.

        A TrainingDiverged if the run diverged. That is stored too: it is not tried twice.
        """
        entry = store.get(*self.key, partial(self._compute, store))
        if self.name in ("pretrain", "train"):
            run_record(entry)
        return entry

    def _compute(self, store: Store, folder: Path) -> None:
        compute = {"pretrain": _pretrain, "train": _train, "extract": _extract, "test": _test}
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the last bits of a sum depend on how many share it
        try:
            compute[self.name](self, store, folder)
        finally:
            torch.set_num_threads(threads)
            torch.cuda.empty_cache()  # for the processes that share the GPU


# ---------------------------------------------------------------- a cell's data and players


def load(cell: Cell) -> data.Task:
    """The downstream task's data; its training split holds the validation samples too.

    Sizes of the profile are upper limits: a data set with fewer samples is taken whole, with a
    warning. Those in `changes` are meant. Raises ValueError as `pi_lib.study.data.load`; if the
    task is of another kind than the backbone's; and if there are fewer samples than classes.
    """
    s, changed = cell.settings, dict(cell.changes).keys()
    decided = {"n_train": {"n_train", "n_val"}, "n_test": {"n_test"}}
    at_most = tuple(name for name, by in decided.items() if not by & changed)
    task = _load(cell, cell.task, s.n_train + s.n_val, at_most)
    if "n_train" in changed and s.n_train < len(task.classes):
        raise ValueError(
            f"n_train={s.n_train} leaves some of the {len(task.classes)} classes of "
            f"{cell.task} without a sample: ask for at least {len(task.classes)}"
        )
    return task


def load_source(cell: Cell, most: int | None = None) -> data.Task:
    """The data that the backbone is pre-trained on here, or at most so many training samples."""
    at_most = ("n_test",) if "n_source" in dict(cell.changes) else ("n_train", "n_test")
    wanted = cell.settings.n_source
    return _load(cell, cell.source, min(wanted, most or wanted), at_most)


def training_splits(cell: Cell, task: data.Task) -> tuple[training.Split, training.Split | None]:
    """Training samples, and those by which rates are chosen: in the proportion of the settings."""
    s, there = cell.settings, len(task.train)
    n_train = there * s.n_train // (s.n_train + s.n_val)
    validation = task.train.take(range(n_train, there)) if s.n_val else None
    return task.train.take(range(n_train)), validation


def _load(cell: Cell, task: str, n_train: int, at_most: tuple[str, ...]) -> data.Task:
    s = cell.settings
    if (kind := data.kind(task)) != cell.kind:
        raise ValueError(f"{cell.backbone} takes {cell.kind}s, but {task!r} has {kind}s")
    size = s.size if kind == "image" else None
    return _loaded(task, n_train=n_train, n_test=s.n_test, size=size, at_most=at_most)


_loaded = lru_cache(maxsize=6)(data.load)  # a worker computes many steps of the same data


def tokenizer(cell: Cell):
    """The backbone's tokenizer; None for images."""
    return backbones.tokenizer(cell.backbone) if cell.kind == "text" else None


def players(cell: Cell, task: data.Task, which: str = "drawn") -> PatchPlayers | WordPlayers:
    """One of a cell's two sets of players, the same under every run and checkpoint.

    "drawn": n patches of the central part of a grid, or n content words, drawn for each sample,
    as in the paper. "covering": all patches of a coarse grid, or contiguous chunks of a sentence,
    which together are the whole input.
    """
    s, covers = cell.settings, which == "covering"
    n = s.covering if covers else s.n
    if task.kind == "text":
        return WordPlayers(tokenizer(cell), n=n, cover=covers)
    anywhere = covers or cell.aim != "classification"  # so are objects
    return PatchPlayers(
        math.isqrt(n) if covers else s.grid, n=n, region="all" if anywhere else "central",
        mean=task.mean,
    )  # fmt: skip


def samples(cell: Cell, task: data.Task) -> training.Split:
    """The first test samples that have enough players of every set: where games are extracted.

    Raises ValueError if the test split has too few of them.
    """
    asked = [players(cell, task, which) for which in cell.players]
    wanted = cell.settings.samples

    def fits(i: int) -> bool:
        if task.kind == "text":
            return all(drawn.fits(task.test.inputs[i]) for drawn in asked)
        if task.test.targets is None:
            return True
        sample = task.test.take([i])
        placements = [drawn.place(training.images(sample.inputs), sample.ids)[0] for drawn in asked]
        value, true = AIMS[task.aim].value, true_values(sample)[0]
        return all(has_player(value, placement, true) for placement in placements)

    chosen = list(islice(filter(fits, range(len(task.test))), wanted))
    if len(chosen) < wanted:
        raise ValueError(
            f"{task.name}: {len(chosen)} of {len(task.test)} test samples have "
            f"{max(drawn.n for drawn in asked)} players; {wanted} are asked for. Choose fewer "
            "players or samples"
        )
    return task.test.take(chosen)


def true_values(split: training.Split) -> torch.Tensor:
    """What the value of a masked input is asked about: the class, or the first object's target."""
    return split.labels if split.targets is None else split.targets[:, 0]


# ---------------------------------------------------------------- networks


def build(
    cell: Cell, n_classes: int, arm: str = "finetuned", run: int = 0, store: Store | None = None
) -> backbones.Classifier:
    """The network that a run starts from: pre-trained under a new head, or random."""
    number, random = run + LONG_FROM * (arm == "long"), arm in ("scratch", "long")
    if cell.source is None or random:
        return backbones.build(
            cell.backbone, n_classes, pretrained=not random, seed=number, aim=cell.aim
        )
    source = Step(cell, "pretrain").compute(store or Store())
    model = training.Run.load_at(source, _untrained(cell, len(data.classes(cell.source))))
    return backbones.transfer(model, n_classes, seed=number, aim=cell.aim)


def _untrained(cell: Cell, n_classes: int) -> backbones.Classifier:
    """What pre-training starts from."""
    return backbones.build(
        cell.backbone, n_classes, pretrained=False, seed=cell.pretraining_run, stream="pretrain"
    )


def trained_model(
    cell: Cell, arm: str, run: int, rate: float, store: Store
) -> backbones.Classifier:
    """The network that a run ends with, trained if need be."""
    step = Step(cell, "train", arm, run, rate)
    entry = step.compute(store)
    # A probe's run holds its head; the others hold all weights, whatever they are put into.
    start = "probe" if arm == "probe" else "scratch"
    model = build(cell, len(data.classes(cell.task)), start, run, store)
    return training.Run.load_at(entry, model)


# ---------------------------------------------------------------- what a step computes


def _pretrain(step: Step, store: Store, folder: Path) -> None:
    cell, s, task = step.cell, step.cell.settings, load_source(step.cell)
    _fit(
        folder,
        training.pretrain,
        lambda: _untrained(cell, len(task.classes)),
        task.train,
        task.test,
        epochs=s.source_epochs,
        learning_rate=SOURCE_RATE[cell.kind],
        batch_size=128 if cell.kind == "image" else s.batch_size,
        checkpoints=2,
        seed=cell.pretraining_run,
        tokenizer=tokenizer(cell),
        loss=OBJECTIVES[cell.pretraining],
        graph=_steps_alike(cell),
    )


def _train(step: Step, store: Store, folder: Path) -> None:
    cell, s, task = step.cell, step.cell.settings, load(step.cell)
    aim = AIMS[task.aim]
    options: dict[str, Any] = {"tokenizer": tokenizer(cell)}
    train_split, options["validation"] = training_splits(cell, task)
    train = training.linear_probe
    if step.arm != "probe" or task.aim != "classification":
        options |= {"loss": aim.loss, "correct": aim.correct}
    if step.arm == "probe":
        options |= MAP_PROBE if task.aim != "classification" else {}
    else:
        train = training.train_from_scratch
        if step.arm == "finetuned":
            train = training.finetune
            ways = {"frozen": s.frozen or 0, "lora": s.lora, "pull": s.pull}
            options |= ways | {"probe_first": bool(s.probe_first)}
        options |= {
            "epochs": s.epochs * (s.long if step.arm == "long" else 1),
            "learning_rate": step.rate,
            "batch_size": s.batch_size,
            "checkpoints": s.checkpoints,
            "seed": step.run + LONG_FROM * (step.arm == "long"),
            "graph": _steps_alike(cell) and cell.aim == "classification" and not s.lora,
        }
    _fit(
        folder,
        train,
        lambda: build(cell, len(task.classes), step.arm, step.run, store),
        train_split,
        task.test,
        kept=None if step.traced else 1,
        **options,
    )


def _steps_alike(cell: Cell) -> bool:
    """Whether every step of training launches the same kernels: of our networks for images."""
    return cell.kind == "image" and not backbones.BACKBONES[cell.backbone].code


def _fit(
    folder: Path, train: Callable, build: Callable, *splits, kept: int | None = None, **options
) -> None:
    """Train into a folder of the store, going on from the state that an earlier attempt left.

    Of the last `kept` checkpoints the weights are stored; None: of all.
    """
    state = folder / "state"
    if not (folder / "run.json").exists():  # else interrupted while it tidied up
        try:
            if train is not training.linear_probe:
                options["resume"] = state
            run = train(build(), *splits, **options)
            run.checkpoints = {
                step: run.checkpoints[step] for step in run.steps[-kept if kept else None :]
            }
            run.save(folder)
        except training.TrainingDiverged as error:
            write_json(folder / "run.json", {"diverged": str(error)})
    shutil.rmtree(state, ignore_errors=True)


def _extract(step: Step, store: Store, folder: Path) -> None:
    """The games of one run on a cell's samples: one file a checkpoint."""
    cell, task, unfinished = step.cell, load(step.cell), folder / "values"
    chosen, drawn = samples(cell, task), players(cell, task, step.players)
    entry = step.training.compute(store)
    steps = run_record(entry)["steps"]
    start = "probe" if step.arm == "probe" else "scratch"
    model = build(cell, len(task.classes), start, step.run, store)
    first = chosen.take(range(min(len(chosen), cell.settings.traced_samples)))
    for at in steps if step.all_checkpoints else steps[-1:]:
        some = chosen if at == steps[-1] else first
        inputs = training.images(some.inputs) if task.kind == "image" else some.inputs
        with warnings.catch_warnings():
            if at != steps[-1]:  # early in training, outputs are hardly larger than their rounding
                warnings.filterwarnings("ignore", "values are off")  # the result's meta says it
            game = extract(
                training.Run.load_at(entry, model, at), inputs, true_values(some), drawn,
                value=AIMS[task.aim].value, ids=some.ids, keep=unfinished,
                share="repeatable",
            )  # fmt: skip
        replace(game, labels=some.labels.tolist()).save(folder / f"{at}.safetensors")
    shutil.rmtree(unfinished, ignore_errors=True)


def _test(step: Step, store: Store, folder: Path) -> None:
    """What the end of one run can do elsewhere: which samples it gets right, and how sure it is."""
    cell, task, right, sure = step.cell, load(step.cell), {}, {}
    model = trained_model(cell, step.arm, step.run, step.rate, store)
    if task.kind == "image":
        for kind in elsewhere.CORRUPTIONS:
            pictures = replace(task.test, inputs=elsewhere.corrupted(task.test.inputs, kind))
            right[kind] = AIMS[task.aim].correct(elsewhere.logits(model, pictures), pictures.labels)
    if cell.source is not None:
        source = load_source(cell, elsewhere.SOURCE_TRAIN)
        right["source"] = elsewhere.source_kept(model, source, tokenizer(cell))
        if task.kind == "image":
            foreign = source.test.take(range(min(elsewhere.SOURCE_TEST, len(source.test))))
            for name, split in (("task", task.test), ("foreign", foreign)):
                sure[name] = elsewhere.logits(model, split).softmax(-1).amax(-1)
    save_file(right, folder / "right.safetensors")
    save_file(sure, folder / "sure.safetensors")


def run_record(entry: Path) -> dict[str, Any]:
    """What a stored run says of itself; raises `TrainingDiverged` if it has no end."""
    record = json.loads((entry / "run.json").read_text())
    if "diverged" in record:
        raise training.TrainingDiverged(record["diverged"])
    return record

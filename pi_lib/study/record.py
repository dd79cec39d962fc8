"""What a computed cell holds, as one small file: the games of every run.

A record keeps v of every coalition for each run and checkpoint, with which test samples each run
got right, learning rates, accuracies and provenance. Threshold, basis, orders and claims are chosen
when it is read: nothing is trained for them. In the file, the values of a sample are rounded to
65,536 levels between its smallest and its largest, which takes less than half the bytes of float32.
In the recorded cells that moved no interaction by more than a tenth of the threshold of salience.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file

from pi_lib.files import whole
from pi_lib.interactions import Interactions
from pi_lib.reliability import ARMS, steps_to_share
from pi_lib.statistics import Difference, Estimate
from pi_lib.study import accuracies, data, schedule
from pi_lib.study.cell import PLAYERS, Cell
from pi_lib.study.steps import Step, run_record
from pi_lib.study.store import Store

AGAIN = "python -m pi_lib study --grid FILE --record FOLDER"
# Of the file's form: the first held tables of statistics; the second holds float32 values, as a
# `pi_lib.TransferStudy` does, and is read too.
VERSION, FLOAT32 = 3, 2
LEVELS = 2**16 - 1
_KEY = re.compile(r"(\w+)/([a-z]+)(\d+)(?:@(\d+))?")  # players/arm, run, @step


class RecordError(ValueError):
    """A file is no record, or one of another version; the message says how to make it."""


@dataclass(frozen=True, eq=False)
class Record:
    """A computed cell.

    Attributes
    ----------
    header : dict
        JSON values: ``cell`` (its name), ``labels`` and ``ids`` of the samples, ``players`` (names
        by set), ``logs`` (step, epoch, loss and accuracy by run), ``rates``, ``tested``, ``steps``
        (what was stored, when, on what), ``surer_of_its_own`` (by run: how often the network is
        surer of a picture of its task than of one of the task of pre-training, 0.5 for guessing),
        and more.
    games : dict of str to (B, 2**n) float32
        By ``players/armRUN`` at the end of a run, ``players/armRUN@STEP`` before, of the first of
        the samples; runs from 1 on.
    correct : dict of str to (tested,) bool
        By ``armRUN``: the test samples that the trained network got right. By ``armRUN/NAME``, for
        each of `elsewhere`: those that it got right there, which may be another number of samples.
    """

    header: dict[str, Any]
    games: dict[str, np.ndarray] = field(repr=False)
    correct: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The cell's name."""
        return self.header["cell"]

    @cached_property
    def _keys(self) -> dict[tuple[str, str], dict[int, dict[int | None, str]]]:
        """The names of the games by players and arm, run, and step (None: the end)."""
        keys = {}
        for key in self.games:
            players, arm, run, step = _KEY.fullmatch(key).groups()
            of_arm = keys.setdefault((players, arm), {})
            of_arm.setdefault(int(run), {})[step and int(step)] = key
        return keys

    def _of(self, arm: str, players: str | None) -> dict[int, dict[int | None, str]]:
        return self._keys.get((players or self.players, arm), {})

    @property
    def players(self) -> str:
        """The set of players that numbers rest on where none is named: the first that is there."""
        there = {players for players, _ in self._keys}
        return next((which for which in PLAYERS if which in there), PLAYERS[0])

    def count(self, arm: str, players: str | None = None) -> int:
        """How many runs of an arm there are."""
        return len(self._of(arm, players))

    def runs(self, arm: str, players: str | None = None) -> list[Interactions]:
        """The ends of an arm's runs, all on the same samples and players.

        Raises ValueError if the record has no such arm with these players.
        """
        runs = self._of(arm, players)
        if not runs:
            there = sorted(f"{arm} ({players})" for players, arm in self._keys)
            asked = players or self.players
            raise ValueError(f"{self.name}: no arm {arm!r} ({asked}); there are {there}")
        return [self._interactions(runs[run][None]) for run in sorted(runs)]

    @property
    def title(self) -> str:
        """The cell as people write it."""
        return self.header.get("title", self.name)

    @property
    def transfer(self) -> str:
        """The cell as people write it, without what it changes of its profile."""
        names = ("backbone", "task", "source", "pretraining", "pretraining_run")
        return Cell(**{name: self.header[name] for name in names}).title

    def has_checkpoints(self, arm: str, run: int = 1, players: str | None = None) -> bool:
        """Whether a run has games before its end."""
        return len(self._of(arm, players).get(run, ())) > 1

    def over_time(
        self, arm: str, run: int = 1, players: str | None = None
    ) -> dict[int, Interactions]:
        """A run's games at its checkpoints, by step of training; the last is its end.

        All are on the samples that the record has of every checkpoint, which may be fewer than
        those of `runs`: the first of them.
        """
        if not self.has_checkpoints(arm, run, players):
            asked = f"{ARMS.get(arm, arm)}, run {run} ({players or self.players})"
            raise ValueError(f"{self.name}: no checkpoints of {asked}")
        games = {step: self._interactions(key) for step, key in self._of(arm, players)[run].items()}
        end = games.pop(None)
        before = {step: games[step] for step in sorted(games)}
        return before | {self.header["last_step"][arm]: end[: min(map(len, before.values()))]}

    @property
    def elsewhere(self) -> list[str]:
        """What the runs were tested on beside the test samples; see `pi_lib.study.elsewhere`.

        A corruption of the test pictures, or "source": a linear probe on the run's encoder, on the
        task of pre-training.
        """
        return list(dict.fromkeys(key.split("/")[1] for key in self.correct if "/" in key))

    def accuracy(self, arm: str, on: str | None = None) -> Estimate:
        """Mean accuracy of an arm's runs on the test samples, with its 95 % interval.

        Over samples and runs where the record says which samples were right; else Wilson's. `on`
        names one of `elsewhere` instead; a ValueError if the arm was not tested on it.
        """
        correct = self._correct(arm, on)
        if correct is not None:
            return accuracies.mean_accuracy(correct)
        values = [x for key, x in self.header["accuracy"].items() if arm_of(key) == arm]
        tested = self.header["tested"]
        return accuracies.proportion(round(np.mean(values) * tested), tested)

    def gain(self, over: str = "scratch", on: str | None = None) -> Difference:
        """Accuracy of fine-tuning minus that of another arm: means over runs, `on` as `accuracy`.

        Paired by sample where the record says which samples were right; else Newcombe's interval
        of independent proportions, which is rather too wide.
        """
        first, second = self._correct("finetuned", on), self._correct(over, on)
        if first is not None and second is not None:
            return accuracies.paired_gain(first, second)
        tested = self.header["tested"]
        right = [round(self.accuracy(arm).value * tested) for arm in ("finetuned", over)]
        return accuracies.difference(right[0], tested, right[1], tested)

    def gain_over(self, other: "Record", on: str | None = None) -> Difference:
        """Accuracy of fine-tuning minus that of fine-tuning in another cell, as `gain`.

        Raises ValueError if one of the records does not say which test samples were right.
        """
        first, second = self._correct("finetuned", on), other._correct("finetuned", on)
        if first is None or second is None:
            raise ValueError(
                f"{self.name}, {other.name}: one does not say which test samples were right; make "
                f"it by {AGAIN}"
            )
        return accuracies.paired_gain(first, second)

    def accuracies(self) -> pd.DataFrame:
        """Loss and accuracy at every checkpoint: arm, run, step, progress, loss, value."""
        return pd.DataFrame(
            [
                {"arm": (arm := arm_of(key)), "run": int(key.removeprefix(arm)), "step": at["step"],
                 "progress": at["step"] / max(log[-1]["step"], 1),
                 "loss": at["loss"], "value": at["accuracy"]}
                for key, log in self.header["logs"].items()
                for at in log
            ]
        )  # fmt: skip

    def steps_to_accuracy(self, arm: str, share: float) -> list[float]:
        """Steps until a run of an arm has a share of its own final accuracy, interpolated.

        Of every run that was tested on its way, and not at its end alone.
        """
        rows = self.accuracies()
        return [
            float(steps_to_share(run["step"].tolist(), run["value"].to_numpy(), share))
            for _, run in rows[rows["arm"] == arm].groupby("run")
            if len(run) > 1
        ]

    def _correct(self, arm: str, on: str | None = None) -> np.ndarray | None:
        """Which samples each of an arm's runs got right: bool (runs, tested)."""
        end = "" if on is None else f"/{on}"
        wanted = sorted(
            key
            for key in self.correct
            if key.endswith(end) and arm_of(key.removesuffix(end)) == arm
        )
        if on is not None and not wanted:
            there = ", ".join(self.elsewhere) or "nothing: compute it with elsewhere=1"
            raise ValueError(f"{self.name}: {arm!r} was not tested on {on!r}; there is {there}")
        return np.stack([self.correct[key] for key in wanted]) if wanted else None

    def _interactions(self, key: str) -> Interactions:
        header, v = self.header, torch.from_numpy(self.games[key]).double()
        players, some = key.partition("/")[0], slice(len(v))
        names = header["players"].get(players)
        labels, ids = header["labels"][some], header["ids"][some]
        meta = header.get("meta", {}).get(players, {})
        return Interactions.from_values(v, labels, ids, names and names[some], meta)

    def save(self, folder: str | Path) -> Path:
        """Write the record as ``SLUG.npz`` into a folder; returns its path."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.header['slug']}.npz"
        games = {}
        for key, v in self.games.items():
            games[key], games[f"range/{key}"] = _levels(v)
        return write(path, self.header | {"version": VERSION}, games, self.correct)

    @classmethod
    def load(cls, path: str | Path) -> "Record":
        """Read a record; a RecordError if it is none, or one of another version.

        A FileNotFoundError if there is no such file; the message says how to make one.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no record at {path}: make it by {AGAIN}")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                header = json.loads(bytes(arrays["about"]))
                values = {name: arrays[name] for name in arrays.files if name != "about"}
        except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
            raise RecordError(f"{path} is no record ({error}): make it by {AGAIN}") from error
        if (version := header.get("version", VERSION)) not in (FLOAT32, VERSION):
            raise RecordError(f"{path} is of version {version}, not {VERSION}: make it by {AGAIN}")
        games, correct, lengths = {}, {}, header.pop("lengths", {})
        for name, x in values.items():
            if name.startswith("correct/"):
                key = name.removeprefix("correct/")
                correct[key] = np.unpackbits(x)[: lengths.get(key, header["tested"])] > 0
            elif f"range/{name}" in values:
                games[name] = _from_levels(x, values[f"range/{name}"])
            elif not name.startswith("range/"):
                games[name] = x
        return cls(header, games, correct)


def write(path: Path, header: dict, games: dict, correct: dict) -> Path:
    """Write a record's file, whole or not at all; returns its path."""
    lengths = {key: len(right) for key, right in correct.items()}
    text = json.dumps(header | {"lengths": lengths}).encode()
    arrays = games | {f"correct/{key}": np.packbits(right) for key, right in correct.items()}
    with whole(path) as aside, open(aside, "wb") as file:  # numpy would name it anew
        np.savez_compressed(file, about=np.frombuffer(text, np.uint8), **arrays)
    return path


def _levels(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (B, m) as levels, uint16, between the smallest and largest of each row (B, 2)."""
    ends = np.stack([v.min(1), v.max(1)], 1).astype(np.float64)
    width = np.maximum(ends[:, 1:] - ends[:, :1], np.finfo(np.float64).tiny)
    return np.rint((v - ends[:, :1]) / width * LEVELS).astype(np.uint16), ends


def _from_levels(levels: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The values (B, m) float32 of `_levels`, each off by at most half a level."""
    low, high = ends[:, :1], ends[:, 1:]
    return (low + levels / LEVELS * (high - low)).astype(np.float32)


def run(cell: Cell, store: Store | None = None) -> Record:
    """The record of a cell, computing here, step after step, what the store does not have yet.

    Raises what a step raises; what was finished until then is stored.
    """
    store = store or Store()
    for job in schedule.jobs(cell):
        schedule.compute(job, store)
    return collect(cell, store)


def run_all(
    cells: Sequence[Cell], store: Store | None = None, processes: int | None = None
) -> list[Record]:
    """The records of several cells, computed side by side where they are not stored.

    The store is by default that under `pi_lib.study.store.home`, `processes` are those of
    `pi_lib.study.compute_all`. Raises StudyFailed if cells failed, after all the others were
    computed.
    """
    store = store or Store()
    if failed := schedule.compute_all(cells, store, processes):
        raise schedule.StudyFailed("\n".join(f"{cell.name}: {why}" for cell, why in failed))
    return [collect(cell, store) for cell in cells]


def collect(cell: Cell, store: Store) -> Record:
    """The record of a cell whose steps are all stored."""
    rates, trainings = {}, []
    for arm in filter(cell.runs, ARMS):
        rate, tried = schedule.chosen_rate(cell, arm, store)
        rates[arm] = {"chosen": rate, "tried": {f"{r:g}": v for r, v in tried.items()}}
        trainings += [Step(cell, "train", arm, number, rate) for number in cell.runs(arm)]
    games, correct, sure, logs, last, names, meta, provenance = ({} for _ in range(8))
    for training in trainings:
        key, entry = f"{training.arm}{training.run + 1}", training.path(store)
        trained = run_record(entry)
        logs[key], last[training.arm] = trained["log"], trained["steps"][-1]
        correct[key] = load_file(entry / "correct.safetensors")["correct"][-1].astype(bool)
        provenance[f"train {key}"] = _provenance(training, store)
        for which in cell.players:
            extraction = replace(training, name="extract", players=which)
            provenance[f"extract {key}, {which} players"] = _provenance(extraction, store)
            for file in extraction.path(store).glob("*.safetensors"):
                game, ended = Interactions.load(file), int(file.stem) == last[training.arm]
                name = f"{which}/{key}" if ended else f"{which}/{key}@{file.stem}"
                games[name] = game.v.numpy().astype(np.float32)
                if ended:  # on all samples
                    labels, ids = game.labels, game.ids
                    names[which], meta[which] = game.players, game.meta
        if cell.tested_elsewhere(training.arm):
            test = replace(training, name="test")
            provenance[f"test {key}"] = _provenance(test, store)
            right, surer = _elsewhere(test.path(store))
            correct |= {f"{key}/{on}": samples for on, samples in right.items()}
            sure |= {key: surer} if surer is not None else {}
    pretrain_accuracy = None
    if cell.source is not None:
        pretraining = Step(cell, "pretrain")
        provenance["pre-train"] = _provenance(pretraining, store)
        pretrain_accuracy = run_record(pretraining.path(store))["log"][-1]["accuracy"]
    header = {
        "cell": cell.name,
        "slug": cell.slug,
        "title": cell.title,
        **asdict(cell) | {"cell_changes": dict(cell.changes), "changes": cell.changed},
        "settings": asdict(cell.settings),
        "pretrained_on": cell.pretrained_on,
        "pretrain_accuracy": pretrain_accuracy,
        "identity": data.identity(cell.task),
        "labels": labels,
        "ids": ids,
        "players": names,
        "meta": meta,
        "accuracy": {key: log[-1]["accuracy"] for key, log in logs.items()},
        "n_train": run_record(trainings[0].path(store))["settings"]["train"],
        "tested": len(next(iter(correct.values()))),
        "surer_of_its_own": sure,
        "logs": logs,
        "rates": rates,
        "last_step": last,
        "provenance": provenance,
    }
    return Record(header, games, correct)


def _provenance(step: Step, store: Store) -> dict[str, Any]:
    record = store.record(step.path(store))
    shown = ("code", "seconds", "finished", "device", "commit", "versions")
    return {key: record[key] for key in shown}


def _elsewhere(entry: Path) -> tuple[dict[str, np.ndarray], float | None]:
    """Which samples a run got right elsewhere, and how much surer it is of its own pictures."""
    right, sure = (load_file(entry / f"{name}.safetensors") for name in ("right", "sure"))
    surer = accuracies.auroc(sure["task"], sure["foreign"]) if sure else None
    return right, surer


def arm_of(key: str) -> str:
    """The arm of a run that is named as in `Record.correct`: of "finetuned1", "finetuned"."""
    return key.rstrip("0123456789")


def read_all(folder: str | Path) -> dict[str, Record]:
    """The records of a folder by the cells' names, in the order of their files.

    Raises FileNotFoundError if the folder has none; the message says how to make them.
    """
    files = sorted(Path(folder).glob("*.npz"))
    if not files:
        raise FileNotFoundError(f"no records in {folder}: make them by {AGAIN}")
    records = [Record.load(file) for file in files]
    return {record.name: record for record in records}

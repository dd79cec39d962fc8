"""Which step of a cell comes next, and who computes it.

A run of an arm goes through rounds: pre-training, the choice of a learning rate, training, then the
games of its checkpoints and the tests of its end. The steps of a round may be computed at once; the
next round is known when they are stored. `compute_all` does so for many cells, in several processes
or on a cluster.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import replace
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from pi_lib import training
from pi_lib.progress import track
from pi_lib.reliability import ARMS
from pi_lib.study import backbones, steps, workers
from pi_lib.study.cell import RATES, Cell
from pi_lib.study.steps import Step, run_record
from pi_lib.study.store import Store

Job = tuple[Cell, str, int]  # a cell, an arm, a run
Pool = workers.Processes | workers.Cluster
BEYOND = 2  # how far beyond `RATES` a learning rate is looked for, in steps of about 3


class _OutOfTime(Exception):
    """The minutes that were given are over."""


class StudyFailed(RuntimeError):
    """Some cells failed, each named with its reason; the others are stored."""


def jobs(cell: Cell) -> list[Job]:
    """The runs of a cell, those first that others wait for."""
    return [(cell, arm, run) for arm in ARMS for run in cell.runs(arm)]


def compute_all(
    cells: Sequence[Cell],
    store: Store,
    processes: int | None = None,
    cluster: workers.Cluster | None = None,
    minutes: float | None = None,
) -> list[tuple[Cell, str]]:
    """Compute what the store does not have of the cells; returns those that failed, and why.

    Parameters
    ----------
    cells : sequence of Cell
        Those that come first are finished first.
    processes : int, optional
        Default one per core, or as many as a GPU's memory takes, no more than there are runs. How
        many there are never shows in the results: a step takes one core, wherever it is computed.
    cluster : pi_lib.study.workers.Cluster, optional
        Where the steps are computed instead.
    minutes : float, optional
        After which no more is computed: the rest goes on when it is asked for again.
    """
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    asked = [job for cell in cells for job in jobs(cell)]
    if all(stored(cell, store) for cell in cells):
        return []
    processes = max(1, min(processes or workers.usual_slots(), len(asked)))
    failed = {}
    with suppress(_OutOfTime), cluster or workers.Processes(processes) as pool:
        done = finished(asked, store, pool, deadline)
        for (cell, arm, run), error in track(done, "study", len(asked)):
            if error:
                why = f"{ARMS[arm]}, run {run + 1}: {type(error).__name__}: {error}"
                failed.setdefault(cell, why)
    return list(failed.items())


def compute(job: Job, store: Store, games: bool = True) -> None:
    """Compute what the store does not have of a run, here, one step after the other.

    Without `games`, up to the end of its training. Raises what a step raises, but for learning
    rates that diverge: of these none is chosen.
    """
    for wanted in _rounds(job, store):
        if wanted[0].name == "extract" and not games:
            return
        for step in wanted:
            with suppress(training.TrainingDiverged):
                step.compute(store)


def stored(cell: Cell, store: Store) -> bool:
    """Whether the store has every step of the cell."""
    try:
        return all(_missing(_rounds(job, store), store) is None for job in jobs(cell))
    except training.TrainingDiverged:
        return False


def entries(cell: Cell, store: Store) -> list[Path]:
    """Folders of the cell's steps that the store has, each once."""
    there = {}
    for job in jobs(cell):
        with suppress(training.TrainingDiverged):  # after which nothing comes
            for wanted in _rounds(job, store):
                present = [step for step in wanted if step.stored(store)]
                there |= {step.path(store): step for step in present}
                if len(present) < len(wanted):  # what comes next is not known yet
                    break
    return list(there)


def trained_model(
    cell: Cell, arm: str, run: int = 0, store: Store | None = None
) -> backbones.Classifier:
    """The network that a run of a cell ends with, trained first if need be."""
    if arm not in ARMS or run not in cell.runs(arm):
        raise ValueError(
            f"arm={arm!r}, run={run!r}; expected one of {', '.join(ARMS)}, and a run of the "
            f"{len(cell.runs(arm)) if arm in ARMS else 0} there are, from 0 on"
        )
    store = store or Store()
    compute((cell, arm, run), store, games=False)
    return steps.trained_model(cell, arm, run, chosen_rate(cell, arm, store)[0], store)


def chosen_rate(cell: Cell, arm: str, store: Store) -> tuple[float, dict[float, dict[str, Any]]]:
    """An arm's learning rate, best on the validation samples, and what was tried.

    The arm "long" has that of "scratch"; a probe has none, 0. A TrainingDiverged if every rate
    diverged.
    """
    trials = _trials(cell, arm, store)
    if len(trials) <= 1:
        return (trials[0].rate if trials else 0.0), {}
    if not (tried := _validations(trials, store)):
        run_record(trials[-1].path(store))  # says that it diverged
    return best_rate(tried), tried


def _validations(trials: Sequence[Step], store: Store) -> dict[float, dict[str, Any]]:
    """Accuracy and loss on the validation samples by learning rate, of those that have an end."""
    tried = {}
    for trial in trials:
        with suppress(training.TrainingDiverged):
            tried[trial.rate] = run_record(trial.path(store))["settings"]["validation"]
    return tried


def best_rate(tried: dict[float, dict[str, Any]]) -> float:
    """The learning rate of the best accuracy, and of those the least loss."""
    return max(tried, key=lambda rate: (tried[rate]["accuracy"], -tried[rate]["loss"]))


def _trials(cell: Cell, arm: str, store: Store) -> list[Step]:
    """The runs among which the learning rate is chosen: the arm's first run, at each rate.

    Where the smallest or largest of those that did not diverge is best, the next one beyond it is
    tried too, `BEYOND` times at most, but none as large as one that diverged.
    """
    arm = "scratch" if arm == "long" else arm
    if arm == "probe":
        return []
    named = cell.settings.rate if arm == "finetuned" else cell.settings.scratch_rate
    if named is not None:
        return [Step(cell, "train", arm, 0, named)]
    trials = [Step(cell, "train", arm, 0, rate) for rate in RATES[cell.kind]]
    if not cell.settings.n_val:
        return trials[:1]
    for _ in range(BEYOND):
        there = all(trial.stored(store) for trial in trials)
        if not there or not (tried := _validations(trials, store)):
            return trials
        best = best_rate(tried)
        if best not in (min(tried), max(tried)):
            return trials
        beyond = float(f"{best / 3 if best == min(tried) else best * 3:.1g}")
        if any(best < trial.rate <= beyond for trial in trials if trial.rate not in tried):
            return trials
        trials.append(replace(trials[0], rate=beyond))
    return trials


def _rounds(job: Job, store: Store) -> Iterator[list[Step]]:
    """The steps of a run of an arm, those that may be computed at once together."""
    cell, arm, run = job
    if cell.source is not None and arm in ("probe", "finetuned"):
        yield [Step(cell, "pretrain")]
    while len(trials := _trials(cell, arm, store)) > 1:
        yield trials
        if _trials(cell, arm, store) == trials:  # no further rate to try
            break
    trained = Step(cell, "train", arm, run, chosen_rate(cell, arm, store)[0])
    yield [trained]
    run_record(trained.path(store))  # one that diverged has no games
    last = [replace(trained, name="extract", players=which) for which in cell.players]
    yield last + [replace(trained, name="test")] * cell.tested_elsewhere(arm)


def _missing(rounds: Iterator[list[Step]], store: Store) -> list[Step] | None:
    """What the store lacks of the next round that is not complete; None if there is no such."""
    for wanted in rounds:
        if missing := [step for step in wanted if not step.stored(store)]:
            return missing
    return None


def finished(
    asked: Sequence[Job], store: Store, pool: Pool, deadline: float = math.inf
) -> Iterator[tuple[Job, Exception | None]]:
    """Runs as all their steps are stored, or have failed; `pool` computes what is missing.

    A job asks for one round of steps at a time; those of earlier jobs come first, and one that
    several jobs ask for is computed once.
    """
    rounds = [_rounds(job, store) for job in asked]
    due, failed = deque(range(len(asked))), {}
    waiting: list[tuple[int, int, Step, Path]] = []  # a heap: job, position, step and its entry
    running: dict[Future, Path] = {}
    askers: dict[Path, list[int]] = {}  # jobs, by entry
    left = Counter()  # steps of its round, by job
    while due or waiting or running:
        if time.monotonic() > deadline:
            raise _OutOfTime
        while due:
            job = due.popleft()
            try:
                missing = None if job in failed else _missing(rounds[job], store)
            except Exception as error:
                missing, failed[job] = None, error
            if missing is None:
                yield asked[job], failed.get(job)
                continue
            left[job] = len(missing)
            for position, step in enumerate(missing):
                entry = step.path(store)
                if entry not in askers:
                    heappush(waiting, (job, position, step, entry))
                askers.setdefault(entry, []).append(job)
        while waiting and len(running) < pool.slots:
            *_, step, entry = heappop(waiting)
            running[pool.submit(step, store)] = entry
        seconds = None if deadline == math.inf else max(0, deadline - time.monotonic())
        for future in wait(running, seconds, FIRST_COMPLETED).done:
            error = future.exception()
            for job in askers.pop(running.pop(future)):
                if error and not isinstance(error, training.TrainingDiverged):
                    failed.setdefault(job, error)  # what diverged is stored, for `best_rate` to see
                left[job] -= 1
                if not left[job]:
                    due.append(job)

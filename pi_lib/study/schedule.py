"""One cell of the study, from data to results: train, extract, compare; each step stored once.

A cell is a backbone, what it was pre-trained on, a downstream task, a seed and a profile. It is a
pure function of these: three runs (linear probe, fine-tuned, scratch) and their interactions on
the same samples at every checkpoint. What is stored at a time is a `Step`: `run` computes the
missing ones here, `run_all` and `compute_all` in several processes or on a cluster.
"""

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from pi_lib import training
from pi_lib.progress import track
from pi_lib.study import backbones, workers
from pi_lib.study.cell import LEARNING_RATES, PHASES, Cell
from pi_lib.study.steps import Step, model_at, run_record
from pi_lib.study.store import Store


class StudyFailed(RuntimeError):
    """Some cells failed, each named with its reason; the others are stored."""


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
    cluster : pi_lib.study.workers.Cluster, optional
        Where the steps are computed instead.
    """
    jobs = [(cell, phase) for cell in cells for phase in PHASES]
    if all(stored(cell, store) for cell in cells):
        return []
    processes = max(1, min(processes or os.cpu_count() or 1, len(jobs)))
    failed = {}
    with cluster or workers.Processes(processes) as pool:
        for cell, phase, error in track(finished(jobs, store, pool), "study", len(jobs)):
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


def trained_model(cell: Cell, phase: str, store: Store | None = None) -> backbones.Classifier:
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
    return model_at(Step(cell, "extract", phase, chosen_rate(cell, phase, store)[0]), store)


def _rounds(cell: Cell, phase: str, store: Store) -> Iterator[list[Step]]:
    """The steps of a phase, those that may be computed at once together.

    A round is known when those before it are stored: trials choose the learning rate.
    """
    if cell.source is not None and phase != "scratch":
        yield [Step(cell, "pretrain")]
    if len(trials := _trials(cell, phase)) > 1:
        yield trials
    trained = Step(cell, "train", phase, chosen_rate(cell, phase, store)[0])
    yield [trained]
    yield extractions(trained, store)


def _missing(rounds: Iterator[list[Step]], store: Store) -> list[Step] | None:
    """What the store lacks of the next round that is not complete; None if there is no such."""
    for steps in rounds:
        if missing := [step for step in steps if not step.stored(store)]:
            return missing
    return None


def finished(
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
                    failed.setdefault(
                        job, error
                    )  # what diverged is stored, for `chosen_rate` to see
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


def chosen_rate(cell: Cell, phase: str, store: Store) -> tuple[float, dict[float, dict[str, Any]]]:
    """The learning rate that is best on the validation split with seed 0, and what was tried."""
    trials = _trials(cell, phase)
    if len(trials) == 1:
        return trials[0].rate, {}
    tried, diverged = {}, None
    for trial in trials:
        try:
            tried[trial.rate] = run_record(trial.path(store))["settings"]["validation"]
        except training.TrainingDiverged as error:
            diverged = error
    if not tried:
        raise diverged
    best = max(tried, key=lambda rate: (tried[rate]["accuracy"], -tried[rate]["loss"]))
    return best, tried


def extractions(trained: Step, store: Store) -> list[Step]:
    """Interactions at every checkpoint of a stored run; a probe's at its end."""
    about = run_record(trained.path(store))
    steps = about["steps"][-1:] if trained.phase == "probe" else about["steps"]
    return [replace(trained, name="extract", at=at) for at in steps]

"""What a computed cell holds, read from the store: its runs and their interactions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi_lib import knowledge
from pi_lib.interactions import Interactions, sum_by_order
from pi_lib.knowledge import Knowledge, Learned, Trajectory
from pi_lib.statistics import Estimate, accuracy_estimate
from pi_lib.study import workers
from pi_lib.study.cell import COLUMNS, PHASES, Cell
from pi_lib.study.schedule import StudyFailed, chosen_rate, compute_all, extractions, finished
from pi_lib.study.steps import Step, run_record
from pi_lib.study.store import Store

if TYPE_CHECKING:
    import pandas as pd


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


def run(cell: Cell, store: Store | None = None) -> Result:
    """The cell's results, computing here what the store does not have yet.

    Parameters
    ----------
    cell : Cell
        What is studied.
    store : Store, optional
        Default the store under `pi_lib.study.store.home`.
    """
    store = store or Store()
    for *_, error in finished([(cell, phase) for phase in PHASES], store, workers.Here()):
        if error:
            raise error
    phases, entries = {}, {}
    if cell.source is not None:
        entries["pre-train"] = Step(cell, "pretrain").path(store)
    for name in PHASES:
        rate, tried = chosen_rate(cell, name, store)
        step = Step(cell, "train", name, rate)
        trained = entries[f"train {name}"] = step.path(store)
        about = run_record(trained)
        extracted = {at.at: at.path(store) for at in extractions(step, store)}
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
        Default the store under `pi_lib.study.store.home`.
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

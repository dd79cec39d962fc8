"""Records of version 1: tables of statistics of single runs, and claims held against them.

They hold one run an arm and seed, on samples of its own, and no games: there is no second run in
them, and no chance level. The chapters beyond the paper still draw them, and say so; no new ones
are made. `pi_lib.study.record` is what replaces them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pi_lib.knowledge import Trajectory, rise_over_variation
from pi_lib.statistics import (
    Estimate,
    bootstrap,
    crossing,  # noqa: F401 - chapter 15 takes it from here
    difference,
    proportion,
    rank_correlation,
    ratio_of_sums,
)

if TYPE_CHECKING:
    import pandas as pd

CELL = ["backbone", "source", "task", "changes"]
QUANTITIES = {
    "preserved": "share of the pre-trained strength that is preserved",
    "new": "share of the fine-tuned strength that is new",
    "learned by scratch": "share of the preserved strength that scratch learned",
    "only scratch": "share of the scratch model's strength that the fine-tuned model has not",
    "salient error": "part of the variance of v that salient interactions leave out, fine-tuned",
}


@dataclass(frozen=True)
class Claim:
    """A claim of arXiv 2410.08455 as a number that lies in a region.

    Attributes
    ----------
    name, number : str
        The claim, and the number that stands for it.
    low, high : float
        The region in which the claim holds.
    estimate : callable
        From a cell's rows of the table to an `Estimate`.
    """

    name: str
    number: str
    low: float
    high: float
    estimate: "Callable[[pd.DataFrame], Estimate]"

    def verdict(self, estimate: Estimate) -> str:
        """Whether an estimate confirms the claim, contradicts it, or neither.

        Examples
        --------
        >>> CLAIMS[0].verdict(Estimate(0.3, 0.2, 0.4)), CLAIMS[0].verdict(Estimate(0.5, 0.4, 0.6))
        ('confirmed', 'undecided')
        """
        if self.low < estimate.low and estimate.high < self.high:
            return "confirmed"
        if estimate.high < self.low or estimate.low > self.high:
            return "contradicted"
        return "undecided"


def recorded(path: str | Path) -> "tuple[pd.DataFrame, dict]":
    """A table, and where it comes from: the files ``.parquet`` and ``.json`` of one name.

    Raises
    ------
    FileNotFoundError
        If there is no such table. No new ones are made.
    """
    import pandas as pd

    table = Path(path).with_suffix(".parquet")
    if not table.is_file():
        raise FileNotFoundError(f"no table at {table}: this form of record is not made any more")
    return pd.read_parquet(table), json.loads(table.with_suffix(".json").read_text())


def share(table: "pd.DataFrame", quantity: str, phase: str = "") -> Estimate:
    """A quantity of `QUANTITIES` over all samples and orders of the table's rows."""
    rows = _rows(table, quantity, phase)
    sums = rows.groupby(["seed", "sample"])[["numerator", "denominator"]].sum()
    return bootstrap(*sums.to_numpy().T, statistic=ratio_of_sums)


def correct(table: "pd.DataFrame", phase: str) -> tuple[int, int]:
    """How many test samples were right at the end of a phase, of how many, over all seeds."""
    rows = _rows(table, "accuracy", phase)
    last = rows[rows["progress"] == 1]
    return int(last["numerator"].sum()), int(last["denominator"].sum())


def accuracy(table: "pd.DataFrame", phase: str) -> Estimate:
    """Accuracy at the end of a phase over all seeds, with its 95 % Wilson interval."""
    right, tested = correct(table, phase)
    return proportion(right, tested)


def gain(table: "pd.DataFrame", over: str = "scratch") -> Estimate:
    """Accuracy of the fine-tuned model minus that of another phase, 95 % normal interval."""
    return difference(*correct(table, "finetuned"), *correct(table, over))


def area_gain(table: "pd.DataFrame") -> Estimate:
    """Mean over samples of the area under the fine-tuned curve minus that under scratch's."""
    return bootstrap(_area_gains(table))


def directness_gain(table: "pd.DataFrame") -> Estimate:
    """Directness of the mean fine-tuned curve minus that of scratch's."""
    curves = [_trajectory(table, phase).similarity.numpy() for phase in ("finetuned", "scratch")]
    split = len(curves[0])

    def statistic(*rows, axis=-1):
        means = np.stack([row.mean(axis) for row in rows], -1)
        fine, scratch = (
            np.apply_along_axis(rise_over_variation, -1, part)
            for part in (means[..., :split], means[..., split:])
        )
        return (fine - scratch).round(12)  # two monotone curves differ by nothing

    return bootstrap(*curves[0], *curves[1], statistic=statistic)


def order_gap(table: "pd.DataFrame", part: str) -> Estimate:
    """Mean order of the "discarded" or "new" part minus that of the preserved."""
    preserved = _by_order(table, "preserved", "numerator")
    if part == "new":
        other = _by_order(table, "new", "numerator")
    else:
        other = _by_order(table, "preserved", "denominator") - preserved
    orders = np.arange(1, other.shape[1] + 1)

    def difference(a, b, c, d, axis=-1):
        return ratio_of_sums(a, b, axis) - ratio_of_sums(c, d, axis)

    sums = (other @ orders, other.sum(1), preserved @ orders, preserved.sum(1))
    return bootstrap(*sums, statistic=difference)


CLAIMS = (
    Claim(
        "only a small part is preserved", "preserved share", -np.inf, 0.5,
        lambda rows: share(rows, "preserved"),
    ),
    Claim(
        "the complex part is discarded most", "mean order, discarded minus preserved", 0, np.inf,
        lambda rows: order_gap(rows, "discarded"),
    ),
    Claim(
        "much is learned anew", "new share", 0.5, np.inf, lambda rows: share(rows, "new"),
    ),
    Claim(
        "what is new is complex", "mean order, new minus preserved", 0, np.inf,
        lambda rows: order_gap(rows, "new"),
    ),
    Claim(
        "what is preserved is hard to learn from scratch",
        "share that scratch learned, at most the paper's 0.45", -np.inf, 0.45,
        lambda rows: share(rows, "learned by scratch"),
    ),
    Claim(
        "fine-tuning approaches its end faster", "area, fine-tuned minus scratch", 0, np.inf,
        area_gain,
    ),
    Claim(
        "and more directly", "directness, fine-tuned minus scratch", 0, np.inf, directness_gain,
    ),
)  # fmt: skip


def cells(table: "pd.DataFrame"):
    """The table's cells by name, each with its rows, all seeds together."""
    for (backbone, source, task, changes), rows in table.groupby(CELL, sort=False):
        yield f"{backbone} ({source}) on {task}" + (changes and f", {changes}"), rows


def changed(texts: "pd.Series | pd.Index", setting: str) -> "pd.Series | pd.Index":
    """What cells changed a setting to, from the column ``changes`` or their names; NaN if not.

    Examples
    --------
    >>> import pandas as pd
    >>> changed(pd.Series(["epochs=3, n_train=100", "rate=1e-05"]), "n_train").tolist()
    [100.0, nan]
    """
    return texts.str.extract(rf"\b{setting}=([\d.e+-]+)", expand=False).astype(float)


def objective(table: "pd.DataFrame") -> "pd.Series":
    """What each row's network was pre-trained to do: one of `pi_lib.objectives.OBJECTIVES`."""
    return table["source"].str.extract(r", (\w+)$", expand=False).fillna("supervised")


def findings(table: "pd.DataFrame") -> "pd.DataFrame":
    """Every claim in every cell.

    Returns
    -------
    DataFrame
        ``claim, number, cell, verdict, value, low, high``; ``least, most`` over seeds; ``seeds``,
        ``samples`` that the number rests on; the claim's region ``from, to``.
    """
    import pandas as pd

    verdicts = []
    for claim in CLAIMS:
        for cell, rows in cells(table):
            estimate = claim.estimate(rows)
            by_seed = [claim.estimate(part).value for _, part in rows.groupby("seed")]
            known = [value for value in by_seed if not np.isnan(value)] or [np.nan]
            verdicts.append(
                {
                    "claim": claim.name, "number": claim.number, "cell": cell,
                    "verdict": claim.verdict(estimate), "value": estimate.value,
                    "low": estimate.low, "high": estimate.high,
                    "least": min(known), "most": max(known), "seeds": len(by_seed),
                    "samples": _samples(rows), "from": claim.low, "to": claim.high,
                }
            )  # fmt: skip
    return pd.DataFrame(verdicts)


def correlations(table: "pd.DataFrame") -> "pd.DataFrame":
    """Spearman's rank correlation over cells of the preserved share with accuracy and with gain.

    Returns
    -------
    DataFrame
        ``of, rho, low, high, cells, verdict``: "positive", "negative" or "undecided"; undecided
        without a number where there are fewer than 5 cells. Intervals from resampling cells.
    """
    import pandas as pd

    values = summary(table).map(lambda estimate: estimate.value)
    columns = {
        "accuracy, fine-tuned": "accuracy finetuned",
        "gain over scratch": "gain over scratch",
    }
    rows = []
    for name, column in columns.items():
        rho = rank_correlation(values["preserved"], values[column])
        side = rho.compared_with(0)
        rows.append(
            {
                "of": f"preserved share with {name}", "rho": rho.value, "low": rho.low,
                "high": rho.high, "cells": len(values),
                "verdict": {"above": "positive", "below": "negative"}.get(side, side),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def summary(table: "pd.DataFrame") -> "pd.DataFrame":
    """One row per cell: accuracies, gain over scratch and every share, each an `Estimate`."""
    import pandas as pd

    numbers = {}
    for cell, rows in cells(table):
        numbers[cell] = {f"accuracy {phase}": accuracy(rows, phase) for phase in _PHASES}
        numbers[cell]["gain over scratch"] = gain(rows)
        for name in QUANTITIES:
            phase = "finetuned" if name == "salient error" else ""
            numbers[cell][name] = share(rows, name, phase)
    return pd.DataFrame.from_dict(numbers, orient="index")


_PHASES = ("probe", "finetuned", "scratch")


def _rows(table: "pd.DataFrame", quantity: str, phase: str = "") -> "pd.DataFrame":
    rows = table[(table["quantity"] == quantity) & (table["phase"] == phase)]
    if rows.empty:
        there = sorted(table["quantity"].unique())
        raise ValueError(f"the table has no rows of {quantity!r} {phase!r}; it has {there}")
    return rows


def _samples(table: "pd.DataFrame") -> int:
    return len(table.loc[table["sample"] >= 0, ["seed", "sample"]].drop_duplicates())


def _by_order(table: "pd.DataFrame", quantity: str, column: str) -> np.ndarray:
    """(samples of all seeds, orders)."""
    rows = _rows(table, quantity)
    return rows.pivot_table(index=["seed", "sample"], columns="order", values=column).to_numpy()


def _trajectory(table: "pd.DataFrame", phase: str) -> Trajectory:
    import torch

    rows = _rows(table, "similarity to own end", phase)
    curves = rows.pivot_table(index="step", columns=["seed", "sample"], values="numerator")
    return Trajectory(curves.index.tolist(), torch.tensor(curves.to_numpy()))


def _area_gains(table: "pd.DataFrame") -> np.ndarray:
    fine, scratch = (_trajectory(table, phase).areas() for phase in ("finetuned", "scratch"))
    return fine - scratch

"""Cells held against each other, and against what they differ in: labels, domains, pre-training.

A quantity of a cell, such as its gain or a similarity, has an interval over test samples. Whether
it goes with a number of the cells is a rank correlation over cells; whether it differs between two
cells, a difference paired by sample. On both falls a verdict, as in `pi_lib.study.findings`, its p
corrected for how many numbers are looked at together.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial

import numpy as np
import pandas as pd
import torch

from pi_lib.knowledge import HardToLearn, hard_to_learn
from pi_lib.reliability import Arms, Moments, Origins, commonality
from pi_lib.statistics import Difference, Estimate
from pi_lib.study.accuracies import mean_of_runs
from pi_lib.study.across_cells import rank_correlation
from pi_lib.study.cell import Cell, changes_in_words
from pi_lib.study.findings import Runs, is_known, with_verdicts
from pi_lib.study.record import Record, arm_of

ALL_LAYERS = "all layers"  # the way to fine-tune that the others are held against
WAYS = ("rate", "frozen", "probe_first", "pull", "lora")  # settings that are a way to fine-tune
AT_RATES = {  # by the setting that names a learning rate
    None: "each arm at the learning rate that suits it",
    "rate": "both at the rate that suits scratch",
    "scratch_rate": "both at the rate that suits fine-tuning",
}
OTHER_RATES = "learning rates that were named beforehand"
COLUMNS = ["cell", "quantity", "of", "value", "low", "high", "note"]


def quantities(runs: Mapping[str, Runs]) -> pd.DataFrame:
    """What is measured of each cell, to be held against what the cells differ in.

    Returns ``cell, quantity, of, value, low, high, note``. Quantities: "accuracy" of each arm;
    "gain" in accuracy over "scratch"; "similarity" of "probe" and "scratch" with the fine-tuned
    runs; "origins", the shares of `pi_lib.reliability.Origins`.
    """
    numbers = {}
    for name, cell in runs.items():
        numbers |= {(name, "accuracy", arm): cell.record.accuracy(arm) for arm in cell.arms}
        numbers[name, "gain", "scratch"] = cell.record.gain()
        numbers |= {
            (name, *key): Estimate.unmeasurable(note) if note else Estimate.of_resamples(values)
            for key, (values, note) in _resampled(cell).items()
        }
    return _frame(numbers)


def elsewhere(runs: Mapping[str, Runs]) -> pd.DataFrame:
    """What networks are good for beside their task, and how much of them would come back.

    Columns as of `quantities`. Quantities: "reliability" of "finetuned"; of each arm, accuracy on
    what the record has in `Record.elsewhere`, by the same names; and "foreign", how often it is
    surer of a picture of its task than of one of the task of pre-training (AUROC), a mean over runs
    with Student's 95 % interval.
    """
    numbers = {}
    for name, cell in runs.items():
        record, arms = cell.record, [arm for arm in cell.arms if arm != "long"]
        numbers[name, "reliability", "finetuned"] = cell.moments().reliability("finetuned")
        for on in record.elsewhere:
            numbers |= {(name, on, arm): record.accuracy(arm, on=on) for arm in arms}
        surer = record.header.get("surer_of_its_own", {})
        for arm in arms:
            if by_run := [value for run, value in surer.items() if arm_of(run) == arm]:
                numbers[name, "foreign", arm] = mean_of_runs(by_run)
    return _frame(numbers)


def trends(
    frame: pd.DataFrame, x: Mapping[str, float], given: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """How quantities go with a number of each cell, such as its labels: rank correlations.

    `frame` is of `quantities`, as many of them as are looked at together; `x` a number by cell;
    `given` another, that is held fixed, as `rank_correlation` does it.

    Returns ``quantity, of``; ``cells`` in which it is measurable; ``first, last``, the `Estimate`
    in those of the least and of the largest `x`; ``tested``, the rank correlation; ``p``, corrected
    for the number of quantities; ``verdict``: "rises", "falls", or as in `VERDICTS`.
    """
    rows = []
    for (quantity, of), part in frame.groupby(["quantity", "of"], sort=False):
        part = part.assign(x=part["cell"].map(x)).dropna(subset=["x", "value"]).sort_values("x")
        ends = [Estimate(*part.iloc[k][["value", "low", "high"]]) for k in (0, -1) if len(part)]
        first, last = ends or [Estimate.unmeasurable("in no cell")] * 2
        fixed = None if given is None else part["cell"].map(given)
        rows.append(
            {"quantity": quantity, "of": of, "cells": len(part), "first": first, "last": last,
             "tested": rank_correlation(part["x"], part["value"], fixed)}
        )  # fmt: skip
    frame = pd.DataFrame(rows, columns=["quantity", "of", "cells", "first", "last", "tested"])
    return _judged(frame, "rises", "falls")


def contrasts(pairs: Mapping[str, tuple[Runs, Runs]]) -> pd.DataFrame:
    """Quantities of a cell minus those of another, paired by sample.

    `pairs` are by the name that the comparison shall have; a ValueError if both were not asked
    about the same samples.

    Returns ``cell``, the name; ``quantity, of`` as `quantities` gives them, of accuracies that of
    the fine-tuned runs, on the test samples and on what both have in `Record.elsewhere`;
    ``tested``, the difference; ``p``, corrected for the number of comparisons of each quantity;
    ``verdict``: "more", "less", or as in `VERDICTS`.
    """
    rows = []
    for name, (first, second) in pairs.items():
        one, other = first.record, second.record
        if one.header["ids"] != other.header["ids"]:
            raise ValueError(f"{name}: the two cells were asked about other samples; compare cells")
        rows.append((name, "accuracy", "finetuned", one.gain_over(other)))
        for on in one.elsewhere:
            if on in other.elsewhere:
                rows.append((name, on, "finetuned", one.gain_over(other, on=on)))
        resampled = _resampled(second)
        for key, (values, note) in _resampled(first).items():
            others, other_note = resampled[key]
            with np.errstate(invalid="ignore"):  # resamples in which nothing is shared
                difference = Difference.of_resamples(values - others)
            if why := note or other_note:
                difference = Difference.unmeasurable(why)
            rows.append((name, *key, difference))
    frame = pd.DataFrame(rows, columns=["cell", "quantity", "of", "tested"])
    return _judged(frame, "more", "less", by=["quantity", "of"])


def by_rates(records: Iterable[Record]) -> dict[str, dict[str, Runs]]:
    """Cells by title, by the learning rates of the two arms, in words, as far as there are any."""
    cells: dict[str, dict[str, Runs]] = {words: {} for words in [*AT_RATES.values(), OTHER_RATES]}
    for record in records:
        chosen = {record.header["rates"][arm]["chosen"] for arm in ("finetuned", "scratch")}
        named = [name for name in AT_RATES if name in record.header["cell_changes"]] or [None]
        alike = named == [None] or (len(named) == 1 and len(chosen) == 1)
        cells[AT_RATES[named[0]] if alike else OTHER_RATES][record.title] = Runs(record)
    return {words: group for words, group in cells.items() if group}


def by_pretraining(records: Iterable[Record]) -> dict[str, list[Runs]]:
    """Cells whose pre-training was done more than once, by their name, each as often as it was."""
    cells: dict[str, list[Runs]] = {}
    for record in records:
        if record.header["source"] is not None:
            labels = {"n_train": record.header["cell_changes"].get("n_train")}
            fields = ("backbone", "task", "source", "pretraining")
            title = Cell(**{name: record.header[name] for name in fields}).title
            name = ", ".join(filter(None, [title, changes_in_words(labels)]))
            cells.setdefault(name, []).append(Runs(record))
    return {name: several for name, several in cells.items() if len(several) > 1}


class Pretrainings:
    """Cells that differ in nothing but their pre-training, held against each other.

    All products are between *different* pre-trainings: what one of them has by chance counts as
    noise, in its probe and in what fine-tuned runs have of it. Claims that are not over time are
    tested on it as on `Runs`, see `pi_lib.study.findings.tested`.

    `cells` are those `Runs`. A ValueError if there are fewer than two, or other samples or players
    in one.
    """

    ARMS = "probe", "finetuned"

    def __init__(self, cells: Sequence[Runs]):
        if len(cells) < 2:
            raise ValueError(f"got {len(cells)} pre-training; what comes back in another takes two")
        self.cells, self.several, self.n = cells, range(len(cells)), cells[0].n
        arms = {f"{x}{k}": cell.arms[x] for k, cell in enumerate(cells) for x in self.ARMS}
        scratch = []  # runs that cells have in common count once
        for run in (run for cell in cells for run in cell.arms["scratch"]):
            if not any(torch.equal(run.v, other.v) for other in scratch):
                scratch.append(run)
        # a probe that is an optimum comes back as it is
        self.exact = {arm for arm in arms if len(arms[arm]) == 1}
        self._products = Arms(arms | {"scratch": scratch}, "walsh")
        self._moments: dict[tuple | None, Moments] = {}

    def moments(self, orders: Sequence[int] | None = None) -> Moments:
        """Products of all runs over some orders, of all samples and of each resample."""
        key = None if orders is None else tuple(orders)
        if key not in self._moments:
            self._moments[key] = self._products.moments(orders)
        return self._moments[key]

    def shared(self, first: str, second: str, orders: Sequence[int] | None = None) -> np.ndarray:
        """What two arms have in common, of all samples and of each resample (1 + N,)."""
        moments = self.moments(orders)
        if first == second == "scratch":
            return moments.shared("scratch")
        pairs = [
            (one, other)
            for k, one in self._by_pretraining(first).items()
            for m, other in self._by_pretraining(second).items()
            if k != m
        ]
        return np.mean([moments.shared(*pair) for pair in pairs], 0)

    def _by_pretraining(self, arm: str) -> dict[int | None, str]:
        if arm == "scratch":  # it has none
            return {None: arm}
        return {k: f"{arm}{k}" for k in self.several}

    def known(self, orders: Sequence[int] | None = None) -> np.ndarray:
        """What fine-tuned runs reproducibly know, whichever their pre-training (1 + N,)."""
        return self.shared("finetuned", "finetuned", orders)

    def similarities(
        self, first: str, second: str, orders: Sequence[int] | None = None
    ) -> tuple[np.ndarray, str]:
        """As `Moments.similarities`."""
        own = {arm: self.shared(arm, arm, orders) for arm in (first, second)}
        notes = (self.moments(orders).nothing_shared(x, arm) for arm, x in own.items())
        root = [np.sqrt(np.where(x > 0, x, np.nan)) for x in own.values()]
        rho = self.shared(first, second, orders) / root[0] / root[1]
        return rho, next(filter(None, notes), "")

    def in_common(self, orders: Sequence[int] | None = None) -> tuple[np.ndarray, str]:
        """As `Runs.in_common`: how much of what fine-tuned runs know do probes explain."""
        rho, note = self.similarities("probe", "finetuned", orders)
        return rho * np.abs(rho), note

    @cached_property
    def comparable_orders(self) -> list[int]:
        """As `Runs.comparable_orders`."""
        return [m for m in range(1, self.n + 1) if is_known(*self.in_common([m]))]

    @cached_property
    def hard(self) -> dict[str, HardToLearn]:
        """As `Runs.hard`, but second runs are from another pre-training, a mean over them."""
        arms = [x for x in ("scratch", "long") if all(x in cell.arms for cell in self.cells)]
        return {arm: HardToLearn.mean([*map(partial(self._hard, arm), self.cells)]) for arm in arms}

    def _hard(self, arm: str, cell: Runs) -> HardToLearn:
        """Of one pre-training, beside runs that were fine-tuned from the others."""
        second = [run for x in self.cells if x is not cell for run in x.arms["finetuned"]]
        own = [cell.arms[x] for x in ("probe", "finetuned", arm)]
        return hard_to_learn(*own, cell.tau, second_runs=second)

    def comes_back(self, orders: Sequence[int] | None = None) -> dict[str, Estimate]:
        """How much comes back under another pre-training: 1 for all, 0 by chance.

        Of what a "probe" knows (of what probes under several heads agree on, where they were
        trained); of what "finetuned" runs from the same weights reproducibly know; and the
        "difference" of the two.
        """
        moments, part = self.moments(orders), {}
        for arm in self.ARMS:
            same_weights = [
                moments.power(name) if name in self.exact else moments.shared(name)
                for name in self._by_pretraining(arm).values()
            ]
            part[arm] = self.shared(arm, arm, orders) / np.mean(same_weights, 0)
        found = {arm: Estimate.of_resamples(values) for arm, values in part.items()}
        difference = Difference.of_resamples(part["finetuned"] - part["probe"])
        return found | {"difference": difference}

    def origins(self) -> Origins:
        """Where what comes back of fine-tuned runs comes from."""
        pairs = ("probe", "finetuned"), ("scratch", "finetuned"), ("probe", "scratch")
        rho, notes = zip(*(self.similarities(*pair) for pair in pairs), strict=True)
        parts, alike = commonality(*rho)
        if note := next(filter(None, notes), alike):
            return Origins(*[Estimate.unmeasurable(note)] * len(Origins.PARTS))
        return Origins(**{part: Estimate.of_resamples(x) for part, x in parts.items()})


def by_way(records: Iterable[Record]) -> dict[str, dict[str, Record]]:
    """Records by cell, as people write it, and within it by the way to fine-tune, in words.

    Of ways, `ALL_LAYERS` comes first, and one that is the same is left out. A learning rate that
    was set beforehand is lower or higher than that of all layers; where it goes with another way,
    the name leaves it out.
    """
    cells: dict[str, list[tuple[dict, Record]]] = {}
    for record in records:
        changes = record.header["cell_changes"]
        way = {name: changes[name] for name in WAYS if changes.get(name)}
        others = {name: value for name, value in changes.items() if name not in WAYS}
        cell = ", ".join(filter(None, [record.transfer, changes_in_words(others)]))
        cells.setdefault(cell, []).append((way, record))
    return {cell: _named(ways) for cell, ways in cells.items()}


def _named(ways: Iterable[tuple[dict, Record]]) -> dict[str, Record]:
    """Records of a cell by their way; none of two that differ in their learning rate is lost."""
    named: dict[str, Record] = {}
    for way, record in sorted(
        ways, key=lambda pair: [(WAYS.index(name), value) for name, value in pair[0].items()]
    ):
        words, plain = changes_in_words(way), named.get(ALL_LAYERS)
        if plain is not None and list(way) == ["rate"]:
            usual = plain.header["rates"]["finetuned"]["chosen"]
            said = f"a {'lower' if way['rate'] < usual else 'higher'} learning rate"
            words = "" if way["rate"] == usual else words if said in named else said
        elif "rate" in way and len(way) > 1:
            said = changes_in_words({name: way[name] for name in way if name != "rate"})
            words = words if said in named else said
        named.setdefault(words or ALL_LAYERS, record)
    return named


def gains(runs: Mapping[str, Runs]) -> pd.DataFrame:
    """Whether pre-training helps in each cell: the gain in accuracy over training from scratch.

    Returns ``cell``; ``tested``, the gain; ``p``, corrected for the number of cells; ``verdict``:
    "helps", "hurts", or as in `VERDICTS`.
    """
    rows = [(name, cell.record.gain()) for name, cell in runs.items()]
    return _judged(pd.DataFrame(rows, columns=["cell", "tested"]), "helps", "hurts")


def _frame(numbers: Mapping[tuple, Estimate]) -> pd.DataFrame:
    rows = [(*key, x.value, x.low, x.high, x.note) for key, x in numbers.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def _judged(frame: pd.DataFrame, above: str, below: str, by: Sequence[str] = ()) -> pd.DataFrame:
    """The frame with its verdicts, in these words."""
    words = {"confirmed": above, "contradicted": below}
    return with_verdicts(frame, by).replace({"verdict": words})


def _resampled(runs: Runs) -> dict[tuple[str, str], tuple[np.ndarray, str]]:
    """Similarities and origins, of all samples and of each resample, and why not, if so."""
    moments = runs.moments()
    parts, note = moments.origin_parts()
    similarities = {
        ("similarity", arm): moments.similarities(arm, "finetuned") for arm in ("probe", "scratch")
    }
    return similarities | {("origins", part): (values, note) for part, values in parts.items()}

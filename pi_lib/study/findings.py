"""The paper's claims held against records: each against chance and a second run.

A claim is a number that is above 0 if the claim holds. It is *confirmed* in a cell if the number's
95 % interval lies above 0 and its p, corrected for the number of cells (Holm 1979), is below 0.05;
*contradicted* if it lies below; *undecided* if neither; *not measurable* where single runs agree on
too little to be compared. Beside it stand the paper's own share, the same share between shuffled
interactions (chance), and between two fine-tuned runs (second run).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pi_lib.knowledge import (
    HardToLearn,
    Knowledge,
    Share,
    compare,
    hard_to_learn,
    learned_by_scratch,
    trajectory,
)
from pi_lib.reliability import ARMS, Approach, Arms, Moments, Origins, approach, order_groups
from pi_lib.statistics import TAIL, Difference, Estimate, bootstrap
from pi_lib.study.across_cells import holm
from pi_lib.study.record import Record

if TYPE_CHECKING:
    from pi_lib.study.comparisons import Pretrainings

VERDICTS = ("confirmed", "contradicted", "undecided", "not measurable")
LEVEL = 0.05  # of a p corrected for the number of cells
PAPER_LEARNED = 0.45  # arXiv 2410.08455: scratch learned at most this much of the preserved part


class Runs:
    """The runs of a record on one set of players, and what several claims need of them.

    `players` are "drawn" or "covering", by default the first of them that the record has; `tau` is
    the threshold of salience in the paper's own shares. A ValueError where an arm has too few runs.
    """

    def __init__(self, record: Record, players: str | None = None, tau: float = 0.05):
        self.record, self.players, self.tau = record, players or record.players, tau
        self.arms = {
            arm: record.runs(arm, self.players) for arm in ARMS if record.count(arm, self.players)
        }
        self.n = self.arms["probe"][0].n
        self._moments: dict[tuple, Moments] = {}

    @cached_property
    def _products(self) -> Arms:
        probe, *twins = self.arms["probe"]
        # a probe that is an optimum comes back as it is
        arms = self.arms if twins else self.arms | {"probe": probe}
        return Arms(arms, "walsh", several=list(arms))

    def moments(self, orders: Sequence[int] | None = None, *, centred: bool = False) -> Moments:
        """Products of all runs over some orders, of all samples and of each resample."""
        key = centred, None if orders is None else tuple(orders)
        if key not in self._moments:
            self._moments[key] = self._products.moments(orders, centred)
        return self._moments[key]

    def in_common(self, orders: Sequence[int] | None = None) -> tuple[np.ndarray, str]:
        """How much of what fine-tuned runs reproducibly know the probe explains.

        The similarity squared, with its sign, of all samples and of each resample (1 + N,); and why
        it is not measurable, if so.
        """
        rho, note = self.moments(orders).similarities("probe", "finetuned")
        return rho * np.abs(rho), note

    def known(self, orders: Sequence[int] | None = None) -> np.ndarray:
        """What fine-tuned runs reproducibly know, of all samples and of each resample (1 + N,)."""
        return self.moments(orders).shared("finetuned")

    @cached_property
    def comparable_orders(self) -> list[int]:
        """Orders in which the share in common is known, see `is_known`."""
        return [m for m in range(1, self.n + 1) if is_known(*self.in_common([m]))]

    @cached_property
    def knowledge(self) -> Knowledge:
        """Preserved, discarded and new, of the first runs: the paper's measure."""
        probe, (first, *others) = self.arms["probe"][0], self.arms["finetuned"]
        return compare(probe, first, self.tau, second_runs=others)

    @cached_property
    def preserved(self) -> Share:
        """The paper's preserved share, with chance and a second run."""
        return self.knowledge.preserved_share()

    def learned(self, arm: str = "scratch") -> Share:
        """The paper's share of the preserved part that an arm's first run has."""
        return learned_by_scratch(self.knowledge, self.arms[arm][0]).ratio()

    @cached_property
    def hard(self) -> dict[str, HardToLearn]:
        """Preserved and new knowledge in second fine-tuned runs and in networks from scratch."""
        probe, finetuned = self.arms["probe"], self.arms["finetuned"]
        return {
            arm: hard_to_learn(probe, finetuned, self.arms[arm], self.tau)
            for arm in ("scratch", "long")
            if arm in self.arms
        }

    def similarities(self) -> pd.DataFrame:
        """Similarity of every other arm with the fine-tuned runs, by orders.

        Columns ``arm, orders, value, low, high, note``.
        """
        return pd.DataFrame(
            [
                {"arm": arm, "orders": name}
                | vars(self.moments(orders).similarity(arm, "finetuned"))
                for name, orders in order_groups(self.n).items()
                for arm in self.arms
                if arm != "finetuned"
            ]
        )

    def origins(self, *, centred: bool = False) -> Origins:
        """Where what fine-tuned runs reproducibly know comes from."""
        return self.moments(centred=centred).origins()

    def approach(self, arm: str) -> Approach:
        """How an arm's runs come to the ends of the arm's other runs.

        A mean over the runs with checkpoints. Raises ValueError if the record holds none of them.
        """
        count = range(self.record.count(arm, self.players))
        traced = [r for r in count if self.record.has_checkpoints(arm, r + 1, self.players)] or [0]
        ways = {r: self.record.over_time(arm, r + 1, self.players) for r in traced}
        steps = list(ways[traced[0]])
        ways = {r: list(way.values()) for r, way in ways.items() if list(way) == steps}
        ends = [run[: len(ways[traced[0]][0])] for run in self.arms[arm]]
        each = [
            approach(
                way, [end for s, end in enumerate(ends) if s != r], steps,
                replicates=[other for s, other in ways.items() if s != r],
            )
            for r, way in ways.items()
        ]  # fmt: skip
        return Approach.mean(each)


@dataclass(frozen=True)
class Claim:
    """A claim of arXiv 2410.08455, or a sharper form of one.

    Attributes
    ----------
    name : str
        The claim.
    number : str
        What is above 0 if it holds.
    test : callable
        From `Runs` to that number.
    share : callable, optional
        From `Runs` to the paper's share, with its ``.chance`` and ``.second_run``.
    paper : callable, optional
        From `Runs` to what is above 0 if the paper's own number alone confirms the claim.
    over_time : bool
        Whether the claim is about checkpoints, which not every record holds.
    """

    name: str
    number: str
    test: Callable[[Runs], Difference]
    share: Callable[[Runs], Estimate] | None = None
    paper: Callable[[Runs], Estimate] | None = None
    over_time: bool = False


def is_known(values: np.ndarray, note: str) -> bool:
    """Whether a share in common, as `Runs.in_common` gives it, is known at all.

    Both sides come back, and its 95 % interval is no wider than 1: a wider one holds all shares.
    """
    known = values[1:][~np.isnan(values[1:])]
    if note or not len(known):
        return not note
    low, high = np.quantile(known, [TAIL, 1 - TAIL], method="nearest")
    return bool(low >= high - 1)


def _less_than_half(runs: Runs) -> Difference:
    values, note = runs.in_common()
    return _difference(0.5 - values, note)


def _falls_with_order(runs: Runs) -> Difference:
    """How much more of order 1 is in common than of the highest order that can be compared."""
    first, *higher = runs.comparable_orders or [0]
    if first != 1 or not higher:
        return Difference.unmeasurable("of no two orders is it known what both arms have in common")
    low, high = (runs.in_common([m])[0] for m in (1, higher[-1]))
    return _difference(low - high)


def _new_is_complex(runs: Runs) -> Difference:
    """Mean order of what fine-tuned runs know beyond the probe, minus that of what is in common."""
    orders = runs.comparable_orders
    if len(orders) < 2:
        return Difference.unmeasurable("of no two orders is it known what both arms have in common")
    known = np.stack([runs.known([m]) for m in orders], -1).clip(0)
    share = np.stack([runs.in_common([m])[0] for m in orders], -1).clip(0, 1)
    new, common = known * (1 - share), known * share
    with np.errstate(invalid="ignore"):
        means = [part @ np.array(orders) / part.sum(-1) for part in (new, common)]
    return _difference(means[0] - means[1])


def _least(differences: Iterable[Difference]) -> Difference:
    """The smaller of the differences to scratch and to long scratch.

    Above 0, both are; below 0, one of several had the chance to be: p counts them.
    """
    several = [*differences]
    least = min(several, key=lambda x: x.low)
    chances = len(several) if least.value < 0 else 1
    return replace(least, p=float(np.minimum(1, chances * least.p)))


def _area(runs: Runs) -> Estimate:
    """The paper's speed: area under the similarity with a run's own end, paired by sample."""
    areas = []
    for arm in ("finetuned", "scratch"):
        way = runs.record.over_time(arm, 1, runs.players)
        steps = list(way)
        areas.append(trajectory([way[s] for s in steps], way[steps[-1]], steps, runs.tau).areas())
    return bootstrap(areas[0] - areas[1])


def _difference(values: np.ndarray, note: str = "") -> Difference:
    """Of all samples and of each resample."""
    return Difference.unmeasurable(note) if note else Difference.of_resamples(values)


def _minus(first: Estimate | float, second: Estimate | float) -> Estimate:
    """A number minus a constant, or a constant minus a number."""
    if isinstance(first, Estimate):
        return Estimate(first.value - second, first.low - second, first.high - second, first.note)
    return Estimate(first - second.value, first - second.high, first - second.low, second.note)


CLAIMS = (
    Claim(
        "only a small part is preserved",
        "half, minus the share of reproducible knowledge that probe and fine-tuned have in common",
        _less_than_half,
        lambda runs: runs.preserved,
        lambda runs: _minus(0.5, runs.preserved),
    ),
    Claim(
        "complex knowledge is discarded most",
        "share in common in order 1, minus that in the highest order that comes back",
        _falls_with_order,
        paper=lambda runs: runs.knowledge.order_gap("discarded", "preserved"),
    ),
    Claim(
        "much is learned anew",
        "share of fine-tuned knowledge beyond the probe, minus half",
        _less_than_half,
        lambda runs: runs.knowledge.new_share(),
        lambda runs: _minus(runs.knowledge.new_share(), 0.5),
    ),
    Claim(
        "what is new is complex",
        "mean order of what is new, minus that of what is in common, of orders that come back",
        _new_is_complex,
        paper=lambda runs: runs.knowledge.order_gap("new", "preserved"),
    ),
    Claim(
        "what is preserved is hard to learn from scratch",
        "share of the preserved part, beyond chance, in a second fine-tuned run, minus that in "
        "scratch or long scratch, the smaller difference of the two",
        lambda runs: _least(hard.preserved.excess for hard in runs.hard.values()),
        Runs.learned,
        lambda runs: _minus(PAPER_LEARNED, runs.learned()),
    ),
    Claim(
        "harder than what is new",
        "the same difference, minus that of the new part",
        lambda runs: _least(hard.special for hard in runs.hard.values()),
    ),
    Claim(
        "fine-tuning is faster",
        "steps to half of the final similarity with other runs' ends, scratch minus fine-tuned",
        lambda runs: runs.approach("finetuned").sooner_than(runs.approach("scratch"), 0.5),
        paper=_area,
        over_time=True,
    ),
    Claim(
        "and more direct",
        "straight way over way taken, fine-tuned minus scratch",
        lambda runs: runs.approach("finetuned").more_direct_than(runs.approach("scratch")),
        over_time=True,
    ),
)


def findings(runs: Mapping[str, Runs], claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """Claims, by default all of the paper's, in every cell, by the name that it shall have.

    Returns ``claim, number, cell``; ``observed, chance, second_run``, the paper's share
    (`Estimate`, or None where a claim is about no share); ``tested``, the number that is above 0 if
    the claim holds; ``p``, corrected for the number of cells; ``verdict``; ``paper``, the verdict
    of the paper's own number alone, empty where it has none; ``note``.
    """
    frames = []
    for claim in claims:
        shares = [claim.share(cell) if claim.share else None for cell in runs.values()]
        alone = [_tried(claim.paper, cell) if claim.paper else None for cell in runs.values()]
        frame = tested(runs, [claim])
        columns = {
            "number": claim.number,
            "observed": [share and share.row()["observed"] for share in shares],
            "chance": [share and share.chance for share in shares],
            "second_run": [share and share.second_run for share in shares],
            "paper": ["" if number is None else verdict(number) for number in alone],
        }
        frames.append(frame.assign(**columns))
    return pd.concat(frames, ignore_index=True)


def tested(
    cells: Mapping[str, "Runs | Pretrainings"], claims: Sequence[Claim] = CLAIMS
) -> pd.DataFrame:
    """The verdict on claims in cells, by name, without the paper's numbers beside them.

    Cells may be `pi_lib.study.comparisons.Pretrainings` too, for claims that are not over time.
    Returns ``claim`` and the columns of `judged`.
    """
    frames = [
        judged({name: _tried(claim.test, cell) for name, cell in cells.items()}).assign(
            claim=claim.name
        )
        for claim in claims
    ]
    return pd.concat(frames, ignore_index=True)


def judged(numbers: Mapping[str, Estimate]) -> pd.DataFrame:
    """The verdict on one claim in several cells, from numbers by cell, above 0 if it holds.

    Returns ``cell``; ``tested``, the number; ``p``, corrected for how many there are (Holm), NaN
    where the number is no `Difference`; ``verdict``; ``note``.
    """
    frame = with_verdicts(pd.DataFrame(list(numbers.items()), columns=["cell", "tested"]))
    return frame.assign(note=[number.note for number in frame["tested"]])


def with_verdicts(frame: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """A frame with ``p`` of the numbers ``tested``, corrected for how many there are, and verdicts.

    Those that are alike in the columns `by` are looked at together; by default all.
    """
    p = pd.Series([getattr(x, "p", np.nan) for x in frame["tested"]], frame.index, dtype=float)
    together = [frame[column] for column in by] or np.zeros(len(frame))
    p = p.groupby(together).transform(holm)
    return frame.assign(p=p, verdict=list(map(verdict, frame["tested"], p)))


def in_words(frame: pd.DataFrame) -> str:
    """How often each verdict fell, with the numbers, from a frame that `judged` gave.

    Examples
    --------
    >>> in_words(judged({"a": Estimate(0.3, 0.1, 0.5), "b": Estimate(0.1, -0.1, 0.3)}))
    'confirmed in 1 of 2 (0.30 [0.10, 0.50]), undecided in 1 of 2 (0.10 [-0.10, 0.30])'
    >>> in_words(judged({"a": Estimate(0.3, 0.1, 0.5)}))
    'confirmed (0.30 [0.10, 0.50])'
    """
    parts = []
    for word in VERDICTS:
        numbers = sorted(frame.loc[frame["verdict"] == word, "tested"], key=lambda x: x.value)
        if not numbers:
            continue
        said = str(numbers[0])
        if word == "not measurable":
            said = "; ".join(dict.fromkeys(x.note for x in numbers))
        elif len(numbers) > 1:
            said = f"{numbers[0].value:z.2f} to {numbers[-1].value:z.2f}"
        count = f" in {len(numbers)} of {len(frame)}" if len(frame) > 1 else ""
        parts.append(f"{word}{count} ({said})")
    return ", ".join(parts)


def verdict(number: Estimate, p: float = 0.0) -> str:
    """One of `VERDICTS` on a number that is above 0 if the claim holds, and its corrected p."""
    if not number.measurable or np.isnan(number.low):
        return "not measurable"
    side = number.compared_with(0)
    if side == "undecided" or p >= LEVEL:
        return "undecided"
    return "confirmed" if side == "above" else "contradicted"


def origins_table(runs: Mapping[str, Runs], *, centred: bool = False) -> pd.DataFrame:
    """Where fine-tuned knowledge comes from, in every cell: cell, part, value, low, high, note."""
    parts = {name: cell.origins(centred=centred).to_frame() for name, cell in runs.items()}
    frames = [frame.assign(cell=name) for name, frame in parts.items()]
    return pd.concat(frames, ignore_index=True)


def _tried(number: Callable[[Runs], Estimate], runs: Runs) -> Estimate:
    """A number, or why the record cannot give it, as where it holds no checkpoints."""
    try:
        return number(runs)
    except ValueError as error:
        return Difference.unmeasurable(str(error))

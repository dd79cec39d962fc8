"""The paper's claims held against records: each against chance and a second run.

A claim is a number that is above 0 if the claim holds. It is *confirmed* in a cell if the number's
95 % interval lies above 0 and its p, corrected for the number of cells (Holm 1979), is below 0.05;
*contradicted* if it lies below; *undecided* if neither; *not measurable* where single runs agree on
too little to be compared. Beside it stand the paper's own share, the same share between shuffled
interactions (chance), and between two fine-tuned runs (second run).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pi_lib.interactions import Interactions
from pi_lib.knowledge import compare, learned_by_scratch, specially_learned, trajectory
from pi_lib.reliability import Approach, Arms, Moments, approach
from pi_lib.statistics import Difference, Estimate, holm, rank_correlation
from pi_lib.study.record import Record

if TYPE_CHECKING:
    import pandas as pd

VERDICTS = ("confirmed", "contradicted", "undecided", "not measurable")
LEVEL = 0.05  # of a p corrected for the number of cells
PAPER_LEARNED = 0.45  # arXiv 2410.08455: the largest share of the preserved part that scratch learned


class Runs:
    """The runs of a record on one set of players, and what several claims need of them.

    Parameters
    ----------
    record : Record
    players : "drawn" or "covering"
    tau : float, default 0.05
        Threshold of salience in the paper's own shares.

    Raises
    ------
    ValueError
        If an arm has too few runs, as `pi_lib.reliability`.
    """

    def __init__(self, record: Record, players: str = "drawn", tau: float = 0.05):
        self.record, self.players, self.tau = record, players, tau
        there = [arm for arm in ("finetuned", "scratch", "long") if record.count(arm, players)]
        self.arms = {"probe": record.runs("probe", players)}
        self.arms |= {arm: record.runs(arm, players) for arm in there}
        self.n = self.arms["probe"][0].n
        self._products = Arms(self.arms)
        self._moments: dict[tuple[int, ...] | None, Moments] = {}

    def moments(self, orders: Sequence[int] | None = None) -> Moments:
        """Products of all runs over some orders, of all samples and of each resample."""
        key = None if orders is None else tuple(orders)
        if key not in self._moments:
            self._moments[key] = self._products.moments(orders)
        return self._moments[key]

    def in_common(self, orders: Sequence[int] | None = None) -> tuple[np.ndarray, str]:
        """How much of what fine-tuned runs reproducibly know the probe explains: the similarity²,

        signed, of all samples and of each resample (1 + N,); and why it is not measurable, if so.
        """
        rho, note = self.moments(orders).similarities("probe", "finetuned")
        return rho * np.abs(rho), note

    @cached_property
    def comparable_orders(self) -> list[int]:
        """Orders in which both the probe and the fine-tuned runs come back."""
        return [m for m in range(1, self.n + 1) if not self.in_common([m])[1]]

    @cached_property
    def knowledge(self):
        """Preserved, discarded and new, of the first runs: the paper's measure."""
        return compare(self.arms["probe"][0], self.arms["finetuned"][0], self.tau)

    def approach(self, arm: str) -> Approach:
        """How an arm's first run comes to the ends of the arm's other runs.

        Raises
        ------
        ValueError
            If the record holds no checkpoints of it.
        """
        runs = range(1, self.record.count(arm, self.players) + 1)
        ways = [
            self.record.over_time(arm, run, self.players)
            for run in runs
            if run == 1 or self.record.has_checkpoints(arm, run, self.players)
        ]
        first, *others = ways
        return approach(
            list(first.values()), self.arms[arm][1:], list(first),
            replicates=[list(way.values()) for way in others if list(way) == list(first)],
        )  # fmt: skip


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
    """

    name: str
    number: str
    test: Callable[[Runs], Difference]
    share: Callable[[Runs], Estimate] | None = None
    paper: Callable[[Runs], Estimate] | None = None


def _less_than_half(runs: Runs) -> Difference:
    values, note = runs.in_common()
    return _difference(0.5 - values, note)


def _falls_with_order(runs: Runs) -> Difference:
    """How much more of order 1 is in common than of the highest order that can be compared."""
    first, *higher = runs.comparable_orders or [0]
    if first != 1 or not higher:
        return Difference.unmeasurable("no two orders come back in both arms")
    low, high = (runs.in_common([m])[0] for m in (1, higher[-1]))
    return _difference(low - high)


def _new_is_complex(runs: Runs) -> Difference:
    """Mean order of what fine-tuned runs know beyond the probe, minus that of what is in common."""
    orders = runs.comparable_orders
    if len(orders) < 2:
        return Difference.unmeasurable("no two orders come back in both arms")
    known = np.stack([runs.moments([m]).shared("finetuned") for m in orders], -1).clip(0)
    share = np.stack([runs.in_common([m])[0] for m in orders], -1).clip(0, 1)
    new, common = known * (1 - share), known * share
    with np.errstate(invalid="ignore"):
        means = [part @ np.array(orders) / part.sum(-1) for part in (new, common)]
    return _difference(means[0] - means[1])


def _hard_from_scratch(runs: Runs) -> Difference:
    return specially_learned(runs.arms, runs.tau, control=False)


def _preserved_is_special(runs: Runs) -> Difference:
    return specially_learned(runs.arms, runs.tau, control=True)


def _sooner(runs: Runs) -> Difference:
    try:
        ways = [runs.approach(arm) for arm in ("finetuned", "scratch")]
    except ValueError as error:
        return Difference.unmeasurable(str(error))
    return ways[0].sooner_than(ways[1], 0.5)


def _more_directly(runs: Runs) -> Difference:
    try:
        ways = [runs.approach(arm) for arm in ("finetuned", "scratch")]
    except ValueError as error:
        return Difference.unmeasurable(str(error))
    return ways[0].straighter_than(ways[1])


def _paper_area(runs: Runs) -> Estimate:
    """The paper's speed: area under the similarity with a run's own end, paired by sample."""
    from pi_lib.statistics import bootstrap

    areas = []
    for arm in ("finetuned", "scratch"):
        way = runs.record.over_time(arm, 1, runs.players)
        steps = list(way)
        areas.append(trajectory([way[s] for s in steps], way[steps[-1]], steps, runs.tau).areas())
    return bootstrap(areas[0] - areas[1])


CLAIMS = (
    Claim(
        "only a small part is preserved",
        "half, minus the share of reproducible knowledge that probe and fine-tuned have in common",
        _less_than_half,
        lambda runs: runs.knowledge.preserved_share(runs.arms["finetuned"][1:]),
        lambda runs: _minus(0.5, runs.knowledge.preserved_share()),
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
        lambda runs: runs.knowledge.new_share(runs.arms["finetuned"][1:]),
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
        "share of the preserved part in a second fine-tuned run, minus that in scratch",
        _hard_from_scratch,
        lambda runs: _learned(runs),
        lambda runs: _minus(PAPER_LEARNED, _learned(runs)),
    ),
    Claim(
        "harder than what is new",
        "the same difference, minus that of the new part",
        _preserved_is_special,
    ),
    Claim(
        "fine-tuning is faster",
        "steps to half of the final similarity with other runs' ends, scratch minus fine-tuned",
        _sooner,
        paper=_paper_area,
    ),
    Claim(
        "and more direct",
        "straight way over way taken, fine-tuned minus scratch",
        _more_directly,
    ),
)

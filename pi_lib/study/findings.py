"""The paper's claims held against records: each against chance and a second run.

A claim is a number that is above 0 if the claim holds. It is *confirmed* in a cell if the number's
95 % interval lies above 0 and its p, corrected for the number of cells (Holm 1979), is under 0.05;
*contradicted* if it lies below; *undecided* if neither; *not measurable* where single runs agree on
too little to be compared. Beside it stand the paper's own share, the same share between shuffled
interactions, and between two fine-tuned runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pi_lib import knowledge
from pi_lib.reliability import Arms
from pi_lib.statistics import Difference, Estimate
from pi_lib.study.record import Record

if TYPE_CHECKING:
    pass

VERDICTS = ("confirmed", "contradicted", "undecided", "not measurable")
LEVEL = 0.05
PAPER_LEARNED = 0.45  # arXiv 2410.08455: scratch learned at most this share of what is preserved
NOTHING = Estimate(np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Claim:
    """A claim of arXiv 2410.08455, or a sharper form of one.

    Attributes
    ----------
    name : str
        The claim, as a sentence without its full stop.
    number : str
        What is above 0 if the claim holds.
    share : str
        The paper's share that stands beside it, a key of `paper_shares`; empty if there is none.
    test : callable
        From a `Cell`'s runs (`Runs`) to the number.
    paper : callable
        From the paper's own number for the claim to what it says alone: a number above 0 if so.
    """

    name: str
    number: str
    share: str
    test: "Callable[[Runs], Difference]"
    paper: "Callable[[Runs], Estimate]"


class Runs:
    """The runs of a record, with what several claims need of them, computed once.

    Parameters
    ----------
    record : Record
    players : "drawn" or "covering"
    tau : float
        Threshold of salience of the paper's shares.
    """

    def __init__(self, record: Record, players: str = "drawn", tau: float = 0.05):
        self.record, self.players, self.tau = record, players, tau
        arms = [
            arm for arm in ("probe", "finetuned", "scratch", "long") if record.count(arm, players)
        ]
        self.arms = {arm: record.runs(arm, players) for arm in arms}
        self.products = Arms(self.arms)
        self.n = self.arms["finetuned"][0].n
        probe, finetuned = self.arms["probe"][0], self.arms["finetuned"][0]
        self.knowledge = knowledge.compare(probe, finetuned, tau)
        self._moments = {}

    def moments(self, orders: Sequence[int] | None = None):
        """Products of the runs over some orders, resampled."""
        key = None if orders is None else tuple(orders)
        if key not in self._moments:
            self._moments[key] = self.products.moments(orders)
        return self._moments[key]

    def explained(self, orders: Sequence[int] | None = None) -> tuple[np.ndarray, str]:
        """Share of what probe and fine-tuned runs reproducibly know that they have in common.

        The square of their similarity, of all samples and of each resample; and why it is not
        measurable, if so.
        """
        rho, note = self.moments(orders).similarities("probe", "finetuned")
        return rho * np.abs(rho), note

    def measurable_orders(self) -> list[int]:
        """Orders in which both probe and fine-tuned runs agree on something."""
        return [m for m in range(1, self.n + 1) if not self.explained([m])[1]]

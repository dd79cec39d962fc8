"""The order in which pictures lie in memory: channels last where a network is faster so.

A convolution can be computed in either order; which is faster depends on the device and on the
network. In the first full batches of a run both are timed, the rest takes the faster.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from pi_lib.engine import checks
from pi_lib.engine.batches import Batches, Pieces
from pi_lib.engine.sharing import now

WORTH_A_TRIAL = 32  # batches of a run: the trial computes one of them twice
TIMES = 2  # that each order is timed; the first one sets up what a library needs for it
FASTER = 0.97  # of the usual order's seconds: what is worth a change


class Layout:
    """Whether the convolutions of a run have channels last: only where that is faster here.

    The model of `batches` is an eager module in eval mode. `report` gets "channels_last".
    """

    def __init__(self, batches: Batches, report: dict):
        self.batches, self.report = batches, report
        convolutions = [x for x in batches.model.modules() if isinstance(x, nn.Conv2d)]
        self.weights = [x.weight for x in convolutions if isinstance(x.weight, nn.Parameter)]
        self.usual: list[Tensor] = []
        self.seconds: dict[bool, list[float]] = {False: [], True: []}  # a row, by channels last
        self.trying = False

    def start(self, rows: int) -> None:
        """Try both orders in a run of so many masked inputs, if these are many batches."""
        self.usual = [x.data for x in self.weights]  # on the device of the run
        # a network that has another order already was given it for a reason
        usual = all(x.is_contiguous() for x in self.usual)
        self.trying = bool(self.weights) and usual and rows >= WORTH_A_TRIAL * self.batches.size

    def values(self, pieces: Pieces) -> Tensor:
        """As `Batches.values`, in the order that is faster, once that is known."""
        full = sum(len(coalitions) for _, coalitions in pieces) == self.batches.size
        if not self.trying or not full or self.batches.fixed:
            return self.batches.values(pieces)
        if len(self.seconds[False]) < TIMES:
            return self._timed(pieces, False)
        if not self.seconds[True]:
            return self._compared(pieces)
        try:
            values = self._timed(pieces, True)
        except torch.OutOfMemoryError:  # in the usual order it fitted
            self._decide(False)
            return self.batches.values(pieces)
        if len(self.seconds[True]) == TIMES:
            usual, last = (min(self.seconds[order]) for order in (False, True))
            self._decide(last < FASTER * usual)
        return values

    def _compared(self, pieces: Pieces) -> Tensor:
        """Values in the usual order; ends the trial where the other does not give the same."""
        expected, error = self.batches.values(pieces), torch.inf
        with suppress(Exception):  # memory is short, or a model refuses inputs in this order
            error = checks.difference(self._timed(pieces, True), expected).max().item()
        if error > checks.tolerance(expected, self.batches.dtype):
            self._decide(False)
        elif "error" in self.report:
            self.report["error"] = max(self.report["error"], error)
        return expected

    def _timed(self, pieces: Pieces, last: bool) -> Tensor:
        self._set(last)
        start = now(self.batches.device)
        values = self.batches.values(pieces)
        self.seconds[last].append((now(self.batches.device) - start) / len(values))
        return values

    def _decide(self, last: bool) -> None:
        self.trying, self.report["channels_last"] = False, last
        self._set(last)

    def _set(self, last: bool) -> None:
        if last == self.batches.channels_last:
            return
        self.batches.channels_last = last  # before: what fails half-way is put back whole
        order = torch.channels_last if last else torch.contiguous_format
        for weight, usual in zip(self.weights, self.usual, strict=True):
            weight.data = usual.contiguous(memory_format=order)

    @contextmanager
    def restored(self) -> Iterator["Layout"]:
        """Weights are afterwards the tensors that they were."""
        try:
            yield self
        finally:
            self._set(False)

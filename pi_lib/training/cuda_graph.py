"""A training step as one CUDA graph: recorded once, then repeated on new data.

A small network's step is some thousand short kernels, and a GPU waits for Python to launch each.
A graph launches them at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

WARM = 3  # steps before one is recorded: what libraries set up at their first call is set up

Batch = dict[str, Tensor]


class Graphed:
    """A step that is recorded at the first batches' shape, and computed as usual at other shapes.

    ``step(batch, labels)`` computes on a CUDA device and returns a tensor. All that differs from
    call to call is in these tensors, in other tensors on the device, and in the random numbers of
    the device, from its generator as it stands when the graph is repeated: what Python decides, or
    draws, is recorded as it was.
    """

    def __init__(self, step: Callable[[Batch, Tensor], Tensor]):
        self.step, self.shapes, self.calls = step, None, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.given: list[Tensor] = []
        self.result: Tensor | None = None

    def __call__(self, batch: Batch, labels: Tensor) -> Tensor:
        """What the step returns, a tensor of its own."""
        tensors = [*batch.values(), labels]
        shapes = [(x.shape, x.dtype) for x in tensors]
        self.shapes = self.shapes or shapes
        if shapes != self.shapes:
            return self.step(batch, labels)
        self.calls += 1
        if self.calls <= WARM:
            return self.step(batch, labels)
        if self.graph is None:
            self._record(batch, labels)
        for there, new in zip(self.given, tensors, strict=True):
            there.copy_(new)
        self.graph.replay()
        return self.result.clone()

    def _record(self, batch: Batch, labels: Tensor) -> None:
        """Nothing is computed while a graph is recorded."""
        given = {name: x.clone() for name, x in batch.items()}
        self.given = [*given.values(), labels.clone()]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = self.step(given, self.given[-1])

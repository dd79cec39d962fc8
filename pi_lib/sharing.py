"""The layers that masked inputs share, run once for each view that they have of the players.

A position of a convolution sees few players, so the 2**n masked inputs of a sample differ little
there. Give players seen together different colours: the 2**c coalitions of c colours then show
every position every view of it, and the layer's output for any other coalition is gathered from
theirs, position by position. Nothing is approximated.

What a position sees is found by poison: where the input of one player is not a number, neither
is anything that depends on it. The same shows whether the model sees the input through the layer
alone.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pi_lib.coalitions import membership


class SharedLayers:
    """A model on the masked versions of one sample, with its first layers shared.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    forward : callable
        From inputs ``(batch, ...)`` to the model's output.
    masked : callable
        From coalitions, bool ``(batch, n)``, to masked inputs.
    owner : int Tensor, broadcastable to one input
        As in `pi_lib.players.Placement`.
    n : int
        Players.
    rows : int
        Coalitions that a layer may be run on, to share it: more of them share more layers.
    bottlenecks : dict
        Whether the model sees the input through a module alone: what earlier samples found, and
        what this one adds.

    Attributes
    ----------
    layers : list of nn.Module
        Those whose output is shared, from the input on. The last counts: each makes the next one
        cheaper to run. Empty if the model has no such layer.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[Tensor], Tensor],
        masked: Callable[[Tensor], Tensor],
        owner: Tensor,
        n: int,
        rows: int,
        bottlenecks: dict[nn.Module, bool],
    ):
        self.model, self.forward, self.masked = model, forward, masked
        self.n, self.rows, self.bottlenecks = n, rows, bottlenecks
        whole = masked(torch.ones(1, n, dtype=torch.bool, device=owner.device))
        self.nothing = torch.full_like(whole, torch.nan)
        player = torch.arange(n, device=owner.device).view(-1, *[1] * (owner.ndim - 1))
        self.without_one = torch.where(owner == player, torch.nan, whole)
        self.layers, self.last = [], None
        for layer in self._chain():
            layer.table = self._table(layer)
            if self.last is not None:
                self.last.table = None  # memory for one layer's output at a time
            self.layers.append(layer.module)
            self.last = layer

    def __call__(self, coalitions: Tensor) -> Tensor:
        """The model's output for coalitions, bool ``(batch, n)``."""
        if self.last is None:
            return self.forward(self.masked(coalitions))
        return self._resume(self.last, self.last.gather(coalitions))

    def _chain(self) -> list["_Layer"]:
        """For each number of colours, the last bottleneck that it is enough for."""
        chain = []
        for layer in reversed(self._local_layers()):
            if (not chain or layer.colours < chain[-1].colours) and self._is_bottleneck(layer):
                chain.append(layer)
        return chain[::-1]

    def _local_layers(self) -> list["_Layer"]:
        """Modules in the order in which they first finish, while few coalitions show all views."""
        found: dict[nn.Module, _Layer] = {}

        def look(module, _, output):
            if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != self.n:
                return
            sees = output.isnan() if output.ndim == 2 else output.isnan().any(1).flatten(1)
            colour = _colour(sees)
            if 2 ** (max(colour) + 1) > self.rows:
                raise _Done  # what comes later sees no less
            if module in found or output.ndim == 2:  # vectors come late, or have no positions
                return
            code = sees * 2.0 ** sees.new_tensor(colour, dtype=torch.float64)[:, None]
            found[module] = _Layer(module, list(found.values()), colour, code, output[:0])

        with _hooked(self.model.modules(), look):
            self.forward(self.without_one)
        return list(found.values())

    def _is_bottleneck(self, layer: "_Layer") -> bool:
        if layer.module not in self.bottlenecks:
            try:
                output = self._resume(layer, layer.like.new_zeros(2, *layer.like.shape[1:]))
                alone = bool(output.isfinite().all())
            except torch.OutOfMemoryError:
                raise
            except Exception:  # a model may do with a stand-in what cannot be done, as write to it
                alone = False
            self.bottlenecks[layer.module] = alone
        return self.bottlenecks[layer.module]

    def _resume(self, layer: "_Layer", output: Tensor) -> Tensor:
        """Run the model from a layer's output on. What is before stands still, and is no number."""
        size, reached = len(output), []

        def stand_in(x: _Layer) -> Callable:
            forward = x.module.forward

            def standing(*inputs, **named):
                if reached:  # further on, a module used again is itself
                    return forward(*inputs, **named)
                if x is layer:
                    reached.append(x)
                    return output
                return x.like.new_full((), torch.nan).expand(size, *x.like.shape[1:])

            return standing

        with _replaced({x.module: stand_in(x) for x in [*layer.before, layer]}):
            return self.forward(self.nothing.expand(size, *self.nothing.shape[1:]))

    def _table(self, layer: "_Layer") -> Tensor:
        """The layer's output for the coalitions of colours: (coalitions * positions, channels)."""
        outputs = []

        def keep(module, _, output):
            outputs.append(output)
            raise _Done

        with _hooked([layer.module], keep):
            self(layer.coalitions())
        return outputs[0].flatten(2).transpose(1, 2).flatten(0, 1).contiguous()


@dataclass
class _Layer:
    """A module whose output (batch, channels, ...) depends on few players at each position."""

    module: nn.Module
    before: list["_Layer"]  # those that finish before it
    colour: list[int]  # of each player
    code: Tensor  # (n, positions) float64: 2**colour, where the position sees the player
    like: Tensor  # (0, channels, ...): shape and type of the output
    table: Tensor | None = None

    @property
    def colours(self) -> int:
        return max(self.colour) + 1

    def coalitions(self) -> Tensor:
        """Those that show each position every view of it: (2**colours, n)."""
        return membership(self.colours)[:, self.colour].to(self.like.device)

    def gather(self, coalitions: Tensor) -> Tensor:
        """The output for coalitions (batch, n), channels last: (batch, channels, ...)."""
        view = coalitions.double() @ self.code  # the table's coalition, at each position
        positions = self.code.shape[1]
        row = view.long() * positions + torch.arange(positions, device=view.device)
        output = self.table.index_select(0, row.flatten()).unflatten(0, row.shape)
        return output.transpose(1, 2).unflatten(2, self.like.shape[2:])


def _colour(sees: Tensor) -> list[int]:
    """A colour for each player, so that those that a position sees together differ."""
    sees = sees.double()
    colour = []
    for player, together in enumerate((sees @ sees.T > 0).tolist()):
        taken = {c for c, near in zip(colour, together, strict=False) if near}
        colour.append(min(set(range(player + 1)) - taken))
    return colour


class _Done(Exception):
    """A forward pass has shown what it was made for."""


@contextmanager
def _hooked(modules: Iterable[nn.Module], hook: Callable):
    """A forward hook on modules for the length of a block, which it may end."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(module.register_forward_hook(hook))
        try:
            yield
        except _Done:
            pass


@contextmanager
def _replaced(forwards: dict[nn.Module, Callable]):
    """Other forwards for some modules, for the length of a block."""
    own = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module, forward in own.items():
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward

"""The layers that masked inputs share, run once for each view that they have of the players.

A position of a convolution sees few players, so the 2**n masked inputs of a sample differ little
there. Give players seen together different colours: the 2**c coalitions of c colours then show
every position every view of it, and the layer's output for any other coalition is gathered from
theirs, position by position. Nothing is approximated.

Which players a position sees: where the input of one player is not a number, neither is anything
that depends on it. The same shows whether the model sees the input through the layer alone.

Sharing may still cost more than it saves, as on a GPU: on the first sample of a run both ways are
timed, and the rest of the run takes the cheaper one.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pi_lib.coalitions import membership
from pi_lib.engine import checks
from pi_lib.engine.batches import Batches, Masked

WORTH_A_TRIAL = 0.05  # seconds that a sample takes: below, there is nothing to win that counts


class Sharing:
    """Whether samples of a run share layers: only where that is faster on this device.

    The model of `batches` is an eager module in eval mode. `report` gets "shared", and "error"
    where sharing adds to it. Without `timed`, layers are shared wherever that changes no value.
    """

    def __init__(self, batches: Batches, report: dict, timed: bool = True):
        self.batches, self.report, self.wanted, self.timed = batches, report, True, timed
        self.bottlenecks: dict[nn.Module, bool] = {}  # as `SharedLayers` has them
        self.seconds: dict[str, float] | None = None  # a coalition, on the first sample
        self.prepared = False  # whether preparing was timed, with the bottlenecks known

    def choose(self, masked: Masked, coalitions: Tensor) -> tuple[list[Tensor], Callable | None]:
        """Values of the first coalitions, run as a trial, and a function for those of the others.

        The function is None where plain batches do.
        """
        rows = min(self.batches.size, len(coalitions) // 8)  # run in order to share: a small part
        fits = rows >= masked.n and masked.input.is_floating_point() and not self.batches.fixed
        if not self.wanted or not fits:
            return [], None
        if self.timed and self.seconds is None:
            values, shared = self._try_both(masked, coalitions, rows)
        else:
            values, shared = [], self._prepare(masked, coalitions, rows)
        self.report["shared"] = shared is not None
        return values, shared

    def _try_both(self, masked: Masked, coalitions: Tensor, rows: int):
        """Two batches plain, two shared."""
        parts = coalitions.split(min(self.batches.size, max(len(coalitions) // 4, 1)))
        plain, values = self._time(lambda part: self.batches.values([(masked, part)]), parts[:2])
        shared = None
        if plain * len(coalitions) >= WORTH_A_TRIAL:
            shared = self._shared(masked, coalitions, rows)
        if shared is not None:
            seconds, more = self._time(shared, parts[2:4])
            values += more
            self.seconds = {"plain": plain, "shared": seconds}
        self.wanted = shared is not None and self.pays(len(coalitions))
        return values, shared if self.wanted else None

    def _prepare(self, masked: Masked, coalitions: Tensor, rows: int):
        """As `_shared`; on the second sample, whose bottlenecks are known, its time counts too."""
        start = now(self.batches.device) if self.timed and not self.prepared else None
        shared = self._shared(masked, coalitions, rows)
        if start is not None:
            self.prepared = True
            self.wanted = self.pays(len(coalitions), now(self.batches.device) - start)
        return shared if self.wanted else None

    def pays(self, coalitions: int, preparation: float = 0.0) -> bool:
        """Whether so many coalitions take less time with shared layers than without."""
        saved = (self.seconds["plain"] - self.seconds["shared"]) * coalitions
        return saved > preparation

    def _time(self, values_of: Callable[[Tensor], Tensor], parts) -> tuple[float, list[Tensor]]:
        """The least seconds a coalition over some batches, and their values."""
        seconds, values = [], []
        for coalitions in parts:
            start = now(self.batches.device)
            values.append(values_of(coalitions))
            seconds.append((now(self.batches.device) - start) / len(coalitions))
        return min(seconds), values

    def _shared(self, masked: Masked, coalitions: Tensor, rows: int):
        """From coalitions to values through shared layers; None where that changes values."""
        batches, model = self.batches, self.batches.model
        sample = torch.randint(len(coalitions), (4,), generator=torch.Generator().manual_seed(0))
        sample[0], sample[1] = 0, len(coalitions) - 1
        before = _versions(model)
        expected = batches.values([(masked, coalitions[sample])])
        if _versions(model) != before:
            return None  # a model that writes to its buffers would keep what is no number

        def forward(inputs: Tensor):
            return batches.output(inputs, masked.named(len(inputs)))

        def shared(coalitions: Tensor) -> Tensor:
            rows = len(coalitions)
            return batches.of_output(layers(coalitions), masked.labels(rows), masked.named(rows))

        try:
            layers = SharedLayers(model, forward, masked, rows, self.bottlenecks)
            if not layers.layers:
                return None
            error = checks.difference(shared(coalitions[sample]), expected).max().item()
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a model may refuse what is no number
            return None
        if error > checks.tolerance(expected, batches.dtype):
            return None
        if "error" in self.report:
            self.report["error"] = max(self.report["error"], error)
        return shared


def now(device: torch.device) -> float:
    """Seconds on the clock, when the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _versions(model: nn.Module) -> list[tuple[int, int]]:
    """Changes when something is written to the model's buffers."""
    return [(id(x), 0 if x.is_inference() else x._version) for x in model.buffers()]


class SharedLayers:
    """A model on the masked versions of one sample, with its first layers shared.

    `forward` is from inputs ``(batch, ...)`` to the model's output. A layer is run on up to `rows`
    coalitions to share it: more of them share more layers. `bottlenecks` says whether the model
    sees the input through a module alone, from earlier samples; this one adds to it. `layers` are
    those whose output is shared, from the input on; the last counts.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[Tensor], Tensor],
        masked: Masked,
        rows: int,
        bottlenecks: dict[nn.Module, bool],
    ):
        self.model, self.forward, self.masked = model, forward, masked
        self.rows, self.bottlenecks = rows, bottlenecks
        n, owner = masked.n, masked.owner
        whole = masked.inputs(torch.ones(1, n, dtype=torch.bool, device=owner.device))
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
            return self.forward(self.masked.inputs(coalitions))
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
        layers: dict[nn.Module, _Layer] = {}

        def look(module, _, output):
            if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != self.masked.n:
                return
            sees = output.isnan() if output.ndim == 2 else output.isnan().any(1).flatten(1)
            colour = _colour(sees)
            if 2 ** (max(colour) + 1) > self.rows:
                raise _Done  # what comes later sees no less
            if module in layers or output.ndim == 2:  # vectors come late, or have no positions
                return
            code = sees * 2.0 ** sees.new_tensor(colour, dtype=torch.float64)[:, None]
            layers[module] = _Layer(module, list(layers.values()), colour, code, output[:0])

        with _hooked(self.model.modules(), look):
            self.forward(self.without_one)
        return list(layers.values())

    def _is_bottleneck(self, layer: "_Layer") -> bool:
        known, module = self.bottlenecks, layer.module
        if module not in known:
            try:
                output = self._resume(layer, layer.like.new_zeros(2, *layer.like.shape[1:]))
                known[module] = bool(output.isfinite().all())
            except torch.OutOfMemoryError:
                raise
            except Exception:  # a model may do what a stand-in does not allow, as write to it
                known[module] = False
        return known[module]

    def _resume(self, layer: "_Layer", output: Tensor) -> Tensor:
        """Run the model from a layer's output on; layers before it give what is no number."""
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
    """Ends a forward pass that has served its purpose."""


@contextmanager
def _hooked(modules: Iterable[nn.Module], hook: Callable):
    """A forward hook on modules for the length of a block; `_Done` ends the block."""
    with ExitStack() as stack:
        stack.enter_context(suppress(_Done))
        for module in modules:
            stack.enter_context(module.register_forward_hook(hook))
        yield


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

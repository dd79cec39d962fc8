"""Masked inputs of some samples, run through a model in batches that fit."""

import inspect
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from pi_lib.engine.outputs import in_float64, model_output
from pi_lib.players.placement import Placement, without_dropped
from pi_lib.values import log_odds

Pieces = list[tuple["Masked", Tensor]]  # samples, and coalitions (m, n) of each


class Masked:
    """The masked versions of one sample, which lies on the device once."""

    def __init__(self, sample: int, placement: Placement, label: Tensor, value, device):
        self.sample, self.n = sample, len(placement.names)
        self.input = placement.inputs.to(device)
        self.owner = placement.owner.to(device)
        self.baseline = placement.baseline.to(device)
        self.others = {name: x.to(device) for name, x in placement.others.items()}
        self.dropped_with = placement.dropped_with
        # log_odds checks labels, and on the CPU that does not wait for the device
        self.label = label if value is log_odds else label.to(device)

    def inputs(self, coalitions: Tensor) -> Tensor:
        """Masked inputs ``(m, ...)`` of coalitions, bool ``(m, n)``."""
        always = coalitions.new_ones(len(coalitions), 1)
        keep = torch.cat([coalitions, always, ~always], 1)  # columns as `Placement.owner` counts
        return torch.where(keep[:, self.owner[0]], self.input, self.baseline)  # one gather

    def named(self, size: int) -> dict[str, Tensor]:
        """The model's further arguments, for `size` masked inputs."""
        return {name: x.expand(size, *x.shape[1:]) for name, x in self.others.items()}

    def labels(self, size: int) -> Tensor:
        """The sample's label, for `size` masked inputs."""
        return self.label.expand(size, *self.label.shape)


class Batches:
    """A model, what is asked of it, and the `size` of batches, halved whenever memory is short.

    `fixed`: the model takes batches of that size alone, so each is filled up to it.
    `channels_last`: pictures reach the model in that order of memory. `output_dtype` is that of the
    model's last output, `dtype` the coarsest in the model.
    """

    def __init__(self, model: Callable, value: Callable, pick, device: torch.device, size):
        if size == "auto":
            size = 1024 if device.type == "cuda" else 64
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"batch_size={size!r}; expected 'auto' or an integer >= 1")
        self.model, self.value, self.pick, self.device, self.size = model, value, pick, device, size
        self.fixed, self.channels_last = False, False
        self.output_dtype, self.dtype = torch.float32, torch.float32
        self.asked = _keyword_only(value)  # what the value takes beside output and labels

    def values(self, pieces: Pieces, model: Callable | None = None) -> Tensor:
        """Values (rows,) float64 of some samples, in a batch; of `model`, in float64 throughout."""
        inputs, others, labels = self._batch(pieces)
        if model is not None:
            inputs, others = in_float64(inputs), in_float64(others)
        rows = sum(len(coalitions) for _, coalitions in pieces)
        dropped_with = pieces[0][0].dropped_with
        if dropped_with is None:
            return self.of_output(self.output(inputs, others, model), labels, others)[:rows]
        values = torch.empty(len(inputs), dtype=torch.float64, device=inputs.device)
        for rows_of_length, tokens, their_others in without_dropped(inputs, others, dropped_with):
            output = self.output(tokens, their_others, model)
            their_labels = labels[rows_of_length.to(labels.device)]
            their_values = self.of_output(output, their_labels, their_others)
            values[rows_of_length] = their_values.to(values.device)
        return values[:rows]

    def _batch(self, pieces: Pieces) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        inputs = torch.cat([masked.inputs(coalitions) for masked, coalitions in pieces])
        labels = torch.cat([masked.labels(len(coalitions)) for masked, coalitions in pieces])
        named = [masked.named(len(coalitions)) for masked, coalitions in pieces]
        others = {name: torch.cat([x[name] for x in named]) for name in named[0]}
        if self.fixed and len(inputs) < self.size:  # the last row is repeated
            index = torch.arange(self.size).clamp(max=len(inputs) - 1)
            labels, index = labels[index.to(labels.device)], index.to(self.device)
            inputs, others = inputs[index], {name: x[index] for name, x in others.items()}
        if self.channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, others, labels

    def output(self, inputs: Tensor, others: dict[str, Tensor], model: Callable | None = None):
        """What counts of the model's output, in float64."""
        output = model_output((model or self.model)(inputs, **others), self.pick)
        if isinstance(output, Tensor):
            if not output.ndim or len(output) != len(inputs):
                raise ValueError(
                    f"for {len(inputs)} inputs the model gave an output of shape "
                    f"{tuple(output.shape)}; expected a row for each. If it takes batches of one "
                    "size only, give that size: batch_size="
                )
            if model is None:
                self.output_dtype = output.dtype
        return in_float64(output)

    def of_output(self, output, labels: Tensor, others: dict[str, Tensor]) -> Tensor:
        """Values (rows,) float64 of what counts of the model's output."""
        asked = {name: others[name] for name in self.asked if name in others}
        values = self.value(output, labels, **asked)
        if isinstance(values, Tensor) and values.shape == (len(labels), 1):
            values = values[:, 0]
        if not isinstance(values, Tensor) or values.shape != labels.shape[:1]:
            is_tensor = isinstance(values, Tensor)
            got = f"shape {tuple(values.shape)}" if is_tensor else f"a {type(values).__name__}"
            raise ValueError(
                f"value= gave {got} for {len(labels)} masked inputs; expected one number for "
                f"each, a tensor of shape ({len(labels)},) or ({len(labels)}, 1)"
            )
        return values.double()

    def halve(self, masked: Masked, error: Exception, rows: int | None = None) -> None:
        """Smaller batches from here on, since `rows` (default `size`) did not fit."""
        rows = self.size if rows is None or self.fixed else rows
        if rows == 1 or self.fixed:
            what = f"a batch of {rows}, the only size that it takes:" if self.fixed else "one"
            raise torch.OutOfMemoryError(
                f"the memory of {self.device} is too small for this model on {what} masked input "
                f"of shape {tuple(masked.input.shape[1:])} (sample {masked.sample}): use smaller "
                f"inputs, autocast=, or another device. {error}"
            ) from error
        self.size = max(rows // 2, 1)
        torch.cuda.empty_cache()


def _keyword_only(value: Callable) -> list[str]:
    """Names of a function's keyword-only parameters; none of what has no signature."""
    with suppress(TypeError, ValueError):
        parameters = inspect.signature(value).parameters.values()
        return [x.name for x in parameters if x.kind is x.KEYWORD_ONLY]
    return []


def rows_of(samples: list[Masked], coalitions: Tensor, start: int, stop: int) -> Pieces:
    """Rows `start` to `stop` of the coalitions of one sample after the other."""
    m = len(coalitions)
    return [
        (samples[k], coalitions[max(start - k * m, 0) : stop - k * m])
        for k in range(start // m, -(-stop // m))
    ]

"""What makes values trustworthy: full float32, eval mode, answers that depend on the input alone.

Tolerances are shares of the spread of v, for models in any unit; what rounding does comes on top.
"""

import copy
import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from pi_lib.engine.batches import Batches, Masked
from pi_lib.engine.callables import is_eager
from pi_lib.players import Placement
from pi_lib.values import log_odds

# Of the spread of v, by the coarsest precision in the model: more than rounding explains.
SHARE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}
MOST_IN_FLOAT64 = 2**28  # parameters: their copy in float64 takes 2 GiB


@contextmanager
def full_float32() -> Iterator[None]:
    """Float32 in full for the length of a block, without TF32 or bfloat16 inside products.

    By default cuDNN rounds the inputs of convolutions to 10 bits (TF32); a dividend of order m
    sums ``2**m`` values and drowns in that. The settings are torch's, for the whole process.
    """
    backends, finer = torch.backends, []
    if hasattr(backends.cuda.matmul, "fp32_precision"):  # from torch 2.9 on
        finer = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
        finer += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    before = [settings.fp32_precision for settings in finer]
    products = cudnn = None  # stay so where the older names cannot say what the finer ones are
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        cudnn = backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = False
        for settings in finer:
            settings.fp32_precision = "ieee"
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        if cudnn is not None:
            backends.cudnn.allow_tf32 = cudnn
        for settings, precision in zip(finer, before, strict=True):
            settings.fp32_precision = precision


@contextmanager
def buffers_restored(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Buffers, as running statistics, are after a block what they were before it."""
    modules = {module for network in networks for module in network.modules()}
    before = {module: {k: x.clone() for k, x in _buffers(module).items()} for module in modules}
    try:
        yield
    finally:
        with torch.no_grad():
            _restore(before)


def _restore(before: dict[nn.Module, dict[str, Tensor]]) -> None:
    """Buffers of a kind are compared in one go: a GPU makes Python wait at each comparison."""
    kinds = defaultdict(list)
    for module, buffers in before.items():
        there = _buffers(module)
        for name, x in buffers.items():
            now = there.get(name)
            if now is None or (now.shape, now.dtype) != (x.shape, x.dtype) or now.is_inference():
                module._buffers[name] = x
            else:
                kinds[now.device, now.dtype].append((now, x.to(now.device)))
    for pairs in kinds.values():
        if not torch.equal(
            *(torch.cat([x.flatten() for x in side]) for side in zip(*pairs, strict=True))
        ):
            for now, x in pairs:
                if not torch.equal(now, x):  # what is equal may share memory, and not be writable
                    now.copy_(x)


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    buffers = module.named_buffers(recurse=False)
    return {name: x for name, x in buffers if not nn.parameter.is_lazy(x)}


def refuse_too_long(networks: Iterable[nn.Module], placements: Sequence[Placement]) -> None:
    """A ValueError names the first sample with more tokens than a network of transformers takes."""
    configs = [getattr(network, "config", None) for network in networks]
    limits = [getattr(config, "max_position_embeddings", None) for config in configs]
    limits = [x for x in limits if isinstance(x, int) and x > 0]  # of XLNet it is -1: none
    most = min(limits, default=math.inf)
    for sample, placement in enumerate(placements):
        is_tokens = placement.inputs.ndim == 2 and not placement.inputs.is_floating_point()
        if is_tokens and placement.inputs.shape[1] > most:
            raise ValueError(
                f"sample {sample} has {placement.inputs.shape[1]} tokens, and the model takes at "
                f"most {most}: shorten it"
            )


def refuse_training_mode(networks: Iterable[nn.Module]) -> None:
    """A ValueError names the first part that is in training mode."""
    for network in networks:
        for name, module in network.named_modules():
            if module.training:
                part = f", its part {name!r} of type {type(module).__name__}," if name else ""
                raise ValueError(
                    f"the model ({type(network).__name__}){part} is in training mode: dropout and "
                    "batch statistics make its answers random, or dependent on the batch. Call "
                    "model.eval() before extracting"
                )


def depends_on_batch(networks: Iterable[nn.Module]) -> str:
    """The parts of networks that are known to look at the whole batch, for a message."""
    parts = []
    for name, module in (named for network in networks for named in network.named_modules()):
        kind, name = type(module), name or "itself"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            parts.append(f"{name} ({kind.__name__} without running statistics)")
        elif "quantized.dynamic" in kind.__module__:
            parts.append(f"{name} (dynamic quantisation, {kind.__name__})")
    more = f" and {len(parts) - 3} more" if len(parts) > 3 else ""
    return ", ".join(parts[:3]) + more


def coarsest(tensors: Iterable[Tensor], *others: torch.dtype | None) -> torch.dtype:
    """The floating-point dtype of the largest rounding; float32 where there is none."""
    dtypes = {x.dtype for x in tensors} | {dtype for dtype in others if dtype is not None}
    floating = [dtype for dtype in dtypes if dtype.is_floating_point]
    return max(floating, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)


def spread(values: Tensor) -> float:
    """Largest minus smallest of the values that are finite; 0 where there are none."""
    values = values[values.isfinite()]
    return (values.max() - values.min()).item() if len(values) else 0.0


def tolerance(values: Tensor, dtype: torch.dtype) -> float:
    """By how much equal values may differ, computed in `dtype`: a share of their spread.

    And a few hundred units of the last digit, which a deep network loses between batch sizes.
    """
    largest = values.where(values.isfinite(), 0).abs().max().item()
    return SHARE.get(dtype, 0.3) * spread(values) + 256 * torch.finfo(dtype).eps * largest


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Absolute differences, each: 0 where both are the same infinity, or both no number."""
    same = (a == b) | (a.isnan() & b.isnan())
    return torch.where(same, 0.0, (a - b).abs().nan_to_num(torch.inf))


def check_model(
    batches: Batches,
    masked: Masked,
    other: Masked,
    networks: Iterable[nn.Module],
    autocast: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Refuse a model whose answers are random, or depend on what else is in the batch.

    Four coalitions of `masked` are run alone and in a batch with others, some of them of `other`,
    a sample of the same form. Sets `fixed` and `dtype` of `batches`. Returns the coalitions (k, n),
    k = 4 or fewer where batches are smaller than 8, and their values (k,) in the batch and alone.
    The ValueError names what differs, and what to do.
    """
    draw = torch.Generator().manual_seed(0)
    coalitions, others = torch.rand(2, 4, masked.n, generator=draw) < 0.5
    coalitions[0], coalitions[1] = False, True
    coalitions, others = coalitions.to(batches.device), others.to(batches.device)
    alone = _alone(batches, masked, coalitions).cpu()
    refuse_training_mode(networks)
    values = _among(batches, masked, other, coalitions, others).cpu()
    weights = (x for network in networks for x in network.parameters())
    dtypes = (masked.input.dtype, masked.baseline.dtype, batches.output_dtype, autocast)
    batches.dtype = coarsest(weights, *dtypes)
    alone = alone[: len(values)]
    allowed = tolerance(torch.cat([alone, values]), batches.dtype)
    if (apart := difference(alone, values[: len(alone)])).max() > allowed:
        again = _among(batches, masked, other, coalitions, others).cpu()
        _refuse_random(values, again, allowed)
        coalitions = coalitions[: len(values)]
        if not _is_rounding(batches, masked, other, coalitions, others):
            row, known = apart.argmax(), depends_on_batch(networks)
            players = coalitions[row].nonzero()[:, 0].tolist()
            raise ValueError(
                "the model's answer depends on what else is in its batch: of sample "
                f"{masked.sample}, players {players} kept, the value is {alone[row].item():.6g} "
                f"alone and {values[row].item():.6g} beside others"
                f"{f' ({known})' if known else ''}. Call .eval() on every part, replace what takes "
                "statistics or scales from the batch, or give batch_size=1, by which every input "
                "is answered alone"
            )
    return coalitions[: len(values)], values, alone


def _refuse_random(values: Tensor, again: Tensor, allowed: float) -> None:
    """A ValueError if a second run of the same batch gave other values."""
    if (apart := difference(values, again)).max() > allowed:
        row = apart.argmax()
        raise ValueError(
            f"the model gave {values[row].item():.6g} and {again[row].item():.6g} for the same "
            "input: switch off what is random in it (dropout, sampling) before extracting"
        )


def warn_of_probabilities(batches: Batches, masked: Masked, coalitions: Tensor) -> None:
    """Warn where rows of what `log_odds` takes for logits add up to 1."""
    if batches.value is not log_odds:
        return
    outputs: list[Tensor] = []
    batches.value = lambda output, labels: outputs.append(output) or log_odds(output, labels)
    try:
        batches.values([(masked, coalitions)])
    finally:
        batches.value = log_odds
    rows = torch.cat(outputs)
    several = rows.ndim > 1 and rows.shape[-1] > 1
    if several and (rows >= 0).all() and ((rows.sum(-1) - 1).abs() < 0.01).all():
        warnings.warn(
            "the model gives probabilities, it seems: none is negative and each row adds up to 1. "
            "The value log_odds takes logits, so give those, or their logarithm by "
            "output=lambda p: p.log() (of the tensor that the model returns)",
            stacklevel=2,
        )


def measure(
    batches: Batches,
    masked: Masked,
    coalitions: Tensor,
    values: Tensor,
    alone: Tensor,
    autocast: torch.dtype | None = None,
) -> dict[str, float | str | bool]:
    """How much values of coalitions of a sample are off, as `report` has it; warns of autocast.

    Arguments as `check_model` takes and returns them.
    """
    exact, varies = _in_float64(batches, [(masked, coalitions)]), spread(values)
    if exact is not None:
        exact = exact.cpu()
        apart = [difference(x, exact[: len(x)]) for x in (values, alone)]
    else:
        rounding = torch.finfo(batches.dtype).eps / 2 * values[values.isfinite()].abs()
        apart = [difference(alone, values[: len(alone)]), rounding]
    error = torch.cat(apart).max().item()
    if autocast is not None:
        warnings.warn(
            f"autocast={autocast}: values are off by up to {error:.2g} where they vary by "
            f"{varies:.2g} (sample {masked.sample}, {len(coalitions)} coalitions), and a dividend "
            "of order m sums 2**m of them. That is for a first look only",
            stacklevel=2,
        )
    return {
        "error": error,
        "error_against": "rounding" if exact is None else "float64",
        "spread": varies,
        "precision": str(batches.dtype).removeprefix("torch."),
        "shared": False,
        "channels_last": False,
    }


def _alone(batches: Batches, masked: Masked, coalitions: Tensor) -> Tensor:
    """Values of coalitions, each in a batch of its own; sets whether the size is fixed."""

    def run() -> Tensor:
        return torch.cat([batches.values([(masked, row[None])]) for row in coalitions])

    try:
        return run()
    except torch.OutOfMemoryError as error:
        return batches.halve(masked, error, rows=1)  # which raises
    except Exception:
        if batches.size == 1:
            raise
        batches.fixed = True
        try:
            return run()
        except torch.OutOfMemoryError as error:
            return batches.halve(masked, error)  # which raises
        except Exception:  # it is not the size
            batches.fixed = False
        raise


def _among(batches: Batches, masked: Masked, other: Masked, coalitions, others) -> Tensor:
    """Values of coalitions in one batch with `others`, of another sample too."""
    while True:
        room = min(batches.size, 2 * len(coalitions))
        if room == 1:
            return _alone(batches, masked, coalitions)
        own, half = room // 2, (room - room // 2) // 2
        pieces = [(other, others[:half]), (masked, others[half : room - own])]
        pieces = [*(piece for piece in pieces if len(piece[1])), (masked, coalitions[:own])]
        try:
            return batches.values(pieces)[room - own :]
        except torch.OutOfMemoryError as error:
            batches.halve(masked, error, rows=room)


def _is_rounding(batches: Batches, masked: Masked, other: Masked, coalitions, others) -> bool:
    """Whether answers alone and in a batch with others are the same in float64.

    Then large outputs that cancel magnify what rounding does, and nothing looks at the batch.
    """
    pieces = [(other, others), (masked, coalitions)]
    runs = [pieces, *([(masked, row[None])] for row in coalitions)]
    together, *alone = (_in_float64(batches, run) for run in runs)
    if together is None or any(x is None for x in alone):
        return False
    values = torch.stack([torch.cat(alone), together[-len(coalitions) :]])
    return bool(difference(*values).max() <= tolerance(values, torch.float64))


def _in_float64(batches: Batches, pieces) -> Tensor | None:
    """Values by a copy of the model in float64; None where there can be none."""
    model = batches.model
    if not is_eager(model) or sum(x.numel() for x in model.parameters()) > MOST_IN_FLOAT64:
        return None
    try:
        with torch.autocast(batches.device.type, enabled=False):
            values = batches.values(pieces, copy.deepcopy(model).double())
    except Exception:  # parts that cannot be copied, or work in one precision only
        return None
    return values if values.isfinite().all() else None

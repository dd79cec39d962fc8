"""What makes values trustworthy: full float32, eval mode, answers that depend on the input alone.

Tolerances are shares of the spread of v, for models in any unit; what rounding does comes on top.
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# Of the spread of v, by the coarsest precision in the model: more than rounding explains.
SHARE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}
MOST_IN_FLOAT64 = 2**28  # parameters: their copy in float64 takes 2 GiB


@contextmanager
def full_float32() -> Iterator[None]:
    """Float32 in full for the length of a block, without TF32 or bfloat16 inside products.

    By default cuDNN rounds the inputs of convolutions to 10 bits (TF32); a dividend of order m
    sums ``2**m`` values and drowns in that. The settings are torch's, for the whole process.

    Examples
    --------
    >>> with full_float32():
    ...     torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    (False, False)
    """
    backends = torch.backends
    finer = []  # from torch 2.9 on
    if hasattr(backends.cuda.matmul, "fp32_precision"):
        finer = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
        finer += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    before = [place.fp32_precision for place in finer]
    products, cudnn = _setting(torch.get_float32_matmul_precision), _setting(_cudnn_tf32)
    try:
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = False
        for place in finer:
            place.fp32_precision = "ieee"
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        if cudnn is not None:
            backends.cudnn.allow_tf32 = cudnn
        for place, precision in zip(finer, before, strict=True):
            place.fp32_precision = precision


def _cudnn_tf32() -> bool:
    return torch.backends.cudnn.allow_tf32


def _setting(read):
    try:
        return read()
    except RuntimeError:  # the older name cannot say what the finer settings are
        return None


@contextmanager
def buffers_restored(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Buffers, as running statistics, are after a block what they were before it."""
    modules = dict.fromkeys(module for network in networks for module in network.modules())
    before = [
        (module, name, x.clone()) for module in modules for name, x in _buffers(module).items()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, x in before:
                now = _buffers(module).get(name)
                if now is None or now.shape != x.shape or now.is_inference():
                    module._buffers[name] = x
                elif not torch.equal(now, x.to(now.device)):
                    now.copy_(x)


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    buffers = module.named_buffers(recurse=False)
    return {name: x for name, x in buffers if not nn.parameter.is_lazy(x)}


def refuse_training_mode(networks: Iterable[nn.Module]) -> None:
    """Raise a ValueError that names the first part that is in training mode."""
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
    for network in networks:
        for name, module in network.named_modules():
            kind = type(module)
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
                parts.append(f"{name or 'itself'} ({kind.__name__} without running statistics)")
            elif "quantized.dynamic" in kind.__module__:
                parts.append(f"{name or 'itself'} (dynamic quantisation, {kind.__name__})")
    more = f" and {len(parts) - 3} more" if len(parts) > 3 else ""
    return ", ".join(parts[:3]) + more


def coarsest(tensors: Iterable[Tensor], *others: torch.dtype | None) -> torch.dtype:
    """The floating-point dtype of the largest rounding; float32 where there is none.

    Examples
    --------
    >>> coarsest([torch.zeros(1), torch.zeros(1).half()], None)
    torch.float16
    """
    dtypes = {x.dtype for x in tensors} | {dtype for dtype in others if dtype is not None}
    floating = [dtype for dtype in dtypes if dtype.is_floating_point]
    return max(floating, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)


def spread(values: Tensor) -> float:
    """Largest minus smallest of the values that are finite; 0 where there are none.

    Examples
    --------
    >>> spread(torch.tensor([1.0, 3.0, torch.inf]))
    2.0
    """
    values = values[values.isfinite()]
    return (values.max() - values.min()).item() if len(values) else 0.0


def tolerance(values: Tensor, dtype: torch.dtype) -> float:
    """By how much equal values may differ, computed in `dtype`: a share of their spread."""
    largest = values[values.isfinite()].abs().max().item() if values.isfinite().any() else 0.0
    return SHARE.get(dtype, 0.3) * spread(values) + 16 * torch.finfo(dtype).eps * largest


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Absolute differences, each: 0 where both are the same infinity, or both no number."""
    same = (a == b) | (a.isnan() & b.isnan())
    return torch.where(same, 0.0, (a - b).abs().nan_to_num(torch.inf))


def float64_copy(model) -> nn.Module | None:
    """A copy of a module in float64; None for what is no module, or too large."""
    if not isinstance(model, nn.Module):
        return None
    if sum(x.numel() for x in model.parameters()) > MOST_IN_FLOAT64:
        return None
    return copy.deepcopy(model).double()

"""Which part of a model's output counts: one rule for the engine, the tracker and training."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

NAMES = ("logits", "out")  # transformers; torchvision's segmentation


def model_output(output: Any, pick: str | int | Callable | None = None) -> Any:
    """The part of a model's output that counts: its logits, unless `pick` says otherwise.

    Parameters
    ----------
    output : Tensor, mapping, object with ``.logits``, tuple or list
        What the model returned; an array of numpy counts as a tensor.
    pick : str, int or callable, optional
        A key or attribute of the output, a place in it, or a function of it; "all" is the output
        as it is. Default: a tensor itself; of a mapping (a dict, a ``ModelOutput``) the entry
        "logits", else "out", else its only one; of another object ``.logits``; of a tuple or list
        the first tensor that has a batch axis (auxiliary heads come after it).

    Returns
    -------
    Tensor
        Anything, where `pick` is "all" or a function.

    Raises
    ------
    TypeError
        If that is no tensor; the message names what the output holds.
    ValueError
        If the output has no such key or place.

    Examples
    --------
    >>> import torch
    >>> logits, features = torch.zeros(1, 2), torch.ones(1, 9)
    >>> [tuple(model_output(x).shape) for x in (logits, {"logits": logits, "z": features})]
    [(1, 2), (1, 2)]
    >>> tuple(model_output((logits, features), 1).shape)
    (1, 9)
    """
    if pick == "all":
        return output
    if callable(pick):
        return pick(output)
    part = _default(output) if pick is None else _picked(output, pick)
    if isinstance(part, np.ndarray):
        return torch.tensor(part)
    if isinstance(part, Tensor):
        return part
    what = "" if pick is None else f"output={pick!r} of what "
    raise TypeError(
        f"{what}the model returned is {_describe(output if pick is None else part)}; expected a "
        "tensor of logits, or an output that holds one as .logits: say which part counts by "
        'output= (a key, a place or a function; "all" gives a value function the whole)'
    )


def in_float64(output: Any) -> Any:
    """The same with its floating-point tensors in float64, in tuples, lists and mappings too."""
    if isinstance(output, Tensor):
        return output.double() if output.is_floating_point() else output
    if isinstance(output, Mapping):
        converted = copy.copy(output)
        for name, part in output.items():
            converted[name] = in_float64(part)
        return converted
    if isinstance(output, tuple | list):
        parts = [in_float64(part) for part in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    return output


def _default(output: Any) -> Any:
    if isinstance(output, Mapping):
        name = next((name for name in NAMES if name in output), None)
        if name is None and len(output) == 1:
            name = next(iter(output))
        return output.get(name)
    if isinstance(output, Tensor | np.ndarray):
        return output
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, tuple | list):
        return next((x for x in output if isinstance(x, Tensor) and x.ndim), None)
    return None


def _picked(output: Any, pick: str | int) -> Any:
    try:
        is_attribute = isinstance(pick, str) and not isinstance(output, Mapping)
        return getattr(output, pick) if is_attribute else output[pick]
    except (AttributeError, IndexError, KeyError, TypeError):
        raise ValueError(
            f"output={pick!r}: there is none in what the model returned, {_describe(output)}"
        ) from None


def _describe(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"a tensor of shape {tuple(x.shape)}"
    name, holds = type(x).__name__, None
    if isinstance(x, Mapping):
        holds = ", ".join(map(repr, x))
    elif isinstance(x, tuple | list):
        holds = ", ".join(type(part).__name__ for part in x)
    return f"a {name}" if holds is None else f"a {name} of {holds or 'nothing'}"

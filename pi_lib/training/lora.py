"""LoRA (arXiv 2106.09685): to each layer's weights, a matrix of low rank is added and learned.

The adapters are those of the package `peft`. Here stands which layers get one, and how they are
merged into plain weights again.
"""

import copy
import re
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from peft import LoraModel


def layers(encoder: nn.Module) -> list[str]:
    """Names of an encoder's layers that can take an adapter: attention, linear, convolution.

    Not grouped convolutions: the weights of a group are a matrix too small for a lower rank. Nor
    convolutions with a `forward` of their own, such as those that pad by themselves: the adapter
    sees the layer's input as it comes.
    """
    names, attention = [], ()
    for name, layer in encoder.named_modules():
        if attention and name.startswith(attention):
            continue
        if isinstance(layer, nn.MultiheadAttention):  # its own linear layers come with it
            attention += (f"{name}.",)
            names.append(name)
        elif isinstance(layer, nn.Conv2d):
            plain = type(layer).forward is nn.Conv2d.forward and layer.groups == 1
            names += [name] if plain else []
        elif isinstance(layer, nn.Linear):
            names.append(name)
    return names


def adaptable(model: nn.Module, rank: int) -> list[str]:
    """Names in `model` of its encoder's layers that can take an adapter.

    A ValueError if there is none, an ImportError without `peft`.
    """
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install 'pi_lib[lora]'") from error
    names = [f"encoder.{name}".rstrip(".") for name in layers(model.encoder)]
    if not names:
        raise ValueError(
            f"lora={rank}: {type(model.encoder).__name__} has no layer that LoRA can change; it "
            "takes attention, linear layers and convolutions that are not grouped"
        )
    return names


def add_adapters(model: nn.Module, rank: int) -> "LoraModel":
    """Give the layers of ``model.encoder`` adapters, in place, and let nothing else of it learn.

    A layer's weights W, as a matrix from its inputs to its outputs, become W + B A, where B starts
    at 0 and A at random numbers (of torch's generator). What is not of the encoder stays as it is.
    Errors as `adaptable`.
    """
    names = adaptable(model, rank)
    from peft import LoraConfig, LoraModel

    learned = {name for name, x in model.named_parameters() if x.requires_grad}
    pattern = "|".join(map(re.escape, names))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern)  # alpha / r = 1
    adapted = LoraModel(model, config, "default")
    for name, x in model.named_parameters():
        if name in learned and not name.startswith("encoder."):
            x.requires_grad_(True)
    return adapted


def merged(adapted: "LoraModel") -> dict[str, Tensor]:
    """Weights of the plain network that says what the adapted one says."""
    return copy.deepcopy(adapted).merge_and_unload().state_dict()

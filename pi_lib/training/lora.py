"""LoRA (arXiv 2106.09685): to each layer's weights, a matrix of low rank is added and learned.

The adapters are those of the package `peft`. Here stands which layers get one, and how they are
merged into plain weights again.
"""

import copy
import re

from torch import Tensor, nn


def layers(encoder: nn.Module) -> list[str]:
    """Names of an encoder's layers that can take an adapter: attention, linear, convolution.

    Not grouped convolutions: the weights of a group are a matrix too small for a lower rank. Nor
    convolutions with a `forward` of their own, such as those that pad by themselves: the adapter
    sees the layer's input as it comes.

    Examples
    --------
    >>> layers(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8)))
    ['0']
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

    Raises as `add_adapters`.
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


def add_adapters(model: nn.Module, rank: int) -> None:
    """Give the layers of ``model.encoder`` adapters, in place, and let nothing else of it learn.

    A layer's weights W, as a matrix from its inputs to its outputs, become W + B A, where B starts
    at 0 and A at random numbers (of torch's generator). What is not of the encoder stays as it is.

    Raises
    ------
    ValueError
        If no layer can take one.
    ImportError
        Without `peft`.
    """
    names = adaptable(model, rank)
    from peft import LoraConfig, inject_adapter_in_model

    learned = {name for name, x in model.named_parameters() if x.requires_grad}
    pattern = "|".join(map(re.escape, names))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern)  # alpha / r = 1
    inject_adapter_in_model(config, model)
    for name, x in model.named_parameters():
        if name in learned and not name.startswith("encoder."):
            x.requires_grad_(True)


def merged(model: nn.Module) -> dict[str, Tensor]:
    """Weights of the plain network that says what `model` says, with its adapters merged."""
    from peft.tuners.lora import LoraLayer

    model = copy.deepcopy(model)
    adapted = [(name, x) for name, x in model.named_modules() if isinstance(x, LoraLayer)]
    attention = tuple(f"{name}." for name, x in adapted if hasattr(x, "merge_masks"))
    for name, layer in adapted:
        if name.startswith(attention):  # merged with what it is a part of
            continue
        if hasattr(layer, "unload_and_optionally_merge_module"):
            plain = layer.unload_and_optionally_merge_module(True, False, None)
        else:
            layer.merge()
            plain = layer.get_base_layer()
        model.set_submodule(name, plain)
    return model.state_dict()

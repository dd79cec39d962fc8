"""Encoders: the networks behind the names of `pi_lib.study.backbones`, with or without weights."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from pi_lib.study.assets import OWN, Unavailable, fetch, first, own_paths

BATCH_NORM_MOMENTUM = 0.1


def _normalised(images: Tensor) -> Tensor:
    """[0, 1] to [-1, 1], as Lite0 was trained; channels last, 1.5 times faster on a CPU."""
    return (images * 2 - 1).contiguous(memory_format=torch.channels_last)


class Lite0(nn.Module):
    """EfficientNet-Lite0 up to its pooled features."""

    def __init__(self, pretrained: bool):
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.net = EfficientNet.from_name("efficientnet-lite0")
        self.net._fc = nn.Identity()
        if pretrained:
            file = fetch("efficientnet-lite0") / "efficientnet-lite0.pth"
            weights = torch.load(file, map_location="cpu", weights_only=True)
            self.net.load_state_dict({k: v for k, v in weights.items() if not k.startswith("_fc.")})
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = BATCH_NORM_MOMENTUM
        for name, module in [*self.net.named_modules()]:
            if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
                self.net.set_submodule(name, _without_padding(module))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(_normalised(images))


def _without_padding(layer: nn.Conv2d) -> nn.Conv2d:
    """A kernel of one pixel needs none: a plain layer says the same, and can take LoRA."""
    plain = nn.utils.skip_init(
        nn.Conv2d,
        layer.in_channels,
        layer.out_channels,
        1,
        stride=layer.stride,
        bias=layer.bias is not None,
    )
    plain.load_state_dict(layer.state_dict())
    return plain


class MiniLM(nn.Module):
    """A BERT whose token embeddings are averaged, as all-MiniLM-L6-v2 was trained."""

    def __init__(self, pretrained: bool):
        super().__init__()
        from transformers import BertConfig, BertModel

        folder = fetch("minilm")
        config = BertConfig.from_json_file(folder / "config.json")
        config._attn_implementation = "sdpa"
        self.bert = BertModel(config, add_pooling_layer=False)
        if pretrained:
            unused = ("pooler.", "embeddings.position_ids")
            weights = load_file(folder / "model.safetensors")
            used = {name: x for name, x in weights.items() if not name.startswith(unused)}
            self.bert.load_state_dict(used)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        tokens = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask[..., None].to(tokens.dtype)
        return (tokens * real).sum(1) / real.sum(1).clamp(min=1)


class ResNet20(nn.Module):
    """ResNet-20 for 32 px images up to its pooled features; shortcuts pad with zeros."""

    def __init__(self, pretrained: bool):
        super().__init__()
        widths = [16, 16, 16, 32, 32, 32, 64, 64, 64]
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16, momentum=BATCH_NORM_MOMENTUM)
        self.blocks = nn.Sequential(
            *(_Block(i, o) for i, o in zip([16, *widths[:-1]], widths, strict=True))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images).mean((-2, -1))

    def maps(self, images: Tensor) -> Tensor:
        """Features at every fourth pixel of every fourth row: (B, 64, H / 4, W / 4)."""
        return self.blocks(F.relu(self.norm(self.stem(_normalised(images)))))


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; halves the image where it widens."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.stride, self.widening = width // width_in, width - width_in
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=self.stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width, momentum=BATCH_NORM_MOMENTUM)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width, momentum=BATCH_NORM_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        shortcut = F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.widening))
        return F.relu(y + shortcut)


class Torchvision(nn.Module):
    """A network of torchvision up to what its last linear layer sees."""

    def __init__(self, name: str, last: str, weights: str, pretrained: bool):
        super().__init__()
        from torchvision.models import get_model

        self.net = get_model(name, weights=None)
        if pretrained:
            self.net.load_state_dict(_torchvision_weights(weights))
        self.net.set_submodule(last, nn.Identity())
        for what, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            values = torch.tensor(values)[:, None, None]  # ImageNet's, as it was trained
            self.register_buffer(what, values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.net((images - self.mean) / self.std)


def torchvision_file(name: str) -> str:
    """Name of the file that holds these weights, such as "ResNet50_Weights.IMAGENET1K_V1"."""
    from torchvision.models import get_weight

    return get_weight(name).url.rsplit("/", 1)[1]


def _torchvision_weights(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_weight

    weights, file = get_weight(name), torchvision_file(name)

    def own() -> dict[str, Tensor]:
        return torch.load(own_paths([file])[0], map_location="cpu", weights_only=True)

    def download() -> dict[str, Tensor]:
        try:
            return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except OSError as error:  # no network, or no disk
            raise Unavailable(str(error)) from error

    return first(
        name,
        [(OWN, own), ("torchvision's own download", download)],
        file,
    )


class FirstToken(nn.Module):
    """A transformer of the Hugging Face hub; its feature vector is its first token's.

    One of images takes them in place of ids.
    """

    def __init__(self, name: str, hub: str, config: dict, pretrained: bool):
        super().__init__()
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.for_model(**config)
        pooler = {} if config.model_type == "distilbert" else {"add_pooling_layer": False}
        if pretrained:
            self.net = _hub_model(name, hub, **pooler)
        else:
            self.net = AutoModel.from_config(config, **pooler)
        self.image = config.model_type == "vit"

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if self.image:
            return self.net(pixel_values=input_ids * 2 - 1).last_hidden_state[:, 0]
        return self.net(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]


def _hub_model(name: str, hub: str, **options) -> nn.Module:
    from transformers import AutoModel

    def load(where: str | Path) -> nn.Module:
        try:
            return AutoModel.from_pretrained(where, use_safetensors=True, **options)
        except OSError as error:
            raise Unavailable(str(error).splitlines()[0]) from error

    return first(
        hub,
        [(OWN, lambda: load(own_paths([name])[0])), ("the Hugging Face hub", lambda: load(hub))],
        f"{name}/ with its config.json and model.safetensors",
    )


class Small(nn.Module):
    """A network of torchvision in its form for 32 px images."""

    def __init__(self, make: Callable[[], nn.Module], pretrained: bool):
        super().__init__()
        self.net = make()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images * 2 - 1)


def vgg16_32() -> nn.Module:
    from torchvision.models import vgg16_bn

    return nn.Sequential(vgg16_bn().features, nn.Flatten())


def resnet50_32() -> nn.Module:
    from torchvision.models import resnet50

    net = resnet50()
    net.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    net.fc = nn.Identity()
    return net


def vit_32() -> nn.Module:
    from torchvision.models import VisionTransformer

    net = VisionTransformer(
        image_size=32, patch_size=4, num_layers=6, num_heads=3, hidden_dim=192, mlp_dim=768
    )
    net.heads = nn.Identity()
    return net

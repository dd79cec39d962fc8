"""Backbones: real weights that do what they were trained for, and seeds that decide the rest."""

import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pi_lib.study import backbones
from pi_lib.study.assets import MissingAsset, fetch


@pytest.fixture(scope="module")
def minilm():
    return backbones.build("minilm", 2)


@pytest.fixture(scope="module")
def lite0():
    return backbones.build("efficientnet-lite0", 10)


@pytest.fixture
def offline(monkeypatch):
    for name in ("minilm", "efficientnet-lite0"):
        fetch(name)

    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def inputs_for(name):
    source = backbones.SOURCES[name]
    if source.kind == "text":
        return dict(
            backbones.tokenizer(name)(["a film", "a fine film"], padding=True, return_tensors="pt")
        )
    return {"images": torch.rand(2, 3, source.size, source.size, generator=torch.Generator())}


@pytest.mark.parametrize("name", backbones.SOURCES)
def test_shapes_and_table(name, offline):
    source = backbones.SOURCES[name]
    model = backbones.build(name, 7, pretrained=source.asset is not None)
    assert not model.training
    assert sum(p.numel() for p in model.encoder.parameters()) == source.parameters
    inputs = inputs_for(name).values()
    features = model.features(*inputs)
    assert features.shape == (2, source.features)
    assert torch.equal(model(*inputs), model.head(features))
    assert torch.equal(model(*inputs), model(*inputs))


@pytest.mark.parametrize("name", backbones.SOURCES)
def test_seed_decides_every_weight_and_leaves_the_callers_random_state(name, offline):
    before = torch.get_rng_state()
    one = backbones.build(name, 3, pretrained=False, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert same(one, backbones.build(name, 3, pretrained=False, seed=1).state_dict())
    other = backbones.build(name, 3, pretrained=False, seed=2).state_dict()
    learned = [k for k in one if k.endswith("weight") and one[k].ndim > 1]
    assert learned and all(not torch.equal(one[k], other[k]) for k in learned)


@pytest.mark.parametrize("name", ["minilm", "efficientnet-lite0"])
def test_arms_share_the_head_and_differ_in_the_encoder(name, offline):
    pretrained = backbones.build(name, 3, seed=5)
    scratch = backbones.build(name, 3, pretrained=False, seed=5)
    assert same(pretrained.head.state_dict(), scratch.head.state_dict())
    pairs = zip(pretrained.encoder.parameters(), scratch.encoder.parameters(), strict=True)
    assert sum(not torch.equal(a, b) for a, b in pairs) > 50
    assert same(
        pretrained.encoder.state_dict(), backbones.build(name, 9, seed=6).encoder.state_dict()
    )


def test_one_batch_norm_rule_for_every_arm(lite0):
    for model in (lite0, *(backbones.build(n, 2, pretrained=False) for n in backbones.SOURCES)):
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(norm.momentum == 0.1 for norm in norms)


@pytest.mark.parametrize(
    ("photo", "expected"),
    [
        ("chelsea", {281, 282, 285}),  # tabby, tiger cat, Egyptian cat
        ("coffee", {504, 967, 968}),  # coffee mug, espresso, cup
        ("rocket", {657, 744, 812}),  # missile, projectile, space shuttle
    ],
)
def test_lite0_knows_imagenet(photo, expected):
    import skimage.data

    model = backbones.build("efficientnet-lite0", 1000)
    weights = torch.load(fetch("efficientnet-lite0") / "efficientnet-lite0.pth", weights_only=True)
    model.head.load_state_dict({key: weights[f"_fc.{key}"] for key in ("weight", "bias")})
    pixels = torch.from_numpy(np.array(getattr(skimage.data, photo)())).permute(2, 0, 1)[None]
    side = min(pixels.shape[-2:])
    top, left = ((extent - side) // 2 for extent in pixels.shape[-2:])
    square = pixels[..., top : top + side, left : left + side].float() / 255
    image = F.interpolate(square, size=(224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        assert model(image).argmax().item() in expected


def test_images_reach_lite0_between_minus_one_and_one(lite0):
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator())
    seen = []
    handle = lite0.encoder.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    lite0(image)
    handle.remove()
    torch.testing.assert_close(seen[0], 2 * image - 1)


def test_minilm_puts_paraphrases_together(minilm):
    sentences = [
        "The film was wonderful.",
        "I loved this movie.",
        "The bank raised its interest rates.",
        "Borrowing money became more expensive.",
    ]
    with torch.no_grad():
        tokens = backbones.tokenizer()(sentences, padding=True, return_tensors="pt")
        unit = F.normalize(minilm.features(**tokens), dim=-1)
    similarity = unit @ unit.T
    paraphrases = torch.stack([similarity[0, 1], similarity[2, 3]])
    assert paraphrases.min() > 0.35
    assert paraphrases.min() > similarity[:2, 2:].max() + 0.2


def test_padding_changes_nothing(minilm):
    tokenizer = backbones.tokenizer()
    alone = tokenizer(["a fine film"], return_tensors="pt")
    padded = tokenizer(["a fine film", "a much longer sentence than that one"], padding=True)
    with torch.no_grad():
        padded = minilm(**padded.convert_to_tensors("pt"))[0]
        torch.testing.assert_close(minilm(**alone)[0], padded, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(minilm(alone["input_ids"])[0], padded, atol=1e-5, rtol=1e-5)


def test_tokenizer_is_fast_and_knows_where_its_tokens_are():
    tokenizer = backbones.tokenizer()
    assert tokenizer.is_fast and tokenizer.mask_token == "[MASK]"
    encoded = tokenizer("Unfathomably good", return_offsets_mapping=True)
    assert encoded["offset_mapping"][-2] == (13, 17)


@pytest.mark.parametrize("name", backbones.SOURCES)
def test_gradients_reach_every_parameter(name):
    model = backbones.build(name, 2, pretrained=False).train()
    model(*inputs_for(name).values()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.is_contiguous() and p.grad.is_contiguous() for p in model.parameters())


def test_resnet20_has_the_shape_of_the_paper():
    model = backbones.build("resnet20", 10, pretrained=False)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == 20  # and the head
    total = sum(p.numel() for p in model.parameters())
    assert round(total / 1e6, 2) == 0.27  # He et al. 2016, table 6


def test_transfer_keeps_the_encoder_and_renews_the_head():
    source = backbones.build("resnet20", 10, pretrained=False, seed=3)
    before = {k: v.clone() for k, v in source.state_dict().items()}
    target = backbones.transfer(source, 4, seed=8)
    assert same(source.encoder.state_dict(), target.encoder.state_dict())
    expected = backbones.build("resnet20", 4, pretrained=False, seed=8).head
    assert same(target.head.state_dict(), expected.state_dict())
    for parameter in target.parameters():
        nn.init.zeros_(parameter)
    assert same(source.state_dict(), before)


def test_weights_load_without_the_network_and_without_pickled_code(offline, monkeypatch):
    load, flags = torch.load, []

    def watched(*args, **options):
        flags.append(options.get("weights_only"))
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", watched)
    backbones.tokenizer.cache_clear()
    backbones.tokenizer("minilm")
    backbones.build("minilm", 2)
    backbones.build("efficientnet-lite0", 2)
    assert flags == [True]


def test_weights_of_the_hub_come_from_the_readers_own_folder(tmp_path, monkeypatch):
    """As torchvision and transformers write them; the encoder is then theirs, to the bit."""
    from torchvision.models import ResNet50_Weights, resnet50

    torch.manual_seed(7)
    net = resnet50()
    torch.save(net.state_dict(), tmp_path / ResNet50_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1])
    small = backbones.build("vit-small", 2, pretrained=False, seed=9).encoder.net
    small.save_pretrained(tmp_path / "vit-small")
    monkeypatch.setenv("PI_LIB_DATA", str(tmp_path))

    model = backbones.build("resnet50", 3)
    net.fc = nn.Identity()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = torch.rand(2, 3, 64, 64)
    normalised = (images - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(model.features(images), net.eval()(normalised))
    assert same(
        backbones.build("vit-small", 5, seed=1).encoder.net.state_dict(), small.state_dict()
    )


@pytest.mark.parametrize("name", ["vgg16", "distilbert"])
def test_weights_that_no_source_has_are_named(name, monkeypatch):
    import transformers

    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.delenv("PI_LIB_DATA", raising=False)
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr(torch.hub.os.path, "exists", lambda _: False)
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", no_network)
    with pytest.raises(
        MissingAsset, match="1. your own folder.*not set\n.*2. .*no network\nTo supply"
    ):
        backbones.build(name, 2)


def test_import_needs_no_optional_package():
    code = (
        "import sys, pi_lib.study.backbones; "
        "print([m for m in ('transformers', 'torchvision', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: backbones.build("bert", 2),
            "no backbone named 'bert'; there are efficientnet-lite0",
        ),
        (lambda: backbones.build("resnet20", 2), "no pre-trained weights.*pi_lib.pretrain"),
        (lambda: backbones.build("resnet20", 0, pretrained=False), "at least 1; got 0"),
        (
            lambda: backbones.tokenizer("resnet20"),
            "takes images; text backbones: minilm, bert-base, distilbert",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()

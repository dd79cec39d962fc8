"""Backbones: real weights that do what they were trained for, and seeds that decide the rest."""

import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import small_study
import torch
from torch import nn
from torch.nn import functional as F

from pi_lib import study
from pi_lib.study import assets, backbones, registration
from pi_lib.study.assets import MissingAsset, fetch
from pi_lib.study.store import Store

PARAMETERS = {  # of the encoder
    "efficientnet-lite0": 3_371_008,
    "minilm": 22_565_376,
    "resnet20": 269_072,  # and its head: 0.27 million, as in He et al. 2016, table 6
    "vgg16-32": 14_723_136,
    "resnet50-32": 23_500_352,
    "vit-32": 2_691_648,
    "vgg16": 134_260_544,
    "resnet50": 23_508_032,
    "vit-base": 85_798_656,
    "vit-small": 21_665_664,
    "bert-base": 108_891_648,
    "distilbert": 66_362_880,
}


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
    known = backbones.BACKBONES[name]
    if known.kind == "text":
        return dict(
            backbones.tokenizer(name)(["a film", "a fine film"], padding=True, return_tensors="pt")
        )
    return {"images": torch.rand(2, 3, known.size, known.size, generator=torch.Generator())}


@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_gradients_and_table(name, offline):
    known = backbones.BACKBONES[name]
    model = backbones.build(name, 7, pretrained=known.weights in assets.NAMES)
    assert not model.training
    assert sum(p.numel() for p in model.encoder.parameters()) == PARAMETERS[name]
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.momentum == 0.1 for norm in norms)  # one rule for every arm
    inputs = inputs_for(name).values()
    features = model.features(*inputs)
    assert features.shape == (2, known.features)
    assert torch.equal(model(*inputs), model.head(features))
    model.train()(*inputs).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.is_contiguous() and p.grad.is_contiguous() for p in model.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
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
def test_arms_differ_in_encoder_and_head(name, offline):
    pretrained = backbones.build(name, 3, seed=5)
    scratch = backbones.build(name, 3, pretrained=False, seed=5)
    assert not torch.equal(pretrained.head.weight, scratch.head.weight)
    new_head = backbones.transfer(pretrained, 3, seed=5).head  # wherever the weights come from
    assert same(pretrained.head.state_dict(), new_head.state_dict())
    pairs = zip(pretrained.encoder.parameters(), scratch.encoder.parameters(), strict=True)
    assert sum(not torch.equal(a, b) for a, b in pairs) > 50
    assert same(
        pretrained.encoder.state_dict(), backbones.build(name, 9, seed=6).encoder.state_dict()
    )


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


def test_transfer_keeps_the_encoder_and_renews_the_head():
    source = backbones.build("resnet20", 10, pretrained=False, seed=3)
    before = {k: v.clone() for k, v in source.state_dict().items()}
    target = backbones.transfer(source, 4, seed=8)
    assert same(source.encoder.state_dict(), target.encoder.state_dict())
    assert target.head.out_features == 4
    again, other = (backbones.transfer(source, 4, seed=seed).head for seed in (8, 9))
    assert same(target.head.state_dict(), again.state_dict())
    assert not torch.equal(target.head.weight, other.weight)
    for parameter in target.parameters():
        nn.init.zeros_(parameter)
    assert same(source.state_dict(), before)


def test_weights_of_the_hub_come_from_the_readers_own_folder(tmp_path, monkeypatch):
    """As torchvision and transformers write them; the encoder is then theirs, to the bit."""
    from torchvision.models import ResNet50_Weights, resnet50

    torch.manual_seed(7)
    net = resnet50()
    torch.save(net.state_dict(), tmp_path / ResNet50_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1])
    small = backbones.build("vit-small", 2, pretrained=False, seed=9).encoder.net
    small.save_pretrained(tmp_path / "vit-small")
    names = ("resnet50", "vit-small")
    assert tuple(map(backbones.identity, names)) == names
    monkeypatch.setenv("PI_LIB_DATA", str(tmp_path))
    assert all(backbones.identity(name).startswith(f"{name} (") for name in names)

    model = backbones.build("resnet50", 3)
    net.fc = nn.Identity()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = torch.rand(2, 3, 64, 64)
    normalised = (images - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(model.features(images), net.eval()(normalised))
    assert same(
        backbones.build("vit-small", 5, seed=1).encoder.net.state_dict(), small.state_dict()
    )


def test_a_network_of_the_hub_takes_what_its_tokenizer_gives():
    model = backbones.build("distilbert", 2, pretrained=False)
    ids, real = torch.ones(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.int64)
    named = model(input_ids=ids, attention_mask=real)
    torch.testing.assert_close(named, model(ids, attention_mask=real))


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


def test_what_a_network_lacks_is_said():
    with pytest.raises(ValueError, match="no pre-trained weights.*pi_lib.pretrain"):
        backbones.build("resnet20", 2)
    with pytest.raises(ValueError, match="images; text backbones: minilm, bert-base, distilbert"):
        backbones.tokenizer("resnet20")


class Tiny(nn.Module):
    """A network of one's own: its last layer is what a cell puts on it."""

    def __init__(self, pretrained):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, images):
        return self.net(images).flatten(1)


@pytest.fixture
def registered(monkeypatch):
    """What a test registers goes with it."""
    monkeypatch.setattr(backbones, "BACKBONES", dict(backbones.BACKBONES))
    return partial(study.register_backbone, "mine", Tiny, kind="image", size=8, features=8)


def test_a_registered_network_is_built_like_the_others(registered):
    registered(any_size=True)
    first, again = (backbones.build("mine", 3, pretrained=False, seed=4) for _ in range(2))
    assert same(first.state_dict(), again.state_dict()) and not first.training
    assert first(torch.zeros(2, 3, 16, 16)).shape == (2, 3)
    with pytest.raises(ValueError, match="mine has no pre-trained weights"):
        backbones.build("mine", 3)
    assert backbones.identity("mine").startswith("mine (") and not backbones.has_maps("mine")


def test_a_registered_network_of_texts_has_a_tokenizer(registered):
    class Bag(nn.Module):
        def __init__(self, pretrained):
            super().__init__()
            self.table = nn.EmbeddingBag(40_000, 6)

        def forward(self, input_ids, attention_mask=None):
            return self.table(input_ids)

    study.register_backbone(
        "bag", Bag, kind="text", features=6, weights="ours", tokenizer=lambda: "own"
    )
    assert backbones.build("bag", 2).head.in_features == 6
    assert backbones.tokenizer("bag") == "own"
    assert study.Cell("bag", "movie-reviews").kind == "text"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet20", "replace": True}, "it is built in"),
        ({"kind": "video"}, "kind='video'; expected 'image' or 'text'"),
        ({"features": 0}, "features=0; expected an integer, at least 1"),
        ({"size": None}, "size=None; expected an integer"),
        ({"kind": "text"}, "size, any_size and maps are for images"),
        ({"build": 3}, "mine: build.pretrained. gives an encoder; got int"),
        ({"build": partial(Tiny, True)}, "the code of .* cannot be read, .* pass version='1'"),
    ],
)
def test_what_cannot_be_registered_is_refused(registered, options, message):
    options = {"name": "mine", "build": Tiny, "kind": "image", "size": 8, "features": 8} | options
    with pytest.raises((ValueError, TypeError), match=message):
        study.register_backbone(**options)
    assert "mine" not in backbones.BACKBONES


def test_a_name_of_ones_own_is_replaced_on_request_alone(registered):
    registered()
    before = backbones.identity("mine")
    with pytest.raises(ValueError, match="there is a 'mine' already: pass replace=True"):
        registered()
    registered(replace=True)
    assert backbones.identity("mine") == before
    registered(replace=True, version="2")
    assert backbones.identity("mine") != before  # stored results of the other are not its own


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 5}, r"the encoder gives \(1, 8\) for one image; expected .* \(1, 5\)"),
        ({"maps": True}, "maps=True, but has no method maps"),
        ({"build": lambda pretrained: None}, "gave NoneType; expected a torch.nn.Module"),
    ],
)
def test_a_network_other_than_registered_is_named_when_it_is_built(registered, options, message):
    options = {"name": "mine", "build": Tiny, "kind": "image", "size": 8, "features": 8} | options
    study.register_backbone(**options)
    with pytest.raises((ValueError, TypeError), match=message):
        backbones.build("mine", 2, pretrained=False)


def test_a_cell_of_ones_own_network_goes_through_the_whole_pipeline(
    registered, tmp_path, monkeypatch, digits
):
    registered()
    monkeypatch.setitem(study.PROFILES, "smoke", small_study.profile())
    record = study.run(
        study.Cell("mine", "digits", "smoke", source="fashion-mnist"), Store(tmp_path)
    )
    assert record.runs("finetuned")[0].v.isfinite().all()


def test_a_plugin_that_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("PI_LIB_PLUGINS", "small_study, no_such_module")
    with pytest.raises(ImportError, match="PI_LIB_PLUGINS names 'no_such_module', which cannot"):
        registration.import_plugins()


def test_resnet20_has_the_shape_of_the_paper():
    model = backbones.build("resnet20", 10, pretrained=False)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == 20  # and the head
    total = sum(p.numel() for p in model.parameters())
    assert round(total / 1e6, 2) == 0.27  # He et al. 2016, table 6


PLUGIN = """
import numpy as np
from torch import nn
from pi_lib import study
from pi_lib.study.data import DataSet, Samples

class Tiny(nn.Module):
    def __init__(self, pretrained):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, images):
        return self.net(images).flatten(1)

def squares(folder):
    pictures = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(60) % 2
    pictures[labels == 1, 4:12, 4:12] = 255
    train, test = Samples(pictures[:40], labels[:40]), Samples(pictures[40:], labels[40:])
    return DataSet(("noise", "square"), train, test, origin="drawn here")

study.register_backbone("tiny-net", Tiny, kind="image", size=16, features=8)
study.register_data("squares", squares, kind="image")
"""


def test_a_cell_of_ones_own_network_and_data_in_a_process_of_its_own(tmp_path):
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    (tmp_path / "study_of_mine.py").write_text(
        """
from pi_lib import study
from pi_lib.study.store import Store

if __name__ == "__main__":
    few = {"n_train": 16, "n_test": 8, "samples": 1, "n": 2, "covering": 1, "n_source": 16}
    cell = study.Cell("tiny-net", "squares", "smoke", source="digits", changes=few)
    assert study.compute_all([cell], Store(STORE), processes=1) == []
    print(study.run(cell, Store(STORE)).count("finetuned"))
""".replace("STORE", repr(str(tmp_path / "results")))
    )
    here = Path(__file__).parents[1]
    about = {"PI_LIB_PLUGINS": "small_study, my_plugin", "PI_LIB_HOME": str(tmp_path)}
    about["PYTHONPATH"] = os.pathsep.join([*map(str, (here, tmp_path)), *sys.path])
    command = [sys.executable, str(tmp_path / "study_of_mine.py")]
    done = subprocess.run(command, env=os.environ | about, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == 2  # runs


def test_tokenizer_is_fast_and_knows_where_its_tokens_are():
    tokenizer = backbones.tokenizer()
    assert tokenizer.is_fast and tokenizer.mask_token == "[MASK]"
    encoded = tokenizer("Unfathomably good", return_offsets_mapping=True)
    assert encoded["offset_mapping"][-2] == (13, 17)

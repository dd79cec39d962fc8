"""Segmentation, detection and regression: values, scenes, losses, and the whole path."""

import pytest
import small_study
import torch
from torch import nn

from pi_lib import (
    KnowledgeTracker,
    LabelMapPlayers,
    PatchPlayers,
    box_log_odds,
    coalition_values,
    extract,
    finetune,
    negative_error,
    region_log_odds,
    study,
)
from pi_lib.coalitions import members
from pi_lib.study import backbones, data
from pi_lib.study.store import Store
from pi_lib.training import objectives


def draw(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_region_log_odds_is_the_mean_over_its_pixels():
    logits = 4 * draw(3, 5, 4, 4)
    labels = torch.randint(-1, 5, (3, 4, 4), generator=torch.Generator().manual_seed(1))
    for found, sample, map_ in zip(region_log_odds(logits, labels), logits, labels, strict=True):
        odds = []
        for row, column in (map_ >= 0).nonzero().tolist():
            p = sample[:, row, column].softmax(0)[map_[row, column]]
            odds.append((p / (1 - p)).log())
        assert found.item() == pytest.approx(torch.stack(odds).mean().item(), abs=1e-9)


def overlap(box, other):
    """Intersection over union, one number at a time."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    both = max(width, 0) * max(height, 0)
    area = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return both / (area - both)


def test_box_log_odds_is_that_of_the_best_matching_box():
    corner = 4 * draw(4, 9, 2, seed=2)
    boxes = torch.cat([corner, corner + 1 + 4 * draw(4, 9, 2, seed=3)], -1)
    outputs = torch.cat([boxes, 6 * draw(4, 9, 3, seed=4)], -1)
    true = torch.tensor([[0, 1, 1, 4, 3], [1, 2, 2, 6, 7], [2, 0, 0, 5, 5], [1, 40, 40, 41, 41.0]])
    for found, sample, (label, *box) in zip(
        box_log_odds(outputs, true), outputs, true.tolist(), strict=True
    ):
        scores = [
            overlap(row[:4].tolist(), box) * row[4:].softmax(0)[int(label)].item() for row in sample
        ]
        best = torch.tensor(max(*scores, 1e-6), dtype=torch.float64)
        assert found.item() == pytest.approx((best / (1 - best)).log().item(), rel=1e-6)


def test_regression_has_the_interactions_of_a_square():
    """-(w x - t)^2 with x in {0, 1}: pairs interact by -2 w_i w_j, and nothing beyond."""
    weights = torch.tensor([1.0, 2.0, -3.0])
    players = LabelMapPlayers(torch.arange(3), baseline=0.0)
    found = extract(
        lambda x: (x @ weights)[:, None], torch.ones(1, 3), torch.tensor([2.0]), players,
        value=negative_error,
    )  # fmt: skip
    for coalition, value in enumerate(found.i_and[0].tolist()):
        w = [weights[i].item() for i in members(coalition)]
        expected = {
            0: -4.0, 1: sum(4 * x - x * x for x in w), 2: -2 * torch.tensor(w).prod().item()
        }  # fmt: skip
        assert value == pytest.approx(expected.get(len(w), 0.0), abs=1e-5)
    assert found.labels == [2.0]


class PixelWise(nn.Module):
    """Two classes: a pixel's logit of the first is what is there."""

    def forward(self, x):
        return torch.cat([x[:, :1], torch.zeros_like(x[:, :1])], 1)


def test_players_outside_a_region_count_for_nothing():
    image = draw(1, 3, 8, 8, seed=5).float() + 1
    owner = torch.arange(4).repeat_interleave(2)[:, None].expand(8, 8)  # four stripes
    region = torch.full((1, 8, 8), -1)
    region[0, 1:5] = 0  # half of the first stripe, all of the second, half of the third
    players = LabelMapPlayers(owner, baseline=0.0)
    found = extract(PixelWise().eval(), image, region, players, value=region_log_odds)
    rows = image[0, 0].sum(-1) / 32
    alone = [rows[1], rows[2] + rows[3], rows[4], 0]
    for coalition, value in enumerate(found.i_and[0].tolist()):
        expected = alone[coalition.bit_length() - 1] if coalition.bit_count() == 1 else 0
        assert value == pytest.approx(float(expected), abs=1e-6)


class Detector(nn.Module):
    """A box in the middle, said to be there where the two upper quarters of the picture are."""

    def forward(self, x):
        left, right = x[:, 0, :4, :4].amin((1, 2)), x[:, 0, :4, 4:].amin((1, 2))
        box = torch.tensor([2.0, 2, 6, 6]).expand(len(x), 4)
        return torch.cat([box, (8 * left * right - 4)[:, None], torch.zeros(len(x), 1)], 1)[:, None]


def test_an_and_planted_in_a_detector_is_found(tmp_path):
    players = PatchPlayers(2, n=4, region="all", baseline="zero")
    asked = torch.tensor([[0, 2.0, 2, 6, 6]])
    with torch.no_grad():
        found = extract(
            Detector().eval(), torch.ones(1, 3, 8, 8), asked, players,
            value=box_log_odds, keep=tmp_path,
        )  # fmt: skip
    upper = sum(1 << i for i, name in enumerate(found.players[0]) if name.startswith("r0"))
    assert found.top(1)["coalition"].item() == upper
    assert found.i_and[0, upper].item() == pytest.approx(8, abs=1e-3)
    assert (found.i_and[0].abs() > 1e-4).sum() == 2  # and that of nothing
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


@pytest.mark.parametrize("aim", ["segmentation", "detection"])
def test_shared_layers_change_no_value(aim):
    model = backbones.build("resnet20", 3, pretrained=False, aim=aim)
    images = draw(2, 3, 64, 64, seed=6).float()
    region = torch.full((2, 64, 64), -1)
    region[:, 10:40, 20:50] = 1
    asked = region if aim == "segmentation" else torch.tensor([[1, 10.0, 10, 40, 40]] * 2)
    found = [
        coalition_values(
            model, images, asked, PatchPlayers(4, 6, region="all"),
            value=objectives.AIMS[aim].value, share=share,
        )
        for share in (True, False)
    ]  # fmt: skip
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)
    assert found[0].std() > 0


@pytest.mark.parametrize(
    ("value", "outputs", "labels", "message"),
    [
        (
            region_log_odds,
            torch.zeros(1, 2, 4, 4),
            torch.zeros(1, 4, dtype=int),
            "expected outputs",
        ),
        (region_log_odds, torch.zeros(1, 2, 4), torch.full((1, 4), -1), "region of sample 0 is em"),
        (region_log_odds, torch.zeros(1, 2, 4), torch.full((1, 4), 2), r"expected 0\.\.1"),
        (box_log_odds, torch.zeros(1, 4), torch.zeros(1, 5), "expected outputs"),
        (box_log_odds, torch.zeros(1, 1, 6), torch.tensor([[2, 0, 0, 1, 1]]), r"expected 0\.\.1"),
        (box_log_odds, torch.zeros(1, 1, 6), torch.tensor([[0, 3, 0, 1, 1]]), "is empty"),
        (negative_error, torch.zeros(2, 1), torch.zeros(1), "of the same shape"),
    ],
)
def test_bad_targets_are_refused(value, outputs, labels, message):
    with pytest.raises(ValueError, match=message):
        value(outputs, labels)


def test_a_region_or_box_without_a_player_is_refused():
    players, image = PatchPlayers(4, n=4, region="central"), torch.rand(2, 3, 8, 8)
    regions = torch.full((2, 8, 8), -1)
    regions[0, 3, 3] = regions[1, 0, 0] = 0
    boxes = torch.tensor([[0, 2.0, 2, 4, 4], [0, 6, 6, 8, 8]])
    for value, labels in ((region_log_odds, regions), (box_log_odds, boxes)):
        with pytest.raises(ValueError, match="sample 1: no player owns a part"):
            coalition_values(PixelWise().eval(), image, labels, players, value=value)


def garments(count=10, **options):
    name = "fashion-mnist+even+" + options.pop("aim", "detection")
    return data.load(name, n_train=count, n_test=count, size=32, **options)


def test_scenes_hold_both_pictures_with_tight_masks_and_boxes():
    plain = data.load("fashion-mnist+even", n_train=10, n_test=10, size=32).train
    boxes, maps = garments().train, garments(aim="segmentation").train
    assert torch.equal(boxes.inputs, maps.inputs) and boxes.inputs.shape == (10, 3, 64, 64)
    assert torch.equal(boxes.labels, plain.labels)
    for scene, map_, pair, picture, label in zip(
        boxes.inputs, maps.targets, boxes.targets, plain.inputs, plain.labels, strict=True
    ):
        assert pair[0, 0] == label != pair[1, 0]
        for mask, (number, *edges) in zip(map_, pair.tolist(), strict=True):
            left, top, right, bottom = map(int, edges)
            inside = mask[top:bottom, left:right] == number
            assert inside.sum() == (mask >= 0).sum() > 30
            assert all(inside.any(axis).all() or inside.any(axis)[[0, -1]].all() for axis in (0, 1))
        assert torch.equal(
            scene.amax(0) > data.scenes.BRIGHT, (map_ >= 0).any(0)
        )  # nothing else is there
        assert scene.sum() > picture.sum()
        quarters = scene.unfold(1, 32, 32).unfold(2, 32, 32).flatten(1, 2)
        assert any(torch.equal(quarters[:, k], picture) for k in range(4))
    assert torch.equal(garments(5, seed=0).train.targets, boxes.targets[:5])  # nested


def test_what_is_right_counts_as_right_and_what_is_not_does_not():
    maps, boxes = garments(aim="segmentation").train.targets, garments().train.targets
    classes = maps.amax(1)
    said = nn.functional.one_hot(classes.where(classes >= 0, 10)).movedim(-1, 1) * 20.0
    assert objectives.segmented(said, maps).all()
    assert not objectives.segmented(said.roll(20, -1), maps).any()
    assert not objectives.segmented(said.roll(1, 1), maps).any()  # every pixel another class

    found = torch.zeros(10, 64, 15)
    found[..., :4], found[..., 14] = torch.tensor([0.0, 0, 1, 1]), 9
    for which in (0, 1):
        found[:, which, :4] = boxes[:, which, 1:]
        found[torch.arange(10), which, 4 + boxes[:, which, 0].long()] = 20
    assert objectives.detected(found, boxes).all()
    moved = found.clone()
    moved[..., [0, 2]] += 0.6 * (boxes[:, :1, 3:4] - boxes[:, :1, 1:2])
    assert not objectives.detected(moved, boxes).any()
    assert not objectives.detected(found.roll(1, -1), boxes).any()


class Small(nn.Module):
    """An encoder with a feature map that learns in seconds."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 5, stride=2, padding=2), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 5, stride=2, padding=2), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 5, padding=2), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 64, 5, padding=2), nn.BatchNorm2d(64), nn.ReLU(),
        )  # fmt: skip

    def maps(self, x):
        return self.layers(x)


@pytest.mark.parametrize("aim", ["segmentation", "detection"])
def test_the_losses_teach_what_counts_as_right(aim):
    about, train = objectives.AIMS[aim], garments(aim=aim).train
    torch.manual_seed(0)
    model = backbones.Classifier(Small(), about.head(64, 10))
    images, asked = data.images(train.inputs[:2]), train.targets[:2, 0]
    tracker = KnowledgeTracker(
        (images, asked), PatchPlayers(2, 4, region="all"), value=about.value, steps=100,
    )  # fmt: skip
    run = finetune(
        model, train, train, epochs=60, learning_rate=1e-2, batch_size=8, checkpoints=2,
        loss=about.loss, correct=about.correct, callbacks=[tracker],
    )  # fmt: skip
    assert run.log[0]["accuracy"] < 0.5 and run.accuracy > 0.8
    assert run.log[-1]["loss"] < run.log[0]["loss"] / 3
    with torch.no_grad():  # the whole picture's value is what the trained network says of it
        said = about.value(run.model(images), asked).double()
    last = tracker.interactions[max(tracker.interactions)]
    torch.testing.assert_close(last.v[:, -1], said, rtol=0, atol=1e-4)
    assert said.mean() > tracker.before.v[:, -1].mean() + 1


@pytest.mark.parametrize("aim", ["segmentation", "detection"])
def test_a_cell_from_pretraining_to_knowledge(aim, tmp_path, monkeypatch):
    monkeypatch.setitem(study.PROFILES, "smoke", small_study.PROFILE)
    cell = study.Cell(
        "resnet20", f"fashion-mnist+even+{aim}", "smoke", source="fashion-mnist+odd",
        changes={"epochs": 1},
    )  # fmt: skip
    record = study.run(cell, Store(tmp_path))
    end = record.runs("finetuned")[0]
    task = study.load(cell)
    assert end.labels == study.samples(cell, task).labels.tolist()
    # What is stored is what the trained network says of the scenes.
    model = study.trained_model(cell, "finetuned", 0, Store(tmp_path))
    split = study.samples(cell, task)
    with torch.no_grad():
        said = model(data.images(split.inputs))
    v = objectives.AIMS[aim].value(said, split.targets[:, 0])
    torch.testing.assert_close(end.v[:, -1], v.double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"backbone": "vit-32", "source": "cifar10"}, "vit-32 gives no feature map"),
        ({"source": "fashion-mnist+odd+detection"}, "backbones are pre-trained to classify"),
        ({"task": "flowers+detection"}, "needs pictures of one object on black"),
        ({"task": "fashion-mnist+detection+even"}, "comes last"),
        ({"task": "fashion-mnist+blurred+segmentation"}, "not of changed ones"),
        ({"task": "movie-reviews+detection"}, "is for images"),
    ],
)
def test_impossible_cells_are_refused(cell, message):
    fields = {"backbone": "resnet20", "task": "fashion-mnist+even+detection"}
    with pytest.raises(ValueError, match=message):
        study.Cell(**fields | {"source": "cifar10"} | cell)


def test_a_backbone_without_maps_is_refused():
    with pytest.raises(ValueError, match="vgg16-32 gives no feature map.*resnet20"):
        backbones.build("vgg16-32", 3, pretrained=False, aim="detection")
    with pytest.raises(ValueError, match="Flatten gives none: give the encoder a method maps"):
        backbones.Classifier(nn.Flatten(), objectives.AIMS["detection"].head(4, 2))

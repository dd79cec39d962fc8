"""Objectives of pre-training: each against its definition, written out."""

import math
from dataclasses import replace

import pytest
import small_study
import torch
from torch import nn
from torch.nn import functional as F

from pi_lib import study
from pi_lib.study import backbones, data
from pi_lib.study.store import Store
from pi_lib.training import objectives


@pytest.fixture
def pictures():
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(1)
    return backbones.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), nn.Linear(5, 3))


LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def test_contrastive_is_simclr_written_out(pictures, monkeypatch):
    views = iter([pictures, pictures.flip(-1)])
    monkeypatch.setattr(objectives, "augmented", lambda x: next(views))
    model = network().train()
    loss, logits = objectives.contrastive(model, pictures, LABELS, temperature=0.5)
    z = [F.normalize(model.features(x), dim=-1).detach() for x in (pictures, pictures.flip(-1))]
    both, terms = torch.cat(z), []
    for k in range(12):
        similar = [math.exp(float(both[k] @ both[m]) / 0.5) for m in range(12) if m != k]
        terms.append(-math.log(math.exp(float(both[k] @ both[(k + 6) % 12]) / 0.5) / sum(similar)))
    assert loss.item() == pytest.approx(sum(terms) / 12, rel=1e-5)
    loss.backward()
    assert model.head.weight.grad is None and logits.shape == (6, 3)  # it takes no labels


def test_adversarial_takes_the_step_of_fgsm(pictures):
    model, seen = network().train(), []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    torch.manual_seed(3)
    loss, _ = objectives.adversarial(model, pictures, LABELS, radius=0.03)
    first, second = seen
    start = first - pictures
    assert start.abs().max() <= 0.03 and (second - pictures).abs().max() <= 0.03 + 1e-6
    assert second.min() >= 0 and second.max() <= 1
    x = first.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(network()(x), LABELS), x)
    step = (start + 1.25 * 0.03 * slope.sign()).clamp(-0.03, 0.03)
    torch.testing.assert_close(second, (pictures + step).clamp(0, 1))
    assert loss > F.cross_entropy(network()(pictures), LABELS)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("objective", objectives.OBJECTIVES.values())
def test_in_eval_mode_all_are_the_cross_entropy(objective, pictures):
    model, state = network().eval(), torch.get_rng_state()
    with torch.no_grad():
        loss, logits = objective(model, pictures, LABELS)
    assert loss == F.cross_entropy(model(pictures), LABELS) and torch.equal(logits, model(pictures))
    assert torch.equal(state, torch.get_rng_state())  # evaluating does not change the training


def test_augmented_pictures_are_crops_of_the_picture():
    torch.manual_seed(0)
    rows = torch.linspace(0.3, 0.7, 16).view(1, 1, 16, 1).expand(400, 3, 16, 16)
    found = objectives.augmented(rows)
    assert found.shape == rows.shape and found.min() >= 0 and found.max() <= 1
    assert (found - found.mean(-1, keepdim=True)).abs().max() < 1e-5  # across, it stays even
    down = found.mean((1, 3))
    assert ((down[:, 1:] - down[:, :-1]) > -1e-6).all()  # never upside down
    columns = objectives.augmented(rows.transpose(-1, -2)).mean((1, 2))
    mirrored = (columns[:, 0] > columns[:, -1]).double().mean()
    assert 0.4 < mirrored < 0.6
    assert down.std(0).min() > 0.02  # and each is another


def test_a_contrastive_run_tells_pictures_apart_better():
    task = data.load("fashion-mnist", n_train=64, n_test=64, size=16)
    model = backbones.build("resnet20", 10, pretrained=False)
    from pi_lib import training

    def loss(model):
        torch.manual_seed(0)
        with torch.no_grad():
            return objectives.contrastive(model.train(), data.images(task.test.inputs), None)[0]

    before = loss(model).item()
    run = training.pretrain(
        model, task.train, task.test, epochs=6, learning_rate=3e-3, checkpoints=2,
        loss=objectives.contrastive,
    )  # fmt: skip
    assert run.settings["loss"] == "contrastive"
    assert loss(run.model).item() < before - 0.2


def test_a_cell_is_pre_trained_as_it_says(small, tmp_path):
    cell = study.Cell(**small_study.CELL, pretraining="contrastive")
    assert cell.name == "resnet20 (fashion-mnist, contrastive) on digits"
    plain = replace(cell, pretraining="supervised")
    store, record = Store(tmp_path), study.run(cell, Store(tmp_path))
    steps = [study.Step(one, "pretrain").path(store) for one in (cell, plain)]
    assert steps[0].exists() and not steps[1].exists()
    assert record.name == cell.name
    scratch, tuned = (
        [study.Step(one, "train", arm, 0, 0.1).path(store) for one in (cell, plain)]
        for arm in ("scratch", "finetuned")
    )
    assert scratch[0] == scratch[1] and tuned[0] != tuned[1]  # the one has no pre-training


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pretraining": "by heart"}, "'by heart'; expected one of supervised, contrastive"),
        ({"pretraining": "adversarial"}, "name their source task"),
        (
            {"backbone": "minilm", "task": "sst2", "pretraining": "contrastive"},
            "is done here, on images",
        ),
    ],
)
def test_bad_pre_training_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        study.Cell(**fields)

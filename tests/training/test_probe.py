"""The linear probe: the optimum against scikit-learn's, on any network, and chosen how."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F
from torchvision import models
from transformers import BertConfig, BertForSequenceClassification

import pi_lib as pi
from pi_lib.study import backbones
from pi_lib.training import Run, Split, objectives, regression
from pi_lib.training.probe import Probe
from pi_lib.training.regression import logistic_regression


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    split = Split(images, torch.from_numpy(data.target), list(range(len(images))))
    return split.take(range(300)), split.take(range(300, 500))


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 32))
        return backbones.Classifier(encoder, nn.Linear(32, 10)).eval()


def same(first, second):
    return all(torch.equal(x, second[name]) for name, x in first.items())


@pytest.mark.parametrize(("n", "d"), [(200, 7), (40, 60)])
@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-4])
def test_the_optimum_is_scikit_learns(n, d, strength):
    """Biases are penalised as weights are: there a last feature that is 1."""
    x = draw(n, d) @ draw(d, d, seed=1) * torch.logspace(-1, 1, d, dtype=torch.float64) + 3
    x[:, 2] = 5.0  # does not vary
    y = (x @ draw(d, 3, seed=2) + 20 * draw(n, 3, seed=3)).argmax(1)
    weight, bias = logistic_regression(x, y, strength)
    assert weight[:, 2].abs().max() < 1e-12
    standard = (x - x.mean(0)) / x.var(0, correction=0).mean().sqrt()
    model = LogisticRegression(C=1 / (strength * n), fit_intercept=False, tol=1e-9, max_iter=20_000)
    model.fit(torch.cat([standard, torch.ones(n, 1)], 1).numpy(), y.numpy())
    coefficients = torch.from_numpy(model.coef_)
    expected = standard @ coefficients[:, :-1].T + coefficients[:, -1]
    torch.testing.assert_close(x @ weight.T + bias, expected, rtol=0, atol=1e-4)
    problem = regression.Regression(x, y, 3)  # to 1e-6: the minimum has no slope
    w = problem.solve(strength, regression.EXACT).requires_grad_()
    loss = F.cross_entropy(problem.x @ w, y) + strength / 2 * (w * w).sum()
    (slope,) = torch.autograd.grad(loss, w)
    assert slope.norm() <= 1.1e-7 * strength * w.norm()


def test_the_answer_is_the_same_whatever_the_start_and_the_order():
    x, y = draw(60, 90), torch.arange(60) % 4
    problem = regression.Regression(x, y, 4)
    zero = problem.solve(1e-2, regression.EXACT)
    for seed in (1, 2):
        other = problem.solve(1e-2, regression.EXACT, draw(*zero.shape, seed=seed))
        assert (other - zero).norm() <= 1e-6 * zero.norm()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    for first, second in zip(
        logistic_regression(x, y, 1e-2), logistic_regression(x[order], y[order], 1e-2), strict=True
    ):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-7)


def test_a_class_without_a_sample_has_a_finite_answer():
    weight, bias = logistic_regression(draw(20, 3), torch.arange(20) % 2, 1e-3, n_classes=4)
    assert weight.shape == (4, 3) and weight.isfinite().all() and (bias[2:] < bias[:2].min()).all()
    with pytest.raises(ValueError, match="strength=0; expected a number above 0"):
        logistic_regression(draw(20, 3), torch.arange(20) % 2, 0)


def test_a_probe_changes_the_head_alone_and_says_the_same_every_time(digits, tmp_path):
    model = network()
    before = {k: x.clone() for k, x in model.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    run, again = (pi.linear_probe(model, *digits) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert same(before, model.state_dict())
    assert same(model.encoder.state_dict(), run.model.encoder.state_dict())
    assert run.steps == [1] and set(run.checkpoints[1]) == {"head.weight", "head.bias"}
    assert same(run.checkpoints[1], again.checkpoints[1]) and not run.model.training
    right = run.model(digits[1].inputs).argmax(-1) == digits[1].labels
    assert torch.equal(run.correct, right[None]) and run.accuracy == right.double().mean() > 0.8
    # As good as what training the head finds in many steps.
    trained = pi.finetune(
        nn.Linear(32, 10),
        *(Split(model.features(x.inputs).detach(), x.labels, x.ids) for x in digits),
        epochs=30, learning_rate=3e-2, checkpoints=2,
    )  # fmt: skip
    assert run.log[0]["loss"] < trained.log[-1]["loss"] + 0.05
    loaded = Run.load(run.save(tmp_path), network(3))
    assert same(loaded.model.head.state_dict(), run.model.head.state_dict())
    assert torch.equal(loaded.correct, run.correct)


def test_the_strength_is_the_best_on_validation_data(digits):
    train, test = digits
    part, held_out = train.take(range(200)), train.take(range(200, 300))
    run = pi.linear_probe(network(), part, test, validation=held_out)
    tried = dict(map(tuple, run.settings["strengths"]))
    assert run.settings["strength"] == min(tried, key=tried.get) not in (100, min(tried))
    features = network().features(part.inputs).detach(), part.labels
    for strength, loss in tried.items():
        weight, bias = logistic_regression(*features, strength, 10)
        said = network().features(held_out.inputs).double() @ weight.T + bias
        assert loss == pytest.approx(F.cross_entropy(said, held_out.labels).item(), rel=0.02)
    about = run.settings["validation"]
    assert about["samples"] == 100
    assert about["loss"] == pytest.approx(tried[run.settings["strength"]], rel=0.02)
    # Without any, a fifth is held out, and the head is fitted on all.
    alone = pi.linear_probe(network(), train, test)
    weight, bias = logistic_regression(
        network().features(train.inputs).detach(), train.labels, alone.settings["strength"], 10
    )
    torch.testing.assert_close(alone.model.head.weight.double(), weight, rtol=1e-3, atol=1e-4)
    assert "validation" not in alone.settings


def pictures(n=60):
    inputs = torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = (inputs[:, 0, :8, :8].mean((1, 2)) > 0.5).long()
    return Split((inputs * 255).byte(), labels, list(range(n)))


def pooled(model, x):
    return nn.Sequential(*[*model.children()][:-1])(x).flatten(1)


@pytest.mark.parametrize(
    ("build", "features", "expected"),
    [
        (models.resnet18, "avgpool", pooled),
        (models.mobilenet_v3_small, "features", lambda m, x: m.features(x).mean((-1, -2))),
        (
            models.resnet18,
            lambda model, x: model.conv1(x).amax((-1, -2)),
            lambda m, x: m.conv1(x).amax((-1, -2)),
        ),
    ],
)  # fmt: skip
def test_any_image_network_is_probed_and_extracted(build, features, expected):
    torch.manual_seed(0)
    model, split = build(num_classes=7).eval(), pictures()
    run = pi.linear_probe(model, split, split.take(range(10)), features=features)
    x = pi.training.images(split.inputs[:4])
    with torch.no_grad():
        torch.testing.assert_close(run.model.features(x), expected(model, x))
        assert run.model(x).shape == (4, 2)  # the classes of the task, not of the network
    assert isinstance(run.model, Probe) and same(model.state_dict(), run.model.model.state_dict())
    found = [
        pi.coalition_values(
            run.model, x[:2], split.labels[:2], pi.PatchPlayers(4, n=4), ids=[0, 1], share=share
        )
        for share in (True, False)
    ]
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)
    assert found[0].std() > 0


def test_any_text_network_is_probed_by_its_tokens():
    tokenizer = backbones.tokenizer("minilm")
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    model = BertForSequenceClassification(config).eval()
    texts = ["a great film", "a film that is bad in many of its long ways"] * 8
    split = Split(texts, torch.tensor([1, 0] * 8), list(range(16)))
    run = pi.linear_probe(model, split, split, features="bert.encoder.layer.1", tokenizer=tokenizer)
    tokens = tokenizer(texts[:2], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model.bert(**tokens).last_hidden_state
        found = run.model.features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
        alone = tokenizer(texts[:1], return_tensors="pt")
        short = run.model.features(alone["input_ids"], attention_mask=alone["attention_mask"])
    torch.testing.assert_close(found[1], hidden[1].mean(0))  # the longer has no padding
    torch.testing.assert_close(found[:1], short)
    assert run.accuracy == 1
    values = pi.coalition_values(
        run.model, texts[1:2], [0], pi.WordPlayers(tokenizer, n=2), ids=[0]
    )
    assert values.std() > 0


def test_a_head_that_reads_a_map_is_trained():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
    encoder.maps = encoder.forward
    aim = objectives.AIMS["segmentation"]
    model = backbones.Classifier(encoder, aim.head(8, 2))
    x = torch.rand(8, 3, 16, 16)
    targets = torch.where(x[:, :2] > 0.5, torch.tensor([0, 1])[:, None, None], -1)
    split = Split(x, torch.zeros(8, dtype=int), list(range(8)), targets)
    run = pi.linear_probe(
        model, split, split, epochs=5, learning_rate=1e-2, checkpoints=2, loss=aim.loss,
        correct=aim.correct,
    )  # fmt: skip
    assert run.log[-1]["loss"] < run.log[0]["loss"] and run.steps == [0, 5]
    assert set(run.checkpoints[5]) == {"head.conv.weight", "head.conv.bias"}
    assert run.model(x).shape == (8, 3, 16, 16)


def test_what_cannot_be_probed_is_refused_by_name(digits):
    def probed(model, **options):
        return pi.linear_probe(model, pictures(10), pictures(4), **options)

    for build in (models.resnet18, models.swin_t):  # the latter has `features` and a linear `head`
        with pytest.raises(ValueError, match='where are the features of .*features="avgpool"'):
            probed(build(num_classes=2))
    with pytest.raises(ValueError, match="'pool' names no module of ResNet; it has conv1, bn1"):
        probed(models.resnet18(), features="pool")
    with pytest.raises(ValueError, match=r"features gives \(10,\); expected feature vectors \(10"):
        probed(models.resnet18(), features=lambda model, x: x.mean((1, 2, 3)))

    class Twice(backbones.Classifier):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match=r"head\(features\(x\)\) is not what Twice says"):
        pi.linear_probe(Twice(network().encoder, network().head), *digits)
    with pytest.raises(TypeError, match="epochs, learning_rate: the probe is the optimum of"):
        pi.linear_probe(network(), *digits, epochs=3, learning_rate=0.1)
    with pytest.raises(ValueError, match=r"labels 0\.\.9; expected 0\.\.4"):
        pi.linear_probe(network(), *digits, n_classes=5)
    with pytest.raises(ValueError, match="1 training samples; expected 2 or more, or validation="):
        pi.linear_probe(network(), digits[0].take([0]), digits[1])

"""The four phases on small real images: scikit-learn's digits."""

import shutil

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from transformers import TrainerCallback

from pi_lib import finetune, linear_probe, pretrain, train_from_scratch, training
from pi_lib.study import backbones
from pi_lib.training import Run, Split, TrainingDiverged, checkpoint_steps


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    split = Split(images, torch.from_numpy(data.target), list(range(len(images))))
    return split.take(range(0, 600)), split.take(range(600, 900))


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 32))
        return backbones.Classifier(encoder, nn.Linear(32, 10))


SHORT = {"epochs": 3, "learning_rate": 3e-3, "batch_size": 32}


def same(one, other):
    return all(torch.equal(x, other[name]) for name, x in one.items())


def test_scratch_learns_and_keeps_its_checkpoints(digits):
    model = network()
    before = {k: x.clone() for k, x in model.state_dict().items()}
    run = train_from_scratch(model, *digits, checkpoints=4, **SHORT)
    assert run.accuracy > 0.7 > run.log[0]["accuracy"]
    assert run.steps == [0, 14, 28, 57] == [row["step"] for row in run.log]
    assert same(before, model.state_dict())  # the caller's model is left alone
    assert same(before, run.at(0).state_dict())
    assert same(run.model.state_dict(), run.at(57).state_dict()) and not run.model.training
    assert not same(run.at(14).state_dict(), run.at(28).state_dict())
    images, labels = digits[1].inputs, digits[1].labels
    found = (run.model(images).argmax(-1) == labels).float().mean().item()
    assert found == pytest.approx(run.accuracy)
    with pytest.raises(KeyError, match="no checkpoint at step 5"):
        run.at(5)


def test_a_probe_changes_the_head_alone(digits):
    model = network()
    run = linear_probe(model, *digits, epochs=20, learning_rate=1e-2)
    assert same(model.encoder.state_dict(), run.model.encoder.state_dict())
    assert set(run.checkpoints[0]) == {"head.weight", "head.bias"}
    assert run.accuracy > run.log[0]["accuracy"] + 0.3
    found = (run.model(digits[1].inputs).argmax(-1) == digits[1].labels).float().mean().item()
    assert found == pytest.approx(run.accuracy)


def test_pretraining_helps_the_other_half_of_the_classes(digits):
    """Pre-train on digits 0 to 4, transfer to 5 to 9 with few labels."""
    train, test = digits

    def half(split, wanted, n=None):
        at = [i for i in range(len(split)) if (split.labels[i] >= 5) == wanted][:n]
        part = split.take(at)
        return Split(part.inputs, part.labels % 5, part.ids)

    source = pretrain(network(), half(train, False), half(test, False), **SHORT)
    few = half(train, True, 40), half(test, True)
    options = {"epochs": 4, "learning_rate": 1e-3, "batch_size": 8}
    start = backbones.transfer(source.model, 5)
    assert finetune(start, *few, **options).accuracy > (
        train_from_scratch(backbones.transfer(network(1), 5), *few, **options).accuracy
    )


def test_a_rerun_gives_the_same_bits_and_spares_the_random_state(digits):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    runs = [finetune(network(), *digits, seed=s, **SHORT) for s in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)
    assert same(runs[0].model.state_dict(), runs[1].model.state_dict())
    assert not same(runs[0].model.state_dict(), runs[2].model.state_dict())


def test_saved_and_loaded_alike(digits, tmp_path):
    run = finetune(network(), *digits, checkpoints=[0, 10], **SHORT)
    again = Run.load(run.save(tmp_path), network(9))
    assert (again.steps, again.log, again.settings) == (run.steps, run.log, run.settings)
    assert same(again.model.state_dict(), run.model.state_dict())
    assert same(again.at(10).state_dict(), run.at(10).state_dict())


class StopAt(TrainerCallback):
    """Interrupts as Ctrl-C does."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def with_dropout():
    model = network()
    normed = nn.Sequential(nn.Dropout2d(0.3), nn.BatchNorm2d(1), *model.encoder, nn.Dropout(0.5))
    return backbones.Classifier(normed, model.head)


@pytest.mark.parametrize(("stops", "frozen"), [([19], 0.0), ([30, 45], 0.5)])  # of 57 steps
def test_interrupted_and_resumed_gives_the_same_bits(stops, frozen, digits, tmp_path, monkeypatch):
    """Weights, every checkpoint and the log; what was done before is not done again."""
    options = SHORT | {"checkpoints": [0, 14, 30], "validation": digits[1].take(range(50))}
    options["frozen"] = frozen
    expected = finetune(with_dropout(), *digits, **options)
    monkeypatch.setattr(training, "SAVE_EVERY", 0)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            finetune(with_dropout(), *digits, resume=tmp_path, callbacks=[StopAt(stop)], **options)
    half_written = tmp_path / "checkpoint-99"
    shutil.copytree(next(tmp_path.glob("checkpoint-*")), half_written)
    state = half_written / "trainer_state.json"
    state.write_text(state.read_text()[:-20])

    seen = []
    first = StopAt(None)
    first.on_step_begin = lambda args, state, control, **_: seen.append(state.global_step)
    found = finetune(with_dropout(), *digits, resume=tmp_path, callbacks=[first], **options)
    assert stops[-1] - seen[0] in (0, 1) and seen[-1] == 56  # a recorded step is saved one later
    assert found.log == expected.log and found.settings == expected.settings
    assert found.steps == expected.steps == [0, 14, 30, 57]
    assert all(same(found.checkpoints[s], expected.checkpoints[s]) for s in found.steps)
    assert same(found.model.state_dict(), expected.model.state_dict())


def test_frozen_layers_stay_to_the_bit_and_the_others_learn(digits):
    """Of the three with parameters, BatchNorm and convolution, whose statistics stay too."""
    model = with_dropout()
    before = {k: x.clone() for k, x in model.state_dict().items()}
    run = finetune(model, *digits, frozen=0.6, **SHORT)
    for step in run.steps:
        kept = {
            k: x
            for k, x in run.checkpoints[step].items()
            if k.startswith(("encoder.1.", "encoder.2."))
        }
        assert len(kept) == 7 and same(kept, before)
    after = run.model.state_dict()
    assert not any(torch.equal(after[k], before[k]) for k in ("encoder.5.weight", "head.weight"))
    assert all(x.requires_grad for x in (*run.model.parameters(), *model.parameters()))
    assert run.accuracy > run.log[0]["accuracy"] + 0.3
    assert run.settings["frozen"] == 0.6
    moved = finetune(model, *digits, **SHORT).model.state_dict()
    assert not torch.equal(moved["encoder.1.running_mean"], before["encoder.1.running_mean"])


@pytest.mark.parametrize("frozen", [-0.1, 1, 1.5])
def test_a_share_of_layers_lies_below_one(frozen, digits):
    with pytest.raises(ValueError, match="expected a share of the encoder's layers"):
        finetune(network(), *digits, frozen=frozen, **SHORT)
    with pytest.raises(ValueError, match=r"layers of model\.encoder, and there is none"):
        finetune(nn.Linear(2, 3), *digits, frozen=0.5, **SHORT)


@pytest.mark.parametrize(
    "name", ["resnet20", "vgg16-32", "resnet50-32", "vit-32", "minilm", "efficientnet-lite0"]
)
def test_layers_are_counted_in_the_order_of_computation(name):
    model, called = backbones.build(name, 2, pretrained=False), []
    layers = training.first_layers(model, 0.999)
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, _: called.append(layer))
    text = backbones.BACKBONES[name].kind == "text"
    with torch.no_grad():
        model(torch.ones(1, 5, dtype=int) if text else torch.rand(1, 3, 32, 32))
    called = [layer for layer in called if not isinstance(layer, nn.Embedding)]  # side by side
    assert called == [layer for layer in layers if layer in called]
    assert len(called) > 0.7 * len(layers)


def test_another_runs_state_is_refused(digits, tmp_path):
    finetune(network(), *digits, resume=tmp_path, **SHORT)
    with pytest.raises(ValueError, match="another run: learning_rate 0.003, not 0.1;"):
        finetune(network(), *digits, resume=tmp_path, **SHORT | {"learning_rate": 0.1})
    with pytest.raises(ValueError, match="another run: start '"):
        finetune(network(1), *digits, resume=tmp_path, **SHORT)


def test_batchnorm_and_a_last_batch_of_one(digits):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    train = digits[0].take(range(33))
    assert finetune(model, train, digits[1], epochs=1, learning_rate=1e-3, batch_size=32).steps


def test_sentences_need_and_get_a_tokenizer():
    texts = Split(["a great film", "a bad film"] * 8, torch.tensor([1, 0] * 8), list(range(16)))
    model = backbones.build("minilm", 2)
    run = linear_probe(
        model, texts, texts, epochs=10, learning_rate=1e-2, tokenizer=backbones.tokenizer("minilm")
    )
    assert run.accuracy == 1
    with pytest.raises(ValueError, match="tokenizer="):
        linear_probe(model, texts, texts, epochs=1, learning_rate=1e-2)


def test_checkpoint_steps():
    assert checkpoint_steps(80, 5) == [0, 10, 20, 40, 80]
    assert checkpoint_steps(2, 6) == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 2"):
        checkpoint_steps(10, 1)


def test_bad_training_is_refused_or_named(digits):
    with pytest.raises(ValueError, match="nothing to train: 0 epochs"):
        finetune(network(), *digits, epochs=0, learning_rate=1e-3)
    with pytest.raises(ValueError, match="outside a run of 19 steps"):
        finetune(network(), *digits, epochs=1, learning_rate=1e-3, checkpoints=[0, 99])
    broken = network()
    broken.head.weight.data[:] = torch.nan
    with pytest.raises(TrainingDiverged, match=r"fine-tune: the loss became nan at step 0 of 19"):
        finetune(broken, *digits, epochs=1, learning_rate=1e-3)

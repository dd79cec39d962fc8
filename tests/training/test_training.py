"""The phases of training on small real images: scikit-learn's digits."""

import copy
import random
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from transformers import TrainerCallback

from pi_lib import finetune, linear_probe, pretrain, train_from_scratch, training
from pi_lib.study import backbones
from pi_lib.training import Batches, Run, Split, TrainingDiverged, checkpoint_steps, loop, lora
from pi_lib.training.objectives import supervised
from pi_lib.training.seeds import seed_of


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
    assert run.steps == [0, 1, 8, 57] == [row["step"] for row in run.log]
    assert same(before, model.state_dict())  # the caller's model is left alone
    assert same(before, run.at(0).state_dict())
    assert same(run.model.state_dict(), run.at(57).state_dict()) and not run.model.training
    assert not same(run.at(0).state_dict(), run.at(1).state_dict())
    images, labels = digits[1].inputs, digits[1].labels
    for step, row, right in zip(run.steps, run.log, run.correct, strict=True):
        said = run.at(step)(images)
        assert torch.equal(right, said.argmax(-1) == labels)
        assert row["accuracy"] == right.double().mean().item()
        loss = nn.functional.cross_entropy(said, labels).item()
        assert row["loss"] == pytest.approx(loss, rel=1e-5)
    with pytest.raises(KeyError, match="no checkpoint at step 5"):
        run.at(5)


def test_pretraining_helps_under_few_labels(digits):
    """On the same digits under other numbers."""
    train, test = digits

    def renumbered(split):
        return Split(split.inputs, (split.labels * 3 + 1) % 10, split.ids)

    source = pretrain(network(), train, test, **SHORT | {"epochs": 10})
    few = renumbered(train.take(range(40))), renumbered(test)
    options = {"epochs": 10, "learning_rate": 5e-3, "batch_size": 8, "checkpoints": 2}
    start = backbones.transfer(source.model, 10)
    assert same(source.model.encoder.state_dict(), start.encoder.state_dict())
    assert finetune(start, *few, **options).accuracy > 0.1 + (
        train_from_scratch(backbones.transfer(network(1), 10), *few, **options).accuracy
    )


def draws():
    return torch.rand(1).item(), np.random.rand(), random.random()


def test_the_random_state_is_spared_whatever_happens(digits):
    def seeded(n=5):
        torch.manual_seed(n), np.random.seed(n), random.seed(n)

    seeded()
    expected = draws()
    seeded()
    finetune(network(), *digits, **SHORT)
    assert draws() == expected
    seeded()
    with pytest.raises(KeyboardInterrupt):
        finetune(network(), *digits, callbacks=[StopAt(3)], **SHORT)
    assert draws() == expected


class Recording(nn.Module):
    """Keeps the labels of each batch, and what dropout and the other generators drew."""

    def __init__(self, seen):
        super().__init__()
        self.net, self.seen = nn.Linear(64, 10), seen

    def forward(self, x):
        if self.training:
            self.seen.append((x.sum((1, 2, 3)), torch.rand(4), np.random.rand(), random.random()))
        return self.net(x.flatten(1))

    def __deepcopy__(self, _):
        torch.manual_seed(0)
        return Recording(self.seen)


def test_runs_differ_in_batches_and_dropout_and_a_rerun_gives_the_same(digits):
    def run(train, seed):
        seen = []
        run = train(Recording(seen), *digits, seed=seed, epochs=2, learning_rate=1e-2)
        return run.model.state_dict(), list(zip(*seen, strict=True))

    first, again, second = (run(finetune, seed) for seed in (0, 0, 1))
    scratch = run(train_from_scratch, 0)  # other streams, though of the same number
    assert same(first[0], again[0]) and not same(first[0], second[0])
    for x, y in zip(first[1], again[1], strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(x, y, strict=True))
    for other in (second, scratch):
        for x, y in zip(first[1], other[1], strict=True):
            assert not any(np.array_equal(a, b) for a, b in zip(x, y, strict=True))
    sums = torch.cat(first[1][0])
    assert not torch.equal(sums[:600], sums[600:])  # epochs differ in their order,
    torch.testing.assert_close(sums[:600].sort().values, sums[600:].sort().values)  # not samples


def test_streams_of_weights_heads_and_batches_never_meet():
    """A scratch run starts nowhere near pre-training's start, whatever the numbers."""
    starts = {"pretrain": {"stream": "pretrain"}, "scratch": {"stream": "scratch"}}
    built = {
        (name, run): backbones.build("resnet20", 4, pretrained=False, seed=run, **about)
        for name, about in starts.items()
        for run in range(4)
    }
    weights = [model.encoder.stem.weight for model in built.values()]
    heads = [model.head.weight for model in built.values()]
    heads += [backbones.transfer(built["pretrain", 0], 4, seed=run).head.weight for run in range(4)]
    for tensors in (weights, heads):
        for i, x in enumerate(tensors):
            assert not any(torch.equal(x, y) or (x == y).any() for y in tensors[:i])
    again = backbones.build("resnet20", 4, pretrained=False, seed=3)
    assert same(built["scratch", 3].state_dict(), again.state_dict())
    published = backbones.build("minilm", 4, seed=2), backbones.build("minilm", 4, seed=3)
    assert not torch.equal(*(model.head.weight for model in published))
    with pytest.raises(ValueError, match="stream='start'; expected 'scratch' or 'pretrain'"):
        backbones.build("resnet20", 4, pretrained=False, stream="start")
    names = ["weights, pretrain", "weights, scratch", "head, scratch", "dropout, fine-tune"]
    seeds = [seed_of(name, run, step) for name in names for run in range(50) for step in range(50)]
    assert len(set(seeds)) == len(seeds)


def test_saved_and_loaded_alike(digits, tmp_path):
    run = finetune(network(), *digits, checkpoints=[0, 10], **SHORT)
    again = Run.load(run.save(tmp_path), network(9))
    assert (again.steps, again.log, again.settings) == (run.steps, run.log, run.settings)
    assert torch.equal(again.correct, run.correct) and run.correct.shape == (3, 300)
    assert same(again.model.state_dict(), run.model.state_dict())
    assert same(again.at(10).state_dict(), run.at(10).state_dict())
    with pytest.raises(ValueError, match="Linear has no weights 'encoder.*the run is of another"):
        Run.load(tmp_path, nn.Linear(2, 3))


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
    monkeypatch.setattr(loop, "SAVE_EVERY", 0)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            finetune(with_dropout(), *digits, resume=tmp_path, callbacks=[StopAt(stop)], **options)
    (tmp_path / "state.aside.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:-20])  # half

    seen = []
    first = StopAt(None)
    first.on_step_begin = lambda args, state, control, **_: seen.append(state.global_step)
    found = finetune(with_dropout(), *digits, resume=tmp_path, callbacks=[first], **options)
    assert seen == [*range(stops[-1], 57)]
    assert found.log == expected.log and found.settings == expected.settings
    assert found.steps == expected.steps == [0, 14, 30, 57]
    assert all(same(found.checkpoints[s], expected.checkpoints[s]) for s in found.steps)
    assert torch.equal(found.correct, expected.correct)
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


@pytest.mark.parametrize("way", [{"lora": 2}, {"pull": 0.1}, {"probe_first": True}])
def test_a_way_to_fine_tune_resumes_to_the_same_bits(way, digits, tmp_path, monkeypatch):
    options = SHORT | {"checkpoints": [0, 14, 30]} | way
    expected = finetune(with_dropout(), *digits, **options)
    monkeypatch.setattr(loop, "SAVE_EVERY", 0)
    with pytest.raises(KeyboardInterrupt):
        finetune(with_dropout(), *digits, resume=tmp_path, callbacks=[StopAt(19)], **options)
    found = finetune(with_dropout(), *digits, resume=tmp_path, **options)
    assert found.log == expected.log and found.settings == expected.settings
    assert all(same(found.checkpoints[s], expected.checkpoints[s]) for s in expected.steps)
    assert same(found.model.state_dict(), expected.model.state_dict())


def test_lora_adds_matrices_of_its_rank_and_gives_a_plain_network(digits):
    """BatchNorm stays; the head is trained in full; what is stored says what was trained."""
    model = with_dropout()
    before = {k: x.clone() for k, x in model.state_dict().items()}
    run = finetune(model, *digits, lora=2, **SHORT | {"learning_rate": 0.03})
    after = run.model.state_dict()
    assert same(run.checkpoints[0], before) and after.keys() == before.keys()
    for layer in ("encoder.2", "encoder.5"):
        added = (after[f"{layer}.weight"] - before[f"{layer}.weight"]).flatten(1)
        assert torch.linalg.matrix_rank(added, rtol=1e-5) == 2
        assert torch.equal(after[f"{layer}.bias"], before[f"{layer}.bias"])
    assert same({k: x for k, x in after.items() if k.startswith("encoder.1.")}, before)
    assert torch.linalg.matrix_rank(after["head.weight"] - before["head.weight"], rtol=1e-5) > 2
    assert not any("lora" in type(x).__module__ for x in run.model.modules())
    assert all(x.requires_grad for x in run.model.parameters())
    right = run.model(digits[1].inputs).argmax(-1) == digits[1].labels
    assert torch.equal(right, run.correct[-1]) and run.accuracy > run.log[0]["accuracy"] + 0.2
    assert run.settings["lora"] == 2
    other = finetune(model, *digits, lora=2, seed=1, **SHORT)
    assert not same(other.model.state_dict(), after)


@pytest.mark.parametrize("name", ["resnet20", "vgg16-32", "vit-32", "minilm", "efficientnet-lite0"])
def test_merged_weights_say_what_the_adapters_say(name):
    model = backbones.build(name, 3, pretrained=False)
    start, adapted = model.state_dict(), copy.deepcopy(model)
    tuner = lora.add_adapters(adapted, 2)
    learned = {n: x for n, x in adapted.named_parameters() if x.requires_grad}
    assert all("lora_" in n or n.startswith("head.") for n in learned)
    with torch.no_grad():
        for n, x in learned.items():
            x.normal_(0, 0.05) if "lora_B" in n else None
    text = backbones.BACKBONES[name].kind == "text"
    x = torch.randint(5, 100, (2, 7)) if text else torch.rand(2, 3, 32, 32)
    adapted.eval()(x).sum().backward()
    assert all(x.grad is not None for x in learned.values())  # nothing that a pass goes by
    merged = lora.merged(tuner)
    ranks = {
        int(torch.linalg.matrix_rank((merged[n] - w).flatten(1), rtol=1e-4))
        for n, w in start.items()
        if w.is_floating_point() and not torch.equal(merged[n], w)
    }
    assert ranks == {2} and merged.keys() == start.keys()
    model.load_state_dict(merged)
    with torch.no_grad():
        torch.testing.assert_close(model(x), adapted(x), rtol=1e-4, atol=1e-5)


def test_a_pull_holds_the_encoder_near_its_start_and_spares_the_head(digits):
    def moved(pull):
        model = network()
        after = finetune(model, *digits, pull=pull, **SHORT).model
        parts = zip(after.parameters(), model.parameters(), strict=True)
        *encoder, weight, bias = [(a - b).square().sum().item() for a, b in parts]
        return sum(encoder), weight + bias

    free, held = moved(0.0), moved(100.0)
    assert held[0] < 0.1 * free[0] and held[1] > 0.3 * free[1]
    assert moved(1e-12) == pytest.approx(free, rel=1e-3)


def test_probing_first_starts_from_the_probe(digits):
    model = network()
    probe, run = linear_probe(model, *digits), finetune(model, *digits, probe_first=True, **SHORT)
    assert same(run.checkpoints[0], probe.model.state_dict())
    assert run.log[0]["accuracy"] == probe.accuracy and run.settings["probe_first"]
    assert not finetune(model, *digits, **SHORT).settings["probe_first"]


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ({"lora": -1}, "lora=-1; expected a rank"),
        ({"lora": 1.5}, "lora=1.5; expected a rank"),
        ({"pull": -0.1}, "pull=-0.1; expected a number"),
        ({"pull": float("nan")}, "pull=nan; expected a number"),
        ({"lora": 1, "frozen": 0.5}, "frozen=0.5 with lora=1: .*choose one"),
        ({"lora": 1, "pull": 0.5}, "pull=0.5 with lora=1: .*choose one"),
        ({"frozen": 1.5}, "frozen=1.5; expected a share"),
    ],
)
@pytest.mark.parametrize("probe_first", [False, True])
def test_ways_that_are_none_are_refused(way, message, probe_first, digits, monkeypatch):
    monkeypatch.setattr(training.loop.Loop, "run", lambda *_: pytest.fail("it trained"))
    monkeypatch.setattr(training.phases, "linear_probe", lambda *_, **__: pytest.fail("it probed"))
    with pytest.raises(ValueError, match=message):
        finetune(network(), *digits, **way, probe_first=probe_first, **SHORT)


def test_ways_that_the_network_cannot_go_are_refused(digits, monkeypatch):
    monkeypatch.setattr(training.loop.Loop, "run", lambda *_: pytest.fail("it trained"))
    for way in ({"lora": 1}, {"pull": 1.0}):
        with pytest.raises(ValueError, match=r"layers of model\.encoder, and there is none"):
            finetune(nn.Linear(2, 3), *digits, **way, **SHORT)
    grouped = backbones.Classifier(
        nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten()), nn.Linear(36, 10)
    )
    grouped.encoder[0] = nn.Conv2d(2, 2, 3, groups=2)
    monkeypatch.setattr(training.phases, "linear_probe", lambda *_, **__: pytest.fail("it probed"))
    for probe_first in (False, True):
        with pytest.raises(ValueError, match="Sequential has no layer that LoRA can change"):
            finetune(grouped, *digits, lora=1, probe_first=probe_first, **SHORT)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="pip install 'pi_lib.lora.'"):
        finetune(network(), *digits, lora=1, **SHORT)


def test_another_runs_state_is_refused(digits, tmp_path):
    finetune(network(), *digits, resume=tmp_path, **SHORT)
    with pytest.raises(ValueError, match="another run: learning_rate 0.003, not 0.1;"):
        finetune(network(), *digits, resume=tmp_path, **SHORT | {"learning_rate": 0.1})
    with pytest.raises(ValueError, match="another run: start '"):
        finetune(network(1), *digits, resume=tmp_path, **SHORT)
    inverted = [replace(split, inputs=1 - split.inputs) for split in digits]
    with pytest.raises(ValueError, match="another run: data '"):
        finetune(network(), *inverted, resume=tmp_path, **SHORT)


def test_batchnorm_and_a_last_batch_of_one(digits):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    train = digits[0].take(range(33))
    assert finetune(model, train, digits[1], epochs=1, learning_rate=1e-3, batch_size=32).steps


class Counted:
    """A tokenizer that counts its calls."""

    def __init__(self, tokenizer):
        self.tokenizer, self.calls = tokenizer, 0

    def __call__(self, *args, **options):
        self.calls += 1
        return self.tokenizer(*args, **options)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


def test_sentences_are_tokens_once_and_each_batch_no_longer_than_it_must_be():
    words = "a great film that is neither short nor without its own charm".split()
    texts = [" ".join(words[: 1 + i % len(words)]) for i in range(20)]
    split = Split(texts, torch.arange(20) % 2, list(range(20)))
    tokenizer = Counted(backbones.tokenizer("minilm"))
    run = finetune(
        backbones.build("minilm", 2), split, split, epochs=2, learning_rate=1e-4, batch_size=5,
        checkpoints=2, tokenizer=tokenizer,
    )  # fmt: skip
    assert tokenizer.calls == 2 and run.steps == [0, 8]
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    batches = Batches(split, torch.device("cpu"), tokenizer)
    for (batch, labels), chosen in zip(batches(order, 6), order.split(6), strict=True):
        expected = tokenizer([texts[i] for i in chosen], padding=True, return_tensors="pt")
        assert torch.equal(batch["x"], expected["input_ids"])
        assert torch.equal(batch["attention_mask"], expected["attention_mask"])
        assert torch.equal(labels, split.labels[chosen]) and set(batch) == {"x", "attention_mask"}
    with pytest.raises(ValueError, match="tokenizer="):
        finetune(backbones.build("minilm", 2), split, split, epochs=1, learning_rate=1e-2)


def test_training_needs_no_transformers_but_the_tracker_does():
    code = """if True:
        import sys
        sys.modules["transformers"] = sys.modules["accelerate"] = None  # as if not installed
        import torch, pi_lib
        from pi_lib.training import Split
        split = Split(torch.rand(8, 4), torch.arange(8) % 2, list(range(8)))
        pi_lib.finetune(torch.nn.Linear(4, 2), split, split, epochs=1, learning_rate=0.1)
        assert "KnowledgeTracker" in pi_lib.__all__
        try:
            pi_lib.KnowledgeTracker
        except ImportError as error:
            assert "transformers" in str(error)
        else:
            raise AssertionError
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_callbacks_see_the_run_and_may_stop_it(digits):
    class Watching(TrainerCallback):
        def __init__(self):
            self.events = []

        def on_train_begin(self, args, state, control, **_):
            self.events.append("begin")

        def on_log(self, args, state, control, logs, **_):
            self.events.append((state.global_step, logs["eval_loss"], logs["eval_accuracy"]))

        def on_step_end(self, args, state, control, **_):
            control.should_training_stop |= state.global_step == 25

        def on_train_end(self, args, state, control, model, **_):
            self.events.append("end")

    watching = Watching()
    run = finetune(network(), *digits, checkpoints=[0, 10, 40], callbacks=[watching], **SHORT)
    assert run.steps == [0, 10, 25]
    rows = [(row["step"], row["loss"], row["accuracy"]) for row in run.log]
    assert watching.events == ["begin", *rows, "end"]


def test_models_that_return_more_than_logits(digits):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return {"aux": -self.net(x), "logits": self.net(x)}

    plain, paired, other = (
        finetune(model, *digits, output=output, **SHORT)
        for model, output in ((network(), None), (Pair(), None), (Pair(), "aux"))
    )
    assert plain.log == paired.log and other.log[0]["loss"] != plain.log[0]["loss"]
    assert other.settings["output"] == "aux" and "output" not in plain.settings
    with pytest.raises(ValueError, match="output='heads'"):
        finetune(Pair(), *digits, output="heads", **SHORT)
    loss = partial(supervised, output="aux")
    assert finetune(Pair(), *digits, loss=loss, **SHORT).log == other.log


def test_checkpoint_steps():
    assert checkpoint_steps(80, 5) == [0, 1, 4, 18, 80]
    assert checkpoint_steps(2, 6) == [0, 1, 2] and checkpoint_steps(9, 2) == [0, 9]
    for total in (7, 10, 57, 1000, 46_875):
        steps = checkpoint_steps(total, 8)
        assert len(steps) == 8 and steps[:2] == [0, 1] and steps[-1] == total
        ratios = [b / a for a, b in zip(steps[1:-1], steps[2:], strict=True)]
        assert total < 100 or max(ratios) < 1.6 * min(ratios)


def test_a_loss_that_is_no_number_ends_the_run(digits):
    broken = network()
    broken.head.weight.data[:] = torch.nan
    with pytest.raises(TrainingDiverged, match=r"fine-tune: the loss became nan at step 0 of 19"):
        finetune(broken, *digits, epochs=1, learning_rate=1e-3)


def test_bad_training_is_refused_or_named(digits):
    with pytest.raises(ValueError, match="nothing to train: 0 epochs"):
        finetune(network(), *digits, epochs=0, learning_rate=1e-3)
    with pytest.raises(ValueError, match="outside a run of 19 steps"):
        finetune(network(), *digits, epochs=1, learning_rate=1e-3, checkpoints=[0, 99])
    broken = network()
    broken.head.weight.data[:] = torch.nan
    with pytest.raises(TrainingDiverged, match=r"fine-tune: the loss became nan at step 0 of 19"):
        finetune(broken, *digits, epochs=1, learning_rate=1e-3)

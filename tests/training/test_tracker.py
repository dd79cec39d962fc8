"""The callback for a Trainer of one's own: it sees all and changes nothing."""

import random

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

import pi_lib as pi
from pi_lib import LabelMapPlayers, PatchPlayers
from pi_lib.training import Split, tracker

PLAYERS = PatchPlayers(grid=4, n=4, region="central", baseline="zero")


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    return Split(images, torch.from_numpy(data.target), list(range(len(images)))).take(range(200))


@pytest.fixture
def samples(digits):
    return digits.take(range(150, 156))


class Network(nn.Module):
    """Dropout and BatchNorm: what answers otherwise, or changes, in training mode."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3)
        )
        self.head = nn.Linear(288, 10)

    def forward(self, pixel_values, labels=None):
        torch.rand(1), np.random.rand(), random.random()  # moves them, in eval mode too
        logits = self.head(self.body(pixel_values))
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def network():
    torch.manual_seed(0)
    return Network()


def trainer(folder, digits, model, callbacks, **options):
    train = [
        {"pixel_values": x, "labels": y} for x, y in zip(digits.inputs, digits.labels, strict=True)
    ]
    options = {"max_steps": 8, "eval_strategy": "steps", "eval_steps": 4} | options
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=16, use_cpu=True,
        report_to=[], disable_tqdm=True, save_strategy=options.pop("save_strategy", "no"),
        dataloader_pin_memory=False, seed=3, **{"logging_strategy": "no", "learning_rate": 1e-2}
        | options,
    )  # fmt: skip
    return Trainer(
        model, arguments, train_dataset=train[:100], eval_dataset=train[100:120],
        callbacks=callbacks,
    )  # fmt: skip


class Weights(TrainerCallback):
    """Keeps the weights of every step."""

    def __init__(self):
        self.states = {}

    def keep(self, state, model):
        self.states[state.global_step] = {k: x.clone() for k, x in model.state_dict().items()}

    def on_train_begin(self, args, state, control, model=None, **_):
        self.keep(state, model)

    def on_step_end(self, args, state, control, model=None, **_):
        self.keep(state, model)


def extracted(state, samples):
    model = Network()
    model.load_state_dict(state)
    model.eval()
    return pi.extract(
        lambda x: model(x)["logits"], samples.inputs, samples.labels, PLAYERS,
        ids=samples.ids,
    )  # fmt: skip


def test_training_gives_the_same_bits_with_and_without(tmp_path, digits, samples):
    finals, drawn = [], []
    for callbacks in ([], [pi.KnowledgeTracker(samples, PLAYERS, steps=1)]):
        model = network()
        trainer(tmp_path, digits, model, callbacks).train()
        finals.append(model.state_dict())
        drawn.append((*torch.rand(3).tolist(), np.random.rand(), random.random()))
    assert all(torch.equal(x, finals[1][name]) for name, x in finals[0].items())
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("steps", "expected"), [(None, [0, 4, 8]), (3, [0, 3, 6, 8]), ([2, 5], [0, 2, 5, 8])]
)
def test_it_tracks_the_weights_of_the_chosen_steps(tmp_path, digits, samples, steps, expected):
    weights, knowledge = Weights(), pi.KnowledgeTracker(samples, PLAYERS, steps=steps)
    trainer(tmp_path, digits, network(), [weights, knowledge]).train()
    assert sorted(knowledge.interactions) == expected and not knowledge.failures
    for step, found in knowledge.interactions.items():
        assert torch.equal(found.v, extracted(weights.states[step], samples).v)
    assert knowledge.before is knowledge.interactions[0]


def test_the_table_and_the_log_are_what_compare_gives(tmp_path, digits, samples, capsys):
    knowledge = pi.KnowledgeTracker(samples, PLAYERS, verbose=True)
    run = trainer(tmp_path, digits, network(), [knowledge])
    run.train()
    frame = knowledge.to_frame().set_index(["step", "measure"])
    start, end = knowledge.interactions[0], knowledge.interactions[8]
    by_hand = pi.compare(start, knowledge.interactions[4])
    kept, jaccard = by_hand.preserved_share(), pi.bootstrap(pi.jaccard(start, end))
    assert tuple(frame.loc[(4, "preserved")]) == (kept.value, kept.low, kept.high)
    assert tuple(frame.loc[(4, "discarded")]) == (1 - kept.value, 1 - kept.high, 1 - kept.low)
    assert frame.loc[(4, "new"), "value"] == by_hand.new_share().value
    assert tuple(frame.loc[(8, "jaccard_before")]) == (jaccard.value, jaccard.low, jaccard.high)
    assert frame.loc[(0, "jaccard_end"), "value"] == jaccard.value
    assert frame.loc[(8, "jaccard_end"), "value"] == 1 == frame.loc[(0, "preserved"), "value"]
    logged = [row for row in run.state.log_history if "knowledge_preserved" in row]
    assert [row["step"] for row in logged] == [0, 4, 8]
    assert logged[1]["knowledge_preserved"] == kept.value
    assert f"knowledge at step 4: preserved {kept}, discarded" in capsys.readouterr().err
    assert knowledge.trajectory().steps == [0, 4, 8]
    left, right = knowledge.plot().axes
    assert len(left.lines) == 3 and len(right.lines) == 2
    with pytest.raises(KeyError, match=r"step 5 was not tracked; there are \[0, 4, 8\]"):
        knowledge.knowledge(5)


def test_a_probe_before_and_a_target(tmp_path, digits, samples):
    probe, target = (
        extracted({k: x + 0.1 * i for k, x in network().state_dict().items()}, samples)
        for i in (1, 2)
    )
    knowledge = pi.KnowledgeTracker(samples, PLAYERS, before=probe, target=target)
    trainer(tmp_path, digits, network(), [knowledge]).train()
    assert knowledge.before is probe and 0 in knowledge.interactions
    frame = knowledge.to_frame().set_index(["step", "measure"])["value"]
    now = knowledge.interactions[0]
    assert frame[(0, "jaccard_before")] == pytest.approx(pi.jaccard(probe, now).mean().item())
    assert frame[(0, "jaccard_target")] == pytest.approx(pi.jaccard(target, now).mean().item())
    assert knowledge.trajectory(target).similarity.shape == (3, 6)
    assert len(knowledge.plot().axes[1].lines) == 3


class Logged(TrainerCallback):
    """As TensorBoard's: what reaches `on_log`, only once it has begun."""

    def on_train_begin(self, args, state, control, **_):
        self.rows = []

    def on_log(self, args, state, control, logs, **_):
        self.rows.append((state.global_step, dict(logs)))


def test_its_numbers_reach_the_on_log_of_other_callbacks(tmp_path, digits, samples):
    def rows(callbacks):
        model = network()
        run = trainer(
            tmp_path, digits, model, callbacks, logging_strategy="steps", logging_steps=2
        )  # fmt: skip
        run.train()
        return run.state.log_history

    first, last = Logged(), Logged()
    knowledge = pi.KnowledgeTracker(samples, PLAYERS, steps=2)
    tracked, plain = rows([first, knowledge, last]), rows([])
    measured = [row for row in tracked if "knowledge_new" in row]
    for other in (first, last):
        got = [(step, row) for step, row in other.rows if "knowledge_new" in row]
        assert [step for step, _ in got] == [0, 2, 4, 6, 8]
        assert [row | {"step": step} for step, row in got] == measured
    # and what the Trainer logs itself is not lost
    losses = [row["loss"] for row in tracked if "loss" in row]
    assert losses == [row["loss"] for row in plain if "loss" in row] and len(losses) == 4


def test_it_is_quiet_where_it_is_asked_to_be(tmp_path, digits, samples, capsys, monkeypatch):
    def said(setting, **options):
        monkeypatch.setenv("PI_LIB_PROGRESS", setting)
        knowledge = pi.KnowledgeTracker(samples, PLAYERS, **options)
        trainer(tmp_path, digits, network(), [knowledge], max_steps=2).train()
        return capsys.readouterr().err

    assert "knowledge at step 2: preserved" in said("1")
    for quiet in (said("0"), said(""), said("1", verbose=False)):
        assert "knowledge" not in quiet and "coalition values" not in quiet


def test_similarity_with_the_ends_of_earlier_runs(tmp_path, digits, samples):
    """Against its definition, over all sets but the empty one, in the Walsh basis."""
    ends = []
    for seed in (1, 2, 3):
        knowledge = pi.KnowledgeTracker(samples, PLAYERS, steps=[1])
        run = trainer(tmp_path, digits, network(), [knowledge], learning_rate=3e-2)
        run.args.seed = seed
        run.train()
        ends.append(knowledge.interactions[8])
    knowledge = pi.KnowledgeTracker(samples, PLAYERS, ends=ends)
    trainer(tmp_path, digits, network(), [knowledge], learning_rate=3e-2).train()
    frame = knowledge.to_frame().set_index(["step", "measure"])["value"]

    def coefficients(x):
        return pi.walsh_transform(x.v)[:, 1:] / x.scale

    others = [coefficients(x) for x in ends]
    shared = [(a * b).sum(1).mean() for i, a in enumerate(others) for b in others[:i]]
    for step, found in knowledge.interactions.items():
        now = coefficients(found)
        cross = torch.stack([(now * x).sum(1).mean() for x in others]).mean()
        expected = cross / ((now * now).sum(1).mean() * torch.stack(shared).mean()).sqrt()
        assert frame[(step, "similarity_ends")] == pytest.approx(expected.item(), rel=1e-6)
    assert frame[(8, "similarity_ends")] > frame[(0, "similarity_ends")]
    with pytest.raises(ValueError, match="ends: got 1 run; .* cannot be known from fewer than two"):
        pi.KnowledgeTracker(samples, PLAYERS, ends=ends[:1])
    with pytest.raises(TypeError, match=r"ends\[1\] is Split; expected Interactions"):
        pi.KnowledgeTracker(samples, PLAYERS, ends=[ends[0], digits])


def test_models_that_return_more_than_logits(tmp_path, digits, samples):
    class Pair(Network):
        def forward(self, pixel_values, labels=None):
            said = super().forward(pixel_values, labels)
            both = (said["logits"], -said["logits"])
            return both if labels is None else {"loss": said["loss"], "logits": both[0]}

    finals = []
    for model, output in ((Network, None), (Pair, None), (Pair, 1)):
        torch.manual_seed(0)
        knowledge = pi.KnowledgeTracker(samples, PLAYERS, steps=[2], output=output)
        trainer(tmp_path, digits, model(), [knowledge], max_steps=2).train()
        finals.append(knowledge.interactions[2].v)
    assert torch.equal(finals[0], finals[1]) and not torch.allclose(finals[0], finals[2])


def test_every_module_keeps_its_own_mode(tmp_path, digits, samples):
    modes = []

    class Before(Weights):
        def keep(self, state, model):
            model.body[1].eval()  # as where BatchNorm is to stay as it is
            modes.append([module.training for module in model.modules()])

    class After(Weights):
        def keep(self, state, model):
            modes.append([module.training for module in model.modules()])

    callbacks = [Before(), pi.KnowledgeTracker(samples, PLAYERS, steps=1), After()]
    trainer(tmp_path, digits, network(), callbacks, max_steps=2).train()
    assert modes[0::2] == modes[1::2] and len(modes) == 6
    assert [one.count(False) for one in modes] == [1] * 6


def test_mixed_precision_is_off_for_the_extraction_and_back_on_after(tmp_path, digits, samples):
    finals = []
    for tracked in (False, True):
        weights, knowledge = Weights(), pi.KnowledgeTracker(samples, PLAYERS, steps=[2])
        callbacks = [weights, knowledge] if tracked else [weights]
        model = network()
        trainer(tmp_path, digits, model, callbacks, bf16=True, max_steps=4).train()
        finals.append(model.state_dict())
    assert torch.equal(knowledge.interactions[2].v, extracted(weights.states[2], samples).v)
    assert all(torch.equal(x, finals[1][name]) for name, x in finals[0].items())


def test_it_unwraps_what_makes_a_model_parallel():
    model = network()
    assert tracker._unwrapped(nn.DataParallel(model)) is model
    assert tracker._unwrapped(model) is model


def test_pi_lib_s_own_training_takes_it(digits, samples):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    knowledge = pi.KnowledgeTracker(samples, PLAYERS)
    run = pi.finetune(
        model, digits, samples, epochs=1, learning_rate=1e-2, checkpoints=[0, 3],
        callbacks=[knowledge],
    )  # fmt: skip
    assert sorted(knowledge.interactions) == run.steps == [0, 3, 7]
    for step in run.steps:
        args = (samples.inputs, samples.labels, PLAYERS)
        expected = pi.extract(run.at(step), *args, ids=samples.ids)
        assert torch.equal(knowledge.interactions[step].v, expected.v)


def test_image_models_of_transformers_as_they_are(tmp_path, digits, samples):
    config = ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16, num_labels=10,
    )  # fmt: skip
    knowledge = pi.KnowledgeTracker((samples.inputs, samples.labels.tolist()), PLAYERS)
    trainer(tmp_path, digits, ViTForImageClassification(config), [knowledge]).train()
    assert sorted(knowledge.interactions) == [0, 4, 8]
    assert knowledge.interactions[8].labels == samples.labels.tolist()


def test_text_models_of_transformers_as_they_are(tmp_path):
    config = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8, num_labels=2,
    )  # fmt: skip
    ids = torch.arange(2, 26).view(4, 6)
    train = [{"input_ids": x, "labels": i % 2} for i, x in enumerate(ids)]
    players = LabelMapPlayers(torch.tensor([-1, 0, 1, 1, 2, -1]), baseline=torch.tensor(1))
    knowledge = pi.KnowledgeTracker((ids, [0, 1, 0, 1]), players, steps=2)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True,
        save_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    Trainer(
        BertForSequenceClassification(config), arguments, train_dataset=train, callbacks=[knowledge]
    ).train()
    assert sorted(knowledge.interactions) == [0, 2] and knowledge.interactions[2].n == 3


def test_a_failure_on_the_way_loses_nothing(tmp_path, digits, samples):
    calls = []

    def forward(model, x):
        calls.append(len(x))
        if failing:
            raise failing(f"call {len(calls)}")
        return model(x)["logits"]

    class Later(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            nonlocal failing
            failing = {4: RuntimeError, 6: KeyboardInterrupt}.get(state.global_step + 1)

    failing = None
    knowledge = pi.KnowledgeTracker(samples, PLAYERS, steps=2, forward=forward)
    model = network()
    run = trainer(tmp_path, digits, model, [Later(), knowledge])
    with (
        pytest.warns(UserWarning, match="step 4 could not be extracted, training goes on: Runtime"),
        pytest.raises(KeyboardInterrupt),
    ):
        run.train()
    assert sorted(knowledge.interactions) == [0, 2] and list(knowledge.failures) == [4]
    assert set(knowledge.to_frame()["step"]) == {0, 2}
    assert all(module.training for module in model.modules())
    failing = None
    knowledge.steps = 8  # a new run starts anew
    trainer(tmp_path, digits, network(), [knowledge]).train()
    assert sorted(knowledge.interactions) == [0, 8] and not knowledge.failures


def test_a_model_that_cannot_be_extracted_stops_before_training(tmp_path, digits, samples):
    def broken(model, x):
        return torch.full((len(x), 10), torch.nan)

    weights, knowledge = Weights(), pi.KnowledgeTracker(samples, PLAYERS, forward=broken)
    with pytest.raises(ValueError, match="kept\\) is nan"):
        trainer(tmp_path, digits, network(), [knowledge, weights]).train()
    assert not weights.states

    class Silent(Network):
        def forward(self, pixel_values, labels=None):
            return "nothing"

    with pytest.raises(TypeError, match="the model returned is .*output="):
        trainer(tmp_path, digits, Silent(), [pi.KnowledgeTracker(samples, PLAYERS)]).train()
    wrong = pi.KnowledgeTracker((samples.inputs, [10] * 6), PLAYERS)
    with pytest.raises(ValueError, match="labels 10..10 for a model with 10 output"):
        trainer(tmp_path, digits, network(), [wrong]).train()


def test_a_resumed_run_goes_on_with_what_it_has(tmp_path, digits, samples):
    knowledge = pi.KnowledgeTracker(samples, PLAYERS, steps=2)
    options = {"save_strategy": "steps", "save_steps": 4}
    trainer(tmp_path, digits, network(), [knowledge], **options, max_steps=4).train()
    before = knowledge.before
    run = trainer(tmp_path, digits, network(), [knowledge], **options)
    run.train(resume_from_checkpoint=True)
    assert sorted(knowledge.interactions) == [0, 2, 4, 6, 8] and knowledge.before is before
    afresh = pi.KnowledgeTracker(samples, PLAYERS, steps=2)  # in a new process it has nothing
    with pytest.warns(UserWarning, match="goes on from step 4, .* Give before="):
        trainer(tmp_path, digits, network(), [afresh], **options).train(f"{tmp_path}/checkpoint-4")


def test_the_last_step_is_the_runs_own_though_the_best_model_is_loaded(tmp_path, digits, samples):
    weights, knowledge = Weights(), pi.KnowledgeTracker(samples, PLAYERS, steps=[1])
    run = trainer(
        tmp_path, digits, network(), [weights, knowledge], save_strategy="steps", save_steps=4,
        load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=True,
    )  # fmt: skip
    run.train()
    assert run.state.best_model_checkpoint.endswith("-4")  # the worse one, by the metric above
    assert sorted(knowledge.interactions) == [0, 1, 8]
    assert torch.equal(knowledge.interactions[8].v, extracted(weights.states[8], samples).v)


def test_an_early_stop_is_an_end(tmp_path, digits, samples):
    knowledge = pi.KnowledgeTracker(samples, PLAYERS, steps=[1])
    callbacks = [knowledge, EarlyStoppingCallback(1, early_stopping_threshold=100.0)]
    run = trainer(
        tmp_path, digits, network(), callbacks, eval_steps=2, metric_for_best_model="loss",
        greater_is_better=False,
    )  # fmt: skip
    run.train()
    assert sorted(knowledge.interactions) == [0, 1, run.state.global_step]
    assert run.state.global_step < 8
    assert "jaccard_end" in set(knowledge.to_frame()["measure"])


def test_bad_input_is_refused_at_the_door(digits, samples):
    def other(**changes):
        fields = {"ids": samples.ids, "inputs": samples.inputs} | changes
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        players = fields.pop("players", PLAYERS)
        return pi.extract(model.eval(), fields.pop("inputs"), samples.labels, players, **fields)

    few = PatchPlayers(grid=4, n=3)
    for options, error, message in [
        ({"samples": samples.inputs}, TypeError, "samples are Tensor; expected a pi_lib.training"),
        ({"samples": (samples.inputs, [0])}, ValueError, "6 samples with 1 labels"),
        ({"samples": (samples.inputs[:0], [])}, ValueError, "0 samples with 0 labels"),
        ({"players": PatchPlayers(grid=16, n=4)}, ValueError, "smaller than the 16x16"),
        ({"players": PatchPlayers(grid=8, n=17)}, ValueError, "17 players; enumeration stops"),
        ({"steps": 0}, ValueError, "steps=0; expected"),
        ({"steps": [1.5]}, ValueError, r"steps=\[1.5\]; expected"),
        ({"device": "cpu"}, TypeError, "unknown option 'device'; there are kind"),
        ({"before": digits}, TypeError, "before is Split; expected Interactions"),
        ({"before": other(ids=list(range(6)))}, ValueError, "before has other ids than the"),
        ({"target": other(players=few)}, ValueError, "target has other players than the"),
        ({"before": other(), "kind": "and-or"}, ValueError, "before has other kind than the"),
    ]:
        given = {"samples": samples, "players": PLAYERS} | options
        with pytest.raises(error, match=message):
            pi.KnowledgeTracker(given.pop("samples"), given.pop("players"), **given)
    with pytest.raises(ValueError, match=r"tracked steps \[\]; a trajectory has at least two"):
        pi.KnowledgeTracker(samples, PLAYERS).trajectory()


def test_sharded_models_are_refused(samples):
    class Arguments:
        fsdp = "full_shard"

    class State:
        is_world_process_zero, global_step = True, 0

    with pytest.raises(ValueError, match="parameters are sharded"):
        pi.KnowledgeTracker(samples, PLAYERS).on_train_begin(Arguments, State, None, network())
    State.is_world_process_zero = False  # the other processes of a run leave it to the first
    knowledge = pi.KnowledgeTracker(samples, PLAYERS)
    knowledge.on_train_begin(Arguments, State, None, network())
    assert not knowledge.interactions

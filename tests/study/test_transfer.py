"""`pi.transfer_study`: one call on a reader's own networks and data."""

import json
import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import pi_lib as pi
from pi_lib import training
from pi_lib.study import transfer
from pi_lib.study.accuracies import paired_gain
from pi_lib.training import Split, loop

PIXELS, LABELS = load_digits(return_X_y=True)
IMAGES = torch.from_numpy(PIXELS.reshape(-1, 1, 8, 8) * 15).to(torch.uint8)
LABELS = torch.from_numpy(LABELS)
TRAIN, TEST = (IMAGES[:160], LABELS[:160]), (IMAGES[160:220], LABELS[160:220])
EARLIER = Split(IMAGES[300:800], LABELS[300:800], list(range(500)))
PLAYERS = pi.PatchPlayers(grid=2, n=None, region="all")  # the four quarters
QUICK = {"epochs": 4, "learning_rate": 2e-2, "samples": 6, "runs": 2}


class Net(nn.Module):
    """A convolutional network in the manner of torchvision: `avgpool`, then `fc`."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(1, 12, 3)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(2), nn.Linear(48, classes)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return self.fc(self.drop(self.avgpool(self.conv(x).relu()).flatten(1)))


@pytest.fixture(scope="module")
def start():
    torch.manual_seed(0)
    run = training.fit(Net(), EARLIER, EARLIER, epochs=4, learning_rate=1e-2, checkpoints=[])
    return run.model.state_dict()


@pytest.fixture(scope="module")
def pretrained(start):
    def make():
        net = Net()
        net.load_state_dict({k: x for k, x in start.items() if "fc" not in k}, strict=False)
        return net

    return make


@pytest.fixture(scope="module")
def study(pretrained):
    return pi.transfer_study(pretrained, Net, TRAIN, TEST, PLAYERS, **QUICK, long_runs=2)


def same_bits(first, second):
    return all(
        torch.equal(a.v, b.v) and torch.equal(first.correct[arm], second.correct[arm])
        for arm in first.arms
        for a, b in zip(first.arms[arm], second.arms[arm], strict=True)
    )


def test_every_arm_is_there_on_the_same_samples_and_each_run_differs(study):
    assert {arm: len(runs) for arm, runs in study.arms.items()} == {
        "probe": 1, "finetuned": 2, "scratch": 2, "long": 2
    }  # fmt: skip
    assert {arm: tuple(x.shape) for arm, x in study.correct.items()} == {
        "probe": (1, 60), "finetuned": (2, 60), "scratch": (2, 60), "long": (2, 60)
    }  # fmt: skip
    runs = [run for arm in study.arms.values() for run in arm]
    assert {(*run.ids,) for run in runs} == {(0, 1, 2, 3, 4, 5)}
    assert {(*run.labels,) for run in runs} == {(*TEST[1][:6].tolist(),)}
    for k, one in enumerate(runs):
        assert all((one.v - other.v).abs().max() > 1e-3 for other in runs[:k])
    assert study.settings["features"] == "the input of fc"


def test_pretraining_shows_in_accuracy(study):
    assert study.gain().value > 0.1
    assert study.gain("long").value < study.gain().value  # longer training comes closer
    assert study.accuracies()["probe"].value > 0.5


def test_the_numbers_are_those_of_the_functions_that_define_them(study):
    (probe,), finetuned, scratch, long = study.arms.values()
    for options in ({}, {"orders": [1, 2]}, {"orders": [1, 2], "centred": True}):
        assert study.origins(**options) == pi.origins(probe, finetuned, scratch, **options)
        assert study.reliability(**options)["long"] == pi.reliability(long, **options)
        expected = pi.similarity(probe, finetuned, **options)
        assert study.similarity(**options)["probe"] == expected
    knowledge = pi.compare(probe, finetuned[0], 0.1, second_runs=finetuned[1:])
    shares = study.shares(0.1)
    assert shares["preserved"] == knowledge.preserved_share()
    assert shares["new"] == knowledge.new_share()
    learned = pi.learned_by_scratch(knowledge, long[0]).ratio()
    assert shares["preserved, learned by long scratch"] == learned
    assert learned.second_run.measurable
    right = {arm: x.numpy() for arm, x in study.correct.items()}
    assert study.gain("long") == paired_gain(right["finetuned"], right["long"])
    assert study.accuracies()["scratch"].value == pytest.approx(right["scratch"].mean())


def test_the_games_are_those_of_the_trained_networks(pretrained, monkeypatch):
    models = []

    def spy(*args, **options):
        models.append(transfer_fit(*args, **options))
        return models[-1]

    transfer_fit = training.fit
    monkeypatch.setattr(transfer, "fit", spy)
    study = pi.transfer_study(pretrained, Net, TRAIN, TEST, PLAYERS, **QUICK)
    assert len(models) == 4
    x = TEST[0][:6].float() / 255
    again = pi.extract(models[1].model, x, TEST[1][:6], PLAYERS, ids=range(6))
    assert torch.allclose(study.arms["finetuned"][1].v, again.v)
    assert torch.equal(study.correct["finetuned"][1], models[1].correct[-1])


class Pairs(torch.utils.data.Dataset):
    def __init__(self, inputs, labels):
        self.inputs, self.labels = inputs, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.inputs[i], int(self.labels[i])


def test_data_of_every_form_give_the_same(study, pretrained):
    forms = [
        (Pairs(*TRAIN), Pairs(*TEST)),
        tuple(Split(x, y, list(range(len(y)))) for x, y in (TRAIN, TEST)),
        tuple((x.numpy(), y.tolist()) for x, y in (TRAIN, TEST)),
    ]
    for train, test in forms:
        other = pi.transfer_study(pretrained, Net, train, test, PLAYERS, **QUICK, long_runs=2)
        assert same_bits(study, other)


def test_the_seed_decides_and_the_global_random_state_stays(study, pretrained):
    before = torch.get_rng_state()
    other = pi.transfer_study(pretrained, Net, TRAIN, TEST, PLAYERS, **QUICK, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(study.arms["probe"][0].v, other.arms["probe"][0].v)  # an optimum
    for arm in ("finetuned", "scratch"):
        assert not torch.equal(study.arms[arm][0].v, other.arms[arm][0].v)


class Interrupted(KeyboardInterrupt):
    pass


def count_steps(monkeypatch, stop=None):
    """The training steps from now on, as a list that grows; interrupted before step `stop`."""
    step, steps = loop.Loop.__dict__["_take_step"], []

    def counted(self, *args):
        if len(steps) == stop:
            raise Interrupted
        steps.append(self.settings["phase"])
        return step(self, *args)

    monkeypatch.setattr(loop.Loop, "_take_step", counted)
    return steps


def test_interrupted_it_goes_on_and_recomputes_nothing(study, pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", 0)
    asked = (pretrained, Net, TRAIN, TEST, PLAYERS)
    options = QUICK | {"long_runs": 2, "folder": tmp_path}
    with monkeypatch.context() as patch:
        first = count_steps(patch, stop=47)  # in the third run
        with pytest.raises(Interrupted):
            pi.transfer_study(*asked, **options)
        assert set(first) == {"fine-tuned 1", "fine-tuned 2", "scratch 1"}
    with monkeypatch.context() as patch:
        rest = count_steps(patch)
        resumed = pi.transfer_study(*asked, **options)
        assert len(first) + len(rest) == 4 * 20 + 2 * 100
    assert same_bits(study, resumed)
    assert not list(tmp_path.glob("*/interrupted"))
    with monkeypatch.context() as patch:
        none = count_steps(patch)
        patch.setattr(transfer, "linear_probe", None)
        linear, sizes = nn.functional.linear, set()
        patch.setattr(nn.functional, "linear", lambda x, *w: sizes.add(len(x)) or linear(x, *w))
        again = pi.transfer_study(*asked, **options)
        assert (none, sizes) == ([], {2})  # no network ran but on the two samples of the checks
    assert same_bits(study, again)
    with monkeypatch.context() as patch:  # another run costs one run, other data everything
        steps = count_steps(patch)
        more = pi.transfer_study(*asked, **options | {"runs": 3})
        assert set(steps) == {"fine-tuned 3", "scratch 3"}
        assert torch.equal(more.arms["scratch"][1].v, study.arms["scratch"][1].v)
        flipped = TRAIN[0], TRAIN[1].flip(0)
        pi.transfer_study(pretrained, Net, flipped, TEST, PLAYERS, **options | {"long_runs": 0})
        assert len(steps) == 2 * 20 + 4 * 20


def test_two_processes_may_share_a_folder(pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", 0)
    asked = (pretrained, Net, TRAIN, TEST, PLAYERS)
    options = QUICK | {"epochs": 1, "folder": tmp_path}
    twins = [
        multiprocessing.get_context("fork").Process(
            target=pi.transfer_study, args=asked, kwargs=options
        )
        for _ in range(2)
    ]
    for act in ("start", "join"):
        for process in twins:
            getattr(process, act)()
    assert [process.exitcode for process in twins] == [0, 0]
    assert len([*tmp_path.glob("*/run.json")]) == 5


@pytest.mark.parametrize("change", ["epochs", "learning_rate", "batch_size", "seed"])
def test_what_decides_a_run_is_in_its_key(pretrained, tmp_path, change, monkeypatch):
    options = QUICK | {"batch_size": 32, "seed": 0, "epochs": 1, "folder": tmp_path}
    pi.transfer_study(pretrained, Net, TRAIN, TEST, PLAYERS, **options)
    steps = count_steps(monkeypatch)
    options[change] = options[change] + (1 if change != "learning_rate" else 1e-3)
    pi.transfer_study(pretrained, Net, TRAIN, TEST, PLAYERS, **options)
    assert len(set(steps)) == 4


def test_a_learning_rate_is_chosen_on_a_held_out_part(pretrained, tmp_path):
    rates = [1e-6, 1e-2, 1e30]
    options = QUICK | {"learning_rate": rates, "folder": tmp_path, "validation": 0.25}
    study = pi.transfer_study(pretrained, Net, TRAIN, TEST, PLAYERS, **options)
    for arm in ("finetuned", "scratch"):
        chosen = study.settings["rates"][arm]
        assert chosen["chosen"] == 1e-2
        assert set(chosen["tried"]) == {"1e-06", "0.01"}  # the last diverges
        assert chosen["tried"]["0.01"]["loss"] < chosen["tried"]["1e-06"]["loss"]
    logs = [json.loads(x.read_text()) for x in tmp_path.glob("scratch-learning-rate-*/run.json")]
    assert {(x["settings"]["train"], x["settings"]["test"]) for x in logs} == {(120, 40)}
    logs = [json.loads(x.read_text()) for x in tmp_path.glob("scratch-[12]-*/run.json")]
    assert {(x["settings"]["train"], x["settings"]["test"]) for x in logs} == {(160, 60)}
    assert sum("a larger one may be better" in x for x in study.sentences()) == 2
    with pytest.raises(training.TrainingDiverged, match="learning rate"):
        options = QUICK | {"learning_rate": [1e30, 1e31]}
        pi.transfer_study(pretrained, Net, TRAIN, TEST, PLAYERS, **options)


def test_sentences_and_a_transformers_network(tmp_path, monkeypatch):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    nouns = ["film", "plot", "actor", "scene", "music", "ending", "story", "camera"]
    names = ["[PAD]", "[UNK]", "[MASK]", "good", "bad", *nouns]
    words = Tokenizer(models.WordLevel({name: k for k, name in enumerate(names)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", mask_token="[MASK]", pad_token="[PAD]",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    config = BertConfig(
        vocab_size=len(names), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, num_labels=2, pad_token_id=0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=150)
    texts = [
        " ".join(rng.permutation([["bad", "good"][y], *rng.choice(nouns, 4, replace=False)]))
        for y in labels
    ]
    texts[100] = "film"  # too short for the players: left out

    def fresh():
        return BertForSequenceClassification(config)

    torch.manual_seed(1)
    encoder = fresh().bert.state_dict()

    def pretrained():
        network = fresh()
        network.bert.load_state_dict(encoder)
        return network

    players = pi.WordPlayers(tokenizer, n=3)
    data = (texts[:100], labels[:100]), (texts[100:], labels[100:])
    study = pi.transfer_study(
        pretrained, fresh, *data, players, runs=2, samples=5, epochs=10, learning_rate=1e-2,
        output="logits",
    )  # fmt: skip
    assert study.arms["scratch"][0].ids == [1, 2, 3, 4, 5]
    assert study.settings["features"] == "the input of classifier"
    assert study.origins() == pi.origins(study.arms["probe"][0], *list(study.arms.values())[1:])
    assert study.accuracies()["finetuned"].value > 0.6
    options = {"runs": 2, "samples": 5, "epochs": 1, "learning_rate": 1e-2, "folder": tmp_path}
    options["features"] = "bert.pooler"
    named = pi.transfer_study(pretrained, fresh, *data, players, **options)
    steps = count_steps(monkeypatch)
    assert same_bits(named, pi.transfer_study(pretrained, fresh, *data, players, **options))
    assert steps == []
    assert named.settings["features"] == "bert.pooler"
    # the pooler's output is what the classifier reads
    assert torch.allclose(named.arms["probe"][0].v, study.arms["probe"][0].v, atol=1e-4)


class Seeded(Net):
    def __init__(self):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            super().__init__()


class NoHead(Net):
    def forward(self, x):
        return super().forward(x) * 2


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"runs": 1}, ValueError, "runs=1.*cannot be known from fewer than two"),
        ({"long_runs": 1}, ValueError, "long_runs=1"),
        ({"samples": 4}, ValueError, "samples=4: an interval needs at least 5"),
        ({"samples": 61}, ValueError, "players fit 60 of 60 test samples"),
        ({"players": pi.PatchPlayers(grid=1, n=1, region="all")}, ValueError, "1 players"),
        ({"players": pi.PatchPlayers(grid=5, n=17, region="all")}, ValueError, "17 players"),
        ({"players": pi.PatchPlayers(grid=9, n=4)}, ValueError, "smaller than the 9x9 grid"),
        ({"epochs": 0}, ValueError, "epochs=0"),
        ({"learning_rate": 0}, ValueError, "learning_rate=0; expected numbers above 0"),
        ({"learning_rate": []}, ValueError, "expected numbers above 0"),
        ({"validation": 1.0}, ValueError, "validation=1.0"),
        ({"train": (TRAIN[0], TRAIN[1] / 2)}, ValueError, "train: expected labels.*integers"),
        ({"train": (TRAIN[0], ["a"] * 160)}, ValueError, "train: expected labels.*integers"),
        ({"test": (TEST[0], TEST[1] > 4)}, ValueError, "test: expected labels.*integers"),
        ({"test": (TEST[0], TEST[1] - 1)}, ValueError, "test:.*the smallest -1"),
        ({"train": (TRAIN[0], TRAIN[1][:9])}, ValueError, "160 inputs and 9 labels"),
        ({"train": 3}, TypeError, "train is int; expected a torch Dataset"),
        ({"train": [(object(), 1)] * 9}, TypeError, "train: expected.*tensors.*got object"),
        ({"train": [{"text": "a", "label": 1}] * 9}, TypeError, "train is list; expected a torch"),
        (
            {"train": [(torch.rand(1, k, 8), 1) for k in (8, 9, 8)]},
            TypeError,
            r"train: expected.*tensors of one shape.*got \[1, 8, 8\] at entry 0 and \[1, 9, 8\]",
        ),
        ({"test": (IMAGES[:40], torch.arange(40) // 20)}, ValueError, "all of class 0: shuffle"),
        ({"train": (["a film"] * 160, TRAIN[1])}, ValueError, "sentences need a tokenizer"),
        ({"fresh": lambda: Net(12)}, ValueError, r"fresh\(\) gives.*\(2, 12\).*labels are 0 to 9"),
        ({"pretrained": lambda: Net(4)}, ValueError, r"pretrained\(\) gives other weights"),
        ({"fresh": Seeded}, ValueError, r"fresh\(\) gives its own conv.weight again"),
        ({"fresh": "pretrained"}, ValueError, r"fresh\(\) gives its own conv.weight again"),
        ({"features": "pool"}, ValueError, "features='pool' names no module"),
        ({"output": 3}, ValueError, "output=3"),
        ({"device": "cuda:99"}, ValueError, "cuda:99"),
    ],
)
def test_bad_input_is_named_before_any_training(pretrained, monkeypatch, change, error, said):
    monkeypatch.setattr(transfer, "fit", None)
    monkeypatch.setattr(transfer, "linear_probe", None)
    asked = {
        "pretrained": pretrained, "fresh": Net, "train": TRAIN, "test": TEST, "players": PLAYERS
    } | QUICK | change  # fmt: skip
    if asked["fresh"] == "pretrained":
        asked["fresh"] = pretrained
    with pytest.raises(error, match=said):
        pi.transfer_study(**asked)


def test_a_network_without_a_linear_head_must_say_where_the_probe_reads(pretrained, start):
    def scaled():
        net = NoHead()
        net.load_state_dict({k: x for k, x in start.items() if "fc" not in k}, strict=False)
        return net

    with pytest.raises(ValueError, match="not those of a linear layer in it: say where"):
        pi.transfer_study(scaled, NoHead, TRAIN, TEST, PLAYERS, **QUICK)
    study = pi.transfer_study(scaled, NoHead, TRAIN, TEST, PLAYERS, **QUICK, features="avgpool")
    assert study.settings["features"] == "avgpool"


def test_the_same_head_each_time_is_fine(start):
    def whole():
        net = Net()
        net.load_state_dict(start)
        return net

    study = pi.transfer_study(whole, Net, TRAIN, TEST, PLAYERS, **QUICK)
    assert not torch.equal(*(run.v for run in study.arms["finetuned"]))  # other batches


def planted(sign):
    """A study with known games: half of what fine-tuned runs know is the probe's."""
    random = torch.Generator().manual_seed(0)
    old, new, *noise = torch.randn(6, 100, 16, generator=random)
    games = [old, *(old + new + 0.3 * x for x in noise[:2]), *(new + 0.3 * x for x in noise[2:])]
    probe, first, second, *scratch = (pi.Interactions.from_values(x) for x in games)
    right = torch.arange(200)[None].expand(2, -1)
    correct = {"probe": right[:1] < 150, "finetuned": right < 150, "scratch": right < 150 - sign}
    rates = {"finetuned": {"chosen": 0.1, "tried": {}}, "scratch": {"chosen": 0.1, "tried": {}}}
    counts = {"probe": 1, "finetuned": 2, "scratch": 2, "long": 0}
    settings = {"network": "Net", "rates": rates, "runs": counts}
    arms = {"probe": [probe], "finetuned": [first, second], "scratch": scratch}
    return transfer.TransferStudy(arms, correct, settings)


@pytest.mark.parametrize(
    ("sign", "said"), [(30, "more accurate than"), (-30, "less accurate"), (0, "cannot be told")]
)
def test_sentences_say_what_the_evidence_says(sign, said):
    study = planted(sign)
    gain, again, origins = study.sentences()
    assert f"Fine-tuning {'is ' * (sign != 0)}{said}" in gain and str(study.gain()) in gain
    assert again.startswith("Of what a fine-tuned run knows, a share of 0.9")
    assert "pre-training alone explains 0.5" in origins
    noise = [pi.Interactions.from_values(torch.randn(100, 16)) for _ in range(2)]
    torch.manual_seed(0)
    _, again, origins = replace(study, arms=study.arms | {"finetuned": noise}).sentences()
    assert again.startswith("It is not certain that anything")
    assert "comes from is not measurable (fine-tuned: what two runs share" in origins


def test_the_report_is_printed_or_displayed(study, capsys, monkeypatch):
    import IPython
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    plt.close("all")  # of other tests
    study.report()
    said = capsys.readouterr().out
    assert all(sentence in said for sentence in study.sentences())
    assert study.table().to_string() in said and study.shares_table().to_string() in said
    assert list(study.table().index) == ["linear probe", "fine-tuned", "scratch", "long scratch"]
    shown = study.table().loc["scratch", "accuracy"]
    assert shown.split() == str(study.accuracies()["scratch"]).split()
    row = study.shares_table().loc["preserved"]
    assert row["chance"].split() == str(study.shares()["preserved"].chance).split()
    figure = study.plot()
    assert isinstance(figure, Figure)
    assert [x.get_text() for x in figure.axes[0].get_yticklabels()] == ["Net"]
    plt.close(figure)
    shown = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr("IPython.display.display", lambda *x: shown.extend(x))
    study.report()
    assert study.sentences()[0] in shown[0].data and shown[1].equals(study.table())
    assert len(plt.get_fignums()) == 1
    plt.close("all")


def test_a_saved_study_is_read_back_and_is_a_record_of_the_study(study, tmp_path):
    from pi_lib.study import findings
    from pi_lib.study.record import Record

    path = study.save(tmp_path / "mine.npz")
    again = transfer.TransferStudy.load(path)
    assert again.settings == study.settings and again.gain() == study.gain()
    assert again.table().equals(study.table()) and again.sentences() == study.sentences()
    first, second = (x.arms["long"][1] for x in (study, again))
    assert torch.equal(first.v.float(), second.v.float())
    assert first.players == second.players
    assert first.meta == second.meta | {"error": first.meta["error"]}
    record = Record.load(path)
    assert record.gain() == study.gain() and record.accuracy("probe").value == pytest.approx(
        study.accuracies()["probe"].value
    )
    runs = findings.Runs(record)
    assert runs.origins().neither.value == pytest.approx(study.origins().neither.value, abs=1e-4)
    assert set(findings.findings({"mine": runs})["verdict"]) <= set(findings.VERDICTS)
    for wrong in (b"", b"no study", path.read_bytes()[:200]):
        (tmp_path / "wrong.npz").write_bytes(wrong)
        with pytest.raises(ValueError, match="holds no transfer study"):
            transfer.TransferStudy.load(tmp_path / "wrong.npz")

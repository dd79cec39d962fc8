"""Bad input over the public surface: refused at the door, by name, with what was expected.

Each row is what somebody might do, the error that is documented for it, and words that its message
must hold: what was given, and what was expected instead.
"""

# ruff: noqa: E501 (a row a line)

import pytest
import torch

import pi_lib as pi
from pi_lib import study, training
from pi_lib.__main__ import main
from pi_lib.book import runner
from pi_lib.book.explorers import explore
from pi_lib.study import assets, backbones, data

V = torch.zeros(2, 8)
IMAGES = torch.rand(2, 3, 16, 16)
PATCHES = pi.PatchPlayers(grid=4, n=3)
NAN = torch.tensor([[0.0, 1.0, float("nan"), 1.0]])
SAMPLES = data.Split(
    torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4).long(), [0, 1, 2, 3]
)
NOTHING = SAMPLES.take([])


def model(x):
    return torch.stack([x.flatten(1).sum(1), torch.zeros(len(x))], -1)


def seen(n=3, ids=(0, 1), labels=(0, 1)):
    v = torch.rand(2, 2**n).double()
    return pi.Interactions(v=v, i_and=pi.and_transform(v), ids=list(ids), labels=list(labels))


class Training(torch.nn.Module):
    def forward(self, x):
        return model(x)


class Random(torch.nn.Module):
    def forward(self, x):
        return torch.randn(len(x), 2)


class Infinite(torch.nn.Module):
    def forward(self, x):
        return model(x) + float("nan") * (x.sum() != IMAGES[0].sum())


TABLE = {
    # ---- transforms and the split
    "length no power of two": (lambda: pi.and_transform(torch.zeros(6)), ValueError, r"2\*\*n values.*\(6,\)"),
    "OR of a wrong length": (lambda: pi.or_transform(torch.zeros(2, 3)), ValueError, r"2\*\*n values.*\(2, 3\)"),
    "a game of nothing": (lambda: pi.and_transform(torch.zeros(0)), ValueError, r"\(0,\)"),
    "a scalar for a game": (lambda: pi.and_transform(torch.tensor(1.0)), ValueError, "2\\*\\*n"),
    "complex values": (lambda: pi.and_transform(torch.zeros(4, dtype=torch.cfloat)), ValueError, "real"),
    "NaN in a game": (lambda: pi.and_or_split(NAN), ValueError, "finite values; got nan at sample 0, coalition 2"),
    "infinite value": (lambda: pi.and_or_split(NAN.nan_to_num(float("inf"))), ValueError, "got inf at sample 0, coalition 2"),
    "negative noise": (lambda: pi.and_or_split(V, noise=-0.1), ValueError, "-0.1"),
    "noise above one": (lambda: pi.and_or_split(V, noise=float("nan")), ValueError, "noise is a share.*got nan"),
    "a tolerance below zero": (lambda: pi.and_or_split(V, tol=-1), ValueError, "tol is a share.*got -1"),
    "no iterations": (lambda: pi.and_or_split(V, max_iterations=0), ValueError, "at least 1; got 0"),
    "one model to share": (lambda: pi.shared_split(torch.zeros(4)), ValueError, "models, 2\\*\\*n"),
    "negative alpha": (lambda: pi.shared_split(V, alpha=-1), ValueError, "alpha.*-1"),
    # ---- players
    "no players": (lambda: pi.PatchPlayers(grid=4, n=0), ValueError, "n=0.*1 <= n <= 4"),
    "more players than patches": (lambda: pi.PatchPlayers(grid=4, n=9), ValueError, "n=9.*4 patches"),
    "unknown region": (lambda: pi.PatchPlayers(region="middle"), ValueError, "middle.*central"),
    "unknown baseline": (lambda: pi.PatchPlayers(baseline="grey"), ValueError, "grey.*mean"),
    "unknown background": (lambda: pi.PatchPlayers(background="x"), ValueError, "x.*keep"),
    "images of bytes": (
        lambda: PATCHES.place(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)), ValueError, "uint8.*255",
    ),
    "one image, no batch": (lambda: PATCHES.place(IMAGES[0]), ValueError, "B, C, H, W"),
    "images smaller than the grid": (
        lambda: pi.PatchPlayers(grid=8).place(torch.rand(1, 3, 4, 4)), ValueError, "4x4.*8x8 grid",
    ),
    "ids that are no integers": (
        lambda: pi.extract(
            model, IMAGES, [0, 1], pi.LabelMapPlayers(torch.zeros(16, 16).long(), 0.0), ids=[0.2, 0.7]
        ), ValueError, "sample ids are non-negative integers .'float' object",
    ),
    "ids of other length": (lambda: PATCHES.place(IMAGES, [1]), ValueError, "1 ids.*2 samples"),
    "mean of other channels": (
        lambda: pi.PatchPlayers(grid=4, n=3, mean=torch.zeros(1)).place(IMAGES),
        ValueError, "\\(1,\\).*one value per channel",
    ),
    "labels that skip a player": (
        lambda: pi.LabelMapPlayers(torch.tensor([0, 2])), ValueError, "\\[1\\] own no element",
    ),
    "labels below -1": (lambda: pi.LabelMapPlayers(torch.tensor([-2, 0])), ValueError, "-1 for"),
    "labels that are real": (lambda: pi.LabelMapPlayers(torch.rand(4)), ValueError, "float32"),
    "only background": (lambda: pi.LabelMapPlayers(torch.full((4,), -1)), ValueError, "no player"),
    "players that overlap": (
        lambda: pi.LabelMapPlayers.from_masks(torch.ones(2, 4)), ValueError, "overlap at element",
    ),
    "an empty player": (
        lambda: pi.LabelMapPlayers.from_masks(torch.eye(2, 4) * torch.tensor([[1], [0]])),
        ValueError, "\\[1\\] own no element",
    ),
    "a map beside the input": (
        lambda: pi.LabelMapPlayers(torch.zeros(9, 9).long()).place(IMAGES), ValueError, "outside",
    ),
    "names of other length": (
        lambda: pi.LabelMapPlayers(torch.tensor([0, 1]), names=["a"]), ValueError, "1 names for 2",
    ),
    # ---- the engine
    "labels of other length": (
        lambda: pi.coalition_values(model, IMAGES, [0], PATCHES), ValueError, "1 labels for 2",
    ),
    "labels that are names": (
        lambda: pi.coalition_values(model, IMAGES, ["a", "b"], PATCHES),
        TypeError, "of type list are no numbers.*number of the true class",
    ),
    "labels that are read once": (
        lambda: pi.coalition_values(model, IMAGES, iter([0, 1]), PATCHES), TypeError, "of type list_iterator",
    ),
    "label out of range": (
        lambda: pi.coalition_values(model, IMAGES, [0, 7], PATCHES), ValueError, "7.*expected 0..1",
    ),
    "a label of one logit": (
        lambda: pi.coalition_values(lambda x: model(x)[:, :1], IMAGES, [0, 2], PATCHES),
        ValueError, r"with 1 output\(s\); expected 0\.\.1",
    ),
    "a label below zero": (
        lambda: pi.coalition_values(model, IMAGES, [0, -1], PATCHES), ValueError, "-1.*expected 0",
    ),
    "labels that are shares": (
        lambda: pi.coalition_values(model, IMAGES, [0.5, 1.0], PATCHES), ValueError, "integer",
    ),
    "a model in training mode": (
        lambda: pi.extract(Training(), IMAGES, [0, 1], PATCHES), ValueError, "model.eval",
    ),
    "a model with dropout left on": (
        lambda: pi.extract(Random().eval(), IMAGES, [0, 1], PATCHES), ValueError, "same input",
    ),
    "a model that gives NaN": (
        lambda: pi.extract(Infinite().eval(), IMAGES, [0, 1], PATCHES),
        ValueError, "sample 0, coalition .*nan",
    ),
    "too many to enumerate": (
        lambda: pi.extract(model, IMAGES, [0, 1], pi.PatchPlayers(grid=8, n=30)),
        ValueError, "2,147,483,648 forward passes.*GiB.*method=\"search\".*\"sampled\"",
    ),
    "a part in training mode": (
        lambda: pi.extract(torch.nn.Sequential(Training().eval()).train(False).append(Training()), IMAGES, [0, 1], PATCHES),
        ValueError, "part '1' of type Training.*model.eval",
    ),
    "scaled by the batch's largest": (
        lambda: pi.extract(lambda x: model(x / x.sum()), IMAGES, [0, 1], PATCHES),
        ValueError, "depends on what else is in its batch.*batch_size=1",
    ),
    "an output of boxes": (
        lambda: pi.extract(lambda x: {"boxes": x, "scores": x}, IMAGES, [0, 1], PATCHES),
        TypeError, "a dict of 'boxes', 'scores'; expected.*output=",
    ),
    "an output that is not there": (
        lambda: pi.extract(lambda x: {"logits": model(x)}, IMAGES, [0, 1], PATCHES, output="aux"),
        ValueError, "output='aux'.*a dict of 'logits'",
    ),
    "a value of every class": (
        lambda: pi.extract(model, IMAGES, [0, 1], PATCHES, value=lambda z, y: z),
        ValueError, r"value= gave shape \(1, 2\).*one number for each",
    ),
    "one row for all": (
        lambda: pi.extract(lambda x: model(x).mean(0), IMAGES, [0, 1], PATCHES),
        ValueError, r"output of shape \(2,\); expected a row for each.*batch_size=",
    ),
    "a device that is not there": (
        lambda: pi.extract(model, IMAGES, [0, 1], PATCHES, device="cuda:99"),
        ValueError, "device='cuda:99' cannot be used here.*'cpu'",
    ),
    "a batch of nothing": (
        lambda: pi.extract(model, IMAGES, [0, 1], PATCHES, batch_size=0), ValueError, "batch_size=0",
    ),
    "unknown kind": (
        lambda: pi.extract(model, IMAGES, [0, 1], PATCHES, kind="or"), ValueError, "'or'.*'and-or'",
    ),
    "unknown method": (
        lambda: pi.extract(model, IMAGES, [0, 1], PATCHES, method="fast"), ValueError, "fast.*exact",
    ),
    "logits without an axis": (
        lambda: pi.log_odds(torch.tensor(1.0), torch.tensor(0)), ValueError, "logits \\(..., C\\)",
    ),
    # ---- results
    "arrays of two shapes": (
        lambda: pi.Interactions(v=V, i_and=V[:1]), ValueError, "\\(2, 8\\).*\\(1, 8\\)",
    ),
    "names for other samples": (
        lambda: pi.Interactions(v=V, i_and=V, labels=[0]), ValueError, "2 samples of 3 players",
    ),
    "a threshold of one": (lambda: seen().salient(1.0), ValueError, "tau=1.0.*0 <= tau < 1"),
    "a sample that is not there": (lambda: seen().top(3, sample=5), IndexError, "sample 5 of 2"),
    "values of another index": (
        lambda: pi.Interactions.from_shapiq(
            [type("Other", (), {"index": "SII", "n_players": 2})()]
        ),
        ValueError, "Moebius.*SII",
    ),
    # ---- what is compared
    "models asked about other players": (
        lambda: pi.compare(seen(3), seen(4)), ValueError, r"differ in n \(3 against 4\): extract both",
    ),
    "models asked about other samples": (
        lambda: pi.compare(seen(), seen(ids=(0, 2))), ValueError, r"differ in ids \(\[0, 1\] against \[0, 2\]\)",
    ),
    "a threshold below zero": (lambda: pi.compare(seen(), seen(), tau=-1), ValueError, "tau=-1"),
    "an unknown part": (
        lambda: pi.compare(seen(), seen()).strength("lost"), ValueError, "'lost'.*preserved, discarded, new",
    ),
    "a path of no steps": (lambda: pi.trajectory([], seen(), []), ValueError, "at least two checkpoints.*got 0"),
    "resampled together, but of two lengths": (
        lambda: pi.bootstrap(torch.zeros(3), torch.zeros(2)), ValueError, "\\[3, 2\\]",
    ),
    # ---- tasks, models, training
    "an unknown task": (lambda: data.load("mnist"), ValueError, "mnist.*fashion-mnist"),
    "a folder that is not there": (
        lambda: data.load("folder:/nowhere"), assets.MissingAsset, "there is no folder /nowhere",
    ),
    "more samples than there are": (
        lambda: data.load("movie-reviews", n_train=10**7), ValueError, "n_train=10000000, but there are",
    ),
    "pixels of sentences": (
        lambda: data.load("movie-reviews", n_train=4, n_test=4, size=32), ValueError, "sentences",
    ),
    "images as floats": (lambda: data.images(IMAGES), TypeError, "uint8.*float32"),
    "an unknown backbone": (lambda: backbones.build("alexnet", 10), ValueError, "alexnet.*vgg16"),
    "no classes": (lambda: backbones.build("vit-32", 0, pretrained=False), ValueError, "at least 1; got 0"),
    "nothing to train on": (
        lambda: pi.finetune(model, NOTHING, SAMPLES, epochs=1, learning_rate=0.1),
        ValueError, "0 training",
    ),
    "no epochs": (
        lambda: pi.finetune(model, SAMPLES, SAMPLES, epochs=0, learning_rate=0.1),
        ValueError, "0 epochs",
    ),
    "checkpoints beyond the end": (
        lambda: pi.finetune(
            torch.nn.Flatten(), SAMPLES, SAMPLES, epochs=1, learning_rate=0.1, checkpoints=[99]
        ),
        ValueError, r"\[1, 99\] lie outside a run of 1 steps",
    ),
    "one checkpoint": (lambda: training.checkpoint_steps(10, 1), ValueError, "1 checkpoints.*at least 2"),
    "a step without checkpoint": (
        lambda: pi.Run(torch.nn.Flatten(), {0: {}}, [], {}, 0.0).at(5), KeyError, "step 5.*\\[0\\]",
    ),
    # ---- the study
    "an unknown profile": (lambda: study.Cell(profile="long"), ValueError, "long.*smoke, quick"),
    "a setting there is not": (
        lambda: study.Cell(changes={"colour": 1}), ValueError, "'colour'.*batch_size, checkpoints",
    ),
    "half a sample": (
        lambda: study.Cell(changes={"n_train": 0.5}), ValueError, "n_train=0.5.*an integer, at least 1",
    ),
    "all layers frozen": (
        lambda: study.Cell(changes={"frozen": 1}), ValueError, "frozen=1; expected a share",
    ),
    "a rank below 0": (
        lambda: study.Cell(changes={"lora": -1}), ValueError, "lora=-1; expected an integer, at least 0",
    ),
    "a pull below 0": (
        lambda: study.Cell(changes={"pull": -0.1}), ValueError, "pull=-0.1; expected a number, at least 0",
    ),
    "LoRA on frozen layers": (
        lambda: study.Cell(changes={"lora": 1, "frozen": 0.5}), ValueError, "frozen=0.5 with lora=1",
    ),
    "LoRA and a pull": (
        lambda: study.Cell(changes={"lora": 1, "pull": 0.5}), ValueError, "pull=0.5 with lora=1",
    ),
    "a probe twice first": (
        lambda: study.Cell(changes={"probe_first": 2}), ValueError, "probe_first=2; expected 0 or 1",
    ),
    "no probe to start from": (
        lambda: study.Cell("resnet20", "fashion-mnist+even+detection", source="cifar10",
                           changes={"probe_first": 1}),
        ValueError, "probe_first=1 is for classification",
    ),
    "frozen is no number": (
        lambda: study.Cell(changes={"frozen": float("nan")}), ValueError, "frozen=nan; expected",
    ),
    "no rate": (lambda: study.Cell(changes={"rate": -1.0}), ValueError, "rate=-1.0.*above 0"),
    "classes that vanish at a small size": (
        lambda: study.load(study.Cell(profile="smoke", changes={"n_train": 9})),
        ValueError, "n_train=9 leaves some of the 10 classes of fashion-mnist",
    ),
    "sizes larger than the data": (
        lambda: study.load(study.Cell(profile="smoke", changes={"n_train": 10**6})),
        ValueError, "n_train=1000000, but there are 60000",
    ),
    "a picture's shift for sentences": (
        lambda: study.Cell("minilm", "sst2", source="movie-reviews+inverted"),
        ValueError, "'inverted' is for images",
    ),
    "a pre-training that is none": (
        lambda: study.Cell(pretraining_run=-1), ValueError, "pretraining_run=-1"
    ),
    "images for a reader of texts": (
        lambda: study.Cell("minilm", "flowers"), ValueError, "minilm takes texts.*flowers",
    ),
    "no weights and no source": (
        lambda: study.Cell("vit-32", "flowers"), ValueError, "no published weights",
    ),
    "source and task of the same data": (
        lambda: study.Cell("vit-32", "cifar10", source="cifar10-jpeg"), ValueError, "same data",
    ),
    "an unknown phase": (
        lambda: study.trained_model(study.Cell(), "pruned"), ValueError, "pruned.*probe, finetuned",
    ),
    "a record that is not there": (
        lambda: study.Record.load("/nowhere/paper"), FileNotFoundError, "--record",
    ),
    # ---- small things
    "a slider of nothing": (lambda: explore(str, k=[]), ValueError, "at least one value"),
    "a slider of thousands": (
        lambda: explore(str, k=range(9999)), ValueError, "9999 frames; a page holds at most 150",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TABLE)
def test_refused_by_name(what):
    act, error, words = TABLE[what]
    with pytest.raises(error, match=f"(?s){words}"):
        act()


@pytest.mark.parametrize("content", [b"", b"not of this kind", b"\x10" + b"\0" * 7 + b'{"a": 1}'])
def test_files_that_hold_no_interactions(tmp_path, content):
    """Refused by path, whatever is in them; nothing in a file is ever run."""
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="x.safetensors.*not written by pi_lib"):
        pi.Interactions.load(tmp_path / "x.safetensors")


COMMANDS = {
    "run --profile long": "unknown profile 'long'; there are smoke, quick, reduced, full",
    "run --jobs 0": "expected at least 1 job; got 0",
    "run --only 99": "unknown notebook 99; there are 00_",
    "run -p seed": "expected NAME=VALUE; got 'seed'",
    "run -p seed=[1": "seed=[1: cannot be read as YAML (",
    "run -p profile=full": "chosen by --profile full",
    "run --only 02 -p colour=red": "unknown parameter colour of",
    "study --grid /nowhere.yml": "/nowhere.yml: No such file or directory",
    "study --grid {empty}": "expected `cells:`",
    "study --grid {binary}": "is no YAML file",
    "study --grid {wrong}": "line 2: backbone='vgg'; expected one of",
    "store show zzz --store {folder}": "0 entries are named 'zzz'",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_says_it_in_a_line(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runner, "_in_own_process", lambda job: pytest.fail("work was begun"))
    files = {name: tmp_path / name for name in ("empty", "binary", "wrong", "folder")}
    files["empty"].write_text("")
    files["binary"].write_bytes(bytes(range(256)))
    files["wrong"].write_text("cells:\n  - {backbone: vgg, task: flowers}\n")
    assert main(command.format(**files).split()) == 2
    said = capsys.readouterr().err
    assert COMMANDS[command] in said and "Traceback" not in said

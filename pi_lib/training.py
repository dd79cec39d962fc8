"""Fine-tune, train from scratch, pre-train: one recipe, in a plain loop.

The phases differ in what they start from and what they may change, nothing else: AdamW, a cosine
schedule after a linear warm-up, gradients clipped at norm 1. Checkpoints are kept on a schedule,
with loss and accuracy on the test split at each, and whether each test sample is right. A run that
was interrupted goes on from the last state that it saved, to the same bits: the order of batches
and every random number depend on the run's number and the step alone.

The data lie on the device, images as bytes and sentences as tokens, and are fetched a batch at a
time. The linear probe, which is no training, is `pi_lib.probe`.
"""

import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pi_lib import lora as adapters
from pi_lib.cuda_graph import Graphed
from pi_lib.engine import choose_device, fingerprint
from pi_lib.objectives import classified, supervised
from pi_lib.progress import bar
from pi_lib.seeds import random_state_restored, seed_of, set_seed

if TYPE_CHECKING:
    import pandas as pd

SAVE_EVERY = 60.0  # seconds between the states that a run may go on from; saving takes 1 or 2
LOOK_EVERY = 16  # steps between two looks at the loss: each makes a GPU wait for Python
_NORMS = nn.modules.batchnorm._NormBase  # normalisation by statistics of what was seen
MOST_TOKENS = 128  # of a sentence; the rest is cut off


@dataclass(frozen=True, eq=False)
class Split:
    """Samples and their labels.

    Attributes
    ----------
    inputs : (N, C, H, W) uint8, or list of N str
        Images or sentences.
    labels : (N,) int64
        Class numbers.
    ids : list of N int
        Index of each sample in its source, which no subset or seed changes.
    targets : (N, ...), optional
        What a network is to say, where that is not the class: maps or boxes of
        `pi_lib.study.data.scenes`, first those of the object that is of class `labels`.

    Examples
    --------
    >>> split = Split(["good", "bad", "fine"], torch.tensor([1, 0, 1]), [7, 8, 9])
    >>> split.take([2, 0])
    Split(inputs=['fine', 'good'], labels=tensor([1, 1]), ids=[9, 7])
    """

    inputs: Tensor | list[str]
    labels: Tensor
    ids: list[int]
    targets: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Sequence[int] | Tensor) -> "Split":
        """The samples at these positions of the split, in this order."""
        at = torch.as_tensor(indices, dtype=torch.int64).tolist()
        inputs = (
            self.inputs[at] if isinstance(self.inputs, Tensor) else [self.inputs[i] for i in at]
        )
        targets = None if self.targets is None else self.targets[at]
        return Split(inputs, self.labels[at], [self.ids[i] for i in at], targets)


def images(inputs: Tensor) -> Tensor:
    """Images as models take them: uint8 to float32 in [0, 1], same shape.

    Examples
    --------
    >>> images(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
    """
    if not isinstance(inputs, Tensor) or inputs.dtype != torch.uint8:
        got = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(f"expected images as a uint8 tensor; got {got}")
    return inputs.float().div_(255)


class Batches:
    """A split on a device, where it lies once: batches are one gather each.

    Images stay bytes and become floats by the batch; sentences become tokens once. A split that
    would take more than a quarter of a GPU's free memory stays where it is, and batches travel.

    Parameters
    ----------
    split : Split
    device : torch device
    tokenizer : fast tokenizer of `transformers`, optional
        Needed for sentences, which are cut at 128 tokens. The model gets what the tokenizer gives,
        first the token ids.

    Raises
    ------
    ValueError
        For sentences without a tokenizer.
    """

    def __init__(self, split: Split, device: torch.device, tokenizer=None):
        self.device, self.lengths, self.left = device, None, False
        labels = split.labels if split.targets is None else split.targets
        self.labels = self._placed(torch.as_tensor(labels))
        inputs = {"x": split.inputs}
        if not isinstance(split.inputs, Tensor):
            inputs = self._tokens(list(split.inputs), tokenizer)
        self.inputs = {name: self._placed(x) for name, x in inputs.items()}

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, order: Tensor, size: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Inputs by name, `x` first, and labels or targets, `size` samples at a time.

        Parameters
        ----------
        order : (n,) int64, on the CPU
            Positions in the split.
        size : int
            Samples a batch; the last may have fewer.
        """
        at = order.to(self.labels.device)
        for start in range(0, len(order), size):
            chosen = at[start : start + size]
            batch = {
                name: x.index_select(0, chosen.to(x.device)) for name, x in self.inputs.items()
            }  # ten times as fast as x[chosen]
            if self.lengths is not None:
                longest = int(self.lengths[order[start : start + size]].max())
                kept = slice(-longest, None) if self.left else slice(longest)
                batch = {name: x[:, kept] for name, x in batch.items()}
            batch = {name: x.to(self.device) for name, x in batch.items()}
            if batch["x"].dtype == torch.uint8:
                batch["x"] = images(batch["x"])
            yield batch, self.labels[chosen].to(self.device)

    def in_order(self, size: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """All samples as they come, `size` at a time."""
        return self(torch.arange(len(self)), size)

    def _placed(self, x: Tensor) -> Tensor:
        if self.device.type == "cuda" and x.nbytes > torch.cuda.mem_get_info(self.device)[0] / 4:
            return x
        return x.to(self.device)

    def _tokens(self, texts: list, tokenizer) -> dict[str, Tensor]:
        if tokenizer is None:
            raise ValueError("sentences need a tokenizer: pass tokenizer=")
        tokens = tokenizer(
            texts, padding=True, truncation=True, return_attention_mask=True, return_tensors="pt",
            max_length=min(MOST_TOKENS, tokenizer.model_max_length),
        )  # fmt: skip
        self.lengths, self.left = tokens["attention_mask"].sum(1), tokenizer.padding_side == "left"
        others = [x for x in tokenizer.model_input_names if x != "input_ids" and x in tokens]
        return {"x": tokens["input_ids"]} | {name: tokens[name] for name in others}


class TrainingDiverged(ArithmeticError):
    """The loss became NaN or infinite; the message names the step."""


@dataclass(eq=False)
class Run:
    """A finished training run.

    Attributes
    ----------
    model : Module
        The trained model, in eval mode, on the CPU.
    checkpoints : dict of int to state dict
        What training changed, by step; step 0 is the start, the last step the trained model.
    log : list of dict
        At each checkpoint: ``step``, ``epoch``, ``loss`` (nats per sample) and ``accuracy``, both
        on the test split.
    settings : dict
        What decided the run, as JSON values.
    seconds : float
        Wall time; of a run that was resumed, since then.
    correct : bool Tensor (checkpoints, test samples), optional
        Which test samples were right, a row for each of `log`: accuracies of two runs are compared
        sample by sample.
    """

    model: nn.Module
    checkpoints: dict[int, dict[str, Tensor]] = field(repr=False)
    log: list[dict[str, float]]
    settings: dict[str, Any]
    seconds: float
    correct: Tensor | None = field(default=None, repr=False)

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints, ascending."""
        return sorted(self.checkpoints)

    @property
    def accuracy(self) -> float:
        """Accuracy of the trained model on the test split, 0 to 1."""
        return self.log[-1]["accuracy"]

    def at(self, step: int) -> nn.Module:
        """A copy of the model as it was at one of `steps`, in eval mode."""
        if step not in self.checkpoints:
            raise KeyError(f"no checkpoint at step {step}; there are {self.steps}")
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.checkpoints[step], strict=False)
        return model.eval()

    def to_frame(self) -> "pd.DataFrame":
        """The log as a table."""
        import pandas as pd

        return pd.DataFrame(self.log)

    def save(self, folder: str | Path) -> Path:
        """Write checkpoints (safetensors) and ``run.json`` into a folder. Returns the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for step, state in self.checkpoints.items():
            _save(state, folder / f"{step}.safetensors")
        if self.correct is not None:
            _save({"correct": self.correct}, folder / "correct.safetensors")
        about = {
            "steps": self.steps, "log": self.log,
            "settings": self.settings, "seconds": self.seconds,
        }  # fmt: skip
        _write(folder / "run.json", about)  # last: where it is, the others are whole
        return folder

    @classmethod
    def load(cls, folder: str | Path, model: nn.Module) -> "Run":
        """Read what `save` wrote; `model` is of the trained architecture and gets the weights."""
        from safetensors.torch import load_file

        folder = Path(folder)
        about = json.loads((folder / "run.json").read_text())
        steps = about.pop("steps")
        checkpoints = {step: load_file(folder / f"{step}.safetensors") for step in steps}
        right = folder / "correct.safetensors"
        correct = load_file(right)["correct"] if right.exists() else None
        run = cls(model=model, checkpoints=checkpoints, correct=correct, **about)
        run.model = run.at(steps[-1])
        return run

    @staticmethod
    def load_at(folder: str | Path, model: nn.Module, step: int | None = None) -> nn.Module:
        """`model` with the weights that `save` wrote for a step, by default the last; eval mode."""
        from safetensors.torch import load_file

        folder = Path(folder)
        if step is None:
            step = json.loads((folder / "run.json").read_text())["steps"][-1]
        model.load_state_dict(load_file(folder / f"{step}.safetensors"), strict=False)
        return model.eval()


def train_from_scratch(model: nn.Module, train: Split, test: Split, **options) -> Run:
    """Train all parameters of a randomly initialised `model`. Options as `fit`."""
    return fit(model, train, test, label="train from scratch", **options)


def pretrain(model: nn.Module, train: Split, test: Split, **options) -> Run:
    """Train a randomly initialised `model` on a source task, to be transferred. Options as `fit`.

    Its ``run.model.encoder`` is the pre-trained encoder; `pi_lib.study.backbones.transfer`
    puts a new head on it.
    """
    return fit(model, train, test, label="pre-train", **options)


def fit(
    model: nn.Module,
    train: Split,
    test: Split,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int = 32,
    weight_decay: float = 0.01,
    warmup: float = 0.1,
    checkpoints: int | Sequence[int] = 8,
    seed: int = 0,
    device: str | torch.device = "auto",
    tokenizer=None,
    validation: Split | None = None,
    callbacks: Sequence = (),
    resume: str | Path | None = None,
    loss: Callable[..., tuple[Tensor, Tensor]] = supervised,
    correct: Callable[[Tensor, Tensor], Tensor] = classified,
    output: str | int | Callable | None = None,
    frozen: float = 0.0,
    graph: bool = False,
    lora: int = 0,
    pull: float = 0.0,
    label: str = "train",
    verbose: bool | None = None,
) -> Run:
    """Train a copy of `model`; the one recipe behind every phase.

    Parameters
    ----------
    model : Module
        From a batch of inputs to logits ``(batch, C)``, or to what `pi_lib.outputs.model_output`
        takes them from; for sentences, from token ids and an `attention_mask`.
    train, test : Split
        See `pi_lib.study.data`. Images of dtype uint8 reach the model as float in [0, 1]. Where a
        split has targets, they take the place of labels.
    epochs : int
        Passes over `train`.
    learning_rate : float
        Peak of the schedule.
    batch_size : int, default 32
        Where an epoch's last batch would hold one sample, `train` goes without its last sample:
        BatchNorm cannot train on a batch of one.
    weight_decay, warmup : float
        AdamW's decay, of weight matrices and kernels (not of biases and norms); fraction of the
        steps over which the learning rate rises.
    checkpoints : int or sequence of int, default 8
        How many (see `checkpoint_steps`), or at which steps.
    seed : int
        Number of the run: it decides the order of the batches, and dropout. Two phases of the same
        number share neither (`pi_lib.seeds`). The global random state of torch, numpy and
        `random` is afterwards as it was.
    device : "auto" or a torch device
        "auto" is the GPU where there is one.
    tokenizer : fast tokenizer of `transformers`, optional
        Needed for sentences, which are cut at 128 tokens.
    validation : Split, optional
        Samples of which loss and accuracy at the end go into ``settings["validation"]``: by them
        a learning rate is chosen.
    callbacks : sequence of `transformers.TrainerCallback`
        They see this loop as they see a `Trainer`'s, and may stop it; the step at which they do is
        the last checkpoint.
    resume : path, optional
        Folder where the run's state is saved every minute, and from which it goes on where an
        earlier attempt was interrupted; the result is the same to the bit. It takes three to
        four times the space of the model. Remove it when the result is kept.
    loss : callable, default cross-entropy
        From model, inputs and labels to the mean loss and the outputs; see `pi_lib.objectives`.
    correct : callable, default whether the largest logit is the label's
        From outputs and labels to which samples are right, bool ``(B,)``: what accuracy counts.
    output : str, int or callable, optional
        Which part of what the model returns are the logits, for a `loss` that takes it; see
        `pi_lib.outputs.model_output`.
    frozen : float, default 0
        Share of the layers of ``model.encoder``, counted from the input, that stay as they are, in
        eval mode; at least 0, below 1. A layer is a module with parameters of its own.
    graph : bool, default False
        On a GPU, record a step as a CUDA graph and repeat it, which is up to five times as fast for
        small networks (`pi_lib.cuda_graph`). For a model and `loss` whose course depends on nothing
        that Python draws or decides from step to step. Elsewhere it changes nothing.
    lora : int, default 0
        Rank of LoRA (arXiv 2106.09685), which needs `peft`: of ``model.encoder`` nothing is trained
        but a matrix of this rank that is added to the weights of each layer of attention, linear
        layer and convolution (see `pi_lib.lora.layers`); 0 for none. BatchNorm stays in eval mode,
        as under `frozen`: else statistics and scales would change without a limit on their rank.
        What is not of the encoder is trained as ever. Checkpoints and the run's model have plain
        weights, into which those matrices are merged: they are as fast as without.
    pull : float, default 0
        Strength of a pull towards the start (L2-SP, arXiv 1802.01483): to the loss that is trained
        on, ``pull / 2`` times the squared distance of the encoder's trained parameters to where
        they started is added; 0 for none.
    label : str
        The phase: what the progress line says, and which streams of random numbers are taken.
    verbose : bool, optional
        Whether to show progress; default on a terminal (see `pi_lib.progress`).

    Raises
    ------
    ValueError
        If there is nothing to train on, a checkpoint lies outside the run, `frozen`, `lora` or
        `pull` is no such number, LoRA is combined with one of the others or finds no layer, the
        model has no encoder, or `resume` holds the state of another run.
    ImportError
        For LoRA without `peft`.
    TrainingDiverged
        If the loss becomes NaN or infinite.
    """
    start = time.perf_counter()
    train, batch_size, steps = _planned(train, test, epochs, batch_size, checkpoints)
    settings = {
        "phase": label, "epochs": epochs, "learning_rate": learning_rate,
        "batch_size": batch_size, "weight_decay": weight_decay, "warmup": warmup, "seed": seed,
        "train": len(train), "test": len(test), "loss": loss.__name__,
        "frozen": frozen, "lora": lora, "pull": pull,
    }  # fmt: skip
    if output is not None:
        settings["output"] = str(getattr(output, "__qualname__", output))
        loss = partial(loss, output=output)
    device = choose_device(device)
    data, held_out = (Batches(split, device, tokenizer) for split in (train, test))
    with random_state_restored(device), _repeatable(device):
        loop = _Loop(copy.deepcopy(model), loss, correct, settings, steps, held_out, device, graph)
        if resume is not None:
            digest = fingerprint([(split.ids, split.labels) for split in (train, test)])
            loop.resume(Path(resume), fingerprint(model), digest)
        loop.run(data, _Callbacks(callbacks, loop), verbose)
        if validation is not None:
            value, right = loop.evaluate(Batches(validation, device, tokenizer))
            settings["validation"] = {
                "accuracy": right.double().mean().item(), "loss": value, "samples": len(validation)
            }  # fmt: skip
    trained = copy.deepcopy(model).cpu().eval()
    trained.load_state_dict(loop.states[loop.step])
    seconds = round(time.perf_counter() - start, 3)
    return Run(trained, loop.states, loop.log, settings, seconds, torch.stack(loop.right))


def _planned(
    train: Split, test: Split, epochs: int, batch_size: int, checkpoints: int | Sequence[int]
) -> tuple[Split, int, list[int]]:
    """The samples that are trained on, the batch size, and the steps of the checkpoints."""
    if epochs < 1 or not len(train) or not len(test):
        raise ValueError(
            f"nothing to train: {epochs} epochs, {len(train)} training and {len(test)} test samples"
        )
    batch_size = min(batch_size, len(train))
    if len(train) % batch_size == 1 < batch_size:
        train = train.take(range(len(train) - 1))
    total = epochs * math.ceil(len(train) / batch_size)
    if isinstance(checkpoints, int):
        checkpoints = checkpoint_steps(total, checkpoints)
    steps = sorted({*checkpoints, total})
    if steps[0] < 0 or steps[-1] > total:
        raise ValueError(f"checkpoints {steps} lie outside a run of {total} steps")
    return train, batch_size, steps


def first_layers(model: nn.Module, share: float) -> list[nn.Module]:
    """The first layers of a model's encoder, from the input: a share of those with parameters.

    Raises
    ------
    ValueError
        If the share is not at least 0 and below 1, or the model has no encoder.

    Examples
    --------
    >>> model = nn.Module()
    >>> model.encoder = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))
    >>> first_layers(model, 0.5)
    [Linear(in_features=2, out_features=3, bias=True)]
    """
    if not 0 <= share < 1:
        raise ValueError(
            f"frozen={share!r}; expected a share of the encoder's layers, at least 0 and below 1 "
            "(all of them: pi_lib.linear_probe)"
        )
    if not share:
        return []
    _check_encoder(model, f"frozen={share!r}")
    layers = [
        layer
        for layer in model.encoder.modules()
        if next(layer.parameters(recurse=False), None) is not None
    ]
    return layers[: round(share * len(layers))]


def _check_way(model: nn.Module, frozen: float, lora: int, pull: float) -> None:
    """Refuse what is no rank, no strength, or no combination."""
    if isinstance(lora, bool) or not isinstance(lora, int) or lora < 0:
        raise ValueError(f"lora={lora!r}; expected a rank, an integer, at least 0 (0: no LoRA)")
    if not 0 <= pull < math.inf:
        raise ValueError(f"pull={pull!r}; expected a number, at least 0 (0: no pull)")
    for name, given in (("frozen", frozen), ("pull", pull)):
        if lora and given:
            raise ValueError(
                f"{name}={given!r} with lora={lora!r}: LoRA leaves the encoder's own weights where "
                "they are; choose one of the two"
            )
    for name, given in (("lora", lora), ("pull", pull)):
        if given:
            _check_encoder(model, f"{name}={given!r}")


def _check_encoder(model: nn.Module, what: str) -> None:
    if not isinstance(getattr(model, "encoder", None), nn.Module):
        raise ValueError(f"{what} is of the layers of model.encoder, and there is none")


def checkpoint_steps(total: int, count: int) -> list[int]:
    """Step 0, step 1, and from there evenly spaced in logarithm to the last: `count` in all.

    A network changes most in its first steps, so half of the checkpoints lie before the square
    root of the last step. Where there are fewer steps than that, each is one.

    Examples
    --------
    >>> checkpoint_steps(1000, 8)
    [0, 1, 3, 10, 32, 101, 318, 1000]
    >>> checkpoint_steps(6, 8)
    [0, 1, 2, 3, 4, 5, 6]
    """
    if count < 2 or total < 1:
        raise ValueError(f"{count} checkpoints of {total} steps; expected at least 2, of 1 or more")
    steps = [0] if count == 2 else [0, 1]
    while steps[-1] < total:
        last, left = steps[-1], max(1, count - len(steps))
        steps.append(max(last + 1, round(last * (total / last) ** (1 / left)) if last else total))
    return steps


class _Loop:
    """A run in progress: the network, what a step changes, and what was recorded on the way."""

    def __init__(self, model, loss, correct, settings: dict, steps: list[int], test, device, graph):
        self.settings, self.steps, self.device = settings, steps, device
        _check_way(model, *(settings[name] for name in ("frozen", "lora", "pull")))
        self.still = first_layers(model, settings["frozen"])
        for layer in self.still:
            for x in layer.parameters(recurse=False):
                x.requires_grad_(False)
        self.merged = None  # under LoRA: the network with plain weights
        if settings["lora"]:
            self.merged = copy.deepcopy(model).to(device).eval()
            set_seed(seed_of(f"lora, {settings['phase']}", settings["seed"]), device)
            adapters.add_adapters(model, settings["lora"])
            self.still = [x for x in model.encoder.modules() if isinstance(x, _NORMS)]
        self.model, self.loss, self.correct = model.to(device).eval(), loss, correct
        self.test = test
        self.trained = [x for x in model.parameters() if x.requires_grad]
        pulled = model.encoder.parameters() if settings["pull"] else ()
        self.pulled = [x for x in pulled if x.requires_grad]
        self.start = [x.detach().clone() for x in self.pulled]
        decay = [x for x in self.trained if x.ndim > 1]
        others = [x for x in self.trained if x.ndim <= 1]
        groups = [
            {"params": decay, "weight_decay": settings["weight_decay"]},
            {"params": others, "weight_decay": 0.0},
        ]
        graphed = graph and device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            groups, fused=device.type in ("cpu", "cuda"), capturable=graphed
        )
        # a graph reads the rate where it lies
        self.rate = torch.zeros((), device=device) if graphed else None
        self.graphed = Graphed(self._learn) if graphed else None
        self.step, self.folder, self.unseen = 0, None, []
        self.states: dict[int, dict[str, Tensor]] = {}
        self.log: list[dict[str, float]] = []
        self.right: list[Tensor] = []
        self.per_epoch = math.ceil(settings["train"] / settings["batch_size"])

    @property
    def total(self) -> int:
        return self.steps[-1]

    def run(self, data: Batches, callbacks: "_Callbacks", verbose: bool | None) -> None:
        """From the step where it stands to the last."""
        phase, seed, size = (self.settings[x] for x in ("phase", "seed", "batch_size"))
        saved = time.monotonic()
        callbacks("train_begin")
        if not self.log and 0 in self.steps:
            self.record(callbacks)
        with bar(phase, self.total, verbose, initial=self.step) as shown:
            for epoch in range(self.step // self.per_epoch, self.settings["epochs"]):
                generator = torch.Generator().manual_seed(seed_of(f"batches, {phase}", seed, epoch))
                order = torch.randperm(len(data), generator=generator)
                done = self.step - epoch * self.per_epoch
                callbacks("epoch_begin")
                for batch, labels in data(order[done * size :], size):
                    callbacks("step_begin")
                    self._take_step(batch, labels)
                    shown.update()
                    stop = callbacks("step_end")
                    if self.step in self.steps or stop:
                        self.record(callbacks)
                    elif len(self.unseen) >= LOOK_EVERY:
                        self._look()
                    if self.folder and time.monotonic() - saved >= SAVE_EVERY:
                        self.save()
                        saved = time.monotonic()
                    if stop:
                        break
                callbacks("epoch_end")
                if stop:
                    break
        callbacks("train_end")
        self.graphed = None  # which holds memory of the device

    def _take_step(self, batch: dict[str, Tensor], labels: Tensor) -> None:
        s = self.settings
        set_seed(seed_of(f"dropout, {s['phase']}", s["seed"], self.step), self.device)
        warmup = math.ceil(s["warmup"] * self.total)
        rate = s["learning_rate"] * schedule(self.step, self.total, warmup)
        if self.rate is not None:
            rate = self.rate.fill_(rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._mode(True)
        self.unseen.append((self.graphed or self._learn)(batch, labels))
        self.step += 1

    def _learn(self, batch: dict[str, Tensor], labels: Tensor) -> Tensor:
        """Change the weights by a batch; returns its loss."""
        others = {name: x for name, x in batch.items() if name != "x"}
        loss, _ = self.loss(self.model, batch["x"], labels, **others)
        self.optimizer.zero_grad()
        loss.backward()
        self._pull()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def _pull(self) -> None:
        """Add the gradient of the pull: all parameters at once, whose kernels are small."""
        at = [i for i, x in enumerate(self.pulled) if x.grad is not None]
        if at:
            away = torch._foreach_sub([self.pulled[i] for i in at], [self.start[i] for i in at])
            slopes = [self.pulled[i].grad for i in at]
            torch._foreach_add_(slopes, away, alpha=self.settings["pull"])

    def _mode(self, training: bool) -> None:
        if self.model.training != training:
            self.model.train(training)
            for layer in self.still:
                layer.training = False  # of this layer alone: those within may be trained

    def _look(self) -> None:
        """Raise if a loss since the last look is not finite."""
        losses, self.unseen = self.unseen, []
        values = torch.stack(losses).cpu() if losses else torch.zeros(0)
        if len(wrong := (~values.isfinite()).nonzero()):
            first = int(wrong[0])
            self._diverged(values[first].item(), self.step - len(values) + first)

    def _diverged(self, value: float, step: int) -> None:
        raise TrainingDiverged(
            f"{self.settings['phase']}: the loss became {value} at step {step} of {self.total}; "
            f"try a learning rate below {self.settings['learning_rate']:g}"
        )

    def plain(self) -> nn.Module:
        """The network as it stands, with plain weights."""
        if self.merged is None:
            return self.model
        self.merged.load_state_dict(adapters.merged(self.model))
        return self.merged

    def evaluate(self, data: Batches) -> tuple[float, Tensor]:
        """Mean loss, and which samples are right: bool, one each."""
        self._mode(False)
        model, losses, right = self.plain(), [], []
        with torch.no_grad():
            for batch, labels in data.in_order(4 * self.settings["batch_size"]):
                loss, outputs = self.loss(model, batch.pop("x"), labels, **batch)
                losses.append(loss.double() * len(labels))
                right.append(self.correct(outputs, labels).bool())
        return torch.stack(losses).sum().item() / len(data), torch.cat(right).cpu()

    def record(self, callbacks: "_Callbacks") -> None:
        """Evaluate, and keep the weights of this step."""
        self._look()
        loss, right = self.evaluate(self.test)
        if not math.isfinite(loss):
            self._diverged(loss, self.step)
        weights = self.plain().state_dict()
        self.states[self.step] = {name: x.detach().cpu().clone() for name, x in weights.items()}
        row = {
            "step": self.step, "epoch": self.step / self.per_epoch,
            "loss": loss, "accuracy": right.double().mean().item(),
        }  # fmt: skip
        self.log.append(row)
        self.right.append(right)
        callbacks.evaluated(row)

    def resume(self, folder: Path, start: str, data: str) -> None:
        """Save into a folder from now on, and take up what an earlier attempt saved there."""
        from safetensors.torch import load_file

        _check_asked(folder, self.settings | {"steps": self.steps, "start": start, "data": data})
        self.folder = folder
        try:
            state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
            states = {row["step"]: load_file(self._file(row["step"])) for row in state["log"]}
        except FileNotFoundError:
            return  # nothing yet
        self.states, self.log, self.right = states, state["log"], list(state["right"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def save(self) -> None:
        """All that the run goes on from, whole or not at all."""
        self._look()
        for step, weights in self.states.items():
            if not self._file(step).exists():
                _save(weights, self._file(step))
        state = {
            "step": self.step, "log": self.log, "right": self.right,
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        aside = self.folder / "state.aside"
        torch.save(state, aside)
        os.replace(aside, self.folder / "state.pt")

    def _file(self, step: int) -> Path:
        return self.folder / f"{step}.safetensors"


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """A GPU's sums in an order that is the same every time; its kernels on a stream of their own.

    What is recorded as a graph may not have been prepared on the default stream.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before, cudnn.deterministic = cudnn.deterministic, True
    try:
        with torch.cuda.device(device):
            stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                yield
            current.wait_stream(stream)
    finally:
        cudnn.deterministic = before


def schedule(step: int, total: int, warmup: int) -> float:
    """The learning rate at a step, as a share of its peak: a linear rise, then a cosine to 0.

    Examples
    --------
    >>> [round(schedule(step, 10, 2), 2) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    if step < warmup:
        return (step + 1) / warmup  # the first step is not lost
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


class _Callbacks:
    """transformers' callbacks in this loop: they see what a `Trainer` would show them."""

    def __init__(self, callbacks: Sequence, loop: _Loop):
        self.handler, self.loop = None, loop
        if not callbacks:
            return  # nor is transformers needed
        from transformers import TrainerControl, TrainerState, TrainingArguments
        from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

        callbacks = [DefaultFlowCallback(), *callbacks]
        self.handler = CallbackHandler(callbacks, loop.model, None, loop.optimizer, None)
        settings = loop.settings
        self.args = TrainingArguments(
            num_train_epochs=settings["epochs"], learning_rate=settings["learning_rate"],
            per_device_train_batch_size=settings["batch_size"], seed=settings["seed"],
            use_cpu=loop.device.type == "cpu", report_to=[],
        )  # fmt: skip
        self.control = TrainerControl()
        self.state = TrainerState(max_steps=loop.total, num_train_epochs=settings["epochs"])

    def __call__(self, event: str, **given) -> bool:
        """Tell them; returns whether the run is to stop here."""
        if self.handler is None:
            return False
        self.state.global_step = self.loop.step
        self.state.epoch = self.loop.step / self.loop.per_epoch
        tell = getattr(self.handler, f"on_{event}")
        self.control = tell(self.args, self.state, self.control, **given)
        return self.control.should_training_stop

    def evaluated(self, row: dict[str, float]) -> None:
        """Tell them of a checkpoint."""
        if self.handler is None:
            return
        logs = {f"eval_{name}": row[name] for name in ("loss", "accuracy")}
        logs["epoch"] = row["epoch"]
        self.state.log_history.append(logs | {"step": row["step"]})
        self("log", logs=dict(logs))
        self("evaluate", metrics=logs)


def _save(weights: dict[str, Tensor], path: Path) -> None:
    """Write weights whole or not at all."""
    from safetensors.torch import save_file

    aside = path.with_suffix(".aside")
    save_file({name: x.contiguous() for name, x in weights.items()}, aside)
    os.replace(aside, path)


def _write(path: Path, about: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    aside = path.with_suffix(".aside")
    aside.write_text(json.dumps(about, indent=1) + "\n")
    os.replace(aside, path)


def _check_asked(folder: Path, asked: dict[str, Any]) -> None:
    """Make the folder this run's; a ValueError if it is another's."""
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / "asked.json"
    if not about.exists():
        return _write(about, asked)
    found = json.loads(about.read_text())
    if differ := [name for name in asked if found.get(name) != asked[name]]:
        raise ValueError(
            f"{folder} holds the state of another run: "
            + ", ".join(f"{name} {found.get(name)!r}, not {asked[name]!r}" for name in differ)
            + "; name another folder, or remove it"
        )

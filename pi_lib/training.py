"""Pre-train, probe, fine-tune, train from scratch: one recipe, run by transformers' `Trainer`.

The four phases differ in what they start from and what they may change, nothing else: the same
batches in the same order for the same seed, AdamW, a cosine schedule after a linear warm-up,
gradients clipped at norm 1. Checkpoints are kept on a schedule, with loss and accuracy on the
test split at each. A run that was interrupted goes on from the last state that it saved.
"""

import copy
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pi_lib.engine import choose_device, fingerprint
from pi_lib.objectives import classified, supervised
from pi_lib.progress import report, track

if TYPE_CHECKING:
    import pandas as pd

SAVE_EVERY = 60.0  # seconds between the states that a run may go on from; saving takes 1 or 2


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
    return inputs.float() / 255


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
    """

    model: nn.Module
    checkpoints: dict[int, dict[str, Tensor]] = field(repr=False)
    log: list[dict[str, float]]
    settings: dict[str, Any]
    seconds: float

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
        for step, state in self.checkpoints.items():
            _save(state, folder / f"{step}.safetensors")
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
        run = cls(model=model, checkpoints=checkpoints, **about)
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


def finetune(model: nn.Module, train: Split, test: Split, **options) -> Run:
    """Train all parameters from where `model` stands. Options as `fit`."""
    return fit(model, train, test, label="fine-tune", **options)


def train_from_scratch(model: nn.Module, train: Split, test: Split, **options) -> Run:
    """Train all parameters of a randomly initialised `model`. Options as `fit`."""
    return fit(model, train, test, label="train from scratch", **options)


def pretrain(model: nn.Module, train: Split, test: Split, **options) -> Run:
    """Train a randomly initialised `model` on a source task, to be transferred. Options as `fit`.

    Its ``run.model.encoder`` is the pre-trained encoder; `pi_lib.study.backbones.transfer`
    puts a new head on it.
    """
    return fit(model, train, test, label="pre-train", **options)


def linear_probe(
    model: nn.Module,
    train: Split,
    test: Split,
    *,
    batch_size: int = 32,
    device: str | torch.device = "auto",
    tokenizer=None,
    validation: Split | None = None,
    **options,
) -> Run:
    """Train a new linear head on the frozen encoder: what the pre-trained model knows of the task.

    The encoder stays in eval mode, so its features are computed once. Options as `fit`; a probe
    wants a far larger learning rate than fine-tuning.

    Parameters
    ----------
    model : Module with `features(...)`, the encoder's output, and `head`, linear in it
        See `pi_lib.study.backbones.Classifier`.
    """
    probe = copy.deepcopy(model).eval()
    device = choose_device(device)
    splits = [
        split and _features(probe, split, tokenizer, batch_size, device)
        for split in (train, test, validation)
    ]
    run = fit(
        probe.head,
        *splits[:2],
        validation=splits[2],
        batch_size=batch_size,
        device=device,
        label="linear probe",
        **options,
    )
    probe.head = run.model
    run.model = probe.cpu().eval()
    run.checkpoints = {
        step: {f"head.{name}": x for name, x in state.items()}
        for step, state in run.checkpoints.items()
    }
    return run


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
    checkpoints: int | Sequence[int] = 5,
    seed: int = 0,
    device: str | torch.device = "auto",
    tokenizer=None,
    validation: Split | None = None,
    callbacks: Sequence = (),
    resume: str | Path | None = None,
    loss: Callable[..., tuple[Tensor, Tensor]] = supervised,
    correct: Callable[[Tensor, Tensor], Tensor] = classified,
    frozen: float = 0.0,
    label: str = "train",
) -> Run:
    """Train a copy of `model`; the one recipe behind every phase.

    Parameters
    ----------
    model : Module
        From a batch of inputs to logits ``(batch, C)``, or to an object with ``.logits``; for
        sentences, from token ids and an `attention_mask`.
    train, test : Split
        See `pi_lib.study.data`. Images of dtype uint8 reach the model as float in [0, 1]. Where a
        split has targets, they take the place of labels.
    epochs : int
        Passes over `train`.
    learning_rate : float
        Peak of the schedule.
    batch_size : int, default 32
        Of all devices together. Where an epoch's last batch would hold one sample, `train` goes
        without its last sample: BatchNorm cannot train on a batch of one.
    weight_decay, warmup : float
        AdamW's decay; fraction of the steps over which the learning rate rises.
    checkpoints : int or sequence of int, default 5
        How many (see `checkpoint_steps`), or at which steps.
    seed : int
        Of the order of the batches and of dropout.
    device : "auto" or a torch device
        "auto" is the GPU where there is one.
    tokenizer : fast tokenizer of `transformers`, optional
        Needed for sentences.
    validation : Split, optional
        Samples of which loss and accuracy at the end go into ``settings["validation"]``: by them
        a learning rate is chosen.
    callbacks : sequence of `transformers.TrainerCallback`
        Further callbacks.
    resume : path, optional
        Folder where the run's state is saved every minute, and from which it goes on where an
        earlier attempt was interrupted; the result is the same to the bit. It takes three to
        four times the space of the model. Remove it when the result is kept.
    loss : callable, default cross-entropy
        From model, inputs and labels to the loss and the logits; see `pi_lib.objectives` and
        `pi_lib.objectives`.
    correct : callable, default whether the largest logit is the label's
        From logits and labels to which samples are right, bool ``(B,)``: what accuracy counts.
    frozen : float, default 0
        Share of the layers of ``model.encoder``, counted from the input, that stay as they are, in
        eval mode; at least 0, below 1. A layer is a module with parameters of its own.
    label : str
        What the progress line says.

    Raises
    ------
    ValueError
        If there is nothing to train on, a checkpoint lies outside the run, the devices cannot
        share a batch, `frozen` is no such share or the model has no encoder, or `resume` holds the
        state of another run.
    TrainingDiverged
        If the loss becomes NaN or infinite.
    """
    from transformers import PrinterCallback, Trainer, TrainingArguments

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
    settings = {
        "phase": label, "epochs": epochs, "learning_rate": learning_rate,
        "batch_size": batch_size, "weight_decay": weight_decay, "warmup": warmup, "seed": seed,
        "train": len(train), "test": len(test), "loss": loss.__name__, "frozen": frozen,
    }  # fmt: skip
    start = time.perf_counter()
    learner = _WithLoss(copy.deepcopy(model), loss, frozen)
    saved = None
    if resume is not None:
        data = [(split.ids, split.labels) for split in (train, test)]
        saved = _saved(
            Path(resume),
            settings | {"steps": steps, "start": fingerprint(learner), "data": fingerprint(data)},
        )
    recorder = _recorder(steps, total, label, resume)
    folder = tempfile.TemporaryDirectory() if resume is None else nullcontext(resume)
    with folder as output, torch.random.fork_rng():
        args = TrainingArguments(
            output_dir=output,
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=4 * batch_size,
            weight_decay=weight_decay,
            warmup_steps=math.ceil(warmup * total),
            lr_scheduler_type="cosine",
            seed=seed,
            data_seed=seed,
            use_cpu=choose_device(device).type == "cpu",
            dataloader_pin_memory=False,
            eval_on_start=0 in steps and saved is None,
            save_strategy="no",  # the recorder says when
            save_total_limit=1,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        devices = args.world_size * max(1, args.n_gpu)  # of accelerate
        if batch_size % devices:
            raise ValueError(f"batch_size={batch_size} cannot be shared by {devices} devices")
        args.per_device_train_batch_size //= devices
        trainer = Trainer(
            model=learner,
            args=args,
            data_collator=_Collate(tokenizer),
            train_dataset=_Samples(train),
            eval_dataset=_Samples(test),
            preprocess_logits_for_metrics=correct,
            compute_metrics=_accuracy,
            callbacks=[recorder, *callbacks],
        )
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train(resume_from_checkpoint=saved)
        except TrainingDiverged as error:
            raise TrainingDiverged(
                f"{label}: {error} at step {trainer.state.global_step} of {total}; "
                f"try a learning rate below {learning_rate:g}"
            ) from None
        if validation is not None:
            found = trainer.evaluate(_Samples(validation))
            settings["validation"] = {
                name: found[f"eval_{name}"] for name in ("accuracy", "loss")
            } | {"samples": len(validation)}
    for x in learner.frozen:
        x.requires_grad_(True)
    return Run(
        model=learner.model.cpu().eval(),
        checkpoints=recorder.states,
        log=recorder.log,
        settings=settings,
        seconds=round(time.perf_counter() - start, 3),
    )


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
    if not isinstance(getattr(model, "encoder", None), nn.Module):
        raise ValueError(f"frozen={share!r} is of the layers of model.encoder, and there is none")
    layers = [
        layer
        for layer in model.encoder.modules()
        if next(layer.parameters(recurse=False), None) is not None
    ]
    return layers[: round(share * len(layers))]


def checkpoint_steps(total: int, count: int) -> list[int]:
    """Step 0, then `count` - 1 steps that double up to the end, where training changes slowly.

    Examples
    --------
    >>> checkpoint_steps(80, 5)
    [0, 10, 20, 40, 80]
    """
    if count < 2 or total < 1:
        raise ValueError(f"{count} checkpoints of {total} steps; expected at least 2, of 1 or more")
    return sorted({0, *(max(1, round(total / 2**k)) for k in range(count - 1))})


def _features(
    model: nn.Module, split: Split, tokenizer, batch_size: int, device: torch.device
) -> Split:
    """The encoder's output on every sample, as a split."""
    model.to(device)
    samples, collate = _Samples(split), _Collate(tokenizer)
    features = []
    with torch.no_grad():
        for start in track(range(0, len(split), batch_size), "linear probe: features"):
            stop = min(start + batch_size, len(split))
            batch = collate([samples[i] for i in range(start, stop)])
            batch.pop("labels")
            batch = {name: x.to(device) for name, x in batch.items()}
            features.append(model.features(batch.pop("x"), **batch).cpu())
    return replace(split, inputs=torch.cat(features))


class _Samples(torch.utils.data.Dataset):
    def __init__(self, split: Split):
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int):
        x = self.split.inputs[i]
        if isinstance(x, Tensor) and x.dtype == torch.uint8:
            x = x.float() / 255
        labels = self.split.labels if self.split.targets is None else self.split.targets
        return x, torch.as_tensor(labels[i])


class _Collate:
    """Samples as a batch of keyword arguments: `x` first, then what the model takes beside it."""

    def __init__(self, tokenizer=None):
        self.tokenizer = tokenizer

    def __call__(self, samples) -> dict[str, Tensor]:
        inputs, labels = zip(*samples, strict=True)
        batch = {"labels": torch.stack(labels)}
        if isinstance(inputs[0], Tensor):
            return batch | {"x": torch.stack(inputs)}
        if self.tokenizer is None:
            raise ValueError("sentences need a tokenizer: pass tokenizer=")
        tokens = self.tokenizer(
            list(inputs), padding=True, truncation=True, max_length=128, return_tensors="pt"
        )
        return batch | {"x": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


class _WithLoss(nn.Module):
    """A classifier as `Trainer` wants it: keyword arguments in, loss and logits out."""

    accepts_loss_kwargs = False  # the loss is a mean over the batch, whatever the Trainer counts

    def __init__(self, model: nn.Module, loss: Callable, frozen: float):
        super().__init__()
        self.model, self.loss = model, loss
        self.kept = first_layers(model, frozen)
        parameters = (x for layer in self.kept for x in layer.parameters(recurse=False))
        self.frozen = [x for x in parameters if x.requires_grad]
        for x in self.frozen:
            x.requires_grad_(False)

    def train(self, mode: bool = True) -> "_WithLoss":
        super().train(mode)
        for layer in self.kept:
            layer.training = False  # of this layer alone: those within may be trained
        return self

    def forward(self, x: Tensor, labels: Tensor | None = None, **others) -> dict[str, Tensor]:
        loss, logits = self.loss(self.model, x, labels, **others)
        if self.training and not loss.isfinite():
            raise TrainingDiverged(f"the loss became {loss.item()}")
        return {"loss": loss, "logits": logits}


def _accuracy(prediction) -> dict[str, float]:
    return {"accuracy": float(prediction.predictions.mean())}  # of `correct`


def _recorder(steps: list[int], total: int, label: str, resume: str | Path | None):
    """A callback that evaluates and keeps the weights at the given steps, and reports progress.

    With `resume` it also says when the Trainer saves its state; what was recorded until then is
    written before.
    """
    from safetensors.torch import load_file
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        def __init__(self):
            self.states: dict[int, dict[str, Tensor]] = {}
            self.log: list[dict[str, float]] = []
            self.saved = time.monotonic()

        def on_train_begin(self, args, state, control, **_):
            for row in state.log_history:  # of a run that goes on
                if row["step"] in steps and "eval_loss" in row:
                    self._keep(row, load_file(self._file(row["step"])))
            report(label, state.global_step, total)

        def on_step_end(self, args, state, control, **_):
            report(label, state.global_step, total)
            control.should_evaluate = state.global_step in steps
            due = resume is not None and time.monotonic() - self.saved >= SAVE_EVERY
            if due and not control.should_evaluate:
                for step, weights in self.states.items():
                    if not self._file(step).exists():
                        _save(weights, self._file(step))
                control.should_save = True
            return control

        def on_save(self, args, state, control, **_):
            self.saved = time.monotonic()

        def on_evaluate(self, args, state, control, model, metrics, **_):
            step = state.global_step
            if step in self.states or step not in steps:
                return
            weights = {
                name: x.detach().cpu().clone() for name, x in model.model.state_dict().items()
            }
            self._keep(metrics | {"step": step, "epoch": state.epoch}, weights)

        def _keep(self, row, weights):
            self.states[row["step"]] = weights
            self.log.append(
                {
                    "step": row["step"],
                    "epoch": float(row.get("epoch") or 0),
                    "loss": row["eval_loss"],
                    "accuracy": row["eval_accuracy"],
                }
            )

        def _file(self, step: int) -> Path:
            return Path(resume) / f"{step}.safetensors"

    return Recorder()


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


def _saved(folder: Path, asked: dict[str, Any]) -> str | None:
    """The last state that a run of these settings has saved whole in a folder; None: nothing yet.

    Raises
    ------
    ValueError
        If it is another run's folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / "asked.json"
    if about.exists():
        found = json.loads(about.read_text())
        if differ := [name for name in asked if found.get(name) != asked[name]]:
            raise ValueError(
                f"{folder} holds the state of another run: "
                + ", ".join(f"{name} {found.get(name)!r}, not {asked[name]!r}" for name in differ)
                + "; name another folder, or remove it"
            )
    else:
        _write(about, asked)
    by_step = {int(path.name.split("-")[1]): path for path in folder.glob("checkpoint-*")}
    for _, path in sorted(by_step.items(), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text())
            return str(path)
        except (OSError, ValueError):  # it is written last, so this one was not finished
            shutil.rmtree(path)
    return None

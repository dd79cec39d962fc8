"""The one recipe behind every phase: what a run is set up from.

The order of batches and every random number depend on the run's number and the step alone, so that
a run that was interrupted goes on to the same bits.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pi_lib.engine import choose_device, fingerprint
from pi_lib.training.loop import Callbacks, Loop, repeatable
from pi_lib.training.objectives import classified, supervised
from pi_lib.training.run import Run
from pi_lib.training.seeds import random_state_restored
from pi_lib.training.split import Batches, Split


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

    AdamW, a linear rise and a cosine for the learning rate, gradients clipped at norm 1.

    Parameters
    ----------
    model : Module
        From a batch of inputs to logits ``(batch, C)``, or to what `output` takes them from; for
        sentences, from token ids and an `attention_mask`.
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
        number share neither (`pi_lib.training.seeds`). The global random state of torch, numpy and
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
        From model, inputs and labels to the mean loss and the outputs; see
        `pi_lib.training.objectives`.
    correct : callable, default whether the largest logit is the label's
        From outputs and labels to which samples are right, bool ``(B,)``: what accuracy counts.
    output : str, int or callable, optional
        Which part of what the model returns are the logits, for a `loss` that takes it; see
        `pi_lib.engine.outputs.model_output`.
    frozen : float, default 0
        Share of the layers of ``model.encoder``, counted from the input, that stay as they are, in
        eval mode; at least 0, below 1. A layer is a module with parameters of its own.
    graph : bool, default False
        On a GPU, record a step as a CUDA graph and repeat it, which is up to five times as fast for
        small networks (`pi_lib.training.cuda_graph`). For a model and `loss` whose course depends
        on nothing that Python draws or decides from step to step. Elsewhere it changes nothing.
    lora : int, default 0
        Rank of LoRA (arXiv 2106.09685), which needs `peft`: of ``model.encoder`` nothing is trained
        but a matrix of this rank, added to the weights of each of `pi_lib.training.lora.layers`; 0
        for none. BatchNorm stays in eval mode, as under `frozen`: else statistics and scales would
        change without a limit on their rank. Checkpoints and the run's model have plain weights,
        into which those matrices are merged.
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
        "train": len(train), "test": len(test),
        "loss": getattr(loss, "__name__", type(loss).__name__),
        "frozen": frozen, "lora": lora, "pull": pull,
    }  # fmt: skip
    if output is not None:
        settings["output"] = str(getattr(output, "__qualname__", output))
        loss = partial(loss, output=output)
    device = choose_device(device)
    data, held_out = (Batches(split, device, tokenizer) for split in (train, test))
    with random_state_restored(device), repeatable(device):
        loop = Loop(copy.deepcopy(model), loss, correct, settings, steps, held_out, device, graph)
        if resume is not None:
            digest = fingerprint([(part.inputs, part.labels) for part in (data, held_out)])
            loop.resume(Path(resume), fingerprint(model), digest)
        loop.run(data, Callbacks(callbacks, loop), verbose)
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

"""The phases: they differ in what they start from and what they may change, nothing else."""

import copy
from pathlib import Path

from torch import nn

from pi_lib.training.loop import check_way
from pi_lib.training.objectives import MapHead
from pi_lib.training.probe import linear_probe
from pi_lib.training.recipe import fit
from pi_lib.training.run import Run
from pi_lib.training.split import Split


def finetune(
    model: nn.Module, train: Split, test: Split, *, probe_first: bool = False, **options
) -> Run:
    """Train from where `model` stands: all parameters, or as the options say.

    Parameters
    ----------
    model, train, test
        As `pi_lib.training.fit` takes them.
    probe_first : bool, default False
        Whether the head starts as the linear probe's optimum (arXiv 2202.10054), which leaves the
        encoder less to unlearn in the first steps; for a model with a method `features` and a
        linear `head`, as of `pi_lib.study.backbones.Classifier`.
    **options
        As `pi_lib.training.fit`. Of these, `frozen` leaves the first layers as they are, `lora`
        adds matrices of low rank to the layers and trains these, and `pull` draws the encoder
        towards its start.

    Raises
    ------
    ValueError, TrainingDiverged
        As `pi_lib.training.fit` and, with `probe_first`, `pi_lib.linear_probe`; and if its head
        reads a feature map, for which the probe is no convex problem.

    Examples
    --------
    >>> import torch
    >>> from pi_lib.study.backbones import Classifier
    >>> model = Classifier(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 2))
    >>> x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    >>> split = Split(x, (x[:, 0] > 0).long(), list(range(60)))
    >>> parts = split.take(range(40)), split.take(range(40, 60))
    >>> run = finetune(model, *parts, epochs=1, learning_rate=1e-3, probe_first=True)
    >>> run.settings["probe_first"]
    True
    """
    if probe_first:
        if isinstance(getattr(model, "head", None), MapHead):
            raise ValueError(
                "probe_first=True is for classification: a head on feature maps has no optimum to "
                "start from"
            )
        ways = {name: options[name] for name in ("frozen", "lora", "pull") if name in options}
        check_way(model, **ways)  # before the probe takes its time
        model = _probed(model, train, test, options)
    run = fit(model, train, test, label="fine-tune", **options)
    run.settings["probe_first"] = bool(probe_first)
    return run


def train_from_scratch(model: nn.Module, train: Split, test: Split, **options) -> Run:
    """Train all parameters of a randomly initialised `model`. Options as `fit`."""
    return fit(model, train, test, label="train from scratch", **options)


def pretrain(model: nn.Module, train: Split, test: Split, **options) -> Run:
    """Train a randomly initialised `model` on a source task, to be transferred. Options as `fit`.

    Its ``run.model.encoder`` is the pre-trained encoder; `pi_lib.study.backbones.transfer`
    puts a new head on it.
    """
    return fit(model, train, test, label="pre-train", **options)


def _probed(model: nn.Module, train: Split, test: Split, options: dict) -> nn.Module:
    """The model under the probe's head: a run that goes on has that of its first attempt."""
    shared = ("validation", "device", "tokenizer", "verbose")
    known = {name: options[name] for name in shared if name in options}
    if options.get("resume") is None:
        return linear_probe(model, train, test, **known).model
    folder = Path(options["resume"]) / "probe"
    if not (folder / "run.json").exists():
        linear_probe(model, train, test, **known).save(folder)
    return Run.load_at(folder, copy.deepcopy(model))

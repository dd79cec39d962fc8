"""Fine-tuning, and the ways to do it: `finetune` is the one call, each way an option of it."""

from torch import nn

from pi_lib.objectives import MapHead
from pi_lib.probe import linear_probe
from pi_lib.training import Run, Split, fit


def finetune(
    model: nn.Module, train: Split, test: Split, *, probe_first: bool = False, **options
) -> Run:
    """Train from where `model` stands: all parameters, or as the options say.

    Parameters
    ----------
    model : Module
    train, test : Split
        As `pi_lib.training.fit` takes them.
    probe_first : bool, default False
        Whether the head starts as the linear probe's optimum (arXiv 2202.10054), which leaves the
        encoder less to unlearn in the first steps; for a model with a method `features` and a
        linear `head`, as of `pi_lib.study.backbones.Classifier`.
    **options
        As `pi_lib.training.fit`. Of these, `frozen` leaves the first layers as they are, `lora`
        adds matrices of low rank to the layers and trains these, and `pull` draws the encoder
        towards its start.

    Returns
    -------
    Run

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
        shared = ("validation", "device", "tokenizer", "verbose")
        known = {name: options[name] for name in shared if name in options}
        model = linear_probe(model, train, test, **known).model
    run = fit(model, train, test, label="fine-tune", **options)
    run.settings["probe_first"] = bool(probe_first)
    return run

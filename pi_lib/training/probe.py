"""The linear probe: what a frozen network knows of a task, as the optimum of a convex problem."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pi_lib.engine import choose_device
from pi_lib.engine.outputs import model_output
from pi_lib.progress import track
from pi_lib.training.objectives import MapHead, classified
from pi_lib.training.recipe import fit
from pi_lib.training.regression import EXACT, Regression
from pi_lib.training.run import Run
from pi_lib.training.seeds import seed_of
from pi_lib.training.split import Batches, Split

STRENGTHS = [10 ** (2 - k / 2) for k in range(19)]  # 100 to 1e-7
ROUGH = 1e-1  # relative error of the weights while choosing


def linear_probe(
    model: nn.Module,
    train: Split,
    test: Split,
    *,
    features: str | Callable[..., Tensor] | None = None,
    output: str | int | Callable | None = None,
    n_classes: int | None = None,
    validation: Split | None = None,
    batch_size: int = 128,
    device: str | torch.device = "auto",
    tokenizer=None,
    verbose: bool | None = None,
    **options,
) -> Run:
    """Fit a new linear head to the frozen model: what it knows of the task as it is.

    The model stays in eval mode and as it is; its features are computed once. The head minimises
    the mean cross-entropy plus ``strength / 2`` times the squared norm of its weights, biases
    included (so a class without a sample has a finite answer), on features that are centred and
    divided by one number, so that their mean variance over `train` is 1. Of the strengths 100, 32,
    10, ... 1e-7 it takes the one with the lowest cross-entropy on `validation`; it looks no further
    once two weaker ones were worse.

    Parameters
    ----------
    model : Module
        Any network.
    train, test : Split
        As `pi_lib.training.fit` takes them.
    features : str or callable, optional
        Where the feature vectors are: the name of a module of `model` ("avgpool",
        "encoder.layer.5"), whose output they are, or ``features(model, x, **others)`` which returns
        them, ``(B, D)``. A module's output ``(B, D)`` is taken as it is, a map ``(B, D, h, w)``
        averaged over its positions, a sequence ``(B, L, D)`` over its tokens (of the
        `attention_mask`, where there is one). Default: the model's method `features` and its linear
        `head`, as of `pi_lib.study.backbones.Classifier`, which together must be the model.
    output : str, int or callable, optional
        Which part of that module's output they are, where it has several: as
        `pi_lib.engine.outputs.model_output` takes it; default `last_hidden_state`, if there is one.
    n_classes : int, optional
        Outputs of the head; default those of the model's own `head`, or with `features` the highest
        label plus 1.
    validation : Split, optional
        By which the strength is chosen; default a fifth of `train`, held out while choosing.
    batch_size : int, default 128
        Of the passes that compute features.
    device, tokenizer, verbose
        As `pi_lib.training.fit`.
    **options
        Where the model's `head` reads a feature map (`objectives.MapHead`), the problem is not
        convex and the head is trained: options of `pi_lib.training.fit`, with `epochs` and
        `learning_rate`. Otherwise there are none.

    Returns
    -------
    Run
        Its model is a copy with the new head, or a `Probe` where `features` was given; its one
        checkpoint, step 1, is the head. ``settings["strength"]`` is what was chosen,
        ``settings["strengths"]`` what was tried, each with its cross-entropy.

    Raises
    ------
    ValueError
        If the model does not say where its features are, or `features` names no module, or there
        are too few samples.
    TypeError
        For options of a training where nothing is trained.

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(4, 7))
    >>> x = torch.randn(60, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    >>> split = Split(x, (x[:, 0, 0, 0] > 0).long(), list(range(60)))
    >>> run = linear_probe(model, split.take(range(40)), split.take(range(40, 60)), features="1")
    >>> run.model(x).shape, run.accuracy > 0.8
    (torch.Size([60, 2]), True)
    """
    start = time.perf_counter()
    if not len(train) or not len(test):
        raise ValueError(f"nothing to probe: {len(train)} training and {len(test)} test samples")
    device = choose_device(device)
    probe = _probe(model, features, output).to(device).eval()
    own = features is None
    if options and not isinstance(probe.head, MapHead):
        raise TypeError(
            f"{', '.join(options)}: the probe is the optimum of a convex problem, which takes no "
            "learning rate, epochs or seed"
        )
    cached = [
        split
        and _features(probe, split, Batches(split, device, tokenizer), batch_size, own, verbose)
        for split in (train, test, validation)
    ]
    if isinstance(probe.head, MapHead):
        return _trained(probe, cached, batch_size=batch_size, device=device, **options)
    labels = torch.cat([split.labels for split in cached if split])
    if n_classes is None:
        n_classes = probe.head.out_features if own else int(labels.max()) + 1
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(
            f"labels {int(labels.min())}..{int(labels.max())}; expected 0..{n_classes - 1}"
        )
    head, settings = _choose(cached[0], cached[2], n_classes)
    probe.head = head.to(cached[0].inputs.dtype)
    return _run(probe, cached, settings, start)


class Probe(nn.Module):
    """A network under a new head: what `linear_probe` returns for any network.

    Of what `model` says only the features on the way are used; `features` and `output` are as of
    `linear_probe`, `head` takes them (B, D) to logits (B, C).
    """

    def __init__(
        self,
        model: nn.Module,
        features: str | Callable[..., Tensor],
        head: nn.Module,
        output: str | int | Callable | None = None,
    ):
        super().__init__()
        if not callable(features) and features not in dict(model.named_modules()):
            names = [name for name, _ in model.named_children()]
            raise ValueError(
                f"features={features!r} names no module of {type(model).__name__}; it has "
                f"{', '.join(names) or 'none'}, and what is within them (model.named_modules())"
            )
        self.model, self.where, self.head, self.output = model, features, head, output

    def features(self, x: Tensor, **others) -> Tensor:
        """Feature vectors ``(B, D)`` of a batch."""
        if callable(self.where):
            output, name = self.where(self.model, x, **others), "features"
        else:
            outputs, name = [], self.where
            module = self.model.get_submodule(name)
            handle = module.register_forward_hook(lambda module, _, output: outputs.append(output))
            try:
                self.model(x, **others)
            finally:
                handle.remove()
            if len(outputs) != 1:
                raise ValueError(f"module {name!r} is called {len(outputs)} times in a pass; once")
            output = _vectors(outputs[0], self.output, others.get("attention_mask"))
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(x):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"{name} gives {shape}; expected feature vectors ({len(x)}, D)")
        return output

    def forward(self, x: Tensor, **others) -> Tensor:
        """Logits ``(B, C)``."""
        return self.head(self.features(x, **others))


def _choose(train: Split, validation: Split | None, n_classes: int) -> tuple[nn.Linear, dict]:
    """The head at the best strength, and what was tried."""
    part = train
    if validation is None:
        if len(train) < 2:
            raise ValueError(f"{len(train)} training samples; expected 2 or more, or validation=")
        generator = torch.Generator().manual_seed(seed_of("probe"))
        order = torch.randperm(len(train), generator=generator)
        fifth = max(1, len(train) // 5)
        part, validation = train.take(order[fifth:]), train.take(order[:fifth])
    problem, w, tried = Regression(part.inputs, part.labels, n_classes), None, {}
    best, at_best = math.inf, None
    along, true = problem.along(validation.inputs), validation.labels.to(problem.x.device)
    for strength in STRENGTHS:
        w = problem.solve(strength, ROUGH, w)
        tried[strength] = F.cross_entropy(along @ w, true).item()
        if tried[strength] < best:
            best, chosen, at_best = tried[strength], strength, w
        elif list(tried).index(chosen) + 2 < len(tried):
            break
    if part is train:
        w = problem.solve(chosen, EXACT, at_best)
    else:
        problem = Regression(train.inputs, train.labels, n_classes)
        w = problem.solve(chosen, EXACT)
    weight, bias = problem.layer(w)
    kind = {"device": weight.device, "dtype": torch.float64}
    head = nn.utils.skip_init(nn.Linear, weight.shape[1], n_classes, **kind)  # draws nothing
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head, {"strength": chosen, "strengths": [[s, loss] for s, loss in tried.items()]}


def _trained(probe: nn.Module, cached: list[Split | None], **options) -> Run:
    """A head on feature maps, trained as everything else is."""
    train, test, validation = cached
    run = fit(probe.head, train, test, validation=validation, label="linear probe", **options)
    run.checkpoints = {
        step: {f"head.{name}": x for name, x in state.items()}
        for step, state in run.checkpoints.items()
    }
    probe.head = run.model
    run.model = probe.cpu().eval()
    return run


def _run(probe: nn.Module, cached: list[Split | None], chosen: dict, start: float) -> Run:
    """What the probe says of test and validation samples, as a run of one step."""
    judged = []
    with torch.no_grad():
        for split in cached[1:]:
            if split is not None:
                logits = probe.head(split.inputs)
                labels = split.labels.to(logits.device)
                right = classified(logits, labels).cpu()
                judged.append((F.cross_entropy(logits.double(), labels).item(), right))
    (loss, right), *held_out = judged
    settings = {"phase": "linear probe", "train": len(cached[0]), "test": len(cached[1])} | chosen
    for value, correct in held_out:
        settings["validation"] = {
            "accuracy": correct.double().mean().item(), "loss": value, "samples": len(correct)
        }  # fmt: skip
    state = {name: x.detach().cpu().clone() for name, x in probe.head.state_dict().items()}
    log = {"step": 1, "epoch": 0.0, "loss": loss, "accuracy": right.double().mean().item()}
    return Run(
        model=probe.cpu().eval(),
        checkpoints={1: {f"head.{name}": x for name, x in state.items()}},
        log=[log],
        settings=settings,
        seconds=round(time.perf_counter() - start, 3),
        correct=right[None],
    )


def _probe(model: nn.Module, features: str | Callable | None, output) -> nn.Module:
    """A copy of the model, with methods `features` and a `head`."""
    copied = copy.deepcopy(model)
    if features is not None:
        return Probe(copied, features, nn.Identity(), output)
    if output is not None:
        raise ValueError(f"output={output!r} is of the module that features= names; name it")
    own = getattr(model, "features", None)
    if (
        not callable(own)
        or isinstance(own, nn.Module)
        or not isinstance(getattr(model, "head", None), nn.Linear | MapHead)
    ):
        raise ValueError(
            f"where are the features of {type(model).__name__}? Name the module whose output they "
            'are, features="avgpool" or another of model.named_modules(), or give a function '
            "features(model, x) that returns them, (B, D)"
        )
    return copied


def _features(
    probe: nn.Module, split: Split, batches: Batches, batch_size: int, own: bool, verbose
) -> Split:
    """The features of every sample, on the device, as a split."""
    parts = []
    count = math.ceil(len(split) / batch_size)
    with torch.no_grad():
        batches = track(batches.in_order(batch_size), "linear probe: features", count, verbose)
        for batch, _ in batches:
            x = batch.pop("x")
            parts.append(probe.features(x, **batch))
            if own and not parts[1:]:
                said, expected = probe.head(parts[0]), probe(x, **batch)
                if said.shape != expected.shape or not torch.allclose(said, expected, rtol=1e-3):
                    raise ValueError(
                        f"head(features(x)) is not what {type(probe).__name__} says: name the "
                        "module before its last layer, features=..."
                    )
    return replace(split, inputs=torch.cat(parts))


def _vectors(output, pick: str | int | Callable | None, mask: Tensor | None) -> Tensor:
    """A module's output as feature vectors: maps averaged over positions, sequences over tokens."""
    if pick is None and hasattr(output, "last_hidden_state"):
        pick = "last_hidden_state"
    output = model_output(output, pick)
    if isinstance(output, Tensor) and output.ndim == 4:
        return output.mean((-2, -1))
    if not isinstance(output, Tensor) or output.ndim != 3:
        return output
    if mask is None:
        return output.mean(1)
    if mask.shape != output.shape[:2]:
        raise ValueError(
            f"a sequence {tuple(output.shape)} under an attention mask {tuple(mask.shape)}: give "
            "features= as a function"
        )
    real = mask[..., None].to(output.dtype)
    return (output * real).sum(1) / real.sum(1).clamp(min=1)

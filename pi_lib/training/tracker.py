"""Knowledge as a run goes: a callback for a `transformers.Trainer` of one's own.

The run itself is left as it is: with and without the callback, training gives the same bits.
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler

from pi_lib import progress
from pi_lib.engine import MOST_PLAYERS
from pi_lib.extraction import extract
from pi_lib.interactions import Interactions
from pi_lib.knowledge import Knowledge, Trajectory, compare, jaccard
from pi_lib.knowledge import trajectory as knowledge_trajectory
from pi_lib.reliability import Arms
from pi_lib.statistics import Estimate, bootstrap
from pi_lib.training import Split, images
from pi_lib.training.seeds import random_state_restored

OPTIONS = ("kind", "noise", "tol", "value", "output", "batch_size")  # of `extract`


class KnowledgeTracker(TrainerCallback):
    """Tracks what a model in training preserves, discards and newly learns.

    Interactions are extracted when training begins, at the chosen steps, and after the last step.
    An extraction runs the model ``2**n`` times on each sample: keep both few. The model is in
    eval mode and its own precision meanwhile (no mixed precision), on the device where it is.

    Parameters
    ----------
    samples : Split, or tuple (inputs, labels)
        Samples as the model takes them (images normalised as in training), with their true
        classes, or what else `value` takes as labels. Images of dtype uint8 reach the model as
        float in [0, 1].
    players : object with `n` and ``place(inputs, ids)``
        See `pi_lib.players`.
    before : Interactions, optional
        Of the model to compare with: the linear probe (the paper's choice), or any earlier model,
        on the same samples and players. Default the model as training begins; where its head is
        new and random, give a probe's.
    steps : int or sequence of int, optional
        Every so many steps, or at these steps; default at each evaluation.
    target : Interactions, optional
        Of another model, to which the similarity is tracked as well.
    ends : sequence of Interactions, optional
        Of the ends of two or more earlier runs of the same kind: the similarity with what they
        reproducibly know is tracked as well.
    forward : callable, optional
        ``forward(model, inputs, **others)`` returns what the model says; default
        ``model(inputs, **others)``. For models that want something else. What of it are the logits
        is as in `pi_lib.extract` (`output`).
    tau : float, default 0.05
        Salience threshold.
    verbose : bool, optional
        Whether to say each step's measures; default on a terminal (see `pi_lib.progress`).
    **options
        `kind`, `noise`, `tol`, `value`, `output` and `batch_size` of `pi_lib.extract`.

    Attributes
    ----------
    interactions : dict of int to Interactions
        What was extracted, by training step.
    before : Interactions or None
        What it is compared with; None until training begins, if it was not given.
    failures : dict of int to str
        Steps at which the extraction failed, and why. That is a warning; training goes on.

    Raises
    ------
    ValueError, TypeError
        At once, if samples, players, steps, `before`, `target` or `ends` do not fit together; when
        training begins, if the model cannot be extracted.

    Notes
    -----
    Each extraction adds a line to the trainer's ``state.log_history`` (``knowledge_preserved``,
    ``knowledge_discarded``, ``knowledge_new``, ``knowledge_jaccard_before``), which reaches the
    `on_log` of all other callbacks (TensorBoard, W&B), and says it on the terminal. With
    ``load_best_model_at_end`` the last step tracked is still that of the training, not the model
    loaded. Models whose parameters are sharded (FSDP, DeepSpeed ZeRO-3) are refused.

    Examples
    --------
    >>> from pi_lib import LabelMapPlayers
    >>> players = LabelMapPlayers(torch.tensor([0, 1]), baseline=0.0)
    >>> tracker = KnowledgeTracker((torch.ones(3, 2), [0, 1, 1]), players, steps=100)
    >>> # trainer = Trainer(..., callbacks=[tracker]); trainer.train(); tracker.plot()
    >>> tracker.interactions
    {}
    """

    def __init__(
        self,
        samples: Split | tuple[Tensor | Sequence[str], Sequence[int] | Tensor],
        players,
        *,
        before: Interactions | None = None,
        steps: int | Sequence[int] | None = None,
        target: Interactions | None = None,
        ends: Sequence[Interactions] = (),
        forward: Callable | None = None,
        tau: float = 0.05,
        verbose: bool | None = None,
        **options,
    ):
        if unknown := sorted(set(options) - set(OPTIONS)):
            raise TypeError(f"unknown option {unknown[0]!r}; there are {', '.join(OPTIONS)}")
        self.samples, self.players = _samples(samples), players
        self._ids = self.samples.ids or None
        self.steps, self.forward, self.tau = _steps(steps), forward, tau
        self.options, self.verbose = options, verbose
        placements = players.place(self.samples.inputs, self._ids)  # refuses what does not fit
        if players.n > MOST_PLAYERS:
            raise ValueError(f"{players.n} players; enumeration stops at {MOST_PLAYERS}")
        given = {"before": before, "target": target}
        given |= {f"ends[{i}]": end for i, end in enumerate(ends)}
        for name, result in given.items():
            if result is not None:
                self._check_given(name, result, [placement.names for placement in placements])
        self._given, self.target, self.ends = before, target, list(ends)
        if ends:
            Arms({"ends": self.ends}, "walsh", several=["ends"])  # refuses what cannot be compared
        self.before = before
        self.interactions: dict[int, Interactions] = {}
        self.failures: dict[int, str] = {}
        self._running, self._end = False, None
        self._unlogged: list[dict[str, float]] = []

    def knowledge(self, step: int) -> Knowledge:
        """What was preserved, discarded and newly learned between `before` and a tracked step."""
        if step not in self.interactions:
            raise KeyError(f"step {step} was not tracked; there are {sorted(self.interactions)}")
        return compare(self.before, self.interactions[step], self.tau)

    def trajectory(self, target: Interactions | None = None) -> Trajectory:
        """Similarity to a target at every tracked step; default the run's own last tracked step."""
        steps = sorted(self.interactions)
        if len(steps) < 2:
            raise ValueError(f"tracked steps {steps}; a trajectory has at least two")
        end = self.interactions[steps[-1]] if target is None else target
        return knowledge_trajectory([self.interactions[s] for s in steps], end, steps, self.tau)

    def to_frame(self) -> pd.DataFrame:
        """One row per tracked step and measure: step, measure, value, low, high.

        The measures, each with its 95 % interval over samples: ``preserved`` and ``discarded``,
        shares of the strength of `before`; ``new``, share of the strength at that step;
        ``jaccard_before``, similarity to `before`; ``jaccard_target``, to `target` if given;
        ``jaccard_end``, to the end of the run once it has ended; ``similarity_ends``, with the
        reproducible part of `ends` if given, ``C(X_t, X_end) / sqrt(V(X_t) C_XX(end))`` in the
        Walsh basis over all orders: what `pi_lib.reliability.approach` does for a whole run.
        """
        rows = [
            {"step": step, "measure": measure, "value": e.value, "low": e.low, "high": e.high}
            for step in sorted(self.interactions)
            for measure, e in self._measures(step).items()
        ]
        return pd.DataFrame(rows, columns=["step", "measure", "value", "low", "high"])

    def plot(self):
        """The measures over the steps; see `pi_lib.book.figures.tracked`."""
        from pi_lib.book import figures

        return figures.tracked(self.to_frame())

    def on_train_begin(self, args, state, control, model=None, **_):
        if not state.is_world_process_zero:
            return
        _refuse_sharded(args)
        if state.global_step == 0:  # a new run; one that is resumed goes on with what it has
            self.interactions, self.failures, self.before = {}, {}, self._given
        elif self.before is None:
            warnings.warn(
                f"training goes on from step {state.global_step}, and the model that it began with "
                "is not known: knowledge is compared with the model as it is now. Give before=",
                stacklevel=2,
            )
        self._running, self._end = True, None
        if state.global_step not in self.interactions:
            self._track(state, model)  # an error stops here, before anything was trained

    def on_step_begin(self, args, state, control, **_):
        self._log(args, state, control)  # what came before every callback had begun

    def on_step_end(self, args, state, control, model=None, **_):
        step, every = state.global_step, isinstance(self.steps, int)
        chosen = step % self.steps == 0 if every else step in (self.steps or ())
        if chosen or control.should_training_stop:
            self._try(args, state, control, model)

    def on_evaluate(self, args, state, control, model=None, **_):
        if self.steps is None:
            self._try(args, state, control, model)

    def on_train_end(self, args, state, control, model=None, **_):
        if not args.load_best_model_at_end:  # then `model` is no longer that of the last step
            self._try(args, state, control, model)
        self._running = False
        if state.global_step in self.interactions:
            self._end = state.global_step

    def _check_given(self, name: str, given, names: list[list[str]]) -> None:
        if not isinstance(given, Interactions):
            raise TypeError(
                f"{name} is {type(given).__name__}; expected Interactions, from pi_lib.extract"
            )
        expected = {
            "kind": self.options.get("kind", "and"),
            "ids": self._ids or list(range(len(self.samples.inputs))),
            "players": names,
        }
        for what, wanted in expected.items():
            if getattr(given, what) != wanted:
                raise ValueError(
                    f"{name} has other {what} than the samples and players to be tracked: make it "
                    "with pi_lib.extract on the same samples (and their ids), players and kind"
                )

    def _log(self, args, state, control) -> None:
        """Hand what was measured to the `on_log` of all callbacks."""
        logs, self._unlogged = self._unlogged, []
        handler = _caller() if logs else None
        if handler is not None:
            for row in logs:  # not handler.on_log: it takes back what others asked to be logged
                handler.call_event("on_log", args, state, control, logs=row)

    def _try(self, args, state, control, model) -> None:
        """Track a step of a run that must not be lost for it, and hand on what was measured."""
        step = state.global_step
        if self._running and step not in self.interactions and step not in self.failures:
            try:
                self._track(state, model)
            except Exception as error:  # whatever a model may raise
                self.failures[step] = f"{type(error).__name__}: {error}"
                warnings.warn(
                    f"knowledge at step {step} could not be extracted, training goes on: "
                    f"{self.failures[step]}",
                    stacklevel=2,
                )
        self._log(args, state, control)

    def _track(self, state, model: nn.Module) -> None:
        step = state.global_step
        self.interactions[step] = self._extract(model)
        if self.before is None:
            self.before = self.interactions[step]
        measures = self._measures(step)
        row = {f"knowledge_{name}": e.value for name, e in measures.items()}
        state.log_history.append({"step": step, "epoch": state.epoch} | row)
        self._unlogged.append(row | {"epoch": state.epoch})
        if progress.wanted(self.verbose) and not progress.building_book():
            said = ", ".join(f"{name} {e}" for name, e in measures.items())
            progress.show(f"knowledge at step {step}: {said}")

    def _extract(self, model: nn.Module) -> Interactions:
        model = _unwrapped(model)
        forward = self.forward or nn.Module.__call__
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        with _undisturbed(model), progress.quiet(self.verbose is False):
            return extract(
                lambda inputs, **others: forward(model, inputs, **others),
                self.samples.inputs,
                self.samples.labels,
                self.players,
                ids=self._ids,
                device=device,
                **self.options,
            )

    def _measures(self, step: int) -> dict[str, Estimate]:
        now = self.interactions[step]
        knowledge = self.knowledge(step)
        kept = knowledge.preserved_share()
        measures = {"similarity_ends": self._likeness(now)} if self.ends else {}
        measures["preserved"] = kept
        measures["discarded"] = Estimate(1 - kept.value, 1 - kept.high, 1 - kept.low)
        measures["new"] = knowledge.new_share()
        end = self.interactions.get(self._end)
        for name, reference in (("before", self.before), ("target", self.target), ("end", end)):
            if reference is not None:
                measures[f"jaccard_{name}"] = bootstrap(jaccard(now, reference, self.tau))
        return measures

    def _likeness(self, now: Interactions) -> Estimate:
        """Similarity with the reproducible part of the ends of earlier runs."""
        arms = Arms({"now": [now], "ends": self.ends}, "walsh", several=["ends"])
        moments = arms.moments(None)
        own, shared = moments.power("now"), moments.shared("ends")
        if note := moments.nothing_shared(own, "now") or moments.nothing_shared(shared, "ends"):
            return Estimate.unmeasurable(note)
        with np.errstate(invalid="ignore"):
            value, *resampled = moments.shared("now", "ends") / np.sqrt(own * shared)
        return Estimate.of(value, np.array(resampled), arms.note)


def _samples(samples) -> Split:
    """Samples as a split of what the model takes; without ids if none were given."""
    if isinstance(samples, Split):
        inputs, labels, ids = samples.inputs, samples.labels, samples.ids
    elif isinstance(samples, tuple) and len(samples) == 2:
        (inputs, labels), ids = samples, []
    else:
        raise TypeError(
            f"samples are {type(samples).__name__}; expected a pi_lib.training.Split, or a tuple "
            "(inputs, labels)"
        )
    labels = torch.as_tensor(labels)
    if not len(inputs) or len(labels) != len(inputs):
        raise ValueError(f"{len(inputs)} samples with {len(labels)} labels; expected some, each 1")
    if isinstance(inputs, Tensor) and inputs.dtype == torch.uint8:
        inputs = images(inputs)
    return Split(inputs, labels, ids)


def _steps(steps) -> int | frozenset[int] | None:
    if steps is None:
        return None
    every = isinstance(steps, int)
    chosen = {steps} if every else set(steps)
    if not all(type(step) is int and step >= (1 if every else 0) for step in chosen):
        raise ValueError(
            f"steps={steps!r}; expected a number of steps, at least 1, or a sequence of steps"
        )
    return steps if every else frozenset(chosen)


def _refuse_sharded(args) -> None:
    from transformers.integrations import is_deepspeed_zero3_enabled

    if args.fsdp or is_deepspeed_zero3_enabled():
        raise ValueError(
            "the model's parameters are sharded (FSDP or DeepSpeed ZeRO-3), so no process can run "
            "it alone: track a run without sharding, or extract from its checkpoints afterwards"
        )


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, of what makes it parallel."""
    from accelerate.utils import extract_model_from_parallel

    return extract_model_from_parallel(model)


def _caller() -> CallbackHandler | None:
    """The trainer's handler of callbacks, which calls this one but does not introduce itself."""
    frame = sys._getframe(1)
    while frame is not None:
        if isinstance(caller := frame.f_locals.get("self"), CallbackHandler):
            return caller
        frame = frame.f_back
    return None


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """The model in eval mode and its own precision; then all as it was, random state included."""
    modes = {module: module.training for module in model.modules()}
    own = vars(model)
    patched = own.get("forward")  # where accelerate puts mixed precision, and keeps the original
    devices = {p.device for p in model.parameters()} | {torch.device("cpu")}
    try:
        model.eval()
        if patched is not None and "_original_forward" in own:
            model.forward = own["_original_forward"]
        with ExitStack() as stack:
            for device in devices:
                stack.enter_context(random_state_restored(device))
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        if patched is not None:
            model.forward = patched

"""The engine: a model on every coalition of players, or some, of a batch of samples."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pi_lib.coalitions import coalition, membership
from pi_lib.engine import checks
from pi_lib.engine.batches import Batches, Masked, rows_of
from pi_lib.engine.callables import Unidentified, digest, fingerprint, is_eager, networks_in
from pi_lib.engine.layout import Layout
from pi_lib.engine.sharing import Sharing
from pi_lib.files import whole
from pi_lib.players import Placement
from pi_lib.progress import track
from pi_lib.values import has_player, label_tensor, log_odds, next_token_log_odds

MOST_PLAYERS = 16  # beyond this, enumeration means more than 65,536 forwards a sample
# Batches between two times that values are copied back, by device: a GPU runs dry meanwhile.
AT_ONCE = {"cpu": 1}
AT_ONCE_ELSEWHERE = 8


def coalition_values(
    model: Callable,
    inputs,
    labels: Sequence[int] | Tensor,
    players,
    *,
    ids: Sequence[int] | None = None,
    value: Callable[[Any, Tensor], Tensor] = log_odds,
    output: str | int | Callable | None = None,
    device: str | torch.device = "auto",
    batch_size: int | str = "auto",
    autocast: torch.dtype | None = None,
    share: bool | Literal["repeatable"] = True,
    keep: str | Path | None = None,
    report: dict | None = None,
) -> Tensor:
    """Value of every coalition of players of every sample.

    Parameters
    ----------
    model : callable
        Returns logits ``(batch, C)``, or what else `value` takes; see `output`. A module is moved
        to `device` for the run and back. It, and every module that a function uses, must be in
        eval mode. Float32 is full float32, without TF32.
    inputs : float Tensor (B, C, H, W), list of str, or what `players` takes
        The samples, unmasked.
    labels : (B,) int, or (B, ...) as `value` takes them
        True classes; or label maps, boxes, targets.
    players : object with `n` and ``place(inputs, ids)``, see `pi_lib.players`
    ids : (B,) int, optional
        They seed the draw of players; default a digest of each sample's content.
    value : callable, default `log_odds`
        From the model's output, in float64, and the labels ``(batch, ...)`` to values ``(batch,)``
        or ``(batch, 1)``: see `pi_lib.values`, or write your own. A keyword-only parameter of it,
        as `attention_mask`, is given the model's further argument of that name.
    output : str, int or callable, optional
        Which part of the model's output counts: a key, a place, a function, or "all"; default its
        logits (`pi_lib.engine.outputs.model_output`).
    device : "auto" or a torch device
        "auto" is the GPU where there is one.
    batch_size : "auto" or int
        Masked inputs per forward pass; "auto" is 1,024 on a GPU, else 64. Halved, down to 1, when
        the device's memory is short. A model that takes batches of a single size gets this size,
        the last batch filled up.
    autocast : torch dtype, optional
        Forward passes in this mixed precision, for a first look: a warning says how far it is from
        float64. Default the model's own precision.
    share : bool or "repeatable", optional
        Whether a module's first layers may run once for what masked inputs have in common
        (`pi_lib.engine.sharing`), and, in a run of many batches, its convolutions with channels
        last (`pi_lib.engine.layout`), where that changes no value by more than rounding and saves
        time on the first samples.
        Switch it off for a model that records what passes through it, or that another thread uses
        meanwhile. With "repeatable" no time is measured, so that a second run gives the same values
        to the last bit: layers are shared on a CPU, where that nearly always pays, and only there.
    keep : path, optional
        Folder where each sample's values are stored, and read from when the same is asked again,
        as after an interruption: the same weights, code of model and value, sample, label, players
        and coalitions.
    report : dict, optional
        Filled with what was measured on 4 coalitions of the first sample that was run:
        ``error``, by how much values are off, in their unit; ``error_against``, "float64" (a copy
        of the module, up to 2**28 parameters) or "rounding" (different batches, and the output's
        precision); ``spread``, largest minus smallest value; ``precision``, the coarsest in the
        model; ``shared``, whether layers were shared; ``channels_last``, whether convolutions ran
        so. Of values from `keep`, ``error`` and ``spread`` alone, as they were then.

    Returns
    -------
    (B, 2**n) float64, on the CPU
        ``v(x_T)``; bit i of the index is player i.

    Raises
    ------
    ValueError
        For more than 16 players; a model that is in training mode, random, or depends on what else
        is in the batch; labels out of range; a region or box without a player; a value that is no
        finite number for each input; a device that is not there; with `keep`, a model or `value`
        of which neither code nor data can be seen.
    TypeError
        If the model's output holds no logits and `output` does not say what counts.
    torch.OutOfMemoryError
        If the device's memory is too small for one masked input.
    RuntimeError
        If the device is lost; samples that `keep` has are not run again.
    """
    if players.n > MOST_PLAYERS:
        forwards = 2**players.n * len(inputs)
        raise ValueError(
            f"{players.n} players mean {forwards:,} forward passes and {8 * forwards / 2**30:.3g} "
            f"GiB of values for {len(inputs)} samples; enumeration stops at n={MOST_PLAYERS}. "
            "Use fewer, larger players (a coarser grid, n=10 to 12), or extract(...) with "
            'method="search" (up to 64 players) or "sampled" (any number)'
        )
    values = torch.empty(len(inputs), 2**players.n, dtype=torch.float64)
    with _opened(
        model, inputs, labels, players, ids=ids, value=value, output=output, device=device,
        batch_size=batch_size, autocast=autocast, share=share, keep=keep, report=report,
    ) as run:  # fmt: skip
        samples = run.each(membership(players.n))
        for row, game in zip(values, track(samples, "coalition values", len(inputs)), strict=True):
            row[:] = game
    return values


@contextmanager
def games(
    model: Callable, inputs, labels: Sequence[int] | Tensor, players, **options
) -> Iterator[Iterator[Callable[[Tensor], Tensor]]]:
    """Each sample's game: a function from coalitions, bool (m, n), to values, float64 (m,).

    Arguments and errors as `coalition_values`, but for any number of players, and channels are
    never last. The model is on the device for the length of the ``with`` block; take the games one
    after the other.

    Examples
    --------
    >>> from pi_lib import LabelMapPlayers
    >>> model = lambda x: torch.stack([x.sum(-1), torch.zeros(len(x))], -1)
    >>> players = LabelMapPlayers(torch.arange(3), baseline=0.0)
    >>> with games(model, torch.ones(1, 3), [0], players) as samples:
    ...     [game(torch.tensor([[True, False, True]])).tolist() for game in samples]
    [[2.0]]
    """
    with _opened(model, inputs, labels, players, **options) as run:
        samples = track(range(len(run.placements)), "coalition values")
        yield (partial(run.values_of, sample) for sample in samples)


@contextmanager
def _opened(
    model, inputs, labels, players, *, ids=None, value=log_odds, output=None, device="auto",
    batch_size="auto", autocast=None, share=True, keep=None, report=None,
) -> Iterator["_Run"]:  # fmt: skip
    """A run of a model on samples, both checked; the model is on the device."""
    if share not in (True, False, "repeatable"):
        raise ValueError(f"share={share!r}; expected True, False or 'repeatable'")
    labels = label_tensor(labels)
    if len(labels) != len(inputs):
        raise ValueError(f"{len(labels)} labels for {len(inputs)} samples")
    networks = networks_in(model)
    if isinstance(model, torch.nn.Module):  # a function may call eval() itself: see `check_model`
        checks.refuse_training_mode([model])
    placements = players.place(inputs, ids)
    checks.refuse_too_long(networks, placements)
    if isinstance(value, next_token_log_odds):
        value.check(placements, labels)
    for sample, (placement, label) in enumerate(zip(placements, labels, strict=True)):
        if not has_player(value, placement, label):
            raise ValueError(
                f"sample {sample}: no player owns a part of what {value.__name__} is asked about, "
                "so its parts are never masked: draw the players there (a coarser grid, "
                'region="all", LabelMapPlayers), or leave the sample out'
            )
    batches = Batches(model, value, output, choose_device(device), batch_size)
    timed = share != "repeatable"
    measured = report is not None or autocast is not None
    report = {} if report is None else report

    def check(masked: Masked, other: Masked) -> None:
        found = checks.check_model(batches, masked, other, networks, autocast)
        if measured:
            report.update(checks.measure(batches, masked, *found, autocast))
            checks.warn_of_probabilities(batches, masked, found[0])

    sharing = layout = stored = None
    if share and is_eager(model) and (timed or batches.device.type == "cpu"):
        sharing = Sharing(batches, report, timed)
    if share and is_eager(model) and timed:
        layout = Layout(batches, report)
    if keep is not None:
        stored = _Stored(Path(keep), model, value, output, autocast)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(checks.full_float32())
        stack.enter_context(checks.buffers_restored(networks))
        stack.enter_context(_on_device(model, batches.device))
        if autocast is not None:
            stack.enter_context(torch.autocast(batches.device.type, autocast))
        if layout is not None:
            stack.enter_context(layout.restored())
        yield _Run(batches, placements, labels, report, check, sharing, layout, stored)


def choose_device(device: str | torch.device) -> torch.device:
    """The torch device meant by `device`; "auto" is the GPU where there is one.

    Raises ValueError if torch has no such device here.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # a torch built without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device={str(device)!r} cannot be used here ({reason}). torch sees "
            f"{torch.cuda.device_count()} CUDA device(s): choose another, 'cpu', or 'auto'"
        ) from None
    return device


class _Stored:
    """Values on disk, one file for each sample and coalitions."""

    def __init__(self, folder: Path, model, value: Callable, output, autocast):
        try:
            self.model_digest = digest(model, value, output, autocast)
        except Unidentified as error:
            raise ValueError(
                "keep= tells by code and data whether a model and a value are what they were, and "
                f"there is {error}: use a module and functions without it, or leave keep out"
            ) from None
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def file(self, label: Tensor, placement, coalitions: Tensor) -> Path:
        key = fingerprint(self.model_digest, (label, vars(placement), coalitions))
        return self.folder / f"{key}.safetensors"

    @staticmethod
    def save(file: Path, values: Tensor, report: dict) -> None:
        kept = {"values": values.contiguous()}
        for name in {"error", "spread"} & set(report):
            kept[name] = torch.tensor(report[name], dtype=torch.float64)
        with whole(file, tag=f".{os.getpid()}") as aside:
            save_file(kept, aside)


@dataclass
class _Run:
    """A model on samples, in batches."""

    batches: Batches
    placements: list[Placement]
    labels: Tensor
    report: dict
    check: Callable[[Masked, Masked], None] | None  # of the model, before the first sample is run
    sharing: Sharing | None
    layout: Layout | None
    stored: _Stored | None

    def each(self, coalitions: Tensor) -> Iterator[Tensor]:
        """Values of every sample in turn; samples are run together up to so many rows."""
        together = max(self.rows_at_once // len(coalitions), 1)
        if self.layout is not None:
            self.layout.start(len(self.placements) * len(coalitions))
        group: list[int] = []
        for sample in range(len(self.placements)):
            if group and (len(group) == together or self._form(sample) != self._form(group[0])):
                yield from self.values(group, coalitions)
                group = []
            group.append(sample)
        if group:
            yield from self.values(group, coalitions)

    @property
    def rows_at_once(self) -> int:
        """Masked inputs between two times that values are copied back from the device."""
        return self.batches.size * AT_ONCE.get(self.batches.device.type, AT_ONCE_ELSEWHERE)

    def values_of(self, sample: int, coalitions: Tensor) -> Tensor:
        """Values (m,) of one sample."""
        return self.values([sample], coalitions)[0]

    def values(self, samples: list[int], coalitions: Tensor) -> list[Tensor]:
        """Values (m,) of each of some samples of one form."""
        values, files = {}, {}
        if self.stored is not None:
            for s in samples:
                files[s] = self.stored.file(self.labels[s], self.placements[s], coalitions)
                if files[s].exists():
                    stored = load_file(files[s])
                    values[s] = stored.pop("values")
                    self.report |= {name: x.item() for name, x in stored.items()}
        if missing := [s for s in samples if s not in values]:
            values |= zip(missing, self._compute(missing, coalitions), strict=True)
            if self.stored is not None:
                for s in missing:
                    self.stored.save(files[s], values[s], self.report)
        return [values[s] for s in samples]

    def _form(self, sample: int) -> tuple:
        placement = self.placements[sample]
        others = {name: (x.shape, x.dtype) for name, x in placement.others.items()}
        return placement.inputs.shape, placement.inputs.dtype, others, placement.dropped_with

    def _masked(self, sample: int) -> Masked:
        placement, label = self.placements[sample], self.labels[sample]
        return Masked(sample, placement, label, self.batches.value, self.batches.device)

    def _compute(self, samples: list[int], coalitions: Tensor) -> Tensor:
        """Values (samples, m), on the CPU; copied there once."""
        device = self.batches.device
        try:
            masked = [self._masked(s) for s in samples]
            if self.check is not None:
                form = self._form(samples[0])
                same_form = [s for s in range(len(self.placements)) if self._form(s) == form]
                self.check(masked[0], self._masked(same_form[-1]))
                self.check = None
            on_device = coalitions.to(device)
            values = self._in_batches(masked, on_device).cpu()
            if self.sharing is not None and not values.isfinite().all():
                # a way through the model that no trial took, and that reads the input as well
                self.sharing, self.report["shared"] = None, False
                values = self._in_batches(masked, on_device).cpu()
            values = values.view(len(samples), -1)
        except torch.OutOfMemoryError:
            raise
        except getattr(torch, "AcceleratorError", ()) as error:
            raise RuntimeError(
                f"the device {device} was lost at sample {samples[0]}: {error}. Start again in a "
                "new process; with keep=, samples that were finished are not run again"
            ) from error
        if not (finite := values.isfinite()).all():
            row, wrong = (~finite).nonzero()[0].tolist()
            players = coalitions[wrong].nonzero()[:, 0].tolist()
            raise ValueError(
                f"the model's value of sample {samples[row]}, coalition {coalition(players)} "
                f"(players {players} kept) is {values[row, wrong].item()}: look for infinite "
                "weights, or use a wider precision"
            )
        return values

    def _in_batches(self, masked: list[Masked], coalitions: Tensor) -> Tensor:
        """Values of the coalitions of one sample after the other."""
        batches, total = self.batches, len(masked) * len(coalitions)
        parts, done, size, shared = [], 0, None, None
        may_share = len(masked) == 1 and total >= self.rows_at_once
        while done < total:
            try:
                new = []
                if batches.size != size:  # at first, and when memory was short
                    size = batches.size
                    if self.sharing is not None and may_share:
                        new, shared = self.sharing.choose(masked[0], coalitions[done:])
                if not new:
                    stop = min(done + size, total)
                    if shared is not None:
                        new = [shared(coalitions[done:stop])]
                    else:
                        pieces = rows_of(masked, coalitions, done, stop)
                        new = [(self.layout or batches).values(pieces)]
                parts += new
                done += sum(map(len, new))
            except torch.OutOfMemoryError as error:
                batches.halve(masked[0], error)
        return torch.cat(parts)


@contextmanager
def _on_device(model, device: torch.device) -> Iterator[None]:
    """A module is on the device for the length of a block, and then where it was."""
    is_module = isinstance(model, torch.nn.Module)
    places = {x.device for x in (*model.parameters(), *model.buffers())} if is_module else set()
    moves = len(places) == 1 and places != {device}  # a model spread over devices stays put
    try:
        if moves:
            model.to(device)
        yield
    finally:
        if moves:
            model.to(places.pop())

"""The engine: a model on every coalition of players, or some, of a batch of samples."""

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pi_lib import checks
from pi_lib.callables import Unidentified, digest, networks_in
from pi_lib.coalitions import coalition, membership
from pi_lib.outputs import in_float64, model_output
from pi_lib.players import Placement, without_dropped
from pi_lib.progress import track
from pi_lib.sharing import SharedLayers
from pi_lib.values import has_player, log_odds

MOST_PLAYERS = 16  # beyond this, enumeration means more than 65,536 forwards a sample
WORTH_A_TRIAL = 0.05  # seconds a sample takes: below, sharing layers can win nothing that counts
_MEASURED = ("error", "spread")  # of a report, kept on disk beside values


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
    share: bool = True,
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
    players : object with `n` and ``place(inputs, ids)``
        See `pi_lib.players`.
    ids : (B,) int, optional
        Ids of the samples, which seed the draw of players; default a digest of their content.
    value : callable, default `log_odds`
        From the model's output, in float64, and the labels ``(batch, ...)`` to values ``(batch,)``
        or ``(batch, 1)``: `region_log_odds` for segmentation, `box_log_odds` for detection,
        `negative_error` for regression, or one's own.
    output : str, int or callable, optional
        Which part of the model's output counts, where that is not plain: a key, a place, a
        function, or "all" for the whole; see `pi_lib.outputs.model_output`.
    device : "auto" or a torch device
        "auto" is the GPU where there is one.
    batch_size : "auto" or int
        Masked inputs per forward pass; "auto" is 1,024 on a GPU, else 64. Halved, down to 1,
        whenever the device's memory is short. A model that takes batches of one size only gets
        batches of this size, the last one filled up.
    autocast : torch dtype, optional
        Forward passes in this mixed precision; default the model's own precision. For a first
        look: a warning says how far it is from float64.
    share : bool, optional
        Whether a module's first layers may run once for what masked inputs have in common
        (`pi_lib.sharing`): done where it changes no value by more than rounding, and the first
        sample shows that it saves time. Switch it off for a model that records what passes through
        it, that another thread uses meanwhile, or for values that are the same to the last bit.
    keep : path, optional
        Folder where each sample's values are kept as soon as they are there, and taken from when
        the same is asked again, as after an interruption: the same weights, code of model and
        value, sample, label, players and coalitions.
    report : dict, optional
        Filled with what was measured on 4 coalitions of the first sample that was run:
        ``error``, by how much values are off, in their unit; ``error_against``, "float64" (a copy
        of the module, up to 2**28 parameters) or "rounding" (what a function shows: different
        batches, and its output's precision); ``spread``, largest minus smallest value;
        ``precision``, the coarsest in the model; ``shared``, whether layers were shared. Of
        values taken from `keep`, what was reported then.

    Returns
    -------
    (B, 2**n) float64, on the CPU
        ``v(x_T)``; bit i of the index is player i.

    Raises
    ------
    ValueError
        For more than 16 players; a model that is in training mode, answers the same input
        differently, or depends on what else is in the batch; labels out of range; a region or box
        without a player; a value that is no number for each input, or not finite (sample and
        coalition are named); a device that is not there; with `keep`, for a model or `value` of
        which neither code nor data can be seen.
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
    share: bool = True,
    keep: str | Path | None = None,
    report: dict | None = None,
) -> Iterator[Iterator[Callable[[Tensor], Tensor]]]:
    """Each sample's game: a function from coalitions, bool (m, n), to values, float64 (m,).

    Arguments and errors as `coalition_values`, but for any number of players. The model is on
    the device for the length of the ``with`` block; take the games one after the other.

    Examples
    --------
    >>> from pi_lib import LabelMapPlayers
    >>> model = lambda x: torch.stack([x.sum(-1), torch.zeros(len(x))], -1)
    >>> players = LabelMapPlayers(torch.arange(3), baseline=0.0)
    >>> with games(model, torch.ones(1, 3), [0], players) as samples:
    ...     [game(torch.tensor([[True, False, True]])).tolist() for game in samples]
    [[2.0]]
    """
    with _opened(
        model, inputs, labels, players, ids=ids, value=value, output=output, device=device,
        batch_size=batch_size, autocast=autocast, share=share, keep=keep, report=report,
    ) as run:  # fmt: skip
        samples = track(range(len(run.placements)), "coalition values")
        yield (partial(lambda sample, asked: run.values([sample], asked)[0], s) for s in samples)


@contextmanager
def _opened(
    model, inputs, labels, players, *, ids, value, output, device, batch_size, autocast, share,
    keep, report,
) -> Iterator["_Run"]:  # fmt: skip
    """The run of `games`: inputs and model are looked at, the model is on the device."""
    labels = torch.as_tensor(labels)
    if len(labels) != len(inputs):
        raise ValueError(f"{len(labels)} labels for {len(inputs)} samples")
    networks = networks_in(model)
    checks.refuse_training_mode(networks)
    placements = players.place(inputs, ids)
    for sample, (placement, label) in enumerate(zip(placements, labels, strict=True)):
        if not has_player(value, placement, label):
            raise ValueError(
                f"sample {sample}: no player owns a part of what {value.__name__} is asked about, "
                "so its parts are never masked: draw the players there (a coarser grid, "
                'region="all", LabelMapPlayers), or leave the sample out'
            )
    run = _Run(model, value, output, choose_device(device), batch_size, autocast, share, networks)
    run.placements, run.labels = placements, labels
    run.report = {} if report is None else report
    run.measure = report is not None or autocast is not None
    if keep is not None:
        run.stored = _Stored(Path(keep), model, value, output, autocast)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(checks.full_float32())
        stack.enter_context(checks.buffers_restored(networks))
        stack.enter_context(_on_device(model, run.device))
        if autocast is not None:
            stack.enter_context(torch.autocast(run.device.type, autocast))
        yield run


def coalition_mask(coalitions: Tensor) -> Tensor:
    """Which owners coalitions (m, n) keep: bool ``(m, n + 2)``, columns as `Placement.owner`."""
    always = torch.tensor([True, False], device=coalitions.device).expand(len(coalitions), 2)
    return torch.cat([coalitions, always], 1)


def choose_device(device: str | torch.device) -> torch.device:
    """The torch device meant by `device`; "auto" is the GPU where there is one.

    Raises
    ------
    ValueError
        If torch has no such device here.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device={str(device)!r} cannot be used here ({reason}). torch sees "
            f"{torch.cuda.device_count()} CUDA device(s): choose another, 'cpu', or 'auto'"
        ) from None
    return device


def fingerprint(*parts: Any) -> str:
    """16 hex digits naming weights and data: modules, tensors, and JSON-like values of them.

    Examples
    --------
    >>> fingerprint(torch.ones(2), [1]) == fingerprint(torch.ones(2), [1])
    True
    >>> fingerprint(torch.ones(2), [1]) == fingerprint(torch.zeros(2), [1])
    False
    """
    told = hashlib.sha256()

    def tell(part):
        if isinstance(part, torch.nn.Module):
            told.update(repr(part).encode())
            tell(part.state_dict())
        elif isinstance(part, Tensor):
            part = part.detach().cpu().contiguous()
            told.update(f"{part.dtype} {tuple(part.shape)} ".encode())
            told.update(part.flatten().view(torch.uint8).numpy())
        elif isinstance(part, dict):
            tell([*part.items()])
        elif isinstance(part, list | tuple):
            told.update(f"{len(part)} ".encode())
            for x in part:
                tell(x)
        else:
            told.update(f"{part!r} ".encode())

    tell(parts)
    return told.hexdigest()[:16]


class _Stored:
    """Values on disk, one file for each sample and what was asked of it."""

    def __init__(self, folder: Path, model, value: Callable, output, autocast):
        try:
            self.whole = digest(model, value, output, autocast)
        except Unidentified as error:
            raise ValueError(
                "keep= tells by code and data whether a model and a value are what they were, and "
                f"there is {error}: use a module and functions without it, or leave keep out"
            ) from None
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def _file(self, asked: tuple) -> Path:
        return self.folder / f"{fingerprint(self.whole, asked)}.safetensors"

    def load(self, asked: tuple) -> dict[str, Tensor] | None:
        from safetensors.torch import load_file

        file = self._file(asked)
        return load_file(file) if file.exists() else None

    def save(self, asked: tuple, values: Tensor, report: dict) -> None:
        from safetensors.torch import save_file

        file = self._file(asked)
        aside = file.with_suffix(f".{os.getpid()}.aside")
        measured = {k: torch.tensor(report[k]).double() for k in _MEASURED if k in report}
        save_file({"values": values.contiguous(), **measured}, aside)
        os.replace(aside, file)  # whole or not at all


class _Masked:
    """The masked versions of one sample, which lies on the device once."""

    def __init__(self, sample: int, placement: Placement, label: Tensor, value, device):
        self.sample, self.n = sample, len(placement.names)
        self.input = placement.inputs.to(device)
        self.owner = placement.owner.to(device)
        self.baseline = placement.baseline.to(device)
        self.others = {name: x.to(device) for name, x in placement.others.items()}
        self.dropped_with = placement.dropped_with
        # log_odds checks labels, and on the CPU that does not wait for the device
        self.label = label if value is log_odds else label.to(device)

    def inputs(self, coalitions: Tensor) -> Tensor:
        keep = coalition_mask(coalitions)[:, self.owner[0]]  # one gather: (batch, ...) as the input
        return torch.where(keep, self.input, self.baseline)

    def named(self, size: int) -> dict[str, Tensor]:
        """The model's further arguments, for `size` masked inputs."""
        return {name: x.expand(size, *x.shape[1:]) for name, x in self.others.items()}

    def labels(self, size: int) -> Tensor:
        return self.label.expand(size, *self.label.shape)


class _Run:
    """A model that is asked about masked inputs, and what is learned of it on the way."""

    def __init__(self, model, value, output, device, batch_size, autocast, share, networks):
        if batch_size == "auto":
            batch_size = 1024 if device.type == "cuda" else 64
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}; expected 'auto' or an integer >= 1")
        self.model, self.value, self.pick, self.device = model, value, output, device
        self.size, self.autocast, self.networks = batch_size, autocast, networks
        self.fixed = False  # whether the model takes batches of `size` alone
        self.checked = False
        self.dtype: torch.dtype | None = None  # of what the model gives; then the coarsest in it
        self.sharing = _Sharing() if share and _is_eager(model) else None
        self.stored: _Stored | None = None

    # ---- what is asked

    def each(self, coalitions: Tensor) -> Iterator[Tensor]:
        """Values of every sample in turn, of several in a batch that one of them does not fill."""
        together = max(self.size // len(coalitions), 1)
        group: list[int] = []
        for sample in range(len(self.placements)):
            if group and (len(group) == together or self._form(sample) != self._form(group[0])):
                yield from self.values(group, coalitions)
                group = []
            group.append(sample)
        if group:
            yield from self.values(group, coalitions)

    def values(self, samples: list[int], coalitions: Tensor) -> list[Tensor]:
        """Values (m,) of the same coalitions of each of some samples of one form."""
        asked = {s: (self.labels[s], vars(self.placements[s]), coalitions) for s in samples}
        values = {}
        if self.stored is not None:
            for s in samples:
                if (stored := self.stored.load(asked[s])) is not None:
                    values[s] = stored.pop("values")
                    self.report |= {k: x.item() for k, x in stored.items()}
        missing = [s for s in samples if s not in values]
        if missing:
            for s, found in zip(missing, self._compute(missing, coalitions), strict=True):
                values[s] = found
                if self.stored is not None:
                    self.stored.save(asked[s], found, self.report)
        return [values[s] for s in samples]

    def _form(self, sample: int) -> tuple:
        placement = self.placements[sample]
        others = {name: (x.shape, x.dtype) for name, x in placement.others.items()}
        return placement.inputs.shape, placement.inputs.dtype, others, placement.dropped_with

    def _masked(self, sample: int) -> _Masked:
        placement, label = self.placements[sample], self.labels[sample]
        return _Masked(sample, placement, label, self.value, self.device)

    # ---- how it is run

    def _compute(self, samples: list[int], coalitions: Tensor) -> Tensor:
        """Values (samples, m), on the CPU; copied there once."""
        try:
            masked = [self._masked(s) for s in samples]
            on_device = coalitions.to(self.device)
            if not self.checked:
                self._check(masked[0])
                self.checked = True
            values = self._batches(masked, on_device).view(len(samples), -1).cpu()
        except torch.OutOfMemoryError:
            raise
        except getattr(torch, "AcceleratorError", ()) as error:
            raise RuntimeError(
                f"the device {self.device} was lost at sample {samples[0]}: {error}. Start again "
                "in a new process; with keep=, samples that were finished are not run again"
            ) from error
        finite = values.isfinite()
        if not finite.all():
            row, wrong = (~finite).nonzero()[0].tolist()
            players = coalitions[wrong].nonzero()[:, 0].tolist()
            raise ValueError(
                f"the model's value of sample {samples[row]}, coalition {coalition(players)} "
                f"(players {players} kept) is {values[row, wrong].item()}: look for infinite "
                "weights, or use a wider precision"
            )
        return values

    def _batches(self, masked: list[_Masked], coalitions: Tensor) -> Tensor:
        """Values of the coalitions of one sample after the other, in batches that fit."""
        total, parts, done, size, shared = len(masked) * len(coalitions), [], 0, None, None
        while done < total:
            try:
                if self.size != size:
                    size = self.size
                    tried, shared = self._choose_way(masked, coalitions, done)
                    parts += tried
                    done += sum(map(len, tried))
                    continue
                stop = min(done + size, total)
                if shared is not None:
                    parts.append(shared(coalitions[done:stop]))
                else:
                    parts.append(self._plain(_rows(masked, coalitions, done, stop)))
                done = stop
            except torch.OutOfMemoryError as error:
                self._halve(masked[0], error)
        return torch.cat(parts)

    def _halve(self, masked: _Masked, error: Exception) -> None:
        if self.size == 1 or self.fixed:
            what = f"a batch of {self.size}, the only size that it takes" if self.fixed else "one"
            raise torch.OutOfMemoryError(
                f"the memory of {self.device} is too small for this model on {what} masked input "
                f"of shape {tuple(masked.input.shape[1:])} (sample {masked.sample}): use smaller "
                f"inputs, autocast=, or another device. {error}"
            ) from error
        self.size = max(self.size // 2, 1)
        torch.cuda.empty_cache()

    def _plain(self, pieces: list[tuple[_Masked, Tensor]]) -> Tensor:
        """Values of coalitions of some samples, in one batch."""
        inputs, others, labels = self._batch(pieces)
        rows = sum(len(coalitions) for _, coalitions in pieces)
        dropped_with = pieces[0][0].dropped_with
        if dropped_with is None:
            return self._value(self._output(inputs, others), labels)[:rows]
        values = torch.empty(len(inputs), dtype=torch.float64, device=inputs.device)
        for at, tokens, beside in without_dropped(inputs, others, dropped_with):
            output = self._output(tokens, beside)
            values[at] = self._value(output, labels[at.to(labels.device)]).to(values.device)
        return values[:rows]

    def _batch(self, pieces: list[tuple[_Masked, Tensor]]) -> tuple[Tensor, dict, Tensor]:
        """Masked inputs, further arguments and labels; as many rows as a fixed batch size wants."""
        inputs = _cat([masked.inputs(coalitions) for masked, coalitions in pieces])
        labels = _cat([masked.labels(len(coalitions)) for masked, coalitions in pieces])
        named = [masked.named(len(coalitions)) for masked, coalitions in pieces]
        others = {name: _cat([each[name] for each in named]) for name in named[0]}
        if self.fixed and len(inputs) < self.size:  # the last is repeated
            index = torch.arange(self.size).clamp(max=len(inputs) - 1)
            labels, index = labels[index.to(labels.device)], index.to(self.device)
            inputs, others = inputs[index], {name: x[index] for name, x in others.items()}
        return inputs, others, labels

    def _output(self, inputs: Tensor, others: dict[str, Tensor], model=None):
        """What counts of the model's output, in float64."""
        output = model_output((model or self.model)(inputs, **others), self.pick)
        if isinstance(output, Tensor) and (not output.ndim or len(output) != len(inputs)):
            raise ValueError(
                f"for {len(inputs)} inputs the model gave an output of shape "
                f"{tuple(output.shape)}; expected a row for each. If it takes batches of one "
                "size only, give that size: batch_size="
            )
        if not self.checked and isinstance(output, Tensor) and model is None:
            self.dtype = output.dtype
        return in_float64(output)

    def _value(self, output, labels: Tensor) -> Tensor:
        values = self.value(output, labels)
        if isinstance(values, Tensor) and values.shape == (len(labels), 1):
            values = values[:, 0]
        if not isinstance(values, Tensor) or values.shape != labels.shape[:1]:
            kind = f"a {type(values).__name__}"
            got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else kind
            raise ValueError(
                f"value= gave {got} for {len(labels)} masked inputs; expected one number for "
                f"each, a tensor of shape ({len(labels)},) or ({len(labels)}, 1)"
            )
        return values.double()

    # ---- what the first sample shows

    def _check(self, masked: _Masked) -> None:
        """Refuse random answers and those that depend on the batch; measure what rounding does."""
        draw = torch.Generator().manual_seed(0)
        some = torch.rand(4, masked.n, generator=draw) < 0.5
        some[0], some[1] = False, True
        others = (torch.rand(4, masked.n, generator=draw) < 0.5).to(self.device)
        some = some.to(self.device)
        form = self._form(masked.sample)
        last = next(s for s in reversed(range(len(self.placements))) if self._form(s) == form)
        alone = self._alone(masked, some)
        first, second = (self._among(masked, self._masked(last), some, others) for _ in range(2))
        alone, first, second = alone.cpu(), first.cpu(), second.cpu()
        asked = [x.dtype for x in (masked.input, masked.baseline)] + [self.autocast, self.dtype]
        weights = (x for network in self.networks for x in network.parameters())
        dtype = checks.coarsest(weights, *(x for x in asked if x is not None))
        self.dtype, self.spread = dtype, checks.spread(torch.cat([alone, first]))
        allowed = checks.tolerance(torch.cat([alone, first]), dtype)
        if (apart := checks.difference(first, second)).max() > allowed:
            row = apart.argmax()
            raise ValueError(
                f"the model gave {first[row].item():.6g} and {second[row].item():.6g} for the same "
                "input: switch off what is random in it (dropout, sampling) before extracting"
            )
        alone = alone[: len(first)]
        if (apart := checks.difference(alone, first)).max() > allowed:
            row = apart.argmax()
            players = some[row].nonzero()[:, 0].tolist()
            known = checks.depends_on_batch(self.networks)
            raise ValueError(
                f"the model's answer depends on what else is in its batch: of sample "
                f"{masked.sample}, players {players} kept, the value is {alone[row].item():.6g} "
                f"alone and {first[row].item():.6g} beside others"
                f"{f'. What looks at the batch: {known}' if known else ''}. Call .eval() on every "
                "part, replace what takes statistics or scales from the batch, or give "
                "batch_size=1, by which every input is answered alone"
            )
        if self.measure:
            self._measure(masked, some[: len(first)], torch.stack([alone, first]))

    def _alone(self, masked: _Masked, some: Tensor) -> Tensor:
        """Values of coalitions, each in a batch of its own; learns whether the size is fixed."""
        try:
            return torch.cat([self._plain([(masked, row[None])]) for row in some])
        except torch.OutOfMemoryError as error:
            self.size = 1
            self._halve(masked, error)
        except Exception:
            self.fixed = self.size > 1
            try:
                if self.fixed:
                    return torch.cat([self._plain([(masked, row[None])]) for row in some])
            except torch.OutOfMemoryError as error:
                self._halve(masked, error)
            except Exception:  # not the size, then
                pass
            raise

    def _among(self, masked: _Masked, other: _Masked, some: Tensor, others: Tensor) -> Tensor:
        """Values of coalitions beside others, of another sample too, in a batch."""
        while True:
            room = min(self.size, 2 * len(some))
            if room == 1:
                return self._alone(masked, some)
            mine, half = room // 2, (room - room // 2) // 2
            pieces = [(other, others[:half]), (masked, others[half : room - mine])]
            try:
                values = self._plain([x for x in [*pieces, (masked, some[:mine])] if len(x[1])])
                return values[room - mine :]
            except torch.OutOfMemoryError as error:
                self.size = self.size if self.fixed else room
                self._halve(masked, error)

    def _measure(self, masked: _Masked, some: Tensor, values: Tensor) -> None:
        """Report by how much values (ways, coalitions) differ from those in float64."""
        exact = self._exact(masked, some)
        if exact is not None:
            error = checks.difference(values, exact.cpu()).max().item()
        else:
            rounding = torch.finfo(self.dtype).eps / 2 * values[values.isfinite()].abs()
            error = max([*checks.difference(*values).tolist(), *rounding.tolist()])
        self.report |= {
            "error": error,
            "error_against": "rounding" if exact is None else "float64",
            "spread": self.spread,
            "precision": str(self.dtype).removeprefix("torch."),
            "shared": False,
        }
        if self.autocast is not None:
            warnings.warn(
                f"autocast={self.autocast}: values are off by up to {error:.2g} where they vary by "
                f"{self.spread:.2g} (some of sample {masked.sample}), and a dividend of order m "
                "sums 2**m of them. That is for a first look only",
                stacklevel=2,
            )

    def _exact(self, masked: _Masked, some: Tensor) -> Tensor | None:
        """Values in float64, or None where the model cannot."""
        if not _is_eager(self.model):
            return None
        try:
            if (model := checks.float64_copy(self.model)) is None:
                return None
            inputs, others, labels = self._batch([(masked, some)])
            with torch.autocast(self.device.type, enabled=False):
                output = self._output(in_float64(inputs), in_float64(others), model)
            values = self._value(output, labels)[: len(some)]
        except Exception:  # parts that are not to be copied, or work in one precision only
            return None
        return values if values.isfinite().all() else None

    # ---- shared layers

    def _choose_way(self, masked: list[_Masked], coalitions: Tensor, done: int):
        """Values got while trying, and from there on shared layers, or None for plain batches."""
        coalitions = coalitions[done:] if len(masked) == 1 else coalitions
        rows = min(self.size, len(coalitions) // 8)  # run in order to share: a small part of all
        apt = len(masked) == 1 and rows >= masked[0].n and masked[0].input.is_floating_point()
        if self.sharing is None or self.fixed or not apt:
            return [], None
        if self.sharing.seconds is None:
            return self._try_sharing(masked[0], coalitions, rows)
        start = _now(self.device) if self.sharing.unsure else None
        shared = self._shared(masked[0], coalitions, rows)
        if self.sharing.unsure and shared is not None:
            self.sharing.unsure = False
            setup = _now(self.device) - start
            if not self.sharing.pays(len(coalitions), setup):
                self.sharing = shared = None
        self.report["shared"] = shared is not None
        return [], shared

    def _try_sharing(self, masked: _Masked, coalitions: Tensor, rows: int):
        """Two batches plain, two shared: the cheaper way is that of the run."""
        batches = coalitions.split(min(self.size, max(len(coalitions) // 4, 1)))
        plain, values = self._timed(lambda some: self._plain([(masked, some)]), batches[:2])
        shared = None
        if plain * len(coalitions) >= WORTH_A_TRIAL:
            shared = self._shared(masked, coalitions, rows)
        if shared is not None:
            seconds, more = self._timed(shared, batches[2:4])
            values += more
            self.sharing.seconds = {"plain": plain, "shared": seconds}
            shared = shared if self.sharing.pays(len(coalitions)) else None
        if shared is None:
            self.sharing = None
        self.report["shared"] = shared is not None
        return values, shared

    def _timed(self, way: Callable[[Tensor], Tensor], batches) -> tuple[float, list[Tensor]]:
        """The least seconds a coalition over some batches, and their values."""
        seconds, values = [], []
        for coalitions in batches:
            start = _now(self.device)
            values.append(way(coalitions))
            seconds.append((_now(self.device) - start) / len(coalitions))
        return min(seconds), values

    def _shared(self, masked: _Masked, coalitions: Tensor, rows: int):
        """From coalitions to values through shared layers, or None where that changes values."""
        draw = torch.Generator().manual_seed(0)
        some = torch.randint(len(coalitions), (4,), generator=draw)
        some[0], some[1] = 0, len(coalitions) - 1
        before = _versions(self.model)
        expected = self._plain([(masked, coalitions[some])])
        if _versions(self.model) != before:
            return None  # a model that writes to its buffers would keep the poison
        try:
            layers = SharedLayers(
                self.model,
                lambda inputs: self._output(inputs, masked.named(len(inputs))),
                masked.inputs, masked.owner, masked.n, rows, self.sharing.bottlenecks,
            )  # fmt: skip

            def shared(asked: Tensor) -> Tensor:
                return self._value(layers(asked), masked.labels(len(asked)))

            if not layers.layers:
                return None
            apart = checks.difference(shared(coalitions[some]), expected).max().item()
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a model may refuse poison
            return None
        if apart > checks.tolerance(expected, self.dtype):
            return None
        if "error" in self.report:
            self.report["error"] = max(self.report["error"], apart)
        return shared


class _Sharing:
    """Whether it pays that layers are shared: by what both ways cost on the first sample."""

    def __init__(self):
        self.bottlenecks: dict = {}  # as `SharedLayers` has them
        self.seconds: dict[str, float] | None = None  # a coalition
        self.unsure = True  # the first sample's preparation also looks for bottlenecks

    def pays(self, coalitions: int, setup: float = 0.0) -> bool:
        return setup + self.seconds["shared"] * coalitions < self.seconds["plain"] * coalitions


def _now(device: torch.device) -> float:
    """Seconds on the clock, when the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _cat(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _rows(masked: list[_Masked], coalitions: Tensor, start: int, stop: int):
    """Rows `start` to `stop` of the coalitions of one sample after the other, by sample."""
    m = len(coalitions)
    return [
        (masked[k], coalitions[max(start - k * m, 0) : stop - k * m])
        for k in range(start // m, -(-stop // m))
    ]


def _is_eager(model) -> bool:
    """Whether a model is a module whose parts Python calls one by one."""
    return isinstance(model, torch.nn.Module) and not any(
        isinstance(x, torch.jit.ScriptModule)
        or hasattr(x, "_orig_mod")  # compiled, as in the next line
        or x._compiled_call_impl is not None
        for x in model.modules()
    )


def _versions(model: torch.nn.Module) -> list[tuple[int, int]]:
    """Changes when something is written to the model's buffers."""
    return [(id(x), 0 if x.is_inference() else x._version) for x in model.buffers()]


class _on_device:
    """A module on the device for the length of a block, and then back where it was."""

    def __init__(self, model, device: torch.device):
        self.module = model if isinstance(model, torch.nn.Module) else None
        self.device, self.before = device, None

    def __enter__(self):
        tensors = [] if self.module is None else [*self.module.parameters(), *self.module.buffers()]
        homes = {t.device for t in tensors}
        if len(homes) == 1 and homes != {self.device}:  # a model spread over devices stays put
            self.before = homes.pop()
            self.module.to(self.device)

    def __exit__(self, *_):
        if self.before is not None:
            self.module.to(self.before)

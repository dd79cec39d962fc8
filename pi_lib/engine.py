"""The engine: a model on every coalition of players, or some, of a batch of samples."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pi_lib.coalitions import coalition, membership
from pi_lib.players import Placement, without_dropped
from pi_lib.progress import track
from pi_lib.sharing import SharedLayers
from pi_lib.values import has_player, log_odds

MOST_PLAYERS = 16  # beyond this, enumeration means more than 65,536 forwards a sample


def coalition_values(
    model: Callable,
    inputs,
    labels: Sequence[int] | Tensor,
    players,
    *,
    ids: Sequence[int] | None = None,
    value: Callable[[Tensor, Tensor], Tensor] = log_odds,
    device: str | torch.device = "auto",
    batch_size: int | str = "auto",
    autocast: torch.dtype | None = None,
    share: bool = True,
    keep: str | Path | None = None,
) -> Tensor:
    """Value of every coalition of players of every sample.

    Parameters
    ----------
    model : callable
        Returns logits ``(batch, C)``, what else `value` takes, or an object with ``.logits``. A
        module is moved to `device` for the run and back. It must be in eval mode.
    inputs : float Tensor (B, C, H, W), list of str, or what `players` takes
        The samples, unmasked.
    labels : (B,) int, or (B, ...) as `value` takes them
        True classes; or label maps, boxes, targets.
    players : object with `n` and ``place(inputs, ids)``
        See `pi_lib.players`.
    ids : (B,) int, optional
        Ids of the samples, which seed the draw of players; default a digest of their content.
    value : callable, default `log_odds`
        From the model's output and the labels ``(batch, ...)`` to values ``(batch,)``:
        `region_log_odds` for segmentation, `box_log_odds` for detection, `negative_error` for
        regression, or one's own.
    device : "auto" or a torch device
        "auto" is the GPU where there is one.
    batch_size : "auto" or int
        Masked inputs per forward pass. Halved, down to 1, whenever the device's memory is short.
    autocast : torch dtype, optional
        Forward passes in this mixed precision; default the model's own precision.
    share : bool, optional
        Whether a module's first layers run once for what masked inputs have in common
        (`pi_lib.sharing`), where that changes no value by more than 1e-4. Switch it off for a
        model that records what passes through it, or that another thread uses meanwhile.
    keep : path, optional
        Folder where each sample's values are kept as soon as they are there, and taken from when
        the same is asked again, as after an interruption: the same weights, sample, label,
        players, coalitions and value. A model that is no module, and a `value`, are told by their
        names, so each must be a function of a name of its own.

    Returns
    -------
    (B, 2**n) float64, on the CPU
        ``v(x_T)``; bit i of the index is player i.

    Raises
    ------
    ValueError
        For more than 16 players, a model in training mode or one that answers the same input
        differently, labels out of range, a region or box without a player, or a value that is not
        finite (sample and coalition are named); with `keep`, for a model or `value` that its name
        does not tell apart.
    """
    if players.n > MOST_PLAYERS:
        forwards = 2**players.n * len(inputs)
        raise ValueError(
            f"{players.n} players mean {forwards:,} forward passes and {8 * forwards / 2**30:.3g} "
            f"GiB of values for {len(inputs)} samples; enumeration stops at n={MOST_PLAYERS}. "
            "Use fewer, larger players (a coarser grid, n=10 to 12), or, up to 64 players, "
            'extract(..., method="sparse")'
        )
    values = torch.empty(len(inputs), 2**players.n, dtype=torch.float64)
    with games(
        model, inputs, labels, players, ids=ids, value=value, device=device,
        batch_size=batch_size, autocast=autocast, share=share, keep=keep,
    ) as samples:  # fmt: skip
        for row, game in zip(values, samples, strict=True):
            row[:] = game(membership(players.n))
    return values


@contextmanager
def games(
    model: Callable,
    inputs,
    labels: Sequence[int] | Tensor,
    players,
    *,
    ids: Sequence[int] | None = None,
    value: Callable[[Tensor, Tensor], Tensor] = log_odds,
    device: str | torch.device = "auto",
    batch_size: int | str = "auto",
    autocast: torch.dtype | None = None,
    share: bool = True,
    keep: str | Path | None = None,
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
    labels = torch.as_tensor(labels)
    if len(labels) != len(inputs):
        raise ValueError(f"{len(labels)} labels for {len(inputs)} samples")
    if getattr(model, "training", False):
        raise ValueError("the model is in training mode, so its answers are random: model.eval()")
    placements = players.place(inputs, ids)
    for sample, (placement, label) in enumerate(zip(placements, labels, strict=True)):
        if not has_player(value, placement, label):
            raise ValueError(
                f"sample {sample}: no player owns a part of what {value.__name__} is asked about, "
                "so its parts are never masked: draw the players there (a coarser grid, "
                'region="all", LabelMapPlayers), or leave the sample out'
            )
    device = choose_device(device)
    size = _BatchSize(batch_size, device)
    bottlenecks = {} if share and _is_eager(model) else None
    precision = torch.autocast(device.type, autocast) if autocast is not None else nullcontext()
    kept = None if keep is None else _Kept(Path(keep), model, value, autocast)
    unchecked = [True]

    def game(sample: int, coalitions: Tensor) -> Tensor:
        if kept is None:
            return computed(sample, coalitions)
        asked = (labels[sample], vars(placements[sample]), coalitions)
        return kept.get(asked, lambda: computed(sample, coalitions))

    def computed(sample: int, coalitions: Tensor) -> Tensor:
        label, asked = labels[sample].to(device), coalitions.to(device)
        run = _MaskedModel(model, placements[sample], label, value, asked, bottlenecks)
        if unchecked:
            run.check_repeatable()
            unchecked.clear()
        values = size.run(run, len(asked)).cpu()
        if not (finite := torch.isfinite(values)).all():
            wrong = int((~finite).nonzero()[0])
            kept = coalitions[wrong].nonzero()[:, 0].tolist()
            raise ValueError(
                f"the model's value of sample {sample}, coalition {coalition(kept)} (players "
                f"{kept} kept) is {values[wrong].item()}: look for infinite "
                "weights, or use a wider precision"
            )
        return values

    with torch.no_grad(), _on_device(model, device), precision:
        yield (
            partial(game, sample) for sample in track(range(len(placements)), "coalition values")
        )


def coalition_mask(coalitions: Tensor) -> Tensor:
    """Which owners coalitions (m, n) keep: bool ``(m, n + 2)``, columns as `Placement.owner`."""
    always = torch.tensor([True, False], device=coalitions.device).expand(len(coalitions), 2)
    return torch.cat([coalitions, always], 1)


def choose_device(device: str | torch.device) -> torch.device:
    """The torch device meant by `device`; "auto" is the GPU where there is one."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


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


def _own_name(what: str, function: Callable) -> str:
    """What tells a function from others: that of a lambda, a closure or an object does not."""
    name = getattr(function, "__qualname__", "")
    if not name or "<" in name:
        raise ValueError(
            f"keep= tells one {what} from another by its name, and {function!r} has none of its "
            "own: pass a function that is defined by `def` outside any other, or leave keep out"
        )
    return name


class _Kept:
    """Values on disk, one file for each sample and what was asked of it."""

    def __init__(self, folder: Path, model, value: Callable, autocast: torch.dtype | None):
        folder.mkdir(parents=True, exist_ok=True)
        weights = model if isinstance(model, torch.nn.Module) else None
        named = type(model).__qualname__ if weights is not None else _own_name("model", model)
        self.whole = fingerprint(weights, named, _own_name("value", value), autocast)
        self.folder = folder

    def get(self, asked: tuple, compute: Callable[[], Tensor]) -> Tensor:
        from safetensors.torch import load_file, save_file

        file = self.folder / f"{fingerprint(self.whole, asked)}.safetensors"
        if file.exists():
            return load_file(file)["values"]
        values = compute()
        aside = file.with_suffix(f".{os.getpid()}.aside")
        save_file({"values": values}, aside)
        os.replace(aside, file)  # whole or not at all
        return values


class _MaskedModel:
    """A model on the masked versions of one sample, which lies on the device once."""

    def __init__(
        self, model, placement: Placement, label: Tensor, value, coalitions: Tensor, bottlenecks
    ):
        device = coalitions.device
        self.model, self.label, self.value, self.coalitions = model, label, value, coalitions
        self.bottlenecks = bottlenecks  # as `SharedLayers` has them; None: share no layers
        self.input = placement.inputs.to(device)
        self.owner = placement.owner.to(device)
        self.baseline = placement.baseline.to(device)
        self.others = {name: x.to(device) for name, x in placement.others.items()}
        self.dropped_with = placement.dropped_with
        self.output = self._plain

    def __call__(self, start: int, stop: int) -> Tensor:
        return self._values(self.coalitions[start:stop])

    def share(self, batch_size: int) -> None:
        """From here on, share the model's first layers where that pays and changes no value."""
        self.output = self._plain
        count, n = self.coalitions.shape
        rows = min(batch_size, count // 8)  # what is run in order to share is a small part of all
        if self.bottlenecks is None or rows < n or not self.input.is_floating_point():
            return
        some = torch.randint(count, (4,), generator=torch.Generator().manual_seed(0))
        before = _versions(self.model)
        expected = self._values(self.coalitions[some])
        if _versions(self.model) != before:
            return  # a model that writes to its buffers would keep the poison
        same = False
        try:
            shared = SharedLayers(
                self.model, self._forward, self._masked, self.owner, n, rows, self.bottlenecks
            )
            if shared.layers:
                self.output = shared
                found = self._values(self.coalitions[some])
                same = torch.allclose(found, expected, rtol=0, atol=1e-4)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a model may refuse poison
            pass
        finally:
            if not same:
                self.output = self._plain

    def _values(self, coalitions: Tensor) -> Tensor:
        labels = self.label.expand(len(coalitions), *self.label.shape)
        if self.dropped_with is not None:
            return self._values_without_dropped(coalitions, labels)
        return self.value(self.output(coalitions), labels).double()

    def _values_without_dropped(self, coalitions: Tensor, labels: Tensor) -> Tensor:
        """Values of sentences that are shorter where tokens are dropped, length by length."""
        masked = self._masked(coalitions)
        others = self._others_of(len(masked))
        values = torch.empty(len(masked), dtype=torch.float64, device=masked.device)
        for rows, tokens, beside in without_dropped(masked, others, self.dropped_with):
            values[rows] = self.value(self._logits(tokens, beside), labels[rows]).double()
        return values

    def _plain(self, coalitions: Tensor) -> Tensor:
        return self._forward(self._masked(coalitions))

    def _masked(self, coalitions: Tensor) -> Tensor:
        keep = coalition_mask(coalitions)[:, self.owner[0]]  # one gather: (batch, ...) as the input
        return torch.where(keep, self.input, self.baseline)

    def _forward(self, masked: Tensor) -> Tensor:
        return self._logits(masked, self._others_of(len(masked)))

    def _others_of(self, size: int) -> dict[str, Tensor]:
        return {name: x.expand(size, *x.shape[1:]) for name, x in self.others.items()}

    def _logits(self, masked: Tensor, others: dict[str, Tensor]) -> Tensor:
        output = self.model(masked, **others)
        return getattr(output, "logits", output)

    def check_repeatable(self) -> None:
        last = len(self.coalitions) - 1
        first, second = self(last, last + 1), self(last, last + 1)
        if not torch.allclose(first, second, rtol=1e-4, atol=1e-4, equal_nan=True):
            raise ValueError(
                f"the model gave {first.item():.6g} and {second.item():.6g} for the same input: "
                "switch off what is random in it (dropout, sampling) before extracting"
            )


class _BatchSize:
    """Runs a sample's coalitions in batches that fit; what it learns holds for later samples."""

    def __init__(self, batch_size: int | str, device: torch.device):
        if batch_size == "auto":
            batch_size = 1024 if device.type == "cuda" else 64
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}; expected 'auto' or an integer >= 1")
        self.size = batch_size

    def run(self, masked_model: _MaskedModel, coalitions: int) -> Tensor:
        parts, done, shared = [], 0, None
        while done < coalitions:
            stop = min(done + self.size, coalitions)
            try:
                if shared != self.size:
                    masked_model.share(self.size)
                    shared = self.size
                parts.append(masked_model(done, stop))
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
                self.size = max(self.size // 2, 1)
                torch.cuda.empty_cache()
                continue
            done = stop
        return torch.cat(parts)


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

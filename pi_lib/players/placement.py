"""A sample with the player that owns each of its elements, and what all kinds of players share."""

import hashlib
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Placement:
    """A sample with the player that owns each of its elements.

    Attributes
    ----------
    inputs : Tensor, shape (1, ...)
        What the model receives as its first argument, unmasked.
    owner : int64 Tensor, broadcastable to `inputs`
        Player 0..n-1 of each element; n marks elements always kept, n + 1 elements always masked.
    baseline : Tensor, broadcastable to `inputs`
        What a masked element becomes.
    names : list of str
        One name per player, for tables and plots; as given, no character escaped.
    others : dict of str to Tensor, shape (1, ...)
        Further keyword arguments of the model, never masked (an attention mask).
    dropped_with : tuple of str, optional
        None: a masked element becomes `baseline`. Otherwise it leaves the input, a row of tokens,
        and so do its elements of these `others`; `baseline` is then negative.
    is_cut : bool
        Whether the sample was too long, so that `inputs` lack its end.

    Raises
    ------
    ValueError
        If a player owns no element, or an owner is not in 0..n+1.
    """

    inputs: Tensor
    owner: Tensor
    baseline: Tensor
    names: list[str]
    others: dict[str, Tensor] = field(default_factory=dict)
    dropped_with: tuple[str, ...] | None = None
    is_cut: bool = False

    def __post_init__(self):
        owners, n = set(self.owner.unique().tolist()), len(self.names)
        if beyond := sorted(owners - set(range(n + 2))):
            raise ValueError(f"owners {beyond} are not of {n} players: expected 0..{n + 1}")
        if empty := sorted(set(range(n)) - owners):
            raise ValueError(f"players {[self.names[i] for i in empty]} own no element")


def without_dropped(
    masked: Tensor, others: Mapping[str, Tensor], dropped_with: Sequence[str]
) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
    """Rows of tokens without those that are dropped, the rows of one length at a time.

    A network receives the shorter sentence itself, so it must take sentences of any length.

    Yields the rows of `masked` (batch, tokens), negative where a token is dropped; their tokens
    (k, length); and their `others`, of which those in `dropped_with` lose the same tokens.

    Examples
    --------
    >>> masked = torch.tensor([[5, 6, 7], [5, -1, 7]])
    >>> [(rows.tolist(), tokens.tolist()) for rows, tokens, _ in without_dropped(masked, {}, ())]
    [([1], [[5, 7]]), ([0], [[5, 6, 7]])]
    """
    stays = masked >= 0
    lengths = stays.sum(1)
    for length in lengths.unique().tolist():
        rows = torch.nonzero(lengths == length)[:, 0]
        left = {
            name: x[rows][stays[rows]].view(len(rows), -1) if name in dropped_with else x[rows]
            for name, x in others.items()
        }
        yield rows, masked[rows][stays[rows]].view(len(rows), -1), left


def draw(available: int, n: int, seed: int, sample: int) -> list[int]:
    """n of `available` places, ascending, from the seed and the sample's id alone."""
    random = np.random.default_rng([seed, sample])
    return sorted(random.choice(available, n, replace=False).tolist())


def sample_ids(inputs, ids: Sequence[int] | None) -> list[int]:
    """The samples' ids; without any, a digest of each sample's content."""
    if ids is not None:
        try:
            ids = [operator.index(i) for i in ids]  # of 0.2 and 0.7, `int` would make one sample
        except TypeError as error:
            raise ValueError(f"sample ids are non-negative integers ({error})") from None
        if len(ids) != len(inputs):
            raise ValueError(f"{len(ids)} ids for {len(inputs)} samples")
        if min(ids, default=0) < 0:
            raise ValueError("sample ids are non-negative integers")
        return ids
    return [int.from_bytes(hashlib.sha256(_content(x)).digest()[:8]) for x in inputs]


def _content(sample) -> bytes:
    """Bytes of a tensor of any type, of a sentence, of several."""
    if isinstance(sample, Tensor):
        return sample.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return (sample if isinstance(sample, str) else json.dumps(list(sample))).encode()


def checked_others(others: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The model's further inputs, each known to be a tensor with a row per sample."""
    for name, x in (others or {}).items():
        if not isinstance(x, Tensor) or x.ndim == 0:
            raise ValueError(
                f"others[{name!r}] is {describe(x)}; expected a tensor with one row per sample"
            )
    return dict(others or {})


def by_sample(others: Mapping[str, Tensor], samples: int) -> list[dict[str, Tensor]]:
    """The model's further inputs of each sample, ``(1, ...)``."""
    for name, x in others.items():
        if len(x) != samples:
            raise ValueError(
                f"others[{name!r}] has {len(x)} rows for {samples} samples; place them together"
            )
    return [{name: x[i : i + 1] for name, x in others.items()} for i in range(samples)]


def one_of(name: str, given, valid: tuple) -> None:
    if given not in valid:
        raise ValueError(f"{name}={given!r}; expected one of {', '.join(map(repr, valid))}")


def describe(value) -> str:
    is_tensor = isinstance(value, Tensor)
    return f"{value.dtype} of shape {tuple(value.shape)}" if is_tensor else type(value).__name__

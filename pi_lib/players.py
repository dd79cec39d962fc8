"""Who the players are: which part of an input belongs to which player, and what masks it.

Every class has one method, ``place(inputs, ids)``, that returns a `Placement` per sample. Players
are drawn by a seed and the sample's id alone, so every model and every checkpoint sees the same
players of a sample; without ids, the sample's content is its id. What a network takes beside the
sample (`others`) goes to it unmasked.

The choices follow arXiv 2410.08455 as reconstructed from 2409.08712 and 2407.19198: n patches of
the central 6x6 of an 8x8 grid; n content words, each masked whole.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

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


class PatchPlayers:
    """Image patches of a square grid as players.

    Parameters
    ----------
    grid : int
        Patches per side.
    n : int, optional
        Players, drawn at random from the region; None: all its patches. So
        ``PatchPlayers(grid=3, n=None, region="all")`` covers the image with nine players.
    region : "central" or "all"
        Patches to draw from: all but the outermost ring, or all.
    baseline : "mean", "zero", "blur" or Tensor
        What replaces a masked patch. "mean" is the mean colour of the data set given as `mean`,
        or of the images at hand; a tensor is broadcast to ``(B, C, H, W)``.
    mean : Tensor of shape (C,), optional
        Mean colour of the data set, in the unit of the images.
    background : "keep" or "mask"
        What becomes of the patches that are not players.
    seed : int
        Seeds the draw together with each sample's id.
    others : mapping of str to Tensor of shape (B, ...), optional
        What the model takes beside the samples, unmasked, as keyword arguments: row i goes with
        sample i of the B samples that are placed together.

    Examples
    --------
    >>> players = PatchPlayers(grid=4, n=3, region="central")
    >>> placement, = players.place(torch.rand(1, 3, 32, 32))
    >>> placement.owner.shape, len(placement.names)
    (torch.Size([1, 1, 32, 32]), 3)
    """

    def __init__(
        self,
        grid: int = 8,
        n: int | None = 10,
        *,
        region: Literal["central", "all"] = "central",
        baseline: Literal["mean", "zero", "blur"] | Tensor = "mean",
        mean: Tensor | None = None,
        background: Literal["keep", "mask"] = "keep",
        seed: int = 0,
        others: Mapping[str, Tensor] | None = None,
    ):
        one_of("region", region, ("central", "all"))
        one_of("background", background, ("keep", "mask"))
        if not isinstance(baseline, Tensor):
            one_of("baseline", baseline, ("mean", "zero", "blur"))
        inner = range(1, grid - 1) if region == "central" else range(grid)
        self.eligible = [(row, column) for row in inner for column in inner]
        n = len(self.eligible) if n is None else n
        if not 1 <= n <= len(self.eligible):
            raise ValueError(
                f"n={n} players cannot be drawn from the {len(self.eligible)} patches of the "
                f"{region} region of a {grid}x{grid} grid; choose 1 <= n <= {len(self.eligible)}, "
                "or n=None for all of them"
            )
        self.grid, self.n, self.region, self.seed = grid, n, region, seed
        self.baseline, self.mean, self.background = baseline, mean, background
        self.others = checked_others(others)

    def place(self, inputs: Tensor, ids: Sequence[int] | None = None) -> list[Placement]:
        """Placements of images ``(B, C, H, W)``, of any floating-point type, half too.

        Raises
        ------
        ValueError
            If the images are not a float tensor of that shape, or smaller than the grid.
        """
        if not isinstance(inputs, Tensor) or inputs.ndim != 4 or not inputs.is_floating_point():
            raise ValueError(
                f"expected a floating-point image tensor (B, C, H, W); got {describe(inputs)}. "
                "Convert uint8 images with images.float() / 255"
            )
        height, width = inputs.shape[-2:]
        if min(height, width) < self.grid:
            raise ValueError(
                f"images of {height}x{width} pixels are smaller than the {self.grid}x{self.grid} "
                "grid: each patch needs a pixel; choose a smaller grid"
            )
        row, column = (torch.arange(side) * self.grid // side for side in (height, width))
        patch = row[:, None] * self.grid + column
        baselines, others = self._baselines(inputs), by_sample(self.others, len(inputs))
        placements = []
        rows = zip(inputs, baselines, sample_ids(inputs, ids), others, strict=True)
        for image, baseline, sample, image_others in rows:
            chosen = [self.eligible[k] for k in draw(len(self.eligible), self.n, self.seed, sample)]
            player_of = torch.full((self.grid**2,), self.n + (self.background == "mask"))
            for player, (row, column) in enumerate(chosen):
                player_of[row * self.grid + column] = player
            names = [f"r{row}c{column}" for row, column in chosen]
            owner = player_of[patch][None, None]
            placements.append(Placement(image[None], owner, baseline[None], names, image_others))
        return placements

    def _baselines(self, inputs: Tensor) -> Tensor:
        if isinstance(self.baseline, Tensor):
            value = self.baseline
            value = value[:, None, None] if value.ndim == 1 else value
            return value.to(inputs).expand_as(inputs)
        if self.baseline == "zero":
            return torch.zeros_like(inputs)
        exact = inputs if inputs.dtype == torch.float64 else inputs.float()  # half: too coarse
        if self.baseline == "blur":
            from torchvision.transforms.functional import gaussian_blur

            side = min(inputs.shape[-2:])
            sigma = side / self.grid  # a patch's width: its content is gone
            reach = min(int(2 * sigma), side - 1)  # reflections end at the other border
            return gaussian_blur(exact, [2 * reach + 1] * 2, [sigma] * 2).to(inputs)
        mean = exact.mean((0, 2, 3)) if self.mean is None else torch.as_tensor(self.mean)
        if mean.shape != inputs.shape[1:2]:
            raise ValueError(
                f"mean has shape {tuple(mean.shape)}; expected one value per channel, "
                f"({inputs.shape[1]},)"
            )
        return mean.to(inputs)[:, None, None].expand_as(inputs)


class LabelMapPlayers:
    """Players given by label maps: superpixels, regions, token groups, anything.

    Parameters
    ----------
    owner : int Tensor
        Player 0..n-1 of each element, -1 for the background: one map for every sample, of the
        shape of one input without its channel axis; or with ``per_sample=True`` a map for each of
        the B samples that are placed together, ``(B, ...)``.
    baseline : Tensor or float
        What masks an element; broadcast to one input.
    background : "keep" or "mask"
        What becomes of the elements that belong to no player.
    names : sequence of str, optional
        One per player; default "0", "1", ...
    per_sample : bool, optional
        Whether `owner` holds a map for each sample. Default one map for all; labels that could be
        read as either on the inputs at hand are then refused, so say True or False.
    others
        As in `PatchPlayers`.

    Raises
    ------
    ValueError
        If a player between 0 and the largest label owns no element (in one of the maps), or a
        label is below -1.

    Examples
    --------
    >>> LabelMapPlayers(torch.tensor([0, 0, 1, -1]), baseline=0.0).n
    2
    >>> players = LabelMapPlayers(torch.tensor([[0, 0, 1], [1, 0, 0]]), per_sample=True)
    >>> [placement.owner.tolist() for placement in players.place(torch.rand(2, 3))]
    [[[0, 0, 1]], [[1, 0, 0]]]
    """

    def __init__(
        self,
        owner: Tensor,
        baseline: Tensor | float = 0.0,
        *,
        background: Literal["keep", "mask"] = "keep",
        names: Sequence[str] | None = None,
        per_sample: bool | None = None,
        others: Mapping[str, Tensor] | None = None,
    ):
        one_of("background", background, ("keep", "mask"))
        owner = torch.as_tensor(owner)
        if owner.is_floating_point() or owner.dtype == torch.bool:
            raise ValueError(
                f"expected integer labels; got {owner.dtype}. For one boolean mask per player use "
                "LabelMapPlayers.from_masks(masks)"
            )
        owner = owner.long()
        if owner.numel() == 0 or owner.min() < -1:
            raise ValueError("labels are 0..n-1 for players and -1 for the background")
        if per_sample and owner.ndim < 2:
            raise ValueError(f"expected a map for each sample, (B, ...); got {describe(owner)}")
        self.n = int(owner.max()) + 1
        if self.n == 0:
            raise ValueError("the label map holds no player: every element is background (-1)")
        for sample, labels in enumerate(owner if per_sample else owner[None]):
            if empty := sorted(set(range(self.n)) - set(labels.unique().tolist())):
                where = f" of sample {sample} of {len(owner)}" if per_sample else ""
                raise ValueError(
                    f"players {empty} own no element of the label map{where}; number them 0..n-1"
                )
        self.owner = torch.where(owner < 0, self.n + (background == "mask"), owner)
        self.baseline, self.background = torch.as_tensor(baseline), background
        self.per_sample = per_sample
        self.names = list(names) if names is not None else [str(i) for i in range(self.n)]
        if len(self.names) != self.n:
            raise ValueError(f"{len(self.names)} names for {self.n} players")
        self.others = checked_others(others)

    @classmethod
    def from_masks(cls, masks: Tensor, baseline: Tensor | float = 0.0, **options):
        """Players given by one boolean mask each, neither overlapping nor empty.

        `masks` are ``(n, ...)``, or with ``per_sample=True`` ``(B, n, ...)``.
        """
        masks = torch.as_tensor(masks).bool()
        per_sample, owners = options.get("per_sample"), []
        for sample in masks if per_sample else masks[None]:
            if (overlap := sample.sum(0) > 1).any():
                where = tuple(torch.nonzero(overlap)[0].tolist())
                both = torch.nonzero(sample[(slice(None), *where)])[:, 0].tolist()
                raise ValueError(
                    f"players {both} overlap at element {where}; an element has one owner"
                )
            if empty := torch.nonzero(~sample.flatten(1).any(1))[:, 0].tolist():
                raise ValueError(f"players {empty} own no element")
            owners.append(torch.where(sample.any(0), sample.int().argmax(0), -1))
        return cls(torch.stack(owners) if per_sample else owners[0], baseline, **options)

    def place(self, inputs: Tensor, ids: Sequence[int] | None = None) -> list[Placement]:
        """Placements of inputs ``(B, *shape)`` or ``(B, C, *shape)``, as a label map is shaped.

        Raises
        ------
        ValueError
            If a label map does not cover the inputs, if there is not one for each of them where
            there should be, or if the labels could be one map as well as one for each sample.
        """
        shape = tuple(self.owner.shape[1:] if self.per_sample else self.owner.shape)
        if not isinstance(inputs, Tensor) or inputs.ndim < 1 + len(shape):
            raise ValueError(f"expected inputs (B, {shape}); got {describe(inputs)}")
        as_many = self.owner.ndim > 1 and len(self.owner) == len(inputs)  # maps as samples
        if self.per_sample and not as_many:
            raise ValueError(
                f"{len(self.owner)} label maps for {len(inputs)} samples; place them together"
            )
        if not _lies_on(shape, inputs):
            as_maps = as_many and _lies_on(tuple(self.owner.shape[1:]), inputs)
            hint = ". For one map per sample pass per_sample=True" if as_maps else ""
            raise ValueError(
                f"the label map of shape {shape} does not lie on inputs of shape "
                f"{tuple(inputs.shape[1:])}: players would be outside the input{hint}"
            )
        if self.per_sample is None and as_many and _lies_on(shape[1:], inputs) and len(inputs) > 1:
            raise ValueError(
                f"labels of shape {shape} on inputs of shape {tuple(inputs.shape)} could be one "
                f"map for all, or {len(inputs)} maps, one per sample: pass per_sample=False or True"
            )
        maps = self.owner if self.per_sample else self.owner.expand(len(inputs), *shape)
        axes = (None,) * (inputs.ndim - len(shape))
        baseline = self.baseline.to(inputs.dtype)
        others = by_sample(self.others, len(inputs))
        return [
            Placement(x[None], labels[axes], baseline, list(self.names), sample_others)
            for x, labels, sample_others in zip(inputs, maps, others, strict=True)
        ]


def _lies_on(shape: tuple[int, ...], inputs: Tensor) -> bool:
    """Whether a label map of that shape covers inputs (B, *shape) or (B, C, *shape)."""
    ends = tuple(inputs.shape[inputs.ndim - len(shape) :]) == shape
    return ends and bool(shape) and 1 <= inputs.ndim - len(shape) <= 2


def draw(available: int, n: int, seed: int, sample: int) -> list[int]:
    """n of `available` places, ascending, from the seed and the sample's id alone."""
    random = np.random.default_rng([seed, sample])
    return sorted(random.choice(available, n, replace=False).tolist())


def sample_ids(inputs, ids: Sequence[int] | None) -> list[int]:
    """The samples' ids; without any, a digest of each sample's content."""
    if ids is not None:
        ids = [int(i) for i in ids]
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

"""Who the players are: which part of an input belongs to which player, and what masks it.

Every class has one method, ``place(inputs, ids)``, that returns a `Placement` per sample. Players
are drawn by a seed and the sample's id alone, so every model and every checkpoint sees the same
players of a sample; without ids, the sample's content is its id.

The choices follow arXiv 2410.08455 as reconstructed from 2409.08712 and 2407.19198: n patches of
the central 6x6 of an 8x8 grid; n content words, each masked whole.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

# English function words. Negations ("no", "not", "never") are left out: they carry sentiment.
STOP_WORDS = frozenset(
    """a about above after again against all also am an and any are as at be because been before
    being below between both but by can could did do does doing down during each either for from
    further had has have having he her here hers herself him himself his how i if in into is it its
    itself just let me might more most must my myself of off on once one only or other our ours
    ourselves out over own per same shall she should so some such than that the their theirs them
    themselves then there these they this those through to too under until up upon us very was we
    were what when where which while who whom whose why will with would you your yours yourself
    yourselves it's i'm i've you're he's she's we're they're that's there's what's who's let's
    s t d ll m re ve""".split()
)


@dataclass(frozen=True)
class Placement:
    """One sample with the player that owns each of its elements.

    Attributes
    ----------
    inputs : Tensor, shape (1, ...)
        What the model receives as its first argument, unmasked.
    owner : int64 Tensor, broadcastable to `inputs`
        Player 0..n-1 of each element; n marks elements always kept, n + 1 elements always masked.
    baseline : Tensor, broadcastable to `inputs`
        What a masked element becomes.
    names : list of str
        One name per player, for tables and plots.
    others : dict of str to Tensor, shape (1, ...)
        Further keyword arguments of the model, never masked (an attention mask).
    """

    inputs: Tensor
    owner: Tensor
    baseline: Tensor
    names: list[str]
    others: dict[str, Tensor] = field(default_factory=dict)


class PatchPlayers:
    """Image patches of a square grid as players.

    Parameters
    ----------
    grid : int
        Patches per side.
    n : int
        Players, drawn at random from the region.
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
        n: int = 10,
        *,
        region: Literal["central", "all"] = "central",
        baseline: Literal["mean", "zero", "blur"] | Tensor = "mean",
        mean: Tensor | None = None,
        background: Literal["keep", "mask"] = "keep",
        seed: int = 0,
    ):
        _one_of("region", region, ("central", "all"))
        _one_of("background", background, ("keep", "mask"))
        if not isinstance(baseline, Tensor):
            _one_of("baseline", baseline, ("mean", "zero", "blur"))
        inner = range(1, grid - 1) if region == "central" else range(grid)
        self.eligible = [(row, column) for row in inner for column in inner]
        if not 1 <= n <= len(self.eligible):
            raise ValueError(
                f"n={n} players cannot be drawn from the {len(self.eligible)} patches of the "
                f"{region} region of a {grid}x{grid} grid; choose 1 <= n <= {len(self.eligible)}"
            )
        self.grid, self.n, self.region, self.seed = grid, n, region, seed
        self.baseline, self.mean, self.background = baseline, mean, background

    def place(self, inputs: Tensor, ids: Sequence[int] | None = None) -> list[Placement]:
        """Placements of images ``(B, C, H, W)``, floating point.

        Raises
        ------
        ValueError
            If the images are not a float tensor of that shape, or smaller than the grid.
        """
        if not isinstance(inputs, Tensor) or inputs.ndim != 4 or not inputs.is_floating_point():
            raise ValueError(
                f"expected a floating-point image tensor (B, C, H, W); got {_describe(inputs)}. "
                "Convert uint8 images with images.float() / 255"
            )
        height, width = inputs.shape[-2:]
        if min(height, width) < self.grid:
            raise ValueError(
                f"images of {height}x{width} pixels are smaller than the {self.grid}x{self.grid} "
                "grid: each patch needs a pixel; choose a smaller grid"
            )
        rows = torch.arange(height) * self.grid // height
        columns = torch.arange(width) * self.grid // width
        cell = rows[:, None] * self.grid + columns
        baselines = self._baselines(inputs)
        placements = []
        for image, baseline, sample in zip(inputs, baselines, sample_ids(inputs, ids), strict=True):
            chosen = [
                self.eligible[k] for k in _draw(len(self.eligible), self.n, self.seed, sample)
            ]
            player_of = torch.full((self.grid**2,), self.n + (self.background == "mask"))
            for player, (row, column) in enumerate(chosen):
                player_of[row * self.grid + column] = player
            placements.append(
                Placement(
                    inputs=image[None],
                    owner=player_of[cell][None, None],
                    baseline=baseline[None],
                    names=[f"r{row}c{column}" for row, column in chosen],
                )
            )
        return placements

    def _baselines(self, inputs: Tensor) -> Tensor:
        if isinstance(self.baseline, Tensor):
            value = self.baseline
            value = value[:, None, None] if value.ndim == 1 else value
            return value.to(inputs).expand_as(inputs)
        if self.baseline == "zero":
            return torch.zeros_like(inputs)
        if self.baseline == "blur":
            from torchvision.transforms.functional import gaussian_blur

            sigma = min(inputs.shape[-2:]) / self.grid  # a patch's width: its content is gone
            return gaussian_blur(inputs, [2 * int(2 * sigma) + 1] * 2, [sigma] * 2)
        mean = inputs.mean((0, 2, 3)) if self.mean is None else torch.as_tensor(self.mean)
        if mean.shape != inputs.shape[1:2]:
            raise ValueError(
                f"mean has shape {tuple(mean.shape)}; expected one value per channel, "
                f"({inputs.shape[1]},)"
            )
        return mean.to(inputs)[:, None, None].expand_as(inputs)


class LabelMapPlayers:
    """Players given by a label map: superpixels, regions, token groups, anything.

    Parameters
    ----------
    owner : int Tensor, shape of one input without its channel axis
        Player 0..n-1 of each element, -1 for the background. The same for every sample.
    baseline : Tensor or float
        What masks an element; broadcast to one input.
    background : "keep" or "mask"
        What becomes of the elements that belong to no player.
    names : sequence of str, optional
        One per player; default "0", "1", ...

    Raises
    ------
    ValueError
        If a player between 0 and the largest label owns no element, or a label is below -1.

    Examples
    --------
    >>> players = LabelMapPlayers(torch.tensor([0, 0, 1, -1]), baseline=0.0)
    >>> players.n
    2
    """

    def __init__(
        self,
        owner: Tensor,
        baseline: Tensor | float = 0.0,
        *,
        background: Literal["keep", "mask"] = "keep",
        names: Sequence[str] | None = None,
    ):
        _one_of("background", background, ("keep", "mask"))
        owner = torch.as_tensor(owner)
        if owner.is_floating_point() or owner.dtype == torch.bool:
            raise ValueError(
                f"expected integer labels; got {owner.dtype}. For one boolean mask per player use "
                "LabelMapPlayers.from_masks(masks)"
            )
        owner = owner.long()
        if owner.numel() == 0 or owner.min() < -1:
            raise ValueError("labels are 0..n-1 for players and -1 for the background")
        self.n = int(owner.max()) + 1
        if empty := sorted(set(range(self.n)) - set(owner.unique().tolist())):
            raise ValueError(f"players {empty} own no element of the label map; number them 0..n-1")
        if self.n == 0:
            raise ValueError("the label map holds no player: every element is background (-1)")
        self.owner = torch.where(owner < 0, self.n + (background == "mask"), owner)
        self.baseline = torch.as_tensor(baseline)
        self.names = list(names) if names is not None else [str(i) for i in range(self.n)]
        if len(self.names) != self.n:
            raise ValueError(f"{len(self.names)} names for {self.n} players")

    @classmethod
    def from_masks(cls, masks: Tensor, baseline: Tensor | float = 0.0, **options):
        """Players given by one boolean mask each, ``(n, ...)``, neither overlapping nor empty."""
        masks = torch.as_tensor(masks).bool()
        if (overlap := masks.sum(0) > 1).any():
            where = tuple(torch.nonzero(overlap)[0].tolist())
            both = torch.nonzero(masks[(slice(None), *where)])[:, 0].tolist()
            raise ValueError(f"players {both} overlap at element {where}; an element has one owner")
        if empty := torch.nonzero(~masks.flatten(1).any(1))[:, 0].tolist():
            raise ValueError(f"players {empty} own no element")
        owner = torch.where(masks.any(0), masks.int().argmax(0), -1)
        return cls(owner, baseline, **options)

    def place(self, inputs: Tensor, ids: Sequence[int] | None = None) -> list[Placement]:
        """Placements of inputs ``(B, *shape)`` or ``(B, C, *shape)``, as the label map is shaped.

        Raises
        ------
        ValueError
            If the label map does not cover the inputs.
        """
        shape = tuple(self.owner.shape)
        if not isinstance(inputs, Tensor) or inputs.ndim < 1 + len(shape):
            raise ValueError(f"expected inputs (B, {shape}); got {_describe(inputs)}")
        if tuple(inputs.shape[-len(shape) :]) != shape or inputs.ndim > 2 + len(shape):
            raise ValueError(
                f"the label map of shape {shape} does not lie on inputs of shape "
                f"{tuple(inputs.shape[1:])}: players would be outside the input"
            )
        owner = self.owner[(None,) * (inputs.ndim - len(shape))]
        baseline = self.baseline.to(inputs.dtype)
        return [Placement(x[None], owner, baseline, list(self.names)) for x in inputs]


class WordPlayers:
    """Content words of a sentence as players; a word's pieces are masked together.

    Parameters
    ----------
    tokenizer : fast tokenizer of `transformers`
        Gives offsets, so that a word and its tokens are matched by position in the text.
    n : int
        Players per sentence, drawn at random from its content words, in reading order.
    stop_words : collection of str
        Lower-case words that are never players.
    background : "keep" or "mask"
        What becomes of words that are not players (special tokens are always kept).
    max_length : int
        Longest input in tokens; words cut off by it cannot be players.
    seed : int
        Seeds the draw together with each sample's id.

    Raises
    ------
    ValueError
        If the tokenizer gives no offsets or has no mask token.
    """

    def __init__(
        self,
        tokenizer,
        n: int = 10,
        *,
        stop_words=STOP_WORDS,
        background: Literal["keep", "mask"] = "keep",
        max_length: int = 128,
        seed: int = 0,
    ):
        _one_of("background", background, ("keep", "mask"))
        if n < 1:
            raise ValueError(f"n={n} players; expected at least 1")
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError("WordPlayers needs a fast tokenizer: only those tell where a token is")
        if tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token to stand for a masked word")
        self.tokenizer, self.n, self.stop_words = tokenizer, n, frozenset(stop_words)
        self.background, self.max_length, self.seed = background, max_length, seed

    def content_words(self, text: str) -> list[re.Match]:
        """Words of `text` that may be players, as regular-expression matches with their spans."""
        words = re.finditer(r"[^\W_]{2,}(?:['’-][^\W_]+)*", text)
        return [w for w in words if w[0].lower().replace("’", "'") not in self.stop_words]

    def fits(self, text: str) -> bool:
        """Whether `text` has at least n content words within `max_length` tokens."""
        return len(self._word_tokens(text)[1]) >= self.n

    def place(self, inputs: Sequence[str], ids: Sequence[int] | None = None) -> list[Placement]:
        """Placements of sentences.

        Raises
        ------
        ValueError
            If a sentence has fewer than n content words (choose sentences with `fits`).
        """
        if isinstance(inputs, str) or not all(isinstance(text, str) for text in inputs):
            raise ValueError(f"expected a list of sentences; got {_describe(inputs)}")
        placements = []
        for position, (text, sample) in enumerate(
            zip(inputs, sample_ids(inputs, ids), strict=True)
        ):
            encoded, words = self._word_tokens(text)
            if len(words) < self.n:
                raise ValueError(
                    f"sample {position} has {len(words)} content words, fewer than the "
                    f"n={self.n} players asked for: {text[:80]!r}. Choose sentences with "
                    "WordPlayers.fits, or a smaller n"
                )
            tokens = encoded["input_ids"]
            special = torch.tensor(
                self.tokenizer.get_special_tokens_mask(
                    tokens[0].tolist(), already_has_special_tokens=True
                )
            ).bool()
            owner = torch.full_like(tokens, self.n + (self.background == "mask"))
            owner[0, special] = self.n
            chosen = [words[k] for k in _draw(len(words), self.n, self.seed, sample)]
            for player, (_, positions) in enumerate(chosen):
                owner[0, positions] = player
            placements.append(
                Placement(
                    inputs=tokens,
                    owner=owner,
                    baseline=torch.tensor(self.tokenizer.mask_token_id),
                    names=[word for word, _ in chosen],
                    others={"attention_mask": encoded["attention_mask"]},
                )
            )
        return placements

    def _word_tokens(self, text: str):
        """The encoded text, and its content words with the positions of their tokens."""
        encoded = self.tokenizer(
            text,
            truncation=True,
            max_length=self.max_length,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        spans = encoded.pop("offset_mapping")[0].tolist()
        words = []
        for word in self.content_words(text):
            inside = [
                k for k, (a, b) in enumerate(spans) if a < b and a < word.end() and b > word.start()
            ]
            # the last token may be the end of a word that max_length cut in two
            if inside and spans[inside[-1]][1] >= word.end():
                words.append((word[0], inside))
        return encoded, words


def _draw(available: int, n: int, seed: int, sample: int) -> list[int]:
    """n of `available` places, ascending, from the seed and the sample's id alone."""
    return sorted(
        np.random.default_rng([seed, sample]).choice(available, n, replace=False).tolist()
    )


def sample_ids(inputs, ids: Sequence[int] | None) -> list[int]:
    """The samples' ids; without any, a digest of each sample's content."""
    if ids is not None:
        ids = [int(i) for i in ids]
        if len(ids) != len(inputs):
            raise ValueError(f"{len(ids)} ids for {len(inputs)} samples")
        if min(ids, default=0) < 0:
            raise ValueError("sample ids are non-negative integers")
        return ids
    contents = (
        x.encode() if isinstance(x, str) else x.detach().cpu().contiguous().numpy().tobytes()
        for x in inputs
    )
    return [int.from_bytes(hashlib.sha256(content).digest()[:8]) for content in contents]


def _one_of(name: str, given, valid: tuple) -> None:
    if given not in valid:
        raise ValueError(f"{name}={given!r}; expected one of {', '.join(map(repr, valid))}")


def _describe(value) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__

"""Image patches as players."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from pi_lib.players.placement import (
    Placement,
    by_sample,
    checked_others,
    describe,
    draw,
    one_of,
    sample_ids,
)


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

        Raises ValueError if the images are not a float tensor of that shape, or smaller than the
        grid.
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

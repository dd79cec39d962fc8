"""Scenes, of which masks and boxes are known: two garments on a black canvas.

A garment of Fashion-MNIST and another of a different class, each in a quarter of its own of a
black canvas. A garment's mask is its pixels brighter than 16 of 255; its box is the smallest that
holds them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BRIGHT = 16  # of 255


def scenes(
    pictures: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor, seeds: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Each picture and another one on a black canvas of twice its side, in different quarters.

    Parameters
    ----------
    pictures, others : (B, C, S, S) uint8
    labels, other_labels : (B,) int64
        Their classes. The two of a scene should differ.
    seeds : sequence of B int
        Each draws a scene's quarters.

    Returns
    -------
    canvas : (B, C, 2 S, 2 S) uint8
    maps : (B, 2, 2 S, 2 S) int64
        For the picture, then for the other one: its class at its pixels, -1 elsewhere.
    boxes : (B, 2, 5) float32
        For both: class, left, top, right and bottom in pixels of the canvas.

    Raises
    ------
    ValueError
        If a picture has no bright pixel, so that there is nothing to find.

    Examples
    --------
    >>> bright = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    >>> canvas, maps, boxes = scenes(bright, torch.tensor([3]), bright, torch.tensor([5]), [0])
    >>> canvas.shape, (maps >= 0).sum((2, 3)).tolist(), boxes[0, :, 0].tolist()
    (torch.Size([1, 1, 4, 4]), [[4, 4]], [3.0, 5.0])
    """
    count, channels, side, _ = pictures.shape
    canvas = torch.zeros(count, channels, 2 * side, 2 * side, dtype=torch.uint8)
    maps = torch.full((count, 2, 2 * side, 2 * side), -1)
    boxes = torch.zeros(count, 2, 5)
    both = ((pictures, labels), (others, other_labels))
    for i, seed in enumerate(seeds):
        quarters = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
        for which, quarter in enumerate(quarters[:2].tolist()):
            top, left = side * (quarter // 2), side * (quarter % 2)
            picture, label = (x[i] for x in both[which])
            mask = picture.amax(0) > BRIGHT
            if not mask.any():
                raise ValueError(f"picture {which} of scene {i} is dark: it has no mask and no box")
            canvas[i, :, top : top + side, left : left + side] = picture
            maps[i, which, top : top + side, left : left + side][mask] = label
            rows, columns = mask.any(1).nonzero()[:, 0] + top, mask.any(0).nonzero()[:, 0] + left
            edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            boxes[i, which] = torch.stack([label, *edges]).float()
    return canvas, maps, boxes

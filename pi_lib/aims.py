"""What a network is to say of a picture: its class, the class of every pixel, or the boxes in it.

An `Aim` holds what differs: the head on the encoder, the loss, what counts as right, and the value
of a masked picture. Training, players and interactions are the same for all.

Masks and boxes come from scenes, as no data set at hand has any: a garment of Fashion-MNIST and
another of a different class, each in a quarter of its own of a black canvas. A garment's mask is
its pixels brighter than 16 of 255; its box is the smallest that holds them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pi_lib.pretraining import supervised
from pi_lib.values import box_log_odds, log_odds, region_log_odds

BRIGHT = 16  # of 255
STRIDE = 4  # pixels from one position of a feature map to the next: ResNet-20's
FOUND = 0.5  # intersection over union from which a mask or box counts as right


@dataclass(frozen=True)
class Aim:
    """What a network is to say, and how it is judged.

    Attributes
    ----------
    head : callable
        From the length of a feature vector and the number of classes to a head.
    loss : callable
        As `pi_lib.pretraining.supervised`.
    correct : callable
        From outputs and targets of a batch to which samples are right, bool ``(B,)``.
    value : callable
        The value of a masked picture; see `pi_lib.values`.
    """

    head: Callable[[int, int], nn.Module]
    loss: Callable[..., tuple[Tensor, Tensor]]
    correct: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor, Tensor], Tensor]


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


def classified(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether the class with the largest logit is the true one: bool ``(B,)``."""
    return outputs.argmax(-1) == targets


def segmentation(model: nn.Module, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every pixel's class; targets are `maps` of `scenes`."""
    outputs = model(x)
    return F.cross_entropy(outputs, _classes(outputs, targets)), outputs


def segmented(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether the pixels said to be of the first object's class are its own: bool ``(B,)``."""
    own = targets[:, 0] >= 0
    said = outputs.argmax(1) == targets[:, 0].amax((1, 2))[:, None, None]
    union = (own | said).sum((1, 2))
    return (own & said).sum((1, 2)) > FOUND * union


def detection(model: nn.Module, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Class and box at every position; targets are `boxes` of `scenes`.

    As FCOS (arXiv 1904.01355, section 3), in short: a position near an object's middle is to say
    its class and its box, any other that nothing is there. Cross-entropy, averaged over either
    kind, plus the generalised IoU loss of the boxes.
    """
    from torchvision.ops import generalized_box_iou_loss

    outputs = model(x)
    at = _positions(outputs)  # (Q, 2)
    low, high = targets[..., 1:3], targets[..., 3:]
    middle, reach = (low + high) / 2, ((high - low) / 4).clamp(min=STRIDE / 2)
    near = ((at[None, None] - middle[:, :, None]).abs() <= reach[:, :, None]).all(-1)  # (B, 2, Q)
    said = outputs[..., 4:].log_softmax(-1)
    sample, which, position = near.nonzero(as_tuple=True)
    true = targets[sample, which]
    named = -said[sample, position, true[:, 0].long()].mean()
    nothing = -said[..., -1][~near.any(1)].mean()
    boxes = generalized_box_iou_loss(outputs[sample, position, :4], true[:, 1:], reduction="mean")
    return named + nothing + boxes, outputs


def detected(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether the likeliest box of the first object's class is its own: bool ``(B,)``."""
    from torchvision.ops import box_iou

    rows, label = torch.arange(len(outputs), device=outputs.device), targets[:, 0, 0].long()
    at = outputs[rows, :, 4 + label].sub(outputs[..., 4:].logsumexp(-1)).argmax(1)
    best = outputs[rows, at]
    overlap = box_iou(best[:, :4], targets[:, 0, 1:]).diagonal()
    return (best[:, 4:].argmax(-1) == label) & (overlap > FOUND)


def _classes(outputs: Tensor, maps: Tensor) -> Tensor:
    """The class of every pixel; the last is the background."""
    found = maps.amax(1)
    return found.where(found >= 0, outputs.shape[1] - 1)


class MapHead(nn.Module):
    """A head that reads an encoder's feature map ``(B, D, h, w)``, not its pooled features."""


class _PixelHead(MapHead):
    """Logits of every class and of the background, the last, for every pixel."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.conv = nn.Conv2d(features, classes + 1, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return F.interpolate(self.conv(maps), scale_factor=STRIDE, mode="bilinear")


class _BoxHead(MapHead):
    """A box, and logits of every class and of nothing, the last, at every position of a map."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.conv = nn.Conv2d(features, 4 + classes + 1, 1)

    def forward(self, maps: Tensor) -> Tensor:
        found = self.conv(maps).flatten(2).mT
        x, y = _positions(found).unbind(-1)
        left, top, right, bottom = (STRIDE * F.softplus(found[..., :4])).unbind(-1)
        edges = torch.stack([x - left, y - top, x + right, y + bottom], -1)
        return torch.cat([edges, found[..., 4:]], -1)


def _positions(outputs: Tensor) -> Tensor:
    """Middles of a square map's positions in pixels, x and y, row by row: (Q, 2)."""
    side = STRIDE * (torch.arange(round(outputs.shape[1] ** 0.5)) + 0.5)
    return torch.cartesian_prod(side, side).flip(-1).to(outputs)


AIMS = {
    "classification": Aim(nn.Linear, supervised, classified, log_odds),
    "segmentation": Aim(_PixelHead, segmentation, segmented, region_log_odds),
    "detection": Aim(_BoxHead, detection, detected, box_log_odds),
}

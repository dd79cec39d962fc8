"""What a network is to say of a picture: its class, the class of every pixel, or the boxes in it.

An `Aim` holds what differs: the head on the encoder, the loss, what counts as right, and the value
of a masked picture. Training, players and interactions are the same for all. Masks and boxes are
those of `pi_lib.study.data.scenes`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pi_lib.engine.outputs import model_output
from pi_lib.values import box_log_odds, log_odds, region_log_odds

STRIDE = 4  # pixels from one position of a feature map to the next: ResNet-20's
FOUND = 0.5  # intersection over union from which a mask or box counts as right


@dataclass(frozen=True)
class Aim:
    """What a network is to say, and how it is judged."""

    head: Callable[[int, int], nn.Module]  # of so many features and classes
    loss: Callable[..., tuple[Tensor, Tensor]]  # as `supervised`
    correct: Callable[[Tensor, Tensor], Tensor]  # outputs and targets to bool (B,)
    value: Callable[[Tensor, Tensor], Tensor]  # of a masked picture: see `pi_lib.values`


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
    classes = maps.amax(1)
    return classes.where(classes >= 0, outputs.shape[1] - 1)


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
        output = self.conv(maps).flatten(2).mT
        x, y = _positions(output).unbind(-1)
        left, top, right, bottom = (STRIDE * F.softplus(output[..., :4])).unbind(-1)
        edges = torch.stack([x - left, y - top, x + right, y + bottom], -1)
        return torch.cat([edges, output[..., 4:]], -1)


def _positions(outputs: Tensor) -> Tensor:
    """Middles of a square map's positions in pixels, x and y, row by row: (Q, 2)."""
    side = STRIDE * (torch.arange(round(outputs.shape[1] ** 0.5)) + 0.5)
    return torch.cartesian_prod(side, side).flip(-1).to(outputs)


def supervised(
    model: nn.Module, x: Tensor, labels: Tensor, *, output=None, **others
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the labels: mean over the batch, and the logits ``(B, C)``.

    `x` (B, ...) are inputs or token ids, `labels` (B,) int64, `others` further inputs of the model,
    as the attention mask. `output` says which part of what the model returns are the logits: see
    `pi_lib.engine.outputs.model_output`.
    """
    logits = model_output(model(x, **others), output)
    return F.cross_entropy(logits, labels), logits


def contrastive(
    model: nn.Module, x: Tensor, labels: Tensor, temperature: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Find a picture's other half among all others: SimCLR (arXiv 2002.05709, Eq. 1), no labels.

    The similarity is the cosine of the encoder's own features; there is no projection head.
    """
    if not model.training:
        return supervised(model, x, labels)
    z = F.normalize(model.features(torch.cat([augmented(x), augmented(x)])), dim=-1)
    similar = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(x))
    return F.cross_entropy(similar, partner), model.head(z[: len(x)]).detach()


def adversarial(
    model: nn.Module, x: Tensor, labels: Tensor, radius: float = 4 / 255
) -> tuple[Tensor, Tensor]:
    """Cross-entropy at the worst picture that one step finds: FGSM from a random start.

    Every pixel moves by at most `radius`, of a range of 1; a step is 1.25 times that (arXiv
    2001.03994, Algorithm 3).
    """
    if not model.training:
        return supervised(model, x, labels)
    start = torch.empty_like(x).uniform_(-radius, radius).requires_grad_()
    (slope,) = torch.autograd.grad(supervised(model, x + start, labels)[0], start)
    shift = (start.detach() + 1.25 * radius * slope.sign()).clamp(-radius, radius)
    return supervised(model, (x + shift).clamp(0, 1), labels)


OBJECTIVES = {"supervised": supervised, "contrastive": contrastive, "adversarial": adversarial}


def augmented(x: Tensor) -> Tensor:
    """Each picture cropped to 30 to 100 % of its area, mirrored or not, brighter or darker.

    From the global random state; (B, C, H, W) in [0, 1], as is the result.
    """
    batch = len(x)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, device=x.device, dtype=x.dtype)

    side = draw(0.3, 1).sqrt()
    mirror = 2.0 * (draw(0, 1) < 0.5) - 1
    move = torch.stack([side * mirror, side], -1)
    crop = torch.diag_embed(move)
    shift = (1 - side)[:, None] * torch.stack([draw(-1, 1), draw(-1, 1)], -1)
    grid = F.affine_grid(torch.cat([crop, shift[..., None]], -1), list(x.shape), False)
    cropped = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    mean = cropped.mean((-1, -2), keepdim=True)
    contrast, light = draw(0.6, 1.4).view(-1, 1, 1, 1), draw(-0.2, 0.2).view(-1, 1, 1, 1)
    return (mean + contrast * (cropped - mean) + light).clamp(0, 1)


AIMS = {
    "classification": Aim(nn.Linear, supervised, classified, log_odds),
    "segmentation": Aim(_PixelHead, segmentation, segmented, region_log_odds),
    "detection": Aim(_BoxHead, detection, detected, box_log_odds),
}

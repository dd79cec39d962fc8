"""What a backbone is pre-trained to do: name a picture, recognise it when changed, resist attack.

Each objective is a `loss` for `pi_lib.training.fit`: from a model, a batch and its labels to the
loss and the logits. In eval mode all are the cross-entropy, so that test loss and accuracy mean the
same; those of a contrastive run say nothing, as its head is not trained.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def supervised(model: nn.Module, x: Tensor, labels: Tensor, **others) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the labels.

    Examples
    --------
    >>> loss, logits = supervised(lambda x: x, torch.zeros(1, 2), torch.tensor([0]))
    >>> round(loss.item(), 3)
    0.693
    """
    logits = model(x, **others)
    logits = getattr(logits, "logits", logits)
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

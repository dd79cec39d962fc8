"""What a trained network can do elsewhere: on corrupted pictures, and on the task it came from.

A linear probe says what its encoder still knows of the task of pre-training, whose pictures, of
none of its classes, show how sure it is of strangers.
"""

import torch
from torch import Tensor, nn

from pi_lib import training
from pi_lib.engine import choose_device
from pi_lib.study import backbones
from pi_lib.training.seeds import seed_of

# The most samples of the task of pre-training: as many say what a probe of it can know.
SOURCE_TRAIN, SOURCE_TEST = 2000, 1000
AT_A_TIME = 256  # pictures


def noise(pictures: Tensor, number: int) -> Tensor:
    """Gaussian, of standard deviation 0.2; another for every picture."""
    generator = torch.Generator().manual_seed(seed_of("noise on pictures", number))
    return pictures + 0.2 * torch.randn(pictures.shape, generator=generator)


def blur(pictures: Tensor, _: int) -> Tensor:
    """Gaussian, of standard deviation 2 pixels, over 7; edges are mirrored."""
    from torchvision.transforms.functional import gaussian_blur

    return gaussian_blur(pictures, [7, 7], [2.0, 2.0])


def low_contrast(pictures: Tensor, _: int) -> Tensor:
    """Three tenths of it, about a middle grey."""
    return 0.5 + 0.3 * (pictures - 0.5)


def inverted(pictures: Tensor, _: int) -> Tensor:
    """Bright becomes dark."""
    return 1 - pictures


CORRUPTIONS = {"noise": noise, "blur": blur, "low contrast": low_contrast, "inverted": inverted}


def corrupted(pictures: Tensor, kind: str) -> Tensor:
    """Pictures under one of `CORRUPTIONS`: uint8 (N, C, H, W), the same every time."""
    parts = [
        CORRUPTIONS[kind](training.images(part), number)
        for number, part in enumerate(pictures.split(AT_A_TIME))
    ]
    return torch.cat([(255 * x.clamp(0, 1)).round().to(torch.uint8) for x in parts])


def logits(model: nn.Module, split: training.Split) -> Tensor:
    """What a network says of a split's pictures: (N, C), on the CPU."""
    device = choose_device("auto")
    batches = training.Batches(split, device)
    model = model.to(device).eval()
    with torch.no_grad():
        return torch.cat([model(batch["x"]) for batch, _ in batches.in_order(AT_A_TIME)]).cpu()


def source_kept(model: backbones.Classifier, source, tokenizer=None) -> Tensor:
    """Which test samples of a task a linear probe on the network's encoder gets right: bool (N,).

    Of the `source` (`pi_lib.study.data.Task`) at most 2000 training and 1000 test samples are
    taken; sentences need the `tokenizer`.
    """
    train, test = (
        split.take(range(min(most, len(split))))
        for split, most in ((source.train, SOURCE_TRAIN), (source.test, SOURCE_TEST))
    )
    fresh = backbones.transfer(model, len(source.classes))
    return training.linear_probe(fresh, train, test, tokenizer=tokenizer).correct[-1]

"""How a data set is made another one: which samples are chosen, or how its pictures look."""

import math
from dataclasses import replace

import numpy as np
import torch

from pi_lib.study.data.samples import DataSet, Samples
from pi_lib.training.objectives import AIMS


def shifted(data_set: DataSet, shift: str) -> DataSet:
    """A data set of which samples are chosen, or whose pictures are changed, by `SHIFTS`.

    Scenes are not made here: see `pi_lib.study.data.scenes`.
    """
    if shift in OF_PICTURES:
        return _both(data_set, lambda samples: _changed(samples, shift))
    if shift in ("odd", "even"):
        first = int(shift == "odd")
        return _both(data_set, lambda x: _chosen(x, np.arange(first, len(x.labels), 2)))
    half = (len(data_set.classes) + 1) // 2
    low, high = (0, half) if shift == "first-classes" else (half, len(data_set.classes))

    def of_classes(samples: Samples) -> Samples:
        at = np.flatnonzero((samples.labels >= low) & (samples.labels < high))
        chosen = _chosen(samples, at)
        return replace(chosen, labels=chosen.labels - low)

    return _both(replace(data_set, classes=data_set.classes[low:high]), of_classes)


def _both(data_set: DataSet, change) -> DataSet:
    return replace(data_set, train=change(data_set.train), test=change(data_set.test))


def _changed(samples: Samples, shift: str) -> Samples:
    change = OF_PICTURES[shift]

    def read(at: np.ndarray):
        pictures = samples.read(at)
        changed = map(change, pictures, samples.ids[at].tolist())
        return np.stack([*changed]) if isinstance(pictures, np.ndarray) else changed

    return replace(samples, inputs=read)


def _chosen(samples: Samples, at: np.ndarray) -> Samples:
    return Samples(lambda chosen: samples.read(at[chosen]), samples.labels[at], samples.ids[at])


def _inverted(picture: np.ndarray, _: int) -> np.ndarray:
    return 255 - picture


def _blurred(picture: np.ndarray, _: int) -> np.ndarray:
    from torchvision.transforms.functional import gaussian_blur

    sigma = max(picture.shape[:2]) / 14  # two of 28 pixels
    reach = 2 * math.ceil(2 * sigma) + 1
    reach = [min(reach, 2 * ((side + 1) // 2) - 1) for side in picture.shape[1::-1]]
    blurred = gaussian_blur(torch.from_numpy(np.array(picture)).permute(2, 0, 1), reach, sigma)
    return blurred.permute(1, 2, 0).numpy()


def _coloured(picture: np.ndarray, id: int) -> np.ndarray:
    """Dark and light become two random colours, the same for a sample whenever it is read."""
    light = picture.mean(-1, keepdims=True) / 255
    dark, bright = np.random.default_rng([20, id]).random((2, 3))
    return (255 * (dark + light * (bright - dark))).round().astype(np.uint8)


OF_PICTURES = {"inverted": _inverted, "blurred": _blurred, "coloured": _coloured}
SCENES = tuple(name for name in AIMS if name != "classification")
SHIFTS = ("odd", "even", "first-classes", "last-classes", *OF_PICTURES, *SCENES)
# Pairs of shifts that share no sample.
DISJOINT = ({"odd", "even"}, {"first-classes", "last-classes"})

"""Reading pictures: files cropped to a box, JPEGs packed end to end; their size, their mean."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pi_lib.progress import track
from pi_lib.study import assets
from pi_lib.study.data.samples import DataSet, Samples

if TYPE_CHECKING:
    import PIL.Image

CROPPED = "cropped to the bounding boxes"
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels, counted from 0


def resized(pictures: np.ndarray | Iterator[np.ndarray], size: int | None) -> Tensor:
    """(N, H, W, C) uint8 to (N, 3, size, size) uint8; grey becomes three equal channels.

    Bilinear, with antialiasing. `pictures` may be an iterator of (H, W, C) arrays.
    """
    if not isinstance(pictures, np.ndarray):
        return torch.cat([resized(picture[None], size) for picture in pictures])
    out = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    if size is not None and tuple(out.shape[-2:]) != (size, size):
        resize = {"size": (size, size), "mode": "bilinear", "antialias": True}
        parts = [F.interpolate(part.float(), **resize).round().byte() for part in out.split(1024)]
        out = torch.cat(parts)
    return out.expand(-1, 3, -1, -1).contiguous()


def mean(pictures: Tensor) -> Tensor:
    """Mean of each channel in [0, 1]: (N, C, H, W) uint8 to (C,) float32."""
    means = [part.float().mean((-2, -1)) for part in pictures.split(1024)]  # of each image
    return torch.cat(means).double().mean(0).div(255).float()


def files(name: str, paths: Sequence[Path], boxes: Sequence[Box]):
    """A reader of image files, each cropped to its box."""
    from PIL import Image

    return photos(name, lambda i: Image.open(paths[i]), lambda i: str(paths[i]), boxes)


def photos(
    name: str,
    picture: Callable[[int], "PIL.Image.Image"],
    what: Callable[[int], str],
    boxes: Sequence[Box] | None = None,
) -> Callable[[np.ndarray], Iterator[np.ndarray]]:
    """A reader that opens and decodes a picture when it is its turn."""

    def read(at: np.ndarray) -> Iterator[np.ndarray]:
        for i in track(at, f"{name}: images"):
            try:
                with picture(i) as opened:
                    part = pixels(opened, None if boxes is None else boxes[i], what(i))
            except (OSError, SyntaxError) as error:
                raise ValueError(f"{what(i)} cannot be read as an image: {error}") from error
            yield part

    return read


def pixels(picture: "PIL.Image.Image", box: Box | None, what: str) -> np.ndarray:
    """The part of a picture that lies in a box, or all of it: (H, W, 3) uint8.

    What a box has beyond the border is cut off: annotators drew some a little too large.
    """
    if box is not None:
        width, height = picture.size
        left, top, right, bottom = map(float, box)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        inside = max(x1 - x0, 0) * max(y1 - y0, 0)
        area = (right - left) * (bottom - top)
        if not (left < right and top < bottom and inside >= area / 2):
            raise ValueError(
                f"{what}: the bounding box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) is "
                f"empty, or for the most part outside the image of {width}x{height} pixels: image "
                "and box are not of the same copy of the data"
            )
        picture = picture.crop((math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)))
    if picture.mode[0] in "IF":  # of which Pillow would make white
        raise ValueError(
            f"{what} has levels beyond 255 (mode {picture.mode!r}): save it with 8 bits a channel"
        )
    return np.array(picture.convert("RGB"))


def packed_jpegs(
    name: str, names: tuple[str, str], origin: str, folder: str | Path | None
) -> DataSet:
    """Two files that `pack` wrote: image i is ``jpeg[offset[i]:offset[i + 1]]``."""

    def read(file: Path) -> tuple[Samples, tuple[str, ...]]:
        from PIL.JpegImagePlugin import JpegImageFile  # half as long again by Image.open

        with np.load(file, allow_pickle=False) as arrays:
            jpeg, offset, label, classes = (
                arrays[key] for key in ("jpeg", "offset", "label", "classes")
            )

        def picture(i: int) -> JpegImageFile:
            return JpegImageFile(io.BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes()))

        decode = photos(name, picture, lambda i: f"{file}, image {i}")
        return Samples(decode, label), tuple(classes.tolist())

    own = (assets.OWN, lambda: assets.own_paths(names, folder))
    (train, classes), (test, _) = map(read, assets.first(name, [own], ", ".join(names)))
    return DataSet(classes, train, test, origin)


def pack(
    file: Path,
    pictures: Sequence[np.ndarray],
    labels: Sequence[int],
    classes: Sequence[str],
    quality: int = 75,
    **columns: np.ndarray,
) -> None:
    """Write pictures (H, W, 3) uint8 as JPEGs end to end, with their labels and further columns."""
    from PIL import Image

    packed = []
    for picture in pictures:
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "jpeg", quality=quality)
        packed.append(content.getvalue())
    np.savez(
        file,
        jpeg=np.frombuffer(b"".join(packed), dtype=np.uint8),
        offset=np.cumsum([0, *map(len, packed)]),
        label=np.array(labels, dtype=np.uint8),
        classes=np.array(classes),
        **columns,
    )

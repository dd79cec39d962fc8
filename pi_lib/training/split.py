"""Samples and their labels, and batches of them.

The data lie on the device, images as bytes and sentences as tokens, and are fetched a batch at a
time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

MOST_TOKENS = 128  # of a sentence; the rest is cut off


@dataclass(frozen=True, eq=False)
class Split:
    """Samples and their labels.

    Attributes
    ----------
    inputs : (N, C, H, W) uint8, or list of N str
        Images or sentences.
    labels : (N,) int64
        Class numbers.
    ids : list of N int
        Index of each sample in its source, which no subset or seed changes.
    targets : (N, ...), optional
        What a network is to say, where that is not the class: maps or boxes of
        `pi_lib.study.data.scenes`, first those of the object that is of class `labels`.

    Examples
    --------
    >>> split = Split(["good", "bad", "fine"], torch.tensor([1, 0, 1]), [7, 8, 9])
    >>> split.take([2, 0])
    Split(inputs=['fine', 'good'], labels=tensor([1, 1]), ids=[9, 7])
    """

    inputs: Tensor | list[str]
    labels: Tensor
    ids: list[int]
    targets: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Sequence[int] | Tensor) -> "Split":
        """The samples at these positions of the split, in this order."""
        at = torch.as_tensor(indices, dtype=torch.int64).tolist()
        inputs = (
            self.inputs[at] if isinstance(self.inputs, Tensor) else [self.inputs[i] for i in at]
        )
        targets = None if self.targets is None else self.targets[at]
        return Split(inputs, self.labels[at], [self.ids[i] for i in at], targets)


def images(inputs: Tensor) -> Tensor:
    """Images as models take them: uint8 to float32 in [0, 1], same shape.

    Examples
    --------
    >>> images(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
    """
    if not isinstance(inputs, Tensor) or inputs.dtype != torch.uint8:
        got = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(f"expected images as a uint8 tensor; got {got}")
    return inputs.float().div_(255)


class Batches:
    """A split on a device, where it lies once: batches are one gather each.

    Images stay bytes and become floats by the batch; sentences become tokens once, cut at 128, and
    the model gets what the tokenizer gives, first the token ids. A split that would take more than
    a quarter of a GPU's free memory stays where it is, and batches travel.

    A ValueError for sentences without a tokenizer (a fast one of `transformers`).
    """

    def __init__(self, split: Split, device: torch.device, tokenizer=None):
        self.device, self.lengths, self.left = device, None, False
        labels = split.labels if split.targets is None else split.targets
        self.labels = self._placed(torch.as_tensor(labels))
        inputs = {"x": split.inputs}
        if not isinstance(split.inputs, Tensor):
            inputs = self._tokens(list(split.inputs), tokenizer)
        self.inputs = {name: self._placed(x) for name, x in inputs.items()}

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, order: Tensor, size: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Inputs by name, `x` first, and labels or targets, `size` samples at a time.

        `order` (n,) int64, on the CPU, holds positions in the split; the last batch may be smaller.
        """
        at = order.to(self.labels.device)
        for start in range(0, len(order), size):
            chosen = at[start : start + size]
            batch = {
                name: x.index_select(0, chosen.to(x.device)) for name, x in self.inputs.items()
            }  # ten times as fast as x[chosen]
            if self.lengths is not None:
                longest = int(self.lengths[order[start : start + size]].max())
                kept = slice(-longest, None) if self.left else slice(longest)
                batch = {name: x[:, kept] for name, x in batch.items()}
            batch = {name: x.to(self.device) for name, x in batch.items()}
            if batch["x"].dtype == torch.uint8:
                batch["x"] = images(batch["x"])
            yield batch, self.labels[chosen].to(self.device)

    def in_order(self, size: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """All samples as they come, `size` at a time."""
        return self(torch.arange(len(self)), size)

    def _placed(self, x: Tensor) -> Tensor:
        if self.device.type == "cuda" and x.nbytes > torch.cuda.mem_get_info(self.device)[0] / 4:
            return x
        return x.to(self.device)

    def _tokens(self, texts: list, tokenizer) -> dict[str, Tensor]:
        if tokenizer is None:
            raise ValueError("sentences need a tokenizer: pass tokenizer=")
        tokens = tokenizer(
            texts, padding=True, truncation=True, return_attention_mask=True, return_tensors="pt",
            max_length=min(MOST_TOKENS, tokenizer.model_max_length),
        )  # fmt: skip
        self.lengths, self.left = tokens["attention_mask"].sum(1), tokenizer.padding_side == "left"
        others = [x for x in tokenizer.model_input_names if x != "input_ids" and x in tokens]
        return {"x": tokens["input_ids"]} | {name: tokens[name] for name in others}

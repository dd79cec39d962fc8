"""Players given by label maps: superpixels, regions, token groups, anything."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from pi_lib.players.placement import Placement, by_sample, checked_others, describe, one_of


class LabelMapPlayers:
    """Players given by label maps: superpixels, regions, token groups, anything.

    Parameters
    ----------
    owner : int Tensor
        Player 0..n-1 of each element, -1 for the background: one map for every sample, of the
        shape of one input without its channel axis; or with ``per_sample=True`` a map for each of
        the B samples that are placed together, ``(B, ...)``.
    baseline : Tensor or float
        What masks an element; broadcast to one input, and of a value that the inputs' type has.
    background : "keep" or "mask"
        What becomes of the elements that belong to no player.
    names : sequence of str, optional
        One per player; default "0", "1", ...
    per_sample : bool, optional
        Whether `owner` holds a map for each sample. Default one map for all; labels that could be
        read as either on the inputs at hand are then refused, so say True or False.
    others
        As in `PatchPlayers`.

    Raises
    ------
    ValueError
        If a player between 0 and the largest label owns no element (in one of the maps), or a
        label is below -1.

    Examples
    --------
    >>> LabelMapPlayers(torch.tensor([0, 0, 1, -1]), baseline=0.0).n
    2
    >>> players = LabelMapPlayers(torch.tensor([[0, 0, 1], [1, 0, 0]]), per_sample=True)
    >>> [placement.owner.tolist() for placement in players.place(torch.rand(2, 3))]
    [[[0, 0, 1]], [[1, 0, 0]]]
    """

    def __init__(
        self,
        owner: Tensor,
        baseline: Tensor | float = 0.0,
        *,
        background: Literal["keep", "mask"] = "keep",
        names: Sequence[str] | None = None,
        per_sample: bool | None = None,
        others: Mapping[str, Tensor] | None = None,
    ):
        one_of("background", background, ("keep", "mask"))
        owner = torch.as_tensor(owner)
        if owner.is_floating_point() or owner.dtype == torch.bool:
            raise ValueError(
                f"expected integer labels; got {owner.dtype}. For one boolean mask per player use "
                "LabelMapPlayers.from_masks(masks)"
            )
        owner = owner.long()
        if owner.numel() == 0 or owner.min() < -1:
            raise ValueError("labels are 0..n-1 for players and -1 for the background")
        if per_sample and owner.ndim < 2:
            raise ValueError(f"expected a map for each sample, (B, ...); got {describe(owner)}")
        self.n = int(owner.max()) + 1
        if self.n == 0:
            raise ValueError("the label map holds no player: every element is background (-1)")
        for sample, labels in enumerate(owner if per_sample else owner[None]):
            if empty := sorted(set(range(self.n)) - set(labels.unique().tolist())):
                where = f" of sample {sample} of {len(owner)}" if per_sample else ""
                raise ValueError(
                    f"players {empty} own no element of the label map{where}; number them 0..n-1"
                )
        self.owner = torch.where(owner < 0, self.n + (background == "mask"), owner)
        self.baseline, self.background = torch.as_tensor(baseline), background
        self.per_sample = per_sample
        self.names = [str(name) for name in (range(self.n) if names is None else names)]
        if len(self.names) != self.n:
            raise ValueError(f"{len(self.names)} names for {self.n} players")
        self.others = checked_others(others)

    @classmethod
    def from_masks(cls, masks: Tensor, baseline: Tensor | float = 0.0, **options):
        """Players given by one boolean mask each, neither overlapping nor empty.

        `masks` are ``(n, ...)``, or with ``per_sample=True`` ``(B, n, ...)``.
        """
        masks = torch.as_tensor(masks).bool()
        axis = 1 if options.get("per_sample") else 0  # of the players
        if (overlap := masks.sum(axis) > 1).any():
            where = tuple(torch.nonzero(overlap)[0].tolist())
            both = torch.nonzero(masks.movedim(axis, -1)[where])[:, 0].tolist()
            raise ValueError(f"players {both} overlap at element {where}; an element has one owner")
        if not (owns := masks.flatten(axis + 1).any(-1)).all():
            empty = sorted(set(torch.nonzero(~owns)[:, -1].tolist()))
            raise ValueError(f"players {empty} own no element")
        owner = torch.where(masks.any(axis), masks.int().argmax(axis), -1)
        return cls(owner, baseline, **options)

    def place(self, inputs: Tensor, ids: Sequence[int] | None = None) -> list[Placement]:
        """Placements of inputs ``(B, *shape)`` or ``(B, C, *shape)``, as a label map is shaped.

        Raises ValueError if a label map does not cover the inputs, if there is not one for each of
        them where there should be, or if the labels could be one map as well as one for each
        sample.
        """
        shape = tuple(self.owner.shape[1:] if self.per_sample else self.owner.shape)
        if not isinstance(inputs, Tensor) or inputs.ndim < 1 + len(shape):
            raise ValueError(
                f"expected a tensor of inputs (B, *{shape}) or (B, C, *{shape}); got "
                f"{describe(inputs)}"
            )
        as_many = self.owner.ndim > 1 and len(self.owner) == len(inputs)  # maps as samples
        if self.per_sample and not as_many:
            raise ValueError(
                f"{len(self.owner)} label maps for {len(inputs)} samples; place them together"
            )
        if not _lies_on(shape, inputs):
            as_maps = as_many and _lies_on(tuple(self.owner.shape[1:]), inputs)
            hint = ". For one map per sample pass per_sample=True" if as_maps else ""
            raise ValueError(
                f"the label map of shape {shape} does not lie on inputs of shape "
                f"{tuple(inputs.shape[1:])}: players would be outside the input{hint}"
            )
        if self.per_sample is None and as_many and _lies_on(shape[1:], inputs) and len(inputs) > 1:
            raise ValueError(
                f"labels of shape {shape} on inputs of shape {tuple(inputs.shape)} could be one "
                f"map for all, or {len(inputs)} maps, one per sample: pass per_sample=False or True"
            )
        maps = self.owner if self.per_sample else self.owner.expand(len(inputs), *shape)
        axes = (None,) * (inputs.ndim - len(shape))
        baseline = self.baseline.to(inputs.dtype)
        if not inputs.is_floating_point() and (differs := baseline != self.baseline).any():
            raise ValueError(
                f"the baseline {self.baseline[differs][0].item()} would be "
                f"{baseline[differs][0].item()} in inputs of {inputs.dtype}: give inputs of a type "
                "that has it, as inputs.float(), or another baseline"
            )
        others = by_sample(self.others, len(inputs))
        return [
            Placement(x[None], labels[axes], baseline, list(self.names), sample_others)
            for x, labels, sample_others in zip(inputs, maps, others, strict=True)
        ]


def _lies_on(shape: tuple[int, ...], inputs: Tensor) -> bool:
    """Whether a label map of that shape covers inputs (B, *shape) or (B, C, *shape)."""
    ends = tuple(inputs.shape[inputs.ndim - len(shape) :]) == shape
    return ends and bool(shape) and 1 <= inputs.ndim - len(shape) <= 2

"""Coalitions of players as bitmasks: the one index convention that every module shares.

A game on `n` players is an array of length ``2**n`` along its last axis. Bit `i` of an
index says whether player `i` belongs to the coalition: index 0 is the empty coalition,
``2**n - 1`` the grand coalition, and ``0b101`` the coalition {0, 2}.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def players_in_game(game: Tensor) -> int:
    """Number of players `n` of a game whose last axis has ``2**n`` entries.

    Raises ValueError if `game` has no axis, or its last axis is not a power of two.

    Examples
    --------
    >>> players_in_game(torch.zeros(5, 8))
    3
    """
    size = game.shape[-1] if game.ndim else 0
    if size < 1 or size & (size - 1):
        raise ValueError(
            f"expected 2**n values along the last axis, one per coalition of n players; "
            f"got shape {tuple(game.shape)}"
        )
    return size.bit_length() - 1


def order(n: int) -> Tensor:
    """Order ``|S|`` of every coalition of `n` players: int64, shape ``(2**n,)``.

    Examples
    --------
    >>> order(2).tolist()
    [0, 1, 1, 2]
    """
    return membership(n).sum(-1)


def membership(n: int) -> Tensor:
    """Which players each coalition holds: bool, shape ``(2**n, n)``.

    Examples
    --------
    >>> membership(2).int().tolist()
    [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    return (torch.arange(2**n)[:, None] >> torch.arange(n)) & 1 == 1


def members(coalition: int) -> list[int]:
    """Players of one coalition, ascending.

    Examples
    --------
    >>> members(0b101)
    [0, 2]
    """
    return [i for i in range(int(coalition).bit_length()) if coalition >> i & 1]


def coalition(players: Iterable[int]) -> int:
    """Bitmask of a set of players; the inverse of `members`.

    Examples
    --------
    >>> coalition([0, 2])
    5
    """
    return sum(1 << player for player in set(players))


def label(coalition: int, names: Sequence[str]) -> str:
    """A coalition written with its players' names, for tables and plots.

    Examples
    --------
    >>> label(0b101, ["not", "a", "bad"])
    '{not, bad}'
    """
    return "{" + ", ".join(names[i] for i in members(coalition)) + "}"

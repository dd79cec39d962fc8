"""Between the values of a game and its interactions: exact butterflies, O(n 2**n).

Arrays hold one game along the last axis (`pi_lib.coalitions`), any number of games along
the axes before it. Everything is computed in float64 on the device of the input.

AND interactions are Harsanyi dividends, the Möbius transform of the game (arXiv 2410.08455,
Eq. 2): ``I_and(S) = sum_{T subset S} (-1)**(|S|-|T|) v(T)``. OR interactions are the dual:
``I_or(S) = -sum_{T subset S} (-1)**(|S|-|T|) v(N \\ T)`` for nonempty S.

Walsh (Fourier) coefficients are the game in an orthonormal basis: noise of standard deviation s in
every value is noise of ``s / 2**(n/2)`` in every coefficient, where a dividend of order m has
``2**(m/2) s``.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from pi_lib.coalitions import members, players_in_game


def and_transform(v: Tensor) -> Tensor:
    """AND interactions (Harsanyi dividends) of the games `v`.

    Parameters
    ----------
    v : (..., 2**n) real
        Value of every coalition.

    Returns
    -------
    (..., 2**n) float64
        ``I_and(S)``, in the unit of `v`; at index 0 the value of the empty coalition.

    Raises
    ------
    ValueError
        If the last axis is not a power of two, or a value is NaN or infinite.

    Examples
    --------
    >>> and_transform(torch.tensor([0., 1., 2., 5.])).tolist()
    [0.0, 1.0, 2.0, 2.0]
    """
    return _butterfly(checked(v), -1)


def and_inverse(interactions: Tensor) -> Tensor:
    """Values ``v(T) = sum_{S subset T} I_and(S)`` from AND interactions; shapes as `and_transform`.

    Examples
    --------
    >>> and_inverse(torch.tensor([0., 1., 2., 2.])).tolist()
    [0.0, 1.0, 2.0, 5.0]
    """
    return _butterfly(checked(interactions), +1)


def or_transform(v: Tensor) -> Tensor:
    """OR interactions of the games `v`: what a coalition adds as soon as any member is present.

    Shapes, unit, index 0 and errors as `and_transform`.

    Examples
    --------
    >>> or_transform(torch.tensor([0., 1., 1., 1.])).tolist()
    [0.0, 0.0, 0.0, 1.0]
    """
    v = checked(v)
    # the complement of T has the mirrored index; 0 - x, unlike -x, has no negative zeros
    interactions = 0 - _butterfly(v.flip(-1), -1)
    interactions[..., 0] = v[..., 0]
    return interactions


def or_inverse(interactions: Tensor) -> Tensor:
    """Values ``v(T) = v({}) + sum_{S meets T} I_or(S)``; shapes as `or_transform`.

    Examples
    --------
    >>> or_inverse(torch.tensor([0., 0., 0., 1.])).tolist()
    [0.0, 1.0, 1.0, 1.0]
    """
    nonempty = checked(interactions).clone()
    empty = nonempty[..., :1].clone()
    nonempty[..., 0] = 0
    inside = _butterfly(nonempty, +1)
    return empty + inside[..., -1:] - inside.flip(-1)


def walsh_transform(v: Tensor) -> Tensor:
    """Walsh (Fourier) coefficients of the games `v`.

    ``w(S) = 2**-n sum_T (-1)**(|S|-|S & T|) v(T) = sum_{T contains S} 2**-|T| I_and(T)``, which is
    ``2**-|S|`` times the Banzhaf interaction index of S (Grabisch and Roubens 1999). They are
    orthonormal over uniformly random coalitions: ``sum_{S != {}} w(S)**2`` is the variance of v.
    Shapes, unit and errors as `and_transform`; at index 0 the mean of `v`.

    Examples
    --------
    >>> walsh_transform(torch.tensor([0., 1., 2., 5.])).tolist()
    [2.0, 1.0, 1.5, 0.5]
    """
    game = _copy(checked(v))
    for without, with_player in _pairs(game):
        without.add_(with_player).div_(2)
        with_player.sub_(without)  # (with - without) / 2
    return game


def walsh_inverse(coefficients: Tensor) -> Tensor:
    """Values ``v(T) = sum_S (-1)**(|S|-|S & T|) w(S)``; shapes as `walsh_transform`.

    Examples
    --------
    >>> walsh_inverse(torch.tensor([2., 1., 1.5, 0.5])).tolist()
    [0.0, 1.0, 2.0, 5.0]
    """
    game = _copy(checked(coefficients))
    for without, with_player in _pairs(game):
        without.sub_(with_player)
        with_player.mul_(2).add_(without)
    return game


def _copy(game: Tensor) -> Tensor:
    return game.clone(memory_format=torch.contiguous_format)


def _pairs(game: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of `game` without and with each player in turn."""
    for player in range(players_in_game(game)):
        yield game.unflatten(-1, (-1, 2, 2**player)).unbind(-2)


def _butterfly(game: Tensor, sign: int) -> Tensor:
    """Möbius (sign -1) or zeta (sign +1) transform along the last axis, one pass per player."""
    game = _copy(game)
    for without, with_player in _pairs(game):
        with_player.add_(without, alpha=sign)
    return game


def checked(game: Tensor) -> Tensor:
    """`game` as float64, refused if it is no game or holds a value that is not finite."""
    game = torch.as_tensor(game)
    if game.is_complex():
        raise ValueError(f"expected real values, one per coalition; got {game.dtype}")
    game = game.to(torch.float64)
    players_in_game(game)
    if not (finite := game.isfinite()).all():
        *where, index = (~finite).nonzero()[0].tolist()
        sample = f"sample {where[0] if len(where) == 1 else tuple(where)}, " if where else ""
        raise ValueError(
            f"expected finite values; got {game[(*where, index)].item()} at {sample}"
            f"coalition {index} (players {members(index)})"
        )
    return game

"""The AND-OR split of games, alone or several models' together: what is asked, what is answered."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pi_lib.and_or.solver import solve
from pi_lib.transforms import and_inverse, checked, or_inverse

CHUNK = {"cpu": 2**16, "cuda": 2**24}  # values solved together: what fits the cache, the memory


@dataclass(frozen=True)
class AndOrSplit:
    """A game as AND plus OR interactions, and how good the answer is.

    Attributes
    ----------
    i_and, i_or : (..., 2**n) float64
        Interactions in the unit of `v`. ``i_and[..., 0]`` is ``v({})``, ``i_or[..., 0]`` is 0.
        Interactions of order 1 are the same function either way and are reported as AND.
    objective : (...) float64
        What was minimised, at this answer: for `and_or_split` the sum of absolute interactions.
    bound : (...) float64
        No split within the same noise has a smaller objective than this.
    gap : (...) float64
        ``(objective - bound) / objective``.
    residual : (...) float64
        Largest ``|reconstruction - v|`` over coalitions, in the unit of `v`.
    converged : (...) bool
        Whether ``gap <= tol``.
    iterations : (...) int64
        Iterations spent on each game.
    """

    i_and: Tensor
    i_or: Tensor
    objective: Tensor
    bound: Tensor
    gap: Tensor
    residual: Tensor
    converged: Tensor
    iterations: Tensor


def and_or_split(
    v: Tensor, noise: float = 0.0, tol: float = 1e-3, *, max_iterations: int = 10_000
) -> AndOrSplit:
    """Split games into the AND and OR interactions of least total strength.

    Parameters
    ----------
    v : (..., 2**n) real
        Value of every coalition; each game of the leading axes is solved on its own.
    noise : float, default 0
        Share of ``|v(N) - v({})|`` by which each coalition's value may be missed; 0 is exact.
    tol : float, default 1e-3
        Relative duality gap at which a game is done.
    max_iterations : int, default 10,000
        Games that have not reached `tol` by then are returned as they are, with a warning.

    Returns
    -------
    AndOrSplit
        On the device of `v`; objective, bound, gap and residual per game (leading shape of `v`).

    Raises
    ------
    ValueError
        If the last axis is not a power of two, a value is NaN or infinite, or `noise` or `tol`
        is negative.

    Warns
    -----
    RuntimeWarning
        If games stay above `tol`: how many, and the worst gap.

    Notes
    -----
    An interaction is settled only up to ``gap * objective``: smaller ones may be remnants of the
    iteration rather than zeros of the optimum; ask for a smaller `tol` to see those vanish.

    The answer scales with `v` and, but for rounding, does not depend on the other games of a batch.
    Where several splits are optimal, it is the one that the iteration reaches from zero: nothing is
    random, a smaller `tol` goes further along the same path, and players, and AND and OR, are
    treated alike, so that equal players get equal interactions, and without noise the dual game
    swaps `i_and` and `i_or` (above order 1).

    Examples
    --------
    >>> split = and_or_split(torch.tensor([0.0, 1.0, 1.0, 1.0]))  # 1 as soon as anyone is there
    >>> split.i_or.round(decimals=2).tolist(), bool(split.converged)
    ([0.0, 0.0, 0.0, 1.0], True)
    """
    v = checked(v)
    split = _split(v.unsqueeze(-2), 0.0, noise, tol, max_iterations)
    return replace(split, i_and=split.i_and.squeeze(-2), i_or=split.i_or.squeeze(-2))


def shared_split(
    v: Tensor,
    alpha: float = 1.0,
    noise: float = 0.0,
    tol: float = 1e-3,
    *,
    max_iterations: int = 10_000,
) -> AndOrSplit:
    """Split games of several models of one sample together, so that they share interactions.

    Minimises ``sum_S max_m |I_m(S)| + alpha sum_S sum_m |I_m(S)|`` over AND and OR interactions
    (arXiv 2401.16318): an interaction that one model has costs the others less.

    Parameters
    ----------
    v : (..., models, 2**n) real
        Values of the same coalitions for every model or checkpoint.
    alpha : float, default 1
        Weight of each model's own strength against what is shared; at least 0. A large `alpha`
        approaches one `and_or_split` per model.
    noise, tol, max_iterations
        As in `and_or_split`; `noise` is a share of each model's own ``|v(N) - v({})|``.

    Returns
    -------
    AndOrSplit
        Interactions of the shape of `v`; objective, bound, gap and residual per sample (shape of
        `v` without its last two axes).

    Raises
    ------
    ValueError
        As `and_or_split`, or if `v` has no axis of models, or `alpha` is negative.

    Examples
    --------
    >>> v = torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0, 2.0, 2.0, 2.0]])
    >>> shared_split(v).objective.round(decimals=1).item()  # max(1, 2) + 1 * (1 + 2)
    5.0
    """
    v = checked(v)
    if v.ndim < 2 or not v.shape[-2]:
        raise ValueError(
            f"expected values of shape (..., models, 2**n); got {tuple(v.shape)}. "
            "For one model use and_or_split"
        )
    if not 0 <= alpha < float("inf"):
        raise ValueError(f"alpha weighs the strength of interactions: at least 0; got {alpha}")
    return _split(v, float(alpha), noise, tol, max_iterations)


def _split(v: Tensor, alpha: float, noise: float, tol: float, max_iterations: int) -> AndOrSplit:
    """Both forms: `v` (..., models, 2**n), already checked."""
    for name, value in {"noise": noise, "tol": tol}.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} is a share: expected a finite number >= 0; got {value}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1; got {max_iterations}")

    lead, (models, size) = v.shape[:-2], v.shape[-2:]
    w = (v - v[..., :1]).reshape(-1, models, size)
    box = noise * w[..., -1].abs() if noise else None
    games = w.shape[0]
    i_and, i_or = torch.zeros_like(w), torch.zeros_like(w)
    numbers = w.new_zeros(2, games)  # bound, iterations

    # Where zero is within the box there is nothing to do; the rest is solved in unit scale.
    scale = (w.amax(-1) - w.amin(-1)).amax(-1)
    allowed = torch.zeros_like(w[..., -1]) if box is None else box
    todo = torch.nonzero((w.abs().amax(-1) > allowed).any(-1))[:, 0]
    chunk = max(1, CHUNK.get(v.device.type, CHUNK["cuda"]) // (models * size))
    with _threads_that_pay(models * size):
        for part in todo.split(chunk) if len(todo) else ():
            unit = scale[part, None, None]
            i_and[part], i_or[part], numbers[:, part] = solve(
                w[part] / unit, None if box is None else box[part] / unit[..., 0], alpha, tol,
                max_iterations,
            )  # fmt: skip
            i_and[part] *= unit
            i_or[part] *= unit
            numbers[0, part] *= scale[part]

    bound, iterations = numbers
    strength = torch.stack([i_and, i_or]).abs()
    objective = (strength.amax(2) + alpha * strength.sum(2)).sum((0, 2))
    gap = torch.where(objective > 0, 1 - bound / objective, 0.0).clamp(min=0)
    converged = gap <= tol
    if not converged.all():
        warnings.warn(
            f"{int((~converged).sum())} of {games} games did not reach tol={tol:g} in "
            f"{max_iterations} iterations: worst relative gap {gap.max().item():.2g}. Raise "
            "max_iterations or tol",
            RuntimeWarning,
            stacklevel=3,
        )
    i_and, i_or = i_and.reshape(v.shape), i_or.reshape(v.shape)
    i_and[..., 0] = v[..., 0]
    residual = (and_inverse(i_and) + or_inverse(i_or) - v).abs().amax((-1, -2)).flatten()
    numbers = (objective, bound, gap, residual, converged, iterations.long())
    return AndOrSplit(i_and, i_or, *(x.reshape(lead) for x in numbers))


@contextmanager
def _threads_that_pay(values: int) -> Iterator[None]:
    """One thread where a game of so many `values` fits the cache; the caller's number afterwards.

    The matrices are then so small that a second thread mostly waits for the first.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if values <= CHUNK["cpu"] else threads)
        yield
    finally:
        torch.set_num_threads(threads)

"""The AND-OR split: the sparsest way to write a game as AND plus OR interactions, certified.

With ``w = v - v({})`` and, over nonempty coalitions, ``Z[T, S] = [S subset T]`` and
``O[T, S] = [S meets T]``, the split is the linear program (basis pursuit)

    minimise  sum |a| + sum |b|   subject to   |Z a + O b - w| <= box

with ``a`` the AND and ``b`` the OR interactions. The box is 0 (exact reconstruction) or a share
of ``|v(N) - v({})|`` for every coalition (the noise-tolerant form of arXiv 2409.08712).

It is solved by Douglas-Rachford splitting, reflected, pulled back towards an anchor (Halpern)
and restarted with new step lengths whenever it has made enough progress, as in HPR-LP
(arXiv 2408.12179). Every iterate carries a dual point, so every answer carries a lower bound on
what any split could reach. Nothing of size ``2**n x 2**n`` is ever formed: see `_Constraint`.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from pi_lib.coalitions import order
from pi_lib.transforms import and_inverse, checked, or_inverse

CHECK_EVERY = 10  # iterations between two looks at progress and certificate
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

    The answer scales with `v` and does not depend on the other games of a batch. Where several
    splits are optimal, it is the one that the iteration reaches from zero: nothing is random, a
    smaller `tol` goes further along the same path, and players, and AND and OR, are treated
    alike, so that equal players get equal interactions, and without noise the dual game swaps
    `i_and` and `i_or` (above order 1).

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
            i_and[part], i_or[part], numbers[:, part] = _solve(
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


def _solve(
    w: Tensor, box: Tensor | None, alpha: float, tol: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """AND, OR and (bound, iterations) of games `w` (games, models, 2**n), unit scale."""
    i_and, i_or = torch.zeros_like(w), torch.zeros_like(w)
    numbers = w.new_zeros(2, len(w))
    solver = _Solver.start(w, box, alpha)
    for iteration in range(1, max_iterations + 1):
        check = iteration % CHECK_EVERY == 0 or iteration == max_iterations
        solver.step(check)
        if not check:
            continue
        done = solver.certify(tol) | (iteration == max_iterations)
        solver.restart(iteration)
        if done.any():
            games = solver.games[done]
            i_and[games], i_or[games] = (x[done] for x in solver.interactions())
            numbers[0, games], numbers[1, games] = solver.bound[done], iteration
            if done.all():
                break
            solver.drop(done)

    alone = order(w.shape[-1].bit_length() - 1).to(w.device) == 1
    i_and[..., alone] += i_or[..., alone]
    i_or[..., alone] = 0
    return i_and, i_or, numbers


@dataclass
class _Solver:
    """The iteration's state, for the games that are not done.

    The unknowns a and b and, with noise, the deviation e (``Z a + O b + e = w``) are rows of one
    tensor `x`. Proximal steps of the penalty and of the constraint alternate, in a metric that
    each game adapts when it restarts: `length` for a and b, ``length * ratio`` for e.
    """

    con: "_Constraint"
    models: int
    alpha: float
    w: Tensor  # (rows, games * models, columns), as x and anchor
    box: Tensor | None  # (games * models, columns)
    x: Tensor
    anchor: Tensor
    # One number per game: its place in the batch, the best lower bound, lengths of steps, steps
    # since the restart, distance from the constraint at the first and the latest check since.
    games: Tensor
    bound: Tensor
    length: Tensor
    ratio: Tensor
    age: Tensor
    first: Tensor
    latest: Tensor

    @classmethod
    def start(cls, w: Tensor, box: Tensor | None, alpha: float) -> "_Solver":
        count, models, size = w.shape
        con = _Constraint.of(size.bit_length() - 1, w.device)
        if box is not None:
            box = box.reshape(-1, 1).repeat(1, con.low)
        x = w.new_zeros((2 if box is None else 3) * con.high, count * models, con.low)
        never = w.new_full((count,), torch.inf)
        solver = cls(
            con, models, alpha, con.fold(w), box, x, x.clone(),
            games=torch.arange(count, device=w.device), bound=w.new_zeros(count),
            length=w.new_full((count,), 0.01),
            ratio=w.new_full((count,), 0.0 if box is None else 10.0),
            age=w.new_zeros(count), first=never, latest=never,
        )  # fmt: skip
        solver._prepare()
        return solver

    def _prepare(self) -> None:
        """What depends on how many games there are; `q` and `back` are overwritten at each step.

        Fresh memory of their size would be cleared by the system at each step.
        """
        self.inverse = _Inverse(self.con, self._each(self.ratio))
        self.q, self.back = torch.empty_like(self.x), torch.empty_like(self.x)

    def step(self, check: bool) -> None:
        """One iteration; before a `check`, also how far the sparse point is from the constraint."""
        ab, e = self._parts
        q, back = self._reflect(self.x, self.q), self.back
        missing = self.con.values(q[ab]).sub_(self.w)
        dual = self.inverse(missing if self.box is None else missing.add_(q[e]))
        self.con.transpose(dual, out=back[ab])
        if self.box is not None:
            torch.mul(dual, self._wide(self.ratio), out=back[e])
        if check:
            self.dual, self.image, self.projected = dual, back[ab], q - back
            squared = (self.projected - (q + self.x).div_(2)).square_()
            self.distance = self._total(squared[ab])
            if self.box is not None:
                self.distance += self._total(squared[e]) / self.ratio
        self.age += 1
        share = self._wide(self.age / (self.age + 1))
        torch.lerp(self.anchor, q.sub_(back, alpha=2), share, out=self.x)

    def certify(self, tol: float) -> Tensor:
        """Which games are within `tol`.

        From below: the dual point, shrunk until it is feasible. From above: the projected point,
        where it leaves the box brought back by changing a and b.
        """
        (ab, e), total = self._parts, self._total
        value = -total(self.dual * self.w)
        self.answer = self.projected[ab]
        if self.box is not None:
            value -= total(self.dual.abs() * self.box)
            excess = self.projected[e] - self.projected[e].clamp(-self.box, self.box)
            exact = self.inverse.at(torch.zeros_like(self._each(self.ratio)))
            self.answer = self.answer + self.con.transpose(exact(excess))
        norm = _dual_norm(self.image, self.models, self.alpha)
        self.bound = torch.maximum(self.bound, value / torch.maximum(norm, self.length))
        objective = total(_penalty(self.answer, self.models, self.alpha))
        return objective - self.bound <= tol * objective

    def restart(self, iteration: int) -> None:
        """Restart where much is gained, or some and no more, or nothing for long.

        New lengths match how far the unknowns went to how far their duals went.
        """
        distance, total = self.distance, self._total
        self.first = torch.where(self.age <= CHECK_EVERY, distance, self.first)
        now = (distance <= 0.04 * self.first) | (self.age >= 0.36 * iteration)
        now |= (distance <= 0.64 * self.first) & (distance > self.latest)
        self.latest = torch.where(now, torch.inf, distance)
        if not now.any():
            return
        (ab, e), (z, y), (z0, y0) = self._parts, self._halves(self.x), self._halves(self.anchor)
        dz, dy = (z - z0).square_(), (y - y0).square_()
        length, ratio = _nearer(self.length, total(dz[ab]) / total(dy[ab])), self.ratio
        if self.box is not None:
            deviation = _nearer(self.length * ratio, total(dz[e]) / total(dy[e]))
            self.ratio = torch.where(now, (deviation / length).clamp(1e-3, 1e4), ratio)
            self.inverse = self.inverse.at(self._each(self.ratio))
        self.length = torch.where(now, length, self.length)
        y *= self._wide(self.length)
        y[e] *= self._wide(self.ratio)
        self.x = torch.where(self._wide(now), z + y, self.x)
        self.anchor = torch.where(self._wide(now), self.x, self.anchor)
        self.age = torch.where(now, 0.0, self.age)

    def interactions(self) -> tuple[Tensor, ...]:
        """AND and OR of the last certified answer, (games, models, 2**n)."""
        return tuple(self.con.unfold(half, self.models) for half in self.answer.chunk(2))

    def drop(self, done: Tensor) -> None:
        """Go on without the games that are `done`."""
        for name in ("games", "bound", "length", "ratio", "age", "first", "latest"):
            setattr(self, name, getattr(self, name)[~done])
        rows = torch.nonzero(self._each(~done))[:, 0]
        self.x, self.anchor, self.w = self.x[:, rows], self.anchor[:, rows], self.w[:, rows]
        self.box = None if self.box is None else self.box[rows]
        self._prepare()

    @property
    def _parts(self) -> tuple[slice, slice]:
        """Where a and b, and where e, lie in the rows of `x`."""
        return slice(0, 2 * self.con.high), slice(2 * self.con.high, None)

    def _each(self, per_game: Tensor) -> Tensor:
        return per_game.repeat_interleave(self.models)

    def _wide(self, per_game: Tensor) -> Tensor:
        """Shaped to multiply rows."""
        return self._each(per_game)[:, None]

    def _total(self, rows: Tensor) -> Tensor:
        """Sum per game."""
        return rows.sum((0, 2)).reshape(-1, self.models).sum(1)

    def _reflect(self, x: Tensor, q: Tensor) -> Tensor:
        """``2 prox(x) - x`` into `q`, of the penalty on a and b and of the box on e."""
        ab, e = self._parts
        length = self._wide(self.length).repeat(1, self.con.low)
        dual = _dual_part(x[ab], length, self.models, self.alpha, out=q[ab])
        torch.sub(x[ab], dual, alpha=2, out=q[ab])
        if self.box is not None:
            torch.clamp(x[e], -self.box, self.box, out=q[e])
            q[e].mul_(2).sub_(x[e])
        return q

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x = z + metric * y``, z the sparse point."""
        z = (x + self._reflect(x, torch.empty_like(x))) / 2
        y = (x - z) / self._wide(self.length)
        y[self._parts[1]] /= self._wide(self.ratio)
        return z, y


def _nearer(step: Tensor, squared: Tensor) -> Tensor:
    """The root of `squared`, but at most 4 times away from `step`, and `step` where undefined."""
    target = squared.sqrt().nan_to_num(nan=0.0, posinf=torch.inf)
    return torch.where(squared.isnan(), step, target.clamp(step / 4, step * 4))


def _by_model(rows: Tensor, models: int) -> Tensor:
    return rows.unflatten(1, (-1, models))


def _penalty(rows: Tensor, models: int, alpha: float) -> Tensor:
    """``max_m |x_m| + alpha sum_m |x_m|`` of every coalition, laid out on the first model."""
    size = _by_model(rows.abs(), models)
    out = alpha * size
    out[:, :, 0] += size.amax(2)
    return out.flatten(1, 2)


def _dual_norm(rows: Tensor, models: int, alpha: float) -> Tensor:
    """Largest dual norm of the penalty over coalitions: ``max_k (k largest) / (1 + k alpha)``."""
    size = _by_model(rows.abs(), models)
    if models > 1:
        size = size.sort(dim=2, descending=True).values.cumsum(2)
    largest = size.amax((0, 3))
    return (largest / (1 + alpha * torch.arange(1, models + 1).to(largest))).amax(1)


def _dual_part(rows: Tensor, step: Tensor, models: int, alpha: float, out: Tensor) -> Tensor:
    """``x - prox(x)``: projection on `step` times the dual ball of the penalty."""
    if models == 1:
        return torch.clamp(rows, -(1 + alpha) * step, (1 + alpha) * step, out=out)
    each = rows.clamp(-alpha * step, alpha * step)  # the models' own part, then the shared one:
    size = _by_model((rows - each).abs(), models)  # a projection on the l1 ball over models
    step = _by_model(step[None], models)[:, :, :1]
    largest = size.sort(dim=2, descending=True).values.cumsum(2) - step
    level = (largest / torch.arange(1, models + 1).to(size)[:, None]).amax(2, keepdim=True)
    shared = (size - level.clamp_(min=0)).clamp_(min=0).flatten(1, 2)
    return torch.add(each, torch.copysign(shared, rows), out=out)


class _Constraint:
    """The map ``(a, b) -> Z a + O b`` for `n` players, its transpose and its inverse.

    A game is folded into a matrix: rows are the upper half of the players, columns the lower
    half. `Z` and the disjointness matrix ``[S and T do not meet]`` are Kronecker powers, so each
    acts as one small matrix on the rows and one on the columns: O(2**(3n/2)), and a matrix
    product, which beats a butterfly's n passes. ``O b = sum(b) - disjoint b``; the sum goes in
    through the unused entry of the empty coalition.

    ``Z Z' + O O' + ratio I`` commutes with every permutation of the players. In the basis of
    `_orbits` of each half it is made of equal blocks, one kind for each pair of orbit types, no
    larger than ``(n/2 + 1)**2``; these are diagonalised once.

    Tensors are ``(rows, games, columns)``.
    """

    @staticmethod
    @lru_cache(maxsize=8)
    def of(n: int, device: torch.device) -> "_Constraint":
        return _Constraint(n, device)

    def __init__(self, n: int, device: torch.device):
        self.n, self.low, self.high = n, 2 ** (n // 2), 2 ** (n - n // 2)
        zeta = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
        apart = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
        self.z_low, self.apart_low = _power(zeta, n // 2, device), _power(apart, n // 2, device)
        z_high, apart_high = _power(zeta, n - n // 2, device), _power(apart, n - n // 2, device)
        self.left = torch.cat([z_high, -apart_high], 1)
        self.left_t = self.left.T.contiguous()
        orbits_low, self.basis_low = _orbits(n // 2, device)
        orbits_high, self.basis_high = _orbits(n - n // 2, device)
        self.blocks = [self._block(*pair) for pair in product(orbits_high, orbits_low)]

    def fold(self, games: Tensor) -> Tensor:
        """(games, models, 2**n) to (rows, games * models, columns)."""
        return games.reshape(-1, self.high, self.low).transpose(0, 1).contiguous()

    def unfold(self, rows: Tensor, models: int) -> Tensor:
        return rows.transpose(0, 1).reshape(-1, models, self.high * self.low)

    def values(self, ab: Tensor) -> Tensor:
        """``Z a + O b`` from the rows of a, then of b; both 0 at the empty coalition."""
        a, b = ab.chunk(2)
        b[0, :, 0] = -b.sum((0, 2))
        half = torch.empty_like(ab)
        torch.mm(a.reshape(-1, self.low), self.z_low.T, out=half[: self.high].view(-1, self.low))
        torch.mm(b.reshape(-1, self.low), self.apart_low, out=half[self.high :].view(-1, self.low))
        b[0, :, 0] = 0
        return self.rows(self.left, half)

    def transpose(self, dual: Tensor, out: Tensor | None = None) -> Tensor:
        """``(Z' l, O' l)``, 0 at the empty coalition; `dual` is set to 0 there."""
        dual[0, :, 0] = 0
        dual[0, :, 0] = -dual.sum((0, 2))
        half = self.rows(self.left_t, dual)
        dual[0, :, 0] = 0
        out = torch.empty_like(half) if out is None else out
        torch.mm(half[: self.high].view(-1, self.low), self.z_low,
                 out=out[: self.high].view(-1, self.low))  # fmt: skip
        torch.mm(half[self.high :].view(-1, self.low), self.apart_low,
                 out=out[self.high :].view(-1, self.low))  # fmt: skip
        out[0, :, 0] = out[self.high, :, 0] = 0
        return out

    def rows(self, matrix: Tensor, rows: Tensor) -> Tensor:
        return (matrix @ rows.view(len(rows), -1)).view(-1, *rows.shape[1:])

    def _block(self, high: tuple[slice, int], low: tuple[slice, int]):
        """One kind of block: where it lies, and its eigenvectors and eigenvalues."""
        (rows, spins), (columns, spins_low) = high, low
        u = self.basis_high[:, rows].unflatten(1, (spins, -1))[:, :, 0]
        v = self.basis_low[:, columns].unflatten(1, (spins_low, -1))[:, :, 0]
        vectors = torch.einsum("ri,cj->rijc", u, v).flatten(1, 2).contiguous()
        empty = vectors[0, :, 0].clone()
        image = self.values(self.transpose(vectors.clone()))
        block = torch.einsum("rgc,rhc->gh", vectors, image) + torch.outer(empty, empty)
        eigenvalues, eigenvectors = torch.linalg.eigh((block + block.T) / 2)
        return rows, columns, eigenvectors, eigenvalues.view(spins, spins_low)


class _Inverse:
    """``(Z Z' + O O' + ratio I)**-1`` with one `ratio` per game, for the map `con`.

    The blocks of all kinds lie one after the other in one flat tensor, so that a few large
    operations serve all of them: small ones cost more than their arithmetic.
    """

    def __init__(self, con: _Constraint, ratio: Tensor):
        self.con = con
        where = torch.arange(con.high * len(ratio) * con.low, device=ratio.device)
        where = where.view(con.high, -1, con.low)
        places = [self._spread(where[rows, :, columns], eigenvalues.shape)
                  for rows, columns, _, eigenvalues in con.blocks]  # fmt: skip
        self.shapes = [place.shape for place in places]
        self.sizes = [place.numel() for place in places]
        self.order = torch.cat([place.flatten() for place in places])
        self.order_back = torch.empty_like(self.order)
        self.order_back[self.order] = where.flatten()
        self.vectors = [vectors for _, _, vectors, _ in con.blocks]
        self.divisor = self._divisor(ratio)

    def at(self, ratio: Tensor) -> "_Inverse":
        """The same at another `ratio`."""
        other = copy(self)
        other.divisor = self._divisor(ratio)
        return other

    def __call__(self, values: Tensor) -> Tensor:
        con = self.con
        t = con.rows(con.basis_high.T, values).view(-1, con.low) @ con.basis_low
        t = self._blockwise([v.T for v in self.vectors], t.flatten().index_select(0, self.order))
        t = self._blockwise(self.vectors, t.div_(self.divisor))
        t = t.index_select(0, self.order_back).view(-1, con.low) @ con.basis_low.T
        return con.rows(con.basis_high, t.view(values.shape))

    def _blockwise(self, matrices: list[Tensor], flat: Tensor) -> Tensor:
        out = torch.empty_like(flat)
        parts = zip(matrices, flat.split(self.sizes), out.split(self.sizes), strict=True)
        for matrix, part, target in parts:
            torch.mm(matrix, part.view(len(matrix), -1), out=target.view(len(matrix), -1))
        return out

    def _divisor(self, ratio: Tensor) -> Tensor:
        return torch.cat([
            (eigenvalues[:, :, None, None, None] + ratio[:, None]).expand(shape).flatten()
            for (_, _, _, eigenvalues), shape in zip(self.con.blocks, self.shapes, strict=True)
        ])  # fmt: skip

    @staticmethod
    def _spread(part: Tensor, spins: tuple[int, int]) -> Tensor:
        """(spin and copy, game, spin and copy) to (spin, spin, copy, game, copy)."""
        part = part.unflatten(2, (spins[1], -1)).unflatten(0, (spins[0], -1))
        return part.permute(0, 3, 1, 2, 4)


def _power(matrix: Tensor, n: int, device: torch.device) -> Tensor:
    """`n`-fold Kronecker power."""
    out = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(n):
        out = torch.kron(matrix, out)
    return out.contiguous().to(device)


def _orbits(n: int, device: torch.device) -> tuple[list[tuple[slice, int]], Tensor]:
    """Orthonormal basis of games on `n` players in which all symmetric maps share their blocks.

    For each order k up to n/2, the games on coalitions of order k that vanish when one member is
    summed out, each followed by its images when members are added one at a time (Schur-Weyl
    duality: spin ``n/2 - k``). Returns where each type lies and its number of steps; its columns
    run over steps, then over copies.
    """
    member = (torch.arange(2**n)[:, None] >> torch.arange(n)) & 1
    size = member.sum(1)
    inside = (torch.arange(2**n)[:, None] & torch.arange(2**n)) == torch.arange(2**n)
    add_one = (inside & (size[:, None] == size + 1)).double()  # from S to S with one more
    types, columns = [], []
    for k in range(n // 2 + 1):
        level, below = torch.nonzero(size == k)[:, 0], torch.nonzero(size == k - 1)[:, 0]
        null = torch.linalg.svd(add_one[level][:, below].T)[2][len(below) :]
        game = add_one.new_zeros(2**n, len(null))
        game[level] = null.T
        start = sum(c.shape[1] for c in columns)
        for _ in range(n - 2 * k + 1):
            columns.append(game / game.norm(dim=0))
            game = add_one @ columns[-1]
        types.append((slice(start, start + len(null) * (n - 2 * k + 1)), n - 2 * k + 1))
    return types, torch.cat(columns, 1).to(device)

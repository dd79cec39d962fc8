"""The iteration that solves the split: Douglas-Rachford steps, certified, restarted."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pi_lib.and_or.constraint import Constraint, inverse
from pi_lib.coalitions import order

CHECK_EVERY = 10  # iterations between two looks at progress and certificate


def solve(
    w: Tensor, box: Tensor | None, alpha: float, tol: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """AND, OR and (bound, iterations) of games `w` (games, models, 2**n), unit scale."""
    i_and, i_or = torch.zeros_like(w), torch.zeros_like(w)
    numbers = w.new_zeros(2, len(w))
    solver = Solver.start(w, box, alpha)
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
class Solver:
    """The iteration's state, for the games that are not done.

    The unknowns a and b and, with noise, the deviation e (``Z a + O b + e = w``) are rows of one
    tensor `x`. Proximal steps of the penalty and of the constraint alternate, in a metric that
    each game adapts when it restarts: `length` for a and b, ``length * ratio`` for e.
    """

    con: "Constraint"
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
    def start(cls, w: Tensor, box: Tensor | None, alpha: float) -> "Solver":
        count, models, size = w.shape
        con = Constraint.of(size.bit_length() - 1, w.device)
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
        self.inverse = inverse(self.con, self._each(self.ratio))
        self.exact = self.inverse.at(torch.zeros_like(self._each(self.ratio)))
        self.q, self.back = torch.empty_like(self.x), torch.empty_like(self.x)
        self._measure()

    def _measure(self) -> None:
        """What depends on the lengths of steps."""
        self.wide_length = self._wide(self.length).repeat(1, self.con.low)
        self.wide_ratio = self._wide(self.ratio)

    def step(self, check: bool) -> None:
        """One iteration; before a `check`, also how far the sparse point is from the constraint."""
        ab, e = self._parts
        q, back = self._reflect(self.x, self.q), self.back
        missing = self.con.values(q[ab]).sub_(self.w)
        dual = self.inverse(missing if self.box is None else missing.add_(q[e]))
        self.con.transpose(dual, out=back[ab])
        if self.box is not None:
            torch.mul(dual, self.wide_ratio, out=back[e])
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
            self.answer = self.answer + self.con.transpose(self.exact(excess))
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
        now = (distance <= 0.04 * self.first) | (self.age >= 0.25 * iteration)
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
        self._measure()

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
        return per_game if self.models == 1 else per_game.repeat_interleave(self.models)

    def _wide(self, per_game: Tensor) -> Tensor:
        """Shaped to multiply rows."""
        return self._each(per_game)[:, None]

    def _total(self, rows: Tensor) -> Tensor:
        """Sum per game."""
        return rows.sum((0, 2)).reshape(-1, self.models).sum(1)

    def _reflect(self, x: Tensor, q: Tensor) -> Tensor:
        """``2 prox(x) - x`` into `q`, of the penalty on a and b and of the box on e."""
        ab, e = self._parts
        dual = _dual_part(x[ab], self.wide_length, self.models, self.alpha, out=q[ab])
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

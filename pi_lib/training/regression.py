"""Multinomial logistic regression, by Newton's method: one minimum, the same every time."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

EXACT = 1e-7  # relative error of the weights


def logistic_regression(
    features: Tensor, labels: Tensor, strength: float, n_classes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression: the one minimum of

    ``mean_i CE(W x_i + b, y_i) + strength / 2 (|W|^2 + |b|^2)``, ``x`` centred and divided by the
    root of the features' mean variance.

    Of features (N, D) float and labels (N,) int; `n_classes` C is by default the highest label plus
    1. The strength, above 0 (a ValueError if not), is ``1 / (C N)`` with scikit-learn's `C`.

    Returns
    -------
    weight (C, D), bias (C,) : float64
        For features as they come, neither centred nor divided; within 1e-7 of the minimum,
        relative to the norm.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> weight, bias = logistic_regression(x, torch.tensor([0, 1, 0, 1]), strength=0.1)
    >>> [round(w, 4) for w in weight[:, 0].tolist()]
    [-0.3565, 0.3565]
    """
    if not strength > 0:
        raise ValueError(f"strength={strength!r}; expected a number above 0")
    problem = Regression(features, labels, n_classes or int(labels.max()) + 1)
    return problem.layer(problem.solve(strength, EXACT))


class Regression:
    """Logistic regression along the principal axes of the features.

    There, and along those of the classes, the curvature is nearly diagonal, so that Newton's steps
    need few conjugate gradients.
    """

    def __init__(self, features: Tensor, labels: Tensor, n_classes: int):
        x = features.double()
        self.mean = x.mean(0)
        spread = (x - self.mean).square().mean().sqrt()
        self.scale = spread if spread > 0 else torch.ones_like(spread)
        x = (x - self.mean) / self.scale
        if len(x) < x.shape[1]:
            squares, axes = torch.linalg.eigh(x @ x.T)
            lengths = squares.clamp(min=0).sqrt()
            real = lengths > 1e-6 * lengths.max()  # shorter ones are rounding
            self.axes = x.T @ (axes[:, real] / lengths[real])
        else:
            squares, axes = torch.linalg.eigh(x.T @ x)
            self.axes = axes[:, squares > 1e-12 * squares.max()]
        self.x = self.along(features)
        self.lengths = (self.x * self.x).sum(0)[:, None] / len(x)
        self.x_t = self.x.T.contiguous()  # twice as fast as a view
        self.y = F.one_hot(labels.to(x.device), n_classes).double()

    def along(self, features: Tensor) -> Tensor:
        """Features along the axes, and 1 for the bias: (N, D' + 1)."""
        along = (features.to(self.axes) - self.mean) / self.scale @ self.axes
        return torch.cat([along, along.new_ones(len(along), 1)], 1)

    def layer(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,) for features as they come."""
        weight = (self.axes @ w[:-1]).T / self.scale
        return weight, w[-1] - weight @ self.mean

    def _value(self, w: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """The objective, and the probabilities of every class."""
        log_p = (self.x @ w).log_softmax(-1)
        return strength / 2 * (w * w).sum() - (log_p * self.y).sum() / len(self.y), log_p.exp()

    def solve(self, strength: float, error: float, start: Tensor | None = None) -> Tensor:
        """The minimum (D' + 1, C), by Newton's method with conjugate gradients.

        The objective is strongly convex, so the distance to the minimum is at most the norm of the
        gradient over `strength`: it stops where that is below `error` times the norm of `w`.
        """
        n = len(self.x)
        w = self.x.new_zeros(self.x.shape[1], self.y.shape[1]) if start is None else start
        value, p = self._value(w, strength)
        for _ in range(100):
            slope = self.x_t @ (p - self.y) / n + strength * w
            left = (slope.norm() / (strength * w.norm())).item()
            if left <= error or not slope.any():
                return w
            spread, classes = torch.linalg.eigh(p.mean(0).diag() - p.T @ p / n)
            diagonal = self.lengths * spread.clamp(min=0) + strength

            def scaled(step, classes=classes, diagonal=diagonal):
                return (step @ classes / diagonal) @ classes.T

            def curvature(step, p=p):
                change = self.x @ step
                change = p * (change - (p * change).sum(1, keepdim=True))
                return self.x_t @ change / n + strength * step

            enough = max(min(0.25, left), 0.3 * error / left)
            step = _conjugate_gradients(curvature, -slope, scaled, enough)
            length, expected = 1.0, (slope * step).sum()
            while True:
                new, probabilities = self._value(w + length * step, strength)
                slack = 1e-12 * value.abs()  # rounding
                if new <= value + 1e-4 * length * expected + slack or length < 1e-6:
                    break
                length /= 2
            w, value, p = w + length * step, new, probabilities
        return w


def _conjugate_gradients(matrix: Callable, right: Tensor, scaled: Callable, error: float) -> Tensor:
    """The solution of ``matrix(x) = right`` to a relative residual; `scaled` nearly inverts it."""
    x, residual = torch.zeros_like(right), right
    direction = scaled(residual)
    product = (residual * direction).sum()
    for _ in range(right.numel()):
        image = matrix(direction)
        length = product / (direction * image).sum()
        x, residual = x + length * direction, residual - length * image
        if residual.norm() <= error * right.norm():
            break
        better = scaled(residual)
        product, before = (residual * better).sum(), product
        direction = better + product / before * direction
    return x

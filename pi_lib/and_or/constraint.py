"""The linear map of the split, from interactions to values: its transpose and its inverse."""

from copy import copy
from functools import cached_property, lru_cache
from itertools import product

import torch
from torch import Tensor

# Multiplications for which a GPU takes no longer than to start some twenty more kernels.
FEW = 2**30


class Constraint:
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
    def of(n: int, device: torch.device) -> "Constraint":
        return Constraint(n, device)

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

    @cached_property
    def dense(self) -> tuple[Tensor, Tensor]:
        """All eigenvectors of ``Z Z' + O O'``, as columns (2**n, 2**n), and its eigenvalues."""
        columns, values = [], []
        for rows, low_columns, vectors, eigenvalues in self.blocks:
            spins, spins_low = eigenvalues.shape
            high = self.basis_high[:, rows].unflatten(1, (spins, -1))
            low = self.basis_low[:, low_columns].unflatten(1, (spins_low, -1))
            vectors = vectors.unflatten(0, eigenvalues.shape)
            part = torch.einsum("ric,sjd,ijk->rskcd", high, low, vectors)
            columns.append(part.flatten(2).flatten(0, 1))
            values.append(eigenvalues.flatten().repeat_interleave(high.shape[2] * low.shape[2]))
        return torch.cat(columns, 1), torch.cat(values)


def inverse(con: Constraint, ratio: Tensor) -> "Inverse | DenseInverse":
    """``(Z Z' + O O' + ratio I)**-1`` with one `ratio` per game: of two forms the faster one."""
    few = con.n <= 12 and len(ratio) * 4**con.n <= FEW
    return (DenseInverse if few and ratio.device.type == "cuda" else Inverse)(con, ratio)


class DenseInverse:
    """By all eigenvectors at once: the least number of kernels, which is a GPU's limit here.

    They stay in the GPU's memory for further splits: 128 MiB at n = 12.
    """

    def __init__(self, con: Constraint, ratio: Tensor):
        self.con, (self.vectors, self.eigenvalues) = con, con.dense
        self.divisor = self.eigenvalues[:, None] + ratio

    def at(self, ratio: Tensor) -> "DenseInverse":
        """The same at another `ratio`."""
        return DenseInverse(self.con, ratio)

    def __call__(self, values: Tensor) -> Tensor:
        flat = values.transpose(1, 2).reshape(len(self.vectors), -1)
        flat = self.vectors @ (self.vectors.T @ flat).div_(self.divisor)
        return flat.view(self.con.high, self.con.low, -1).transpose(1, 2).contiguous()


class Inverse:
    """By blocks, which takes the least arithmetic.

    The blocks of all kinds lie one after the other in one flat tensor, so that a few large
    operations serve all of them: small ones cost more than their arithmetic.
    """

    def __init__(self, con: Constraint, ratio: Tensor):
        self.con = con
        where = torch.arange(con.high * len(ratio) * con.low, device=ratio.device)
        where = where.view(con.high, -1, con.low)
        places = [self._spread(where[rows, :, columns], eigenvalues.shape)
                  for rows, columns, _, eigenvalues in con.blocks]  # fmt: skip
        self.shapes = [place.shape for place in places]
        self.order = torch.cat([place.flatten() for place in places])
        self.order_back = torch.empty_like(self.order)
        self.order_back[self.order] = where.flatten()
        self.divisor = self._divisor(ratio)
        # Each block's place in two flat tensors, found once: finding it takes as long as using it.
        self.flat, self.turned = con.basis_low.new_empty(2, len(self.order))
        sizes = [place.numel() for place in places]
        parts = zip(con.blocks, self.flat.split(sizes), self.turned.split(sizes), strict=True)
        self.parts = [
            (vectors, vectors.T, flat.view(len(vectors), -1), turned.view(len(vectors), -1))
            for (_, _, vectors, _), flat, turned in parts
        ]

    def at(self, ratio: Tensor) -> "Inverse":
        """The same at another `ratio`."""
        other = copy(self)
        other.divisor = self._divisor(ratio)
        return other

    def __call__(self, values: Tensor) -> Tensor:
        con = self.con
        t = con.rows(con.basis_high.T, values).view(-1, con.low) @ con.basis_low
        torch.index_select(t.view(-1), 0, self.order, out=self.flat)
        for _, vectors_t, flat, turned in self.parts:
            torch.mm(vectors_t, flat, out=turned)
        self.turned.div_(self.divisor)
        for vectors, _, flat, turned in self.parts:
            torch.mm(vectors, turned, out=flat)
        t = self.flat.index_select(0, self.order_back).view(-1, con.low) @ con.basis_low.T
        return con.rows(con.basis_high, t.view(values.shape))

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

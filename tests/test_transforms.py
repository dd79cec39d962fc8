"""Transforms against the definition, the axioms, planted games and shapiq."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pi_lib import and_inverse, and_transform, or_inverse, or_transform
from pi_lib.coalitions import coalition, members, membership, order
from pi_lib.transforms import walsh_inverse, walsh_transform

BOTH = pytest.mark.parametrize("transform", [and_transform, or_transform])


def game(n, *leading, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((*leading, 2**n)))


def by_definition(v, kind):
    """The sums of the definition, one coalition at a time."""
    n = v.shape[-1].bit_length() - 1
    everyone = 2**n - 1
    out = torch.zeros_like(v)
    for s in range(2**n):
        for t in range(2**n):
            if t & s == t:
                sign = (-1) ** ((s ^ t).bit_count())
                out[..., s] += sign * v[..., t] if kind == "and" else -sign * v[..., everyone ^ t]
    if kind == "or":
        out[..., 0] = v[..., 0]
    return out


@given(st.integers(0, 7), st.integers(0, 10**6))
def test_equal_to_the_definition_and_inverted(n, seed):
    v = game(n, 3, seed=seed)
    torch.testing.assert_close(and_transform(v), by_definition(v, "and"), rtol=0, atol=1e-11)
    torch.testing.assert_close(or_transform(v), by_definition(v, "or"), rtol=0, atol=1e-11)
    torch.testing.assert_close(and_inverse(and_transform(v)), v, rtol=0, atol=1e-11)
    torch.testing.assert_close(or_inverse(or_transform(v)), v, rtol=0, atol=1e-11)


@given(st.integers(0, 7), st.integers(0, 10**6))
def test_walsh_is_the_definition_and_orthonormal(n, seed):
    v = game(n, 3, seed=seed)
    member = membership(n).double()
    # |S| - |S & T| is how many players of S are not in T
    signs = (-1.0) ** (member @ (1 - member).T)
    torch.testing.assert_close(signs @ signs.T, 2.0**n * torch.eye(2**n).double())
    w = walsh_transform(v)
    torch.testing.assert_close(w, v @ signs.T / 2**n, rtol=0, atol=1e-12)
    torch.testing.assert_close(walsh_inverse(w), v, rtol=0, atol=1e-12)
    torch.testing.assert_close(w[..., 0], v.mean(-1))
    variance = v.var(-1, correction=0) if n else torch.zeros(3).double()
    torch.testing.assert_close(w[..., 1:].square().sum(-1), variance)


def test_walsh_sums_the_dividends_of_larger_sets():
    n = 5
    v, member = game(n, 2), membership(5)
    dividends, w = and_transform(v), walsh_transform(v)
    for s in range(2**n):
        larger = (member | ~member[s]).all(-1)  # T contains S
        expected = (dividends * 0.5 ** order(n))[:, larger].sum(-1)
        torch.testing.assert_close(w[:, s], expected, rtol=0, atol=1e-12)


@BOTH
def test_efficiency(transform):
    v = game(8, 2)
    torch.testing.assert_close(transform(v).sum(-1), v[..., -1])


@BOTH
def test_linearity(transform):
    v, w = game(6, seed=1), game(6, seed=2)
    torch.testing.assert_close(transform(2 * v - 3 * w), 2 * transform(v) - 3 * transform(w))


@BOTH
def test_symmetry(transform):
    """Renaming the players renames the interactions and changes nothing else."""
    n, rename = 5, [3, 0, 4, 1, 2]
    index = torch.tensor([coalition(rename[i] for i in members(s)) for s in range(2**n)])
    v = game(n)
    torch.testing.assert_close(transform(v[index]), transform(v)[index])


@BOTH
def test_null_player_is_in_no_interaction(transform):
    n, null = 6, 2
    v = game(n)
    v = v[torch.arange(2**n) & ~(1 << null)]
    interactions = transform(v)
    assert interactions[membership(n)[:, null]].abs().max() < 1e-12
    assert interactions[~membership(n)[:, null]][1:].abs().min() > 0


def test_planted_terms_are_found():
    """A game that is a sum of an AND and an OR of known players has exactly those terms."""
    n, wanted = 5, coalition([0, 2, 3])
    subsets = torch.arange(2**n)
    both = ((subsets & wanted) == wanted).double()
    either = ((subsets & wanted) != 0).double()
    for transform, v in ((and_transform, both), (or_transform, either)):
        assert torch.nonzero(transform(2.5 * v)).tolist() == [[wanted]]
        assert transform(2.5 * v)[wanted] == 2.5


def shapiqs(v, n):
    """What shapiq computes from the values of a game."""
    from shapiq import ExactComputer, Game

    class Lookup(Game):
        def value_function(self, coalitions):
            return v.numpy()[coalitions.astype(int) @ (1 << np.arange(n))]

    return ExactComputer(Lookup(n_players=n, normalize=False))


def test_shapiq_agrees():
    n = 6
    v = game(n)
    computer = shapiqs(v, n)
    mobius, comobius = computer("Moebius"), computer("Co-Moebius")
    ours_and, ours_or = and_transform(v), or_transform(v)
    for size in range(1, n + 1):
        for players in itertools.combinations(range(n), size):
            s = coalition(players)
            assert abs(mobius[players] - ours_and[s].item()) < 1e-11
            assert abs((-1) ** (size + 1) * comobius[players] - ours_or[s].item()) < 1e-11


def test_shapiq_agrees_on_walsh():
    n = 5
    v = game(n)
    banzhaf, w = shapiqs(v, n)("BII", order=n), walsh_transform(v)
    for size in range(1, n + 1):
        for players in itertools.combinations(range(n), size):
            assert abs(banzhaf[players] - 2**size * w[coalition(players)].item()) < 1e-11


def test_input_stays_and_float32_is_widened():
    v = game(4).float()
    before = v.clone()
    for transform in (and_transform, walsh_transform, walsh_inverse):
        assert transform(v).dtype == torch.float64
        assert torch.equal(v, before)
        torch.testing.assert_close(transform(v), transform(v.double()))


def test_orders():
    assert order(3).tolist() == [s.bit_count() for s in range(8)]


@pytest.mark.parametrize(
    "transform",
    [and_transform, or_transform, walsh_transform, and_inverse, or_inverse, walsh_inverse],
)
def test_bad_games_are_refused_by_name(transform):
    with pytest.raises(ValueError, match=r"2\*\*n values.*\(2, 6\)"):
        transform(torch.zeros(2, 6))
    bad = torch.zeros(3, 8)
    bad[1, 5] = torch.nan
    with pytest.raises(ValueError, match=r"nan at sample 1, coalition 5 \(players \[0, 2\]\)"):
        transform(bad)
    with pytest.raises(ValueError, match="real"):
        transform(torch.zeros(8, dtype=torch.complex64))

"""The AND-OR split against a linear-programming solver, its own certificate, and the axioms."""

import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from pi_lib.and_or import and_or_split, constraint, shared_split, solver
from pi_lib.and_or import split as split_module
from pi_lib.coalitions import membership, order
from pi_lib.transforms import and_inverse, or_inverse

NOISES = [0.0, 0.04]


def matrices(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Dense Z and O over nonempty coalitions, as defined."""
    t, s = np.arange(1, 2**n)[:, None], np.arange(1, 2**n)[None]
    return ((t & s) == s).astype(float), ((t & s) != 0).astype(float)


def lp(v: torch.Tensor, noise: float = 0.0) -> tuple[float, np.ndarray]:
    """Optimum of the split of one game and the a, b that HiGHS finds."""
    v = v.double().numpy()
    n = len(v).bit_length() - 1
    a = np.hstack(matrices(n))
    a, w = np.hstack([a, -a]), (v - v[0])[1:]
    box = noise * abs(w[-1])
    result = linprog(
        np.ones(a.shape[1]), A_ub=np.vstack([a, -a]), b_ub=np.hstack([w + box, box - w])
    )
    assert result.success
    plus, minus = np.split(result.x, 2)
    return result.fun, plus - minus


def shared_lp(v: torch.Tensor, alpha: float, noise: float) -> float:
    """Optimum of the joint split of (models, 2**n) values: unknowns x = p - q, and the maxima t."""
    models, size = v.shape
    a = np.hstack(matrices(size.bit_length() - 1))
    w = (v - v[:, :1]).numpy()[:, 1:]
    k = a.shape[1]
    per_model = np.kron(np.eye(models), np.hstack([a, -a]))
    per_model = np.hstack([per_model, np.zeros((len(per_model), k))])
    below_max = np.zeros((models * k, per_model.shape[1]))
    for m in range(models):
        rows = slice(m * k, (m + 1) * k)
        below_max[rows, 2 * m * k : 2 * (m + 1) * k] = np.hstack([np.eye(k), np.eye(k)])
        below_max[rows, -k:] = -np.eye(k)
    box = np.repeat(noise * np.abs(w[:, -1]), w.shape[1])
    result = linprog(
        np.hstack([np.full(2 * models * k, alpha), np.ones(k)]),
        A_ub=np.vstack([per_model, -per_model, below_max]),
        b_ub=np.hstack([w.ravel() + box, box - w.ravel(), np.zeros(models * k)]),
    )
    assert result.success
    return result.fun


def random_games(count: int, n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2**n, generator=generator, dtype=torch.float64)


def network_games(count: int, n: int, seed: int = 0) -> torch.Tensor:
    """Log-odds of a random two-layer network whose inputs are switched on by the players."""
    g = torch.Generator().manual_seed(seed)
    inputs = membership(n).double()
    hidden = torch.relu(inputs @ torch.randn(count, n, 16, generator=g).double() - 0.5)
    return (hidden @ torch.randn(count, 16, 1, generator=g).double())[..., 0]


def planted_games(count: int, n: int, terms: int, sd: float, seed: int = 0):
    """Games that are sums of a few AND and OR terms plus noise, and where those terms are."""
    g = torch.Generator().manual_seed(seed)
    truth = torch.zeros(count, 2, 2**n, dtype=torch.float64)
    higher = torch.nonzero(order(n) > 1)[:, 0]
    for game in truth:
        where = higher[torch.randperm(len(higher), generator=g)[:terms]]
        size = 1 + torch.rand(terms, generator=g).double()
        sign = torch.randint(2, (terms,), generator=g) * 2 - 1
        game[torch.arange(terms) % 2, where] = sign * size  # AND and OR in turn
    v = and_inverse(truth[:, 0]) + or_inverse(truth[:, 1])
    return v + sd * torch.randn(v.shape, generator=g).double(), truth


def structured(n: int) -> torch.Tensor:
    games = [
        random_games(2, n),
        network_games(3, n),
        planted_games(2, n, min(6, 2**n - 1 - n), 0.01)[0],
    ]
    return torch.cat(games)


def both(split) -> torch.Tensor:
    return torch.stack([split.i_and, split.i_or], -2)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("n", [2, 3, 5, 7])
def test_agrees_with_a_linear_program(n, noise):
    v = structured(n)
    split = and_or_split(v, noise, tol=1e-6)
    optimum = torch.tensor([lp(game, noise)[0] for game in v]).double()
    assert split.converged.all()
    torch.testing.assert_close(split.objective, optimum, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("noise", NOISES)
def test_eight_players_reach_the_optimum_within_the_default_tolerance(noise):
    v = torch.cat([random_games(1, 8), network_games(2, 8), planted_games(1, 8, 10, 0.01)[0]])
    split = and_or_split(v, noise)
    optimum = torch.tensor([lp(game, noise)[0] for game in v]).double()
    assert split.converged.all() and (split.gap <= 1e-3).all()
    assert (split.bound <= optimum * (1 + 1e-7)).all()
    assert (split.objective >= optimum * (1 - 1e-7)).all()
    assert (split.objective <= optimum * 1.001).all()


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=8, max_size=8),
    noise=st.sampled_from([0.0, 0.04, 0.5]),
)
def test_any_small_game_is_certified_and_rebuilt(values, noise):
    v = torch.tensor(values, dtype=torch.float64)
    split = and_or_split(v, noise)
    scale = (v - v[0]).abs().max()
    unit = scale if scale > 0 else 1.0  # HiGHS takes what is below 1e-7 for zero
    optimum = lp(v / unit, noise)[0] * unit
    assert split.converged
    assert split.bound <= optimum + 1e-6 * scale
    assert split.objective >= optimum - 1e-6 * scale
    rebuilt = and_inverse(split.i_and) + or_inverse(split.i_or)
    assert (rebuilt - v).abs().max() <= noise * (v[-1] - v[0]).abs() + 1e-9 * scale


@pytest.mark.parametrize("noise", NOISES)
def test_what_is_reported_is_what_was_returned(noise):
    v = structured(6).reshape(7, 1, 64) + 3.0
    split = and_or_split(v, noise)
    assert split.objective.shape == split.gap.shape == split.residual.shape == (7, 1)
    assert torch.equal(split.i_and[..., 0], v[..., 0])
    assert (split.i_or[..., 0] == 0).all()
    assert (split.i_or[..., order(6) == 1] == 0).all()  # order 1 once, as AND
    strength = both(split)[..., 1:].abs().sum((-1, -2))
    torch.testing.assert_close(split.objective, strength)
    torch.testing.assert_close(split.gap, (strength - split.bound) / strength)
    missed = (and_inverse(split.i_and) + or_inverse(split.i_or) - v).abs().amax(-1)
    torch.testing.assert_close(split.residual, missed)
    allowed = noise * (v[..., -1] - v[..., 0]).abs()
    assert (missed <= allowed + 1e-9).all()


def test_the_bound_is_a_feasible_dual_value():
    """No split at all can be below the bound: neither AND alone, nor OR alone, nor the LP's."""
    v = random_games(4, 5)
    loose = and_or_split(v, tol=0.2)
    tight = and_or_split(v, tol=1e-7)
    assert (loose.bound <= tight.objective).all() and (tight.bound <= loose.objective).all()
    assert (loose.iterations < tight.iterations).all()


@pytest.mark.parametrize("noise", NOISES)
def test_players_can_be_renamed(noise):
    n, v = 5, structured(5)
    new = torch.tensor([3, 0, 4, 1, 2])
    index = (membership(n).long() << new).sum(-1)  # where each coalition goes
    renamed = torch.empty_like(v)
    renamed[:, index] = v
    plain, other = (both(and_or_split(x, noise, tol=1e-7)) for x in (v, renamed))
    torch.testing.assert_close(other[..., index], plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("noise", NOISES)
def test_equal_players_get_equal_interactions(noise):
    """Ties are broken without favour: players 0 and 1 enter this game alike."""
    v = network_games(3, 6)
    swapped = (membership(6)[:, [1, 0, 2, 3, 4, 5]].long() << torch.arange(6)).sum(-1)
    v = v + v[:, swapped]
    split = both(and_or_split(v, noise))
    torch.testing.assert_close(split[..., swapped], split, rtol=0, atol=1e-8)


def test_a_player_that_changes_nothing_has_no_interactions():
    v = network_games(3, 5).repeat_interleave(2, -1)  # the new player 0 is ignored
    split, without = and_or_split(v, tol=1e-7), and_or_split(v[:, ::2], tol=1e-7)
    assert both(split)[..., 1::2].abs().max() < 1e-5
    torch.testing.assert_close(split.objective, without.objective, rtol=1e-6, atol=0)


def test_the_dual_game_swaps_and_with_or():
    v = structured(6)
    dual = v[:, -1:] + v[:, :1] - v.flip(-1)
    split, swapped = and_or_split(v, tol=1e-7), and_or_split(dual, tol=1e-7)
    higher = order(6) > 1
    torch.testing.assert_close(split.objective, swapped.objective, rtol=1e-6, atol=0)
    torch.testing.assert_close(swapped.i_and[:, higher], split.i_or[:, higher], rtol=0, atol=1e-5)
    torch.testing.assert_close(swapped.i_or[:, higher], split.i_and[:, higher], rtol=0, atol=1e-5)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("factor", [1e-6, 0.1, -1.0, 1e6])
def test_scales_with_the_game(noise, factor):
    v = structured(5)
    plain, scaled = and_or_split(v, noise), and_or_split(factor * v, noise)
    size = abs(factor) * plain.objective.max()
    torch.testing.assert_close(both(scaled) / size, factor * both(plain) / size, rtol=0, atol=1e-9)
    assert torch.equal(scaled.iterations, plain.iterations)


@pytest.mark.parametrize("noise", NOISES)
def test_neither_batch_nor_chunk_changes_an_answer(noise, monkeypatch):
    v = structured(6)
    together = both(and_or_split(v, noise))
    assert torch.equal(together, both(and_or_split(v, noise)))  # deterministic
    alone = torch.stack([both(and_or_split(game, noise)) for game in v])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-8)
    monkeypatch.setitem(split_module.CHUNK, "cpu", 3 * 64)
    torch.testing.assert_close(together, both(and_or_split(v, noise)), rtol=0, atol=1e-8)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("cached, used", [(2**16, 1), (32, 3)])
def test_small_games_use_one_thread_and_the_number_comes_back(fails, cached, used, monkeypatch):
    """Counted where the time goes; beyond what the cache holds, the caller's threads are used."""
    v, seen, penalty = network_games(2, 6), set(), solver._penalty

    def watched(*args):
        seen.add(torch.get_num_threads())
        if fails:
            raise MemoryError
        return penalty(*args)

    monkeypatch.setattr(solver, "_penalty", watched)
    monkeypatch.setitem(split_module.CHUNK, "cpu", cached)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.raises(MemoryError) if fails else nullcontext():
            and_or_split(v)
        assert torch.get_num_threads() == 3
        assert seen == {used}
    finally:
        torch.set_num_threads(threads)


def test_finds_as_many_planted_terms_as_the_linear_program():
    n, terms = 7, 12
    v, truth = planted_games(4, n, terms, 0.01)
    found = both(and_or_split(v))[..., 1:].flatten(1).abs().topk(terms).indices
    best = torch.stack([torch.tensor(lp(game)[1]) for game in v]).abs().topk(terms).indices
    planted = truth[..., 1:].flatten(1) != 0
    assert planted.gather(1, best).sum() >= 3 * terms  # the oracle itself finds most of them
    assert planted.gather(1, found).sum() >= planted.gather(1, best).sum()


@pytest.mark.parametrize("noise", NOISES)
def test_games_with_little_to_split(noise):
    constant = torch.full((2, 16), 5.0)
    split = and_or_split(constant, noise)
    assert torch.equal(split.i_and[:, 0], constant[:, 0].double())
    assert split.i_and[:, 1:].abs().sum() == split.i_or.abs().sum() == split.objective.sum() == 0
    assert split.converged.all()
    assert and_or_split(torch.tensor([2.0]), noise).i_and.tolist() == [2.0]
    one = and_or_split(torch.tensor([2.0, 5.0]), noise)
    torch.testing.assert_close(one.i_and, torch.tensor([2.0, 3 * (1 - noise)]).double())
    returning = random_games(2, 5)
    returning[:, -1] = returning[:, 0]  # v(N) = v({}): no noise is allowed
    split = and_or_split(returning, noise)
    assert split.converged.all() and (split.residual < 1e-8).all()
    assert and_or_split(torch.zeros(0, 8), noise).objective.shape == (0,)


def test_noise_that_covers_everything_leaves_nothing():
    v = network_games(2, 4)
    split = and_or_split(v, noise=1e3)
    assert both(split)[..., 1:].abs().sum() == 0 and (split.gap == 0).all()


def test_single_precision_input_is_solved_in_double():
    v = network_games(2, 5).float()
    split = and_or_split(v)
    assert split.i_and.dtype == torch.float64
    assert torch.equal(split.i_and, and_or_split(v.double()).i_and)


def test_falling_short_of_tol_is_said():
    v = random_games(3, 6)
    with pytest.warns(RuntimeWarning, match=r"3 of 3 games did not reach tol=0.001 in 7 iter"):
        split = and_or_split(v, max_iterations=7)
    assert not split.converged.any() and (split.gap > 1e-3).all()
    assert (split.iterations == 7).all() and (split.residual < 1e-9).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert and_or_split(v).converged.all()


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 2.0])
def test_shared_split_agrees_with_a_linear_program(alpha, noise):
    v = torch.stack([network_games(3, 4, seed) for seed in range(2)])
    v[:, 1] += v[:, 0]  # models that share something
    split = shared_split(v, alpha, noise, tol=1e-6)
    assert split.objective.shape == (2,) and split.i_and.shape == v.shape
    optimum = torch.tensor([shared_lp(sample, alpha, noise) for sample in v]).double()
    torch.testing.assert_close(split.objective, optimum, rtol=2e-6, atol=0)
    torch.testing.assert_close(split.bound, optimum, rtol=2e-6, atol=0)
    strength = both(split)[..., 1:].abs()
    strength = (strength.amax(1) + alpha * strength.sum(1)).sum((-1, -2))
    torch.testing.assert_close(split.objective, strength)
    missed = (and_inverse(split.i_and) + or_inverse(split.i_or) - v).abs().amax(-1)
    assert (missed <= noise * (v[..., -1] - v[..., 0]).abs() + 1e-9).all()


def test_shared_split_of_one_model_is_its_split():
    v = structured(5)
    plain, shared = and_or_split(v), shared_split(v.unsqueeze(-2), alpha=0.0)
    assert torch.equal(both(shared)[:, 0], both(plain))
    weighed = shared_split(v.unsqueeze(-2), alpha=3.0)
    assert (weighed.bound <= 4 * plain.objective * (1 + 1e-12)).all()
    assert (weighed.objective >= 4 * plain.bound * (1 - 1e-12)).all()


def test_models_do_share_interactions():
    """Jointly, the interactions of two related models overlap at least as much as apart."""
    v = network_games(2, 6)
    v = torch.stack([v[0], v[0] + 0.3 * v[1]])

    def distinct(split):  # strength of the union, relative to the sum
        strength = both(split)[..., 1:].abs()
        return strength.amax(0).sum() / strength.sum()

    assert distinct(shared_split(v, alpha=0.1)) < distinct(and_or_split(v))


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_a_gpu_inverts_by_fewer_kernels_to_the_same_numbers(n):
    con, games = constraint.Constraint.of(n, torch.device("cpu")), 3
    generator = torch.Generator().manual_seed(n)
    ratio = torch.tensor([0.0, 0.5, 10.0], dtype=torch.float64)
    values = torch.randn(con.high, games, con.low, generator=generator, dtype=torch.float64)
    blocks, dense = constraint.Inverse(con, ratio), constraint.DenseInverse(con, ratio)
    torch.testing.assert_close(dense(values), blocks(values), rtol=1e-10, atol=1e-12)
    other = ratio.flip(0)
    torch.testing.assert_close(dense.at(other)(values), blocks.at(other)(values))
    assert dense(values).is_contiguous()


def test_the_split_on_a_gpu_is_that_on_a_cpu(monkeypatch):
    v = network_games(3, 6)
    expected = and_or_split(v, noise=0.04, tol=1e-5)
    monkeypatch.setattr(solver, "inverse", constraint.DenseInverse)
    found = and_or_split(v, noise=0.04, tol=1e-5)
    assert found.converged.all()
    torch.testing.assert_close(found.objective, expected.objective, rtol=2e-5, atol=0)


def test_bad_input():
    v = random_games(3, 3)
    with pytest.raises(ValueError, match="power|2\\*\\*n"):
        and_or_split(v[:, :7])
    for name in ("noise", "tol"):
        for value in (-0.1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"{name} .*>= 0; got"):
                and_or_split(v, **{name: value})
    with pytest.raises(ValueError, match="max_iterations must be at least 1; got 0"):
        and_or_split(v, max_iterations=0)
    v[1, 5] = float("nan")
    with pytest.raises(ValueError, match=r"nan at sample 1, coalition 5 \(players \[0, 2\]\)"):
        and_or_split(v)
    with pytest.raises(ValueError, match="models"):
        shared_split(torch.zeros(8))
    with pytest.raises(ValueError, match="alpha"):
        shared_split(torch.zeros(2, 8), alpha=-1)

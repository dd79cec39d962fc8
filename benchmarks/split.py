"""The AND-OR split against the literature's SGD recipe and a linear-programming solver."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import pi_lib as pi
from pi_lib.coalitions import membership, order

RECIPE_STEPS = 10_000


def rows(steps: int = 200) -> Iterator[dict]:
    """One row a comparison, on one thread, as each is done; CPU seconds add up all threads.

    Parameters
    ----------
    steps : int, default 200
        Steps of the SGD recipe that are timed; its full length is 10,000 and its time is
        extrapolated from these; the row says both. With ``steps=10_000`` nothing is, and the
        rows also hold the objective that the recipe reaches.
    """
    with _threads(1):
        for n, batch in ((10, 64), (12, 16)):
            v = network_games(batch, n)
            for noise in (0.04, 0.0):
                yield _against_recipe(v, noise, steps)
        yield _against_linear_program()
        yield _planted()


def network_games(count: int, n: int, seed: int = 0) -> Tensor:
    """Log-odds of a small convolutional network on scikit-learn's digits, (count, 2**n).

    Players are `n` of the 16 patches of 2x2 pixels, drawn anew for each image; the others stay.
    """
    net, images, labels, train = _network(seed)
    baseline, present, games = images[:train].mean(0), membership(n), []
    for i in range(count):
        drawn = torch.randperm(16, generator=torch.Generator().manual_seed(i))[:n]
        sample = train + i % (len(images) - train)
        shown = torch.ones(2**n, 16, dtype=torch.bool)
        shown[:, drawn] = present
        shown = shown.view(-1, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
        with torch.no_grad():
            logits = torch.cat(
                [net(torch.where(s, images[sample], baseline)) for s in shown.split(4096)]
            )
        games.append(pi.log_odds(logits, labels[sample].expand(2**n)))
    return torch.stack(games).double()


@lru_cache(maxsize=1)
def _network(seed: int):
    """The trained network, all images and labels, and how many of them it was trained on."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    train = 1500
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
            torch.nn.Flatten(), torch.nn.Linear(512, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10),
        )  # fmt: skip
        optimiser = torch.optim.Adam(net.parameters(), 1e-3)
        for _ in range(15):
            for batch in torch.randperm(train).split(64):
                optimiser.zero_grad()
                functional.cross_entropy(net(images[batch]), labels[batch]).backward()
                optimiser.step()
    return net, images, labels, train


def sgd_recipe(v: Tensor, noise: float, steps: int, lr: float = 1e-5) -> Tensor:
    """Sum of absolute interactions that the recipe of the literature reaches, per game.

    Written from its description: ``v_and = (v + q) / 2 + p``, ``v_or = (v + q) / 2 - p``, `q`
    kept within the noise; p and q by gradient descent on the L1 norm with momentum 0.9 and a
    learning rate that falls by one decade, through dense ``2**n x 2**n`` matrices in single
    precision. `lr` is the best decade on these games at n = 10.
    """
    eye = torch.eye(v.shape[-1], dtype=torch.float64)
    to_and, to_or = pi.and_transform(eye).float(), pi.or_transform(eye).float()
    v = (v - v[:, :1]).float()
    box = (noise * v[:, -1:].abs()).repeat(1, v.shape[-1])
    box[:, 0] = 0  # v({}) is given, as in our form
    p, q = (torch.zeros_like(v, requires_grad=True) for _ in range(2))
    optimiser = torch.optim.SGD([p, q], lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.1 ** (1 / RECIPE_STEPS))

    def strength() -> Tensor:
        half = (v + q) / 2
        both = torch.stack([(half + p) @ to_and, (half - p) @ to_or])
        return both[..., 1:].abs().sum((0, 2))

    for _ in range(steps):
        optimiser.zero_grad()
        strength().sum().backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            q.clamp_(-box, box)
    return strength().detach().double()


def _against_recipe(v: Tensor, noise: float, steps: int) -> dict:
    games, n = len(v), v.shape[-1].bit_length() - 1
    pi.and_or_split(v[:1], noise)  # prepares what depends on n alone
    ours, ours_wall, split = timed(lambda: pi.and_or_split(v, noise))
    with _threads(2):
        on_two, _, _ = timed(lambda: pi.and_or_split(v, noise))
    alone, alone_wall, reached = timed(lambda: sgd_recipe(v[:1], noise, steps))
    batched, _, _ = timed(lambda: sgd_recipe(v, noise, steps))
    longer = RECIPE_STEPS / steps
    row = {
        "what": f"split, n = {n}, batch {games}, noise {noise}",
        "peer": "SGD recipe",
        **_where(n, games, noise),
        "ours_cpu_s_per_game": ours / games,
        "peer_cpu_s_per_game": alone * longer,
        "peer_batched_cpu_s_per_game": batched * longer / games,
        "ours_s_per_game": ours_wall / games,
        "peer_s_per_game": alone_wall * longer,
        "times_less": alone * longer / (ours / games),
        "times_less_than_batched": batched * longer / ours,
        "two_threads_over_one": on_two / ours,
        "worst_gap": split.gap.max().item(),
        "median_iterations": split.iterations.median().item(),
        "sgd_steps_timed": steps,
        "sgd_steps": RECIPE_STEPS,
    }
    if longer == 1:
        row["sgd_objective_over_ours"] = (reached[0] / split.objective[0]).item()
    return row


def _against_linear_program(n: int = 10, games: int = 1) -> dict:
    v = network_games(games, n)
    theirs, theirs_wall, found = timed(lambda: [_highs(game) for game in v])
    ours, ours_wall, split = timed(lambda: pi.and_or_split(v))
    optimum = torch.tensor([np.abs(x).sum() for x in found])
    return {
        "what": f"split, n = {n}, batch {games}, noise 0.0",
        "peer": "HiGHS",
        **_where(n, games, 0.0),
        "ours_cpu_s_per_game": ours / games,
        "peer_cpu_s_per_game": theirs / games,
        "ours_s_per_game": ours_wall / games,
        "peer_s_per_game": theirs_wall / games,
        "times_less": theirs / ours,
        "worst_objective_over_optimum": (split.objective / optimum).max().item(),
    }


def _planted(n: int = 10, games: int = 2, terms: int = 20, sd: float = 0.01) -> dict:
    """How many of the planted terms are among the `terms` strongest, ours and HiGHS's."""
    generator = torch.Generator().manual_seed(0)
    higher = torch.nonzero(order(n) > 1)[:, 0]
    truth = torch.zeros(games, 2, 2**n, dtype=torch.float64)
    for game in truth:
        where = higher[torch.randperm(len(higher), generator=generator)[:terms]]
        size = 1 + torch.rand(terms, generator=generator).double()
        sign = torch.randint(2, (terms,), generator=generator) * 2 - 1
        game[torch.arange(terms) % 2, where] = sign * size
    v = pi.and_inverse(truth[:, 0]) + pi.or_inverse(truth[:, 1])
    v += sd * torch.randn(v.shape, generator=generator).double()
    planted = truth[..., 1:].flatten(1) != 0

    def recovered(interactions: Tensor) -> int:
        return int(planted.gather(1, interactions.abs().topk(terms).indices).sum())

    split = pi.and_or_split(v)
    found = recovered(torch.cat([split.i_and[:, 1:], split.i_or[:, 1:]], 1))
    theirs = recovered(torch.tensor(np.array([_highs(game) for game in v])))
    return {
        "what": f"{terms} planted terms, n = {n}, noise sd {sd}, {games} games",
        **_where(n, games, 0.0),
        "planted": games * terms,
        "ours": found,
        "highs": theirs,
        "ours_over_highs": found / theirs,
    }


def _highs(v: Tensor) -> np.ndarray:
    """AND then OR interactions over nonempty coalitions by SciPy's HiGHS, without noise."""
    from scipy.optimize import linprog

    t, s = np.arange(1, len(v))[:, None], np.arange(1, len(v))[None]
    both = np.hstack([(t & s) == s, (t & s) != 0]).astype(float)
    result = linprog(
        np.ones(2 * both.shape[1]), A_eq=np.hstack([both, -both]), b_eq=(v - v[0]).numpy()[1:]
    )
    plus, minus = np.split(result.x, 2)
    return plus - minus


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads for a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _where(n: int, batch: int, noise: float) -> dict:
    """What every row says of its problem and of where it ran."""
    return {
        "n": n, "batch": batch, "noise": noise, "device": "cpu",
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def timed(run: Callable[[], object]) -> tuple[float, float, object]:
    """CPU seconds of all threads, seconds on the clock, and the result."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = run()
    return time.process_time() - cpu, time.perf_counter() - wall, result


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)

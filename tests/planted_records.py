"""Records in which the truth is planted: what runs know, and how often they are right."""

from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np
import torch

from pi_lib import study
from pi_lib.transforms import walsh_inverse

N, SAMPLES, TESTED = 4, 30, 300


def planted(
    kept=0.3,
    learned=0.2,
    noise=0.3,
    high=None,
    runs=3,
    seed=0,
    accuracy: Mapping[str, float] | None = None,
    elsewhere: Mapping[str, float] | None = None,
    **cell,
) -> study.Record:
    """Fine-tuned runs that know `kept` of their variance from the probe, `learned` from scratch.

    `high` is what is kept of the orders above 1, by default as much. With `accuracy`, by arm, the
    record says which test samples each run had right: the same easy ones first; with `elsewhere`,
    which of each corruption, or of "source", fine-tuned runs had. `cell` are fields of
    `pi_lib.study.Cell`.
    """
    rng = np.random.default_rng(seed)
    order = np.array([bin(s).count("1") for s in range(2**N)])

    def known():
        return rng.normal(size=(SAMPLES, 2**N)) * (order > 0)

    probe, scratch = known(), known()
    share = np.where(order <= 1, kept, kept if high is None else high)
    fine = np.sqrt(share) * probe + np.sqrt(learned) * scratch
    fine += np.sqrt(np.clip(1 - share - learned, 0, 1)) * known()
    arms = {"probe": (probe, 1), "finetuned": (fine, runs), "scratch": (scratch, runs)}
    games = {
        f"covering/{arm}{run + 1}": game(signal + (noise * known() if arm != "probe" else 0))
        for arm, (signal, count) in arms.items()
        for run in range(count)
    }
    keys = [key.removeprefix("covering/") for key in games]
    rights = {} if accuracy is None else {key: right(accuracy[key[:-1]], rng) for key in keys}
    for on, share in (elsewhere or {}).items():
        for key in keys:
            mine = share if key.startswith("finetuned") else 0.5
            rights[f"{key}/{on}"] = right(mine, rng)
    cell = study.Cell(**({"backbone": "resnet20", "source": "cifar10"} | cell))
    accuracies = {key: rights[key].mean() if accuracy else 0.5 for key in keys}
    header = {
        "cell": cell.name, "title": cell.title, "slug": cell.slug, **asdict(cell),
        "pretrained_on": cell.pretrained_on, "cell_changes": dict(cell.changes),
        "settings": asdict(cell.settings), "players": {}, "tested": TESTED, "accuracy": accuracies,
        "labels": [0] * SAMPLES, "ids": list(range(SAMPLES)), "provenance": {},
        "rates": {arm: {"chosen": cell.settings.rate or 1e-3, "tried": {}} for arm in arms},
        "surer_of_its_own": {key: 0.7 for key in keys} if elsewhere else {},
    }  # fmt: skip
    return study.Record(header, games, rights)


def over_time(
    record: study.Record, ways: Mapping[str, list], noise=0.3, runs=3, seed=0
) -> study.Record:
    """The record with checkpoints of an arm's first runs, ten steps apart.

    Each is a multiple of the run's end and of a detour that the runs of the arm have in common.
    """
    rng, games = np.random.default_rng([seed, 1]), {}
    for arm, way in ways.items():
        detour = rng.normal(size=(SAMPLES, 2**N))
        for run in range(1, runs + 1):
            end = record.games[f"covering/{arm}{run}"]
            games |= {
                f"covering/{arm}{run}@{10 * k}": a * end
                + game(b * detour + noise * rng.normal(size=detour.shape))
                for k, (a, b) in enumerate(way)
            }
    last = dict.fromkeys(ways, 10 * len(way))
    return replace(record, header=record.header | {"last_step": last}, games=record.games | games)


def right(accuracy: float, rng: np.random.Generator) -> np.ndarray:
    """Which test samples a run has right: the first of them, but for some luck."""
    ease = np.arange(TESTED) / TESTED + 0.1 * rng.normal(size=TESTED)
    return ease.argsort().argsort() < accuracy * TESTED


def game(coefficients: np.ndarray) -> np.ndarray:
    """Values with these Walsh coefficients."""
    return walsh_inverse(torch.from_numpy(coefficients)).numpy()

"""Records of games in which the truth is planted."""

import numpy as np
import torch

from pi_lib import study
from pi_lib.transforms import walsh_inverse

N, SAMPLES = 4, 30


def planted(kept=0.3, learned=0.2, noise=0.3, high=None, runs=3, seed=0) -> study.Record:
    """Fine-tuned runs that know `kept` of their variance from the probe, `learned` from scratch.

    `high` is what is kept of the orders above 1, by default as much.
    """
    rng = np.random.default_rng(seed)
    order = np.array([bin(s).count("1") for s in range(2**N)])

    def known():
        return rng.normal(size=(SAMPLES, 2**N)) * (order > 0)

    def mixed(signal, share):
        return np.sqrt(share) * signal + np.sqrt(1 - share) * known()

    probe, scratch = known(), known()
    share = np.where(order <= 1, kept, kept if high is None else high)
    fine = np.sqrt(share) * probe + np.sqrt(learned) * scratch
    fine += np.sqrt(np.clip(1 - share - learned, 0, 1)) * known()
    arms = {"probe": (probe, 1), "finetuned": (fine, runs), "scratch": (scratch, runs)}
    games = {
        f"drawn/{arm}{run + 1}": game(signal + (noise * known() if arm != "probe" else 0))
        for arm, (signal, count) in arms.items()
        for run in range(count)
    }
    header = {
        "cell": "planted", "labels": [0] * SAMPLES, "ids": list(range(SAMPLES)), "tested": 100,
        "accuracy": {key.removeprefix("drawn/"): 0.5 for key in games}, "players": {},
    }  # fmt: skip
    return study.Record(header, games)


def game(coefficients):
    """Values with these Walsh coefficients."""
    return walsh_inverse(torch.from_numpy(coefficients)).numpy()

"""Random numbers from streams that never meet: weights, heads, batches, dropout, data.

Each stream has a name; a run's number chooses within it. So a scratch run of number 0 does not
start from the weights from which pre-training started, though both are number 0.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_of(stream: str, *numbers: int) -> int:
    """The seed of a stream of random numbers, from its name and, say, run and epoch.

    At least 0 and below 2**63: the first bits of a BLAKE2 hash, so that two seeds are the same by
    chance once in 10**18 pairs.
    """
    text = repr((stream, *map(int, numbers))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def set_seed(seed: int, device: str | torch.device = "cpu") -> None:
    """Seed torch (on the CPU and on `device`), numpy and `random`: within `random_state_restored`.

    Unlike `torch.manual_seed` it leaves the other devices alone.
    """
    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def random_state_restored(device: str | torch.device = "cpu") -> Iterator[None]:
    """Leave the global random state of torch, numpy and `random` as it was, whatever happens."""
    state, numbers = random.getstate(), np.random.get_state()
    device = torch.device(device)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numbers)

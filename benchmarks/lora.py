"""Values under a network that LoRA trained, against the same network trained without it."""

from collections.abc import Iterator

import torch

import pi_lib as pi
from benchmarks.engine import _timed
from pi_lib.engine import choose_device
from pi_lib.study import backbones
from pi_lib.training import Split

MODELS = {"efficientnet-lite0": 64, "vit-32": 32}  # name -> side of its images


def rows(n: int = 8, samples: int = 4, repeats: int = 7) -> Iterator[dict]:
    """What the values of ``2**n`` masked inputs of each image cost after either training.

    LoRA's matrices are merged into the weights, so that the network is as plain as without. Both
    are timed in turn, and the least of several times counts: CPU time on a CPU, so that a machine's
    other work does not count, and wall time on a GPU.
    """
    return (_against_plain(name, n, samples, repeats) for name in MODELS)


def _against_plain(name: str, n: int, samples: int, repeats: int) -> dict:
    size, device = MODELS[name], choose_device("auto")
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (8, 3, size, size), dtype=torch.uint8, generator=random)
    split = Split(images, torch.arange(8) % 2, list(range(8)))
    shown, players = images[:samples].float() / 255, pi.PatchPlayers(grid=8, n=n)
    models = {
        way: pi.finetune(
            backbones.build(name, 2, pretrained=False), split, split, epochs=1, learning_rate=1e-3,
            checkpoints=2, lora=rank, device=device,
        ).model.to(device)
        for way, rank in (("plain", 0), ("lora", 8))
    }  # fmt: skip
    seconds = dict.fromkeys(models, float("inf"))
    for _ in range(repeats):
        for way, model in models.items():
            taken = _timed(
                lambda model=model: pi.coalition_values(model, shown, [0] * samples, players),
                device,
            )
            seconds[way] = min(seconds[way], taken)
    return {
        "what": f"values of 2**{n} masks after LoRA, {name}, {size} px, {samples} images",
        "device": str(device),
        "threads": torch.get_num_threads(),
        **{f"{way}_s": each for way, each in seconds.items()},
        "throughput_of_plain": seconds["plain"] / seconds["lora"],
    }


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)

"""The engine against the plain forward of the same model and batch, and against a mask loop."""

import time
from collections.abc import Callable

import torch

import pi_lib as pi
from pi_lib import models
from pi_lib.players import Placement
from pi_lib.values import choose_device


def rows(n: int = 10, batch: int = 64, repeats: int = 3) -> list[dict]:
    """Seconds of each way for the ``2**n`` masked inputs of one image, and the ratios.

    Every way is timed `repeats` times in turn; the least of each counts.
    """
    from torchvision.models import resnet50

    device = choose_device("auto")
    found = []
    for name, model, size in (
        ("efficientnet-lite0, 64 px", models.build("efficientnet-lite0", 10), 64),
        ("resnet50, 224 px", resnet50().eval(), 224),
    ):
        model = model.to(device)
        image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        players = pi.PatchPlayers(grid=8, n=n)
        (placement,) = players.place(image)
        ways = {
            "engine": lambda m=model, i=image, p=players: pi.coalition_values(
                m, i, [0], p, batch_size=batch
            ),
            "plain forward": lambda m=model, i=image: _forward(m, i.to(device), 2**n, batch),
            "mask loop": lambda m=model, p=placement: _loop(m, p, n, batch, device),
        }
        seconds = {way: float("inf") for way in ways}
        for _ in range(repeats):
            for way, run in ways.items():
                seconds[way] = min(seconds[way], _timed(run, device))
        found.append(
            {
                "what": f"values of 2**{n} masks, {name}, batch {batch}",
                "device": str(device),
                "engine_s": seconds["engine"],
                "plain_forward_s": seconds["plain forward"],
                "mask_loop_s": seconds["mask loop"],
                "throughput_of_plain": seconds["plain forward"] / seconds["engine"],
            }
        )
    return found


@torch.no_grad()
def _forward(model, image: torch.Tensor, count: int, batch: int) -> None:
    x = image.expand(batch, *image.shape[1:]).contiguous()
    for _ in range(count // batch):
        model(x)


@torch.no_grad()
def _loop(model, placement: Placement, n: int, batch: int, device) -> None:
    """As public implementations do it: each mask filled player by player on the host."""
    pending = []
    for coalition in range(2**n):
        image = placement.inputs[0].clone()
        for player in range(n):
            if not coalition >> player & 1:
                hidden = placement.owner[0, 0] == player
                image[:, hidden] = placement.baseline[0][:, hidden]
        pending.append(image)
        if len(pending) == batch:
            model(torch.stack(pending).to(device))
            pending = []


def _timed(run: Callable[[], object], device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    for row in rows():
        print(row)

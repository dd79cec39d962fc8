"""The engine against the plain forward of the same model and batch, and against a mask loop."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

import torch
from torch import Tensor, nn

import pi_lib as pi
from benchmarks.growth import peak_gb
from pi_lib.engine import choose_device
from pi_lib.players import Placement
from pi_lib.study import backbones

MODELS = {  # name -> side of its images, masked inputs that the plain ways are timed on, repeats
    "efficientnet-lite0": (64, 1024, 3),
    "resnet50": (224, 128, 1),
}


def rows(n: int = 10, batch: int = 64) -> Iterator[dict]:
    """What the values of ``2**n`` masked inputs of one image cost, and the ratios.

    Seconds are CPU time on a CPU, so that a machine's other work does not count, and wall time on
    a GPU. Every way is timed several times in turn, and the least counts. Where the plain forward
    and the mask loop were timed on fewer inputs, ``plain_inputs_timed``, their seconds are scaled.
    Peaks are those of a process of its own, with Python, torch and the model.
    """
    spawn = multiprocessing.get_context("spawn")
    for work, arguments in [*((_against, (name, n, batch)) for name in MODELS), (_outside, ())]:
        with ProcessPoolExecutor(1, mp_context=spawn) as process:  # whose peak memory is its own
            yield process.submit(work, *arguments).result()


@torch.no_grad()
def _against(name: str, n: int, batch: int) -> dict:
    size, inputs, repeats = MODELS[name]
    device = choose_device("auto")
    model, image, players = _model(name).to(device), _images(1, size), pi.PatchPlayers(grid=8, n=n)
    (placement,) = players.place(image)
    whole = image.to(device).expand(batch, *image.shape[1:]).contiguous()
    model(whole)
    plain_peak = peak_gb(device.type)
    pi.coalition_values(model, image, [0], players, batch_size=batch)
    peak = peak_gb(device.type)
    batches = min(inputs, 2**n) // batch
    ways = {
        "engine": lambda: pi.coalition_values(model, image, [0], players, batch_size=batch),
        "plain_forward": lambda: [model(whole) for _ in range(batches)],
        "mask_loop": lambda: _loop(model, placement, n, batch, device, batches),
    }
    seconds = {way: float("inf") for way in ways}
    for _ in range(repeats):
        for way, run in ways.items():
            part = 1 if way == "engine" else batches * batch / 2**n
            seconds[way] = min(seconds[way], _timed(run, device) / part)
    return {
        "what": f"values of 2**{n} masks, {name}, {size} px, batch {batch}",
        "device": str(device),
        "threads": torch.get_num_threads(),
        **{f"{way}_s": each for way, each in seconds.items()},
        "plain_inputs_timed": batches * batch,
        "throughput_of_plain": seconds["plain_forward"] / seconds["engine"],
        "throughput_of_loop": seconds["mask_loop"] / seconds["engine"],
        "peak_gb": peak,
        "plain_peak_gb": plain_peak,
    }


def _outside(name: str = "efficientnet-lite0", n: int = 12, batch: int = 64) -> dict:
    """The share of the engine's time that is not in a forward pass of the model."""
    device = choose_device("auto")
    samples = 32 if device.type == "cuda" else 2
    model = _Clocked(_model(name), device).eval().to(device)
    images = _images(samples, MODELS[name][0])
    players = pi.PatchPlayers(grid=8, n=n)
    shares = []
    for _ in range(2):
        _Clocked.seconds = 0.0
        total = _timed(
            lambda: pi.coalition_values(model, images, [0] * samples, players, batch_size=batch),
            device,
        )
        shares.append(1 - _Clocked.seconds / total)
    timed = "" if samples == 32 else f" ({samples} timed: each costs the same)"
    return {
        "what": f"all but the forward, {name}, n = {n}, 32 samples{timed}, batch {batch}",
        "device": str(device),
        "threads": torch.get_num_threads(),
        "engine_s": total * 32 / samples,
        "outside_forward": min(shares),
    }


class _Clocked(nn.Module):
    """A model; the class counts the seconds spent in it and in copies of it."""

    seconds = 0.0

    def __init__(self, model: nn.Module, device: torch.device):
        super().__init__()
        self.model, self.device = model, device

    def forward(self, x: Tensor) -> Tensor:
        start = _now(self.device)
        try:
            return self.model(x)
        finally:  # the engine ends some passes before they are over
            _Clocked.seconds += _now(self.device) - start


def _model(name: str) -> nn.Module:
    if name == "resnet50":
        from torchvision.models import resnet50

        return resnet50().eval()
    return backbones.build(name, 10)


def _images(count: int, size: int) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def _loop(model, placement: Placement, n: int, batch: int, device, batches: int) -> None:
    """As public implementations do it: each mask filled player by player on the host."""

    def masked():
        for coalition in range(2**n):
            image = placement.inputs[0].clone()
            for player in range(n):
                if not coalition >> player & 1:
                    hidden = placement.owner[0, 0] == player
                    image[:, hidden] = placement.baseline[0][:, hidden]
            yield image

    images = masked()
    for _ in range(batches):
        model(torch.stack(list(islice(images, batch))).to(device))


def _timed(run: Callable[[], object], device: torch.device) -> float:
    start = _now(device)
    run()
    return _now(device) - start


def _now(device: torch.device) -> float:
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)

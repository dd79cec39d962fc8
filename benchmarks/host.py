"""What would hold up a GPU, measured on one core of a CPU: all that is not a network's arithmetic.

A GPU waits for Python, for data and for the disk. How long, shows without one: networks so small
that their arithmetic hardly counts, or whose forward passes are clocked and taken off.
"""

import copy
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import pi_lib as pi
from benchmarks import engine, gpu
from pi_lib import study, training
from pi_lib.and_or import constraint, solver
from pi_lib.study.store import Store

CPU = torch.device("cpu")
# What torch's profiler lists beside computations: other views of the same numbers, memory.
NO_KERNEL = (
    "as_strided resolve_conj view empty empty_strided lift_fresh flatten resize_ _unsafe_view"
)


def rows(small: bool = False) -> Iterator[dict]:
    """CPU seconds of one thread, so that a machine's other work does not count.

    Parameters
    ----------
    small : bool, default False
        A few seconds' worth, for a test: its numbers mean nothing.
    """
    spawn = multiprocessing.get_context("spawn")
    for work in (_engine, _training_step, _probe, _extraction, _cell, _split_kernels, _rounding):
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            yield process.submit(_on_one_thread, work, small).result()


def _on_one_thread(work: Callable[[bool], dict], small: bool) -> dict:
    torch.set_num_threads(1)
    return work(small)


def _engine(small: bool) -> dict:
    """The engine without shared layers, but for the forward: a batch of the size for a GPU."""
    model = engine._Clocked(engine._model("efficientnet-lite0"), CPU).eval()
    image, players = (
        engine._images(1, 32 if small else 64),
        pi.PatchPlayers(8, n=4 if small else 10),
    )
    shares = []
    for _ in range(3):
        engine._Clocked.seconds = 0.0
        run = lambda: pi.coalition_values(model, image, [0], players, share=False, batch_size=1024)  # noqa: E731
        total = engine._timed(run, CPU)
        shares.append(1 - engine._Clocked.seconds / total)
    return {"what": "engine, EfficientNet-Lite0, 64 px, one batch of 1,024: share that is not the "
            "forward", "of": "engine", "value": min(shares)}  # fmt: skip


def _training_step(small: bool) -> dict:
    """A step of training, against its forward, backward and optimiser alone."""
    steps, size = (8 if small else 200), 128
    train, test = gpu._splits(size * steps, 8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    began = []

    class Clock(gpu._callback()):
        def on_step_end(self, args, state, control, **_):
            if state.global_step in (steps // 4, steps):
                began.append(time.process_time())

    training.train_from_scratch(
        model, train, test, epochs=1, learning_rate=1e-3, batch_size=size, checkpoints=[steps],
        device="cpu", callbacks=[Clock()],
    )  # fmt: skip
    ours = (began[1] - began[0]) / (steps - steps // 4)
    x, labels = train.inputs[:size].float() / 255, train.labels[:size]
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    for step in range(steps):
        if step == steps // 4:  # as above: the first ones set up what is needed
            start = time.process_time()
        optimiser.zero_grad()
        cross_entropy(model(x), labels).backward()
        optimiser.step()
    bare = (time.process_time() - start) / (steps - steps // 4)
    return {"what": "a step of training, 128 pictures of 32 px: ms that are not forward, backward "
            "or optimiser", "of": "training", "value": 1000 * (ours - bare)}  # fmt: skip


def _probe(small: bool) -> dict:
    run, seconds = gpu.probe_of_features(CPU), []
    for _ in range(3):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return {"what": "linear probe of 1,000 feature vectors: seconds", "of": "probe",
            "value": min(seconds)}  # fmt: skip


def _extraction(small: bool) -> dict:
    """An extraction as the study makes it, values kept on disk, but for the forward passes."""
    n, samples = (4, 2) if small else (8, 24)
    model = engine._Clocked(gpu._network("resnet20"), CPU).eval()
    x, players, outside = engine._images(samples, 32), pi.PatchPlayers(8, n=n), []
    for _ in range(1 if small else 2):
        engine._Clocked.seconds = 0.0
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            pi.extract(
                model, x, [0] * samples, players, device="cpu", share=False, keep=folder,
                batch_size=1024,
            ).save(Path(folder) / "games.safetensors")  # fmt: skip
            outside.append(time.process_time() - start - engine._Clocked.seconds)
    return {"what": f"extraction at a checkpoint, {samples} samples, n = {n}: seconds that are not "
            "the forward", "of": "extraction", "value": min(outside)}  # fmt: skip


def _cell(small: bool) -> dict:
    """A whole cell of a network of one small convolution: nearly all of it is the study's own."""
    study.register_backbone(
        "one-convolution", OneConvolution, kind="image", size=32, features=8, weights="random"
    )
    profile = "smoke" if small else "full"
    cell = study.Cell("one-convolution", "fashion-mnist", profile=profile)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        study.run(cell, Store(folder))
        total = time.process_time() - start
        seconds, records = Counter(), Path(folder).glob("*/*/record.json")
        for path in records:
            seconds[path.parent.parent.name] += json.loads(path.read_text())["seconds"]
    return {"what": f"a cell at {profile!r}, 32 px, network of one convolution: seconds in all",
            "of": "cell", "value": total, **{f"{x}_s": s for x, s in seconds.items()}}  # fmt: skip


class OneConvolution(nn.Module):
    """An encoder whose arithmetic hardly counts."""

    def __init__(self, pretrained: bool):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, stride=8)

    def forward(self, x):
        return self.patches(x).relu().mean((2, 3))


def _split_kernels(small: bool) -> dict:
    """Launches of an iteration of the split, by the form that a GPU takes and by a CPU's."""
    from torch.profiler import ProfilerActivity, profile

    draw = torch.Generator().manual_seed(0)
    w = torch.randn(64, 1, 2 ** (6 if small else 10), generator=draw, dtype=torch.float64)
    w[..., 0], found = 0, {}
    for form in (constraint.DenseInverse, constraint.Inverse):
        solver.inverse = form  # in this process alone
        state = solver.Solver.start(w, torch.full((64, 1), 0.1, dtype=torch.float64), 0.0)
        state.step(False)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            state.step(False)
        names = [(x.name.removeprefix("aten::"), x.cpu_children) for x in profiled.events()]
        found[form] = sum(
            name == "mm" or not within and name not in NO_KERNEL.split() for name, within in names
        )
    dense, blocks = found.values()
    return {"what": "AND-OR split, n = 10: kernels an iteration, as on a GPU",
            "of": "split", "value": dense, "kernels_on_a_cpu": blocks}  # fmt: skip


def _rounding(small: bool) -> dict:
    """Error of v if convolutions round what they are given as a GPU does by default (TF32)."""
    names, errors = ("resnet20",) if small else tuple(gpu.NETWORKS), {}
    for name in names:
        model, x = gpu._network(name), gpu._pictures(1, gpu.NETWORKS[name])
        masked = gpu._masked(x, pi.PatchPlayers(8, n=6))
        exact = copy.deepcopy(model).double()
        for layer in filter(lambda layer: isinstance(layer, nn.Conv2d), model.modules()):
            layer.weight.data = _to_10_bits(layer.weight.data)
            layer.register_forward_pre_hook(lambda _, given: (_to_10_bits(given[0]),))
        with torch.no_grad():
            values = [
                pi.log_odds(network(inputs).double(), gpu._zeros(len(inputs)))
                for network, inputs in ((model, masked), (exact, masked.double()))
            ]
        errors[name] = ((values[0] - values[1]).abs().max() / gpu._spread(values[1][None])).item()
    worst = max(errors, key=errors.get)
    return {"what": f"{worst}, {gpu.NETWORKS[worst]} px: error of v over its spread, where "
            "convolutions round their inputs to 10 bits", "of": "rounding",
            "value": errors[worst], **errors}  # fmt: skip


def _to_10_bits(x: torch.Tensor) -> torch.Tensor:
    """Float32 numbers with 10 bits after the leading one, rounded to the nearest."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)

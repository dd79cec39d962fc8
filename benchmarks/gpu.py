"""A machine with a GPU: whether its values are right, and how near the project comes to the card.

Needs the checkout and its Python packages, nothing else: networks have random weights, pictures are
noise. Four minutes at most.
"""

import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import pi_lib as pi
from pi_lib import training
from pi_lib.coalitions import membership
from pi_lib.engine import checks, choose_device
from pi_lib.study import backbones
from pi_lib.training import loop

NETWORKS = {  # by name: side of its pictures
    "efficientnet-lite0": 64,
    "resnet20": 32,
    "resnet50-32": 32,
    "vgg16-32": 32,
    "vit-32": 32,
}
TRAINED = ("resnet20", "resnet50-32", "vgg16-32", "vit-32")


def rows(device: str = "cuda", small: bool = False) -> Iterator[dict]:
    """Checks, each with what was found and what is allowed; then seconds, each beside its peer.

    Parameters
    ----------
    device : str, default "cuda"
        Refused by name where there is none.
    small : bool, default False
        A minute's worth for a CPU: one network, few players. Its seconds mean nothing.
    """
    device = choose_device(device)
    networks = {"resnet20": 32} if small else NETWORKS
    trained, players = (TRAINED[:1], (4,)) if small else (TRAINED, (8, 10))
    works = [
        *(partial(check, name, size, device)
          for name, size in networks.items() for check in (_against_float64, _other_batches)),
        *(partial(check, device) for check in (
            _bfloat16, _autocast, _probe_as_on_cpu, _split_as_on_cpu, _tracked
        )),
        partial(_training_is_repeatable, device),
        *([partial(_halved, device)] if device.type == "cuda" else []),
        *(partial(_engine, name, size, n, device)
          for name, size in networks.items() for n in players),
        *([] if small else [partial(_engine, "resnet50", 224, 10, device, 4)]),
        *(partial(_images_a_second, name, batch, device, 4 if small else 40)
          for name in trained for batch in (32, 128)),
        partial(_probe_seconds, device),
        partial(_outside_forward, device, 4 if small else 10),
        partial(_split_and_transforms, device, small),
    ]  # fmt: skip
    for work in works:
        began = time.perf_counter()
        for row in found_by(work):
            yield row | {"took_s": time.perf_counter() - began}
            began = time.perf_counter()


def found_by(work: partial) -> Iterator[dict]:
    """The rows of a work; a row that says why, where it failed."""
    try:
        found = work()
        yield from [found] if isinstance(found, dict) else found
    except Exception as error:  # the others are still worth knowing
        what = f"{work.func.__name__.strip('_').replace('_', ' ')} {work.args[0]}"
        yield {"what": what, "met": False, "note": f"{type(error).__name__}: {error}"}


# ---------------------------------------------------------------- checks


def _check(what: str, found: float, allowed: float, **more) -> dict:
    return {"what": what, "found": found, "allowed": allowed, "met": found <= allowed, **more}


def _against_float64(name: str, size: int, device: torch.device) -> dict:
    """Largest error of v over its spread, against the same network in float64 on the CPU."""
    model, x, players = _network(name), _pictures(2, size), pi.PatchPlayers(8, n=6)
    here, exact = (  # ids: without them another precision draws other players
        pi.coalition_values(m, y, [0, 1], players, ids=[0, 1], device=d, share=False)
        for m, y, d in ((model, x, device), (copy.deepcopy(model).double(), x.double(), "cpu"))
    )
    with torch.no_grad():  # what torch does by default
        masked = _masked(x, players)
        tf32 = pi.log_odds(model.to(device)(masked.to(device)).double().cpu(), _zeros(64))
    return _check(
        f"{name}, {size} px: error of v over its spread",
        ((here - exact).abs().amax(1) / _spread(exact)).max().item(),
        checks.SHARE[torch.float32],
        by_default=((tf32 - exact[0]).abs().max() / _spread(exact)[0]).item(),
    )


def _other_batches(name: str, size: int, device: torch.device) -> dict:
    model, x, players = _network(name), _pictures(2, size), pi.PatchPlayers(8, n=8)
    first, second = (
        pi.coalition_values(model, x, [0, 1], players, device=device, share=False, batch_size=b)
        for b in (512, 96)
    )
    apart = ((first - second).abs().amax(1) / _spread(first)).max().item()
    return _check(f"{name}: v in batches of 512 and of 96, over its spread", apart, 1e-4)


def _bfloat16(device: torch.device) -> dict:
    """Values of a network in bfloat16 are those of that network, whatever the device."""
    model, x = _network("resnet20").bfloat16(), _pictures(2, 32).bfloat16()
    players = pi.PatchPlayers(8, n=6)
    here, there = (
        pi.coalition_values(model, x, [0, 1], players, device=d, share=False)
        for d in (device, "cpu")
    )
    apart = ((here - there).abs().amax(1) / _spread(there)).max().item()
    return _check("a bfloat16 network: v against the CPU's, over its spread", apart, 0.3)


def _autocast(device: torch.device) -> dict:
    model, x, players = _network("resnet20"), _pictures(1, 32), pi.PatchPlayers(8, n=6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pi.coalition_values(model, x, [0], players, device=device, autocast=torch.bfloat16)
    unsaid = not any("first look" in str(warning.message) for warning in caught)
    return _check("autocast without a warning of its error", float(unsaid), 0.0)


def _probe_as_on_cpu(device: torch.device) -> dict:
    train, test = _splits(300, 100)
    heads = [
        pi.linear_probe(_network("resnet20"), train, test, device=d).model.head.weight
        for d in (device, "cpu")
    ]
    apart = (heads[0] - heads[1]).norm() / heads[1].norm()
    return _check("linear probe: head against the CPU's, relative", apart.item(), 0.01)


def _split_as_on_cpu(device: torch.device) -> dict:
    """The AND-OR split, whose inverse has another form on a GPU."""
    draw = torch.Generator().manual_seed(0)
    v = torch.randn(8, 2**8, generator=draw, dtype=torch.float64).cumsum(1)
    here, there = (pi.and_or_split(x, noise=0.04) for x in (v.to(device), v))
    apart = (here.objective.cpu() / there.objective - 1).abs().max()
    return _check("AND-OR split: objective against the CPU's, relative", apart.item(), 2e-3)


def _training_is_repeatable(device: torch.device) -> Iterator[dict]:
    """A run twice, one that was interrupted, and one without a graph."""
    train, test = _splits(64, 8)
    options = {"epochs": 5, "learning_rate": 1e-3, "device": device}

    def weights(**more) -> Tensor:
        run = training.train_from_scratch(_network("resnet20"), train, test, **options | more)
        return torch.cat([x.flatten().double() for x in run.model.state_dict().values()])

    first = weights(graph=True)
    yield _check("training twice: weights that differ", _differ(first, weights(graph=True)), 0)
    with tempfile.TemporaryDirectory() as folder:
        again = _interrupted(weights, Path(folder))
    yield _check("training resumed after a stop: weights that differ", _differ(first, again), 0)
    plain = weights(graph=False)
    apart = ((first - plain).norm() / plain.norm()).item()
    yield _check("training with a graph and without: weights, relative", apart, 0.05)


class _Stop(Exception):
    pass


def _interrupted(weights: Callable[..., Tensor], folder: Path) -> Tensor:
    """The weights of a run that was stopped at its sixth step, its state saved at every step."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 6:
                raise _Stop

    before, loop.SAVE_EVERY = loop.SAVE_EVERY, 0
    try:
        weights(graph=True, resume=folder, callbacks=[Stop()])
    except _Stop:
        pass
    finally:
        loop.SAVE_EVERY = before
    return weights(graph=True, resume=folder)


def _tracked(device: torch.device) -> dict:
    """The tracker's similarity of a run's end with itself, on the device."""
    train, test = _splits(64, 16)
    tracker = pi.KnowledgeTracker(
        (test.inputs[:6].float() / 255, test.labels[:6]), pi.PatchPlayers(grid=4, n=4)
    )
    pi.finetune(
        _network("resnet20"), train, test, epochs=2, learning_rate=1e-3, device=device,
        callbacks=[tracker],
    )  # fmt: skip
    rows = len(tracker.to_frame())
    return _check("tracker: checkpoints without numbers", float(rows == 0), 0.0)


def _halved(device: torch.device) -> dict:
    """Values where memory is short, against those where it is not."""
    model, x, players = _network("efficientnet-lite0"), _pictures(1, 64), pi.PatchPlayers(8, n=12)
    whole = pi.coalition_values(model, x, [0], players, device=device, share=False)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**30) / total)
    try:
        halved = pi.coalition_values(
            model, x, [0], players, device=device, share=False, batch_size=4096
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    apart = ((whole - halved).abs().max() / _spread(whole)).item()
    return _check("v with a GiB of memory, over its spread", apart, 1e-4)


# ---------------------------------------------------------------- seconds


def _engine(name: str, size: int, n: int, device: torch.device, samples: int = 20) -> dict:
    """The engine against forward passes of as many pictures, in float32 without TF32."""
    model, players = _network(name).to(device), pi.PatchPlayers(8, n=n)
    x, rows = _pictures(samples, size), samples * 2**n
    batch = min(1024 if device.type == "cuda" else 64, rows)
    whole = x[:1].to(device).expand(batch, -1, -1, -1).contiguous()
    last = whole.to(memory_format=torch.channels_last)

    def plain(pictures: Tensor = whole) -> None:
        with torch.no_grad(), checks.full_float32():
            for _ in range(rows // batch):
                model(pictures)

    def engine(share: bool) -> Callable[[], object]:
        return lambda: pi.coalition_values(
            model, x, [0] * samples, players, device=device, share=share, batch_size=batch
        )

    ways = {
        "plain_forward_s": plain, "engine_s": engine(False), "engine_that_may_share_s": engine(True)
    }  # fmt: skip
    seconds = _least(ways, device, repeats=2)
    channels = _least({"channels_last_s": lambda: plain(last)}, device, repeats=2)
    return {
        "what": f"values of {samples} x 2**{n} masks, {name}, {size} px",
        "network": name, "n": n, **seconds, **channels,
        "throughput_of_plain": seconds["plain_forward_s"] / seconds["engine_s"],
        "sharing_over_plain": seconds["engine_that_may_share_s"] / seconds["engine_s"],
    }  # fmt: skip


def _images_a_second(name: str, batch: int, device: torch.device, steps: int) -> dict:
    """Training with a graph and without; data on the device, evaluation left out."""
    train, test = _splits(batch * steps, 8)
    speed = {}
    for graph in (False, True):
        began = []

        class Clock(_callback()):
            def on_step_end(self, args, state, control, _began=began, **_):
                if state.global_step in (steps // 4, steps):
                    _synchronize(device)
                    _began.append(time.perf_counter())

        training.train_from_scratch(
            _network(name), train, test, epochs=1, learning_rate=1e-3, batch_size=batch,
            checkpoints=[steps], device=device, graph=graph, callbacks=[Clock()],
        )  # fmt: skip
        done = batch * (steps - steps // 4)
        speed["with a graph" if graph else "without"] = done / (began[1] - began[0])
    return {
        "what": f"training {name}, batch {batch}: pictures a second",
        "network": name, "batch": batch, "images_per_s": speed["with a graph"],
        "without_graph_images_per_s": speed["without"],
    }  # fmt: skip


def _probe_seconds(device: torch.device) -> dict:
    run = probe_of_features(device)
    return {"what": "linear probe of 1,000 feature vectors", **_least({"seconds": run}, device)}


def probe_of_features(device: torch.device) -> Callable[[], object]:
    """Fits the probe of 1,000 samples whose features are there: 1,280 numbers, 5 classes."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1400, 1280, generator=draw)
    labels = (x[:, :5] + torch.randn(1400, 5, generator=draw)).argmax(1)
    train, test = (
        training.Split(x[a:b], labels[a:b], [*range(a, b)]) for a, b in ((0, 1000), (1000, 1400))
    )
    model = nn.Sequential(nn.Identity(), nn.Linear(1280, 5))
    return lambda: pi.linear_probe(model, train, test, features="0", device=device)


def _outside_forward(device: torch.device, n: int) -> dict:
    """Extraction of 40 samples of a network at a checkpoint, but for its forward passes."""
    model, x, players = _network("vgg16-32").to(device), _pictures(40, 32), pi.PatchPlayers(8, n=n)
    batch = min(1024, 40 * 2**n)
    whole = _pictures(batch, 32).to(device)

    def plain() -> None:
        with torch.no_grad(), checks.full_float32():
            for _ in range(40 * 2**n // batch):
                model(whole)

    def extraction() -> None:
        with tempfile.TemporaryDirectory() as folder:
            pi.extract(
                model, x, [0] * 40, players, device=device, share=False, keep=folder,
                batch_size=batch,
            )  # fmt: skip

    seconds = _least({"plain_forward_s": plain, "extraction_s": extraction}, device)
    outside = seconds["extraction_s"] - seconds["plain_forward_s"]
    return {
        "what": "extraction of 40 samples, values kept on disk",
        **seconds,
        "outside_s": outside,
    }


def _split_and_transforms(device: torch.device, small: bool) -> Iterator[dict]:
    draw = torch.Generator().manual_seed(0)
    n = 6 if small else 10
    for batch in (8,) if small else (64, 512):
        v = torch.randn(batch, 2**n, generator=draw, dtype=torch.float64).cumsum(1).to(device)
        split = lambda v=v: pi.and_or_split(v, noise=0.04)  # noqa: E731
        seconds = _least({"seconds": split}, device, repeats=1)
        each = 1000 * seconds["seconds"] / batch
        yield {"what": f"AND-OR split, n = {n}, batch {batch}", **seconds, "ms_per_game": each}
    for n in (8,) if small else (10, 16):
        v = torch.randn(64, 2**n, generator=draw, dtype=torch.float64).to(device)
        seconds = _least({"seconds": lambda v=v: pi.and_transform(v)}, device)
        yield {"what": f"AND transform of 64 games, n = {n}", **seconds}


# ---------------------------------------------------------------- what they share


def _network(name: str) -> nn.Module:
    """With random weights, the same every time, in eval mode."""
    if name == "resnet50":
        from torchvision.models import resnet50

        with torch.random.fork_rng():
            torch.manual_seed(0)
            return resnet50().eval()
    model = backbones.build(name, 10, pretrained=False)
    size = NETWORKS[name]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.3
    with torch.no_grad():  # untrained, BatchNorm would let nothing of the picture through
        for _ in range(10):
            model.train()(_pictures(16, size))
    return model.eval()


def _pictures(count: int, size: int) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def _splits(*counts: int) -> list[training.Split]:
    """Pictures of which class 1 is brighter."""
    draw, splits = torch.Generator().manual_seed(0), []
    for count in counts:
        labels = torch.randint(2, (count,), generator=draw)
        x = (
            torch.randint(0, 156, (count, 3, 32, 32), generator=draw)
            + 100 * labels[:, None, None, None]
        )
        splits.append(training.Split(x.byte(), labels, [*range(count)]))
    return splits


def _masked(x: Tensor, players) -> Tensor:
    """All masked versions of the first of some pictures."""
    placement = players.place(x, range(len(x)))[0]
    members = membership(players.n)
    always = members.new_ones(len(members), 1)
    keep = torch.cat([members, always, ~always], 1)
    return torch.where(keep[:, placement.owner[0]], placement.inputs, placement.baseline)


def _zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


def _spread(values: Tensor) -> Tensor:
    return values.amax(1) - values.amin(1)


def _differ(first: Tensor, second: Tensor) -> float:
    return (first != second).sum().item()


def _callback() -> type:
    from transformers import TrainerCallback

    return TrainerCallback


def _least(ways: dict[str, Callable], device: torch.device, repeats: int = 3) -> dict[str, float]:
    """Least seconds of each way, timed in turn after one run of each."""
    seconds = dict.fromkeys(ways, float("inf"))
    for repeat in range(repeats + 1):
        for way, run in ways.items():
            _synchronize(device)
            start = time.perf_counter()
            run()
            _synchronize(device)
            if repeat:
                seconds[way] = min(seconds[way], time.perf_counter() - start)
    return seconds


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

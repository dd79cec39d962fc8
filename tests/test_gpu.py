"""What a GPU must do right, and the logic around it that a CPU can run."""

from types import FunctionType

import pytest
import torch
from torch import nn

import pi_lib as pi
from benchmarks import gpu
from pi_lib.study import workers
from pi_lib.training.cuda_graph import WARM, Graphed

CPU = torch.device("cpu")
CARD = torch.device("cuda")
# Counted as skipped where there is no card: `make gpu` makes the same checks on one.
needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]


@pytest.mark.parametrize(
    "device", [CPU, pytest.param(CARD, marks=needs_gpu)], ids=lambda device: device.type
)
class TestChecks:
    """The checks of `python -m benchmarks gpu`, on a small network."""

    def test_values_are_those_of_float64_in_batches_of_any_size(self, device):
        for check in (gpu._against_float64, gpu._other_batches):
            row = check("resnet20", 32, device)
            assert row["met"] and row["found"] < 1e-4, row

    @pytest.mark.parametrize("name", ["efficientnet-lite0", "vit-32"])
    def test_the_networks_of_the_checks_see_their_pictures(self, device, name):
        """Where v hardly varies, rounding is all that a check would see."""
        x = gpu._pictures(1, gpu.NETWORKS[name])
        v = pi.coalition_values(gpu._network(name), x, [0], pi.PatchPlayers(8, n=4), device=device)
        assert gpu._spread(v) > 0.01

    def test_a_run_comes_back_to_the_bit(self, device):
        again, resumed, plain = gpu._training_is_repeatable(device)
        assert again["found"] == resumed["found"] == 0 and plain["met"]

    def test_the_tracker_the_probe_and_the_split(self, device):
        for check in (gpu._tracked, gpu._probe_as_on_cpu, gpu._split_as_on_cpu, gpu._autocast):
            assert check(device)["met"]


@pytest.mark.parametrize("device", [pytest.param(CARD, marks=needs_gpu)], ids=["cuda"])
def test_little_memory_changes_no_value(device):
    assert gpu._halved(device)["met"]


def test_a_check_that_fails_leaves_the_others(monkeypatch):
    """Each is a row; the one that broke says why."""

    def broken(*_):
        raise RuntimeError("out of order")

    for name, work in list(vars(gpu).items()):
        if name.startswith("_") and isinstance(work, FunctionType):
            monkeypatch.setattr(gpu, name, lambda *_: {"what": "a row", "met": True})
    broken.__name__ = "_tracked"
    monkeypatch.setattr(gpu, "_tracked", broken)
    rows = list(gpu.rows("cpu", small=True))
    (wrong,) = [row for row in rows if not row["met"]]
    assert wrong["what"] == "tracked cpu" and wrong["note"] == "RuntimeError: out of order"
    assert len(rows) > 8


def test_a_graph_is_recorded_once_and_repeated_on_new_data(monkeypatch):
    """With a graph of the CPU's, which repeats what was called while it was recorded."""

    class Graph:
        def replay(self):
            self.work()

    class Recording:
        def __init__(self, graph):
            self.graph = graph

        def __enter__(self):
            calls.append("recorded")
            self.graph.work = lambda: result.copy_(total(*inputs))

        def __exit__(self, *_):
            pass

    calls, inputs, result = [], [], torch.zeros(())
    total = lambda x, y: (x.sum() + y.sum()).float()  # noqa: E731

    def step(batch, labels):
        calls.append("step")
        inputs[:] = batch["x"], labels
        return result.copy_(total(batch["x"], labels))

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Recording)
    graphed, found = Graphed(step), []
    for k in range(WARM + 3):
        found.append(graphed({"x": torch.full((4,), float(k))}, torch.ones(4)).item())
    assert found == [4.0 * k + 4 for k in range(WARM + 3)]
    assert calls == ["step"] * WARM + ["recorded", "step"]
    assert graphed({"x": torch.ones(2)}, torch.ones(2)).item() == 4  # a last, shorter batch
    assert calls[-1] == "step" and calls.count("recorded") == 1


@pytest.mark.parametrize(("memory", "slots"), [(80, 13), (8, 1), (4, 1)])
def test_as_many_processes_as_a_gpu_has_memory_for(memory, slots, monkeypatch):
    class Card:
        total_memory = memory * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card)
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _: range(16), raising=False)
    assert workers.usual_slots() == slots


def test_training_on_a_gpu_leaves_its_settings_as_they_were():
    """On the CPU a graph that is asked for is none, and the numbers are the same."""
    train, test = gpu._splits(40, 10)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    before = torch.backends.cudnn.deterministic
    runs = [
        pi.train_from_scratch(model, train, test, epochs=1, learning_rate=1e-3, graph=graph)
        for graph in (False, True)
    ]
    assert torch.equal(*(run.model[1].weight for run in runs))
    assert torch.backends.cudnn.deterministic == before

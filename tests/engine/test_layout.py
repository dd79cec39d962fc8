"""Channels last where that is faster: the values of the usual order, and the network as it was."""

import pytest
import torch
from torch import nn

from pi_lib import PatchPlayers, coalition_values
from pi_lib.engine import layout
from pi_lib.engine.layout import TIMES, WORTH_A_TRIAL

N, BATCH = 8, 2**8 * 4 // WORTH_A_TRIAL  # four samples are as many batches as are worth a trial
PLAYERS = PatchPlayers(grid=4, n=N, region="all")


class Net(nn.Module):
    """Notes the order of memory of what it is given, and takes seconds by it."""

    def __init__(self, seconds=(1.0, 1.0), broken=None):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)
        self.seconds, self.broken, self.time, self.orders = seconds, broken, 0.0, []

    def forward(self, x):
        last = not x.is_contiguous()
        assert last != self.stem.weight.is_contiguous()  # pictures and weights alike
        self.time += len(x) * self.seconds[last]
        if len(x) == BATCH:
            self.orders.append("l" if last else "u")
        if last and self.broken == "view":
            x.view(-1)
        if last and self.broken == "refused":
            raise ValueError("channels come first")
        features = self.stem(x).relu().mean((2, 3))
        return self.head(features) + (last and self.broken == "values") * features[:, :3]


@pytest.fixture
def values(monkeypatch):
    """Runs a network whose clock is its own."""

    def run(model, samples=4, **options):
        monkeypatch.setattr(layout, "now", lambda device: model.time)
        x = torch.rand(samples, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        options = {"batch_size": BATCH, "device": "cpu"} | options
        return coalition_values(model, x, [0] * samples, PLAYERS, **options)

    # layers are not shared here: there is nothing to win
    monkeypatch.setattr("pi_lib.engine.sharing.WORTH_A_TRIAL", float("inf"))
    return run


def made(*arguments):
    torch.manual_seed(0)
    return Net(*arguments).eval()


SHARING = "uu"  # two plain batches say that sharing is not worth a trial
TRIAL = SHARING + "u" * TIMES + "u" + "l" * TIMES  # of one batch both orders, to compare values


@pytest.mark.parametrize(
    ("seconds", "broken", "trial", "rest"),
    [
        ((2.0, 1.0), None, TRIAL, "l"),
        ((1.0, 2.0), None, TRIAL, "u"),
        ((1.0, 0.99), None, TRIAL, "u"),  # not worth it
        ((2.0, 1.0), "view", TRIAL[: -TIMES + 1], "u"),
        ((2.0, 1.0), "refused", TRIAL[: -TIMES + 1], "u"),
        ((2.0, 1.0), "values", TRIAL[: -TIMES + 1], "u"),
    ],
)
def test_the_faster_order_is_taken_and_changes_nothing(values, seconds, broken, trial, rest):
    model, report = made(seconds, broken), {}
    before = model.stem.weight.data_ptr()
    found = values(model, report=report)
    orders = "".join(model.orders)
    assert orders.startswith(trial) and set(orders[len(trial) :]) == {rest}
    assert report["channels_last"] == (rest == "l")
    assert model.stem.weight.data_ptr() == before and model.stem.weight.is_contiguous()
    torch.testing.assert_close(found, values(made(), share=False), rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{"share": False}, {"share": "repeatable"}, {"samples": 1}])
def test_without_a_trial_the_order_is_the_usual(values, options):
    model = made((2.0, 1.0))
    values(model, **options)
    assert "l" not in model.orders


def test_a_network_that_has_channels_last_keeps_them(values, monkeypatch):
    model = made().to(memory_format=torch.channels_last)
    monkeypatch.setattr(Net, "forward", lambda net, x: net.head(net.stem(x).mean((2, 3))))
    strides = model.stem.weight.stride()
    values(model)
    assert model.stem.weight.stride() == strides


def test_an_interrupted_run_leaves_the_network_as_it_was(values):
    model = made((2.0, 1.0))

    def interrupt(*_):
        if model.orders.count("l") == 4:
            raise KeyboardInterrupt

    hook = model.stem.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        values(model)
    hook.remove()
    assert model.stem.weight.is_contiguous()


def test_memory_that_ends_between_two_weights_leaves_none_behind(values, monkeypatch):
    model, report, copies, contiguous = made((2.0, 1.0)), {}, [], torch.Tensor.contiguous
    model.second = nn.Conv2d(3, 8, 3).eval()
    before = [x.data_ptr() for x in model.parameters()]

    def short(x, memory_format=torch.contiguous_format):
        if memory_format == torch.channels_last and x.shape == model.second.weight.shape:
            copies.append(x)
            if len(copies) == 2:
                raise torch.OutOfMemoryError
        return contiguous(x, memory_format=memory_format)

    monkeypatch.setattr(torch.Tensor, "contiguous", short)
    values(model, report=report)
    assert len(copies) == 2 and not report["channels_last"]
    assert [x.data_ptr() for x in model.parameters()] == before


def test_an_unknown_way_to_share_is_refused(values):
    with pytest.raises(ValueError, match="share='always'; expected True, False or 'repeatable'"):
        values(made(), share="always")

"""Layers that masked inputs share: the values of the plain forward, whatever the model does."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pi_lib import LabelMapPlayers, PatchPlayers, coalition_values
from pi_lib.engine import sharing
from pi_lib.engine.batches import Batches

N = 8
PLAYERS = PatchPlayers(grid=8, n=N, region="all")


@pytest.fixture(autouse=True)
def sharing_pays(monkeypatch):
    """Whatever a clock would say of models as small as these."""
    monkeypatch.setattr(sharing, "WORTH_A_TRIAL", 0)
    monkeypatch.setattr(sharing.Sharing, "pays", lambda *_: True)


class Counted(nn.Conv2d):
    """A convolution that counts the inputs it is run on."""

    rows = 0

    def forward(self, x):
        self.rows += len(x)
        return super().forward(x)


class Net(nn.Module):
    """A few convolutions and a head, after whatever `first` makes of the image."""

    def __init__(self, first=None, activation=None, width=6):
        super().__init__()
        self.stem = Counted(3, width, 3, padding=1)
        self.first = first or (lambda net, x: net.stem(x))
        self.activation = activation or nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.tail = nn.Sequential(nn.Conv2d(width, 12, 3, stride=2), nn.ReLU(), nn.Flatten())
        self.head = nn.LazyLinear(4)

    def forward(self, x):
        x = self.pool(self.activation(self.first(self, x)))
        x = x + self.body(x)
        return self.head(self.activation(self.tail(x)))  # one module, used again further on


class Excitation(nn.Module):
    """Each position is scaled by the mean over all."""

    def forward(self, x):
        return x * x.flatten(1).mean(1).sigmoid().view(-1, *[1] * (x.ndim - 1))


def images(size=32, count=2, dtype=torch.float32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)).to(dtype)


def made(model, example=None):
    torch.manual_seed(0)
    model = model()
    model.eval()(images() if example is None else example)  # lazy weights
    for module in model.modules():
        if isinstance(module, Counted):
            module.rows = 0
    return model


def both(model, x, players=PLAYERS, **options):
    shared = coalition_values(model, x, [0] * len(x), players, **options)
    rows = getattr(getattr(model, "stem", None), "rows", None)
    plain = coalition_values(model, x, [0] * len(x), players, share=False, **options)
    return shared, plain, rows


@pytest.mark.parametrize("batch_size", [12, 64, 100])
@pytest.mark.parametrize("background", ["keep", "mask"])
def test_shared_layers_run_on_few_inputs_and_change_nothing(batch_size, background):
    players = PatchPlayers(grid=8, n=N, background=background, baseline="blur")
    model = made(Net)
    shared, plain, rows = both(model, images(), players, batch_size=batch_size)
    torch.testing.assert_close(shared, plain, rtol=0, atol=1e-5)
    assert rows < 2 * 2**N * 0.75  # the first sample tries both ways
    assert model.stem.rows - rows == 2 * 2**N + 4 + 8  # and those of checks


def test_in_double_precision_they_are_equal():
    model, x = made(Net).double(), images(dtype=torch.float64)
    shared, plain, rows = both(model, x)
    torch.testing.assert_close(shared, plain, rtol=0, atol=1e-9)
    assert rows < 2 * 2**N / 2


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "activation",
    [nn.ReLU6, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Hardswish, nn.Tanh, nn.Softplus, nn.Hardtanh],
)
def test_activations_and_formats(activation, channels_last):
    def first(net, x):
        return net.stem(x.contiguous(memory_format=torch.channels_last) if channels_last else x)

    model = made(lambda: Net(first, activation()))
    shared, plain, rows = both(model, images(count=1))
    torch.testing.assert_close(shared, plain, rtol=0, atol=1e-5)
    assert rows < 2**N * 0.75


@pytest.mark.parametrize(
    "first",
    [
        lambda net, x: net.stem(x**2),  # not affine: that is no hindrance
        lambda net, x: net.stem(x) + F.avg_pool2d(x, 3, 1, 1).mean(1, keepdim=True),
        lambda net, x: net.stem(x) + net.stem(x.flip(-1)),
        lambda net, x: net.stem(x) * x.mean((1, 2, 3), keepdim=True),
        lambda net, x: net.stem((x > 0.5).float()),  # where poison is lost
        lambda net, x: net.stem(x).nan_to_num(),
        lambda net, x: net.stem(x - x.mean((2, 3), keepdim=True)),
        lambda net, x: net.stem(x) if x.isfinite().all() else 1 / 0,
        lambda net, x: net.stem(x).contiguous().view(len(x), -1).view(len(x), -1, *x.shape[2:]),
        lambda net, x: net.stem(x).add_(1),
    ],
    ids=[
        "square", "two branches", "used twice", "global branch", "threshold", "nan_to_num",
        "global mean", "refuses poison", "view", "in place",
    ],
)  # fmt: skip
def test_any_first_layer_gives_the_values_of_the_plain_forward(first):
    model = made(lambda: Net(first))
    shared, plain, _ = both(model, images())
    torch.testing.assert_close(shared, plain, rtol=0, atol=1e-5)


class TwoWays(nn.Module):
    """A row takes the way that reads the image again only where its layer is near a number."""

    def __init__(self, near):
        super().__init__()
        self.near = near
        self.stem, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)
        self.again = nn.Linear(3, 3)

    def forward(self, x):
        rows = zip(self.stem(x).mean((2, 3)), x.mean((2, 3)), strict=True)
        return torch.stack(
            [self.again(x) if (h[0] - self.near).abs() < 1e-7 else self.fc(h) for h, x in rows]
        )


def test_a_way_through_the_model_that_no_trial_takes():
    x = images(16, count=1)
    placement = PLAYERS.place(x)[0]
    masked = torch.where(placement.owner == 3, placement.baseline, x)  # one coalition of 256
    model, report = made(lambda: TwoWays(torch.inf), x), {}
    model.near = model.stem(masked)[0, 0].mean().item()
    v = coalition_values(model, x, [0], PLAYERS, batch_size=64, report=report)
    plain = coalition_values(model, x, [0], PLAYERS, batch_size=64, share=False)
    torch.testing.assert_close(v, plain, rtol=0, atol=1e-5)
    assert report["shared"] is False


def test_what_depends_on_every_player_is_not_shared():
    model = made(lambda: Net(activation=Excitation()))
    shared, plain, rows = both(model, images(count=1))
    torch.testing.assert_close(shared, plain, rtol=0, atol=1e-5)
    assert rows < 2**N * 0.75  # up to there


def test_sequences_of_any_dimension():
    def model():
        conv = nn.Conv1d(2, 5, 3, padding=1)
        return nn.Sequential(
            conv, nn.ReLU(), nn.Conv1d(5, 3, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
        )

    x = torch.rand(2, 2, 32, generator=torch.Generator().manual_seed(0))
    players = LabelMapPlayers(torch.arange(32) // 4, baseline=0.5)
    shared, plain, _ = both(made(model, x), x, players)
    torch.testing.assert_close(shared, plain, rtol=0, atol=1e-5)


def test_vectors_and_functions_have_nothing_to_share():
    x = torch.rand(2, 16, generator=torch.Generator().manual_seed(0))
    players = LabelMapPlayers(torch.arange(16) // 2, baseline=0.0)
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    shared, plain, _ = both(model, x, players)
    assert torch.equal(shared, plain)
    assert torch.equal(coalition_values(lambda x: model(x), x, [0, 0], players), plain)


@pytest.mark.filterwarnings("ignore")  # tracing is deprecated, and warns of the counter
def test_a_traced_model_is_run_as_it_is():
    model = torch.jit.trace(made(Net), images())
    shared, plain, _ = both(model, images(count=1))
    assert torch.equal(shared, plain)


def test_the_model_is_left_as_it_was():
    class Watched(Net):
        def __init__(self):
            super().__init__()
            self.register_buffer("largest", torch.zeros(()))

        def forward(self, x):
            self.largest.copy_(torch.maximum(self.largest, x.max()))
            return super().forward(x)

    for kind in (Net, Watched):
        model = made(kind)
        model.stem.forward = own = model.stem.forward  # as wrappers of other libraries do
        before = {name: x.clone() for name, x in model.state_dict().items()}
        coalition_values(model, images(), [0, 0], PLAYERS)
        for name, x in model.state_dict().items():
            if name != "largest":
                assert torch.equal(x, before[name])
        assert not model.state_dict().get("largest", torch.zeros(())).isnan()
        assert model.stem.forward is own
        for module in model.modules():
            assert module is model.stem or "forward" not in vars(module)
            assert not module._forward_hooks


def test_memory_shortage_while_sharing():
    def first(net, x):
        if len(x) > 20:
            raise torch.OutOfMemoryError("too much")
        return net.stem(x)

    model = made(lambda: Net(first), images(count=1))
    shared, plain, rows = both(model, images(), batch_size=64)
    torch.testing.assert_close(shared, plain, rtol=0, atol=1e-5)
    assert rows < 2 * 2**N / 2


class Clock:
    """Counts seconds as a device would: so many for a row, by whether its stem was run."""

    def __init__(self, monkeypatch, plain, shared, preparations=()):
        self.time, self.plain, self.shared, self.ways = 0.0, plain, shared, []
        coming = iter(preparations)  # of one sample after the other; then none
        monkeypatch.undo()  # of `sharing_pays`
        monkeypatch.setattr(sharing, "now", lambda device: self.time)
        layers, values = sharing.SharedLayers, Batches.values

        def prepare(*arguments):
            self.time += next(coming, 0.0)
            with monkeypatch.context() as patch:  # its own small runs are part of that
                patch.setattr(self, "spend", lambda *_: None)
                return layers(*arguments)

        def run(batches, pieces, model=None):
            rows = sum(len(coalitions) for _, coalitions in pieces)
            self.spend("plain", rows, self.plain)
            return values(batches, pieces, model)

        def resume(shared, coalitions):
            self.spend("shared", len(coalitions), self.shared)
            return call(shared, coalitions)

        call = layers.__call__
        monkeypatch.setattr(layers, "__call__", resume)
        monkeypatch.setattr(sharing, "SharedLayers", prepare)
        monkeypatch.setattr(Batches, "values", run)

    def spend(self, way, rows, seconds):
        self.ways.append((way, rows))
        self.time += rows * seconds

    def batches(self, size=32):
        """Batches as large as those of the run, each by its first letter."""
        return "".join(way[0] for way, rows in self.ways if rows == size)


@pytest.mark.parametrize(
    ("plain", "shared", "preparations", "expected"),
    [
        (2.0, 1.0, (), "ppssssss" + "ssssssss" * 2),  # faster: from the trial on
        (1.0, 2.0, (), "ppss" + "pppp" + "pppppppp" * 2),  # slower: never after the trial
        (2.0, 1.0, (0, 999.0), "ppssssss" + "pppppppp" * 2),  # saves less than it takes to prepare
        (2.0, 1.0, (999.0, 0), "ppssssss" + "ssssssss" * 2),  # of the second: bottlenecks are known
        (1e-4, 1e-5, (), "pp" + "pppppp" + "pppppppp" * 2),  # nothing to win: no trial
    ],
)
def test_the_cheaper_way_is_taken(plain, shared, preparations, expected, monkeypatch):
    model, report = made(Net), {}
    clock = Clock(monkeypatch, plain, shared, preparations)
    v = coalition_values(model, images(count=3), [0] * 3, PLAYERS, batch_size=32, report=report)
    assert clock.batches() == expected
    assert report["shared"] == ("s" in expected[8:])
    spent = clock.time
    plainly = coalition_values(model, images(count=3), [0] * 3, PLAYERS, batch_size=32, share=False)
    torch.testing.assert_close(v, plainly, rtol=0, atol=1e-5)
    trial = 64 * shared + sum(preparations) + 2 * 8 * (plain + shared)
    assert spent <= clock.time - spent + trial


def test_a_large_batch_is_tried_in_parts(monkeypatch):
    model = made(Net)
    clock = Clock(monkeypatch, 2.0, 1.0)
    coalition_values(model, images(count=2), [0] * 2, PLAYERS, batch_size=256)
    assert clock.batches(64) == "ppss" and clock.batches(256) == "s"


def test_repeatable_shares_without_a_clock_and_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(sharing, "now", lambda device: pytest.fail("time was measured"))
    model = made(Net)
    x = images()
    labels = [0] * len(x)
    first, second, plain = (
        coalition_values(model, x, labels, PLAYERS, share=share)
        for share in ("repeatable", "repeatable", False)
    )
    assert torch.equal(first, second)
    torch.testing.assert_close(first, plain, rtol=0, atol=1e-5)


class Scaled(Net):
    """Takes a further argument, which a value asks for as well."""

    def forward(self, x, scale):
        return super().forward(x)


def test_a_value_is_given_what_it_asks_for():
    def value(outputs, labels, *, scale):
        return scale * outputs[:, 0]

    scale = torch.tensor([2.0, 3.0])
    players = PatchPlayers(grid=8, n=N, region="all", others={"scale": scale})
    model = made(Net)
    plain = coalition_values(model, images(), [0, 0], PLAYERS, value=lambda z, _: z[:, 0])
    scaled = Scaled().eval()
    scaled(images(), scale)
    scaled.load_state_dict(model.state_dict())
    shared, values, _ = both(scaled, images(), players, value=value)
    torch.testing.assert_close(values, scale[:, None] * plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shared, values, rtol=1e-4, atol=1e-5)

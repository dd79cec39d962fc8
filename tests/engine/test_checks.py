"""Values are trustworthy: full float32, eval mode, answers of the input alone, a known error."""

import copy
import functools
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import XLNetConfig

from pi_lib import LabelMapPlayers, PatchPlayers, coalition_values, log_odds
from pi_lib.engine import checks, sharing
from pi_lib.engine.callables import networks_in

PLAYERS = PatchPlayers(grid=4, n=4, baseline="zero")
BACKENDS = torch.backends
FINER = [BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn]
FINER += [BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv]


def images(count=2, dtype=torch.float32):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)


def network(norm=nn.BatchNorm2d):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    ).eval()


def values(model, x=None, **options):
    x = images() if x is None else x
    return coalition_values(model, x, [0] * len(x), PLAYERS, ids=range(len(x)), **options)


# ---- full float32


@pytest.fixture(params=["default", "tf32", "finer"])
def settings(request):
    """TF32 as torch's users switch it: not at all, by the old names, by the new ones."""
    before = [place.fp32_precision for place in FINER]
    if request.param == "tf32":
        torch.set_float32_matmul_precision("high")
    if request.param == "finer":
        BACKENDS.cuda.matmul.fp32_precision = "tf32"
        BACKENDS.cudnn.conv.fp32_precision = "ieee"
    yield [place.fp32_precision for place in FINER]
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cudnn.allow_tf32 = True
    for place, precision in zip(FINER, before, strict=True):
        place.fp32_precision = precision


@pytest.mark.parametrize("fails", [False, True])
def test_float32_is_full_inside_and_the_settings_are_as_before_after(settings, fails):
    seen = set()

    def model(x):
        seen.update(place.fp32_precision for place in FINER)
        seen.add(str(BACKENDS.cudnn.allow_tf32))
        seen.add(torch.get_float32_matmul_precision())
        if fails:
            raise RuntimeError("in the middle")
        return x.flatten(1)[:, :3]

    try:
        values(model)
    except RuntimeError as error:
        assert fails and "in the middle" in str(error)
    assert seen == {"ieee", "False", "highest"}
    assert [place.fp32_precision for place in FINER] == settings


# ---- the error


def test_the_error_is_that_against_float64():
    model, report = network(), {}
    v = values(model, report=report)
    exact = values(copy.deepcopy(model).double(), images().double())
    off = (v - exact).abs().max().item()
    assert report["error_against"] == "float64" and report["precision"] == "float32"
    assert 0 < report["error"] <= 4 * off < 1e-5  # on four coalitions, alone too
    assert report["spread"] <= (v[0].max() - v[0].min()).item() + 1e-6

    low = {}
    values(copy.deepcopy(model).bfloat16(), images(dtype=torch.bfloat16), report=low)
    assert low["precision"] == "bfloat16" and low["error"] > 100 * report["error"]
    double = {}
    values(copy.deepcopy(model).double(), images().double(), report=double)
    assert double["precision"] == "float64" and double["error"] < 1e-12


def test_what_cannot_be_in_float64_says_what_rounding_does():
    class OnlyFloat32(nn.Module):
        def forward(self, x):
            assert x.dtype == torch.float32
            return x.flatten(1)[:, :3]

    for model in (OnlyFloat32().eval(), lambda x: x.flatten(1)[:, :3]):
        report = {}
        v = values(model, report=report)
        assert report["error_against"] == "rounding"
        assert 0 < report["error"] <= 2**-23 * v.abs().max().item()


def test_autocast_warns_with_its_error():
    report = {}
    with pytest.warns(UserWarning, match="autocast=torch.bfloat16.*first look") as warned:
        values(network(), autocast=torch.bfloat16, report=report)
    assert f"{report['error']:.2g}" in str(warned[0].message) and report["error"] > 1e-4
    assert report["precision"] == "bfloat16"


def test_the_error_is_kept_with_the_values(tmp_path):
    reports = [{}, {}]
    for report in reports:
        values(network(), keep=tmp_path, report=report)
    assert reports[1]["error"] == reports[0]["error"] > 0


# ---- answers that depend on the batch


class Predictor:
    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def predict(self, x):
        return self.model(x)


def in_training():
    return network().train()


def one_part_in_training():
    model = network()
    model[1].train()
    return model


MODEL = None  # as in a notebook, where models are globals


def a_global():
    global MODEL
    MODEL = in_training()
    return lambda x: MODEL(x)


def with_default():
    model = in_training()
    return lambda x, model=model: model(x)


def ensemble():
    models = [network(), in_training()]
    return lambda x: sum(model(x) for model in models)


FORGOTTEN = {
    "the model": in_training,
    "a part": one_part_in_training,
    "inside a lambda": lambda: (lambda model: lambda x: model(x))(in_training()),
    "a global": a_global,
    "a partial": lambda: functools.partial(in_training().forward),
    "a bound method": lambda: Predictor(in_training()).predict,
    "a list in a closure": ensemble,
    "a default": with_default,
}


@pytest.mark.parametrize("where", FORGOTTEN)
def test_eval_forgotten(where):
    model = FORGOTTEN[where]()
    parts = [x for top in networks_in(model) for x in top.modules()]
    norms = [x for x in parts if isinstance(x, nn.BatchNorm2d)]
    before = [copy.deepcopy(x.state_dict()) for x in norms]
    with pytest.raises(ValueError, match="training mode.*eval"):
        values(model)
    for norm, state in zip(norms, before, strict=True):
        assert all(torch.equal(x, state[name]) for name, x in norm.state_dict().items())
    assert norms


def test_a_function_may_call_eval_itself():
    model = in_training()
    assert torch.equal(values(lambda x: model.eval()(x)), values(network()))


class Hidden(nn.Module):
    """A network that no look at attributes finds; it is in training mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        inner = [in_training()]
        self.ask = lambda: inner

    def forward(self, x):
        self.seen += 1
        return self.ask()[0](x)


class BatchStatistics(nn.Module):
    def forward(self, x):
        return F.batch_norm(x, None, None, training=True).flatten(1)[:, 60:63]


class BatchMaximum(nn.Module):
    def forward(self, x):
        return (x / x.max()).flatten(1)[:, 60:63] ** 2


def quantised():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear})


DEPENDENT = {
    "hidden": (Hidden, ""),
    "no running statistics": (
        lambda: network(lambda c: nn.BatchNorm2d(c, track_running_stats=False)),
        r"1 \(BatchNorm2d without running statistics\)",
    ),
    "batch statistics": (BatchStatistics, ""),
    "batch maximum": (BatchMaximum, ""),
    "in a function": (lambda: lambda x: BatchMaximum()(x), ""),
    "dynamic quantisation": (quantised, r"1 \(dynamic quantisation, Linear\), 3"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantiz.*")
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("kind", DEPENDENT)
def test_an_answer_that_depends_on_the_batch(kind, share):
    build, known = DEPENDENT[kind]
    torch.manual_seed(0)
    model = build()
    model = model.eval() if isinstance(model, nn.Module) else model
    buffers = [x.clone() for x in model.buffers()] if isinstance(model, nn.Module) else []
    with pytest.raises(ValueError, match=f"depends on what else is in its batch.*alone.*{known}"):
        values(model, share=share)
    if buffers:
        assert all(map(torch.equal, buffers, model.buffers()))
    values(model, batch_size=1)  # each input alone: there is one answer


def test_another_sample_in_the_batch_shows_what_the_first_cannot():
    """The maximum of the first sample lies where nothing is masked: it is the same in its batch."""
    x = images()
    x[0, :, 0, 0], x[1] = 1.0, 3 * x[1]
    with pytest.raises(ValueError, match="depends on what else is in its batch"):
        values(BatchMaximum().eval(), x)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        self.mean += x.mean((0, 2, 3))
        self.calls = self.calls + 1  # another tensor in its place
        return x.flatten(1)[:, :3]


@pytest.mark.parametrize("fails", [False, True])
def test_buffers_are_as_they_were(fails):
    model = Counting().eval()
    mean = model.mean

    def value(z, y):
        if fails and model.calls > 3:
            raise ValueError("in the middle")
        return log_odds(z, y)

    for ask in (model, lambda x: model(x)):
        try:
            values(ask, value=value)
        except ValueError as error:
            assert fails and "in the middle" in str(error)
        assert model.calls == 0 and model.mean is mean and not mean.any()


# ---- tolerances


@pytest.fixture
def always_shared(monkeypatch):
    monkeypatch.setattr(sharing, "WORTH_A_TRIAL", 0)
    monkeypatch.setattr(sharing.Sharing, "pays", lambda *_: True)


class Swallowed(nn.Module):
    """Poison does not pass `nan_to_num`: the layer seems to see less than it does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 16 * 16, 3)

    def forward(self, x):
        x = x + x.mean((1, 2, 3), keepdim=True).nan_to_num(0)
        return self.head(self.conv(x).relu().flatten(1))


@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1.0, 1e6])
def test_sharing_is_judged_in_the_units_of_the_model(unit, always_shared):
    def value(z, y):
        return unit * log_odds(z, y)

    players = PatchPlayers(grid=8, n=8, region="all", baseline="zero")
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    honest = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 3))
    for model in (Swallowed().eval(), honest.eval()):
        shared, plain = (
            coalition_values(model, x, [0], players, value=value, share=share)
            for share in (True, False)
        )
        assert (shared - plain).abs().max() < 1e-4 * (plain.max() - plain.min())


@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1.0, 1e6])
def test_random_answers_are_seen_in_the_units_of_the_model(unit):
    def model(x, noise):
        score = unit * (x.flatten(1).mean(1) + noise * torch.rand(len(x)))
        return torch.stack([score, torch.zeros_like(score)], 1)

    with pytest.raises(ValueError, match="for the same input"):
        values(lambda x: model(x, 0.1))
    v = values(lambda x: model(x, 0.0))
    assert v.std() > 0.01 * unit


def test_a_model_that_hardly_moves_is_no_random_one():
    """Its spread is rounding itself."""
    torch.manual_seed(0)
    still = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2304, 3)).eval()
    with torch.no_grad():
        still[0].weight.mul_(1e-9)
    assert values(still).std() < 1e-6
    assert values(lambda x: torch.ones(len(x), 2)).std() == 0


class Coarse(torch.nn.Module):
    """Answers that differ with the batch in float32 as rounding does, and not in float64."""

    def __init__(self, always=False):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, -1.0]))
        self.always = always

    def forward(self, x):
        value = x @ self.weight
        if self.always or x.dtype == torch.float32:
            value = value + 1e-2 * len(x)
        return torch.stack([value, torch.zeros_like(value)], -1)


def test_rounding_that_large_outputs_magnify_is_no_dependence_on_the_batch():
    players, x, report = LabelMapPlayers(torch.arange(3), baseline=0.0), torch.rand(1, 3), {}
    coalition_values(Coarse().eval(), x, [0], players, report=report)
    assert report["error"] >= 1e-2 and report["error_against"] == "float64"  # and it is known
    with pytest.raises(ValueError, match="depends on what else is in its batch"):
        coalition_values(Coarse(always=True).eval(), x, [0], players)


def test_a_buffer_is_restored_beside_one_that_cannot_be_written_to():
    model = torch.nn.Module()
    model.register_buffer("count", torch.zeros(1))
    model.register_buffer("wide", torch.ones(1).expand(3))  # three places, one number
    with checks.buffers_restored([model]):
        model.count += 1
    assert model.count.item() == 0 and model.wide.tolist() == [1, 1, 1]


class Casts(nn.Module):
    """Takes its buffer along to the type of the input."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5))

    def forward(self, x):
        self.mean = self.mean.to(x)
        return (x - self.mean).flatten(1)[:, :3]


def test_a_buffer_of_another_type_is_restored():
    model = Casts().eval()
    values(model, images(dtype=torch.float64))
    assert model.mean.dtype == torch.float32 and (model.mean == 0.5).all()


def test_a_network_that_knows_no_limit_takes_texts_of_any_length():
    """XLNet says that it takes -1 tokens."""
    model = network()
    model.config = XLNetConfig()
    assert model.config.max_position_embeddings == -1
    tokens = torch.ones(1, 3, dtype=torch.long)
    checks.refuse_too_long([model], LabelMapPlayers(torch.arange(3)).place(tokens))


# ---- probabilities


@pytest.mark.parametrize("batch_size", [1, 64])
def test_probabilities_for_logits_are_seen(batch_size):
    model = network()
    ask = functools.partial(values, batch_size=batch_size, report={})
    with pytest.warns(UserWarning, match=r"gives probabilities.*output=lambda p: p.log\(\)"):
        ask(nn.Sequential(model, nn.Softmax(-1)).eval())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = ask(model)
        v = ask(nn.Sequential(model, nn.Softmax(-1)).eval(), output=lambda p: p.log())
        ask(lambda x: model(x).softmax(-1), value=lambda p, y: p[:, 0])
    torch.testing.assert_close(v, expected, rtol=0, atol=1e-5)

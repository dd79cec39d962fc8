"""The engine against a mask loop written out, on models whose answers are known."""

import ctypes
import functools
import threading
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from pi_lib import (
    LabelMapPlayers,
    PatchPlayers,
    Placement,
    WordPlayers,
    coalition_values,
    extract,
    log_odds,
)
from pi_lib.coalitions import coalition, membership
from pi_lib.engine import batches, run
from pi_lib.engine.batches import Batches, Masked, rows_of
from pi_lib.study import backbones


def image_model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2),
        torch.nn.Tanh(),
        torch.nn.Flatten(),
        torch.nn.LazyLinear(5),
    ).eval()


def by_loop(model, image, label, placement):
    """One coalition, one element at a time."""
    n = len(placement.names)
    values = []
    for t in range(2**n):
        masked = image.clone()
        for row in range(image.shape[-2]):
            for column in range(image.shape[-1]):
                owner = placement.owner[0, 0, row, column].item()
                if owner > n or (owner < n and not t >> owner & 1):
                    masked[:, row, column] = placement.baseline[0, :, row, column]
        logits = model(masked[None])[0].double()
        others = torch.cat([logits[:label], logits[label + 1 :]])
        values.append(logits[label] - others.exp().sum().log())
    return torch.stack(values)


@pytest.mark.parametrize("background", ["keep", "mask"])
def test_equal_to_a_mask_loop(background):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 10, 10, generator=generator)
    players = PatchPlayers(grid=5, n=4, background=background)
    model = image_model()
    with torch.no_grad():
        model(images)
        values = coalition_values(model, images, [1, 4], players)
        for k, (placement, label) in enumerate(zip(players.place(images), [1, 4], strict=True)):
            expected = by_loop(model, images[k], label, placement)
            torch.testing.assert_close(values[k], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_the_batch_size_does_not_matter(batch_size):
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    players, model = PatchPlayers(grid=4, n=4), image_model()
    model(images)
    expected = coalition_values(model, images, [0, 1], players)
    found = coalition_values(model, images, [0, 1], players, batch_size=batch_size)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_planted_and_is_found():
    """Log-odds 3 if players 0 and 2 are both there, and 1 more with player 1."""

    def model(x):
        score = 3 * x[:, 0] * x[:, 2] + x[:, 1]
        return torch.stack([score, torch.zeros_like(score)], -1)

    players = LabelMapPlayers(torch.arange(3), baseline=0.0)
    found = extract(model, torch.ones(1, 3), [0], players).i_and[0]
    expected = torch.zeros(8, dtype=torch.float64)
    expected[coalition([0, 2])], expected[coalition([1])] = 3, 1
    torch.testing.assert_close(found, expected)


def test_masked_words_reach_the_model():
    tokenizer = backbones.tokenizer("minilm")
    seen = []

    class Counter(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            seen.append(input_ids)
            assert attention_mask.shape == input_ids.shape
            hidden = (input_ids == tokenizer.mask_token_id).sum(-1).float()
            logits = torch.stack([-hidden, torch.zeros_like(hidden)], -1)
            return type("Output", (), {"logits": logits})

    players = WordPlayers(tokenizer, n=3)
    values = coalition_values(Counter().eval(), ["great unbelievable film"], [0], players)
    (placement,) = players.place(["great unbelievable film"])
    sizes = torch.bincount(placement.owner.flatten(), minlength=3)[:3].double()
    expected = -((~membership(3)).double() @ sizes)
    torch.testing.assert_close(values[0], expected)
    assert torch.equal(seen[-1][-1], placement.inputs[0])


def test_memory_shortage_halves_the_batch():
    sizes = []

    def model(x):
        sizes.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("too much")
        return torch.stack([x.sum(-1), torch.zeros(len(x))], -1)

    players = LabelMapPlayers(torch.arange(4), baseline=0.0)
    values = coalition_values(model, torch.ones(2, 4), [0, 0], players, batch_size=16)
    torch.testing.assert_close(values[1], membership(4).double().sum(-1))
    assert sizes.count(8) == 1 and 2 in sizes  # learned once, for every later sample


CHECKS = 4 + 1  # forward passes a run that look whether answers alone and in a batch are the same


def test_interrupted_goes_on_with_the_sample_in_hand(tmp_path, monkeypatch):
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    model, other = image_model(), image_model(seed=1)
    for network in (model, other):
        network(images)

    def run(stop=None, model=model, labels=(0, 1, 2), seed=0, keep=tmp_path):
        forwards = []

        def watched(output, pick):
            if len(forwards) == stop:
                raise KeyboardInterrupt  # as Ctrl-C does
            forwards.append(len(output))
            return output

        players = PatchPlayers(grid=4, n=4, seed=seed)
        with monkeypatch.context() as patch:  # not part of the model, or it would be another
            patch.setattr(batches, "model_output", watched)
            v = coalition_values(
                model, images, labels, players, share=False, batch_size=8, keep=keep
            )
        return v, len(forwards)

    expected, forwards = run(keep=None)
    assert forwards == 3 * 2 + CHECKS
    with pytest.raises(KeyboardInterrupt):
        run(stop=CHECKS + 5)  # in the third sample
    found, repeated = run()
    assert torch.equal(found, expected) and repeated == CHECKS + 2
    assert run()[1] == 0

    assert run(labels=(0, 1, 4))[1] == CHECKS + 2  # another label of the third sample
    assert torch.equal(run(model=other)[0], run(model=other, keep=None)[0])
    assert torch.equal(run(seed=9)[0], run(seed=9, keep=None)[0])


def edited(source, **names):
    """A function as a notebook has it after its cell was run: code without a file."""
    exec(source, names)
    return names["f"]


def test_values_kept_on_disk_are_those_of_this_code_and_data(tmp_path):
    """After an edit, of another closure, or of a changed attribute, nothing old is given."""
    model, images = image_model(), torch.rand(1, 3, 8, 8)
    model(images)

    def run(model=model, value=log_odds, keep=tmp_path, **options):
        players = PatchPlayers(4, 2)
        return coalition_values(model, images, [0], players, value=value, keep=keep, **options)

    def times(factor):
        return lambda logits, labels: factor * log_odds(logits, labels)

    helper = "def f(z, y): return helper(z, y)"
    forward = "class f(torch.nn.Sequential):\n def forward(self, x): return {} * super().forward(x)"
    scaled = [edited(forward.format(k), torch=torch)(model).eval() for k in (1, 2)]
    with_attribute = edited(forward.format("self.factor"), torch=torch)(model).eval()
    cases = [
        {"value": edited("def f(z, y): return log_odds(z, y)", log_odds=log_odds)},
        {"value": edited("def f(z, y): return 2 * log_odds(z, y)", log_odds=log_odds)},
        {"value": edited(helper, helper=times(3))},
        {"value": edited(helper, helper=times(4))},
        {"value": times(5)},
        {"value": partial(times(6))},
        {"value": edited("def f(z, y, k=7): return k * z[:, 0]")},
        {"value": edited("def f(z, y, k=8): return k * z[:, 0]")},
        {"model": scaled[0]},
        {"model": scaled[1]},
        {"model": lambda x: 0.5 * model(x)},
        {"model": lambda x: 0.25 * model(x)},
        {"output": lambda z: 2 * z},
        {"output": lambda z: 3 * z},
    ]
    for _ in range(2):
        for case in cases:
            torch.testing.assert_close(run(**case), run(**case, keep=None), rtol=0, atol=0)
    for factor in (2, 3):
        with_attribute.factor = factor
        assert torch.equal(run(with_attribute), run(with_attribute, keep=None))
    assert len(list(tmp_path.glob("*.safetensors"))) == len(cases) + 2


def test_what_shows_no_code_is_not_kept(tmp_path):
    lock = threading.Lock()

    def value(z, y):
        with lock:
            return log_odds(z, y)

    players = LabelMapPlayers(torch.arange(2), baseline=0.0)
    with pytest.raises(ValueError, match="keep= tells by code and data .*lock.*leave keep out"):
        coalition_values(constant(0.0), torch.ones(1, 2), [0], players, value=value, keep=tmp_path)
    assert not list(tmp_path.iterdir())


class Decorated:
    """A callable that passes for the function inside, as decorators make them."""

    def __init__(self, function):
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, *given):
        return self.function(*given)


def scripted(k):
    """Code of another factor, compiled by torch."""
    source = f"def f(z: Tensor, y: Tensor) -> Tensor:\n    return {k} * z[:, 0]\n"
    return torch.jit.CompilationUnit(source).f


def cached(k):
    factor = functools.lru_cache(lambda: k)
    return lambda z, y: factor() * z[:, 0]


def looked_up(k):
    many = np.array(
        [1.0] * 700 + [k] + [1.0] * 700, dtype=object
    )  # written out, numpy leaves out most
    return lambda z, y: float(many[700]) * z[:, 0]


def asked_once(k):
    class Factor:
        @functools.cached_property
        def k(self):
            return k

    factor = Factor()
    return lambda z, y: vars(Factor)["k"].func(factor) * z[:, 0]


def forest(k):
    x = np.random.default_rng(0).standard_normal((30, 2))
    trees = RandomForestClassifier(2, random_state=0).fit(x, x[:, k - 2] > 0)
    return lambda z, y: torch.from_numpy(trees.predict_proba(z.numpy()))[:, 0]


HIDING = {
    "a decorator": lambda k: Decorated(lambda z, y: k * z[:, 0]),
    "a cache": cached,
    "a script": scripted,
    "an array of objects": looked_up,
    "a cached property": asked_once,
    "a forest": forest,
}


@pytest.mark.parametrize("kind", HIDING)
def test_what_stands_behind_a_callable_decides_too(kind, tmp_path):
    model, x = torch.nn.Linear(3, 2).eval(), torch.rand(2, 3)
    players = LabelMapPlayers(torch.arange(3), baseline=0.0)
    for k in (2, 3):
        value = HIDING[kind](k)
        for keep in (tmp_path, tmp_path, None):
            v = coalition_values(model, x, [0, 1], players, value=value, keep=keep)
        assert torch.equal(
            v, coalition_values(model, x, [0, 1], players, value=value, keep=tmp_path)
        )
    assert len(list(tmp_path.iterdir())) == 4


def test_a_pointer_shows_no_data(tmp_path):
    """As libraries hold models of theirs, whose content it does not tell."""
    pointer = ctypes.c_void_p(1)
    players = LabelMapPlayers(torch.arange(2), baseline=0.0)
    with pytest.raises(ValueError, match="keep= tells .*c_void_p"):
        coalition_values(lambda x: x * pointer.value, torch.ones(1, 2), [0], players, keep=tmp_path)


def constant(value, classes=2):
    return lambda x: torch.full((len(x), classes), value)


def test_values_that_are_not_finite_are_named():
    def model(x):
        score = torch.where(x[:, 1] == 0, torch.inf, x.sum(-1))
        return torch.stack([score, torch.zeros_like(score)], -1)

    players = LabelMapPlayers(torch.arange(2), baseline=0.0)
    with pytest.raises(ValueError, match=r"sample 0, coalition 0 \(players \[\] kept\) is inf"):
        coalition_values(model, torch.ones(1, 2), [0], players)


# ---- what models give, and take


def test_another_output_and_the_whole_of_it():
    model, images = image_model(), torch.rand(1, 3, 8, 8)
    model(images)
    ask = partial(coalition_values, inputs=images, labels=[1], players=PatchPlayers(4, 4))

    def two_heads(x):
        return {"logits": model(x), "other": -model(x)}

    assert torch.equal(ask(two_heads), ask(model))
    expected = ask(lambda x: -model(x))
    assert torch.equal(ask(two_heads, output="other"), expected)
    assert torch.equal(ask(two_heads, output=lambda whole: whole["other"]), expected)
    assert torch.equal(ask(lambda x: (model(x), -model(x)), output=1), expected)
    sums = ask(two_heads, output="all", value=lambda z, y: (z["logits"] + z["other"])[:, 0])
    assert sums.shape == (1, 16) and not sums.any()
    with pytest.raises(ValueError, match="output='third'.*a dict of 'logits', 'other'"):
        ask(two_heads, output="third")


def test_a_value_is_a_number_for_each():
    ask = partial(coalition_values, constant(2.0), torch.ones(1, 3), [0])
    players = LabelMapPlayers(torch.arange(3), baseline=0.0)
    assert ask(players, value=lambda z, y: z[:, :1]).tolist() == [[2.0] * 8]
    for value, got in (
        (lambda z, y: z, r"shape \(1, 2\)"),
        (lambda z, y: z.mean(), r"shape \(\)"),
        (lambda z, y: 3.0, "a float"),
    ):
        with pytest.raises(ValueError, match=rf"value= gave {got}.*expected one number for each"):
            ask(players, value=value)


class Writes(torch.nn.Module):
    """Overwrites all that it is given."""

    def forward(self, x, scale):
        x *= 2
        scale /= 10
        return x.flatten(1)[:, :3] * scale


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_model_may_write_to_what_it_is_given(batch_size):
    images, scale = torch.rand(2, 3, 8, 8), torch.tensor([[10.0], [20.0]])
    players = PatchPlayers(4, 4, region="all", others={"scale": scale})
    v = coalition_values(Writes().eval(), images, [0, 1], players, batch_size=batch_size)
    ask = partial(coalition_values, inputs=images, labels=[0, 1], players=players)
    expected = ask(lambda x, scale: x.flatten(1)[:, :3] * scale / 5)
    torch.testing.assert_close(v, expected, rtol=0, atol=1e-6)
    assert scale.tolist() == [[10], [20]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_not_rounded_again(dtype):
    """Logits and images of 16 bits: values are those of the logits in float64."""
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(5)).to(dtype)
    seen = []

    def model(x):
        assert x.dtype == dtype
        seen.append(10 * x.flatten(1)[:, 50:53])
        return seen[-1]

    v = coalition_values(model, images, [1], PatchPlayers(4, 4, region="central"), ids=[0])
    expected = log_odds(seen[-1].double(), torch.ones(16).long())
    assert torch.equal(v[0], expected)


@pytest.mark.parametrize("batch_size", [3, 6, 32])
def test_a_fixed_batch_size(batch_size):
    """As exported models have: the last batch is filled up, and its rest not counted."""
    model, images = image_model(), torch.rand(3, 3, 8, 8)
    model(images)
    sizes = []

    def fixed(x):
        sizes.append(len(x))
        return model(x.view(batch_size, 3, 8, 8))

    def reshapes(x):  # does not fail: gives rows of its own
        return model(x).view(batch_size, -1)[:, :5]

    players = PatchPlayers(4, 4)
    expected = coalition_values(model, images, [0, 1, 2], players)
    for ask in (fixed, reshapes):
        found = coalition_values(ask, images, [0, 1, 2], players, batch_size=batch_size)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert set(sizes[1:]) == {batch_size}
    with pytest.raises(ValueError, match="answer depends on what else is in its batch"):
        coalition_values(
            lambda x: fixed(x / x.max()), images, [0, 1, 2], players, batch_size=batch_size
        )
    with pytest.raises(Exception, match="shape|size") as refused:
        coalition_values(fixed, images, [0, 1, 2], players, batch_size=batch_size + 1)
    assert "3, 8, 8" in str(refused.value)


# ---- how it is run


@pytest.mark.parametrize("batch_size", [40, 64, 1024])
def test_several_samples_share_a_batch_that_one_does_not_fill(batch_size):
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(9, 3, 10, 10, generator=generator)
    players, model, labels = PatchPlayers(grid=5, n=4), image_model(), torch.arange(9) % 5
    model(images)
    sizes = []

    def counted(x):
        sizes.append(len(x))
        return model(x)

    together = coalition_values(counted, images, labels, players, batch_size=batch_size)
    rows = sizes[CHECKS:]
    each = batch_size // 16 * 16
    assert rows == [min(each, 9 * 16 - k) for k in range(0, 9 * 16, each)]
    alone = coalition_values(model, images, labels, players, batch_size=16)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_where_a_device_would_run_dry_samples_are_run_together(monkeypatch):
    """As on a GPU, whose values are copied back once in eight batches."""
    monkeypatch.setitem(run.AT_ONCE, "cpu", 8)
    images = torch.rand(9, 3, 10, 10, generator=torch.Generator().manual_seed(4))
    players, model, labels = PatchPlayers(grid=5, n=4), image_model(), torch.arange(9) % 5
    model(images)
    groups, one = [], run._Run._compute

    def counted(self, samples, coalitions):
        groups.append(samples)
        return one(self, samples, coalitions)

    monkeypatch.setattr(run._Run, "_compute", counted)
    together = coalition_values(model, images, labels, players, batch_size=16)
    assert groups == [[*range(8)], [8]]
    monkeypatch.setitem(run.AT_ONCE, "cpu", 1)
    alone = coalition_values(model, images, labels, players, batch_size=16)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_samples_of_other_lengths_have_batches_of_their_own():
    class Lengths:
        n = 2

        def place(self, inputs, ids=None):
            owner = [torch.arange(len(x)).clamp(max=2)[None] for x in inputs]
            zero = torch.zeros(())
            return [
                Placement(x[None], o, zero, ["a", "b"]) for x, o in zip(inputs, owner, strict=True)
            ]

    def model(x):
        return torch.stack([x[:, 0] * x[:, 1] + x.sum(1), torch.zeros(len(x))], 1)

    inputs = [torch.ones(k) for k in (3, 3, 5, 3)]
    v = coalition_values(model, inputs, [0] * 4, Lengths(), batch_size=64)
    assert v.tolist() == [[1, 2, 2, 4]] * 2 + [[3, 4, 4, 6], [1, 2, 2, 4]]


def test_with_values_on_disk_only_what_is_missing_is_run(tmp_path):
    images = torch.rand(6, 3, 8, 8)
    model = image_model()
    model(images)
    players = PatchPlayers(4, 3, baseline="zero")
    ask = partial(coalition_values, model, players=players, batch_size=32)
    labels = torch.arange(6) % 5
    ask(inputs=images[::2], labels=labels[::2], keep=tmp_path)
    found = ask(inputs=images, labels=labels, keep=tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    torch.testing.assert_close(found, ask(inputs=images, labels=labels), rtol=0, atol=1e-6)


def test_no_batch_waits_for_the_device():
    """On "meta" nothing has a value: whatever reads one back, as a wait would, raises."""
    meta = torch.device("meta")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten()).to(meta).eval()
    placements = PatchPlayers(4, 4).place(torch.rand(2, 3, 8, 8))
    samples = [
        Masked(k, placement, torch.tensor(k), log_odds, meta)
        for k, placement in enumerate(placements)
    ]
    batch = Batches(model, log_odds, None, meta, 64)
    v = batch.values(rows_of(samples, membership(4).to(meta), 5, 25))
    assert v.shape == (20,) and v.dtype == torch.float64


MISSING = ["cuda:99", "nonsense", *([] if torch.cuda.is_available() else ["cuda"])]


@pytest.mark.parametrize("device", MISSING)
def test_a_device_that_is_not_there(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    players = LabelMapPlayers(torch.arange(2), baseline=0.0)
    with pytest.raises(ValueError, match=f"device='{device}' cannot be used here .*1 CUDA device"):
        coalition_values(constant(0.0), torch.ones(1, 2), [0], players, device=device)


def test_a_device_that_is_lost(tmp_path, monkeypatch):
    """What is finished is on disk, and not run again."""
    players = LabelMapPlayers(torch.arange(4), baseline=0.0)
    inputs, sizes = torch.rand(4, 4), []

    def ask(lost_at=None):
        def watched(output, pick):
            if len(sizes) == lost_at:
                raise torch.AcceleratorError("CUDA error: unspecified launch failure")
            sizes.append(len(output))
            return output

        sizes.clear()
        with monkeypatch.context() as patch:  # not part of the model, or it would be another
            patch.setattr(batches, "model_output", watched)
            return coalition_values(
                constant(1.0), inputs, [0] * 4, players, batch_size=16, keep=tmp_path
            )

    with pytest.raises(RuntimeError, match="device cpu was lost at sample 2: CUDA error.*keep="):
        ask(lost_at=CHECKS + 2)
    ask()
    assert sizes[CHECKS:] == [16] * 2  # of four samples


@pytest.mark.parametrize(("batch_size", "words"), [(16, "one masked input"), (1, "one masked")])
def test_too_little_memory_for_one(batch_size, words):
    def model(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    players = LabelMapPlayers(torch.arange(4), baseline=0.0)
    with pytest.raises(torch.OutOfMemoryError, match=rf"of cpu is too small.*{words}.*\(4,\)"):
        coalition_values(model, torch.ones(2, 4), [0, 0], players, batch_size=batch_size)


class Noisy(torch.nn.Module):
    def forward(self, x):
        return torch.rand(len(x), 2)


@pytest.mark.parametrize(
    ("model", "labels", "n", "message"),
    [
        (torch.nn.Linear(3, 2).train(), [0], 3, "training mode"),
        (Noisy().eval(), [0], 3, "for the same input"),
        (constant(0.0), [2], 3, r"labels 2\.\.2 for a model with 2 output"),
        (constant(0.0), [-1], 3, "labels -1"),
        (constant(0.0), [0, 1], 3, "2 labels for 1 samples"),
        (constant(torch.nan), [0], 3, "sample 0|for the same input"),
        (constant(0.0, 1), [2], 3, r"with 1 output\(s\); expected 0\.\.1"),
        (constant(0.0), [0], 17, "131,072 forward passes"),
    ],
)
def test_bad_calls_are_refused(model, labels, n, message):
    players = LabelMapPlayers(torch.arange(n), baseline=0.0)
    with pytest.raises(ValueError, match=message):
        coalition_values(model, torch.ones(1, n), labels, players)


def test_a_module_goes_back_where_it_was():
    model = image_model()
    images = torch.rand(1, 3, 8, 8)
    model(images)
    coalition_values(model, images, [0], PatchPlayers(4, 2), device="cpu")
    assert next(model.parameters()).device.type == "cpu"

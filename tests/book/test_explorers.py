"""Explorers: live as in JupyterLab, and as frames while the book is built."""

import re
from dataclasses import replace

import ipywidgets
import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

import pi_lib as pi
from pi_lib import progress, study
from pi_lib.book import explorers, figures, hero, runner
from pi_lib.book.explorers import (
    explore,
    explore_game,
    explore_sample,
    explore_training,
    explore_transfer,
)
from pi_lib.study import accuracies, backbones

matplotlib.use("Agg")


def line(slope, shift=0):
    figure, axis = plt.subplots(figsize=(1, 1))
    axis.plot([0, 1], [shift, slope + shift])
    return figure


def tree(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from tree(child)


def controls(box):
    return {one.description: one for one in box.children[0].children}


def shown(box):
    """What a live explorer shows, as HTML."""
    return "".join(part.value for part in box.children[1].children)


@pytest.fixture
def building(tmp_path, monkeypatch):
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "lines"))


@pytest.fixture(scope="module")
def seen():
    """Interactions of two images with four players, and what they were extracted from."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 16, 16, generator=generator)
    weight = torch.randn(3 * 16 * 16, 3, generator=generator) / 10
    players = pi.PatchPlayers(grid=8, n=4)
    seen = pi.extract(lambda x: (x.flatten(1) @ weight).sin(), images, [0, 1], players, ids=[7, 8])
    return seen, images, players


def test_live_draws_a_point_once():
    calls = []

    def text(k):
        calls.append(k)
        return f"k is {k} <b>"

    box = explore(text, k=[1, 2, 3])
    assert "k is 1 &lt;b&gt;" in shown(box)  # what comes from data is escaped
    control = controls(box)["k"]
    control.index = 2
    assert "k is 3" in shown(box)
    control.index = 0
    control.index = 2
    assert calls == [1, 3]


def test_frames_are_drawn_beforehand_for_the_static_page(building):
    plt.close("all")
    box = explore(line, slope=[1, 2], shift=[0, 1, 2], start={"shift": 1})
    frames = [w for w in tree(box) if isinstance(w, ipywidgets.HTML) and "<img" in w.value]
    assert len(frames) == 6 and all(" alt=" in f.value for f in frames)
    stacks = [w for w in tree(box) if isinstance(w, ipywidgets.Stack)]
    assert len(stacks) == 1 + 2 and stacks[1].selected_index == 1  # where the slider starts
    assert not plt.get_fignums()  # nothing is left open


def test_what_frames_have_in_common_is_kept_once(building):
    box = explore(lambda k: ["the same", f"k is {k}"], k=[1, 2, 3])
    texts = [w for w in tree(box) if isinstance(w, ipywidgets.HTML) and "<pre>" in w.value]
    assert len(texts) == 6 and len(set(texts)) == 4


def test_in_jupyterlab_more_may_move(building, monkeypatch):
    def text(k, far=0):
        return f"{k} {far}"

    options = {"k": [1, 2], "live": {"k": list(range(100)), "far": [0, 1, 2]}}
    assert list(controls(explore(text, **options))) == ["k"]
    monkeypatch.delenv(progress.VARIABLE)
    assert list(controls(explore(text, **options))) == ["k", "far"]


def test_too_much_is_refused_with_the_numbers(building, monkeypatch):
    with pytest.raises(ValueError, match="200 frames; a page holds at most 150"):
        explore(line, slope=list(range(20)), shift=list(range(10)))
    monkeypatch.setattr(explorers, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="MB; a page holds at most"):
        explore(line, slope=[1, 2])


def test_nothing_to_explore_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        explore(line, slope=[])
    with pytest.raises(TypeError, match="expected a matplotlib figure"):
        explore(lambda k: None, k=[1])
    with pytest.raises(ValueError, match="k starts at 3"):
        explore(line, start={"k": 3}, k=[1])


def test_a_game_moves_by_hand():
    game = {"": 0.0, "a": 1.0, "b": 1.0, "a b": 3.0}
    box = explore_game(game, ["a", "b"], {"a b": [0, 1]})
    assert list(controls(box)) == ["v({})", "v({a})", "v({b})", "v({a, b})"]

    def rows():
        return re.findall(r">([+-][\d.]+)</span>", shown(box))

    assert rows() == ["+0.00", "+0.00", "+1.00", "+1.00", "+1.00", "+1.00", "+3.00", "+1.00"]
    controls(box)["v({b})"].index += 1  # half a step up
    assert rows()[4:] == ["+1.50", "+1.50", "+3.00", "+0.50"]
    with pytest.raises(ValueError, match=r"no value for {a, b}"):
        explore_game({"": 0, "a": 1, "b": 1}, ["a", "b"], {"a": [0]})
    with pytest.raises(ValueError, match="'c' is no player; there are a, b"):
        explore_game(game | {"c": 1}, ["a", "b"], {"a": [0]})


@pytest.mark.parametrize("kind", ["AND", "OR"])
def test_a_sample_is_rebuilt_from_what_is_kept(seen, kind):
    """The numbers that are read out, worked out again from the transforms."""
    interactions, images, players = seen
    box = explore_sample(interactions, images, players, thresholds=(0.5, 0.2), k=3)
    control = controls(box)
    control["kind"].index = ["AND", "OR"].index(kind)
    assert control["threshold"].index == 1  # thresholds rise to the right; the largest comes first
    control["threshold"].index = 0
    control["sample"].index = 1
    v = interactions.v[1]
    there, back = {
        "AND": (pi.and_transform, pi.and_inverse), "OR": (pi.or_transform, pi.or_inverse),
    }[kind]  # fmt: skip
    terms = there(v)
    kept = terms.abs() > 0.2 * terms[1:].abs().max()
    salient = int(kept[1:].sum())
    kept[0] = True
    error = ((back(terms * kept) - v).square().mean() / v.var(correction=0)).sqrt()
    text = shown(box)
    assert f"{kind}: {salient} of 15 interactions" in text
    assert f"a relative error of {error:.2f}" in text
    assert text.count('class="pi-card"') == min(3, salient)
    assert f">{terms[terms[1:].abs().argmax() + 1]:+.2f}<" in text


def test_both_kinds_where_the_result_has_both(seen):
    interactions, images, players = seen
    split = pi.and_or_split(interactions.v)
    both = pi.Interactions(
        v=interactions.v, i_and=split.i_and, i_or=split.i_or,
        players=interactions.players, ids=interactions.ids,
    )  # fmt: skip
    box = explore_sample(both, images, players, thresholds=(0.0,))
    assert "AND and OR" in shown(box) and "relative error of 0.00" in shown(box)
    controls(box)["up to order"].index = 0  # order 1 alone no longer adds up
    assert "relative error of 0.00" not in shown(box)


def test_a_sentence_marks_the_words_of_a_group():
    texts = ["Not a good film, <really> not", "A dull and lifeless story"]
    players = pi.WordPlayers(backbones.tokenizer("minilm"), n=2)
    logits = lambda ids, attention_mask: ids.double().sin().sum(-1).exp()[:, None] * torch.ones(2)  # noqa: E731
    read = pi.extract(logits, texts, [0, 1], players, value=lambda z, y: z[:, 0])
    text = shown(explore_sample(read, texts, players, samples=[0], thresholds=(0.0,)))
    marked = [re.findall(r"<mark[^>]*>(.*?)</mark>", row) for row in text.split("pi-row")[1:]]
    wanted = [row.strip("{}").split(", ") for row in read.top(3)["players"]]
    assert marked == wanted
    assert "&lt;" in text and "<really>" not in text


def test_names_are_shown_as_they_are_written():
    """What HTML, MathJax or JupyterLab would read as something else."""
    names = ["<b>age</b>", "$x_1$", "a_b & $$c$$"]
    players = pi.LabelMapPlayers(torch.tensor([0, 1, 2]), names=names)
    model = lambda x: torch.stack([x.prod(-1), torch.zeros(len(x))], -1)  # noqa: E731
    inputs = torch.full((1, 3), 2.0)
    box = explore_sample(pi.extract(model, inputs, [0], players), inputs, players)
    whole = "all of {&lt;b&gt;age&lt;/b&gt;, $x_1$, a_b &amp; $$c$$}"
    (part,) = [part.value for part in box.children[1].children if whole in part.value]
    assert part.startswith('<div class="tex2jax_ignore mathjax_ignore">')  # no formula in it
    game = explore_game({"": 0, "$a": 1, "$b": 1, "$a $b": 3}, ["$a", "$b"], {"$a $b": [0, 1]})
    assert "{$a, $b}" in shown(game)
    assert not any("$" in name for name in controls(game))  # JupyterLab typesets labels


def test_other_inputs_than_those_extracted_are_refused(seen):
    interactions, images, players = seen
    with pytest.raises(ValueError, match="not those of the interactions"):
        explore_sample(interactions, images, pi.PatchPlayers(grid=8, n=4, seed=1))


@pytest.fixture(scope="module")
def examples():
    return hero.examples(runner.ROOT / "notebooks" / "recorded" / "hero")


@pytest.fixture(scope="module")
def transfer(examples):
    return explore_transfer(examples)


def expected(record, players, sample, groups, order, run):
    """How many groups are kept, lost or new, and their effects before, as they are written: by the
    definition of Walsh coefficients, as a product of signs."""
    row = list(record.header["ids"]).index(sample)
    v = [one.v[row].double() for arm in ("probe", "finetuned") for one in record.runs(arm, players)]
    places = range(len(v[0]))
    bits = torch.tensor([[int(s & t).bit_count() for t in places] for s in places])
    parity = 1.0 - 2 * ((bits + bits.diagonal()[:, None]) % 2)
    probe, *runs = (parity.double() @ torch.stack(v, 1) / len(places)).T
    runs = torch.stack(runs if run is None else runs[run - 1 : run])

    def signs(effects):
        effects = effects.clone()
        effects[..., 0] = 0
        return effects.sign() * (effects.abs() >= 0.1 * effects.abs().amax(-1, keepdim=True))

    before, after = signs(probe), signs(runs)
    same = (after == after[0]).all(0)
    chosen = {
        "kept": same & (after[0] == before) & (before != 0),
        "lost": (before != 0) & (after != before).all(0),
        "new": same & (after[0] != 0) & (after != before).all(0),
    }[groups] & (bits.diagonal() == order)
    return int(chosen.sum()), {f"{round(x, 2) + 0.0:+.2f}" for x in probe[chosen].tolist()}


@pytest.mark.parametrize(("run", "order"), [(None, 1), (None, 2), (1, 2), (3, 2), (3, 3)])
@pytest.mark.parametrize("groups", ["kept", "lost", "new"])
@pytest.mark.parametrize("input", ["photograph", "sentence"])
def test_a_transfer_shows_what_is_kept_lost_and_new(examples, transfer, input, groups, order, run):
    control = controls(transfer)
    control["input"].index = ["photograph", "sentence"].index(input)
    control["groups"].index = ["kept", "lost", "new"].index(groups)
    control["order"].index = order - 1
    control["run"].index = run or 0
    one = examples[input]
    count, before = expected(one.record, one.players, one.sample, groups, order, run)
    text = shown(transfer)
    assert f": {count or 'no'} group" in text and f"<strong>{count}</strong>" in text
    cards = re.split(r'<div class="pi-(?:card|row)">', text)[1:]
    assert len(cards) == min(count, 6)
    for card in cards:
        assert re.findall(r">([+-][\d.]+)</span>", card)[0] in before
        assert card.count("<rect" if input == "photograph" else "<mark") == order


def record(finetuned, scratch):
    """A record of a run of each arm, with these interactions at its checkpoints."""
    arms = {"finetuned": finetuned, "scratch": scratch}
    last = {arm: len(found) - 1 for arm, found in arms.items()}
    games = {
        f"drawn/{arm}1" + ("" if step == last[arm] else f"@{step}"): at.v.numpy()
        for arm, found in arms.items()
        for step, at in enumerate(found)
    }
    logs = {
        f"{arm}1": [{"step": step, "accuracy": 0.5, "loss": 1.0} for step in range(len(found))]
        for arm, found in arms.items()
    }
    header = {
        "cell": "a", "labels": [0, 1], "ids": [7, 8], "tested": 10, "logs": logs, "last_step": last,
        "players": {"drawn": None},
    }  # fmt: skip
    return study.Record(header, games)


def test_training_goes_checkpoint_by_checkpoint(seen, monkeypatch):
    one = seen[0]
    other = replace(one, v=-one.v, i_and=-one.i_and)
    scales = []
    real = figures.knowledge

    def recorded(*args, **options):
        scales.append(figure := real(*args, **options))
        return figure

    monkeypatch.setattr(figures, "knowledge", recorded)
    box = explore_training({"a": record([other, one], [other, other, one]), "b": None})
    assert list(controls(box)) == ["checkpoint"]  # one task is no choice
    assert len(controls(box)["checkpoint"].options) == 2  # both runs have them
    first = shown(box)
    controls(box)["checkpoint"].index = 1
    assert "0 of 1" in first and "1 of 1" in shown(box) and "1 of 2" in shown(box)

    def row(name):
        (cells,) = re.findall(
            rf"<th>{name}.*?</th>\s*<td>(.*?)</td>\s*<td>(.*?)</td>", shown(box), re.S
        )
        return cells

    # The end is itself; the opposite shares nothing, and all its own is new.
    assert row("share of") == ("1.00 [1.00, 1.00]", "0.00 [0.00, 0.00]")
    assert row("new, as") == ("0.00 [0.00, 0.00]", "1.00 [1.00, 1.00]")
    assert row("Jaccard similarity to") == ("1.00 [1.00, 1.00]", "0.00 [0.00, 0.00]")
    assert row("test accuracy") == (str(accuracies.proportion(5, 10)),) * 2
    assert len({figure.axes[0].get_ylim() for figure in scales}) == 1


@pytest.mark.parametrize(
    "box, says",
    [
        (lambda seen: explore_training(None), "study.run"),
        (lambda seen: explore_training({}), "study.run"),
        (lambda seen: explore_training({"a": record([], [])}), "No checkpoints"),
        (lambda seen: explore_sample(None, None, None), "pi_lib.extract"),
        (lambda seen: explore_transfer(None), "python -m pi_lib study"),
        (lambda seen: explore_sample(seen[0][:0], *seen[1:]), "pi_lib.extract"),
        (lambda seen: explore_sample(*seen, samples=[5]), "No sample 5: there are 2"),
    ],
)
def test_without_results_it_says_how_to_make_them(seen, box, says):
    assert says in box(seen).value


def test_an_estimate_is_refused():
    with pytest.raises(TypeError, match="got list; expected Interactions of method 'exact'"):
        explore_sample([1], None, None)

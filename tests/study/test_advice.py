"""Each line of advice on planted records, and on their opposite: none says what it does not see."""

import itertools

import matplotlib.pyplot as plt
import pytest
from planted_records import planted

from pi_lib.book import study_figures
from pi_lib.statistics import Difference
from pi_lib.study import advice
from pi_lib.study.findings import judged

TASKS = ("fashion-mnist", "flowers")
HIGH, LOW = 0.8, 0.5


def right(finetuned=0.65, probe=0.65, scratch=0.65):
    return {"finetuned": finetuned, "probe": probe, "scratch": scratch}


def start(up):
    return [
        planted(task=task, accuracy=right(finetuned=HIGH if up else LOW), seed=seed)
        for seed, task in enumerate(TASKS)
    ]


def probe(up):
    return start(up)


def labels(up):
    gains = [0.25, 0.2, 0.15, 0.1, 0.05, 0.0]
    return [
        planted(changes={"n_train": 20 * 2**k}, accuracy=right(0.65 + gain), seed=k)
        for k, gain in enumerate(gains if up else gains[::-1])
    ]


def way(up):
    plain = planted(accuracy=right(), elsewhere={"source": 0.6})
    lora = planted(
        accuracy=right(), elsewhere={"source": HIGH if up else LOW}, changes={"lora": 8}, seed=1
    )
    return [plain, lora]


def source(up):
    sources = (
        "cifar10",
        "flowers",
        "cub",
        "cars",
        "fashion-mnist+odd",
        "fashion-mnist+odd+blurred",
    )
    return [
        planted(
            task="fashion-mnist+even", source=name, seed=k,
            accuracy=right(0.65 + 0.05 * k, 0.3 + 0.1 * (k if up else 6 - k)),
        )
        for k, name in enumerate(sources)
    ]  # fmt: skip


def kind(up):
    return [
        planted(accuracy=right(finetuned=accuracy), pretraining=name, seed=k)
        for k, (name, accuracy) in enumerate(
            (("supervised", 0.65), ("contrastive", LOW if up else HIGH))
        )
    ]


def rate(up):
    accuracies = [0.5 + 0.05 * (5 - k if up else k) for k in range(6)]
    return [
        planted(accuracy=right(x), seed=k, changes={"rate": 1e-4 * 3**k}, elsewhere={"source": x})
        for k, x in enumerate(accuracies)
    ]


LINES = {
    start: ("Start from pre-trained weights.", "Train from scratch"),
    probe: ("Train all layers", "Stop at a linear probe"),
    labels: ("The fewer labels you have", "The more labels you have"),
    way: ("LoRA of rank 8 kept more", "No way kept clearly more"),
    source: ("Try a linear probe of each source", "Do not choose a source by a linear probe"),
    kind: ("Prefer supervised to contrastive", "Prefer contrastive to supervised"),
    rate: ("old task, a lower learning rate was", "old task, a higher learning rate was"),
}


@pytest.mark.parametrize(("planted_line", "up"), [*itertools.product(LINES, (True, False))])
def test_a_line_says_what_is_planted(planted_line, up):
    line = getattr(advice, planted_line.__name__)(planted_line(up))
    said, opposite = LINES[planted_line] if up else LINES[planted_line][::-1]
    assert said in line.sentence and opposite not in line.sentence
    assert ("confirmed" if up else "contradicted") in line.evidence


def test_ways_are_named_as_people_say_them():
    ways = ({}, {"rate": 1e-4}, {"rate": 0.1}, {"frozen": 0.5}, {"rate": 1e-3})
    line = advice.way([planted(accuracy=right(), changes=x, seed=1) for x in ways])
    assert [claim.label for claim in line.claims] == [
        "new task: a lower learning rate", "new task: a higher learning rate",
        "new task: 50 % of the layers frozen",
    ]  # fmt: skip
    assert "was not tested" in line.sentence  # on the old task
    assert advice.way([planted(accuracy=right(), changes={"lora": 1})]).claims == []


def test_a_way_that_keeps_more_and_costs_accuracy():
    plain, _ = way(True)
    lora, first = (
        planted(accuracy=right(new), elsewhere={"source": old}, changes=changes, seed=1)
        for new, old, changes in ((LOW, HIGH, {"lora": 8}), (HIGH, 0.6, {"probe_first": 1}))
    )
    said = advice.way([plain, lora, first]).sentence
    assert "What kept more of the old task cost accuracy: LoRA of rank 8." in said
    assert "More accurate on the new task in most cells: probe first." in said


@pytest.mark.parametrize("name", ["start", "probe", "kind"])
def test_what_is_the_same_is_undecided(name):
    records = [planted(task=task, accuracy=right(), seed=k) for k, task in enumerate(TASKS)]
    if name == "kind":
        records = [planted(pretraining=x, accuracy=right()) for x in ("supervised", "adversarial")]
    line = getattr(advice, name)(records)
    (claim,) = line.claims
    assert claim.outcome == "undecided" and line.sentence == claim.says["undecided"]


def test_the_outcome_of_several_cells():
    up, down, open_ = (Difference(x, x - 0.1, x + 0.1, p=p) for x, p in ((1, 0), (-1, 0), (0, 1)))
    none = Difference.unmeasurable("why")

    def outcome(*numbers):
        return advice.Claim("", "", judged(dict(enumerate(numbers)))).outcome

    assert outcome(up, up, open_) == "for" and outcome(down, down, open_) == "against"
    assert outcome(up, open_) == outcome(open_) == outcome(none, open_) == "undecided"
    assert outcome(up, up, down) == "mixed" and outcome(none) == "not measurable"


def test_every_claim_has_a_sentence_for_every_outcome():
    lines = [getattr(advice, line.__name__)(line(True)) for line in LINES]
    for claim in (claim for line in lines for claim in line.claims if claim.says):
        assert {"for", "against", "undecided"} <= set(claim.says)
    assert len(lines) <= 7


def test_the_lines_of_all_folders(tmp_path):
    folders = {
        "paper": start(True), "data_size": labels(True), "domains": source(True), "ways": way(True),
        "pretraining": kind(True), "discarding": rate(True), "other_tasks": [],
    }  # fmt: skip
    named = {name: {r.title: r for r in records} for name, records in folders.items()}
    lines = advice.advice(named)
    assert [line.question for line in lines][:2] == [
        "Pre-trained weights, or scratch?", "How many labels?",
    ]  # fmt: skip
    assert len(lines) == 7
    assert advice.advice({"paper": {}}) == []
    figure = study_figures.effects(lines)
    assert len(figure.axes) == 2
    figure.savefig(tmp_path / "effects.png")
    plt.close(figure)

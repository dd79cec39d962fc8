"""What a practitioner may take from the records: at most seven lines, worded by their verdicts.

A line rests on claims, each held against cells (`pi_lib.study.findings.judged`). What it says is
looked up by the claim's outcome, so that no line can say the opposite of what it rests on.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Self

import pandas as pd

from pi_lib.statistics import Estimate
from pi_lib.study.across_cells import crossing, rank_correlation
from pi_lib.study.cell import TITLES, changes_in_words, title_of
from pi_lib.study.comparisons import ALL_LAYERS, by_way
from pi_lib.study.findings import VERDICTS, in_words, judged
from pi_lib.study.record import Record

MARGIN = 0.02  # of accuracy: a smaller gain does not matter


@dataclass(frozen=True)
class Claim:
    """A claim with the verdict on it in every cell.

    Attributes
    ----------
    text : str
        What holds where the number is above 0.
    label : str
        What the number compares, in a few words.
    frame : DataFrame
        The number in every cell, as `pi_lib.study.findings.judged` gives it.
    says : mapping of str to str
        A sentence for each `outcome`.
    """

    text: str
    label: str
    frame: pd.DataFrame = field(repr=False)
    says: Mapping[str, str] = field(repr=False, default_factory=dict)

    @property
    def outcome(self) -> str:
        """What the verdicts come to.

        "for" if the claim is confirmed in more than half of the cells and contradicted in none,
        "against" the other way round; "mixed" if both occur; "undecided" otherwise, or "not
        measurable" if no verdict is anything else.
        """
        count = self.frame["verdict"].value_counts()
        up, down = count.get("confirmed", 0), count.get("contradicted", 0)
        if count.get("not measurable", 0) == len(self.frame):
            return "not measurable"
        if up and down:
            return "mixed"
        half = len(self.frame) / 2
        return "for" if up > half else "against" if down > half else "undecided"

    @property
    def sentence(self) -> str:
        """What it says."""
        return self.says.get(self.outcome, f"{self.text}: {self.outcome}.")


@dataclass(frozen=True)
class Advice:
    """A line of advice with what it rests on.

    Attributes
    ----------
    question, sentence : str
        What is asked, and what to do.
    claims : sequence of Claim
    unit : "accuracy" or "rank correlation"
        Of the claims' numbers.
    evidence, limits : str
    """

    question: str
    sentence: str
    claims: Sequence[Claim] = field(repr=False)
    unit: str
    evidence: str
    limits: str

    @classmethod
    def of(
        cls, question: str, claims: Sequence[Claim], unit: str, limits: str, more: str = ""
    ) -> Self:
        """The line that says what the claims say, with their verdicts as evidence, and `more`."""
        sentence = " ".join(claim.sentence for claim in claims)
        evidence = " ".join(f"{claim.text}: {in_words(claim.frame)}." for claim in claims)
        return cls(question, sentence, claims, unit, f"{evidence} {more}".strip(), limits)


def advice(folders: Mapping[str, Mapping[str, Record]]) -> list[Advice]:
    """The lines for which there are records.

    These are as `pi_lib.study.read_all` gives them, by the name of their folder: "paper",
    "data_size", "domains", "domains_text", "pretraining", "discarding", "other_tasks", "ways".
    Those that are missing or empty are left out.
    """
    lists = {name: [*records.values()] for name, records in folders.items()}
    of_tasks = lists.get("paper", []) + lists.get("other_tasks", [])
    lines: list[tuple[Callable[[list[Record]], Advice], list[Record]]] = [
        (start, of_tasks + lists.get("domains_text", [])),
        (labels, lists.get("data_size", [])),
        (probe, of_tasks),
        (way, lists.get("ways", [])),
        (source, lists.get("domains", [])),
        (kind, lists.get("pretraining", [])),
        (rate, lists.get("discarding", [])),
    ]
    said = [line(records) for line, records in lines if records]
    return [line for line in said if line.claims]


def start(records: list[Record]) -> Advice:
    """Pre-trained weights, or scratch?"""
    claim = Claim(
        "Fine-tuning is more accurate than training from scratch",
        "fine-tuned minus scratch",
        judged({_title(record): record.gain() for record in records}),
        {
            "for": "Start from pre-trained weights.",
            "against": "Train from scratch: pre-trained weights cost accuracy.",
            "mixed": "Try both, pre-trained weights and scratch: which is better depends on the "
            "network and the task.",
            "undecided": "Try both, pre-trained weights and scratch: in at least half of the cells "
            "neither was clearly better.",
        },
    )
    limits = f"{_scope(records)}; scratch had as many epochs as fine-tuning."
    return Advice.of("Pre-trained weights, or scratch?", [claim], "accuracy", limits)


def labels(records: list[Record]) -> Advice:
    """How many labels make pre-training unnecessary?"""
    numbers, said = {}, []
    for name, group in _grouped(records, lambda record: record.transfer).items():
        group = sorted(group, key=_labels)
        sizes, gains = [_labels(r) for r in group], [r.gain() for r in group]
        numbers[name] = rank_correlation([-size for size in sizes], [gain.value for gain in gains])
        end = crossing(sizes, gains, MARGIN)
        low, at, high = (_size(x) for x in (end.low, end.value, end.high))
        said.append(
            f"{name}: a gain of {gains[0]} with {sizes[0]:,} labels and of {gains[-1]} with "
            f"{sizes[-1]:,}; labels from which on it is below {MARGIN:g}: {at} (95 % interval: "
            f"{low} to {high})."
        )
    claim = Claim(
        "The fewer labels, the larger the gain over scratch",
        "few labels, and gain over scratch",
        judged(numbers),
        {
            "for": "The fewer labels you have, the more pre-trained weights are worth.",
            "against": "The more labels you have, the more pre-trained weights are worth.",
            "mixed": "Whether few or many labels gain more depends on network and task.",
            "undecided": "Whether pre-trained weights are worth more with few labels is undecided.",
        },
    )
    limits = f"{_scope(records)}; a harder task or a longer training moves the crossing."
    return Advice.of("How many labels?", [claim], "rank correlation", limits, " ".join(said))


def probe(records: list[Record]) -> Advice:
    """A linear probe, or all layers?"""
    claim = Claim(
        "Fine-tuning all layers is more accurate than a linear probe",
        "fine-tuned minus linear probe",
        judged({_title(record): record.gain("probe") for record in records}),
        {
            "for": "Train all layers: a linear probe is not enough.",
            "against": "Stop at a linear probe: training all layers cost accuracy.",
            "mixed": "Try a linear probe first: whether all layers are better depends on network "
            "and task.",
            "undecided": "Try a linear probe first: in at least half of the cells training all "
            "layers was not clearly better.",
        },
    )
    limits = f"{_scope(records)}; a linear probe costs one pass over the data."
    return Advice.of("A linear probe, or all layers?", [claim], "accuracy", limits)


def _any_of(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def way(records: list[Record]) -> Advice:
    """Which way to fine-tune?"""
    numbers: dict[str | None, dict[tuple[str, str], Estimate]] = {"source": {}, None: {}}
    for cell, ways in by_way(records).items():
        if plain := ways.pop(ALL_LAYERS, None):
            for (name, record), on in product(ways.items(), numbers):
                if on is None or {on} <= {*record.elsewhere} & {*plain.elsewhere}:
                    numbers[on][name, cell] = record.gain_over(plain, on=on)
    keeps = _claims(
        "{} keeps more of the old task than all layers", "old task: {}", numbers["source"]
    )
    wins = _claims("{} is more accurate than all layers", "new task: {}", numbers[None])
    costly = [name for name, claim in wins.items() if "contradicted" in {*claim.frame["verdict"]}]
    keepers, winners = (
        [name for name, claim in claims.items() if claim.outcome == "for"]
        for claims in (keeps, wins)
    )
    if free := [name for name in keepers if name not in costly]:
        said = (
            f"If the old task still matters: {_any_of(free)} kept more of it than training all "
            "layers, without a clear loss on the new one."
        )
    elif keepers:
        said = f"What kept more of the old task cost accuracy: {', '.join(keepers)}."
    elif keeps:
        said = "No way kept clearly more of the old task than training all layers, in most cells."
    else:
        said = "Whether other ways than training all layers keep more was not tested."
    if winners:
        said += f" More accurate on the new task in most cells: {', '.join(winners)}."
    evidence = " ".join(
        f"{what}: {_how_often(claims)}."
        for what, claims in (
            ("More of the old task than after training all layers", keeps),
            ("More accurate than training all layers", wins),
        )
        if claims
    )
    limits = f"{_scope(records)}; of the old task, what a linear probe on the encoder says."
    claims = [*keeps.values(), *wins.values()]
    return Advice("Which way to fine-tune?", said, claims, "accuracy", evidence, limits)


def source(records: list[Record]) -> Advice:
    """Which source to pre-train on?"""
    gains = {title_of(record.header["source"]): record.gain() for record in records}
    probes = [record.accuracy("probe").value for record in records]
    rho = rank_correlation(probes, [gain.value for gain in gains.values()])
    best, least = (pick(gains, key=lambda name: gains[name].value) for pick in (max, min))
    claim = Claim(
        f"The more accurate a linear probe, the larger the gain, over {len(gains)} sources",
        "accuracy of a probe, and gain over scratch",
        judged({f"{len(gains)} sources": rho}),
        {
            "for": "Try a linear probe of each source, and take the source of the best.",
            "against": "Do not choose a source by a linear probe: those with the better one gained "
            "less.",
            "undecided": "Try more than one source: whether a linear probe tells which to take is "
            "undecided.",
        },
    )
    more = (
        f"The largest gain is after {best} ({gains[best]}), the smallest after {least} "
        f"({gains[least]})."
    )
    limits = f"{_scope(records)}; sources differ in difficulty and in number of classes too."
    return Advice.of("Which source?", [claim], "rank correlation", limits, more)


def kind(records: list[Record]) -> Advice:
    """Which kind of pre-training?"""
    numbers: dict[tuple[str, str], Estimate] = {}
    for task, group in _grouped(records, lambda record: title_of(record.header["task"])).items():
        kinds = {record.header["pretraining"]: record for record in group}
        if supervised := kinds.pop("supervised", None):
            for name, record in kinds.items():
                numbers[name, task] = supervised.gain_over(record)
    says = {
        "for": "Prefer supervised to {} pre-training.",
        "against": "Prefer {} to supervised pre-training.",
        "mixed": "Whether supervised or {} pre-training is better depends on the task.",
        "undecided": "Of supervised and {} pre-training neither was clearly better in at least "
        "half of the tasks.",
    }
    text = "After fine-tuning, supervised networks are more accurate than {} ones"
    claims = [*_claims(text, "supervised minus {}", numbers, says).values()]
    limits = (
        f"{_scope(records)}; all kinds had the same pictures and epochs, and contrastive "
        "pre-training is known to need more of both."
    )
    return Advice.of("Which kind of pre-training?", claims, "accuracy", limits)


def rate(records: list[Record]) -> Advice:
    """How gently?"""
    low = [-record.header["rates"]["finetuned"]["chosen"] for record in records]
    asked: dict[str, str | None] = {"new task": None}
    if all("source" in record.elsewhere for record in records):
        asked = {"old task": "source"} | asked
    numbers = {
        (task, f"{len(records)} settings"): rank_correlation(
            low, [record.accuracy("finetuned", on=on).value for record in records]
        )
        for task, on in asked.items()
    }
    says = {
        "for": "On the {}, a lower learning rate was better.",
        "against": "On the {}, a higher learning rate was better.",
        "undecided": "What the learning rate does to the {} is undecided.",
    }
    text = f"The lower the learning rate, the better on the {{}}, over {len(records)} settings"
    claims = [*_claims(text, "low learning rate, and {}", numbers, says).values()]
    best = max(records, key=lambda record: record.accuracy("finetuned").value)
    more = (
        f"Most accurate on the new task: {changes_in_words(best.header['cell_changes'])}, with "
        f"{best.accuracy('finetuned')}."
    )
    limits = (
        f"{_scope(records)}; settings share their data and their pre-training; of the old task, "
        "what a linear probe on the encoder says."
    )
    return Advice.of("How gently?", claims, "rank correlation", limits, more)


def _claims(
    text: str,
    label: str,
    numbers: Mapping[tuple[str, str], Estimate],
    says: Mapping[str, str] | None = None,
) -> dict[str, Claim]:
    """A claim for each name, of numbers by name and cell; p is corrected over all of them."""
    frame = judged(numbers)
    names = frame["cell"].map(lambda both: both[0])
    frame = frame.assign(cell=frame["cell"].map(lambda both: both[1]))
    return {
        name: Claim(
            (said := text.format(name))[:1].upper() + said[1:],
            label.format(name),
            frame[names == name],
            {outcome: sentence.format(name) for outcome, sentence in (says or {}).items()},
        )
        for name in names.unique()
    }


def _how_often(claims: Mapping[str, Claim]) -> str:
    """How often each verdict fell on each claim; those alike stand together."""
    alike = defaultdict(list)
    for name, claim in claims.items():
        count = claim.frame["verdict"].value_counts()
        cells = f"of {len(claim.frame)} {'cell' if len(claim.frame) == 1 else 'cells'}"
        words = [f"{word} in {count[word]}" for word in VERDICTS if word in count]
        alike[f"{', '.join(words)} {cells}"].append(name)
    return "; ".join(f"{said} ({', '.join(names)})" for said, names in alike.items())


def _title(record: Record) -> str:
    """The cell as people write it, today."""
    changes = changes_in_words(record.header["cell_changes"])
    return ", ".join(filter(None, [record.transfer, changes]))


def _grouped(records: Iterable[Record], key: Callable[[Record], str]) -> dict[str, list[Record]]:
    groups = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return groups


def _labels(record: Record) -> int:
    return record.header["settings"]["n_train"]


def _size(number: float) -> str:
    return "more than tried" if number == float("inf") else f"{number:,.0f}"


def _scope(records: list[Record]) -> str:
    """What the records are of."""
    networks = sorted({TITLES.get(r.header["backbone"], r.header["backbone"]) for r in records})
    tasks = len({record.header["task"] for record in records})
    least, most = (pick(map(_labels, records)) for pick in (min, max))
    sizes = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    said = "one task" if tasks == 1 else f"{tasks} tasks"
    return f"{', '.join(networks)}; {said}, {sizes} labels"

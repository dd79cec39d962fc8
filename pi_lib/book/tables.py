"""The tables of the pages: settings of cells, claims with their verdicts, where numbers come from.

Each takes records, or what `pi_lib.study.findings` says of them, and returns a data frame of words:
numbers with their intervals, "not measurable" where there is none, nothing for what does not apply.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from numbers import Integral

import numpy as np
import pandas as pd

from pi_lib.reliability import ARMS
from pi_lib.statistics import Estimate
from pi_lib.study import assets, data
from pi_lib.study.advice import Advice
from pi_lib.study.cell import PROFILES, TITLES, title_of
from pi_lib.study.findings import VERDICTS, Runs
from pi_lib.study.record import Record

PARTS = {
    "pretraining": "pre-training alone",
    "both": "both",
    "scratch": "scratch alone",
    "neither": "neither",
}
RUNS = f"runs of {', '.join(ARMS.values())}"
QUANTITIES = {  # and of what, as `pi_lib.study.comparisons.quantities` has them
    ("accuracy", "probe"): "accuracy of the probe",
    ("accuracy", "finetuned"): "accuracy of fine-tuned runs",
    ("accuracy", "scratch"): "accuracy of scratch runs",
    ("accuracy", "long"): "accuracy of long scratch runs",
    ("gain", "scratch"): "gain in accuracy over scratch",
    ("similarity", "probe"): "similarity of probe and fine-tuned runs",
    ("similarity", "scratch"): "similarity of scratch and fine-tuned runs",
    ("players", "probe"): "similarity of probe and fine-tuned runs in single players",
    ("distance", "source"): "distance of the source from the task",
    ("reliability", "finetuned"): "reliability of fine-tuned runs",
    ("noise", "finetuned"): "accuracy with noise",
    ("blur", "finetuned"): "accuracy when blurred",
    ("low contrast", "finetuned"): "accuracy at low contrast",
    ("inverted", "finetuned"): "accuracy when inverted",
    ("foreign", "finetuned"): "AUROC against foreign pictures",
    ("source", "finetuned"): "accuracy on the old task",
} | {("origins", part): f"share from {name}" for part, name in PARTS.items()}


def settings(records: Mapping[str, Record]) -> pd.DataFrame:
    """What was trained on, and asked about, in each cell: a row each."""
    rows = {}
    for record in records.values():
        s, header = record.header["settings"], record.header
        rows[record.title] = {
            "training samples": f"{header.get('n_train', s['n_train']):,}",
            "epochs": s["epochs"],
            "test samples": f"{header['tested']:,}",
            "samples for interactions": len(header["labels"]),
            "players": record.runs("probe")[0].n,
            RUNS: ", ".join(str(record.count(arm)) for arm in ARMS),
        } | {f"accuracy, {ARMS[x]}": said(record.accuracy(x)) for x in ARMS if record.count(x)}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def profiles(kind: str) -> pd.DataFrame:
    """What each profile decides for cells of images ("image") or sentences ("text"): a row each.

    Examples
    --------
    >>> profiles("text").loc["players drawn", "smoke"]
    '4'
    """
    names = {
        "n_train": "training samples",
        "n_val": "validation samples",
        "n_test": "test samples",
        "epochs": "epochs",
        "runs": "fine-tuned runs, scratch runs",
        "long_runs": "long scratch runs",
        "long": "epochs of long scratch runs, times those of the others",
        "checkpoints": "checkpoints",
        "traced": "traced runs",
        "samples": "samples for interactions",
        "n": "players drawn",
        "covering": "players that cover the input",
        "n_source": "samples of pre-training, where it is done here",
        "source_epochs": "epochs of pre-training",
    }
    columns = {
        profile: {title: f"{getattr(kinds[kind], name):,}" for name, title in names.items()}
        for profile, kinds in PROFILES.items()
    }
    return pd.DataFrame(columns)


def alike(frame: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """What all rows of a table have in common, in words, and the table of what they do not.

    Examples
    --------
    >>> alike(pd.DataFrame({"epochs": [8, 8], "runs": [2, 3]}))[0]
    'epochs: 8'
    """
    same = [column for column in frame if len(frame) > 1 and frame[column].nunique() == 1]
    words = "; ".join(f"{column}: {frame[column].iloc[0]}" for column in same)
    return words, frame.drop(columns=same)


def claims(frame: pd.DataFrame) -> pd.DataFrame:
    """Claims with what they rest on: a row per claim and cell.

    `frame` as `pi_lib.study.findings.findings` gives it.
    """
    columns = {
        "observed": "paper's share",
        "chance": "chance",
        "second_run": "second run",
        "tested": "tested number",
    }
    shown = pd.DataFrame({name: frame[column].map(said) for column, name in columns.items()})
    shown.insert(0, "cell", frame["cell"])
    shown["p, corrected"] = frame["p"].map(_p)
    shown["verdict"] = frame["verdict"]
    shown["paper's number alone"] = frame["paper"]
    shown = shown.loc[:, shown.ne("").any()]  # a claim about no share has none
    if (frame["claim"] != frame["claim"].iloc[0]).any():
        shown.insert(0, "claim", frame["claim"])
        return shown.set_index(["claim", "cell"]).rename_axis([None, None])
    return shown.set_index("cell").rename_axis(None)


def judged(frame: pd.DataFrame, **columns: str) -> pd.DataFrame:
    """Numbers of cells held against each other, with their verdicts.

    `frame` as a function of `pi_lib.study.comparisons` gives it; `columns` are the headings of
    those of its columns that are shown, such as ``tested="difference"``.
    """
    shown = pd.DataFrame({heading: frame[name].map(said) for name, heading in columns.items()})
    shown["p, corrected"] = frame["p"].map(_p)
    shown["verdict"] = frame["verdict"]
    if "quantity" in frame:
        shown.insert(0, "quantity", quantities(frame))
    if "cell" in frame:
        shown.insert(0, "cell", frame["cell"].map(_name))
    shown = shown.set_index([name for name in ("cell", "quantity") if name in shown])
    return shown.rename_axis([None] * shown.index.nlevels)


def how_often(frame: pd.DataFrame) -> pd.DataFrame:
    """In how many cells each verdict fell: a row for each ``name``, a column for each quantity.

    `frame` has the columns ``name, quantity, verdict``, the quantity in words.

    Examples
    --------
    >>> frame = pd.DataFrame({"name": ["lora"] * 3, "quantity": "accuracy"})
    >>> how_often(frame.assign(verdict=["less", "more", "more"])).loc["lora", "accuracy"]
    'more: 2, less: 1'
    """

    def counts(verdicts: pd.Series) -> str:
        count = verdicts.value_counts()
        words = ("more", "less", "undecided", "not measurable")
        return ", ".join(f"{word}: {count[word]}" for word in words if word in count)

    table = frame.groupby(["name", "quantity"], sort=False)["verdict"].agg(counts).unstack()
    table = table.loc[frame["name"].unique(), frame["quantity"].unique()].fillna("")
    return table.rename_axis(index=None, columns=None)


def quantities(frame: pd.DataFrame) -> list[str]:
    """What each row of a frame with ``quantity, of`` is of, in words."""
    return [QUANTITIES[key] for key in zip(frame["quantity"], frame["of"], strict=True)]


def by_quantity(trends: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Estimate]]:
    """The number of each quantity in several frames of `pi_lib.study.comparisons`, by name."""
    numbers: dict[str, dict[str, Estimate]] = {}
    for name, frame in trends.items():
        for quantity, tested in zip(quantities(frame), frame["tested"], strict=True):
            numbers.setdefault(quantity, {})[name] = tested
    return numbers


def trends(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What `pi_lib.study.comparisons.trends` says of each quantity, in several frames by name."""
    columns = {
        name: {
            quantity: f"{said(row.tested)}, p {_p(row.p) or 'unknown'}: {row.verdict}"
            for quantity, row in zip(quantities(frame), frame.itertuples(), strict=True)
        }
        for name, frame in frames.items()
    }
    return pd.DataFrame(columns).fillna("")


def in_words(frame: pd.DataFrame) -> str:
    """What is behind each verdict, in the order in which they come.

    Examples
    --------
    >>> frame = pd.DataFrame({"cell": ["a", "b", "c"], "verdict": ["helps", "undecided", "helps"]})
    >>> in_words(frame)
    '**helps** (a, c); **undecided** (b)'
    >>> in_words(frame[["cell"]].assign(verdict="undecided"))
    '**undecided** (all 3)'
    """
    names = map(_name, frame["cell"]) if "cell" in frame else quantities(frame)
    behind: dict[str, list[str]] = {}
    for name, verdict in zip(names, frame["verdict"], strict=True):
        behind.setdefault(verdict, []).append(name)
    if len(behind) == 1 and len(frame) > 2:
        return f"**{next(iter(behind))}** (all {len(frame)})"
    return "; ".join(f"**{verdict}** ({', '.join(names)})" for verdict, names in behind.items())


def predicate(verdict: str) -> str:
    """A verdict as a sentence says it of its subject: "helps", but "is undecided"."""
    return verdict if verdict in ("helps", "hurts", "rises", "falls") else f"is {verdict}"


def trend(verdict: str) -> str:
    """A verdict on a trend as a sentence says it of what may rise or fall.

    Examples
    --------
    >>> trend("rises"), trend("undecided")
    ('rises', 'cannot be said to rise or fall')
    """
    return "cannot be said to rise or fall" if verdict == "undecided" else predicate(verdict)


def in_counts(frame: pd.DataFrame) -> str:
    """How often each verdict fell, as a caption says it: `VERDICTS` last, in their order.

    Examples
    --------
    >>> in_counts(pd.DataFrame({"verdict": ["undecided", "helps", "helps"]}))
    'helps in 2, is undecided in 1 of 3'
    """
    count = frame["verdict"].value_counts(sort=False)
    rank = {word: k for k, word in enumerate(VERDICTS)}
    found = sorted(count.items(), key=lambda pair: rank.get(pair[0], -1))
    words = ", ".join(f"{predicate(word)} in {times}" for word, times in found)
    return f"{words} of {len(frame)}" if words else "is not measured"


def counts(frame: pd.DataFrame) -> pd.DataFrame:
    """How often each verdict fell on each claim, and how often the paper's number confirms it."""
    by_claim = frame.groupby("claim", sort=False)
    table = by_claim["verdict"].value_counts().unstack(fill_value=0)
    table = table.reindex(columns=VERDICTS, fill_value=0).loc[frame["claim"].unique()]
    alone = by_claim["paper"].agg(
        lambda word: (
            f"{(word == 'confirmed').sum()} of {(word != '').sum()}" if (word != "").any() else ""
        )
    )
    return table.assign(**{"confirmed by the paper's number alone": alone}).rename_axis(
        index=None, columns=None
    )


def estimates(frame: pd.DataFrame, index: str, columns: str) -> pd.DataFrame:
    """Numbers with their intervals, by two columns of a frame with ``value, low, high``."""
    shown = [
        said(Estimate(value, low, high))
        for value, low, high in zip(frame["value"], frame["low"], frame["high"], strict=True)
    ]
    table = frame.assign(shown=shown).pivot(index=index, columns=columns, values="shown")
    table = table.loc[frame[index].unique(), frame[columns].unique()]
    return table.rename(columns=PARTS).rename_axis(index=None, columns=None)


def rates(records: Mapping[str, Record]) -> pd.DataFrame:
    """Learning rates: those tried with their validation accuracy, and the one that was taken."""
    rows = {}
    for record in records.values():
        for arm in ("finetuned", "scratch"):
            rate = record.header["rates"][arm]
            tried = sorted((float(x), at["accuracy"]) for x, at in rate["tried"].items())
            rows[record.title, ARMS[arm]] = {
                "taken": plain(rate["chosen"]),
                "rate: accuracy on the validation set": (
                    ", ".join(f"{plain(x)}: {accuracy:.2f}" for x, accuracy in tried)
                    or "set beforehand"
                ),
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def plain(number: float) -> str:
    """A rate as people write it, without an exponent.

    Examples
    --------
    >>> plain(3e-05), plain(0.001)
    ('0.00003', '0.001')
    """
    return np.format_float_positional(number, trim="-")


def provenance(records: Mapping[str, Record]) -> pd.DataFrame:
    """When, on what, with which code and in how long each cell was computed."""
    rows = {}
    for record in records.values():
        steps = record.header["provenance"].values()
        rows[record.title] = {
            "computed until": max(step["finished"] for step in steps)[:10],
            "on": ", ".join(sorted({step["device"] for step in steps})),
            "minutes of one core or card": f"{sum(step['seconds'] for step in steps) / 60:.0f}",
            "torch": ", ".join(sorted({step["versions"]["torch"] for step in steps})),
            "commit": ", ".join(sorted({(step["commit"] or "")[:7] for step in steps})),
            "note": record.header.get("made", ""),
        }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return frame.loc[:, frame.ne("").any()]


def pretraining(records: Mapping[str, Record]) -> pd.DataFrame:
    """What each network was pre-trained on, at most how much, and how well: a row a record.

    Contrastive pre-training sees no labels, and so has no accuracy.
    """
    rows = {}
    for name, record in records.items():
        header, s = record.header, record.header["settings"]
        rows[name] = {"network": TITLES.get(header["backbone"], header["backbone"])}
        if header["source"] is None:
            rows[name] |= {"data": "published weights"}
            continue
        names = header["pretraining"] != "contrastive"
        rows[name] |= {
            "data": title_of(header["source"]),
            "kind": header["pretraining"],
            "samples, at most": f"{s['n_source']:,}",
            "epochs": str(s["source_epochs"]),
            "test accuracy": f"{header['pretrain_accuracy']:.2f}" if names else "no labels",
        }
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def overview(runs: Mapping[str, Runs]) -> pd.DataFrame:
    """Accuracies, gain and reliability of each cell: a row each."""
    rows = {}
    for name, cell in runs.items():
        there = [arm for arm in ARMS if arm in cell.arms]
        repeated = [arm for arm in there if len(cell.arms[arm]) > 1]
        rows[name] = (
            {f"accuracy, {ARMS[arm]}": cell.record.accuracy(arm) for arm in there}
            | {"gain over scratch": cell.record.gain()}
            | {f"reliability, {ARMS[arm]}": cell.moments().reliability(arm) for arm in repeated}
        )
    frame = pd.DataFrame.from_dict(rows, orient="index").map(said)
    order = [f"{of}, {name}" for of in ("accuracy", "reliability") for name in ARMS.values()]
    order.insert(len(ARMS), "gain over scratch")
    return frame[[column for column in order if column in frame]]


def effects(lines: Sequence[Advice]) -> pd.DataFrame:
    """What each line of advice rests on: a row per claim and cell."""
    rows = [
        {"claim": f"{number}. {claim.text}", "cell": row.cell, "effect": said(row.tested),
         "p, corrected": _p(row.p), "verdict": row.verdict}
        for number, line in enumerate(lines, 1)
        for claim in line.claims
        for row in claim.frame.itertuples()
    ]  # fmt: skip
    return pd.DataFrame(rows).set_index(["claim", "cell"])


def _p(p: float) -> str:
    return "" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.2g}"


def guessing(records: Iterable[Record]) -> str:
    """A sentence: the accuracy of guessing a class, in each task whose data are at hand."""
    rates = {}
    for task in dict.fromkeys(x.header["task"] for x in records if "task" in x.header):
        with suppress(assets.MissingAsset):
            rates[title_of(task)] = f"{1 / len(data.classes(task)):.2f}"
    alike = len({*rates.values()}) == 1
    shown = [*rates.values()][:1] if alike else [f"{x} ({task})" for task, x in rates.items()]
    return f"Guessing would get an accuracy of {', '.join(shown)}." if rates else ""


def said(number: Estimate | None) -> str:
    """A number as tables have it: nothing for none, and no break within an interval.

    Where one of its ends is 10 or more, two digits of each are enough.

    Examples
    --------
    >>> [said(Estimate(*x)) for x in ((0.5, 0.25, 0.75), (6.17, -45.21, 522.23))]
    ['0.50 [0.25,\\xa00.75]', '6.2 [-45,\\xa0522]']
    >>> said(Estimate(15, np.nan, np.nan))
    '15.00 (no interval)'
    """
    if number is None or number is pd.NA or isinstance(number, float):
        return ""
    ends = (number.value, number.low, number.high)
    if number.measurable and not np.isnan(number.low) and max(map(abs, ends)) >= 10:
        digits = (0 if abs(x) >= 9.95 else 1 if abs(x) >= 0.995 else 2 for x in ends)
        words = "{} [{}, {}]".format(*(f"{x:z.{k}f}" for x, k in zip(ends, digits, strict=True)))
    else:
        words = str(number)
    return words.replace(", ", ",\N{NO-BREAK SPACE}")


def _name(cell) -> str:
    """A cell's name; of numbers, as people write them."""
    return f"{cell:,}" if isinstance(cell, Integral) else str(cell)


def spans(numbers: Iterable[float], form: str = ".0%") -> str:
    """The least and the largest of some numbers in words.

    Examples
    --------
    >>> spans([0.25, 0.5, 0.3])
    '25 % to 50 %'
    """
    numbers = list(numbers)
    least, most = (f"{x:{form}}".replace("%", " %") for x in (min(numbers), max(numbers)))
    return least if least == most else f"{least} to {most}"

"""Verdicts on made-up tables in which the truth is planted."""

import numpy as np
import pandas as pd
import pytest

from pi_lib.book import figures
from pi_lib.statistics import Estimate, difference
from pi_lib.study import single_runs


def made(preserved=0.2, slope=0.0, learned=0.2, speed=0.1, task="flowers", seeds=3, samples=8):
    """A cell: share preserved at order 1 and its change per order, and the other quantities."""
    rng = np.random.default_rng([seeds, samples, len(task)])
    rows = []

    def row(seed, quantity, above, below, **more):
        rows.append(
            {"seed": seed, "quantity": quantity, "numerator": above, "denominator": below} | more
        )

    for seed in range(seeds):
        for sample in range(samples):
            for order in (1, 2, 3):
                strength = 1 + 0.1 * rng.random()
                kept = strength * np.clip(preserved + slope * order + 0.01 * rng.random(), 0, 1)
                at = {"order": order, "sample": sample}
                row(seed, "preserved", kept, strength, **at)
                row(seed, "new", 1 + order / 10, 1 + order / 10 + kept, **at)
                row(seed, "learned by scratch", learned * kept, kept, **at)
                row(seed, "only scratch", 0.5, 1, **at)
            for phase, extra in (("finetuned", speed), ("scratch", 0)):
                row(seed, "salient error", 0.01, 1, phase=phase, sample=sample)
                for step, j in ((0, 0.1), (5, 0.5 + extra + 0.02 * rng.random()), (10, 1.0)):
                    row(seed, "similarity to own end", j, 1, phase=phase, sample=sample, step=step)
        for phase, correct in (("probe", 60), ("finetuned", 90), ("scratch", 50)):
            row(seed, "accuracy", correct, 100, phase=phase, sample=-1, progress=1)
    table = pd.DataFrame(rows).fillna({"phase": "", "order": 0, "step": -1, "progress": -1})
    return table.assign(backbone="net", source="published", task=task, changes="")


def verdicts(table):
    found = single_runs.findings(table)
    return dict(zip(found["claim"], found["verdict"], strict=True))


def test_what_is_planted_is_found():
    claims = [claim.name for claim in single_runs.CLAIMS]
    small, complex_out, much_new, new_complex, hard, faster, direct = claims
    agrees = verdicts(made(preserved=0.5, slope=-0.1, learned=0.2, speed=0.1))
    assert [agrees[c] for c in (small, complex_out, much_new, hard, faster)] == ["confirmed"] * 5
    against = verdicts(made(preserved=0.6, slope=0.1, learned=0.9, speed=-0.2))
    assert [against[c] for c in (small, complex_out, hard, faster)] == ["contradicted"] * 4
    assert agrees[direct] == "undecided"  # both monotone: no difference


def test_numbers_by_hand():
    table = made()
    rows = table[table["quantity"] == "preserved"]
    expected = rows["numerator"].sum() / rows["denominator"].sum()
    assert single_runs.share(table, "preserved").value == pytest.approx(expected)
    assert single_runs.share(table, "learned by scratch").value == pytest.approx(0.2)
    assert single_runs.accuracy(table, "finetuned").value == pytest.approx(0.9)
    gain = single_runs.gain(table)
    assert gain.value == pytest.approx(0.4)
    assert gain == difference(270, 300, 150, 300)
    found = single_runs.findings(table).iloc[0]
    assert found["seeds"] == 3 and found["samples"] == 24 and found["least"] <= found["value"]
    with pytest.raises(ValueError, match="no rows of 'speed'"):
        single_runs.share(table, "speed")


def test_a_verdict_is_where_the_whole_interval_lies():
    claim = single_runs.CLAIMS[0]
    assert claim.verdict(Estimate(0.6, 0.51, 0.7)) == "contradicted"
    assert claim.verdict(Estimate(np.nan, np.nan, np.nan)) == "undecided"


def test_too_few_cells_for_a_correlation_are_undecided():
    few = pd.concat([made(task=f"t{i}") for i in range(4)], ignore_index=True)
    assert (single_runs.correlations(few)["verdict"] == "undecided").all()
    assert single_runs.correlations(few)["rho"].isna().all()
    many = pd.concat(
        [made(preserved=0.1 * i, task=f"t{i}") for i in range(1, 8)], ignore_index=True
    )
    many.loc[many["quantity"].eq("accuracy") & many["phase"].eq("finetuned"), "numerator"] = (
        many["task"].str[1:].astype(int) * 10
    )
    found = single_runs.correlations(many).iloc[0]
    assert found["rho"] == pytest.approx(1) and found["verdict"] == "positive"


def test_figures_of_the_chapter():
    table = pd.concat([made(task=f"t{i}") for i in range(2)], ignore_index=True)
    figure = figures.findings(single_runs.findings(table))
    shown = [axis.get_title("left").replace("\n", " ") for axis in figure.axes]
    assert [name for name in shown if name] == [claim.name for claim in single_runs.CLAIMS]
    figure = figures.over_cells(single_runs.summary(table), "preserved", ["gain over scratch"])
    assert figure.axes[0].get_xlabel() == "preserved share"
    assert len(figure.axes[0].containers) == 2  # a mark with whiskers for each cell
    before, after, learned = figures.kept(table).axes
    assert before.get_xlim() == after.get_xlim() == learned.get_xlim() == (0, 1)
    shown = [text.get_text() for text in before.get_yticklabels()]
    assert shown == [name for name, _ in single_runs.cells(table)]
    whole = [
        bar.get_width() + rest.get_width() for bar, rest in zip(*before.containers[:2], strict=True)
    ]
    assert whole == pytest.approx([1, 1])  # preserved and discarded are all

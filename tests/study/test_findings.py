"""Verdicts on records in which the truth is planted, and on those of the book."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted_records import over_time, planted

from pi_lib import study
from pi_lib.book import tables
from pi_lib.reliability import approach
from pi_lib.statistics import Difference, Estimate
from pi_lib.study import comparisons, findings

RECORDS = Path(__file__).parents[2] / "notebooks" / "recorded" / "paper"


def verdicts(record):
    frame = findings.findings({"planted": findings.Runs(record)})
    return dict(zip(frame["claim"], frame["verdict"], strict=True))


CLAIMS = [claim.name for claim in findings.CLAIMS]


def test_what_is_planted_is_found():
    small, complex_out, new, new_complex, *_, faster, direct = CLAIMS
    agrees = verdicts(planted(kept=0.5, high=0.02, learned=0.1))
    assert [agrees[c] for c in (small, complex_out, new, new_complex)] == ["confirmed"] * 4
    against = verdicts(planted(kept=0.9, learned=0.05))
    assert [against[c] for c in (small, new)] == ["contradicted"] * 2
    reverse = verdicts(planted(kept=0.02, high=0.6, learned=0.1))
    assert [reverse[c] for c in (complex_out, new_complex)] == ["contradicted"] * 2
    assert agrees[faster] == agrees[direct] == "not measurable"  # there are no checkpoints


def test_fast_and_direct_ways_are_found_and_so_are_slow_ones():
    straight, detour = [(0, 0), (0.5, 0), (0.9, 0)], [(0, 0), (0, 2), (0.1, 2)]
    faster, direct = CLAIMS[-2:]
    for ways, said in (((straight, detour), "confirmed"), ((detour, straight), "contradicted")):
        ways = dict(zip(("finetuned", "scratch"), ways, strict=True))
        found = verdicts(over_time(planted(), ways))
        assert found[faster] == found[direct] == said
    alike = verdicts(over_time(planted(), dict.fromkeys(ways, detour)))
    assert alike[faster] == alike[direct] == "undecided"


def test_the_approach_is_a_mean_over_all_runs_with_checkpoints():
    record = over_time(planted(noise=1), {"finetuned": [(0, 1), (0.4, 0.5)]}, noise=1)
    mean = findings.Runs(record).approach("finetuned")
    ends = record.runs("finetuned")
    each = []
    for run, end in enumerate(ends, 1):
        way = record.over_time("finetuned", run)
        others = [other for other in ends if other is not end]
        each.append(approach([*way.values()], others, [*way]))
    curves = [[at.value for at in one.similarity] for one in each]
    found = [at.value for at in mean.similarity]
    assert np.ptp(curves, 0)[0] > 0.02 and found == pytest.approx(np.mean(curves, 0))
    wide = max(one.similarity[0].high - one.similarity[0].low for one in each)
    assert mean.similarity[0].high - mean.similarity[0].low < wide
    one = over_time(planted(noise=1), {"finetuned": [(0, 1), (0.4, 0.5)]}, noise=1, runs=1)
    alone = findings.Runs(one).approach("finetuned")
    assert [at.value for at in alone.similarity] == pytest.approx(curves[0])
    assert "replicates" in alone.directness.note


def test_origins_are_those_that_were_planted():
    parts = findings.Runs(planted(kept=0.3, learned=0.2)).origins()
    assert parts.pretraining.value == pytest.approx(0.3, abs=0.08)
    assert parts.scratch.value == pytest.approx(0.2, abs=0.08)
    assert parts.neither.value == pytest.approx(0.5, abs=0.1)


def test_noise_is_not_measurable():
    """Runs that share nothing: no verdict rests on them, whatever the paper's number says."""
    record = planted(noise=30)
    frame = findings.findings({"planted": findings.Runs(record)}).set_index("claim")
    assert frame.loc[CLAIMS[0], "verdict"] == "not measurable"
    assert frame.loc[CLAIMS[0], "paper"] == "confirmed"  # chance confirms it
    assert "cannot be told from 0" in frame.loc[CLAIMS[0], "note"]
    assert not findings.Runs(record).origins().measurable


def test_a_share_stands_beside_chance_and_a_second_run():
    frame = findings.findings({"planted": findings.Runs(planted())}).set_index("claim")
    row = frame.loc["only a small part is preserved"]
    assert row["chance"].value < row["observed"].value < row["second_run"].value
    shown = tables.claims(frame.reset_index())
    assert shown["chance"].iloc[0].split() == str(row["chance"]).split()


def test_verdicts_are_corrected_for_the_number_of_cells():
    barely = Estimate(0.1, 0.01, 0.2)
    assert findings.verdict(barely, p=0.04) == "confirmed"
    assert findings.verdict(barely, p=0.06) == "undecided"
    assert findings.verdict(Estimate(-0.1, -0.2, -0.01), p=0.001) == "contradicted"
    assert findings.verdict(Estimate(0.1, np.nan, np.nan)) == "not measurable"
    runs = {str(k): findings.Runs(planted(kept=0.42, noise=1.5, seed=k)) for k in range(4)}
    alone = [findings.findings({name: one}).iloc[0]["p"] for name, one in runs.items()]
    together = findings.findings(runs).groupby("claim", sort=False)["p"].apply(list).iloc[0]
    assert np.all(np.array(together) >= np.array(alone)) and max(together) > max(alone) * 0.99


def test_two_chances_to_contradict_count_twice():
    """A claim about scratch and long scratch holds if both differences do, and fails with one."""
    below, above = Difference(-0.1, -0.2, -0.01, p=0.04), Difference(0.3, 0.1, 0.5, p=0.01)
    assert findings._least([below, above]).p == 0.08 and findings._least([below]).p == 0.04
    assert findings._least([above, replace(above, low=0.05, p=0.02)]).p == 0.02
    assert np.isnan(findings._least([Difference.unmeasurable("nothing")]).p)


def test_one_run_where_two_are_needed_is_named():
    with pytest.raises(ValueError, match="finetuned: got 1 run"):
        findings.Runs(planted(runs=1)).moments()


def test_the_books_records_say_what_the_pages_say():
    """Every number of recorded cells; a claim has all its columns in every cell."""
    records = dict(list(study.read_all(RECORDS).items())[:3])
    runs = {record.title: findings.Runs(record) for record in records.values()}
    frame = findings.findings(runs)
    assert len(frame) == len(CLAIMS) * len(records) and set(frame["verdict"]) <= {
        *findings.VERDICTS
    }
    origins = findings.origins_table(runs)
    total = origins.groupby("cell")["value"].sum(min_count=1)  # NaN: not measurable
    assert total.dropna().to_numpy() == pytest.approx(1)
    assert tables.counts(frame)[list(findings.VERDICTS)].to_numpy().sum() == len(frame)
    for record in records.values():
        assert record.gain().low <= record.gain().value <= record.gain().high
        assert "→" in record.title


def test_a_share_that_may_be_anything_is_not_known():
    """A single order of which hardly anything comes back does not decide a claim."""
    spread = np.linspace(0, 1, 201)
    assert findings.is_known(np.append(0.3, 0.3 + 0.9 * spread), "")
    assert not findings.is_known(np.append(-0.7, -9 * spread), "")
    assert not findings.is_known(np.append(0.3, [np.inf, -np.inf, 0.3]), "")
    assert not findings.is_known(np.array([0.3, 0.3, 0.3]), "nothing comes back")
    assert findings.is_known(np.array([0.3]), "")  # too few samples for resamples


def test_the_records_hold_what_the_readme_says():
    """In the words of its list: in most pairs, or in all where it says no more."""
    folder = RECORDS.parent
    records = study.read_all(RECORDS)
    runs = [findings.Runs(record) for record in records.values()]
    explained = [x.explained for x in (one.origins() for one in runs) if x.measurable]
    assert np.mean(np.array(explained) < 0.5) > 0.5
    assert np.mean([record.gain().low > 0 for record in records.values()]) > 0.5
    assert not all(findings.Runs(r).preserved.second_run.value > 0.9 for r in records.values())
    several = [
        study.read_all(folder / "pretraining_again"),
        records,
        study.read_all(folder / "again"),
    ]
    cells = comparisons.by_pretraining([record for x in several for record in x.values()])
    assert len(cells) > 3
    for several in cells.values():
        common = comparisons.Pretrainings(several)
        assert common.comes_back()["difference"].compared_with(0) == "above"
        assert common.origins().explained > several[0].origins().explained
    both = (
        {name: x[0] for name, x in cells.items()},
        {name: comparisons.Pretrainings(x) for name, x in cells.items()},
    )
    small, hard = (
        [(findings.tested(one, [claim])["verdict"] == "confirmed").mean() for one in both]
        for claim in (findings.CLAIMS[0], findings.CLAIMS[4])
    )
    assert small[0] > 0.5 > small[1] and small[1] < 0.25 and hard[1] > 0.5
    over_time = study.read_all(folder / "over_time")
    by_rates = comparisons.by_rates(over_time.values())
    assert [*by_rates] == [*comparisons.AT_RATES.values()]
    for words, cells in by_rates.items():
        faster = findings.findings(cells, findings.CLAIMS[6:7])["verdict"]
        assert ("confirmed" in set(faster)) == (words == comparisons.AT_RATES[None])
        assert len(faster) > 1

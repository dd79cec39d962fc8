"""Cells held against each other: what is planted is found, and what is not is undecided."""

import numpy as np
import pytest
from planted_records import SAMPLES, N, game, planted

from pi_lib import study
from pi_lib.book import tables
from pi_lib.knowledge import hard_to_learn
from pi_lib.study import comparisons, findings
from pi_lib.transforms import walsh_transform

TESTED = 200
ARMS = ("probe", "finetuned", "scratch")


def cell(kept=0.3, right=0.6, scratch=0.5, seed=0, **more) -> findings.Runs:
    """Runs of which a share of the test samples is right, and `kept` comes from the probe."""
    record = planted(kept=kept, seed=seed, **more)
    shares = {"probe": 0.5, "finetuned": right, "scratch": scratch}
    correct = {
        key: np.arange(TESTED) < shares[key[:-1]] * TESTED for key in record.header["accuracy"]
    }
    header = record.header | {"tested": TESTED}
    return findings.Runs(study.Record(header, record.games, correct))


def verdicts(frame):
    keys = zip(frame["quantity"], frame["of"], strict=True)
    return dict(zip(keys, frame["verdict"], strict=True))


@pytest.fixture(scope="module")
def cells():
    """Six cells in which ever more is kept, at the cost of what neither explains."""
    shares = (0.05, 0.15, 0.3, 0.45, 0.6, 0.75)
    return {k: cell(kept, 0.5 + 0.4 * kept, seed=k) for k, kept in enumerate(shares)}


def test_quantities_are_those_of_each_cell(cells):
    frame = comparisons.quantities(cells)
    at = frame.set_index(["cell", "quantity", "of"])
    for name, runs in cells.items():
        assert at.loc[name, "gain", "scratch"]["value"] == runs.record.gain().value
        assert at.loc[name, "accuracy", "probe"]["value"] == runs.record.accuracy("probe").value
        similarity = runs.moments().similarity("scratch", "finetuned")
        assert tuple(at.loc[name, "similarity", "scratch"][["value", "low", "high"]]) == (
            similarity.value, similarity.low, similarity.high,
        )  # fmt: skip
        for part, share in vars(runs.origins()).items():
            assert at.loc[name, "origins", part]["value"] == share.value
    assert list(comparisons.quantities({})) == list(frame)  # a page without records


def test_what_goes_with_a_number_is_found(cells):
    frame = comparisons.quantities(cells)
    trends = comparisons.trends(frame, {name: 10 * name for name in cells})
    found = verdicts(trends)
    assert found["origins", "pretraining"] == found["similarity", "probe"] == "rises"
    assert found["gain", "scratch"] == "rises" and found["origins", "neither"] == "falls"
    assert found["similarity", "scratch"] == found["accuracy", "probe"] == "undecided"
    row = trends.set_index(["quantity", "of"]).loc["gain", "scratch"]
    assert row["first"].value == cells[0].record.gain().value and row["cells"] == 6
    alone = comparisons.trends(frame[frame["quantity"] == "gain"], {name: name for name in cells})
    assert alone["p"].iloc[0] < row["p"]  # corrected for the number of quantities
    reverse = comparisons.trends(frame, {name: -name for name in cells})
    assert verdicts(reverse)["origins", "pretraining"] == "falls"


def test_what_is_not_measurable_is_no_trend(cells):
    frame = comparisons.quantities(cells | {0: cell(noise=30), 1: cell(noise=30, seed=1)})
    trends = comparisons.trends(frame, {name: name for name in cells})
    found = verdicts(trends)
    assert found["origins", "both"] == found["similarity", "probe"] == "not measurable"
    counts = trends.set_index(["quantity", "of"])["cells"]
    assert counts["origins", "both"] == 4 and counts["gain", "scratch"] == 6
    few = comparisons.trends(frame[frame["cell"] > 1], {name: name for name in cells})
    assert set(few["verdict"]) == {"not measurable"}
    assert comparisons.trends(frame[:0], {}).empty


def test_a_difference_is_paired_by_sample(cells):
    first, second = cells[4], cells[1]
    found = comparisons.contrasts({"other": (first, second), "same": (first, first)})
    at = found.set_index(["cell", "quantity", "of"])
    assert at.loc[("other", "origins", "pretraining"), "verdict"] == "more"
    assert at.loc[("other", "origins", "neither"), "verdict"] == "less"
    same = at.loc["same"]
    assert set(same["verdict"]) == {"undecided"}
    assert all(x.value == 0 for x in same["tested"])
    gap = at.loc[("other", "origins", "pretraining"), "tested"]
    parts = [runs.origins().pretraining.value for runs in (first, second)]
    assert gap.value == pytest.approx(parts[0] - parts[1])
    one = comparisons.contrasts({"other": (first, second)}).set_index(["quantity", "of"])
    assert at.loc[("other", "origins", "neither"), "p"] == pytest.approx(
        2 * one.loc[("origins", "neither"), "p"]
    )  # corrected for the number of comparisons
    noise = comparisons.contrasts({"noise": (first, cell(noise=30))})
    assert verdicts(noise)["origins", "both"] == "not measurable"
    assert comparisons.contrasts({}).empty


def test_other_samples_are_refused(cells):
    record = cells[0].record
    other = study.Record(record.header | {"ids": record.header["ids"][::-1]}, record.games)
    with pytest.raises(ValueError, match="pair: the two cells were asked about other samples"):
        comparisons.contrasts({"pair": (cells[0], findings.Runs(other))})
    with pytest.raises(ValueError, match="one does not say which test samples were right"):
        record.gain_over(study.Record(record.header, record.games))


def test_pre_training_helps_or_hurts():
    frame = comparisons.gains(
        {"a": cell(right=0.8), "b": cell(right=0.5), "c": cell(right=0.2), "d": cell(right=0.8)}
    )
    assert list(frame["verdict"]) == ["helps", "undecided", "hurts", "helps"]
    assert tables.in_words(frame) == "**helps** (a, d); **undecided** (b); **hurts** (c)"
    shown = tables.judged(frame, tested="gain")
    assert list(shown) == ["gain", "p, corrected", "verdict"] and list(shown.index) == [*"abcd"]
    assert comparisons.gains({}).empty and tables.in_words(comparisons.gains({})) == ""


def test_tables_name_what_they_show(cells):
    frame = comparisons.quantities({1000 * name: one for name, one in cells.items()})
    trends = comparisons.trends(frame, {1000 * name: name for name in cells})
    shown = tables.judged(trends, tested="rank correlation", last="most")
    assert shown.index[-1] == "share from neither"
    assert shown["most"].iloc[-1].split() == str(cells[5].origins().neither).split()
    pair = comparisons.contrasts({2000: (cells[4], cells[1])})
    assert tables.judged(pair, tested="difference").index[0] == (
        "2,000",
        "accuracy of fine-tuned runs",
    )


def test_what_networks_are_good_for_elsewhere():
    right = {"probe": 0.5, "finetuned": 0.7, "scratch": 0.4}
    records = {
        k: planted(seed=k, accuracy=right, elsewhere={"noise": 0.3 + 0.1 * k, "source": 0.6})
        for k in range(6)
    }
    runs = {k: findings.Runs(record) for k, record in records.items()}
    frame = comparisons.elsewhere(runs)
    at = frame.set_index(["cell", "quantity", "of"])["value"]
    assert at[2, "noise", "finetuned"] == records[2].accuracy("finetuned", on="noise").value
    assert at[2, "foreign", "finetuned"] == pytest.approx(0.7)
    assert at[2, "reliability", "finetuned"] == runs[2].moments().reliability("finetuned").value
    told = comparisons.trends(frame[frame["of"] == "finetuned"], {k: k for k in runs})
    assert verdicts(told)["noise", "finetuned"] == "rises"
    assert verdicts(told)["source", "finetuned"] == "undecided"
    fixed = comparisons.trends(frame, {k: k for k in runs}, {k: k for k in runs})
    assert set(fixed["verdict"]) == {"undecided"}  # nothing is left of what is held fixed
    plain = comparisons.elsewhere({0: cell()})  # was tested nowhere else
    assert list(plain["quantity"]) == ["reliability"]
    shown = tables.trends({"with the number": told})
    assert shown.loc["accuracy with noise", "with the number"].endswith("rises")
    assert tables.by_quantity({"a": told})["accuracy on the old task"]["a"].compared_with(0)


def test_records_are_told_apart_by_their_way_to_fine_tune():
    """All layers first; learning rates are lower or higher than its own."""
    rates = [{"rate": rate} for rate in (3e-3, 1e-3, 1e-4, 3e-4)]  # the second is what is chosen
    ways = [{"lora": 8}, *rates, {}, {"frozen": 0.5}]
    records = [planted(changes=way | {"n_train": 100}) for way in ways]
    rates = [{"lora": 8, "rate": rate} for rate in (1e-3, 3e-3)]
    records += [
        planted(task="flowers", changes=way | {"elsewhere": 1}) for way in [{"rate": 1e-4}, *rates]
    ]
    found = comparisons.by_way(records)
    first, second = found.values()
    assert list(first) == [
        "all layers", "a lower learning rate", "learning rate 0.0003", "a higher learning rate",
        "50 % of the layers frozen", "LoRA of rank 8",
    ]  # fmt: skip
    assert first["all layers"] is records[5] and first["a higher learning rate"] is records[1]
    assert list(second)[:2] == ["learning rate 0.0001", "LoRA of rank 8"]
    assert len(second) == 3  # the same way at another rate says so
    assert [cell.endswith("100 labels") for cell in found] == [True, False]


def test_cells_are_told_apart_by_the_learning_rates_of_both_arms():
    """Named for one arm, a rate is that of both only if the other arm has it too."""
    plain, same, unlike = planted(), planted(changes={"rate": 1e-3}), planted(changes={"rate": 0.1})
    unlike.header["rates"]["scratch"]["chosen"] = 1e-3
    twice = planted(task="flowers", changes={"rate": 1e-3, "scratch_rate": 1e-3})
    found = comparisons.by_rates([plain, same, unlike, twice])
    own, scratch, differ = found
    assert (own, scratch) == tuple(comparisons.AT_RATES.values())[:2]
    assert [r.record for group in found.values() for r in group.values()] == [
        plain, same, unlike, twice,
    ]  # fmt: skip
    assert differ == comparisons.OTHER_RATES


def test_ways_are_held_against_each_other_elsewhere_too():
    plain = planted(elsewhere={"noise": 0.5, "source": 0.4}, accuracy=dict.fromkeys(ARMS, 0.6))
    lora = planted(elsewhere={"noise": 0.5, "source": 0.7}, accuracy=dict.fromkeys(ARMS, 0.6))
    frame = comparisons.contrasts({"lora": (findings.Runs(lora), findings.Runs(plain))})
    found = verdicts(frame)
    assert found["source", "finetuned"] == "more" and found["noise", "finetuned"] == "undecided"
    table = tables.how_often(frame.assign(name="lora", quantity=tables.quantities(frame)))
    assert table.loc["lora", "accuracy on the old task"] == "more: 1"


def pretrained_again(
    pretrainings: int, seed=0, heads=1, old=0.4, own=0.6, kept=1 / 3, high_only=False
) -> list[findings.Runs]:
    """Cells under several pre-trainings, of which a part of what is known is common to all.

    `old` is what all probes know and fine-tuning keeps three quarters of; `own` what no other
    pre-training knows, and fine-tuning has `kept` of; if `high_only`, in orders above 1.
    """
    rng = np.random.default_rng([seed, 7])
    base = planted(seed=seed)
    order = np.array([bin(s).count("1") for s in range(2**N)])

    def known(power):
        return np.sqrt(power) * rng.normal(size=(SAMPLES, 2**N))

    common, new, elsewhere = known(old), known(0.3), known(0.2)  # the last in scratch runs too
    scratch = {f"covering/scratch{r}": game(elsewhere + known(0.1)) for r in (1, 2, 3)}
    cells = []
    for _ in range(pretrainings):
        chance = known(own) * ((order > 1) | (not high_only))
        fine = np.sqrt(3 / 4) * common + new + elsewhere + np.sqrt(kept) * chance
        games = {f"covering/finetuned{r}": game(fine + known(0.3)) for r in (1, 2, 3)}
        noise = 0.5 * (heads > 1)  # of heads that are trained
        games |= {
            f"covering/probe{h + 1}": game(common + chance + known(noise)) for h in range(heads)
        }
        games |= scratch
        cells.append(findings.Runs(study.Record(base.header, games)))
    return cells


def test_what_comes_back_under_another_pretraining_is_found():
    found = comparisons.Pretrainings(pretrained_again(3))
    comes_back, origins = found.comes_back(), found.origins()
    for found, expected in (
        (comes_back["probe"], 0.4), (comes_back["finetuned"], 0.8), (comes_back["difference"], 0.4),
        (origins.pretraining, 3 / 8), (origins.scratch, 2 / 8), (origins.neither, 3 / 8),
    ):  # fmt: skip
        assert found.value == pytest.approx(expected, abs=0.1)
        assert found.low - 0.02 < expected < found.high + 0.02
    trained = comparisons.Pretrainings(pretrained_again(3, heads=2)).comes_back()
    assert trained["probe"].value == pytest.approx(0.4, abs=0.1)  # the noise of heads is left out
    unlike = pretrained_again(1) + pretrained_again(1, seed=2)
    found = comparisons.Pretrainings(unlike)
    origins = found.origins()
    assert found.comes_back()["probe"].compared_with(0) == "undecided" and not origins.measurable
    assert "probe: what two runs share cannot be told from 0" in origins.note
    with pytest.raises(ValueError, match="got 1 pre-training"):
        comparisons.Pretrainings(pretrained_again(1))


ENDS = [claim for claim in findings.CLAIMS if not claim.over_time]


def claims_of(several) -> dict[str, tuple[str, str]]:
    """The verdict on each claim of one pre-training, and of all together."""
    frames = [
        findings.tested({"cell": cell}, ENDS)
        for cell in (several[0], comparisons.Pretrainings(several))
    ]
    return {
        claim: tuple(frame.set_index("claim")["verdict"][claim] for frame in frames)
        for claim in frames[0]["claim"]
    }


def test_chance_of_a_pretraining_is_no_discarded_knowledge():
    """One probe knows much that no other pre-training knows; a claim of all sees through it."""
    found = claims_of(pretrained_again(3, old=1.2, own=2.4, kept=0))
    for claim in ("only a small part is preserved", "much is learned anew"):
        assert found[claim] == ("confirmed", "contradicted")
    found = claims_of(pretrained_again(3, old=1.2, own=2.4, kept=0, high_only=True))
    assert found["complex knowledge is discarded most"] == ("confirmed", "undecided")
    # no other pre-training brings back what was kept: it was not hard to learn, but chance
    found = claims_of(pretrained_again(3, old=0, own=2, kept=1))
    assert found["what is preserved is hard to learn from scratch"] == ("confirmed", "undecided")
    found = claims_of(pretrained_again(3, old=2, own=0.1))
    assert found["what is preserved is hard to learn from scratch"] == ("confirmed", "confirmed")
    # what every pre-training has little of stays little
    small = claims_of(pretrained_again(3, old=0.1, own=0.1))
    assert small["only a small part is preserved"] == ("confirmed", "confirmed")


def test_pretrainings_agree_with_sums_over_pairs():
    """Products of different pre-trainings, one by one, in float64."""
    cells = pretrained_again(3)
    found = comparisons.Pretrainings(cells)
    walsh = [
        {
            arm: [walsh_transform(run.v.double())[:, 1:] / run.scale for run in several]
            for arm, several in cell.arms.items()
        }
        for cell in cells
    ]

    def shared(first, second):
        pairs = [
            float((x * y).sum(1).mean())
            for k, one in enumerate(walsh)
            for m, other in enumerate(walsh)
            if k != m
            for x in one[first]
            for y in other[second]
        ]
        return sum(pairs) / len(pairs)

    cross, probe, fine = (
        shared(*pair)
        for pair in (("probe", "finetuned"), ("probe", "probe"), ("finetuned", "finetuned"))
    )
    assert found.in_common()[0][0] == pytest.approx(cross**2 / probe / fine, rel=1e-6)
    finetuned = [cell.arms["finetuned"] for cell in cells]
    alone = [
        hard_to_learn(
            cell.arms["probe"], finetuned[k], cell.arms["scratch"],
            second_runs=[run for m in range(3) if m != k for run in finetuned[m]],
        )
        for k, cell in enumerate(cells)
    ]  # fmt: skip
    hard = found.hard["scratch"]
    for part in ("preserved", "new"):
        excess = [getattr(one, part).excess.value for one in alone]
        assert getattr(hard, part).excess.value == pytest.approx(sum(excess) / 3)
    assert hard.special.value == pytest.approx(sum(one.special.value for one in alone) / 3)

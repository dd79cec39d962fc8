"""The record that the page "How fast" draws from, and the command that makes it."""

import json
from types import SimpleNamespace

import pytest
import torch

import pi_lib as pi
from benchmarks import growth, host, lora, split, transforms
from benchmarks.__main__ import PARTS, RECORD, main
from benchmarks.targets import TARGETS, judge

ON_THE_PAGE = {  # what the notebook reads of at least one row of each part
    "split": {"what", "peer", "n", "noise", "times_less", "times_less_than_batched", "worst_gap",
              "peer_cpu_s_per_game", "sgd_steps_timed", "sgd_steps"},
    "transforms": {"what", "peer", "n", "times_less", "peer_cpu_s_per_game", "largest_difference"},
    "growth": {"what", "method", "device", "n", "batch", "cpu_s_per_game", "games_per_s",
               "peak_gb"},
    "engine": {"what", "device", "engine_s", "plain_forward_s", "mask_loop_s",
               "throughput_of_plain", "throughput_of_loop", "outside_forward", "peak_gb"},
    "lora": {"what", "throughput_of_plain"},
    "cells": {"what", "ms_per_cell"},
    "host": {"what", "of", "value"},
    "gpu": {"what", "found", "allowed", "met", "plain_forward_s", "engine_s", "images_per_s",
            "throughput_of_plain", "sharing_over_plain", "without_graph_images_per_s"},
}  # fmt: skip


def part(*rows):
    return SimpleNamespace(__doc__="A part made for the test.", rows=lambda: iter(rows))


@pytest.mark.parametrize("name", PARTS)
def test_the_record_holds_what_the_page_reads(name):
    one = json.loads(RECORD.read_text())[name]
    assert ON_THE_PAGE[name] <= set().union(*one["rows"])
    assert one["date"] and one["seconds"] > 0 and one["environment"]["versions"]["torch"]


def test_the_recorded_growth_has_every_size():
    rows = json.loads(RECORD.read_text())["growth"]["rows"]
    found = {(row["method"], row["n"], row["batch"]) for row in rows if row["device"] == "cpu"}
    assert found == {(method, n, 1) for method, ns in growth.PLAYERS.items() for n in ns} | {
        (method, growth.BATCHES_N, b) for method, batches in growth.BATCHES.items() for b in batches
    }


def test_the_recorded_targets_are_those_of_the_code():
    record = json.loads(RECORD.read_text())
    assert record["targets"] == json.loads(json.dumps(judge(record)))
    assert [one["target"] for one in record["targets"]] == [target[0] for target in TARGETS]


def test_a_partial_run_keeps_the_other_parts(tmp_path, capsys):
    parts = {"split": part({"what": "a", "x": 1}), "engine": part({"what": "b", "x": 2})}
    path = tmp_path / "deep" / "record.json"
    main(["--record", str(path)], parts)
    first = json.loads(path.read_text())
    again = {**parts, "split": part({"what": "a", "x": 3}, {"what": "c", "y": 4})}
    main(["split", "--record", str(path)], again)
    second = json.loads(path.read_text())
    assert second["engine"] == first["engine"]
    assert second["split"]["rows"] == [{"what": "a", "x": 3}, {"what": "c", "y": 4}]
    assert [p.name for p in path.parent.iterdir()] == ["record.json"]
    assert "Targets" in capsys.readouterr().out


def test_a_failed_part_leaves_the_record_as_it_was(tmp_path):
    path = tmp_path / "record.json"
    main(["--record", str(path)], {"split": part({"what": "a"})})
    before = path.read_text()

    def broken():
        yield {"what": "a"}
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        main(["--record", str(path)], {"split": SimpleNamespace(__doc__="Broken.", rows=broken)})
    assert path.read_text() == before


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["speed"])
    assert "unknown part speed; there are split, transforms" in capsys.readouterr().err


def test_targets_are_missed_met_or_not_measured():
    def verdict(part, key, *rows):
        (line,) = (
            line
            for line in judge({part: {"rows": list(rows)}})
            if (line["part"], line["key"]) == (part, key)
            and all(row[name] == wanted for row in rows for name, wanted in line["row"].items())
        )
        return line

    def faster(*times):
        found = [{"n": 10, "batch": 64, "noise": 0.04, "times_less": t} for t in times]
        return verdict("split", "times_less", *found)

    unmeasured = verdict("engine", "outside_forward")
    assert unmeasured["met"] is None and unmeasured["found"] is None
    assert faster(300.0)["met"] is True
    assert faster(350.0, 299.0)["met"] is False and faster(350.0, 299.0)["found"] == 299.0
    most = {"throughput_of_plain": 1.0, "outside_forward": 0.06}
    assert verdict("engine", "outside_forward", most)["met"] is False
    assert verdict("engine", "throughput_of_plain", most)["met"] is True
    for ms, met in ((20, True), (20.1, False)):
        row = {"pool": "one process", "ms_per_cell": ms}
        assert verdict("cells", "ms_per_cell", row)["met"] is met


def test_growth_is_measured_in_a_process_of_its_own():
    held = torch.ones(2**27)  # half a gigabyte here must not count there
    (row,) = growth.rows({"AND transform": (8,)}, {})
    assert held.sum() > 0 and row["n"] == 8 and row["batch"] == 1 and row["s_per_game"] > 0
    assert 0 <= row["peak_added_gb"] < 0.1 and row["peak_added_gb"] < row["peak_gb"]
    assert growth.peak_gb("cpu") > row["peak_gb"]


def test_transforms_agree_with_shapiq():
    (row,) = transforms.rows((6,))
    assert row["largest_difference"] < 1e-9 and row["times_less"] > 0


def test_what_would_hold_up_a_gpu_is_measured_without_one(monkeypatch):
    monkeypatch.setattr(host.solver, "inverse", host.solver.inverse)  # put back afterwards
    for work in (host._training_step, host._extraction, host._split_kernels):
        row = work(small=True)
        assert row["value"] > 0 and {"what", "of"} < {*row}
    assert row["value"] < row["kernels_on_a_cpu"]


def test_lora_is_timed_against_the_plain_network(monkeypatch):
    monkeypatch.setattr(lora, "MODELS", {"vit-32": 32})
    made, sizes, finetune = [], [], pi.finetune
    monkeypatch.setattr(pi, "finetune", lambda *a, **k: made.append(finetune(*a, **k)) or made[-1])
    (row,) = lora.rows(n=2, samples=1, repeats=2)
    plain, adapted = made
    assert (plain.settings["lora"], adapted.settings["lora"]) == (0, 8)
    for run in made:  # merged: the very same modules
        sizes.append([(name, type(x)) for name, x in run.model.named_modules()])
    assert sizes[0] == sizes[1]
    assert row["throughput_of_plain"] == row["plain_s"] / row["lora_s"] > 0


def test_the_recipe_approaches_the_split_from_above():
    v = split.network_games(1, 4)
    best = pi.and_or_split(v, 0.04).objective
    far, near = (split.sgd_recipe(v, 0.04, steps, lr=1e-3) for steps in (1, 2000))
    assert best * 0.99 < near < far

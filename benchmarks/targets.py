"""What the project set out to reach in speed, held against what was measured."""

from collections.abc import Mapping
from typing import Any

# What, part, which of its rows, the number that counts, "at least" or "at most", how much.
TARGETS = (
    ("AND-OR split, n = 10, batch 64, noise 0.04: times less CPU a sample than the SGD recipe",
     "split", {"n": 10, "batch": 64, "noise": 0.04}, "times_less", "at least", 300),
    ("AND-OR split, n = 12: times less CPU a sample than the SGD recipe",
     "split", {"n": 12, "batch": 16, "noise": 0.04}, "times_less", "at least", 800),
    ("AND-OR split, a game that fits the cache: CPU seconds where torch has two threads, over one",
     "split", {}, "two_threads_over_one", "at most", 1.25),
    ("AND-OR split: objective over the linear program's optimum",
     "split", {}, "worst_objective_over_optimum", "at most", 1.001),
    ("AND-OR split: planted terms found, over those that the linear program finds",
     "split", {}, "ours_over_highs", "at least", 1),
    ("AND-OR split, n = 16, no noise: gap that it closes to",
     "growth", {"method": "split, no noise", "n": 16, "device": "cpu"},
     "worst_gap", "at most", 0.001),
    ("AND-OR split, n = 16, no noise: peak memory of the process, GB",
     "growth", {"method": "split, no noise", "n": 16, "device": "cpu"}, "peak_gb", "at most", 2),
    ("AND transform, n = 14: times less CPU than shapiq",
     "transforms", {"n": 14}, "times_less", "at least", 1_000),
    ("AND transform, n = 16: times less CPU than shapiq",
     "transforms", {"n": 16}, "times_less", "at least", 10_000),
    ("engine: share of the plain forward's throughput",
     "engine", {}, "throughput_of_plain", "at least", 0.95),
    ("engine: share of its time that is not the forward",
     "engine", {}, "outside_forward", "at most", 0.05),
    ("engine: share of the plain network's throughput after LoRA, its matrices merged",
     "lora", {}, "throughput_of_plain", "at least", 0.95),
    ("one core, engine, a batch of 1,024: share of its time that is not the forward",
     "host", {"of": "engine"}, "value", "at most", 0.05),
    ("one core, a step of training at batch 128: ms beside forward, backward and optimiser",
     "host", {"of": "training"}, "value", "at most", 1),
    ("one core, linear probe of 1,000 feature vectors: seconds",
     "host", {"of": "probe"}, "value", "at most", 1),
    ("one core, extraction at a checkpoint: seconds beside the forward",
     "host", {"of": "extraction"}, "value", "at most", 0.3),
    ("one core, a 32 px cell at full of a network of one convolution: CPU seconds in all",
     "host", {"of": "cell"}, "value", "at most", 60),
    ("on a GPU, engine: share of the plain forward's throughput",
     "gpu", {}, "throughput_of_plain", "at least", 0.95),
    ("on a GPU, engine that may share layers: seconds over those of one that does not",
     "gpu", {}, "sharing_over_plain", "at most", 1.05),
    ("on a GPU, training of 32 px networks, batch 32: pictures a second",
     "gpu", {"batch": 32}, "images_per_s", "at least", 3_000),
    ("on a GPU, training of 32 px networks, batch 128: pictures a second",
     "gpu", {"batch": 128}, "images_per_s", "at least", 10_000),
    ("on a GPU, linear probe of 1,000 feature vectors: seconds",
     "gpu", {"what": "linear probe of 1,000 feature vectors"}, "seconds", "at most", 1),
    ("on a GPU, extraction of 40 samples at a checkpoint: seconds beside the forward",
     "gpu", {}, "outside_s", "at most", 0.3),
    ("study, 1,000 trivial cells in one process: milliseconds a cell",
     "cells", {"pool": "one process"}, "ms_per_cell", "at most", 20),
)  # fmt: skip


def judge(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each target with what was found and whether that meets it; both None if not measured.

    Where several rows answer to one target (models, devices), the worst of them counts.
    """
    judged = []
    for what, part, where, key, relation, wanted in TARGETS:
        found = [
            row[key]
            for row in record.get(part, {}).get("rows", ())
            if key in row and all(row.get(name) == value for name, value in where.items())
        ]
        low = relation == "at least"
        worst = (min if low else max)(found) if found else None
        met = None if worst is None else worst >= wanted if low else worst <= wanted
        judged.append(
            {"target": what, "part": part, "row": where, "key": key, "relation": relation,
             "wanted": wanted, "found": worst, "met": met}
        )  # fmt: skip
    return judged

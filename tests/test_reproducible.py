"""The same numbers on another machine, within the tolerance that the book states."""

import pytest
import torch

import pi_lib as pi
from pi_lib import study, training

# Measured on one machine (Linux x86_64, torch 2.12.1 on the CPU). The seeds decide everything but
# the order in which a processor adds, which moves the last digits of float32.
VALUES = [  # coalitions 0, 5 and 15 of two images, EfficientNet-Lite0 under a head of seed 0
    [-2.2171146869659424, -2.2415387630462646, -2.303485870361328],
    [-2.1580584049224854, -2.128570079803467, -2.0967419147491455],
]
LOSSES = {"probe": 1.6865739822387695, "finetuned": 2.3341140747070312}  # after training
OF_VALUES, OF_TRAINING = 1e-4, 1e-2  # relative; training grows small differences


def test_another_machine_gives_the_same_numbers():
    cell = study.Cell(profile="smoke")
    task = study.load(cell)
    model, samples = study.build(cell, len(task.classes)), study.samples(cell, task).take([0, 1])
    v = pi.coalition_values(
        model,
        training.images(samples.inputs),
        samples.labels,
        study.players(cell, task),
        ids=samples.ids,
    )
    expected = torch.tensor(VALUES, dtype=torch.float64)
    torch.testing.assert_close(v[:, [0, 5, 15]], expected, rtol=OF_VALUES, atol=0)
    options = {"batch_size": 16, "checkpoints": 2}
    probe = pi.linear_probe(model, task.train, task.test, epochs=5, learning_rate=1e-2, **options)
    tuned = pi.finetune(model, task.train, task.test, epochs=1, learning_rate=1e-4, **options)
    for run, name in ((probe, "probe"), (tuned, "finetuned")):
        assert run.log[-1]["loss"] == pytest.approx(LOSSES[name], rel=OF_TRAINING)

"""The same numbers on another machine, within the tolerance that the book states."""

import pytest
import torch

import pi_lib as pi
from pi_lib import study, training

# Measured on one machine (Linux x86_64, torch 2.12.1 on the CPU). The seeds decide everything but
# the order in which a processor adds, which moves the last digits of float32.
VALUES = [  # coalitions 0, 5 and 15 of two images, EfficientNet-Lite0 under a head of seed 0
    [-2.1379789398556666, -1.9961419336532966, -2.0212069209296573],
    [-2.0794701916563745, -2.1575093900300164, -2.0668240434125584],
]
LOSSES = {"probe": 1.512271210322747, "finetuned": 2.314523696899414}  # after training
OF_VALUES, OF_TRAINING = 1e-4, 1e-2  # relative; training grows small differences


def test_another_machine_gives_the_same_numbers():
    cell = study.Cell(profile="smoke", changes={"n_train": 64, "n_test": 64})
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
    probe = pi.linear_probe(model, task.train, task.test)
    options = {"learning_rate": 1e-4, "batch_size": 16, "checkpoints": 2}
    tuned = pi.finetune(model, task.train, task.test, epochs=1, **options)
    for run, name in ((probe, "probe"), (tuned, "finetuned")):
        assert run.log[-1]["loss"] == pytest.approx(LOSSES[name], rel=OF_TRAINING)

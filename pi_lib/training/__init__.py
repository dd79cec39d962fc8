"""All that trains a network, and a callback that follows a run of your own.

`phases` are calls of `recipe`'s `fit`: it sets a run up, `loop` goes its steps, `run` is what it
gives. `probe` is no training but the optimum of `regression`.
"""

from pi_lib.training.loop import first_layers, schedule
from pi_lib.training.phases import finetune, pretrain, train_from_scratch
from pi_lib.training.probe import Probe, linear_probe
from pi_lib.training.recipe import checkpoint_steps, fit
from pi_lib.training.regression import logistic_regression
from pi_lib.training.run import Run, TrainingDiverged
from pi_lib.training.split import MOST_TOKENS, Batches, Split, images

__all__ = [
    "MOST_TOKENS",
    "Batches",
    "Probe",
    "Run",
    "Split",
    "TrainingDiverged",
    "checkpoint_steps",
    "finetune",
    "first_layers",
    "fit",
    "images",
    "linear_probe",
    "logistic_regression",
    "pretrain",
    "schedule",
    "train_from_scratch",
]

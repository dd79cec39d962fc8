"""All that trains a network.

- `phases`: `finetune`, `train_from_scratch`, `pretrain`, each a call of `recipe`'s `fit`.
- `probe`: the linear probe, the optimum of `regression`, and no training.
- `recipe`: what a run is set up from; `loop`: its steps; `run`: what it gives.
- `split`: samples and labels, and batches of them; `objectives`: losses, heads, and what counts as
  right; `lora`: which layers get an adapter, and how it is merged.
- `tracker`: a callback that says, as a run of your own goes, what it keeps.
- `cuda_graph`: a step recorded once and repeated; `seeds`: streams of random numbers.
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

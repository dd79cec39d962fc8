"""The study: many runs on real data.

`cell` says what is studied, `data` and `backbones` what it is made of, `steps` what is computed and
stored at a time, `schedule` which step comes next, `workers` who computes it, `store` where results
live; `grid` and `findings` are about many cells. `register_data` and `register_backbone` add data
and networks of your own.
"""

from pi_lib.study.backbones import register_backbone
from pi_lib.study.cell import LEARNING_RATES, PHASES, PROFILES, Cell, Settings, offline_cells
from pi_lib.study.data import register_data
from pi_lib.study.registration import import_plugins
from pi_lib.study.results import Phase, Result, run, run_all
from pi_lib.study.schedule import StudyFailed, compute_all, entries, stored, trained_model
from pi_lib.study.steps import Step, build, load, load_source, players, samples, tokenizer

__all__ = [
    "LEARNING_RATES",
    "PHASES",
    "PROFILES",
    "Cell",
    "Phase",
    "Result",
    "Settings",
    "Step",
    "StudyFailed",
    "build",
    "compute_all",
    "entries",
    "load",
    "load_source",
    "offline_cells",
    "players",
    "register_backbone",
    "register_data",
    "run",
    "run_all",
    "samples",
    "stored",
    "tokenizer",
    "trained_model",
]

import_plugins()

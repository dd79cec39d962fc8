"""The study: many runs on real data.

`cell` says what is studied, `data` and `backbones` what it is made of, `steps` what is computed and
stored at a time, `schedule` which step comes next, `workers` who computes it, `store` where results
live, `record` what is kept of a cell; `grid`, `findings`, `comparisons` and `advice` are about many
cells, with the statistics of `accuracies` and `across_cells`. `transfer` asks all of it of your own
network. `register_data` and `register_backbone` add data and networks of yours.
"""

from pi_lib.reliability import ARMS
from pi_lib.study.backbones import register_backbone
from pi_lib.study.cell import PLAYERS, PROFILES, RATES, Cell, Settings, offline_cells
from pi_lib.study.data import register_data
from pi_lib.study.record import Record, RecordError, collect, read_all, run, run_all
from pi_lib.study.registration import import_plugins
from pi_lib.study.schedule import StudyFailed, compute_all, entries, stored, trained_model
from pi_lib.study.steps import Step, build, load, load_source, players, samples, tokenizer

__all__ = [
    "ARMS",
    "PLAYERS",
    "PROFILES",
    "RATES",
    "Cell",
    "Record",
    "RecordError",
    "Settings",
    "Step",
    "StudyFailed",
    "build",
    "collect",
    "compute_all",
    "entries",
    "load",
    "load_source",
    "offline_cells",
    "players",
    "read_all",
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

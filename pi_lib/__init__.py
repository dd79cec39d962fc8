"""What a network keeps of its pre-training when it is fine-tuned, read from its interactions.

Five lines on a model of your own::

    import pi_lib as pi
    players = pi.PatchPlayers(grid=8, n=10, region="central")
    before = pi.extract(probe, images, labels, players)
    after = pi.extract(finetuned, images, labels, players)
    pi.compare(before, after).plot()

and one callback for a run that goes on::

    Trainer(..., callbacks=[pi.KnowledgeTracker(samples, players)])

The method is that of arXiv 2410.08455; the modules stand in the order in which it happens:
`coalitions`, `transforms`, `and_or`, `players`, `values`, `engine`, `interactions`, `extraction`
(with `search`), `statistics`, `knowledge`, `reliability`, `training`. Four are folders: `and_or`
splits a game, `players` masks, `engine` runs a model on masked inputs, `training` trains it, or
follows a run of your own. `pi_lib.study` runs the method many times: on real data, and, by
`transfer_study`, on a network of yours. `pi_lib.book` shows the results.
"""

import importlib
import sys
import warnings

from pi_lib.and_or import AndOrSplit, and_or_split, shared_split
from pi_lib.engine import coalition_values
from pi_lib.extraction import extract
from pi_lib.interactions import Interactions
from pi_lib.knowledge import (
    HardToLearn,
    Knowledge,
    Learned,
    Share,
    Trajectory,
    compare,
    hard_to_learn,
    jaccard,
    jaccard_share,
    learned_by_scratch,
    trajectory,
)
from pi_lib.players import LabelMapPlayers, PatchPlayers, Placement, WordPlayers
from pi_lib.reliability import (
    Approach,
    Origins,
    approach,
    origins,
    reliability,
    similarity,
    yardstick,
)
from pi_lib.statistics import Estimate, bootstrap
from pi_lib.training import Run, finetune, linear_probe, pretrain, train_from_scratch
from pi_lib.transforms import (
    and_inverse,
    and_transform,
    or_inverse,
    or_transform,
    walsh_inverse,
    walsh_transform,
)
from pi_lib.values import (
    box_log_odds,
    log_odds,
    negative_error,
    next_token_log_odds,
    region_log_odds,
)

__all__ = [
    "AndOrSplit",
    "Approach",
    "Estimate",
    "HardToLearn",
    "Interactions",
    "Knowledge",
    "KnowledgeTracker",
    "LabelMapPlayers",
    "Learned",
    "Origins",
    "PatchPlayers",
    "Placement",
    "Run",
    "Share",
    "Trajectory",
    "TransferStudy",
    "WordPlayers",
    "and_inverse",
    "and_or_split",
    "and_transform",
    "approach",
    "bootstrap",
    "box_log_odds",
    "coalition_values",
    "compare",
    "extract",
    "finetune",
    "hard_to_learn",
    "jaccard",
    "jaccard_share",
    "learned_by_scratch",
    "linear_probe",
    "log_odds",
    "negative_error",
    "next_token_log_odds",
    "or_inverse",
    "or_transform",
    "origins",
    "pretrain",
    "region_log_odds",
    "reliability",
    "shared_split",
    "similarity",
    "train_from_scratch",
    "trajectory",
    "transfer_study",
    "walsh_inverse",
    "walsh_transform",
    "yardstick",
]


# Imported when asked for: the first needs transformers, the others the whole study.
_LAZY = {
    "KnowledgeTracker": "pi_lib.training.tracker",
    "TransferStudy": "pi_lib.study.transfer",
    "transfer_study": "pi_lib.study.transfer",
}
_FOLDERS = {
    "engine": "batches callables checks outputs sharing",
    "players": "words",
    "study": "assets findings grid store transfer workers",
    "training": "cuda_graph lora objectives probe seeds tracker",
}
_MOVED = {
    **{name: f"pi_lib.{to}.{name}" for to, names in _FOLDERS.items() for name in names.split()},
    "aims": "pi_lib.training.objectives",
    "finetuning": "pi_lib.training.phases",
    "models": "pi_lib.study.backbones",
    "plots": "pi_lib.book.figures",
    "pretraining": "pi_lib.training.objectives",
    "shared": "pi_lib.engine.sharing",
    "sparse": "pi_lib.and_or",
    "spex": "pi_lib.search",
    "tasks": "pi_lib.study.data",
    "widgets": "pi_lib.book.explorers",
}


class _MovedModules:
    """Says where a module of an earlier version is now."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        package, _, module = name.partition(".")
        if package == __name__ and module in _MOVED:
            raise ImportError(f"{name} is now {_MOVED[module]}: import that", name=name)


sys.meta_path.insert(0, _MovedModules)  # before a finder that knows an old checkout


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name == "SparseInteractions":
        message = "pi_lib.SparseInteractions is now Interactions: one class holds every result"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return Interactions
    if name in _MOVED:
        raise AttributeError(f"pi_lib.{name} is now {_MOVED[name]}: import that")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

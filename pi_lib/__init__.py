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
`coalitions`, `transforms`, `sparse`, `players`, `values` (with `shared`), `interactions`, `spex`
for many players, `knowledge`, then `aims`, `tasks`, `models`, `training`, `tracker`, `study`,
`grid`, `findings`, and what shows the results, `plots` and `widgets`.
"""

from pi_lib.interactions import Interactions, extract
from pi_lib.knowledge import (
    Estimate,
    Knowledge,
    Learned,
    Trajectory,
    bootstrap,
    compare,
    jaccard,
    learned_by_scratch,
    trajectory,
)
from pi_lib.players import LabelMapPlayers, PatchPlayers, Placement, WordPlayers
from pi_lib.sparse import AndOrSplit, and_or_split, shared_split
from pi_lib.spex import SparseInteractions
from pi_lib.training import Run, finetune, linear_probe, pretrain, train_from_scratch
from pi_lib.transforms import and_inverse, and_transform, or_inverse, or_transform
from pi_lib.values import box_log_odds, coalition_values, log_odds, negative_error, region_log_odds

__all__ = [
    "AndOrSplit",
    "Estimate",
    "Interactions",
    "Knowledge",
    "KnowledgeTracker",
    "LabelMapPlayers",
    "Learned",
    "PatchPlayers",
    "Placement",
    "Run",
    "SparseInteractions",
    "Trajectory",
    "WordPlayers",
    "and_inverse",
    "and_or_split",
    "and_transform",
    "bootstrap",
    "box_log_odds",
    "coalition_values",
    "compare",
    "extract",
    "finetune",
    "jaccard",
    "learned_by_scratch",
    "linear_probe",
    "log_odds",
    "negative_error",
    "or_inverse",
    "or_transform",
    "pretrain",
    "region_log_odds",
    "shared_split",
    "train_from_scratch",
    "trajectory",
]


def __getattr__(name: str):
    if name == "KnowledgeTracker":  # a callback of transformers, which the rest does not need
        from pi_lib.tracker import KnowledgeTracker

        return KnowledgeTracker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

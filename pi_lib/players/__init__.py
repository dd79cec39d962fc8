"""Who the players are: which part of an input belongs to which player, and what masks it.

- `patches`: patches of an image. `label_maps`: any regions. `words`: words of a sentence.
- `placement`: what each of them makes of a sample.

Every class has one method, ``place(inputs, ids)``, that returns a `Placement` per sample. Players
are drawn by a seed and the sample's id alone, so every model and every checkpoint sees the same
players of a sample; without ids, the sample's content is its id. What a network takes beside the
sample (`others`) goes to it unmasked.

The choices follow arXiv 2410.08455 as reconstructed from 2409.08712 and 2407.19198: n patches of
the central 6x6 of an 8x8 grid; n content words, each masked whole.
"""

from pi_lib.players.label_maps import LabelMapPlayers
from pi_lib.players.patches import PatchPlayers
from pi_lib.players.placement import Placement
from pi_lib.players.words import WordPlayers

__all__ = ["LabelMapPlayers", "PatchPlayers", "Placement", "WordPlayers"]

"""A model run on masked inputs.

- `run`: `coalition_values`, every coalition of players, and `games`, those that are asked for.
- `batches`: a masked input is made, and batches that fit; `outputs`: which part of a model's output
  counts.
- `checks`: what makes values trustworthy; `sharing`: layers that masked inputs have in common;
  `layout`: the order of memory that is faster.
- `callables`: the networks within a model, and digests of code, weights and data.
"""

from pi_lib.engine.callables import fingerprint
from pi_lib.engine.run import MOST_PLAYERS, choose_device, coalition_values, games

__all__ = ["MOST_PLAYERS", "choose_device", "coalition_values", "fingerprint", "games"]

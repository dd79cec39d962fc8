"""A model run on masked inputs: `run` does it, and `checks` makes its values trustworthy."""

from pi_lib.engine.callables import fingerprint
from pi_lib.engine.run import MOST_PLAYERS, choose_device, coalition_values, games

__all__ = ["MOST_PLAYERS", "choose_device", "coalition_values", "fingerprint", "games"]

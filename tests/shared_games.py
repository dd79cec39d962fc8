"""Recorded games of the paper's cells that have reference values computed elsewhere."""

import json
from pathlib import Path

HERE = Path(__file__).parent
REFERENCE = json.loads((HERE / "data/games_reference.json").read_text())
GAMES = [HERE.parent / f"notebooks/recorded/paper/{name}.npz" for name in REFERENCE]

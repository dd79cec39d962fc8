"""The recorded games of the paper's cells, and reference values of them computed elsewhere."""

import json
from pathlib import Path

HERE = Path(__file__).parent
GAMES = sorted((HERE.parent / "notebooks/recorded/paper").glob("*.npz"))
REFERENCE = json.loads((HERE / "data/games_reference.json").read_text())

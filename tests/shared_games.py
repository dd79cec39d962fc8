"""Recorded games of the paper's cells that have reference values computed elsewhere."""

import json
from pathlib import Path

HERE = Path(__file__).parent
REFERENCE = json.loads((HERE / "data/games_reference.json").read_text())
RECORDED = HERE.parent / "notebooks/recorded"
GAMES = [
    next(
        path
        for folder in ("again", "paper")
        if (path := RECORDED / folder / f"{name}.npz").exists()
    )
    for name in REFERENCE
]

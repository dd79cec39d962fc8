"""``python -m benchmarks``: every comparison in one run, as a table here and as JSON on disk."""

import argparse
import json
from pathlib import Path

import pandas as pd

from benchmarks import engine, split, transforms
from pi_lib.progress import track
from pi_lib.store import environment, home

PARTS = {"split": split, "transforms": transforms, "engine": engine}


def main() -> None:
    """Run the parts that were named, all by default, and write ``results/benchmarks.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    named = parser.parse_args().parts or list(PARTS)
    if unknown := set(named) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    found = {"environment": environment()}
    for part in named:
        print(f"\n{PARTS[part].__doc__}", flush=True)
        found[part] = list(track(PARTS[part].rows(), part))
        for _, rows in pd.DataFrame(found[part]).groupby("what", sort=False):
            shown = rows.dropna(axis=1)
            print(shown.to_string(index=False, float_format="{:.4g}".format), flush=True)
    path = Path(home()) / "results" / "benchmarks.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()

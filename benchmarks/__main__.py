"""Every comparison in one run: a table here, and a record on disk that the book draws from.

All parts together take about ten minutes on two cores. A part that is run again replaces its
rows in the record; the other parts keep theirs, each with its own date and environment.
"""

import argparse
import itertools
import json
import os
import platform
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.targets import judge
from pi_lib.progress import track
from pi_lib.study.store import environment

# Modules of this package, imported when they are run: a machine with a GPU need not have the peers.
PARTS = ("split", "transforms", "growth", "engine", "lora", "cells", "host", "gpu")
RECORD = Path(__file__).with_name("recorded.json")


def main(arguments: list[str] | None = None, parts: dict[str, Any] | None = None) -> None:
    """Run the parts that were named, all by default, and put their rows into the record.

    `parts`, modules by name, are instead of `PARTS`. Without a GPU, "gpu" is run where it is named.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [*(parts or PARTS)]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(names)}")
    parser.add_argument(
        "--record", type=Path, default=RECORD, help="the JSON file; default the book's own"
    )
    given = parser.parse_args(arguments)
    if unknown := set(given.parts) - set(names):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    for name in given.parts or [x for x in names if x != "gpu" or torch.cuda.is_available()]:
        part = parts[name] if parts else import_module(f"benchmarks.{name}")
        print(f"\n{part.__doc__}", flush=True)
        start = time.perf_counter()
        found = []
        for row in track(part.rows(), name):
            found.append(row)
            keep(given.record, name, found, time.perf_counter() - start)  # whatever comes next
        for _, rows in itertools.groupby(found, key=tuple):  # those with the same columns
            _show(pd.DataFrame(rows))
    print("\nTargets", flush=True)
    judged = pd.DataFrame(json.loads(given.record.read_text())["targets"])
    _show(judged[["target", "relation", "wanted", "found", "met"]])
    print(f"\nwritten to {given.record}")


def keep(path: Path, part: str, rows: list[dict], seconds: float) -> None:
    """Replace one part of the record and judge the targets anew; the file is written whole."""
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    record[part] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "environment": machine(),
        "rows": rows,
    }
    record["targets"] = judge(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.aside")
    aside.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(aside, path)


def machine() -> dict[str, Any]:
    """What a stored result says of its environment, with the processor and the peers' versions."""
    found = environment()
    for peer in ("shapiq", "scipy"):
        with suppress(PackageNotFoundError):  # where a peer is not timed it need not be there
            found["versions"][peer] = version(peer)
    return found | {"processor": _processor(), "cores": os.cpu_count()}


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    for line in listed.read_text().splitlines() if listed.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _show(rows: pd.DataFrame) -> None:
    print(rows.to_string(index=False, float_format="{:.4g}".format), flush=True)


if __name__ == "__main__":
    main()

"""``python -m pi_lib``: fetch the assets, compute a study, run the notebooks, build the book."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from pi_lib import book, progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status.

    0: done. 1: a notebook, the book or an asset failed. 2: refused before any work.
    130: interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        options.do(options)
    except book.Refused as error:
        print(f"pi_lib: {error}", file=sys.stderr)
        return 2
    except book.Failed as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = shlex.join(["python", "-m", "pi_lib", *(arguments or sys.argv[1:])])
        print(f"\ninterrupted; what was computed is kept, go on with: {again}", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    values = dict(map(_value, options.parameter))
    book.run(options.only, profile=options.profile, values=values, jobs=options.jobs)


def _build(options: argparse.Namespace) -> None:
    book.build()


def _assets(options: argparse.Namespace) -> None:
    from pi_lib import assets

    try:
        assets.fetch_all(data=options.data)
    except (assets.MissingAsset, assets.ChecksumError) as error:
        raise book.Failed(str(error)) from error


def _study(options: argparse.Namespace) -> None:
    from pi_lib import grid, study
    from pi_lib.store import Store

    try:
        cells = grid.read(options.grid)
    except grid.GridError as error:
        raise book.Refused(str(error)) from error
    store = Store()
    failed = []
    if not options.dry_run:
        failed = study.compute_all(cells, store, options.jobs, _cluster(options))
    for cell in cells:
        state = "stored" if study.stored(cell, store) else "not computed"
        print(f"{state:<13} {cell.name}, {cell.profile}, seed {cell.seed}")
    if options.record:
        held = grid.record(cells, store, options.record)
        print(f"recorded {len(held)} of {len(cells)} cells in {options.record}")
    if failed:
        listed = "\n".join(f"{cell.name}, seed {cell.seed}: {why}" for cell, why in failed)
        raise book.Failed(
            f"{len(failed)} of {len(cells)} cells failed; the others are kept:\n{listed}"
        )


def _cluster(options: argparse.Namespace):
    """The cluster that was asked for, if any."""
    if options.scheduler is None:
        if options.resources:
            raise book.Refused("--resources are those of a cluster's workers: name a --scheduler")
        return None
    from pi_lib.workers import Cluster

    resources = dict(map(_value, options.resources))
    if wrong := [x for x in resources.values() if not isinstance(x, int | float) or x <= 0]:
        raise book.Refused(f"expected --resources NAME=NUMBER, such as GPU=1; got {wrong[0]!r}")
    try:
        cluster = Cluster(options.scheduler, options.jobs, resources)
    except (ImportError, ConnectionError) as error:
        raise book.Refused(str(error)) from error
    progress.show(f"{cluster.workers} worker(s) at {options.scheduler}")
    return cluster


def _twins(options: argparse.Namespace) -> None:
    for path in book.twins():
        print(path)


def _clean(options: argparse.Namespace) -> None:
    for path in book.clean(everything=options.all):
        print(f"removed {path}")


def _list(options: argparse.Namespace) -> None:
    for name, source in book.notebooks().items():
        print(f"{name}  ({book.state(name)})")
        for parameter, default in book.parameters(source).items():
            print(f"    {parameter} = {default}")


def _value(text: str) -> tuple[str, Any]:
    """``name=value`` with the value read as YAML, as papermill does."""
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise book.Refused(f"expected -p name=value; got {text!r}")
    return name, yaml.safe_load(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pi_lib", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name, do, text):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(do=do)
        return sub

    run = command("run", _run, "execute the notebooks with papermill into book/executed")
    profiles = ", ".join(book.PROFILES)
    run.add_argument("--profile", default="quick", help=f"one of {profiles} (default: quick)")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="notebooks at a time")
    run.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="only these, by name or number"
    )
    run.add_argument(
        "-p",
        dest="parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a notebook parameter (may be repeated)",
    )
    command("build", _build, "render the executed notebooks and the prose as HTML, strictly")
    assets = command("assets", _assets, "fetch data and weights, checksums verified")
    assets.add_argument("--data", metavar="DIR", help="a folder of yours to look in first")
    study = command("study", _study, "compute the cells of a grid file, going on where it stopped")
    study.add_argument("--grid", required=True, metavar="FILE", help="YAML; see notebooks/grids")
    study.add_argument("--jobs", type=int, metavar="N", help="processes (default: one per core)")
    study.add_argument(
        "--scheduler", metavar="ADDRESS", help="compute on this Dask cluster; N steps under way"
    )
    study.add_argument(
        "--resources",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="what a step takes of a cluster's worker, such as GPU=1",
    )
    study.add_argument("--record", metavar="PATH", help="write PATH.parquet and PATH.json")
    study.add_argument("--dry-run", action="store_true", help="only say what is stored")
    command("twins", _twins, "make the .ipynb twins of the notebooks, or bring them up to date")
    clean = command("clean", _clean, "remove executed copies, twins and the built book")
    clean.add_argument("--all", action="store_true", help="also stored results and fetched assets")
    command("list", _list, "list the notebooks, how they stand, and their parameters")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""``python -m pi_lib``: fetch assets, compute and keep results, run notebooks, build the book."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pi_lib import progress
from pi_lib.book import runner
from pi_lib.study import store


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status.

    0: done. 1: a notebook, the book or an asset failed. 2: refused before any work.
    130: interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        options.do(options)
    except runner.Refused as error:
        print(f"pi_lib: {error}", file=sys.stderr)
        return 2
    except (runner.Failed, OSError) as error:  # as of a file that cannot be written
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = shlex.join(["python", "-m", "pi_lib", *(arguments or sys.argv[1:])])
        print(f"\ninterrupted; what was computed is kept, go on with: {again}", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    values = dict(map(_value, options.parameter))
    runner.run(options.only, profile=options.profile, values=values, jobs=options.jobs)


def _assets(options: argparse.Namespace) -> None:
    from pi_lib.study import assets

    try:
        assets.fetch_all(data=options.data)
    except (assets.MissingAsset, assets.ChecksumError) as error:
        raise runner.Failed(str(error)) from error


def _study(options: argparse.Namespace) -> None:
    from pi_lib import study
    from pi_lib.study import grid

    cells, results, failed = _cells(options.grid, options.profile), store.Store(), []
    if not options.dry_run:
        failed = study.compute_all(cells, results, options.jobs, _cluster(options), options.minutes)
    for cell in cells:
        state = "stored" if study.stored(cell, results) else "not computed"
        print(f"{state:<13} {cell.name}, {cell.profile}")
    if options.record:
        held = grid.record(cells, results, options.record)
        print(f"recorded {len(held)} of {len(cells)} cells in {options.record}")
    if failed:
        listed = "\n".join(f"{cell.name}: {why}" for cell, why in failed)
        raise runner.Failed(
            f"{len(failed)} of {len(cells)} cells failed; the others are kept:\n{listed}"
        )


def _report(options: argparse.Namespace) -> None:
    from pi_lib import study
    from pi_lib.book import report
    from pi_lib.study import assets

    output, results = Path(options.output), store.Store()
    if output.is_dir() or not output.parent.is_dir():
        raise runner.Refused(f"--output {output}: expected a file in a folder that is there")
    changes = dict(map(_value, options.parameter))
    changes |= {"runs": options.runs} if options.runs is not None else {}
    try:
        cell = report.cell(options.folder, options.backbone, options.profile, changes)
    except (ValueError, assets.MissingAsset) as error:
        raise runner.Refused(str(error)) from error
    for _, why in study.compute_all([cell], results, options.jobs):
        raise runner.Failed(f"{why}\nWhat was finished is kept: the same command goes on.")
    report.write(study.collect(cell, results), output)
    print(output)


def _cells(path: str, profile: str | None = None) -> list:
    from pi_lib.study import grid

    try:
        return grid.read(path, profile)
    except grid.GridError as error:
        raise runner.Refused(str(error)) from error


def _store_list(options: argparse.Namespace) -> None:
    held = store.Store(options.store)
    total = 0
    for entry in held.entries():
        bytes_, why = store.size(entry), store.fault(entry)
        total += bytes_
        what = "" if why else _in_a_line(held.record(entry))
        state = f"DAMAGED ({why})" if why else "" if store.is_current(entry) else "by other code"
        line = f"{entry.parent.name}/{entry.name}  {bytes_ / 1e6:8.1f} MB  {what}  {state}"
        print(line.rstrip())
    print(f"{len(held.entries())} entries, {total / 1e9:.2f} GB, in {held.root}")


def _store_verify(options: argparse.Namespace) -> None:
    held = store.Store(options.store)
    wrong = [(entry, why) for entry in held.entries() if (why := store.fault(entry))]
    print(f"{len(held.entries()) - len(wrong)} of {len(held.entries())} entries are as written")
    if wrong:
        listed = "\n".join(f"{entry.parent.name}/{entry.name}: {why}" for entry, why in wrong)
        raise runner.Failed(f"{listed}\nThey are set aside and computed again when asked for.")


def _store_show(options: argparse.Namespace) -> None:
    import yaml

    held = store.Store(options.store)
    wanted = options.entry.rpartition("/")[-1]
    named = [entry for entry in held.entries() if wanted and entry.name.startswith(wanted)]
    if len(named) != 1:
        raise runner.Refused(
            f"{len(named)} entries are named {options.entry!r}; expected the 16 hex digits of one, "
            "or as many as name it alone: `python -m pi_lib store list`"
        )
    (entry,) = named
    if why := store.fault(entry):
        raise runner.Failed(f"{entry} is damaged: {why}")
    print(entry)
    print(yaml.safe_dump(held.record(entry), sort_keys=False, allow_unicode=True), end="")


def _store_prune(options: argparse.Namespace) -> None:
    held = store.Store(options.store)
    needed = None
    if options.grid:
        from pi_lib import study

        needed = {path for cell in _cells(options.grid) for path in study.entries(cell, held)}
    waste = held.waste(needed)
    if not waste:
        print("nothing to remove")
        return
    _ask(waste, options.yes)
    for path in waste:
        store.remove(path)
    print("removed")


def _ask(paths: Sequence[Path], yes: bool) -> None:
    """Name what is to be removed, and go on only if that is wanted."""
    for path in paths:
        print(path)
    print(f"{len(paths)} paths, {sum(map(store.size, paths)) / 1e9:.2f} GB")
    if yes:
        return
    if not sys.stdin.isatty():
        raise runner.Refused("nothing was removed: nobody is there to ask, so say --yes")
    if input("Remove them? [y/N] ").strip().lower() not in ("y", "yes"):
        raise runner.Refused("nothing was removed")


def _in_a_line(record: dict[str, Any]) -> str:
    """What an entry is, on a line: its date, seconds and the words of its specification."""
    spec = record["spec"]
    words = [str(spec[k]) for k in ("backbone", "source", "task", "arm", "players") if spec.get(k)]
    run = f", run {spec['run'] + 1}" if "run" in spec else ""
    return f"{record['finished'][:16]}  {record['seconds']:7.1f} s  {' '.join(words)}{run}"


def _cluster(options: argparse.Namespace):
    """The cluster that was asked for, if any."""
    if options.scheduler is None:
        if options.resources:
            raise runner.Refused("--resources are those of a cluster's workers: name a --scheduler")
        return None
    from pi_lib.study.workers import Cluster

    resources = dict(map(_value, options.resources))
    if wrong := [x for x in resources.values() if not isinstance(x, int | float) or x <= 0]:
        raise runner.Refused(f"expected --resources NAME=NUMBER, such as GPU=1; got {wrong[0]!r}")
    try:
        cluster = Cluster(options.scheduler, options.jobs, resources)
    except (ImportError, ConnectionError) as error:
        raise runner.Refused(str(error)) from error
    progress.show(f"{cluster.workers} worker(s) at {options.scheduler}")
    return cluster


def _twins(options: argparse.Namespace) -> None:
    for path in runner.twins():
        print(path)


def _clean(options: argparse.Namespace) -> None:
    paths = runner.written(everything=options.all)
    if not paths:
        print("nothing to remove")
        return
    _ask(paths, yes=options.yes or not options.all)  # all but results and assets is soon made anew
    runner.remove(paths)
    print("removed")


def _list(options: argparse.Namespace) -> None:
    for name, source in runner.notebooks().items():
        print(f"{name}  ({runner.state(name)})")
        for parameter, default in runner.parameters(source).items():
            print(f"    {parameter} = {default}")


def _value(text: str) -> tuple[str, Any]:
    """``name=value`` with the value read as YAML, as papermill does."""
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise runner.Refused(f"expected NAME=VALUE; got {text!r}")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        why = " ".join(str(getattr(error, "problem", None) or error).split())
        raise runner.Refused(
            f"{name}={value}: cannot be read as YAML ({why}). Expected a number, a word, a list "
            "such as [1, 2]; or quote it once more, as in -p 'name=\"text\"'"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pi_lib", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name, do, text, among=commands):
        sub = among.add_parser(name, help=text, description=text)
        sub.set_defaults(do=do)
        return sub

    _add_run(command("run", _run, "execute the notebooks with papermill into book/executed"))
    command("build", lambda _: runner.build(), "render notebooks and prose as HTML, strictly")
    assets = command("assets", _assets, "fetch data and weights, checksums verified")
    assets.add_argument("--data", metavar="DIR", help="a folder of yours to look in first")
    _add_study(
        command("study", _study, "compute the cells of a grid file, going on where it stopped")
    )
    _add_report(
        command("report", _report, "study a folder of your own images or sentences: one HTML file")
    )
    of_store = commands.add_parser("store", help="list, verify, show and remove stored results")
    of_store = of_store.add_subparsers(metavar="ACTION", required=True)
    for name, do, text in (
        ("list", _store_list, "every entry: its size, when and how long it was computed, and what"),
        ("verify", _store_verify, "read every entry and name those that are not as written"),
        ("show", _store_show, "where one entry comes from"),
        ("prune", _store_prune, "remove what no specification needs; asks first"),
    ):
        action = command(name, do, text, of_store)
        action.add_argument("--store", metavar="DIR", help="default: results in PI_LIB_HOME")
        if name == "show":
            action.add_argument("entry", metavar="ID", help="its hex digits, or the first of them")
        if name == "prune":
            action.add_argument("--grid", metavar="FILE", help="keep only what its cells need")
            action.add_argument("--yes", action="store_true", help="do not ask")
    command("twins", _twins, "make the .ipynb twins of the notebooks, or bring them up to date")
    clean = command("clean", _clean, "remove executed copies, twins and the built book")
    clean.add_argument("--all", action="store_true", help="also results and assets; asks first")
    clean.add_argument("--yes", action="store_true", help="do not ask")
    command("list", _list, "list the notebooks, how they stand, and their parameters")
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    profiles = ", ".join(runner.PROFILES)
    parser.add_argument("--profile", default="quick", help=f"one of {profiles} (default: quick)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="notebooks at a time")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="only these, by name or number"
    )
    parser.add_argument(
        "-p", dest="parameter", action="append", default=[], metavar="NAME=VALUE",
        help="set a notebook parameter (may be repeated)",
    )  # fmt: skip


def _add_study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--grid", required=True, metavar="FILE", help="YAML; see notebooks/grids")
    parser.add_argument("--profile", help="in place of the file's, such as full on a GPU")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="processes (default: as many as cores and a GPU take)"
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="compute on this Dask cluster; N steps under way"
    )
    parser.add_argument(
        "--resources", action="append", default=[], metavar="NAME=NUMBER",
        help="what a step takes of a cluster's worker, such as GPU=1",
    )  # fmt: skip
    parser.add_argument("--record", metavar="FOLDER", help="write a file for each computed cell")
    parser.add_argument("--minutes", type=float, help="stop after so long; what is done is kept")
    parser.add_argument("--dry-run", action="store_true", help="only say what is stored")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="FOLDER",
        help="its path, or folder:PATH; in it train/CLASS/*.jpg and test/CLASS/*.jpg, or train.csv "
        "and test.csv (text, label)",
    )  # fmt: skip
    parser.add_argument("--backbone", metavar="NAME", help="default: EfficientNet-Lite0 or MiniLM")
    parser.add_argument("--runs", type=int, metavar="N", help="of every arm, at least 2")
    parser.add_argument("--profile", default="quick", help="sizes, at most (default: quick)")
    parser.add_argument("--output", default="report.html", metavar="FILE", help="the HTML file")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: one per core)")
    parser.add_argument(
        "-p", dest="parameter", action="append", default=[], metavar="NAME=VALUE",
        help="another setting than the profile's, such as epochs=20 (may be repeated)",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

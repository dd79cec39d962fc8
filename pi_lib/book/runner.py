"""The book: notebooks run by papermill, their executed copies rendered strictly by Jupyter Book.

A notebook is a text file ``notebooks/NN_name.py`` (jupytext, py:percent). `run` executes each
in a process of its own and publishes the copy in ``book/executed``; `build` turns prose pages
and executed copies into HTML. A copy records what it was made from, so nothing runs twice.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pi_lib import processes, progress
from pi_lib.book import execute
from pi_lib.study import PROFILES, assets, store

ROOT = Path(__file__).resolve().parents[2]
EXECUTED = Path("book", "executed")
WORDS_A_MINUTE = 200  # of reading, formulas and figures among them
ONE_CORE = {
    "OMP_NUM_THREADS": "1",  # as a study's steps: the same numbers whatever runs beside it
    "OMP_WAIT_POLICY": "PASSIVE",  # on a busy machine, threads that spin starve those that work
}
_children: set[BaseProcess] = set()  # that execute notebooks now
# Modules that change nothing of what a page shows.
RUNNER = {
    "__main__", "book.execute", "book.report", "book.repository", "book.runner", "processes",
    "progress", "study.assets", "study.workers",
}  # fmt: skip


class Refused(ValueError):
    """What was asked for cannot be done as asked; said before any work."""


class Failed(RuntimeError):
    """A notebook raised, or the book did not build without a warning."""


@dataclass(frozen=True)
class Job:
    """One notebook to execute, and where its copy goes."""

    name: str
    source: Path
    target: Path
    parameters: dict[str, Any]
    key: str

    def beside(self, end: str) -> Path:
        """What is written on the way: the "log" of all that notebook and kernel say, the lines of
        "progress", and the copy in the making, "ipynb", which stays if the notebook fails."""
        return self.target.parent / "logs" / f"{self.name}.{end}"


# ---------------------------------------------------------------- the notebooks


def notebooks(root: Path = ROOT) -> dict[str, Path]:
    """The book's notebooks in reading order: name -> source file."""
    sources = {path.stem: path for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.py"))}
    if not sources:
        raise Refused(f"no notebook NN_name.py in {root / 'notebooks'}: run this in a checkout")
    return sources


def parameters(source: Path) -> dict[str, str]:
    """Parameters of a notebook and their defaults, as written in its cell tagged `parameters`."""
    import papermill

    inferred = papermill.inspect_notebook(_read(source))
    return {name: parameter["default"] for name, parameter in inferred.items()}


def state(name: str, root: Path = ROOT) -> str:
    """How the published copy of a notebook stands: profile and date, "stale", or "not run"."""
    record = _record(root / EXECUTED / f"{name}.ipynb")
    if record is None:
        return "not run"
    current = _key(notebooks(root)[name], record["parameters"]) == record["key"]
    return f"{record['profile']}, {record['date']}" + ("" if current else ", stale")


def run(
    names: Iterable[str] = (),
    *,
    profile: str = "quick",
    values: Mapping[str, Any] | None = None,
    jobs: int = 1,
    root: Path = ROOT,
) -> list[str]:
    """Execute notebooks with papermill and publish their copies in ``root/book/executed``.

    Parameters
    ----------
    names : iterable of str, optional
        Which notebooks, by name or number; default all.
    profile : {"smoke", "quick", "reduced", "full"}
        How much is computed; every notebook takes it as a parameter.
    values : mapping, optional
        Further parameters, by name. Each notebook that is run must have them.
    jobs : int
        Notebooks at a time, each on one core; a study within them takes all cores.
    root : path
        The checkout.

    Returns
    -------
    list of str
        Names of the notebooks that were executed; those already up to date are not among them.

    Raises
    ------
    Refused
        Unknown profile, notebook or parameter: before any work.
    Failed
        A notebook raised, after the others were finished: names cell, error and log.
    """
    due = []
    for job in _plan(names, profile, dict(values or {}), jobs, root):
        if (record := _record(job.target)) and record["key"] == job.key:
            progress.show(f"{job.name}: up to date ({record['profile']}, {record['date']})")
        else:
            due.append(job)

    pool = ThreadPoolExecutor(jobs)  # threads only wait: each starts a process
    forks = processes.context(**ONE_CORE) if due else None
    futures = {pool.submit(_in_own_process, job, forks): job for job in due}
    failures = []
    try:
        for future in _watched(futures):
            job = futures[future]
            if error := future.exception():
                failures.append(str(error))
                progress.show(f"{job.name}: FAILED")
            else:
                progress.show(f"{job.name}: done in {progress.clock(future.result())}")
    except BaseException:
        for child in [*_children]:
            child.kill()  # and its kernel ends with it
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        raise Failed("\n\n".join(failures))
    return [job.name for job in due]


def twins(root: Path = ROOT) -> list[Path]:
    """Make or update the ``.ipynb`` twin of every notebook; an edited twin updates its source."""
    from jupytext.cli import jupytext

    sources = list(notebooks(root).values())
    jupytext(["--quiet", "--sync", *map(str, sources)])
    return [source.with_suffix(".ipynb") for source in sources]


# ---------------------------------------------------------------- the rendered book


def build(root: Path = ROOT) -> Path:
    """Render the book to HTML, every warning an error; returns the page to open.

    Raises
    ------
    Refused
        If a notebook has no executed copy yet.
    Failed
        If Jupyter Book warned or failed: its messages.
    """
    folder = root / EXECUTED
    records = {name: _record(folder / f"{name}.ipynb") for name in notebooks(root)}
    if missing := [name for name, record in records.items() if record is None]:
        raise Refused(f"no executed copy of {', '.join(missing)}: run `python -m pi_lib run` first")
    (folder / "record.md").write_text(_record_page(records), encoding="utf-8")

    progress.show("building the pages", last=False)
    command = Path(sys.executable).with_name("jupyter-book")
    options = ["build", "-q", "-n", "-W", "--keep-going", str(root)]
    made = subprocess.run([command, *options], capture_output=True, text=True)
    if made.returncode:
        # Sphinx repeats no warning about a page that it has already read: begin afresh next time.
        shutil.rmtree(root / "_build" / ".doctrees", ignore_errors=True)
        raise Failed(f"the book does not build without a warning:\n{made.stdout}{made.stderr}")
    page = root / "_build" / "html" / "index.html"
    progress.show(f"the book is built: open {page}")
    return page


# ---------------------------------------------------------------- what may be removed again


def written(root: Path = ROOT, everything: bool = False) -> list[Path]:
    """What `run`, `build` and `twins` wrote, and nothing else that lies beside it.

    With `everything` also the results in the store and the assets that were fetched. A twin that
    was edited is its reader's: `twins` takes the edit over first.
    """
    known, folder = notebooks(root), root / EXECUTED
    paths = [root / "_build" / name for name in ("html", "jupyter_execute", ".doctrees")]
    paths += [path for path in (folder / "logs").glob("*") if path.stem in known]
    paths += [copy for name in known if _record(copy := folder / f"{name}.ipynb") is not None]
    paths += [folder / "record.md"]
    twins = {source: source.with_suffix(".ipynb") for source in known.values()}
    paths += [x for source, x in twins.items() if x.exists() and _cells(x) == _cells(source)]
    if everything:
        paths += [*_stored(), *_fetched()]
    return [path for path in paths if path.exists()]


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders, and the folder that held them if it is empty then."""
    for path in paths:
        store.remove(path)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


def _cells(source: Path) -> list:
    """What a page is made from: its cells, their tags and figures, and what it says of itself."""
    notebook = _read(source)
    shown = [
        (cell.cell_type, cell.source, cell.metadata.get("tags", []), cell.metadata.get("mystnb"))
        for cell in notebook.cells
    ]
    return [*shown, notebook.metadata.get("myst")]


def _stored() -> list[Path]:
    """Everything in the store that has the form of an entry, and is not being written."""
    held = store.Store()
    entries = [path for path in held.entries() if (path / "record.json").is_file()]
    left = [path for path in held.waste() if not re.fullmatch(store.DIGEST, path.name)]
    form = re.compile(rf"{store.DIGEST}(-\d+)?|\.{store.DIGEST}\.(partial|lock)")
    return [path for path in entries + left if form.fullmatch(path.name)]


def _fetched() -> list[Path]:
    """The files that the table of assets names, unless the reader keeps them as their own."""
    folder = store.home() / "data"
    own = assets.own_folder()
    if own is not None and folder.exists() and own.samefile(folder):
        return []
    files = [folder / name / file for name, asset in assets.ASSETS.items() for file in asset.files]
    return files + [path for name in assets.ASSETS for path in folder.glob(f".{name}.*")]


# ---------------------------------------------------------------- what `run` is made of


def _read(source: Path):
    import jupytext

    notebook = jupytext.read(source)
    notebook.metadata.pop("jupytext", None)
    notebook.metadata.setdefault(
        "kernelspec", {"name": "python3", "language": "python", "display_name": "Python 3"}
    )
    return notebook


def _record(published: Path) -> dict[str, Any] | None:
    """What an executed copy says of how it was made, or None if there is none."""
    if not published.exists():
        return None
    return json.loads(published.read_text(encoding="utf-8"))["metadata"].get("pi_lib")


def _key(source: Path, values: Mapping[str, Any]) -> str:
    """Digest of everything that decides what a notebook shows.

    A parameter that names a file or a folder, as seen from the notebook, counts with what it holds.
    """
    modules = store.MODULES - RUNNER
    versions = store.environment()["versions"]
    named = {name: default.strip("\"'") for name, default in parameters(source).items()}
    paths = {
        name: source.parent / str(value) for name, value in (named | dict(values)).items() if value
    }
    read = {
        name: [
            [str(file.relative_to(path)), hashlib.sha256(file.read_bytes()).hexdigest()]
            for file in sorted([path, *path.rglob("*")])
            if file.is_file()
        ]
        for name, path in paths.items()
    }
    return store.digest(
        [_cells(source), dict(values), read, store.source_digest(modules), versions]
    )


def _plan(names, profile, values, jobs, root) -> list[Job]:
    """The jobs that were asked for; whatever is unknown is refused here."""
    if profile not in PROFILES:
        raise Refused(f"unknown profile {profile!r}; there are {', '.join(PROFILES)}")
    if jobs < 1:
        raise Refused(f"expected at least 1 job; got {jobs}")
    if "profile" in values:
        raise Refused(f"the profile is chosen by --profile {values['profile']}, not by -p")
    known = notebooks(root)
    by_word = {word: name for name in known for word in (name, name[:2])}
    if unknown := [word for word in names if word not in by_word]:
        raise Refused(f"unknown notebook {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = sorted({by_word[word] for word in names}) or list(known)
    for name in chosen:
        valid = parameters(known[name])
        if "profile" not in valid:
            raise Refused(f"{known[name].name} has no cell tagged `parameters` that sets `profile`")
        if unknown := sorted(set(values) - set(valid)):
            raise Refused(
                f"unknown parameter {', '.join(unknown)} of {name}; it has {', '.join(valid)}"
                " (choose notebooks with --only)"
            )
    values = {"profile": profile, **values}
    return [
        Job(name, known[name], root / EXECUTED / f"{name}.ipynb", values, _key(known[name], values))
        for name in chosen
    ]


def _in_own_process(job: Job, forks: BaseContext) -> float:
    """Execute one notebook in a new interpreter; returns seconds, raises `Failed`."""
    import nbformat

    log, lines, copy = map(job.beside, ("log", "progress", "ipynb"))
    log.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(_read(job.source), copy)
    lines.write_text("")
    environment = os.environ | ONE_CORE | {progress.VARIABLE: str(lines.resolve())}
    start = time.monotonic()
    work = {
        "notebook": copy.resolve(), "parameters": job.parameters, "cwd": job.source.parent,
        "lines": lines.resolve(), "log": log.resolve(), "environment": environment,
    }  # fmt: skip
    child = forks.Process(target=execute.execute, kwargs=work)
    child.start()
    _children.add(child)
    child.join()
    _children.discard(child)
    if child.exitcode:
        raise Failed(_failure(job))
    seconds = time.monotonic() - start
    _publish(job, seconds)
    copy.unlink()
    lines.unlink()
    return seconds


def _publish(job: Job, seconds: float) -> None:
    """Put the executed copy, with how it was made, where the book takes it from."""
    import nbformat

    notebook = nbformat.read(job.beside("ipynb"), as_version=4)
    unseen = any(
        {"parameters", "remove-cell"} <= {*cell.metadata.get("tags", [])} for cell in notebook.cells
    )
    notebook.metadata.pop("papermill", None)  # holds this machine's paths
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if execute.injected(cell):  # shown no more than the cell whose values it replaces
            cell.metadata.tags.append("remove-cell" if unseen else "hide-input")
    record = {
        "profile": job.parameters["profile"],
        "parameters": job.parameters,
        "seconds": round(seconds, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "key": job.key,
        **store.environment(),
    }
    notebook.metadata["pi_lib"] = record
    if prose := [cell for cell in notebook.cells if cell.cell_type == "markdown"]:
        prose[0].source += f"\n\n*{_times(prose, record)}*"
    notebook.cells.append(nbformat.v4.new_markdown_cell(_foot(job, record)))
    aside = job.target.with_suffix(".aside")
    nbformat.write(notebook, aside)
    aside.replace(job.target)


def _times(prose: Iterable[Mapping[str, Any]], record: Mapping[str, Any]) -> str:
    """How long a page takes to read, and how long it took to run."""
    minutes = round(sum(len(cell["source"].split()) for cell in prose) / WORDS_A_MINUTE)
    return (
        f"About {max(1, minutes)} min to read. Running it took {_long(record['seconds'])} "
        f"at the profile {record['profile']}."
    )


def _long(seconds: float) -> str:
    """A duration with its unit: 38 s, or 24:52 min."""
    return f"{seconds:.0f} s" if seconds < 59.5 else f"{progress.clock(seconds)} min"


def _foot(job: Job, record: Mapping[str, Any]) -> str:
    """How the page was made, and the lines that make it again, at the end of every page."""
    valid = parameters(job.source)
    values = {name: default.strip("\"'") for name, default in valid.items()} | job.parameters
    chosen = "".join(
        f" \\\n    -p {name} {shlex.quote(str(value))}" for name, value in values.items()
    )
    return f"""---

*Executed {record["date"]} in {_long(record["seconds"])} at the profile
{record["profile"]}, on {record["device"]} ({record["machine"]}); versions and commit:
[How this copy was made](record.md). The arrow at the top of the page downloads the notebook.
To open it in JupyterLab, or to run it again with other parameters, in a checkout:*

```bash
source .venv/bin/activate
python -m pi_lib twins                          # the notebooks as .ipynb
jupyter lab notebooks/{job.name}.ipynb          # to change it, cell by cell
papermill --help-notebook notebooks/{job.name}.ipynb
papermill notebooks/{job.name}.ipynb out.ipynb --cwd notebooks{chosen}
```"""


def _failure(job: Job) -> str:
    """Why a notebook failed: the cell, its first lines, the error, and where to read more."""
    log, lines, copy = map(job.beside, ("log", "progress", "ipynb"))
    more = f"  log: {log}\n  notebook as far as it came: {copy}"
    cells = json.loads(copy.read_text(encoding="utf-8"))["cells"] if copy.exists() else []
    code = [cell for cell in cells if cell["cell_type"] == "code" and not execute.injected(cell)]
    begun = [line for line in lines.read_text().splitlines() if line.startswith("cell ")]
    if not begun or not code:
        said = log.read_text(encoding="utf-8").strip().splitlines() or ["it said nothing"]
        return f"{job.name} failed before its first cell\n  {said[-1]}\n{more}"
    cell = code[len(begun) - 1]
    source = "".join(cell["source"]).splitlines()
    shown = "\n".join(f"    {line}" for line in source[:3] + ["..."] * (len(source) > 3))
    errors = [o for o in cell["outputs"] if o["output_type"] == "error"]
    error = f"{errors[0]['ename']}: {errors[0]['evalue']}" if errors else "its kernel died"
    where = f"code cell {len(begun)} of {len(code)}"
    return f"{job.name} failed in {where}\n{shown}\n  {error}\n{more}"


def _watched(futures: Mapping[Future, Job]) -> Iterable[Future]:
    """The futures as they finish, with a line that shows meanwhile how far each notebook is."""
    pending, start, shown, said = set(futures), time.monotonic(), "", 0.0
    live = sys.stderr.isatty()
    while pending:
        done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
        yield from done
        now = time.monotonic()
        text = " | ".join(
            f"[{place}/{len(futures)}] {_position(job)}"
            for place, (future, job) in enumerate(futures.items(), 1)
            if future in pending and future.running()
        )
        if text and now - said >= (1 if live else 15) and (text != shown or live):
            width = shutil.get_terminal_size().columns - 10 if live else None
            progress.show(f"{text[:width]}  {progress.clock(now - start)}", last=False)
            shown, said = text, now


def _position(job: Job) -> str:
    """How far a running notebook is: its cell, and the library's own last line within it."""
    lines = job.beside("progress")
    try:
        last = lines.read_text().rpartition("cell ")[-1].split("\n")
    except FileNotFoundError:  # it has not begun, or has just ended
        last = [""]
    within = [line for line in last[1:] if line][-1:]
    return " · ".join([job.name, f"cell {last[0]}" if last[0] else "starting", *within])


def _record_page(records: Mapping[str, dict[str, Any]]) -> str:
    """The page that says how each notebook was run."""
    rows = "\n".join(
        f"| {name.replace('_', ' ')} | {r['profile']} | {progress.clock(r['seconds'])} "
        f"| {r['date']} | {r['device']} | {r['machine']} | {(r['commit'] or '')[:7]} |"
        for name, r in records.items()
    )
    versions = sorted({f"{k} {v}" for r in records.values() for k, v in r["versions"].items()})
    return f"""# How this copy was made

Every notebook of this book was executed by papermill; no result in it was typed in.

| notebook | profile | minutes:seconds | date | device | machine | commit |
|---|---|---|---|---|---|---|
{rows}

Versions: {", ".join(versions)}.

A notebook that reads results stored by an earlier run takes less time than it did when they were
computed; each stored result carries its own record beside it.
"""

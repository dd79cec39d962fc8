"""The book: notebooks run by papermill, their executed copies rendered strictly by Jupyter Book.

A notebook is a text file ``notebooks/NN_name.py`` (jupytext, py:percent). `run` executes each
in a process of its own and publishes the copy in ``book/executed``; `build` turns prose pages
and executed copies into HTML. A copy records what it was made from, so nothing runs twice.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

from pi_lib import progress
from pi_lib.study import store

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ("smoke", "quick", "reduced", "full")
_children: set[subprocess.Popen] = set()  # that execute notebooks now
RUNNER = {
    "__main__",
    "book.runner",
    "progress",
    "study.assets",
    "study.workers",
}  # modules that change no result


class Refused(ValueError):
    """What was asked for cannot be done as asked; said before any work."""


class Failed(RuntimeError):
    """A notebook raised, or the book did not build without a warning."""


@dataclass(frozen=True)
class Job:
    """One notebook to execute: everything that its process needs to know, as JSON values."""

    name: str
    source: str
    target: str
    parameters: dict[str, Any]
    key: str

    @property
    def published(self) -> Path:
        """The executed copy."""
        return Path(self.target)

    @property
    def logs(self) -> Path:
        """Folder of the log, the progress lines and the copy in the making."""
        return Path(self.target).parent / "logs"

    @property
    def log(self) -> Path:
        """Everything that the notebook and its kernel wrote."""
        return self.logs / f"{self.name}.log"

    @property
    def lines(self) -> Path:
        """The progress lines."""
        return self.logs / f"{self.name}.progress"

    @property
    def copy(self) -> Path:
        """The executed copy while it is being made; kept if the notebook fails."""
        return self.logs / f"{self.name}.ipynb"


# ---------------------------------------------------------------- the notebooks


def notebooks(root: Path = ROOT) -> dict[str, Path]:
    """The book's notebooks in reading order: name -> source file."""
    found = {path.stem: path for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.py"))}
    if not found:
        raise Refused(f"no notebook NN_name.py in {root / 'notebooks'}: run this in a checkout")
    return found


def parameters(source: Path) -> dict[str, str]:
    """Parameters of a notebook and their defaults, as written in its cell tagged `parameters`."""
    import papermill

    found = papermill.inspect_notebook(_read(source))
    return {name: parameter["default"] for name, parameter in found.items()}


def state(name: str, root: Path = ROOT, executed: Path | None = None) -> str:
    """How the published copy of a notebook stands: profile and date, "stale", or "not run"."""
    record = _record(_executed(root, executed) / f"{name}.ipynb")
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
    executed: Path | None = None,
    executor: Executor | None = None,
) -> list[str]:
    """Execute notebooks with papermill and publish their executed copies.

    Parameters
    ----------
    names : iterable of str, optional
        Which notebooks, by name or number; default all.
    profile : {"smoke", "quick", "full"}
        How much is computed; every notebook takes it as a parameter.
    values : mapping, optional
        Further parameters, by name. Each notebook that is run must have them.
    jobs : int
        Notebooks at a time, each on one core; a study within them takes all cores.
    root : path
        The checkout.
    executed : path, optional
        Where the executed copies go; default ``root/book/executed``.
    executor : concurrent.futures.Executor, optional
        What runs them, in place of a local pool of `jobs`; it must see the same files.

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
    plan = _plan(names, profile, dict(values or {}), jobs, root, _executed(root, executed))
    due = []
    for job in plan:
        if (record := _record(job.published)) and record["key"] == job.key:
            progress.show(f"{job.name}: up to date ({record['profile']}, {record['date']})")
        else:
            due.append(job)

    pool = executor or ThreadPoolExecutor(jobs)  # threads only wait: each starts a process
    futures = {pool.submit(_in_own_process, job): job for job in due}
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
        _end(_children)
        raise
    finally:
        if executor is None:
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


def build(root: Path = ROOT, executed: Path | None = None) -> Path:
    """Render the book to HTML; every warning is an error.

    Returns
    -------
    path
        The page to open.

    Raises
    ------
    Refused
        If a notebook has no executed copy yet.
    Failed
        If Jupyter Book warned or failed: its messages.
    """
    folder = _executed(root, executed)
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


def clean(root: Path = ROOT, everything: bool = False) -> list[Path]:
    """Remove what `run`, `build` and `twins` made; `everything`: stored results and assets too."""
    made = [root / "_build", root / "book" / "executed"]
    made += sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if everything:
        made += [store.home() / "results", store.home() / "data"]
    removed = [path for path in made if path.exists()]
    for path in removed:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return removed


# ---------------------------------------------------------------- what `run` is made of


def _executed(root: Path, executed: Path | None) -> Path:
    return root / "book" / "executed" if executed is None else executed


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

    A parameter that names a file, as seen from the notebook, counts with what the file holds.
    """
    cells = [[c.cell_type, c.source, c.metadata.get("tags", [])] for c in _read(source).cells]
    modules = store.MODULES - RUNNER
    versions = store.environment()["versions"]
    named = {name: default.strip("\"'") for name, default in parameters(source).items()}
    files = {name: source.parent / str(value) for name, value in (named | dict(values)).items()}
    read = {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in files.items()
        if file.is_file()
    }
    return store.digest([cells, dict(values), read, store.source_digest(modules), versions])


def _plan(names, profile, values, jobs, root, executed) -> list[Job]:
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
        Job(
            name=name,
            source=str(known[name]),
            target=str(executed / f"{name}.ipynb"),
            parameters=values,
            key=_key(known[name], values),
        )
        for name in chosen
    ]


def _in_own_process(job: Job) -> float:
    """Execute one notebook in a new interpreter; returns seconds, raises `Failed`."""
    job.logs.mkdir(parents=True, exist_ok=True)
    job.copy.unlink(missing_ok=True)
    job.lines.write_text("")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",  # as a study's steps: the same numbers whatever runs beside it
        "OMP_WAIT_POLICY": "PASSIVE",  # on a busy machine, threads that spin starve those that work
        progress.VARIABLE: str(job.lines.resolve()),
    }
    start = time.monotonic()
    command = [sys.executable, "-m", "pi_lib.book.runner", json.dumps(asdict(job))]
    with (
        job.log.open("w") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment
        ) as child,
    ):
        _children.add(child)
        child.wait()
        _children.discard(child)
    if child.returncode:
        raise Failed(_failure(job))
    job.copy.unlink()
    job.lines.unlink()
    return time.monotonic() - start


def _end(children: set[subprocess.Popen]) -> None:
    """End processes that execute notebooks; their kernels end with them."""
    for child in [*children]:
        child.terminate()
    for child in [*children]:
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()


def _end_with_parent() -> None:
    """Wait for the end of what started this process, which holds its standard input open."""
    os.read(0, 1)
    os._exit(1)


def _execute(job: Job) -> None:
    """What the new interpreter does: run the cells, record how, publish the copy."""
    import logging

    import nbformat
    import papermill
    from traitlets.config import Config

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    notebook = _read(Path(job.source))
    total = sum(cell.cell_type == "code" for cell in notebook.cells)
    unseen = any(
        {"parameters", "remove-cell"} <= {*cell.metadata.get("tags", [])} for cell in notebook.cells
    )
    started = iter(range(1, total + 1))

    def on_cell_start(cell, cell_index):
        if cell.cell_type == "code" and not _injected(cell):
            with job.lines.open("a", encoding="utf-8") as file:
                file.write(f"cell {next(started)}/{total}\n")

    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pi_lib") as sockets:
        notebook = papermill.execute_notebook(
            notebook,
            job.copy.resolve(),
            parameters=job.parameters,
            kernel_name="python3",
            cwd=Path(job.source).parent,
            progress_bar=False,
            log_output=True,
            # TCP ports can be taken between choice and use; a folder of its own cannot.
            config=Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/k"}),
            on_cell_start=on_cell_start,
        )
    notebook.metadata.pop("papermill", None)  # holds this machine's paths
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if _injected(cell):  # shown no more than the cell whose values it replaces
            cell.metadata.tags.append("remove-cell" if unseen else "hide-input")
    notebook.metadata["pi_lib"] = {
        "profile": job.parameters["profile"],
        "parameters": job.parameters,
        "seconds": round(time.monotonic() - start, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "key": job.key,
        **store.environment(),
    }
    notebook.cells.append(nbformat.v4.new_markdown_cell(_foot(job, notebook.metadata["pi_lib"])))
    aside = job.published.with_suffix(".aside")
    nbformat.write(notebook, aside)
    os.replace(aside, job.published)


def _foot(job: Job, record: Mapping[str, Any]) -> str:
    """How the page was made, and the line that makes it again, at the end of every page."""
    valid = parameters(Path(job.source))
    values = {name: default.strip("\"'") for name, default in valid.items()} | job.parameters
    chosen = "".join(
        f" \\\n    -p {name} {shlex.quote(str(value))}" for name, value in values.items()
    )
    commit = f", at commit {record['commit'][:7]}" if record["commit"] else ""
    return "\n".join(
        [
            "---",
            "",
            f"*Executed {record['date']} in {progress.clock(record['seconds'])} minutes at the"
            f" profile {record['profile']}, on {record['device']} ({record['machine']}){commit};"
            " versions: [How this copy was made](record.md). The arrow at the top of the page"
            " downloads the notebook. To run it again with other parameters, in a checkout after"
            " `python -m pi_lib twins`:*",
            "",
            "```bash",
            f"papermill notebooks/{job.name}.ipynb out.ipynb --cwd notebooks{chosen}",
            "```",
        ]
    )


def _injected(cell: Mapping[str, Any]) -> bool:
    """Whether papermill put this cell in: the one that sets the parameters."""
    return "injected-parameters" in cell["metadata"].get("tags", [])


def _failure(job: Job) -> str:
    """Why a notebook failed: the cell, its first lines, the error, and where to read more."""
    cells = json.loads(job.copy.read_text())["cells"] if job.copy.exists() else []
    code = [cell for cell in cells if cell["cell_type"] == "code" and not _injected(cell)]
    begun = [line for line in job.lines.read_text().splitlines() if line.startswith("cell ")]
    more = f"  log: {job.log}\n  notebook as far as it came: {job.copy}"
    if not begun or not code:
        return f"{job.name} failed before its first cell\n{more}"
    number = int(begun[-1].split()[1].split("/")[0])
    cell = code[number - 1]
    source = "".join(cell["source"]).splitlines()
    shown = "\n".join(f"    {line}" for line in source[:3] + ["..."] * (len(source) > 3))
    errors = [o for o in cell["outputs"] if o["output_type"] == "error"]
    error = f"{errors[0]['ename']}: {errors[0]['evalue']}" if errors else "its kernel died"
    return f"{job.name} failed in code cell {number} of {len(code)}\n{shown}\n  {error}\n{more}"


def _watched(futures: Mapping[Future, Job]) -> Iterable[Future]:
    """The futures as they finish, with a line that shows meanwhile how far each notebook is."""
    pending, start, shown, said = set(futures), time.monotonic(), "", 0.0
    pause = 1.0 if progress.updates(sys.stderr) else 15.0
    while pending:
        done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
        yield from done
        now = time.monotonic()
        text = " | ".join(
            f"[{place}/{len(futures)}] {_position(job)}"
            for place, (future, job) in enumerate(futures.items(), 1)
            if future in pending and future.running()
        )
        if text and now - said >= pause and (text != shown or progress.updates(sys.stderr)):
            width = shutil.get_terminal_size().columns - 10 if sys.stderr.isatty() else None
            progress.show(f"{text[:width]}  {progress.clock(now - start)}", last=False)
            shown, said = text, now


def _position(job: Job) -> str:
    """How far a running notebook is: its cell, and the library's own last line within it."""
    lines = job.lines.read_text().splitlines() if job.lines.exists() else []
    cells = [i for i, line in enumerate(lines) if line.startswith("cell ")]
    if not cells:
        return f"{job.name} starting"
    within = lines[-1] if cells[-1] < len(lines) - 1 else ""
    return " · ".join(filter(None, [job.name, lines[cells[-1]], within]))


def _record_page(records: Mapping[str, dict[str, Any]]) -> str:
    """The page that says how each notebook was run."""
    rows = [
        f"| {name.replace('_', ' ')} | {r['profile']} | {progress.clock(r['seconds'])} "
        f"| {r['date']} | {r['device']} | {r['machine']} |"
        for name, r in records.items()
    ]
    versions = sorted({f"{k} {v}" for r in records.values() for k, v in r["versions"].items()})
    return "\n".join(
        [
            "# How this copy was made",
            "",
            "Every notebook of this book was executed by papermill; no result in it was typed in.",
            "",
            "| notebook | profile | minutes | date | device | machine |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"Versions: {', '.join(versions)}.",
            "",
            "A notebook that reads results stored by an earlier run takes less time than it did"
            " when they were computed; each stored result carries its own record beside it.",
            "",
        ]
    )


if __name__ == "__main__":
    Thread(target=_end_with_parent, daemon=True).start()
    _execute(Job(**json.loads(sys.argv[1])))

"""The command line and the runner, on small notebooks made for the test."""

import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from sphinx.config import Config

from pi_lib.__main__ import main
from pi_lib.book import repository, runner
from pi_lib.study import store

GOOD = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A title

# %% tags=["parameters"]
profile = "quick"
count = 2

# %%
print("profile", profile, "count", count + 1)
"""
BAD = (
    GOOD
    + """
# %%
wanted = "something"
raise RuntimeError("the reason")
"""
)


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_good.py").write_text(GOOD)
    shutil.copy(runner.ROOT / "notebooks" / "jupytext.toml", tmp_path / "notebooks")
    return tmp_path


def outputs(root, name="01_good"):
    notebook = nbformat.read(root / "book" / "executed" / f"{name}.ipynb", 4)
    return "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))


def test_run_once_and_again_only_after_a_change(checkout):
    assert runner.run(profile="smoke", root=checkout) == ["01_good"]
    assert outputs(checkout) == "profile smoke count 3\n"
    assert runner.run(profile="smoke", root=checkout) == []
    assert runner.run(profile="smoke", values={"count": 5}, root=checkout) == ["01_good"]
    assert outputs(checkout) == "profile smoke count 6\n"
    source = checkout / "notebooks" / "01_good.py"
    source.write_text(GOOD.replace("count + 1", "count + 2"))
    assert runner.state("01_good", checkout).endswith("stale")
    assert runner.run(profile="smoke", root=checkout) == ["01_good"]
    for change in ('# %% mystnb={"figure": {"caption": "1"}}\nprint', "# %%\nprint"):
        source.write_text(GOOD.replace("count + 1", "count + 2").replace("# %%\nprint", change))
        assert runner.state("01_good", checkout).endswith("stale") == ("caption" in change)


def test_a_figure_is_shown_below_its_cell(checkout):
    """Though matplotlib was loaded before the kernel began, and could name how it shows figures."""
    source = checkout / "notebooks" / "01_good.py"
    drawn = "\n# %%\nimport matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\n"
    source.write_text(GOOD + drawn)
    runner.run(profile="smoke", root=checkout)
    notebook = nbformat.read(checkout / "book" / "executed" / "01_good.ipynb", 4)
    assert ["image/png" in o.data for o in notebook.cells[-2].outputs] == [True]


def test_run_again_when_what_a_parameter_names_has_changed(checkout):
    source = checkout / "notebooks" / "01_good.py"
    source.write_text(GOOD.replace("count = 2", 'count = 2\nrecord = "../numbers.json"'))
    (checkout / "numbers.json").write_text("[1]")
    assert runner.run(profile="smoke", root=checkout) == ["01_good"]
    assert runner.run(profile="smoke", root=checkout) == []
    (checkout / "numbers.json").write_text("[2]")
    assert runner.state("01_good", checkout).endswith("stale")
    other = checkout / "other.json"
    other.write_text("[2]")
    values = {"record": str(other)}
    assert runner.run(profile="smoke", values=values, root=checkout) == ["01_good"]
    other.write_text("[3]")
    assert runner.state("01_good", checkout).endswith("stale")
    (checkout / "records" / "paper").mkdir(parents=True)
    values = {"record": str(checkout / "records")}
    assert runner.run(profile="smoke", values=values, root=checkout) == ["01_good"]
    (checkout / "records" / "paper" / "cell.npz").write_text("[1]")
    assert runner.state("01_good", checkout).endswith("stale")


def test_the_copy_is_clean_and_says_how_it_was_made(checkout):
    runner.run(profile="smoke", root=checkout)
    copy = checkout / "book" / "executed" / "01_good.ipynb"
    notebook = nbformat.read(copy, 4)
    record = notebook.metadata["pi_lib"]
    assert record["profile"] == "smoke" and record["versions"]["torch"] and record["seconds"] > 0
    assert "papermill" not in notebook.metadata and str(checkout) not in copy.read_text()
    injected = [c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert len(injected) == 1 and "hide-input" in injected[0].metadata.tags
    foot = notebook.cells[-1].source  # says how to run it again, with the values that it had
    assert "papermill notebooks/01_good.ipynb" in foot and "-p count 2" in foot
    assert "-p profile smoke" in foot and record["date"] in foot
    assert "```bash\nsource .venv/bin/activate\n" in foot  # papermill is in there
    assert "papermill --help-notebook notebooks/01_good.ipynb" in foot
    assert "\njupyter lab notebooks/01_good.ipynb " in foot
    # the times, measured, where a reader begins
    assert re.search(r"About 1 min to read. Running it took \d+ s at", notebook.cells[0].source)


def test_a_failure_names_cell_error_and_log_and_keeps_the_others(checkout):
    (checkout / "notebooks" / "02_bad.py").write_text(BAD)
    with pytest.raises(runner.Failed) as failure:
        runner.run(profile="smoke", root=checkout)
    text = str(failure.value)
    log = checkout / "book" / "executed" / "logs" / "02_bad.log"
    assert "02_bad failed in code cell 3 of 3" in text and "RuntimeError: the reason" in text
    assert 'wanted = "something"' in text and str(log) in text and log.exists()
    assert outputs(checkout) == "profile smoke count 3\n"
    (checkout / "notebooks" / "02_bad.py").write_text(GOOD)
    assert runner.run(profile="smoke", root=checkout) == ["02_bad"]  # the finished one is not rerun


def test_a_killed_kernel_is_named(checkout):
    (checkout / "notebooks" / "01_good.py").write_text(
        GOOD + "\n# %%\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with pytest.raises(runner.Failed, match="failed in code cell 3 of 3"):
        runner.run(profile="smoke", root=checkout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "--profile", "long"],
            "unknown profile 'long'; there are smoke, quick, reduced, full",
        ),
        (["run", "--only", "99"], "unknown notebook 99; there are 00_why_pretraining_helps, 01_"),
        (["run", "--only", "04", "-p", "tau=1"], "unknown parameter tau of 04_what_scratch_learns"),
        (["run", "-p", "seed"], "expected NAME=VALUE; got 'seed'"),
        (["run", "--jobs", "0"], "expected at least 1 job"),
    ],
)
def test_what_is_unknown_is_refused_before_any_work(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(runner, "_in_own_process", lambda job: pytest.fail("work was begun"))
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_list_names_notebooks_parameters_and_how_they_stand(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for name, source in runner.notebooks().items():
        assert f"{name}  (" in said
        assert set(runner.parameters(source)) <= set(said.split())


def test_building_without_executed_copies_is_refused(checkout):
    with pytest.raises(runner.Refused, match="no executed copy of 01_good"):
        runner.build(checkout)


def test_a_named_repository_brings_links_to_the_sources(checkout):
    """To the notebook, not to its executed copy, which is in no repository."""
    url = "https://github.com/a/b"
    shutil.copytree(runner.ROOT / "book" / "_static", checkout / "book" / "_static")
    shutil.copy(runner.ROOT / "book" / "references.bib", checkout / "book")
    config = (runner.ROOT / "_config.yml").read_text()
    assert '  url: ""\n' in config
    (checkout / "_config.yml").write_text(config.replace('  url: ""\n', f'  url: "{url}/"\n'))
    (checkout / "_toc.yml").write_text(
        "format: jb-book\nroot: book/executed/01_good\n"
        "chapters: [{file: book/choices}, {file: book/executed/record}]\n"
    )
    (checkout / "book" / "choices.md").write_text("# Choices\n")
    runner.run(profile="smoke", root=checkout)
    pages = runner.build(checkout).parent / "book"
    sources = {
        "executed/01_good": "notebooks/01_good.py",
        "executed/record": "pi_lib/book/runner.py",
        "choices": "book/choices.md",
    }
    for page, source in sources.items():
        text = (pages / f"{page}.html").read_text()
        links = [link for link in re.findall(r'href="(https?://[^"]*)"', text) if "/a/b" in link]
        assert links == [url, f"{url}/edit/main/{source}"]


@pytest.mark.parametrize(
    ("url", "edit"), [("", None), ("https://gitlab.com/a/b", "https://gitlab.com/a/b/-/edit/dev/")]
)
def test_links_are_those_of_the_repositorys_host(url, edit):
    config = Config()
    config.html_theme_options = {"repository_url": url, "repository_branch": "dev"}
    config.html_context = {}
    repository.link(None, config)
    template = config.html_context.get("edit_page_url_template")
    assert (template and template.removesuffix(repository.SOURCE)) == edit


def papermill(checkout, *parameters):
    (twin,) = runner.twins(checkout)
    assert twin == checkout / "notebooks" / "01_good.ipynb"
    command = [sys.executable, "-m", "papermill", str(twin), str(checkout / "out.ipynb")]
    return subprocess.run([*command, *parameters], capture_output=True, text=True)


def test_twins_run_in_plain_papermill(checkout):
    assert papermill(checkout, "-p", "count", "7").returncode == 0
    cells = json.loads((checkout / "out.ipynb").read_text())["cells"]
    assert any("count 8" in "".join(o.get("text", "")) for c in cells for o in c.get("outputs", []))


def test_what_is_mistyped_is_refused_in_plain_papermill(checkout):
    source = checkout / "notebooks" / "01_good.py"
    source.write_text(
        GOOD.replace("print(", "from pi_lib import book; book.begin(profile)\nprint(")
    )
    run = papermill(checkout, "-p", "cuont", "7")
    assert run.returncode
    assert "ValueError: unknown parameter cuont; this notebook has count, profile" in run.stderr


def test_a_long_folder_for_temporary_files(checkout, monkeypatch):
    """A socket has no path of more than 107 bytes."""
    folder = checkout / ("x" * 120)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    assert runner.run(profile="smoke", root=checkout) == ["01_good"]
    assert not list(folder.iterdir())


# ---------------------------------------------------------------- clean


@pytest.fixture
def home(checkout, monkeypatch):
    """A home that holds what the project wrote beside what it did not: (checkout, ours, theirs)."""
    monkeypatch.setenv("PI_LIB_HOME", str(checkout / "home"))
    monkeypatch.delenv("PI_LIB_DATA", raising=False)
    monkeypatch.setattr(runner, "ROOT", checkout)
    written = runner.written
    monkeypatch.setattr(runner, "written", lambda everything: written(checkout, everything))
    entry = store.Store().get("train", {"a": 1}, ["progress"], lambda f: (f / "x").write_text("1"))
    with pytest.raises(KeyboardInterrupt):
        store.Store().get("train", {"a": 2}, ["progress"], interrupted)
    minilm = checkout / "home" / "data" / "minilm" / "config.json"
    theirs = [
        "home/data/thesis.txt", "home/data/minilm/notes.txt", "home/results/table.csv",
        "home/results/train/summary.txt", "home/results/2025/0123456789abcdef/photo.jpg",
        "home/results/2025/holiday/record.json", "home/notes.txt", "_build/mine.txt",
        "notebooks/02_mine.ipynb", "notebooks/01_good.py",
    ]  # fmt: skip
    for path in (minilm, *(checkout / path for path in theirs)):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text("mine")
    ours = [entry, next(entry.parent.glob(".*.partial")), minilm]
    return checkout, ours, [checkout / path for path in theirs]


def interrupted(folder):
    raise KeyboardInterrupt


def executed(checkout, name, **metadata):
    """A copy as `run` writes it, or one that it did not write."""
    path = checkout / "book" / "executed" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(metadata=metadata), path)
    return path


def test_clean_all_removes_only_what_the_project_wrote(home, capsys):
    checkout, ours, theirs = home
    twins, copy = runner.twins(checkout), executed(checkout, "01_good", pi_lib={"key": ""})
    (checkout / "notebooks" / "02_own.py").write_text(GOOD)
    theirs = [*theirs, executed(checkout, "02_own")]
    assert main(["clean"]) == 0  # what is soon made again is removed without a question
    assert not copy.exists() and not twins[0].exists()
    assert all(path.exists() for path in (*ours, *theirs))
    capsys.readouterr()
    assert main(["clean", "--all", "--yes"]) == 0
    named = capsys.readouterr().out.splitlines()
    assert all(str(path) in named for path in ours)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in theirs)
    assert main(["clean", "--all", "--yes"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"


def test_clean_all_asks(home, capsys, monkeypatch):
    checkout, ours, _ = home
    assert main(["clean", "--all"]) == 2  # pytest's standard input is no terminal
    said = capsys.readouterr()
    assert all(str(path) in said.out for path in ours) and "say --yes" in said.err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main(["clean", "--all"]) == 2 and all(path.exists() for path in ours)
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert main(["clean", "--all"]) == 0 and not any(path.exists() for path in ours)


def test_clean_leaves_the_readers_own(home, monkeypatch):
    """A twin that was edited; and assets in the folder that the reader named as theirs."""
    checkout, ours, _ = home
    (twin,) = runner.twins(checkout)
    twin.write_text(twin.read_text().replace("A title", "A thought of mine"))
    monkeypatch.setenv("PI_LIB_DATA", str(checkout / "home" / "data"))
    assert main(["clean", "--all", "--yes"]) == 0
    assert twin.exists() and ours[2].exists() and not ours[0].exists()

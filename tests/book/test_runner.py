"""The command line and the runner, on small notebooks made for the test."""

import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest

from pi_lib.__main__ import main
from pi_lib.book import runner

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


def test_run_again_when_a_file_that_a_parameter_names_has_changed(checkout):
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
        (["run", "-p", "seed"], "expected -p name=value; got 'seed'"),
        (["run", "--jobs", "0"], "expected at least 1 job"),
    ],
)
def test_what_is_unknown_is_refused_before_any_work(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(runner, "_in_own_process", lambda job: pytest.fail("work was begun"))
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_help_and_list_name_what_there_is(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for command in ("run", "build", "assets", "twins", "clean", "list"):
        assert command in text
    assert main(["list"]) == 0
    assert "03_what_is_preserved" in capsys.readouterr().out


def test_building_without_executed_copies_is_refused(checkout):
    with pytest.raises(runner.Refused, match="no executed copy of 01_good"):
        runner.build(checkout)


def test_twins_run_in_plain_papermill(checkout):
    (twin,) = runner.twins(checkout)
    assert twin == checkout / "notebooks" / "01_good.ipynb"
    out = checkout / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(twin), str(out), "-p", "count", "7"]
    subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))
    cells = json.loads(out.read_text())["cells"]
    assert any("count 8" in "".join(o.get("text", "")) for c in cells for o in c.get("outputs", []))

"""The explorers in a real JupyterLab, moved by keyboard."""

import json
import os
import re
import secrets
import subprocess
import sys
import time

import nbformat
import pytest
from test_pages import move

CELL = """
import torch
import pi_lib as pi
from pi_lib import study
from pi_lib.book import explorers, hero, runner

torch.manual_seed(0)
images, players = torch.rand(2, 3, 32, 32), pi.PatchPlayers(grid=4, n=4)
weight = torch.randn(3, 3 * 32 * 32) / 20
model = lambda x: (x.flatten(1) @ weight.T).sin()
seen = pi.extract(model, images, [0, 1], players)
other = pi.extract(lambda x: model(x).cos(), images, [0, 1], players)

logs = [{"step": step, "accuracy": step / 2, "loss": 1.0} for step in range(2)]
record = study.Record(
    {"cell": "a", "labels": [0, 1], "ids": [0, 1], "tested": 10, "players": {"drawn": None},
     "last_step": {"finetuned": 1, "scratch": 1}, "logs": {"finetuned1": logs, "scratch1": logs}},
    {"drawn/finetuned1@0": other.v.numpy(), "drawn/finetuned1": seen.v.numpy(),
     "drawn/scratch1@0": seen.v.numpy(), "drawn/scratch1": other.v.numpy()},
)
for explorer in (
    explorers.explore_game({"": 0, "$a": 1, "$<b>": 1, "$a $<b>": 4}, ["$a", "$<b>"],
                           {"$a $<b>": [0, 1]}),
    explorers.explore_sample(seen, images, players),
    explorers.explore_training(record),
    explorers.explore_training(None),
    explorers.explore_transfer(hero.examples(runner.ROOT / "notebooks" / "recorded" / "hero")),
):
    display(explorer)
"""


@pytest.fixture
def lab(tmp_path):
    """Address of a JupyterLab, on this machine only, that shows a notebook with the explorers."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.strip())])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "explorers.ipynb")
    token, runtime = secrets.token_hex(), tmp_path / "runtime"
    environment = {
        name: value for name, value in os.environ.items() if name != "PI_LIB_PROGRESS"
    } | {
        "HOME": str(tmp_path),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTER_TOKEN": token,
    }
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": 0,
        "ServerApp.allow_root": True,
        "ServerApp.open_browser": False,
        "ServerApp.root_dir": tmp_path / "notebooks",
        "LabApp.extension_manager": "readonly",
        "LabApp.news_url": "None",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *(f"--{k}={v}" for k, v in options.items())],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            yield f"{_url(server, runtime, tmp_path / 'log')}doc/tree/explorers.ipynb?token={token}"
        finally:
            server.terminate()  # ends its kernels too
            server.wait(30)


def _url(server, runtime, log, seconds=90):
    """The address that the server writes down once it listens."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        if found := list(runtime.glob("jpserver-*.json")):
            if text := found[0].read_text():
                return json.loads(text)["url"]
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")


def test_explorers_move_by_keyboard(browser, lab):
    tab = browser.new_page(viewport={"width": 1200, "height": 1600})
    tab.set_default_timeout(90_000)  # the machine may be busy with other tests
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(lab)
    cell = tab.locator(".jp-Notebook .jp-CodeCell").first
    begun = cell.locator(".jp-InputPrompt").filter(has_text=re.compile(r"\[[*\d]+\]"))
    for _ in range(45):  # a cell that is run before its kernel is connected is not run at all
        if begun.count():
            break
        cell.locator(".cm-content").click()
        tab.keyboard.press("Shift+Enter")
        tab.wait_for_timeout(2000)
    explorers = tab.locator(".jp-OutputArea .pi-explore")
    explorers.nth(4).wait_for()
    game, sample, training, nothing, transfer = (explorers.nth(k) for k in range(5))

    assert game.get_by_role("slider").count() == 4  # every value moves, not the page's levels only
    assert "I({$a, $<b>}) = +2.0" in game.inner_text()  # no formula, and no element of HTML
    moved = move(tab, game, "v({\uff04a, \uff04<b>})", "ArrowLeft")
    assert "I({$a, $<b>}) = +1.5" in moved.inner_text()
    assert game.locator("mjx-container").count() == 0

    fewer = int(sample.locator(".pi-readout").inner_text().split()[1])
    more = move(tab, sample, "threshold", "ArrowLeft").locator(".pi-readout").inner_text()
    assert int(more.split()[1]) > fewer
    assert move(tab, sample, "sample").locator("img").count() >= 1

    assert "0 of 1" in training.inner_text()
    assert "1 of 1" in move(tab, training, "checkpoint").inner_text()
    assert "study.run" in nothing.inner_text()
    assert "of order 1 are kept" in move(tab, transfer, "order", "ArrowLeft").inner_text()
    assert transfer.locator("svg").first.bounding_box()["width"] > 80
    assert errors == []
    tab.close()

"""What the tests share: the book, executed at the smoke profile and built once, and a browser."""

import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # without a network it asks for half a minute before it says so

import pytest
import small_study
import torch
from hypothesis import settings
from playwright.sync_api import sync_playwright

from pi_lib import study
from pi_lib.book import runner

settings.register_profile("short", max_examples=30, derandomize=True, deadline=None)
settings.register_profile("soak", max_examples=1000, derandomize=True, deadline=None)
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
settings.load_profile("soak" if LONG else "short")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """`make soak` runs the property tests too, each with many more examples."""
    for item in items:
        if LONG and getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("soak")


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers every time: a test that passes once passes again."""
    torch.manual_seed(0)


@pytest.fixture
def digits(monkeypatch):
    """scikit-learn's digits, registered by `small_study`, in the worker processes too."""
    monkeypatch.setenv("PI_LIB_PLUGINS", small_study.__name__)
    return "digits"


@pytest.fixture
def small(monkeypatch, digits):
    """The study of `small_study`, as its workers have it."""
    monkeypatch.setitem(study.PROFILES, "smoke", small_study.PROFILE)


KEPT = {  # of a folder's records, in the order of their names, those that tests read
    "paper": slice(2), "discarding": slice(5), "data_size": slice(3), "domains": slice(4),
    "ways": slice(8, 24),  # of MiniLM, and of one ResNet-20
}  # fmt: skip


def _left_out(folder: str, names: list[str]) -> set[str]:
    """What a copy of the checkout's sources goes without: what is made, and most of the records."""
    made = shutil.ignore_patterns("executed", "*.ipynb")(folder, names)
    records = sorted(name for name in names if name.endswith(".npz"))
    return (made | {*records}) - {*records[KEPT.get(Path(folder).name, slice(None))]}


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """HTML of the real book: a copy of the checkout's sources, its notebooks run at `smoke`."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("_config.yml", "_toc.yml", "CITATION.cff"):
        shutil.copy(runner.ROOT / name, root)
    for name in ("book", "notebooks"):
        shutil.copytree(runner.ROOT / name, root / name, ignore=_left_out)
    (root / "benchmarks").mkdir()
    shutil.copy(runner.ROOT / "benchmarks" / "recorded.json", root / "benchmarks")
    executed = runner.run(profile="smoke", root=root, jobs=2)  # one waits while one computes
    assert executed == list(runner.notebooks(root))
    return runner.build(root).parent


@pytest.fixture(scope="session")
def browser():
    chromium = shutil.which("chromium")
    assert chromium, "no browser to test the book in: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()

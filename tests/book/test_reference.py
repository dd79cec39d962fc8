"""The reference page: everything that is public stands on it, and all that it names is there."""

import importlib
import re

import pytest

import pi_lib
from pi_lib import study
from pi_lib.book import runner

PAGE = (runner.ROOT / "book" / "reference.md").read_text(encoding="utf-8")
NAMED = re.findall(r"^\.\. auto\w+:: ([\w.]+)$", PAGE, re.M)


def resolved(name: str):
    """What a dotted name leads to: a function before a module of the same name, as for autodoc."""
    first, *rest = name.split(".")
    found = importlib.import_module(first)
    for part in rest:
        if not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("package", [pi_lib, study])
def test_everything_public_is_on_the_page(package):
    shown = {id(resolved(name)) for name in NAMED}
    in_prose = set(re.findall(r"`study\.(\w+)`", PAGE))
    absent = [
        name
        for name in package.__all__
        if id(getattr(package, name)) not in shown and not (package is study and name in in_prose)
    ]
    assert absent == []


def test_everything_on_the_page_is_documented():
    for name in NAMED:
        assert resolved(name).__doc__, name
    assert len(NAMED) == len(set(NAMED))


def test_the_members_that_the_page_chooses_are_there():
    for name, members in re.findall(
        r"^\.\. auto\w+:: ([\w.]+)\n +:members: ([\w, ]+)$", PAGE, re.M
    ):
        for member in members.split(", "):
            assert getattr(resolved(name), member).__doc__, f"{name}.{member}"


def test_no_figure_is_named_twice():
    """Names are the whole book's: the strict build refuses a second one, minutes later."""
    pages = sorted((runner.ROOT / "notebooks").glob("*.py"))
    names = [
        name for page in pages for name in re.findall(r'"name": "(fig-[\w-]+)"', page.read_text())
    ]
    assert len(names) > 30 and sorted(names) == sorted({*names})

"""The house: who may know whom, what keys a stored result, how long a function may be."""

import ast
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

from pi_lib.study import steps, store

PACKAGE = store.PACKAGE
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# The method in the order in which it happens: a module knows those above it.
ORDER = (
    "coalitions transforms and_or.constraint and_or.solver and_or.split and_or players.placement "
    "players.patches players.label_maps players.words players files processes progress values "
    "engine.outputs engine.callables engine.batches engine.checks engine.sharing engine.layout "
    "engine.run engine interactions search extraction statistics knowledge reliability "
    "training.seeds training.split training.run training.objectives training.regression "
    "training.lora training.cuda_graph training.loop training.recipe training.probe "
    "training.phases training training.tracker"
).split()
WINGS = ("pi_lib.study", "pi_lib.book")
# What a step imports and yet does not decide its numbers, and why.
NOT_DECISIVE = {
    "pi_lib": "names alone",
    "pi_lib.engine": "names alone",
    "pi_lib.players": "names alone",
    "pi_lib.training": "names alone",
    "pi_lib.study.data": "names alone",
    "pi_lib.files": "writes what was computed",
    "pi_lib.progress": "says how far it is",
    "pi_lib.study": "names alone",
    "pi_lib.study.cell": "what it decides is in the step's specification",
    "pi_lib.study.store": "keeps what was computed",
    "pi_lib.study.registration": "what is registered is in the step's specification",
    "pi_lib.extraction": "puts the values that were computed into a result",
    "pi_lib.interactions": "holds the values that were computed",
    "pi_lib.transforms": "interactions of stored values are computed when they are read",
}

# Imported by modules that train and extract, and used to extract alone.
FOR_EXTRACTION = {
    "pi_lib.engine.callables",
    "pi_lib.engine.run",
    "pi_lib.extraction",
    "pi_lib.players.label_maps",
    "pi_lib.players.patches",
    "pi_lib.players.placement",
    "pi_lib.players.words",
    "pi_lib.values",
}
FOR_TESTING = {"pi_lib.study.elsewhere"}


def imported(module: str) -> dict[str, int]:
    """Modules of the package that a module imports, by line; not those for types alone."""
    tree = ast.parse(MODULES[module].read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = {}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            within = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in within]
        for name in names:
            if name in MODULES:
                found.setdefault(name, node.lineno)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_the_method_knows_nothing_of_the_study_nor_this_of_the_book(module):
    wing = module.split(".")[1] if "." in module else ""
    wing = wing if wing in ("study", "book") else "method"
    if module in ("pi_lib.__main__", "pi_lib"):
        return
    above = {"method": WINGS, "study": ("pi_lib.book",), "book": ()}[wing]
    for name, line in imported(module).items():
        plots = "plot" in _function_at(module, line)
        wrong = name.startswith(above) if above else False
        assert not wrong or plots, f"{module}, line {line}: imports {name}"


@pytest.mark.parametrize("module", ORDER)
def test_the_method_stands_in_order(module):
    if f"pi_lib.{module}" not in MODULES:
        pytest.fail(f"ORDER names {module}, which is no module")
    below = {f"pi_lib.{name}" for name in ORDER[ORDER.index(module) + 1 :]}
    for name, line in imported(f"pi_lib.{module}").items():
        assert name not in below, f"pi_lib/{module}.py, line {line}: {name} comes after it"


def test_every_module_of_the_method_has_its_place():
    there = {name.removeprefix("pi_lib.") for name in MODULES if not name.startswith(WINGS)}
    assert there - {"pi_lib", "__main__"} == set(ORDER)


def _function_at(module: str, line: int) -> str:
    """Name of the function that a line stands in; empty outside of any."""
    tree = ast.parse(MODULES[module].read_text())
    inside = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.lineno <= line <= node.end_lineno
    ]
    return inside[-1] if inside else ""


# ---------------------------------------------------------------- what keys a stored result


@pytest.mark.parametrize("step", steps.STEPS)
def test_no_module_is_missing_from_a_steps_key(step):
    """Whatever a step's modules import is in its key too, or named above with a reason."""
    keyed = {f"pi_lib.{module}" for module in steps.STEPS[step]}
    spared = set(NOT_DECISIVE) | (set() if step == "extract" else FOR_EXTRACTION)
    spared |= set() if step == "test" else FOR_TESTING
    missing = {
        name: module
        for module in keyed
        for used in imported(module)
        # of a folder, what its names are of
        for name in (imported(used) if MODULES[used].name == "__init__.py" else [used])
        if name not in keyed | spared
    }
    assert not missing


def test_a_steps_module_takes_no_number_from_where_none_is_keyed():
    tree = ast.parse(MODULES["pi_lib.study.steps"].read_text())
    of_cell = [x for x in ast.walk(tree) if getattr(x, "module", "") == "pi_lib.study.cell"]
    assert [alias.name for node in of_cell for alias in node.names] == ["Cell"]


def test_what_watches_a_run_is_in_no_key():
    assert "training.tracker" in store.MODULES
    assert not any("training.tracker" in modules for modules in steps.STEPS.values())


@pytest.mark.parametrize("module", sorted(set().union(*steps.STEPS.values())))
def test_an_error_message_never_retrains(module, monkeypatch):
    """A docstring, a message and a comment leave the key; a number changes it."""
    source = store._SOURCES[module]
    reworded = re.sub(r'^( *)"""(?=[A-Z`])', r'\1"""Reworded. ', source, flags=re.M)
    words = reworded + "\n# a comment\n"
    words += '\n\ndef _added():\n    """Said."""\n    raise ValueError(f"one {1} way")\n'
    other = words.replace("Said.", "Otherwise.").replace("one {1} way", "another way, {2}")
    number = words + "\nADDED = 1\n"

    def key(text):
        monkeypatch.setitem(store._SOURCES, module, text)
        store._code.cache_clear()
        return store.source_digest([module])

    try:
        assert key(words) == key(other)
        assert key(number) != key(words)
        assert reworded != source and key(reworded) == key(source)
    finally:
        monkeypatch.undo()
        store._code.cache_clear()


# ---------------------------------------------------------------- how it is written


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_short(module):
    """At most 60 lines, docstring aside."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = first.end_lineno - first.lineno + 1 if text else 0
            lines = node.end_lineno - node.lineno + 1 - docstring
            assert lines <= 60, f"{module}.{node.name} has {lines} lines"


def test_moved_modules_say_where_they_are():
    import pi_lib

    for old, new in pi_lib._MOVED.items():
        with pytest.raises(ImportError, match=f"pi_lib.{old} is now {new}"):
            __import__(f"pi_lib.{old}")
        assert new in MODULES
        with pytest.raises(AttributeError, match="import that"):
            getattr(pi_lib, old)
    with pytest.warns(DeprecationWarning, match="SparseInteractions is now Interactions"):
        assert pi_lib.SparseInteractions is pi_lib.Interactions


def _missing_names(path: Path) -> list[str]:
    """What a file takes from modules of the package that they do not have."""
    tree, modules, missing = ast.parse(path.read_text()), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, alias.asname) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [(f"{node.module}.{alias.name}", alias.asname) for alias in node.names]
        else:
            continue
        for name, known_as in names:
            if not name.startswith("pi_lib"):
                continue
            try:
                module = pkgutil.resolve_name(name)
            except (ImportError, AttributeError):
                missing.append(name)
                continue
            if inspect.ismodule(module):
                modules[known_as or name.rpartition(".")[-1]] = module
    own = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    attributes = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            attributes.append((node.value.id, node.attr, node.lineno))
    return missing + [
        f"{name}.{attribute}, line {line}"
        for name, attribute, line in attributes
        if name in modules.keys() - own and not hasattr(modules[name], attribute)
    ]


@pytest.mark.parametrize("folder", ["notebooks", "benchmarks", "pi_lib"])
def test_what_is_used_of_the_package_is_there(folder):
    """A chapter that draws old records is run last of all: a name that is gone is seen here."""
    missing = {
        path.name: names
        for path in sorted((PACKAGE.parent / folder).rglob("*.py"))
        if (names := _missing_names(path))
    }
    assert missing == {}


def test_no_folder_of_a_machine_is_named():
    for path in [*MODULES.values(), *(Path(__file__).parent).rglob("*.py")]:
        text = path.read_text()
        assert not re.search(r"[\"'(]/(?:home|root)/", text), path

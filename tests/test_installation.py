"""`pip install .` alone runs the five lines; what more is needed is said where it is missing."""

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FIVE_LINES = re.search(r"```python\n(import pi_lib.*?)```", (ROOT / "README.md").read_text(), re.S)
PROGRAM = """
import sys, tempfile
sys.path[:0] = {path}
import torch
from torch.nn import Flatten, Linear, Sequential
probe, finetuned = (Sequential(Flatten(), Linear(768, 3)).eval() for _ in range(2))
images, labels = torch.rand(2, 3, 16, 16), [0, 2]
*lines, last = {lines}.strip().splitlines()
exec("\\n".join(lines))
with tempfile.TemporaryDirectory() as folder:
    again = pi.Interactions.load(before.save(folder + "/before.safetensors"))
print(pi.compare(again, after).preserved_share(), again.top(1)["value"][0])
assert callable(pi.transfer_study) and "transfer_study" in dir(pi)
try:
    exec(last)
except ImportError as error:
    print(error)
"""


def required(names) -> set[str]:
    """Distributions that installing these brings, themselves among them."""
    found, waiting = set(), [Requirement(name).name for name in names]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name not in found:
            found.add(name)
            needs = map(Requirement, metadata.requires(name) or ())
            waiting += [r.name for r in needs if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> list[str]:
    """What the five lines print where only the declared dependencies can be imported."""
    site = tmp_path_factory.mktemp("site")
    (site / "pi_lib").symlink_to(ROOT / "pi_lib")
    for name in required(DECLARED["dependencies"]):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
    program = PROGRAM.format(path=[str(site)], lines=repr(FIVE_LINES[1]))
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_the_five_lines_run_on_what_is_declared(bare):
    assert re.match(r"0\.\d\d \[.*\] -?\d", bare[0])


def test_a_figure_names_the_extra_it_needs(bare):
    assert bare[1] == "`.plot()` needs matplotlib: pip install 'pi_lib[figures]'"


def test_extras_are_there_under_the_names_that_errors_give():
    extras = DECLARED["optional-dependencies"]
    named = {
        extra
        for file in (ROOT / "pi_lib").rglob("*.py")
        for extra in re.findall(r"pi_lib\[(\w+)\]", file.read_text())
    }
    assert {"figures", "search"} <= named <= set(extras)
    own = [extra for extra, needs in extras.items() for need in needs if "pi_lib[" in need]
    assert all(Requirement(need).extras <= set(extras) for e in own for need in extras[e])


def test_import_loads_little():
    program = "import sys, torch; before = set(sys.modules); import pi_lib, json; print(json.dumps("
    program += "sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    loaded = set(json.loads(run.stdout))
    assert "pi_lib" in loaded
    slow = "transformers seaborn matplotlib dask distributed datasets shapiq pandas scipy sklearn "
    slow += "torchvision"
    assert not loaded & set(slow.split())

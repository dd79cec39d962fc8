"""Nothing that comes from a file, an archive or the net is run."""

import ast

import pytest

from pi_lib.study.store import PACKAGE

SOURCES = [
    *PACKAGE.rglob("*.py"),
    *(PACKAGE.parent / "notebooks").glob("*.py"),
    *(PACKAGE.parent / "benchmarks").glob("*.py"),
]
RUNS_CODE = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_nothing_that_is_read_is_run(source):
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names}
            assert not (names | {getattr(node, "module", None)}) & RUNS_CODE
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        assert called not in ("eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load")
        assert options.get("shell", "False") == "False"
        assert options.get("trust_remote_code", "False") == "False"
        assert options.get("allow_pickle", "False") == "False"
        if called == "torch.load":
            assert options.get("weights_only") == "True"
        if called.endswith("extractall"):
            assert options.get("filter") == "'data'"  # no path outside, no device, no link out

"""The page on a language model: computed anew, and as recorded."""

import shutil

import nbformat
import pytest

from pi_lib.book import runner
from pi_lib.study import findings
from pi_lib.study.record import read_all

NAME = "19_a_language_model"
RUNS = (("finetuned", 1), ("finetuned", 2), ("finetuned", 3), ("anew", 2), ("anew", 3))


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """The page with nothing recorded, at the smallest size."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "notebooks").mkdir()
    shutil.copy(runner.ROOT / "notebooks" / f"{NAME}.py", root / "notebooks")
    runner.run([NAME], profile="smoke", values={"record": ""}, root=root)
    return nbformat.read(root / runner.EXECUTED / f"{NAME}.ipynb", 4)


def test_without_a_record_the_page_computes_what_it_shows(computed):
    outputs = [output for cell in computed.cells for output in cell.get("outputs", [])]
    assert {output.output_type for output in outputs} <= {"display_data", "execute_result"}
    said = "\n".join(output.data.get("text/markdown", "") for output in outputs)
    assert "of 160 texts, on which the models were pre-trained for 1 epoch." in said
    verdicts = [word for word in findings.VERDICTS for _ in range(said.count(f"**{word}**"))]
    assert len(verdicts) == 6


def test_the_record_is_small_and_holds_every_run():
    folder = runner.ROOT / "notebooks" / "recorded" / "language"
    (record,) = read_all(folder).values()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_000_000
    assert [record.count(arm) for arm in ("finetuned", "anew", "scratch")] == [3, 2, 3]
    first, *others = (record.over_time(arm, run) for arm, run in RUNS)
    assert all(list(run) == list(first) for run in others) and len(first) == 8
    same, again, anew = first[0], others[0][0], others[2][0]
    assert (same.v == again.v).all() and not (same.v == anew.v).any()  # one start, and another

"""The records that a page draws: read, or missed in one sentence that says how to make them."""

import numpy as np
import pytest
from IPython import display

from pi_lib.book import by, recorded, runner
from pi_lib.study import findings, read_all

PAPER = runner.ROOT / "notebooks" / "recorded" / "paper"


@pytest.fixture
def shown(monkeypatch):
    """What the page shows."""
    shown = []
    monkeypatch.setattr(display, "display", lambda what: shown.append(what.data))
    return shown


def test_records_are_read(shown):
    assert len(recorded(PAPER)) == len([*PAPER.glob("*.npz")]) and shown == []


@pytest.mark.parametrize("content", [None, b'{"version": 1}', b"no JSON"])
def test_a_page_without_its_records_says_so_in_one_sentence(shown, tmp_path, content):
    folder = tmp_path / "data_size"
    folder.mkdir()
    if content is not None:
        np.savez(folder / "cell.npz", about=np.frombuffer(content, np.uint8))
    assert recorded(folder) == {}
    (sentence,) = shown
    why = "are not there" if content is None else "are of another version"
    assert sentence.startswith(f"The records of `recorded/data_size` {why}")
    assert "--grid notebooks/grids/data_size.yml --record notebooks/recorded/data_size" in sentence
    assert str(tmp_path) not in sentence and sentence.count(". ") == 0


def test_records_that_do_not_differ_are_refused(shown):
    records = recorded(PAPER)
    assert list(by(records, lambda r: r.title)) == sorted(r.title for r in records.values())
    with pytest.raises(ValueError, match="are both full: expected records that differ in it"):
        by(records, lambda r: r.header["profile"])
    assert by({}, lambda r: r.title) == {}


def test_what_the_readme_answers_is_in_the_records():
    """Its four findings, which are prose there: no cell computes them."""
    runs = {record.title: findings.Runs(record) for record in read_all(PAPER).values()}
    assert all(cell.moments().reliability("finetuned").high < 1 for cell in runs.values())
    origins = findings.origins_table(runs).dropna(subset="value")
    parts = origins.pivot(index="cell", columns="part", values="value")
    assert (parts["pretraining"] + parts["both"] < 0.5).mean() > 0.5
    assert (parts["scratch"] + parts["both"] > 0).all() and (parts["neither"] > 0).all()
    assert np.mean([cell.record.gain().low > 0 for cell in runs.values()]) > 0.5
    one_cell = dict([*runs.items()][-1:])
    assert "undecided" in {*findings.findings(one_cell, findings.CLAIMS[1:4])["verdict"]}

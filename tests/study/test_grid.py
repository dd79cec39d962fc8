"""Grid files: read whole or refused whole; computed by the command line; recorded and read back."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pi_lib import study
from pi_lib.__main__ import main
from pi_lib.study import grid
from pi_lib.study.store import Store

GRID = """
profile: smoke
cells:
  - {backbone: efficientnet-lite0, task: fashion-mnist}
  - backbone: vit-32
    source: cifar10
    task: flowers
    pretraining_runs: [0, 1]
"""
WRONG = """
profile: long
profil: quick
1: {one: 1, one: 2}
cells:
  - {backbone: vgg, task: flowers, profile: smoke}
  - {backbone: vgg16-32, task: sst2, profile: smoke}
  - {task: flowers, colour: red}
  - flowers
  - {backbone: minilm, task: sst2, profile: smoke, pretraining_runs: 3}
  - {backbone: minilm, task: sst2, profile: smoke}
  - {backbone: minilm, task: sst2, profile: smoke}
  - {backbone: minilm, task: sst2, profile: smoke, changes: [n_train]}
  - {backbone: minilm, task: sst2, profile: smoke, changes: {n_train: 0, colour: 3}}
  - {backbone: [minilm], task: sst2, profile: smoke}
  - {backbone: minilm, task: sst2, profile: smoke, changes: {rate: 1e-3}}
  - {backbone: minilm, task: "folder:here/photos", profile: smoke}
  - {backbone: minilm, task: "folder:there/photos", profile: smoke}
  - {backbone: minilm, task: sst2, profile: smoke, changes: {1: 2, n_train: 48}}
"""


def test_a_grid_is_its_cells(tmp_path):
    (tmp_path / "g.yml").write_text(GRID)
    assert grid.read(tmp_path / "g.yml") == [
        study.Cell("efficientnet-lite0", "fashion-mnist", "smoke"),
        study.Cell("vit-32", "flowers", "smoke", "cifar10"),
        study.Cell("vit-32", "flowers", "smoke", "cifar10", pretraining_run=1),
    ]


def test_a_cell_may_differ_from_its_profile(tmp_path):
    (tmp_path / "g.yml").write_text(
        """
profile: smoke
changes: {n_train: 48, samples: 2}
cells:
  - {backbone: efficientnet-lite0, task: fashion-mnist}
  - {backbone: efficientnet-lite0, task: fashion-mnist, changes: {n_train: 32}}
"""
    )
    cells = grid.read(tmp_path / "g.yml")
    assert [cell.settings.n_train for cell in cells] == [48, 32]
    assert [cell.settings.samples for cell in cells] == [2, 2]
    assert cells[1].name == "efficientnet-lite0 on fashion-mnist, n_train=32, samples=2"
    one = study.Step(cells[0], "train", "scratch", 0, 0.1)
    assert one.path(Store(tmp_path)) != replace(one, cell=cells[1]).path(Store(tmp_path))


def test_every_error_is_named_at_once_with_its_line(tmp_path):
    (tmp_path / "g.yml").write_text(WRONG)
    with pytest.raises(grid.GridError) as caught:
        grid.read(tmp_path / "g.yml")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("g.yml has 15 error(s):")
    for line, start in zip(
        lines[1:],
        [
            "line 3: unknown key 'profil'; expected profile, pretraining_runs, changes and",
            "line 4: unknown key '1'; expected profile, pretraining_runs, changes and cells",
            "line 4: 'one' is there twice",
            "line 6: backbone='vgg'; expected one of efficientnet-lite0, minilm",
            "line 7: vgg16-32 takes images, but task='sst2' has texts; vgg16-32 has no published",
            "line 8: unknown key 'colour'; expected backbone, task, source, pretraining, "
            "profile, pretraining_runs, changes; backbone is missing",
            "line 9: expected a cell, {backbone: ..., task: ...}; got 'flowers'",
            "line 10: pretraining_runs=3; expected a list such as [0, 1, 2]",
            "line 12: minilm on sst2 is named twice",
            "line 13: changes=['n_train']; expected a mapping, {n_train: 100}",
            "line 14: no setting 'colour' to change; there are batch_size, checkpoints, covering",
            "line 15: backbone=['minilm']; expected one of efficientnet-lite0",
            "line 16: rate='1e-3'; expected a number above 0 (1e-3 is text to YAML: write 0.001)",
            "line 18: minilm on photos is named twice",
            "line 19: no setting 1 to change; there are batch_size",
        ],
        strict=True,
    ):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cells: [", "is no YAML file"),
        ("- a", "expected `cells:`"),
        ("cells: []", "a list of at least one"),
        ("", "expected `cells:`"),
        (None, "No such file"),
    ],
)
def test_what_is_no_grid_is_refused(tmp_path, text, message):
    file = tmp_path / "g.yml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(grid.GridError, match=message):
        grid.read(file)


def test_every_grid_of_the_project_can_be_computed_at_every_profile():
    for file in sorted((Path(__file__).parents[2] / "notebooks/grids").glob("*.yml")):
        count = len(grid.read(file))
        for profile in study.PROFILES:
            cells = grid.read(file, profile)
            assert len(cells) == count > 1 and {cell.profile for cell in cells} == {profile}
            assert all(dict(cell.changes).items() <= vars(cell.settings).items() for cell in cells)
        with pytest.raises(grid.GridError, match="profile='huge'; expected one of smoke, quick"):
            grid.read(file, "huge")


def test_command_line_computes_records_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PI_LIB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PI_LIB_DATA", raising=False)
    (tmp_path / "home").mkdir()
    data = Path(study.__file__).parents[2] / "data"
    if data.exists():  # what was fetched before is not fetched again
        (tmp_path / "home" / "data").symlink_to(data)
    (tmp_path / "bad.yml").write_text("cells: 3")
    assert main(["study", "--grid", str(tmp_path / "bad.yml")]) == 2
    assert "expected `cells:`" in capsys.readouterr().err

    (tmp_path / "g.yml").write_text(GRID)
    command = ["study", "--grid", str(tmp_path / "g.yml"), "--jobs", "2"]
    command += ["--record", str(tmp_path / "rec")]
    assert main(command) == 1  # CIFAR-10 cannot be had here
    shown = capsys.readouterr()
    assert "2 of 3 cells failed; the others are kept" in shown.err
    assert "vit-32 (cifar10, run 1) on flowers" in shown.err
    assert "stored        efficientnet-lite0 on fashion-mnist, smoke" in shown.out
    assert "recorded 1 of 3 cells" in shown.out

    cells = grid.read(tmp_path / "g.yml")
    (record,) = study.read_all(tmp_path / "rec").values()
    result = study.run(cells[0], Store(tmp_path / "home" / "results"))
    assert record.games.keys() == result.games.keys()
    for key, v in result.games.items():  # a record rounds to 65,536 levels
        assert (abs(record.games[key] - v).max(1) <= 0.6 * np.ptp(v, 1) / 65_535 + 1e-9).all()
    assert str(tmp_path) not in json.dumps(record.header)
    assert record.header["provenance"]["train scratch1"]["versions"]["torch"]

    # Another machine, which has computed nothing, adds nothing and takes nothing away.
    assert grid.record(cells, Store(tmp_path / "empty"), tmp_path / "rec") == cells[:1]
    assert list(study.read_all(tmp_path / "rec")) == [record.name]
    other = {"image": replace(study.PROFILES["smoke"]["image"], samples=6)}
    monkeypatch.setitem(study.PROFILES, "smoke", study.PROFILES["smoke"] | other)
    assert grid.record(cells, Store(tmp_path / "empty"), tmp_path / "rec") == []  # not the same
    with pytest.raises(FileNotFoundError, match="python -m pi_lib study --grid FILE --record"):
        study.read_all(tmp_path / "other")

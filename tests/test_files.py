"""Files are there whole, or as they were before."""

import json

import pytest

from pi_lib.files import whole, write_json


def test_a_write_that_is_interrupted_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"steps": [0, 1]})
    with pytest.raises(KeyboardInterrupt), whole(path) as aside:
        aside.write_text('{"steps": [0')
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == {"steps": [0, 1]}
    write_json(path, {"steps": [0, 2]})  # over what was left aside
    assert json.loads(path.read_text()) == {"steps": [0, 2]}
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "values.bin"
    with whole(path, tag=".1") as first, whole(path, tag=".2") as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"  # the outer block ends last

"""Each result once, whole or not at all."""

import json
import threading

import pytest

from pi_lib.store import Store, digest, home, source_digest


def writer(calls, text="done"):
    def compute(folder):
        calls.append(folder)
        (folder / "out.txt").write_text(text)

    return compute


def test_computed_once_and_recorded(tmp_path):
    store, calls = Store(tmp_path), []
    entry = store.get("step", {"a": 1}, ["coalitions"], writer(calls))
    assert store.get("step", {"a": 1}, ["coalitions"], writer(calls)) == entry
    assert len(calls) == 1 and (entry / "out.txt").read_text() == "done"
    record = store.record(entry)
    assert record["spec"] == {"a": 1} and record["versions"]["torch"] and record["seconds"] >= 0


def test_another_spec_step_or_code_is_another_entry(tmp_path):
    store = Store(tmp_path)
    entries = {
        store.path("step", {"a": 1}, ["coalitions"]),
        store.path("step", {"a": 2}, ["coalitions"]),
        store.path("other", {"a": 1}, ["coalitions"]),
        store.path("step", {"a": 1}, ["coalitions", "transforms"]),
    }
    assert len(entries) == 4
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert source_digest(["coalitions", "store"]) == source_digest(["store", "coalitions"])
    assert source_digest(["coalitions"]) != source_digest(["store"])


def test_a_failure_leaves_nothing(tmp_path):
    store = Store(tmp_path)

    def fail(folder):
        (folder / "half.txt").write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        store.get("step", {}, [], fail)
    assert not [p for p in (tmp_path / "step").iterdir() if not p.name.endswith(".lock")]
    assert (store.get("step", {}, [], writer([])) / "out.txt").exists()


def test_two_at_once_compute_once(tmp_path):
    calls, entries = [], []
    started = threading.Event()

    def slow(folder):
        started.set()
        calls.append(folder)
        threading.Event().wait(0.3)
        (folder / "out.txt").write_text("done")

    def work():
        entries.append(Store(tmp_path).get("step", {}, [], slow))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(set(entries)) == 1
    json.loads((entries[0] / "record.json").read_text())


def test_home_is_what_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("PI_LIB_HOME", str(tmp_path / "there"))
    assert home() == tmp_path / "there"
    monkeypatch.delenv("PI_LIB_HOME")
    assert (home() / "pyproject.toml").exists()

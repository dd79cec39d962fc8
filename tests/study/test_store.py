"""Each result once, whole or not at all; what is damaged is found; many may write at once."""

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_lib.__main__ import main
from pi_lib.study import store as stores
from pi_lib.study.store import DamagedEntry, Store, StoreError, digest, fault, home, source_digest


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
    assert source_digest(["coalitions", "study.store"]) == source_digest(
        ["study.store", "coalitions"]
    )
    assert source_digest(["coalitions"]) != source_digest(["study.store"])


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


# ---------------------------------------------------------------- what is damaged is found


@pytest.fixture
def entry(tmp_path):
    def compute(folder):
        (folder / "numbers.bin").write_bytes(bytes(range(64)))
        (folder / "more").mkdir()
        (folder / "more" / "words.txt").write_text("words")

    return Store(tmp_path).get("step", {"a": 1}, ["coalitions"], compute)


def found(entry):
    """What is wrong, for a process that has not looked at the entry before."""
    stores._sound.clear()
    return fault(entry)


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.soak)])
def test_every_flipped_byte_is_found(entry, stride):
    files = [path for path in entry.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        "numbers.bin", "words.txt", "record.json", "SHA256SUMS"
    }  # fmt: skip
    for path in files:
        whole = path.read_bytes()
        for at in range(0, len(whole), stride):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert found(entry) is not None, (path, at)
        path.write_bytes(whole)
    assert found(entry) is None


def test_what_is_cut_short_emptied_gone_or_added_is_found(entry):
    for path in [path for path in entry.rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        for part in (b"", whole[:-1]):
            path.write_bytes(part)
            assert path.name in found(entry) or path.name == "SHA256SUMS" and found(entry)
        path.unlink()
        assert path.name in found(entry)
        path.write_bytes(whole)
    (entry / "stray").write_text("")
    assert "stray" in found(entry)


def test_the_sums_are_those_of_sha256sum(entry):
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=entry, check=True)


def test_a_damaged_entry_is_set_aside_named_and_computed_again(entry, tmp_path):
    store, calls = Store(tmp_path), []
    (entry / "numbers.bin").write_bytes(b"other")
    assert not store.has("step", {"a": 1}, ["coalitions"])
    with pytest.warns(DamagedEntry, match=f"step/{entry.name} is damaged .*numbers.bin.*moved to"):
        assert store.get("step", {"a": 1}, ["coalitions"], writer(calls)) == entry
    assert len(calls) == 1 and found(entry) is None
    (aside,) = (tmp_path / "damaged" / "step").iterdir()
    assert (aside / "numbers.bin").read_bytes() == b"other"
    assert store.entries() == [entry]


# ---------------------------------------------------------------- what goes wrong while writing


def test_an_interrupted_attempt_is_gone_on_from(tmp_path):
    store = Store(tmp_path)

    def interrupted(folder):
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    def rest(folder):
        assert (folder / "half.txt").read_text() == "half"
        (folder / "out.txt").write_text("done")

    with pytest.raises(KeyboardInterrupt):
        store.get("step", {}, [], interrupted)
    assert not store.has("step", {}, [])
    entry = store.get("step", {}, [], rest)
    assert store.record(entry)["resumed"] and leftovers(tmp_path) == []


def test_a_full_disk_is_said_and_earlier_entries_stay(entry, tmp_path):
    def fill(folder):
        with open("/dev/full", "w") as file:  # the kernel's own: no space left on device
            file.write("x" * 10**6)

    def fill_by_torch(folder):
        try:
            fill(folder)
        finally:
            raise RuntimeError("unexpected pos")  # its writer, on top of the kernel's

    for way in (fill, fill_by_torch):
        with pytest.raises(StoreError, match="the disk is full: free some space.*PI_LIB_HOME"):
            Store(tmp_path).get("step", {"a": 2}, [], way)
        assert [*tmp_path.glob("step/.*.partial")]
    assert found(entry) is None
    assert Store(tmp_path).get("step", {"a": 2}, [], writer([])).is_dir()  # when there is space


def test_a_store_that_cannot_be_written_to_is_said(tmp_path, entry):
    with pytest.raises(StoreError, match="/sys/results: it cannot be written to"):
        Store("/sys/results").get("step", {}, [], writer([]))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="it cannot be written to"):
        Store(tmp_path / "file").get("step", {}, [], writer([]))


@pytest.mark.parametrize("said", ["CUDA out of memory.", "you tried to allocate memory"])
def test_short_of_memory_an_attempt_is_gone_on_from(tmp_path, said):
    def short(folder):
        (folder / "half.txt").write_text("half")
        raise RuntimeError(said)  # as torch does

    with pytest.raises(RuntimeError, match=said):
        Store(tmp_path).get("step", {}, [], short)
    assert [*tmp_path.glob("step/.*.partial/half.txt")]


def test_an_error_of_the_computation_is_its_own(tmp_path):
    def denied(folder):
        raise PermissionError(errno.EACCES, "denied", "/elsewhere/data")

    with pytest.raises(PermissionError, match="/elsewhere/data"):
        Store(tmp_path).get("step", {}, [], denied)


def leftovers(root):
    return [path for path in root.rglob(".*")]


def numbered(k):
    """What an entry of this number holds; written slowly enough to be interrupted."""

    def compute(folder):
        for part in range(3):
            (folder / f"{part}.txt").write_text(f"{k} {part} " * 50)
            time.sleep(0.001)

    return compute


def reads(entry, k):
    return all((entry / f"{part}.txt").read_text() == f"{k} {part} " * 50 for part in range(3))


def use(root, seed, rounds, wrong):
    draw = random.Random(seed)
    for _ in range(rounds):
        k = draw.randrange(40)
        if not reads(Store(root).get("step", {"k": k}, [], numbered(k)), k):
            wrong.value += 1


@pytest.mark.parametrize(
    ("processes", "rounds"), [(4, 25), pytest.param(8, 500, marks=pytest.mark.soak)]
)
def test_many_processes_on_one_store(tmp_path, processes, rounds):
    fork = multiprocessing.get_context("fork")  # what they need is loaded
    wrong = fork.Value("i", 0)
    users = [
        fork.Process(target=use, args=(tmp_path, seed, rounds, wrong)) for seed in range(processes)
    ]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert [user.exitcode for user in users] == [0] * processes and wrong.value == 0
    assert leftovers(tmp_path) == []
    assert all(found(entry) is None for entry in Store(tmp_path).entries())


def fill(root, count):
    for k in range(count):
        Store(root).get("step", {"k": k}, [], numbered(k))


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_killed_at_any_moment_the_end_is_the_same(tmp_path, kills):
    fork, draw, count = multiprocessing.get_context("fork"), random.Random(0), 4 * kills
    for _ in range(kills):
        user = fork.Process(target=fill, args=(tmp_path, count))
        user.start()
        time.sleep(draw.uniform(0.005, 0.1))
        os.kill(user.pid, signal.SIGKILL)
        user.join()
    fill(tmp_path, count)
    assert len(Store(tmp_path).entries()) == count
    for k in range(count):
        entry = Store(tmp_path).path("step", {"k": k}, [])
        assert found(entry) is None and reads(entry, k)
        assert {path.name for path in entry.iterdir()} == {
            "0.txt", "1.txt", "2.txt", "record.json", "SHA256SUMS"
        }  # fmt: skip
    assert leftovers(tmp_path) == []


# ---------------------------------------------------------------- the command


def test_the_command_lists_verifies_shows_and_prunes(tmp_path, capsys, monkeypatch):
    store = Store(tmp_path)
    spec = {"backbone": "minilm", "task": "sst2", "arm": "scratch", "run": 2}
    kept = store.get("train", spec, ["coalitions"], writer([]))
    damaged = store.get("train", {"k": 1}, ["coalitions"], writer([]))
    old = store.get("train", {"k": 2}, ["coalitions"], writer([]))
    record = store.record(old) | {"code": "of another version"}
    (old / "record.json").write_text(json.dumps(record))
    (old / "SHA256SUMS").write_text(stores._sums(old))
    (damaged / "out.txt").write_text("dome")
    partial = tmp_path / "train" / ".0123456789abcdef.partial"
    partial.mkdir()

    def run(*arguments):
        status = main(["store", *arguments, "--store", str(tmp_path)])
        said = capsys.readouterr()
        return status, said.out + said.err

    status, text = run("list")
    assert status == 0 and "minilm sst2 scratch, run 3" in text and "3 entries" in text
    assert "DAMAGED (not as written: out.txt)" in text and "by other code" in text
    status, text = run("verify")
    assert status == 1 and "2 of 3 entries are as written" in text and damaged.name in text
    status, text = run("show", kept.name[:8])
    assert status == 0 and "task: sst2" in text and "torch:" in text
    assert run("show", "ffff")[0] == 2 and run("show", damaged.name)[0] == 1
    monkeypatch.setattr("builtins.input", lambda _: "")
    assert run("prune")[0] == 2 and old.exists()
    status, text = run("prune", "--yes")
    assert status == 0 and old.name in text and ".partial" in text
    assert store.entries() == [kept] and not partial.exists()
    assert run("prune")[1] == "nothing to remove\n" and Path(kept / "out.txt").exists()


def test_an_entry_of_another_store_is_taken_in(tmp_path):
    """As it was written, with its record; in the place of a damaged one, not of a sound one."""
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    entry = one.get("step", {}, [], writer([]))
    files = {path.name: path.read_bytes() for path in entry.iterdir()}
    taken = other.put("step", {}, [], files)
    assert other.has("step", {}, []) and other.record(taken) == one.record(entry)
    other.put("step", {}, [], files | {"out.txt": b"another"})
    assert (taken / "out.txt").read_text() == "done"
    (taken / "out.txt").write_text("spoilt")
    with pytest.warns(DamagedEntry, match=f"step/{taken.name} is damaged"):
        other.put("step", {}, [], files)
    assert other.has("step", {}, []) and (taken / "out.txt").read_text() == "done"
    assert not list(other.root.glob("*/.*"))


def test_without_git_or_in_a_repository_of_others_there_is_no_commit(tmp_path, monkeypatch):
    """As where the package is installed into an environment within the reader's own checkout."""
    for command in (["init"], ["commit", "--allow-empty", "--message", "theirs"]):
        name = ["-c", "user.name=they", "-c", "user.email=they@example.org"]
        subprocess.run(["git", *name, *command], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(stores, "PACKAGE", tmp_path / ".venv")
    assert stores._installed.__wrapped__()[1] is None
    monkeypatch.setenv("PATH", str(tmp_path))
    versions, commit = stores._installed.__wrapped__()
    assert commit is None and versions["python"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4), st.randoms())
def test_a_specification_has_one_digest_whatever_its_order(spec, random):
    keys = list(spec)
    random.shuffle(keys)
    assert digest({key: spec[key] for key in keys}) == digest(spec)
    assert digest(json.loads(json.dumps(spec))) == digest(spec)  # what is read back is the same
    assert digest(spec | {"one more": 1}) != digest(spec | {"one more": 2})


@given(st.dictionaries(st.text("ab/", min_size=1, max_size=3), st.binary(max_size=9), max_size=4))
def test_any_files_are_kept_as_they_were_written(tmp_path_factory, files):
    files = {name.replace("/", "-"): content for name, content in files.items()}

    def compute(folder):
        for name, content in files.items():
            (folder / name).write_bytes(content)

    entry = Store(tmp_path_factory.mktemp("store")).get("step", {}, [], compute)
    assert found(entry) is None
    for name, content in files.items():
        assert (entry / name).read_bytes() == content

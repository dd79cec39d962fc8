"""Where assets come from: a toy wheel through the real pip, and the real assets' checksums."""

import gzip
import hashlib
import struct
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from pi_lib.study import assets, backbones, data
from pi_lib.study.assets import Asset, ChecksumError, File, MissingAsset, fetch


def sha256(content):
    return hashlib.sha256(content).hexdigest()


CONTENT, TERMS = b"the weights", b"free to use"


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An empty home, no folder of the reader's, and a registry with one toy wheel."""
    registry = tmp_path / "registry"
    registry.mkdir()
    info = "toy-1.0.dist-info"
    with zipfile.ZipFile(registry / "toy-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy/weights.bin", CONTENT)
        wheel.writestr("toy/__init__.py", "raise SystemExit('never to be unpacked')")
        wheel.writestr(f"{info}/LICENSE", TERMS)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    toy = Asset(
        name="toy",
        what="a toy",
        licence="none",
        package="toy==1.0",
        archive="toy-1.0-py3-none-any.whl",
        sha256=sha256((registry / "toy-1.0-py3-none-any.whl").read_bytes()),
        files={
            "weights.bin": File((sha256(CONTENT),), "toy/weights.bin"),
            "LICENSE": File((sha256(TERMS),), f"{info}/LICENSE"),
        },
    )
    monkeypatch.setitem(assets.ASSETS, "toy", toy)
    monkeypatch.setenv("PI_LIB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PI_LIB_DATA", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry))
    return tmp_path


def change(monkeypatch, **fields):
    monkeypatch.setitem(assets.ASSETS, "toy", replace(assets.ASSETS["toy"], **fields))


def forbid(monkeypatch):
    """No source but those on disk may be asked."""

    def run(*_, **__):
        raise AssertionError("pip was called")

    monkeypatch.setattr(subprocess, "run", run)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_registry_gives_the_members_of_the_table_and_no_others(alone, monkeypatch):
    folder = fetch("toy")
    assert folder == alone / "home" / "data" / "toy"
    assert names(folder) == ["LICENSE", "weights.bin"]
    assert (folder / "weights.bin").read_bytes() == CONTENT
    forbid(monkeypatch)
    assert fetch("toy") == folder


def test_registry_archive_with_wrong_checksum_is_never_opened(alone, monkeypatch):
    good = assets.ASSETS["toy"].sha256
    change(monkeypatch, sha256="0" * 64)
    monkeypatch.setattr(assets, "_unpack", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(ChecksumError) as error:
        fetch("toy")
    assert good in str(error.value) and "0" * 64 in str(error.value)
    assert not (alone / "home" / "data" / "toy").exists()


def test_own_archive_is_unpacked(alone, monkeypatch):
    forbid(monkeypatch)
    folder = fetch("toy", data=alone / "registry")
    assert (folder / "weights.bin").read_bytes() == CONTENT
    monkeypatch.setenv("PI_LIB_DATA", str(alone / "registry"))
    assert fetch("toy") == folder


def test_own_archive_with_wrong_checksum_is_never_opened(alone, monkeypatch):
    archive = alone / "registry" / "toy-1.0-py3-none-any.whl"
    expected = sha256(archive.read_bytes())
    archive.write_bytes(archive.read_bytes() + b"!")
    monkeypatch.setattr(assets, "_member", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(ChecksumError) as error:
        fetch("toy", data=alone / "registry")
    assert expected in str(error.value) and sha256(archive.read_bytes()) in str(error.value)
    assert not (alone / "home" / "data" / "toy").exists()


def test_own_archive_is_checked_even_if_the_asset_was_fetched_before(alone):
    fetch("toy", data=alone / "registry")
    (alone / "registry" / "toy-1.0-py3-none-any.whl").write_bytes(b"another wheel")
    with pytest.raises(ChecksumError, match=sha256(b"another wheel")):
        fetch("toy", data=alone / "registry")


def test_own_files_come_first_and_are_checked(alone, monkeypatch):
    fetch("toy")
    own = alone / "own" / "toy"
    own.mkdir(parents=True)
    (own / "weights.bin").write_bytes(CONTENT)
    (own / "LICENSE").write_bytes(TERMS)
    assert fetch("toy", data=alone / "own") == own
    (own / "weights.bin").write_bytes(b"other weights")
    with pytest.raises(ChecksumError, match=sha256(CONTENT)):
        fetch("toy", data=alone / "own")
    (own / "weights.bin").unlink()
    assert fetch("toy", data=alone / "own") == alone / "home" / "data" / "toy"


def test_own_folder_that_does_not_exist_is_refused(alone):
    with pytest.raises(MissingAsset, match="nowhere, does not exist"):
        fetch("toy", data=alone / "nowhere")


def test_damaged_copy_is_fetched_again(alone):
    folder = fetch("toy")
    (folder / "weights.bin").write_bytes(b"half of the wei")
    assert fetch("toy") == folder
    assert (folder / "weights.bin").read_bytes() == CONTENT


def test_missing_says_what_was_tried_in_order_and_how_to_supply_it(alone, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(alone))
    change(monkeypatch, system=str(alone / "system"))
    (alone / "own").mkdir()
    with pytest.raises(MissingAsset) as error:
        fetch("toy", data=alone / "own")
    lines = str(error.value).splitlines()
    assert lines[0] == "toy (a toy) was not found. Tried, in this order:"
    assert lines[1].startswith("  1. your own folder (PI_LIB_DATA): ") and "own has no" in lines[1]
    assert lines[2].startswith("  2. what was fetched before: ")
    assert lines[3].startswith("  3. the system's folder: ")
    assert lines[4].startswith("  4. the package registry (toy==1.0): pip failed: ERROR: No match")
    assert lines[5].startswith("To supply it, put toy-1.0-py3-none-any.whl, or toy/ with weights")
    assert "PI_LIB_DATA=FOLDER" in lines[5] and len(lines) == 6


def test_library_that_fails_is_one_failed_source(alone, monkeypatch):
    from torchvision.datasets import FashionMNIST

    monkeypatch.setattr(FashionMNIST, "mirrors", [(alone / "nothing").as_uri() + "/"])
    fashion = replace(assets.ASSETS["fashion-mnist"], system=str(alone / "system"))
    monkeypatch.setitem(assets.ASSETS, "fashion-mnist", fashion)
    with pytest.raises(MissingAsset) as error:
        fetch("fashion-mnist")
    assert "apt-get install dataset-fashion-mnist" in str(error.value)
    assert "4. torchvision's own download: RuntimeError" in str(error.value)
    assert names(alone / "home" / "data") == [".fashion-mnist.lock"]


def test_torchvision_download_has_the_publishers_checksums(tmp_path, monkeypatch):
    """Debian repacked the headers only: with name and date put back, torchvision's sums hold."""
    from torchvision.datasets import FashionMNIST

    mirror = tmp_path / "mirror"
    mirror.mkdir()
    folder = fetch("fashion-mnist")
    contents = {}
    for name in assets.ASSETS["fashion-mnist"].files:
        packed = (folder / name).read_bytes()
        contents[name] = sha256(gzip.decompress(packed))
        if not packed[3] & 8:  # no file name in the header
            date = 1504176606 if name.startswith("train") else 1504176627
            stamp = b"\x1f\x8b\x08\x08" + struct.pack("<I", date) + b"\x00\x03"
            packed = stamp + name.removesuffix(".gz").encode() + b"\x00" + packed[10:]
        (mirror / name).write_bytes(packed)
    monkeypatch.setenv("PI_LIB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PI_LIB_DATA", raising=False)
    fashion = replace(assets.ASSETS["fashion-mnist"], system=str(tmp_path / "system"))
    monkeypatch.setitem(assets.ASSETS, "fashion-mnist", fashion)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(SimpleHTTPRequestHandler, directory=mirror)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        fetched = fetch("fashion-mnist")
        server.shutdown()
    assert fetched == tmp_path / "home" / "data" / "fashion-mnist"
    assert names(fetched) == sorted(contents)
    assert contents == {
        name: sha256(gzip.decompress((fetched / name).read_bytes())) for name in contents
    }


def test_processes_that_want_the_same_asset_fetch_it_once(alone, monkeypatch):
    calls, run = [], subprocess.run

    def counted(*args, **options):
        calls.append(args)
        return run(*args, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(fetch, ["toy", "toy"]))) == 1
    assert len(calls) == 1


def test_fetch_all_reports_each_asset_and_all_that_are_missing_at_once(alone, monkeypatch):
    toy = assets.ASSETS["toy"]
    absent = {name: replace(toy, name=name, package="absent==1.0") for name in ("left", "right")}
    monkeypatch.setattr(assets, "ASSETS", {"left": absent["left"], "toy": toy, **absent})
    lines = []
    with pytest.raises(MissingAsset) as error:
        assets.fetch_all(lines.append)
    assert len(lines) == 1 and lines[0].split()[:2] == ["toy", "fetched"]
    assert "left (a toy) was not found" in str(error.value)
    assert "right (a toy) was not found" in str(error.value)
    monkeypatch.setattr(assets, "ASSETS", {"toy": toy})
    assets.fetch_all(lines.append)
    assert lines[1].split()[:2] == ["toy", "present"]


def test_what_is_fetched_is_in_the_identity_of_results(alone, monkeypatch):
    before = assets.digest("toy")
    change(monkeypatch, what="said otherwise")
    assert assets.digest("toy") == before
    change(monkeypatch, files={"weights.bin": File([sha256(b"others")])})
    assert assets.digest("toy") != before
    assert assets.digest("fashion-mnist") in data.identity("fashion-mnist+odd")
    assert assets.digest("rated-texts") in data.identity("tweets")
    assert assets.digest("minilm") in backbones.identity("minilm")


def test_unknown_name_names_the_known():
    with pytest.raises(ValueError, match="'lite0'; there are efficientnet-lite0, minilm"):
        fetch("lite0")


@pytest.mark.parametrize("name", assets.NAMES)
def test_real_assets_are_whole_and_keep_their_licence(name):
    asset, folder = assets.ASSETS[name], fetch(name)
    for file, expected in asset.files.items():
        assert sha256((folder / file).read_bytes()) in expected.sha256
    licences = [file for file in names(folder) if file.startswith("LICENSE")]
    assert bool(licences) == bool(asset.package)  # Debian keeps Fashion-MNIST's among its own
    assert all(len(file.sha256[0]) == 64 for file in asset.files.values())

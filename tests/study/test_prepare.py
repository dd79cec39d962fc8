"""The published archives, in small, become the files that the loaders read."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from pi_lib.study import data
from pi_lib.study.data import prepare


def archive(path, members):
    with tarfile.open(path, "w:gz") as packed:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            packed.addfile(about, io.BytesIO(content))
    return path


def cifar10(path, per_batch=20):
    """As the binary version is laid out; smooth pictures, which JPEG hardly changes."""
    draw = np.random.default_rng(0)
    pictures = (
        draw.integers(0, 256, (6 * per_batch, 3, 1, 1), dtype="u1").repeat(32, 2).repeat(32, 3)
    )
    labels = draw.permutation(np.arange(len(pictures)) % 10).astype("u1")
    rows = np.concatenate([labels[:, None], pictures.reshape(len(pictures), -1)], axis=1)
    names = ["test_batch", *(f"data_batch_{k}" for k in (5, 2, 3, 4, 1))]
    batch = {"test_batch": 5} | {f"data_batch_{k}": k - 1 for k in range(1, 6)}
    members = {
        f"cifar-10-batches-bin/{name}.bin": rows.reshape(6, per_batch, -1)[batch[name]].tobytes()
        for name in names  # in another order than their numbers
    }
    archive(path, members | {"cifar-10-batches-bin/batches.meta.txt": b"airplane\n"})
    return pictures, labels


def test_cifar10(tmp_path, capsys, monkeypatch):
    pictures, labels = cifar10(tmp_path / "cifar-10-binary.tar.gz")
    made = tmp_path / "made"
    monkeypatch.setattr(prepare, "SUBSET", (30, 20))
    assert prepare.main(["cifar10", str(tmp_path / "cifar-10-binary.tar.gz"), str(made)]) == 0
    assert len(capsys.readouterr().out.split()) == 3
    subset = data.load("cifar10", data=made)
    assert torch.equal(subset.train.inputs, torch.from_numpy(pictures[:30]))
    assert subset.train.labels.tolist() == labels[:30].tolist()
    assert torch.equal(subset.test.inputs, torch.from_numpy(pictures[100:]))
    lossy = data.load("cifar10-jpeg", data=made)
    order = np.argsort(labels[:100], kind="stable")
    assert lossy.train.labels.tolist() == labels[order].tolist() and len(lossy.test) == 20
    assert lossy.classes == subset.classes and lossy.classes[9] == "truck"
    difference = lossy.train.inputs.int() - torch.from_numpy(pictures[order]).int()
    assert difference.abs().max() <= 4


def flowers(count):
    """As TF Flowers is laid out: photographs that differ in size, red left and blue right."""
    members = {"flower_photos/LICENSE.txt": b"CC BY"}
    for k, kind in enumerate(prepare.KINDS):
        for i in range(count + k):
            content = io.BytesIO()
            photo = Image.new("RGB", (300, 200), (255, 0, 0))
            photo.paste((0, 40 * k, 255), (150, 0, 300, 200))
            photo.save(content, "jpeg", quality=95)
            members[f"flower_photos/{kind}/{1000 + 7 * i}_{i:x}.jpg"] = content.getvalue()
    return members


def test_flowers(tmp_path, capsys):
    path = archive(tmp_path / "flower_photos.tgz", flowers(6))
    assert prepare.main(["flowers", str(path), str(tmp_path)]) == 0
    task = data.load("flowers", data=tmp_path)
    # One in five, rounded up, of 6, 7, 8, 9 and 10.
    assert task.test.labels.bincount().tolist() == [2, 2, 2, 2, 2]
    assert task.train.labels.bincount().tolist() == [4, 5, 6, 7, 8]
    assert task.train.inputs.shape[1:] == (3, 128, 128)
    red, _, blue = task.train.inputs[0].int()
    assert red[:, :60].min() > 230 and blue[:, 68:].min() > 230  # the middle square, not squeezed
    with np.load(tmp_path / "flowers128_val.npz") as arrays:
        assert (np.diff(arrays["label"].astype(int)) >= 0).all()
        test = arrays["name"][arrays["label"] == 0].tolist()
    names = sorted(f"{1000 + 7 * i}_{i:x}.jpg" for i in range(6))
    assert test == sorted(names[i] for i in np.random.RandomState(42).permutation(6)[:2])


def test_the_split_is_that_of_the_recorded_results():
    drawn = [prepare.drawn_for_testing(n) for n in (633, 898, 641, 699, 799)]  # of each kind
    assert [len(test) for test in drawn] == [127, 180, 129, 140, 160]
    assert [sorted(test)[:5] for test in drawn[:2]] == [[2, 10, 24, 29, 30], [5, 10, 23, 25, 30]]


@pytest.mark.parametrize(
    ("what", "members", "message"),
    [
        ("cifar10", {"cifar-10-batches-py/data_batch_1": b"x"}, "take the binary version"),
        ("cifar10", {"cifar-10-batches-bin/test_batch.bin": bytes(3073)}, "found test_batch"),
        ("cifar10", {"cifar-10-batches-bin/test_batch.bin": b"x"}, "records of 3073 bytes; got 1"),
        (
            "cifar10",
            {"cifar-10-batches-bin/test_batch.bin": b"\x0a" + bytes(3072)},
            "labels are 0 to 9; got 10",
        ),
        ("flowers", {"flower_photos/daisy/1.jpg": b"x"}, "1.jpg cannot be read as an image"),
        ("flowers", {"photos/daisy/1.jpg": b"x"}, "found none of daisy, dandelion"),
    ],
)
def test_another_layout_is_refused(tmp_path, capsys, what, members, message):
    path = archive(tmp_path / "archive.tgz", members)
    assert prepare.main([what, str(path), str(tmp_path / "made")]) == 1
    assert message in capsys.readouterr().err


def test_what_is_no_archive_is_refused(tmp_path, capsys):
    (tmp_path / "archive.tgz").write_bytes(b"no archive")
    assert prepare.main(["flowers", str(tmp_path / "archive.tgz"), str(tmp_path)]) == 1
    assert "cannot be read as a tar archive" in capsys.readouterr().err

"""Tasks: balanced nested subsets, and inputs that are those of the source."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pi_lib import tasks
from pi_lib.assets import MissingAsset


@pytest.fixture
def folder(tmp_path):
    """A reader's folder with a few samples of each task, laid out as the real ones."""
    draw = np.random.default_rng(0)

    def pictures(count, side):
        smooth = draw.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
        return smooth.repeat(side // 4, 1).repeat(side // 4, 2)

    train, test = pictures(40, 32), pictures(20, 32)
    labels = {"ytrain": np.arange(40, dtype=np.uint8) % 10, "ytest": np.arange(20) % 10}
    np.savez(tmp_path / "cifar10_subset_5085_1017.npz", Xtrain=train, Xtest=test, **labels)

    def pack(name, packed, classes):
        files = []
        for picture in packed:
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "jpeg", quality=95)
            files.append(file.getvalue())
        np.savez(
            tmp_path / name,
            jpeg=np.frombuffer(b"".join(files), dtype=np.uint8),
            offset=np.cumsum([0, *map(len, files)]),
            label=np.arange(len(files), dtype=np.uint8) % len(classes),
            classes=np.array(classes),
        )

    pack("cifar10_jpeg_train.npz", train, [f"class {i}" for i in range(10)])
    pack("cifar10_jpeg_test.npz", test, [f"class {i}" for i in range(10)])
    pack("flowers128_train.npz", pictures(10, 128), ["daisy", "rose"])
    pack("flowers128_val.npz", pictures(4, 128), ["daisy", "rose"])
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "train.tsv").write_text("a fine film\t1\na dull film\t0\nfine\t1\n")
    (tmp_path / "sst2" / "test.tsv").write_text("dull\t0\nnot bad\t1\n")
    return tmp_path


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data())
def test_subsets_are_balanced_nested_and_seeded(labels, data):
    labels = np.array(labels)
    n = data.draw(st.integers(1, len(labels)))
    most = tasks._subset(labels, len(labels), [0, 0], "all")
    assert sorted(most) == list(range(len(labels)))
    chosen = tasks._subset(labels, n, [0, 0], "some")
    assert chosen.tolist() == most[:n].tolist()
    counts, available = np.bincount(labels[chosen], minlength=5), np.bincount(labels, minlength=5)
    short = counts < counts.max() - 1  # only classes that have no more samples
    assert (counts[short] == available[short]).all()


def test_fashion_mnist_is_the_source_picture_by_picture():
    task = tasks.load("fashion-mnist", n_train=50, n_test=20, size=28)
    source = tasks._fashion_mnist(None)
    for split, whole in zip((task.train, task.test), source.splits, strict=True):
        assert split.inputs.dtype == torch.uint8 and split.inputs.shape[1:] == (3, 28, 28)
        raw = torch.from_numpy(whole.read(np.array(split.ids))[..., 0])
        assert (split.inputs == raw[:, None]).all()
        assert split.labels.tolist() == whole.labels[split.ids].tolist()
        assert split.labels.dtype == torch.int64
        assert split.labels.bincount().tolist() == [len(split) // 10] * 10
    assert [len(whole.labels) for whole in source.splits] == [60_000, 10_000]
    assert (task.kind, len(task.classes)) == ("image", 10)
    assert task.classes[9] == "Ankle boot"
    torch.testing.assert_close(task.mean, tasks.images(task.train.inputs).mean((0, 2, 3)))


def test_resizing_agrees_with_pillow():
    at_28 = tasks.load("fashion-mnist", n_train=5, n_test=5, size=28).train
    at_64 = tasks.load("fashion-mnist", n_train=5, n_test=5).train
    at_14 = tasks.load("fashion-mnist", n_train=5, n_test=5, size=14).train
    for resized, side in ((at_64, 64), (at_14, 14)):
        assert resized.ids == at_28.ids
        for small, large in zip(at_28.inputs, resized.inputs, strict=True):
            picture = Image.fromarray(small[0].numpy()).resize((side, side), Image.BILINEAR)
            expected = torch.from_numpy(np.array(picture)).int()
            assert (large.int() - expected).abs().max() <= 1  # Pillow rounds twice


def test_seed_and_the_other_split_decide_nothing_they_should_not():
    few = tasks.load("movie-reviews", n_train=20, n_test=30, seed=3)
    many = tasks.load("movie-reviews", n_train=200, n_test=30, seed=3)
    other = tasks.load("movie-reviews", n_train=20, n_test=30, seed=4)
    assert many.train.ids[:20] == few.train.ids and many.test.ids == few.test.ids
    assert many.train.inputs[:20] == few.train.inputs
    assert set(other.train.ids) != set(few.train.ids)
    assert set(other.test.ids) != set(few.test.ids)


def test_movie_reviews_are_clean_labelled_and_never_in_both_splits():
    task = tasks.load("movie-reviews")
    assert (len(task.train), len(task.test)) == (7336, 1835)
    assert task.classes == ("negative", "positive") and task.mean is None
    sentences = task.train.inputs + task.test.inputs
    assert len(set(sentences)) == len(sentences)
    assert not set(task.train.ids) & set(task.test.ids)
    assert not any("''" in s or "  " in s or "&amp;" in s or "`" in s for s in sentences)
    by_id = {
        i: (sentence, label)
        for split in (task.train, task.test)
        for i, sentence, label in zip(split.ids, split.inputs, split.labels, strict=True)
    }
    assert by_id[7] == ("Offers that rare combination of entertainment and education.", 1)
    assert 3 not in by_id  # rated -0.6
    assert any("é" in sentence for sentence in sentences)  # read as UTF-8


def test_text_has_no_size():
    with pytest.raises(ValueError, match="movie-reviews has sentences: size=32"):
        tasks.load("movie-reviews", size=32)


@pytest.mark.parametrize(
    ("name", "shape", "counts"),
    [
        ("cifar10", (3, 32, 32), (40, 20)),
        ("cifar10-jpeg", (3, 32, 32), (40, 20)),
        ("flowers", (3, 128, 128), (10, 4)),
    ],
)
def test_pictures_from_the_readers_folder(folder, monkeypatch, name, shape, counts):
    task = tasks.load(name, data=folder)
    assert (len(task.train), len(task.test)) == counts
    assert task.train.inputs.shape == (counts[0], *shape) and task.train.ids == list(
        range(counts[0])
    )
    assert task.mean.shape == (3,) and 0 < task.mean.min() <= task.mean.max() < 1
    monkeypatch.setenv("PI_LIB_DATA", str(folder))
    again = tasks.load(name, n_train=4, n_test=2, size=16)
    assert again.train.inputs.shape == (4, 3, 16, 16)
    assert again.train.labels.tolist() == task.train.labels[again.train.ids].tolist()


def test_pictures_keep_their_pixels(folder):
    with np.load(folder / "cifar10_subset_5085_1017.npz") as arrays:
        raw = torch.from_numpy(arrays["Xtrain"]).permute(0, 3, 1, 2)
    assert torch.equal(tasks.load("cifar10", data=folder).train.inputs, raw)
    lossy = tasks.load("cifar10-jpeg", data=folder).train.inputs
    assert (lossy.int() - raw.int()).abs().float().mean() < 12  # JPEG of blocks of random colours


def test_sst2_from_the_readers_folder(folder):
    task = tasks.load("sst2", data=folder)
    assert task.train.inputs == ["a fine film", "a dull film", "fine"]
    assert task.train.labels.tolist() == [1, 0, 1] and task.test.labels.tolist() == [0, 1]
    assert tasks.load("sst2", n_train=2, data=folder).train.labels.tolist() == [0, 1]


def test_missing_folder_says_what_to_supply(tmp_path, monkeypatch):
    monkeypatch.delenv("PI_LIB_DATA", raising=False)
    with pytest.raises(MissingAsset, match=r"1\. your own folder \(PI_LIB_DATA\): not set"):
        tasks.load("flowers")
    with pytest.raises(MissingAsset, match="does not hold flowers128_train.npz, flowers128_val"):
        tasks.load("flowers", data=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_train": 60_001}, "fashion-mnist: n_train=60001, but there are 60000 samples"),
        ({"n_train": 10, "n_test": 0}, "n_test=0, but there are 10000 samples"),
        ({"n_train": 10, "n_test": 10, "size": 0}, "size is the side"),
    ],
)
def test_bad_sizes_are_refused_with_the_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        tasks.load("fashion-mnist", **options)


def test_unknown_name_names_the_known():
    with pytest.raises(ValueError, match="'mnist'; there are fashion-mnist, movie-reviews"):
        tasks.load("mnist")


def test_images_takes_pixels_only():
    with pytest.raises(TypeError, match="expected images as a uint8 tensor; got torch.float32"):
        tasks.images(torch.zeros(1))
    with pytest.raises(TypeError, match="got list"):
        tasks.images(["a"])

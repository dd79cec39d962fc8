"""Tasks: balanced nested subsets, and inputs that are those of the source."""

import importlib
import io
import warnings
from dataclasses import replace
from functools import partial

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pi_lib import study
from pi_lib.players import PatchPlayers
from pi_lib.study import assets, data, steps
from pi_lib.study.assets import MissingAsset
from pi_lib.study.data import DataSet, Samples, fashion_mnist, pictures, registry, samples, shifts
from pi_lib.study.grid import read as read_grid
from pi_lib.study.steps import training_splits
from pi_lib.study.store import PACKAGE


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, tmp_path_factory):
    """As without internet; what `datasets` prepares of local files goes with the test."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("hub"))


@pytest.fixture
def folder(tmp_path):
    """A reader's folder with a few samples of each task, laid out as the real ones."""
    draw = np.random.default_rng(0)

    def drawn(count, side):
        smooth = draw.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
        return smooth.repeat(side // 4, 1).repeat(side // 4, 2)

    train, test = drawn(40, 32), drawn(20, 32)
    labels = {"ytrain": np.arange(40, dtype=np.uint8) % 10, "ytest": np.arange(20) % 10}
    np.savez(tmp_path / "cifar10_subset_5085_1017.npz", Xtrain=train, Xtest=test, **labels)
    ten, two = [f"class {i}" for i in range(10)], ["daisy", "rose"]
    for name, packed, classes in (
        ("cifar10_jpeg_train.npz", train, ten),
        ("cifar10_jpeg_test.npz", test, ten),
        ("flowers128_train.npz", drawn(10, 128), two),
        ("flowers128_val.npz", drawn(4, 128), two),
    ):
        labels = np.arange(len(packed)) % len(classes)
        pictures.pack(tmp_path / name, packed, labels, classes, quality=95)
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "train.tsv").write_text("a fine film\t1\na dull film\t0\nfine\t1\n")
    (tmp_path / "sst2" / "test.tsv").write_text("dull\t0\nnot bad\t1\n")
    return tmp_path


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data())
def test_subsets_are_balanced_nested_and_seeded(labels, draw):
    labels = np.array(labels)
    n = draw.draw(st.integers(1, len(labels)))
    most = samples.subset(labels, len(labels), [0, 0])
    assert sorted(most) == list(range(len(labels)))
    chosen = samples.subset(labels, n, [0, 0])
    assert chosen.tolist() == most[:n].tolist()
    counts, available = np.bincount(labels[chosen], minlength=5), np.bincount(labels, minlength=5)
    short = counts < counts.max() - 1  # only classes that have no more samples
    assert (counts[short] == available[short]).all()


def test_fashion_mnist_is_the_source_picture_by_picture():
    task = data.load("fashion-mnist", n_train=50, n_test=20, size=28)
    source = fashion_mnist.load()
    for split, whole in ((task.train, source.train), (task.test, source.test)):
        assert split.inputs.dtype == torch.uint8 and split.inputs.shape[1:] == (3, 28, 28)
        raw = torch.from_numpy(whole.read(np.array(split.ids))[..., 0])
        assert (split.inputs == raw[:, None]).all()
        assert split.labels.tolist() == whole.labels[split.ids].tolist()
        assert split.labels.dtype == torch.int64
        assert split.labels.bincount().tolist() == [len(split) // 10] * 10
    assert [len(whole.labels) for whole in (source.train, source.test)] == [60_000, 10_000]
    assert (task.kind, len(task.classes)) == ("image", 10)
    assert task.classes[9] == "Ankle boot"
    torch.testing.assert_close(task.mean, data.images(task.train.inputs).mean((0, 2, 3)))


def test_resizing_agrees_with_pillow():
    at_28 = data.load("fashion-mnist", n_train=10, n_test=5, size=28).train
    at_64 = data.load("fashion-mnist", n_train=10, n_test=5).train
    at_14 = data.load("fashion-mnist", n_train=10, n_test=5, size=14).train
    for resized, side in ((at_64, 64), (at_14, 14)):
        assert resized.ids == at_28.ids
        for small, large in zip(at_28.inputs, resized.inputs, strict=True):
            picture = Image.fromarray(small[0].numpy()).resize((side, side), Image.BILINEAR)
            expected = torch.from_numpy(np.array(picture)).int()
            assert (large.int() - expected).abs().max() <= 1  # Pillow rounds twice


def test_seed_and_the_other_split_decide_nothing_they_should_not():
    few = data.load("movie-reviews", n_train=20, n_test=30, seed=3)
    many = data.load("movie-reviews", n_train=200, n_test=30, seed=3)
    other = data.load("movie-reviews", n_train=20, n_test=30, seed=4)
    assert many.train.ids[:20] == few.train.ids and many.test.ids == few.test.ids
    assert many.train.inputs[:20] == few.train.inputs
    assert set(other.train.ids) != set(few.train.ids)
    assert set(other.test.ids) != set(few.test.ids)


def test_movie_reviews_are_clean_labelled_and_never_in_both_splits():
    task = data.load("movie-reviews")
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


def test_movie_reviews_are_split_as_ever():
    """What was recorded rests on it."""
    task = data.load("movie-reviews", n_train=5, n_test=5)
    assert task.train.ids == [9504, 3431, 9542, 622, 8949]
    assert task.test.ids == [6995, 3379, 8919, 10407, 8593]


@pytest.mark.parametrize(
    ("name", "negative", "positive"),
    [("product-reviews", 939, 1508), ("editorials", 982, 553), ("tweets", 837, 1830)],
)
def test_other_texts_are_rated_alike(name, negative, positive):
    task = data.load(name)
    assert task.kind == "text" and task.classes == ("negative", "positive")
    labels = torch.cat([task.train.labels, task.test.labels])
    assert labels.bincount().tolist() == [negative, positive]
    sentences = task.train.inputs + task.test.inputs
    assert len(set(sentences)) == len(sentences)
    films = data.load("movie-reviews")
    assert len(set(sentences) & {*films.train.inputs, *films.test.inputs}) < 3
    assert not data.overlap(name, "sst2") and data.overlap(name, name)


@pytest.mark.parametrize(
    ("name", "shape", "counts"),
    [
        ("cifar10", (3, 32, 32), (40, 20)),
        ("cifar10-jpeg", (3, 32, 32), (40, 20)),
        ("flowers", (3, 128, 128), (10, 4)),
    ],
)
def test_pictures_from_the_readers_folder(folder, monkeypatch, name, shape, counts):
    task = data.load(name, data=folder)
    assert (len(task.train), len(task.test)) == counts
    assert task.train.inputs.shape == (counts[0], *shape)
    assert task.train.ids == list(range(counts[0]))
    assert task.mean.shape == (3,) and 0 < task.mean.min() <= task.mean.max() < 1
    monkeypatch.setenv("PI_LIB_DATA", str(folder))
    again = data.load(name, n_train=10, n_test=2, size=16)
    assert again.train.inputs.shape == (10, 3, 16, 16)
    assert again.train.labels.tolist() == task.train.labels[again.train.ids].tolist()


def test_pictures_keep_their_pixels(folder):
    with np.load(folder / "cifar10_subset_5085_1017.npz") as arrays:
        raw = torch.from_numpy(arrays["Xtrain"]).permute(0, 3, 1, 2)
    assert torch.equal(data.load("cifar10", data=folder).train.inputs, raw)
    lossy = data.load("cifar10-jpeg", data=folder).train.inputs
    with np.load(folder / "cifar10_jpeg_train.npz") as arrays:
        first = Image.open(io.BytesIO(arrays["jpeg"][: arrays["offset"][1]].tobytes()))
    assert (lossy[0].permute(1, 2, 0).numpy() == np.array(first)).all()
    assert (lossy.int() - raw.int()).abs().float().mean() < 12  # JPEG of blocks of random colours


def test_only_chosen_images_are_decoded(folder):
    """So the names of the classes need none, and a few samples no more than themselves."""
    with np.load(folder / "flowers128_val.npz") as arrays:
        content = dict(arrays)
    damaged = content["jpeg"].copy()
    damaged[content["offset"][1] : content["offset"][2]] = 0
    chosen = samples.subset(content["label"], 1, [0, 1])
    assert chosen.tolist() != [1]
    before = data.load("flowers", n_train=2, n_test=1, data=folder)
    np.savez(folder / "flowers128_val.npz", **content | {"jpeg": damaged})
    after = data.load("flowers", n_train=2, n_test=1, data=folder)
    assert torch.equal(before.test.inputs, after.test.inputs) and after.test.ids == chosen.tolist()
    assert data.classes("flowers", folder) == ("daisy", "rose")
    with pytest.raises(ValueError, match="flowers128_val.npz, image 1 cannot be read"):
        data.load("flowers", data=folder)


def test_sst2_from_the_readers_folder(folder):
    task = data.load("sst2", data=folder)
    assert task.train.inputs == ["a fine film", "a dull film", "fine"]
    assert task.train.labels.tolist() == [1, 0, 1] and task.test.labels.tolist() == [0, 1]
    assert data.load("sst2", n_train=2, data=folder).train.labels.tolist() == [0, 1]


def test_other_files_in_the_readers_folder_are_other_data(folder, cub, cars, monkeypatch):
    """Results of the one are never served for the other; where they lie does not matter."""

    def identities(folder):
        assets.digest_of.cache_clear()  # read once a process
        monkeypatch.setenv("PI_LIB_DATA", str(folder))
        return {name: data.identity(name) for name in registry.NAMES if registry.DATA[name].files}

    before = identities(folder)
    assert sorted(before) == ["cars", "cifar10", "cifar10-jpeg", "cub", "flowers", "sst2"]
    assert not before.keys() & {*before.values()}  # each says more than its name
    moved = folder / "elsewhere"
    moved.symlink_to(folder)
    assert identities(moved) == before
    for name, entry in registry.DATA.items():
        for there in (moved / path for path in entry.files):
            file = assets.files_in(there)[0] if there.is_dir() else there
            kept = file.read_bytes()
            file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))  # of the same size
            assert identities(moved) == before | {name: data.identity(name)}, file
            assert data.identity(name) != before[name], file
            file.write_bytes(kept)
    (moved / "sst2" / "test.tsv").unlink()
    (moved / "sst2" / "test.csv").write_text("sentence,label\nfine,1")
    assert identities(moved)["sst2"] not in ("sst2", before["sst2"])  # tables like the hub's
    monkeypatch.delenv("PI_LIB_DATA")
    assert data.identity("sst2") == "sst2"


def test_missing_folder_says_what_to_supply(tmp_path, monkeypatch):
    monkeypatch.delenv("PI_LIB_DATA", raising=False)
    with pytest.raises(MissingAsset, match=r"1\. your own folder \(PI_LIB_DATA\): not set"):
        data.load("flowers")
    with pytest.raises(MissingAsset, match="does not hold flowers128_train.npz, flowers128_val"):
        data.load("flowers", data=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_train": 10, "n_test": 0}, "n_test=0, but there are 10000 samples"),
        ({"n_train": 10, "n_test": 10, "size": 0}, "size is the side"),
    ],
)
def test_bad_sizes_are_refused_with_the_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        data.load("fashion-mnist", **options)


# The paper's data sets, which cannot be downloaded here: small local ones of the same schema.


def photo(side, box, inner, outer=(0, 0, 0)):
    """A picture (width, height) of one colour with another inside a box."""
    picture = Image.new("RGB", side, outer)
    picture.paste(inner, tuple(box))
    return picture


FINE = {"quality": 100, "subsampling": 0}  # a JPEG that does not mix colours across a box's border
COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
SIZES = [(60, 40), (50, 70), (64, 64)]
BOXES = [(10, 5, 40, 35), (4, 8, 44, 60), (16, 16, 48, 48)]


def shows_its_class_alone(split, tolerance=12):
    """Whether each image is the colour of its class all over: cropped to the box, no more."""
    expected = torch.tensor(COLOURS)[split.labels][..., None, None]
    return bool(((split.inputs.int() - expected).abs() <= tolerance).all())


@pytest.fixture
def cub(tmp_path):
    """CUB-200-2011 in small: three classes, five photographs each, the last of each for testing."""
    root = tmp_path / "CUB_200_2011"
    files = "images image_class_labels train_test_split bounding_boxes".split()
    lines = {name: [] for name in files}
    classes = ["001.Black_footed_Albatross", "002.Crow", "003.Tree_Swallow"]
    for number in range(1, 16):
        label = (number - 1) // 5
        (root / "images" / classes[label]).mkdir(parents=True, exist_ok=True)
        x0, y0, x1, y1 = BOXES[label]
        path = f"{classes[label]}/photo {number}.jpg"
        photo(SIZES[label], BOXES[label], COLOURS[label]).save(root / "images" / path, **FINE)
        lines["images"].append(f"{number} {path}")
        lines["image_class_labels"].append(f"{number} {label + 1}")
        lines["train_test_split"].append(f"{number} {int(number % 5 > 0)}")
        lines["bounding_boxes"].append(f"{number} {x0}.0 {y0}.0 {x1 - x0}.0 {y1 - y0}.0")
    lines["classes"] = [f"{i} {name}" for i, name in enumerate(classes, 1)]
    for name, content in lines.items():
        (root / f"{name}.txt").write_text("\n".join(content) + "\n")
    return root


def test_cub_is_cropped_to_its_boxes_and_resized(cub, tmp_path):
    task = data.load("cub", data=tmp_path)
    assert task.classes == ("Black footed Albatross", "Crow", "Tree Swallow")
    assert task.train.inputs.shape == (12, 3, 224, 224) and task.test.inputs.shape[0] == 3
    assert task.test.ids == [5, 10, 15] and task.test.labels.tolist() == [0, 1, 2]
    assert shows_its_class_alone(task.train) and shows_its_class_alone(task.test)
    assert "cropped to the bounding boxes" in task.origin
    assert data.load("cub", size=32, data=tmp_path).train.inputs.shape == (12, 3, 32, 32)


def test_only_chosen_images_are_opened(cub, tmp_path):
    chosen = data.load("cub", n_train=3, n_test=1, data=tmp_path)
    kept = {*chosen.train.ids, *chosen.test.ids}
    for line in (cub / "images.txt").read_text().splitlines():
        number, path = line.split(" ", 1)
        if int(number) not in kept:
            (cub / "images" / path).write_text("no image")
    again = data.load("cub", n_train=3, n_test=1, data=tmp_path)
    assert torch.equal(again.train.inputs, chosen.train.inputs)
    with pytest.raises(ValueError, match=r"photo \d+.jpg cannot be read as an image"):
        data.load("cub", data=tmp_path)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("images", "one a.jpg", "images.txt, line 1: expected a number"),
        ("bounding_boxes", "1 1.0 2.0 3.0", "bounding_boxes.txt, line 1: .* got '1 1.0 2.0 3.0'"),
        ("bounding_boxes", "1 900.0 2.0 30.0 30.0", r"from \(900, 2\) to \(930, 32\) is empty, or"),
        ("bounding_boxes", "1 10.0 2.0 0.0 30.0", "is empty"),
        ("train_test_split", "99 1", "train_test_split.txt does not list the same images"),
        ("image_class_labels", "1 4", "labels from 0 to 3, but there are 3 classes"),
    ],
)
def test_cub_of_another_schema_is_refused(cub, tmp_path, file, line, message):
    path = cub / f"{file}.txt"
    path.write_text("\n".join([line, *path.read_text().splitlines()[1:]]))
    with pytest.raises(ValueError, match=message):
        data.load("cub", data=tmp_path)


def test_a_class_without_training_samples_is_refused(cub, tmp_path):
    path = cub / "train_test_split.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:5], *(f"{i} 0" for i in range(6, 11)), *lines[10:]]))
    with pytest.raises(ValueError, match="no training sample of 1 of the 3 classes .*'Crow'"):
        data.load("cub", data=tmp_path)


def test_fewer_samples_than_classes_warn(cub, tmp_path):
    with pytest.warns(UserWarning, match="cub: n_train=2 samples leave some of the 3 classes"):
        data.load("cub", n_train=2, data=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.load("cub", n_train=3, n_test=1, data=tmp_path)
    with pytest.raises(ValueError, match="cub: n_train=13, but there are 12 samples"):
        data.load("cub", n_train=13, data=tmp_path)


def test_a_crop_is_the_box_pixel_by_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), "u1")
    picture = Image.fromarray(pixels)
    assert (pictures.pixels(picture, (1, 2, 5, 6), "it") == pixels[2:6, 1:5]).all()
    assert (pictures.pixels(picture, (1.5, 2.5, 4.5, 5.5), "it") == pixels[2:6, 1:5]).all()
    assert (pictures.pixels(picture, (-1, -1, 9, 7), "it") == pixels).all()
    assert (pictures.pixels(picture, None, "it") == pixels).all()


MODELS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo")


@pytest.fixture
def cars(tmp_path):
    """Stanford Cars in small, with the devkit's MATLAB files."""
    from scipy.io import savemat

    root = tmp_path / "stanford_cars"
    fields = "bbox_x1 bbox_y1 bbox_x2 bbox_y2 class fname".split()
    annotations = "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"
    for part, count, file in zip(("train", "test"), (6, 3), annotations, strict=True):
        (root / f"cars_{part}").mkdir(parents=True)
        (root / "devkit").mkdir(exist_ok=True)
        rows = np.empty((1, count), dtype=[(name, "O") for name in fields])
        for i in range(count):
            x0, y0, x1, y1 = BOXES[i % 3]
            name = f"{i + 1:05}.jpg"
            picture = photo(SIZES[i % 3], BOXES[i % 3], COLOURS[i % 3])
            picture.save(root / f"cars_{part}" / name, **FINE)
            # counted from 1, the last pixel included, in the smallest type that holds it
            corner = [np.uint8(value) for value in (x0 + 1, y0 + 1, x1, y1)]
            rows[0, i] = (*corner, np.uint8(i % 3 + 1), name)
        savemat(root / file, {"annotations": rows})
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array([MODELS], dtype="O")})
    return root


def test_cars_are_cropped_to_their_boxes_and_resized(cars, tmp_path):
    task = data.load("cars", data=tmp_path)
    assert task.classes == MODELS
    assert task.train.inputs.shape == (6, 3, 224, 224)
    assert task.train.labels.tolist() == [0, 1, 2] * 2 and task.test.labels.tolist() == [0, 1, 2]
    assert shows_its_class_alone(task.train) and shows_its_class_alone(task.test)


def test_cars_of_another_schema_are_refused(cars, tmp_path):
    from scipy.io import loadmat, savemat

    test = cars / "cars_test_annos_withlabels.mat"
    rows = loadmat(test)["annotations"]
    unlabelled = np.empty(rows.shape, [field for field in rows.dtype.descr if field[0] != "class"])
    unlabelled[:] = 0
    savemat(test, {"annotations": unlabelled})
    with pytest.raises(ValueError, match="but not class .the devkit's cars_test_annos.mat has no"):
        data.load("cars", data=tmp_path)
    savemat(test, {"something": 1})
    with pytest.raises(ValueError, match="holds something; expected annotations"):
        data.load("cars", data=tmp_path)
    test.write_text("no MATLAB")
    with pytest.raises(ValueError, match="cannot be read as a MATLAB file"):
        data.load("cars", data=tmp_path)


def tables(images, labels, column="image", names=None, boxes=None):
    """Images as a table of the hub's schema."""
    features = {column: datasets.Image(), "label": datasets.Value("int64")}
    if names:
        features["label"] = datasets.ClassLabel(names=names)
    content = {column: images, "label": labels}
    if boxes:
        content["bbox"] = boxes
        features["bbox"] = datasets.List(datasets.Value("float32"))
    return datasets.Dataset.from_dict(content, datasets.Features(features))


def test_cub_as_the_hub_has_it(tmp_path):
    names = ["001.Black_footed_Albatross", "002.Crow", "003.Tree_Swallow"]
    pictures = [photo(SIZES[i], BOXES[i], COLOURS[i]) for i in range(3)]
    boxes = [list(map(float, box)) for box in BOXES]
    (tmp_path / "cub" / "data").mkdir(parents=True)
    for part in ("train", "test"):
        table = tables(pictures, [0, 1, 2], names=names, boxes=boxes)
        table.to_parquet(tmp_path / "cub" / "data" / f"{part}-00000-of-00001.parquet")
    task = data.load("cub", data=tmp_path)
    assert task.classes == ("Black footed Albatross", "Crow", "Tree Swallow")
    assert task.train.inputs.shape == (3, 3, 224, 224) and task.train.ids == [0, 1, 2]
    assert shows_its_class_alone(task.train)
    assert "cropped to the bounding boxes" in task.origin


def test_the_hub_is_asked_without_code_of_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("PI_LIB_DATA", raising=False)
    asked = []

    def load_dataset(name, **options):
        asked.append((name, options))
        draw = np.random.default_rng(0)
        pictures = [Image.fromarray(draw.integers(0, 256, (32, 32, 3), "u1")) for _ in range(20)]
        one = tables(pictures, [i % 10 for i in range(20)], column="img")
        return datasets.DatasetDict(train=one, test=one.select(range(10)))

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    task = data.load("cifar10", n_train=10)
    assert asked == [("uoft-cs/cifar10", {})]
    assert (task.classes[0], task.classes[9]) == ("airplane", "truck")
    assert task.train.inputs.shape == (10, 3, 32, 32) and len(task.test) == 10
    raw = np.asarray(load_dataset("")["train"][task.train.ids[3]]["img"])
    assert (task.train.inputs[3].permute(1, 2, 0).numpy() == raw).all()


def test_tables_without_boxes_say_so(tmp_path):
    table = tables([photo((9, 7), (0, 0, 9, 7), colour) for colour in COLOURS], [0, 1, 2])
    datasets.DatasetDict(train=table, test=table).save_to_disk(tmp_path / "cars")
    task = data.load("cars", data=tmp_path)
    assert task.classes == ("0", "1", "2") and "whole images: this copy has no boxes" in task.origin
    assert shows_its_class_alone(task.train, tolerance=0)


def sst2(folder, **columns):
    (folder / "sst2").mkdir(exist_ok=True)
    for part in ("train", "validation", "test"):
        own = {name: values[part] for name, values in columns.items()}
        datasets.Dataset.from_dict(own).to_parquet(folder / "sst2" / f"{part}.parquet")


SENTENCES = {"train": ["fine", "dull", "good"], "validation": ["bad", "great"], "test": ["so"]}
SENTIMENTS = {"train": [1, 0, 1], "validation": [0, 1], "test": [-1]}


def test_sst2_as_the_hub_has_it_tests_on_the_validation_split(tmp_path):
    sst2(tmp_path, idx=SENTIMENTS, sentence=SENTENCES, label=SENTIMENTS)
    task = data.load("sst2", data=tmp_path)
    assert task.classes == ("negative", "positive") and task.kind == "text"
    assert task.train.inputs == ["fine", "dull", "good"] and task.test.inputs == ["bad", "great"]
    assert task.train.labels.tolist() == [1, 0, 1] and task.test.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": SENTENCES, "label": SENTIMENTS}, "has the columns text, label; expected sent"),
        ({"sentence": SENTENCES, "target": SENTIMENTS}, "columns sentence, target; expected sent"),
        (
            {"sentence": SENTENCES, "label": SENTIMENTS | {"validation": [-1, -1]}},
            "the test split has labels from -1 to -1, but there are 2 classes",
        ),
        ({"sentence": SENTENCES, "label": SENTENCES}, "labels are names; expected numbers, 0 to 1"),
        (
            {"sentence": SENTENCES, "label": SENTIMENTS | {"train": [1, None, 0]}},
            "labels are whole numbers or names; some are missing",
        ),
        (
            {"sentence": SENTENCES | {"train": ["fine", None, "good"]}, "label": SENTIMENTS},
            "sst2, train split: the column sentence has rows without a sentence",
        ),
    ],
)
def test_tables_of_another_schema_are_refused(tmp_path, columns, message):
    sst2(tmp_path, **columns)
    with pytest.raises(ValueError, match=message):
        data.load("sst2", data=tmp_path)


def test_tables_without_a_split_or_unreadable_are_refused(tmp_path):
    sst2(tmp_path, sentence=SENTENCES, label=SENTIMENTS)
    (tmp_path / "sst2" / "validation.parquet").unlink()
    with pytest.raises(ValueError, match="found the splits train, test, but no validation"):
        data.load("sst2", data=tmp_path)
    (tmp_path / "sst2" / "train.parquet").write_text("no table")
    with pytest.raises(ValueError, match="sst2 cannot be read as tables: .* Expected files of a"):
        data.load("sst2", data=tmp_path)


def test_a_header_or_a_wrong_label_in_sst2_is_named(folder):
    (folder / "sst2" / "test.tsv").write_text("sentence\tlabel\ndull\t0\n")
    with pytest.raises(ValueError, match="test.tsv, line 1: expected a sentence, a tab, and 0 or"):
        data.load("sst2", data=folder)


@pytest.mark.parametrize("name", ["cifar10", "cub", "cars", "sst2"])
def test_all_sources_that_were_tried_are_named(tmp_path, name):
    with pytest.raises(MissingAsset) as error:
        data.load(name, data=tmp_path)
    message = str(error.value)
    for said in (
        f"{name} was not found",
        "1. your own folder (PI_LIB_DATA): ",
        f"2. your own folder (PI_LIB_DATA), as tables: {tmp_path} does not hold {name}",
        "3. the Hugging Face hub and its cache (",
        "OfflineModeIsEnabled",
        "datasets.load_dataset(",
        "data=FOLDER in the call",
    ):
        assert said in message


@pytest.mark.parametrize(
    ("names", "linked"), [(("ant", "bee"), True), (("test-tube", "train"), False)]
)
def test_a_folder_of_ones_own_images(tmp_path, names, linked):
    mine = tmp_path / ("mine" if linked else "mine [1]")
    for part, count in (("train", 3), ("test", 1)):
        (mine / part).mkdir(parents=True)
        for label, name in enumerate(names):
            folder = (tmp_path if linked else mine) / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture = Image.new("RGB", (20 + i, 10), COLOURS[label])
                picture.save(folder / f"{i}.png")
            if linked:
                (mine / part / name).symlink_to(folder)
    task = data.load(f"folder:{mine}", n_train=4, size=32)
    assert task.classes == names and task.kind == "image"
    assert task.train.inputs.shape == (4, 3, 32, 32) and len(task.test) == 2
    assert shows_its_class_alone(task.train, tolerance=0)
    assert len(data.load(f"folder:{mine}").train) == 6  # no test sample among them
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(folder / "0.png")
    with pytest.raises(ValueError, match="test split, row 1 has levels beyond 255 .mode 'I;16'"):
        data.load(f"folder:{mine}")


def test_a_folder_is_known_by_its_samples_alone(tmp_path):
    """Behind links too; whatever a file manager or a report leaves there."""
    for name in ("one", "other"):
        (tmp_path / name / "train").mkdir(parents=True)
        (tmp_path / name / "train" / "1.txt").write_text(name)
        (tmp_path / f"link to {name}").mkdir()
        (tmp_path / f"link to {name}" / "train").symlink_to(tmp_path / name / "train")

    def identity(name):
        return assets.digest_of.__wrapped__(tmp_path / name)

    before = identity("one")
    assert identity("link to one") == before != identity("link to other") == identity("other")
    for left in (".DS_Store", "train/._1.txt", "report.html"):
        (tmp_path / "one" / left).write_text("")
    assert identity("one") == before
    (tmp_path / "one" / "caf\udce9.txt").write_text("")  # its name is not UTF-8
    assert identity("one") != before


def test_signs_of_patterns_in_the_path_of_a_folder(tmp_path):
    """Behind links too, no class is left out; what the library cannot tell apart is refused."""
    names = ("a [1]", "b*", "c")
    for k, name in enumerate(names):
        (there := tmp_path / "there" / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 50 * k, np.uint8)).save(there / "picture [1].png")
        for part in ("train", "test"):
            (tmp_path / "mine [2]" / part).mkdir(parents=True, exist_ok=True)
            (tmp_path / "mine [2]" / part / name).symlink_to(there)
    task = data.load(f"folder:{tmp_path / 'mine [2]'}", size=8)
    assert task.classes == names and len(task.train) == 3
    assert task.train.inputs[:, 0, 0, 0].tolist() == [0, 50, 100]
    (tmp_path / "mine [2]" / "train" / "c").rename(tmp_path / "mine [2]" / "train" / "c::d")
    with pytest.raises(ValueError, match="'::' in .*c::d.* has a meaning of its own"):
        data.load(f"folder:{tmp_path / 'mine [2]'}")
    for name in ("rows 1", "rows [1]"):
        (tmp_path / name).mkdir()
        for part in ("train", "test"):
            (tmp_path / name / f"{part}.csv").write_text(f"text,label\n{name},1\n")
    with pytest.raises(ValueError, match=r"rows \[1\] cannot be .* its path holds '\['"):
        data.load(f"folder:{tmp_path / 'rows [1]'}")


def test_a_folder_that_is_named_from_where_one_is(tmp_path, monkeypatch):
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "mine" / name / "0.png")
    monkeypatch.chdir(tmp_path)
    assert data.load("folder:mine").classes == ("a", "b")


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t")])
def test_a_folder_of_ones_own_sentences(tmp_path, ending, separator):
    rows = {"train": [("a fine film", "good"), ("dull", "bad")], "test": [("so dull", "bad")]}
    for part, some in rows.items():
        lines = [separator.join(row) for row in [("text", "label"), *some]]
        (tmp_path / f"{part}.{ending}").write_text("\n".join(lines))
    task = data.load(f"folder:{tmp_path}")
    assert task.classes == ("bad", "good") and task.kind == "text"
    assert task.train.inputs == ["a fine film", "dull"] and task.train.labels.tolist() == [1, 0]
    (tmp_path / f"test.{ending}").write_text(f"text{separator}label\nso{separator}awful")
    with pytest.raises(ValueError, match="label 'awful' of the test split does not occur in train"):
        data.load(f"folder:{tmp_path}")
    with pytest.raises(MissingAsset, match="there is no folder"):
        data.load(f"folder:{tmp_path / 'elsewhere'}")


@pytest.mark.parametrize("name", ["cifar10", "flowers"])  # an array, and pictures one by one
def test_shifts_choose_samples_or_change_pictures(folder, name):
    plain = data.load(name, data=folder)
    odd, even = (data.load(f"{name}+{half}", data=folder) for half in ("odd", "even"))
    for split in ("train", "test"):
        whole = getattr(plain, split)
        parts = [getattr(task, split) for task in (odd, even)]
        assert sorted(parts[0].ids + parts[1].ids) == sorted(whole.ids)
        assert torch.equal(parts[0].inputs, whole.inputs[1::2])
        assert torch.equal(parts[1].labels, whole.labels[::2])
    first, last = (data.load(f"{name}+{half}-classes", data=folder) for half in ("first", "last"))
    assert first.classes + last.classes == plain.classes
    assert len(first.train) + len(last.train) == len(plain.train)
    assert last.train.labels.unique().tolist() == list(range(len(last.classes)))
    names = [plain.classes[label] for label in plain.train.labels]
    assert [last.classes[label] for label in last.train.labels] == [
        name for name in names if name in last.classes
    ]
    inverted = data.load(f"{name}+odd+inverted", data=folder)
    assert torch.equal(inverted.train.inputs, 255 - odd.train.inputs)
    assert torch.equal(inverted.train.labels, odd.train.labels)


def test_a_blurred_picture_varies_less_and_a_coloured_one_keeps_its_colours(folder):
    plain, blurred, coloured, part = (
        data.load(f"cifar10{shift}", data=folder, seed=seed).train
        for shift, seed in (("", 0), ("+blurred", 0), ("+coloured", 0), ("+odd+coloured", 3))
    )
    variation = [x.inputs.float().diff(dim=-1).square().mean() for x in (blurred, plain)]
    assert variation[0] < variation[1] / 2
    means = [x.inputs.float().mean((-1, -2)) for x in (blurred, plain)]
    torch.testing.assert_close(*means, rtol=0, atol=16)  # the border counts otherwise
    assert torch.equal(part.inputs, coloured.inputs[1::2])  # by the sample, not by the draw
    line = coloured.inputs[0].flatten(1).float()  # all its colours lie between two
    line = line - line.mean(1, keepdim=True)
    assert torch.linalg.svdvals(line)[1] < 0.05 * torch.linalg.svdvals(line)[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashion-mnist+upside", "no shift 'upside'; there are odd, even"),
        ("movie-reviews+blurred", "'blurred' is for images"),
        ("clothes+odd", "no task named 'clothes'"),
    ],
)
def test_bad_shifts_are_refused(name, message):
    for refuse in (data.load, data.kind):
        with pytest.raises(ValueError, match=message):
            refuse(name)


def test_tasks_overlap_unless_their_samples_differ():
    assert data.overlap("cifar10", "cifar10")
    assert data.overlap("fashion-mnist+odd", "fashion-mnist+odd+inverted")
    assert data.overlap("fashion-mnist", "fashion-mnist+last-classes")
    assert data.overlap("cifar10+odd", "cifar10-jpeg+even")  # their order may differ
    assert not data.overlap("fashion-mnist+odd", "fashion-mnist+even+inverted")
    assert not data.overlap("fashion-mnist+first-classes", "fashion-mnist+last-classes")
    assert not data.overlap("fashion-mnist", "flowers")


@pytest.fixture
def registered(monkeypatch):
    """What a test registers goes with it."""
    monkeypatch.setattr(registry, "DATA", dict(registry.DATA))
    monkeypatch.setattr(registry, "NAMES", registry.DATA.keys())


def spots(folder, size=None, kind="image"):
    pictures = np.arange(30 * 12, dtype=np.uint8).reshape(30, 2, 2, 3)
    train, test = (Samples(pictures[at], np.arange(len(pictures[at])) % 3) for at in CUTS)
    return DataSet(("a", "b", "c"), train, test, "drawn here", kind, size)


CUTS = (slice(0, 21), slice(21, None))


def test_a_registered_data_set_is_loaded_like_the_others(registered):
    study.register_data("spots", spots, kind="image", overlaps=["flowers"])
    task = data.load("spots", n_train=6, size=4)
    assert task.train.labels.tolist() == [0, 1, 2, 0, 1, 2] and len(task.test) == 9
    assert task.train.inputs.shape == (6, 3, 4, 4) and task.origin == "drawn here"
    assert data.load("spots+last-classes+odd").classes == ("c",) and data.kind("spots") == "image"
    assert data.overlap("spots+odd", "flowers") and data.overlap("flowers", "spots")
    assert not data.overlap("spots", "cifar10") and not data.overlap("spots+odd", "spots+even")
    assert "spots" in registry.NAMES and data.identity("spots+odd").startswith("spots+odd (")
    with pytest.raises(ValueError, match="source='spots' and task='flowers' are of the same data"):
        study.Cell("resnet20", "flowers", source="spots")


def test_stored_results_know_the_code_and_version_of_a_loader(registered, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    identities = set()
    for number, code in enumerate(("return 1", "return 2")):
        (tmp_path / f"loader_{number}.py").write_text(f"def load(folder):\n    {code}\n")
        loader = importlib.import_module(f"loader_{number}").load
        for version in ("", "2"):
            study.register_data("mine", loader, kind="text", version=version, replace=True)
            identities.add(data.identity("mine"))
    assert len(identities) == 4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar10", {}, "there is a 'cifar10' already: it is built in: choose another"),
        ("cifar10", {"replace": True}, "it is built in"),
        ("folder:x+odd", {}, "expected letters, digits"),
        (3, {}, "a name is a string; got 3"),
        ("spots", {"kind": "sound"}, "kind='sound'; expected 'image' or 'text'"),
        ("spots", {"loader": "file.csv"}, "a loader is a function of a folder; got str"),
        ("spots", {"overlaps": "cifar10"}, "overlaps='cifar10'; expected a list of names among"),
        ("spots", {"overlaps": ["cifar"]}, "overlaps=.'cifar'.; expected a list of names among"),
        ("spots", {"kind": "text", "scenes": True}, "scenes are made of images"),
    ],
)
def test_what_cannot_be_registered_is_refused(registered, name, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        study.register_data(name, **{"loader": spots, "kind": "image"} | options)
    assert name not in registry.DATA or name == "cifar10"


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda _: [1, 2], "its loader gave list; expected pi_lib.study.data.DataSet"),
        (lambda _: spots(_, kind="text"), "registered as image, but its loader gave text"),
        (lambda _: Samples(["a"], [0.5]), "labels are whole numbers along one axis; got float"),
        (lambda _: Samples(["a", "b"], [0]), "one of each for every sample; got .*'inputs': 2"),
        (lambda _: Samples(np.zeros((1, 3, 8, 8)), [0]), "N, H, W, C. of uint8; got float64"),
    ],
)
def test_a_loader_that_gives_something_else_is_named(registered, loader, message):
    study.register_data("spots", loader, kind="image")
    with pytest.raises((ValueError, TypeError), match=message):
        data.load("spots")


def test_limits_take_what_there_is_and_say_so(cub, tmp_path):
    with pytest.warns(UserWarning, match="cub: n_test=2000, but there are 3 samples: all are"):
        task = data.load("cub", n_train=3, n_test=2000, at_most=["n_test"], data=tmp_path)
    assert (len(task.train), len(task.test)) == (3, 3)
    assert sorted(task.test.ids) == [5, 10, 15]
    with pytest.raises(ValueError, match="n_train=2000, but there are 12 samples"):
        data.load("cub", n_train=2000, n_test=1, at_most=["n_test"], data=tmp_path)
    with pytest.raises(ValueError, match="at_most=.'n_val'.; expected n_train, n_test or both"):
        data.load("cub", at_most=["n_val"], data=tmp_path)


SIZES_OF = {  # training and test samples, and classes, as published
    "fashion-mnist": (60_000, 10_000, 10),
    "movie-reviews": (7_336, 1_835, 2),
    "product-reviews": (1_957, 490, 2),
    "editorials": (1_228, 307, 2),
    "tweets": (2_133, 534, 2),
    "cifar10": (5_085, 1_017, 10),
    "cifar10-jpeg": (50_000, 10_000, 10),
    "cub": (5_994, 5_794, 200),
    "cars": (8_144, 8_041, 196),
    "flowers": (2_934, 736, 5),
    "sst2": (6_920, 1_821, 2),
}
GRIDS = sorted((PACKAGE.parent / "notebooks" / "grids").glob("*.yml"))


@pytest.fixture
def published_sizes(registered, monkeypatch):
    """Every data set with the number of samples that it has, of one pixel or one word each."""

    def load(name, _):
        count = SIZES_OF[name]
        white = np.full((1, 1, 1, 1), 255, dtype=np.uint8)
        text = registry.DATA[name].kind == "text"
        train, test = (
            Samples(
                ["word"] * n if text else lambda at: white.repeat(len(at), 0),
                np.arange(n) % count[2],
            )
            for n in count[:2]
        )
        classes = tuple(map(str, range(count[2])))
        return DataSet(classes, train, test, "", "text" if text else "image")

    for name in SIZES_OF:
        registry.DATA[name] = replace(registry.DATA[name], load=partial(load, name))
    steps._loaded.cache_clear()
    one = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)  # nothing of it is copied
    monkeypatch.setattr(
        pictures, "resized", lambda some, size: one.expand(len(some), 3, size, size)
    )
    monkeypatch.setattr(pictures, "mean", lambda _: torch.ones(3))
    for name in shifts.OF_PICTURES:
        monkeypatch.setitem(shifts.OF_PICTURES, name, lambda picture, _: picture)
    yield
    steps._loaded.cache_clear()


@pytest.mark.filterwarnings("ignore:.*all are taken", "ignore:.*leave some of the")
@pytest.mark.parametrize("profile", study.PROFILES)
@pytest.mark.parametrize("grid", GRIDS, ids=lambda path: path.stem)
def test_every_shipped_grid_has_data_enough_at_every_profile(grid, profile, published_sizes):
    loaded = set()
    for cell in read_grid(grid, profile):
        s = cell.settings
        if (key := (cell.task, s.n_train, s.n_val, s.n_test)) not in loaded:
            task = study.load(cell)
            train, validation = training_splits(cell, task)
            assert min(len(task.classes), s.n_train) <= len(train) <= s.n_train
            assert len(task.test) >= s.samples
            assert (validation is None) == (s.n_val == 0)
            there = SIZES_OF[cell.task.split("+")[0]]
            if "+" not in cell.task:
                assert len(task.test) == min(s.n_test, there[1])
                assert len(task.train) == min(s.n_train + s.n_val, there[0])
            loaded.add(key)
        if cell.source and (key := (cell.source, s.n_source)) not in loaded:
            assert len(study.load_source(cell).train) <= s.n_source
            loaded.add(key)


def test_what_a_cell_changes_is_meant(published_sizes):
    for change in ({"n_test": 2000}, {"n_train": 5000}):
        cell = study.Cell("efficientnet-lite0", "flowers", "full", changes=change)
        with pytest.raises(ValueError, match="flowers: n_t.*=.*, but there are"):
            study.load(cell)
    cell = study.Cell("resnet20", "fashion-mnist", source="flowers", changes={"n_source": 3000})
    with pytest.raises(ValueError, match="flowers: n_train=3000, but there are 2934 samples"):
        study.load_source(cell)


@pytest.mark.filterwarnings("ignore:flowers. n_test=2000, but there are 10")
def test_too_few_samples_are_shared_with_the_validation_samples(published_sizes, monkeypatch):
    monkeypatch.setitem(SIZES_OF, "flowers", (65, 10, 5))
    cell = study.Cell("efficientnet-lite0", "flowers", "full")
    with pytest.warns(UserWarning, match="n_train=1300, but there are 65 samples: all are taken"):
        task = study.load(cell)
    train, validation = training_splits(cell, task)
    assert (len(train), len(validation)) == (50, 15)
    assert not set(train.ids) & set(validation.ids)


def test_the_papers_players_lie_on_cub(cub, tmp_path):
    task = data.load("cub", n_train=3, n_test=1, data=tmp_path)
    players = PatchPlayers(grid=8, n=10, region="central", mean=task.mean)
    (placement,) = players.place(data.images(task.test.inputs), task.test.ids)
    owner = placement.owner[0, 0]
    assert [(owner == player).sum().item() for player in range(10)] == [28 * 28] * 10
    border = torch.ones_like(owner, dtype=torch.bool)
    border[28:-28, 28:-28] = False
    assert (owner[border] == 10).all()


def test_a_box_over_the_border_is_cut_there(cub, tmp_path):
    path = cub / "bounding_boxes.txt"
    path.write_text(path.read_text().replace("1 10.0 5.0 30.0 30.0", "1 -0.0 5.0 61.5 30.0", 1))
    with pytest.raises(ValueError, match="line 1"):  # negative: not the format
        data.load("cub", data=tmp_path)
    path.write_text(path.read_text().replace("1 -0.0 5.0 61.5", "1 0.0 5.0 61.5", 1))
    picture = data.load("cub", data=tmp_path).train.inputs[0]  # all 60 columns of rows 5 to 35
    assert picture[0, 112, 10] < 30 < 170 < picture[0, 112, 90]

"""Each source finds its images, labels, class names and splits, and says in one line what it cannot use."""

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from raycondense.data.decode import decode_image
from raycondense.data.sources import open_source, source_names
from raycondense.data.sources.base import unique_names
from raycondense.errors import DataError, RunError


def png(value, size=8):
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def values(source, indices=None):
    """The grey value of each image: tells which one it is."""
    from pathlib import Path

    payloads = source.read(range(len(source)) if indices is None else indices)
    return [int(decode_image(p.read_bytes() if isinstance(p, Path) else p, 8)[0, 0, 0]) for p in payloads]


def folder(root, tree):
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(content) if isinstance(content, int) else content)
    return root


# Image folders


def test_image_folder(tmp_path):
    folder(tmp_path, {"dog/b.PNG": 3, "dog/a.JPEG": 2, "cat/x.png": 1, "cat/notes.txt": b"", ".git/x/y.png": 9})
    source = open_source(tmp_path)
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [0, 1, 1]
    assert source.labels.dtype == np.int64
    assert values(source) == [1, 2, 3]
    assert values(source, [2, 0]) == [3, 1]
    assert source.key(1) == str(tmp_path / "dog" / "a.JPEG")
    assert not source.sequential


def test_image_folder_is_walked_deeply(tmp_path):
    folder(tmp_path, {"n01/images/b.png": 2, "n01/images/a.png": 1, "n02/ö.png": 3})
    assert values(open_source(tmp_path)) == [1, 2, 3]


def test_image_folder_splits(tmp_path):
    folder(tmp_path, {"train/b/1.png": 2, "train/a/1.png": 1, "validation/a/1.png": 3, "validation/b/1.png": 4})
    assert values(open_source(tmp_path)) == [1, 2]
    assert values(open_source(tmp_path, split="val")) == [3, 4]
    assert open_source(tmp_path, split="val").split == "val"
    with pytest.raises(DataError, match="split: found 'test', valid: train, val"):
        open_source(tmp_path, split="test")


def test_a_class_may_be_called_train(tmp_path):
    folder(tmp_path, {"train/1.png": 1, "bus/1.png": 2})
    assert open_source(tmp_path).classes == ("bus", "train")
    with pytest.raises(DataError, match="no train, val, test folders"):
        open_source(tmp_path, split="test")


def test_labels_mean_the_same_in_every_split(tmp_path):
    folder(tmp_path, {"train/a/1.png": 1, "train/b/1.png": 2, "test/b/1.png": 3})
    with pytest.raises(DataError, match="test/a: found no image"):
        open_source(tmp_path, split="test")
    folder(tmp_path, {"test/a/1.png": 3, "test/c/1.png": 3})
    with pytest.raises(DataError, match="test/c: this class is not one of"):
        open_source(tmp_path, split="test")


def test_empty_folders(tmp_path):
    with pytest.raises(DataError, match="found no class folders"):
        open_source(tmp_path)
    folder(tmp_path, {"a/1.png": 1, "b/readme.txt": b""})
    with pytest.raises(DataError, match="b: found no image in this class folder"):
        open_source(tmp_path)


# Parquet


def parquet(path, rows, image="image", label="label", names=None, row_group=4, struct_column=True, label_type=None):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": data, "path": f"{i}.png"} if struct_column else data for i, (data, _) in enumerate(rows)]
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct_column else pa.binary()
    columns = {image: pa.array(cells, image_type), label: pa.array([y for _, y in rows], label_type or pa.int64())}
    table = pa.table(columns)
    if names:
        info = {"info": {"features": {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group)
    return path


def rows(start, number):
    return [(png(i), i % 3) for i in range(start, start + number)]


@pytest.mark.parametrize("image", ["image", "img"])
@pytest.mark.parametrize("struct_column", [True, False])
def test_parquet(tmp_path, image, struct_column):
    options = {"image": image, "names": ["a", "b", "c"], "struct_column": struct_column}
    parquet(tmp_path / "train-00000-of-00002.parquet", rows(0, 150), **options)
    parquet(tmp_path / "train-00001-of-00002.parquet", rows(150, 7), **options)
    parquet(tmp_path / "test-00000-of-00001.parquet", rows(200, 3), **options)
    source = open_source(tmp_path)
    assert source.sequential
    assert source.classes == ("a", "b", "c")
    assert source.labels.tolist() == [i % 3 for i in range(157)]
    assert values(source) == list(range(157))
    assert values(source, [0, 64, 149, 150, 156]) == [0, 64, 149, 150, 156]
    assert values(source, [151]) == [151]
    assert source.key(149).endswith("train-00000-of-00002.parquet row 149")
    assert source.key(150).endswith("train-00001-of-00002.parquet row 0")
    assert values(open_source(tmp_path, split="test")) == [200, 201, 202]
    with pytest.raises(DataError, match="split: found 'val', valid: train, test"):
        open_source(tmp_path, split="val")


def test_parquet_by_file_glob_and_hub_folder(tmp_path):
    parquet(tmp_path / "data" / "train-0.parquet", rows(0, 5), label="fine_label")
    parquet(tmp_path / "data" / "validation-0.parquet", rows(5, 3), label="fine_label")
    for source in (tmp_path, tmp_path / "data" / "train-0.parquet", tmp_path / "data" / "*.parquet"):
        opened = open_source(source)
        assert values(opened) == list(range(5))
        assert opened.classes == ("0", "1", "2")
    assert values(open_source(tmp_path, split="val")) == [5, 6, 7]


def test_parquet_names_that_stand_there_twice(tmp_path):
    parquet(tmp_path / "train-0.parquet", rows(0, 6), names=["crane", "ship", "crane"])
    assert open_source(tmp_path).classes == ("crane (0)", "ship", "crane (2)")
    assert unique_names(["a", "b"]) == ("a", "b")


def test_parquet_faults(tmp_path):
    def refused(match, data=None, **options):
        parquet(tmp_path / "train-0.parquet", data or rows(0, 6), **options)
        with pytest.raises(DataError, match=match):
            open_source(tmp_path)

    refused(r"no image column image or img; its columns are: picture, label", image="picture")
    refused(r"no label column label or fine_label; its columns are: image, y", label="y")
    refused("label: found type string", data=[(png(0), "cat")], label_type="string")
    refused("label: found 1 rows without a value", data=[(png(0), 1), (png(0), None)])
    refused(
        r"row 4: label: found 2, valid: 0 to 1 \(2 of 6", names=["a", "b"], data=[(png(1), 0)] * 4 + [(png(1), 2)] * 2
    )
    refused(r"row 1: label: found -1", data=[(png(1), 0), (png(1), -1)])
    (tmp_path / "train-0.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        open_source(tmp_path)
    parquet(tmp_path / "train-0.parquet", rows(0, 3))
    parquet(tmp_path / "train-1.parquet", rows(0, 3), image="img")
    with pytest.raises(DataError, match=r"train-1.parquet: its columns are not image, label as in"):
        open_source(tmp_path)


def test_parquet_cell_without_bytes_is_a_damaged_image(tmp_path):
    parquet(tmp_path / "train-0.parquet", [(png(1), 0), (None, 0), (png(2), 0)])
    payloads = list(open_source(tmp_path).read(range(3)))
    assert [len(p) > 0 for p in payloads] == [True, False, True]


def test_parquet_damaged_in_the_middle(tmp_path):
    path = parquet(tmp_path / "train-0.parquet", [(np.random.default_rng(i).bytes(3000), 0) for i in range(300)])
    data = bytearray(path.read_bytes())
    data[200_000:400_000] = bytes(200_000)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"cannot be read as Parquet|damaged"):
        list(open_source(path).read(range(300)))


# Digits


def test_digits_splits_are_fixed_and_stratified():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.datasets import load_digits

    train, test = open_source("digits"), open_source("digits", split="test")
    assert len(train) + len(test) == 1797
    share = np.bincount(test.labels) / (np.bincount(test.labels) + np.bincount(train.labels))
    assert np.abs(share - 0.25).max() < 0.005
    assert not {train.key(i) for i in range(len(train))} & {test.key(i) for i in range(len(test))}
    image = next(train.read([7]))
    number = int(train.key(7).split()[-1])
    assert np.abs(image / 255 * 16 - load_digits().images[number]).max() < 0.04
    assert load_digits().target[number] == train.labels[7]
    with pytest.raises(DataError, match="split: found 'val', valid: train, test"):
        open_source("digits", split="val")


# .npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("tail", [(), (1,), (3,)])
def test_npz(tmp_path, save, tail):
    x = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, *[1] * len(tail)) * np.ones((1, 8, 8, *tail), np.uint8)
    save(tmp_path / "x.npz", x=x, y=np.arange(20) % 4, classes=np.array(["a", "b", "c", "d"]))
    source = open_source(tmp_path / "x.npz")
    assert source.classes == ("a", "b", "c", "d")
    assert values(source) == list(range(20))
    assert values(source, [3, 4, 17]) == [3, 4, 17]
    assert source.key(3).endswith("x.npz x[3]")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 8, 8), np.uint8)}, "found no array y, there are: x"),
        ({"images": np.zeros(1)}, "found no array x and y, there are: images"),
        ({"x": np.zeros((2, 8, 8), np.float32), "y": np.zeros(2, int)}, "x: found type float32, valid: uint8"),
        ({"x": np.zeros((2, 8), np.uint8), "y": np.zeros(2, int)}, r"x: found shape \[2, 8\]"),
        ({"x": np.zeros((2, 3, 8, 8), np.uint8), "y": np.zeros(2, int)}, r"x: found shape \[2, 3, 8, 8\]"),
        ({"x": np.zeros((0, 8, 8), np.uint8), "y": np.zeros(0, int)}, r"x: found shape \[0, 8, 8\]"),
        ({"x": np.zeros((2, 8, 8), np.uint8), "y": np.zeros(3, int)}, r"y: found int64 \[3\], valid: integers \[2\]"),
        ({"x": np.zeros((2, 8, 8), np.uint8), "y": np.zeros(2)}, "y: found float64"),
        ({"x": np.zeros((2, 8, 8), np.uint8), "y": np.array([0, -1])}, r"x\[1\]: label: found -1"),
        ({"x": np.zeros((2, 8, 8), np.uint8), "y": np.array([0, 10**9])}, r"label: found 1000000000, valid: 0 to 1"),
        ({"x": np.zeros((2, 8, 8), np.uint8), "y": np.array([0, 1]), "classes": np.array(["a"])}, "valid: 0 to 0"),
        ({"x": np.zeros((2, 8, 8), np.uint8), "y": np.array([0, 1]), "classes": np.zeros(2)}, "classes: found float64"),
        ({"x": np.asfortranarray(np.zeros((2, 8, 8), np.uint8)), "y": np.array([0, 1])}, "Fortran order"),
        ({"x": np.array([None, 1], dtype=object), "y": np.array([0, 1])}, "x: found type object"),
    ],
)
def test_npz_faults(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "x.npz")


def test_npz_damaged(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.random.default_rng(0).integers(0, 255, (99, 32, 32), np.uint8), y=np.zeros(99, int))
    whole = path.read_bytes()
    path.write_bytes(whole[:5000] + bytes(1000) + whole[6000:])
    with pytest.raises(DataError, match="damaged"):
        list(open_source(path).read(range(99)))
    path.write_bytes(whole[:5000])
    with pytest.raises(DataError, match="cannot be read"):
        open_source(path)


# torchvision


def idx(array):
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_torchvision_by_name(tmp_path):
    """Files in torchvision's own layout need no download."""
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, start, number in (("train", 0, 30), ("t10k", 100, 10)):
        images = np.arange(start, start + number, dtype=np.uint8).reshape(-1, 1, 1) * np.ones((1, 28, 28), np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx((np.arange(number) % 10).astype(np.uint8)))
    train = open_source("fashion_mnist", data_root=str(tmp_path))
    assert train.classes[9] == "Ankle boot"
    assert train.labels.tolist() == [i % 10 for i in range(30)]
    assert values(train, [29, 0]) == [29, 0]
    test = open_source("fashion_mnist", split="test", data_root=str(tmp_path))
    assert values(test) == list(range(100, 110))
    assert test.key(3) == "fashion_mnist test image 3"
    with pytest.raises(DataError, match="split: found 'val', valid: train, test"):
        open_source("fashion_mnist", split="val", data_root=str(tmp_path))


def test_torchvision_of_files(tmp_path):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    root = folder(tmp_path, {f"dtd/dtd/images/{c}/{c}_{i}.jpg": 10 * i for c in ("dotted", "banded") for i in (1, 2)})
    (root / "dtd/dtd/labels").mkdir()
    (root / "dtd/dtd/labels/val1.txt").write_text("banded/banded_2.jpg\ndotted/dotted_1.jpg\n")
    source = open_source("dtd", split="val", data_root=str(tmp_path))
    assert source.classes == ("banded", "dotted")
    assert source.labels.tolist() == [0, 1]
    assert values(source) == [20, 10]


def test_torchvision_download_that_fails(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets", reason="torchvision is not installed")

    def offline(self, *args, **options):
        raise OSError("Name or service not known")

    monkeypatch.setattr(datasets.CIFAR10, "download", offline)
    with pytest.raises(RunError, match=r"cifar10: could not be downloaded to or read from .*Name or service"):
        open_source("cifar10", data_root=str(tmp_path))


def test_every_name_is_a_class_of_torchvision():
    datasets = pytest.importorskip("torchvision.datasets", reason="torchvision is not installed")
    from raycondense.data.sources.names import DATASETS

    for dataset in DATASETS.values():
        assert hasattr(datasets, dataset.type_name)
        assert {"train", "test"} <= dataset.splits.keys()


# Anything else


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cifar11", r"unknown dataset 'cifar11' \(did you mean 'cifar10'\?\); valid: digits, cifar10"),
        ("./nowhere", "no such file or folder"),
        ("nowhere.npz", "no such file or folder"),
        ("shards/*.parquet", "no file fits this pattern"),
    ],
)
def test_what_is_no_source(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        open_source(source)


def test_other_files(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"found a \.zip file, valid files: \.npz, \.parquet"):
        open_source(tmp_path / "x.zip")
    assert source_names()[0] == "digits"

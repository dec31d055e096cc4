"""What `prepare` writes: class order, validation cut, statistics, the same bytes always, and no name on failure."""

import errno
import logging
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from raycondense.data.beton import BetonReader
from raycondense.data.dataset_writer import DatasetWriter, Origin
from raycondense.data.encoding import Encoding
from raycondense.data.prepare import prepare
from raycondense.data.sidecar import Sidecar
from raycondense.data.spool import Spool
from raycondense.errors import ConfigError, DataError, Interrupted, RunError

COUNTS = {"ant": 6, "bee": 10, "cat": 4}


@pytest.fixture
def folder(tmp_path):
    """Class folders of 16 × 16 px images; the grey value says which one it is."""
    value = 0
    for name, count in COUNTS.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (16, 16), value).save(tmp_path / "images" / name / f"{i}.png")
            value += 10
    return tmp_path / "images"


@pytest.fixture
def npz(tmp_path):
    """The same images in a shuffled ``.npz``, a source that is read front to back."""
    order = np.random.default_rng(0).permutation(20)
    x = (order * 10).astype(np.uint8).reshape(-1, 1, 1) * np.ones((1, 16, 16), np.uint8)
    labels = np.repeat(np.arange(3), list(COUNTS.values()))
    np.savez(tmp_path / "x.npz", x=x, y=labels[order], classes=np.array(list(COUNTS)))
    return tmp_path / "x.npz"


def values(path):
    return (BetonReader(path).images(range(Sidecar.load(path).num_images), 16)[:, 0, 0, 0] // 10).tolist()


def by_class(path):
    sidecar, found = Sidecar.load(path), values(path)
    return [[found[i] for i in sidecar.class_range(c)] for c in range(sidecar.num_classes)]


ALL = [list(range(6)), list(range(6, 16)), list(range(16, 20))]


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_classes_lie_together_and_are_shuffled_inside(kind, tmp_path, request):
    result = prepare(request.getfixturevalue(kind), tmp_path / "out" / "x.beton", resolution=16, workers=1, seed=3)
    assert result.path == tmp_path / "out" / "x.beton"
    found = by_class(result.path)
    assert [sorted(part) for part in found] == ALL
    assert found[1] != ALL[1]
    sidecar = Sidecar.load(result.path)
    assert sidecar == result.sidecar
    assert (sidecar.classes, sidecar.counts) == (("ant", "bee", "cat"), (6, 10, 4))
    assert (sidecar.resolution, sidecar.encoding, sidecar.quality) == (16, "raw", None)
    assert (sidecar.seed, sidecar.split, sidecar.skipped) == (3, "train", 0)
    sidecar.verify(result.path, full=True)
    assert (result.val_path, result.val_sidecar, result.skipped, result.skipped_path) == (None, None, 0, None)
    assert sorted(os.listdir(tmp_path / "out")) == ["x.beton", "x.beton.json"]


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_bytes_depend_on_the_seed_and_not_on_workers(kind, tmp_path, request):
    source = request.getfixturevalue(kind)
    one, two, other = (
        prepare(source, tmp_path / f"{i}.beton", resolution=16, workers=workers, seed=seed, val_fraction=0.5)
        for i, (workers, seed) in enumerate([(1, 0), (2, 0), (1, 1)])
    )
    assert one.sidecar == two.sidecar
    assert one.val_sidecar == two.val_sidecar
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.sidecar.sha256 != other.sidecar.sha256


def test_order_of_reading_does_not_matter(folder, npz, tmp_path):
    """Spooled or not, each class holds its images; the statistics agree to the last bit."""
    direct = prepare(folder, tmp_path / "a.beton", resolution=16, workers=1).sidecar
    spooled = prepare(npz, tmp_path / "b.beton", resolution=16, workers=1).sidecar
    assert (direct.mean, direct.std, direct.counts) == (spooled.mean, spooled.std, spooled.counts)


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_validation_cut_is_stratified_and_disjoint(kind, tmp_path, request):
    calls = []
    result = prepare(
        request.getfixturevalue(kind), tmp_path / "x.beton", resolution=16, workers=1, val_fraction=0.3,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert result.val_path == tmp_path / "x-val.beton"
    assert result.sidecar.counts == (4, 7, 3)
    assert result.val_sidecar.counts == (2, 3, 1)
    assert result.val_sidecar.split == "val (cut from train)"
    train, val = by_class(result.path), by_class(result.val_path)
    assert [sorted(a + b) for a, b in zip(train, val, strict=True)] == ALL
    assert calls[0] == (0, 20)
    assert calls[-1] == (20, 20)


def test_mean_and_std_are_those_of_the_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)
    pixels[..., 2] = 77
    np.savez(tmp_path / "x.npz", x=pixels, y=np.arange(30) % 3)
    sidecar = prepare(tmp_path / "x.npz", tmp_path / "x.beton", workers=1).sidecar
    flat = pixels.reshape(-1, 3) / 255
    assert sidecar.resolution == 8
    assert sidecar.mean == pytest.approx(flat.mean(0))
    assert sidecar.std[:2] == pytest.approx(flat.std(0)[:2])
    assert sidecar.std[2] == pytest.approx(1 / 255)


def test_jpeg(folder, tmp_path):
    sidecar = prepare(folder, tmp_path / "x.beton", resolution=32, encoding="jpeg", quality=95, workers=1).sidecar
    assert (sidecar.encoding, sidecar.quality, sidecar.resolution) == ("jpeg", 95, 32)
    images = BetonReader(tmp_path / "x.beton").images(range(20))
    assert [sorted(np.round(images[list(sidecar.class_range(c)), 0, 0, 0] / 10).tolist()) for c in range(3)] == ALL


@pytest.mark.parametrize(("side", "expected"), [(5, 8), (14, 16), (28, 32), (90, 64), (400, 64)])
def test_resolution_that_fits_the_first_image(tmp_path, side, expected):
    np.savez(tmp_path / "x.npz", x=np.zeros((2, side, side + 20), np.uint8), y=np.zeros(2, int))
    assert prepare(tmp_path / "x.npz", tmp_path / "x.beton", workers=1).sidecar.resolution == expected


# Images that cannot be decoded


@pytest.fixture
def damaged(folder):
    (folder / "bee" / "4.png").write_bytes(b"no image")
    whole = (folder / "cat" / "1.png").read_bytes()
    (folder / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_image_stops_and_is_named(damaged, tmp_path, workers):
    with pytest.raises(DataError, match=r"(bee/4|cat/1)\.png: this image cannot be decoded .* --skip-bad"):
        prepare(damaged, tmp_path / "out" / "x.beton", resolution=16, workers=workers, val_fraction=0.3)
    assert os.listdir(tmp_path / "out") == []


def test_bad_images_are_skipped_counted_and_listed(damaged, tmp_path):
    result = prepare(damaged, tmp_path / "x.beton", resolution=16, workers=1, val_fraction=0.3, skip_bad=True)
    assert result.skipped == 2
    assert result.sidecar.skipped + result.val_sidecar.skipped == 2
    train, val = by_class(result.path), by_class(result.val_path)
    assert [sorted(a + b) for a, b in zip(train, val, strict=True)] == [
        ALL[0], [v for v in ALL[1] if v != 10], [v for v in ALL[2] if v != 17],
    ]  # fmt: skip
    lines = result.skipped_path.read_text().splitlines()
    assert result.skipped_path == tmp_path / "x.beton.skipped.txt"
    assert [line.split("\t")[0] for line in lines] == [str(damaged / "bee/4.png"), str(damaged / "cat/1.png")]
    assert "cannot identify" in lines[0]


def test_bad_rows_of_a_spooled_source(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    from raycondense.data.encoding import encode_jpeg

    cells = [encode_jpeg(np.full((16, 16, 3), 10 * i, np.uint8), 95) for i in range(6)]
    cells[2] = b"nothing"
    pq.write_table(pa.table({"image": cells, "label": [1, 0, 1, 0, 1, 0]}), tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match=r"train-0\.parquet row 2: this image cannot be decoded"):
        prepare(tmp_path / "train-0.parquet", tmp_path / "x.beton", resolution=16, workers=1)
    result = prepare(tmp_path / "train-0.parquet", tmp_path / "x.beton", resolution=16, workers=1, skip_bad=True)
    assert [sorted(part) for part in by_class(result.path)] == [[1, 3, 5], [0, 4]]


def test_a_class_may_not_be_lost(folder, tmp_path):
    for file in (folder / "cat").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"class 'cat' would hold no image .* 4 images skipped"):
        prepare(folder, tmp_path / "out" / "x.beton", resolution=16, workers=1, skip_bad=True)
    assert os.listdir(tmp_path / "out") == []


# Settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 48}, "resolution: found 48, valid: 8, 16, 32, 64, 128, 256"),
        ({"resolution": 0}, "resolution: found 0"),
        ({"encoding": "png"}, "encoding: found 'png', valid: raw, jpeg"),
        ({"quality": 0}, "quality: found 0, valid: 1 to 100"),
        ({"workers": 0}, "workers: found 0, valid: 1 or more"),
        ({"val_fraction": 1.0}, "val_fraction: found 1.0, valid: 0"),
        ({"val_fraction": -0.1}, "val_fraction: found -0.1"),
        ({"val_fraction": float("nan")}, "val_fraction: found nan"),
        ({"seed": -1}, "seed: found -1"),
    ],
)
def test_settings_that_are_not_valid(folder, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        prepare(folder, tmp_path / "x.beton", **options)


@pytest.mark.parametrize("fraction", [0.01, 0.95])
def test_validation_cut_that_empties_a_class(folder, tmp_path, fraction):
    with pytest.raises(DataError, match=r"val_fraction: found .* of the . images of class '(ant|cat)'"):
        prepare(folder, tmp_path / "x.beton", resolution=16, val_fraction=fraction)


def test_a_class_without_rows_is_named(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 8, 8), np.uint8), y=np.array([0, 2, 2]))
    with pytest.raises(DataError, match="class '1' holds no image"):
        prepare(tmp_path / "x.npz", tmp_path / "x.beton")


def test_out_must_be_a_beton(folder, tmp_path):
    with pytest.raises(DataError, match=r"ends in \.beton"):
        prepare(folder, tmp_path / "x.bin")


# Files that are there already


def test_files_are_replaced_only_when_asked(folder, tmp_path):
    def run(**options):
        return prepare(folder, tmp_path / "x.beton", resolution=16, workers=1, **options)

    first = run()
    with pytest.raises(DataError, match=r"x\.beton: exists already; choose another name or pass --overwrite"):
        run(seed=1)
    assert run(seed=1, overwrite=True).sidecar.sha256 != first.sidecar.sha256
    Sidecar.load(first.path).verify(first.path, full=True)


def test_a_stale_cut_does_not_stay_beside_a_new_whole_set(folder, tmp_path, caplog):
    def run(**options):
        return prepare(folder, tmp_path / "x.beton", resolution=16, workers=1, **options)

    run(val_fraction=0.3)
    with caplog.at_level(logging.WARNING, "raycondense"):
        run(overwrite=True)
    assert "x-val.beton: removed" in caplog.text
    assert sorted(p.name for p in tmp_path.glob("x*")) == ["x.beton", "x.beton.json"]
    # A file of that name that is no cut of ours stays.
    prepare(folder, tmp_path / "x-val.beton", resolution=16, workers=1)
    run(overwrite=True)
    assert (tmp_path / "x-val.beton").exists()


def test_skipped_list_of_an_older_run_goes(damaged, tmp_path):
    prepare(damaged, tmp_path / "x.beton", resolution=16, workers=1, skip_bad=True)
    for name in ("bee/4.png", "cat/1.png"):
        Image.new("L", (16, 16)).save(damaged / name)
    prepare(damaged, tmp_path / "x.beton", resolution=16, workers=1, overwrite=True)
    assert not (tmp_path / "x.beton.skipped.txt").exists()


# Runs that end early


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_interrupt_leaves_no_name_and_hidden_work(kind, tmp_path, request):
    def interrupt(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="run the same command to go on from 20 of 20 images"):
        prepare(
            request.getfixturevalue(kind), tmp_path / "out" / "x.beton", resolution=16, workers=1, val_fraction=0.3,
            progress=interrupt,
        )  # fmt: skip
    assert os.listdir(tmp_path / "out") == [".x.beton.work"]


def test_interrupt_before_the_first_image_leaves_nothing(folder, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(folder, tmp_path / "out" / "x.beton", resolution=16, workers=1, progress=interrupt)
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(("where", "left"), [("write", []), ("_finish", [".x.beton.work"])])
def test_full_disk_leaves_old_files_alone(folder, tmp_path, monkeypatch, where, left):
    from raycondense.data.beton import BetonWriter

    def full(self, *args):
        raise OSError(errno.ENOSPC, "No space left on device")

    old = prepare(folder, tmp_path / "out" / "x.beton", resolution=16, workers=1)
    monkeypatch.setattr(BetonWriter, where, full)
    with pytest.raises(RunError, match="no space left"):
        prepare(
            folder, tmp_path / "out" / "x.beton", resolution=16, workers=1, val_fraction=0.3, overwrite=True, seed=9
        )
    assert sorted(os.listdir(tmp_path / "out")) == [*left, "x.beton", "x.beton.json"]
    old.sidecar.verify(old.path, full=True)


def test_too_little_room_is_said_at_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=9000))
    with pytest.raises(RunError, match="20 raw images of 16 px take"):
        prepare(folder, tmp_path / "x.beton", resolution=16, workers=1)


# The parts


def test_spool_gives_back_by_rank(tmp_path):
    number, size = 50, 40 << 20  # the expected size alone makes several buckets
    ranks = np.random.default_rng(0).permutation(number)
    with Spool(tmp_path, number, size) as spool:
        assert spool.buckets > 4
        for rank in ranks.tolist():
            if rank != 13:
                spool.add(rank, b"%d" % rank)
        found = []
        for bucket in range(spool.buckets):
            found += spool.images(bucket)
            spool.drop(bucket)
        assert found == [(r, b"%d" % r) for r in range(number) if r != 13]
        assert os.listdir(tmp_path) == []


def test_dataset_writer_takes_pixels(tmp_path):
    path = tmp_path / "x.beton"
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    origin = Origin(source="test", split="train", seed=0)

    def writer():
        return DatasetWriter(path, 4, classes=("a", "b"), encoding=Encoding(8, "raw", 90), origin=origin)

    with writer() as out:
        for image, label in zip(images, (0, 0, 1, 1), strict=True):
            out.add(image, label)
        with pytest.raises(DataError, match="label: found 0 after 1, valid: ascending"):
            out.add(images[0], 0)
    assert np.array_equal(BetonReader(path).images(range(4)), images.transpose(0, 3, 1, 2))
    path.unlink()
    Sidecar.path(path).unlink()
    with pytest.raises(DataError, match="class 'b' would hold no image"), writer() as out:
        out.add(images[0], 0)
    assert os.listdir(tmp_path) == []


def test_decoding_processes_start_without_torch():
    code = "import raycondense.data.encoding, sys; print({'torch', 'torchvision', 'pyarrow', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_cifar10_shards(tmp_path):
    """The real thing, where it is: the test split's well-known statistics."""
    data = os.environ.get("RAYCONDENSE_TEST_DATA")
    if not data or not os.path.isdir(f"{data}/cifar10"):
        pytest.skip("RAYCONDENSE_TEST_DATA names no folder with cifar10")
    sidecar = prepare(f"{data}/cifar10", tmp_path / "x.beton", split="test", workers=1).sidecar
    assert (sidecar.resolution, sidecar.counts) == (32, (1000,) * 10)
    assert sidecar.mean == pytest.approx((0.4942, 0.4851, 0.4504), abs=1e-4)

"""The writer makes files that the real FFCV reads; the reader refuses every damaged file with one line."""

import hashlib
import pickle

import numpy as np
import pytest

from raycondense.data import beton_format as fmt
from raycondense.data.beton import BetonReader, BetonWriter
from raycondense.data.decode import decode_stored_jpeg, encode_jpeg
from raycondense.data.sidecar import Sidecar, file_sha256
from raycondense.errors import DataError

COUNTS = (5, 9, 3)


def smooth_images(number, side, seed=0):
    """uint8 [number, side, side, 3] with low frequencies, so that JPEG changes them little."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (number, 4, 4, 3)).astype(float)
    fine = coarse.repeat(side // 4, 1).repeat(side // 4, 2)
    return fine.astype(np.uint8)


def write(path, side=8, encoding="raw", page_size=fmt.MIN_PAGE_SIZE, counts=COUNTS, capacity=None):
    images = smooth_images(sum(counts), side)
    labels = np.repeat(np.arange(len(counts)), counts)
    with BetonWriter(path, capacity or len(images), resolution=side, encoding=encoding, page_size=page_size) as writer:
        for image, label in zip(images, labels, strict=True):
            writer.write(image if encoding == "raw" else encode_jpeg(image, 95), int(label))
    Sidecar(
        classes=tuple(f"class {c}" for c in range(len(counts))), counts=counts, mean=(0.5,) * 3, std=(0.2,) * 3,
        resolution=side, encoding=encoding, quality=None if encoding == "raw" else 95, source="test",
        split="train", seed=0, sha256=file_sha256(path), size=path.stat().st_size,
    ).save(path)  # fmt: skip
    return images, labels


@pytest.fixture(params=["raw", "jpeg"])
def encoding(request):
    return request.param


def test_reads_what_was_written(tmp_path):
    images, labels = write(tmp_path / "x.beton")
    reader = BetonReader(tmp_path / "x.beton")
    assert len(reader) == len(images)
    assert np.array_equal(reader.labels, labels)
    assert reader.labels.dtype == np.int64
    order = [16, 0, 3, 3]
    found = reader.images(order, 8)
    assert found.flags.c_contiguous
    assert np.array_equal(found, images[order].transpose(0, 3, 1, 2))
    assert reader.images([], 8).shape == (0, 3, 8, 8)


def test_images_never_straddle_pages(tmp_path):
    # 440 px: 580 800 bytes an image, 3 in a page of 2 MiB.
    images, _ = write(tmp_path / "x.beton", side=440, counts=(4, 3))
    reader = BetonReader(tmp_path / "x.beton")
    pages = reader._starts // fmt.MIN_PAGE_SIZE
    assert pages.tolist() == [1, 1, 1, 2, 2, 2, 3]
    assert np.array_equal((reader._starts + reader._sizes - 1) // fmt.MIN_PAGE_SIZE, pages)
    assert np.array_equal(reader.images(range(7)), images.transpose(0, 3, 1, 2))


def test_jpeg_is_what_pillow_decodes(tmp_path):
    images, _ = write(tmp_path / "x.beton", side=32, encoding="jpeg")
    reader = BetonReader(tmp_path / "x.beton", threads=3)
    found = reader.images(range(17), 32)
    wanted = np.stack([np.asarray(decode_stored_jpeg(encode_jpeg(i, 95), 32)) for i in images]).transpose(0, 3, 1, 2)
    assert np.array_equal(found, wanted)
    assert np.abs(found.astype(int) - images.transpose(0, 3, 1, 2)).mean() < 8


def test_reduction_is_the_mean_of_blocks(tmp_path, encoding):
    write(tmp_path / "x.beton", side=32, encoding=encoding)
    reader = BetonReader(tmp_path / "x.beton")
    full = reader.images(range(17), 32).astype(float)
    wanted = full.reshape(17, 3, 8, 4, 8, 4).mean((3, 5))
    difference = np.abs(reader.images(range(17), 8) - wanted)
    # JPEGs are reduced while they are decoded, by leaving out high frequencies.
    assert difference.max() <= (0.51 if encoding == "raw" else 32)
    assert difference.mean() <= (0.51 if encoding == "raw" else 5)
    assert reader.images([1], 64).shape == (1, 3, 64, 64)


def test_bytes_are_deterministic_and_capacity_may_be_larger(tmp_path):
    write(tmp_path / "a.beton")
    write(tmp_path / "b.beton")
    write(tmp_path / "c.beton", capacity=1000)
    a, b = ((tmp_path / f"{n}.beton").read_bytes() for n in "ab")
    assert hashlib.sha256(a).digest() == hashlib.sha256(b).digest()
    assert np.array_equal(
        BetonReader(tmp_path / "c.beton").images(range(17)), BetonReader(tmp_path / "a.beton").images(range(17))
    )


def test_reader_can_be_pickled(tmp_path):
    images, _ = write(tmp_path / "x.beton")
    reader = pickle.loads(pickle.dumps(BetonReader(tmp_path / "x.beton")))
    assert np.array_equal(reader.images([2])[0], images[2].transpose(2, 0, 1))


@pytest.mark.parametrize("indices", [[-1], [17], [0, 99]])
def test_index_out_of_range(tmp_path, indices):
    write(tmp_path / "x.beton")
    with pytest.raises(DataError, match="valid: 0 to 16"):
        BetonReader(tmp_path / "x.beton").images(indices)


def test_writer_refuses_wrong_samples(tmp_path):
    def writer(**options):
        return BetonWriter(tmp_path / "x.beton", 1, resolution=8, **options)

    with pytest.raises(DataError, match="valid: 192"), writer() as raw:
        raw.write(bytes(191), 0)
    with pytest.raises(DataError, match="a page"), writer(encoding="jpeg", page_size=fmt.MIN_PAGE_SIZE) as jpeg:
        jpeg.write(bytes(fmt.MIN_PAGE_SIZE + 1), 0)
    with writer() as raw:
        raw.write(bytes(192), 0)
        with pytest.raises(DataError, match="more samples than the announced 1"):
            raw.write(bytes(192), 0)
    with pytest.raises(DataError, match="no sample"), writer():
        pass
    with pytest.raises(DataError, match="page_size: found 3000000"):
        writer(page_size=3_000_000)
    with pytest.raises(DataError, match="must be entered"):
        writer().write(bytes(192), 0)


def test_unfinished_file_is_refused(tmp_path):
    path = tmp_path / "x.beton"
    images, _ = write(path)

    def interrupted():
        with BetonWriter(path, 17, resolution=8) as writer:
            for image in images:
                writer.write(image, 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(DataError, match=r"x\.beton"):
        BetonReader(path)


def damage(path, position, data):
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


HUGE = (2**63 + 5).to_bytes(8, "little")
FIRST = fmt.METADATA_START


@pytest.mark.parametrize(
    ("position", "data", "message"),
    [
        (0, b"\x09", "format version 9"),
        (2, b"\x01", "with 1 fields"),
        (4, b"\x01\x00\x00\x00", "pages of 1 bytes"),
        (8, HUGE, "do not fit its header"),
        (8, b"\x12", "do not fit its header"),
        (16, HUGE, "do not fit its header"),
        (24, b"\x03", "its fields are not"),
        (25, b"imago", "its fields are not"),
        (FIRST, b"\x00", "not every image is raw"),
        (FIRST + 1, b"\xff\xff", "not every image has 8 px"),
        (FIRST + 5, HUGE, "different places"),
        (FIRST + 5, b"\x00" * 8, "different places"),
        (FIRST + 16, b"\x02", "labels"),
        (-24, HUGE, "allocations and images differ"),
        (-16, HUGE, "different places"),
        (-8, HUGE, "outside of the file"),
        (-8, b"\x00", "outside of the file"),
        (-8, b"\xbf", "wrong size"),
    ],
)
def test_damaged_numbers_are_refused(tmp_path, position, data, message):
    path = tmp_path / "x.beton"
    write(path)
    damage(path, position % path.stat().st_size, data)
    with pytest.raises(DataError, match=message) as caught:
        BetonReader(path)
    assert str(path) in str(caught.value)


def test_pointer_out_of_the_file_is_refused(tmp_path):
    path = tmp_path / "x.beton"
    write(path)
    end = path.stat().st_size
    for pointer in (HUGE, (end - 10).to_bytes(8, "little"), (100).to_bytes(8, "little")):
        damage(path, FIRST + 5, pointer)
        damage(path, end - 17 * 24 + 8, pointer)
        with pytest.raises(DataError, match="outside of the file"):
            BetonReader(path)


@pytest.mark.parametrize("keep", [0, 10, 2000, fmt.MIN_PAGE_SIZE + 100, -1])
def test_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "x.beton"
    write(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"damaged|do not fit"):
        BetonReader(path)


def test_damaged_jpeg_is_named(tmp_path):
    path = tmp_path / "x.beton"
    write(path, side=32, encoding="jpeg")
    start = int(BetonReader(path)._starts[4])
    damage(path, start, b"nothing of a JPEG")
    reader = BetonReader(path)
    reader.images([3, 5])
    with pytest.raises(DataError, match="image 4 is damaged"):
        reader.images(range(17))
    # A JPEG that claims to be huge: refused by its header, before anything is allocated.
    damage(path, start, encode_jpeg(np.zeros((40, 48, 3), np.uint8), 90)[:300])
    with pytest.raises(DataError, match="found RGB 48x40, valid: RGB 32x32"):
        reader.images([4])


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match="needs its sidecar"):
        BetonReader(tmp_path / "x.beton")
    write(tmp_path / "x.beton")
    (tmp_path / "x.beton").unlink()
    with pytest.raises(DataError, match="no such file"):
        BetonReader(tmp_path / "x.beton")


@pytest.fixture
def ffcv_loader():
    pytest.importorskip("ffcv", reason="ffcv is not installed")
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline.compiler import Compiler

    # FFCV's own switch: without compilation the first batch comes at once.
    Compiler.set_enabled(False)

    def epoch(path, order, os_cache, batch=4):
        loader = Loader(
            str(path), batch_size=batch, num_workers=1, order=OrderOption[order], os_cache=os_cache,
            drop_last=False, seed=7,
        )  # fmt: skip
        iterator = iter(loader)
        try:
            return [(image.numpy().copy(), label.numpy().copy()) for image, label in iterator]
        finally:
            iterator.close()

    yield epoch
    Compiler.set_enabled(True)


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("order", ["SEQUENTIAL", "RANDOM"])
def test_ffcv_reads_it(tmp_path, ffcv_loader, encoding, order, os_cache):
    path = tmp_path / "x.beton"
    # More than one page of images, and more room for records than there are samples.
    side, counts = (440, (4, 3)) if encoding == "raw" else (32, COUNTS)
    write(path, side=side, encoding=encoding, counts=counts, capacity=50)
    reader = BetonReader(path)
    batches = ffcv_loader(path, order, os_cache)
    images = np.concatenate([image for image, _ in batches]).transpose(0, 3, 1, 2)
    labels = np.concatenate([label for _, label in batches]).reshape(-1)
    assert len(labels) == sum(counts)
    assert np.array_equal(np.sort(labels), reader.labels)
    mine = reader.images(range(len(reader)))
    positions = range(len(reader)) if order == "SEQUENTIAL" else _match(images, mine)
    assert sorted(positions) == list(range(len(reader)))
    assert np.array_equal(reader.labels[list(positions)], labels)
    # Raw pixels are the same; of a JPEG FFCV's fast decoder differs a little from Pillow's.
    tolerance = 0 if encoding == "raw" else 8
    assert np.abs(images.astype(int) - mine[list(positions)]).max() <= tolerance


def _match(images, mine):
    """For each image the position of its nearest one in the file."""
    flat, own = (x.reshape(len(x), -1).astype(np.float32) for x in (images, mine))
    return [int(np.square(own - image).sum(1).argmin()) for image in flat]


def test_ffcv_writes_the_same_layout(tmp_path):
    """FFCV's own writer, one process: every number of the layout is ours, byte for byte."""
    pytest.importorskip("ffcv", reason="ffcv is not installed")
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    images, labels = write(tmp_path / "ours.beton", page_size=fmt.DEFAULT_PAGE_SIZE)
    theirs = DatasetWriter(
        str(tmp_path / "theirs.beton"), {"image": RGBImageField(write_mode="raw"), "label": IntField()}, num_workers=1
    )
    theirs.from_indexed_dataset([(image, int(label)) for image, label in zip(images, labels, strict=True)])
    assert (tmp_path / "theirs.beton").read_bytes() == (tmp_path / "ours.beton").read_bytes()

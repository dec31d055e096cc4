"""A sidecar comes back as it was saved; a damaged, newer or foreign one is refused with one line."""

import dataclasses
import json

import numpy as np
import pytest

from raycondense.data import beton_format as fmt
from raycondense.data.beton import BetonWriter
from raycondense.data.sidecar import Sidecar, file_sha256
from raycondense.errors import DataError


@pytest.fixture
def beton(tmp_path):
    path = tmp_path / "x.beton"
    with BetonWriter(path, 5, resolution=8, page_size=fmt.MIN_PAGE_SIZE) as writer:
        for label in (0, 0, 0, 1, 1):
            writer.write(np.full((8, 8, 3), label, np.uint8), label)
    return path


def sidecar_of(path, **changes):
    values = {
        "classes": ("cat", "Hund & Käfer"), "counts": (3, 2), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6),
        "resolution": 8, "encoding": "raw", "quality": None, "source": "test", "split": "train", "seed": 3,
        "sha256": file_sha256(path), "size": path.stat().st_size, "skipped": 1,
    }  # fmt: skip
    return Sidecar(**(values | changes))


def test_round_trip(beton):
    sidecar = sidecar_of(beton)
    assert sidecar.save(beton) == beton.with_name("x.beton.json")
    assert Sidecar.load(beton) == sidecar
    sidecar.verify(beton, full=True)


def test_class_ranges(beton):
    sidecar = sidecar_of(beton)
    assert (sidecar.num_classes, sidecar.num_images) == (2, 5)
    assert list(sidecar.class_range(0)) == [0, 1, 2]
    assert list(sidecar.class_range(1)) == [3, 4]
    for label in (-1, 2):
        with pytest.raises(DataError, match="valid: 0 to 1"):
            sidecar.class_range(label)


def test_verify(beton, tmp_path):
    sidecar = sidecar_of(beton)
    with pytest.raises(DataError, match=r"5 images in .* its sidecar says 6"):
        dataclasses.replace(sidecar, counts=(4, 2)).verify(beton)
    with pytest.raises(DataError, match="bytes, its sidecar says"):
        dataclasses.replace(sidecar, size=sidecar.size + 1).verify(beton)
    with pytest.raises(DataError, match="no such file"):
        sidecar.verify(tmp_path / "other.beton")
    with beton.open("r+b") as file:
        file.seek(fmt.MIN_PAGE_SIZE)
        file.write(b"\xff")
    sidecar.verify(beton)
    with pytest.raises(DataError, match="SHA-256"):
        sidecar.verify(beton, full=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": (3,)}, "2 classes and 1 counts"),
        ({"classes": (), "counts": ()}, "0 classes"),
        ({"classes": ("cat", "cat")}, "name twice"),
        ({"counts": (5, 0)}, "0 images of class 'Hund & Käfer'"),
        ({"mean": (0.1, 0.2)}, "mean"),
        ({"mean": (0.1, 0.2, float("nan"))}, "mean"),
        ({"std": (0.1, 0.2, 0.0)}, "std"),
        ({"resolution": 0}, "resolution: found 0"),
        ({"encoding": "png"}, "encoding: found 'png'"),
        ({"quality": 90}, "quality: found 90 for raw"),
        ({"encoding": "jpeg"}, "quality: found None for jpeg"),
        ({"encoding": "jpeg", "quality": 101}, "quality: found 101"),
        ({"encoding": "jpeg", "quality": 0}, "quality: found 0"),
    ],
)
def test_contradictions_are_refused(beton, changes, message):
    with pytest.raises(DataError, match=message):
        sidecar_of(beton, **changes)


def test_missing(tmp_path):
    with pytest.raises(DataError, match=r"x\.beton\.json: no such file"):
        Sidecar.load(tmp_path / "x.beton")


def change(**changes):
    def apply(values):
        return {**values, **changes}

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change(format_version=2), "found format_version 2, valid: up to 1; a newer"),
        (change(format_version="1"), "no format_version"),
        (change(format_version=True), "no format_version"),
        (change(counts=[3, "2"]), "counts"),
        (change(counts=[3, -2]), "counts: found -2"),
        (change(counts=3), "counts"),
        (change(size="big"), "size: found 'big'"),
        (change(seed=True), "seed"),
        (change(extra=1), "unknown fields"),
        (lambda values: {k: v for k, v in values.items() if k != "mean"}, "missing fields"),
        (lambda values: [values], "no format_version"),
        (lambda values: None, "no format_version"),
    ],
)
def test_damaged(beton, edit, message):
    path = sidecar_of(beton).save(beton)
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    with pytest.raises(DataError, match=message) as caught:
        Sidecar.load(beton)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 5000])
def test_not_json(beton, content):
    Sidecar.path(beton).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as JSON"):
        Sidecar.load(beton)

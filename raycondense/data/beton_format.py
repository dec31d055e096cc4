"""Layout of the ``.beton`` files that raycondense writes and reads: FFCV 1.0.2's file format, version 2.

From the start of the file: header, one descriptor a field, one metadata record a sample, zeros up to a
multiple of the page size, pages with the images, and at the very end the allocation table. No image
straddles two pages. All numbers are little-endian. (FFCV: ``types.py``, ``memory_allocator.py``,
``writer.py``, ``fields/rgb_image.py``.)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raycondense.errors import DataError

VERSION = 2
IMAGE_FIELD, LABEL_FIELD = 2, 1
FIELDS = (("image", IMAGE_FIELD), ("label", LABEL_FIELD))
MODE_JPEG, MODE_RAW = 0, 1
MIN_PAGE_SIZE, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 1 << 21, 1 << 23, 1 << 31

HEADER_TYPE = np.dtype(
    [("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4"), ("num_samples", "<u8"), ("alloc_table", "<u8")],
    align=True,
)
FIELD_TYPE = np.dtype([("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", 1024))], align=True)
# FFCV packs the record of an image but aligns the fields within a sample: the label is at byte 16 of 24.
IMAGE_TYPE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
SAMPLE_TYPE = np.dtype([("image", IMAGE_TYPE), ("label", "<i8")], align=True)
ALLOCATION_TYPE = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])

METADATA_START = HEADER_TYPE.itemsize + len(FIELDS) * FIELD_TYPE.itemsize


def align_to_page(position: int, page_size: int) -> int:
    """The first multiple of ``page_size`` at or after ``position``."""
    return -(-position // page_size) * page_size


def field_descriptors() -> np.ndarray:
    """The descriptors of the two fields ``image`` (RGBImageField) and ``label`` (IntField)."""
    fields = np.zeros(len(FIELDS), FIELD_TYPE)
    for descriptor, (name, type_id) in zip(fields, FIELDS, strict=True):
        descriptor["type_id"] = type_id
        descriptor["name"][: len(name)] = np.frombuffer(name.encode("ascii"), "<u1")
    return fields


@dataclass(frozen=True, slots=True)
class BetonHeader:
    """What the head of a beton says, checked against the size of the file.

    Attributes:
        num_samples: number of images.
        page_size: bytes of a page.
        alloc_table: position of the allocation table.
        file_size: bytes of the file.
    """

    num_samples: int
    page_size: int
    alloc_table: int
    file_size: int


def read_header(path: str | os.PathLike[str]) -> BetonHeader:
    """Read and check the head of a beton, without touching its samples.

    Raises:
        DataError: the file is missing, or is not a whole beton with the fields ``image`` and ``label``.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; `raycondense prepare SOURCE {path}` makes one")
    file_size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(METADATA_START)
    if len(head) < METADATA_START:
        raise DataError(f"{path}: damaged or no beton: {file_size} bytes, the head alone takes {METADATA_START}")
    header = np.frombuffer(head, HEADER_TYPE, count=1)[0]
    if header["version"] != VERSION or header["num_fields"] != len(FIELDS):
        raise DataError(
            f"{path}: found format version {header['version']} with {header['num_fields']} fields, "
            f"valid: an FFCV beton of version {VERSION} with the fields image, label"
        )
    found = np.frombuffer(head, FIELD_TYPE, count=len(FIELDS), offset=HEADER_TYPE.itemsize)
    for descriptor, wanted in zip(found, field_descriptors(), strict=True):
        if descriptor["type_id"] != wanted["type_id"] or bytes(descriptor["name"]) != bytes(wanted["name"]):
            raise DataError(f"{path}: its fields are not image (RGBImageField) and label (IntField), in this order")
    # Python integers from here on: a damaged 64-bit number must not wrap around.
    num_samples, page_size, alloc_table = (int(header[name]) for name in ("num_samples", "page_size", "alloc_table"))
    metadata_end = METADATA_START + num_samples * SAMPLE_TYPE.itemsize
    whole = (
        num_samples > 0
        and page_size >= MIN_PAGE_SIZE
        and page_size & (page_size - 1) == 0
        and page_size <= alloc_table  # FFCV takes memory for whole pages
        and metadata_end <= alloc_table
        and alloc_table + num_samples * ALLOCATION_TYPE.itemsize == file_size
    )
    if not whole:
        raise DataError(
            f"{path}: damaged: {file_size} bytes do not fit its header ({num_samples} images, pages of {page_size} "
            f"bytes, allocation table at {alloc_table}); prepare or copy it again"
        )
    return BetonHeader(num_samples, page_size, alloc_table, file_size)

"""PNG files from uint8 tensors, and the contact sheet of a bank: one row a class.

The encoder is forty lines of zlib, so that an artefact can be saved and exported where Pillow is not installed,
and so that the same images give the same bytes.
"""

from __future__ import annotations

import struct
import zlib

import torch
from torch import Tensor

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB = 2
GAP = 2
BACKGROUND = 255


def encode_png(image: Tensor) -> bytes:
    """An image as a PNG file (RGB, 8 bits, lossless).

    Args:
        image: uint8 [3, H, W].

    Raises:
        ValueError: another shape or type.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image: found {image.dtype} {list(image.shape)}, valid: uint8 [3, H, W]")
    _, height, width = image.shape
    rows = image.permute(1, 2, 0).reshape(height, width * 3).cpu()
    # Each row starts with its filter; "sub" (1), the difference to the pixel on the left, packs photographs well.
    filtered = torch.zeros(height, 1 + width * 3, dtype=torch.uint8)
    filtered[:, 0] = 1
    filtered[:, 1:4] = rows[:, :3]
    filtered[:, 4:] = rows[:, 3:] - rows[:, :-3]  # uint8 arithmetic wraps, as the format wants
    header = struct.pack(">IIBBBBB", width, height, 8, _RGB, 0, 0, 0)
    data = zlib.compress(bytes(filtered.numpy()), 6)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def contact_sheet(images: Tensor, *, cell: int = 64) -> Tensor:
    """Rows of images with a gap between them.

    Args:
        images: uint8 [rows, columns, 3, R, R].
        cell: images smaller than this many pixels are enlarged by a whole factor, without smoothing.

    Returns:
        uint8 [3, H, W].
    """
    rows, columns, _, resolution, _ = images.shape
    factor = max(1, cell // resolution)
    large = images.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    side = resolution * factor + GAP
    sheet = torch.full((rows, columns, 3, side, side), BACKGROUND, dtype=torch.uint8)
    sheet[..., : side - GAP, : side - GAP] = large.cpu()
    joined = sheet.permute(2, 0, 3, 1, 4).reshape(3, rows * side, columns * side)
    # A gap at the top and on the left too, as at the other two sides.
    framed = torch.full((3, rows * side + GAP, columns * side + GAP), BACKGROUND, dtype=torch.uint8)
    framed[:, GAP:, GAP:] = joined
    return framed

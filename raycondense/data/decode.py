"""Any image a data set may hold, as square uint8 RGB pixels.

One way for all sources: orientation from EXIF, colours to RGB, transparency over white, centre crop of the
shorter side, antialiased resize. Everything here is integer arithmetic of Pillow's, so the same bytes give
the same pixels on every machine with the same Pillow.
"""

from __future__ import annotations

import functools
import io
import math
import warnings
from typing import Any

import numpy as np
from PIL import Image

from raycondense.errors import DataError

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Pillow's names of the formats that are read. It knows many more, some rarely looked after; for one (EPS) it starts
another program on the file."""
MOST_PIXELS = 100_000_000
"""Of an image as it is decoded: a few hundred bytes can stand for any number of black ones."""
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


def decode_image(image: bytes | np.ndarray, resolution: int) -> np.ndarray:
    """Decode an image of any format, size and colour mode.

    Args:
        image: an encoded file (whatever Pillow reads; the first frame of an animation), or uint8 pixels
            [H, W], [H, W, 1] (grey), [H, W, 3] (RGB) or [H, W, 4] (RGBA).
        resolution: side of the result in pixels.

    Returns:
        uint8 [resolution, resolution, 3], RGB.

    Raises:
        DataError: it cannot be decoded; the message says why but not which image it is.
    """
    # Pillow's plugins raise whatever a damaged file makes them trip over, so nothing narrower is safe here.
    try:
        opened = _from_array(image) if isinstance(image, np.ndarray) else _open(image, resolution)
        return np.asarray(resize_square(_to_rgb(_square(opened)), resolution))
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(_reason(error)) from error


def image_size(image: bytes | np.ndarray) -> tuple[int, int]:
    """Width and height of an image before anything is done to it.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        opened = _from_array(image) if isinstance(image, np.ndarray) else _opened(image)
        return opened.size
    except Exception as error:
        raise DataError(_reason(error)) from error


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Encode uint8 RGB pixels [H, W, 3] as a baseline JPEG of ``quality`` (1 to 100)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def jpeg_reduction(stored: int, resolution: int) -> int:
    """By how much a stored JPEG is reduced while it is decoded: libjpeg's 1, 2, 4 or 8.

    What is left is ``resolution`` itself, twice as much or more, or for halves 7/4 (224 to 64 px), and is then resized
    by area. Nearer to it resizing blurs less than it would from the full size, and photographs differ by 2.5 of 255,
    not by 0.6 to 1.6 (docs/results/loader.md). Only whole pixels are made: libjpeg rounds sides up, and an image whose
    last pixel reaches beyond its edge would shift. Other ratios (n/8) have no vector code: 3/8 and 5/8 take longer than
    4/8.

    Args:
        stored: side of the JPEG in pixels.
        resolution: side that is wanted, at most ``stored``.
    """
    for reduction in (8, 4, 2):
        side, rest = divmod(stored, reduction)
        enough = side == resolution or side >= 2 * resolution or (reduction == 2 and 4 * side >= 7 * resolution)
        if rest == 0 and enough:
            return reduction
    return 1


def decode_stored_jpeg(data: bytes | memoryview, side: int, reduction: int = 1) -> Image.Image:
    """Decode a JPEG that must be an RGB image of ``side`` × ``side`` pixels.

    Args:
        data: the file.
        side: its side in pixels.
        reduction: see `jpeg_reduction`; the image is smaller by so much.

    Raises:
        DataError: it is damaged or of another size.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        # The size is compared before any pixel is decoded: a damaged one cannot make us allocate.
        if image.size != (side, side) or image.mode != "RGB":
            raise ValueError(f"found {image.mode} {image.size[0]}x{image.size[1]}, valid: RGB {side}x{side}")
        if reduction > 1:
            image.draft(None, (side // reduction, side // reduction))
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(_reason(error)) from error
    return image


def resize_square(image: Image.Image, resolution: int) -> Image.Image:
    """Resize a square image: the exact mean of whole blocks of pixels where the sides divide, Pillow's
    antialiased Hamming window for other reductions (a box would shift edges by fractions of a pixel), bicubic
    for enlargements."""
    side = image.size[0]
    if side == resolution:
        return image
    if side % resolution == 0:
        return image.reduce(side // resolution)
    kind = Image.Resampling.BICUBIC if side < resolution else Image.Resampling.HAMMING
    return image.resize((resolution, resolution), kind)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8:
        raise ValueError(f"found pixels of type {pixels.dtype}, valid: uint8")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)) or 0 in pixels.shape:
        raise ValueError(f"found pixels of shape {pixels.shape}, valid: [H, W], [H, W, 1], [H, W, 3], [H, W, 4]")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _open(data: bytes, resolution: int) -> Image.Image:
    if not data:
        raise ValueError("the file is empty")
    image = _opened(data)
    # A JPEG can be decoded at a half, quarter or eighth of its size. Four times what is asked for must be left:
    # of ImageNet at 32 px that takes a quarter less time and changes pixels by 1 of 255, twice takes a third
    # less and changes them by 3.
    image.draft(None, (4 * resolution, 4 * resolution))
    if math.prod(image.size) > MOST_PIXELS:
        raise ValueError(f"found {image.size[0]}x{image.size[1]} pixels, valid: at most {MOST_PIXELS} altogether")
    turn = _TURNS.get(_orientation(image))
    return image.transpose(turn) if turn is not None else image


def _opened(data: bytes) -> Image.Image:
    """An image of one of `FORMATS`, of which nothing but the head was read."""
    known = [name for name in FORMATS if name in _registered()]
    with warnings.catch_warnings():
        # Pillow warns of what it thinks too large; `MOST_PIXELS` decides.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image: Image.Image = Image.open(io.BytesIO(data), formats=known)
    return image


@functools.cache
def _registered() -> frozenset[str]:
    """The formats that this Pillow was built with."""
    Image.init()
    return frozenset(Image.OPEN)


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # Damaged EXIF around good pixels is common in photographs from the web: show them as they are stored.
        return 1


def _square(image: Image.Image) -> Image.Image:
    width, height = image.size
    side = min(width, height)
    if width == height:
        return image
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        return _sixteen_bit(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save the images as 8 or 16 bit")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        # Dropping alpha would show whatever colour lies under transparent pixels; viewers show white.
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image.convert("RGBA"))
        return paper.convert("RGB")
    return image.convert("RGB")


def _sixteen_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8 bits: Pillow's own conversion clips at 255 instead of scaling."""
    values = np.asarray(image)
    values = values if values.dtype == np.uint16 else values.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"found 32-bit pixels from {values.min()} to {values.max()}, valid: 0 to 65535")
    # In 32 bits, and in place: of an image this takes the most memory.
    scaled = values.astype(np.uint32)
    scaled *= 255
    scaled += 32767
    scaled //= 65535
    return Image.fromarray(scaled.astype(np.uint8))

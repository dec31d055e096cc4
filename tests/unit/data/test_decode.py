"""Every colour mode, orientation and shape that data sets hold becomes the right RGB pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from raycondense.data.decode import decode_image, decode_stored_jpeg, encode_jpeg, image_size, jpeg_reduction
from raycondense.errors import DataError

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def png(image, **options):
    return saved(image, "PNG", **options)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quarters(size=16):
    """Red, green over blue, black: every turn and flip of it is different."""
    half = size // 2
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:half, :half], pixels[:half, half:], pixels[half:, :half] = RED, GREEN, BLUE
    return pixels


def corners(pixels):
    """Colours of the four quarters, row by row."""
    last = len(pixels) - 1
    return [tuple(pixels[y, x].tolist()) for y, x in ((0, 0), (0, last), (last, 0), (last, last))]


QUARTERS = [RED, GREEN, BLUE, BLACK]


def test_rgb_is_kept_exactly():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    assert np.array_equal(decode_image(png(Image.fromarray(pixels)), 16), pixels)
    assert np.array_equal(decode_image(pixels, 16), pixels)


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1)])
def test_grey_arrays(shape):
    grey = np.arange(256, dtype=np.uint8).reshape(shape)
    found = decode_image(grey, 16)
    assert np.array_equal(found, np.repeat(grey.reshape(16, 16, 1), 3, 2))


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_files(mode):
    image = Image.fromarray(np.where(quarters().any(2), 255, 0).astype(np.uint8)).convert(mode)
    assert corners(decode_image(png(image), 8)) == [WHITE, WHITE, WHITE, BLACK]


def test_palette():
    image = Image.fromarray(quarters()).convert("P", palette=Image.Palette.ADAPTIVE)
    assert image.mode == "P"
    assert corners(decode_image(png(image), 16)) == QUARTERS
    assert corners(decode_image(saved(image, "GIF"), 16)) == QUARTERS


def test_transparency_is_shown_over_white():
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([*RED, *GREEN])
    palette.paste(1, (8, 0, 16, 16))
    assert corners(decode_image(png(palette, transparency=0), 16)) == [WHITE, GREEN, WHITE, GREEN]
    # Colours under transparent pixels must not leak out.
    rgba = np.dstack([quarters(), np.full((16, 16), 255, np.uint8)])
    rgba[:8, :8, 3] = 0
    rgba[8:, 8:, 3] = 128
    expected = [WHITE, GREEN, BLUE, (127, 127, 127)]
    assert corners(decode_image(png(Image.fromarray(rgba)), 16)) == expected
    assert corners(decode_image(rgba, 16)) == expected
    grey_alpha = Image.fromarray(rgba).convert("LA")
    assert corners(decode_image(png(grey_alpha), 16))[::3] == [WHITE, (127, 127, 127)]
    assert corners(decode_image(png(Image.fromarray(quarters()), transparency=RED), 16)) == [WHITE, GREEN, BLUE, BLACK]
    assert corners(decode_image(png(Image.new("L", (8, 8), 7), transparency=7), 8)) == [WHITE] * 4


@pytest.mark.parametrize("byte_order", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(byte_order):
    values = np.array([[0, 65535], [257 * 100, 300]], np.uint16).repeat(8, 0).repeat(8, 1)
    found = decode_image(saved(Image.fromarray(values), byte_order), 16)
    assert corners(found) == [BLACK, WHITE, (100, 100, 100), (1, 1, 1)]


def test_cmyk_jpeg():
    image = Image.fromarray(quarters()).convert("CMYK")
    found = decode_image(saved(image, "JPEG", quality=100), 16).astype(int)
    assert np.abs(found - quarters()).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    """An image stored turned, with the tag that turns it back, is shown upright; 12 × 16 tells a wrong crop."""
    upright = np.zeros((16, 12, 3), np.uint8)
    upright[:, :] = np.asarray(Image.fromarray(quarters()).resize((12, 16), Image.Resampling.NEAREST))
    back = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    image = Image.fromarray(upright)
    stored = image if back is None else image.transpose(back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode_image(png(stored, exif=exif), 12), upright[2:14])


def test_damaged_exif_does_not_spoil_the_image():
    data = saved(Image.fromarray(quarters()), "JPEG", quality=95, exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xffgarbage")
    assert np.abs(decode_image(data, 16).astype(int) - quarters()).mean() < 12


@pytest.mark.parametrize(("height", "width"), [(16, 40), (40, 16), (17, 16), (16, 16)])
def test_centre_crop_of_the_shorter_side(height, width):
    pixels = np.zeros((height, width, 3), np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels[top : top + side, left : left + side] = 200
    assert (decode_image(pixels, 8) == 200).all()


def test_reduction_by_whole_blocks_is_their_mean():
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    blocks = pixels.reshape(8, 4, 8, 4, 3).mean((1, 3))
    assert np.abs(decode_image(pixels, 8) - blocks).max() <= 0.5


def test_other_reductions_are_antialiased():
    """A checkerboard finer than the result must become even grey instead of a moiré pattern."""
    board = (np.indices((150, 150)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(decode_image(board, 32).astype(int) - 127).max() < 12


def test_large_jpeg_is_like_its_full_decoding():
    ramp = np.linspace(0, 255, 800).astype(np.uint8)
    pixels = np.stack([np.tile(ramp, (800, 1)), np.tile(ramp[:, None], (1, 800)), np.full((800, 800), 90)], 2)
    data = encode_jpeg(pixels.astype(np.uint8), 95)
    full = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(decode_image(data, 32).astype(int) - decode_image(full, 32)).max() <= 3


@pytest.mark.parametrize("stored", [8, 15, 16, 64, 100, 224, 256, 500])
@pytest.mark.parametrize("resolution", [1, 8, 32, 57, 64, 128, 512])
def test_reductions_leave_enough_and_whole_pixels(stored, resolution):
    reduction = jpeg_reduction(stored, resolution)
    assert reduction in (1, 2, 4, 8)
    if reduction > 1:
        assert stored % reduction == 0
        least = 1.75 if reduction == 2 else 2
        assert stored // reduction == resolution or stored // reduction >= least * resolution
    pixels = np.full((stored, stored, 3), 90, np.uint8)
    decoded = decode_stored_jpeg(encode_jpeg(pixels, 90), stored, reduction)
    assert decoded.size == (stored // reduction,) * 2


def test_enlargement():
    assert decode_image(quarters(8), 64).shape == (64, 64, 3)
    assert corners(decode_image(quarters(8), 64)) == QUARTERS


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert corners(decode_image(data, 8)) == [RED] * 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_files_are_errors(kind):
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = saved(Image.fromarray(noise), kind)
    for keep in (0, 1, 20, len(data) // 2):
        with pytest.raises(DataError):
            decode_image(data[:keep], 32)


def test_what_is_no_image():
    with pytest.raises(DataError, match="empty"):
        decode_image(b"", 8)
    with pytest.raises(DataError, match="cannot identify"):
        decode_image(b"<html>404</html>", 8)
    with pytest.raises(DataError, match="no agreed range"):
        decode_image(saved(Image.new("F", (8, 8), 0.5), "TIFF"), 8)
    with pytest.raises(DataError, match="type float32"):
        decode_image(np.zeros((8, 8, 3), np.float32), 8)
    for shape in ((8,), (8, 8, 2), (0, 8, 3), (1, 8, 8, 3)):
        with pytest.raises(DataError, match="shape"):
            decode_image(np.zeros(shape, np.uint8), 8)


def test_decompression_bomb_is_an_error(monkeypatch):
    data = png(Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="DecompressionBomb"):
        decode_image(data, 8)


def test_image_size():
    assert image_size(png(Image.new("L", (30, 20)))) == (30, 20)
    assert image_size(np.zeros((20, 30, 3), np.uint8)) == (30, 20)
    with pytest.raises(DataError):
        image_size(b"nothing")

"""The decoder that raycondense gives to FFCV: FFCV's own JPEG decoding and resizing, with the result checked.

FFCV's decoders ignore that libjpeg-turbo reports a damaged image and hand on whatever was in the buffer; those
that resize also keep room for every full-size image of every batch in flight (1 GB for a few batches of 224 px).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np


def make_decoder(*, stored: int, resolution: int, jpeg: bool) -> Any:
    """An FFCV operation for the field ``image`` of a beton of square images.

    Its memory is a pair: room for a batch, uint8 [B, 3, R, R], which whoever runs it provides (what it asks FFCV for
    is empty), and int64 [B, 1], where it writes 0, or 1 for images that could not be decoded.

    Args:
        stored: side of the stored images in pixels.
        resolution: side R of the decoded ones; others than ``stored`` are resized by FFCV's ``resize_crop`` (area).
        jpeg: JPEG, or raw pixels.
    """
    return _decoder_type()(stored, resolution, jpeg)


def _split_channels(pixels: Any, planes: Any, area: int) -> None:
    """Channels last to channels first; in this form numba makes vector code of it, ten times faster than slices."""
    red, green, blue = planes[:area], planes[area : 2 * area], planes[2 * area :]
    for i in range(area):
        red[i] = pixels[3 * i]
        green[i] = pixels[3 * i + 1]
        blue[i] = pixels[3 * i + 2]


def _split_channels_interpreted(pixels: Any, planes: Any, area: int) -> None:
    planes.reshape(3, area)[...] = pixels.reshape(area, 3).T


@cache
def _decoder_type() -> type:
    """The class is made at use, because its base comes from FFCV, which may not be there."""
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.libffcv import imdecode, resize_crop
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler

    class CheckedSquareDecoder(SimpleRGBImageDecoder):
        def __init__(self, stored: int, resolution: int, jpeg: bool) -> None:
            super().__init__()
            self._stored, self._resolution, self._jpeg = stored, resolution, jpeg

        def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, Any]:
            kind, side = np.dtype("<u1"), self._resolution
            state = replace(previous_state, jit_mode=True, shape=(3, side, side), dtype=kind)
            return state, (AllocationQuery((0,), kind), AllocationQuery((1,), np.dtype("<i8")))

        def generate_code(self) -> Callable[..., Any]:
            # Everything that the compiled function uses must be a local of this one.
            read, my_range = self.memory_read, Compiler.get_iterator()
            imdecode_c, resize_c = Compiler.compile(imdecode), Compiler.compile(resize_crop)
            split = Compiler.compile(_split_channels) if Compiler.is_enabled else _split_channels_interpreted
            stored, side, area = self._stored, self._resolution, self._resolution**2
            jpeg, resized = self._jpeg, self._resolution != self._stored

            def decode(batch_indices: Any, memory: Any, metadata: Any, storage_state: Any) -> Any:
                destination, failures = memory
                for row in my_range(len(batch_indices)):
                    field = metadata[batch_indices[row]]
                    data = read(field["data_ptr"], storage_state)
                    failed = 0
                    # The constants decide at compile time which of these lines there are.
                    if jpeg:
                        # At an odd address: to aligned rows libjpeg-turbo writes past the caches, and what is read
                        # again at once would have to come back from memory.
                        image = np.empty(stored * stored * 3 + 1, np.uint8)[1:].reshape(stored, stored, 3)
                        status = imdecode_c(data, image, stored, stored, stored, stored, 0, 0, 1, 1, False, False)
                        if status != 0:
                            failed = 1
                    else:
                        image = data.reshape(stored, stored, 3)
                    if resized:
                        small = np.empty((side, side, 3), np.uint8)
                        resize_c(image, 0, stored, 0, stored, small)
                        pixels = small.reshape(-1)
                    else:
                        pixels = image.reshape(-1)
                    split(pixels, destination[row].reshape(-1), area)
                    failures[row, 0] = failed
                return destination[: len(batch_indices)]

            decode.is_parallel = True  # type: ignore[attr-defined]
            return decode

    return CheckedSquareDecoder

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

# Bytes after the pixels of an image; the first is 1 where it could not be decoded. 64 keeps rows aligned.
TAIL = 64


def make_decoder(*, stored: int, resolution: int, jpeg: bool) -> Any:
    """An FFCV operation for the field ``image`` of a beton of square images.

    Its output is uint8 [B, 3 · resolution² + TAIL]: pixels with channels first, then the tail.

    Args:
        stored: side of the stored images in pixels.
        resolution: side of the decoded ones; others than ``stored`` are resized by FFCV's ``resize_crop`` (area).
        jpeg: JPEG, or raw pixels.
    """
    return _decoder_type()(stored, resolution, jpeg)


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
            shape, kind = (3 * self._resolution**2 + TAIL,), np.dtype("<u1")
            return replace(previous_state, jit_mode=True, shape=shape, dtype=kind), AllocationQuery(shape, kind)

        def generate_code(self) -> Callable[..., Any]:
            # Everything that the compiled function uses must be a local of this one.
            read, my_range = self.memory_read, Compiler.get_iterator()
            imdecode_c, resize_c = Compiler.compile(imdecode), Compiler.compile(resize_crop)
            stored, side, area = self._stored, self._resolution, self._resolution**2
            jpeg, resized = self._jpeg, self._resolution != self._stored

            def decode(batch_indices: Any, destination: Any, metadata: Any, storage_state: Any) -> Any:
                for row in my_range(len(batch_indices)):
                    field = metadata[batch_indices[row]]
                    data = read(field["data_ptr"], storage_state)
                    failed = 0
                    # The constants decide at compile time which of these lines there are.
                    if jpeg:
                        image = np.empty((stored, stored, 3), np.uint8)
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
                    for channel in range(3):
                        destination[row, channel * area : (channel + 1) * area] = pixels[channel::3]
                    destination[row, 3 * area] = failed
                return destination[: len(batch_indices)]

            decode.is_parallel = True  # type: ignore[attr-defined]
            return decode

    return CheckedSquareDecoder

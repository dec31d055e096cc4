"""The decoder that raycondense gives to FFCV: FFCV's own JPEG decoding, with the result checked.

FFCV's decoders ignore that libjpeg-turbo reports a damaged image and hand on whatever was in the buffer; those
that resize also keep room for every full-size image of every batch in flight (1 GB for a few batches of 224 px).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from raycondense.data import ffcv_kernels as kernels
from raycondense.data.decode import jpeg_reduction


def make_decoder(*, stored: int, resolution: int, jpeg: bool) -> Any:
    """An FFCV operation for the field ``image`` of a beton of square images.

    Its memory is a pair: room for a batch, uint8 [B, 3, R, R], which whoever runs it provides (what it asks FFCV for
    is empty), and int64 [B, 1], where it writes 0, or 1 for images that could not be decoded.

    Args:
        stored: side of the stored images in pixels.
        resolution: side R of the decoded ones, at most ``stored``; others are resized by area.
        jpeg: JPEG, or raw pixels.
    """
    return _decoder_type()(stored, resolution, jpeg)


@cache
def _decoder_type() -> type:
    """The class is made at use, because its base comes from FFCV, which may not be there."""
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.libffcv import imdecode
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
            imdecode_c = Compiler.compile(imdecode)
            if Compiler.is_enabled:
                split, resize = Compiler.compile(kernels.split_channels), Compiler.compile(kernels.area_resize)
            else:
                split, resize = kernels.split_channels_interpreted, kernels.area_resize_interpreted
            stored, jpeg = self._stored, self._jpeg
            reduction = jpeg_reduction(stored, self._resolution) if jpeg else 1
            side = stored // reduction
            starts, weights = kernels.area_weights(side, self._resolution)
            resized = self._resolution != side

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
                        image = np.empty(side * side * 3 + 1, np.uint8)[1:].reshape(side, side, 3)
                        status = imdecode_c(
                            data, image, stored, stored, stored, stored, 0, 0, 1, reduction, False, False
                        )
                        if status != 0:
                            failed = 1
                    else:
                        image = data.reshape(stored, stored, 3)
                    if resized:
                        resize(image, destination[row], starts, weights)
                    else:
                        split(image, destination[row])
                    failures[row, 0] = failed
                return destination[: len(batch_indices)]

            decode.is_parallel = True  # type: ignore[attr-defined]
            return decode

    return CheckedSquareDecoder

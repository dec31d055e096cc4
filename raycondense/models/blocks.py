"""Networks in blocks: a few images at a time on a CPU, so that what one layer writes is in the cache for the next.

A ConvNet of width 128 writes half a megabyte a 32-px image and layer: a batch of a thousand goes through main memory
between any two layers, and the time goes into waiting for it. Every image is computed as before, so values differ by
rounding alone. docs/results/step.md has what it brings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CACHE_BYTES = 16 << 20
"""Largest activation of a block. Half and twice as much are as fast on a CPU with 32 MiB of cache."""
FEWEST = 8
"""Images of a block, however large they are: the weights have to be read for each."""

Network = Callable[..., Tensor]


def block_images(image_bytes: int) -> int:
    """Images of a block whose largest activation takes ``image_bytes`` an image."""
    return max(FEWEST, CACHE_BYTES // image_bytes)


class Blocks:
    """A network of images that do not depend on each other, block by block on a CPU and all at once elsewhere.

    Blocks are as equal as can be. Compiled networks keep to the block of their first call: what is left of a later one
    goes through the network as it is, since each other size would have to be compiled for seconds.

    Args:
        network: tensors [n, …] to a tensor [n, …], row by row.
        image_bytes: of the largest activation of an image.
    """

    def __init__(self, network: Network, image_bytes: int) -> None:
        self._network = network
        self._most = block_images(image_bytes)
        self._compiled: Network | None = None
        self._compiled_size = 0

    def compile(self) -> None:
        """Let torch.compile fuse the network's operations; on a GPU, once for every number of images."""
        if self._compiled is not None:
            return
        # Its type hints know functions alone.
        compiled: Any = torch.compile(self._network, dynamic=False)
        self._compiled = compiled

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The network's output for ``inputs``, tensors of the same length and device."""
        count = len(inputs[0])
        if inputs[0].device.type != "cpu":
            return (self._compiled or self._network)(*inputs)
        size = math.ceil(count / max(1, math.ceil(count / self._most)))
        if self._compiled is not None:
            size = self._compiled_size = self._compiled_size or size
        parts = zip(*(tensor.split(max(1, size)) for tensor in inputs), strict=True)
        outputs = [self._run(*part) for part in parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _run(self, *block: Tensor) -> Tensor:
        if self._compiled is not None and len(block[0]) == self._compiled_size:
            return self._compiled(*block)
        return self._network(*block)

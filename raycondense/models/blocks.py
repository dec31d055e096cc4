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

    Blocks are as equal as can be, but for compiled networks: these take whole blocks, and what is left goes through the
    network as it is, since each other size would have to be compiled for seconds.

    Args:
        network: tensors [n, …] to a tensor [n, …], row by row.
        image_bytes: of the largest activation of an image.
    """

    def __init__(self, network: Network, image_bytes: int) -> None:
        self._network = network
        self._size = block_images(image_bytes)
        self._compiled: Network | None = None

    def compile(self) -> None:
        """Let torch.compile fuse the network's operations; on a GPU, once for every number of images."""
        # Its type hints know functions alone.
        compiled: Any = torch.compile(self._network, dynamic=False)
        self._compiled = compiled

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The network's output for ``inputs``, tensors of the same length and device."""
        count = len(inputs[0])
        if inputs[0].device.type != "cpu":
            return (self._compiled or self._network)(*inputs)
        if self._compiled is None:
            if count <= self._size:
                return self._network(*inputs)
            size = math.ceil(count / math.ceil(count / self._size))
            return torch.cat([self._network(*part) for part in _parts(size, inputs)])
        outputs = [
            (self._compiled if len(part[0]) == self._size else self._network)(*part)
            for part in _parts(self._size, inputs)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _parts(size: int, inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    return list(zip(*(tensor.split(size) for tensor in inputs), strict=True))

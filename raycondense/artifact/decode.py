"""From codes to uint8 images, always the same bits: one fixed grid of chunks, full precision, no autotuning.

What a matrix product or convolution rounds to in its last bit can depend on the size of the batch. So codes are
never decoded in batches of the caller's choice: the images of a chunk are always computed together, however many
of them are wanted. On another kind of device or version of torch single values may differ by 1 of 255.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from raycondense.models import Generator
from raycondense.models.generator import enlarge

_CHUNK_PIXELS = 64 * 64 * 64


def chunk_size(resolution: int) -> int:
    """Images of a chunk: 64 at 64 px, fewer at more pixels so that memory stays the same, 256 at most."""
    return max(4, min(256, _CHUNK_PIXELS // resolution**2))


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Compute without gradients and in float32 proper, whatever autocast or TF32 setting the caller works under."""
    with (
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield


def decode_chunk(generator: Generator, codes: Tensor, labels: Tensor) -> Tensor:
    """The images of one chunk.

    Args:
        generator: makes float images in [0, 1].
        codes: float [n, d], on the generator's device; n is `chunk_size` but for the last chunk of a bank.
        labels: int64 [n].

    Returns:
        uint8 [n, 3, R, R], on the same device.
    """
    with exact(codes.device):
        return enlarge_uint8(to_uint8(generator.native(codes, labels)), generator.factor)


def to_uint8(images: Tensor) -> Tensor:
    """Float images in [0, 1] as uint8, to the nearest of the 256 levels."""
    return (images.float() * 255).round().clamp(0, 255).to(torch.uint8)


def enlarge_uint8(kept: Tensor, factor: int) -> Tensor:
    """Images of a bank with ``codebook.factor``: uint8 [N, 3, R/factor, R/factor] to uint8 [N, 3, R, R].

    A bank is counted as what has to be kept, so its images are rounded before they are enlarged.
    """
    return kept if factor == 1 else to_uint8(enlarge(kept.float() / 255, factor))


def decode_grid(generator: Generator, codes: Tensor, wanted: Tensor, *, resolution: int) -> Tensor:
    """Images of a bank, all or some, in any order: each has the same bits as in the whole bank.

    Args:
        generator: makes float images in [0, 1].
        codes: float [C, K, d], the bank's K codes of each class, on the generator's device.
        wanted: int64 [n], positions ``label * K + k`` of the wanted images, on the CPU.
        resolution: side R of the images.

    Returns:
        uint8 [n, 3, R, R] on the CPU.
    """
    classes, per_class, _ = codes.shape
    flat, size = codes.flatten(0, 1), chunk_size(resolution)
    labels = torch.arange(classes, device=codes.device).repeat_interleave(per_class)
    images = torch.empty(len(wanted), 3, resolution, resolution, dtype=torch.uint8)
    for chunk in torch.unique(wanted // size).tolist():
        here = torch.nonzero(wanted // size == chunk).flatten()
        part = slice(chunk * size, (chunk + 1) * size)
        images[here] = decode_chunk(generator, flat[part], labels[part]).cpu()[wanted[here] - chunk * size]
    return images

"""Keep the C library from giving memory back between the steps of a training on the CPU.

glibc gives a freed tensor of megabytes back to the system at once, and the next step has to have every page of it
zeroed and mapped again: a third to a half of a ConvNet's step at 32 px, a student's or of the condensation. The
numbers computed are the same bits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# From glibc's malloc.h, with the values to train under and those of a process that has used large blocks before.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 64 * 2**20}
_USUAL = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20, _TOP_PAD: 128 * 2**10}


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Inside the block freed memory stays with this process for its next tensors; after it the system gets it back.

    Does nothing for another device than the CPU, and where the C library is not glibc.
    """
    libc = _glibc() if device.type == "cpu" else None
    if libc is None:
        yield
        return
    for option, value in _KEEP.items():
        libc.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in _USUAL.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None)
    return libc if all(hasattr(libc, name) for name in ("mallopt", "malloc_trim", "gnu_get_libc_version")) else None

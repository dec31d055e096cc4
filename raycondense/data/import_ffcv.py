"""Import FFCV without the two seconds of compiling that its import takes in every process."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_CHECKED = "1.0.2"
"""The FFCV whose use of typed dictionaries was looked at."""


def import_ffcv() -> None:
    """Import FFCV; torch's thread count stays what it was, though FFCV sets it to 1.

    Raises:
        ImportError, OSError, AttributeError: it does not import, or a library that it needs does not.
    """
    threads = torch.get_num_threads()
    try:
        if importlib.metadata.version("ffcv") == _CHECKED:
            with _plain_dictionaries():
                importlib.import_module("ffcv")
        else:
            importlib.import_module("ffcv")
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _plain_dictionaries() -> Iterator[None]:
    """``numba.typed.Dict`` is ``dict`` inside the block.

    FFCV makes one such dictionary, from two names of image formats to numbers, and puts them in: numba compiles for
    2 s. Only FFCV's Python code reads it, which gives the numbers to what is compiled.
    """
    import numba.typed

    typed = numba.typed.Dict
    numba.typed.Dict = dict
    try:
        yield
    finally:
        numba.typed.Dict = typed

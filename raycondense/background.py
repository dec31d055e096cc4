"""Work that a thread does beside the caller's."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def repeated(work: Callable[[], object], seconds: float) -> Iterator[None]:
    """Call ``work`` every ``seconds`` in a thread while the block runs, and once more when it ends.

    Args:
        work: must not raise.
        seconds: pause between two calls.
    """
    ended = threading.Event()

    def follow() -> None:
        last = False
        while not last:
            last = ended.wait(seconds)
            work()

    thread = threading.Thread(target=follow, daemon=True, name=getattr(work, "__name__", None))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def importing(module: str) -> Iterator[None]:
    """Import ``module`` in a thread while the block waits for something else; it is imported when the block ends.

    Args:
        module: must not import what the block imports: Python would have one thread go on with the other's half-made
            modules.

    Raises:
        ImportError: it does not import; the block has run.
    """

    def load() -> None:
        with suppress(Exception):  # raised again below, in the thread that can do something about it
            importlib.import_module(module)

    thread = threading.Thread(target=load, daemon=True, name=f"import {module}")
    thread.start()
    try:
        yield
    finally:
        thread.join()
    importlib.import_module(module)

"""Work that a thread repeats beside the caller's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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

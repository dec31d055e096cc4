"""Where a step's time goes: seconds by part, measured without ever making the host wait for the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

PARTS = ("data", "generator", "extractors", "losses", "all_reduce", "update")
"""Parts of a condensation step: waiting for real images; the generator; augmentation and extractors; losses; what
travels between workers, waiting for the slowest included; optimizers and running mean. The first and next two include
their share of the backward pass."""
MANY = 4096  # marks on a GPU before those that are past are added up


class Stopwatch:
    """Adds up the time between marks by the part that each mark begins.

    On a GPU marks are CUDA events in the stream, so the time is the device's: what the host does beside it, loading
    included, counts only where the device waits for it. Elsewhere it is the host's clock.

    Args:
        device: where the work is done; None measures nothing and costs nothing.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._seconds: dict[str, float] = {}
        self._part: str | None = None
        self._since = 0.0
        self._marks: list[tuple[str | None, torch.cuda.Event]] = []
        self._free: list[torch.cuda.Event] = []
        self._running = device is not None
        self._on_gpu = device is not None and device.type == "cuda"

    def start(self, part: str | None) -> None:
        """What follows is ``part``, one of `PARTS`; None is not counted."""
        if not self._running:
            return
        if self._on_gpu:
            event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((part, event))
            if len(self._marks) >= MANY:
                self._fold(lambda later: later.query())
        else:
            now = time.perf_counter()
            if self._part is not None:
                self._seconds[self._part] = self._seconds.get(self._part, 0.0) + now - self._since
            self._since = now
        self._part = part

    @contextmanager
    def part(self, part: str) -> Iterator[None]:
        """The block is ``part``; after it goes on what went on before."""
        before = self._part
        self.start(part)
        try:
            yield
        finally:
            self.start(before)

    def read(self) -> dict[str, float]:
        """Seconds of every part since the last reading, empty where nothing was measured. Stops until the next `start`.

        On a GPU it waits until the device has done what was asked of it.
        """
        self.start(None)
        if self._marks:
            self._marks[-1][1].synchronize()
            self._fold(lambda later: True)
            self._marks.clear()
        seconds, self._seconds = self._seconds, {}
        return {part: seconds.get(part, 0.0) for part in PARTS} if seconds else {}

    def _fold(self, past: Callable[[torch.cuda.Event], bool]) -> None:
        """Add up marks from the oldest on, as long as the mark that ends them is past."""
        count = 0
        for (part, begin), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            if not past(end):
                break
            if part is not None:
                self._seconds[part] = self._seconds.get(part, 0.0) + begin.elapsed_time(end) / 1000
            self._free.append(begin)
            count += 1
        del self._marks[:count]

"""A stream as a student's training set: fresh samples of an artefact for every step, none of them twice."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from raycondense.artifact.decode import chunk_size, decode_chunk
from raycondense.artifact.load import Artifact
from raycondense.artifact.stream import fresh_codes
from raycondense.seeds import seeded_generator


class ImageStream:
    """Fresh images near and between the codes of one bank (`raycondense.artifact.stream.fresh_codes`).

    A batch is a function of (artefact, bank, seed, step), but for the last bit of a pixel on other devices. Its
    classes are in balance: none comes once more before each came as often.

    Args:
        artifact: images are made on its device.
        ipc: images per class of the bank.
        seed: of the stream.

    Raises:
        ConfigError: there is no bank of ``ipc`` images per class.

    Attributes:
        resolution: R, side of the images in pixels.
        images_per_epoch: images of the bank, C·K with K codes a class: a student of the stream takes as many steps as
            one of the bank.
        images: distinct images made so far. (The noise of a code is continuous, so no two are the same.)
    """

    def __init__(self, artifact: Artifact, ipc: int, *, seed: int) -> None:
        self._codes = artifact.codebook.codes[:, artifact.config.codebook.bank_slice(ipc)].detach()
        self._generator, self._seed = artifact.generator, seed
        self.resolution = artifact.resolution
        self.images_per_epoch = artifact.num_classes * self._codes.shape[1]
        self.images = 0
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @property
    def generation_seconds(self) -> float:
        """Seconds that making all batches so far took, on the device where they were made."""
        if self._events:
            self._events[-1][1].synchronize()
            self._seconds += sum(start.elapsed_time(end) for start, end in self._events) / 1000
            self._events.clear()
        return self._seconds

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """``size`` new images, uint8 [size, 3, R, R], and their labels, int64 [size], on the artefact's device."""
        start = self._now()
        random = seeded_generator(self._seed, "student stream", step)
        classes = len(self._codes)
        rounds = [torch.randperm(classes, generator=random) for _ in range(-(-size // classes))]
        labels = torch.cat(rounds)[:size]
        codes = fresh_codes(self._codes, labels, random)
        labels = labels.to(codes.device)
        chunk = chunk_size(self.resolution)
        pairs = zip(codes.split(chunk), labels.split(chunk), strict=True)
        images = torch.cat([decode_chunk(self._generator, *pair) for pair in pairs])
        self.images += size
        self._add(start, self._now())
        return images, labels

    def _now(self) -> float | torch.cuda.Event:
        # Waiting for a GPU at each step would make the training slower than it is; events are read at the end.
        if self._codes.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._codes.device))
        return event

    def _add(self, start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> None:
        if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
            self._events.append((start, end))
        elif isinstance(start, float) and isinstance(end, float):
            self._seconds += end - start

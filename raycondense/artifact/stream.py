"""Fresh samples from an artefact, without end or by epochs, as an iterable dataset that workers can share.

A fresh code lies between codes of its class: from one code part of the way to another one, and a little noise. That
keeps to where the generator was trained; how useful such images are is for an evaluation to say, and tables keep
streams apart from banks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from raycondense.artifact.bank import Presentation
from raycondense.artifact.decode import chunk_size, decode_chunk
from raycondense.errors import ArtifactError
from raycondense.models import Generator
from raycondense.seeds import seeded_generator

INTERPOLATE = 0.5
NOISE = 0.1


def fresh_codes(
    codes: Tensor, labels: Tensor, random: torch.Generator, *, interpolate: float = INTERPOLATE, noise: float = NOISE
) -> Tensor:
    """Codes near and between the codes of their classes.

    ``e_i + u (e_j - e_i) + noise * s * n`` with two codes i, j of the class, u uniform in [0, interpolate], s the
    standard deviation of each coordinate within the class (over all classes where a class has one code) and n
    standard normal. With ``interpolate`` and ``noise`` 0 it draws the codes themselves.

    Args:
        codes: float [C, K, d].
        labels: int64 [n], on the CPU.
        random: a generator on the CPU; all draws come from it, whatever device ``codes`` is on.
        interpolate: how far towards the other code at most, 0 to 1.
        noise: in standard deviations, 0 or more.

    Returns:
        float [n, d], on the device of ``codes``.
    """
    _, per_class, dim = codes.shape
    first, second = torch.randint(per_class, (2, len(labels)), generator=random)
    way = torch.rand(len(labels), 1, generator=random) * interpolate
    normal = torch.randn(len(labels), dim, generator=random)
    labels, first, second, way, normal = (t.to(codes.device) for t in (labels, first, second, way, normal))
    spread = codes.std(dim=1)[labels] if per_class > 1 else codes.flatten(0, 1).std(dim=0, correction=0)
    return torch.lerp(codes[labels, first], codes[labels, second], way) + noise * spread * normal


class StreamDataset(IterableDataset[tuple[Any, int]]):
    """Endless (or ``length`` an epoch) fresh samples with uniformly drawn classes; made by `Artifact.stream`.

    Items are ``(image, label)`` as in `raycondense.artifact.bank.BankDataset`. Sample n of epoch e is a function of
    (seed, e, n) alone. DataLoader workers share the stream chunk by chunk, so all of them together give the
    samples of one process, in another order. With several training processes give each another seed.

    Args:
        generator: makes float images in [0, 1].
        codes: float [C, K, d], the codes to draw from, on the generator's device.
        present: what an image goes through.
        resolution: side of the images.
        seed: seed of the stream, 0 or more.
        length: samples of an epoch, all workers together; None is no end.
        interpolate: see `fresh_codes`.
        noise: see `fresh_codes`.
    """

    def __init__(
        self,
        generator: Generator,
        codes: Tensor,
        present: Presentation,
        *,
        resolution: int,
        seed: int,
        length: int | None,
        interpolate: float,
        noise: float,
    ) -> None:
        for name, value, valid, good in (
            ("seed", seed, "0 or more", seed >= 0),
            ("length", length, "1 or more, or None", length is None or length >= 1),
            ("interpolate", interpolate, "0 to 1", 0 <= interpolate <= 1),
            ("noise", noise, "0 or more, finite", 0 <= noise < float("inf")),
        ):
            if not good:
                raise ArtifactError(f"stream: {name}: found {value!r}, valid: {valid}")
        self._generator, self._codes, self._present = generator, codes, present
        self._chunk = chunk_size(resolution)
        self.seed, self.length, self.interpolate, self.noise = seed, length, interpolate, noise
        # Shared memory, so that `set_epoch` reaches persistent DataLoader workers too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose what the next iteration gives; without it every epoch of a stream with a length is the same."""
        if epoch < 0:
            raise ArtifactError(f"stream: epoch: found {epoch}, valid: 0 or more")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("this stream has no end and no length; artifact.stream(length=...) gives it one")
        return self.length

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        worker = get_worker_info()
        if worker is not None and self._codes.device.type != "cpu":
            raise ArtifactError(
                f"stream: DataLoader workers cannot use {self._codes.device}: "
                "call artifact.to('cpu') first, or use num_workers=0"
            )
        chunk, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch = int(self._epoch)
        while self.length is None or chunk * self._chunk < self.length:
            images, labels = self._decode(epoch, chunk)
            left = self._chunk if self.length is None else self.length - chunk * self._chunk
            for image, label in zip(images[:left], labels[:left].tolist(), strict=True):
                yield self._present(image), label
            chunk += step

    def _decode(self, epoch: int, chunk: int) -> tuple[Tensor, Tensor]:
        """uint8 images and labels of a whole chunk: a part of one would be rounded differently."""
        random = seeded_generator(self.seed, "stream", epoch, chunk)
        labels = torch.randint(len(self._codes), (self._chunk,), generator=random)
        with torch.no_grad():
            codes = fresh_codes(self._codes, labels, random, interpolate=self.interpolate, noise=self.noise)
        return decode_chunk(self._generator, codes, labels.to(codes.device)), labels

"""Small made-up data sets for tests and benchmarks: they look like photographs to a JPEG codec, and to nobody else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from raycondense.data.beton import BetonWriter
from raycondense.data.beton_format import DEFAULT_PAGE_SIZE
from raycondense.data.decode import encode_jpeg
from raycondense.data.sidecar import Sidecar, file_sha256


def photo_like(number: int, side: int, seed: int) -> np.ndarray:
    """Images with a falling spectrum and a little noise, so chosen that JPEG of quality 90 takes as many bytes as for
    photographs: 2.3 kB at 64 px, 14 kB at 224 px.

    Returns:
        uint8 [number, side, side, 3], a function of the arguments.
    """
    rng = np.random.default_rng((seed, side))
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    falling = 1 / np.maximum(frequencies, 1 / side) ** 1.6
    images = np.empty((number, side, side, 3), np.uint8)
    for image in images:
        noise = np.fft.rfft2(rng.standard_normal((side, side, 3)), axes=(0, 1))
        shape = np.fft.irfft2(noise * falling[:, :, None], s=(side, side), axes=(0, 1))
        # Channels of photographs go together.
        shape = 0.75 * shape.mean(2, keepdims=True) + 0.25 * shape
        shape = shape / max(float(shape.std()), 1e-9)
        image[...] = np.clip(127 + 50 * shape + rng.normal(0, 1, shape.shape), 0, 255)
    return images


def write_beton(
    path: str | os.PathLike[str],
    counts: Sequence[int],
    *,
    resolution: int,
    encoding: Literal["raw", "jpeg"] = "raw",
    quality: int = 90,
    seed: int = 0,
    page_size: int = DEFAULT_PAGE_SIZE,
) -> Sidecar:
    """Write a beton of `photo_like` images, and its sidecar.

    Args:
        path: the file to write.
        counts: images of each class.
        resolution: side of the images in pixels.
        encoding: raw or jpeg.
        quality: of JPEG, 1 to 100.
        seed: of the images.
        page_size: bytes of a page.

    Returns:
        The sidecar.
    """

    def samples() -> Iterator[tuple[int, bytes | np.ndarray]]:
        for label, count in enumerate(counts):
            for first in range(0, count, 256):
                for image in photo_like(min(256, count - first), resolution, seed + 1_000_003 * label + first):
                    yield label, image if encoding == "raw" else encode_jpeg(image, quality)

    return write_samples(
        path, samples(), sum(counts), resolution=resolution, encoding=encoding, quality=quality, page_size=page_size
    )


def write_samples(
    path: str | os.PathLike[str],
    samples: Iterable[tuple[int, bytes | np.ndarray]],
    capacity: int,
    *,
    resolution: int,
    encoding: Literal["raw", "jpeg"],
    quality: int = 90,
    page_size: int = DEFAULT_PAGE_SIZE,
) -> Sidecar:
    """Write a beton of any resolution, and its sidecar.

    Args:
        path: the file to write.
        samples: labels, ascending from 0 without gaps, and images as `BetonWriter.write` takes them.
        capacity: most samples that will come.
        resolution: side of the images in pixels.
        encoding: raw or jpeg.
        quality: of JPEG; only written down.
        page_size: bytes of a page.

    Returns:
        The sidecar. Its mean and standard deviation are made up.
    """
    path, counts = Path(path), list[int]()
    with BetonWriter(path, capacity, resolution=resolution, encoding=encoding, page_size=page_size) as writer:
        for label, image in samples:
            writer.write(image, label)
            counts += [0] * (label + 1 - len(counts))
            counts[label] += 1
    sidecar = Sidecar(
        classes=tuple(f"class {label}" for label in range(len(counts))), counts=tuple(counts),
        mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), resolution=resolution, encoding=encoding,
        quality=None if encoding == "raw" else quality, source="made up", split="train", seed=0,
        sha256=file_sha256(path), size=path.stat().st_size,
    )  # fmt: skip
    sidecar.save(path)
    return sidecar

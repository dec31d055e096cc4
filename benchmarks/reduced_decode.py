"""Stored JPEGs decoded at n/8 of their size and then resized by area, against all pixels decoded and resized::

    python benchmarks/reduced_decode.py --source folder/train     # an ImageFolder

Times are CPU time of one thread, compiled as in FFCV. Differences are in grey levels of 255, between what comes out.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from provenance import provenance

from raycondense.data import ffcv_kernels as kernels
from raycondense.data.decode import decode_image, encode_jpeg, jpeg_reduction, resize_square

QUALITY = 90
PAIRS = ((224, 64), (256, 64), (160, 64), (128, 64), (224, 112), (224, 32))
EIGHTHS = (8, 5, 4, 3, 2, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="a folder with one folder a class")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()
    files = sorted(path for path in options.source.glob("*/*") if path.is_file())
    files = files[:: max(1, len(files) // options.images)][: options.images]
    lines = [
        "| stored → wanted | decoded | µs | × all | mean | largest | PSNR dB | FFCV to Pillow | taken |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for stored, wanted in PAIRS:
        jpegs = [encode_jpeg(decode_image(file.read_bytes(), stored), QUALITY) for file in files]
        lines += rows(jpegs, stored, wanted, options.repeats)
    print("\n".join([*lines, *provenance(f"{len(files)} photographs, JPEG of quality {QUALITY}.")]))


def rows(jpegs: list[bytes], stored: int, wanted: int, repeats: int) -> list[str]:
    from numba import njit

    data = [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs]
    decoders = {n: decoder(stored, -(-stored * n // 8), n, wanted, njit) for n in EIGHTHS if stored * n >= wanted * 8}
    out = {n: np.empty((len(data), 3, wanted, wanted), np.uint8) for n in decoders}
    for n, decode in decoders.items():
        decode(data[0], out[n][0])
    times: dict[int, list[float]] = {n: [] for n in decoders}
    for repeat in range(repeats):
        for n in list(decoders) if repeat % 2 else reversed(decoders):
            start = time.process_time()
            for jpeg, target in zip(data, out[n], strict=True):
                decoders[n](jpeg, target)
            times[n].append((time.process_time() - start) / len(data) * 1e6)
    micros = {n: statistics.median(values) for n, values in times.items()}
    lines = []
    for n in decoders:
        difference = out[n].astype(int) - out[8]
        squares = (difference**2).reshape(len(data), -1).mean(1)
        psnr = "" if n == 8 else f"{np.mean(10 * np.log10(255**2 / np.maximum(squares, 1e-6))):.1f}"
        reduction = 8 // n if 8 % n == 0 else 0
        cells = [f"{stored} → {wanted}", f"{n}/8: {-(-stored * n // 8)} px", f"{micros[n]:.0f}"]
        cells += [f"{micros[8] / micros[n]:.2f}", f"{np.abs(difference).mean():.2f}", f"{np.abs(difference).max()}"]
        cells += [psnr, f"{to_pillow(jpegs, out[n], stored, reduction, wanted):.2f}" if reduction else ""]
        cells.append("yes" if reduction == jpeg_reduction(stored, wanted) else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def decoder(stored: int, side: int, eighths: int, wanted: int, njit: Any) -> Any:
    """What FFCV compiles for one image (`raycondense.data.ffcv_decoder`), at any ratio."""
    from ffcv.libffcv import imdecode

    imdecode_c, split, resize = (njit(part) for part in (imdecode, kernels.split_channels, kernels.area_resize))
    starts, weights = kernels.area_weights(side, wanted)
    resized = side != wanted

    def decode(data: Any, target: Any) -> None:
        image = np.empty(side * side * 3 + 1, np.uint8)[1:].reshape(side, side, 3)
        imdecode_c(data, image, stored, stored, stored, stored, 0, 0, eighths, 8, False, False)
        if resized:
            resize(image, target, starts, weights)
        else:
            split(image, target)

    return njit(decode)


def to_pillow(jpegs: list[bytes], found: np.ndarray, stored: int, reduction: int, wanted: int) -> float:
    """Mean difference to what Pillow makes, which the resident loader uses."""
    total = 0.0
    for jpeg, pixels in zip(jpegs, found, strict=True):
        image = Image.open(io.BytesIO(jpeg))
        if reduction > 1:
            image.draft(None, (stored // reduction, stored // reduction))
        image.load()
        total += float(np.abs(np.asarray(resize_square(image, wanted)).transpose(2, 0, 1) - pixels.astype(int)).mean())
    return total / len(jpegs)


if __name__ == "__main__":
    main()

"""A stand-in for ImageNet-1k: a folder of many JPEG files of a thousand classes, made from one photograph of each.

Each image is a random crop of its class's photograph (a quarter to all of the area, sides 3:4 to 4:3), mirrored or not,
in other colours, 128 to 224 px on the shorter side. It has ImageNet's numbers of classes, files and folders and its
kind of JPEG data, not its variety: what a student learns from it says nothing of ImageNet.

    python benchmarks/thousand_images.py imagenet_sample.parquet FOLDER --per-class 110
"""

from __future__ import annotations

import argparse
import io
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from PIL import Image, ImageEnhance

from raycondense.data.cpus import usable_cpus


def photographs(files: list[Path]) -> list[tuple[int, bytes]]:
    """Label and file content of every row of Parquet files in the Hugging Face layout."""
    rows = []
    for file in files:
        table = parquet.read_table(file)
        column = next(name for name in table.column_names if name != "label")
        rows += zip(table["label"].to_pylist(), (row["bytes"] for row in table[column].to_pylist()), strict=True)
    return rows


def variants(photograph: bytes, label: int, folder: Path, count: int) -> int:
    """Write ``count`` images of a class to its folder."""
    image = Image.open(io.BytesIO(photograph)).convert("RGB")
    random = np.random.default_rng(label)
    place = folder / f"class-{label:04d}"
    place.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        area, ratio = random.uniform(0.25, 1), np.exp(random.uniform(-0.29, 0.29))
        width = min(image.width, round((area * image.width * image.height * ratio) ** 0.5))
        height = min(image.height, round((area * image.width * image.height / ratio) ** 0.5))
        left, top = random.integers(image.width - width + 1), random.integers(image.height - height + 1)
        scale = int(random.integers(128, 225)) / min(width, height)
        size = (round(width * scale), round(height * scale))
        made = image.resize(size, Image.Resampling.BILINEAR, (left, top, left + width, top + height))
        if random.random() < 0.5:
            made = made.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for enhance in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
            made = enhance(made).enhance(random.uniform(0.6, 1.4))
        made.save(place / f"{number:05d}.JPEG", quality=90)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="+", help="Parquet files: a column of images, and label")
    parser.add_argument("folder", type=Path, help="one folder a class is made in it")
    parser.add_argument("--per-class", type=int, default=110, help="images of each class")
    parser.add_argument("--processes", type=int, default=usable_cpus())
    options = parser.parse_args()
    begun, rows = time.perf_counter(), photographs(options.source)
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = [pool.submit(variants, data, label, options.folder, options.per_class) for label, data in rows]
        made = sum(job.result() for job in jobs)
    print(f"{made} images of {len(rows)} classes in {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()

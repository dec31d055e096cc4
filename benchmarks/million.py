"""What a loader takes where there are many images: seconds to open, memory of a process, seconds to plan a step.

Betons of 1000 classes and 10^4, 10^5 and 1.28 million made-up images, with ImageNet's numbers of images a class; each
loader opens each of them in a process of its own::

    python benchmarks/million.py                              # takes 3 GB of a temporary folder and 5 minutes
    python benchmarks/million.py --out docs/results/million.md

Memory is what belongs to the process alone (``RssAnon``); files that it maps are in the page cache, which all processes
of a machine share. Files were just written, so they are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from guard import Row, keep
from provenance import provenance

from raycondense.background import repeated
from raycondense.data.batches import ClassBatch
from raycondense.data.beton import BetonReader
from raycondense.data.class_plan import ClassPlan, ShuffledPlan
from raycondense.data.cpus import usable_cpus
from raycondense.data.decode import encode_jpeg
from raycondense.data.ffcv_batches import FfcvClassBatches, FfcvShuffledBatches
from raycondense.data.sidecar import Sidecar
from raycondense.testing.betons import photo_like, write_samples

SIZES = (10_000, 100_000, 1_281_167)
CLASSES, RESOLUTION, QUALITY, UNIQUE = 1000, 64, 90, 3000
CLASSES_PER_STEP, REAL_PER_CLASS, READ_BLOCK = 64, 8, 8
LOADERS = {"class-grouped": 300, "shuffled": 300, "class-grouped, os_cache off": 40}
"""Steps of each. The last reads half a GB of pages a step where a class fills a third of one."""


@dataclass(frozen=True)
class Found:
    """One process. Memory is RssAnon in MB more than before opening (peak and after), seconds are by the clock."""

    images: int
    sidecar_s: float
    check_s: float
    open_s: float
    first_step_s: float
    imported_mb: float
    peak_mb: float
    opened_mb: float
    stepped_mb: float
    first_visit_ms: float
    visit_ms: float
    speed: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="images of the betons")
    parser.add_argument("--workers", type=int, default=usable_cpus(), help="decoding threads")
    parser.add_argument("--out", type=Path, help="write the tables to this Markdown file as well")
    parser.add_argument("--measure", nargs=2, metavar=("BETON", "LOADER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(asdict(measure(Path(options.measure[0]), options.measure[1], options.workers))))
        return
    found: dict[str, list[Found]] = {loader: [] for loader in LOADERS}
    with tempfile.TemporaryDirectory(prefix="raycondense-million-") as folder:
        for size in options.sizes:
            beton = Path(folder) / f"{size}.beton"
            make_set(beton, size)
            for loader in LOADERS:
                print(f"{size} images: {loader}", file=sys.stderr)
                command = [sys.executable, __file__, "--workers", str(options.workers)]
                command += ["--measure", str(beton), loader]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found[loader].append(Found(**json.loads(done.stdout.splitlines()[-1])))
            beton.unlink()
    text = report(found)
    print(text)
    keep(options.out, "A million images", text, ratios(found))


# ------------------------------------------------------------------------------------------------ data


def class_counts(images: int) -> list[int]:
    """Images of each class: as in ImageNet 895 classes have the most, the others down to 56 % of it; 10 at least."""
    fewer = CLASSES * 105 // 1000
    shares = np.ones(CLASSES)
    shares[:fewer] = (732 + 567 * np.linspace(0, 1, fewer) ** 0.46) / 1300
    counts = np.maximum(10, np.round(shares * images / shares.sum())).astype(int)
    return [int(count) for count in np.random.default_rng(0).permutation(counts)]


def make_set(beton: Path, images: int) -> None:
    files = [encode_jpeg(image, QUALITY) for image in photo_like(UNIQUE, RESOLUTION, seed=0)]
    counts = class_counts(images)

    def samples() -> Iterator[tuple[int, bytes]]:
        number = 0
        for label, count in enumerate(counts):
            for _ in range(count):
                yield label, files[number * 7919 % UNIQUE]
                number += 1

    write_samples(beton, samples(), sum(counts), resolution=RESOLUTION, encoding="jpeg", quality=QUALITY)


# ------------------------------------------------------------------------------------------------ one process


def anonymous_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("RssAnon:")]
    return int(line.split()[1]) / 1000


@contextmanager
def watched(peak: list[float]) -> Iterator[None]:
    """Appends the most memory that the block takes."""
    most = [anonymous_mb()]

    def look() -> None:
        most[0] = max(most[0], anonymous_mb())

    with repeated(look, 0.002):
        yield
    peak.append(most[0])


def seconds_since(start: float) -> float:
    return time.perf_counter() - start


def measure(beton: Path, loader: str, workers: int) -> Found:
    import_everything()
    steps, shuffled = LOADERS[loader], loader == "shuffled"
    start = time.perf_counter()
    sidecar = Sidecar.load(beton)
    sidecar_s = seconds_since(start)

    def make_plan() -> ClassPlan | ShuffledPlan:
        if shuffled:
            return ShuffledPlan(sidecar.num_images, seed=0, batch=CLASSES_PER_STEP * REAL_PER_CLASS)
        return ClassPlan(
            sidecar,
            seed=0,
            classes_per_step=CLASSES_PER_STEP,
            real_per_class=REAL_PER_CLASS,
            read_block=READ_BLOCK,
        )

    imported, peak = anonymous_mb(), list[float]()
    with watched(peak):
        start = time.perf_counter()
        plan = make_plan()
        batches: FfcvClassBatches | FfcvShuffledBatches
        settings = {"resolution": RESOLUTION, "workers": workers, "os_cache": "off" not in loader}
        if isinstance(plan, ShuffledPlan):
            batches = FfcvShuffledBatches(beton, plan, **settings)
        else:
            batches = FfcvClassBatches(beton, plan, **settings)
        open_s = seconds_since(start)
    opened = anonymous_mb()
    # A row of shuffled steps that crosses the end of an epoch, where two permutations are needed.
    first = max(0, sidecar.num_images // plan.size(0) - 10) if shuffled else 0
    with batches:
        start = time.perf_counter()
        row = batches.steps(first)
        next(row)
        first_step_s, start, images = seconds_since(start), time.perf_counter(), 0
        for batch in islice(row, steps - 1):
            images += batch.images.shape[0] * (batch.images.shape[1] if isinstance(batch, ClassBatch) else 1)
        speed = images / seconds_since(start)
        stepped = anonymous_mb()
    again = make_plan()
    visits = [timed_indices(again, first + step) for step in range(300)]
    start = time.perf_counter()
    BetonReader(beton, threads=1)
    check_s = seconds_since(start)
    return Found(
        sidecar.num_images, sidecar_s, check_s, open_s, first_step_s, imported, peak[0] - imported, opened - imported,
        stepped - imported, 1e3 * visits[0], 1e3 * sum(visits) / len(visits), speed,
    )  # fmt: skip


def timed_indices(plan: ClassPlan | ShuffledPlan, step: int) -> float:
    start = time.perf_counter()
    plan.indices(step)
    return seconds_since(start)


def import_everything() -> None:
    """Imports take the same whatever the images are, and are no part of opening."""
    from raycondense.data.open import choose_loader

    choose_loader("ffcv")
    import raycondense.data.ffcv_loader  # noqa: F401


# ------------------------------------------------------------------------------------------------ report


def slope(images: list[int], values: list[float]) -> str:
    """Exponent of the power of the number of images that fits best."""
    if len(images) < 2 or min(values) <= 0:
        return ""
    return f"{np.polyfit(np.log(images), np.log(values), 1)[0]:.2f}"


def report(found: dict[str, list[Found]]) -> str:
    lines = [
        f"{CLASSES} classes, {RESOLUTION} px, JPEG; steps of {CLASSES_PER_STEP * REAL_PER_CLASS} images: "
        f"{CLASSES_PER_STEP} classes × {REAL_PER_CLASS}, or shuffled. A process each. “Memory” is the process's own "
        "(RssAnon) in MB, without pages of files: after importing, and how much more it is at its peak while opening, "
        f"after opening and after the steps ({', '.join(f'{loader} {n}' for loader, n in LOADERS.items())}). "
        "“Open” has everything before the first step, FFCV's compiling among it; “check” is the part of it that looks "
        "at every offset of the file, measured again alone. “Plan” is one step's indices: the first one, and the mean "
        "of 300. The last row of each part is the slope in the logarithms: 0 is independent of the number of images, "
        "1 proportional to it; that of memory is of all of it, importing included.",
        "",
        "| loader | images | open s | sidecar s | check s | first step s | memory imported | + peak | + opened "
        "| + steps | plan first ms | plan mean ms | images/s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for loader, rows in found.items():
        for row in rows:
            cells = [loader, str(row.images), f"{row.open_s:.2f}", f"{row.sidecar_s:.3f}", f"{row.check_s:.3f}"]
            cells += [f"{row.first_step_s:.2f}", f"{row.imported_mb:.0f}"]
            cells += [f"{value:.1f}" for value in (row.peak_mb, row.opened_mb, row.stepped_mb)]
            cells += [f"{row.first_visit_ms:.2f}", f"{row.visit_ms:.2f}", f"{row.speed:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
        images = [row.images for row in rows]
        open_slope, check_slope = (
            slope(images, [getattr(row, name) for row in rows]) for name in ("open_s", "check_s")
        )
        memory = [
            slope(images, [row.imported_mb + getattr(row, name) for row in rows])
            for name in ("peak_mb", "opened_mb", "stepped_mb")
        ]
        plan = slope(images, [row.visit_ms for row in rows])
        lines.append(f"| {loader} | slope | {open_slope} | | {check_slope} | | | {' | '.join(memory)} | | {plan} | |")
    lines += ["", "Bytes an image, between the two largest sets:", "", *per_image(found)]
    lines += provenance("Made-up images; the files are in the page cache.")
    return "\n".join(lines)


def per_image(found: dict[str, list[Found]]) -> list[str]:
    lines = ["| loader | peak while opening | opened | after the steps |", "|---|---:|---:|---:|"]
    for loader, rows in found.items():
        if len(rows) < 2:
            continue
        small, large = rows[-2:]
        number = large.images - small.images
        names = ("peak_mb", "opened_mb", "stepped_mb")
        values = [1e6 * (getattr(large, name) - getattr(small, name)) / number for name in names]
        lines.append(f"| {loader} | {' | '.join(f'{value:.0f}' for value in values)} |")
    return lines


def ratios(found: dict[str, list[Found]]) -> list[Row]:
    """What the guard holds on to: how much more memory the largest set takes than the smallest, after the steps."""
    return [
        Row(
            f"{loader}: memory of {rows[-1].images} / {rows[0].images} images",
            (rows[-1].imported_mb + rows[-1].stepped_mb) / (rows[0].imported_mb + rows[0].stepped_mb), "lower",
        )
        for loader, rows in found.items()
    ]  # fmt: skip


if __name__ == "__main__":
    main()

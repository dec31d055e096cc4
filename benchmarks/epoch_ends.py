"""How long a step waits for its images, at the ends of FFCV's epochs and elsewhere.

A consumer that takes its time (as a GPU does, it leaves the processors to the loader) and one that only reads, with the
operating system's page cache and with FFCV's own::

    python benchmarks/epoch_ends.py
    PYTHONPATH=OLDER python benchmarks/epoch_ends.py     # an older revision of the package, where epochs ended
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
from provenance import provenance

from raycondense.data.class_plan import ClassPlan
from raycondense.data.cpus import usable_cpus
from raycondense.data.decode import encode_jpeg
from raycondense.data.ffcv_batches import FfcvClassBatches
from raycondense.testing.betons import photo_like, write_samples

CLASSES, IMAGES_PER_CLASS, RESOLUTION, QUALITY, UNIQUE = 64, 320, 64, 90, 2000
WARM = 10  # first steps, which are not counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=640)
    parser.add_argument("--epoch", type=int, default=204, help="steps of an epoch, where its ends are looked for")
    parser.add_argument("--busy", type=float, default=0.05, help="seconds that the slow consumer takes for a step")
    parser.add_argument("--classes-per-step", type=int, default=64)
    parser.add_argument("--real-per-class", type=int, default=20)
    parser.add_argument("--workers", type=int, default=usable_cpus())
    options = parser.parse_args()
    lines = [
        "| pages kept by | consumer | images/s | median ms | 99 % ms | longest ms | at ends of epochs ms |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory(prefix="raycondense-epochs-") as folder:
        beton = Path(folder) / "x.beton"
        files = [encode_jpeg(image, QUALITY) for image in photo_like(UNIQUE, RESOLUTION, seed=0)]
        samples = [
            (label, files[(IMAGES_PER_CLASS * label + k) % UNIQUE])
            for label in range(CLASSES)
            for k in range(IMAGES_PER_CLASS)
        ]
        sidecar = write_samples(beton, samples, len(samples), resolution=RESOLUTION, encoding="jpeg", quality=QUALITY)
        plan = ClassPlan(
            sidecar,
            seed=0,
            classes_per_step=options.classes_per_step,
            real_per_class=options.real_per_class,
            read_block=10,
        )
        for os_cache in (True, False):
            settings = {"resolution": RESOLUTION, "workers": options.workers, "os_cache": os_cache}
            with FfcvClassBatches(beton, plan, **settings) as batches:
                for busy in (options.busy, 0.0):
                    waits, seconds = waited(batches, options.steps, busy)
                    images = sum(plan.size(step) for step in range(WARM, options.steps))
                    cells = ["the operating system" if os_cache else "FFCV"]
                    cells += [f"{1e3 * busy:.0f} ms a step" if busy else "only reads", f"{images / seconds:.0f}"]
                    cells += row_of(waits, options.epoch)
                    lines.append(f"| {' | '.join(cells)} |")
                    print(lines[-1], flush=True)
    print("\n".join([*lines, *provenance()]))


def waited(batches: FfcvClassBatches, steps: int, busy: float) -> tuple[list[float], float]:
    """Milliseconds that each step waited, and seconds of all steps but the first `WARM`."""
    waits: list[float] = []
    row = batches.steps()
    start = time.perf_counter()
    for step in range(steps):
        if step == WARM:
            start = time.perf_counter()
        before = time.perf_counter()
        next(row)
        waits.append(1e3 * (time.perf_counter() - before))
        time.sleep(busy)
    seconds = time.perf_counter() - start
    row.close()  # type: ignore[attr-defined]
    return waits, seconds


def row_of(waits: list[float], epoch: int) -> list[str]:
    ends = list(islice(waits, epoch, None, epoch))
    others = [wait for step, wait in enumerate(waits) if step >= WARM and step % epoch]
    found = [statistics.median(others), float(np.percentile(others, 99)), max(others)]
    return [*(f"{value:.1f}" for value in found), ", ".join(f"{wait:.0f}" for wait in ends)]


if __name__ == "__main__":
    main()

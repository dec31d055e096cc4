"""Memory of an evaluation's looks at the training images, against the number of training images.

Each part runs in a process of its own, on a CPU, and tells the most memory that belonged to the process alone
(``RssAnon``, looked at every 5 ms) since it had imported everything; files that it maps are in the page cache, which
all processes of a machine share, and are not counted::

    python tools/evaluation_memory.py train.beton
    python tools/evaluation_memory.py train.beton --kept 100       # as if a process kept 100 GB: the set in memory

A second file of the first images of each class is made in a temporary folder, so that there are two sizes. The networks
are narrow and their batches small: what a step's activations take depends on neither the set nor its number of images,
and would hide what does.
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
from pathlib import Path

import numpy as np
import torch

from raycondense.background import repeated
from raycondense.config import EvaluationConfig
from raycondense.data.beton import BetonReader
from raycondense.data.sidecar import Sidecar
from raycondense.evaluation import whole
from raycondense.evaluation.diagnosis import Diagnosed, Diagnosis
from raycondense.evaluation.reference import Domain, Reference
from raycondense.evaluation.sets import SetSpec, SetWork
from raycondense.evaluation.store import Store
from raycondense.testing.betons import write_samples

CONFIG = EvaluationConfig(width=16, batch=32, reference_steps=10)
PARTS = ("reference", "random 10", "herding 1", "herding 10", "kmeans 1", "kmeans 10", "diagnosis")
FEW = 10_000
"""Images of the smaller set."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("beton", type=Path, help="training images")
    parser.add_argument("--kept", type=float, help="GB of decoded images that a process keeps, instead of 1 GiB")
    parser.add_argument("--part", nargs=2, metavar=("NAME", "STORE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        if options.kept is not None:
            whole.KEPT_BYTES = int(options.kept * 1e9)
        print(json.dumps(measure(options.beton, options.part[0], Store(options.part[1]))))
        return
    with tempfile.TemporaryDirectory(prefix="raycondense-memory-") as folder:
        betons = [few_of(options.beton, Path(folder) / "few.beton"), options.beton]
        found = [rows(beton, Path(folder) / f"store{i}", options.kept) for i, beton in enumerate(betons)]
    sizes = [Sidecar.load(options.beton).num_images if beton is options.beton else FEW for beton in betons]
    print("| peak in MB, RssAnon | " + " | ".join(f"{size:,} images" for size in sizes) + " |")
    print("|---|" + "---:|" * len(sizes))
    for part in PARTS:
        print(f"| {part} | " + " | ".join(f"{one[part]['mb']:.0f}" for one in found) + " |")
    for part in PARTS:
        print(part, *(f"{one[part]['seconds']:.1f} s" for one in found), file=sys.stderr)


def few_of(beton: Path, path: Path) -> Path:
    """A beton of `FEW` images, as many of each class."""
    reader = BetonReader(beton)
    sidecar = reader.sidecar
    each = FEW // sidecar.num_classes

    def samples() -> Iterator[tuple[int, bytes | np.ndarray]]:
        for label in range(sidecar.num_classes):
            for image in reader.images(sidecar.class_range(label)[:each]):
                yield label, np.ascontiguousarray(image.transpose(1, 2, 0))

    write_samples(path, samples(), each * sidecar.num_classes, resolution=sidecar.resolution, encoding="raw")
    return path


def rows(beton: Path, store: Path, kept: float | None) -> dict[str, dict[str, float]]:
    """What each part found, one after the other: the later ones look through the first one's network."""
    more = [] if kept is None else ["--kept", str(kept)]
    found = {}
    for part in PARTS:
        words = [sys.executable, __file__, str(beton), *more, "--part", part, str(store)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        found[part] = json.loads(done.stdout)
        print(beton.name, part, found[part], file=sys.stderr)
    return found


def measure(beton: Path, part: str, store: Store) -> dict[str, float]:
    """Peak in MB above what the process had before, and seconds, of one part."""
    sidecar = Sidecar.load(beton)
    domain = Domain(classes=sidecar.classes, resolution=sidecar.resolution, mean=sidecar.mean, std=sidecar.std)
    reference = Reference(
        train=str(beton), train_sha256=sidecar.sha256, train_images=sidecar.num_images, domain=domain, config=CONFIG
    )
    name, _, ipc = part.partition(" ")

    def found_set(method: str, bank: int) -> SetWork:
        return SetWork(
            method=method, bank=bank, train=str(beton), train_sha256=sidecar.sha256, domain=domain, config=CONFIG,
            reference=reference,
        )  # fmt: skip

    def images(method: str, bank: int) -> SetSpec:
        needs = () if method == "random" else (found_set(method, bank).key,)
        return SetSpec(
            method=method, bank=bank, source=str(beton), source_sha256=sidecar.sha256, domain=domain,
            images=bank * sidecar.num_classes, bytes=0, needs=needs,
        )  # fmt: skip

    # What only the first call of a library takes is no matter of the set.
    torch.nn.functional.conv2d(torch.zeros(1, 3, 8, 8), torch.zeros(3, 3, 3, 3)).sum()
    if name == "kmeans":
        import sklearn.cluster  # noqa: F401
    begun = time.perf_counter()
    with watched() as peak:
        if name == "reference":
            reference.run(store)
        elif name == "diagnosis":
            sets = [images(method, bank) for method in ("random", "herding", "kmeans") for bank in (1, 10)]
            diagnosed = [Diagnosed(images=one, ipc=one.bank, reference=reference) for one in sets]
            Diagnosis(sets=tuple(diagnosed)).run(store)
        elif name == "random":
            images("random", int(ipc)).load(store)
        else:
            found_set(name, int(ipc)).run(store)
    return {"mb": peak[0], "seconds": time.perf_counter() - begun}


@contextmanager
def watched() -> Iterator[list[float]]:
    """A list of one number, the most memory within the block beyond what there was before it, in MB."""
    before, peak = anonymous_mb(), [0.0]

    def look() -> None:
        peak[0] = max(peak[0], anonymous_mb() - before)

    with repeated(look, 0.005):
        yield peak


def anonymous_mb() -> float:
    """Memory of this process alone."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1000


if __name__ == "__main__":
    main()

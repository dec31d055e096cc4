"""Does the evaluation give the field's numbers? Random real CIFAR-10 images, pixel DM and the whole set.

    raycondense prepare CIFAR10 data/train.beton --split train
    raycondense prepare CIFAR10 data/test.beton --split test
    python benchmarks/calibration.py data/train.beton data/test.beton --ipc 1 10

Published are the means of the literature's tables (ConvNet-D3 of width 128; DM, arXiv 2110.04181, and NCFM's table 1).
Their row of random real images goes back to DC (arXiv 2006.05929), whose recipe has no augmentation: it is compared
with protocol ``dc``. Under protocol ``dm``, whose DSA helps real images too, they are worth more, and that is what
everything else under ``dm`` has to be compared with.

What was found is kept in ``--store``, so an interrupted run goes on and a larger one repeats nothing. On one CPU core a
student takes about a minute at IPC 1, ten at IPC 10 and fifty at IPC 50; IPC 50, pixel DM and the whole set want a GPU:

    python benchmarks/calibration.py data/train.beton data/test.beton --methods random pixel-dm whole --device cuda
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import sys
from pathlib import Path

import torch

from raycondense.config import EvaluationConfig
from raycondense.data.sidecar import Sidecar
from raycondense.evaluation.jobs import Job, JobGroup, grouped
from raycondense.evaluation.methods import DRAWN, FOUND_ONCE
from raycondense.evaluation.protocols import protocol
from raycondense.evaluation.queue import Outcome, needs_first, run_here
from raycondense.evaluation.reference import Domain
from raycondense.evaluation.sets import SetSpec, SetWork
from raycondense.evaluation.store import Store
from raycondense.evaluation.together import prefers_together

PUBLISHED = {
    ("dc", "random", 1): 14.4, ("dc", "random", 10): 26.0, ("dc", "random", 50): 43.4,
    ("dm", "pixel-dm", 1): 26.0, ("dm", "pixel-dm", 10): 48.9, ("dm", "pixel-dm", 50): 63.0,
    ("dm", "whole", 0): 84.8,
}  # fmt: skip
TOLERANCE = 1.5


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--methods", nargs="+", default=["random"], choices=["random", "pixel-dm", "whole"])
    parser.add_argument("--protocols", nargs="+", default=["dc", "dm"], choices=["dc", "dm"])
    parser.add_argument("--ipc", nargs="+", type=int, default=[1, 10, 50])
    parser.add_argument("--students", type=int, default=5)
    parser.add_argument("--pixel-dm-steps", type=int, default=20_000)
    parser.add_argument("--whole-epochs", type=int, default=200, help="1000 epochs of the whole set would take days")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="more than 1: Ray actors")
    parser.add_argument("--store", default="calibration")
    flags = parser.parse_args()

    store = Store(Path(flags.store).absolute())
    base = EvaluationConfig(pixel_dm_steps=flags.pixel_dm_steps)
    train, test = Sidecar.load(flags.train), Sidecar.load(flags.test)
    domain = Domain(classes=train.classes, resolution=train.resolution, mean=train.mean, std=train.std)
    before: list[SetWork] = []
    rows: dict[tuple[str, str, int], list[Job]] = {}
    for name, method in itertools.product(flags.protocols, flags.methods):
        config = dataclasses.replace(protocol(name, base), students=flags.students)
        if name == "dc" and method != "random":
            continue  # nothing was published to compare with
        for ipc in [0] if method == "whole" else flags.ipc:
            recipe = dataclasses.replace(config, epochs=flags.whole_epochs) if method == "whole" else config
            if method in FOUND_ONCE:
                before.append(
                    SetWork(
                        method=method,
                        bank=ipc,
                        train=flags.train,
                        train_sha256=train.sha256,
                        domain=domain,
                        config=config,
                        device=flags.device,
                    )
                )
            images = ipc * len(train.classes) or train.num_images
            spec = SetSpec(
                method=method, bank=ipc, source=flags.train, source_sha256=train.sha256, domain=domain, images=images,
                bytes=images * 3 * train.resolution**2, needs=(before[-1].key,) if method in FOUND_ONCE else (),
            )  # fmt: skip
            rows[name, method, ipc] = [
                Job(
                    images=dataclasses.replace(spec, draw=student) if method in DRAWN else spec,
                    ipc=ipc,
                    accounting="bank",
                    architecture="convnet",
                    student=student,
                    config=recipe,
                    augmented=True,
                    test=flags.test,
                    test_sha256=test.sha256,
                    dataset=train.source,
                    train_sha256=train.sha256,
                    device=flags.device,
                )
                for student in range(flags.students)
            ]
    found = store.find(job.key for jobs in rows.values() for job in jobs)
    students = [job for jobs in rows.values() for job in jobs if job.key not in found]
    works: list[Job | JobGroup] = list(students)
    if prefers_together(flags.device, "convnet"):
        works = grouped(students)

    def tell(outcome: Outcome) -> None:
        accuracies = " ".join(f"{100 * row['accuracy']:.1f}" for row in outcome.rows)
        print(f"{outcome.label}: {accuracies or outcome.error or 'done'} ({outcome.seconds:.0f} s)", file=sys.stderr)

    to_do = needs_first([*before, *works])
    if flags.workers > 1:
        from raycondense.cluster.evaluation import run_on_actors

        run_on_actors(to_do, store, tell, workers=flags.workers)
    else:
        run_here(to_do, store, tell)

    found = store.find(job.key for jobs in rows.values() for job in jobs)
    print("| protocol | images | IPC | accuracy % | published | difference | within 1.5 | students | s/student |")
    print("| --- | --- | --: | --: | --: | --: | :-: | --: | --: |")
    for (name, method, ipc), jobs in rows.items():
        results = [found[job.key] for job in jobs if job.key in found]
        if not results:
            continue
        values = [100 * row["accuracy"] for row in results]
        mean, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
        seconds = statistics.fmean(row["seconds"] for row in results)
        published = PUBLISHED.get((name, method, ipc))
        near = "–" if published is None else "yes" if abs(mean - published) <= TOLERANCE else "no"
        difference = "–" if published is None else f"{mean - published:+.1f}"
        cells = (
            name, method, ipc or "–", f"{mean:.1f} ± {spread:.1f}", published or "–", difference, near, len(values),
            f"{seconds:.0f}",
        )  # fmt: skip
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()

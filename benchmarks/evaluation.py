"""How many students a pool of actors trains in an hour, and what the pool costs a job.

One run, the same students of the DM protocol on random real digits, four ways taken in turn, several repetitions,
medians. Bare processes show what the machine has to give: CPUs that share caches and memory add up to less::

    python benchmarks/evaluation.py                       # two actors of one CPU against one process
    python benchmarks/evaluation.py --workers 4 --resolution 16 --out docs/results/pool.md

Starting Ray and the actors, importing and the first student of each are not counted; the second table has the first
two. The pool stands idle while one process is measured, which takes some 5 % of a CPU for Ray's own processes.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

from raycondense.cluster.evaluation import EvaluationPool
from raycondense.cluster.start import connect
from raycondense.config import EvaluationConfig
from raycondense.data.cpus import usable_cpus
from raycondense.data.prepare import prepare
from raycondense.data.sidecar import Sidecar
from raycondense.errors import RaycondenseError
from raycondense.evaluation.jobs import Job
from raycondense.evaluation.queue import Outcome, run_here
from raycondense.evaluation.reference import Domain
from raycondense.evaluation.sets import SetSpec
from raycondense.evaluation.store import Store
from raycondense.evaluation.work import Work
from raycondense.storage import write_text

JOB = 30.0
"""Seconds of the job that the pool's costs are compared with."""
Run = Callable[[Sequence[Work]], list[Outcome]]


@dataclass(frozen=True)
class Idle:
    """A work that does nothing, and finds a row or none."""

    key: str
    row: dict[str, Any] | None = None
    cost: float = 1.0
    needs: tuple[str, ...] = ()
    label: str = "nothing"

    def run(self, store: Store) -> list[dict[str, Any]]:
        return [] if self.row is None else [self.row | {"key": self.key}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="actors, of one CPU each")
    parser.add_argument("--students", type=int, default=4, help="students of a repetition")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions of each way")
    parser.add_argument("--steps", type=int, default=300, help="training steps of a student")
    parser.add_argument("--ipc", type=int, default=10, help="images per class")
    parser.add_argument("--width", type=int, default=128, help="width of the ConvNet")
    parser.add_argument("--resolution", type=int, default=8, help="side of the images in pixels")
    parser.add_argument("--idle", type=int, default=100, help="works that do nothing, to measure the pool's costs")
    parser.add_argument("--out", type=Path, help="write the tables to this Markdown file as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raycondense-pool-") as folder:
        text = measure(options, Path(folder))
    print(text)
    if options.out is not None:
        write_text(options.out, f"# The evaluation pool\n\n{text}")


def measure(options: argparse.Namespace, folder: Path) -> str:
    for split in ("train", "test"):
        prepare("digits", folder / f"{split}.beton", resolution=options.resolution, split=split, workers=1)
    students = itertools.count()
    threads = usable_cpus()
    alone, every = "one process, 1 thread", f"one process, {threads} threads"
    pooled = f"pool, {options.workers} actors of 1 CPU"
    bare = f"{options.workers} bare processes of 1 thread"
    start = time.perf_counter()
    connect()
    once = {"starting Ray on this machine": time.perf_counter() - start}
    start = time.perf_counter()
    spawned = ProcessPoolExecutor(
        options.workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    )
    with EvaluationPool(folder / "pool", workers=options.workers) as pool, spawned:
        pool.run([Idle("first")])
        once["from the pool's making to its first result"] = time.perf_counter() - start
        ways: dict[str, Run] = {
            pooled: pool.run,
            # What this machine has to give: the same processes with nothing around them.
            bare: lambda works: list(spawned.map(partial(bare_run, folder / "bare"), works)),
            every: lambda works: here(works, Store(folder / "every"), threads),
            alone: lambda works: here(works, Store(folder / "alone"), 1),
        }
        row: dict[str, Any] = {}
        for name, run in ways.items():
            # Twice as many as there are workers, so that each gets one.
            for outcome in checked(run([job(folder, next(students), options) for _ in range(2 * options.workers)])):
                row = outcome.rows[0]
            print(f"{name} is ready", file=sys.stderr)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        busy: list[float] = []
        for repetition in range(options.repeats):
            works = [job(folder, next(students), options) for _ in range(options.students)]
            # In turn, and every other time backwards: what else the machine does hits all of them alike.
            for name in list(ways) if repetition % 2 == 0 else list(reversed(ways)):
                start = time.perf_counter()
                outcomes = checked(ways[name](works))
                seconds[name].append(time.perf_counter() - start)
                if name == pooled:
                    trained = sum(outcome.seconds for outcome in outcomes)
                    busy.append(trained / (seconds[name][-1] * options.workers))
                print(f"{repetition}: {name}: {seconds[name][-1]:.2f} s", file=sys.stderr)
        each = idle_costs(pool, options.idle, row)
    return report(options, seconds, busy, once, each, (pooled, bare, every, alone))


def job(folder: Path, student: int, options: argparse.Namespace) -> Job:
    """A student on random real images."""
    train, test = Sidecar.load(folder / "train.beton"), Sidecar.load(folder / "test.beton")
    domain = Domain(classes=train.classes, resolution=train.resolution, mean=train.mean, std=train.std)
    images = options.ipc * train.num_classes
    return Job(
        images=SetSpec(
            method="random", bank=options.ipc, source=str(folder / "train.beton"), source_sha256=train.sha256,
            domain=domain, images=images, bytes=images * 3 * train.resolution**2, draw=student,
        ),
        ipc=options.ipc, accounting="bank", architecture="convnet", student=student,
        config=EvaluationConfig(width=options.width, max_steps=options.steps), augmented=True,
        test=str(folder / "test.beton"), test_sha256=test.sha256, dataset=train.source, train_sha256=train.sha256,
    )  # fmt: skip


def here(works: Sequence[Work], store: Store, threads: int) -> list[Outcome]:
    """Students one after another in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return run_here(works, store)
    finally:
        torch.set_num_threads(before)


def bare_run(folder: Path, work: Work) -> Outcome:
    """One student in a bare process, its row recorded as the pool's are."""
    return run_here([work], Store(folder))[0]


def checked(outcomes: list[Outcome]) -> list[Outcome]:
    for outcome in outcomes:
        if outcome.exception is not None:
            raise outcome.exception
    return outcomes


def idle_costs(pool: EvaluationPool, count: int, row: dict[str, Any]) -> dict[str, float]:
    """Seconds that queueing, the way to a worker and back, and recording add to a job."""
    one_by_one, with_row = [], []
    for number in range(count):
        for found, values in ((one_by_one, None), (with_row, row)):
            start = time.perf_counter()
            checked(pool.run([Idle(f"{number} {values is None}", values)]))
            found.append(time.perf_counter() - start)
    start = time.perf_counter()
    checked(pool.run([Idle(f"many {number}") for number in range(10 * count)]))
    return {
        "a job that does nothing, alone, there and back": statistics.median(one_by_one),
        "the same with a row that is recorded": statistics.median(with_row),
        f"a job that does nothing, one of {10 * count} queued at once": (time.perf_counter() - start) / (10 * count),
    }


def report(
    options: argparse.Namespace,
    seconds: dict[str, list[float]],
    busy: list[float],
    once: dict[str, float],
    each: dict[str, float],
    names: tuple[str, str, str, str],
) -> str:
    rates = {name: [3600 * options.students / value for value in values] for name, values in seconds.items()}
    middle = {name: statistics.median(values) for name, values in rates.items()}
    _, bare, every, alone = names
    lines = [
        f"Students per hour: medians of {options.repeats} repetitions of {options.students} students taken in turn, "
        f"range from the slowest to the fastest. ConvNet of width {options.width}, {options.steps} steps on "
        f"{10 * options.ipc} digits of {options.resolution} px, scored on the test split.",
        "",
        f"| way | students/hour | range | × {bare} | × {every} | × {alone} |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        ratios = [f"{middle[name] / middle[other]:.2f}" for other in (bare, every, alone)]
        spread = f"{min(rates[name]):.0f}–{max(rates[name]):.0f}"
        lines.append(f"| {name} | {middle[name]:.0f} | {spread} | {' | '.join(ratios)} |")
    lines += [
        "",
        f"The actors were at work for {100 * statistics.median(busy):.0f} % of the time.",
        "",
        f"| what it costs | time | of a job of {JOB:g} s |",
        "|---|---:|---:|",
    ]
    lines += [f"| {name} | {value:.1f} s | once |" for name, value in once.items()]
    lines += [f"| {name} | {1000 * value:.1f} ms | {100 * value / JOB:.2g} % |" for name, value in each.items()]
    lines += provenance()
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except RaycondenseError as error:
        sys.exit(str(error))

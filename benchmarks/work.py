"""What a condensation step costs as the work grows: classes, codes, pixels; log-log slopes of time and memory.

Each cell is a process of its own that takes a few steps on made-up images, with small networks so that a thousand
classes fit a CPU. A slope is that of the straight line through the logarithms: 1 is proportional, 0 is no growth.
Memory is the process's peak above what it had before networks and images were made::

    python benchmarks/work.py --out docs/results/work.md

How cost grows with the images of the dataset is measured with real files: benchmarks/million.py.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from guard import Row, keep
from provenance import provenance
from settings import changes

from raycondense.artifact.sizes import format_bytes
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.data.cpus import usable_cpus
from raycondense.host import LocalHost
from raycondense.memory import freed_memory_kept
from raycondense.planning.dry_steps import condense_step
from raycondense.presets import get_preset
from raycondense.state import TrainState

LIMIT = 1.1
"""No slope may be above it."""
BASE: dict[str, Any] = {
    "data.num_classes": 10, "data.resolution": 16, "generator.width": 8, "generator.max_width": 16,
    "generator.class_dim": 8, "codebook.ipc": (4,), "codebook.factor": 1, "codebook.dim": 16, "extractors.width": 16,
    "extractors.weights": "random", "losses.ce": 0.0, "losses.intra": 0.1, "losses.inter": 0.1,
    "losses.regression": 0.0, "initialise.method": "none", "condense.classes_per_step": 10,
    "condense.real_per_class": 16, "condense.codes_per_step": 0, "condense.compile": "off",
}  # fmt: skip

TINY = {"data.num_classes": 2, "condense.classes_per_step": 2, "condense.real_per_class": 2, "codebook.ipc": (1,)}


class Study(NamedTuple):
    """One quantity that grows."""

    name: str
    unit: str
    values: tuple[int, ...]
    fields: tuple[str, ...]
    """What is set to the value."""
    exponent: int = 1
    """The work is proportional to this power of the value: 2 for a side in pixels."""
    more: Mapping[str, Any] = MappingProxyType({})


STUDIES = (
    Study("classes of the dataset, ten in a step", "classes", (10, 30, 100, 300, 1000), ("data.num_classes",)),
    Study("classes in a step", "classes", (10, 30, 100, 300, 1000), ("data.num_classes", "condense.classes_per_step")),
    Study("codes of a class in a step", "codes", (1, 3, 10, 30, 100), ("codebook.ipc",)),
    Study("codes kept of a class, ten in a step", "codes", (10, 30, 100, 300, 1000), ("codebook.ipc",),
          more={"condense.codes_per_step": 10}),
    Study("side of the images, by their pixels", "px", (32, 64, 128), ("data.resolution",), 2,
          {"condense.real_per_class": 8}),
)  # fmt: skip


class Cost(NamedTuple):
    """Of one cell."""

    seconds: float
    memory: int
    """Bytes."""


def measured(config: Config, device: str, repeats: int, threads: int) -> Cost:
    """Median time of a step and peak memory, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, config, device, repeats, threads).result()


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _measured(config: Config, device: str, repeats: int, threads: int) -> Cost:
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        host = LocalHost(Path(folder), device=device)
        _steps(override(config, {**BASE, **TINY}), host, 1)  # libraries load when they are used
        before = _peak(host.device)
        return Cost(statistics.median(_steps(config, host, repeats)), _peak(host.device) - before)


def _steps(config: Config, host: LocalHost, repeats: int) -> list[float]:
    """Seconds of each step after the first."""
    state = TrainState(config, num_classes=config.data.num_classes, device=host.device)
    step, taken = condense_step(config, state, host), []
    with freed_memory_kept(host.device):
        for number in range(repeats + 1):
            begun = time.perf_counter()
            step(number)
            if host.device.type == "cuda":
                torch.cuda.synchronize(host.device)
            taken.append(time.perf_counter() - begun)
    return taken[1:]


def slope(values: Sequence[float], costs: Sequence[float]) -> float:
    """Of the least-squares line through the logarithms."""
    x, y = [math.log(value) for value in values], [math.log(cost) for cost in costs]
    return statistics.linear_regression(x, y).slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, nargs="+", default=list(range(len(STUDIES))), help="by number")
    parser.add_argument("--repeats", type=int, default=5, help="steps of a cell that count")
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="settings, values as YAML")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="of the CPU")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file as well")
    options = parser.parse_args()
    base = override(get_preset("digits"), {**BASE, **changes(options.set)})
    lines, rows = [], []
    for study in (STUDIES[number] for number in options.studies):
        lines += [
            "",
            f"### {study.name.capitalize()}",
            "",
            f"| {study.unit} | ms a step | memory |",
            "|---:|---:|---:|",
        ]
        costs = []
        for value in study.values:
            fields = {name: (value,) if name == "codebook.ipc" else value for name in study.fields}
            costs.append(
                measured(override(base, study.more | fields), options.device, options.repeats, options.threads)
            )
            lines.append(f"| {value} | {1e3 * costs[-1].seconds:.1f} | {format_bytes(costs[-1].memory)} |")
            print(lines[-1], flush=True)
        work = [value**study.exponent for value in study.values]
        time_slope = slope(work, [cost.seconds for cost in costs])
        memory_slope = slope(work, [max(cost.memory, 1 << 20) for cost in costs])
        last = slope(work[-2:], [cost.seconds for cost in costs[-2:]])
        lines += ["", f"Slopes: time {time_slope:.2f} (between the last two {last:.2f}), memory {memory_slope:.2f}."]
        print(lines[-1], flush=True)
        rows += [
            Row(f"{study.name}: slope of time", time_slope, "lower"),
            Row(f"{study.name}: slope of time between the last two", last, "lower"),
            Row(f"{study.name}: slope of memory", memory_slope, "lower"),
        ]
    worst = max(rows, key=lambda row: row.value)
    verdict = "none is above" if worst.value <= LIMIT else f"{worst.name} is above"
    text = "\n".join([
        f"The largest slope is {worst.value:.2f}; {verdict} {LIMIT}. Medians of {options.repeats} steps.", *lines,
        *provenance(device=options.device, threads=options.threads),
    ])  # fmt: skip
    print(text)
    keep(options.out, "Cost against work", text, rows)


if __name__ == "__main__":
    main()

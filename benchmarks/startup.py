"""How long a user waits for the command line, for the import and for a run's first step, and what for.

    python benchmarks/startup.py digits.beton --runs 5 --out docs/results/startup.md

A step is an update: the first one is the first of whatever stage comes first. Runs start from a cold command, Ray
included; files are in the system's cache, and Python's compiled files are there. Medians and the best of the runs: on
a machine where others work the best is nearer to what a quiet one does,
and CPU seconds are nearly the same on any. Each run waits for a moment of little work.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from provenance import provenance

from raycondense.storage import write_text

Moments = dict[str, float]
"""Name of a moment → seconds since the command began."""

WORKERS = 2
PHASES = {
    "checked": "Python, command line, settings and dataset checked",
    "ray": "Ray's own processes start; meanwhile the driver imports torch",
    "fit": "the driver imports Ray Train",
    "controller": "Ray Train's controller: its process, its imports (torch again)",
    "group": "workers: processes, imports (torch again)",
    "worker": "torch.distributed's process group",
    "state": "networks and codes",
    "loader": "FFCV imported, the beton opened",
    "first": "first update: torch._dynamo (by torch's first optimizer), FFCV compiles, first batch",
    "pool": "the rest of the pool stage",
    "reconstructed": "reconstruct stage (scikit-learn's import, k-means, 300 steps)",
    "condensed": "first condensation step",
}
"""Moment at which a phase ends → what it was."""
FIRST, CONDENSED, CPU = "first", "condensed", "cpu"
WHAT = {
    FIRST: "first step",
    CONDENSED: "first condensation step",
    CPU: "CPU seconds of its Python processes until the first step",
}
IMPORTS = ("torch", "ray", "ray.train", "torch._dynamo", "ffcv", "sklearn", "sklearn.cluster")

REMAINS = """
## What remains

A run on Ray is a dozen processes, most of which are Python and import for seconds of CPU; with two CPUs it is the sum
of all imports that counts, and other work on the machine lengthens every row above.

- **torch is imported four times**: in the driver (while Ray starts), in Ray Train's controller, because
  `TorchTrainer`'s configuration is in `ray.train.torch`, and in each worker.
- **Ray Train's own processes**: the controller, two helpers (a barrier, a cleaner of placement groups), a manager of
  Ray Data's datasets, which it starts though there are none. Each imports pandas and Ray Data. They begin one after
  the other and cannot be switched off. Ray Train gives its processes environment variables, so none takes one of the
  processes that Ray has ready, and each begins as two Pythons, one of which only sets them.
- **torch._dynamo and sympy**, over a second in each worker: torch's optimizers import the compiler when they are made
  (`add_param_group` and `zero_grad` are wrapped so that it skips them), and `Module.to_empty` imports sympy.
- **FFCV** compiles its decoder in each process; numba cannot keep what it compiled. `data.loader = resident` does
  without.
- **scikit-learn** is imported for k-means, after the first step.

Tried in vain: processes for the workers begun early by Ray tasks that import ahead. Ray never gives a process that
ran a task to an actor. `RAY_preload_python_modules` was not tried: Ray Train's helpers would import torch as well.
"""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    data: tyro.conf.Positional[Path]
    """Beton of the digits: raycondense prepare digits digits.beton"""
    runs: int = 5
    """Of each row."""
    warm_up: bool = True
    """One round first that nobody counts, which fills the caches."""
    patience: float = 60.0
    """Seconds to wait for a quiet machine before a run."""
    compare: Annotated[Path | None, tyro.conf.arg(metavar="TREE")] = None
    """Checkout of another revision, whose runs take turns with this one's."""
    out: Path | None = None
    """Markdown to write; by default it is printed."""


def clean_environment(tree: Path | None, folder: Path | None = None) -> dict[str, str]:
    """A user's environment: compiled files are kept, no cluster is there; and a ``folder`` for marks, if any."""
    left_out = ("PYTHONDONTWRITEBYTECODE", "RAY_ADDRESS", "STARTUP_TRACE")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    paths = [str(tree)] if tree is not None else []
    if folder is not None:
        site = folder / "site"
        site.mkdir()
        shutil.copy(Path(__file__).with_name("startup_trace.py"), site / "sitecustomize.py")
        paths.append(str(site))
        environment["STARTUP_TRACE"] = str(folder)
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def time_of(code: list[str], tree: Path | None) -> float:
    """Seconds that Python takes for ``code``."""
    began = time.monotonic()
    subprocess.run([sys.executable, *code], check=True, capture_output=True, env=clean_environment(tree))
    return time.monotonic() - began


def time_fit(data: Path, workers: int, tree: Path | None, patience: float) -> tuple[Moments, Moments]:
    """Moments of a run, and CPU seconds of one worker's imports."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [
            sys.executable, "-m", "raycondense.cli", "fit", "--preset", "digits", "--data", str(data.absolute()),
            "--out", str(folder / "run"), "--cluster.workers", str(workers), "--condense.images", "640",
        ]  # fmt: skip
        environment = clean_environment(tree, folder)
        wait_for_quiet(patience)
        began = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as driver:
            # Without Ray torch takes all CPUs: where others work too its threads wait for each other, for minutes.
            while driver.poll() is None:
                time.sleep(0.2)
                if not workers and (marks := processes_of(folder)) and "begin dsa 2" in marks[0]:
                    driver.kill()
        return moments_of(processes_of(folder), began)


def wait_for_quiet(most: float) -> None:
    """Return when the CPUs have been idle for most of a second, or after ``most`` seconds."""
    import psutil

    until = time.monotonic() + most
    while psutil.cpu_percent(1.0) > 25 and time.monotonic() < until:
        pass


def processes_of(folder: Path) -> list[dict[str, tuple[float, float]]]:
    """What each process of a run has marked so far."""
    return [read_marks(path) for path in sorted(folder.glob("*.tsv"))]


def read_marks(path: Path) -> dict[str, tuple[float, float]]:
    """What one process marked → seconds of the clock, its CPU seconds."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = (line.rstrip("\n").split("\t") for line in lines if line.endswith("\n"))
    return {what: (float(clock), float(cpu)) for clock, cpu, what in rows}


def moments_of(processes: list[dict[str, tuple[float, float]]], began: float) -> tuple[Moments, Moments]:
    """Put together what the processes of a run marked: the last worker counts."""
    trainers = [marks for marks in processes if "begin run 1" in marks]

    def last(what: str) -> float | None:
        found = [marks[what][0] - began for marks in processes if what in marks]
        return max(found) if found else None

    ends = {
        "checked": "begin connect 1", "ray": "end connect 1", "fit": "begin DataParallelTrainer.fit 1",
        "controller": "begin WorkerGroup._start 1", "group": "begin _TorchBackend.on_start 1",
        "worker": "begin train_worker 1", "loader": "end open_shuffled_batches 1", "first": "begin dsa 2",
        "pool": "end train_pool 1", "reconstructed": "end fit_reconstruction 1",
        "condensed": "end CondenseStep.__call__ 1",
    }  # fmt: skip
    if not any("begin connect 1" in marks for marks in processes):
        ends["checked"] = "begin run 1"
    moments = {name: moment for name, what in ends.items() if (moment := last(what)) is not None}
    spent = (
        max((cpu for clock, cpu in one.values() if clock - began <= moments[FIRST]), default=0) for one in processes
    )
    moments[CPU] = sum(spent)
    # On Ray the driver reads the last checkpoint into a state as well, later.
    moments["state"] = max(marks["end TrainState.__init__ 1"][0] - began for marks in trainers)
    imports = {
        module: trainers[0][f"end import {module}"][1] - trainers[0][f"begin import {module}"][1]
        for module in IMPORTS
        if f"end import {module}" in trainers[0]
    }
    return moments, imports


def middle(values: list[float]) -> str:
    """Median and best."""
    return f"{statistics.median(values):.2f} | {min(values):.2f}"


def phase_table(runs: list[Moments], before: list[Moments]) -> list[str]:
    """A table of the phases of runs: how long each took, and when it was over."""
    heading = "| phase | s (median) | best | over at s (median) |"
    rule = "|---|---:|---:|---:|"
    if before:
        heading, rule = f"{heading} before: s (median) |", f"{rule}---:|"
    lines = [heading, rule]
    for name, what in PHASES.items():
        if name not in runs[0]:
            continue
        cells = f"| {what} | {middle(lengths(runs, name))} | {statistics.median(run[name] for run in runs):.2f} |"
        if before:
            cells += f" {statistics.median(lengths(before, name)):.2f} |" if name in before[0] else " – |"
        lines.append(cells)
    return lines


def lengths(runs: list[Moments], name: str) -> list[float]:
    """How long the phase that ends at ``name`` took in each run."""
    order = [phase for phase in PHASES if phase in runs[0]]
    index = order.index(name)
    return [run[name] - (run[order[index - 1]] if index else 0.0) for run in runs]


def main(options: Options) -> None:
    trees: list[Path | None] = [None] if options.compare is None else [None, options.compare.absolute()]
    simple = {
        "`raycondense --help`": ["-m", "raycondense.cli", "--help"],
        "`import raycondense`": ["-c", "import raycondense"],
    }
    times: dict[tuple[str, int], list[float]] = {}
    fits: dict[tuple[int, int], list[Moments]] = {}
    imports: list[Moments] = []
    loads = []
    for run in range(options.runs + options.warm_up):
        for number, tree in enumerate(trees):
            for name, code in simple.items():
                times.setdefault((name, number), []).append(time_of(code, tree))
            for workers in (0, WORKERS):
                loads.append(os.getloadavg()[0])
                moments, of_imports = time_fit(options.data, workers, tree, options.patience)
                fits.setdefault((workers, number), []).append(moments)
                if workers and not number:
                    imports.append(of_imports)
                found = ", ".join(f"{name} {moments[name]:.1f} s" for name in WHAT if name in moments)
                print(f"run {run + 1}, {workers} workers, {tree or 'this tree'}: {found}", file=sys.stderr)
    for kept in (*times.values(), *fits.values(), imports):
        del kept[: int(options.warm_up)]  # type: ignore[attr-defined]
    for workers in (0, WORKERS):
        label = f"`raycondense fit`, {f'{workers} Ray workers' if workers else 'one process'}"
        for number in range(len(trees)):
            for moment, what in WHAT.items():
                if moment in fits[workers, number][0]:
                    times[f"{label}: {what}", number] = [one[moment] for one in fits[workers, number]]
    lines = ["# Start-up time", ""]
    lines += ["| what | s (median) | best |" + (" before: median | best |" if trees[1:] else "")]
    lines += ["|---|---:|---:|" + ("---:|---:|" if trees[1:] else "")]
    for name, number in times:
        if not number:
            lines.append("| " + " | ".join([name, *(middle(times[name, tree]) for tree in range(len(trees)))]) + " |")
    for workers in (WORKERS, 0):
        lines += [
            "",
            f"## `raycondense fit` on the digits, {f'{workers} Ray workers' if workers else 'one process'}",
            "",
        ]
        lines += phase_table(fits[workers, 0], fits.get((workers, 1), []))
    lines += ["", "CPU seconds of one worker's imports (median): " + ", ".join(
        f"{module} {statistics.median(one[module] for one in imports):.2f}" for module in IMPORTS
        if all(module in one for one in imports)
    ) + "."]  # fmt: skip
    load = f"{options.runs} runs of each; load of the machine before a run: {min(loads):.1f} to {max(loads):.1f}."
    lines += provenance(load)
    text = "\n".join(lines).rstrip() + "\n" + REMAINS
    if options.out is None:
        print(text)
    else:
        write_text(options.out, text)


if __name__ == "__main__":
    main(tyro.cli(Options))

"""How fast several students are trained, one after another and in other ways, on the CPU or the GPU at hand.

One run, the same images, seeds and recipe (the DM protocol, hard labels), repetitions taken in turn, medians::

    python benchmarks/students.py                                        # CPU, one thread: after another, together
    python benchmarks/students.py --device cuda --out docs/results/students.md
    python benchmarks/students.py --ways one together compiled bf16 --architectures convnet --images 500

Ways to train: ``one`` after another (`train_student`, the measure of all others), ``together`` as one batched network
(`train_together`), at the same time in ``processes`` of their own, one after another with a ``compiled`` network or
with compiled and CUDA ``graphs``, in ``channels-last`` memory, under ``bf16`` autocast. The first training of each way
(compiling, choosing kernels) is told apart. ``together`` gives the same students but for the order of sums, so do
``compiled``, ``graphs`` and ``channels-last``; ``bf16`` does not.

On one core of an AMD EPYC (torch 2.15, other work beside it, so ratios of CPU seconds; 32 px, ConvNet of width 128;
more than 1 is faster than one after another):

- together: ConvNet 0.86 with 10 images and 0.79 with 100, ResNet-18 0.86, VGG-11 0.84, AlexNet 0.96, ViT 0.42; only
  where a step takes 2 ms (8 px, 10 images) 1.2. So on a CPU students are trained one after another.
- compiled: 1.16 with 10 images, 1.24 with 100, after 17 to 24 s of compiling in every process, which is half of a
  student of 1000 steps at 10 images; 1.0 at 8 px. It wants a C++ compiler and moves the last bits, so it is no option.
- channels-last 0.83; bf16 1.35 and 1.54, but other students.
- keeping freed memory (`raycondense.memory`, in all of the above): 1.1 with 10 images, 1.35 to 1.5 with 100
  to 300, the same bits; peak memory grows by a tenth to a quarter.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import torch
from provenance import provenance
from torch import Tensor, nn

from raycondense.config import EvaluationConfig
from raycondense.data.normalize import Normalize
from raycondense.errors import RaycondenseError
from raycondense.evaluation import train
from raycondense.evaluation.together import prefers_together, train_together
from raycondense.evaluation.train import ImageSet, train_student
from raycondense.models import STUDENTS, build_student
from raycondense.storage import write_text

CLASSES = 10


@dataclass(frozen=True)
class Setting:
    """What is trained: picklable, for other processes."""

    architecture: str
    images: int
    resolution: int
    width: int
    steps: int
    device: str
    threads: int

    @property
    def config(self) -> EvaluationConfig:
        return EvaluationConfig(width=self.width, epochs=10**6, max_steps=self.steps)

    @property
    def arguments(self) -> dict[str, object]:
        normalize = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        return {
            "architecture": self.architecture, "num_classes": CLASSES, "normalize": normalize, "device": self.device,
        }  # fmt: skip

    def set(self) -> ImageSet:
        random = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (self.images, 3, self.resolution, self.resolution), generator=random)
        return ImageSet(images.to(torch.uint8), torch.arange(self.images) % CLASSES)


@dataclass(frozen=True)
class Time:
    """Of all students."""

    wall: float
    """Seconds of training, without building the networks."""
    cpu: float | None
    """Seconds of this process on all cores; None: other processes did the work."""


Way = Callable[[], Time]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="where to train")
    parser.add_argument("--architectures", nargs="+", default=["convnet"], choices=sorted(STUDENTS), help="of students")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), help="default: one and together; all of them on a GPU")
    parser.add_argument("--students", type=int, default=5, help="seeds")
    parser.add_argument("--images", type=int, default=100, help="images in the set, 10 classes")
    parser.add_argument("--resolution", type=int, default=32, help="side of the images")
    parser.add_argument("--width", type=int, default=128, help="channels of the ConvNet")
    parser.add_argument("--steps", type=int, help="steps of a student; default: 5, on a GPU 200")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions of each way")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file as well")
    options = parser.parse_args()
    gpu = torch.device(options.device).type == "cuda"
    options.ways = options.ways or (list(WAYS) if gpu else ["one", "together"])
    if "one" not in options.ways:
        options.ways.insert(0, "one")
    options.steps = options.steps or (200 if gpu else 5)
    torch.set_num_threads(options.threads)
    rows = [row for name in options.architectures for row in measure(name, options)]
    text = report(rows, options)
    print(text)
    if options.out is not None:
        write_text(options.out, f"# Training students\n\n{text}")


def measure(architecture: str, options: argparse.Namespace) -> list[tuple[str, str, Time | str, list[Time]]]:
    """Architecture, way, first training and repetitions of each way; in place of the first an error where it fails."""
    setting = Setting(
        architecture, options.images, options.resolution, options.width, options.steps, options.device, options.threads
    )
    first: dict[str, Time | str] = {}
    times: dict[str, list[Time]] = {name: [] for name in options.ways}
    with ExitStack() as stack:
        ways = {name: WAYS[name](setting, options.students, stack) for name in options.ways}
        for name, way in ways.items():
            print(f"{architecture}: {name}", file=sys.stderr)
            try:
                start = time.perf_counter()
                found = way()
                first[name] = Time(time.perf_counter() - start, found.cpu)
            except Exception as error:  # e.g. no compiler: the other ways are still worth measuring
                first[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        running = [name for name in ways if isinstance(first[name], Time)]
        for repetition in range(options.repeats):
            # In turn, and every other time backwards: what else the machine does hits all of them alike.
            for name in running if repetition % 2 == 0 else reversed(running):
                times[name].append(ways[name]())
    return [(architecture, name, first[name], times[name]) for name in ways]


# ------------------------------------------------------------------------------------------------ ways


def one(setting: Setting, students: int, stack: ExitStack, wrap: Callable[[nn.Module], nn.Module] | None = None) -> Way:
    """One after another, with a network that is wrapped in something."""
    data = setting.set()

    def build(name: str, **arguments: int) -> nn.Module:
        network = build_student(name, **arguments).to(setting.device)
        return network if wrap is None else wrap(network)

    def way() -> Time:
        cpu = time.process_time()
        with patch.object(train, "build_student", build):
            found = [
                train_student(data, setting.config, seed=seed, **setting.arguments)  # type: ignore[arg-type]
                for seed in range(students)
            ]
        return Time(sum(student.seconds for student in found), time.process_time() - cpu)

    return way


def together(setting: Setting, students: int, stack: ExitStack) -> Way:
    data = setting.set()

    def way() -> Time:
        cpu = time.process_time()
        found = train_together(
            [data] * students, setting.config, seeds=range(students), **setting.arguments  # type: ignore[arg-type]
        )  # fmt: skip
        return Time(sum(student.seconds for student in found), time.process_time() - cpu)

    return way


def processes(setting: Setting, students: int, stack: ExitStack) -> Way:
    """Each student in a process of its own, all at the same time on the same device."""
    pools: list[Executor] = [
        stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn"))) for _ in range(students)
    ]

    def way() -> Time:
        running = [pool.submit(alone, setting, seed) for seed, pool in enumerate(pools)]
        return Time(max(future.result() for future in running), None)

    return way


def alone(setting: Setting, seed: int) -> float:
    torch.set_num_threads(setting.threads)
    student = train_student(setting.set(), setting.config, seed=seed, **setting.arguments)  # type: ignore[arg-type]
    return student.seconds


class ChannelsLast(nn.Module):
    """A network that keeps the channels of a pixel together in memory."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.contiguous(memory_format=torch.channels_last))


class Autocast(nn.Module):
    """A network whose convolutions and products are computed in bfloat16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.network(images).float()


WAYS: dict[str, Callable[[Setting, int, ExitStack], Way]] = {
    "one": one,
    "together": together,
    "processes": processes,
    "compiled": partial(one, wrap=partial(torch.compile, dynamic=False)),
    "graphs": partial(one, wrap=partial(torch.compile, dynamic=False, mode="reduce-overhead")),
    "channels-last": partial(one, wrap=ChannelsLast),
    "bf16": partial(one, wrap=Autocast),
}


# ------------------------------------------------------------------------------------------------ report


def report(rows: list[tuple[str, str, Time | str, list[Time]]], options: argparse.Namespace) -> str:
    lines = [
        f"{options.students} students of {options.steps} steps on {options.images} images of {options.resolution} px "
        f"(batch 256, ConvNet of width {options.width}): seconds of all students, medians of {options.repeats} "
        "repetitions taken in turn, range from the fastest to the slowest. “×” is one after another's time divided "
        "by the way's: more than 1 is faster. “first” is the first training, with compiling and building.",
        "",
        "| student | way | seconds | range | ms a step | × | CPU seconds | × | first |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    base = {name: times for name, way, _, times in rows if way == "one"}
    for name, way, first, times in rows:
        if isinstance(first, str):
            lines.append(f"| {name} | {way} | {first} | | | | | | |")
            continue
        wall, reference = (statistics.median(t.wall for t in some) for some in (times, base[name]))
        chosen = " (chosen)" if way == "together" and prefers_together(options.device, name) else ""
        cells = [
            name,
            way + chosen,
            f"{wall:.2f}",
            f"{min(t.wall for t in times):.2f}–{max(t.wall for t in times):.2f}",
        ]
        cells += [f"{wall / options.steps / options.students * 1000:.2f}", f"{reference / wall:.2f}"]
        if all(t.cpu is not None for t in times):
            cpu, of_one = (statistics.median(t.cpu or 0.0 for t in some) for some in (times, base[name]))
            cells += [f"{cpu:.2f}", f"{of_one / cpu:.2f}"]
        else:
            cells += ["–", "–"]
        lines.append(f"| {' | '.join([*cells, f'{first.wall:.1f}'])} |")
    lines += provenance(device=options.device, threads=options.threads)
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except RaycondenseError as error:
        sys.exit(str(error))

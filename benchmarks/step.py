"""Time of a condensation step: raycondense against the same mathematics as a plain loop over classes.

Both start from the same weights and do the same step; that their losses and gradients agree is checked first. Then they
take steps in turn, each row in a process of its own, and the medians are compared::

    python benchmarks/step.py --out docs/results/step.md
    python benchmarks/step.py --device cuda --preset cifar10 --classes 10 100

`as it runs` is what a run does when nothing is set: on this machine's CPU, bfloat16 and torch.compile from some size on
(raycondense/execution.py). The rows before it say what each of its parts brings. Compilation is not counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from guard import Row, keep
from plain_loop import PlainStep
from provenance import provenance
from settings import changes
from torch import Tensor

from raycondense.config import Config
from raycondense.configfile import override
from raycondense.data.batches import ClassBatch
from raycondense.data.cpus import usable_cpus
from raycondense.data.normalize import Normalize
from raycondense.execution import compile_networks
from raycondense.host import LocalHost
from raycondense.memory import freed_memory_kept
from raycondense.models import blocks
from raycondense.presets import get_preset
from raycondense.seeds import seeded_generator
from raycondense.state import TrainState
from raycondense.step import CondenseStep
from raycondense.stopwatch import Stopwatch
from raycondense.updates import Updater

PLAIN, OURS = "plain loop", "as it runs"
LOSSES = ("intra", "inter", "regression", "ce")
"""Beside the matching loss; those that a preset has off get a small weight."""
ROWS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "class-grouped, float32": {"condense.precision": "float32", "condense.compile": "off", "blocks": False},
    "and freed memory kept": {"condense.precision": "float32", "condense.compile": "off", "blocks": False},
    "and in blocks": {"condense.precision": "float32", "condense.compile": "off"},
    "and in bfloat16": {"condense.precision": "bfloat16", "condense.compile": "off"},
    OURS: {},
}
WARM_UP = 2
"""Steps of each row that do not count."""
MEMORY_LEFT = (PLAIN, "class-grouped, float32")  # rows without `freed_memory_kept`


def normalizer(device: torch.device) -> Normalize:
    return Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).to(device)


def new_state(config: Config, device: torch.device) -> TrainState:
    """A state whose pool needs no training: fresh weights stand for trained ones."""
    state = TrainState(config, num_classes=config.data.num_classes, device=device)
    for index in state.pool.untrained:
        state.pool.set_trained(index, state.pool._layout.draw(index).to(device))
    return state


def configured(options: argparse.Namespace, classes: int) -> Config:
    base = get_preset(options.preset)
    off = {f"losses.{name}": 0.1 for name in LOSSES if not getattr(base.losses, name)}
    return override(base, {
        **off, "losses.matching": "mean", "codebook.factor": 1, "data.num_classes": classes,
        "condense.classes_per_step": classes,
        "condense.real_per_class": options.real, "codebook.ipc": (options.ipc,), "condense.codes_per_step": 0,
        **changes(options.set),
    })  # fmt: skip


def agree(config: Config, images: Tensor, device: torch.device) -> float:
    """Largest relative difference of any loss, and of the generator's gradient, between the two in float32."""
    config = override(config, {"condense.precision": "float32", "condense.compile": "off"})
    ours, plain = new_state(config, device), new_state(config, device)
    host = LocalHost(Path(tempfile.mkdtemp()), device=device)
    updater = Updater(ours.model, host, lr_generator=1e-3, lr_codebook=1e-3)
    step = CondenseStep(config, ours, normalizer(device), host)
    found = step(ClassBatch(torch.arange(len(images)), images, 0), updater, step_classes=len(images))
    straight = PlainStep(config, plain, normalizer(device))
    named = straight.losses(images.to(device), 0)
    straight.weighted(named).backward()
    pairs = [(found[name], value) for name, value in named.items()]
    pairs += [
        (one.grad, other.grad)
        for one, other in zip(ours.model.generator.parameters(), plain.model.generator.parameters(), strict=True)
        if one.grad is not None and other.grad is not None
    ]
    return max(float((one - other).norm() / other.norm().clamp_min(1e-12)) for one, other in pairs)


def prepared(name: str, config: Config, images: Tensor, device: torch.device) -> Callable[[int], None]:
    """What takes step n of a row."""
    settings = dict(ROWS[name])
    usual = blocks.CACHE_BYTES
    if not settings.pop("blocks", True):
        blocks.CACHE_BYTES = 1 << 50
    config = override(config, settings)
    state = new_state(config, device)
    blocks.CACHE_BYTES = usual
    if name == PLAIN:
        plain, there = PlainStep(config, state, normalizer(device)), images.to(device)
        return lambda number: plain(there, number)
    compile_networks(config, state, device)
    return stepper(config, state, images, device)


def stepper(
    config: Config, state: TrainState, images: Tensor, device: torch.device, stopwatch: Stopwatch | None = None
) -> Callable[[int], None]:
    """What takes step n of raycondense with its update, always of the same real images uint8 [C, M, 3, R, R]."""
    host = LocalHost(Path(tempfile.mkdtemp()), device=device)
    condense = config.condense
    updater = Updater(
        state.model, host, lr_generator=condense.lr_generator, lr_codebook=condense.lr_codebook,
        grad_clip=condense.grad_clip,
    )  # fmt: skip
    step = CondenseStep(config, state, normalizer(device), host, stopwatch)

    def take(number: int) -> None:
        step(ClassBatch(torch.arange(len(images)), images, number), updater, step_classes=len(images))
        updater.apply()
        state.update_average(images.shape[0] * images.shape[1])

    return take


def serve(name: str, config: Config, images: Tensor, device: torch.device, threads: int, line: Connection) -> None:
    """A row's process: takes the steps whose numbers come through ``line`` and sends back seconds; ends at None."""
    torch.set_num_threads(threads)
    step = prepared(name, config, images, device)
    with nullcontext() if name in MEMORY_LEFT else freed_memory_kept(device):
        while (number := line.recv()) is not None:
            begun = time.perf_counter()
            step(number)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            line.send(time.perf_counter() - begun)


def measured(
    config: Config, images: Tensor, options: argparse.Namespace, rows: Sequence[str]
) -> dict[str, list[float]]:
    """Seconds of every row's steps, in turn; the first ones, which set up what later ones have, are left out."""
    context = multiprocessing.get_context("spawn")
    lines, processes = {}, []
    for name in rows:
        lines[name], theirs = context.Pipe()
        arguments = (name, config, images, torch.device(options.device), options.threads, theirs)
        processes.append(context.Process(target=serve, args=arguments, daemon=True))
        processes[-1].start()
        theirs.close()  # so that a process that dies is noticed here
    taken: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(options.repeats + WARM_UP):
        for name, line in lines.items():
            line.send(number)
            taken[name].append(line.recv())
    for line, process in zip(lines.values(), processes, strict=True):
        line.send(None)
        process.join()
    return {name: values[WARM_UP:] for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cifar10")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100], help="in a step; all rows for the first")
    parser.add_argument("--real", type=int, default=256, help="real images a class in a step; as many as DM takes")
    parser.add_argument("--ipc", type=int, default=10, help="images per class of the codebook's bank")
    parser.add_argument("--repeats", type=int, default=5, help="steps of each row that count")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW", help="by name")
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="settings, values as YAML")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="of the CPU")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    lines = [
        "| classes | real | generated | | ms a step | range | × plain loop |",
        "|---:|---:|---:|---|---:|---:|---:|",
    ]
    rows, worst = [], 0.0
    for classes in options.classes:
        config = configured(options, classes)
        side = config.data.resolution
        random = seeded_generator("images")
        images = torch.randint(0, 256, (classes, options.real, 3, side, side), generator=random, dtype=torch.uint8)
        few = images[:, :8]
        worst = max(worst, agree(override(config, {"condense.real_per_class": 8}), few, device))
        taken = measured(config, images, options, options.rows if classes == options.classes[0] else [PLAIN, OURS])
        medians = {name: statistics.median(values) for name, values in taken.items()}
        for name, values in taken.items():
            ratio = medians[PLAIN] / medians[name]
            counts = [classes, classes * options.real, classes * config.codebook.codes_per_class]
            spread = f"{1e3 * min(values):.0f}–{1e3 * max(values):.0f}"
            cells = [*map(str, counts), name, f"{1e3 * medians[name]:.0f}", spread, f"{ratio:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
        rows.append(Row(f"step, {classes} classes: {OURS} / {PLAIN}", medians[PLAIN] / medians[OURS], "higher"))
    text = "\n".join([
        f"Preset {options.preset} at {get_preset(options.preset).data.resolution} px, all losses on; medians of "
        f"{options.repeats} steps taken in turn. Before, losses and gradients of both were compared in float32: the "
        f"largest relative difference is {worst:.1e}.", "", *lines,
        *provenance(device=options.device, threads=options.threads),
    ])  # fmt: skip
    print(text)
    keep(options.out, "Time of a step", text, rows)


if __name__ == "__main__":
    main()

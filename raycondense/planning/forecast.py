"""What a run on some workers will take, and what to change where it does not fit."""

from __future__ import annotations

import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raycondense.artifact.sizes import Sizes, format_bytes, sizes_of
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.data.open import open_class_batches
from raycondense.display import duration
from raycondense.errors import ConfigError, RunError
from raycondense.planning.dry_steps import Measured, measure, workers_part

CHUNKS = (512, 128, 32)
"""Values of ``condense.two_pass`` that are tried where a step does not fit."""
LOADER_SECONDS = 2.0
SPARE = 0.1
"""Part of a GPU's memory that is left to its context, fragments and collectives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What `plan` found."""

    config: Config
    """As asked for, but for ``condense.two_pass`` where only a smaller one fits."""
    workers: int
    device: str
    """Where the steps were taken, in words."""
    sizes: Sizes
    measured: Measured
    """Of one worker's share of a step."""
    changed: str
    """What had to be changed to fit; empty where nothing had to."""
    gpu_memory: float | None
    """Bytes that a worker has; None where nobody said."""
    loader: float | None
    """Real images a second that one worker's loader gives; None without data."""
    price: float
    """Of a worker for an hour."""

    @property
    def steps(self) -> dict[str, int]:
        """Steps of each stage that one worker takes."""
        config = self.config
        images = config.condense.classes_per_step * config.condense.real_per_class
        known = {
            "pool": math.ceil(config.extractors.pool_size / self.workers) * config.extractors.train_steps,
            "gan": math.ceil(config.initialise.gan_images / config.initialise.gan_batch),
            "reconstruct": config.initialise.steps,
            "condense": math.ceil(config.condense.images / images),
        }
        return {stage: known[stage] for stage in self.measured.seconds}

    @property
    def step_images(self) -> int:
        """Real images of a worker in a step of condensation."""
        part = workers_part(self.config, self.workers).condense
        return part.classes_per_step * part.real_per_class

    @property
    def computed_per_second(self) -> float:
        """Real images that a worker could see in a second of condensation."""
        return self.step_images / self.measured.seconds["condense"]

    @property
    def images_per_second(self) -> float:
        """Real images that a worker sees in a second of condensation: what it computes, or what it is given if less."""
        return self.computed_per_second if self.loader is None else min(self.computed_per_second, self.loader)

    @property
    def seconds(self) -> dict[str, float]:
        """Wall-clock time of each stage, without what workers wait for each other."""
        found = {stage: steps * self.measured.seconds[stage] for stage, steps in self.steps.items()}
        found["condense"] = self.steps["condense"] * self.step_images / self.images_per_second
        return found

    @property
    def cost(self) -> float:
        """Of all workers, in the unit of `price`."""
        return self.price * self.workers * sum(self.seconds.values()) / 3600

    def to_dict(self) -> dict[str, Any]:
        """Plain values: bytes, seconds, images a second."""
        return {
            "preset": self.config.name, "workers": self.workers, "device": self.device,
            "parameters": self.sizes.parameters, "bytes": self.sizes.bytes,
            "ipc_equivalent": self.sizes.ipc_equivalent, "peak_bytes": self.measured.peak_bytes,
            "gpu_memory": self.gpu_memory, "changed": self.changed, "step_seconds": self.measured.seconds,
            "steps": self.steps, "images_per_second": self.images_per_second, "loader_images_per_second": self.loader,
            "seconds": self.seconds, "price": self.price, "cost": self.cost,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For people."""
        sizes, seconds, part = self.sizes, self.seconds, workers_part(self.config, self.workers).condense
        data = self.config.data
        room = "" if self.gpu_memory is None else f"; {format_bytes(self.gpu_memory)} are there"
        lines = [
            f"{self.config.name} on {_count(self.workers, 'worker')}: from steps on made-up images on {self.device}",
            "",
            f"artefact   {sizes.generator_parameters:,} parameters and {sizes.codebook_parameters:,} numbers of codes, "
            f"{format_bytes(sizes.bytes)} in float32: as many numbers as {sizes.ipc_equivalent:.3g} images per class "
            f"({data.num_classes} classes of {data.resolution} px)",
            f"a step     {_count(part.classes_per_step, 'class')} of {_count(part.real_per_class, 'real image')} on "
            "each worker",
            f"memory     {format_bytes(self.measured.peak_bytes)} a worker at most{room}",
        ]
        lines += [f"           {self.changed}"] if self.changed else []
        computed = self.computed_per_second
        speed = f"{computed:,.0f} real images a second on a worker"
        if self.loader is not None:
            speed += f"; the loader gives {self.loader:,.0f}"
            speed += " and is what the run waits for: more data.workers, or less to decode" * (self.loader < computed)
        lines.append(f"speed      {speed}")
        stages = ", ".join(f"{stage} {duration(value)}" for stage, value in seconds.items())
        lines.append(f"time       {duration(sum(seconds.values()))}: {stages}")
        if self.price:
            lines.append(f"cost       {self.cost:,.2f} at {self.price:g} a worker and hour")
        if self.workers > 1:
            lines.append("           without what workers wait for each other (docs/scaling.md)")
        return lines


def forecast(
    config: Config,
    *,
    data: Path | None = None,
    workers: int = 1,
    gpu_memory: float | None = None,
    price: float = 0.0,
    device: str | None = None,
) -> Forecast:
    """Take steps of each stage on made-up images and say what a whole run will take.

    Where a step needs more than a worker has, smaller ``condense.two_pass`` are tried, and the first that fits is what
    the forecast is of.

    Args:
        config: the configuration, with ``data.num_classes``.
        data: beton of the training images, to measure the loader with.
        workers: of the run; each takes its share of a step's classes.
        gpu_memory: bytes of a worker's GPU; None asks nothing but that it fits here.
        price: of a worker for an hour.
        device: where the steps are taken, by default CUDA where there is one. A forecast is one for workers like it.

    Raises:
        ConfigError: a value is out of range.
        DataError: the beton cannot be used.
        RunError: the smallest chunk does not fit either.
    """
    if config.data.num_classes < 1:
        raise ConfigError("data.num_classes: found 0, valid: name --data, or the number of classes, for a plan")
    if workers < 1:
        raise ConfigError(f"gpus: found {workers}, valid: 1 or more")
    if workers > min(config.condense.classes_per_step, config.data.num_classes):
        raise ConfigError(
            f"gpus: found {workers}, valid: at most condense.classes_per_step "
            f"({config.condense.classes_per_step}), of which every worker takes a part"
        )
    if gpu_memory is not None and not gpu_memory > 0:
        raise ConfigError(f"gpu_memory: found {gpu_memory:g}, valid: more than 0")
    if not 0 <= price < math.inf:
        raise ConfigError(f"price: found {price:g}, valid: 0 or more")
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    measured, used, changed = _fitting(config, workers, gpu_memory, where)
    return Forecast(
        config=used, workers=workers, device=_in_words(where, used), sizes=sizes_of(used), measured=measured,
        changed=changed, gpu_memory=gpu_memory, price=price,
        loader=None if data is None else _loader_rate(data, used, workers),
    )  # fmt: skip


def _fitting(config: Config, workers: int, memory: float | None, device: str) -> tuple[Measured, Config, str]:
    """Measurements, the configuration that fits, and how it differs."""
    needed, asked = "more than there is", config.condense.two_pass
    for chunk in (asked, *(smaller for smaller in CHUNKS if not asked or smaller < asked)):
        used = override(config, {"condense.two_pass": chunk})
        measured = measure(workers_part(used, workers), device)
        if measured is None:
            continue
        needed = format_bytes(measured.peak_bytes)
        if memory is None or measured.peak_bytes <= memory * (1 - SPARE):
            changed = "" if used == config else (
                f"with condense.two_pass {chunk} (found {asked}, which does not fit): set it"
            )  # fmt: skip
            return measured, used, changed
    room = "" if memory is None else f" of {format_bytes(memory)}"
    raise RunError(
        f"gpu_memory{room}: a step needs {needed} even with condense.two_pass {CHUNKS[-1]}; lower "
        f"condense.real_per_class (found {config.condense.real_per_class}), condense.classes_per_step (found "
        f"{config.condense.classes_per_step}), extractors.train_batch (found {config.extractors.train_batch}) or "
        "extractors.width, or take more workers"
    )


def _loader_rate(data: Path, config: Config, workers: int) -> float:
    """Real images a second of one worker's loader, after its start."""
    with open_class_batches(data, config, rank=0, world_size=workers) as batches:
        steps = batches.steps(0)
        for _ in range(2):
            next(steps)
        begun, images = time.perf_counter(), 0
        while time.perf_counter() - begun < LOADER_SECONDS:
            images += next(steps).images.shape[:2].numel()
        return images / (time.perf_counter() - begun)


def _in_words(device: str, config: Config) -> str:
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, precision {config.condense.precision}"
    return f"this machine's CPU ({torch.get_num_threads()} threads of {platform.machine()})"


def _count(number: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"

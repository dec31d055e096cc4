"""Single steps of every stage on made-up images: how long they take and how much memory, without any data.

Networks, batches and optimizers are those of a run; pixels and pool weights are random, which changes neither. Networks
are not compiled, which would take longer than the steps: on a CPU a run may be faster by a third.
"""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from raycondense.augment import dsa
from raycondense.condense import is_out_of_memory
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.data.batches import ClassBatch
from raycondense.data.normalize import Normalize
from raycondense.host import LocalHost
from raycondense.initialise.gan import GanTrainer
from raycondense.memory import freed_memory_kept
from raycondense.models.pool import ExtractorPool
from raycondense.seeds import seeded_generator
from raycondense.state import TrainState
from raycondense.step import CondenseStep
from raycondense.updates import Updater

MEASURED = 2
"""Steps whose median counts; the one before them sets up what later ones have."""
Step = Callable[[int], None]


class Measured(NamedTuple):
    """What a worker's steps take."""

    seconds: dict[str, float]
    """Of a step, by stage; of stage ``pool`` a step of training one network."""
    peak_bytes: int
    """Of the whole process on a CPU, of the device's allocator on a GPU."""


def workers_part(config: Config, workers: int) -> Config:
    """The configuration of one worker's share of the steps of ``workers`` workers."""

    def part(number: int) -> int:
        return max(1, -(-number // workers))

    return override(config, {
        "condense.classes_per_step": part(min(config.condense.classes_per_step, config.data.num_classes)),
        "initialise.batch": part(config.initialise.batch), "initialise.gan_batch": part(config.initialise.gan_batch),
    })  # fmt: skip


def measure(config: Config, device: str) -> Measured | None:
    """Take a few steps of each of the configuration's stages in a process of their own.

    Args:
        config: of one worker (`workers_part`), with ``data.num_classes``.
        device: where to compute.

    Returns:
        None where memory did not do.
    """
    # A process of its own: the peak is that of these steps alone, and lack of memory ends nothing else.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, config, device).result()
        except BrokenProcessPool:
            return None
        except RuntimeError as error:
            if is_out_of_memory(error):
                return None
            raise


def _measure(config: Config, device: str) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        host = LocalHost(Path(folder), device=device)
        state = TrainState(config, num_classes=config.data.num_classes, device=host.device)
        seconds = {}
        for stage in state.stages():
            if stage in STEPS:
                with freed_memory_kept(host.device):
                    seconds[stage] = _seconds(STEPS[stage](config, state, host), host.device)
                gc.collect()  # of the stage's optimizers and batches, as at the end of a stage
    if host.device.type == "cuda":
        return Measured(seconds, torch.cuda.max_memory_allocated(host.device))
    return Measured(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _seconds(step: Step, device: torch.device) -> float:
    found = []
    for number in range(1 + MEASURED):
        begun = time.perf_counter()
        step(number)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - begun)
    return statistics.median(found[1:])


def _normalize(host: LocalHost) -> Normalize:
    return Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).to(host.device)


def _images(config: Config, *shape: int) -> Tensor:
    side = config.data.resolution
    return torch.randint(0, 256, (*shape, 3, side, side), generator=seeded_generator("dry images"), dtype=torch.uint8)


def _labels(config: Config, count: int) -> Tensor:
    return torch.arange(count) % config.data.num_classes


def pool_step(config: Config, state: TrainState, host: LocalHost) -> Step:
    """A step of training one network of the pool."""
    size, normalize = config.extractors.train_batch, _normalize(host)
    images, labels = normalize(_images(config, size).to(host.device)), _labels(config, size).to(host.device)
    pool = ExtractorPool(
        dataclasses.replace(config.extractors, pool_size=1, train_steps=1), num_classes=config.data.num_classes,
        resolution=config.data.resolution, seed=0, device=host.device,
    )  # fmt: skip
    for index in range(config.extractors.pool_size):
        state.pool.set_trained(index, pool.trained(0))

    def step(number: int) -> None:
        pool.train_network(
            0, [(images, labels)], augment=lambda batch, _: dsa(batch, config.augment.strategy, number)
        )  # fmt: skip

    return step


def gan_step(config: Config, state: TrainState, host: LocalHost) -> Step:
    """A step of GAN training."""
    size, trainer = config.initialise.gan_batch, GanTrainer(config, state, _normalize(host), host)
    images, labels = _images(config, size).to(host.device), _labels(config, size).to(host.device)

    def step(number: int) -> None:
        trainer.step(images, labels, number)

    return step


def reconstruct_step(config: Config, state: TrainState, host: LocalHost) -> Step:
    """A step of the reconstruction: generator forwards, backwards, update."""
    updater = Updater(state.model, host, lr_generator=1e-9, lr_codebook=1e-9)
    size = min(config.initialise.batch, state.model.codebook.codes[..., 0].numel())
    labels = _labels(config, size).to(host.device)

    def step(number: int) -> None:
        codes = state.model.codebook.codes.detach()[labels, 0].requires_grad_()
        state.model.generator.native(codes, labels).square().mean().backward()
        if codes.grad is not None:
            updater.add_code_gradient(labels, torch.zeros_like(labels), codes.grad)
        updater.apply()

    return step


def condense_step(config: Config, state: TrainState, host: LocalHost) -> Step:
    """A step of condensation."""
    settings = config.condense
    step_of = CondenseStep(config, state, _normalize(host), host)
    updater = Updater(state.model, host, lr_generator=settings.lr_generator, lr_codebook=settings.lr_codebook)
    images = _images(config, settings.classes_per_step, settings.real_per_class)

    def step(number: int) -> None:
        batch = ClassBatch(torch.arange(settings.classes_per_step), images, number)
        step_of(batch, updater, step_classes=settings.classes_per_step)
        updater.apply()
        state.update_average(images.shape[0] * images.shape[1])

    return step


STEPS: dict[str, Callable[[Config, TrainState, LocalHost], Step]] = {
    "pool": pool_step, "gan": gan_step, "reconstruct": reconstruct_step, "condense": condense_step,
}  # fmt: skip
"""Stage → what makes a step of it."""

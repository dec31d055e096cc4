"""The loop: initialise → condense, on one worker or many, resumable at every checkpoint.

Publishing what it leaves (`raycondense.publish`) is the caller's, who also knows where the run's folder is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from raycondense.config import Config
from raycondense.data.normalize import Normalize
from raycondense.data.open import open_class_batches
from raycondense.data.sidecar import Sidecar
from raycondense.errors import RunError
from raycondense.execution import compile_networks
from raycondense.host import Host
from raycondense.initialise import fit_reconstruction, pretrain_gan, train_pool
from raycondense.memory import freed_memory_kept
from raycondense.progress import Progress
from raycondense.state import TrainState
from raycondense.step import CondenseStep
from raycondense.updates import Updater, cosine

logger = logging.getLogger("raycondense")


def run(config: Config, train: Path, host: Host) -> TrainState:
    """Run all stages that are not done yet, from the newest checkpoint if there is one.

    Args:
        config: the whole configuration; ``data.num_classes`` agrees with the dataset.
        train: beton of the training images.
        host: surroundings of this process.

    Returns:
        The state in stage ``done``; what is to be published is ``state.average``.

    Raises:
        DivergedError: a loss became non-finite.
        RunError: memory did not do; the message says what to lower.
        Interrupted: the host asked to stop; a checkpoint was saved.
    """
    sidecar = Sidecar.load(train)
    state = TrainState(config, num_classes=sidecar.num_classes, device=host.device)
    with host.latest_checkpoint() as folder:
        if folder is not None:
            state.load(folder)
            logger.info("going on from checkpoint %s (%s images into %s)", folder.name, state.images, state.stage)
    advance(config, train, state, host, until="done")
    return state


def advance(config: Config, train: Path, state: TrainState, host: Host, *, until: str) -> None:
    """Carry out the stages from where ``state`` is to the beginning of ``until``, with a checkpoint after each.

    Arguments and errors are those of `run`; ``until`` is one of `raycondense.state.STAGES` that the run goes through.
    """
    works: dict[str, Callable[[Config, Path, TrainState, Host, Progress], None]] = {
        "pool": train_pool,
        "gan": pretrain_gan,
        "reconstruct": fit_reconstruction,
        "condense": condense,
    }
    while state.stage != until:
        try:
            with freed_memory_kept(host.device):
                works[state.stage](config, train, state, host, Progress(config, state, host))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(
                f"stage {state.stage}: out of memory on {host.device}; {_smaller(config, state.stage)}"
            ) from error
        if state.stage == "reconstruct":
            state.average.load_state_dict(state.model.state_dict())
        state.next_stage()
        host.save_checkpoint(state.name, state.save)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not get the memory that it wanted; on a CPU it has no type of error for it."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _smaller(config: Config, stage: str) -> str:
    """What to change where a stage does not fit into memory."""
    settings, chunk = config.condense, config.condense.two_pass
    if stage != "condense":
        name = {"pool": "extractors.train_batch", "gan": "initialise.gan_batch"}.get(stage, "initialise.batch")
        section, _, field = name.partition(".")
        return f"lower {name} (found {getattr(getattr(config, section), field)})"
    two_pass = f"lower condense.two_pass (found {chunk})" if chunk else "set condense.two_pass (found 0) to 256"
    return (
        f"{two_pass}, which bounds the images that are held at once; or lower condense.classes_per_step (found "
        f"{settings.classes_per_step}) or condense.real_per_class (found {settings.real_per_class}), use more workers"
        + ("" if settings.precision == "bfloat16" else "; condense.precision bfloat16 halves what is held")
    )


def condense(config: Config, train: Path, state: TrainState, host: Host, progress: Progress) -> None:
    """The condensation stage: match, spread and separate until ``condense.images`` real images were seen."""
    settings = config.condense
    updater = Updater(
        state.model, host, lr_generator=settings.lr_generator, lr_codebook=settings.lr_codebook,
        grad_clip=settings.grad_clip, stopwatch=progress.stopwatch,
    )  # fmt: skip
    updater.load_state_dict(state.optimizers)
    if state.images >= settings.images:
        return
    batches = open_class_batches(train, config, rank=host.rank, world_size=host.world_size, device=host.device)
    with batches:
        progress.facts["loader"] = batches.loader
        compile_networks(config, state, host.device)
        normalize = Normalize(batches.sidecar.mean, batches.sidecar.std).to(host.device)
        stopwatch = progress.stopwatch
        step = CondenseStep(config, state, normalize, host, stopwatch)
        named: dict[str, Tensor] = {}
        images = 0
        stopwatch.start("data")
        for batch in batches.steps(state.step):
            step_classes = len(batches.plan.step_classes(batch.step))
            for name, value in step(batch, updater, step_classes=step_classes).items():
                named[name] = named[name] + value if name in named else value
            images += step_classes * settings.real_per_class
            if (batch.step + 1) % settings.accumulate:
                stopwatch.start("data")
                continue
            decay = cosine(state.images / settings.images) if settings.lr_schedule == "cosine" else 1.0
            updater.apply(accumulated=settings.accumulate, lr_factor=decay)
            state.update_average(images)
            # The clock moves at updates only: between them gradients are pending, which no checkpoint holds.
            progress.after_steps(
                named, steps=settings.accumulate, images=images, total=settings.images, optimizers=updater.state_dict
            )
            named, images = {}, 0
            if state.images >= settings.images:
                break
            stopwatch.start("data")

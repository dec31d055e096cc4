"""Open a beton for training: FFCV where it imports, the resident loader elsewhere or where it was asked for."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Literal

import torch

from raycondense.config import Config
from raycondense.data.batches import ClassBatches, ShuffledBatches
from raycondense.data.beton import BetonReader
from raycondense.data.class_plan import ClassPlan, ShuffledPlan
from raycondense.errors import DependencyError

logger = logging.getLogger("raycondense")

HOW_TO_INSTALL = "pip install 'raycondense[ffcv]' after its system packages (docs/install.md), or set data.loader to resident"


def choose_loader(wanted: Literal["auto", "ffcv", "resident"]) -> Literal["ffcv", "resident"]:
    """Which loader reads: FFCV where it imports, unless one was asked for.

    Raises:
        DependencyError: FFCV was asked for and does not import.
    """
    if wanted == "resident":
        return "resident"
    try:
        importlib.import_module("ffcv")
    except ImportError as error:
        if wanted == "ffcv":
            raise DependencyError(f"data.loader: found ffcv, which does not import ({error}); {HOW_TO_INSTALL}") from error
        logger.info("loader: resident, the whole set in memory (FFCV does not import: %s)", error)
        return "resident"
    return "ffcv"


def open_class_batches(
    path: str | Path, config: Config, *, rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu"
) -> ClassBatches:
    """Class batches of a beton for one rank, by the loader that ``config.data.loader`` names.

    Args:
        path: the beton.
        config: the whole configuration (``data``, ``condense`` and the seed matter).
        rank: this worker.
        world_size: number of workers.
        device: where batches are wanted.

    Raises:
        DataError: the beton cannot be used, or a class has fewer images than ``condense.real_per_class``.
        ConfigError: ``condense.classes_per_step`` does not fit the classes or the workers.
        DependencyError: FFCV was asked for and does not import.
    """
    reader = BetonReader(path)
    plan = ClassPlan(
        reader.sidecar.counts,
        seed=config.seed,
        classes_per_step=config.condense.classes_per_step,
        real_per_class=config.condense.real_per_class,
        read_block=config.data.read_block,
        rank=rank,
        world_size=world_size,
        names=reader.sidecar.classes,
    )
    device = torch.device(device)
    loader = choose_loader(config.data.loader)
    logger.info("class batches of %s: %s loader, %d images", path, loader, len(reader))
    if loader == "ffcv":
        from raycondense.data.ffcv_batches import FfcvClassBatches

        return FfcvClassBatches(reader, plan, config.data, device=device)
    from raycondense.data.resident import ResidentClassBatches

    return ResidentClassBatches(reader, plan, resolution=config.data.resolution, device=device)


def open_shuffled_batches(
    path: str | Path,
    config: Config,
    *,
    batch: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
) -> ShuffledBatches:
    """Ordinary shuffled batches of ``batch`` images, all ranks together; arguments as for `open_class_batches`.

    Raises:
        DataError, DependencyError: as for `open_class_batches`.
        ConfigError: the batch is larger than the set, or smaller than the number of workers.
    """
    reader = BetonReader(path)
    plan = ShuffledPlan(len(reader), seed=seed, batch=batch, rank=rank, world_size=world_size)
    device = torch.device(device)
    loader = choose_loader(config.data.loader)
    logger.info("shuffled batches of %s: %s loader, %d images", path, loader, len(reader))
    if loader == "ffcv":
        from raycondense.data.ffcv_batches import FfcvShuffledBatches

        return FfcvShuffledBatches(reader, plan, config.data, device=device)
    from raycondense.data.resident import ResidentShuffledBatches

    return ResidentShuffledBatches(reader, plan, resolution=config.data.resolution, device=device)

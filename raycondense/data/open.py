"""Open a beton for training: FFCV where it imports, the resident loader elsewhere or where it was asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Literal, get_args

import torch

from raycondense.config import Config
from raycondense.data.batches import ClassBatches, ShuffledBatches
from raycondense.data.class_plan import ClassPlan, ShuffledPlan
from raycondense.data.cpus import usable_cpus
from raycondense.data.import_ffcv import import_ffcv
from raycondense.data.sidecar import Sidecar
from raycondense.errors import DependencyError

Loader = Literal["ffcv", "resident"]
LOADERS: tuple[Loader, ...] = get_args(Loader)

_HOW_TO_INSTALL = "pip install 'raycondense[ffcv]' after its system packages (docs/install.md)"
logger = logging.getLogger("raycondense")


def class_batches_type(loader: Loader) -> Callable[..., ClassBatches]:
    """The implementation of `ClassBatches` of that name; contract tests run over all `LOADERS`."""
    if loader == "ffcv":
        from raycondense.data.ffcv_batches import FfcvClassBatches

        return FfcvClassBatches
    from raycondense.data.resident import ResidentClassBatches

    return ResidentClassBatches


def shuffled_batches_type(loader: Loader) -> Callable[..., ShuffledBatches]:
    """The implementation of `ShuffledBatches` of that name."""
    if loader == "ffcv":
        from raycondense.data.ffcv_batches import FfcvShuffledBatches

        return FfcvShuffledBatches
    from raycondense.data.resident import ResidentShuffledBatches

    return ResidentShuffledBatches


def choose_loader(wanted: Literal["auto", "ffcv", "resident"]) -> Loader:
    """Which loader reads: FFCV where it imports, unless one was asked for.

    Raises:
        DependencyError: FFCV was asked for and does not import.
    """
    if wanted == "resident":
        return "resident"
    try:
        import_ffcv()
    except (ImportError, OSError, AttributeError) as error:
        # OSError: its libraries are missing; AttributeError: numba or numpy of another age.
        if wanted == "ffcv":
            raise DependencyError(
                f"data.loader: found ffcv, which does not import ({error}); {_HOW_TO_INSTALL}, "
                "or set data.loader to auto or resident"
            ) from error
        logger.warning(
            "loader: the whole set in memory, because FFCV does not import (%s); for large sets: %s; "
            "data.loader = resident silences this",
            error, _HOW_TO_INSTALL,
        )  # fmt: skip
        return "resident"
    return "ffcv"


def _logged_loader(path: str | os.PathLike[str], config: Config, kind: str) -> Loader:
    loader = choose_loader(config.data.loader)
    if loader == "ffcv":
        workers = min(config.data.workers, usable_cpus())
        logger.info("%s batches of %s: FFCV loader, %d decoding threads", kind, path, workers)
    else:
        logger.info("%s batches of %s: resident loader, the whole set in memory", kind, path)
    return loader


def open_class_batches(
    path: str | os.PathLike[str],
    config: Config,
    *,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
) -> ClassBatches:
    """Class-grouped batches of a beton for one rank, by the loader that ``config.data.loader`` names.

    Args:
        path: the beton.
        config: the whole configuration; ``data``, ``condense`` and ``seed`` matter.
        rank: this worker.
        world_size: number of workers.
        device: where batches are wanted.

    Raises:
        DataError: the beton cannot be used, or a class has fewer images than ``condense.real_per_class``.
        ConfigError: ``condense.classes_per_step`` does not fit the classes or the workers.
        DependencyError: FFCV was asked for and does not import.
    """
    plan = ClassPlan(
        Sidecar.load(path),
        seed=config.seed,
        classes_per_step=config.condense.classes_per_step,
        real_per_class=config.condense.real_per_class,
        read_block=config.data.read_block,
        rank=rank,
        world_size=world_size,
    )
    data, loader = config.data, _logged_loader(path, config, "class")
    return class_batches_type(loader)(
        path, plan, resolution=data.resolution, device=device, workers=data.workers, os_cache=data.os_cache
    )


def open_shuffled_batches(
    path: str | os.PathLike[str],
    config: Config,
    *,
    batch: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
) -> ShuffledBatches:
    """Ordinary shuffled batches of ``batch`` images, all ranks together; the rest as for `open_class_batches`.

    Raises:
        DataError, DependencyError: as for `open_class_batches`.
        ConfigError: the batch has fewer images than there are workers.
    """
    plan = ShuffledPlan(Sidecar.load(path).num_images, seed=seed, batch=batch, rank=rank, world_size=world_size)
    data, loader = config.data, _logged_loader(path, config, "shuffled")
    return shuffled_batches_type(loader)(
        path, plan, resolution=data.resolution, device=device, workers=data.workers, os_cache=data.os_cache
    )

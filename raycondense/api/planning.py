"""`plan`: what a run will take before it is begun."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycondense.api.fitting import resolve_config, resolve_for_data
from raycondense.config import Config

if TYPE_CHECKING:
    from raycondense.planning.forecast import Forecast


def plan(
    preset_or_config: str | Path | Config,
    *,
    data: str | Path | None = None,
    gpus: int = 1,
    gpu_memory: float | None = None,
    price: float = 0.0,
    device: str | None = None,
    **overrides: Any,
) -> Forecast:
    """Say what a run will take, from a few steps on made-up images.

    ``print("\\n".join(plan("imagenet1k_64", gpus=8, gpu_memory=80e9).lines()))``

    Args:
        preset_or_config: a preset's name, a configuration file, or a `Config`.
        data: beton of the training images (a path), to measure the loader with; without it the classes are the
            configuration's.
        gpus: workers of the run. Each takes its share of a step.
        gpu_memory: bytes of a worker's GPU; where a step needs more, a smaller ``condense.two_pass`` is sought.
        price: of a worker for an hour.
        device: where the steps are taken, by default CUDA where there is one.
        **overrides: sections or fields to change, as for `fit`.

    Raises:
        ConfigError: a setting is not valid.
        DataError: the beton cannot be used.
        RunError: a step does not fit into memory, whatever is tried.
    """
    from raycondense.planning.forecast import forecast

    changes: Mapping[str, Any] = overrides
    config = resolve_config(preset_or_config, changes)
    if data is not None:
        config = resolve_for_data(config, data)
    return forecast(
        config, data=None if data is None else Path(data), workers=gpus, gpu_memory=gpu_memory, price=price,
        device=device,
    )  # fmt: skip

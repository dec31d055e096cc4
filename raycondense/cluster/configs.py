"""Ray Train's own configurations, which `raycondense.fit` passes through."""

from __future__ import annotations

from dataclasses import dataclass

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

__all__ = ["CheckpointConfig", "FailureConfig", "RayConfigs", "RunConfig", "ScalingConfig"]


@dataclass(frozen=True, kw_only=True)
class RayConfigs:
    """What is None is made from ``Config.cluster``."""

    scaling_config: ScalingConfig | None = None
    run_config: RunConfig | None = None
    failure_config: FailureConfig | None = None
    checkpoint_config: CheckpointConfig | None = None

"""Join a cluster or start one on this machine, and say at once what it will never have. Light: Ray alone, no torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import ray

from raycondense.errors import ConfigError

_started: set[str] = set()
"""Addresses of the clusters that this process started."""


def connect(*, dashboard: bool = False) -> bool:
    """Join the cluster that RAY_ADDRESS names or the job runs in, else start one on this machine.

    Args:
        dashboard: whether a cluster that is started here has one, which takes some seconds and processes.

    Returns:
        Whether it is one that this process started for itself: what it has not got it will never have.
    """
    if not ray.is_initialized():
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=dashboard, configure_logging=False)
        if not os.environ.get("RAY_ADDRESS"):
            _started.add(ray.get_runtime_context().gcs_address)
    return ray.get_runtime_context().gcs_address in _started


def require_room(workers: int, resources: Mapping[str, float], setting: str = "") -> None:
    """Refuse what a cluster that cannot grow will never have: Ray would wait for it for ever.

    Args:
        workers: how many there are to be.
        resources: what each takes, by Ray's name (``CPU``, ``GPU``, …).
        setting: what the names of the settings in the message begin with, ``"cluster."`` or nothing.

    Raises:
        ConfigError: more CPUs or GPUs are asked for than there are.
    """
    there = ray.cluster_resources()
    for name, amount in resources.items():
        needed = workers * amount
        if needed > there.get(name, 0):
            raise ConfigError(
                f"{setting}workers: {workers} workers need {needed:g} {name}s, this machine has "
                f"{there.get(name, 0):g}; lower {setting}workers or {setting}{name.lower()}s_per_worker"
            )


def share_gpu(share: float) -> None:
    """Keep this process to its part of a GPU's memory, which Ray shares out in name only: without this, one process's
    memory is another's crash.

    Args:
        share: what Ray gave this process, in GPUs; nothing is done unless it is a fraction of one, on CUDA.
    """
    if 0 < share < 1:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(share)

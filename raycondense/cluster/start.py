"""Join a cluster or start one on this machine, and say at once what it will never have. Light: Ray alone, no torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import ray

from raycondense.errors import ConfigError

_started: set[str] = set()
"""Addresses of the clusters that this process started."""


def connect(*, dashboard: bool = False) -> bool:
    """Join the cluster that RAY_ADDRESS names, the job runs in or ``ray start`` began here, else start one.

    Args:
        dashboard: whether a cluster that is started here has one, which takes some seconds and processes.

    Returns:
        Whether it is one that this process started for itself: what it has not got it will never have.
    """
    if not ray.is_initialized():
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=dashboard, configure_logging=False)
        node = ray._private.worker._global_node
        if node is not None and node.is_head():  # which it is in the process that started it alone
            _started.add(ray.get_runtime_context().gcs_address)
    return ray.get_runtime_context().gcs_address in _started


@contextmanager
def alone() -> Iterator[None]:
    """Spare Ray Train what it would start in vain in a cluster that this process started for itself.

    A trainer's ``fit`` belongs into the block. Nobody gives notice that the machine will be taken away, so no process
    has to listen for it. And the one that Ray Train asks to add machines, and waits for, begins at once, in a process
    that Ray has ready.
    """
    watcher = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
    before = os.environ.get(watcher)
    os.environ[watcher] = before or "0"
    with suppress(ImportError):  # not a public part of Ray; without it Ray Train waits a second longer
        from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
            get_or_create_autoscaling_coordinator,
        )

        get_or_create_autoscaling_coordinator()
    try:
        yield
    finally:
        if before is None:
            del os.environ[watcher]


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

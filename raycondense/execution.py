"""How the networks of a step are executed on a device: in which precision, and whether they are compiled.

Where `condense.precision` and `condense.compile` are "auto", what was measured decides: docs/results/step.md.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import cache

import torch

from raycondense.config import Config
from raycondense.errors import ConfigError
from raycondense.state import TrainState

logger = logging.getLogger("raycondense")

BFLOAT16_PIXELS = 16
"""Side in pixels from which bfloat16 is faster on CPUs that have instructions for it."""
COMPILED_PIXELS = 32
"""Side in pixels from which compiled networks are faster on a CPU."""
NETWORKS = 64
"""Kinds of calls that torch.compile may know of one function: each run of a process has networks of its own."""


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; others emulate it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def computes_in_bfloat16(config: Config, device: torch.device) -> bool:
    """What ``condense.precision`` means on a device."""
    if config.condense.precision != "auto":
        return config.condense.precision == "bfloat16"
    return has_bfloat16(device) and (device.type != "cpu" or config.data.resolution >= BFLOAT16_PIXELS)


def autocast(config: Config, device: torch.device) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """Makes the context that generator and extractors run in."""
    if not computes_in_bfloat16(config, device):
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)


def compile_networks(config: Config, state: TrainState, device: torch.device) -> bool:
    """Compile the generator and the pool's network where ``condense.compile`` says so; whether it does.

    Compilation itself waits for the first step. It changes no more than the rounding of what is computed.

    Raises:
        ConfigError: it is "on" and torch.compile does not work here.
    """
    wanted = config.condense.compile
    pays = device.type == "cpu" and config.data.resolution >= COMPILED_PIXELS
    if wanted == "off" or (wanted == "auto" and not pays):
        return False
    fault = why_not_compiled(device.type)
    if fault and wanted == "on":
        raise ConfigError(f"condense.compile: found 'on', but torch.compile does not work here ({fault})")
    if fault:
        logger.warning("going on with slower networks: torch.compile does not work here (%s)", fault)
        return False
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, NETWORKS)
    state.model.generator.compile_images()
    state.pool.network.compile_embedding()
    return True


@cache
def why_not_compiled(device: str) -> str:
    """What torch.compile says to a small function on a device, in a sentence; empty where it works."""

    def twice(x: torch.Tensor) -> torch.Tensor:
        return 2 * x.relu()

    try:
        torch.compile(twice)(torch.ones(8, device=device))
    except Exception as error:  # any: a compiler that is missing, broken, too old, a full disk
        return " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
    return ""

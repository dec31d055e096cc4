"""A generator without memory: what shapes its weights have, found out without making them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from raycondense.config import GeneratorConfig
from raycondense.models import Generator


class _WithoutStorage(TorchFunctionMode):
    """Inside the block every tensor that is made anew is a shape on torch's meta device, also where one is named.

    Functions that fill a tensor (their names end in one underscore) have nothing to fill and are left out: on the
    meta device they would import torch's compiler, which takes seconds.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__"):
            return named["tensor"] if "tensor" in named else args[0]
        if "device" in named:
            named["device"] = torch.device("meta")
        return func(*args, **named)


def empty_generator(
    config: GeneratorConfig, *, num_classes: int, latent_dim: int, resolution: int, factor: int = 1
) -> Generator:
    """A generator whose weights are on the meta device: they have shapes and take no memory."""
    # The inner mode names a device in every call that makes a tensor, the outer one then sees and changes it.
    with _WithoutStorage(), torch.device("cpu"):
        return Generator(config, num_classes=num_classes, latent_dim=latent_dim, resolution=resolution, factor=factor)

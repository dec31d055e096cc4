"""Seeds: every random draw of raycondense is a function of named parts, never of a global generator's state.

``derive_seed(config.seed, "extractor", step)`` is the same number in every process, on every machine and in
every Python, and unrelated numbers come out of parts that differ in anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SEED_BITS = 63


def derive_seed(*parts: int | str) -> int:
    """Hash ``parts`` to a seed.

    Args:
        *parts: what the draw depends on, e.g. the run's seed, a purpose and a step. ``1`` and ``"1"`` differ, and so
            do ``("ab", "c")`` and ``("a", "bc")``.

    Returns:
        A number in [0, 2^63), fit for `torch.Generator.manual_seed` and `numpy.random.default_rng`.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        # int() also takes numpy's integers, which print differently.
        text = f"s{len(part)}:{part}" if isinstance(part, str) else f"i{int(part)};"
        digest.update(text.encode())
    return int.from_bytes(digest.digest(), "little") >> (64 - SEED_BITS)


def seeded_generator(*parts: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A random generator of its own on ``device``, seeded by `derive_seed` of ``parts``.

    Draws on the CPU are the same on every machine; draws on a GPU only on GPUs of the same kind.
    """
    import torch  # here, so that plans of a dataset, which need numbers alone, come without it

    generator = torch.Generator(device=device)
    generator.manual_seed(derive_seed(*parts))
    return generator


@contextmanager
def seeded_construction(seed: int) -> Iterator[None]:
    """Inside the block modules draw their weights on the CPU from ``seed``; the global generators stay untouched.

    It swaps the state of torch's global CPU generator, so another thread must not draw from it meanwhile.
    """
    import torch

    state = torch.default_generator.get_state()
    # Not torch.manual_seed, which would also seed every accelerator.
    torch.default_generator.manual_seed(seed)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.default_generator.set_state(state)

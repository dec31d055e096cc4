"""What is left of an artefact when its weights are stored in fewer bits, and how many bytes they take then.

Nothing here changes how artefacts are stored. It answers the question of comparisons at equal bytes: how good are
the images of a generator that was rounded to so many bytes?

- ``float32``: as it is.
- ``float16``: every number to the nearest half-precision number.
- ``int8``: matrices, convolutions and embeddings row by row (a row is what makes one output channel, or one class's
  embedding), codes class by class within a bank: each group is ``scale x q`` with whole numbers q from -127 to 127.
  A scale is the smallest half-precision number with which the group's largest number fits, so that no number is off
  by more than half a scale. Biases and other vectors go to float16.

An artefact that is stored as float16 stays so: it is never counted with more bytes than it has.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor

from raycondense.artifact.format import WEIGHTS_DTYPES, WeightsDtype
from raycondense.artifact.load import Artifact
from raycondense.artifact.sizes import FLOAT_BYTES, planned_generator
from raycondense.config import CodebookConfig, Config
from raycondense.errors import ArtifactError, choices_message

RoundingDtype = Literal["float32", "float16", "int8"]
ROUNDING_DTYPES: tuple[RoundingDtype, ...] = get_args(RoundingDtype)
"""From the most bytes to the fewest."""

LARGEST_QUANTUM = 127
_SCALE_BYTES = 2


def rounded(artifact: Artifact, dtype: RoundingDtype) -> Artifact:
    """``artifact`` with the numbers that are left after storing it as ``dtype``; it decodes in float32 as ever.

    The result has no folder and shares no memory with ``artifact``. Its ``sizes`` know float32 and float16 alone;
    bytes of ``int8`` are told by `rounded_bytes`.

    Raises:
        ArtifactError: no such ``dtype``, or a number is too large for it.
    """
    kept = _fewer_bytes(artifact.config.dtype, dtype)
    generator, codebook = copy.deepcopy(artifact.generator), copy.deepcopy(artifact.codebook)
    with torch.no_grad():
        for name, weight in generator.named_parameters():
            weight.copy_(_rounded(f"generator.{name}", weight, kept))
        for ipc in artifact.ipcs:
            bank = artifact.config.codebook.bank_slice(ipc)
            codebook.codes[:, bank].copy_(_rounded("codebook.codes", codebook.codes[:, bank], kept))
    config = dataclasses.replace(artifact.config, dtype=kept) if kept in WEIGHTS_DTYPES else artifact.config
    return Artifact(generator, codebook, config, recipe=artifact.recipe)


def rounded_bytes(source: Artifact | Config, dtype: RoundingDtype, ipc: int | None = None) -> int:
    """Bytes of a generator and the codes of one bank as ``dtype``, scales included (without a file's header).

    Args:
        source: an artefact, or the configuration of a run with ``data.num_classes``; nothing is allocated for it.
        dtype: how the weights would be stored.
        ipc: count the codes of this bank alone; None counts all of them.

    Raises:
        ArtifactError: no such ``dtype``.
        ConfigError: there is no bank of ``ipc`` images per class, or ``data.num_classes`` is 0.
    """
    if isinstance(source, Artifact):
        classes, codebook, stored = source.num_classes, source.config.codebook, source.config.dtype
        generator = source.generator
    else:
        classes, codebook, stored = source.data.num_classes, source.codebook, "float32"
        generator = planned_generator(source)
    kept = _fewer_bytes(stored, dtype)
    shapes: list[tuple[int, ...]] = [tuple(weight.shape) for weight in generator.parameters()]
    return _bytes(shapes + _code_shapes(codebook, classes, ipc), kept)


def largest_bank_within(artifact: Artifact, dtype: RoundingDtype, budget_bytes: int) -> int | None:
    """Images per class of the largest bank that takes, with the generator, no more than ``budget_bytes``.

    Returns:
        None where not even the smallest bank fits.

    Raises:
        ArtifactError: no such ``dtype``.
    """
    fitting = [ipc for ipc in artifact.ipcs if rounded_bytes(artifact, dtype, ipc) <= budget_bytes]
    return max(fitting, default=None)


def _fewer_bytes(stored: WeightsDtype, wanted: RoundingDtype) -> RoundingDtype:
    if wanted not in ROUNDING_DTYPES:
        raise ArtifactError(choices_message("rounding", wanted, ROUNDING_DTYPES))
    return max(stored, wanted, key=ROUNDING_DTYPES.index)


def _code_shapes(codebook: CodebookConfig, classes: int, ipc: int | None) -> list[tuple[int, ...]]:
    banks = [codebook.bank_slice(k) for k in (codebook.ipc if ipc is None else (ipc,))]
    return [(classes, bank.stop - bank.start, codebook.dim) for bank in banks]


def _bytes(shapes: Iterable[tuple[int, ...]], dtype: RoundingDtype) -> int:
    if dtype != "int8":
        return sum(math.prod(shape) for shape in shapes) * FLOAT_BYTES[dtype]
    return sum(
        math.prod(shape) + shape[0] * _SCALE_BYTES if len(shape) > 1 else shape[0] * FLOAT_BYTES["float16"]
        for shape in shapes
    )


def _rounded(name: str, values: Tensor, dtype: RoundingDtype) -> Tensor:
    """``values`` as they are read back from ``dtype``, float32, on the CPU."""
    # On the CPU, so that every machine rounds alike.
    values = values.detach().cpu()
    if dtype == "float32":
        return values
    back = _through_int8(values) if dtype == "int8" and values.ndim > 1 else values.half().float()
    if not bool(torch.isfinite(back).all()):
        raise ArtifactError(f"{name}: found a number that is too large to be stored as {dtype}")
    return back


def _through_int8(values: Tensor) -> Tensor:
    """Each ``values[i]`` as whole numbers times a scale of its own; see the module's docstring."""
    groups = values.flatten(1)
    scales = _half_not_below(groups.abs().amax(dim=1, keepdim=True) / LARGEST_QUANTUM)
    # A group of zeros has the scale 0, and any other divides it as well.
    quanta = (groups / torch.where(scales > 0, scales, 1.0)).round().to(torch.int8)
    return (quanta.float() * scales).view_as(values)


def _half_not_below(values: Tensor) -> Tensor:
    """The smallest float16 numbers that are not below ``values`` (float32, 0 or more), as float32."""
    nearest = values.half()
    # The bits of positive float16 numbers count up with the numbers.
    above = (nearest.view(torch.int16) + 1).view(torch.float16)
    return torch.where(nearest.float() < values, above.float(), nearest.float())

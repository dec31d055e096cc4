"""``generator.safetensors``: written from, and read into, generator and codebook.

A file is compared with the networks that ``config.json`` describes, name by name, before memory is taken for either:
the networks are first built without storage (torch's meta device).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raycondense.artifact.format import FILES, ArtifactConfig, WeightsDtype
from raycondense.artifact.shapes import empty_generator
from raycondense.errors import ArtifactError
from raycondense.models import Codebook, Generator

GENERATOR = "generator."
CODES = "codebook.codes"
_NAMED_FAULTS = 3


def write_weights(file: Path, generator: Generator, codebook: Codebook, dtype: WeightsDtype) -> None:
    """Write the weights as ``dtype``.

    Raises:
        ArtifactError: a weight is not finite (or too large for float16).
    """
    named = {GENERATOR + name: tensor for name, tensor in generator.state_dict().items()}
    named[CODES] = codebook.codes
    kind = getattr(torch, dtype)
    stored = {name: t.detach().to("cpu", kind).contiguous() for name, t in named.items()}
    for name, tensor in stored.items():
        _check_finite(file, name, tensor)
    save_file(stored, file, metadata={"format": "pt"})


def read_weights(file: Path, config: ArtifactConfig) -> tuple[Generator, Codebook]:
    """Generator and codebook on the CPU, in float32.

    Raises:
        ArtifactError: the file is missing or damaged, or is not of the networks that ``config`` describes.
    """
    generator = empty_generator(
        config.generator, num_classes=config.num_classes, latent_dim=config.codebook.dim, resolution=config.resolution,
        factor=config.codebook.factor,
    )  # fmt: skip
    wanted = {GENERATOR + name: list(tensor.shape) for name, tensor in generator.state_dict().items()}
    wanted[CODES] = [config.num_classes, config.codebook.codes_per_class, config.codebook.dim]
    if not file.is_file():
        raise ArtifactError(f"{file}: no such file; an artefact holds {', '.join(FILES)}")
    try:
        with safe_open(file, framework="pt", device="cpu") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118  # no mapping
            kind = {"float32": "F32", "float16": "F16"}[config.dtype]
            found = {name: (part.get_dtype(), list(part.get_shape())) for name, part in slices.items()}
            _compare(file, found, {name: (kind, shape) for name, shape in wanted.items()})
            tensors: dict[str, Tensor] = {name: weights.get_tensor(name).float() for name in wanted}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{file}: damaged: {' '.join(str(error).split())}") from error
    for name, tensor in tensors.items():
        _check_finite(file, name, tensor)
    codebook = Codebook(config.codebook, config.num_classes)
    with torch.no_grad():
        codebook.codes.copy_(tensors.pop(CODES))
    generator.load_state_dict({name.removeprefix(GENERATOR): t for name, t in tensors.items()}, assign=True)
    return generator, codebook


def _compare(
    file: Path, found: Mapping[str, tuple[str, list[int]]], wanted: Mapping[str, tuple[str, list[int]]]
) -> None:
    faults = [f"{name} is missing" for name in wanted if name not in found]
    faults += [f"{name} is unknown" for name in found if name not in wanted]
    faults += [
        f"{name}: found {found[name][0]} {found[name][1]}, valid: {kind} {shape}"
        for name, (kind, shape) in wanted.items()
        if name in found and found[name] != (kind, shape)
    ]
    if faults:
        more = f" (and {len(faults) - _NAMED_FAULTS} more)" if len(faults) > _NAMED_FAULTS else ""
        raise ArtifactError(
            f"{file}: not the weights that config.json describes: {'; '.join(faults[:_NAMED_FAULTS])}{more}"
        )


def _check_finite(file: Path, name: str, tensor: Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise ArtifactError(f"{file}: {name}: found numbers that are not finite as {tensor.dtype}")

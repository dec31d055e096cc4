"""How large an artefact is, in the units that dataset condensation compares by.

Literature counts *floats*: one image per class (IPC) is ``classes x 3 x resolution^2`` of them, and a generator
with its codes is as large as its parameters. A disk counts *bytes*: weights take 4 bytes a number, or 2 in
float16, while an image takes one byte a value when it is kept as uint8. The two differ by a factor of 4, so every
number here says which it is. Labels cost nothing: codes are ordered by class.
"""

from __future__ import annotations

from dataclasses import dataclass

from raycondense.artifact.format import ArtifactConfig, WeightsDtype
from raycondense.artifact.shapes import empty_generator
from raycondense.config import CodebookConfig, Config
from raycondense.errors import ConfigError
from raycondense.models import Generator

FLOAT_BYTES = {"float32": 4, "float16": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Sizes of a generator with the codes of one bank, or of all banks."""

    generator_parameters: int
    """Numbers in the generator."""
    codebook_parameters: int
    """Numbers in the codes that are counted."""
    bytes_per_parameter: int
    """4 for float32 weights, 2 for float16."""
    image_values: int
    """Pixel values of one image per class: classes x 3 x resolution x resolution."""

    @property
    def parameters(self) -> int:
        """Numbers in generator and codes."""
        return self.generator_parameters + self.codebook_parameters

    @property
    def bytes(self) -> int:
        """Bytes of generator and codes as stored (without the file's header of a few kB)."""
        return self.parameters * self.bytes_per_parameter

    @property
    def ipc_equivalent(self) -> float:
        """Images per class that have as many floats: the accounting of the literature (bytes-matched at float32)."""
        return self.parameters / self.image_values

    @property
    def ipc_equivalent_uint8(self) -> float:
        """Images per class that take as many bytes when kept as uint8: the strictest accounting."""
        return self.bytes / self.image_values


def artifact_sizes(config: ArtifactConfig, generator_parameters: int, ipc: int | None = None) -> Sizes:
    """Sizes of an artefact.

    Args:
        config: its configuration.
        generator_parameters: numbers in its generator.
        ipc: count the codes of this bank alone; None counts all of them.

    Raises:
        ConfigError: there is no bank of ``ipc`` images per class.
    """
    return _sizes(config.codebook, generator_parameters, config.num_classes, config.resolution, config.dtype, ipc)


def sizes_of(config: Config, *, dtype: WeightsDtype = "float32", ipc: int | None = None) -> Sizes:
    """Sizes of the artefact that a run with ``config`` would make; nothing is allocated.

    Args:
        config: a configuration with ``data.num_classes``.
        dtype: how the weights would be stored.
        ipc: count the codes of this bank alone; None counts all of them.

    Raises:
        ConfigError: ``data.num_classes`` is 0, or there is no bank of ``ipc`` images per class.
    """
    generator = planned_generator(config).num_parameters
    return _sizes(config.codebook, generator, config.data.num_classes, config.data.resolution, dtype, ipc)


def planned_generator(config: Config) -> Generator:
    """The generator that a run with ``config`` would have, with shapes and without memory.

    Raises:
        ConfigError: ``data.num_classes`` is 0.
    """
    classes = config.data.num_classes
    if classes < 1:
        raise ConfigError(f"data.num_classes: found {classes}, valid: 1 or more, to know the size of an artefact")
    return empty_generator(
        config.generator, num_classes=classes, latent_dim=config.codebook.dim, resolution=config.data.resolution,
        factor=config.codebook.factor,
    )  # fmt: skip


def _sizes(
    codebook: CodebookConfig, generator: int, classes: int, resolution: int, dtype: WeightsDtype, ipc: int | None
) -> Sizes:
    codes = codebook.codes_per_class
    if ipc is not None:
        bank = codebook.bank_slice(ipc)
        codes = bank.stop - bank.start
    return Sizes(
        generator_parameters=generator,
        codebook_parameters=classes * codes * codebook.dim,
        bytes_per_parameter=FLOAT_BYTES[dtype],
        image_values=classes * 3 * resolution**2,
    )


def format_bytes(number: float) -> str:
    """Bytes as ``12.3 kB`` (powers of 1000)."""
    units = ("B", "kB", "MB", "GB", "TB")
    power = 0
    while number >= 1000 and power < len(units) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.0f} {units[power]}" if power == 0 else f"{number:.1f} {units[power]}"

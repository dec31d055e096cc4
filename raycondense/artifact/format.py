"""What an artefact folder holds, and the checks that everything read from one goes through before it is used.

An artefact may come from a stranger. Nothing in it is executed, and no number in it makes us allocate memory before
it was compared with what its files really hold.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raycondense import storage
from raycondense.config import RESOLUTIONS, CodebookConfig, GeneratorConfig
from raycondense.configfile import config_to_dict, section_from_dict
from raycondense.errors import ArtifactError, ConfigError
from raycondense.shapes import OBJECT, fault

FORMAT_VERSION = 1

WEIGHTS = "generator.safetensors"
CONFIG = "config.json"
RECIPE = "recipe.json"
SCORES = "scores.json"
PREVIEW = "preview.png"
CARD = "README.md"
FILES = (WEIGHTS, CONFIG, RECIPE, SCORES, PREVIEW, CARD)
"""All files of an artefact; the first four are needed to load one."""

# Far above anything sensible and far below what would hang a constructor: layers are Python objects.
MAX_CLASSES, MAX_IPC, MAX_BANKS, MAX_CHANNELS, MAX_BLOCKS = 1_000_000, 1_000_000, 64, 65_536, 64

RECIPE_SHAPE = {
    "state?": str,
    "config?": {"name?": str, "evaluation?": OBJECT},
    "data?": {"file?": (str, None), "source?": str, "split?": str, "sha256?": str, "counts?": [int]},
    "seeds?": {str: int},
    "versions?": {str: (str, None)},
    "git_revision?": (str, None),
}
"""What is read of a recipe, of whatever version (see `raycondense.shapes`)."""

WeightsDtype = Literal["float32", "float16"]
WEIGHTS_DTYPES: tuple[WeightsDtype, ...] = ("float32", "float16")

RunState = Literal["condensed", "initial"]
"""What of a run an artefact holds: its outcome, or generator and codes as initialisation left them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactConfig:
    """``config.json``: all that is needed to build the networks and to name and standardise what they make.

    Raises:
        ArtifactError: a value is out of range, or two contradict each other.
    """

    generator: GeneratorConfig
    codebook: CodebookConfig
    resolution: int
    """Side of the images in pixels."""
    classes: tuple[str, ...]
    """Class names; label c is ``classes[c]``."""
    mean: tuple[float, float, float]
    """Mean of each channel of the real images / 255."""
    std: tuple[float, float, float]
    """Standard deviation of each channel of the real images / 255."""
    dtype: WeightsDtype = "float32"
    """How the weights are stored; they are computed with in float32."""

    def __post_init__(self) -> None:
        fault = self._fault()
        if fault:
            raise ArtifactError(fault)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def _fault(self) -> str:
        generator, codebook = self.generator, self.codebook
        limits = (
            ("classes", len(self.classes), MAX_CLASSES),
            ("generator.max_width", generator.max_width, MAX_CHANNELS),
            ("generator.class_dim", generator.class_dim, MAX_CHANNELS),
            ("generator.blocks", generator.blocks, MAX_BLOCKS),
            ("codebook.dim", codebook.dim, MAX_CHANNELS),
            ("codebook.ipc", codebook.images_per_class(max(codebook.ipc)), MAX_IPC),
            ("banks in codebook.ipc", len(codebook.ipc), MAX_BANKS),
        )
        for name, found, most in limits:
            if not found <= most:
                return f"{name}: found {found}, valid: at most {most}"
        if not self.classes:
            return "classes: found none, valid: one name or more"
        if len(set(self.classes)) != len(self.classes):
            return "classes: found a name twice, valid: different names"
        if self.resolution not in RESOLUTIONS:
            return f"resolution: found {self.resolution}, valid: {', '.join(map(str, RESOLUTIONS))}"
        if self.resolution // codebook.factor not in RESOLUTIONS:
            return f"codebook.factor: found {codebook.factor}, valid: at most {self.resolution // RESOLUTIONS[0]} here"
        if self.dtype not in WEIGHTS_DTYPES:
            return f"dtype: found {self.dtype!r}, valid: {', '.join(WEIGHTS_DTYPES)}"
        for field, low in (("mean", 0.0), ("std", 1e-9)):
            values = getattr(self, field)
            if len(values) != 3 or not all(math.isfinite(v) and low <= v <= 1 for v in values):
                return f"{field}: found {values}, valid: 3 numbers of images / 255"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """The values as they stand in ``config.json``."""
        return {
            "format_version": FORMAT_VERSION,
            "generator": config_to_dict(self.generator),
            "codebook": config_to_dict(self.codebook),
            "num_classes": self.num_classes,
            "resolution": self.resolution,
            "classes": list(self.classes),
            "mean": list(self.mean),
            "std": list(self.std),
            "dtype": self.dtype,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str = CONFIG) -> ArtifactConfig:
        """Read what `to_dict` made; ``source`` is the file, for messages.

        Raises:
            ArtifactError: a field is missing, unknown, of the wrong type or out of range, or the format is newer.
        """
        check_format_version(values, source)
        names = {field.name for field in dataclasses.fields(cls)} | {"format_version", "num_classes"}
        missing, extra = names - values.keys(), values.keys() - names
        if missing or extra:
            raise ArtifactError(f"{source}: damaged: missing fields {sorted(missing)}, unknown fields {sorted(extra)}")
        try:
            config = cls(
                generator=section_from_dict(GeneratorConfig, values["generator"], name="generator"),
                codebook=section_from_dict(CodebookConfig, values["codebook"], name="codebook"),
                resolution=_typed(values, "resolution", int),
                classes=_typed_list(values, "classes", str),
                mean=_typed_list(values, "mean", float, int),
                std=_typed_list(values, "std", float, int),
                dtype=_typed(values, "dtype", str),
            )
        except (ConfigError, ArtifactError) as error:
            raise ArtifactError(f"{source}: damaged: {error}") from error
        if values["num_classes"] != config.num_classes:
            found = values["num_classes"]
            raise ArtifactError(f"{source}: damaged: num_classes: found {found!r}, valid: {config.num_classes}")
        return config


def _typed(values: Mapping[str, Any], name: str, *types: type) -> Any:
    if type(values[name]) not in types:
        raise ArtifactError(f"{name}: found {str(values[name])[:60]!r}, valid: {types[0].__name__}")
    return values[name]


def _typed_list(values: Mapping[str, Any], name: str, *types: type) -> Any:
    if not isinstance(values[name], list) or not all(type(item) in types for item in values[name]):
        raise ArtifactError(f"{name}: valid: a list of {types[0].__name__}")
    return tuple(values[name])


def check_format_version(values: Mapping[str, Any], source: str) -> None:
    """Raise `ArtifactError` unless ``values`` are of a format that this raycondense reads."""
    version = values.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise ArtifactError(
            f"{source}: found format_version {version}, valid: up to {FORMAT_VERSION}; "
            "a newer raycondense wrote it: upgrade to read it"
        )
    if type(version) is not int or version < 1:
        raise ArtifactError(f"{source}: damaged: found format_version {version!r}, valid: {FORMAT_VERSION}")


def read_recipe(folder: Path) -> dict[str, Any]:
    """``recipe.json`` of the artefact in ``folder``.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    recipe = read_json(folder / RECIPE)
    wrong = fault(recipe, RECIPE_SHAPE)
    if wrong:
        raise ArtifactError(f"{folder / RECIPE}: damaged: {wrong}")
    return recipe


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file of an artefact.

    Raises:
        ArtifactError: it is missing, too large, or does not hold one JSON object.
    """
    try:
        values = storage.read_json(file)
    except FileNotFoundError:
        raise ArtifactError(f"{file}: no such file; an artefact holds {', '.join(FILES)}") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: damaged: cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise ArtifactError(f"{file}: damaged: found {type(values).__name__}, valid: a JSON object")
    return values

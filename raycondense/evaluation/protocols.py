"""Protocols as data: named settings of `EvaluationConfig`, and the part of them that decides what a student becomes.

A protocol changes how students are trained and judged; which operations augment the images of a dataset, which
architectures and which baselines are wanted stays as it was set.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from raycondense.config import EvaluationConfig
from raycondense.errors import ConfigError, choices_message
from raycondense.evaluation.work import content_hash

_DM: dict[str, Any] = {
    "students": 5, "width": 128, "epochs": 1000, "max_steps": 0, "batch": 256, "optimizer": "sgd", "lr": 0.01,
    "lr_schedule": "step", "weight_decay": 5e-4, "cutmix": 0.0, "labels": "hard", "validation_only": False,
}  # fmt: skip

PROTOCOLS: dict[str, dict[str, Any]] = {
    # The protocol of DM (Zhao & Bilen, arXiv 2110.04181), which the field's tables share.
    "dm": _DM,
    # The recipe of DC (Zhao, Mopuri & Bilen, arXiv 2006.05929), without augmentation: the field's rows of random real
    # images and of herding were measured by it, so calibration needs it.
    "dc": {**_DM, "epochs": 300, "augment": ()},
    # A teacher's probabilities for every augmented view, in the manner of RDED (arXiv 2312.03526): a table of its own.
    "soft": {**_DM, "optimizer": "adamw", "lr": 1e-3, "lr_schedule": "cosine", "cutmix": 1.0, "labels": "soft"},
    # For choosing among many generators: a look at the validation split after a few hundred steps.
    "fast": {
        **_DM, "students": 2, "max_steps": 400, "batch": 128, "optimizer": "adamw", "lr": 1e-3,
        "lr_schedule": "cosine", "validation_only": True, "baselines": (), "diagnostics": False,
    },
}  # fmt: skip
"""Protocol → the settings that it fixes."""

_RECIPE = (
    "epochs", "max_steps", "batch", "optimizer", "lr", "lr_schedule", "weight_decay", "augment", "cutmix", "labels",
)  # fmt: skip
_SOFT = ("temperature", "reference", "reference_steps")


def protocol(name: str, base: EvaluationConfig | None = None) -> EvaluationConfig:
    """The settings of a protocol.

    Args:
        name: a key of `PROTOCOLS`.
        base: what the protocol leaves open is taken from here; None is the defaults.

    Raises:
        ConfigError: there is no such protocol.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol: {choices_message('protocol', name, PROTOCOLS)}")
    return dataclasses.replace(base or EvaluationConfig(), protocol=name, **PROTOCOLS[name])


def protocol_label(config: EvaluationConfig) -> str:
    """The protocol's name, with ``*`` where settings differ from what the name stands for."""
    fixed = PROTOCOLS.get(config.protocol, {})
    changed = config.protocol not in PROTOCOLS or any(
        getattr(config, name) != value for name, value in fixed.items() if name in (*_RECIPE, "width")
    )
    return config.protocol + ("*" if changed else "")


def recipe_of(config: EvaluationConfig, architecture: str) -> dict[str, Any]:
    """The settings that decide what a student of ``architecture`` becomes, as plain values.

    Settings without a say are left out, so that changing them repeats no work: the ConvNet's width for other
    architectures, the teacher's for hard labels.
    """
    names = _RECIPE + (_SOFT if config.labels == "soft" else ())
    values: dict[str, Any] = {name: getattr(config, name) for name in names}
    values["augment"] = list(config.augment)
    if architecture == "convnet" or (config.labels == "soft" and config.reference == "convnet"):
        values["width"] = config.width
    return values


def recipe_sha256(config: EvaluationConfig, architecture: str) -> str:
    """Content hash of `recipe_of`: results with the same one were measured alike."""
    return content_hash(recipe_of(config, architecture))


def schedule_sha256(config: EvaluationConfig, architecture: str) -> str:
    """Content hash of the recipe apart from labels and augmentation: the scores compare rows that differ in those."""
    recipe = recipe_of(dataclasses.replace(config, labels="hard", augment=(), cutmix=0.0), architecture)
    return content_hash(recipe)

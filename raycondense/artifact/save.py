"""Write an artefact: whole or not at all, and read back before it gets its name."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raycondense.artifact.card import make_card
from raycondense.artifact.format import (
    CARD,
    CONFIG,
    PREVIEW,
    RECIPE,
    SCORES,
    WEIGHTS,
    WEIGHTS_DTYPES,
    ArtifactConfig,
    RunState,
    WeightsDtype,
)
from raycondense.artifact.load import Artifact, load
from raycondense.artifact.preview import contact_sheet, encode_png
from raycondense.artifact.recipe import make_recipe
from raycondense.artifact.weights import write_weights
from raycondense.config import Config
from raycondense.data.sidecar import Sidecar
from raycondense.errors import ArtifactError, choices_message
from raycondense.models import Codebook, Generator
from raycondense.storage import atomic_folder, write_json, write_text

PREVIEW_CLASSES, PREVIEW_IMAGES = 20, 10


def save_artifact(
    folder: str | os.PathLike[str],
    *,
    generator: Generator,
    codebook: Codebook,
    config: Config,
    sidecar: Sidecar,
    train: str | os.PathLike[str] | None = None,
    scores: Mapping[str, Any] | None = None,
    dtype: WeightsDtype = "float32",
    state: RunState = "condensed",
) -> Artifact:
    """Write an artefact folder, replacing an artefact that stands there.

    Args:
        folder: where to.
        generator: the weights to publish, usually their running mean.
        codebook: the codes to publish.
        config: the resolved configuration of the run.
        sidecar: of the beton that was condensed.
        train: that beton; the recipe tells its name, and not the folder, which means nothing elsewhere.
        scores: an evaluation as a plain dict; `save_scores` adds one later.
        dtype: how weights are stored. ``"float16"`` halves the file and rounds the weights, so images change a
            little; the preview and everything measured later are made from the rounded ones.
        state: what of the run the weights are; the recipe and the card tell.

    Returns:
        The artefact as it was read back from ``folder``.

    Raises:
        ArtifactError: something else stands at ``folder``, or a weight is not finite.
        RunError: the disk is full.
    """
    if dtype not in WEIGHTS_DTYPES:
        raise ArtifactError(choices_message("dtype", dtype, WEIGHTS_DTYPES))
    target = Path(folder)
    check_replaceable(target)
    description = ArtifactConfig(
        generator=config.generator,
        codebook=config.codebook,
        resolution=config.data.resolution,
        classes=sidecar.classes,
        mean=sidecar.mean,
        std=sidecar.std,
        dtype=dtype,
    )
    # The resolved configuration says how many classes there were, also where the user's left it to the dataset.
    resolved = dataclasses.replace(config, data=dataclasses.replace(config.data, num_classes=sidecar.num_classes))
    recipe = make_recipe(resolved, sidecar, train, state)
    with atomic_folder(target) as temporary:
        try:
            artifact = _fill(temporary, generator, codebook, description, recipe, scores)
        except ArtifactError as error:
            # Nobody knows the temporary name, which is gone when the message is read.
            raise ArtifactError(str(error).replace(str(temporary), str(target))) from error
    artifact.path = target
    return artifact


def _fill(
    folder: Path,
    generator: Generator,
    codebook: Codebook,
    description: ArtifactConfig,
    recipe: Mapping[str, Any],
    scores: Mapping[str, Any] | None,
) -> Artifact:
    """Write the files that are read, read them back, and write preview and card from what was read."""
    write_weights(folder / WEIGHTS, generator, codebook, description.dtype)
    write_json(folder / CONFIG, description.to_dict())
    write_json(folder / RECIPE, recipe)
    write_json(folder / SCORES, _finite(scores or {}))
    artifact = load(folder)
    (folder / PREVIEW).write_bytes(preview_png(artifact))
    (folder / CARD).write_text(make_card(artifact), encoding="utf-8")
    return artifact


def save_scores(folder: str | os.PathLike[str], scores: Mapping[str, Any]) -> None:
    """Put an evaluation into an artefact: rewrites ``scores.json`` and the card, nothing else.

    Args:
        folder: the artefact.
        scores: a plain dict with ``rows``, as `raycondense.evaluation` makes it.

    Raises:
        ArtifactError: there is no artefact at ``folder``.
    """
    artifact = load(folder)
    assert artifact.path is not None  # load always sets it
    artifact.scores = _finite(scores)
    write_json(artifact.path / SCORES, artifact.scores)
    write_text(artifact.path / CARD, make_card(artifact))


def preview_png(artifact: Artifact) -> bytes:
    """Contact sheet: a row for each of the first classes, its first images of the largest bank."""
    shown = range(min(PREVIEW_CLASSES, artifact.num_classes))
    bank = artifact.bank(classes=list(shown))
    images = bank.images.unflatten(0, (len(shown), bank.images_per_class))[:, :PREVIEW_IMAGES]
    return encode_png(contact_sheet(images))


def check_replaceable(target: Path) -> None:
    """Raise `ArtifactError` where ``target`` is something else than an artefact or nothing: not ours to remove."""
    if target.is_dir() and not target.is_symlink():
        strangers = any(target.iterdir()) and not ((target / CONFIG).is_file() and (target / WEIGHTS).is_file())
    else:
        strangers = target.exists() or target.is_symlink()
    if strangers:
        raise ArtifactError(f"{target}: exists and is no artefact; valid: a new folder, or an artefact to replace")


def _finite(scores: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``scores`` that JSON can hold."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(scores), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{SCORES}: {error}; valid: finite numbers, text, lists and dicts") from error
    return plain

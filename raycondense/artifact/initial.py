"""What a run started from: the artefact beside its own that holds generator and codes as initialisation left them.

It is what condensation has to beat: with its own codes, and with codes drawn at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from raycondense.artifact.format import CONFIG, read_recipe
from raycondense.artifact.load import Artifact
from raycondense.models import Codebook
from raycondense.seeds import derive_seed

INITIAL = "initial"
"""Name of its folder, beside the artefact's."""


def find_initial(artifact: Artifact) -> Path | None:
    """Folder of what the run of ``artifact`` started from, ``initial/`` beside its own; load it with `load`.

    Returns:
        None where there is none, or one of another run: of other data or another configuration.

    Raises:
        ArtifactError: its recipe is missing or damaged.
    """
    if artifact.path is None:
        return None
    # Resolved, so that the place of an artefact named "." is known too.
    folder = artifact.path.resolve().with_name(INITIAL)
    if not (folder / CONFIG).is_file():
        return None
    recipe = read_recipe(folder)
    is_initial = recipe.get("state") == INITIAL and artifact.recipe.get("state") != INITIAL
    return folder if is_initial and _run_of(recipe) == _run_of(artifact.recipe) else None


def _run_of(recipe: Mapping[str, Any]) -> tuple[Any, Any]:
    """Configuration and data (by SHA-256) of a run."""
    data = recipe.get("data")
    return recipe.get("config"), data.get("sha256") if isinstance(data, dict) else None


def random_codes(artifact: Artifact, seed: int) -> Artifact:
    """``artifact`` with codes drawn afresh from N(0, ``codebook.init_std``), as a codebook's are before anything is
    learned; the same codes for the same ``seed``, whatever the run's own seed was."""
    fresh = Codebook(artifact.config.codebook, artifact.num_classes, seed=derive_seed(seed, "random codes"))
    with torch.no_grad():
        return artifact.with_codes(fresh.codes)

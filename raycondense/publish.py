"""From a finished condensation to the artefact that is published: the running mean of generator and codes."""

from __future__ import annotations

from pathlib import Path

import torch

from raycondense.artifact.save import save_artifact
from raycondense.config import Config
from raycondense.data.sidecar import Sidecar
from raycondense.errors import CheckpointError
from raycondense.state import TrainState


def publish(state: TrainState, train: Path, folder: Path) -> Path:
    """Write the artefact of a finished ``state`` into ``folder`` and return it.

    Args:
        state: a state in stage ``done``.
        train: beton that was condensed; its sidecar gives class names, normalisation and identity.
        folder: the artefact; one that stands there is replaced.

    Raises:
        CheckpointError: the condensation is not finished.
    """
    if state.stage != "done":
        raise CheckpointError(f"{folder}: nothing to publish, the run is still in stage {state.stage!r}")
    sidecar = Sidecar.load(train)
    model = state.average
    save_artifact(
        folder, generator=model.generator, codebook=model.codebook, config=state.config, sidecar=sidecar, train=train
    )
    return folder


def state_from_checkpoint(config: Config, train: Path, checkpoint: Path) -> TrainState:
    """The state that a checkpoint of this run holds, on the CPU."""
    sidecar = Sidecar.load(train)
    state = TrainState(config, num_classes=sidecar.num_classes, device=torch.device("cpu"))
    state.load(checkpoint)
    return state

"""From a finished condensation to what is published: the running mean of generator and codes, and how they began."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from raycondense.artifact.initial import INITIAL
from raycondense.artifact.save import save_artifact
from raycondense.config import Config
from raycondense.data.sidecar import Sidecar
from raycondense.errors import CheckpointError
from raycondense.state import CondensedModel, TrainState

logger = logging.getLogger("raycondense")


def publish(state: TrainState, train: Path, folder: Path) -> Path:
    """Write the artefact of a finished ``state`` into ``folder`` and return it.

    Beside it goes ``initial/``, an artefact of generator and codes as initialisation left them, which evaluations
    take as a baseline. It is written first: a run whose artefact stands is finished.

    Args:
        state: a state in stage ``done``.
        train: beton that was condensed; its sidecar gives class names, normalisation and identity.
        folder: the artefact; one that stands there is replaced, and so is one in ``initial/``.

    Raises:
        ArtifactError: something else than an artefact stands at one of the places, or a weight is not finite.
        CheckpointError: the condensation is not finished.
        RunError: the disk is full.
    """
    if state.stage != "done":
        raise CheckpointError(f"{folder}: nothing to publish, the run is still in stage {state.stage!r}")
    sidecar = Sidecar.load(train)
    initial = folder.with_name(INITIAL)
    if state.initial is None:
        logger.warning(
            "%s: not written: this run was begun by an older raycondense, whose checkpoints do not keep it; its "
            "artefact cannot be compared with the baselines initial-codes and random-codes", initial,
        )  # fmt: skip
    else:
        start = CondensedModel(state.config, sidecar.num_classes)
        start.load_state_dict(state.initial)
        save_artifact(
            initial, generator=start.generator, codebook=start.codebook, config=state.config, sidecar=sidecar,
            train=train, state="initial",
        )  # fmt: skip
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

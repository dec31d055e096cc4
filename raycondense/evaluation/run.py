"""The one door to a number: `evaluate` trains students on an artefact's banks and on baselines and scores them.

It checks everything that a user may have got wrong before the first student trains, lists the jobs, runs them
and returns an `Evaluation`. It writes nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from raycondense.artifact.format import WEIGHTS
from raycondense.artifact.load import Artifact, load
from raycondense.config import EvaluationConfig
from raycondense.configfile import config_from_dict
from raycondense.data.sidecar import Sidecar, file_sha256
from raycondense.errors import ArtifactError, ConfigError, DataError, choices_message
from raycondense.evaluation.baselines import check_baseline, check_enough_images, find_train_data
from raycondense.evaluation.jobs import Job
from raycondense.evaluation.pool import OnResult, run_jobs
from raycondense.evaluation.result import OURS, Evaluation, summarise
from raycondense.evaluation.score import check_test_split
from raycondense.models import STUDENTS

logger = logging.getLogger("raycondense")
PathLike = str | os.PathLike[str]


def evaluate(
    artifact: PathLike | Artifact,
    data: PathLike,
    *,
    config: EvaluationConfig | None = None,
    ipc: Sequence[int] | None = None,
    train_data: PathLike | None = None,
    device: str | torch.device | None = None,
    workers: int = 1,
    progress: OnResult | None = None,
) -> Evaluation:
    """Find out what a condensed dataset is worth: train students on it from scratch and score them.

    Every student of a row has a seed of its own (0, 1, …). Baselines run under the same recipe; their images depend
    on the student's seed too.

    Args:
        artifact: its folder (or a ``hf-hub:`` name), or one that was loaded from a folder.
        data: beton of the split to score on; it is read once a student, after its last step.
        config: the protocol; None takes the one in the artefact's recipe.
        ipc: banks to evaluate; None is all of them.
        train_data: beton of the training images, for baselines; None looks for the one that the artefact was
            condensed from where the run's ``run.json`` says and beside ``data``.
        device: where students train; None takes CUDA where there is one.
        workers: processes; 1 runs in this one. Scripts with more need ``if __name__ == "__main__":``.
        progress: called after each student with the number done, the number of all, and its result.

    Raises:
        ConfigError: an unknown architecture, baseline or bank; the valid ones are named.
        DataError: a beton is missing, damaged or does not fit the artefact.
        ArtifactError: the artefact is missing or damaged, or was not loaded from a folder.
        RunError: a process died.
    """
    artifact = artifact if isinstance(artifact, Artifact) else load(artifact)
    if artifact.path is None:
        raise ArtifactError("evaluate: this artefact has no folder, which students are trained from; save it first")
    config = config or _recipe_config(artifact)
    banks = _check_names(artifact, config, ipc)
    test = check_test_split(data, classes=artifact.classes, resolution=artifact.resolution)
    train_path: Path | None = None
    train: Sidecar | None = None
    if config.baselines:
        train_path = _train_path(artifact, Path(data)) if train_data is None else Path(train_data)
        train = _check_train_data(train_path, artifact, config, banks)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    jobs = list_jobs(
        artifact, Path(data), test, config=config, ipc=banks, train_path=train_path, train=train, device=str(device)
    )  # fmt: skip
    logger.info("evaluation: %d students, %d at a time, on %s", len(jobs), workers, device)
    results = run_jobs(jobs, workers=workers, progress=progress)
    return Evaluation(
        rows=summarise(results, config.architectures),
        config=config,
        artifact=str(artifact.path),
        test=_identity(test) | {"resolution": artifact.resolution, "reads": len(results)},
        train=None if train is None else _identity(train) | {"condensed_from": _is_condensed_from(artifact, train)},
        results=tuple(results),
    )


def list_jobs(
    artifact: Artifact,
    data: Path,
    test: Sidecar,
    *,
    config: EvaluationConfig,
    ipc: Sequence[int],
    train_path: Path | None,
    train: Sidecar | None,
    device: str,
) -> list[Job]:
    """The students of an evaluation, in the order of its rows. Arguments have been checked (see `evaluate`)."""
    assert artifact.path is not None
    weights = file_sha256(artifact.path / WEIGHTS)
    pixels = 3 * artifact.resolution**2
    sets: list[tuple[str, int, int, int]] = []  # method, ipc, images, bytes
    for bank in ipc:
        images = artifact.num_classes * bank
        sets.append((OURS, bank, images, artifact.sizes(bank).bytes))
        sets += [(name, bank, images, images * pixels) for name in config.baselines if name != "whole"]
    if train is not None and "whole" in config.baselines:
        sets.append(("whole", 0, train.num_images, train.num_images * pixels))
    sources = {name: (str(train_path), "" if train is None else train.sha256) for name in config.baselines}
    sources[OURS] = (str(artifact.path), weights)
    return [
        Job(
            method=method,
            architecture=architecture,
            ipc=bank,
            student=student,
            config=config,
            source=sources[method][0],
            source_sha256=sources[method][1],
            source_bytes=size,
            source_images=images,
            test=str(data),
            test_sha256=test.sha256,
            classes=artifact.classes,
            resolution=artifact.resolution,
            mean=artifact.config.mean,
            std=artifact.config.std,
            device=device,
        )
        for architecture in config.architectures
        for method, bank, images, size in sets
        for student in range(config.students)
    ]


def _recipe_config(artifact: Artifact) -> EvaluationConfig:
    recipe = artifact.recipe.get("config")
    if not isinstance(recipe, dict):
        raise ArtifactError(f"{artifact.path}: recipe.json holds no configuration; name a protocol with config")
    return config_from_dict(recipe, source=f"{artifact.path}/recipe.json").evaluation


def _check_names(artifact: Artifact, config: EvaluationConfig, ipc: Sequence[int] | None) -> tuple[int, ...]:
    """The banks to evaluate, ascending, after every name was found to be valid."""
    for name in config.architectures:
        if name not in STUDENTS:
            raise ConfigError(f"evaluation.architectures: {choices_message('architecture', name, STUDENTS)}")
    for name in config.baselines:
        check_baseline(name)
    banks = artifact.ipcs if ipc is None else tuple(sorted(set(ipc)))
    if not banks:
        raise ConfigError(f"ipc: found none, valid: {', '.join(map(str, artifact.ipcs))}")
    for bank in banks:
        artifact.config.codebook.bank_slice(bank)
    return banks


def _train_path(artifact: Artifact, test: Path) -> Path:
    found = find_train_data(artifact, beside=test)
    if found is None:
        raise DataError(
            f"baselines need the training images, and their beton is neither in the run's folder's run.json nor beside "
            f"{test}: name it with --train-data (train_data), or evaluate with no evaluation.baselines"
        )
    return found


def _check_train_data(path: Path, artifact: Artifact, config: EvaluationConfig, ipc: Sequence[int]) -> Sidecar:
    sidecar = Sidecar.load(path)
    if sidecar.classes != artifact.classes:
        raise DataError(
            f"{path}: classes: found {sidecar.num_classes}, valid: the artefact's {artifact.num_classes} classes in "
            "the same order (--train-data names the images that it was condensed from)"
        )
    if sidecar.resolution < artifact.resolution:
        raise DataError(
            f"{path}: resolution: found {sidecar.resolution} px, valid: the artefact's {artifact.resolution} px or more"
        )
    sidecar.verify(path)
    for name in config.baselines:
        check_enough_images(name, path, sidecar, max(ipc))
    return sidecar


def _is_condensed_from(artifact: Artifact, train: Sidecar) -> bool:
    return bool(artifact.recipe.get("data", {}).get("sha256") == train.sha256)


def _identity(sidecar: Sidecar) -> dict[str, Any]:
    return {
        "source": sidecar.source,
        "split": sidecar.split,
        "sha256": sidecar.sha256,
        "images": sidecar.num_images,
    }

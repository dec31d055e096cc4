"""The image sets that a condensed one has to beat under the same recipe, read from the training beton.

All are functions of their seed. They never see a test split.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from raycondense.artifact.format import read_json
from raycondense.artifact.load import Artifact
from raycondense.data.beton import BetonReader
from raycondense.data.medoids import medoids
from raycondense.data.sidecar import Sidecar
from raycondense.errors import ConfigError, DataError, choices_message
from raycondense.evaluation.train import ImageSet
from raycondense.seeds import derive_seed

Chooser = Callable[[BetonReader, np.ndarray, int, int, int], np.ndarray]
"""(reader, positions of a class's images, images per class, seed, resolution) → positions of those chosen."""


def _random(reader: BetonReader, members: np.ndarray, ipc: int, seed: int, resolution: int) -> np.ndarray:
    return members[np.random.default_rng(seed).permutation(len(members))[:ipc]]


def _kmeans(reader: BetonReader, members: np.ndarray, ipc: int, seed: int, resolution: int) -> np.ndarray:
    return members[medoids(reader.images(members, resolution), ipc, seed=seed)]


def _whole(reader: BetonReader, members: np.ndarray, ipc: int, seed: int, resolution: int) -> np.ndarray:
    return members


BASELINES: dict[str, Chooser] = {"random": _random, "kmeans": _kmeans, "whole": _whole}
"""Random real images, k-means medoids (real images nearest to the centers of their class), the whole set."""


def check_baseline(name: str) -> None:
    """Nothing where ``name`` is a baseline.

    Raises:
        ConfigError: it is not; the valid ones are named.
    """
    if name not in BASELINES:
        raise ConfigError(f"evaluation.baselines: {choices_message('baseline', name, BASELINES)}")


def check_enough_images(name: str, train: str | os.PathLike[str], sidecar: Sidecar, ipc: int) -> None:
    """Nothing where every class has the images that a baseline of ``ipc`` images per class takes.

    Raises:
        DataError: one has not.
    """
    for label, count in enumerate(sidecar.counts):
        if name != "whole" and count < ipc:
            raise DataError(
                f"{train}: class {sidecar.classes[label]!r}: found {count} images; the baseline {name!r} with "
                f"ipc {ipc} needs {ipc} or more"
            )


def baseline_set(
    name: str,
    train: str | os.PathLike[str],
    *,
    ipc: int,
    seed: int,
    resolution: int,
    classes: Sequence[int] | None = None,
) -> ImageSet:
    """The images of a baseline, ordered by class.

    Args:
        name: a key of `BASELINES`.
        train: beton of the training images.
        ipc: images per class; ``whole`` does not look at it.
        seed: of the draw (random) or of k-means; ``whole`` does not look at it.
        resolution: side of the images in pixels; larger ones are scaled down by area.
        classes: labels of the classes wanted; None is all. A class's images do not depend on the others.

    Returns:
        uint8 images [N, 3, R, R] and int64 labels [N], on the CPU. ``whole`` holds the whole set in memory.

    Raises:
        ConfigError: there is no such baseline.
        DataError: a class has fewer than ``ipc`` images.
    """
    check_baseline(name)
    reader = BetonReader(train)
    sidecar = reader.sidecar
    check_enough_images(name, train, sidecar, ipc)
    wanted = range(sidecar.num_classes) if classes is None else classes
    chosen = [
        BASELINES[name](
            reader, np.asarray(sidecar.class_range(label)), ipc, derive_seed(seed, "baseline", name, label), resolution
        )
        for label in wanted
    ]
    images = reader.images(np.concatenate(chosen), resolution)
    labels = np.repeat(np.asarray(wanted, dtype=np.int64), [len(indices) for indices in chosen])
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels))


def find_train_data(artifact: Artifact, beside: Path | None = None) -> Path | None:
    """The beton that an artefact was condensed from, or None where it is not in the usual places.

    A recipe says what was condensed and not where it lay, so a file is known by its content: the one that
    ``run.json`` of the run's folder names, or a beton in the folder of ``beside``.

    Args:
        artifact: in a run's folder or anywhere.
        beside: another beton of the same dataset, usually the test split.
    """
    wanted = artifact.recipe.get("data", {}).get("sha256")
    candidates: list[Path] = []
    run = artifact.path.absolute().parent / "run.json" if artifact.path is not None else None
    if run is not None and run.is_file():
        candidates.append(Path(read_json(run).get("data", {}).get("path", "")))
    if beside is not None:
        candidates += sorted(beside.parent.glob("*.beton"))
    for beton in candidates:
        if beton.is_file() and Sidecar.path(beton).is_file() and Sidecar.load(beton).sha256 == wanted:
            return beton
    return None

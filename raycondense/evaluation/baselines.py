"""The image sets that a condensed one has to beat under the same recipe, read from the training beton.

All are functions of their seed. They never see a test split.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from raycondense.artifact.format import read_json
from raycondense.artifact.load import Artifact
from raycondense.data.beton import BetonReader
from raycondense.data.medoids import medoids
from raycondense.data.sidecar import Sidecar
from raycondense.data.staging import staged_betons
from raycondense.errors import ConfigError, DataError, choices_message
from raycondense.evaluation.images import ImageSet
from raycondense.evaluation.whole import some_of
from raycondense.seeds import derive_seed

if TYPE_CHECKING:
    from raycondense.evaluation.diagnostics import Embed

PIECE = 4096
"""Images of a class that are in memory while `herding` embeds it."""


class ClassImages(NamedTuple):
    """The real images of a class, and what is asked of them."""

    reader: BetonReader
    members: np.ndarray
    """int64 [n]: positions in the beton of those to choose from."""
    ipc: int
    """How many are wanted, 1 to n."""
    seed: int
    """Of the class and the baseline."""
    resolution: int
    """Side in pixels at which they are compared."""
    embed: Embed | None
    """Features to compare them by, for baselines that need any."""


Chooser = Callable[[ClassImages], np.ndarray]
"""The images of a class → positions in the beton of those chosen."""


def _random(images: ClassImages) -> np.ndarray:
    return images.members[np.random.default_rng(images.seed).permutation(len(images.members))[: images.ipc]]


def _herding(images: ClassImages) -> np.ndarray:
    if images.embed is None:
        raise ConfigError(
            "evaluation.baselines: 'herding' compares images by the features of a network; found none, valid: an embed "
            "argument, which evaluations make of their reference network"
        )
    pieces = np.array_split(images.members, -(-len(images.members) // PIECE))
    features = [images.embed(torch.from_numpy(images.reader.images(p, images.resolution))) for p in pieces]
    return images.members[herding(torch.cat(features), images.ipc)]


def _kmeans(images: ClassImages) -> np.ndarray:
    pixels = images.reader.images(images.members, images.resolution)
    return images.members[medoids(pixels, images.ipc, seed=images.seed)]


def _whole(images: ClassImages) -> np.ndarray:
    return images.members


BASELINES: dict[str, Chooser] = {"random": _random, "herding": _herding, "kmeans": _kmeans, "whole": _whole}
"""Random real images, herding (`herding`, in the features of a trained network), k-means medoids (real images nearest
to the centers of their class), the whole set."""

LOOKS_AT_ALL = ("herding", "kmeans")
"""Baselines that hold something of every image that they choose from."""


def herding(features: Tensor, count: int) -> np.ndarray:
    """Choose ``count`` different images, one after the other, whose mean keeps nearest to the mean of all.

    ``p_k = argmin_x ‖ μ − (φ(x) + Σ_{j<k} φ(p_j)) / k ‖``: herding of Welling, *Herding Dynamical Weights to Learn*,
    ICML 2009, as iCaRL chooses exemplars (Rebuffi et al., arXiv 1611.07725, algorithm 4): features have length 1, so
    that no image counts more than another; their means are left as they are, and no image is chosen twice. The
    condensation literature's herding is the same greedy choice, in the features of a network trained on all real
    images (Zhao et al., arXiv 2006.05929).

    Args:
        features: [n, d] φ of the images of a class, of any length.
        count: how many, 1 to n.

    Returns:
        int64 [count], positions in the order in which they were chosen; the first m are what ``count=m`` gives.

    Raises:
        DataError: ``count`` is not in 1 to n, or a feature is not finite.
    """
    if not 1 <= count <= len(features):
        raise DataError(f"herding: found {count} of {len(features)} images, valid: 1 to {len(features)}")
    if not bool(features.isfinite().all()):
        raise DataError("herding: found features that are not finite; the network they come from diverged")
    unit = functional.normalize(features.detach().float().cpu().flatten(1))
    mean = unit.mean(dim=0, dtype=torch.float64)
    # ‖t − φ‖² with t = k μ − Σ φ(p_j), without what does not depend on φ.
    squares, missing = unit.square().sum(1), torch.zeros_like(mean)
    chosen = np.empty(count, np.int64)
    for k in range(count):
        missing += mean
        distances = squares - 2 * (unit @ missing.float())
        distances[chosen[:k]] = torch.inf
        chosen[k] = int(distances.argmin())
        missing -= unit[chosen[k]]
    return chosen


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
    embed: Embed | None = None,
    most: int = 0,
) -> ImageSet:
    """The images of a baseline, ordered by class.

    Args:
        name: a key of `BASELINES`.
        train: beton of the training images.
        ipc: images per class; ``whole`` does not look at it.
        seed: of the draw (random) or of k-means; ``herding`` and ``whole`` do not look at it.
        resolution: side of the images in pixels; larger ones are scaled down by area.
        classes: labels of the classes wanted; None is all. A class's images do not depend on the others.
        embed: uint8 images [N, 3, R, R] on the CPU → float features [N, d] on the CPU; only ``herding`` wants it.
        most: how many images of a class herding and k-means look at, at most (see
            `raycondense.evaluation.whole.class_limit`), though never fewer than ``ipc``; 0 is all.

    Returns:
        uint8 images [N, 3, R, R] and int64 labels [N], on the CPU. ``whole`` holds the whole set in memory.

    Raises:
        ConfigError: there is no such baseline, or ``herding`` without ``embed``.
        DataError: a class has fewer than ``ipc`` images.
    """
    check_baseline(name)
    reader = BetonReader(train)
    sidecar = reader.sidecar
    check_enough_images(name, train, sidecar, ipc)
    wanted = range(sidecar.num_classes) if classes is None else classes
    chosen = []
    for label in wanted:
        members, class_seed = np.asarray(sidecar.class_range(label)), derive_seed(seed, "baseline", name, label)
        if name in LOOKS_AT_ALL:
            members = some_of(members, max(most, ipc) if most else 0, label)
        chosen.append(BASELINES[name](ClassImages(reader, members, ipc, class_seed, resolution, embed)))
    images = reader.images(np.concatenate(chosen), resolution)
    labels = np.repeat(np.asarray(wanted, dtype=np.int64), [len(indices) for indices in chosen])
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels))


def find_train_data(artifact: Artifact, beside: Path | None = None) -> Path | None:
    """The beton that an artefact was condensed from, or None where it is not in the usual places.

    A recipe says what was condensed and not where it lay, so a file is known by its content: the one that
    ``run.json`` of the run's folder names, a beton in the folder of ``beside``, or one that was staged on this machine.

    Args:
        artifact: in a run's folder or anywhere.
        beside: another beton of the same dataset, usually the test split.
    """
    wanted = artifact.recipe.get("data", {}).get("sha256")
    candidates: list[Path] = []
    run = artifact.path.absolute().parent / "run.json" if artifact.path is not None else None
    if run is not None and run.is_file():
        named = read_json(run).get("data")
        path = named.get("path") if isinstance(named, dict) else None
        candidates += [Path(path)] if isinstance(path, str) else []
    if beside is not None:
        candidates += sorted(beside.parent.glob("*.beton"))
    candidates += staged_betons()
    for beton in candidates:
        if _is_file(beton) and _is_file(Sidecar.path(beton)) and Sidecar.load(beton).sha256 == wanted:
            return beton
    return None


def _is_file(path: Path) -> bool:
    """Whether there is such a file; what is no name of one (it may come from a stranger's ``run.json``) is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False

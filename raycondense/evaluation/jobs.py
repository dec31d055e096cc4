"""One student as one job: what it needs as paths and numbers, what it finds as a plain dict.

A job is the unit that any pool of workers runs: it pickles, holds no tensor and no open file, and its result
depends on nothing but its fields (and, in the last bits, on device and thread count).
"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass
from typing import Any

from raycondense.artifact.load import load
from raycondense.config import EvaluationConfig
from raycondense.data.normalize import Normalize
from raycondense.evaluation.baselines import baseline_set
from raycondense.evaluation.result import OURS
from raycondense.evaluation.score import score_on_test_split
from raycondense.evaluation.train import ImageSet, total_steps, train_student

RELATIVE_COST = {"convnet": 1.0, "alexnet": 1.0, "vgg11": 2.0, "vit": 2.0, "resnet18": 8.0}
"""Rough time of a step against a ConvNet's of width 128; used only to start long jobs first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Train and score one student."""

    method: str
    """A key of `raycondense.evaluation.result.METHOD_NAMES`."""
    architecture: str
    ipc: int
    """Images per class; 0 for the whole set."""
    student: int
    """The student's seed: its weights, the order of its images, its augmentation, the draw of a baseline's images."""
    config: EvaluationConfig
    source: str
    """The artefact's folder, or the beton of the training images for a baseline."""
    source_sha256: str
    """Of the artefact's weights or the training beton: with the other fields but the paths it decides the result."""
    source_bytes: int
    """What has to be kept to have the images (see `raycondense.evaluation.result.Row`)."""
    source_images: int
    """Images that the student is trained on."""
    test: str
    """Beton of the split to score on."""
    test_sha256: str
    classes: tuple[str, ...]
    resolution: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of the training images, by channel, of values in [0, 1]."""
    device: str = "cpu"

    @property
    def cost(self) -> float:
        """Relative run time, to start long jobs first."""
        pixels = min(self.config.batch, self.source_images) * self.resolution**2
        width = self.config.width / 128 if self.architecture == "convnet" else 1.0
        return total_steps(self.config, self.source_images) * pixels * width * RELATIVE_COST.get(self.architecture, 1.0)


def run_job(job: Job) -> dict[str, Any]:
    """Get the job's images, train its student and score it on the job's split.

    Returns:
        A dict of plain values: the job's ``method``, ``architecture``, ``ipc`` and ``student``; ``accuracy``,
        ``correct`` of ``test_images``, ``split`` and ``test_sha256``; ``images`` and ``bytes`` of the training set;
        ``steps`` and ``loss`` (None: not finite); ``seconds`` in all and ``train_seconds``.

    Raises:
        RaycondenseError: a file of the job is missing, damaged or does not fit.
    """
    start = time.perf_counter()
    images = job_images(job)
    normalize = Normalize(job.mean, job.std)
    trained = train_student(
        images, job.config, architecture=job.architecture, num_classes=len(job.classes), normalize=normalize,
        seed=job.student, device=job.device,
    )  # fmt: skip
    score = score_on_test_split(
        trained.model, job.test, classes=job.classes, resolution=job.resolution, normalize=normalize, device=job.device
    )
    return {
        "method": job.method,
        "architecture": job.architecture,
        "ipc": job.ipc,
        "student": job.student,
        "accuracy": score.accuracy,
        "correct": score.correct,
        "test_images": score.images,
        "split": score.split,
        "test_sha256": score.sha256,
        "images": len(images.labels),
        "bytes": job.source_bytes,
        "steps": trained.steps,
        "loss": trained.loss if math.isfinite(trained.loss) else None,
        "seconds": time.perf_counter() - start,
        "train_seconds": trained.seconds,
    }


def job_images(job: Job) -> ImageSet:
    """The images that the job's student is trained on, on the CPU."""
    if job.method == OURS:
        return _bank(job.source, job.source_sha256, job.ipc, job.device)
    return baseline_set(job.method, job.source, ipc=job.ipc, seed=job.student, resolution=job.resolution)


@functools.lru_cache(maxsize=2)
def _bank(folder: str, sha256: str, ipc: int, device: str) -> ImageSet:
    # The students of a bank share it: decoding once a process is enough. The hash is here because a
    # folder may hold another artefact the next time.
    bank = load(folder, device=device).bank(ipc)
    return ImageSet(bank.images.cpu(), bank.labels.cpu())

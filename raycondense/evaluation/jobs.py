"""One student as one piece of work: get the images, train, score on a split, say what was found as one plain row."""

from __future__ import annotations

import dataclasses
import functools
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from raycondense import __version__
from raycondense.config import EvaluationConfig
from raycondense.evaluation.images import ImageSet, StoredSet, TrainingSet
from raycondense.evaluation.labels import label_bytes, teacher_bytes
from raycondense.evaluation.methods import FROM_GENERATOR
from raycondense.evaluation.protocols import protocol_label, recipe_of, recipe_sha256, schedule_sha256
from raycondense.evaluation.reference import Reference, step_cost
from raycondense.evaluation.score import score_on_test_split
from raycondense.evaluation.sets import SetSpec
from raycondense.evaluation.store import Store
from raycondense.evaluation.together import train_together
from raycondense.evaluation.train import TrainedStudent, total_steps, total_views, train_student
from raycondense.evaluation.work import content_hash


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Train and score one student."""

    images: SetSpec
    """What it is trained on."""
    ipc: int
    """Images per class of its row; see `raycondense.evaluation.result.Row`."""
    accounting: str
    architecture: str
    student: int
    """The student's seed: its weights, the order of its images, its augmentation."""
    config: EvaluationConfig
    """The protocol, with the labels and the augmentation of this student."""
    augmented: bool
    """Whether this student belongs to the rows of the protocol's own augmentation."""
    test: str
    """Beton of the split to score on."""
    test_sha256: str
    dataset: str
    """Where the images come from, for people."""
    train_sha256: str | None
    """Of the training beton that the artefact was condensed from or the baseline was drawn from."""
    reference: Reference | None = None
    """Teacher of soft labels."""
    device: str = "cpu"

    @property
    def training_key(self) -> str:
        """Content hash of everything that decides the accuracy: jobs with the same one find the same."""
        return content_hash(
            {
                "work": "student",
                "images": self.images.key,
                "architecture": self.architecture,
                "student": self.student,
                "recipe": recipe_of(self.config, self.architecture),
                "reference": None if self.reference is None else self.reference.key,
                "test": self.test_sha256,
            }
        )

    @property
    def key(self) -> str:
        """Content hash of artefact or baseline, data, protocol and seed, and of the row that the student belongs to."""
        return content_hash([self.training_key, self.accounting, self.ipc, self.augmented])

    @property
    def cost(self) -> float:
        """See `raycondense.evaluation.work.Work.cost`."""
        batch = min(self.config.batch, self.images.images)
        steps = total_steps(self.config, self.images.images)
        return steps * step_cost(self.config, self.architecture, batch, self.images.domain)

    @property
    def needs(self) -> tuple[str, ...]:
        """The works that find the images and train the teacher."""
        return (*self.images.needs, *(() if self.reference is None else (self.reference.key,)))

    @property
    def label(self) -> str:
        """For people."""
        ipc = f"IPC {self.ipc}" if self.ipc else "all images"
        return f"{self.images.method}, {ipc}, {self.architecture}, student {self.student}"

    def run(self, store: Store) -> list[dict[str, Any]]:
        """Get the images, train the student and score it on the job's split."""
        start = time.perf_counter()
        images = self.images.load(store, self.device)
        generation = time.perf_counter() - start
        domain = self.images.domain
        trained = train_student(
            images, self.config, architecture=self.architecture, num_classes=len(domain.classes),
            normalize=domain.normalize, seed=self.student, device=self.device, teacher=self.teacher(store),
        )  # fmt: skip
        return [self.row(store, trained, start=start, generation=generation)]

    def teacher(self, store: Store) -> torch.nn.Module | None:
        """The network that gives soft labels, or None."""
        return None if self.reference is None else self.reference.network(store)

    def row(self, store: Store, trained: TrainedStudent, *, start: float, generation: float) -> dict[str, Any]:
        """Score a trained student and say what was found.

        Args:
            store: whose list of test reads gets a line.
            trained: the student.
            start: `time.perf_counter` when the work on it began.
            generation: seconds that getting its images took before the training.
        """
        images, config, domain = self.images, self.config, self.images.domain
        score = score_on_test_split(
            trained.model, self.test, classes=domain.classes, resolution=domain.resolution,
            normalize=domain.normalize, device=self.device, reads=store.reads, who=f"{self.label} ({self.key[:12]})",
        )  # fmt: skip
        teacher = self.teacher(store)
        views = total_views(config, images.images)
        return {
            "table": "results",
            "key": self.key,
            "finished_at": time.time(),
            "method": images.method,
            "architecture": self.architecture,
            "ipc": self.ipc,
            "accounting": self.accounting,
            "labels": config.labels,
            "augmented": self.augmented,
            "student": self.student,
            "protocol": protocol_label(config),
            "recipe_sha256": recipe_sha256(config, self.architecture),
            "schedule_sha256": schedule_sha256(config, self.architecture),
            "accuracy": score.accuracy,
            "correct": score.correct,
            "test_images": score.images,
            "split": score.split,
            "test_sha256": score.sha256,
            "train_sha256": self.train_sha256,
            "source": images.source,
            "source_sha256": images.source_sha256,
            "set_sha256": dataclasses.replace(images, draw=0).key,
            "artifact_sha256": images.source_sha256 if images.method in FROM_GENERATOR else None,
            "dataset": self.dataset,
            "classes": len(domain.classes),
            "resolution": domain.resolution,
            "images": trained.images if images.stream else images.images,
            "bytes": images.bytes,
            "teacher_bytes": 0 if teacher is None else teacher_bytes(teacher),
            "label_bytes": 0 if teacher is None else label_bytes(views, len(domain.classes)),
            "steps": trained.steps,
            "loss": trained.loss if math.isfinite(trained.loss) else None,
            "seconds": time.perf_counter() - start,
            "train_seconds": trained.seconds,
            "generation_seconds": generation + trained.generation_seconds,
            "device": _device_name(self.device),
            "torch": torch.__version__,
            "raycondense": __version__,
            "attempt": 1,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class JobGroup:
    """Several students of one row, trained together as one batched network."""

    jobs: tuple[Job, ...]
    """Jobs that differ in ``student`` (and in the draw of their images) alone."""

    @property
    def key(self) -> str:
        """Content hash of the jobs' keys."""
        return content_hash([job.key for job in self.jobs])

    @property
    def cost(self) -> float:
        """The jobs' together."""
        return sum(job.cost for job in self.jobs)

    @property
    def needs(self) -> tuple[str, ...]:
        """What any of the jobs needs."""
        return tuple(dict.fromkeys(key for job in self.jobs for key in job.needs))

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.jobs[0].label} to {self.jobs[-1].student}"

    def run(self, store: Store) -> list[dict[str, Any]]:
        """Train all students together and score them one after another."""
        start = time.perf_counter()
        first, sets = self.jobs[0], list[TrainingSet]()
        for job in self.jobs:
            images = job.images.load(store, job.device)
            assert isinstance(images, ImageSet | StoredSet), "students of a stream are not trained together"
            sets.append(images)
        generation = (time.perf_counter() - start) / len(self.jobs)
        domain = first.images.domain
        trained = train_together(
            sets, first.config, architecture=first.architecture, num_classes=len(domain.classes),
            normalize=domain.normalize, seeds=[job.student for job in self.jobs], device=first.device,
            teacher=first.teacher(store),
        )  # fmt: skip
        rows = [
            job.row(store, student, start=start, generation=generation)
            for job, student in zip(self.jobs, trained, strict=True)
        ]
        for row in rows:
            row["seconds"] /= len(rows)
        return rows


def grouped(jobs: Sequence[Job]) -> list[Job | JobGroup]:
    """Jobs that can be trained together as groups, the others as they are."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        alike = dataclasses.replace(job, student=0, images=dataclasses.replace(job.images, draw=0))
        groups.setdefault(job.key if job.images.stream else alike.key, []).append(job)
    return [members[0] if len(members) == 1 else JobGroup(jobs=tuple(members)) for members in groups.values()]


@functools.cache
def _device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"

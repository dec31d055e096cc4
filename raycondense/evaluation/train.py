"""Train one student on a set or a stream of images: the recipe of `EvaluationConfig`, nothing else.

A whole set lies on the device as one uint8 tensor and a step gathers its batch from it, because the sets
of dataset condensation are small and a data loader would take longer than the step. This file knows no
file format and no test split: `raycondense.evaluation.score` does. Several students of one architecture as one
network: `raycondense.evaluation.together`, out of the same `Views` and the same `fit`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from raycondense.augment import dsa
from raycondense.config import EvaluationConfig
from raycondense.data.normalize import Normalize
from raycondense.errors import ConfigError, DataError
from raycondense.evaluation.images import ImageSet as ImageSet  # most import it from here
from raycondense.evaluation.images import StoredSet
from raycondense.evaluation.images import TrainingSet as TrainingSet
from raycondense.evaluation.labels import cutmix, soft_labels, soft_loss
from raycondense.memory import freed_memory_kept
from raycondense.models import build_student
from raycondense.seeds import derive_seed, seeded_generator


@dataclass(frozen=True, slots=True)
class TrainedStudent:
    """A student after its last step, and what the training took."""

    model: nn.Module
    """In evaluation mode, on the training device; takes standardised images [N, 3, R, R], gives logits."""
    steps: int
    seconds: float
    """Wall-clock seconds of training, without building the network; of students trained together each one's share."""
    loss: float
    """Mean training loss of the last epoch; not finite when the student diverged."""
    generation_seconds: float = 0.0
    """Of ``seconds``, what making the images of a stream took."""
    images: int = 0
    """Distinct images that it saw, before augmentation."""


def total_steps(config: EvaluationConfig, images: int) -> int:
    """Training steps on a set of ``images`` images: epochs of whole and one partial batch, capped by ``max_steps``."""
    steps = config.epochs * math.ceil(images / config.batch)
    return min(steps, config.max_steps) if config.max_steps else steps


def total_views(config: EvaluationConfig, images: int) -> int:
    """Augmented views that a student of a set of ``images`` images sees in all its steps."""
    epochs, rest = divmod(total_steps(config, images), math.ceil(images / config.batch))
    return epochs * images + rest * config.batch  # a begun epoch lacks its partial batch


def learning_rate(config: EvaluationConfig, step: int, steps: int) -> float:
    """Learning rate of step ``step`` of ``steps``: a tenth from half of the steps on, or a half cosine to zero."""
    if config.lr_schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
    return config.lr if 2 * step < steps else 0.1 * config.lr


def student_loss(config: EvaluationConfig, logits: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of a batch: [n, C] logits against labels int64 [n] or probabilities float [n, C]."""
    if config.labels == "soft":
        return soft_loss(logits, targets, config.temperature)
    return functional.cross_entropy(logits, targets)


def train_student(
    data: TrainingSet,
    config: EvaluationConfig,
    *,
    architecture: str,
    num_classes: int,
    normalize: Normalize,
    seed: int,
    device: torch.device | str = "cpu",
    teacher: nn.Module | None = None,
) -> TrainedStudent:
    """Train one student from fresh weights; the last step counts (no early stopping, no selection).

    Weights, order of the images and augmentation are functions of ``seed``; on a CPU with the same number of threads
    the result is bit-identical. The global random state is left as it was.

    Args:
        data: uint8 images [N, 3, R, R] and their labels, on any device or in a file; or a stream of them.
        config: the recipe; ``architectures``, ``students`` and ``baselines`` are not read here.
        architecture: a name of `raycondense.models.STUDENTS`.
        num_classes: number of logits.
        normalize: standardises uint8 images (the training sidecar's mean and std).
        seed: the student's seed.
        device: where to train.
        teacher: with soft labels, gives logits [N, num_classes] of standardised images; it is moved to ``device`` and
            put in evaluation mode.

    Raises:
        DataError: the set is empty, or a label is outside ``0 … num_classes - 1``.
        ConfigError: there is no such architecture, or soft labels have no teacher.
    """
    device = torch.device(device)
    views = Views(data, config, num_classes=num_classes, normalize=normalize, seed=seed, device=device)
    batches = with_teacher(views, config, teacher, device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "student dropout"))  # dropout knows only the global generator
        model = build_student(
            architecture, num_classes=num_classes, resolution=views.resolution, width=config.width, seed=seed
        ).to(device)  # fmt: skip
        model.train()
        loss, seconds = fit(
            model.parameters(), batches, lambda images, targets: student_loss(config, model(images), targets),
            config, views.count, device,
        )  # fmt: skip
    return TrainedStudent(model.eval(), views.steps, seconds, float(loss), views.generation_seconds, views.images)


class Views:
    """What one student sees, step by step: pairs of augmented views and targets, once through.

    Views are float32 [n, 3, R, R], standardised, on the device. Targets are int64 [n], or, in a recipe with CutMix,
    probabilities float32 [n, C].

    Args:
        data: see `train_student`, as all that follows.
        config: the recipe.
        num_classes: C.
        normalize: standardises uint8 images.
        seed: the student's.
        device: where the views are wanted.

    Raises:
        DataError: the set is empty, or a label is out of range.

    Attributes:
        count: images of an epoch.
        resolution: R.
        steps: steps of the training.
        images: distinct images among all steps.
    """

    def __init__(
        self,
        data: TrainingSet,
        config: EvaluationConfig,
        *,
        num_classes: int,
        normalize: Normalize,
        seed: int,
        device: torch.device,
    ) -> None:
        self._data, self._config, self._classes, self._seed, self._device = data, config, num_classes, seed, device
        self._normalize = normalize.to(device)
        self.resolution = data.resolution
        if isinstance(data, ImageSet | StoredSet):
            _check(data.labels, num_classes)
            self.count = len(data.labels)
        else:
            self.count = data.images_per_epoch
            self._generated_before = data.generation_seconds
        if isinstance(data, ImageSet):
            self._data = ImageSet(data.images.to(device), data.labels.to(device))
        self.steps = total_steps(config, self.count)
        seen = total_views(config, self.count)
        self.images = min(self.count, seen) if isinstance(data, ImageSet | StoredSet) else seen

    @property
    def generation_seconds(self) -> float:
        """Seconds that the images of a stream took since these views were made; 0 for a set."""
        if isinstance(self._data, ImageSet | StoredSet):
            return 0.0
        return self._data.generation_seconds - self._generated_before

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        config = self._config
        for step, (images, labels) in enumerate(self._images()):
            views, targets = self._normalize(images), labels
            if config.augment:
                views = dsa(views, config.augment, derive_seed(self._seed, "student augmentation", step))
            if config.cutmix:
                views, targets = cutmix(
                    views, labels, derive_seed(self._seed, "student cutmix", step),
                    share=config.cutmix, num_classes=self._classes,
                )  # fmt: skip
            yield views, targets

    def _images(self) -> Iterator[tuple[Tensor, Tensor]]:
        """uint8 images and labels of each step; those of a set epoch by epoch in new orders."""
        data, size = self._data, self._config.batch
        per_epoch = math.ceil(self.count / size)
        random = seeded_generator(self._seed, "student order")
        order = torch.empty(0, dtype=torch.int64)
        for step in range(self.steps):
            start = step % per_epoch * size
            if isinstance(data, ImageSet | StoredSet):
                if start == 0:
                    # Where the set lies: the same order, whether its images are on the device or in a file.
                    order = torch.randperm(self.count, generator=random).to(data.labels.device, non_blocking=True)
                images, labels = data.taken(order[start : start + size])
            else:
                images, labels = data.batch(step, min(size, self.count - start))
            yield images.to(self._device), labels.to(self._device)


def _check(labels: Tensor, num_classes: int) -> None:
    if not len(labels):
        raise DataError("training set of a student: found 0 images, valid: 1 or more")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_classes:
        raise DataError(
            f"labels of a student's training set: found {lowest} to {highest}, valid: 0 to {num_classes - 1}"
        )


def with_teacher(
    batches: Iterable[tuple[Tensor, Tensor]], config: EvaluationConfig, teacher: nn.Module | None, device: torch.device
) -> Iterable[tuple[Tensor, Tensor]]:
    """The batches as they are; with soft labels the teacher's probabilities of the views take the targets' place.

    Args:
        batches: views [..., 3, R, R] and targets.
        config: the recipe.
        teacher: see `train_student`.
        device: where the views are.

    Raises:
        ConfigError: soft labels without a teacher.
    """
    if config.labels == "hard":
        return batches
    if teacher is None:
        raise ConfigError("evaluation.labels: found 'soft' and no teacher, valid: 'hard', or a teacher network")
    network = teacher.to(device).eval()
    return ((views, soft_labels(network, views, config.temperature)) for views, _ in batches)


def fit(
    parameters: Iterable[nn.Parameter],
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    config: EvaluationConfig,
    count: int,
    device: torch.device,
) -> tuple[Tensor, float]:
    """The training loop: one update of ``parameters`` for each batch.

    Args:
        parameters: leaf tensors.
        batches: views and targets of each step.
        loss_of: the loss of views and targets; a vector holds the losses of independent students.
        config: the recipe: optimizer, learning rates, steps.
        count: images of an epoch.
        device: where it all lies.

    Returns:
        The mean loss over the last epoch, shaped as ``loss_of`` gives it, on the CPU; and seconds.
    """
    steps, per_epoch = total_steps(config, count), math.ceil(count / config.batch)
    optimizer = _optimizer(config, parameters)
    losses = torch.zeros((), device=device)
    with freed_memory_kept(device):
        start = time.perf_counter()
        for step, (views, targets) in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, steps)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(views, targets)
            loss.backward(torch.ones_like(loss))
            optimizer.step()
            losses = loss.detach() + (losses if step % per_epoch else 0)
        mean_loss = losses.double().cpu() / ((steps - 1) % per_epoch + 1)  # waits, so the seconds are true
        return mean_loss, time.perf_counter() - start


def _optimizer(config: EvaluationConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    # The first learning rate is a number that `fit` sets before each step. `fused` is one kernel for all
    # parameters: on a small ConvNet on a CPU the update is otherwise a visible part of the step.
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    return torch.optim.SGD(parameters, lr=config.lr, momentum=0.9, weight_decay=config.weight_decay, fused=True)

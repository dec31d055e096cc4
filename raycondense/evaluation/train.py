"""Train one student on a fixed set of images: the recipe of `EvaluationConfig`, nothing else.

The whole set lies on the device as one uint8 tensor and a step gathers its batch from it, because the sets
of dataset condensation are small and a data loader would take longer than the step. This file knows no
file format and no test split: `raycondense.evaluation.score` does.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from raycondense.augment import dsa
from raycondense.config import EvaluationConfig
from raycondense.data.normalize import Normalize
from raycondense.errors import DataError
from raycondense.models import build_student
from raycondense.seeds import derive_seed, seeded_generator


class ImageSet(NamedTuple):
    """A labelled set of images in memory."""

    images: Tensor
    """uint8 [N, 3, R, R]."""
    labels: Tensor
    """int64 [N]."""


@dataclass(frozen=True, slots=True)
class TrainedStudent:
    """A student after its last step, and what the training took."""

    model: nn.Module
    """In evaluation mode, on the training device; takes standardised images [N, 3, R, R], gives logits."""
    steps: int
    seconds: float
    """Wall-clock seconds of training, without building the network."""
    loss: float
    """Mean training loss of the last epoch; not finite when the student diverged."""


def total_steps(config: EvaluationConfig, images: int) -> int:
    """Training steps on a set of ``images`` images: epochs of whole and one partial batch, capped by ``max_steps``."""
    steps = config.epochs * math.ceil(images / config.batch)
    return min(steps, config.max_steps) if config.max_steps else steps


def learning_rate(config: EvaluationConfig, step: int, steps: int) -> float:
    """Learning rate of step ``step`` of ``steps``: a tenth from half of the steps on, or a half cosine to zero."""
    if config.lr_schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
    return config.lr if 2 * step < steps else 0.1 * config.lr


def _optimizer(config: EvaluationConfig, model: nn.Module) -> torch.optim.Optimizer:
    # The first learning rate is a tensor-free number that `train_student` sets before each step. `fused` is one kernel
    # for all parameters: on a small ConvNet on a CPU the update is otherwise a visible part of the step.
    if config.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    return torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=0.9, weight_decay=config.weight_decay, fused=True
    )  # fmt: skip


def train_student(
    data: ImageSet,
    config: EvaluationConfig,
    *,
    architecture: str,
    num_classes: int,
    normalize: Normalize,
    seed: int,
    device: torch.device | str = "cpu",
) -> TrainedStudent:
    """Train one student from fresh weights; the last step counts (no early stopping, no selection).

    Weights, order of the images and augmentation are functions of ``seed``; on a CPU with the same number of threads
    the result is bit-identical. The global random state is left as it was.

    Args:
        data: uint8 images [N, 3, R, R] and their labels, on any device.
        config: the recipe; ``architectures``, ``students`` and ``baselines`` are not read here.
        architecture: a name of `raycondense.models.STUDENTS`.
        num_classes: number of logits.
        normalize: standardises uint8 images (the training sidecar's mean and std).
        seed: the student's seed.
        device: where to train.

    Raises:
        DataError: the set is empty, or a label is outside ``0 … num_classes - 1``.
        ConfigError: there is no such architecture.
    """
    images, labels = data.images.to(device), data.labels.to(device)
    count, resolution = len(images), images.shape[-1]
    if not count:
        raise DataError("training set of a student: found 0 images, valid: 1 or more")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise DataError(f"labels of a student's training set: found {found}, valid: 0 to {num_classes - 1}")
    device = images.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "student dropout"))  # dropout knows only the global generator
        model = build_student(
            architecture, num_classes=num_classes, resolution=resolution, width=config.width, seed=seed
        ).to(device)  # fmt: skip
        normalize = normalize.to(device)
        return _train(model, images, labels, config, normalize, seed)


def _train(
    model: nn.Module, images: Tensor, labels: Tensor, config: EvaluationConfig, normalize: Normalize, seed: int
) -> TrainedStudent:
    count, device = len(images), images.device
    per_epoch = math.ceil(count / config.batch)
    steps = total_steps(config, count)
    optimizer = _optimizer(config, model)
    order_generator = seeded_generator(seed, "student order")
    order = torch.arange(count, device=device)
    losses = torch.zeros((), device=device)
    model.train()
    start = time.perf_counter()
    for step in range(steps):
        position = step % per_epoch
        if position == 0:
            order = torch.randperm(count, generator=order_generator).to(device, non_blocking=True)
            losses.zero_()
        chosen = order[position * config.batch : (position + 1) * config.batch]
        batch, target = normalize(images[chosen]), labels[chosen]
        if config.augment:
            batch = dsa(batch, config.augment, derive_seed(seed, "student augmentation", step))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, steps)
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(model(batch), target)
        loss.backward()
        optimizer.step()
        losses += loss.detach()
    mean_loss = float(losses) / ((steps - 1) % per_epoch + 1)  # also waits for the device, so the seconds are true
    return TrainedStudent(model.eval(), steps, time.perf_counter() - start, mean_loss)

"""What a student is asked to answer: hard labels, mixed ones (CutMix), or a teacher's for every augmented view."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from raycondense.seeds import seeded_generator

LABEL_BYTES = 2
"""Bytes of one stored probability: float16."""


def cutmix(views: Tensor, labels: Tensor, seed: int, *, share: float, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sometimes paste a box of other images of the batch into each image, and mix the labels by area.

    Yun et al., *CutMix*, arXiv 1905.04899, as in its code: one box and one permutation for the batch, the kept area
    uniform in [0, 1] before the box is cut off at the image's edge, the box's middle anywhere.

    Args:
        views: [n, 3, R, R], augmented.
        labels: int64 [n].
        seed: decides whether, where and with whom; the same on every device.
        share: probability that a call mixes, 0 to 1.
        num_classes: C.

    Returns:
        Views of the same shape and class probabilities float32 [n, C].
    """
    random = seeded_generator(seed)
    chance, kept, *middle = torch.rand(4, generator=random).tolist()
    targets = functional.one_hot(labels, num_classes).float()
    if chance >= share:
        return views, targets
    side = views.shape[-1]
    half = int(side * math.sqrt(1 - kept)) // 2
    places = [int(side * u) for u in middle]
    rows, columns = (slice(max(0, place - half), min(side, place + half)) for place in places)
    partners = torch.randperm(len(views), generator=random).to(views.device, non_blocking=True)
    mixed = views.clone()
    mixed[:, :, rows, columns] = views[partners, :, rows, columns]
    pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / side**2
    return mixed, torch.lerp(targets, targets[partners], pasted)


def soft_labels(teacher: nn.Module, views: Tensor, temperature: float) -> Tensor:
    """The teacher's class probabilities at a temperature.

    Args:
        teacher: in evaluation mode; takes standardised images [N, 3, R, R], gives logits [N, C].
        views: [..., 3, R, R], standardised and augmented.
        temperature: T in softmax(logits / T), more than 0.

    Returns:
        float32 [..., C], without gradients.
    """
    with torch.no_grad():
        logits: Tensor = teacher(views.flatten(0, -4))
        return torch.softmax(logits / temperature, 1).unflatten(0, views.shape[:-3])


def soft_loss(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """``T² KL(targets ‖ softmax(logits / T))``, mean over the batch (Hinton et al., arXiv 1503.02531, section 2.1).

    The factor keeps the size of the gradient about the same whatever the temperature.

    Args:
        logits: the student's, [n, C].
        targets: the teacher's probabilities at the same temperature, [n, C].
        temperature: T, more than 0.
    """
    answers = torch.log_softmax(logits / temperature, 1)
    # Not functional.kl_div, which vmap would call once for each student.
    divergence = torch.xlogy(targets, targets) - targets * answers
    return divergence.sum(1).mean() * temperature**2


def label_bytes(views: int, num_classes: int) -> int:
    """Bytes that storing a teacher's probabilities of ``views`` augmented views would take, as float16."""
    return views * num_classes * LABEL_BYTES


def teacher_bytes(teacher: nn.Module) -> int:
    """Bytes of a teacher's weights and buffers as they are."""
    return sum(tensor.numel() * tensor.element_size() for tensor in teacher.state_dict().values())

"""Several students of one architecture trained as one network whose weights have one more dimension.

A small student's step keeps a GPU waiting for the next kernel to be launched. Here the kernels of all students are
launched once. Every student keeps its own weights, images, order, augmentation and learning rates, so it becomes the
student that `raycondense.evaluation.train.train_student` makes, but for the order of sums.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from raycondense.config import EvaluationConfig
from raycondense.data.normalize import Normalize
from raycondense.evaluation.train import (
    ImageSet,
    TrainedStudent,
    TrainingSet,
    Views,
    fit,
    student_loss,
    with_teacher,
)
from raycondense.models import build_student
from raycondense.seeds import derive_seed

FASTER_ON_CUDA = frozenset({"convnet", "vit"})
"""Architectures whose small steps wait for launches; benchmarks/students.py measures it on the GPU at hand."""


def prefers_together(device: torch.device | str, architecture: str) -> bool:
    """Whether students of an architecture are expected to train faster as one network on a device.

    On a CPU none is: there the arithmetic takes the time, and benchmarks/students.py found ratios of 0.4 to 0.96.
    """
    return torch.device(device).type == "cuda" and architecture in FASTER_ON_CUDA


def train_together(
    sets: Sequence[TrainingSet],
    config: EvaluationConfig,
    *,
    architecture: str,
    num_classes: int,
    normalize: Normalize,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    teacher: nn.Module | None = None,
) -> list[TrainedStudent]:
    """Train one student for each pair of a set and a seed, all in the same steps.

    Args:
        sets: what each student is trained on, all of the same size; several may be the same one.
        config: see `train_student`, as all that follows.
        architecture: of all students.
        num_classes: number of logits.
        normalize: standardises uint8 images.
        seeds: of each student.
        device: where to train; the weights, images and steps of all students must fit there.
        teacher: one for all.

    Returns:
        What `train_student` returns for each pair; the seconds are shared out equally.

    Raises:
        ValueError: no set, not one seed for each, or sets of different sizes.
        DataError: see `train_student`.
        ConfigError: see `train_student`.
    """
    device = torch.device(device)
    views = [
        Views(data, config, num_classes=num_classes, normalize=normalize, seed=seed, device=device)
        for data, seed in zip(_shared(sets, device), seeds, strict=True)
    ]
    sizes = sorted({(view.count, view.resolution) for view in views})
    if len(sizes) != 1:
        raise ValueError(f"students trained together: found sets of (images, px) {sizes}, valid: one size for all")
    batches = with_teacher(_stacked(views), config, teacher, device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed("students dropout", *seeds))
        models = [
            build_student(
                architecture, num_classes=num_classes, resolution=views[0].resolution, width=config.width, seed=seed
            ).to(device).train()
            for seed in seeds
        ]  # fmt: skip
        parameters, buffers = stack_module_state(models)
        skeleton = copy.deepcopy(models[0]).to("meta")

        def loss_of(weights: dict[str, Tensor], state: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
            return student_loss(config, functional_call(skeleton, (weights, state), (images,)), targets)

        losses_of = vmap(loss_of, randomness="different")
        losses, seconds = fit(
            parameters.values(), batches, lambda images, targets: losses_of(parameters, buffers, images, targets),
            config, views[0].count, device,
        )  # fmt: skip
    with torch.no_grad():
        for place, model in enumerate(models):
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                tensor.copy_((parameters | buffers)[name][place])
    share = seconds / len(models)
    return [
        TrainedStudent(model.eval(), view.steps, share, float(loss), view.generation_seconds, view.images)
        for model, view, loss in zip(models, views, losses, strict=True)
    ]


def _shared(sets: Sequence[TrainingSet], device: torch.device) -> list[TrainingSet]:
    """The sets on the device; a set that several students share lies there once."""
    placed = {id(data.images): data.images.to(device) for data in sets if isinstance(data, ImageSet)}
    return [ImageSet(placed[id(data.images)], data.labels) if isinstance(data, ImageSet) else data for data in sets]


def _stacked(views: Sequence[Views]) -> Iterator[tuple[Tensor, Tensor]]:
    """[S, n, 3, R, R] views and targets [S, n] or [S, n, C] of each step."""
    for batches in zip(*views, strict=True):
        images, targets = zip(*batches, strict=True)
        yield torch.stack(images), torch.stack(targets)

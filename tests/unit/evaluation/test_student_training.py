"""`raycondense.evaluation.train`: the recipe of one student."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raycondense.config import EvaluationConfig
from raycondense.data.normalize import Normalize
from raycondense.errors import ConfigError, DataError
from raycondense.evaluation.train import (
    ImageSet,
    TrainedStudent,
    Views,
    learning_rate,
    total_steps,
    total_views,
    train_student,
)

NORMALIZE = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture
def images() -> ImageSet:
    """Dark images of class 0, bright ones of class 1."""
    noise = torch.randint(0, 60, (20, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(2).repeat_interleave(10)
    top = torch.zeros(20, 1, 8, 8, dtype=torch.int64)
    top[10:, :, :4] = 180
    return ImageSet((noise + top).to(torch.uint8), labels)


def recipe(**changes: object) -> EvaluationConfig:
    return EvaluationConfig(**({"width": 8, "epochs": 5, "batch": 8} | changes))


def train(
    data: ImageSet, seed: int = 0, architecture: str = "convnet", teacher: nn.Module | None = None, **changes: object
) -> TrainedStudent:
    return train_student(
        data, recipe(**changes), architecture=architecture, num_classes=2, normalize=NORMALIZE, seed=seed,
        teacher=teacher,
    )  # fmt: skip


def views_of(data: ImageSet, seed: int = 0, **changes: object) -> list[tuple[Tensor, Tensor]]:
    views = Views(
        data, recipe(**changes), num_classes=2, normalize=NORMALIZE, seed=seed, device=torch.device("cpu")
    )  # fmt: skip
    return list(views)


class Contrary(nn.Module):
    """Says the other class of what is bright or dark at the top; notes what it saw and how."""

    def __init__(self) -> None:
        super().__init__()
        self.sure = nn.Parameter(torch.tensor(4.0))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        self.seen.append(images)
        bright = images[:, :, :4].mean((1, 2, 3)) * self.sure
        return torch.stack((bright, -bright), 1)


def test_steps_are_epochs_of_whole_and_partial_batches_up_to_the_cap() -> None:
    assert total_steps(EvaluationConfig(epochs=5, batch=8), 20) == 15
    assert total_steps(EvaluationConfig(epochs=5, batch=8, max_steps=7), 20) == 7
    assert total_steps(EvaluationConfig(epochs=5, batch=8, max_steps=70), 20) == 15


@pytest.mark.parametrize("changes", [{}, {"max_steps": 7}, {"max_steps": 2}, {"batch": 20}, {"batch": 64}])
def test_views_are_those_of_all_batches(images: ImageSet, changes: dict[str, int]) -> None:
    found = views_of(images, **changes)
    assert len(found) == total_steps(recipe(**changes), 20)
    assert sum(len(views) for views, _ in found) == total_views(recipe(**changes), 20)


def test_step_schedule_falls_to_a_tenth_at_half_of_the_steps() -> None:
    config = EvaluationConfig(lr=0.2, lr_schedule="step")
    assert [learning_rate(config, step, 4) for step in range(4)] == pytest.approx([0.2, 0.2, 0.02, 0.02])
    assert [learning_rate(config, step, 5) for step in range(5)] == pytest.approx([0.2, 0.2, 0.2, 0.02, 0.02])


def test_cosine_schedule_falls_from_the_rate_towards_zero() -> None:
    config = EvaluationConfig(lr=0.2, lr_schedule="cosine")
    assert [learning_rate(config, step, 4) for step in (0, 2)] == pytest.approx([0.2, 0.1])
    assert 0 < learning_rate(config, 3, 4) < 0.05


@pytest.mark.parametrize("architecture", ["convnet", "alexnet"])
def test_same_seed_same_student_and_the_global_generator_is_left_alone(images: ImageSet, architecture: str) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = train(images, max_steps=3, architecture=architecture)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    second, other = (train(images, seed, max_steps=3, architecture=architecture) for seed in (0, 1))
    weights = [torch.cat([p.flatten() for p in s.model.parameters()]) for s in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert first.loss == second.loss
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_student_learns_what_is_easy(images: ImageSet, optimizer: str) -> None:
    student = train(images, epochs=30, optimizer=optimizer, lr=0.01)
    assert student.steps == 90
    assert not student.model.training
    with torch.inference_mode():
        predicted = student.model(NORMALIZE(images.images)).argmax(1)
    assert (predicted == images.labels).all()


def test_the_loss_is_the_mean_over_the_last_epoch(images: ImageSet) -> None:
    # With a learning rate of nearly nothing and one batch an epoch it is the loss of a fresh student.
    student = train(images, epochs=3, batch=64, lr=1e-12, augment=(), weight_decay=0.0)
    with torch.inference_mode():
        fresh = torch.nn.functional.cross_entropy(student.model(NORMALIZE(images.images)), images.labels)
    assert student.loss == pytest.approx(float(fresh), rel=1e-5)
    small = train(images, epochs=3, batch=10, lr=1e-12, augment=(), weight_decay=0.0)
    assert small.loss == pytest.approx(float(fresh), rel=1e-5)


def test_distinct_images_seen(images: ImageSet) -> None:
    assert train(images, max_steps=5).images == 20
    assert train(images, max_steps=2).images == 16
    assert train(images, max_steps=2).generation_seconds == 0


def test_soft_labels_are_the_teachers_for_each_augmented_view(images: ImageSet) -> None:
    teacher = Contrary().train()
    student = train(images, teacher=teacher, labels="soft", temperature=2.0, epochs=60)
    assert teacher.sure.grad is None
    with torch.inference_mode():
        predicted = student.model(NORMALIZE(images.images)).argmax(1)
    assert (predicted == 1 - images.labels).all(), "the student learned the labels, not the teacher's answers"
    expected = views_of(images, epochs=60)
    assert len(teacher.seen) == len(expected) == 180
    assert all(torch.equal(seen, views) for seen, (views, _) in zip(teacher.seen, expected, strict=True))


def test_hard_labels_do_not_ask_the_teacher(images: ImageSet) -> None:
    teacher = Contrary()
    assert train(images, teacher=teacher, max_steps=2).loss == train(images, max_steps=2).loss
    assert not teacher.seen


def test_the_loss_with_soft_labels_is_the_divergence_from_the_teacher(images: ImageSet) -> None:
    teacher = Contrary().eval()
    arguments = {"epochs": 1, "batch": 64, "lr": 1e-12, "augment": (), "weight_decay": 0.0, "labels": "soft"}
    student = train(images, teacher=teacher, temperature=3.0, **arguments)
    with torch.inference_mode():
        inputs = NORMALIZE(images.images)
        answers, wanted = (torch.softmax(network(inputs) / 3, 1) for network in (student.model, teacher))
        divergence = (wanted * (wanted / answers).log()).sum(1).mean()
    assert student.loss == pytest.approx(9 * float(divergence), rel=1e-4)


def test_cutmix_mixes_a_share_of_the_steps_and_the_teacher_sees_them(images: ImageSet) -> None:
    plain, found = (views_of(images, cutmix=share, epochs=40) for share in (0.0, 0.5))
    assert all(labels.dtype == torch.int64 for _, labels in plain)
    changed = [
        not torch.equal(mixed, views) for (mixed, _), (views, _) in zip(found, plain, strict=True)
    ]  # fmt: skip
    assert 0.3 < sum(changed) / len(changed) < 0.6
    for (_, targets), (_, labels), mixed in zip(found, plain, changed, strict=True):
        assert targets.shape == (len(labels), 2)
        assert mixed or torch.equal(targets.argmax(1), labels)
    teacher = Contrary()
    train(images, teacher=teacher, labels="soft", cutmix=0.5, epochs=40)
    assert all(torch.equal(seen, views) for seen, (views, _) in zip(teacher.seen, found, strict=True))


def test_a_student_learns_under_cutmix(images: ImageSet) -> None:
    student = train(images, epochs=60, cutmix=0.5)
    with torch.inference_mode():
        predicted = student.model(NORMALIZE(images.images)).argmax(1)
    assert (predicted == images.labels).all()


def test_the_order_of_the_images_stays_what_it_was() -> None:
    # Kept results of earlier versions stay comparable. The numbers are torch's, so they are the same on every machine.
    numbers = torch.arange(8, dtype=torch.uint8)[:, None, None, None].expand(8, 3, 8, 8)
    views = views_of(ImageSet(numbers, torch.zeros(8, dtype=torch.int64)), augment=(), epochs=2, batch=5)
    shown = [((batch[:, 0, 0, 0] * 0.25 + 0.5) * 255).round().int().tolist() for batch, _ in views]
    assert shown == [[2, 0, 3, 4, 6], [7, 5, 1], [7, 6, 2, 4, 1], [0, 3, 5]]


def test_errors_name_what_is_wrong(images: ImageSet) -> None:
    with pytest.raises(DataError, match="0 images"):
        train(ImageSet(images.images[:0], images.labels[:0]))
    with pytest.raises(DataError, match="0 to 2, valid: 0 to 1"):
        train(ImageSet(images.images, images.labels + torch.arange(20).ge(19)))
    with pytest.raises(ConfigError, match=r"convnett.*convnet.*resnet18"):
        train(images, architecture="convnett")
    with pytest.raises(ConfigError, match=r"evaluation\.labels: found 'soft' and no teacher"):
        train(images, labels="soft")

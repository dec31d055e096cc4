"""`raycondense.evaluation.train`: the recipe of one student."""

from __future__ import annotations

import pytest
import torch

from raycondense.config import EvaluationConfig
from raycondense.data.normalize import Normalize
from raycondense.errors import ConfigError, DataError
from raycondense.evaluation.train import ImageSet, TrainedStudent, learning_rate, total_steps, train_student

NORMALIZE = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture
def images() -> ImageSet:
    """Dark images of class 0, bright ones of class 1."""
    noise = torch.randint(0, 60, (20, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(2).repeat_interleave(10)
    top = torch.zeros(20, 1, 8, 8, dtype=torch.int64)
    top[10:, :, :4] = 180
    return ImageSet((noise + top).to(torch.uint8), labels)


def train(data: ImageSet, seed: int = 0, architecture: str = "convnet", **changes: object) -> TrainedStudent:
    config = EvaluationConfig(**({"width": 8, "epochs": 5, "batch": 8} | changes))
    return train_student(data, config, architecture=architecture, num_classes=2, normalize=NORMALIZE, seed=seed)


def test_steps_are_epochs_of_whole_and_partial_batches_up_to_the_cap() -> None:
    assert total_steps(EvaluationConfig(epochs=5, batch=8), 20) == 15
    assert total_steps(EvaluationConfig(epochs=5, batch=8, max_steps=7), 20) == 7
    assert total_steps(EvaluationConfig(epochs=5, batch=8, max_steps=70), 20) == 15


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


def test_errors_name_what_is_wrong(images: ImageSet) -> None:
    with pytest.raises(DataError, match="0 images"):
        train(ImageSet(images.images[:0], images.labels[:0]))
    with pytest.raises(DataError, match="0 to 2, valid: 0 to 1"):
        train(ImageSet(images.images, images.labels + torch.arange(20).ge(19)))
    with pytest.raises(ConfigError, match=r"convnett.*convnet.*resnet18"):
        train(images, architecture="convnett")

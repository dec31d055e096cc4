"""`raycondense.evaluation.together`: students trained as one network are those that are trained alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raycondense.config import EvaluationConfig
from raycondense.data.normalize import Normalize
from raycondense.errors import ConfigError, DataError
from raycondense.evaluation import together, train
from raycondense.evaluation.together import prefers_together, train_together
from raycondense.evaluation.train import ImageSet, TrainedStudent, train_student
from raycondense.models import STUDENTS, build_student

SEEDS = (3, 4)


class Double(Normalize):
    """Standardised images in float64."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).double()


NORMALIZE = Double((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture(autouse=True)
def _float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 the order of sums alone moves the weights of a network with batch norm visibly within a few steps."""
    for module in (train, together):
        monkeypatch.setattr(module, "build_student", lambda *a, **k: build_student(*a, **k).double())


def some_set(seed: int, count: int = 12, resolution: int = 8) -> ImageSet:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, resolution, resolution), generator=random)
    return ImageSet(images.to(torch.uint8), torch.arange(count) % 3)


def both(
    config: EvaluationConfig, *, architecture: str = "convnet", teacher: nn.Module | None = None
) -> tuple[list[TrainedStudent], list[TrainedStudent]]:
    """Students of two sets trained alone, and together."""
    sets = [some_set(seed) for seed in SEEDS]
    arguments = {"architecture": architecture, "num_classes": 3, "normalize": NORMALIZE, "teacher": teacher}
    alone = [train_student(data, config, seed=seed, **arguments) for data, seed in zip(sets, SEEDS, strict=True)]
    return alone, train_together(sets, config, seeds=SEEDS, **arguments)


def assert_same(alone: list[TrainedStudent], found: list[TrainedStudent]) -> None:
    for one, other in zip(alone, found, strict=True):
        assert (other.steps, other.images) == (one.steps, one.images)
        assert other.loss == pytest.approx(one.loss, rel=1e-9)
        assert not other.model.training
        state = other.model.state_dict()
        for name, tensor in one.model.state_dict().items():
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("architecture", sorted(STUDENTS))
def test_every_architecture_becomes_what_it_becomes_alone(architecture: str) -> None:
    alone, found = both(EvaluationConfig(width=8, epochs=2, batch=8), architecture=architecture)
    assert_same(alone, found)
    first, second = (list(student.model.state_dict().values()) for student in found)
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 6, "lr": 0.05},
        {"optimizer": "adamw", "lr": 1e-3, "lr_schedule": "cosine"},
        {"cutmix": 0.5, "max_steps": 7},
        {"labels": "soft", "temperature": 2.0, "cutmix": 0.5},
        {"augment": (), "batch": 64},
    ],
)
def test_every_recipe_becomes_what_it_becomes_alone(changes: dict[str, object]) -> None:
    teacher = build_student("vgg11", num_classes=3, resolution=8, seed=9).double()
    config = EvaluationConfig(**({"width": 8, "epochs": 4, "batch": 8} | changes))
    assert_same(*both(config, teacher=teacher if config.labels == "soft" else None))


def test_a_shared_set_and_the_global_generator() -> None:
    data, config = some_set(0), EvaluationConfig(width=8, epochs=2, batch=8)
    arguments = {"architecture": "convnet", "num_classes": 3, "normalize": NORMALIZE}
    state = torch.get_rng_state()
    found = train_together([data] * 3, config, seeds=(0, 1, 2), **arguments)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same([train_student(data, config, seed=seed, **arguments) for seed in (0, 1, 2)], found)


def test_one_student_that_diverges_leaves_the_others_alone() -> None:
    config = EvaluationConfig(width=8, epochs=4, batch=8)
    arguments = {"architecture": "convnet", "num_classes": 3, "normalize": NORMALIZE}
    broken = ImageSet(torch.full((12, 3, 8, 8), torch.nan, dtype=torch.float64), some_set(0).labels)
    lost, fine = train_together([broken, some_set(1)], config, seeds=SEEDS, **arguments)
    assert lost.loss != lost.loss
    assert_same([train_student(some_set(1), config, seed=SEEDS[1], **arguments)], [fine])


def test_errors_say_what_does_not_fit() -> None:
    arguments = {"architecture": "convnet", "num_classes": 3, "normalize": NORMALIZE}
    config = EvaluationConfig(width=8)
    with pytest.raises(ValueError, match=r"found sets of \(images, px\) \[\(9, 8\), \(12, 8\)\]"):
        train_together([some_set(0), some_set(1, 9)], config, seeds=SEEDS, **arguments)
    with pytest.raises(ValueError, match=r"\(12, 8\), \(12, 16\)"):
        train_together([some_set(0), some_set(1, resolution=16)], config, seeds=SEEDS, **arguments)
    with pytest.raises(ValueError, match="shorter"):
        train_together([some_set(0), some_set(1)], config, seeds=(1,), **arguments)
    with pytest.raises(ValueError, match="valid: one size for all"):
        train_together([], config, seeds=(), **arguments)
    with pytest.raises(DataError, match="0 to 2, valid: 0 to 1"):
        train_together([some_set(0)], config, seeds=(1,), **(arguments | {"num_classes": 2}))
    with pytest.raises(ConfigError, match="no teacher"):
        train_together([some_set(0)], EvaluationConfig(labels="soft"), seeds=(1,), **arguments)


def test_on_a_cpu_students_are_trained_one_after_another() -> None:
    assert not any(prefers_together("cpu", name) for name in STUDENTS)
    assert {name for name in STUDENTS if prefers_together("cuda:0", name)} <= set(STUDENTS)
    assert prefers_together(torch.device("cuda"), "convnet")

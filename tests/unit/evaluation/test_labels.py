"""`raycondense.evaluation.labels`: CutMix, soft labels and what they cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raycondense.evaluation.labels import cutmix, label_bytes, soft_labels, soft_loss, teacher_bytes

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


NUMBERS = torch.arange(6.0)[:, None, None, None]


def mixed(seed: int, *, share: float = 1.0) -> tuple[Tensor, Tensor]:
    """CutMix of six images of 16 px, each filled with its own number."""
    return cutmix(NUMBERS.expand(6, 3, 16, 16), LABELS, seed, share=share, num_classes=3)


def test_a_box_of_another_image_is_pasted_and_labels_follow_the_area() -> None:
    areas = []
    for seed in range(200):
        views, targets = mixed(seed)
        foreign = views != NUMBERS
        boxes = foreign[foreign.flatten(1).any(1)]
        if len(boxes):
            box = boxes[0, 0]
            assert (boxes == box).all(), "not the same box everywhere"
            assert torch.equal(box, box.any(1)[:, None] & box.any(0)), "not a rectangle"
            areas.append(float(box.float().mean()))
        shares = nn.functional.one_hot(LABELS[views[:, 0].long()], 3).float().mean((1, 2))
        torch.testing.assert_close(targets, shares)
    assert len(areas) > 150
    # A kept area uniform in [0, 1], boxes cut off at the edge: pasted areas of every size, less than half on average.
    assert min(areas) < 0.1
    assert max(areas) > 0.7
    assert 0.2 < sum(areas) / len(areas) < 0.4


def test_every_image_is_pasted_into_one() -> None:
    for seed in range(20):
        views, targets = mixed(seed)
        if not torch.equal(targets.amax(1), torch.ones(6)):
            break
    others = [image[image != number].unique().tolist() or [float(number)] for number, image in enumerate(views)]
    assert sorted(others) == [[float(number)] for number in range(6)]


def test_the_share_of_calls_that_mix() -> None:
    def share_of(share: float) -> float:
        return sum(bool((mixed(seed, share=share)[0] != NUMBERS).any()) for seed in range(400)) / 400

    assert share_of(0.0) == 0
    assert 0.15 < share_of(0.25) < 0.32
    assert share_of(1.0) > 0.85  # some boxes have no pixel


def test_the_seed_decides() -> None:
    assert all(torch.equal(a, b) for seed in range(9) for a, b in zip(mixed(seed), mixed(seed), strict=True))
    assert len({tuple(mixed(seed)[1].flatten().tolist()) for seed in range(20)}) > 10


def test_without_mixing_targets_are_the_labels() -> None:
    views, targets = mixed(0, share=0.0)
    assert torch.equal(targets.argmax(1), LABELS)
    assert torch.equal(targets.sum(1), torch.ones(6))
    assert torch.equal(views[:, 0, 0, 0], torch.arange(6.0))


def test_soft_labels_are_the_teachers_at_the_temperature() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    views = torch.randn(2, 5, 3, 2, 2)
    found = soft_labels(teacher, views, 2.0)
    assert found.shape == (2, 5, 3)
    assert not found.requires_grad
    logits = teacher(views[1]).detach()
    powers = torch.exp(logits / 2)
    torch.testing.assert_close(found[1], powers / powers.sum(1, keepdim=True))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_loss_and_its_gradient(temperature: float) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=random).requires_grad_()
    of_teacher = torch.randn(4, 3, generator=random)
    targets = torch.softmax(of_teacher / temperature, 1)
    loss = soft_loss(logits, targets, temperature)
    loss.backward()
    answers = torch.softmax(logits.detach() / temperature, 1)
    divergence = (targets * (targets / answers).log()).sum(1).mean()
    torch.testing.assert_close(loss.detach(), temperature**2 * divergence)
    torch.testing.assert_close(logits.grad, temperature * (answers - targets) / 4)
    assert float(soft_loss(of_teacher, targets, temperature)) == pytest.approx(0, abs=1e-5)


def test_soft_loss_of_a_certain_teacher_is_finite() -> None:
    assert float(soft_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), 1.0)) == pytest.approx(0.6931472)


def test_bytes_of_labels_and_of_a_teacher() -> None:
    assert label_bytes(7, 10) == 7 * 10 * torch.zeros((), dtype=torch.float16).element_size()
    teacher = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    floats = (4 * 3 + 3) + 4 * 3
    assert teacher_bytes(teacher) == floats * 4 + 8  # and the norm's counter
    assert teacher_bytes(teacher.half()) == floats * 2 + 8

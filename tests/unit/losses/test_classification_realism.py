import math

import pytest
import torch

from raycondense.losses import cross_entropy, discriminator_hinge, realism


def logits_of(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


LABELS = torch.tensor([0, 2, 1, 1, 0])


def test_cross_entropy_value():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    expected = (math.log(4 / 3) + math.log(2)) / 2
    assert cross_entropy(logits, torch.tensor([1, 0])).item() == pytest.approx(expected)


def test_realism_value():
    assert realism(torch.tensor([1.0, -4.0, 0.0])).item() == pytest.approx(1.0)


def test_hinge_value():
    # mean of max(0, 1 − D): 0, 0.5, 2; mean of max(0, 1 + D): 0, 1.5
    found = discriminator_hinge(torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-1.0, 0.5]))
    assert found.item() == pytest.approx(2.5 / 3 + 1.5 / 2)


def test_gradients():
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, LABELS), (logits_of(5, 3).requires_grad_(),))
    assert torch.autograd.gradcheck(realism, (logits_of(5).requires_grad_(),))
    scores = logits_of(2, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: discriminator_hinge(s[0], s[1]), (scores,))


def test_order_does_not_matter():
    order = torch.tensor([3, 1, 4, 0, 2])
    logits = logits_of(5, 3)
    torch.testing.assert_close(cross_entropy(logits[order], LABELS[order]), cross_entropy(logits, LABELS))
    torch.testing.assert_close(realism(logits[order, 0]), realism(logits[:, 0]))


def test_shares_of_workers_add_up():
    logits = logits_of(5, 3)
    parts = cross_entropy(logits[:2], LABELS[:2], total=5) + cross_entropy(logits[2:], LABELS[2:], total=5)
    torch.testing.assert_close(parts, cross_entropy(logits, LABELS))
    scores = logits[:, 0]
    torch.testing.assert_close(realism(scores[:2], total=5) + realism(scores[2:], total=5), realism(scores))


@pytest.mark.parametrize("value", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("classes", [1, 3])
def test_degenerate_input_is_finite(value, classes):
    logits = torch.full((1, classes), value, requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([0])) + realism(logits[:, 0]) + discriminator_hinge(logits[0], logits[0])
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_one_class_is_certain():
    assert cross_entropy(torch.tensor([[-3.0]]), torch.tensor([0])).item() == 0


def test_half_precision_is_widened():
    assert cross_entropy(torch.zeros(2, 3, dtype=torch.bfloat16), torch.tensor([0, 1])).dtype == torch.float32
    assert realism(torch.zeros(2, dtype=torch.float16)).dtype == torch.float32

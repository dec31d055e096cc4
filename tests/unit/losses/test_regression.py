"""Feature regression."""

import pytest
import torch

from raycondense.losses import feature_regression

RIDGE = 0.5


def features(*shape, seed=0, grad=False):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_(grad)


def by_primal(real, synthetic, ridge):
    """The same classifier as weights of features, a real image at a time."""
    classes, per_class, dim = synthetic.shape
    rows = synthetic.reshape(-1, dim)
    wanted = torch.eye(classes, dtype=rows.dtype) - 1 / classes
    strength = ridge * rows.square().sum(1).mean()
    gram = rows.T @ rows + strength * torch.eye(dim, dtype=rows.dtype)
    weights = torch.linalg.inv(gram) @ rows.T @ wanted.repeat_interleave(per_class, dim=0)
    total = 0.0
    for label, members in enumerate(real):
        errors = [0.5 * float((image @ weights - wanted[label]).square().sum()) for image in members]
        total += sum(errors) / len(errors)
    return total


@pytest.mark.parametrize("per_class", [1, 3, 9])
def test_value(per_class):
    real, synthetic = features(4, 5, 6), features(4, per_class, 6, seed=1)
    expected = by_primal(real, synthetic, RIDGE)
    assert feature_regression(real, synthetic, RIDGE).item() == pytest.approx(expected, rel=1e-4)


def test_value_by_hand():
    # Two classes on two axes: S Sᵀ = 4 I, λ = ½·4, so an image twice as long as a synthetic one gets 4/3 of its label.
    synthetic = 2 * torch.eye(2, dtype=torch.float64)[:, None]
    expected = 2 * 0.5 * 2 * (0.5 / 3) ** 2  # both classes, both outputs
    assert feature_regression(2 * synthetic, synthetic, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_workers_losses_and_gradients_add_up():
    real, whole = features(5, 3, 8), features(5, 2, 8, seed=1, grad=True)
    feature_regression(real, whole, RIDGE).backward()
    parts, gradient = [], torch.zeros_like(whole)
    for first, last in ((0, 2), (2, 5)):
        mine = whole.detach().requires_grad_()
        part = feature_regression(real[first:last], mine, RIDGE, first)
        part.backward()
        parts.append(part.item())
        gradient += mine.grad
    assert sum(parts) == pytest.approx(feature_regression(real, whole, RIDGE).item())
    torch.testing.assert_close(gradient, whole.grad)


def test_scale_does_not_matter():
    real, synthetic = features(4, 5, 6), features(4, 3, 6, seed=1)
    torch.testing.assert_close(
        feature_regression(10 * real, 10 * synthetic, RIDGE), feature_regression(real, synthetic, RIDGE),
        rtol=1e-4, atol=0,
    )  # fmt: skip


def test_descends_towards_separable_images():
    real = features(3, 20, 4) + 4 * torch.eye(3, 4, dtype=torch.float64)[:, None]
    synthetic = features(3, 2, 4, seed=1, grad=True)
    values = []
    for _ in range(100):
        loss = feature_regression(real, synthetic, RIDGE)
        (gradient,) = torch.autograd.grad(loss, synthetic)
        synthetic = (synthetic - 2 * gradient).detach().requires_grad_()
        values.append(loss.item())
    assert values[-1] < 0.5 * values[0]


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 1, 4), (3, 2, 4)], ids=["one-class", "one-image", "zeros"])
def test_degenerate_input_is_finite(shape):
    synthetic = torch.zeros(shape, requires_grad=True)
    value = feature_regression(torch.zeros(shape), synthetic, RIDGE)
    value.backward()
    assert synthetic.grad.isfinite().all()
    expected = 0.0 if shape[0] == 1 else shape[0] * 0.5 * (1 - 1 / shape[0])
    assert value.item() == pytest.approx(expected)


def test_half_precision_is_computed_in_float32():
    real, synthetic = features(4, 5, 6).bfloat16(), features(4, 3, 6, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = feature_regression(real, synthetic, RIDGE)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, feature_regression(real.float(), synthetic.float(), RIDGE))

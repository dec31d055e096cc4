"""The intra-class and the inter-class loss."""

import math

import pytest
import torch

from raycondense.losses import inter_class, intra_class, spread

TEMPERATURE = 0.5


def features(*shape, seed=0, grad=False):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_(grad)


def repulsion(samples, temperature):
    """The formula, a pair at a time."""
    total = 0.0
    for k, first in enumerate(samples):
        others = [
            math.exp(float(torch.cosine_similarity(first, second, dim=0)) / temperature)
            for j, second in enumerate(samples)
            if j != k
        ]
        total += math.log(sum(others) / len(others))
    return total / len(samples)


def test_intra_value_by_hand():
    # Cosines: 0 between the first two, 1/√2 of each with the third; lengths don't matter.
    samples = torch.tensor([[[2.0, 0.0], [0.0, 5.0], [1.0, 1.0]]], dtype=torch.float64)
    near = math.exp(math.sqrt(0.5) / TEMPERATURE)
    expected = (2 * math.log((1 + near) / 2) + math.log(near)) / 3
    assert intra_class(samples, TEMPERATURE).item() == pytest.approx(expected, abs=1e-6)


def test_intra_value():
    samples = features(3, 4, 5)
    expected = [repulsion(of_class, TEMPERATURE) for of_class in samples]
    assert intra_class(samples, TEMPERATURE).tolist() == pytest.approx(expected, abs=1e-6)


def test_intra_is_comparable_over_numbers_of_samples():
    # Copies of one sample: cosine 1 whatever K.
    values = [intra_class(torch.ones(1, k, 4), TEMPERATURE).item() for k in (2, 5, 50)]
    assert values == pytest.approx([1 / TEMPERATURE] * 3, rel=1e-4)


def test_intra_bound_is_a_hinge():
    samples = features(3, 4, 5, grad=True)
    free = intra_class(samples, TEMPERATURE).detach()
    bound = free + torch.tensor([-0.25, 0.25, 0.0])
    value = intra_class(samples, TEMPERATURE, bound)
    torch.testing.assert_close(value.detach(), torch.tensor([0.25, 0.0, 0.0], dtype=torch.float64))
    value.sum().backward()
    assert samples.grad[0].any()
    assert not samples.grad[1].any()


def test_intra_repels():
    samples = (torch.ones(1, 4, 6) + 0.1 * features(1, 4, 6).float()).requires_grad_()
    before = intra_class(samples, TEMPERATURE)
    before.sum().backward()
    after = intra_class(samples.detach() - samples.grad, TEMPERATURE)
    assert after.item() < before.item()


def test_inter_value_by_hand():
    centers = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-2.0, 0.0]], dtype=torch.float64)
    opposite = math.exp(-1 / TEMPERATURE)
    expected = (2 * math.log((1 + opposite) / 2) + math.log(1)) / 3
    assert inter_class(centers, TEMPERATURE).item() == pytest.approx(expected, abs=1e-6)


def test_inter_value():
    centers = features(5, 4)
    assert inter_class(centers, TEMPERATURE).item() == pytest.approx(repulsion(centers, TEMPERATURE), abs=1e-6)


def test_gradients():
    bound = torch.zeros(2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: intra_class(f, TEMPERATURE), (features(2, 3, 4, grad=True),))
    assert torch.autograd.gradcheck(lambda f: intra_class(f, TEMPERATURE, bound), (features(2, 3, 4, grad=True),))
    assert torch.autograd.gradcheck(lambda f: inter_class(f, TEMPERATURE), (features(3, 4, grad=True),))


def test_order_does_not_matter():
    samples = features(3, 4, 5)
    value = intra_class(samples, TEMPERATURE)
    torch.testing.assert_close(intra_class(samples[:, [2, 0, 3, 1]], TEMPERATURE), value)
    torch.testing.assert_close(intra_class(samples[[2, 0, 1]], TEMPERATURE), value[[2, 0, 1]])
    centers = samples[:, 0]
    torch.testing.assert_close(inter_class(centers[[1, 2, 0]], TEMPERATURE), inter_class(centers, TEMPERATURE))


def test_gradients_of_workers_add_up():
    """Each worker has gradients for its own centers only; the sum is the gradient of one worker with all."""
    together = features(5, 4, grad=True)
    inter_class(together, TEMPERATURE).backward()
    total = torch.zeros_like(together)
    for own in (slice(0, 2), slice(2, 5)):
        centers = features(5, 4)
        mine = centers[own].clone().requires_grad_()
        everyones = torch.cat([centers[: own.start], mine, centers[own.stop :]])
        inter_class(everyones, TEMPERATURE).backward()
        total[own] += mine.grad
    torch.testing.assert_close(total, together.grad)


def test_one_sample_a_class_has_nothing_to_repel():
    samples = features(3, 1, 5, grad=True)
    value = intra_class(samples, TEMPERATURE, spread(features(3, 6, 5), TEMPERATURE, 1) - 1)
    value.sum().backward()
    assert value.tolist() == [0, 0, 0]
    assert torch.equal(samples.grad, torch.zeros_like(samples))


def test_one_class_has_no_other():
    center = features(1, 5, grad=True)
    value = inter_class(center, TEMPERATURE)
    value.backward()
    assert value.item() == 0
    assert torch.equal(center.grad, torch.zeros_like(center))


@pytest.mark.parametrize("temperature", [0.01, 0.1, 10.0])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("value", [0.0, 1e-6, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identical_and_zero_features_are_finite(temperature, count, value, dtype):
    samples = torch.full((2, count, 4), value, dtype=dtype, requires_grad=True)
    centers = torch.full((count, 4), value, dtype=dtype, requires_grad=True)
    intra, inter = intra_class(samples, temperature, torch.zeros(2)), inter_class(centers, temperature)
    (intra.sum() + inter).backward()
    assert intra.dtype == inter.dtype == torch.float32
    assert intra.isfinite().all()
    assert inter.isfinite()
    assert samples.grad.isfinite().all()
    assert centers.grad.isfinite().all()


def test_one_zero_feature_among_others():
    samples = features(1, 3, 4).index_fill(1, torch.tensor([1]), 0).requires_grad_()
    value = intra_class(samples, 0.1)
    value.sum().backward()
    assert value.isfinite().all()
    assert samples.grad.isfinite().all()


def test_spread_is_the_repulsion_of_equally_many_real_samples():
    real = features(2, 7, 5)
    expected = [(repulsion(of_class[:3], 0.1) + repulsion(of_class[3:6], 0.1)) / 2 for of_class in real]
    assert spread(real, 0.1, 3).tolist() == pytest.approx(expected, abs=1e-5)
    whole = [repulsion(of_class, 0.1) for of_class in real]
    assert spread(real, 0.1).tolist() == pytest.approx(whole, abs=1e-5)
    assert spread(real, 0.1, 50).tolist() == pytest.approx(whole, abs=1e-5)


def test_spread_has_no_gradient_and_bounds_real_samples_at_about_zero():
    real = features(4, 64, 8, grad=True)
    bound = spread(real, 0.5, 8)
    assert not bound.requires_grad
    others = intra_class(features(4, 8, 8, seed=1), 0.5, bound)
    assert others.max() < 0.3


def test_a_large_common_part_hides_differences():
    """Why a caller may want to subtract the mean of real features first."""
    samples = features(1, 6, 8) + 30
    plain = intra_class(samples, 0.1)
    assert plain.item() > 0.99 / 0.1
    assert intra_class(samples - samples.mean(dim=(0, 1)), 0.1).item() < 0.8 / 0.1

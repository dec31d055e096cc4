import math

import pytest
import torch

from raycondense.losses import draw_frequencies, matching_characteristic, matching_mean


def features(*shape, seed=0, grad=False):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_(grad)


FREQUENCIES = features(6, 3, seed=9)


def characteristic(real, synthetic, frequencies, amplitude=0.5):
    """The formula of NCFM's paper, with complex numbers and angles, one class and frequency at a time."""
    total = 0.0
    for r, s in zip(real, synthetic, strict=True):
        for t in frequencies:
            phi_r, phi_s = (torch.exp(1j * (f @ t)).mean() for f in (r, s))
            amplitudes = (phi_r.abs() - phi_s.abs()) ** 2
            phases = 2 * phi_r.abs() * phi_s.abs() * (1 - torch.cos(phi_r.angle() - phi_s.angle()))
            total += float(torch.sqrt(amplitude * amplitudes + (1 - amplitude) * phases)) / len(frequencies)
    return total


def test_mean_value():
    real = torch.tensor([[[0.0, 0.0], [2.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]])  # means (1, 2) and (1, 1)
    synthetic = torch.tensor([[[4.0, 2.0]], [[1.0, 3.0]]])
    assert matching_mean(real, synthetic).item() == pytest.approx(3**2 + 0 + 0 + 2**2)


def test_mean_gradient():
    real, synthetic = features(2, 4, 3), features(2, 2, 3, seed=1, grad=True)
    assert torch.autograd.gradcheck(lambda s: matching_mean(real, s), (synthetic,))


@pytest.mark.parametrize("amplitude", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_characteristic_value(amplitude):
    real, synthetic = features(2, 5, 3), features(2, 4, 3, seed=1)
    found = matching_characteristic(real, synthetic, FREQUENCIES, normalize=False, amplitude=amplitude)
    assert found.item() == pytest.approx(characteristic(real, synthetic, FREQUENCIES, amplitude), abs=1e-5)


def test_characteristic_value_by_hand():
    # One sample a set: φ = exp(i t f), so |φ_r − φ_s| = 2 sin(|t (f_r − f_s)| / 2).
    real, synthetic, frequency = torch.tensor([[[0.5]]]), torch.tensor([[[2.0]]]), torch.tensor([[0.7]])
    expected = math.sqrt(0.5) * 2 * math.sin(0.7 * 1.5 / 2)
    found = matching_characteristic(real, synthetic, frequency, normalize=False)
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_characteristic_normalises_features():
    real, synthetic = features(2, 5, 3), features(2, 4, 3, seed=1)
    found = matching_characteristic(real, synthetic, FREQUENCIES)
    lengths = [f / f.norm(dim=-1, keepdim=True) for f in (real, synthetic)]
    assert found.item() == pytest.approx(characteristic(*lengths, FREQUENCIES), abs=1e-5)
    torch.testing.assert_close(found, matching_characteristic(real * 3, synthetic * 0.5, FREQUENCIES))


@pytest.mark.parametrize("amplitude", [0.3, 0.5])
@pytest.mark.parametrize("normalize", [False, True])
def test_characteristic_gradient(amplitude, normalize):
    real, synthetic = features(2, 4, 3), features(2, 2, 3, seed=1, grad=True)
    assert torch.autograd.gradcheck(
        lambda s: matching_characteristic(real, s, FREQUENCIES, normalize=normalize, amplitude=amplitude), (synthetic,)
    )


LOSSES = {
    "mean": matching_mean,
    "characteristic": lambda r, s: matching_characteristic(r, s, FREQUENCIES),
    "phases": lambda r, s: matching_characteristic(r, s, FREQUENCIES, amplitude=0.2),
}
every_form = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@every_form
def test_order_does_not_matter(loss):
    real, synthetic = features(3, 5, 3), features(3, 4, 3, seed=1)
    value = loss(real, synthetic)
    torch.testing.assert_close(loss(real[:, [4, 2, 0, 1, 3]], synthetic[:, [1, 0, 3, 2]]), value)
    torch.testing.assert_close(loss(real[[2, 0, 1]], synthetic[[2, 0, 1]]), value)


@every_form
def test_classes_add_up_over_workers(loss):
    real, synthetic = features(5, 4, 3), features(5, 2, 3, seed=1)
    parts = loss(real[:2], synthetic[:2]) + loss(real[2:], synthetic[2:])
    torch.testing.assert_close(parts, loss(real, synthetic))


@every_form
def test_equal_sets_are_at_zero(loss):
    real = features(2, 4, 3)
    synthetic = real.clone().requires_grad_()
    value = loss(real, synthetic)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert synthetic.grad.abs().max() < 1e-6


@every_form
@pytest.mark.parametrize(("classes", "codes"), [(1, 1), (3, 1), (1, 4)])
@pytest.mark.parametrize("kind", ["random", "identical", "zero"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_degenerate_input_is_finite(loss, classes, codes, kind, dtype):
    real = features(classes, 5, 3).float()
    synthetic = {
        "random": features(classes, codes, 3, seed=1).float(),
        "identical": torch.ones(classes, codes, 3),
        "zero": torch.zeros(classes, codes, 3),
    }[kind].to(dtype)
    synthetic.requires_grad_()
    value = loss(real.to(dtype), synthetic) if loss is matching_mean else _single(loss, real.to(dtype), synthetic)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert synthetic.grad.isfinite().all()


def _single(loss, real, synthetic):
    """Characteristic forms in single precision."""
    amplitude = 0.2 if loss is LOSSES["phases"] else 0.5
    return matching_characteristic(real, synthetic, FREQUENCIES.float(), amplitude=amplitude)


@every_form
def test_zero_against_zero(loss):
    synthetic = torch.zeros(2, 3, 3, dtype=torch.float64, requires_grad=True)
    value = loss(torch.zeros(2, 4, 3, dtype=torch.float64), synthetic)
    value.backward()
    assert value.item() == 0
    assert not synthetic.grad.any()


def test_autocast_does_not_round_losses():
    real, synthetic = features(2, 64, 32).float() + 20, features(2, 8, 32, seed=1).float() + 20
    frequencies = draw_frequencies(16, 32, seed=0)
    plain = matching_characteristic(real, synthetic, frequencies)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(matching_characteristic(real, synthetic, frequencies), plain)


def test_frequencies():
    drawn = draw_frequencies(4096, 8, seed=3)
    assert drawn.shape == (4096, 8)
    assert abs(float(drawn.std()) - 1) < 0.02
    assert torch.equal(drawn, draw_frequencies(4096, 8, seed=3))
    assert not torch.equal(drawn, draw_frequencies(4096, 8, seed=4))

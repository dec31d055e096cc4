"""Distribution matching: synthetic features should be distributed as the real ones of their class.

Both forms are sums over classes, so over workers with different classes they add up: the sum of all workers' losses
is the loss of one worker that has all classes. Real features carry no gradient (detach them, or compute them without a
graph).
"""

from __future__ import annotations

import torch
from torch import Tensor

from raycondense.losses._numerics import full_precision, unit
from raycondense.seeds import seeded_generator

SQRT_EPS = 1e-12


@full_precision
def matching_mean(real: Tensor, synthetic: Tensor) -> Tensor:
    """Squared distance of class means.

    ``Σ_c ‖ mean_m f(x_cm) − mean_k f(s_ck) ‖²``: Zhao & Bilen, *Dataset Condensation with Distribution Matching*,
    arXiv 2110.04181, equation 6 (with ω and the embedding inside f).

    Args:
        real: [C, M, D] features of real images by class.
        synthetic: [C, K, D] features of synthetic images of the same classes.

    Returns:
        Scalar, 0 or more; the sum over classes.
    """
    return (real.mean(dim=1) - synthetic.mean(dim=1)).square().sum()


@full_precision
def matching_characteristic(
    real: Tensor, synthetic: Tensor, frequencies: Tensor, *, normalize: bool = True, amplitude: float = 0.5
) -> Tensor:
    """Distance of the classes' characteristic functions at random frequencies.

    ``Σ_c mean_t sqrt( α (|φ_r| − |φ_s|)² + (1 − α) 2 |φ_r| |φ_s| (1 − cos(∠φ_r − ∠φ_s)) )`` with
    ``φ(t) = mean_n exp(i ⟨t, f_n⟩)``: Wang et al., *Dataset Distillation with Neural Characteristic
    Function*, arXiv 2502.20653. Amplitudes compare diversity, phases realism.

    Since ``2 |a| |b| (1 − cos Δ) = |a − b|² − (|a| − |b|)²``, it is computed without angles; with α = ½ it is just
    ``sqrt(½ |φ_r − φ_s|²)``.

    Args:
        real: [C, M, D] features of real images by class.
        synthetic: [C, K, D] features of synthetic images of the same classes.
        frequencies: [T, D], of `draw_frequencies`.
        normalize: scale features to length 1 first, as NCFM does; the frequencies' unit variance fits such features.
        amplitude: α, the weight of the amplitudes, 0 to 1; phases weigh ``1 − α``.

    Returns:
        Scalar, 0 or more, exactly 0 for equal features; the sum over classes. At most √2 a class.
    """
    if normalize:
        real, synthetic = unit(real), unit(synthetic)
    real_cos, real_sin = _characteristic(real, frequencies)
    cos, sin = _characteristic(synthetic, frequencies)
    square = (1 - amplitude) * ((real_cos - cos).square() + (real_sin - sin).square())
    if amplitude != 0.5:
        difference = _modulus(real_cos, real_sin) - _modulus(cos, sin)
        square = square + (2 * amplitude - 1) * difference.square()
        square = square.clamp_min(0)  # rounding of two nearly equal terms
    # The root's slope has a limit and the value of equal distributions is exactly 0.
    distance: Tensor = torch.sqrt(square + SQRT_EPS) - SQRT_EPS**0.5
    return distance.mean(dim=1).sum()


def _characteristic(features: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part [C, T] of the characteristic function of [C, N, D]."""
    angles = features @ frequencies.T
    return torch.cos(angles).mean(dim=1), torch.sin(angles).mean(dim=1)


def _modulus(real: Tensor, imaginary: Tensor) -> Tensor:
    return torch.sqrt(real.square() + imaginary.square() + SQRT_EPS)


def draw_frequencies(count: int, dim: int, seed: int, device: str | torch.device = "cpu") -> Tensor:
    """Standard normal frequencies [count, dim] for `matching_characteristic`, a function of ``seed``.

    They are drawn on ``device`` (a million numbers a step would be slow to send there), so workers on the same kind of
    device have the same ones.
    """
    generator = seeded_generator(seed, "frequencies", device=device)
    return torch.randn(count, dim, generator=generator, device=device)

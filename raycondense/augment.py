"""Differentiable siamese augmentation (DSA): the same random transformation for real and synthetic images.

Zhao & Bilen, *Dataset Condensation with Differentiable Siamese Augmentation*, arXiv 2102.08259. Operations and
ranges are those of its code, which DM, IDM and the usual evaluation protocol share: one operation is drawn a call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from raycondense.errors import ConfigError, choices_message
from raycondense.seeds import derive_seed

BRIGHTNESS = 1.0
"""Added to all pixels: uniform in ± half of it (in standard deviations)."""
SATURATION = 2.0
"""Distance from grey is multiplied by a uniform factor from 0 to it."""
CONTRAST = 0.5
"""Distance from the image's mean is multiplied by a uniform factor from it to 1 more."""
CROP = 0.125
"""Shift in both directions, up to this part of the side; what comes in is 0, the mean colour."""
CUTOUT = 0.5
"""Side of the square that is set to 0, as a part of the image's side."""
SCALE = 1.2
"""Both axes are scaled, each by a uniform factor between 1/SCALE and SCALE."""
ROTATE = 15.0
"""Rotation, uniform in ± degrees."""


def dsa(images: Tensor, strategy: Sequence[str], seed: int, groups: Tensor | None = None) -> Tensor:
    """Augment images: one operation of ``strategy`` for the call, random parameters for each group.

    The operation is a function of ``seed``; the parameters are one of (seed, group), whatever other images are in the
    batch and whatever the device. So real and synthetic images of a class, passed in two calls with the same seed and
    the class as group, are transformed alike (siamese).

    Args:
        images: [N, 3, H, H] float, standardised; gradients pass.
        strategy: names out of color, crop, cutout, flip, scale, rotate; empty changes nothing.
        seed: any integer.
        groups: [N] int64, which images share parameters; None gives each image, by its place, its own.

    Returns:
        [N, 3, H, H] of the same type.

    Raises:
        ConfigError: an unknown operation.
        ValueError: wrong shapes.
    """
    for name in strategy:
        if name not in OPERATIONS:
            raise ConfigError(f"augment.strategy: {choices_message('operation', name, OPERATIONS)}")
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(f"dsa: found images of shape {tuple(images.shape)}, valid: [N, channels, H, H]")
    if groups is not None and groups.shape != images.shape[:1]:
        raise ValueError(f"dsa: found groups of shape {tuple(groups.shape)} for {len(images)} images, valid: [N]")
    if not strategy:
        return images
    name = strategy[derive_seed(seed, "dsa operation") % len(strategy)]
    if groups is None:
        groups = torch.arange(len(images), device=images.device)
    return OPERATIONS[name](images, _uniforms(derive_seed(seed, "dsa", name), groups.to(images.device)))


def _uniforms(seed: int, groups: Tensor) -> Tensor:
    """Numbers [3, N] in [0, 1) that are a hash of (seed, group).

    Integer arithmetic (the finaliser of SplitMix64) gives the same bits on every device, without a generator for each
    group and without waiting for the device.
    """
    counters = groups * 3 + torch.arange(3, device=groups.device)[:, None]
    x = counters * _signed(0x9E3779B97F4A7C15) + _signed(seed)
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    x = x ^ _shift(x, 31)
    return _shift(x, 40).float() * 2.0**-24  # 24 bits are exact in float32


def _signed(number: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit number."""
    return number - 2**64 if number >= 2**63 else number


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: int64's own would copy the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """[N] as [N, 1, 1, 1] in the images' type."""
    return values.to(images.dtype)[:, None, None, None]


def _integers(uniform: Tensor, count: int) -> Tensor:
    """Uniform integers in [0, count)."""
    return (uniform * count).long()


def _color(images: Tensor, u: Tensor) -> Tensor:
    """Brightness, then saturation, then contrast."""
    images = images + _per_image((u[0] - 0.5) * BRIGHTNESS, images)
    grey = images.mean(dim=1, keepdim=True)
    images = torch.lerp(grey, images, _per_image(u[1] * SATURATION, images))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, _per_image(u[2] + CONTRAST, images))


def _crop(images: Tensor, u: Tensor) -> Tensor:
    side = images.shape[-1]
    reach = int(side * CROP + 0.5)
    padded = F.pad(images, (reach,) * 4)
    places = torch.arange(side, device=images.device)
    rows = _integers(u[0], 2 * reach + 1)[:, None] + places
    columns = _integers(u[1], 2 * reach + 1)[:, None] + places
    index = rows[:, :, None] * padded.shape[-1] + columns[:, None, :]
    index = index.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return padded.flatten(2).gather(2, index).view_as(images)


def _cutout(images: Tensor, u: Tensor) -> Tensor:
    side = images.shape[-1]
    size = int(side * CUTOUT + 0.5)
    places = torch.arange(side, device=images.device)

    def inside(uniform: Tensor) -> Tensor:
        # As in DSA's code the square's middle is anywhere in the image, so part of it may be outside.
        start = _integers(uniform, side + 1 - size % 2)[:, None] - size // 2
        return (places >= start) & (places < start + size)

    keep = ~(inside(u[0])[:, :, None] & inside(u[1])[:, None, :])
    return images * keep[:, None].to(images.dtype)


def _flip(images: Tensor, u: Tensor) -> Tensor:
    return torch.where((u[0] < 0.5)[:, None, None, None], images.flip(3), images)


def _affine(images: Tensor, xx: Tensor, xy: Tensor, yx: Tensor, yy: Tensor) -> Tensor:
    """Sample each image through a linear map [[xx, xy], [yx, yy]] of its coordinates around its middle."""
    zero = torch.zeros_like(xx)
    theta = torch.stack((xx, xy, zero, yx, yy, zero), dim=1).view(-1, 2, 3).to(images.dtype)
    grid = F.affine_grid(theta, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, align_corners=True)


def _scale(images: Tensor, u: Tensor) -> Tensor:
    factors = u * (SCALE - 1 / SCALE) + 1 / SCALE
    zero = torch.zeros_like(factors[0])
    return _affine(images, factors[0], zero, zero, factors[1])


def _rotate(images: Tensor, u: Tensor) -> Tensor:
    angle = (u[0] - 0.5) * (2 * ROTATE * math.pi / 180)
    sine, cosine = torch.sin(angle), torch.cos(angle)
    return _affine(images, cosine, -sine, sine, cosine)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
"""Each takes images [N, C, H, H] and uniform numbers [3, N]."""

"""Standardisation, once and on the device: everywhere else images are uint8, or floats in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """``(x − mean) / std`` by channel, of uint8 images or of floats in [0, 1].

    Args:
        mean: of each channel, of images / 255.
        std: of each channel, more than 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images [..., 3, H, W] as standardised floats, differentiable where they are floats."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        return (images - self.mean) / self.std

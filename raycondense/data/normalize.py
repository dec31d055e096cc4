"""The one place where pixels become standardised numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raycondense.errors import DataError


class Normalize(nn.Module):
    """Standardise images: (x − mean) / std by channel, on whatever device they are.

    Args:
        mean: of each channel (R, G, B), of images in [0, 1].
        std: likewise, more than 0.

    Raises:
        DataError: not three values each, or a standard deviation that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or not all(s > 0 for s in std):
            raise DataError(f"mean, std: found {tuple(mean)}, {tuple(std)}, valid: 3 numbers each, std more than 0")
        # Not in state_dict: they are the dataset's, not something that a model learned.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Standardise.

        Args:
            images: uint8 [..., 3, H, W] in 0…255, or floating point in [0, 1].

        Returns:
            float32 [..., 3, H, W].
        """
        values = images.to(torch.float32)
        if not images.is_floating_point():
            values = values / 255
        return (values - self.mean) / self.std

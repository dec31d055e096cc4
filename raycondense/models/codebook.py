"""The codebook: one learnable code for every condensed image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raycondense.config import CodebookConfig
from raycondense.errors import ConfigError
from raycondense.seeds import seeded_generator


class Codebook(nn.Module):
    """Learnable codes, ``codes_per_class`` of each class (all banks side by side: `CodebookConfig.bank_slice`).

    Args:
        config: banks, size of a code and spread of random codes.
        num_classes: classes, 1 or more.
        seed: the random codes are a function of it; torch's global generators stay untouched.

    Attributes:
        codes: parameter [num_classes, codes_per_class, dim].

    Raises:
        ConfigError: fewer than one class.
    """

    def __init__(self, config: CodebookConfig, num_classes: int, *, seed: int = 0) -> None:
        super().__init__()
        if num_classes < 1:
            raise ConfigError(f"data.num_classes: found {num_classes!r}, valid: 1 or more to build a codebook")
        self.config = config
        codes = torch.empty(num_classes, config.codes_per_class, config.dim, device="cpu")
        codes.normal_(std=config.init_std, generator=seeded_generator(seed, "codebook"))
        self.codes = nn.Parameter(codes)

    @property
    def num_classes(self) -> int:
        """Classes."""
        return self.codes.shape[0]

    def lookup(self, classes: Tensor, positions: Tensor) -> Tensor:
        """Codes at ``positions`` of ``classes``, differentiable.

        Args:
            classes: [C] class numbers, int64.
            positions: [k] places in a class's row, the same for every class, or [C, k], each class its own; int64.

        Returns:
            [C, k, dim].
        """
        return self.codes[classes[:, None], positions]

    def forward(self, classes: Tensor, positions: Tensor) -> Tensor:
        """`lookup`, so that wrappers that hook into ``forward`` work."""
        return self.lookup(classes, positions)

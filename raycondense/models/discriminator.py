"""The projection discriminator: it pre-trains a generator as a GAN and scores realism afterwards."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from raycondense.config import RESOLUTIONS
from raycondense.errors import ConfigError
from raycondense.seeds import derive_seed, seeded_construction

MAX_WIDENING = 8
"""Channels grow to at most this many times the width."""


def _conv(channels_in: int, channels_out: int, kernel: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2))


class _DownBlock(nn.Module):
    """ReLU, 3x3 convolution, twice, then 2x2 averaging, around a shortcut (BigGAN, figure 15c)."""

    def __init__(self, channels_in: int, channels_out: int, *, first: bool, down: bool) -> None:
        super().__init__()
        self.first = first
        self.down = down
        self.conv1 = _conv(channels_in, channels_out, 3)
        self.conv2 = _conv(channels_out, channels_out, 3)
        self.shortcut = _conv(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.first else F.relu(x)  # the first block sees pixels, whose sign means something
        h = self.conv2(F.relu(self.conv1(h)))
        if self.down:
            # Averaging and a 1x1 convolution commute: the shortcut is convolved at the low resolution.
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(x)
        return h + shortcut


class Discriminator(nn.Module):
    """Spectrally normalised residual network with a class projection.

    The score is ``w·φ(x) + embedding(y)·φ(x) + b`` with φ the features summed over space (Miyato & Koyama, *cGANs with
    Projection Discriminator*, arXiv 1802.05637, equation 3; spectral norm: arXiv 1802.05957).

    Spectral norm updates its power iteration at each forward pass in training mode; in ``eval()`` the scores are a
    pure function of the input.

    Args:
        width: channels at full resolution, doubled with each halving up to eight times.
        num_classes: labels are 0 to ``num_classes - 1``.
        resolution: side of the images in pixels, a power of two from 8 to 256.
        seed: weights are a function of it; torch's global generators stay untouched.

    Raises:
        ConfigError: a width, resolution or number of classes that cannot be.
    """

    def __init__(self, width: int, num_classes: int, resolution: int, *, seed: int = 0) -> None:
        super().__init__()
        if resolution not in RESOLUTIONS:
            raise ConfigError(f"data.resolution: found {resolution!r}, valid: {', '.join(map(str, RESOLUTIONS))}")
        if num_classes < 1:
            raise ConfigError(f"data.num_classes: found {num_classes!r}, valid: 1 or more to build a discriminator")
        if width < 1:
            raise ConfigError(f"discriminator width: found {width!r}, valid: 1 or more")
        with seeded_construction(derive_seed(seed, "discriminator")):
            blocks: list[nn.Module] = []
            channels, side = 3, resolution
            while side > 4:
                out = min(width * (resolution // side), width * MAX_WIDENING)
                blocks.append(_DownBlock(channels, out, first=not blocks, down=True))
                channels, side = out, side // 2
            out = min(2 * channels, width * MAX_WIDENING)
            blocks.append(_DownBlock(channels, out, first=False, down=False))
            self.blocks = nn.Sequential(*blocks)
            self.linear = spectral_norm(nn.Linear(out, 1))
            self.embedding = spectral_norm(nn.Embedding(num_classes, out))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Scores of images: high is real.

        Args:
            images: [N, 3, resolution, resolution], standardised.
            labels: [N], int64 class numbers.

        Returns:
            [N].
        """
        features = F.relu(self.blocks(images)).sum(dim=(2, 3))
        projection = torch.linalg.vecdot(self.embedding(labels), features)
        scores: Tensor = self.linear(features).squeeze(1) + projection
        return scores

"""ConvNet-D: the small convolutional network of the condensation literature, as extractor and as student."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycondense.config import RESOLUTIONS
from raycondense.errors import ConfigError
from raycondense.models.blocks import Blocks

DEPTHS = {8: 2, 16: 2, 32: 3, 64: 4, 128: 5, 256: 6}


class Features(NamedTuple):
    """What a feature extractor says of N images."""

    embedding: Tensor
    """[N, D]: where distributions are matched."""
    logits: Tensor
    """[N, num_classes]: the class scores of the extractor's linear head."""


def convnet_depth(resolution: int) -> int:
    """Blocks of the ConvNet at a resolution: 2 at 8 and 16 px, 3 at 32, 4 at 64, 5 at 128, 6 at 256.

    Raises:
        ConfigError: not a resolution that raycondense knows.
    """
    if resolution not in DEPTHS:
        raise ConfigError(f"data.resolution: found {resolution!r}, valid: {', '.join(map(str, RESOLUTIONS))}")
    return DEPTHS[resolution]


def average_pool(x: Tensor) -> Tensor:
    """Mean of 2x2 pixels; x [N, C, H, W] with even H and W."""
    if x.device.type == "cpu" and x.is_contiguous() and not torch.compiler.is_compiling():
        # Adding slices is several times faster than the CPU's pooling; a compiler does better than both.
        rows = x[..., ::2, :] + x[..., 1::2, :]
        return (rows[..., ::2] + rows[..., 1::2]) * 0.25
    return F.avg_pool2d(x, 2)


class ConvNet(nn.Module):
    """``depth`` blocks of 3x3 convolution, instance norm, ReLU and 2x2 average pooling, and a linear head.

    The definition of DC's and DM's code (Zhao et al., arXiv 2006.05929, section 3.1 "ConvNet"; arXiv 2110.04181):
    instance norm is a group norm of one channel a group with learnable scale and shift, weights have torch's default
    distributions. DM's embedding is the flattened output of the last block.

    Args:
        width: channels of every block.
        depth: blocks; 0 chooses by resolution (`convnet_depth`).
        num_classes: outputs of the head.
        resolution: side of the images in pixels.

    Raises:
        ConfigError: too many blocks for the resolution, or an unknown resolution.
    """

    def __init__(self, *, width: int, depth: int, num_classes: int, resolution: int) -> None:
        super().__init__()
        depth = depth or convnet_depth(resolution)
        if resolution % 2**depth:
            most = (resolution & -resolution).bit_length() - 1
            raise ConfigError(
                f"extractors.depth: found {depth} at data.resolution {resolution}, "
                f"valid: at most {most}, since each block halves the side"
            )
        self.convs = nn.ModuleList(nn.Conv2d(width if i else 3, width, 3, padding=1) for i in range(depth))
        self.norms = nn.ModuleList(nn.GroupNorm(width, width) for _ in range(depth))
        self.head = nn.Linear(width * (resolution // 2**depth) ** 2, num_classes)
        self._embed_all = Blocks(self._embed_some, image_bytes=4 * width * resolution**2)

    def compile_embedding(self) -> None:
        """Fuse the operations of `embed` by torch.compile (`Blocks.compile`)."""
        self._embed_all.compile()

    def embed(self, images: Tensor) -> Tensor:
        """Flattened output of the last block: [N, 3, R, R] standardised to [N, width (R / 2^depth)^2]."""
        # Instance norm over single channels is slow in channels-last memory on the CPU.
        return self._embed_all(images.contiguous() if images.device.type == "cpu" else images)

    def _embed_some(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = average_pool(F.relu(norm(conv(x)), inplace=True))
        return torch.flatten(x, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits: [N, 3, R, R] standardised to [N, num_classes]."""
        logits: Tensor = self.head(self.embed(images))
        return logits

"""Feature extractors: the networks in whose features real and synthetic images are compared.

`build_extractor` makes one network from a seed; `raycondense.models.pool` decides which one a step uses.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from raycondense.config import RESOLUTIONS, ExtractorConfig
from raycondense.errors import ConfigError
from raycondense.models.blocks import Blocks
from raycondense.models.convnet import ConvNet, Features
from raycondense.models.weights import WeightLayout

SMALL_IMAGE = 64
"""Below this side in pixels a ResNet starts with a 3x3 stride-1 convolution and no pooling, as for CIFAR."""

RESNET_GROUPS = 32
"""Group norm's groups in the ResNet extractor (Wu & He, arXiv 1803.08494)."""


class _ResNetBackbone(nn.Module):
    """torchvision's ResNet-18 with group norm: features of an image don't depend on its batch."""

    def __init__(self, *, num_classes: int, resolution: int) -> None:
        super().__init__()
        from torchvision.models import resnet18

        net = resnet18(num_classes=num_classes, norm_layer=partial(nn.GroupNorm, RESNET_GROUPS))
        stem: list[nn.Module] = [net.conv1, net.bn1, net.relu, net.maxpool]
        if resolution < SMALL_IMAGE:
            stem = [nn.Conv2d(3, 64, 3, padding=1, bias=False), net.bn1, net.relu]
        self.body = nn.Sequential(*stem, net.layer1, net.layer2, net.layer3, net.layer4, net.avgpool, nn.Flatten())
        self.head = net.fc
        side = resolution if resolution < SMALL_IMAGE else resolution // 2
        self._embed_all = Blocks(self._embed_some, image_bytes=4 * 64 * side**2)

    def compile_embedding(self) -> None:
        """Fuse the operations of `embed` by torch.compile (`Blocks.compile`)."""
        self._embed_all.compile()

    def embed(self, images: Tensor) -> Tensor:
        """Spatial mean of the last block: [N, 3, R, R] to [N, 512]."""
        return self._embed_all(images)

    def _embed_some(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.body(images))


class Extractor(nn.Module):
    """A network that gives the `Features` of standardised images.

    Args:
        backbone: embeds images and ends in a linear ``head``.

    Attributes:
        embedding_dim: size D of an embedding.
        num_classes: size of the logits.
    """

    def __init__(self, backbone: ConvNet | _ResNetBackbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedding_dim = int(backbone.head.in_features)
        self.num_classes = int(backbone.head.out_features)

    def compile_embedding(self) -> None:
        """Fuse the operations of `embed` by torch.compile (`raycondense.models.blocks.Blocks.compile`)."""
        self.backbone.compile_embedding()

    def embed(self, images: Tensor) -> Tensor:
        """Embedding without the head: [N, 3, R, R] standardised to [N, D]."""
        return self.backbone.embed(images)

    def forward(self, images: Tensor) -> Features:
        """Features of [N, 3, R, R] standardised images."""
        embedding = self.backbone.embed(images)
        return Features(embedding, self.backbone.head(embedding))


def empty_extractor(config: ExtractorConfig, num_classes: int, resolution: int) -> tuple[Extractor, WeightLayout]:
    """A network on the meta device, so that nothing is drawn twice, and the layout of its weights.

    Arguments and errors are those of `build_extractor`.
    """
    if resolution not in RESOLUTIONS:
        raise ConfigError(f"data.resolution: found {resolution!r}, valid: {', '.join(map(str, RESOLUTIONS))}")
    if num_classes < 1:
        raise ConfigError(f"data.num_classes: found {num_classes!r}, valid: 1 or more to build an extractor")
    backbone: ConvNet | _ResNetBackbone
    with torch.device("meta"):
        if config.architecture == "resnet18":
            backbone = _ResNetBackbone(num_classes=num_classes, resolution=resolution)
        else:
            backbone = ConvNet(
                width=config.width, depth=config.depth, num_classes=num_classes, resolution=resolution
            )  # fmt: skip
        extractor = Extractor(backbone)
    layout = WeightLayout(extractor, conv="fan_out" if config.architecture == "resnet18" else "default")
    return extractor, layout


def build_extractor(config: ExtractorConfig, *, num_classes: int, resolution: int, seed: int) -> Extractor:
    """A feature extractor with fresh weights on the CPU.

    Args:
        config: architecture, width and depth.
        num_classes: size of the logits.
        resolution: side of the images in pixels.
        seed: weights are a function of it; torch's global generators stay untouched.

    Returns:
        A network without batch statistics: training and evaluation mode are the same.

    Raises:
        ConfigError: a resolution, depth or number of classes that cannot be.
    """
    extractor, layout = empty_extractor(config, num_classes, resolution)
    extractor.to_empty(device="cpu")
    layout.bind(extractor, layout.draw(seed))
    return extractor

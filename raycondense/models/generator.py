"""The class-conditional generator: codes and labels in, images in [0, 1] out.

It is what condensation trains and what an artefact publishes. It knows nothing of codebooks (`codebook`) or losses.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycondense.config import FACTORS, RESOLUTIONS, GeneratorConfig
from raycondense.errors import ConfigError
from raycondense.models.blocks import Blocks
from raycondense.seeds import derive_seed, seeded_construction

BASE_RESOLUTION = 4
"""Side in pixels of the first feature map."""

MODULATION_STD = 0.25
"""Standard deviation of a fresh modulation for codes and class embeddings of unit variance: the code already
shapes every block, and no block starts out scaled by much more or less than one."""


class _ResidualBlock(nn.Module):
    """Modulated norm, ReLU, (up-sampling,) 3x3 convolution, twice, around a shortcut (BigGAN, figure 15b).

    The norm's scales and shifts come from outside: one matrix product makes those of all blocks at once.
    """

    def __init__(self, channels_in: int, channels_out: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        # No biases: whatever is constant over a channel, the instance norms remove.
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        # A 1x1 convolution and nearest up-sampling commute, so the shortcut is computed at the low resolution.
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, bias=False) if channels_in != channels_out else None

    def forward(self, x: Tensor, scale1: Tensor, shift1: Tensor, scale2: Tensor, shift2: Tensor) -> Tensor:
        h = F.relu(_modulated_norm(x, scale1, shift1), inplace=True)
        h = _up_convolution(h, self.conv1) if self.up else self.conv1(h)
        h = self.conv2(F.relu(_modulated_norm(h, scale2, shift2), inplace=True))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(x)
        if self.up:
            shortcut = F.interpolate(shortcut, scale_factor=2.0, mode="nearest")
        return h + shortcut


def _up_convolution(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Double the side (nearest neighbour), then convolve with a 3x3 kernel, in 4/9 of the multiplications.

    Each input pixel meets sums of the kernel's weights: together a 4x4 kernel of a transposed convolution of stride 2.
    """
    padded = F.pad(conv.weight, (1, 1, 1, 1))
    rows = padded[..., 1:, :] + padded[..., :-1, :]
    kernel = (rows[..., 1:] + rows[..., :-1]).flip(2, 3).transpose(0, 1)
    return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


def _modulated_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Instance norm, then scale and shift the channels (AdaIN, arXiv 1703.06868); scale and shift [N, C, 1, 1].

    Fitted to 100 CIFAR-10 images at 16 px, it was 5 dB ahead of group norm with 8 groups after 125 steps. Written as a
    group norm of one channel a group, which is the faster kernel.
    """
    return torch.addcmul(shift, F.group_norm(x, x.shape[1]), scale)


def enlarge(images: Tensor, factor: int) -> Tensor:
    """Bilinear enlargement of float images [N, 3, r, r] to [N, 3, factor r, factor r], as in multi-formation (IDC,
    arXiv 2205.14959, section 3.2)."""
    if factor == 1:
        return images
    return F.interpolate(images, scale_factor=float(factor), mode="bilinear", align_corners=False)


class Generator(nn.Module):
    """Residual generator in the manner of SNGAN and BigGAN, modulated by code and class.

    Images start as a 4x4 map made from the code and the class embedding and double their side until ``resolution``;
    code and embedding also set the scale and shift of every normalisation (class-conditional BigGAN,
    arXiv 1809.11096, appendix B). Normalisation is per image (instance norm, no batch statistics): an image depends on
    its own code and label only. Parameters grow with ``width``, hardly with the number of classes (one embedding each).

    Args:
        config: widths, blocks and the size of the class embedding.
        num_classes: labels are 0 to ``num_classes - 1``.
        latent_dim: size of a code (`CodebookConfig.dim`).
        resolution: side R of the images in pixels, a power of two from 8 to 256.
        factor: the networks make images of ``R / factor`` pixels, at least 8, which are enlarged.
        seed: weights are a function of it; torch's global generators stay untouched.

    Raises:
        ConfigError: a resolution, factor, number of classes or code size that cannot be.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        *,
        num_classes: int,
        latent_dim: int,
        resolution: int,
        factor: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if resolution not in RESOLUTIONS:
            raise ConfigError(f"data.resolution: found {resolution!r}, valid: {', '.join(map(str, RESOLUTIONS))}")
        if factor not in FACTORS or resolution // factor not in RESOLUTIONS:
            possible = [one for one in FACTORS if resolution // one in RESOLUTIONS]
            raise ConfigError(
                f"codebook.factor: found {factor!r}, valid at {resolution} px: {', '.join(map(str, possible))}"
            )
        if num_classes < 1:
            raise ConfigError(f"data.num_classes: found {num_classes!r}, valid: 1 or more to build a generator")
        if latent_dim < 1:
            raise ConfigError(f"codebook.dim: found {latent_dim!r}, valid: 1 or more")
        self.config = config
        self.num_classes = num_classes
        self.latent_dim = latent_dim
        self.resolution = resolution
        self.factor = factor
        with seeded_construction(derive_seed(seed, "generator")):
            self._build()
            self._initialise()
        self._make_all = Blocks(self._make_some, image_bytes=4 * config.width * self.native_resolution**2)

    def compile_images(self) -> None:
        """Fuse the operations that make images by torch.compile (`Blocks.compile`)."""
        self._make_all.compile()

    def _channels(self, resolution: int) -> int:
        return min(self.config.width * (self.native_resolution // resolution), self.config.max_width)

    def _build(self) -> None:
        first = self._channels(BASE_RESOLUTION)
        condition = self.latent_dim + self.config.class_dim
        self.embedding = nn.Embedding(self.num_classes, self.config.class_dim) if self.config.class_dim else None
        self.stem = nn.Linear(condition, BASE_RESOLUTION**2 * first)
        self.blocks = nn.ModuleList()
        self._modulated: list[int] = []  # channels of each normalisation, in the order of use
        channels, resolution = first, BASE_RESOLUTION
        while resolution < self.native_resolution:
            resolution *= 2
            for index in range(self.config.blocks):
                out = self._channels(resolution)
                self.blocks.append(_ResidualBlock(channels, out, up=index == 0))
                self._modulated += [channels, out]
                channels = out
        self._modulated.append(channels)
        self.modulation = nn.Linear(condition, 2 * sum(self._modulated))
        self.to_rgb = nn.Conv2d(channels, 3, 3, padding=1)

    def _initialise(self) -> None:
        # Convolutions keep torch's own distribution: its small gain lets the shortcuts lead at first.
        condition = self.stem.in_features
        nn.init.normal_(self.stem.weight, std=condition**-0.5)
        nn.init.zeros_(self.stem.bias)
        nn.init.normal_(self.modulation.weight, std=MODULATION_STD * condition**-0.5)
        nn.init.zeros_(self.modulation.bias)
        with torch.no_grad():
            for scale, _ in self._scales_and_shifts(self.modulation.bias[None]):
                scale.fill_(1.0)
        # Quiet first images, grey of a standard deviation near 0.1: the sigmoid is steep where they start.
        nn.init.normal_(self.to_rgb.weight, std=0.5 * (9 * self.to_rgb.in_channels) ** -0.5)

    def _scales_and_shifts(self, modulation: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Cut [N, 2 sum of channels] into a scale and a shift [N, C, 1, 1] for each normalisation."""
        sizes = [channels for channels in self._modulated for _ in range(2)]
        parts = modulation[:, :, None, None].split(sizes, dim=1)
        return list(zip(parts[::2], parts[1::2], strict=True))

    @property
    def native_resolution(self) -> int:
        """Side in pixels of what `native` makes."""
        return self.resolution // self.factor

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Images of ``codes``.

        Args:
            codes: [N, latent_dim], float.
            labels: [N], int64 class numbers.

        Returns:
            [N, 3, resolution, resolution] in [0, 1]; float32 under autocast too.
        """
        return enlarge(self.native(codes, labels), self.factor)

    def native(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Images of ``codes`` as they are kept, before `enlarge`: [N, 3, R/factor, R/factor] in [0, 1]."""
        return self._make_all(codes, labels)

    def _make_some(self, codes: Tensor, labels: Tensor) -> Tensor:
        condition = codes if self.embedding is None else torch.cat((codes, self.embedding(labels)), dim=1)
        norms = self._scales_and_shifts(self.modulation(condition))
        x = self.stem(condition).view(-1, self._modulated[0], BASE_RESOLUTION, BASE_RESOLUTION)
        for index, block in enumerate(self.blocks):
            x = block(x, *norms[2 * index], *norms[2 * index + 1])
        x = self.to_rgb(F.relu(_modulated_norm(x, *norms[-1]), inplace=True))
        if x.dtype in (torch.bfloat16, torch.float16):
            x = x.float()
        return torch.sigmoid(x)

    @property
    def num_parameters(self) -> int:
        """Numbers in all weights."""
        return sum(p.numel() for p in self.parameters())

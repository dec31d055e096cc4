"""The mathematics of a condensation step written straight down: a loop over classes, one operation after the other.

It is what a reader of the papers would write first, in the manner of the public code of distribution matching: a
network is built for each step, real and synthetic images of one class at a time are augmented and embedded, losses are
added up as they come, the generator enlarges maps before it convolves them, and torch's optimizers are left at their
defaults. It shares weights, seeds, DSA and loss functions with raycondense, so that both must come to the same losses
and gradients (benchmarks/step.py checks that they do) and only the way there differs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raycondense import losses
from raycondense.augment import dsa
from raycondense.config import Config
from raycondense.data.normalize import Normalize
from raycondense.models.convnet import ConvNet
from raycondense.models.generator import BASE_RESOLUTION, Generator, enlarge
from raycondense.seeds import derive_seed
from raycondense.state import TrainState


def images_of(generator: Generator, codes: Tensor, labels: Tensor) -> Tensor:
    """What `Generator` makes, block by block."""
    condition = codes if generator.embedding is None else torch.cat((codes, generator.embedding(labels)), dim=1)
    modulation = iter(generator._scales_and_shifts(generator.modulation(condition)))

    def normalised(x: Tensor) -> Tensor:
        scale, shift = next(modulation)
        return F.relu(F.instance_norm(x) * scale + shift)

    x = generator.stem(condition).view(len(codes), -1, BASE_RESOLUTION, BASE_RESOLUTION)
    for block in generator.blocks:
        before = normalised(x)
        shortcut = x
        if block.up:
            before = F.interpolate(before, scale_factor=2.0, mode="nearest")
            shortcut = F.interpolate(x, scale_factor=2.0, mode="nearest")
        h = block.conv2(normalised(block.conv1(before)))
        x = h + (shortcut if block.shortcut is None else block.shortcut(shortcut))
    return enlarge(torch.sigmoid(generator.to_rgb(normalised(x))), generator.factor)


def embedding_of(network: ConvNet, images: Tensor) -> Tensor:
    """What `ConvNet.embed` gives."""
    x = images
    for conv, norm in zip(network.convs, network.norms, strict=True):
        x = F.avg_pool2d(F.relu(norm(conv(x))), 2)
    return x.flatten(1)


class PlainStep:
    """Forward and backward work of one step and the update after it.

    Args:
        config: with a ConvNet as extractor, one bank and mean matching.
        state: generator, codes and pool; they are updated.
        normalize: standardises images.
    """

    def __init__(self, config: Config, state: TrainState, normalize: Normalize) -> None:
        self._config, self._state, self._normalize = config, state, normalize
        settings = config.condense
        self._optimizer = torch.optim.Adam([
            {"params": list(state.model.generator.parameters()), "lr": settings.lr_generator},
            {"params": [state.model.codebook.codes], "lr": settings.lr_codebook},
        ])  # fmt: skip

    def losses(self, images: Tensor, step: int) -> dict[str, Tensor]:
        """The named losses, unweighted, of real images uint8 [C, M, 3, R, R] of classes 0 to C − 1."""
        config, weights = self._config, self._config.losses
        network = self._network(step)
        seed = derive_seed(config.seed, "augment", step)
        real, synthetic, logits, every_label = [], [], [], []
        match = intra = torch.zeros((), device=images.device)
        for label in range(len(images)):
            codes = self._state.model.codebook.codes[label]
            labels = torch.full((len(codes),), label, device=images.device)
            with torch.no_grad():
                group = torch.full((images.shape[1],), label, device=images.device)
                seen = dsa(self._normalize(images[label]), config.augment.strategy, seed, groups=group)
                real.append(embedding_of(network, seen))
            made = images_of(self._state.model.generator, codes, labels)
            made = dsa(self._normalize(made), config.augment.strategy, seed, groups=labels)
            synthetic.append(embedding_of(network, made))
            logits.append(network.head(synthetic[-1]))
            every_label.append(labels)
            match = match + losses.matching_mean(real[-1][None], synthetic[-1][None])
            bound = losses.spread(real[-1][None], weights.intra_temperature, len(codes))
            intra = intra + losses.intra_class(synthetic[-1][None], weights.intra_temperature, bound).sum()
        centers = torch.stack([features.mean(0) for features in synthetic])
        found = losses.feature_regression(torch.stack(real), torch.stack(synthetic), weights.regression_ridge)
        return {
            "match": match / len(images),
            "intra": intra / len(images),
            "inter": losses.inter_class(centers, weights.inter_temperature),
            "regression": found / len(images),
            "ce": F.cross_entropy(torch.cat(logits), torch.cat(every_label)),
        }

    def __call__(self, images: Tensor, step: int) -> None:
        """One step with its update and the running mean."""
        total = self.weighted(self.losses(images, step))
        self._optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(list(self._state.model.generator.parameters()), self._config.condense.grad_clip)
        self._optimizer.step()
        self._state.update_average(images.shape[0] * images.shape[1])

    def weighted(self, named: dict[str, Tensor]) -> Tensor:
        """The sum of the losses by their weights."""
        weights = self._config.losses
        total = weights.matching_weight * named["match"]
        for name in ("intra", "inter", "regression", "ce"):
            total = total + getattr(weights, name) * named[name]
        return total

    def _network(self, step: int) -> ConvNet:
        """A network of the step's weights, built for it."""
        config = self._config
        drawn = self._state.pool.draw(step).backbone
        network = ConvNet(
            width=config.extractors.width, depth=config.extractors.depth, num_classes=config.data.num_classes,
            resolution=config.data.resolution,
        ).to(next(drawn.parameters()).device)  # fmt: skip
        network.load_state_dict(drawn.state_dict())
        return network.requires_grad_(False)

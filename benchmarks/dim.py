"""A baseline in the manner of DiM (*Distill into Model*, arXiv 2303.04707), written anew from its description.

A class-conditional GAN is trained on the real images; then its generator is trained on until, for each class, the mean
logits of generated images are those of real ones under the networks of a trained pool. It has no codes: an image is
made from fresh noise, so the natural way to use it is a stream. Generator, discriminator, extractor pool and
augmentation are those of our own runs, and the budget is spent half on the GAN and half on the logits.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch
from equal_time import PROBE_STEPS
from torch import Tensor

from raycondense import losses
from raycondense.artifact.decode import chunk_size, decode_chunk
from raycondense.augment import dsa
from raycondense.condense import advance
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.data.normalize import Normalize
from raycondense.data.open import open_class_batches, open_shuffled_batches
from raycondense.data.sidecar import Sidecar
from raycondense.evaluation.train import ImageSet
from raycondense.host import LocalHost
from raycondense.initialise.gan import GanTrainer
from raycondense.models import Generator
from raycondense.seeds import derive_seed, seeded_generator
from raycondense.state import TrainState

LEARNING_RATE = 1e-4
"""Adam's, of the generator while it matches logits."""
REALISM = 0.1
"""Weight of the discriminator's say while logits are matched; it keeps images where the GAN has put them."""


def fit_dim(config: Config, train: Path, out: Path, device: str, budget: float) -> tuple[Generator, dict[str, float]]:
    """Train pool, GAN and then logits for ``budget`` seconds together; the generator, and how many steps of each."""
    config = override(config, {
        "initialise.method": "gan", "extractors.weights": "blend", "codebook.factor": 1, "losses.intra": 0.0,
    })  # fmt: skip
    shutil.rmtree(out, ignore_errors=True)
    host = LocalHost(out, device=device)
    state = TrainState(config, num_classes=Sidecar.load(train).num_classes, device=host.device)
    begun = time.perf_counter()
    advance(config, train, state, host, until="gan")
    gan_steps = _train_gan(config, train, state, host, begun + (budget + time.perf_counter() - begun) / 2)
    logit_steps = _match_logits(config, train, state, host, begun + budget)
    seconds = time.perf_counter() - begun
    shutil.rmtree(out, ignore_errors=True)
    facts = {"seconds": seconds, "gan_steps": gan_steps, "steps": logit_steps}
    return state.model.generator.requires_grad_(False).eval(), facts


def _train_gan(config: Config, train: Path, state: TrainState, host: LocalHost, end: float) -> int:
    seed = derive_seed(config.seed, "gan")
    with open_shuffled_batches(
        train, config, batch=config.initialise.gan_batch, seed=seed, rank=0, world_size=1, device=host.device
    ) as batches:
        normalize = Normalize(batches.sidecar.mean, batches.sidecar.std).to(host.device)
        trainer = GanTrainer(config, state, normalize, host)
        for step, (images, labels) in enumerate(batches.steps(0)):
            trainer.step(images.to(host.device), labels.to(host.device), step)
            if _over(end, step, host):
                return step + 1
    raise AssertionError("batches have no end")


def _match_logits(config: Config, train: Path, state: TrainState, host: LocalHost, end: float) -> int:
    generator, critic, dim = state.model.generator, state.discriminator, config.codebook.dim
    assert critic is not None
    critic.requires_grad_(False).eval()
    optimizer = torch.optim.Adam(generator.parameters(), lr=LEARNING_RATE)
    with open_class_batches(train, config, rank=0, world_size=1, device=host.device) as batches:
        normalize = Normalize(batches.sidecar.mean, batches.sidecar.std).to(host.device)
        for batch in batches.steps(0):
            network, seed = state.pool.draw(batch.step), derive_seed(config.seed, "augment", batch.step)
            images = batch.images.to(host.device)
            per_class = images.shape[1]
            labels = batch.classes.to(host.device).repeat_interleave(per_class)
            noise = torch.randn(len(labels), dim, generator=seeded_generator(config.seed, "dim", batch.step))

            def mean_logits(standardised: Tensor, labels: Tensor = labels, seed: int = seed) -> Tensor:
                views = dsa(standardised, config.augment.strategy, seed, groups=labels)
                return network(views).logits.unflatten(0, (-1, per_class)).mean(1)  # noqa: B023  # used at once

            with torch.no_grad():
                wanted = mean_logits(normalize(images.flatten(0, 1)))
            made = normalize(generator(noise.to(host.device), labels))
            loss = (mean_logits(made) - wanted).square().sum(1).mean()
            loss = loss + REALISM * losses.realism(critic(made, labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if _over(end, batch.step, host):
                return batch.step + 1
    raise AssertionError("batches have no end")


def _over(end: float, step: int, host: LocalHost) -> bool:
    """Whether the time is up; on a GPU it is looked at once in a few steps, since looking waits for the device."""
    if host.device.type == "cuda":
        if step % PROBE_STEPS:
            return False
        torch.cuda.synchronize()
    return time.perf_counter() >= end


class NoiseStream:
    """Images of fresh noise as a student's training set (`raycondense.evaluation.train.Stream`).

    Args:
        generator: without codes of its own.
        dim: numbers of a code.
        num_classes: classes.
        images_per_epoch: images that count as an epoch.
        seed: of the noise.
    """

    def __init__(self, generator: Generator, dim: int, num_classes: int, images_per_epoch: int, seed: int) -> None:
        self._generator, self._dim, self._classes, self._seed = generator, dim, num_classes, seed
        self._device = next(generator.parameters()).device
        self.resolution, self.images_per_epoch = generator.resolution, images_per_epoch
        self.generation_seconds = 0.0

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        begun, random = time.perf_counter(), seeded_generator(self._seed, "noise stream", step)
        labels = torch.arange(size) % self._classes
        images = decode_noise(self._generator, torch.randn(size, self._dim, generator=random), labels)
        self.generation_seconds += time.perf_counter() - begun
        return images, labels.to(self._device)


def noise_bank(generator: Generator, dim: int, num_classes: int, ipc: int, seed: int) -> ImageSet:
    """``ipc`` images of each class from noise drawn once."""
    labels = torch.arange(num_classes).repeat_interleave(ipc)
    noise = torch.randn(len(labels), dim, generator=seeded_generator(seed, "noise bank"))
    return ImageSet(decode_noise(generator, noise, labels).cpu(), labels)


def decode_noise(generator: Generator, noise: Tensor, labels: Tensor) -> Tensor:
    """uint8 images on the generator's device."""
    device, size = next(generator.parameters()).device, chunk_size(generator.resolution)
    pairs = zip(noise.to(device).split(size), labels.to(device).split(size), strict=True)
    return torch.cat([decode_chunk(generator, *pair) for pair in pairs])

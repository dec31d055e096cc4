"""Pre-train the generator as a class-conditional GAN (hinge loss, projection discriminator; Miyato & Koyama 2018).

The discriminator is kept for the realism loss. Codes are sought afterwards by the reconstruct stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raycondense import losses
from raycondense.augment import dsa
from raycondense.config import Config
from raycondense.data.normalize import Normalize
from raycondense.data.open import open_shuffled_batches
from raycondense.errors import ConfigError
from raycondense.host import Host
from raycondense.models.discriminator import Discriminator
from raycondense.progress import Progress
from raycondense.seeds import derive_seed, seeded_generator
from raycondense.state import TrainState

ADAM_BETAS = (0.0, 0.9)  # SNGAN/BigGAN: no momentum in an adversarial game


class GanTrainer:
    """Both players, their optimizers and one step of their game.

    Args:
        config: the whole configuration.
        state: its generator and discriminator are trained.
        normalize: standardises images for the discriminator.
        host: adds gradients up over the ranks.
    """

    def __init__(self, config: Config, state: TrainState, normalize: Normalize, host: Host) -> None:
        if state.discriminator is None:
            raise ConfigError(f"initialise.method: found {config.initialise.method!r}, valid for GAN training: gan")
        self._config, self._host, self._normalize = config, host, normalize
        self._generator = state.model.generator.requires_grad_(True)
        self._discriminator: Discriminator = state.discriminator.requires_grad_(True).train()
        self._players = {"generator": self._generator, "discriminator": self._discriminator}
        self._optimizers = {
            name: torch.optim.Adam(player.parameters(), lr=config.initialise.gan_lr, betas=ADAM_BETAS)
            for name, player in self._players.items()
        }

    def step(self, images: Tensor, labels: Tensor, step: int) -> dict[str, Tensor]:
        """One discriminator and one generator update.

        Args:
            images: this rank's real images uint8 [N, 3, R, R].
            labels: their classes [N].
            step: number of the step; random codes are drawn by it.

        Returns:
            This rank's share of ``gan/discriminator`` (hinge loss) and ``gan/generator`` (negated mean score).
        """
        share = len(labels) / self._config.initialise.gan_batch
        with torch.no_grad():
            fake = self._fake(labels, step, "discriminator")
        real_scores = self._discriminator(self._augmented(self._normalize(images), step), labels)
        fake_scores = self._discriminator(fake, labels)
        against = share * losses.discriminator_hinge(real_scores, fake_scores)
        self._update("discriminator", against)

        self._discriminator.requires_grad_(False)
        cheating = share * losses.realism(self._discriminator(self._fake(labels, step, "generator"), labels))
        self._update("generator", cheating)
        self._discriminator.requires_grad_(True)
        return {"gan/discriminator": against.detach(), "gan/generator": cheating.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Both optimizers' states."""
        return {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Read `state_dict` back; an empty one is a fresh start."""
        for name, saved in state.items():
            self._optimizers[name].load_state_dict(saved)

    def _fake(self, labels: Tensor, step: int, part: str) -> Tensor:
        random = seeded_generator(self._config.seed, "gan", part, step, self._host.rank)
        codes = torch.randn(len(labels), self._config.codebook.dim, generator=random) * self._config.codebook.init_std
        return self._augmented(self._normalize(self._generator(codes.to(self._host.device), labels)), step)

    def _augmented(self, images: Tensor, step: int) -> Tensor:
        # DiffAugment (arXiv 2006.10738): on small sets the discriminator would learn the images by heart.
        return dsa(images, self._config.augment.strategy, derive_seed(self._config.seed, "gan augment", step))

    def _update(self, player: str, loss: Tensor) -> None:
        optimizer = self._optimizers[player]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._host.all_reduce([p.grad for p in self._players[player].parameters() if p.grad is not None])
        optimizer.step()


def pretrain_gan(config: Config, train: Path, state: TrainState, host: Host, progress: Progress) -> None:
    """The gan stage, until ``initialise.gan_images`` real images were seen.

    Raises:
        ConfigError: ``initialise.gan_batch`` is smaller than the number of workers.
    """
    settings = config.initialise
    if settings.gan_batch < host.world_size:
        raise ConfigError(
            f"initialise.gan_batch: found {settings.gan_batch}, valid: {host.world_size} (the workers) or more"
        )
    batches = open_shuffled_batches(
        train, config, batch=settings.gan_batch, seed=derive_seed(config.seed, "gan"),
        rank=host.rank, world_size=host.world_size, device=host.device,
    )  # fmt: skip
    with batches:
        progress.facts["loader"] = batches.loader
        normalize = Normalize(batches.sidecar.mean, batches.sidecar.std).to(host.device)
        trainer = GanTrainer(config, state, normalize, host)
        trainer.load_state_dict(state.optimizers)
        if state.images >= settings.gan_images:
            return
        for images, labels in batches.steps(state.step):
            named = trainer.step(images, labels, state.step)
            progress.after_steps(
                named, images=settings.gan_batch, total=settings.gan_images, optimizers=trainer.state_dict
            )
            if state.images >= settings.gan_images:
                break

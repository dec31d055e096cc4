"""How generator, codes and extractor pool start: what runs before the condensation."""

from raycondense.initialise.gan import pretrain_gan
from raycondense.initialise.pool import train_pool
from raycondense.initialise.reconstruct import fit_reconstruction

__all__ = ["fit_reconstruction", "pretrain_gan", "train_pool"]

"""Briefly train the pool of feature extractors on real data (for ``extractors.weights`` trained and blend)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from raycondense.augment import dsa
from raycondense.config import Config
from raycondense.data.normalize import Normalize
from raycondense.data.open import open_shuffled_batches
from raycondense.data.sidecar import Sidecar
from raycondense.host import Host
from raycondense.progress import Progress
from raycondense.seeds import derive_seed
from raycondense.state import TrainState


def train_pool(config: Config, train: Path, state: TrainState, host: Host, progress: Progress) -> None:
    """The pool stage: each worker trains networks of its own and gives them to the others.

    A network depends on the seed and its number alone, not on which worker trains it or on how many there are. A
    step of this stage is one network a worker.
    """
    pool, settings = state.pool, config.extractors
    if not pool.untrained:
        return
    size = min(settings.train_batch, Sidecar.load(train).num_images)
    total = settings.pool_size * settings.train_steps * size
    # Every worker reads the same order, whole: which worker trains a network must not matter.
    batches = open_shuffled_batches(
        train, config, batch=size, seed=derive_seed(config.seed, "pool"), rank=0, world_size=1, device=host.device
    )
    with batches:
        progress.facts["loader"] = batches.loader
        normalize = Normalize(batches.sidecar.mean, batches.sidecar.std).to(host.device)

        def augmented(images: Tensor, step: int, network: int) -> Tensor:
            return dsa(images, config.augment.strategy, derive_seed(config.seed, "pool augment", network, step))

        def standardised(network: int) -> Iterator[tuple[Tensor, Tensor]]:
            for images, labels in batches.steps(network * settings.train_steps):
                yield normalize(images.to(host.device)), labels.to(host.device)

        for first in range(pool.untrained[0], settings.pool_size, host.world_size):
            network = first + host.rank
            named = {"pool": torch.zeros((), device=host.device), "pool_accuracy": torch.zeros((), device=host.device)}
            mine = pool.trained(0).new_empty(0, len(pool.trained(0)))
            round_size = min(host.world_size, settings.pool_size - first)
            if network < settings.pool_size:
                found = pool.train_network(network, standardised(network), augment=partial(augmented, network=network))
                named = {"pool": named["pool"] + found.loss, "pool_accuracy": named["pool_accuracy"] + found.accuracy}
                mine = pool.trained(network)[None]
            for offset, weights in enumerate(torch.cat(host.all_gather(mine))):
                pool.set_trained(first + offset, weights)
            progress.after_steps(
                {name: value / round_size for name, value in named.items()},
                images=round_size * settings.train_steps * size,
                total=total,
                optimizers=dict,
            )

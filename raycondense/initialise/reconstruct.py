"""Fit generator and codes together to real images: generative latent optimisation on k-means medoids.

Each code gets one real image to reproduce, the k-means medoids of its class, so that condensation starts
from a set that is already as good as well-chosen real images. After GAN pre-training codes are sought and the generator
follows slowly, as in pivotal tuning (arXiv 2106.05744): a GAN alone does not reach most real images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raycondense.config import Config
from raycondense.data.beton import BetonReader
from raycondense.data.medoids import medoids
from raycondense.execution import autocast, compile_networks
from raycondense.host import Host
from raycondense.progress import Progress
from raycondense.seeds import derive_seed, seeded_generator
from raycondense.state import TrainState
from raycondense.updates import Updater, cosine

AFTER_GAN = 0.25  # of the generator's learning rate, when it comes from a GAN
CLUSTERED_IMAGES = 2000  # of a class; bounds memory, and more do not move k-means centers


def choose_targets(reader: BetonReader, config: Config, class_index: int) -> Tensor:
    """Real images uint8 [K, 3, R, R] of one class that its K codes (all banks) are to reproduce."""
    everything = np.asarray(reader.sidecar.class_range(class_index))
    seed = derive_seed(config.seed, "medoids", class_index)
    if len(everything) > CLUSTERED_IMAGES:
        everything = np.sort(np.random.default_rng(seed).choice(everything, CLUSTERED_IMAGES, replace=False))
    images = reader.images(everything, config.data.resolution)
    chosen = []
    for ipc in config.codebook.ipc:
        codes = config.codebook.images_per_class(ipc)
        picked = medoids(images, min(codes, len(images)), seed=seed % 2**32)
        # A class with fewer images than codes: codes share targets and are told apart by the losses later.
        chosen.append(np.resize(picked, codes))
    return torch.from_numpy(images[np.concatenate(chosen)])


def fit_reconstruction(config: Config, train: Path, state: TrainState, host: Host, progress: Progress) -> None:
    """The reconstruct stage. Workers hold the targets of disjoint classes and take their part of every batch.

    Minimises the mean squared pixel error of images in [0, 1].
    """
    settings, codebook = config.initialise, state.model.codebook
    num_classes, per_class = codebook.codes.shape[:2]
    own = np.array_split(np.arange(num_classes), host.world_size)[host.rank]
    reader = BetonReader(train)
    targets = torch.stack([choose_targets(reader, config, int(c)) for c in own]).to(host.device) if len(own) else None

    updater = Updater(
        state.model,
        host,
        lr_generator=settings.lr * (AFTER_GAN if settings.method == "gan" else 1),
        lr_codebook=settings.lr * 10,
    )
    updater.load_state_dict(state.optimizers)
    compile_networks(config, state, host.device)
    precision = autocast(config, host.device)
    batch = min(settings.batch, num_classes * per_class)
    for step in range(state.step, settings.steps):
        pairs = torch.randperm(num_classes * per_class, generator=seeded_generator(config.seed, "reconstruct", step))[
            :batch
        ]
        loss = torch.zeros((), device=host.device)
        if targets is not None:
            mine = pairs[(pairs >= own[0] * per_class) & (pairs < (own[-1] + 1) * per_class)].to(host.device)
            classes, positions = mine // per_class, mine % per_class
            codes = codebook.codes.detach()[classes, positions].requires_grad_()
            wanted = F.avg_pool2d(targets[classes - int(own[0]), positions].float() / 255, codebook.config.factor)
            # The sum over the global batch's size: ranks' shares of unequal length add up to the global mean.
            with precision():
                made = state.model.generator.native(codes, classes)
            loss = F.mse_loss(made, wanted, reduction="none").flatten(1).mean(1).sum() / batch
            loss.backward()
            if codes.grad is not None:
                updater.add_code_gradient(classes, positions, codes.grad)
        updater.apply(lr_factor=cosine(step / settings.steps))
        progress.after_steps(
            {"reconstruct": loss.detach()}, images=batch, total=settings.steps * batch, optimizers=updater.state_dict
        )

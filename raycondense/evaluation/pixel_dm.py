"""Pixel DM: images condensed pixel by pixel by distribution matching, the baseline closest in kind to raycondense.

Zhao & Bilen, *Dataset Condensation with Distribution Matching*, arXiv 2110.04181, built from the parts that
condensation uses: random ConvNets, siamese augmentation, real images out of the training beton. The pixels themselves
are learned: no generator, no codes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raycondense.artifact.decode import enlarge_uint8, to_uint8
from raycondense.augment import OPERATIONS, dsa
from raycondense.config import ExtractorConfig
from raycondense.data.beton import BetonReader
from raycondense.data.cpus import usable_cpus
from raycondense.data.normalize import Normalize
from raycondense.data.resident import free_bytes, load_resident
from raycondense.data.sidecar import check_resolution
from raycondense.errors import ConfigError, DivergedError, choices_message
from raycondense.evaluation.baselines import baseline_set
from raycondense.evaluation.train import ImageSet
from raycondense.models.extractors import Extractor
from raycondense.models.generator import enlarge
from raycondense.models.pool import ExtractorPool
from raycondense.seeds import derive_seed

MOMENTUM = 0.5
"""Of the pixels' SGD, as in DM's code."""
LARGEST_PUBLISHED = 50
"""Images per class up to which DM's code takes one and the same learning rate."""
FORWARD_PIXELS = 1024 * 32**2
"""Pixels of the images that go through the network at a time: memory grows with them, the result does not change."""
RESIDENT_BYTES = 2 << 30
"""Up to this size the real images are decoded once and stay on the device."""
REPORT_EVERY = 100
"""Steps between two looks at the loss: each waits for the device."""

Progress = Callable[[int, float], None]
"""(steps done, mean loss of a class since the last call)."""


def pixel_learning_rate(lr: float, ipc: int) -> float:
    """Learning rate of the pixels: ``lr`` for 1 to 50 images per class, then growing in proportion to their number.

    DM's code sums the loss over classes and takes 1 for 1, 10 and 50 images per class, on CIFAR-10 and CIFAR-100 alike
    (20,000 steps); for 100 to 1250 it takes 10 on CIFAR-10 and 1 on CIFAR-100. An image's gradient falls as
    1 / ``ipc``, so beyond 50 this keeps the step of an image what it is at 50.
    """
    return lr * max(1.0, ipc / LARGEST_PUBLISHED)


def pixel_dm(
    train_beton: str | os.PathLike[str],
    *,
    ipc: int,
    steps: int,
    lr: float,
    real_per_class: int,
    width: int,
    augment: Sequence[str],
    seed: int,
    resolution: int,
    factor: int = 1,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> ImageSet:
    """Condense the training images to ``ipc`` images per class by matching the means of their features.

    In each step a ConvNet with fresh weights embeds ``real_per_class`` random real images and all synthetic ones of
    every class, both under one random augmentation for the class, and SGD with momentum 0.5 moves the pixels down
    ``Σ_c ‖ mean_m f(x_cm) − mean_k f(s_ck) ‖²`` (arXiv 2110.04181, equation 6 and algorithm 1). The published results
    (CIFAR-10, 26.0 / 48.9 / 63.0 % at 1 / 10 / 50 images per class) are those of ``lr=1``, ``real_per_class=256``,
    ``width=128``, ``steps=20000``. They were scored on the floating-point pixels; here all images of an evaluation are
    of 8 bits, so the last pixels are rounded and clamped.

    The result is a function of the arguments: the same bytes on a CPU with the same number of threads, nearly the same
    on a GPU, whose sums have no fixed order.

    Args:
        train_beton: beton of the training images. They are decoded once where they take at most `RESIDENT_BYTES`, in
            every step otherwise.
        ipc: images per class, K; the first pixels are random real images.
        steps: updates of all pixels.
        lr: see `pixel_learning_rate`; of standardised pixels.
        real_per_class: real images of a class in a step; at most the class's own.
        width: channels of the ConvNets, a multiple of 4.
        augment: DSA operations; empty is none.
        seed: of everything random.
        resolution: side R in pixels, at most the beton's.
        factor: in the place of each image are factor² images of ``R / factor`` pixels, enlarged (multi-formation; IDC,
            arXiv 2205.14959): K = ``ipc factor²``.
        device: where to compute.
        progress: called every `REPORT_EVERY` steps and after the last.

    Returns:
        uint8 images [C K, 3, R, R], ordered by class, and int64 labels [C K], on the CPU.

    Raises:
        ConfigError: an argument is out of its range; the message names its setting.
        DataError: the beton is missing or damaged, its images are smaller than ``resolution``, or a class has fewer
            than ``ipc``.
        DivergedError: the loss became non-finite.
    """
    _check(ipc=ipc, steps=steps, lr=lr, real_per_class=real_per_class, width=width, augment=augment)
    reader, device = BetonReader(train_beton), torch.device(device)
    sidecar = reader.sidecar
    check_resolution(train_beton, sidecar, resolution)
    kept = ipc * factor**2
    start = baseline_set("random", train_beton, ipc=kept, seed=derive_seed(seed, "pixel dm"), resolution=resolution)
    normalize = Normalize(sidecar.mean, sidecar.std).to(device)
    pixels = F.avg_pool2d(normalize(start.images.to(device)), factor).unflatten(0, (sidecar.num_classes, kept))
    pixels.grad = torch.zeros_like(pixels)
    optimizer = torch.optim.SGD([pixels], lr=pixel_learning_rate(lr, kept), momentum=MOMENTUM)
    networks = ExtractorPool(
        ExtractorConfig(width=width), num_classes=sidecar.num_classes, resolution=resolution,
        seed=derive_seed(seed, "pixel dm"), device=device,
    )  # fmt: skip
    matching = _Matching(
        _real_images(reader, resolution, device), [sidecar.class_range(label) for label in range(sidecar.num_classes)],
        normalize=normalize, real_per_class=real_per_class, augment=augment, seed=seed, factor=factor,
    )  # fmt: skip
    losses, reported = torch.zeros((), device=device), 0
    for step in range(steps):
        losses += matching.backward(pixels, networks.draw(step), step)
        optimizer.step()
        done = step + 1
        if done % REPORT_EVERY == 0 or done == steps:
            mean_loss = float(losses) / ((done - reported) * sidecar.num_classes)
            if not math.isfinite(mean_loss) or not bool(pixels.isfinite().all()):
                raise DivergedError(
                    f"pixel-dm: the loss became non-finite in steps {reported} to {step}; "
                    f"lower evaluation.pixel_dm_lr (found {lr})"
                )
            if progress is not None:
                progress(done, mean_loss)
            reported = done
            losses.zero_()
    images = enlarge_uint8(to_uint8(pixels.flatten(0, 1) * normalize.std + normalize.mean), factor)
    return ImageSet(images.cpu(), start.labels)


class _View(NamedTuple):
    """How a step looks at images: through a network, after one random augmentation for each class."""

    network: Extractor
    operations: list[str]
    """Of each class, by label; none where nothing is augmented."""
    seed: int

    def embed(self, images: Tensor, labels: np.ndarray) -> Tensor:
        """Features [n, D] of standardised images [n, 3, R, R], whose ``labels`` [n] stand together."""
        if self.operations:
            parts, first = [], 0
            for operation, run in groupby(self.operations[label] for label in labels):
                last = first + sum(1 for _ in run)
                groups = torch.from_numpy(labels[first:last])
                parts.append(dsa(images[first:last], (operation,), self.seed, groups))
                first = last
            images = torch.cat(parts)
        most = max(1, FORWARD_PIXELS // images.shape[-1] ** 2)
        return torch.cat([self.network.embed(part) for part in images.split(most)])


class _Matching:
    """The loss of a step and its gradient.

    As many classes as `FORWARD_PIXELS` allow are embedded together, those with the same augmentation side by side. The
    loss is a sum over classes, so neither their order nor how they are parted changes it.

    Args:
        images: positions in the beton [n] → uint8 images [n, 3, R, R] on the device.
        ranges: positions of each class's images.
        normalize: standardises images.
        real_per_class: real images of a class in a step; at most the class's own.
        augment: DSA operations.
        seed: of images and augmentation.
        factor: synthetic images are enlarged so many times first.
    """

    def __init__(
        self,
        images: Callable[[np.ndarray], Tensor],
        ranges: Sequence[range],
        *,
        normalize: Normalize,
        real_per_class: int,
        augment: Sequence[str],
        seed: int,
        factor: int = 1,
    ) -> None:
        self._factor = factor
        self._images, self._normalize, self._augment, self._seed = images, normalize, augment, seed
        self._ranges = ranges
        self._counts = np.array([min(len(members), real_per_class) for members in ranges])

    def backward(self, pixels: Tensor, network: Extractor, step: int) -> Tensor:
        """Write the gradient of ``pixels`` [C, K, 3, r, r] and return the loss, detached, on the device."""
        draw = np.random.default_rng(derive_seed(self._seed, "pixel dm draw", step))
        order, operations = np.arange(len(self._ranges)), []
        if self._augment:
            drawn = draw.integers(len(self._augment), size=len(order))
            order, operations = np.argsort(drawn, kind="stable"), [self._augment[k] for k in drawn]
        view = _View(network, operations, derive_seed(self._seed, "pixel dm augmentation", step))
        kept, resolution = pixels.shape[1], pixels.shape[-1] * self._factor
        most = max(1, FORWARD_PIXELS // (resolution**2 * max(kept, int(self._counts.max()))))
        loss = torch.zeros((), device=pixels.device)
        assert pixels.grad is not None
        for start in range(0, len(order), most):
            labels = order[start : start + most]
            real = self._real_means(labels, draw, view)
            where = torch.from_numpy(labels).to(pixels.device)
            synthetic = pixels.detach()[where].requires_grad_()
            images = enlarge(synthetic.flatten(0, 1), self._factor)
            features = view.embed(images, labels.repeat(kept)).unflatten(0, (-1, kept))
            partial = (real - features.mean(dim=1)).square().sum()
            pixels.grad[where] = torch.autograd.grad(partial, synthetic)[0]
            loss += partial.detach()
        return loss

    @torch.no_grad()
    def _real_means(self, labels: np.ndarray, draw: np.random.Generator, view: _View) -> Tensor:
        """Mean features [c, D] of random real images of the classes ``labels``."""
        counts = self._counts[labels]
        chosen = [
            self._ranges[label].start + draw.choice(len(self._ranges[label]), count, replace=False)
            for label, count in zip(labels, counts, strict=True)
        ]
        features = view.embed(self._normalize(self._images(np.concatenate(chosen))), labels.repeat(counts))
        # A product and no scattered sum: classes may have different numbers of images, and its order is fixed.
        rows = torch.eye(len(labels)).repeat_interleave(torch.from_numpy(counts), dim=1)
        return (rows / rows.sum(dim=1, keepdim=True)).to(features.device) @ features


def _real_images(reader: BetonReader, resolution: int, device: torch.device) -> Callable[[np.ndarray], Tensor]:
    """A function from positions in the beton [n] to uint8 images [n, 3, R, R] on ``device``."""
    free = free_bytes(device)
    if len(reader) * 3 * resolution**2 <= min(RESIDENT_BYTES, RESIDENT_BYTES if free is None else free // 2):
        resident = load_resident(reader.path, resolution=resolution, device=device, threads=min(8, usable_cpus()))
        return lambda indices: resident[torch.from_numpy(indices).to(device)]
    return lambda indices: torch.from_numpy(reader.images(indices, resolution)).to(device)


def _check(*, ipc: int, steps: int, lr: float, real_per_class: int, width: int, augment: Sequence[str]) -> None:
    """Nothing where the arguments of `pixel_dm` are valid.

    Raises:
        ConfigError: one is not.
    """
    for name, found in (("ipc", ipc), ("pixel_dm_steps", steps), ("pixel_dm_real", real_per_class)):
        if found < 1:
            raise ConfigError(f"evaluation.{name}: found {found}, valid: 1 or more")
    if not (lr > 0 and math.isfinite(lr)):
        raise ConfigError(f"evaluation.pixel_dm_lr: found {lr}, valid: more than 0")
    if width < 4 or width % 4:
        raise ConfigError(f"evaluation.width: found {width}, valid with pixel-dm: a multiple of 4, 4 or more")
    for operation in augment:
        if operation not in OPERATIONS:
            raise ConfigError(f"evaluation.augment: {choices_message('operation', operation, OPERATIONS)}")

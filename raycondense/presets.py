"""Presets: functions that return a whole configuration. Start from one and `raycondense.configfile.override` it.

Their values are starting points, chosen from the literature and from small probes: a preset is a measured setting
only where its docstring names the run that measured it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from raycondense.config import (
    AugmentConfig,
    ClusterConfig,
    CodebookConfig,
    CondenseConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ExtractorConfig,
    GeneratorConfig,
    InitialiseConfig,
    LossConfig,
)
from raycondense.errors import ConfigError, choices_message

# A mirrored digit is another digit or none; the operations that keep it readable stay.
_DIGIT_AUGMENTATIONS = ("color", "crop", "scale", "rotate")


def digits() -> Config:
    """scikit-learn's 8-px digits, 10 classes of about 180 images: a minute on two CPUs. What `make demo` runs.

    Values chosen on the validation cut among two dozen variants; docs/results/first-runs.md says what was seen. Sweeps
    of the loss weights around them found none that are better on test images: docs/results/sweep-digits.md.
    """
    return Config(
        name="digits",
        data=DataConfig(resolution=8, num_classes=10),
        generator=GeneratorConfig(width=16, max_width=32, class_dim=16),
        codebook=CodebookConfig(ipc=(1, 10), dim=32),
        extractors=ExtractorConfig(width=32, weights="blend", pool_size=4, train_steps=60),
        augment=AugmentConfig(strategy=_DIGIT_AUGMENTATIONS),
        initialise=InitialiseConfig(steps=300, batch=110, gan_images=20_000),
        condense=CondenseConfig(
            images=128_000, real_per_class=64, ema_images=8_000, log_images=6_400, checkpoint_images=64_000
        ),
        evaluation=EvaluationConfig(
            width=32,
            students=5,
            epochs=300,
            max_steps=400,
            batch=64,
            augment=(*_DIGIT_AUGMENTATIONS, "cutout"),
            reference_steps=400,
            pixel_dm_steps=500,
            pixel_dm_real=64,
        ),
        cluster=ClusterConfig(workers=2),
    )


# Losses beside extractors of width 128, whose 2048 features make the matching loss, a sum, four times as large as the
# 512 of the presets at 16 px, where they were chosen. The weight of the regression is scaled by the ratio of the
# losses' gradients on random networks (0.0088 of matching's at weight 1 and ridge 1 there, 0.0021 here).
_WIDE = LossConfig(regression=400.0, regression_ridge=1.0, ce=2.0, inter=0.0, intra=0.0)


def fashion_mnist() -> Config:
    """Fashion-MNIST stored at 32 px, 10 classes of 6000 grey images. Starting values, `_WIDE`."""
    return Config(
        name="fashion_mnist",
        data=DataConfig(resolution=32, num_classes=10),
        generator=GeneratorConfig(width=32, max_width=64),
        codebook=CodebookConfig(ipc=(1, 10, 50), factor=2, dim=64),
        extractors=ExtractorConfig(weights="blend"),
        losses=_WIDE,
        initialise=InitialiseConfig(steps=1000),
        condense=CondenseConfig(images=3_840_000, codes_per_step=40),
    )


# What students of the 16-px presets learn by: as many steps for every row, so that sets of any size are learned alike.
_SHORT_STUDENTS = EvaluationConfig(
    width=32, students=5, epochs=1_000_000, max_steps=1500, batch=128, optimizer="adamw", lr=1e-3,
    lr_schedule="cosine", reference_steps=1500, pixel_dm_steps=700, pixel_dm_real=64,
)  # fmt: skip


def cifar10_16() -> Config:
    """CIFAR-10 made smaller to 16 px: the method in minutes on two CPUs, four images of 8 px in the place of each.

    Values chosen on validation images; docs/results/quality-cifar10-16.md has what they reach and the command,
    docs/results/ablations.md what each of them brings.
    """
    return Config(
        name="cifar10_16",
        data=DataConfig(resolution=16, num_classes=10),
        generator=GeneratorConfig(width=48, max_width=96, class_dim=16),
        codebook=CodebookConfig(ipc=(10,), factor=2, dim=128),
        extractors=ExtractorConfig(width=32, weights="blend", pool_size=3, train_steps=400),
        losses=LossConfig(regression=100.0, regression_ridge=1.0, ce=2.0, inter=0.0, intra=0.0),
        initialise=InitialiseConfig(steps=300, batch=128),
        condense=CondenseConfig(
            images=640 * 500, real_per_class=64, lr_generator=1e-3, ema_images=9_000, log_images=6_400,
            checkpoint_images=64_000,
        ),
        evaluation=_SHORT_STUDENTS,
    )  # fmt: skip


def fashion_mnist_16() -> Config:
    """Fashion-MNIST made smaller to 16 px, in minutes on two CPUs.

    Values chosen on validation images; docs/results/quality-fashion-mnist-16.md has what they reach and the command.
    Four images in the place of one (``codebook.factor`` 2) are worth it for a single image per class, not for ten.
    """
    base = cifar10_16()
    return dataclasses.replace(
        base,
        name="fashion_mnist_16",
        codebook=dataclasses.replace(base.codebook, factor=1),
        losses=dataclasses.replace(base.losses, regression_ridge=0.1, ce=0.5),
    )


def cifar10() -> Config:
    """CIFAR-10, 32 px, 10 classes of 5000 images. Starting values: those of `cifar10_16`, with weights scaled to its
    wider extractors (`_WIDE`); at this size they have not been measured."""
    return Config(
        name="cifar10",
        data=DataConfig(resolution=32, num_classes=10),
        generator=GeneratorConfig(width=64, max_width=128),
        codebook=CodebookConfig(ipc=(1, 10, 50), factor=2, dim=128),
        extractors=ExtractorConfig(weights="blend", pool_size=20, train_steps=400),
        losses=_WIDE,
        initialise=InitialiseConfig(steps=2000),
        condense=CondenseConfig(images=6_400_000, real_per_class=128, codes_per_step=50, lr_generator=1e-3),
    )


def cifar100() -> Config:
    """CIFAR-100, 32 px, 100 classes of 500 images. Starting values, `_WIDE`."""
    return Config(
        name="cifar100",
        data=DataConfig(resolution=32, num_classes=100),
        generator=GeneratorConfig(width=64, max_width=256, class_dim=64),
        codebook=CodebookConfig(ipc=(1, 10, 50), factor=2, dim=128),
        extractors=ExtractorConfig(weights="blend", pool_size=20, train_steps=1000),
        losses=_WIDE,
        initialise=InitialiseConfig(steps=5000, batch=512),
        condense=CondenseConfig(images=25_600_000, classes_per_step=20, codes_per_step=40),
    )


def tiny_imagenet() -> Config:
    """Tiny-ImageNet, 64 px, 200 classes of 500 images. Starting values, `_WIDE`."""
    return Config(
        name="tiny_imagenet",
        data=DataConfig(resolution=64, workers=4, num_classes=200),
        generator=GeneratorConfig(width=64, max_width=256, class_dim=64),
        codebook=CodebookConfig(ipc=(1, 10, 50), factor=2, dim=128),
        extractors=ExtractorConfig(weights="blend", pool_size=20, train_steps=1000),
        losses=_WIDE,
        initialise=InitialiseConfig(steps=10_000),
        condense=CondenseConfig(images=25_600_000, classes_per_step=20, codes_per_step=25, checkpoint_images=1_000_000),
    )


def imagenette() -> Config:
    """Imagenette, ten ImageNet classes of about 950 images, at 128 px. Starting values, `_WIDE`."""
    return Config(
        name="imagenette",
        data=DataConfig(resolution=128, workers=4, num_classes=10),
        generator=GeneratorConfig(width=32, max_width=256),
        codebook=CodebookConfig(ipc=(1, 10), factor=2, dim=128),
        extractors=ExtractorConfig(weights="blend", pool_size=20, train_steps=500),
        losses=_WIDE,
        initialise=InitialiseConfig(steps=3000, batch=110),
        condense=CondenseConfig(images=2_560_000, real_per_class=64, codes_per_step=10),
    )


def imagenet1k_64() -> Config:
    """ImageNet-1k at 64 px, 1000 classes of 732 to 1300 images. Starting values.

    A generator of 7.8 M parameters and 61 codes of 64 numbers a class: together the floats of 0.95 images per class.
    Students' training is cut at 100 000 steps; with 1.28 M images the whole set is no baseline to run by default.
    """
    return Config(
        name="imagenet1k_64",
        data=DataConfig(resolution=64, workers=8, num_classes=1000),
        generator=GeneratorConfig(width=64, max_width=256, blocks=2, class_dim=128),
        codebook=CodebookConfig(ipc=(1, 10, 50), dim=64),
        extractors=ExtractorConfig(weights="blend", pool_size=20, train_steps=5000),
        losses=LossConfig(ce=0.5),
        initialise=InitialiseConfig(steps=30_000, batch=512, gan_images=20_000_000, gan_batch=256),
        condense=CondenseConfig(
            images=80_000_000, classes_per_step=64, real_per_class=64, codes_per_step=10,
            ema_images=500_000, log_images=200_000, checkpoint_images=4_000_000,
        ),
        evaluation=EvaluationConfig(
            students=3, epochs=300, max_steps=100_000, baselines=("random", "kmeans")
        ),
    )  # fmt: skip


def imagenet1k_128() -> Config:
    """ImageNet-1k at 128 px. Starting values; generated images go through the loss 256 at a time to spare memory."""
    return Config(
        name="imagenet1k_128",
        data=DataConfig(resolution=128, workers=8, num_classes=1000),
        generator=GeneratorConfig(width=64, max_width=512, blocks=2, class_dim=128),
        codebook=CodebookConfig(ipc=(1, 10, 50), dim=128),
        extractors=ExtractorConfig(weights="blend", pool_size=20, train_steps=5000),
        losses=LossConfig(ce=0.5),
        initialise=InitialiseConfig(steps=30_000, batch=256, gan_images=20_000_000, gan_batch=256),
        condense=CondenseConfig(
            images=80_000_000, classes_per_step=64, real_per_class=32, codes_per_step=10, two_pass=256,
            ema_images=500_000, log_images=200_000, checkpoint_images=4_000_000,
        ),
        evaluation=EvaluationConfig(
            architectures=("resnet18",), students=3, epochs=300, max_steps=100_000, baselines=("random", "kmeans")
        ),
    )  # fmt: skip


PRESETS: dict[str, Callable[[], Config]] = {
    function.__name__: function
    for function in (
        digits, fashion_mnist, fashion_mnist_16, cifar10, cifar10_16, cifar100, tiny_imagenet, imagenette,
        imagenet1k_64, imagenet1k_128,
    )
}  # fmt: skip
"""Every preset by its name; the configuration that a function returns carries the same name."""


def get_preset(name: str) -> Config:
    """The preset called ``name``.

    Raises:
        ConfigError: there is none; the nearest name and all names are listed.
    """
    if name not in PRESETS:
        raise ConfigError(choices_message("preset", name, PRESETS))
    return PRESETS[name]()

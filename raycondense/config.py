"""Every setting of raycondense, as frozen dataclasses: the only truth about what can be set.

The command line is derived from these types and the string under each field is its help text. Presets
(`raycondense.presets`) are functions that return a whole `Config`. This module knows no other room: it
imports neither torch nor ray, so reading or checking a configuration is instant.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from raycondense.errors import ConfigError

RESOLUTIONS = (8, 16, 32, 64, 128, 256)
FACTORS = (1, 2, 4)
AUGMENTATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
ACCOUNTINGS = ("bank", "bytes", "stream")


def _require(condition: bool, name: str, found: object, valid: str) -> None:
    if not condition:
        raise ConfigError(f"{name}: found {found!r}, valid: {valid}")


def _check_choices(instance: Any, section: str) -> None:
    """Check every ``Literal`` field of ``instance`` against its choices."""
    for name, hint in get_type_hints(type(instance)).items():
        choices = [c for c in get_args(hint) if isinstance(c, str)]
        if choices:
            value = getattr(instance, name)
            _require(value in choices, f"{section}.{name}", value, ", ".join(choices))


def _check_augmentation(section: str, names: tuple[str, ...]) -> None:
    for name in names:
        _require(name in AUGMENTATIONS, section, name, ", ".join(AUGMENTATIONS))


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """How images are read."""

    resolution: int = 32
    """Side in pixels of the square images that the generator makes; a power of two, 8 to 256."""
    num_classes: int = 0
    """Number of classes; 0 takes it from the dataset (needed only by a dry run without data)."""
    loader: Literal["auto", "ffcv", "resident"] = "auto"
    """Class-batch loader: FFCV's, the whole set resident on the device, or FFCV where it imports."""
    workers: int = 2
    """Decoding threads of the FFCV loader in each training worker (at most the CPUs it may use)."""
    read_block: int = 16
    """Images read together from one place of the file; 1 is fully random order, more reads faster."""
    os_cache: bool = True
    """FFCV reads through the system's page cache; off: itself, whole pages of 8 MB (slower)."""
    cache: str = ""
    """Folder on each node's own disk where betons from URIs are staged; by default the user's cache folder."""

    def __post_init__(self) -> None:
        _check_choices(self, "data")
        valid = ", ".join(map(str, RESOLUTIONS))
        _require(self.resolution in RESOLUTIONS, "data.resolution", self.resolution, valid)
        _require(self.num_classes >= 0, "data.num_classes", self.num_classes, "0 or more")
        _require(self.workers >= 1, "data.workers", self.workers, "1 or more")
        _require(self.read_block >= 1, "data.read_block", self.read_block, "1 or more")
        # Workers have a folder of their own as the current one.
        absolute = not self.cache or self.cache.startswith(("/", "~"))
        _require(absolute, "data.cache", self.cache, "an absolute path, or ~/…")


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """The class-conditional generator."""

    width: int = 32
    """Channels at full resolution; doubled with each halving of the resolution up to `max_width`."""
    max_width: int = 128
    """Most channels of any layer."""
    blocks: int = 1
    """Residual blocks at each resolution."""
    class_dim: int = 32
    """Size of the class embedding that modulates every block; 0 conditions on the code alone."""

    def __post_init__(self) -> None:
        _require(self.width >= 4 and self.width % 4 == 0, "generator.width", self.width, "a multiple of 4, 4 or more")
        _require(
            self.max_width >= self.width and self.max_width % 4 == 0,
            "generator.max_width", self.max_width, f"a multiple of 4, at least generator.width = {self.width}",
        )  # fmt: skip
        _require(self.blocks >= 1, "generator.blocks", self.blocks, "1 or more")
        _require(self.class_dim >= 0, "generator.class_dim", self.class_dim, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class CodebookConfig:
    """The learnable latent codes."""

    ipc: tuple[int, ...] = (10,)
    """Images per class of each bank that the artefact can decode, ascending. Every bank has codes of its own
    (codes are cheap) and shares the generator: (1, 10) keeps 11 codes a class."""
    factor: int = 1
    """Multi-formation (IDC, arXiv 2205.14959): in the place of each image a bank keeps factor x factor images of a
    `factor`-th of the side, each with a code of its own. They are enlarged again before they are used."""
    dim: int = 64
    """Numbers in one code."""
    init_std: float = 1.0
    """Standard deviation of random codes."""

    def __post_init__(self) -> None:
        ok = bool(self.ipc) and all(k >= 1 for k in self.ipc) and list(self.ipc) == sorted(set(self.ipc))
        _require(ok, "codebook.ipc", self.ipc, "one or more different numbers, 1 or more, ascending")
        _require(self.factor in FACTORS, "codebook.factor", self.factor, ", ".join(map(str, FACTORS)))
        _require(self.dim >= 1, "codebook.dim", self.dim, "1 or more")
        _require(self.init_std > 0, "codebook.init_std", self.init_std, "more than 0")

    @property
    def codes_per_class(self) -> int:
        """Codes of one class, all banks together."""
        return self.images_per_class(sum(self.ipc))

    def images_per_class(self, ipc: int) -> int:
        """Images, and codes, of a class in a bank that takes the place of ``ipc`` images: ``ipc factor²``."""
        return ipc * self.factor**2

    def bank_slice(self, ipc: int) -> slice:
        """Positions of the codes of the bank with ``ipc`` images per class in a class's row of codes.

        Raises:
            ConfigError: the codebook has no such bank.
        """
        _require(ipc in self.ipc, "ipc", ipc, ", ".join(map(str, self.ipc)))
        start = self.images_per_class(sum(k for k in self.ipc if k < ipc))
        return slice(start, start + self.images_per_class(ipc))


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractorConfig:
    """The pool of feature extractors that the losses compare images in."""

    architecture: Literal["convnet", "resnet18"] = "convnet"
    """ConvNet-D with instance norm (the field's standard), or torchvision's ResNet-18."""
    width: int = 128
    """Channels of the ConvNet."""
    depth: int = 0
    """Blocks of the ConvNet; 0 chooses by resolution (2 at 8 and 16 px, 3 at 32, 4 at 64, 5 at 128, 6 at 256)."""
    weights: Literal["random", "trained", "blend"] = "random"
    """Fresh random weights each step, a pool trained briefly on real data, or per step a U(0,1) blend of a
    pool network's initial and trained weights (NCFM)."""
    pool_size: int = 8
    """Networks in the pool (trained and blend)."""
    train_steps: int = 200
    """Training steps of each pool network."""
    train_batch: int = 256
    """Real images in a pool training step; at most all of them."""
    train_lr: float = 0.01
    """Learning rate of pool training (SGD, momentum 0.9)."""
    draw: Literal["step", "rank"] = "step"
    """Workers share the extractor of a step (N workers compute what one does), or each draws its own."""

    def __post_init__(self) -> None:
        _check_choices(self, "extractors")
        _require(self.width >= 4 and self.width % 4 == 0, "extractors.width", self.width, "a multiple of 4, 4 or more")
        _require(0 <= self.depth <= 8, "extractors.depth", self.depth, "0 (by resolution) to 8")
        _require(self.pool_size >= 1, "extractors.pool_size", self.pool_size, "1 or more")
        _require(self.train_steps >= 1, "extractors.train_steps", self.train_steps, "1 or more")
        _require(self.train_batch >= 1, "extractors.train_batch", self.train_batch, "1 or more")
        _require(self.train_lr > 0, "extractors.train_lr", self.train_lr, "more than 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Siamese differentiable augmentation (DSA): one draw a class and step, for real and synthetic alike."""

    strategy: tuple[str, ...] = AUGMENTATIONS
    """Operations to draw from: color, crop, cutout, flip, scale, rotate; none switches augmentation off."""

    def __post_init__(self) -> None:
        _check_augmentation("augment.strategy", self.strategy)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Which losses are added up, with which weights; a weight of 0 switches a loss off."""

    matching: Literal["mean", "characteristic"] = "mean"
    """Distribution matching by feature means (DM) or by characteristic functions (NCFM)."""
    matching_weight: float = 1.0
    """Weight of the matching loss."""
    frequencies: int = 1024
    """Random frequencies of the characteristic-function distance."""
    intra: float = 0.1
    """Weight of the intra-class loss (diverse samples in a class)."""
    intra_temperature: float = 0.1
    """Temperature of the intra-class repulsion."""
    intra_bounded: bool = True
    """Stop the repulsion where synthetic samples are spread as widely as real ones of the class."""
    inter: float = 0.1
    """Weight of the inter-class loss (class centers apart)."""
    inter_temperature: float = 0.1
    """Temperature of the inter-class loss."""
    regression: float = 0.0
    """Weight of the feature regression (FRePo, arXiv 2206.00719): a linear classifier fitted to synthetic features
    should be right about real ones."""
    regression_ridge: float = 1.0
    """Strength of that classifier's regularisation, in mean square norms of a feature vector."""
    ce: float = 0.0
    """Weight of the cross-entropy of synthetic images under trained extractors (weights trained or blend)."""
    realism: float = 0.0
    """Weight of the generator's loss against the pre-trained discriminator (initialise.method gan)."""

    def __post_init__(self) -> None:
        _check_choices(self, "losses")
        for name in ("matching_weight", "intra", "inter", "regression", "ce", "realism"):
            value = getattr(self, name)
            _require(0 <= value < float("inf"), f"losses.{name}", value, "0 (off) or more, finite")
        for name in ("intra_temperature", "inter_temperature", "regression_ridge"):
            _require(getattr(self, name) > 0, f"losses.{name}", getattr(self, name), "more than 0")
        _require(self.frequencies >= 1, "losses.frequencies", self.frequencies, "1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class InitialiseConfig:
    """How generator and codes start."""

    method: Literal["reconstruct", "gan", "none"] = "reconstruct"
    """Fit generator and codes to k-means medoids of each class, pre-train a GAN and then find codes for the
    medoids (the generator follows slowly), or start from random weights (for ablation)."""
    steps: int = 500
    """Steps of the reconstruction (for gan: of the search for codes)."""
    batch: int = 256
    """Medoids in a step, all workers together."""
    lr: float = 2e-3
    """Adam's learning rate of the reconstruction."""
    gan_images: int = 200_000
    """Real images that the GAN is trained on (its clock)."""
    gan_batch: int = 64
    """Real images of a GAN step, all workers together."""
    gan_lr: float = 2e-4
    """Adam's learning rate of generator and discriminator in GAN training."""

    def __post_init__(self) -> None:
        _check_choices(self, "initialise")
        for name in ("steps", "batch", "gan_images", "gan_batch"):
            _require(getattr(self, name) >= 1, f"initialise.{name}", getattr(self, name), "1 or more")
        for name in ("lr", "gan_lr"):
            _require(getattr(self, name) > 0, f"initialise.{name}", getattr(self, name), "more than 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class CondenseConfig:
    """The condensation loop. Its clock is the number of real images seen."""

    images: int = 1_000_000
    """Real images to see, all workers together."""
    classes_per_step: int = 10
    """Classes in a step, all workers together; at most the number of classes."""
    real_per_class: int = 128
    """Real images a class in a step."""
    codes_per_step: int = 0
    """Codes of a bank that a class uses in a step, drawn afresh each step; 0 uses all of them."""
    lr_generator: float = 5e-4
    """Adam's learning rate of the generator; 0 freezes it."""
    lr_codebook: float = 1e-2
    """Sparse Adam's learning rate of the codes; 0 freezes them."""
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    """Both learning rates fall to zero along a half cosine, or stay."""
    grad_clip: float = 10.0
    """Largest norm of the generator's gradient; 0 is no limit."""
    ema_images: int = 50_000
    """Half-life, in real images seen, of the running mean of the weights that is published; 0 is no mean."""
    accumulate: int = 1
    """Steps whose gradients are added up before an update."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Autocast of generator and extractors; auto is bfloat16 on devices that have it (CPUs from 16 px on)."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Fuse the networks by torch.compile (needs a compiler, up to a minute); auto does on CPUs from 32 px on."""
    two_pass: int = 0
    """Images that go through the networks at a time, twice each, to bound memory (two-pass gradients); 0 is all."""
    log_images: int = 20_000
    """Real images seen between two log records."""
    checkpoint_images: int = 200_000
    """Real images seen between two checkpoints."""

    def __post_init__(self) -> None:
        _check_choices(self, "condense")
        for name in ("images", "classes_per_step", "real_per_class", "accumulate", "log_images", "checkpoint_images"):
            _require(getattr(self, name) >= 1, f"condense.{name}", getattr(self, name), "1 or more")
        for name in ("codes_per_step", "lr_generator", "lr_codebook", "grad_clip", "ema_images", "two_pass"):
            _require(getattr(self, name) >= 0, f"condense.{name}", getattr(self, name), "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """How students are trained to find out what images are worth. The default is the DM protocol."""

    protocol: str = "dm"
    """Protocol that these settings started from: dm, dc, soft or fast (`raycondense evaluate --protocol` takes all of a
    protocol's settings; elsewhere this is its name alone)."""
    architectures: tuple[str, ...] = ("convnet",)
    """Student architectures; `raycondense info` lists them."""
    accountings: tuple[Literal["bank", "bytes", "stream"], ...] = ("bank",)
    """How images are counted: fixed images decoded once; the largest bank whose weights take no more bytes than so many
    uint8 images; fresh samples for as many steps as a bank's students take."""
    baselines: tuple[str, ...] = (
        "random", "herding", "kmeans", "pixel-dm", "random-codes", "initial-codes", "whole",
    )  # fmt: skip
    """Rows to compare with, same recipe: real images (random, herding, k-means medoids, all), images condensed pixel by
    pixel (DM), and the run's generator before condensation with random codes and with its first codes. random-small,
    kmeans-small and pixel-dm-small keep as many small images in the place of one as ``codebook.factor`` does."""
    students: int = 5
    """Students (seeds) of each architecture; accuracy is their mean and standard deviation."""
    width: int = 128
    """Channels of ConvNet students."""
    epochs: int = 1000
    """Epochs over the training images; the last one counts."""
    max_steps: int = 0
    """Most training steps of a student whatever the epochs say, for large sets; 0 is no limit."""
    batch: int = 256
    """Images in a training step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW."""
    lr: float = 0.01
    """Learning rate."""
    lr_schedule: Literal["step", "cosine"] = "step"
    """A tenth from half of the epochs on, or a half cosine to zero."""
    weight_decay: float = 5e-4
    """Weight decay."""
    augment: tuple[str, ...] = AUGMENTATIONS
    """DSA operations of student training."""
    cutmix: float = 0.0
    """Share of training steps that mix pairs of images by CutMix, 0 to 1."""
    labels: Literal["hard", "soft"] = "hard"
    """Class labels, or the reference network's probabilities for each augmented view."""
    temperature: float = 4.0
    """Temperature of soft labels and of the student's logits that are compared with them."""
    weights: Literal["float32", "float16", "int8"] = "float32"
    """How a generator and its codes are rounded before they are decoded and counted."""
    robustness: bool = False
    """Also train without augmentation, on ours and on random images, for the augmentation-robust score."""
    diagnostics: bool = True
    """Also measure diversity and realism of every image set in the reference network's features."""
    validation_only: bool = False
    """Refuse to score on a test split: the protocol is for choosing."""
    reference: str = "convnet"
    """Architecture of the reference network, trained on all real images: teacher of soft labels, features of herding
    and of the diagnostics."""
    reference_steps: int = 5000
    """Training steps of the reference network; its recipe is the students' with hard labels."""
    pixel_dm_steps: int = 1000
    """Steps of the pixel distribution-matching baseline (the literature takes 20,000)."""
    pixel_dm_lr: float = 1.0
    """Its learning rate for the pixels at 1 to 50 images per class; beyond that it grows with their number."""
    pixel_dm_real: int = 256
    """Real images a class in one of its steps; at most the class's own."""

    def __post_init__(self) -> None:
        _check_choices(self, "evaluation")
        _check_augmentation("evaluation.augment", self.augment)
        for name in ("architectures", "accountings"):
            _require(bool(getattr(self, name)), f"evaluation.{name}", getattr(self, name), "one name or more")
        for name in ("architectures", "accountings", "baselines"):
            names = getattr(self, name)
            _require(len(set(names)) == len(names), f"evaluation.{name}", names, "each name once")
        for accounting in self.accountings:
            _require(accounting in ACCOUNTINGS, "evaluation.accountings", accounting, ", ".join(ACCOUNTINGS))
        for name in ("width", "students", "epochs", "batch", "reference_steps", "pixel_dm_steps", "pixel_dm_real"):
            _require(getattr(self, name) >= 1, f"evaluation.{name}", getattr(self, name), "1 or more")
        _require(self.max_steps >= 0, "evaluation.max_steps", self.max_steps, "0 (no limit) or more")
        for name in ("lr", "temperature", "pixel_dm_lr"):
            _require(getattr(self, name) > 0, f"evaluation.{name}", getattr(self, name), "more than 0")
        _require(self.weight_decay >= 0, "evaluation.weight_decay", self.weight_decay, "0 or more")
        _require(0 <= self.cutmix <= 1, "evaluation.cutmix", self.cutmix, "0 to 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """Where the work runs."""

    workers: int | tuple[int, int] = 1
    """Ray Train workers; 0 runs in this process without Ray; two numbers are the fewest and the most of an elastic run,
    which takes what the cluster has."""
    gpus_per_worker: float = -1.0
    """GPUs of a worker; -1 takes one where the cluster has one for each worker and none elsewhere."""
    cpus_per_worker: float = 1.0
    """CPUs of a worker."""
    max_failures: int = 3
    """Times that a run is started again from its last checkpoint after a worker died."""
    checkpoints_kept: int = 2
    """Checkpoints kept on storage."""
    storage_patience: float = 600.0
    """Seconds that storage may be out of reach before a run gives up; it waits and tries again."""
    resize_seconds: float = 60.0
    """An elastic run looks this often whether the cluster has room for more workers."""

    def __post_init__(self) -> None:
        if isinstance(self.workers, tuple):
            pair: tuple[int, ...] = self.workers  # as a file may give it
            valid = len(pair) == 2 and 1 <= pair[0] <= pair[1]
            _require(valid, "cluster.workers", pair, "one number, or the fewest and the most: 1 4")
        else:
            _require(self.workers >= 0, "cluster.workers", self.workers, "0 (no Ray) or more")
        _require(
            self.gpus_per_worker == -1 or self.gpus_per_worker >= 0,
            "cluster.gpus_per_worker", self.gpus_per_worker, "-1 (one where there is one) or 0 or more",
        )  # fmt: skip
        _require(self.cpus_per_worker > 0, "cluster.cpus_per_worker", self.cpus_per_worker, "more than 0")
        _require(self.max_failures >= -1, "cluster.max_failures", self.max_failures, "-1 (always) or more")
        _require(self.checkpoints_kept >= 1, "cluster.checkpoints_kept", self.checkpoints_kept, "1 or more")
        _require(self.storage_patience >= 0, "cluster.storage_patience", self.storage_patience, "0 or more seconds")
        _require(self.resize_seconds > 0, "cluster.resize_seconds", self.resize_seconds, "more than 0 seconds")

    @property
    def fewest_workers(self) -> int:
        """Workers without which the run waits."""
        return self.workers[0] if isinstance(self.workers, tuple) else self.workers

    @property
    def most_workers(self) -> int:
        """Workers that the run never has more of."""
        return self.workers[1] if isinstance(self.workers, tuple) else self.workers


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A whole configuration of a condensation."""

    name: str = "custom"
    """Name of the preset that this configuration started from."""
    seed: int = 0
    """Seed of everything random."""
    data: DataConfig = field(default_factory=DataConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    extractors: ExtractorConfig = field(default_factory=ExtractorConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    initialise: InitialiseConfig = field(default_factory=InitialiseConfig)
    condense: CondenseConfig = field(default_factory=CondenseConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        # A run's folder is named after it, and the file may come from a stranger.
        plain = self.name.isprintable() and "/" not in self.name and not self.name.startswith(".")
        _require(plain and 0 < len(self.name) <= 100, "name", self.name, "1 to 100 characters of a file's name")
        _require(self.seed >= 0, "seed", self.seed, "0 or more")
        smallest = RESOLUTIONS[0] * self.codebook.factor
        _require(
            self.data.resolution >= smallest, "data.resolution", self.data.resolution,
            f"{smallest} or more with codebook.factor {self.codebook.factor}: generated images have "
            f"{RESOLUTIONS[0]} px or more",
        )  # fmt: skip
        if self.losses.realism > 0:
            _require(
                self.initialise.method == "gan", "losses.realism", self.losses.realism,
                "0 unless initialise.method is gan, which trains the discriminator",
            )  # fmt: skip
        if self.losses.ce > 0:
            _require(
                self.extractors.weights != "random", "losses.ce", self.losses.ce,
                "0 unless extractors.weights is trained or blend: random networks cannot tell classes apart",
            )  # fmt: skip


def replace_path(config: Config, path: str, value: Any) -> Config:
    """Return ``config`` with one field replaced, e.g. ``replace_path(config, "losses.intra", 0.3)``."""
    section, _, name = path.rpartition(".")
    if not section:
        return dataclasses.replace(config, **{name: value})
    part = dataclasses.replace(getattr(config, section), **{name: value})
    return dataclasses.replace(config, **{section: part})

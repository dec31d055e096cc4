"""The reference network: one network trained on all real images, which several things look through.

It is the teacher of soft labels, and its features are what herding chooses in and what the diagnostics and the report
measure distances in. It is trained once for a dataset and a recipe and kept in the store.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raycondense.artifact.load import Artifact
from raycondense.config import EvaluationConfig
from raycondense.data.normalize import Normalize
from raycondense.data.sidecar import Sidecar
from raycondense.errors import RunError
from raycondense.evaluation.diagnostics import Embed
from raycondense.evaluation.protocols import recipe_of
from raycondense.evaluation.store import Store
from raycondense.evaluation.train import train_student
from raycondense.evaluation.whole import whole_set
from raycondense.evaluation.work import content_hash
from raycondense.models import build_student
from raycondense.seeds import derive_seed
from raycondense.storage import atomic_path

EMBED_BATCH = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """What students of a dataset take in and give out."""

    classes: tuple[str, ...]
    """Names of the logits, in order."""
    resolution: int
    """Side of the images in pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of the training images, by channel, of values in [0, 1]."""

    @property
    def normalize(self) -> Normalize:
        """Standardises uint8 images."""
        return Normalize(self.mean, self.std)

    @classmethod
    def of(cls, artifact: Artifact) -> Domain:
        """What students of an artefact take in and give out."""
        made = artifact.config
        return cls(classes=artifact.classes, resolution=made.resolution, mean=made.mean, std=made.std)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "classes": list(self.classes), "resolution": self.resolution, "mean": list(self.mean),
            "std": list(self.std),
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """The work of training the reference network, and the way to what it left."""

    train: str
    """Beton of the training images."""
    train_sha256: str
    train_images: int
    domain: Domain
    config: EvaluationConfig
    """The protocol; the reference takes its recipe with hard labels, unmixed, for ``reference_steps`` steps."""
    device: str = "cpu"

    @property
    def _recipe(self) -> EvaluationConfig:
        return dataclasses.replace(
            self.config, labels="hard", cutmix=0.0, epochs=self.config.reference_steps,
            max_steps=self.config.reference_steps,
        )  # fmt: skip

    @property
    def key(self) -> str:
        """Content hash of training images and recipe."""
        return content_hash(
            {
                "work": "reference",
                "train": self.train_sha256,
                "domain": self.domain.to_dict(),
                "architecture": self.config.reference,
                "recipe": recipe_of(self._recipe, self.config.reference),
            }
        )

    @property
    def cost(self) -> float:
        """See `raycondense.evaluation.work.Work.cost`."""
        batch = min(self.config.batch, self.train_images)
        return self.config.reference_steps * step_cost(self.config, self.config.reference, batch, self.domain)

    @property
    def needs(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @property
    def label(self) -> str:
        """For people."""
        return f"reference network ({self.config.reference})"

    def run(self, store: Store) -> list[dict[str, Any]]:
        """Train the network on all real images and leave its weights in the store, where they are not there already."""
        if self.is_trained(store):
            return []
        path = store.asset(self.key)
        images = whole_set(self.train, self.train_sha256, self.domain.resolution)
        trained = train_student(
            images, self._recipe, architecture=self.config.reference, num_classes=len(self.domain.classes),
            normalize=self.domain.normalize, seed=derive_seed("reference"), device=self.device,
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in trained.model.state_dict().items()}
        with atomic_path(path) as temporary:
            save_file(weights, temporary)
        return []

    def is_trained(self, store: Store) -> bool:
        """Whether the store holds the network."""
        return store.asset(self.key).is_file()

    def network(self, store: Store) -> nn.Module:
        """The trained network on ``device``, in evaluation mode, without gradients; loaded once a process.

        Raises:
            RunError: the store does not hold it, or its file is damaged.
        """
        return _network(self, store.root)

    def embed(self, store: Store) -> Embed:
        """The network's features: what its last linear layer takes in."""
        return functools.partial(_embed, self.network(store), self.domain.normalize.to(self.device), self.device)


def reference_of(
    artifact: Artifact, config: EvaluationConfig, train_path: str | os.PathLike[str], train: Sidecar, device: str
) -> Reference:
    """The reference network of an artefact's evaluation by the protocol ``config``."""
    return Reference(
        train=str(train_path), train_sha256=train.sha256, train_images=train.num_images, domain=Domain.of(artifact),
        config=config, device=device,
    )  # fmt: skip


@functools.lru_cache(maxsize=2)
def _network(reference: Reference, root: Any) -> nn.Module:
    path = Store(root).asset(reference.key)
    network = build_student(
        reference.config.reference, num_classes=len(reference.domain.classes), resolution=reference.domain.resolution,
        width=reference.config.width, seed=0,
    )  # fmt: skip
    return read_network(path, network).to(reference.device).eval().requires_grad_(False)


def read_network(path: Path, network: nn.Module) -> nn.Module:
    """``network`` with the weights of a safetensors file.

    Raises:
        RunError: the file is missing or damaged, or of another network.
    """
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{path}: the reference network cannot be read ({error}); remove it to train it anew") from error
    return network


def _embed(network: nn.Module, normalize: Normalize, device: str, images: Tensor) -> Tensor:
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    taken: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, inputs: taken.append(inputs[0].float().cpu()))
    try:
        with torch.inference_mode():
            for part in images.split(EMBED_BATCH):
                network(normalize(part.to(device)))
    finally:
        hook.remove()
    return torch.cat(taken)


RELATIVE_COST = {"convnet": 1.0, "alexnet": 1.0, "vgg11": 2.0, "vit": 2.0, "resnet18": 8.0}
"""Rough time of a step against a ConvNet's of width 128; used only to start long works first."""


def step_cost(config: EvaluationConfig, architecture: str, batch: int, domain: Domain) -> float:
    """Relative time of one training step on ``batch`` images."""
    width = config.width / 128 if architecture == "convnet" else 1.0
    return batch * domain.resolution**2 * width * RELATIVE_COST.get(architecture, 1.0)

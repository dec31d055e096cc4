"""Which images a student is trained on, as paths and numbers, and how they are made from them.

Sets that take long to find (k-means, herding, pixels condensed by distribution matching) are found once, by a work of
their own, and lie in the store; all others are decoded or drawn where they are needed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from raycondense.artifact.decode import enlarge_uint8, to_uint8
from raycondense.artifact.initial import random_codes
from raycondense.artifact.load import Artifact, load
from raycondense.artifact.rounding import rounded
from raycondense.config import EvaluationConfig
from raycondense.errors import RunError
from raycondense.evaluation.baselines import baseline_set
from raycondense.evaluation.images import ImageSet, StoredSet
from raycondense.evaluation.methods import FROM_GENERATOR, SMALL
from raycondense.evaluation.pixel_dm import pixel_dm
from raycondense.evaluation.reference import Domain, Reference, step_cost
from raycondense.evaluation.store import Store
from raycondense.evaluation.stream import ImageStream
from raycondense.evaluation.whole import whole_set
from raycondense.evaluation.work import content_hash
from raycondense.seeds import derive_seed
from raycondense.storage import atomic_path

if TYPE_CHECKING:
    from raycondense.evaluation.diagnostics import Embed


@dataclass(frozen=True, kw_only=True, slots=True)
class SetSpec:
    """A set of images to train on."""

    method: str
    """A key of `raycondense.evaluation.methods.METHOD_NAMES`."""
    bank: int
    """Images per class; 0 is all there are."""
    source: str
    """The artefact's folder, or the beton of the training images."""
    source_sha256: str
    """Of the artefact's weights or the training beton."""
    domain: Domain
    images: int
    """Images in the set (of a stream: in the bank that it draws near)."""
    bytes: int
    """What has to be kept to have the images: the generator and its codes, or uint8 pixels."""
    draw: int = 0
    """Seed of the draw, of methods in `raycondense.evaluation.methods.DRAWN`."""
    weights: str = "float32"
    """How a generator and its codes are rounded first."""
    stream: bool = False
    """Fresh samples instead of a fixed bank."""
    needs: tuple[str, ...] = ()
    """Key of the `SetWork` that finds it, where there is one."""
    factor: int = 1
    """Of real images: so many times smaller, enlarged again."""

    @property
    def key(self) -> str:
        """Content hash: equal for equal images."""
        values: dict[str, Any] = {
            "method": self.method, "bank": self.bank, "source": self.source_sha256, "domain": self.domain.to_dict(),
            "draw": self.draw, "stream": self.stream, "found": list(self.needs),
        }  # fmt: skip
        if self.method in FROM_GENERATOR:
            values["weights"] = self.weights
        if self.factor > 1:
            values["factor"] = self.factor
        return content_hash(values)

    def load(self, store: Store, device: str = "cpu") -> ImageSet | StoredSet | ImageStream:
        """The images, on the CPU or, of a large whole set, in their beton; or a stream of images made on ``device``.

        Raises:
            RaycondenseError: a file is missing, damaged or does not fit.
        """
        if self.stream:
            return ImageStream(self._artifact(device), self.bank, seed=derive_seed("stream", self.draw))
        if self.needs:
            return _found(store.asset(self.needs[0]))
        if self.method in FROM_GENERATOR:
            return _bank(self, device)
        if self.method == "whole":
            return whole_set(self.source, self.source_sha256, self.domain.resolution)
        return _real(
            self.method, self.source, ipc=self.bank, seed=self.draw, resolution=self.domain.resolution,
            factor=self.factor,
        )  # fmt: skip

    def _artifact(self, device: str) -> Artifact:
        artifact = load(self.source)
        if self.method == "random-codes":
            artifact = random_codes(artifact, seed=derive_seed("random codes", self.draw))
        return rounded(artifact, self.weights).to(device)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=4)
def _bank(spec: SetSpec, device: str) -> ImageSet:
    # The students of a bank share it: decoding once a process is enough. The spec holds the weights' hash, because
    # a folder may hold another artefact the next time.
    bank = spec._artifact(device).bank(spec.bank)
    return ImageSet(bank.images.cpu(), bank.labels.cpu())


def _real(
    method: str,
    train: str,
    *,
    ipc: int,
    seed: int,
    resolution: int,
    factor: int,
    embed: Embed | None = None,
    most: int = 0,
) -> ImageSet:
    """Real images: ``ipc`` a class, or with a ``factor`` the small ones that fit into their place."""
    chosen = baseline_set(
        SMALL.get(method, method), train, ipc=ipc * factor**2, seed=seed, resolution=resolution, embed=embed,
        most=most,
    )  # fmt: skip
    if factor == 1:
        return chosen
    kept = to_uint8(torch.nn.functional.avg_pool2d(chosen.images.float() / 255, factor))
    return ImageSet(enlarge_uint8(kept, factor), chosen.labels)


@functools.lru_cache(maxsize=4)
def _found(path: Path) -> ImageSet:
    try:
        tensors = load_file(path)
        return ImageSet(tensors["images"], tensors["labels"])
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(f"{path}: the images cannot be read ({error}); remove the file to find them anew") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class SetWork:
    """The work of finding a set once."""

    method: str
    """One of `raycondense.evaluation.methods.FOUND_ONCE`."""
    bank: int
    train: str
    train_sha256: str
    domain: Domain
    config: EvaluationConfig
    reference: Reference | None = None
    """Whose features herding chooses in."""
    factor: int = 1
    """See `SetSpec.factor`."""
    most: int = 0
    """See `raycondense.evaluation.whole.class_limit`; of herding and k-means."""
    device: str = "cpu"

    @property
    def key(self) -> str:
        """Content hash of training images and settings."""
        values: dict[str, Any] = {
            "work": "set", "method": self.method, "bank": self.bank, "train": self.train_sha256,
            "domain": self.domain.to_dict(),
        }  # fmt: skip
        config = self.config
        if self.factor > 1:
            values["factor"] = self.factor
        if self.most:
            values["most"] = self.most
        if self.method == "herding" and self.reference is not None:
            values["reference"] = self.reference.key
        if self._pixel_dm:
            values["settings"] = [
                config.pixel_dm_steps, config.pixel_dm_lr, config.pixel_dm_real, config.width, list(config.augment)
            ]  # fmt: skip
        return content_hash(values)

    @property
    def cost(self) -> float:
        """See `raycondense.evaluation.work.Work.cost`."""
        if not self._pixel_dm:
            return 1e6 * self.bank
        images = len(self.domain.classes) * (self.config.pixel_dm_real + self.bank * self.factor**2)
        return self.config.pixel_dm_steps * step_cost(self.config, "convnet", images, self.domain)

    @property
    def needs(self) -> tuple[str, ...]:
        """The reference network, for herding."""
        return (self.reference.key,) if self.method == "herding" and self.reference is not None else ()

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.method} images, IPC {self.bank}"

    def run(self, store: Store) -> list[dict[str, Any]]:
        """Find the images and leave them in the store, where they are not there already."""
        path = store.asset(self.key)
        if path.is_file():
            return []
        images = self._find(store)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file({"images": images.images.contiguous(), "labels": images.labels.contiguous()}, temporary)
        return []

    @property
    def _pixel_dm(self) -> bool:
        return SMALL.get(self.method, self.method) == "pixel-dm"

    def _find(self, store: Store) -> ImageSet:
        resolution, config = self.domain.resolution, self.config
        if self._pixel_dm:
            return pixel_dm(
                self.train, ipc=self.bank, steps=config.pixel_dm_steps, lr=config.pixel_dm_lr,
                real_per_class=config.pixel_dm_real, width=config.width, augment=config.augment,
                seed=derive_seed("pixel-dm"), resolution=resolution, factor=self.factor, device=self.device,
            )  # fmt: skip
        embed = None if self.reference is None or self.method != "herding" else self.reference.embed(store)
        return _real(
            self.method, self.train, ipc=self.bank, seed=0, resolution=resolution, factor=self.factor, embed=embed,
            most=self.most,
        )  # fmt: skip

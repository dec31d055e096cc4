"""Read an artefact and use it: sample, decode banks, stream. Needs torch and safetensors alone."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raycondense.artifact.bank import BankDataset, Presentation, Transform
from raycondense.artifact.decode import chunk_size, decode_grid, exact
from raycondense.artifact.format import CONFIG, FILES, SCORES, WEIGHTS, ArtifactConfig, read_json, read_recipe
from raycondense.artifact.sizes import Sizes, artifact_sizes, format_bytes
from raycondense.artifact.stream import INTERPOLATE, NOISE, StreamDataset, fresh_codes
from raycondense.artifact.weights import read_weights
from raycondense.errors import ArtifactError, choices_message
from raycondense.models import Codebook, Generator
from raycondense.seeds import seeded_generator

HUB_PREFIX = "hf-hub:"
FOLDER_PREFIX = "local-dir:"


class Artifact:
    """A condensed dataset: a generator, its codes and what they stand for.

    Args:
        generator: makes float images in [0, 1] from codes and labels.
        codebook: codes of each class, all banks one after the other.
        config: what ``config.json`` says.
        recipe: what ``recipe.json`` says.
        scores: what ``scores.json`` says; empty before an evaluation.
        path: the folder that it was read from; None where it was not.

    Attributes:
        generator: in evaluation mode, without gradients.
        codebook: without gradients.
        config: classes, resolution, mean, std, banks.
        recipe: how it was made: configuration, dataset, seeds, versions, revision.
        scores: the evaluation that belongs to it, or an empty dict.
        path: its folder, or None.
    """

    def __init__(
        self,
        generator: Generator,
        codebook: Codebook,
        config: ArtifactConfig,
        *,
        recipe: Mapping[str, Any] | None = None,
        scores: Mapping[str, Any] | None = None,
        path: Path | None = None,
    ) -> None:
        self.generator = generator.eval().requires_grad_(False)
        self.codebook = codebook.eval().requires_grad_(False)
        self.config = config
        self.recipe = dict(recipe or {})
        self.scores = dict(scores or {})
        self.path = path

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; label c is ``classes[c]``."""
        return self.config.classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.config.num_classes

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self.config.resolution

    @property
    def ipcs(self) -> tuple[int, ...]:
        """Images per class of each bank, ascending."""
        return self.config.codebook.ipc

    @property
    def device(self) -> torch.device:
        """Where images are computed."""
        return self.codebook.codes.device

    def to(self, device: str | torch.device) -> Artifact:
        """Move the networks to ``device`` and return this artefact; streams made before stay where they were made."""
        self.generator.to(device)
        self.codebook.to(device)
        return self

    def sizes(self, ipc: int | None = None) -> Sizes:
        """Floats, bytes and images per class that this artefact is worth; with the codes of one bank, or of all.

        Raises:
            ConfigError: there is no bank of ``ipc`` images per class.
        """
        return artifact_sizes(self.config, self.generator.num_parameters, ipc)

    @property
    def num_parameters(self) -> int:
        """Numbers in the generator and all codes."""
        return self.sizes().parameters

    @property
    def bytes(self) -> int:
        """Bytes of the weights' file where there is one, else of the weights."""
        return self.sizes().bytes if self.path is None else (self.path / WEIGHTS).stat().st_size

    @property
    def ipc_equivalent(self) -> float:
        """Images per class of the same dataset that have as many floats (see `raycondense.artifact.sizes`)."""
        return self.sizes().ipc_equivalent

    def sample(
        self,
        labels: Sequence[int | str] | Tensor,
        *,
        codes: Tensor | None = None,
        positions: Sequence[int] | Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Images of any classes and codes, as floats.

        Args:
            labels: class numbers or names, n of them.
            codes: float [n, d] to decode as they are.
            positions: int [n]; decode these codes of each class's row in the codebook (all banks one after the other).
            seed: with neither of both, codes are drawn afresh from this seed as in `stream`.

        Returns:
            float32 [n, 3, R, R] in [0, 1] on `device`, without gradients (`generator` itself gives them).

        Raises:
            ArtifactError: an unknown class, or codes or positions that do not fit.
        """
        if codes is not None and positions is not None:
            raise ArtifactError("sample: found codes and positions, valid: one of both or none")
        numbers = self._labels(labels)
        table = self.codebook.codes
        if codes is not None:
            if codes.shape != (len(numbers), table.shape[-1]):
                raise ArtifactError(
                    f"sample: codes: found shape {list(codes.shape)}, valid: [{len(numbers)}, {table.shape[-1]}]"
                )
            chosen = codes.to(table)
        elif positions is not None:
            rows = torch.as_tensor(positions, dtype=torch.int64, device="cpu")
            if rows.shape != numbers.shape or not bool(((rows >= 0) & (rows < table.shape[1])).all()):
                raise ArtifactError(f"sample: positions: valid: {len(numbers)} numbers from 0 to {table.shape[1] - 1}")
            chosen = table[numbers.to(table.device), rows.to(table.device)]
        else:
            chosen = fresh_codes(table.detach(), numbers, seeded_generator(seed, "sample"))
        size = chunk_size(self.resolution)
        numbers = numbers.to(table.device)
        with exact(table.device):
            pairs = zip(chosen.split(size), numbers.split(size), strict=True)
            return torch.cat([self.generator(part, labels).float() for part, labels in pairs])

    def bank(
        self,
        ipc: int | None = None,
        *,
        classes: Sequence[int | str] | Tensor | None = None,
        transform: Transform | None = None,
        normalize: bool = True,
    ) -> BankDataset:
        """Decode a fixed set of images once; every call gives the same bytes, for all classes or some.

        Args:
            ipc: images per class, one of `ipcs`; None is the most. With ``codebook.factor`` f the bank holds f² small
                images in the place of each, enlarged.
            classes: numbers or names of the classes wanted, in the wanted order; None is all. Labels stay as they are.
            transform: applied to each uint8 [3, R, R] image when it is read.
            normalize: standardise each image after ``transform``; off gives uint8 images (`BankDataset`).

        Raises:
            ConfigError: there is no bank of ``ipc`` images per class; the message lists them.
            ArtifactError: an unknown class.
        """
        ipc = self.ipcs[-1] if ipc is None else ipc
        rows = self.codebook.codes[:, self.config.codebook.bank_slice(ipc)].detach()
        numbers = torch.arange(self.num_classes) if classes is None else self._labels(classes)
        images = rows.shape[1]
        wanted = (numbers[:, None] * images + torch.arange(images)).flatten()
        return BankDataset(
            decode_grid(self.generator, rows, wanted, resolution=self.resolution),
            numbers.repeat_interleave(images),
            classes=self.classes,
            ipc=ipc,
            factor=self.config.codebook.factor,
            mean=self.config.mean,
            std=self.config.std,
            transform=transform,
            normalize=normalize,
        )

    def with_codes(self, codes: Tensor) -> Artifact:
        """An artefact of the same generator and other codes, on the same device; it shares no memory with this one.

        Args:
            codes: float, of the shape of ``codebook.codes``: [classes, codes of a class (all banks), d].

        Raises:
            ArtifactError: another shape, or a number that is not finite.
        """
        table = self.codebook.codes
        if codes.shape != table.shape or not bool(torch.isfinite(codes).all()):
            found = "numbers that are not finite" if codes.shape == table.shape else f"shape {list(codes.shape)}"
            raise ArtifactError(f"with_codes: found {found}, valid: finite numbers of shape {list(table.shape)}")
        codebook = copy.deepcopy(self.codebook)
        with torch.no_grad():
            codebook.codes.copy_(codes)
        return Artifact(copy.deepcopy(self.generator), codebook, self.config, recipe=self.recipe)

    def stream(
        self,
        seed: int = 0,
        *,
        length: int | None = None,
        ipc: int | None = None,
        interpolate: float = INTERPOLATE,
        noise: float = NOISE,
        transform: Transform | None = None,
        normalize: bool = True,
    ) -> StreamDataset:
        """Fresh samples of all classes; see `StreamDataset` for what is reproducible and `fresh_codes` for the law.

        Args:
            seed: seed of the stream.
            length: samples of an epoch (then call `StreamDataset.set_epoch`); None is no end.
            ipc: draw from the codes of this bank; None draws from all codes.
            interpolate: how far from one code of the class towards another at most, 0 to 1.
            noise: noise in standard deviations of the class's codes.
            transform: as in `bank`.
            normalize: as in `bank`.

        Raises:
            ConfigError: there is no bank of ``ipc`` images per class.
            ArtifactError: a value is out of range.
        """
        rows = slice(None) if ipc is None else self.config.codebook.bank_slice(ipc)
        return StreamDataset(
            self.generator,
            self.codebook.codes[:, rows].detach(),
            Presentation(self.config.mean, self.config.std, transform=transform, normalize=normalize),
            resolution=self.resolution,
            seed=seed,
            length=length,
            interpolate=interpolate,
            noise=noise,
        )

    def push(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Publish the folder on the Hugging Face hub and return its address; needs ``raycondense[hub]``.

        Args:
            repository: ``"user/name"``; made where it does not exist.
            private: make a new repository private.
            token: access token; None takes the one of ``hf auth login``.

        Raises:
            ArtifactError: this artefact has no folder, or the hub refuses; the reason is told.
            DependencyError: huggingface_hub is not installed.
        """
        from raycondense.artifact.hub import push

        if self.path is None:
            raise ArtifactError("push: this artefact has no folder yet; save it with save_artifact first")
        return push(self.path, repository, private=private, token=token)

    def _labels(self, labels: Sequence[int | str] | Tensor) -> Tensor:
        """Class numbers, int64 on the CPU, from numbers or names."""
        found = labels.tolist() if isinstance(labels, Tensor) else list(labels)
        numbers = []
        for label in found:
            if isinstance(label, str):
                if label not in self.classes:
                    raise ArtifactError(choices_message("class", label, self.classes))
                numbers.append(self.classes.index(label))
            elif not 0 <= label < self.num_classes:
                raise ArtifactError(f"class: found {label}, valid: 0 to {self.num_classes - 1}, or a name")
            else:
                numbers.append(int(label))
        return torch.tensor(numbers, dtype=torch.int64)

    def __repr__(self) -> str:
        return (
            f"Artifact({self.num_classes} classes, {self.resolution} px, banks of {', '.join(map(str, self.ipcs))} "
            f"images per class, {self.num_parameters:,} parameters, {format_bytes(self.bytes)})"
        )


def load(path: str | os.PathLike[str], *, device: str | torch.device = "cpu", token: str | None = None) -> Artifact:
    """Read an artefact.

    Args:
        path: its folder (with or without ``local-dir:`` before it), or ``hf-hub:user/name`` or
            ``hf-hub:user/name@revision`` on the Hugging Face hub, which needs ``raycondense[hub]``.
        device: where images will be computed.
        token: access token of the hub; None takes the one of ``hf auth login``.

    Raises:
        ArtifactError: there is none at ``path``, a file of it is missing or damaged, or it is of a newer format.
        DependencyError: the hub was asked for and huggingface_hub is not installed.
    """
    place = os.fspath(path)
    if place.startswith(HUB_PREFIX):
        from raycondense.artifact.hub import download

        return load(download(place.removeprefix(HUB_PREFIX), token=token), device=device)
    folder = Path(place.removeprefix(FOLDER_PREFIX))
    if not folder.is_dir():
        raise ArtifactError(_not_a_folder(place, folder))
    config = ArtifactConfig.from_dict(read_json(folder / CONFIG), source=str(folder / CONFIG))
    recipe, scores = read_recipe(folder), read_json(folder / SCORES)
    generator, codebook = read_weights(folder / WEIGHTS, config)
    return Artifact(generator, codebook, config, recipe=recipe, scores=scores, path=folder).to(device)


def _not_a_folder(place: str, folder: Path) -> str:
    if folder.exists():
        return f"{place}: is a file, valid: the folder of an artefact, which holds {', '.join(FILES)}"
    like_a_repository = place.count("/") == 1 and not place.startswith(("/", ".", "~"))
    hint = HUB_PREFIX + (place if like_a_repository else "user/name")
    return f"{place}: no such folder; for an artefact on the Hugging Face hub write '{hint}'"

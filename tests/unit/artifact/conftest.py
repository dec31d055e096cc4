"""A small artefact to test with: 3 classes, 8 px, banks of 1 and 5 images per class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raycondense.artifact.load import Artifact
from raycondense.artifact.save import save_artifact
from raycondense.config import CodebookConfig, Config, DataConfig, GeneratorConfig
from raycondense.data.sidecar import Sidecar
from raycondense.models import Codebook, Generator

SIDECAR = Sidecar(
    classes=("cat", "dog", "owl"), counts=(4, 5, 6), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), resolution=16,
    encoding="raw", quality=None, source="a test", split="train", seed=5, sha256="ab" * 32, size=1234,
)  # fmt: skip
CONFIG = Config(
    name="tiny",
    seed=3,
    data=DataConfig(resolution=8),
    generator=GeneratorConfig(width=8, max_width=16, class_dim=4),
    codebook=CodebookConfig(ipc=(1, 5), dim=6),
)


def networks(config: Config = CONFIG, classes: int = 3) -> tuple[Generator, Codebook]:
    """Generator and codebook as a run would leave them; a wide last layer, so that images differ clearly."""
    generator = Generator(
        config.generator, num_classes=classes, latent_dim=config.codebook.dim, resolution=config.data.resolution, seed=1
    )
    with torch.no_grad():
        generator.to_rgb.weight.mul_(10)
    return generator, Codebook(config.codebook, classes, seed=2)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_artifact(tmp_path: Path) -> Callable[..., Artifact]:
    """Save and load an artefact; keyword arguments go to `save_artifact`."""

    def make(folder: Path | None = None, **changes: Any) -> Artifact:
        generator, codebook = networks()
        arguments = {"generator": generator, "codebook": codebook, "config": CONFIG, "sidecar": SIDECAR} | changes
        return save_artifact(folder or tmp_path / "artifact", **arguments)

    return make


@pytest.fixture
def artifact(make_artifact: Callable[..., Artifact]) -> Artifact:
    return make_artifact()

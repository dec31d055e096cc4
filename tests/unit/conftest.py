"""A tiny dataset and an artefact condensed from it, for rooms that stand on both (evaluation, report)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from raycondense.artifact.save import save_artifact
from raycondense.config import CodebookConfig, Config, DataConfig, EvaluationConfig, GeneratorConfig
from raycondense.data.dataset_writer import DatasetWriter, Origin
from raycondense.data.encoding import Encoding
from raycondense.data.sidecar import Sidecar
from raycondense.models import Codebook, Generator

CLASSES = ("top", "bottom", "<b>dark</b>")


@dataclass(frozen=True)
class TinyRun:
    """Files of a run of 3 classes at 8 px with banks of 1 and 2 images per class."""

    folder: Path
    artifact: Path
    train: Path
    test: Path


def write_tiny_beton(path: Path, *, counts: tuple[int, ...], seed: int, split: str, resolution: int = 16) -> Path:
    """Noisy images that are bright at the top, bright at the bottom, or dark."""
    draw = np.random.default_rng(seed)
    encoding, origin = Encoding(resolution, "raw", 90), Origin(source="tiny", split=split, seed=seed)
    names = CLASSES[: len(counts)]
    with DatasetWriter(path, sum(counts), classes=names, encoding=encoding, origin=origin) as writer:
        for label, count in enumerate(counts):
            for _ in range(count):
                image = draw.integers(0, 80, (resolution, resolution, 3))
                half = {0: slice(None, resolution // 2), 1: slice(resolution // 2, None)}.get(label)
                if half is not None:
                    image[half] += 150
                writer.add(image.astype(np.uint8), label)
    return path


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Read only: shared by all tests. The train beton is not beside the test beton; ``run.json`` names it."""
    root = tmp_path_factory.mktemp("tiny")
    folder = root / "run"
    (root / "elsewhere").mkdir()
    folder.mkdir()
    train = write_tiny_beton(root / "elsewhere" / "train.beton", counts=(12, 10, 8), seed=0, split="train")
    test = write_tiny_beton(root / "test.beton", counts=(9, 8, 7), seed=1, split="test")
    config = Config(
        name="tiny",
        data=DataConfig(resolution=8),
        generator=GeneratorConfig(width=8, max_width=8, class_dim=4),
        codebook=CodebookConfig(ipc=(1, 2), dim=4),
        evaluation=EvaluationConfig(width=8, students=2, max_steps=4, reference_steps=4),
    )
    generator = Generator(config.generator, num_classes=3, latent_dim=4, resolution=8, seed=0)
    artifact = folder / "artifact"
    for place, seed, state in ((folder / "initial", 1, "initial"), (artifact, 0, "condensed")):
        codebook = Codebook(config.codebook, 3, seed=seed)
        save_artifact(
            place, generator=generator, codebook=codebook, config=config, sidecar=Sidecar.load(train), state=state
        )
    sha256 = Sidecar.load(train).sha256
    (folder / "run.json").write_text(json.dumps({"data": {"path": str(train), "sha256": sha256}}))
    return TinyRun(folder, artifact, train, test)

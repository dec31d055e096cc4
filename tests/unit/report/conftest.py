"""A run with a log, and an evaluation of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from raycondense.config import EvaluationConfig
from raycondense.evaluation.result import Evaluation

from .page import row


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    """A copy of the run that a test may change, with a log."""
    folder = tmp_path / "my <run>"
    shutil.copytree(tiny_run.folder, folder)
    records = [{"stage": "condense", "images": i, "total": 99, "loss/match": 1 / (1 + i)} for i in range(5)]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture
def evaluation() -> Evaluation:
    return Evaluation(
        rows=(row("raycondense", 2, 0.671), row("whole", 0, 0.848), row("raycondense", 2, 0.9, "vit")),
        config=EvaluationConfig(architectures=("convnet", "vit")),
        artifact="x",
        test={"source": "tiny", "split": "test", "sha256": "ab", "images": 24, "resolution": 8, "reads": 10},
    )

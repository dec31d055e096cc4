"""A run that is over in seconds and takes all stages, and what its folder tells: for tests that break runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from raycondense.artifact.load import load
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.presets import get_preset
from raycondense.storage import read_lines

SETTINGS: dict[str, Any] = {
    "data": {"loader": "resident", "num_classes": 10},
    "generator": {"width": 8, "max_width": 8, "class_dim": 4},
    "codebook": {"ipc": [1, 3], "dim": 8},
    "extractors": {"width": 8, "weights": "blend", "pool_size": 3, "train_steps": 5, "train_batch": 32},
    "losses": {"ce": 0.5, "intra": 0.5, "inter": 0.5, "regression": 5.0, "intra_temperature": 0.5},
    "initialise": {"steps": 20, "batch": 16},
    "condense": {
        "images": 5 * 8 * 100, "real_per_class": 8, "log_images": 112, "checkpoint_images": 280, "classes_per_step": 7,
        "ema_images": 400,
    },
    "cluster": {"workers": 2, "max_failures": 1},
}  # fmt: skip
STEP_IMAGES = 5 * 8
"""Real images of a step of condensation: at most seven of ten classes a step cuts them into steps of five."""


def settings(**changes: Any) -> Config:
    """A run on digits of 100 steps of condensation, by two workers; a checkpoint every seven steps or so."""
    return override(override(get_preset("digits"), SETTINGS), changes)


def records(folder: Path) -> list[dict[str, Any]]:
    """The run's log so far."""
    return [json.loads(line) for line in read_lines(folder / "log.jsonl")]


def images_seen(folder: Path, stage: str = "condense") -> int:
    """How far the run's clock has come in a stage."""
    return max((r["images"] for r in records(folder) if r["stage"] == stage), default=0)


def published(folder: Path, name: str = "artifact") -> dict[str, Tensor]:
    """All tensors of what a run has published."""
    artifact = load(folder / name)
    return dict(artifact.generator.state_dict()) | {"codes": artifact.codebook.codes.detach()}


def wait_for(what: Callable[[], bool], seconds: float = 90.0) -> None:
    """Wait until ``what()``.

    Raises:
        TimeoutError: it took too long.
    """
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(f"after {seconds:g} s: {what}")
        time.sleep(0.05)


def tell_when_going_on(folder: Path, after: str) -> float:
    """Seconds until the next log record; printed for the table of docs/cluster.md (``pytest -rP``)."""
    since, known = time.monotonic(), len(records(folder))
    wait_for(lambda: len(records(folder)) > known, 240)
    seconds = time.monotonic() - since
    print(f"{after}: training went on after {seconds:.1f} s")
    return seconds

"""Event files, read back by TensorBoard's own reader."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from raycondense.tensorboard import EventFiles


def record(images: int, match: float, stage: str = "condense") -> dict[str, float | str]:
    return {
        "stage": stage, "step": images // 10, "images": images, "total": 100, "images_per_second": 5.0,
        "loader": "ffcv", "loss/match": match, "seconds/data": 0.25,
    }  # fmt: skip


def read(folder: Path, stage: str = "condense") -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every tag, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: Any = EventAccumulator(str(folder / "tensorboard" / stage)).Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    files = EventFiles(tmp_path)
    files.append(record(10, 0.5, "reconstruct"))
    files.append(record(10, 2.0))
    files.append(record(20, 1.5))
    assert read(tmp_path) == {
        "images_per_second": [(10, 5.0), (20, 5.0)],
        "loss/match": [(10, 2.0), (20, 1.5)],
        "seconds/data": [(10, 0.25), (20, 0.25)],
    }
    assert read(tmp_path, "reconstruct")["loss/match"] == [(10, 0.5)]


def test_what_came_after_the_last_checkpoint_of_a_killed_run_is_replaced(tmp_path: Path) -> None:
    killed = EventFiles(tmp_path)
    for images, match in ((10, 3.0), (20, 2.0), (30, 1.0)):
        killed.append(record(images, match))
    (file,) = (tmp_path / "tensorboard" / "condense").iterdir()
    with file.open("ab") as handle:
        handle.write(b"\x20\0\0\0\0")  # the kill came in the middle of an event
    again = EventFiles(tmp_path)
    again.append(record(20, 2.5))
    assert read(tmp_path)["loss/match"] == [(10, 3.0), (20, 2.5)]


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    files = EventFiles(tmp_path)
    with caplog.at_level(logging.WARNING, "raycondense"):
        files.append(record(10, 1.0))
        files.append(record(20, 1.0))
    assert len(caplog.messages) == 1
    assert "no TensorBoard events" in caplog.messages[0]

"""`raycondense.evaluation.score`: the test split's one reader."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raycondense.data.beton import BetonReader
from raycondense.data.normalize import Normalize
from raycondense.errors import DataError
from raycondense.evaluation import score as score_module
from raycondense.evaluation.score import Score, score_on_test_split

CLASSES = ("top", "bottom", "<b>dark</b>")


class Brighter(nn.Module):
    """Says class 0 where the top half is brighter than the bottom half, else class 1; notes what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shapes.append(tuple(images.shape))
        top, bottom = images.chunk(2, dim=2)
        difference = top.mean((1, 2, 3)) - bottom.mean((1, 2, 3))
        return torch.stack((difference, -difference, torch.full_like(difference, -100)), 1)


def score(model: nn.Module, path: Path, **changes: object) -> Score:
    arguments = {"classes": CLASSES, "resolution": 8, "normalize": Normalize((0.5,) * 3, (0.2,) * 3)} | changes
    return score_on_test_split(model, path, **arguments)


def test_score_counts_right_answers_at_the_students_resolution(tiny_run) -> None:
    model = Brighter().train()
    found = score(model, tiny_run.test)
    assert (found.correct, found.images, found.split) == (9 + 8, 24, "test")
    assert found.accuracy == pytest.approx(17 / 24)
    assert found.sha256 == BetonReader(tiny_run.test).sidecar.sha256
    assert model.shapes == [(24, 3, 8, 8)]
    assert not model.training


def test_score_does_not_depend_on_where_batches_are_cut(tiny_run, monkeypatch) -> None:
    monkeypatch.setattr("raycondense.evaluation.score.BATCH", 7)
    model = Brighter()
    assert score(model, tiny_run.test).correct == 17
    assert [shape[0] for shape in model.shapes] == [7, 7, 7, 3]


@pytest.fixture
def opened(monkeypatch) -> list[tuple[Path, int]]:
    """Path and resolution of every read of images; nothing is in memory yet."""
    calls, original = [], BetonReader.images

    def images(self: BetonReader, indices: np.ndarray, resolution: int) -> np.ndarray:
        calls.append((self.path, resolution))
        return original(self, indices, resolution)

    monkeypatch.setattr(BetonReader, "images", images)
    monkeypatch.setattr(score_module, "_CACHE", {})
    return calls


def test_a_process_decodes_a_split_once_for_each_resolution(tiny_run, opened, monkeypatch) -> None:
    assert [score(Brighter(), tiny_run.test).correct for _ in range(3)] == [17] * 3
    assert opened == [(tiny_run.test, 8)]
    assert score(Brighter(), tiny_run.test, resolution=16).correct == 17
    assert opened == [(tiny_run.test, 8), (tiny_run.test, 16)]
    monkeypatch.setattr(score_module, "BATCH", 7)
    model = Brighter()
    assert score(model, tiny_run.test).correct == 17
    assert [shape[0] for shape in model.shapes] == [7, 7, 7, 3]
    assert len(opened) == 2


def test_the_split_used_longest_ago_makes_room(tiny_run, opened, monkeypatch) -> None:
    train = {"path": tiny_run.train}
    monkeypatch.setattr(score_module, "CACHE_BYTES", 30 * 3 * 8 * 8)  # the larger of both splits, alone
    score(Brighter(), tiny_run.test)
    score(Brighter(), **train)
    score(Brighter(), **train)
    assert [path for path, _ in opened] == [tiny_run.test, tiny_run.train]
    score(Brighter(), tiny_run.test)
    assert [path for path, _ in opened] == [tiny_run.test, tiny_run.train, tiny_run.test]
    monkeypatch.setattr(score_module, "CACHE_BYTES", 24 * 3 * 8 * 8 - 1)
    monkeypatch.setattr(score_module, "_CACHE", {})
    assert [score(Brighter(), tiny_run.test).correct for _ in range(2)] == [17] * 2
    assert len(opened) == 5


def test_every_look_at_a_split_is_written_down(tiny_run, tmp_path) -> None:
    reads = tmp_path / "deep" / "reads.jsonl"
    before = time.time()
    score(Brighter(), tiny_run.test)
    for who in ("first", "second"):
        score(Brighter(), tiny_run.test, reads=reads, who=who)
    with pytest.raises(DataError):
        score(Brighter(), tiny_run.test, reads=reads, resolution=32)
    lines = [json.loads(line) for line in reads.read_text().splitlines()]
    assert [line.pop("who") for line in lines] == ["first", "second"]
    assert before <= lines[0].pop("time") <= lines[1].pop("time") <= time.time()
    sha256 = BetonReader(tiny_run.test).sidecar.sha256
    assert lines == [{"path": str(tiny_run.test), "split": "test", "sha256": sha256, "images": 24}] * 2


def test_score_refuses_a_split_that_does_not_fit(tiny_run, tmp_path) -> None:
    with pytest.raises(DataError, match=r"classes: found 3, first difference 'top' for 'bottom'"):
        score(Brighter(), tiny_run.test, classes=("bottom", "top", "<b>dark</b>"))
    with pytest.raises(DataError, match="found 3; valid: the artefact's 2"):
        score(Brighter(), tiny_run.test, classes=CLASSES[:2])
    with pytest.raises(DataError, match="found 16 px, valid: the artefact's 32 px or more"):
        score(Brighter(), tiny_run.test, resolution=32)
    with pytest.raises(DataError, match=r"absent\.beton"):
        score(Brighter(), tmp_path / "absent.beton")

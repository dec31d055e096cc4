"""The test split's one reader, and the sets that a condensed one is compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raycondense.artifact.load import load
from raycondense.data.beton import BetonReader
from raycondense.data.normalize import Normalize
from raycondense.errors import ConfigError, DataError
from raycondense.evaluation.baselines import BASELINES, baseline_set, find_train_data
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


def test_score_refuses_a_split_that_does_not_fit(tiny_run, tmp_path) -> None:
    with pytest.raises(DataError, match=r"classes: found 3, first difference 'top' for 'bottom'"):
        score(Brighter(), tiny_run.test, classes=("bottom", "top", "<b>dark</b>"))
    with pytest.raises(DataError, match="found 3; valid: the artefact's 2"):
        score(Brighter(), tiny_run.test, classes=CLASSES[:2])
    with pytest.raises(DataError, match="found 16 px, valid: the artefact's 32 px or more"):
        score(Brighter(), tiny_run.test, resolution=32)
    with pytest.raises(DataError, match=r"absent\.beton"):
        score(Brighter(), tmp_path / "absent.beton")


@pytest.mark.parametrize("name", ["random", "kmeans"])
def test_a_baseline_takes_different_real_images_of_each_class(tiny_run, name) -> None:
    reader = BetonReader(tiny_run.train)
    found = baseline_set(name, tiny_run.train, ipc=3, seed=0, resolution=8)
    assert found.images.shape == (9, 3, 8, 8)
    assert found.images.dtype == torch.uint8
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for label in range(3):
        real = {image.tobytes() for image in reader.images(np.asarray(reader.sidecar.class_range(label)), 8)}
        chosen = {image.numpy().tobytes() for image in found.images[found.labels == label]}
        assert len(chosen) == 3
        assert chosen <= real


def test_random_real_images_are_a_function_of_the_seed(tiny_run) -> None:
    def draw(seed: int) -> Tensor:
        return baseline_set("random", tiny_run.train, ipc=4, seed=seed, resolution=8).images

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_some_classes_get_the_images_that_they_get_among_all(tiny_run) -> None:
    arguments = {"ipc": 2, "seed": 3, "resolution": 8}
    every = baseline_set("random", tiny_run.train, **arguments)
    some = baseline_set("random", tiny_run.train, classes=[2, 0], **arguments)
    assert some.labels.tolist() == [2, 2, 0, 0]
    assert torch.equal(some.images, every.images[[4, 5, 0, 1]])


def test_the_whole_set_is_every_image(tiny_run) -> None:
    found = baseline_set("whole", tiny_run.train, ipc=0, seed=0, resolution=16)
    reader = BetonReader(tiny_run.train)
    assert np.array_equal(found.images.numpy(), reader.images(np.arange(30)))
    assert np.array_equal(found.labels.numpy(), reader.labels)


def test_baseline_errors_name_the_class_and_the_choices(tiny_run) -> None:
    with pytest.raises(DataError, match=r"'<b>dark</b>': found 8 images.*ipc 9 needs 9"):
        baseline_set("random", tiny_run.train, ipc=9, seed=0, resolution=8)
    with pytest.raises(ConfigError, match=r"'herdin'.*" + ", ".join(BASELINES)):
        baseline_set("herdin", tiny_run.train, ipc=1, seed=0, resolution=8)


def test_training_images_are_found_by_their_content(tiny_run, tmp_path) -> None:
    artifact = load(tiny_run.artifact)
    assert find_train_data(artifact) == tiny_run.train
    artifact.path = tmp_path / "moved"  # no run.json beside it
    assert find_train_data(artifact) is None
    assert find_train_data(artifact, beside=tiny_run.test) is None
    assert find_train_data(artifact, beside=tiny_run.train.with_name("test.beton")) == tiny_run.train

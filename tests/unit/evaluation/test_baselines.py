"""`raycondense.evaluation.baselines`: the sets of real images that a condensed one is compared with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from raycondense.artifact.load import load
from raycondense.data.beton import BetonReader
from raycondense.errors import ConfigError, DataError
from raycondense.evaluation.baselines import BASELINES, baseline_set, find_train_data, herding


def embed(images: Tensor) -> Tensor:
    """Mean colours of 16 squares, as far from black as a network's features: [N, 48]."""
    return torch.nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1)


def features(count: int, dim: int, seed: int) -> Tensor:
    """Not negative, as after a ReLU, and of very different lengths."""
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(count, dim, generator=draw).square() * (1 + 20 * torch.rand(count, 1, generator=draw))


@pytest.mark.parametrize("name", ["random", "herding", "kmeans"])
def test_a_baseline_takes_different_real_images_of_each_class(tiny_run, name) -> None:
    reader = BetonReader(tiny_run.train)
    found = baseline_set(name, tiny_run.train, ipc=3, seed=0, resolution=8, embed=embed)
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


@pytest.mark.parametrize("name", ["random", "herding"])
def test_some_classes_get_the_images_that_they_get_among_all(tiny_run, name) -> None:
    arguments = {"ipc": 2, "seed": 3, "resolution": 8, "embed": embed}
    every = baseline_set(name, tiny_run.train, **arguments)
    some = baseline_set(name, tiny_run.train, classes=[2, 0], **arguments)
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
    with pytest.raises(ConfigError, match=r"'herdin'.*did you mean 'herding'.*" + ", ".join(BASELINES)):
        baseline_set("herdin", tiny_run.train, ipc=1, seed=0, resolution=8)


@pytest.mark.parametrize("seed", range(3))
def test_herding_keeps_the_mean_of_the_chosen_nearest_to_the_mean_of_all(seed: int) -> None:
    found = features(40, 7, seed)
    points = (found / found.norm(dim=1, keepdim=True)).double().numpy()
    chosen: list[int] = []
    for _ in range(40):
        left = [i for i in range(40) if i not in chosen]
        distance = [np.linalg.norm(points[[*chosen, i]].mean(0) - points.mean(0)) for i in left]
        chosen.append(left[int(np.argmin(distance))])
    assert herding(found, 40).tolist() == chosen
    assert herding(found, 9).tolist() == chosen[:9]


def test_herding_looks_at_directions_and_not_at_lengths() -> None:
    found = features(50, 6, seed=1)
    lengths = torch.logspace(-3, 3, 50)[:, None]
    assert herding(found * lengths, 20).tolist() == herding(found, 20).tolist()


def test_herding_takes_equal_images_once_each() -> None:
    assert sorted(herding(torch.ones(4, 5), 4).tolist()) == [0, 1, 2, 3]
    assert sorted(herding(torch.zeros(3, 5), 3).tolist()) == [0, 1, 2]


def test_herding_says_what_cannot_be() -> None:
    with pytest.raises(DataError, match="found 5 of 4 images, valid: 1 to 4"):
        herding(torch.ones(4, 2), 5)
    with pytest.raises(DataError, match="found 0 of 4"):
        herding(torch.ones(4, 2), 0)
    with pytest.raises(DataError, match="not finite"):
        herding(torch.tensor([[1.0], [torch.nan]]), 1)


def test_herding_embeds_a_class_in_pieces_at_the_students_resolution(tiny_run, monkeypatch) -> None:
    seen: list[tuple[tuple[int, ...], torch.dtype]] = []

    def watched(images: Tensor) -> Tensor:
        seen.append((tuple(images.shape), images.dtype))
        return embed(images)

    arguments = {"ipc": 4, "resolution": 8, "embed": watched}
    at_once = baseline_set("herding", tiny_run.train, seed=0, **arguments)
    assert seen == [((count, 3, 8, 8), torch.uint8) for count in (12, 10, 8)]
    seen.clear()
    monkeypatch.setattr("raycondense.evaluation.baselines.PIECE", 5)
    in_pieces = baseline_set("herding", tiny_run.train, seed=1, **arguments)
    assert [shape[0] for shape, _ in seen] == [4, 4, 4, 5, 5, 4, 4]
    assert torch.equal(at_once.images, in_pieces.images)  # nor does it draw anything


def test_herding_finds_nothing_without_features(tiny_run) -> None:
    with pytest.raises(ConfigError, match=r"'herding'.*features of a network.*embed"):
        baseline_set("herding", tiny_run.train, ipc=1, seed=0, resolution=8)


def test_training_images_are_found_by_their_content(tiny_run, tmp_path) -> None:
    artifact = load(tiny_run.artifact)
    assert find_train_data(artifact) == tiny_run.train
    artifact.path = tmp_path / "moved"  # no run.json beside it
    assert find_train_data(artifact) is None
    assert find_train_data(artifact, beside=tiny_run.test) is None
    assert find_train_data(artifact, beside=tiny_run.train.with_name("test.beton")) == tiny_run.train

"""Real and generated images in features: copies are found, and the plane is the real images' own."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from torch import Tensor

from raycondense.artifact.load import load
from raycondense.data.beton import BetonReader
from raycondense.data.dataset_writer import DatasetWriter, Origin
from raycondense.data.encoding import Encoding
from raycondense.evaluation.baselines import baseline_set
from raycondense.report import features
from raycondense.report.features import PlaneClass, _plane, _Seen, feature_space, random_features
from raycondense.report.plane import _label_sides, class_figure, plane_figure
from raycondense.testing.betons import write_samples


def seen(real: Tensor, generated: Tensor) -> _Seen:
    return _Seen("a", real, generated, real.mean(0))


def pixels(images: Tensor) -> Tensor:
    return images.float().flatten(1)


def test_a_copied_training_image_is_found_at_distance_nought(tiny_run, tmp_path) -> None:
    artifact = load(tiny_run.artifact)
    bank = artifact.bank(normalize=False)
    noise = np.random.default_rng(0)
    path = tmp_path / "train.beton"
    encoding, origin = Encoding(8, "raw", 90), Origin(source="x", split="train", seed=0)
    with DatasetWriter(path, 15, classes=artifact.classes, encoding=encoding, origin=origin) as writer:
        for label in range(3):
            for _ in range(4):
                writer.add(noise.integers(0, 256, (8, 8, 3)).astype(np.uint8), label)
            # The second image of each class, but only class 1's is in class 1.
            copied = bank.images[2 * (1 if label == 1 else (label + 1) % 3) + 1]
            writer.add(copied.permute(1, 2, 0).numpy(), label)
    space = feature_space(artifact, path, random_features(artifact))
    assert [one.name for one in space.neighbours] == [name for name in artifact.classes for _ in range(2)]
    first = {one.name: one for one in reversed(space.neighbours)}
    copy = first[artifact.classes[1]]
    assert copy.distance == 0
    assert copy.ratio == 0
    assert torch.equal(copy.generated, bank.images[3])
    assert torch.equal(copy.real, copy.generated)
    assert min(first[artifact.classes[label]].distance for label in (0, 2)) > 0
    assert (space.searched, space.available) == (15, 15)


def test_distances_are_those_of_the_features_and_nearest_come_first(tiny_run) -> None:
    artifact = load(tiny_run.artifact)
    space = feature_space(artifact, tiny_run.train, pixels, pairs=1)
    bank = artifact.bank(normalize=False)
    for label, one in enumerate(space.neighbours):
        assert one.distance == pytest.approx(float((one.generated.float() - one.real.float()).norm()))
        assert any(torch.equal(one.generated, image) for image in bank.images[bank.labels == label])
        # The usual distance: the median over real images of that to the nearest other one.
        real = baseline_set("whole", tiny_run.train, ipc=0, seed=0, resolution=8, classes=[label]).images
        usual = torch.cdist(pixels(real), pixels(real)).fill_diagonal_(torch.inf).min(1).values.median()
        assert one.ratio == pytest.approx(one.distance / float(usual), rel=1e-4)


def test_of_many_training_images_some_are_searched_and_counted(tiny_run, monkeypatch) -> None:
    monkeypatch.setattr(features, "MOST_REAL", 12)
    artifact = load(tiny_run.artifact)
    space = feature_space(artifact, tiny_run.train, pixels, classes=2)
    assert [one.name for one in space.plane] == [artifact.classes[0], artifact.classes[2]]
    assert (space.searched, space.available) == (6 + 6, 12 + 8)


def test_of_a_class_only_what_is_searched_is_read(tiny_run, monkeypatch) -> None:
    monkeypatch.setattr(features, "MOST_REAL", 12)
    artifact, asked = load(tiny_run.artifact), []
    original = BetonReader.images

    def images(self: BetonReader, indices: np.ndarray, resolution: int) -> np.ndarray:
        asked.append(len(indices))
        return original(self, indices, resolution)

    monkeypatch.setattr(BetonReader, "images", images)
    feature_space(artifact, tiny_run.train, pixels)
    assert asked == [4, 4, 4]


def test_one_training_image_a_class_has_no_usual_distance(tiny_run, tmp_path) -> None:
    artifact = load(tiny_run.artifact)
    path = tmp_path / "one.beton"
    black = np.zeros((8, 8, 3), np.uint8)
    write_samples(path, ((label, black) for label in range(3)), 3, resolution=8, encoding="raw")
    space = feature_space(artifact, path, pixels)
    assert {neighbour.ratio for neighbour in space.neighbours} == {None}
    assert space.explained == 0  # nothing varies
    assert all(torch.isfinite(one.generated).all() for one in space.plane)


@pytest.mark.parametrize("size", [6, 90])
def test_the_plane_is_that_of_principal_components(size) -> None:
    draw = torch.Generator().manual_seed(1)
    real = [torch.randn(20, size, generator=draw, dtype=torch.float64) * torch.linspace(3, 1, size) for _ in range(2)]
    made = [torch.randn(3, size, generator=draw, dtype=torch.float64) for _ in range(2)]
    classes, explained = _plane([seen(real[0], made[0]), seen(real[1], made[1])])
    every = torch.cat(real)
    _, values, vectors = np.linalg.svd((every - every.mean(0)).numpy(), full_matrices=False)
    assert explained == pytest.approx((values[:2] ** 2).sum() / (values**2).sum())
    expected = (made[1] - every.mean(0)).numpy() @ vectors[:2].T
    assert np.abs(classes[1].generated.numpy()) == pytest.approx(np.abs(expected))
    assert classes[0].real_center == pytest.approx(classes[0].real.mean(0).tolist())
    assert classes[1].generated_center == pytest.approx(classes[1].generated.mean(0).tolist())
    # Other generated images do not move real ones.
    again, _ = _plane([seen(real[0], made[0] + 50), seen(real[1], made[1] * 9)])
    assert torch.equal(again[0].real, classes[0].real)


def test_the_plane_does_not_hang_on_signs_that_a_library_chose(monkeypatch) -> None:
    real = torch.randn(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before, _ = _plane([seen(real, real[:2])])
    eigh = torch.linalg.eigh

    def mirrored(matrix: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = eigh(matrix)
        return values, -vectors

    monkeypatch.setattr(torch.linalg, "eigh", mirrored)
    after, _ = _plane([seen(real, real[:2])])
    assert torch.allclose(before[0].real, after[0].real)


def test_random_features_are_the_same_in_any_batch_and_differ_between_images(tiny_run, monkeypatch) -> None:
    artifact = load(tiny_run.artifact)
    images = torch.randint(0, 256, (7, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    state = torch.get_rng_state()
    found = random_features(artifact)(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.shape == (7, 32 * 2 * 2)
    assert torch.isfinite(found).all()
    assert torch.cdist(found, found).fill_diagonal_(1).min() > 0.1
    monkeypatch.setattr(features, "_BATCH", 2)
    assert torch.allclose(random_features(artifact)(images), found, atol=1e-5)
    # What is standardised away is not seen.
    brighter = ((images.float() / 255 * 0.5 + 0.25) * 255).round().to(torch.uint8)
    assert torch.cdist(random_features(artifact)(brighter), found).diagonal().max() < torch.cdist(found, found).max()


def texts(svg: bytes) -> set[str]:
    return {element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}


def plane(*names: str, points: int = 300) -> list[PlaneClass]:
    draw = torch.Generator().manual_seed(0)
    return [
        PlaneClass(name, torch.randn(points, 2, generator=draw), torch.randn(9, 2, generator=draw), (i, 0.0), (i, 1.0))
        for i, name in enumerate(names)
    ]


def test_clouds_are_pictures_inside_small_figures() -> None:
    classes = plane(*"abcdefghij")
    whole, one = plane_figure(classes, 0.4), class_figure(classes, 2)
    assert "10 classes" in whole.alt
    assert "40 %" in whole.alt
    assert one.alt == "Class c: 9 generated images among 300 real ones"
    for figure in (whole, one):
        assert figure.light != figure.dark
        for svg in (figure.light, figure.dark):
            assert len(svg) < 400_000
            links = [v for e in ElementTree.fromstring(svg).iter() for k, v in e.attrib.items() if k.endswith("href")]
            assert all(link.startswith(("#", "data:image/png")) for link in links)
            assert any(link.startswith("data:") for link in links)
    assert {*"abcdefghij", "center of real images"} <= texts(whole.light)
    assert whole == plane_figure(classes, 0.4)


def test_long_names_stand_over_the_small_figures_and_hostile_ones_are_text() -> None:
    classes = plane("$x_1$", "n" * 60, "<b>&")
    assert {"1", "2", "3"} <= texts(plane_figure(classes, 0.4).light)
    assert "1 · $x_1$" in texts(class_figure(classes, 0).light)
    assert "2 · " + "n" * 13 + "…" in texts(class_figure(classes, 1).light)
    assert "3 · <b>&" in texts(class_figure(classes, 2).dark)


def test_names_of_classes_with_one_center_stand_apart() -> None:
    cloud = torch.rand(5, 2)
    together = [PlaneClass(name, cloud, cloud, (0.0, 0.0), (0.0, 0.0)) for name in "abc"]
    far = PlaneClass("d", 9 * cloud, cloud, (9.0, 9.0), (9.0, 9.0))
    sides = _label_sides([*together, far])
    assert len(set(sides[:3])) == 3

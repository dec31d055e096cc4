"""Diversity and realism where the answer is known: copies, collapsed sets, sets elsewhere, and plain definitions."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raycondense.errors import DataError
from raycondense.evaluation import diagnostics
from raycondense.evaluation.diagnostics import Diagnostics, diagnose, diagnose_all, expected_coverage
from raycondense.evaluation.schemas import DIAGNOSTICS, check_row
from raycondense.evaluation.train import ImageSet


class World:
    """Images of one pixel that stand for features: a test says what an image looks like to the network."""

    def __init__(self) -> None:
        self.features: list[Tensor] = []
        self.embedded = 0

    def images(self, features: Tensor, labels: Sequence[int]) -> ImageSet:
        assert len(features) == len(labels)
        first = len(self.features)
        self.features.extend(features)
        numbers = torch.arange(first, len(self.features))
        pixels = torch.stack((numbers // 256, numbers % 256, torch.zeros_like(numbers)), 1)
        return ImageSet(pixels.to(torch.uint8)[:, :, None, None], torch.tensor(labels))

    def embed(self, images: Tensor) -> Tensor:
        self.embedded += len(images)
        numbers = images[:, 0, 0, 0].long() * 256 + images[:, 1, 0, 0].long()
        return torch.stack([self.features[number] for number in numbers.tolist()])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clusters(count: int, *, classes: int = 3, apart: float = 6.0, seed: int = 0) -> tuple[Tensor, list[int]]:
    """Normal features [classes · count, 4] around centers on the axes."""
    labels = [label for label in range(classes) for _ in range(count)]
    return normal(len(labels), 4, seed=seed) + apart * torch.eye(4)[labels], labels


def measure(synthetic: tuple[Tensor, list[int]], real: tuple[Tensor, list[int]], **arguments) -> Diagnostics:
    world = World()
    num_classes = arguments.pop("num_classes", max(real[1]) + 1)
    return diagnose(world.images(*synthetic), world.images(*real), world.embed, num_classes=num_classes, **arguments)


def test_copies_of_all_real_images() -> None:
    real = clusters(20)
    found = measure(real, real)
    assert (found.spread_ratio, found.coverage, found.nearest_real) == (1, 1, 0)
    assert found.density == pytest.approx(1)


def test_as_many_new_images_of_the_same_kind() -> None:
    found = measure(clusters(150, seed=1), clusters(150))
    assert found.spread_ratio == pytest.approx(1, abs=0.15)
    assert found.density == pytest.approx(1, abs=0.1)
    assert found.coverage == pytest.approx(found.expected_coverage, abs=0.05)
    assert found.expected_coverage == pytest.approx(1 - 0.5**5, abs=0.01)
    assert found.nearest_real == pytest.approx(1, abs=0.15)
    assert found.positive_margin > 0.99


def test_one_image_again_and_again() -> None:
    features, labels = clusters(20)
    centers = features.view(3, 20, 4).mean(1).repeat_interleave(5, 0)
    found = measure((centers, [0] * 5 + [1] * 5 + [2] * 5), (features, labels))
    assert found.spread_ratio == pytest.approx(0)
    assert found.center_margin == pytest.approx(1)
    assert found.positive_margin == 1
    assert found.density > 1.5  # all where real images are dense
    assert found.coverage < 0.8


def test_images_far_from_all_real_ones() -> None:
    real = clusters(20)
    found = measure((real[0] + 1000, real[1]), real)
    assert (found.coverage, found.density) == (0, 0)
    assert found.nearest_real > 100
    assert found.spread_ratio == pytest.approx(1, abs=1e-3)  # diverse, and nothing like real


def test_images_with_the_label_of_another_class() -> None:
    features, labels = clusters(20)
    found = measure((features, [(label + 1) % 3 for label in labels]), (features, labels))
    assert found.positive_margin == 0
    assert -1 <= found.center_margin < -0.5
    assert (found.coverage, found.density) == (0, 0)


def test_margin_by_hand() -> None:
    real = (torch.tensor([[-1.0], [1.0], [9.0], [11.0], [29.0], [31.0]]), [0, 0, 1, 1, 2, 2])
    for at, label, margin in [
        (2.0, 0, 0.6),
        (5.0, 0, 0),
        (-50.0, 0, 1),
        (8.0, 0, -0.6),
        (22.0, 1, -0.2),
        (25.0, 2, 0.5),
    ]:
        found = measure((torch.tensor([[at]]), [label]), real)
        assert found.center_margin == pytest.approx(margin), (at, label)
        assert found.positive_margin == float(margin > 0)


def test_center_cosine_by_hand() -> None:
    real = clusters(30, apart=20)
    simplex = torch.eye(4)[:3] - torch.eye(4)[:3].mean(0) + real[0].view(3, 30, 4).mean((0, 1))
    assert measure((simplex, [0, 1, 2]), real).center_cosine == pytest.approx(-1 / 2, abs=1e-5)
    same = simplex[:1].repeat(3, 1)
    assert measure((same, [0, 1, 2]), real).center_cosine == pytest.approx(1, abs=1e-5)
    # The nearest other class counts, for each class: cos 1, 1 and −1/2.
    assert measure((simplex[[0, 0, 1]], [0, 1, 2]), real).center_cosine == pytest.approx(0.5, abs=1e-5)


def test_coverage_and_density_are_those_of_the_definition() -> None:
    real, synthetic = clusters(12, apart=1), clusters(4, apart=1.5, seed=3)
    coverages, densities = [], []
    for label in range(3):
        x = [f.double() for f, of in zip(*real, strict=True) if of == label]
        y = [f.double() for f, of in zip(*synthetic, strict=True) if of == label]
        radii = [sorted(float((a - b).norm()) for j, b in enumerate(x) if j != i)[4] for i, a in enumerate(x)]
        inside = [[float((a - b).norm()) < radius for b in y] for a, radius in zip(x, radii, strict=True)]
        coverages.append(statistics.fmean(any(row) for row in inside))
        densities.append(sum(map(sum, inside)) / (5 * len(y)))
    found = measure(synthetic, real)
    assert 0 < found.coverage < 1
    assert found.coverage == pytest.approx(statistics.fmean(coverages))
    assert found.density == pytest.approx(statistics.fmean(densities))


def test_expected_coverage_is_the_mean_coverage_of_new_real_images() -> None:
    def draw(n: int, seed: int) -> tuple[Tensor, list[int]]:
        return normal(n, 3, seed=seed), [0] * n

    found = [measure(draw(4, 2 * i + 1), draw(30, 2 * i), num_classes=1).coverage for i in range(200)]
    standard_error = statistics.stdev(found) / len(found) ** 0.5
    assert statistics.fmean(found) == pytest.approx(expected_coverage(30, 4), abs=4 * standard_error)
    assert expected_coverage(1000, 1) == pytest.approx(5 / 1000)
    assert expected_coverage(1000, 0) == 0


def test_spread_is_unbiased() -> None:
    """Over all pairs of real images the mean ratio is 1, exactly; with n in the denominator it would be 1/2."""
    features = normal(6, 2)
    pairs = itertools.combinations(range(6), 2)
    ratios = [measure((features[list(p)], [0, 0]), (features, [0] * 6)).spread_ratio for p in pairs]
    assert statistics.fmean(ratios) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
def test_measures_do_not_depend_on_scale_place_and_axes_of_the_features(seed) -> None:
    real, synthetic = clusters(10, apart=1, seed=seed), clusters(3, apart=1, seed=seed + 10)
    rotation = torch.linalg.qr(normal(4, 4, seed=seed))[0]

    def moved(of: tuple[Tensor, list[int]]) -> tuple[Tensor, list[int]]:
        return 7 * of[0] @ rotation + 100, of[1]

    before, after = (dataclasses.asdict(m) for m in (measure(synthetic, real), measure(moved(synthetic), moved(real))))
    assert after == pytest.approx(before, rel=1e-3)


def test_one_image_per_class_has_no_spread() -> None:
    found = measure(clusters(1, seed=2), clusters(20))
    assert found.spread_ratio is None
    assert None not in (found.center_margin, found.center_cosine, found.coverage, found.density, found.nearest_real)


def test_few_real_images_and_one_class() -> None:
    found = measure((normal(3, 2), [0] * 3), (normal(1, 2, seed=1), [0]))
    assert dataclasses.asdict(found) == dict.fromkeys(dataclasses.asdict(found))
    # Two real images: each one's only neighbour is the other.
    two = measure((torch.tensor([[0.5, 0.0], [9.0, 0.0]]), [0, 0]), (torch.tensor([[0.0, 0.0], [1.0, 0.0]]), [0, 0]))
    assert (two.coverage, two.density) == (1, 1)
    assert two.nearest_real == pytest.approx((0.5 + 8) / 2)
    assert (two.center_margin, two.positive_margin, two.center_cosine) == (None, None, None)


def test_real_images_that_all_look_the_same() -> None:
    """A dead network: nothing is divided by zero."""
    found = measure(clusters(4), (torch.ones(12, 4), [0] * 4 + [1] * 4 + [2] * 4))
    assert (found.spread_ratio, found.nearest_real) == (None, None)
    assert (found.center_margin, found.positive_margin, found.coverage, found.density) == (0, 0, 0, 0)


def test_a_class_that_the_set_lacks_does_not_count() -> None:
    real = clusters(20)
    found = measure((real[0][20:40], real[1][20:40]), real)
    assert (found.spread_ratio, found.coverage, found.nearest_real) == (1, 1, 0)
    assert found.center_cosine is None
    assert found.positive_margin == 1


def test_copies_are_found_among_all_real_images_not_only_among_the_drawn() -> None:
    features, labels = clusters(60)
    some = [i for i in range(180) if i % 20 == 0]
    found = measure((features[some], [labels[i] for i in some]), (features, labels), most_real=8)
    assert found.nearest_real == 0
    assert found.expected_coverage == pytest.approx(expected_coverage(8, 3))


def test_the_draw_is_a_function_of_the_seed() -> None:
    synthetic, real = clusters(5, seed=1), clusters(60)
    found = [measure(synthetic, real, most_real=10, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0].density != found[2].density
    assert measure(synthetic, real, most_real=60) == measure(synthetic, real, most_real=10**6)


def test_sets_together_are_measured_as_alone_and_real_images_are_seen_once(monkeypatch) -> None:
    world = World()
    real = world.images(*clusters(20))
    sets = [world.images(*clusters(n, seed=n)) for n in (1, 4, 9)]
    together = diagnose_all(sets, lambda label: real.images[real.labels == label], world.embed, num_classes=3)
    assert world.embedded == 60 + 2 * 3 * (1 + 4 + 9)
    monkeypatch.setattr(diagnostics, "CHUNK", 2)  # blocks of two rows
    assert together == [diagnose(data, real, world.embed, num_classes=3) for data in sets]


def test_values_fit_the_table() -> None:
    values = measure(clusters(2, seed=1), clusters(9)).to_dict()
    assert None not in values.values()
    columns = {name: column for name, column in DIAGNOSTICS.items() if name in values}
    assert set(columns) == set(values)
    assert check_row("diagnostics", values, columns) == values


def test_what_cannot_be_measured_is_named() -> None:
    real = clusters(4)
    with pytest.raises(DataError, match="found 0 images, valid: 1 or more"):
        measure((normal(0, 4), []), real)
    with pytest.raises(DataError, match=r"found 0 to 3, valid: 0 to 2"):
        measure((normal(2, 4), [0, 3]), real)
    with pytest.raises(DataError, match="real images of class 3: found 0"):
        measure((normal(2, 4), [0, 2]), real, num_classes=4)
    with pytest.raises(DataError, match="features of class 1 that are not finite"):
        measure((torch.tensor([[1.0, 1, 1, torch.nan]]), [1]), real)


HOLES = """
import sys
import torch
from pathlib import Path
from raycondense.evaluation.diagnostics import diagnose
from raycondense.evaluation.train import ImageSet

def megabytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1000

most = 0.0
def embed(images):
    global most
    most = max(most, megabytes() - before)
    return images.flatten(1).float().repeat(1, 16)

torch.set_num_threads(1)
classes = 300
labels = torch.arange(classes).repeat_interleave(4)
images = torch.randint(0, 256, (len(labels), 3, 4, 8), dtype=torch.uint8)
before = megabytes()
diagnose(ImageSet(images, labels), ImageSet(images.flip(3), labels), embed, num_classes=classes)
print(most)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_memory_does_not_grow_from_class_to_class() -> None:
    """Of a class little is kept; kept between its large tensors it would leave holes of 4 MB a class."""
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100

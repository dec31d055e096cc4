"""Sets too large to keep: the same numbers as of kept ones, and never more in memory than a batch or a class."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raycondense.artifact.load import load
from raycondense.config import EvaluationConfig
from raycondense.data.beton import BetonReader
from raycondense.data.normalize import Normalize
from raycondense.data.sidecar import Sidecar
from raycondense.evaluation import pixel_dm, whole
from raycondense.evaluation.baselines import baseline_set
from raycondense.evaluation.diagnosis import Diagnosed, grouped
from raycondense.evaluation.images import ImageSet, StoredSet
from raycondense.evaluation.plan import Plan, Planner
from raycondense.evaluation.result import Evaluation
from raycondense.evaluation.run import evaluate
from raycondense.evaluation.store import Store
from raycondense.evaluation.together import train_together
from raycondense.evaluation.whole import class_limit, classes_of, some_of, whole_set

CONFIG = EvaluationConfig(
    width=8, students=1, epochs=30, max_steps=8, batch=5, reference_steps=9, pixel_dm_steps=2, pixel_dm_real=4,
    baselines=("random", "herding", "kmeans", "pixel-dm", "whole"),
)  # fmt: skip
COUNTS = (12, 10, 8)
TIMES = {"finished_at", "seconds", "train_seconds", "generation_seconds"}


@pytest.fixture(autouse=True)
def _own_bounds() -> Iterator[None]:
    """The set that a process keeps was made under the bound of another test."""
    whole_set.cache_clear()
    yield
    whole_set.cache_clear()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, int]]:
    """What is read of betons: the file, and how many images at once."""
    found: list[tuple[Path, int]] = []
    original = BetonReader.images

    def images(self: BetonReader, indices: Any, *arguments: Any) -> np.ndarray:
        found.append((self.path, len(indices)))
        return original(self, indices, *arguments)

    monkeypatch.setattr(BetonReader, "images", images)
    return found


def keep(monkeypatch: pytest.MonkeyPatch, size: int, most: int = whole.CLASS_IMAGES) -> None:
    whole_set.cache_clear()
    monkeypatch.setattr(whole, "KEPT_BYTES", size)
    monkeypatch.setattr(whole, "CLASS_IMAGES", most)
    monkeypatch.setattr(pixel_dm, "RESIDENT_BYTES", size)


def kept(train: Path) -> ImageSet | StoredSet:
    return whole_set(str(train), Sidecar.load(train).sha256, 8)


def measured(tiny_run: Any, folder: Path, config: EvaluationConfig = CONFIG) -> Evaluation:
    return evaluate(tiny_run.artifact, tiny_run.test, config=config, device="cpu", store=Store(folder))


def plan_of(tiny_run: Any) -> Plan:
    test, train = Sidecar.load(tiny_run.test), Sidecar.load(tiny_run.train)
    return Planner(load(tiny_run.artifact), CONFIG, tiny_run.test, test, tiny_run.train, train, "cpu").plan((1, 2))


def told(rows: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def assets(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_a_set_is_kept_up_to_the_bound(tiny_run, monkeypatch) -> None:
    keep(monkeypatch, 30 * 3 * 8 * 8)
    memory = kept(tiny_run.train)
    assert isinstance(memory, ImageSet)
    keep(monkeypatch, 30 * 3 * 8 * 8 - 1)
    stored = kept(tiny_run.train)
    assert isinstance(stored, StoredSet)
    assert stored.resolution == memory.resolution == 8
    every = baseline_set("whole", tiny_run.train, ipc=0, seed=0, resolution=8)
    assert torch.equal(memory.images, every.images)
    assert torch.equal(stored.labels, every.labels)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    for positions in (order, order[:1], order[:0]):
        images, labels = stored.taken(positions)
        assert torch.equal(images, every.images[positions])
        assert torch.equal(labels, every.labels[positions])


def test_all_numbers_and_keys_are_those_of_a_set_that_is_kept(tiny_run, tmp_path, monkeypatch, asked) -> None:
    config = dataclasses.replace(CONFIG, labels="soft")
    memory = measured(tiny_run, tmp_path / "memory", config)
    assert max(count for path, count in asked if path == tiny_run.train) == 30
    asked.clear()
    keep(monkeypatch, 0)
    stored = measured(tiny_run, tmp_path / "stored", config)
    assert told(stored.results) == told(memory.results)
    assert told(stored.diagnostics) == told(memory.diagnostics)
    assert assets(tmp_path / "stored") == assets(tmp_path / "memory") != {}
    # A class at a time, or the real images of a step of pixel DM.
    assert max(count for path, count in asked if path == tiny_run.train) == 12
    assert not stored.failures


def test_the_reference_network_reads_a_batch_at_a_time(tiny_run, tmp_path, monkeypatch, asked) -> None:
    keep(monkeypatch, 0)
    reference = plan_of(tiny_run).diagnosed[0].reference
    reference.run(Store(tmp_path))
    assert [count for _, count in asked] == [5] * 9


def test_of_large_classes_some_images_are_looked_at(tiny_run, tmp_path, monkeypatch, asked) -> None:
    keep(monkeypatch, 0, most=5)
    found = measured(tiny_run, tmp_path / "first")
    # All that is larger: 2 images of 3 classes that are a set, and 4 of each in a step of pixel DM.
    assert max(count for path, count in asked if path == tiny_run.train and count not in (6, 12)) == 5
    assert not found.failures
    again = measured(tiny_run, tmp_path / "second")
    assert told(again.results) == told(found.results)
    assert told(again.diagnostics) == told(found.diagnostics)
    # Herding and k-means choose from the same ones.
    reader = BetonReader(tiny_run.train)
    some = np.concatenate([some_of(np.asarray(reader.sidecar.class_range(label)), 5, label) for label in range(3)])
    looked_at = {image.tobytes() for image in reader.images(some, 8)}
    for name in ("herding", "kmeans"):
        chosen = baseline_set(
            name, tiny_run.train, ipc=2, seed=0, resolution=8, embed=lambda images: images.float().flatten(1), most=5
        )
        assert {image.numpy().tobytes() for image in chosen.images} <= looked_at
    # Never fewer than are wanted.
    assert len(baseline_set("kmeans", tiny_run.train, ipc=7, seed=0, resolution=8, most=5).images) == 21


def test_works_have_another_key_only_where_something_is_left_out(tiny_run, monkeypatch) -> None:
    before = plan_of(tiny_run)
    keep(monkeypatch, 0, most=12)
    stored = plan_of(tiny_run)
    assert list(stored.before) == list(before.before)
    assert [job.key for job in stored.jobs] == [job.key for job in before.jobs]
    assert [one.key for one in stored.diagnosed] == [one.key for one in before.diagnosed]
    keep(monkeypatch, 0, most=11)
    left_out = plan_of(tiny_run)
    changed = {job.images.method for job, same in zip(left_out.jobs, before.jobs, strict=True) if job.key != same.key}
    assert changed == {"herding", "kmeans"}
    assert not {one.key for one in left_out.diagnosed} & {one.key for one in before.diagnosed}


@pytest.mark.parametrize(("size", "most", "limit"), [(0, 11, 11), (0, 12, 0), (30 * 192, 11, 0), (30 * 192 - 1, 3, 3)])
def test_the_limit_is_nought_where_it_would_change_nothing(tiny_run, monkeypatch, size, most, limit) -> None:
    keep(monkeypatch, size, most)
    assert class_limit(Sidecar.load(tiny_run.train), 8) == limit


def test_some_of_a_class_are_different_ascending_and_a_function_of_the_class() -> None:
    members = np.arange(100, 200)
    some = some_of(members, 10, label=3)
    assert len(set(some.tolist())) == 10
    assert set(some.tolist()) <= set(members.tolist())
    assert sorted(some) == list(some)
    assert np.array_equal(some, some_of(members, 10, label=3))
    assert not np.array_equal(some, some_of(members, 10, label=4))
    for most in (0, 100, 101):
        assert some_of(members, most, label=3) is members


def test_classes_of_a_set_are_its_images_by_label(tiny_run, monkeypatch) -> None:
    every = baseline_set("whole", tiny_run.train, ipc=0, seed=0, resolution=8)
    for size in (0, 2**30):
        keep(monkeypatch, size)
        of_class = classes_of(kept(tiny_run.train))
        for label, count in enumerate(COUNTS):
            assert torch.equal(of_class(label), every.images[every.labels == label])
            assert len(of_class(label)) == count
            assert len(classes_of(kept(tiny_run.train), 9)(label)) == min(9, count)


def test_students_that_are_trained_together_see_what_they_see_in_memory(tiny_run, monkeypatch) -> None:
    normalize = Normalize((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    arguments: dict[str, Any] = {"architecture": "convnet", "num_classes": 3, "normalize": normalize, "seeds": (0, 1)}
    memory = train_together([kept(tiny_run.train)] * 2, CONFIG, **arguments)
    keep(monkeypatch, 0)
    stored = train_together([kept(tiny_run.train)] * 2, CONFIG, **arguments)
    for one, other in zip(memory, stored, strict=True):
        assert (one.steps, one.images, one.loss) == (other.steps, other.images, other.loss)
        for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
            assert torch.equal(a, b)


def test_image_sets_are_measured_together_as_far_as_they_fit(tiny_run, monkeypatch) -> None:
    diagnosed = plan_of(tiny_run).diagnosed
    assert {(one.ipc, one.bytes) for one in diagnosed} == {(1, 3 * 192), (2, 6 * 192)}

    def groups() -> list[list[Diagnosed]]:
        return [list(group.sets) for group in grouped(diagnosed)]

    assert groups() == [diagnosed]
    keep(monkeypatch, 1152)
    assert [one for group in groups() for one in group] == diagnosed
    assert all(sum(one.bytes for one in group) <= 1152 for group in groups())
    assert 1 < len(groups()) < len(diagnosed)
    keep(monkeypatch, 0)
    assert groups() == [[one] for one in diagnosed]

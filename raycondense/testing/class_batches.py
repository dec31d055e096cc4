"""What every implementation of `ClassBatches` must do.

``CHECKS`` maps names to functions ``check(make, folder)``, which raise `AssertionError`::

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    def test_my_batches(check, tmp_path):
        check(MyClassBatches, tmp_path)

``make(path, plan, resolution=R)`` opens a beton for a plan. To leave the encoding out of a check use
``functools.partial(check, encoding="raw")``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from raycondense.data.batches import ClassBatch, ClassBatches
from raycondense.data.beton import BetonReader
from raycondense.data.class_plan import ClassPlan
from raycondense.errors import DataError
from raycondense.testing.betons import write_beton

Make = Callable[..., ClassBatches]
Encoding = Literal["raw", "jpeg"]

# Fast inverse DCT (FFCV) against the accurate one (Pillow), in grey levels: mean and largest difference.
JPEG_MEAN, JPEG_LARGEST = 2.5, 32
COUNTS = (13, 30, 9, 21, 17, 12, 40)
RESOLUTION = 16


def _beton(folder: Path, encoding: Encoding, resolution: int = RESOLUTION) -> Path:
    path = folder / f"{encoding}-{resolution}.beton"
    write_beton(path, COUNTS, resolution=resolution, encoding=encoding, seed=1)
    return path


def _plan(path: Path, **settings: Any) -> ClassPlan:
    defaults = {"seed": 5, "classes_per_step": 3, "real_per_class": 4, "read_block": 3}
    return ClassPlan(BetonReader(path, threads=1).sidecar, **{**defaults, **settings})


def assert_close(found: Tensor, wanted: Tensor, encoding: Encoding) -> None:
    """Same pixels: to the bit for raw images, within JPEG_MEAN and JPEG_LARGEST for JPEG."""
    assert found.shape == wanted.shape, f"shape {tuple(found.shape)}, wanted {tuple(wanted.shape)}"
    difference = (found.int() - wanted.int()).abs()
    mean, largest = (0.0, 0) if encoding == "raw" else (JPEG_MEAN, JPEG_LARGEST)
    assert difference.float().mean() <= mean, f"pixels differ by {difference.float().mean():.2f} in the mean"
    assert difference.max() <= largest, f"pixels differ by up to {int(difference.max())}"


def assert_same(one: ClassBatch, other: ClassBatch) -> None:
    """The same step to the bit."""
    assert one.step == other.step
    assert torch.equal(one.classes, other.classes), f"step {one.step}: other classes"
    assert torch.equal(one.images, other.images), f"step {one.step}: other images"


def check_gives_the_planned_images(make: Make, folder: Path, encoding: Encoding = "jpeg") -> None:
    """Shapes, types and pixels are those of the plan, read with `BetonReader`."""
    path = _beton(folder, encoding)
    plan, reader = _plan(path), BetonReader(path, threads=1)
    with make(path, plan, resolution=RESOLUTION) as batches:
        assert batches.plan is plan
        assert batches.sidecar == reader.sidecar
        for batch in islice(batches.steps(), 2 * plan.steps_per_class_epoch):
            assert batch.classes.tolist() == plan.rank_classes(batch.step).tolist()
            assert (batch.classes.dtype, batch.images.dtype) == (torch.int64, torch.uint8)
            assert batch.images.is_contiguous()
            wanted = torch.from_numpy(reader.images(plan.indices(batch.step)))
            shape = (len(batch.classes), plan.real_per_class, 3, RESOLUTION, RESOLUTION)
            assert_close(batch.images.cpu(), wanted.view(shape), encoding)


def check_resizes(make: Make, folder: Path, encoding: Encoding = "jpeg") -> None:
    """Larger stored images come reduced by area; smaller ones are refused."""
    path = _beton(folder, encoding, 2 * RESOLUTION)
    plan, reader = _plan(path), BetonReader(path, threads=1)
    with make(path, plan, resolution=RESOLUTION) as batches:
        batch = next(iter(batches.steps()))
    wanted = torch.from_numpy(reader.images(plan.indices(0), RESOLUTION))
    assert_close(batch.images.cpu().flatten(0, 1), wanted, encoding)
    message = ""
    try:
        make(path, plan, resolution=4 * RESOLUTION).close()
    except DataError as error:
        message = str(error)
    assert str(path) in message, "images smaller than the resolution were not refused"


def check_goes_on_where_it_stopped(make: Make, folder: Path, encoding: Encoding = "jpeg") -> None:
    """``steps(start=s)`` equals the s-th of an unbroken row, in the same process and after opening again."""
    path = _beton(folder, encoding)
    with make(path, _plan(path), resolution=RESOLUTION) as batches:
        unbroken = list(islice(batches.steps(), 9))
        for start in (1, 5):
            for again, first in zip(batches.steps(start), unbroken[start:], strict=False):
                assert_same(again, first)
    with make(path, _plan(path), resolution=RESOLUTION) as batches:
        for again, first in zip(batches.steps(4), unbroken[4:], strict=False):
            assert_same(again, first)


def check_ranks_share_the_work(make: Make, folder: Path, encoding: Encoding = "jpeg") -> None:
    """Together N ranks see what one would, in the same order."""
    path = _beton(folder, encoding)
    with make(path, _plan(path), resolution=RESOLUTION) as alone:
        whole = list(islice(alone.steps(), 6))
    shares: list[list[ClassBatch]] = []
    for rank in range(2):
        with make(path, _plan(path, rank=rank, world_size=2), resolution=RESOLUTION) as batches:
            shares.append(list(islice(batches.steps(), 6)))
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        together = ClassBatch(torch.cat([p.classes for p in parts]), torch.cat([p.images for p in parts]), step)
        assert_same(together, batch)


def check_batches_belong_to_the_receiver(make: Make, folder: Path, encoding: Encoding = "jpeg") -> None:
    """A kept batch does not change when others come, and writing into one changes no other."""
    path = _beton(folder, encoding)
    with make(path, _plan(path), resolution=RESOLUTION) as batches:
        kept = list(islice(batches.steps(), 12))
        copies = [batch.images.clone() for batch in kept]
        for batch in islice(batches.steps(), 12):
            assert_same(batch, kept[batch.step])
            batch.images.zero_()
        for batch, copy in zip(kept, copies, strict=True):
            assert torch.equal(batch.images, copy), f"step {batch.step} changed after it was given out"


def check_iterators_are_independent(make: Make, folder: Path, encoding: Encoding = "jpeg") -> None:
    """Two rows of steps may be read in turn."""
    path = _beton(folder, encoding)
    with make(path, _plan(path), resolution=RESOLUTION) as batches:
        unbroken = list(islice(batches.steps(), 10))
        for one, other in islice(zip(batches.steps(0), batches.steps(3), strict=False), 7):
            assert_same(one, unbroken[one.step])
            assert_same(other, unbroken[other.step])


def check_leaves_nothing_behind(make: Make, folder: Path, encoding: Encoding = "jpeg") -> None:
    """Rows that are left early leave no thread, torch keeps its number of threads, closed batches say so."""
    path = _beton(folder, encoding)
    before, torch_threads = set(threading.enumerate()), torch.get_num_threads()
    batches = make(path, _plan(path), resolution=RESOLUTION)
    for start in range(4):
        for _ in islice(batches.steps(start), 2):
            pass
    rows = [batches.steps() for _ in range(3)]
    for row in rows:
        next(row)
    assert torch.get_num_threads() == torch_threads
    batches.close()
    batches.close()
    deadline = time.monotonic() + 10
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left, f"threads left behind: {left}"
    assert [list(row) for row in rows] == [[], [], []], "steps came after close"
    try:
        batches.steps()
    except RuntimeError:
        return
    raise AssertionError("steps() of closed batches did not raise RuntimeError")


def check_refuses_a_damaged_file(make: Make, folder: Path, encoding: Encoding = "jpeg") -> None:
    """A file that was cut, or a damaged JPEG in it, is a `DataError` that names the file, never a hang or a crash."""
    path = _beton(folder, encoding)
    plan, whole = _plan(path), path.read_bytes()

    def read_all() -> str:
        try:
            with make(path, plan, resolution=RESOLUTION) as batches:
                for _ in islice(batches.steps(), 4 * plan.steps_per_class_epoch):
                    pass
        except DataError as error:
            return str(error)
        return ""

    path.write_bytes(whole[: len(whole) // 2])
    assert str(path) in read_all(), "a file that was cut was not refused"
    if encoding == "jpeg":
        second = whole.find(b"\xff\xd8\xff", whole.find(b"\xff\xd8\xff") + 3)
        path.write_bytes(whole[:second] + bytes(20) + whole[second + 20 :])
        assert str(path) in read_all(), "a damaged image was not refused"
    path.write_bytes(whole)
    assert read_all() == "", "a good file was refused"


CHECKS: dict[str, Callable[..., None]] = {
    check.__name__.removeprefix("check_"): check
    for check in (
        check_gives_the_planned_images,
        check_resizes,
        check_goes_on_where_it_stopped,
        check_ranks_share_the_work,
        check_batches_belong_to_the_receiver,
        check_iterators_are_independent,
        check_leaves_nothing_behind,
        check_refuses_a_damaged_file,
    )
}

"""FFCV, the real one, gives the plan's images in the plan's order, says what is wrong and leaves nothing behind."""

import logging
import threading
import time
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from raycondense.config import Config, replace_path
from raycondense.data import ffcv_batches
from raycondense.data.beton import BetonReader
from raycondense.data.beton_format import ALLOCATION_TYPE, read_header
from raycondense.data.class_plan import ClassPlan, ShuffledPlan
from raycondense.data.cpus import usable_cpus
from raycondense.data.decode import jpeg_reduction, resize_square
from raycondense.data.ffcv_batches import FfcvClassBatches, FfcvShuffledBatches, batch_size, regroup
from raycondense.data.ffcv_loader import cut
from raycondense.data.ffcv_tables import by_place
from raycondense.data.open import open_class_batches, open_shuffled_batches
from raycondense.data.resident import ResidentClassBatches, ResidentShuffledBatches
from raycondense.errors import DataError
from raycondense.testing.betons import write_beton
from raycondense.testing.class_batches import assert_close

pytest.importorskip("ffcv", reason="FFCV is not installed")
# Numba's noise when what FFCV compiled is collected.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <finalize:pytest.PytestUnraisableExceptionWarning"
)

COUNTS = (40, 23, 31, 19, 27)


@pytest.fixture(params=["raw", "jpeg"])
def encoding(request):
    return request.param


@pytest.fixture
def make(tmp_path):
    """Write a beton; gives its path and a plan."""

    def made(encoding="raw", resolution=16, counts=COUNTS, **settings):
        path = tmp_path / f"{encoding}{resolution}.beton"
        sidecar = write_beton(path, counts, resolution=resolution, encoding=encoding)
        given = {"seed": 2, "classes_per_step": 2, "real_per_class": 6, "read_block": 4} | settings
        return path, ClassPlan(sidecar, **given)

    return made


def interpreted(path, plan, resolution=16, **options):
    return FfcvClassBatches(path, plan, resolution=resolution, **{"jit": False, "workers": 2} | options)


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("stored", [16, 32])
def test_same_as_resident(make, encoding, stored, os_cache, monkeypatch):
    """Over several of FFCV's epochs, whose ends fall anywhere in the plan's."""
    monkeypatch.setattr(ffcv_batches, "PLANNED_STEPS", 4)
    path, plan = make(encoding, stored)
    with (
        interpreted(path, plan, os_cache=os_cache) as found,
        ResidentClassBatches(path, plan, resolution=16) as wanted,
    ):
        for one, other in islice(zip(found.steps(1), wanted.steps(1), strict=True), 14):
            assert one.step == other.step
            assert torch.equal(one.classes, other.classes)
            assert_close(one.images, other.images, encoding)


@pytest.mark.parametrize(("stored", "reduction"), [(24, 1), (56, 2), (32, 2), (64, 4), (112, 2), (128, 8), (136, 4)])
def test_jpegs_that_are_reduced_while_they_are_decoded(make, stored, reduction):
    """libjpeg does it the same way for FFCV and for Pillow; all pixels decoded and then resized look much the same."""
    assert jpeg_reduction(stored, 16) == reduction
    path, plan = make("jpeg", stored)
    reader = BetonReader(path)
    full = [resize_square(Image.fromarray(image.transpose(1, 2, 0)), 16) for image in reader.images(plan.indices(0))]
    with interpreted(path, plan) as found, ResidentClassBatches(path, plan, resolution=16) as wanted:
        one, other = next(found.steps()).images, next(wanted.steps()).images
        difference = (one.int() - other.int()).abs().float()
        assert difference.mean() < (2 if reduction > 1 else 3)
        assert difference.max() < 24
        pixels = torch.from_numpy(np.stack(full)).permute(0, 3, 1, 2).int()
        for images in (one, other):
            assert (images.flatten(0, 1).int() - pixels).abs().float().mean() < 4


def test_allocations_in_any_order(make, encoding):
    """FFCV's own writer puts them in the order in which its processes finished."""
    path, plan = make(encoding)
    header = read_header(path)
    table = np.memmap(path, ALLOCATION_TYPE, "r+", header.alloc_table, (header.num_samples,))
    table[:] = np.random.default_rng(0).permutation(table)
    table.flush()
    for os_cache in (True, False):
        with interpreted(path, plan, os_cache=os_cache) as found:
            for batch in islice(found.steps(), 6):
                wanted = torch.from_numpy(BetonReader(path).images(plan.indices(batch.step)))
                assert_close(batch.images.flatten(0, 1), wanted, encoding)


def test_resize_by_area_where_sides_do_not_divide(make):
    """FFCV takes the mean of areas, Pillow a smooth window: photographs differ by little."""
    path, plan = make("raw", 56)
    with interpreted(path, plan) as found, ResidentClassBatches(path, plan, resolution=16) as wanted:
        one, other = next(found.steps()).images, next(wanted.steps()).images
    assert (one.int() - other.int()).abs().float().mean() < 3


@pytest.mark.parametrize("batch", [5, 33, 300])
def test_shuffled_same_as_resident(make, encoding, batch):
    path, _ = make(encoding)
    plan = ShuffledPlan(sum(COUNTS), seed=7, batch=batch)
    with (
        FfcvShuffledBatches(path, plan, resolution=16, jit=False) as found,
        ResidentShuffledBatches(path, plan, resolution=16) as wanted,
    ):
        for one, other in islice(zip(found.steps(3), wanted.steps(3), strict=True), 9):
            assert torch.equal(one.labels, other.labels)
            assert_close(one.images, other.images, encoding)


@pytest.mark.slow
def test_compiled_and_interpreted_agree(make, encoding):
    path, plan = make(encoding, 32)
    with interpreted(path, plan, jit=True) as compiled, interpreted(path, plan) as python:
        for one, other in islice(zip(compiled.steps(), python.steps(), strict=True), 5):
            assert torch.equal(one.images, other.images)


def test_auto_takes_ffcv_and_says_so(make, caplog):
    path, _ = make()
    config = Config()
    for name, value in (("data.resolution", 16), ("condense.classes_per_step", 2), ("condense.real_per_class", 6)):
        config = replace_path(config, name, value)
    with caplog.at_level(logging.INFO, "raycondense"), open_class_batches(path, config) as batches:
        assert isinstance(batches, FfcvClassBatches)
    with open_shuffled_batches(path, config, batch=4, seed=0) as shuffled:
        assert isinstance(shuffled, FfcvShuffledBatches)
    assert f"class batches of {path}: FFCV loader, {min(2, usable_cpus())} decoding threads" in caplog.text


def test_more_workers_than_cpus(make):
    path, plan = make()
    with interpreted(path, plan, workers=1000) as batches:
        next(batches.steps())


@pytest.mark.parametrize("os_cache", [True, False])
def test_forty_early_exits(make, encoding, os_cache):
    """Neither threads nor torch's settings stay behind, whether a row is left, dropped or closed."""
    path, plan = make(encoding)
    threads, torch_threads = set(threading.enumerate()), torch.get_num_threads()
    with interpreted(path, plan, os_cache=os_cache) as batches:
        for start in range(40):
            row = batches.steps(start)
            for _ in range(start % 3):
                next(row)
        assert torch.get_num_threads() == torch_threads
    del row
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - threads and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not set(threading.enumerate()) - threads


def test_damage_inside_an_image_is_named(make):
    path, plan = make("jpeg", 64)
    reader = BetonReader(path)
    middle = int(reader._starts[7] + reader._sizes[7] // 2)
    with path.open("r+b") as file:
        file.seek(middle)
        file.write(b"\xff\xd3" * 20)
    with (
        interpreted(path, plan, resolution=64) as batches,
        pytest.raises(DataError, match=r"jpeg64\.beton: image 7 is damaged; prepare or copy it again"),
    ):
        for _ in islice(batches.steps(), 50):
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_file_that_vanishes(make):
    """FFCV's page readers die silently of it; nobody may wait for them."""
    path, plan = make()
    with interpreted(path, plan, os_cache=False) as batches:
        path.unlink()
        before = threading.active_count()
        with pytest.raises(DataError, match=r"raw16\.beton: FFCV stopped reading; is the file still there\?"):
            next(batches.steps())
        assert threading.active_count() == before


def test_failure_in_ffcvs_thread_is_ours(make):
    """Whatever ends FFCV's thread ends the wait for it. Here: a plan for another beton."""
    path, _ = make()
    _, larger = make("raw", 8, counts=tuple(10 * count for count in COUNTS))
    with interpreted(path, larger) as batches, pytest.raises(DataError, match="FFCV stopped reading: IndexError"):
        for _ in islice(batches.steps(), 9):
            pass


def test_replaced_file_is_read_anew(make):
    path, plan = make()
    with interpreted(path, plan) as batches:
        first = next(batches.steps())
    write_beton(path, COUNTS, resolution=16, seed=99)
    with interpreted(path, plan) as batches:
        second = next(batches.steps())
    assert not torch.equal(first.images, second.images)
    assert np.array_equal(second.images.flatten(0, 1).numpy(), BetonReader(path).images(plan.indices(0)))


def test_one_loader_a_process(make):
    """Stages that read the same file share what FFCV compiled; their rows do not disturb each other."""
    path, plan = make()
    shuffled = ShuffledPlan(sum(COUNTS), seed=7, batch=9)
    reader = BetonReader(path)
    with (
        interpreted(path, plan) as one,
        FfcvShuffledBatches(path, shuffled, resolution=16, jit=False, workers=2) as two,
    ):
        assert one._ffcv is two._ffcv
        for batch, (images, _), step in zip(one.steps(), two.steps(), range(12), strict=False):
            assert np.array_equal(batch.images.flatten(0, 1).numpy(), reader.images(plan.indices(step)))
            assert np.array_equal(images.numpy(), reader.images(shuffled.indices(step)))


def test_own_cache_bounds_what_an_epoch_touches(tmp_path, monkeypatch):
    """A page of 2 MiB holds 170 raw images of 64 px, so 1300 images lie on 8 pages."""
    path = tmp_path / "x.beton"
    sidecar = write_beton(path, (300, 400, 600), resolution=64, page_size=2 << 20)
    plan = ClassPlan(sidecar, seed=2, classes_per_step=1, real_per_class=2, read_block=2)
    monkeypatch.setattr(ffcv_batches, "CACHE_BYTES", 8 * (2 << 20))
    with interpreted(path, plan, resolution=64, os_cache=False) as batches:
        pages = batches._ffcv.pages(np.arange(1300))
        length = batches._steps_an_epoch
    assert len(np.unique(pages)) == 8
    touched = [
        {int(page) for step in range(steps) for page in pages[plan.indices(step)]} for steps in (length, length + 1)
    ]
    assert len(touched[0]) <= 4 < len(touched[1])


def test_own_cache_takes_one_step_at_least(make, monkeypatch):
    path, plan = make()
    monkeypatch.setattr(ffcv_batches, "CACHE_BYTES", 0)
    with interpreted(path, plan, os_cache=False) as batches:
        assert batches._steps_an_epoch == 1
        reader = BetonReader(path)
        for batch in islice(batches.steps(), 6):
            assert np.array_equal(batch.images.flatten(0, 1).numpy(), reader.images(plan.indices(batch.step)))


def epochs():
    """FFCV's epochs whose threads live."""
    return [thread for thread in threading.enumerate() if type(thread).__name__ == "CarefulEpoch"]


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("length", [1, 2, 5])
def test_the_next_epoch_starts_before_one_is_used_up(make, monkeypatch, length):
    """Its first images are decoded when the last ones of the one before are still being worked on; never two ahead."""
    monkeypatch.setattr(ffcv_batches, "PLANNED_STEPS", length)
    path, plan = make()
    reader, before = BetonReader(path), len(epochs())
    with interpreted(path, plan, os_cache=False) as batches:
        for batch in islice(batches.steps(3), 4 * length + 1):
            assert np.array_equal(batch.images.flatten(0, 1).numpy(), reader.images(plan.indices(batch.step)))
            assert len(epochs()) - before <= 2
            if (batch.step - 3) % length == length - 1:
                wait_for(lambda: any(epoch.output_queue.qsize() and not epoch._received.is_set() for epoch in epochs()))
    assert len(epochs()) == before


def test_one_endless_epoch_where_the_operating_system_keeps_pages(make):
    path, plan = make()
    reader = BetonReader(path)
    with interpreted(path, plan) as batches:
        row = batches.steps()
        first = next(row)
        [epoch] = epochs()
        for batch in [first, *islice(row, 400)]:
            assert np.array_equal(batch.images.flatten(0, 1).numpy(), reader.images(plan.indices(batch.step)))
        assert epochs() == [epoch]
    assert epochs() == []


@pytest.mark.parametrize("steps", range(7))
def test_leaving_between_two_epochs(make, monkeypatch, steps):
    monkeypatch.setattr(ffcv_batches, "PLANNED_STEPS", 2)
    path, plan = make()
    threads, torch_threads = set(threading.enumerate()), torch.get_num_threads()
    for pause in (0, 0.05):
        with interpreted(path, plan, os_cache=False) as batches:
            row = batches.steps()
            for _ in range(steps):
                next(row)
            time.sleep(pause)
        assert torch.get_num_threads() == torch_threads
        wait_for(lambda: not set(threading.enumerate()) - threads)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_file_that_vanishes_between_two_epochs(make, monkeypatch):
    monkeypatch.setattr(ffcv_batches, "PLANNED_STEPS", 2)
    path, plan = make()
    threads = set(threading.enumerate())
    with interpreted(path, plan, os_cache=False) as batches:
        row = batches.steps()
        next(row)
        path.unlink()
        with pytest.raises(DataError, match=r"raw16\.beton: FFCV stopped reading; is the file still there\?"):
            for _ in islice(row, 20):
                pass
    wait_for(lambda: not set(threading.enumerate()) - threads)


def test_plan_that_fails_on_the_way(make, monkeypatch):
    """What FFCV's threads draw from the plan is waited for like what they decode."""
    monkeypatch.setattr(ffcv_batches, "PLANNED_STEPS", 4)
    path, plan = make()
    indices = plan.indices
    monkeypatch.setattr(plan, "indices", lambda step: indices(step) if step < 60 else indices("no step"))
    for os_cache in (True, False):
        with interpreted(path, plan, os_cache=os_cache) as batches:
            with pytest.raises(DataError, match=r"raw16\.beton: FFCV stopped reading: TypeError"):
                for _ in islice(batches.steps(), 100):
                    pass
            assert epochs() == []


def test_cut():
    sizes = [4, 4, 3, 9, 1, 25, 8, 8, 2]
    row = np.arange(sum(sizes))
    steps = np.split(row, np.cumsum(sizes)[:-1])
    found = list(cut(iter(steps), 8))
    assert np.concatenate(found).tolist() == row.tolist()
    assert [len(part) for part in found] == [8, 3, 5, 4, 1, 7, 6, 6, 6, 8, 8, 2]


def test_tables_stay_in_the_file(make):
    """At a million images they would take 0.1 GB of each process."""
    path, plan = make()
    with interpreted(path, plan) as batches:
        loader = batches._ffcv._loader
        assert not loader.reader.metadata.flags.owndata
        assert not loader.memory_manager.ptrs.flags.owndata
    table = np.zeros(200_000, ALLOCATION_TYPE)
    table["ptr"] = np.arange(200_000) * 10
    assert by_place(table) is table
    table["ptr"][[65_535, 65_536]] = table["ptr"][[65_536, 65_535]]
    assert np.array_equal(by_place(table)["ptr"], np.arange(200_000) * 10)


@pytest.mark.parametrize(
    ("step", "image_bytes", "wanted"),
    [
        (1280, 3 * 64 * 64, 1280),
        (1, 1, 256),
        (100, 1, 200),
        (256, 1, 256),
        (1000, 24 << 10, 1000),
        (1000, 48 << 10, 500),
    ],
)
def test_batch_size(step, image_bytes, wanted):
    assert batch_size(step, image_bytes) == wanted


def test_large_steps_come_in_batches_of_bounded_size():
    for step in (1, 7, 300, 5000, 12345):
        batch = batch_size(step, 3 * 128**2)
        assert batch * 3 * 128**2 <= ffcv_batches.BATCH_BYTES + 3 * 128**2
        assert batch >= min(step, 256)


def test_regroup():
    row = torch.arange(20)
    cut = partial(regroup, iter(row.split(6)))
    found = list(cut([6, 3, 3, 1, 7]))
    assert [part.tolist() for part in found] == [part.tolist() for part in row.split([6, 3, 3, 1, 7])]
    # Whole batches and parts of one are not copied.
    assert found[0].data_ptr() == row.data_ptr()
    assert found[2].data_ptr() == row[9:].data_ptr()

"""Plans are functions of (seed, step) that meet every class and every image, whoever reads which part."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycondense.data.class_plan import ClassPlan, ShuffledPlan, blocked_order
from raycondense.data.sidecar import Sidecar
from raycondense.errors import ConfigError, DataError
from raycondense.seeds import derive_seed


def sidecar(counts):
    return Sidecar(
        classes=tuple(f"class {c}" for c in range(len(counts))), counts=tuple(counts), mean=(0.5,) * 3, std=(0.2,) * 3,
        resolution=8, encoding="raw", quality=None, source="test", split="train", seed=0, sha256="", size=1,
    )  # fmt: skip


def plan(counts, **changes):
    given = {"seed": 1, "classes_per_step": 3, "real_per_class": 4, "read_block": 4, **changes}
    return ClassPlan(sidecar(counts), **given)


@st.composite
def settings_of_plans(draw):
    counts = draw(st.lists(st.integers(1, 30), min_size=1, max_size=9))
    classes_per_step = draw(st.integers(1, len(counts)))
    steps = -(-len(counts) // classes_per_step)
    return counts, {
        "seed": draw(st.integers(0, 2**63)),
        "classes_per_step": classes_per_step,
        "real_per_class": draw(st.integers(1, min(counts))),
        "read_block": draw(st.integers(1, 12)),
        "world_size": draw(st.integers(1, len(counts) // steps)),
    }


@given(settings_of_plans())
@settings(max_examples=60, deadline=None)
def test_class_epochs_meet_every_class_once_and_ranks_share_them(drawn):
    counts, wanted = drawn
    world = wanted.pop("world_size")
    alone = plan(counts, **wanted)
    ranks = [plan(counts, **wanted, rank=rank, world_size=world) for rank in range(world)]
    for epoch in range(3):
        steps = range(epoch * alone.steps_per_class_epoch, (epoch + 1) * alone.steps_per_class_epoch)
        seen = [int(label) for step in steps for label in alone.step_classes(step)]
        assert sorted(seen) == list(range(len(counts)))
        for step in steps:
            assert len(alone.step_classes(step)) <= wanted["classes_per_step"]
            assert all(len(rank.rank_classes(step)) for rank in ranks)
            together = np.concatenate([rank.rank_classes(step) for rank in ranks])
            assert np.array_equal(together, alone.step_classes(step))
            assert np.array_equal(np.concatenate([rank.indices(step) for rank in ranks]), alone.indices(step))
            assert [rank.size(step) for rank in ranks] == [len(rank.indices(step)) for rank in ranks]


@given(settings_of_plans())
@settings(max_examples=60, deadline=None)
def test_image_epochs_show_images_of_the_class_at_most_once(drawn):
    counts, wanted = drawn
    wanted.pop("world_size")
    made, per_class = plan(counts, **wanted), wanted["real_per_class"]
    sizes = sidecar(counts)
    for label, count in enumerate(counts):
        windows = count // per_class
        for image_epoch in range(2):
            visits = range(image_epoch * windows, (image_epoch + 1) * windows)
            shown = np.concatenate([made.class_images(label, visit) for visit in visits])
            assert len(set(shown.tolist())) == len(shown) == windows * per_class
            assert set(shown.tolist()) <= set(sizes.class_range(label))


def test_steps_list_the_images_class_after_class():
    made = plan((9, 12, 20, 8, 30))
    for step in range(8):
        visit = step // made.steps_per_class_epoch
        parts = made.indices(step).reshape(-1, 4)
        for label, part in zip(made.rank_classes(step), parts, strict=True):
            assert np.array_equal(part, made.class_images(int(label), visit))
            assert np.array_equal(part, np.sort(part))


def test_every_image_is_shown_in_the_long_run():
    """Although a remainder that fills no visit is left out of each image epoch."""
    made = plan((11,), classes_per_step=1)
    shown = {int(index) for step in range(40) for index in made.indices(step)}
    assert shown == set(range(11))


def test_shards_rotate():
    """Every rank meets every class."""
    made = [plan((9,) * 6, classes_per_step=6, rank=rank, world_size=3) for rank in range(3)]
    for rank in made:
        assert {int(label) for step in range(40) for label in rank.rank_classes(step)} == set(range(6))


def test_seed_decides():
    one, same, other = plan((20,) * 6), plan((20,) * 6), plan((20,) * 6, seed=2)
    steps = [13, 2, 7, 2, 0]
    assert all(np.array_equal(one.indices(step), same.indices(step)) for step in steps)
    assert not np.array_equal(same.indices(50), other.indices(50))
    # Epochs of neighbouring seeds are unrelated (seed 1, epoch 1 is not seed 2, epoch 0).
    assert not np.array_equal(one.class_images(0, 5), other.class_images(0, 0))


def test_caches_cannot_be_written_through():
    made = plan((20,) * 6)
    before = made.indices(0).copy()
    made.indices(0)[:] = 0
    assert np.array_equal(made.indices(0), before)
    with pytest.raises(ValueError, match="read-only"):
        made.step_classes(0)[0] = 0


@pytest.mark.parametrize(("images", "bytes_each"), [(200, 1), (300, 2), (65_535, 2), (65_536, 4)])
def test_orders_are_kept_in_few_bytes(images, bytes_each):
    """And still give the positions, of 8 bytes, that they always gave."""
    made = plan((images,), classes_per_step=1)
    assert made._image_order(0, 0).dtype.itemsize == bytes_each
    assert made.indices(0).dtype == np.int64
    shuffled = ShuffledPlan(images, seed=3, batch=7)
    assert shuffled._permutation(0).dtype.itemsize == bytes_each
    assert shuffled.indices(images // 7).dtype == np.int64
    order = np.random.default_rng(derive_seed(3, "shuffle", 0)).permutation(images)
    assert np.array_equal(np.concatenate([shuffled.indices(step) for step in range(20)]), order[:140])


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_blocked_order_is_a_permutation_of_runs(count, block, seed):
    order = blocked_order(count, block, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(count))
    jumps = np.count_nonzero((np.diff(order) % count) != 1)
    assert jumps < -(-count // block)


def test_blocks_are_read_together():
    made = plan((1000,), classes_per_step=1, real_per_class=128, read_block=16)
    runs = np.split(made.indices(3), np.flatnonzero(np.diff(made.indices(3)) != 1) + 1)
    # Eight blocks and at most two cut ones.
    assert len(runs) <= 10


def test_the_cuts_between_blocks_move():
    made = plan((64,), classes_per_step=1, real_per_class=64, read_block=8)
    orders = [made._image_order(0, image_epoch) for image_epoch in range(20)]
    assert len({int(order[0]) % 8 for order in orders}) > 3


def test_too_many_images_a_class():
    with pytest.raises(DataError, match=r"condense\.real_per_class: found 10, valid: 1 to 9, .*class 'class 1'"):
        plan((20, 9, 30), real_per_class=10)


def test_too_many_classes_a_step():
    with pytest.raises(ConfigError, match=r"condense\.classes_per_step: found 4, valid: 1 to 3"):
        plan((20, 20, 30), classes_per_step=4)


def test_fewer_classes_in_a_step_than_workers():
    with pytest.raises(ConfigError, match=r"condense\.classes_per_step: found 2, .* 3 workers"):
        plan((20,) * 6, classes_per_step=2, world_size=3)
    # 10 a step of 11 classes are steps of 5 and 6.
    with pytest.raises(ConfigError, match=r"found 10, which cuts 11 classes into steps of 5"):
        plan((20,) * 11, classes_per_step=10, world_size=8)


def test_rank_out_of_range():
    with pytest.raises(ConfigError, match="rank: found 2, valid: 0 to 1"):
        plan((20,) * 6, rank=2, world_size=2)
    with pytest.raises(ConfigError, match="rank: found 1, valid: 0 to 0"):
        ShuffledPlan(5, seed=0, batch=2, rank=1)


@given(st.integers(1, 50), st.integers(1, 70), st.integers(1, 5), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_shuffled_epochs_are_permutations(images, batch, world, seed):
    world = min(world, batch)
    ranks = [ShuffledPlan(images, seed=seed, batch=batch, rank=rank, world_size=world) for rank in range(world)]
    steps = -(-3 * images // batch)
    row = np.concatenate([rank.indices(step) for step in range(steps) for rank in ranks])
    assert len(row) == steps * batch
    for epoch in range(3):
        assert sorted(row[epoch * images : (epoch + 1) * images].tolist()) == list(range(images))
    for rank in ranks:
        assert all(rank.size(step) == len(rank.indices(step)) > 0 for step in range(3))
    alone = ShuffledPlan(images, seed=seed, batch=batch)
    assert np.array_equal(np.concatenate([rank.indices(2) for rank in ranks]), alone.indices(2))


def test_shuffled_batch_smaller_than_the_workers():
    with pytest.raises(ConfigError, match="batch: found 2 images, valid: 3 or more"):
        ShuffledPlan(50, seed=0, batch=2, world_size=3)

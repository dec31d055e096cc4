"""Plans: resources, rungs, and what is written down of a sweep."""

from __future__ import annotations

import pytest

from raycondense.redact import without_secrets
from raycondense.tuning.plan import Resources, rungs_of


@pytest.mark.parametrize(
    ("resources", "there", "fitting", "short"),
    [
        (Resources(), {"CPU": 2}, 1, ""),
        (Resources(pool_workers=0), {"CPU": 2}, 2, ""),
        (Resources(), {"CPU": 16, "GPU": 0}, 15, ""),
        (Resources(concurrent=3), {"CPU": 16}, 3, ""),
        (Resources(), {"CPU": 1}, 0, "needs 1 CPU a trial + 1 for the pool, the cluster has 1"),
        (Resources(workers=3), {"CPU": 2}, 0, "needs 3 CPUs a trial + 1 for the pool, the cluster has 2"),
        (Resources(workers=3), {"CPU": 3}, 0, "needs 3 CPUs a trial + 1 for the pool, the cluster has 3"),
        (Resources(workers=3, pool_workers=0), {"CPU": 2}, 0, "needs 3 CPUs a trial, the cluster has 2"),
        (
            Resources(concurrent=2),
            {"CPU": 2},
            1,
            "needs 1 CPU for each of 2 trials + 1 for the pool, this has 2",
        ),
        (Resources(cpus_per_worker=0.1), {"CPU": 2}, 10, ""),
        # Half a GPU for a trial; the pool takes as much as a worker.
        (Resources(gpus=0.5), {"CPU": 8, "GPU": 2}, 3, ""),
        (Resources(gpus=0.5, workers=2), {"CPU": 8, "GPU": 1}, 1, ""),
        (Resources(gpus=1.0), {"CPU": 8, "GPU": 1}, 0, "needs 1 GPU a trial + 1 for the pool, the cluster has 1"),
        (Resources(gpus=0.5), {"CPU": 8}, 0, "needs 0.5 GPUs a trial + 0.5 for the pool, the cluster has 0"),
    ],
)
def test_room(resources, there, fitting, short):
    assert resources.fitting(there) == fitting
    assert resources.shortage(there, "this") == short.replace("the cluster", "this")


def test_rungs_are_thirds_of_each_other_and_end_with_the_whole_run():
    assert rungs_of(128_000, 3) == (14_222, 42_666, 128_000)
    assert rungs_of(900, 1) == (900,)
    # A run of two steps cannot be judged at a third of it.
    assert rungs_of(900, 3, step_images=450) == (900,)
    assert rungs_of(900, 3, step_images=300) == (300, 900)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql+psycopg://me:se:c/ret@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
    ],
)
def test_passwords_are_not_written_down(url, shown):
    assert without_secrets(url) == shown

"""Plans: resources, rungs, and what is written down of a sweep."""

from __future__ import annotations

import dataclasses

import pytest

from raycondense.evaluation.protocols import protocol
from raycondense.redact import without_secrets
from raycondense.tuning.plan import LEAST_STEPS, Resources, SweepPlan, rungs_of


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


def test_lower_rungs_are_judged_by_fewer_steps():
    judge = protocol("fast")
    plan = SweepPlan.__new__(SweepPlan)
    for name, value in {"rungs": (14_222, 42_666, 128_000), "judge": dataclasses.replace(judge, max_steps=900)}.items():
        object.__setattr__(plan, name, value)
    # A checkpoint may lie somewhat above its rung.
    found = {images: plan.judge_at(images).max_steps for images in (14_222, 20_000, 42_666, 128_000)}
    assert found == {14_222: LEAST_STEPS, 20_000: LEAST_STEPS, 42_666: 300, 128_000: 900}
    assert plan.judge_at(42_666).students == judge.students
    object.__setattr__(plan, "judge", dataclasses.replace(judge, max_steps=40))
    assert plan.judge_at(14_222).max_steps == 40, "never more than at the end"

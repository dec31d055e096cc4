"""Carry out what several evaluations planned: what is done is looked up, what they share is done once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from raycondense.evaluation.diagnosis import Diagnosis
from raycondense.evaluation.diagnosis import grouped as grouped_diagnoses
from raycondense.evaluation.jobs import JobGroup, grouped
from raycondense.evaluation.plan import Plan
from raycondense.evaluation.queue import OnOutcome, Outcome, needs_first
from raycondense.evaluation.store import Store
from raycondense.evaluation.together import prefers_together
from raycondense.evaluation.work import Work

logger = logging.getLogger("raycondense")

Runner = Callable[[Sequence[Work], Store, OnOutcome], list[Outcome]]
"""Runs works and records their rows in the store: `raycondense.evaluation.queue.run_here`, or a pool of actors."""
OnProgress = Callable[[int, int, Outcome], None]
"""Called after each work with the number done, the number of all, and its outcome."""


def carry_out(
    plans: Sequence[Plan], store: Store, runner: Runner, progress: OnProgress | None
) -> tuple[dict[str, dict[str, Any]], dict[str, Outcome]]:
    """Do what is not done yet.

    Args:
        plans: of evaluations of one dataset; each work has a content hash, so what they share has one key.
        store: where rows are looked up and recorded.
        runner: runs the works that are left.
        progress: called after each of them.

    Returns:
        All rows by key, and by key of a missing row or asset the outcome that is to blame.
    """
    jobs = {job.key: job for plan in plans for job in plan.jobs}
    diagnosed = {one.key: one for plan in plans for one in plan.diagnosed}
    found = store.find(jobs) | store.find(diagnosed, "diagnostics")
    to_do = [job for key, job in jobs.items() if key not in found]
    # A bank that is evaluated under two accountings gives the same students twice: they are trained once.
    done_before = [job for key, job in jobs.items() if key in found]
    first = {job.training_key: job for job in reversed([*to_do, *done_before])}
    students = [job for job in to_do if first[job.training_key] is job]
    together = bool(students) and prefers_together(students[0].device, students[0].architecture)
    works: list[Work] = [*(grouped(students) if together else students)]
    works += grouped_diagnoses(one for key, one in diagnosed.items() if key not in found)
    before = {key: work for plan in plans for key, work in plan.before.items()}
    works = needs_first([*_needed(works, before), *works])
    if done_before:
        logger.info("evaluation: %d of %d students were done before", len(done_before), len(jobs))
    done = 0

    def on_outcome(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(works), outcome)

    outcomes = runner(works, store, on_outcome) if works else []
    # Read back, so that what was done now and what was done before look alike.
    found |= store.find(job.key for job in to_do) | store.find(diagnosed, "diagnostics")
    copies = []
    for job in to_do:
        twin = first[job.training_key]
        if job.key not in found and twin.key in found:
            copies.append(found[twin.key] | {"key": job.key, "ipc": job.ipc, "accounting": job.accounting})
    store.record(copy | {"table": "results"} for copy in copies)
    found |= {copy["key"]: copy for copy in copies}
    store.tidy()
    by_key = {work.key: work for work in works}
    failed = {key: outcome for outcome in outcomes if outcome.error for key in _leaves(by_key[outcome.key])}
    failed |= {job.key: failed[first[job.training_key].key] for job in to_do if first[job.training_key].key in failed}
    return found, failed


def _leaves(work: Work) -> list[str]:
    """Keys of the rows or the asset that a work leaves."""
    if isinstance(work, JobGroup):
        return [job.key for job in work.jobs]
    return [one.key for one in work.sets] if isinstance(work, Diagnosis) else [work.key]


def _needed(works: Iterable[Work], before: Mapping[str, Work]) -> list[Work]:
    """Those of ``before`` that any of ``works`` needs, directly or through another one."""
    wanted: dict[str, Work] = {}
    open_keys = [key for work in works for key in work.needs]
    while open_keys:
        key = open_keys.pop()
        if key not in wanted:
            wanted[key] = before[key]
            open_keys += before[key].needs
    return list(wanted.values())

"""The queue alone: whatever workers do, every work has one outcome, and none is begun more often than it may be."""

from __future__ import annotations

import pickle
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycondense.errors import DataError, RunError
from raycondense.evaluation.queue import Result, WorkQueue, needs_first, recorded, run_here


@dataclass(frozen=True)
class Piece:
    """A work that does what it is told."""

    key: str
    cost: float = 1.0
    needs: tuple[str, ...] = ()
    does: Callable[[], Any] = field(default=lambda: None, compare=False)

    @property
    def label(self) -> str:
        return f"piece {self.key}"

    def run(self, store: Any) -> list[dict[str, Any]]:
        self.does()
        return [{"table": "results", "key": self.key, "attempt": 1}]


class Shelf:
    """What the queue needs of a store."""

    root = Path("shelf")

    def __init__(self, broken: Exception | None = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.broken = broken

    def record(self, rows: list[dict[str, Any]]) -> None:
        if self.broken is not None:
            raise self.broken
        self.rows += rows


def queue_of(*works: Piece, **options: Any) -> WorkQueue:
    queue = WorkQueue(**options)
    for work in works:
        assert queue.add(work)
    return queue


def drain(queue: WorkQueue, worker: str = "w") -> list[str]:
    """Do everything; the keys in the order in which they were handed out."""
    taken = []
    while (work := queue.take(worker)) is not None:
        taken.append(work.key)
        queue.done(work.key)
    return taken


# ------------------------------------------------------------------------------------------------ order


def test_the_longest_ready_work_goes_first_and_equals_in_their_order() -> None:
    queue = queue_of(Piece("a", 1), Piece("b", 5), Piece("c", 5), Piece("d", 9, needs=("a",)), Piece("e", 3))
    assert drain(queue) == ["b", "c", "e", "a", "d"]
    assert queue.finished


def test_a_work_is_not_ready_before_all_its_needs_are_done() -> None:
    queue = queue_of(Piece("a"), Piece("b"), Piece("c", 9, needs=("a", "b")))
    queue.take("one")
    queue.take("two")
    queue.done("b")
    assert queue.take("two") is None
    queue.done("a")
    work = queue.take("two")
    assert work is not None
    assert work.key == "c"


def test_a_full_queue_takes_no_more_until_a_work_is_taken() -> None:
    queue = queue_of(Piece("a"), Piece("b", needs=("a",)), limit=2)
    assert not queue.add(Piece("c"))
    assert queue.add(Piece("b")), "known works need no room"
    queue.take("w")
    assert queue.add(Piece("c"))
    assert not queue.add(Piece("d"))
    queue.done("a")
    assert (queue.waiting, queue.running, len(queue.outcomes)) == (2, 0, 1)
    assert drain(queue) == ["b", "c"]


def test_a_key_is_done_once() -> None:
    queue = queue_of(Piece("a"), Piece("a"))
    assert drain(queue) == ["a"]
    queue.add(Piece("a"))
    assert drain(queue) == []
    assert [outcome.key for outcome in queue.outcomes] == ["a"]


def test_needs_that_nobody_knows_are_refused_and_those_known_to_be_done_are_not() -> None:
    queue = queue_of(Piece("a"), known_done=["r"])
    with pytest.raises(ValueError, match=r"piece b: needs x, y, neither queued before it nor known to be done"):
        queue.add(Piece("b", needs=("a", "x", "y")))
    queue.know_done(["x"])
    queue.add(Piece("c", 2, needs=("r", "x")))
    assert drain(queue) == ["c", "a"]
    queue.add(Piece("r"))
    assert drain(queue) == ["r"], "known to be done, but asked for"


def test_needs_first() -> None:
    works = [Piece("d", needs=("b", "c")), Piece("b", needs=("a",)), Piece("a"), Piece("c", needs=("z",)), Piece("a")]
    assert [work.key for work in needs_first(works)] == ["a", "b", "c", "d"]
    chain = [Piece(str(i), needs=(str(i + 1),)) for i in range(3000)]
    assert [work.key for work in needs_first(chain)] == [str(i) for i in reversed(range(3000))]
    with pytest.raises(ValueError, match="in a circle: piece a, piece b"):
        needs_first([Piece("a", needs=("b",)), Piece("b", needs=("a",))])


def test_many_works_are_queued_quickly() -> None:
    """As a sweep's: what an add or a take costs must not grow with what is in the queue."""
    start = time.process_time()
    queue = queue_of(Piece("root"), *(Piece(str(i), i % 7, needs=("root",)) for i in range(20_000)))
    assert len(drain(queue)) == 20_001
    assert time.process_time() - start < 5


# ------------------------------------------------------------------------------------------------ failures


def test_our_errors_come_again_and_others_get_a_second_try() -> None:
    queue = queue_of(Piece("a", 2), Piece("b", 1))
    ours, others = DataError("b.beton: damaged"), OSError("stale file handle")
    queue.take("w")
    queue.failed("a", others, 0.5)
    assert queue.outcomes == []
    queue.take("w")
    queue.failed("a", others, 0.7)
    queue.take("w")
    queue.failed("b", ours)
    found = [(o.key, o.error, o.exception, o.attempts, o.seconds) for o in queue.outcomes]
    assert found == [
        ("a", "OSError: stale file handle", others, 2, 0.7),
        ("b", "b.beton: damaged", ours, 1, 0.0),
    ]
    assert queue.finished


def test_the_work_of_a_lost_worker_is_queued_once_more() -> None:
    queue = queue_of(Piece("a", 2), Piece("b", 1))
    queue.take("one")
    queue.take("two")
    queue.lost("three")  # had nothing
    queue.lost("one")
    again = queue.take("one")
    assert again is not None
    assert again.key == "a"
    queue.done("b")
    queue.lost("one")
    assert queue.take("one") is None
    good, bad = queue.outcomes
    assert (good.key, good.error, good.attempts) == ("b", None, 1)
    assert bad.error == "piece a: its worker died in attempt 2 (out of memory?)"
    assert (bad.attempts, type(bad.exception)) == (2, RunError)


def test_a_death_and_an_exception_together_are_two_attempts() -> None:
    queue = queue_of(Piece("a"))
    queue.take("w")
    queue.lost("w")
    queue.take("w")
    queue.failed("a", OSError("no"))
    assert queue.outcomes[0].attempts == 2
    assert queue.finished


def test_what_needs_a_failed_work_fails_and_names_it() -> None:
    queue = queue_of(
        Piece("a"), Piece("b", needs=("a",)), Piece("c", needs=("b",)), Piece("d", needs=("a", "b")), Piece("e")
    )
    queue.take("w")
    queue.failed("a", DataError("train.beton: missing"))
    queue.add(Piece("f", needs=("c",)))
    reason = "not run, because what it needs failed: piece a: train.beton: missing"
    assert {o.key: o.error for o in queue.outcomes[1:]} == {key: f"piece {key}: {reason}" for key in "bcdf"}
    assert all(o.attempts == 0 and isinstance(o.exception, RunError) for o in queue.outcomes[1:])
    assert str(pickle.loads(pickle.dumps(queue.outcomes[1].exception))) == queue.outcomes[1].error
    assert drain(queue) == ["e"]
    assert queue.finished


def test_when_nobody_is_left_all_fail_but_what_still_runs() -> None:
    queue = queue_of(Piece("a", 3), Piece("b", 2), Piece("c", needs=("a",)), Piece("d", 1))
    queue.take("one")
    queue.take("two")
    queue.give_up(RunError("no worker"))
    queue.done("a")
    queue.lost("two")
    queue.add(Piece("e"))
    assert {o.key: o.error for o in queue.outcomes} == {"a": None, **dict.fromkeys("bcde", "no worker")}
    assert queue.finished
    assert queue.take("one") is None


def test_misuse_is_not_passed_over() -> None:
    queue = queue_of(Piece("a"), Piece("b"))
    queue.take("w")
    with pytest.raises(ValueError, match="worker w still has a"):
        queue.take("w")
    with pytest.raises(ValueError, match="b is not running"):
        queue.done("b")
    queue.done("a")
    with pytest.raises(ValueError, match="a is not running"):
        queue.failed("a", OSError())


# ------------------------------------------------------------------------------------------------ any order of events


@st.composite
def works_with_fates(draw: st.DrawFn) -> tuple[list[Piece], list[list[str]]]:
    """Works that need earlier ones, and what happens in each attempt of each."""
    count = draw(st.integers(1, 9))
    works = [
        Piece(
            str(i),
            draw(st.integers(0, 3)),
            tuple(map(str, draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else ())),
        )
        for i in range(count)
    ]
    fate = st.lists(st.sampled_from(["done", "done", "ours", "other", "dies"]), min_size=3, max_size=3)
    return works, [draw(fate) for _ in works]


def expected(works: list[Piece], fates: list[list[str]], attempts: int) -> dict[str, tuple[bool, int]]:
    """By the rules, not by the queue: whether each work is done, and how often it was begun."""
    found: dict[str, tuple[bool, int]] = {}
    for work, fate in zip(works, fates, strict=True):
        if not all(found[need][0] for need in work.needs):
            found[work.key] = False, 0
            continue
        begun = next((i for i, what in enumerate(fate[:attempts], 1) if what in ("done", "ours")), attempts)
        found[work.key] = fate[begun - 1] == "done", begun
    return found


@settings(max_examples=300, deadline=None)
@given(works_with_fates(), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32))
def test_no_work_is_lost_or_begun_too_often(
    made: tuple[list[Piece], list[list[str]]], workers: int, limit: int, attempts: int, seed: int
) -> None:
    works, fates = made
    queue, draw = WorkQueue(limit, attempts), random.Random(seed)
    added, begun, busy = 0, dict.fromkeys((work.key for work in works), 0), dict[str, str]()
    while not (added == len(works) and queue.finished):
        choices = [f"take {w}" for w in range(workers) if str(w) not in busy] + [f"end {w}" for w in busy]
        choices += ["add"] if added < len(works) else []
        what, _, worker = draw.choice(choices).partition(" ")
        if what == "add":
            room = queue.waiting < limit
            assert queue.add(works[added]) == room
            added += room
        elif what == "take":
            work = queue.take(worker)
            if work is None:
                assert busy or queue.waiting == 0, "nothing runs, and nothing that waits is handed out"
                continue
            done = {outcome.key for outcome in queue.outcomes if outcome.error is None}
            assert set(work.needs) <= done
            assert work.key not in busy.values()
            busy[worker] = work.key
            begun[work.key] += 1
        else:
            key = busy.pop(worker)
            fate = fates[int(key)][begun[key] - 1]
            if fate == "done":
                queue.done(key, [{"key": key}])
            elif fate == "dies":
                queue.lost(worker)
            else:
                queue.failed(key, DataError("no") if fate == "ours" else OSError("no"))
        assert queue.running == len(busy)
    outcomes = {outcome.key: (outcome.error is None, outcome.attempts) for outcome in queue.outcomes}
    assert len(queue.outcomes) == len(works)
    assert outcomes == expected(works, fates, attempts)
    assert begun == {key: count for key, (_, count) in outcomes.items()}
    assert all(outcome.rows == ([{"key": outcome.key}] if outcome.error is None else []) for outcome in queue.outcomes)


# ------------------------------------------------------------------------------------------------ in this process


def test_run_here_records_each_work_before_it_tells_and_before_the_next_starts() -> None:
    shelf = Shelf()
    seen: list[tuple[str, int]] = []
    before: list[int] = []
    works = [Piece(key, cost, does=lambda: before.append(len(shelf.rows))) for key, cost in (("a", 1), ("b", 2))]
    works.append(Piece("c", 9, needs=("a", "r")))
    told = run_here(
        [*works, works[0]], shelf, lambda o: seen.append((o.key, len(shelf.rows))), known_done=["r"]
    )  # fmt: skip
    assert seen == [("b", 1), ("a", 2), ("c", 3)]
    assert before == [0, 1]
    assert [outcome.key for outcome in told] == ["a", "b", "c"]
    assert all(outcome.rows == [{"table": "results", "key": outcome.key, "attempt": 1}] for outcome in told)


def test_run_here_tries_again_and_goes_on_after_a_failure() -> None:
    fails = iter([OSError("once"), None])
    calls: list[str] = []

    def stumble() -> None:
        if (error := next(fails)) is not None:
            raise error

    def refuse() -> None:
        calls.append("x")
        raise DataError("x.beton: damaged")

    shelf = Shelf()
    works = [Piece("a", 3, does=stumble), Piece("b", 2, does=refuse), Piece("c", 1, needs=("b",)), Piece("d")]
    a, b, c, d = run_here(works, shelf)
    assert (a.error, a.attempts) == (None, 2)
    assert [row["attempt"] for row in shelf.rows] == [2, 1]
    assert (b.error, b.attempts, calls) == ("x.beton: damaged", 1, ["x"])
    assert "piece b" in str(c.error)
    assert d.error is None
    assert isinstance(b.exception, DataError)


def test_rows_that_cannot_be_recorded_are_a_failure_and_not_trained_again() -> None:
    times: list[int] = []
    for broken, message in (
        (RunError("no space left on the disk"), "no space left on the disk"),
        (OSError("stale"), "shelf: rows were not recorded: OSError: stale"),
    ):
        (outcome,) = run_here([Piece("a", does=lambda: times.append(1))], Shelf(broken))
        assert (outcome.error, outcome.rows, outcome.attempts) == (message, [], 1)
    assert len(times) == 2


def test_works_that_find_nothing_need_no_store() -> None:
    result = Result([], 1.5, None)
    assert recorded(result, Shelf(OSError("must not be called")), 1) == result


def test_ctrl_c_passes_through_run_here() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    shelf = Shelf()
    with pytest.raises(KeyboardInterrupt):
        run_here([Piece("a", 2), Piece("b", 1, does=interrupt)], shelf)
    assert [row["key"] for row in shelf.rows] == ["a"]


def test_a_failed_work_leaves_no_tensors_behind() -> None:
    """The frames of an exception hold what its work had in memory."""
    import gc
    import weakref

    class Heavy:
        pass

    seen: list[weakref.ref[Heavy]] = []

    def fail() -> None:
        heavy = Heavy()
        seen.append(weakref.ref(heavy))
        raise DataError("no")

    (outcome,) = run_here([Piece("a", does=fail)], Shelf())
    gc.collect()
    assert outcome.exception is not None
    assert seen[0]() is None

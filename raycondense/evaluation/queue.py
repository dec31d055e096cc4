"""The queue of an evaluation: which work may start, which is tried again, which has failed. No process, no thread.

Whoever runs works (`run_here` in this process, a pool of actors in `raycondense.cluster`) asks the queue what to do
next and tells it what became of it, so that the same works have the same fate everywhere.
"""

from __future__ import annotations

import heapq
import logging
import time
import traceback
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from raycondense.errors import RaycondenseError, RunError
from raycondense.evaluation.work import Work
from raycondense.redact import without_secrets

if TYPE_CHECKING:
    from raycondense.evaluation.store import Store

logger = logging.getLogger("raycondense")

ATTEMPTS = 2
"""Runs that a work gets when it is not its own fault: one more after a dead worker or an unforeseen exception."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a work."""

    key: str
    label: str
    rows: list[dict[str, Any]]
    """What it found; they are in the store when the outcome is reported."""
    error: str | None
    """Why it failed, for people; None when it is done."""
    exception: BaseException | None
    """The same, to raise."""
    attempts: int
    """How often it was begun; 0 for a work that failed because another did."""
    seconds: float
    """Wall-clock seconds of its last run."""


OnOutcome = Callable[[Outcome], None]


class Result(NamedTuple):
    """What one run of a work gave."""

    rows: list[dict[str, Any]]
    seconds: float
    error: Exception | None


@dataclass(slots=True)
class _Entry:
    key: str
    work: Work
    order: int
    missing: set[str]
    """Keys of the needs that are not done."""
    dependents: list[str] = field(default_factory=list)
    attempts: int = 0
    outcome: Outcome | None = None


class WorkQueue:
    """Works on their way: waiting for others, ready, running, finished.

    A work is begun at most ``attempts`` times: a `RaycondenseError` would come again and ends it at once; after
    any other exception or the death of its worker it is queued once more. A work whose need has failed fails too.

    Args:
        limit: works that may wait (blocked or ready, not running) before `add` refuses; None is no limit.
        attempts: how often a work may be begun.
        known_done: keys of works that are done already and may be needed (see `know_done`).

    Attributes:
        outcomes: what has finished, in that order; it only grows.
    """

    def __init__(self, limit: int | None = None, attempts: int = ATTEMPTS, known_done: Iterable[str] = ()) -> None:
        self._limit = limit
        self._attempts = attempts
        self._done = set(known_done)
        self._entries: dict[str, _Entry] = {}
        self._ready: list[tuple[float, int, str]] = []
        self._running: dict[str, str] = {}
        self._over: Exception | None = None
        self.outcomes: list[Outcome] = []

    @property
    def waiting(self) -> int:
        """Works that are neither running nor finished."""
        return len(self._entries) - len(self._running) - len(self.outcomes)

    @property
    def running(self) -> int:
        """Works that a worker has taken."""
        return len(self._running)

    @property
    def finished(self) -> bool:
        """Whether every work that was added is done or has failed."""
        return len(self.outcomes) == len(self._entries)

    def know_done(self, keys: Iterable[str]) -> None:
        """Let works need ``keys``, which were done before this queue. A work added under such a key still runs."""
        self._done.update(keys)

    def add(self, work: Work) -> bool:
        """Queue ``work``; one whose key is known is not queued again.

        Returns:
            False when the queue is full and ``work`` was not taken.

        Raises:
            ValueError: it needs a work that is neither here nor known to be done (see `needs_first`).
        """
        key = work.key  # a hash of everything that the work is
        if key in self._entries:
            return True
        unknown = [need for need in work.needs if need not in self._entries and need not in self._done]
        if unknown:
            raise ValueError(f"{work.label}: needs {', '.join(unknown)}, neither queued before it nor known to be done")
        if self._limit is not None and self.waiting >= self._limit:
            return False
        needed = {need: self._entries[need] for need in work.needs if need in self._entries}
        missing = {need for need in needed if need not in self._done}
        entry = self._entries[key] = _Entry(key, work, len(self._entries), missing)
        failed = next((found for need in missing if (found := needed[need].outcome) is not None), None)
        if self._over is not None:
            self._fail(entry, self._over)
        elif failed is not None:
            self._fail(entry, _because_of(work, failed))
        else:
            for need in missing:
                needed[need].dependents.append(key)
            if not missing:
                self._push(entry)
        return True

    def take(self, worker: str) -> Work | None:
        """The next work for ``worker``: the longest of the ready ones, the first added of equals; None for none."""
        if worker in self._running:
            raise ValueError(f"worker {worker} still has {self._running[worker]}")
        if not self._ready:
            return None
        *_, key = heapq.heappop(self._ready)
        entry = self._entries[key]
        entry.attempts += 1
        self._running[worker] = key
        return entry.work

    def attempts(self, key: str) -> int:
        """How often the work ``key`` was begun."""
        return self._entries[key].attempts

    def settle(self, key: str, result: Result) -> None:
        """`done` or `failed`, as ``result`` says."""
        if result.error is None:
            self.done(key, result.rows, result.seconds)
        else:
            self.failed(key, result.error, result.seconds)

    def done(self, key: str, rows: Iterable[dict[str, Any]] = (), seconds: float = 0.0) -> None:
        """The running work ``key`` ended well and found ``rows``."""
        entry = self._release(key)
        self._done.add(key)
        self._finish(entry, list(rows), None, seconds)
        for name in entry.dependents:
            dependent = self._entries[name]
            dependent.missing.discard(key)
            if not dependent.missing and dependent.outcome is None:
                self._push(dependent)

    def failed(self, key: str, error: Exception, seconds: float = 0.0) -> None:
        """The running work ``key`` raised ``error``."""
        entry = self._release(key)
        if isinstance(error, RaycondenseError) or entry.attempts >= self._attempts:
            self._fail(entry, error, seconds)
        else:
            self._again(entry, error)

    def lost(self, worker: str) -> None:
        """``worker`` died; what it had taken, if anything, is queued again or has failed."""
        if worker not in self._running:
            return
        entry = self._release(self._running[worker])
        times = "" if entry.attempts == 1 else f" in attempt {entry.attempts}"
        error = RunError(f"{entry.work.label}: its worker died{times} (out of memory?)")
        if entry.attempts >= self._attempts:
            self._fail(entry, error)
        else:
            self._again(entry, error)

    def give_up(self, error: Exception) -> None:
        """Fail every work that waits and every one added from now on: nobody is left to run them."""
        self._over = error
        self._ready.clear()
        taken = set(self._running.values())
        for key, entry in self._entries.items():
            if entry.outcome is None and key not in taken:
                self._finish(entry, [], error)

    def _push(self, entry: _Entry) -> None:
        heapq.heappush(self._ready, (-entry.work.cost, entry.order, entry.key))

    def _again(self, entry: _Entry, error: Exception) -> None:
        logger.warning("%s: tried again, because: %s", entry.work.label, describe(error))
        if self._over is None:
            self._push(entry)
        else:
            self._fail(entry, self._over)

    def _release(self, key: str) -> _Entry:
        worker = next((worker for worker, taken in self._running.items() if taken == key), None)
        if worker is None:
            raise ValueError(f"{key} is not running")
        del self._running[worker]
        return self._entries[key]

    def _fail(self, entry: _Entry, error: Exception, seconds: float = 0.0) -> None:
        self._finish(entry, [], error, seconds)
        assert entry.outcome is not None
        # Not recursive: a chain of needs may be long. All of them name the work that really failed.
        hit = list(entry.dependents)
        for key in hit:
            dependent = self._entries[key]
            if dependent.outcome is None:
                self._finish(dependent, [], _because_of(dependent.work, entry.outcome))
                hit += dependent.dependents

    def _finish(self, entry: _Entry, rows: list[dict[str, Any]], error: Exception | None, seconds: float = 0.0) -> None:
        text = None if error is None else describe(error)
        entry.outcome = Outcome(entry.key, entry.work.label, rows, text, error, entry.attempts, seconds)
        self.outcomes.append(entry.outcome)


class _NeedFailed(RunError):
    """A work was not run, because one that it needs failed."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message, cause)
        self.cause = cause

    def __str__(self) -> str:
        return str(self.args[0])


def _because_of(work: Work, failed: Outcome) -> Exception:
    # A work added after its need was given up for a need of its own still names the first that failed.
    cause = failed.exception.cause if isinstance(failed.exception, _NeedFailed) else f"{failed.label}: {failed.error}"
    return _NeedFailed(f"{work.label}: not run, because what it needs failed: {cause}", cause)


def describe(error: BaseException) -> str:
    """An exception in one line; errors of ours speak for themselves, others name their type."""
    return str(error) if isinstance(error, RaycondenseError) else without_secrets(f"{type(error).__name__}: {error}")


def needs_first(works: Iterable[Work]) -> list[Work]:
    """The works, each key once, in their order but for each after those of them that it needs.

    Raises:
        ValueError: works need each other in a circle.
    """
    by_key: dict[str, Work] = {}
    for work in works:
        by_key.setdefault(work.key, work)
    needs = {key: list(work.needs) for key, work in by_key.items()}
    ordered: dict[str, Work] = {}
    for first in by_key:
        path = {first: None}  # keys under way, each needed by the one before it
        while path:
            last = next(reversed(path))
            need = next((need for need in needs[last] if need in by_key and need not in ordered), None)
            if need in path:
                raise ValueError(f"works need each other in a circle: {', '.join(by_key[key].label for key in path)}")
            if need is None:
                del path[last]
                ordered.setdefault(last, by_key[last])
            else:
                path[need] = None
    return list(ordered.values())


def perform(work: Work, store: Store) -> Result:
    """Run ``work``; what it raises is in the result. Ctrl-C passes through."""
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    failure: Exception | None = None
    try:
        rows = list(work.run(store))
    except Exception as error:
        traceback.clear_frames(error.__traceback__)  # they hold the student and its images
        failure = error
    return Result(rows, time.perf_counter() - start, failure)


def recorded(result: Result, store: Store, attempt: int) -> Result:
    """``result`` after its rows went into ``store``, with the error where they could not.

    Args:
        result: of a run.
        store: where rows are kept.
        attempt: which run it was; it replaces the ``attempt`` of rows that have one.
    """
    if result.error is not None:
        return result
    rows = [row | {"attempt": attempt} if "attempt" in row else row for row in result.rows]
    try:
        if rows:
            store.record(rows)
    except RaycondenseError as error:
        return result._replace(rows=[], error=error)
    except Exception as error:
        # As an error of ours: running the work again would not mend the storage.
        return result._replace(rows=[], error=RunError(f"{store.root}: rows were not recorded: {describe(error)}"))
    return result._replace(rows=rows)


def run_here(
    works: Collection[Work], store: Store, on_outcome: OnOutcome | None = None, *, known_done: Iterable[str] = ()
) -> list[Outcome]:
    """Run works in this process, one after another; what each finds is recorded before the next starts.

    Args:
        works: in any order; works that need each other come in the right one.
        store: for assets and rows.
        on_outcome: called after each work.
        known_done: keys of works that are done and may be needed.

    Returns:
        One outcome for each different key, in the order of ``works``.

    Raises:
        ValueError: a work needs one that is neither among ``works`` nor known to be done.
    """
    queue = WorkQueue(known_done=known_done)
    for work in needs_first(works):
        queue.add(work)
    told = 0
    while (taken := queue.take("here")) is not None:
        result = recorded(perform(taken, store), store, queue.attempts(taken.key))
        queue.settle(taken.key, result)
        for outcome in queue.outcomes[told:]:
            if on_outcome is not None:
                on_outcome(outcome)
        told = len(queue.outcomes)
    return in_order(works, {outcome.key: outcome for outcome in queue.outcomes})


def in_order(works: Iterable[Work], outcomes: dict[str, Outcome]) -> list[Outcome]:
    """The outcome of each different key, in the order of ``works``."""
    return [outcomes[key] for key in dict.fromkeys(work.key for work in works)]

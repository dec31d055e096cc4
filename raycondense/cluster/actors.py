"""The actors behind `raycondense.cluster.evaluation`: one manager with the queue, and the workers that it feeds."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError, RayTaskError

from raycondense.cluster.start import share_gpu
from raycondense.errors import RunError
from raycondense.evaluation.queue import Outcome, Result, WorkQueue, describe, perform, recorded
from raycondense.evaluation.store import Store
from raycondense.evaluation.work import Work

logger = logging.getLogger("raycondense")

BATCH = 500
"""Outcomes of one answer."""
STARTS = 3
"""How often in a row a worker may fail to start before its lane is given up."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A work as the manager sees it: it never opens the payload, so it needs nothing that the work needs (torch)."""

    key: str
    cost: float
    needs: tuple[str, ...]
    label: str
    payload: bytes

    @classmethod
    def of(cls, work: Work) -> Parcel:
        """Wrap ``work`` up."""
        return cls(work.key, work.cost, tuple(work.needs), work.label, cloudpickle.dumps(work))

    def run(self, store: Store) -> list[dict[str, Any]]:
        """Unwrap and run it."""
        return cloudpickle.loads(self.payload).run(store)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker actor is and gets."""

    root: str
    cpus: float
    gpus: float
    log_level: int


class EvaluationWorker:
    """One work at a time, in a process that keeps what works import and cache."""

    def __init__(self, settings: WorkerSettings) -> None:
        # Read by torch (and by what k-means runs on) when it is imported, which is left to the first work.
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(settings.cpus)))
        logger.setLevel(settings.log_level)
        share_gpu(settings.gpus)
        self._store = Store(settings.root)

    def where(self) -> dict[str, Any]:
        """Process and node of this worker; answers as soon as it is ready."""
        return {"pid": os.getpid(), "node": ray.get_runtime_context().get_node_id()}

    def run(self, parcel: Parcel) -> Result:
        """Run one work; what it raises comes back as a value."""
        result = perform(parcel, self._store)
        return result._replace(error=_portable(result.error))


class EvaluationManager:
    """Owns the queue and the workers; one lane (a task of its event loop) feeds each worker.

    It imports neither torch nor what works consist of, so that it is there at once and costs next to nothing.
    """

    def __init__(self, settings: WorkerSettings, workers: int, queue_limit: int, attempts: int) -> None:
        logger.setLevel(settings.log_level)
        self._settings = settings
        self._store = Store(settings.root)
        self._queue = WorkQueue(queue_limit, attempts)
        self._changed = asyncio.Condition()
        self._recording = asyncio.Lock()
        self._workers: dict[str, Any] = {}
        self._ready: dict[str, dict[str, Any]] = {}
        loop = asyncio.get_running_loop()
        self._lanes = {name: loop.create_task(self._lane(name)) for name in map(str, range(workers))}

    async def submit(self, parcels: list[Parcel], known_done: Collection[str], wait: bool) -> list[str]:
        """Queue works in this order; a full queue is waited for or ends it. Returns the keys that were accepted."""
        accepted = []
        self._queue.know_done(known_done)
        async with self._changed:
            for parcel in parcels:
                while not (added := self._queue.add(parcel)) and wait:
                    self._changed.notify_all()
                    await self._changed.wait()
                if not added:
                    break
                accepted.append(parcel.key)
            self._changed.notify_all()
        return accepted

    async def outcomes_after(self, count: int) -> list[Outcome]:
        """The outcomes after the first ``count``, as soon as there is one."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._queue.outcomes) > count)
        return self._queue.outcomes[count : count + BATCH]

    async def status(self) -> dict[str, Any]:
        """Works ``waiting``, ``running`` and ``finished``, and the ``workers`` that are ready, by lane."""
        queue = self._queue
        counts = {"waiting": queue.waiting, "running": queue.running, "finished": len(queue.outcomes)}
        return counts | {"workers": dict(self._ready)}

    async def stop(self) -> None:
        """End all workers at once, in the middle of their works."""
        for lane in self._lanes.values():
            lane.cancel()
        for worker in self._workers.values():
            ray.kill(worker)

    async def _lane(self, name: str) -> None:
        error: Exception = RunError("stopped")
        failures = 0
        try:
            while failures < STARTS:
                worker = self._workers[name] = _actor(EvaluationWorker, self._settings).remote(self._settings)
                try:
                    self._ready[name] = await worker.where.remote()
                except RayError as start_error:
                    logger.warning("an evaluation worker did not start: %s", start_error)
                    # Ray's text has the worker's traceback in it, the reason in the last line.
                    failures, error = failures + 1, RunError(str(start_error).strip().rpartition("\n")[2])
                    continue
                failures = 0
                await self._feed(name, worker)
                del self._ready[name]
        except Exception as bug:
            logger.exception("evaluation pool: lane %s", name)
            error = bug
        async with self._changed:
            self._queue.lost(name)
            del self._lanes[name]
            if not self._lanes:
                self._queue.give_up(RunError(f"no evaluation worker could be started: {describe(error)}"))
            self._changed.notify_all()

    async def _feed(self, name: str, worker: Any) -> None:
        """Give ``worker`` one work after another until it dies."""
        while True:
            async with self._changed:
                while (work := self._queue.take(name)) is None:
                    await self._changed.wait()
                self._changed.notify_all()  # there is room in the queue
            try:
                result: Result = await worker.run.remote(work)
            except RayTaskError as error:  # what it found cannot travel
                result = Result([], 0.0, RunError(f"{work.label}: {error.cause!r}"))
            except RayError as error:
                logger.warning("evaluation worker %s died: %s", self._ready[name], error)
                async with self._changed:
                    self._queue.lost(name)
                    self._changed.notify_all()
                return
            async with self._recording:
                result = await asyncio.to_thread(recorded, result, self._store, self._queue.attempts(work.key))
            async with self._changed:
                self._queue.settle(work.key, result)
                self._changed.notify_all()


def _actor(kind: type, settings: WorkerSettings) -> Any:
    return ray.remote(num_cpus=settings.cpus, num_gpus=settings.gpus)(kind)


def _portable(error: Exception | None) -> Exception | None:
    """``error`` without its frames, or one with its text if it cannot travel."""
    if error is None:
        return None
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:
        return RuntimeError(describe(error))
    return error

"""A pool of long-lived actors that evaluate: works run on many CPUs and GPUs at once, here or in a cluster.

A manager actor owns the queue of `raycondense.evaluation.queue` and gives each worker actor one work at a time. It
records what was found before it tells anybody, so that a driver that dies loses nothing that was done.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raycondense.cluster.actors import EvaluationManager, Parcel, WorkerSettings
from raycondense.cluster.start import connect, require_room
from raycondense.errors import ConfigError, RunError, choices_message
from raycondense.evaluation.queue import ATTEMPTS, OnOutcome, Outcome, in_order, needs_first
from raycondense.evaluation.store import Store
from raycondense.evaluation.work import Work

logger = logging.getLogger("raycondense")

NAMESPACE = "raycondense"
"""Ray namespace of the named pools."""
QUEUE_LIMIT = 1000
PATIENCE = 30.0
"""Seconds without an outcome after which a client looks whether there is any worker."""


class EvaluationPool:
    """A driver's view of a pool of evaluation workers.

    As a context manager it ends the pool when the block ends; workers stop at once, in the middle of their works.
    Works may be submitted by several processes (`attach`). A pool ends with the process that made it.

    Args:
        store_root: folder of the `Store`, on storage that every node sees at this path.
        workers: how many works run at a time.
        gpus_per_worker: GPUs of a worker; less than 1 shares a GPU, and gives a worker that share of its memory.
        cpus_per_worker: CPUs of a worker, and its threads.
        queue_limit: works that may wait in the queue; `submit` waits when there are more.
        attempts: how often a work may be begun (see `raycondense.evaluation.queue.WorkQueue`).
        name: by which other processes of the cluster can `attach`.

    Raises:
        ConfigError: a number is not valid, the name is taken, or this machine's own cluster has fewer CPUs or GPUs.
    """

    def __init__(
        self,
        store_root: str | os.PathLike[str],
        *,
        workers: int = 2,
        gpus_per_worker: float = 0.0,
        cpus_per_worker: float = 1.0,
        queue_limit: int = QUEUE_LIMIT,
        attempts: int = ATTEMPTS,
        name: str | None = None,
    ) -> None:
        for setting, number in {"workers": workers, "queue_limit": queue_limit, "attempts": attempts}.items():
            if number < 1:
                raise ConfigError(f"{setting}: found {number}, valid: 1 or more")
        for setting, amount in {"gpus_per_worker": gpus_per_worker, "cpus_per_worker": cpus_per_worker}.items():
            if amount < 0 or (amount > 1 and amount % 1):
                raise ConfigError(f"{setting}: found {amount:g}, valid: 0 or more, above 1 a whole number")
        if connect():
            require_room(workers, {"CPU": cpus_per_worker, "GPU": gpus_per_worker})
        settings = WorkerSettings(
            str(Path(store_root).absolute()), cpus_per_worker, gpus_per_worker, logger.getEffectiveLevel()
        )
        # Beside the driver where that is possible, so that what it records is where the driver looks.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        manager = ray.remote(num_cpus=0)(EvaluationManager).options(
            name=name, namespace=NAMESPACE if name else None, scheduling_strategy=here
        )
        try:
            self._use(manager.remote(settings, workers, queue_limit, attempts), owner=True)
        except ValueError as error:
            raise ConfigError(f"name: found {name!r}, which another pool has; valid: another name") from error

    @classmethod
    def attach(cls, name: str) -> EvaluationPool:
        """A view of the running pool ``name``, made by another process of the cluster (or this one).

        Raises:
            ConfigError: there is no such pool.
        """
        connect()
        try:
            return cls._of(ray.get_actor(name, namespace=NAMESPACE))
        except ValueError as error:
            running = [found["name"] for found in ray.util.list_named_actors(True) if found["namespace"] == NAMESPACE]
            raise ConfigError(choices_message("evaluation pool", name, running)) from error

    @classmethod
    def _of(cls, manager: Any) -> EvaluationPool:
        pool = cls.__new__(cls)
        pool._use(manager, owner=False)
        return pool

    def _use(self, manager: Any, *, owner: bool) -> None:
        self._manager = manager
        self._owner = owner
        self._expected: set[str] = set()
        self._seen: dict[str, Outcome] = {}  # all that finished, whoever submitted it
        self._arrived: dict[str, Outcome] = {}  # ours, not handed over
        self._question: Any = None

    def __reduce__(self) -> tuple[Callable[[Any], EvaluationPool], tuple[Any]]:
        """In another process it is a view of the same pool that has submitted nothing."""
        return EvaluationPool._of, (self._manager,)

    def submit(self, works: Iterable[Work], *, known_done: Iterable[str] = (), wait: bool = True) -> list[str]:
        """Queue works, those first that others of them need.

        Args:
            works: a key that the pool knows is accepted and not run again.
            known_done: keys of works that are done and may be needed.
            wait: while the queue is full; else what finds no room is not accepted.

        Returns:
            The keys of the accepted works, in the order in which they were queued.

        Raises:
            ValueError: a work needs one that is neither here nor known to be done.
            RunError: the pool has ended.
        """
        keys: list[str] = self._ask(self._send(works, known_done, wait))
        self._expect(keys)
        return keys

    def post(self, works: Iterable[Work], *, known_done: Iterable[str] = ()) -> None:
        """Hand works over and return at once, from where nothing may block or fail (a callback of Ray Train).

        They wait outside a full queue. What becomes of them is in the store, not in this pool's `outcomes`.
        """
        try:
            self._send(works, known_done, True)
        except Exception:
            logger.exception("works were not handed to the evaluation pool")

    def outcomes(self) -> Iterator[Outcome]:
        """What became of the submitted works, as they finish; it ends when all have.

        Raises:
            RunError: the pool has ended.
        """
        while self._arrived or self._expected:
            while self._arrived:
                yield self._arrived.pop(next(iter(self._arrived)))
            if self._expected:
                self._fetch()

    def run(
        self, works: Collection[Work], on_outcome: OnOutcome | None = None, *, known_done: Iterable[str] = ()
    ) -> list[Outcome]:
        """Submit works and wait for all of them, as `raycondense.evaluation.queue.run_here` does in this process.

        Args:
            works: in any order.
            on_outcome: called in this process after each work.
            known_done: keys of works that are done and may be needed.

        Returns:
            One outcome for each different key, in the order of ``works``.

        Raises:
            ValueError: a work needs one that is neither here nor known to be done.
            RunError: the pool has ended.
        """
        sent = self._send(works, known_done, True)
        mine = {work.key for work in works}
        self._expect(mine)
        found: dict[str, Outcome] = {}
        try:
            while True:
                for key in [key for key in self._arrived if key in mine]:
                    found[key] = self._arrived.pop(key)
                    if on_outcome is not None:
                        on_outcome(found[key])
                if len(found) == len(mine):
                    return in_order(works, found)
                sent = self._fetch(sent)
        finally:
            self._expected -= mine

    def status(self) -> dict[str, Any]:
        """Works ``waiting``, ``running`` and ``finished``, and the ``workers`` that are ready (process and node)."""
        return self._ask(self._manager.status.remote())

    def close(self) -> None:
        """End the pool at once if this process made it; works under way are lost, what was done is in the store."""
        if not self._owner or not ray.is_initialized():
            return
        self._owner = False
        try:
            ray.get(self._manager.stop.remote(), timeout=5)
        except RayError as error:
            logger.debug("evaluation pool: %s", error)  # it has ended already, and its workers with it
        ray.kill(self._manager)

    def __enter__(self) -> EvaluationPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, works: Iterable[Work], known_done: Iterable[str], wait: bool) -> Any:
        parcels = [Parcel.of(work) for work in needs_first(works)]
        return self._manager.submit.remote(parcels, tuple(known_done), wait)

    def _expect(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key in self._seen:
                self._arrived[key] = self._seen[key]
            else:
                self._expected.add(key)

    def _fetch(self, sent: Any = None) -> Any:
        """Wait for outcomes; returns ``sent``, a submission under way, or None once it is through."""
        if self._question is None:
            self._question = self._manager.outcomes_after.remote(len(self._seen))
        waited_for = [self._question, *([] if sent is None else [sent])]
        ready, _ = ray.wait(waited_for, timeout=PATIENCE)
        if not ready and not self.status()["workers"]:
            logger.warning("no evaluation worker has started: the cluster has no CPUs or GPUs left for them")
        if sent in ready:
            self._ask(sent)
            sent = None
        if self._question in ready:
            question, self._question = self._question, None
            for outcome in self._ask(question):
                self._seen[outcome.key] = outcome
                if outcome.key in self._expected:
                    self._expected.remove(outcome.key)
                    self._arrived[outcome.key] = outcome
        return sent

    def _ask(self, reference: Any) -> Any:
        try:
            return ray.get(reference)
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError as error:
            raise RunError("the evaluation pool has ended; what it had done is in the store, run again") from error


def run_on_actors(
    works: Collection[Work],
    store: Store,
    on_outcome: OnOutcome | None = None,
    *,
    known_done: Iterable[str] = (),
    workers: int = 2,
    gpus_per_worker: float = 0.0,
    cpus_per_worker: float = 1.0,
) -> list[Outcome]:
    """`raycondense.evaluation.queue.run_here` on a pool that lives as long as the call.

    Raises:
        ConfigError, ValueError, RunError: see `EvaluationPool`.
    """
    if not works:
        return []
    with EvaluationPool(
        store.root, workers=min(workers, len(works)), gpus_per_worker=gpus_per_worker, cpus_per_worker=cpus_per_worker
    ) as pool:
        return pool.run(works, on_outcome, known_done=known_done)

"""The winners of a sweep: the best trials so far go to the evaluation pool while the sweep goes on."""

from __future__ import annotations

import dataclasses
import functools
import logging
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import ray

from raycondense.cluster.evaluation import EvaluationPool, run_on_actors
from raycondense.config import EvaluationConfig
from raycondense.errors import RaycondenseError
from raycondense.evaluation.carry_out import OnProgress, Runner
from raycondense.evaluation.queue import OnOutcome, Outcome
from raycondense.evaluation.run import evaluate_many
from raycondense.evaluation.store import Store
from raycondense.evaluation.work import Work
from raycondense.tuning.plan import SweepPlan
from raycondense.tuning.records import SweepFolder, Winner
from raycondense.tuning.result import rank

logger = logging.getLogger("raycondense")


class Winners:
    """Keeps ``winners.json`` and has the artefacts in it evaluated by the protocol of the configuration.

    A thread plans the evaluations and waits for the pool; what was found is in the store, whose works are never done
    twice, whoever asks for them again.
    """

    def __init__(self, plan: SweepPlan) -> None:
        self._plan = plan
        self._folder = SweepFolder(plan.folder)
        self._store = Store(self._folder.store)
        self._known: list[Winner] = self._folder.winners()
        self._sent: set[Path] = set()
        self._artifacts: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="winners", daemon=True)
        self._pool: EvaluationPool | None = None
        self._ended = False

    def look(self) -> None:
        """Rank the trials anew, and send to the pool what has become one of the best."""
        if not self._plan.winners:
            return
        best = rank(self._folder.trials(), self._plan.objectives, self._plan.winners)
        winners = [
            Winner(record.number, position, record.artifact)
            for position, record in enumerate(best, start=1)
            if record.artifact is not None
        ]
        if winners != self._known:
            self._folder.write_winners(winners)
            self._known = winners
        for winner in winners:
            if winner.artifact not in self._sent:
                self._sent.add(winner.artifact)
                self._artifacts.put(winner.artifact)

    def finish(self, progress: OnProgress | None = None) -> None:
        """Evaluate all winners, the configuration's own values beside them, and the baselines.

        By now no trial needs the cluster, so the pool gets all of it.

        Args:
            progress: as `raycondense.evaluation.run.evaluate` calls it.

        Raises:
            RaycondenseError: nothing could be found; see `raycondense.evaluation.run.evaluate`.
        """
        if not self._plan.winners:
            return
        self._end_thread(after_all=True)
        artifacts = [winner.artifact for winner in self._known]
        for record in self._folder.trials():
            if dict(record.values) == dict(self._plan.start) and record.artifact and record.artifact not in artifacts:
                artifacts.append(record.artifact)
        if not artifacts:
            return
        share = self._plan.resources.gpus_per_worker
        there = ray.cluster_resources()
        workers = max(1, int(min(there["CPU"], there.get("GPU", 0) / share if share else there["CPU"])))
        runner = functools.partial(run_on_actors, workers=workers, gpus_per_worker=share)
        self._evaluate(artifacts, self._plan.config.evaluation, runner, progress)

    def __enter__(self) -> Winners:
        if self._plan.resources.pool_workers:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_thread(after_all=False)

    def _end_thread(self, *, after_all: bool) -> None:
        if not self._thread.is_alive():
            return
        if not after_all:
            self._ended = True
            while not self._artifacts.empty():
                self._artifacts.get()
        self._artifacts.put(None)
        if not after_all and self._pool is not None:
            self._pool.close()  # its works end at once, and the thread with them
        self._thread.join(None if after_all else 10)

    def _work(self) -> None:
        config = dataclasses.replace(self._plan.config.evaluation, baselines=(), diagnostics=False)
        resources = self._plan.resources
        try:
            with EvaluationPool(
                self._store.root, workers=resources.pool_workers, gpus_per_worker=resources.gpus_per_worker
            ) as self._pool:
                while (artifact := self._artifacts.get()) is not None:
                    try:
                        self._evaluate([artifact], config, self._run)
                    except RaycondenseError as error:
                        if self._ended:
                            return
                        # The end of the sweep evaluates it again, and tells.
                        logger.warning("winner %s: %s", artifact, error)
        except Exception:
            logger.exception("the winners' pool; they are evaluated at the end of the sweep")

    def _run(self, works: Sequence[Work], store: Store, on_outcome: OnOutcome) -> list[Outcome]:
        assert self._pool is not None
        return self._pool.run(works, on_outcome)

    def _evaluate(
        self, artifacts: Sequence[Path], config: EvaluationConfig, runner: Runner, progress: OnProgress | None = None
    ) -> None:
        plan = self._plan
        evaluate_many(
            artifacts, plan.test_data or plan.val_data, config=config, train_data=plan.data,
            device="cuda" if plan.resources.gpus else "cpu", store=self._store, runner=runner,
            progress=progress,
        )  # fmt: skip

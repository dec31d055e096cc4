"""A sweep on Ray Tune: trials that search, are stopped early and survive kills, and winners that go to the pool.

What is known is in the sweep's folder and its study, nothing in Tune's own files: a sweep goes on from these, whether
its driver was killed, one of its trials was, or somebody wants more trials of a sweep that was finished.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray import tune
from ray.tune.logger import TBXLoggerCallback
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from raycondense.cluster.search import StudySearch, finished, open_study, take_up
from raycondense.cluster.start import connect
from raycondense.cluster.trial import run_trial
from raycondense.cluster.watch import Watch
from raycondense.cluster.winners import Winners
from raycondense.display import Display
from raycondense.errors import ConfigError, Interrupted, RunError
from raycondense.tuning.plan import REDUCTION, SweepPlan
from raycondense.tuning.records import SweepFolder

logger = logging.getLogger("raycondense")

DRIVER = {"node:__internal_head__": 0.001}
"""What the process of a trial of several workers takes: a CPU would be missing for the workers it waits for."""


def run_sweep(plan: SweepPlan, *, progress: bool = True) -> None:
    """Carry a sweep out, or on, until ``plan.trials`` trials have ended and the winners are evaluated.

    Args:
        plan: the sweep; the caller holds the lock of its folder.
        progress: draw progress on standard error.

    Raises:
        ConfigError: the cluster has not room for a trial and the pool, or the storage is not this sweep's.
        DependencyError: a package is missing that the search or the storage needs.
        Interrupted: Ctrl-C; the same call goes on.
        RunError: the sweep failed for a reason outside the settings.
    """
    # Without the dashboard Ray does not see that a trial was stopped, whose workers would keep their CPUs for ever.
    connect(dashboard=plan.resources.workers > 1)
    there = ray.cluster_resources()
    short = plan.resources.shortage(there)
    if short:
        raise ConfigError(short)
    study = open_study(plan)
    resumed = take_up(plan, study)
    left = plan.trials - finished(study)
    with Winners(plan) as winners:
        winners.look()
        if left > 0:
            concurrent = min(left, plan.resources.fitting(there))
            with Watch(plan, progress):
                _tune(plan, StudySearch(plan, study, resumed), winners, left, concurrent)
            still = [record.number for record in SweepFolder(plan.folder).trials() if not record.ended]
            if still or finished(study) < plan.trials:
                raise Interrupted(f"{plan.folder}: interrupted; run the same command to go on")
        records = SweepFolder(plan.folder).trials()
        if all(record.state == "failed" for record in records):
            raise RunError(f"{plan.folder}: every trial failed, the first because: {records[0].reason}")
        with Display(progress) as display:
            winners.finish(lambda done, total, outcome: display.count("winners", done, total, outcome.label))


def _tune(plan: SweepPlan, search: StudySearch, winners: Winners, trials: int, concurrent: int) -> None:
    local = plan.resources.workers == 1
    bundle = plan.resources.trial if local else DRIVER
    # The plan is the same for all trials: handed over once, and not written into the files of each.
    trainable = tune.with_resources(tune.with_parameters(run_trial, plan=plan), tune.PlacementGroupFactory([bundle]))
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=_scheduler(plan),
            num_samples=trials,
            max_concurrent_trials=concurrent,
            # A process that waits for other processes cannot be taken over, one that computes itself can.
            reuse_actors=local,
        ),
        run_config=tune.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=str(plan.folder / "tune"),
            failure_config=tune.FailureConfig(max_failures=1),
            callbacks=[SweepLog(plan, winners), TBXLoggerCallback()],
            verbose=0,
        ),
    )
    with _quiet():
        results = tuner.fit()
    for error in results.errors:
        logger.debug("a trial failed: %s", error)


def _scheduler(plan: SweepPlan) -> TrialScheduler:
    """ASHA at the plan's rungs; none where there is one rung, or two objectives, of which it would see one."""
    if len(plan.rungs) < 2 or len(plan.objectives) > 1:
        return FIFOScheduler()
    scheduler = Rungs(dict(plan.start), plan.rungs)
    for record in SweepFolder(plan.folder).trials():
        scheduler.remember(f"trial {record.number}", record.rungs)
    return scheduler


class Rungs(AsyncHyperBandScheduler):
    """ASHA on real images seen. It lets the configuration's own values pass, which winners are compared with.

    Args:
        start: those values.
        rungs: real images, ascending.
    """

    def __init__(self, start: dict[str, Any], rungs: tuple[int, ...]) -> None:
        super().__init__(
            time_attr="images", metric="accuracy", mode="max", grace_period=rungs[0], max_t=rungs[-1],
            reduction_factor=REDUCTION, stop_last_trials=False,
        )  # fmt: skip
        self._start = start

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether ``trial`` goes on."""
        if result.get("final"):
            return str(TrialScheduler.CONTINUE)  # it ends by itself
        decision = super().on_trial_result(tune_controller, trial, result)
        return str(TrialScheduler.CONTINUE if trial.config.get("values") == self._start else decision)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """The end of a trial is no rung: the worst score of one that failed says nothing of its budget."""
        self._trial_info.pop(trial.trial_id, None)

    def remember(self, name: str, rungs: tuple[tuple[int, float], ...]) -> None:
        """Let rungs that a trial of an earlier call reached count."""
        earlier = _Earlier(name)
        self.on_trial_add(None, earlier)
        for images, accuracy in rungs:
            super().on_trial_result(None, earlier, {"images": images, "accuracy": accuracy})


class _Earlier:
    """As much of a trial of Tune's as its scheduler asks for."""

    def __init__(self, name: str) -> None:
        self.trial_id = name
        self.config: dict[str, Any] = {}


class SweepLog(tune.Callback):
    """Writes what happens to trials into the sweep's folder, and shows the best to the pool."""

    def __init__(self, plan: SweepPlan, winners: Winners) -> None:
        self._plan, self._winners = plan, winners
        self._folder = SweepFolder(plan.folder)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Also when a trial starts again after its process died."""
        self._folder.append({"trial": trial.config["trial"], "event": "start", "values": trial.config["values"]})

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A rung, the last one included."""
        state = result.get("state", "complete")
        if state == "complete":
            event = {name: result[name] for name in ("images", "accuracy", "bytes")}
            self._folder.append({"trial": trial.config["trial"], "event": "rung", **event})
        if result.get("final"):
            # At once and not when Tune has noticed that the function is over: a kill between them would cost a run.
            self._end(trial, state, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Those that the scheduler stopped have no final result."""
        result = trial.last_result or {}
        if not result.get("final"):
            reason = f"not among the best third at {result.get('images', 0):,} images"
            self._end(trial, "stopped", {**result, "reason": reason})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process died, twice."""
        self._end(trial, "failed", {"accuracy": 0.0, "reason": "its process died: killed, or out of memory"})

    def _end(self, trial: Any, state: str, result: dict[str, Any]) -> None:
        artifact = result.get("artifact")
        self._folder.append(
            {
                "trial": trial.config["trial"],
                "event": "end",
                "state": state,
                **{name: result.get(name) for name in ("images", "accuracy", "bytes", "reason")},
                **{name: result[name] for name in ("work_seconds", "judge_seconds") if name in result},
                "artifact": self._folder.relative(artifact) if artifact else None,
            }
        )
        # What a trial that has ended would go on from is of no use any more, and larger than all the rest of it.
        for name in ("checkpoints", "ray"):
            shutil.rmtree(self._folder.trial(trial.config["trial"]) / name, ignore_errors=True)
        self._winners.look()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles callbacks into its own record of an experiment, which nothing reads here."""
        return {}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tune without its tables, its default logs and its advice: the folder has all of it."""
    wanted = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_WARN_THRESHOLD_S": "60"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        yield
    except tune.TuneError as error:
        raise RunError(f"Ray Tune failed: {error}; run the same command to go on") from error
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

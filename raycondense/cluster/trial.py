"""One trial of a sweep, as Ray Tune runs it: a `TorchTrainer` around the loop that is judged at its rungs.

A trial of one worker runs in the process that Tune gave it (Ray Train's local mode), which the next trial takes over
with everything that it has imported. A trial of several workers starts them; Tune's process only waits and passes on
what they report.
"""

from __future__ import annotations

import gc
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.train
import ray.train.collective
import torch
from ray import tune
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from raycondense import condense
from raycondense.artifact.save import save_artifact
from raycondense.cluster.configs import CheckpointConfig
from raycondense.cluster.host import RayHost
from raycondense.cluster.metrics import RunMetrics
from raycondense.cluster.start import share_gpu
from raycondense.cluster.trainer import LogCallback, run_trainer, scaling_config
from raycondense.config import Config
from raycondense.configfile import config_to_dict
from raycondense.data.sidecar import Sidecar
from raycondense.errors import DivergedError, RaycondenseError
from raycondense.evaluation.run import evaluate
from raycondense.evaluation.work import content_hash
from raycondense.host import LocalHost
from raycondense.publish import publish, state_from_checkpoint
from raycondense.state import CondensedModel, TrainState
from raycondense.storage import atomic_folder
from raycondense.tuning.plan import SweepPlan
from raycondense.tuning.records import SweepFolder

logger = logging.getLogger("raycondense")

Metrics = dict[str, Any]


def run_trial(config: dict[str, Any], plan: SweepPlan) -> None:
    """Tune's function trainable. Its last report is ``final`` and says how the trial ended, whatever happened.

    Args:
        config: ``trial``, its number, and ``values`` by configuration path.
        plan: the sweep.
    """
    number = int(config["trial"])
    # A process that has run another trial: what that one left behind must not count as this one's.
    gc.collect()
    try:
        settings = trial_config(plan, config["values"])
        share_gpu(plan.resources.gpus_per_worker)
        found = _fit(plan, settings, number) | {"state": "complete", "reason": None}
    except DivergedError as error:
        found = _without_result(plan, config["values"], "diverged", str(error))
    except torch.OutOfMemoryError as error:
        found = _without_result(plan, config["values"], "failed", f"out of GPU memory: {str(error).splitlines()[0]}")
    except MemoryError:
        found = _without_result(plan, config["values"], "failed", "out of memory")
    except RaycondenseError as error:
        found = _without_result(plan, config["values"], "failed", str(error))
    except Exception as error:  # one broken trial does not end a sweep; its traceback is in Ray's log
        logger.exception("trial %d", number)
        found = _without_result(plan, config["values"], "failed", f"{type(error).__name__}: {error}")
    tune.report({**found, "final": True})


def trial_config(plan: SweepPlan, values: dict[str, Any]) -> Config:
    """The configuration of a trial; its checkpoints are at least as dense as its rungs, which they are judged by.

    Raises:
        ConfigError: the values do not go together.
    """
    config = plan.trial_config(values)
    spacing = min(config.condense.checkpoint_images, plan.rungs[0])
    return replace(config, condense=replace(config.condense, checkpoint_images=spacing))


def _fit(plan: SweepPlan, config: Config, number: int) -> Metrics:
    """Run the trial and return the metrics of its end."""
    folder = SweepFolder(plan.folder).trial(number)
    folder.mkdir(parents=True, exist_ok=True)
    local = plan.resources.workers == 1
    trainer = TorchTrainer(
        train_trial,
        train_loop_config={
            "plan": plan, "config": config, "trial": number, "local": local,
            "log_level": logging.getLogger("raycondense").getEffectiveLevel(),
        },
        scaling_config=ScalingConfig(num_workers=0) if local else scaling_config(config),
        run_config=None if local else RunConfig(
            name="ray",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=min(1, config.cluster.max_failures)),
            checkpoint_config=CheckpointConfig(num_to_keep=config.cluster.checkpoints_kept),
            callbacks=[LogCallback(folder / "log.jsonl"), RungReports()],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )  # fmt: skip
    # In this process an exit is Tune's way to stop the trial, which `run_trainer` would take for Ctrl-C.
    result = trainer.fit() if local else run_trainer(trainer, folder)
    # What rank 0 returned: a run that had ended before, and reports nothing any more, has it too.
    found: Metrics = result.return_value
    if "diverged" in found:
        raise DivergedError(found["diverged"])
    return found


class RungReports(TuneReportCallback):
    """Passes rungs on to Tune, and neither log records nor checkpoints."""

    def after_report(self, run_context: Any, metrics: list[Metrics], checkpoint: Any) -> None:
        """Called by Ray Train's controller."""
        if metrics and "accuracy" in metrics[0]:
            super().after_report(run_context, metrics, None)


def train_trial(settings: dict[str, Any]) -> Metrics | None:
    """What every Ray Train worker of a trial runs; rank 0 returns the metrics of its end."""
    logging.getLogger("raycondense").setLevel(settings["log_level"])
    plan, config, number = settings["plan"], settings["config"], settings["trial"]
    begun, judge = time.perf_counter(), Judge(plan, config, number)
    host = LocalTrial(judge) if settings["local"] else RayTrial(judge)
    if not settings["local"]:
        share_gpu(plan.resources.gpus_per_worker)
    try:
        state = condense.run(config, plan.data, host)
    except DivergedError as error:
        # On every rank at once, and again if it were tried again: not an error to Ray, which would.
        return {"diverged": str(error)}
    if host.rank != 0:
        return None
    found = judge.of_end(state)
    return found | {"work_seconds": time.perf_counter() - begun, "judge_seconds": judge.seconds}


class Judge:
    """What a trial is worth at a rung and at its end, and where it may begin.

    Args:
        plan: the sweep.
        config: of the trial.
        number: of the trial.
    """

    def __init__(self, plan: SweepPlan, config: Config, number: int) -> None:
        self.plan, self.config, self.number = plan, config, number
        self.folder = SweepFolder(plan.folder).trial(number)
        self.label = f"{plan.folder.name}/{self.folder.name}"
        """Of the trial in Ray's metrics."""
        self.device = "cuda" if plan.resources.gpus else "cpu"
        self.seconds = 0.0
        """What judging has taken so far."""
        self._rungs = list(plan.rungs[:-1])  # the last is the end

    def begin(self, own: Path | None, start: str | None) -> Path | None:
        """Where the run begins: at its own checkpoint, else at the common ``start``; rungs up to there were judged."""
        if own is None:
            return None if start is None else Path(start)
        stage, images = _clock(own)
        if stage == "condense":
            self._rungs = [rung for rung in self._rungs if rung > images]
        return own

    def of_checkpoint(self, checkpoint: Path) -> Metrics | None:
        """Metrics of a rung that ``checkpoint`` is the first to reach; None between rungs."""
        stage, images = _clock(checkpoint)
        if stage != "condense" or not self._rungs or images < self._rungs[0]:
            return None
        self._rungs = [rung for rung in self._rungs if rung > images]
        model = state_from_checkpoint(self.config, self.plan.data, checkpoint).average
        if not _finite(model):
            return None  # the next loss will not be finite either, and ends the run on every rank
        with tempfile.TemporaryDirectory(prefix="raycondense-") as temporary:
            artifact = Path(temporary) / "artifact"
            save_artifact(
                artifact, generator=model.generator, codebook=model.codebook, config=self.config,
                sidecar=Sidecar.load(self.plan.data), train=self.plan.data,
            )  # fmt: skip
            return self._score(artifact, images) | {"images": images}

    def of_end(self, state: TrainState) -> Metrics:
        """Publish a finished run and judge what was published."""
        if not _finite(state.average):
            return {"diverged": "a weight is not finite; lower condense.lr_generator or the losses' weights"}
        artifact = publish(state, self.plan.data, self.folder / "artifact")
        return self._score(artifact, self.plan.rungs[-1]) | {"images": self.plan.rungs[-1], "artifact": str(artifact)}

    @property
    def start(self) -> Path | None:
        """Checkpoint at which condensation begins, shared by all trials that come to the same one.

        Networks and initialisation are the same for trials that differ in loss weights and learning rates alone.
        None where the search is about what they depend on.
        """
        own, common = _before_condensation(self.config), _before_condensation(self.plan.trial_config(self.plan.start))
        return self.plan.folder / "start" / content_hash(own)[:16] if own == common else None

    def kept_start(self) -> str | None:
        """`start` where it is there."""
        start = self.start
        return str(start) if start is not None and start.is_dir() else None

    def keep_start(self, checkpoint: Path) -> None:
        """Keep ``checkpoint`` as `start` if it is that one."""
        start = self.start
        if start is not None and not start.exists() and _clock(checkpoint) == ("condense", 0):
            with atomic_folder(start) as temporary:
                shutil.copytree(checkpoint, temporary, dirs_exist_ok=True)

    def _score(self, artifact: Path, images: int) -> Metrics:
        plan, begun = self.plan, time.perf_counter()
        judge = plan.judge_at(images)
        row = evaluate(artifact, plan.val_data, config=judge, ipc=[plan.ipc], device=self.device).rows[0]
        self.seconds += time.perf_counter() - begun
        return {"accuracy": row.accuracy, "bytes": row.bytes}


class LocalTrial(LocalHost):
    """The one worker of a trial, in Tune's own process; checkpoints lie in the trial's folder."""

    def __init__(self, judge: Judge) -> None:
        super().__init__(
            judge.folder,
            device=judge.device,
            keep=judge.config.cluster.checkpoints_kept,
            on_log=RunMetrics(judge.label).record,
            patience=judge.config.cluster.storage_patience,
        )
        self._judge = judge

    def save_checkpoint(self, name: str, write: Callable[[Path], None]) -> None:
        """A checkpoint that reaches a rung is judged before it counts: after a kill the rung comes again."""
        with tempfile.TemporaryDirectory(prefix=".checkpoint", dir=self.folder) as temporary:
            write(Path(temporary))
            self._judge.keep_start(Path(temporary))
            metrics = self._judge.of_checkpoint(Path(temporary))
            if metrics is not None:
                # Where the scheduler stops the trial, Tune ends this thread in here.
                tune.report(metrics)

            def copy(target: Path) -> None:
                shutil.copytree(temporary, target, dirs_exist_ok=True)

            super().save_checkpoint(name, copy)

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        with super().latest_checkpoint() as own:
            yield self._judge.begin(own, self._judge.kept_start())


class RayTrial(RayHost):
    """One of several workers of a trial."""

    def __init__(self, judge: Judge) -> None:
        super().__init__(run=judge.label, patience=judge.config.cluster.storage_patience)
        self._judge = judge

    def metrics_of(self, checkpoint: Path) -> Metrics:
        """A checkpoint and what it was found to be worth are one report: both count or neither."""
        self._judge.keep_start(checkpoint)
        return self._judge.of_checkpoint(checkpoint) or {}

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        with super().latest_checkpoint() as own:
            # Another trial may be writing it: rank 0 says whether it is there.
            start = ray.train.collective.broadcast_from_rank_zero(self._judge.kept_start())
            yield self._judge.begin(own, start)


def _clock(checkpoint: Path) -> tuple[str, int]:
    clock = json.loads((checkpoint / "clock.json").read_text(encoding="utf-8"))
    return str(clock["stage"]), int(clock["images"])


def _finite(model: CondensedModel) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


def _before_condensation(config: Config) -> dict[str, Any]:
    """The settings that decide where condensation begins."""
    values = config_to_dict(config)
    kept = {name: values[name] for name in ("data", "generator", "codebook", "extractors", "augment", "initialise")}
    steps = {name: values["condense"][name] for name in ("classes_per_step", "real_per_class", "precision")}
    workers = config.cluster.workers
    return {**kept, "condense": steps, "seed": config.seed, "workers": workers, "gpus": config.cluster.gpus_per_worker}


def _without_result(plan: SweepPlan, values: dict[str, Any], state: str, reason: str) -> Metrics:
    """A finite worst score, which a study can hold and a sampler learns from."""
    try:
        model = CondensedModel(plan.trial_config(values), plan.config.data.num_classes)
        size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    except (RaycondenseError, MemoryError, RuntimeError):
        size = 2**30
    return {"accuracy": 0.0, "bytes": size, "images": 0, "state": state, "reason": reason}

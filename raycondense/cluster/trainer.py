"""Ray Train around the condensation loop: a `TorchTrainer` whose workers each run `raycondense.condense.run`."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from raycondense import condense
from raycondense.cluster.configs import RayConfigs
from raycondense.cluster.host import RECORD, RayHost
from raycondense.cluster.notices import Notices
from raycondense.cluster.start import alone, connect, require_room
from raycondense.config import Config
from raycondense.configfile import config_from_dict, config_to_dict
from raycondense.data.staging import BetonLocation
from raycondense.errors import RaycondenseError, RunError
from raycondense.patience import FIRST_PAUSE, LONGEST_PAUSE, may_pass, patiently
from raycondense.remote import Place
from raycondense.storage import append_line
from raycondense.tensorboard import EventFiles

logger = logging.getLogger("raycondense")


class StorageLost(RunError):
    """Ray Train's own part of a run ended because storage could not be reached."""


class LogCallback(UserCallback):
    """Appends the workers' log records to the run's ``log.jsonl`` and event files.

    In Ray Train's controller, on the driver's node.

    Args:
        path: the log.
        notices: told when workers are lost; None tells nobody.
    """

    def __init__(self, path: Path, notices: Notices | None = None) -> None:
        self._path = path
        self._events = EventFiles(path.parent)
        self._notices = notices

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        # An exception here would end the run without a retry, and a lost log line is not worth that.
        try:
            if metrics and RECORD in metrics[0]:
                append_line(self._path, metrics[0][RECORD])
                self._events.append(json.loads(metrics[0][RECORD]))
        except (OSError, RaycondenseError) as error:
            logger.warning("%s: a log record was lost: %s", self._path, error)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        if self._notices is None or any(isinstance(error, RaycondenseError) for error in worker_exceptions.values()):
            return
        died = [rank for rank, error in worker_exceptions.items() if isinstance(error, WorkerHealthCheckFailedError)]
        # The others fail because of them, at the next thing that they do together; where Ray hears of that before it
        # misses the dead one, the failure is all that can be told.
        for rank in sorted(died or worker_exceptions):
            error = worker_exceptions[rank]
            if died:
                self._notices.tell(f"worker {rank} was lost (its process or its machine is gone)")
            else:
                reason = " ".join(str(error).split())[:200]
                self._notices.tell(f"worker {rank} failed ({type(error).__name__}: {reason})")


def train_worker(settings: dict[str, Any]) -> None:
    """What every Ray Train worker runs; ``settings`` holds configuration and beton as dicts."""
    logging.getLogger("raycondense").setLevel(settings["log_level"])
    config = config_from_dict(settings["config"])
    notices: Notices = settings["notices"]
    context = ray.train.get_context()
    if isinstance(config.cluster.workers, tuple) and context.get_world_rank() == 0:
        least, most = config.cluster.workers
        there = context.get_world_size()
        notices.tell(f"training with {there} worker{'s' * (there > 1)} ({least} to {most} are asked for)")
    host = RayHost(
        run=settings["run"], patience=config.cluster.storage_patience, tell=notices.tell, search=True
    )  # fmt: skip
    train = BetonLocation(**settings["train"])
    node = socket.gethostname()
    beton = train.stage(config.data.cache, tell=lambda message: notices.tell(f"{node}: {message}"))
    if train.is_remote:
        # Nodes are ready at different times, and Ray waits for the last one longer than torch's collectives do.
        ray.train.collective.barrier()
    condense.run(config, beton, host)


def fit_on_ray(
    config: Config, train: BetonLocation, folder: Path, configs: RayConfigs, storage: Place | None = None
) -> AbstractContextManager[str]:
    """Condense with Ray Train; the result is a context manager of the final checkpoint's folder, wherever it is stored.

    Run again with the same ``folder`` it goes on from the last checkpoint.

    Args:
        config: the whole configuration, its data resolved.
        train: beton of the training images; one that is not at a path is staged by each node.
        folder: run folder, for the log.
        configs: Ray Train's own configurations.
        storage: Ray keeps its checkpoints in ``ray`` there; by default in ``folder/ray``, unless ``run_config`` names
            another place.

    Raises:
        ConfigError: this machine's own cluster has fewer CPUs or GPUs than the workers ask for.
        KeyboardInterrupt: Ctrl-C.
        RunError: the run failed for a reason that is not ours; Ray's message is in it.
    """
    own = connect()
    scaling = configs.scaling_config or scaling_config(config)
    if own:
        check_room(scaling)
    notices = Notices()
    run_config = run_config_for(config, folder, configs, notices, storage)
    settings = {
        "config": config_to_dict(config),
        "train": dataclasses.asdict(train),
        "run": folder.name,
        "log_level": logging.getLogger("raycondense").getEffectiveLevel(),
        "notices": notices,
    }

    def fit() -> ray.train.Result:
        trainer = TorchTrainer(train_worker, train_loop_config=settings, scaling_config=scaling, run_config=run_config)
        return run_trainer(trainer, folder)

    set_aside_damaged_list(run_config, config.cluster.storage_patience)
    with notices.shown(), alone() if own else nullcontext():
        result = outlasting_storage(fit, folder, config.cluster.storage_patience)
    if result.checkpoint is None:
        raise RunError(f"{folder}: Ray Train ended without a checkpoint")
    return fetched(result.checkpoint, config.cluster.storage_patience)


def set_aside_damaged_list(run_config: RunConfig, patience: float) -> None:
    """Rename Ray's list of checkpoints where it is cut short or names some that are gone: Ray would refuse to start.

    Workers then look for checkpoints themselves (`RayHost.latest_checkpoint`).
    """
    from pyarrow import fs

    if run_config.name is None:
        return  # a new one each time
    filesystem, root = run_config.storage_filesystem, str(run_config.storage_path)
    if filesystem is None:
        filesystem, root = fs.FileSystem.from_uri(root)
    folder = f"{root}/{run_config.name}"
    path = f"{folder}/{CHECKPOINT_MANAGER_SNAPSHOT_FILENAME}"

    def find_harm() -> str | None:
        if not filesystem.get_file_info(path).is_file:
            return None
        with filesystem.open_input_stream(path) as file:
            text = file.read()
        try:
            names = [str(one["checkpoint_dir_name"]) for one in json.loads(text)["checkpoint_results"]]
        except (ValueError, KeyError, TypeError) as error:
            return f"cannot be read ({type(error).__name__})"
        infos = filesystem.get_file_info([f"{folder}/{name}" for name in names])
        gone = [name for name, info in zip(names, infos, strict=True) if info.type == fs.FileType.NotFound]
        return f"names {gone[0]}, which is gone" if gone else None

    what = "the list of checkpoints"
    harm = patiently(find_harm, what, seconds=patience, tell=logger.warning)
    if harm is not None:
        logger.warning("%s: %s; looking for checkpoints without it", path, harm)
        patiently(lambda: filesystem.move(path, f"{path}.damaged"), what, seconds=patience, tell=logger.warning)


@contextmanager
def fetched(checkpoint: ray.train.Checkpoint, patience: float) -> Iterator[str]:
    """A checkpoint's folder on this machine while the block runs."""
    with ExitStack() as stack:
        yield patiently(
            lambda: str(stack.enter_context(checkpoint.as_directory())),
            "the last checkpoint", seconds=patience, tell=logger.warning,
        )  # fmt: skip


def outlasting_storage(fit: Callable[[], ray.train.Result], folder: Path, patience: float) -> ray.train.Result:
    """``fit()``, begun again from the last checkpoint where Ray Train itself gave up on storage out of reach.

    Workers wait for storage on their own (`RayHost`); this is for what Ray's controller reads and writes.

    Raises:
        StorageLost: nothing was done any more for ``patience`` seconds.
    """
    log = folder / "log.jsonl"
    logged, since, pause = 0, time.monotonic(), FIRST_PAUSE
    while True:
        try:
            return fit()
        except StorageLost as error:
            now = log.stat().st_size if log.exists() else 0
            if now != logged:  # it went on in between
                logged, since, pause = now, time.monotonic(), FIRST_PAUSE
            if time.monotonic() - since >= patience:
                raise
            logger.warning("%s; going on from the last checkpoint in %.0f s", error, pause)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def scaling_config(config: Config) -> ScalingConfig:
    """Ray Train's scaling configuration for ``config.cluster``; call it when Ray is running.

    With ``gpus_per_worker`` -1 each worker gets a GPU where the cluster has one for each, and none elsewhere.
    """
    cluster = config.cluster
    gpus = cluster.gpus_per_worker
    if gpus == -1:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= cluster.fewest_workers else 0.0
    resources = {"CPU": cluster.cpus_per_worker}
    if gpus:
        resources["GPU"] = gpus
    return ScalingConfig(
        num_workers=cluster.workers, use_gpu=gpus > 0, resources_per_worker=resources,
        elastic_resize_monitor_interval_s=cluster.resize_seconds,
    )  # fmt: skip


def run_config_for(
    config: Config, folder: Path, configs: RayConfigs, notices: Notices | None = None, storage: Place | None = None
) -> RunConfig:
    """Ray Train's run configuration: the user's own where given, else ``storage`` or ``folder``, and a fixed name,
    which is what makes the same command go on where it stopped."""
    given = configs.run_config
    kept = CheckpointConfig(num_to_keep=config.cluster.checkpoints_kept)
    retried = FailureConfig(max_failures=config.cluster.max_failures)
    if given is None:
        return RunConfig(
            name="ray",
            storage_path=str(folder) if storage is None else storage.path,
            storage_filesystem=None if storage is None or storage.is_local else storage.filesystem,
            failure_config=configs.failure_config or retried,
            checkpoint_config=configs.checkpoint_config or kept,
            callbacks=[LogCallback(folder / "log.jsonl", notices)],
            logging_config=LoggingConfig(log_level="ERROR"),
        )
    return dataclasses.replace(
        given,
        failure_config=configs.failure_config or given.failure_config,
        checkpoint_config=configs.checkpoint_config or given.checkpoint_config,
        callbacks=[*(given.callbacks or []), LogCallback(folder / "log.jsonl", notices)],
    )


def check_room(scaling: ScalingConfig) -> None:
    """`require_room` for Ray Train's workers.

    Raises:
        ConfigError: more CPUs or GPUs are asked for than there are.
    """
    workers = scaling.num_workers if isinstance(scaling.num_workers, int) else scaling.num_workers[0]
    require_room(workers, scaling.resources_per_worker or {"CPU": 1}, "cluster.")


def run_trainer(trainer: TorchTrainer, folder: Path) -> ray.train.Result:
    """`TorchTrainer.fit`, with an error of ours where a worker raised one, and Ctrl-C as it was before."""
    before = signal.getsignal(signal.SIGINT)
    try:
        return trainer.fit()
    except SystemExit:
        # Ray's own handler of Ctrl-C aborts the workers and then exits the process from inside ``fit``.
        raise KeyboardInterrupt from None
    except ray.train.WorkerGroupError as error:
        failures = dict(sorted(error.worker_failures.items()))
        for failure in failures.values():
            if isinstance(failure, RaycondenseError):
                raise failure from None
        rank, first = next(iter(failures.items()))
        message = f"{folder}: worker {rank} failed: {type(first).__name__}: {first}"
        raise RunError(f"{message}; run the same command to go on from the last checkpoint") from error
    except ray.train.ControllerError as error:
        kind = StorageLost if may_pass(error.controller_failure) else RunError
        raise kind(f"{folder}: Ray Train failed: {error.controller_failure}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)

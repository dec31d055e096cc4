"""`fit`: condense a dataset, with Ray Train or in this process; called again it goes on where it stopped."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycondense.api.claim import claim_folder
from raycondense.background import importing, repeated
from raycondense.config import Config, replace_path
from raycondense.configfile import load_config, override
from raycondense.errors import ConfigError, Interrupted
from raycondense.presets import get_preset
from raycondense.remote import shown
from raycondense.storage import read_lines, read_records

if TYPE_CHECKING:
    from raycondense.api.storing import RunStorage
    from raycondense.artifact.load import Artifact
    from raycondense.cluster.configs import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from raycondense.data.staging import BetonLocation

logger = logging.getLogger("raycondense")


@dataclass(frozen=True)
class FitResult:
    """What `fit` made.

    Attributes:
        folder: run folder with ``log.jsonl``, ``run.json``, checkpoints and the artefact.
        artifact_path: the artefact's folder.
        config: the resolved configuration.
        seconds: how long this call took; next to nothing when the run was finished before.
    """

    folder: Path
    artifact_path: Path
    config: Config
    seconds: float

    @property
    def artifact(self) -> Artifact:
        """The artefact, loaded."""
        from raycondense.artifact.load import load

        return load(self.artifact_path)

    @property
    def log(self) -> list[dict[str, Any]]:
        """All log records of the run: stage, step, images (the clock), losses as ``loss/…``, images per second."""
        return read_records(self.folder / "log.jsonl")


def resolve_config(preset_or_config: str | Path | Config, overrides: Mapping[str, Any] | None = None) -> Config:
    """A configuration from a preset's name, a YAML or JSON file, or a `Config`, with overrides.

    Raises:
        ConfigError: no such preset or file, an unknown field, a value that is not valid.
    """
    if isinstance(preset_or_config, Config):
        config = preset_or_config
    elif str(preset_or_config).endswith((".yaml", ".yml", ".json")):
        config = load_config(preset_or_config)
    else:
        config = get_preset(str(preset_or_config))
    return override(config, overrides) if overrides else config


def fit(
    preset_or_config: str | Path | Config,
    *,
    data: str | Path,
    out: str | Path | None = None,
    storage: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
    scaling_config: ScalingConfig | None = None,
    run_config: RunConfig | None = None,
    failure_config: FailureConfig | None = None,
    checkpoint_config: CheckpointConfig | None = None,
    **overrides: Any,
) -> FitResult:
    """Condense a dataset into a generator. Called again with the same ``out`` it goes on where it stopped.

    ``fit("digits", data="digits/train.beton", losses={"intra": 0.2}, seed=1)``

    Args:
        preset_or_config: a preset's name, a configuration file, or a `Config`.
        data: beton of the training images (`raycondense prepare` makes one): a path, the same on every node, or a URI
            (``s3://…``, ``gs://…``, ``file://…``), from which each node copies it once to ``data.cache``.
        out: run folder; by default ``runs/<preset>``.
        storage: URI or path of a folder for this run alone, that all nodes and the next driver reach. Ray Train keeps
            its checkpoints in it, and the run's folder is copied there and brought from there, so that the same call
            goes on on another machine. By default checkpoints are in ``out``.
        device: where to compute without Ray (``cluster.workers`` 0); by default CUDA where there is one.
        progress: draw progress on standard error.
        scaling_config: Ray Train's, instead of what ``cluster`` says; likewise ``run_config``, ``failure_config``
            and ``checkpoint_config``.
        **overrides: sections or fields to change: ``seed=1``, ``losses={"intra": 0.2}``, ``**{"losses.intra": 0.2}``.

    Raises:
        ConfigError: a setting is not valid, or the run folder holds a run with other settings.
        DataError: the beton or its sidecar cannot be used.
        RunError: the storage does not answer or refuses.
        DivergedError: a loss became non-finite.
        Interrupted: Ctrl-C; the same call goes on.
        RunError: the run failed for a reason outside the settings.
    """
    from filelock import FileLock, Timeout

    from raycondense.api.storing import RunStorage
    from raycondense.data.staging import BetonLocation

    started = time.perf_counter()
    train = BetonLocation.find(data)
    config = resolve_for_data(resolve_config(preset_or_config, overrides), train)
    folder = Path(out or Path("runs") / config.name).absolute()
    artifact = folder / "artifact"
    _check_storage(storage, config, run_config)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            stored = None if storage is None else RunStorage.at(storage, folder, config.cluster.storage_patience)
            claim_folder(folder, config, train, stored)
            if not (artifact / "config.json").is_file():
                ray_configs = {
                    "scaling_config": scaling_config, "run_config": run_config,
                    "failure_config": failure_config, "checkpoint_config": checkpoint_config,
                }  # fmt: skip
                with nullcontext() if stored is None else stored.kept_up():
                    _run(config, train, folder, artifact, device, progress, ray_configs, stored)
            elif stored is not None and not stored.is_finished():
                stored.push(finished=True)
    except KeyboardInterrupt:
        raise Interrupted(f"{folder}: interrupted; run the same command to go on from its last checkpoint") from None
    except Timeout:
        raise ConfigError(f"{folder}: another process is working in this run folder; name another with --out") from None
    return FitResult(folder, artifact, config, time.perf_counter() - started)


def _run(
    config: Config,
    train: BetonLocation,
    folder: Path,
    artifact: Path,
    device: str | None,
    progress: bool,
    ray_configs: dict[str, Any],
    stored: RunStorage | None,
) -> None:
    from raycondense.display import Display

    # With Ray the images are the workers' business; what is asked of them here is in the sidecar.
    beton = train.here(config.data.cache)
    with Display(progress) as display:
        if config.cluster.workers:
            if device is not None:
                raise ConfigError(
                    f"device: found {device!r}, valid with Ray workers: none (see cluster.gpus_per_worker)"
                )
            from raycondense.cluster.start import connect

            # Ray's own processes take seconds to start, and all that follows needs torch.
            with importing("torch"):
                connect()
            from raycondense.cluster.configs import RayConfigs
            from raycondense.cluster.trainer import fit_on_ray

            with _followed(folder / "log.jsonl", display):
                place = None if stored is None else stored.place
                final = fit_on_ray(config, train, folder, RayConfigs(**ray_configs), place)
            with final as checkpoint:
                from raycondense.publish import state_from_checkpoint

                state = state_from_checkpoint(config, beton, Path(checkpoint))
        else:
            from raycondense import condense
            from raycondense.host import LocalHost

            beton = train.stage(config.data.cache, partial(display.count, "stage"))
            with _interrupt_flag() as stop:
                host = LocalHost(
                    folder, device=device, keep=config.cluster.checkpoints_kept, on_log=display.record,
                    stop=stop.is_set, patience=config.cluster.storage_patience,
                )  # fmt: skip
                state = condense.run(config, beton, host)
    from raycondense.publish import publish

    publish(state, beton, artifact)


def _check_storage(storage: str | Path | None, config: Config, run_config: RunConfig | None) -> None:
    if storage is None:
        return
    if not config.cluster.workers:
        raise ConfigError(
            f"storage: found {shown(storage)!r}, valid without Ray (cluster.workers 0): none; there checkpoints are in "
            "the run's folder"
        )
    if run_config is not None:
        raise ConfigError(f"storage: found {shown(storage)!r}, valid with a run_config: none, which names its own")


def resolve_for_data(config: Config, data: str | Path | BetonLocation) -> Config:
    """``config`` with the dataset's number of classes, after checking that both fit together.

    Args:
        config: the configuration.
        data: the beton; of one at a URI the sidecar and the size are read.

    Raises:
        DataError: no such beton, its sidecar does not fit it, its images are smaller than ``data.resolution``, or a
            class has fewer than ``condense.real_per_class`` images.
        ConfigError: more classes a step than there are classes, or fewer than workers.
        RunError: the storage does not answer or refuses.
    """
    from raycondense.data.class_plan import ClassPlan
    from raycondense.data.sidecar import check_resolution
    from raycondense.data.staging import BetonLocation

    train = data if isinstance(data, BetonLocation) else BetonLocation.find(data)
    sidecar = train.sidecar()
    if not train.is_remote:
        sidecar.verify(train.location)
    check_resolution(train.shown, sidecar, config.data.resolution)
    if config.data.num_classes not in (0, sidecar.num_classes):
        logger.info("%s has %d classes (preset: %d)", train.shown, sidecar.num_classes, config.data.num_classes)
    # The workers make this plan too; made here, its complaints come before any of them is started.
    ClassPlan(
        sidecar,
        seed=config.seed,
        classes_per_step=config.condense.classes_per_step,
        real_per_class=config.condense.real_per_class,
        read_block=config.data.read_block,
        world_size=max(1, config.cluster.most_workers),
    )
    return replace_path(config, "data.num_classes", sidecar.num_classes)


@contextmanager
def _interrupt_flag() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that a checkpoint can be saved; the second interrupts as usual."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handler(number: int, frame: Any) -> None:
        flag.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _followed(log: Path, display: Any) -> Iterator[None]:
    """Draw the records that somebody else appends to ``log`` while the block runs."""
    seen = len(read_lines(log))

    def follow() -> None:
        nonlocal seen
        lines = read_lines(log)
        for line in lines[seen:]:
            display.record(json.loads(line))
        seen = len(lines)

    with repeated(follow, 0.5):
        yield

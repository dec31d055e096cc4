"""`fit`: condense a dataset, with Ray Train or in this process; called again it goes on where it stopped."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycondense.config import Config, replace_path
from raycondense.configfile import config_to_dict, load_config, override
from raycondense.errors import ConfigError, DataError, Interrupted
from raycondense.presets import get_preset
from raycondense.storage import read_lines, write_json

if TYPE_CHECKING:
    from raycondense.artifact.load import Artifact
    from raycondense.cluster.configs import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

logger = logging.getLogger("raycondense")

# What may differ between a run and its continuation: where and how it runs and how it is judged, not what it computes.
FREE_TO_CHANGE = ("cluster", "evaluation", "condense.log_images", "condense.checkpoint_images", "data.workers")


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
        return [json.loads(line) for line in read_lines(self.folder / "log.jsonl")]


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
        data: beton of the training images (`raycondense prepare` makes one).
        out: run folder; by default ``runs/<preset>``.
        device: where to compute without Ray (``cluster.workers`` 0); by default CUDA where there is one.
        progress: draw progress on standard error.
        scaling_config: Ray Train's, instead of what ``cluster`` says; likewise ``run_config``, ``failure_config``
            and ``checkpoint_config``.
        **overrides: sections or fields to change: ``seed=1``, ``losses={"intra": 0.2}``, ``**{"losses.intra": 0.2}``.

    Raises:
        ConfigError: a setting is not valid, or the run folder holds a run with other settings.
        DataError: the beton or its sidecar cannot be used.
        DivergedError: a loss became non-finite.
        Interrupted: Ctrl-C; the same call goes on.
        RunError: the run failed for a reason outside the settings.
    """
    from filelock import FileLock, Timeout

    started = time.perf_counter()
    train = Path(data).absolute()
    config = resolve_for_data(resolve_config(preset_or_config, overrides), train)
    folder = Path(out or Path("runs") / config.name).absolute()
    artifact = folder / "artifact"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            claim_folder(folder, config, train)
            if not (artifact / "config.json").is_file():
                ray_configs = {
                    "scaling_config": scaling_config, "run_config": run_config,
                    "failure_config": failure_config, "checkpoint_config": checkpoint_config,
                }  # fmt: skip
                _run(config, train, folder, artifact, device, progress, ray_configs)
    except KeyboardInterrupt:
        raise Interrupted(f"{folder}: interrupted; run the same command to go on from its last checkpoint") from None
    except Timeout:
        raise ConfigError(f"{folder}: another process is working in this run folder; name another with --out") from None
    return FitResult(folder, artifact, config, time.perf_counter() - started)


def _run(
    config: Config,
    train: Path,
    folder: Path,
    artifact: Path,
    device: str | None,
    progress: bool,
    ray_configs: dict[str, Any],
) -> None:
    from raycondense.display import Display
    from raycondense.publish import publish, state_from_checkpoint

    with Display(progress) as display:
        if config.cluster.workers:
            from raycondense.cluster.configs import RayConfigs
            from raycondense.cluster.trainer import fit_on_ray

            if device is not None:
                raise ConfigError(
                    f"device: found {device!r}, valid with Ray workers: none (see cluster.gpus_per_worker)"
                )
            with _followed(folder / "log.jsonl", display):
                final = fit_on_ray(config, train, folder, RayConfigs(**ray_configs))
            with final as checkpoint:
                state = state_from_checkpoint(config, train, Path(checkpoint))
        else:
            from raycondense import condense
            from raycondense.host import LocalHost

            with _interrupt_flag() as stop:
                host = LocalHost(
                    folder, device=device, keep=config.cluster.checkpoints_kept, on_log=display.record,
                    stop=stop.is_set, patience=config.cluster.storage_patience,
                )  # fmt: skip
                state = condense.run(config, train, host)
    publish(state, train, artifact)


def resolve_for_data(config: Config, train: Path) -> Config:
    """``config`` with the dataset's number of classes, after checking that both fit together.

    Raises:
        DataError: no such beton, its sidecar does not fit it, its images are smaller than ``data.resolution``, or a
            class has fewer than ``condense.real_per_class`` images.
        ConfigError: more classes a step than there are classes, or fewer than workers.
    """
    from raycondense.data.batches import check_resolution
    from raycondense.data.class_plan import ClassPlan
    from raycondense.data.sidecar import Sidecar

    if train.suffix != ".beton":
        raise DataError(f"{train}: not a beton; make one with: raycondense prepare SOURCE OUT.beton")
    sidecar = Sidecar.load(train)
    sidecar.verify(train)
    check_resolution(train, sidecar, config.data.resolution)
    if config.data.num_classes not in (0, sidecar.num_classes):
        logger.info("%s has %d classes (preset: %d)", train, sidecar.num_classes, config.data.num_classes)
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


def claim_folder(folder: Path, config: Config, train: Path) -> None:
    """Write ``run.json`` into a fresh run folder; in one that has it, check that it is of the same run.

    Raises:
        ConfigError: the folder holds a run with other settings or other data.
    """
    from raycondense.data.sidecar import Sidecar

    now = {"config": config_to_dict(config), "data": {"path": str(train), "sha256": Sidecar.load(train).sha256}}
    path = folder / "run.json"
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            changes = list(_differences(before["config"], now["config"])) if before != now else []
            same_data = before["data"]["sha256"] == now["data"]["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: damaged ({error}); name another run folder with --out") from error
        if not same_data:
            raise ConfigError(
                f"{folder}: holds a run on other data ({before['data']['path']}); name another with --out"
            )
        if changes:
            name, old, new = changes[0]
            more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
            raise ConfigError(
                f"{folder}: holds a run with {name} = {old!r}, now {new!r}{more}; name another with --out"
            )
    write_json(path, now)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key in sorted(before.keys() | now.keys()):
        name, old, new = f"{prefix}{key}", before.get(key), now.get(key)
        if name in FREE_TO_CHANGE or old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{name}.")
        else:
            yield name, old, new


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
    ended = threading.Event()

    def follow() -> None:
        seen = len(read_lines(log))
        while True:
            last = ended.wait(0.5)
            lines = read_lines(log)
            for line in lines[seen:]:
                display.record(json.loads(line))
            seen = len(lines)
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

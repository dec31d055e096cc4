"""`sweep`: search settings with many short runs, and find out what the best of them are worth."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raycondense.api.fitting import resolve_config, resolve_for_data
from raycondense.config import Config, EvaluationConfig
from raycondense.errors import ConfigError, DataError, Interrupted, choices_message
from raycondense.redact import without_secrets
from raycondense.tuning.plan import SEARCHES, Resources, Search, SweepPlan, rungs_of
from raycondense.tuning.records import SweepFolder
from raycondense.tuning.result import SweepResult, format_value
from raycondense.tuning.space import Space

STUDENTS = 2
"""Students that judge a trial at a rung."""
SAMPLES = 3
"""Examples that a dry run shows."""


def sweep(
    space: str | Path | Space,
    preset_or_config: str | Path | Config,
    *,
    data: str | Path,
    val_data: str | Path | None = None,
    test_data: str | Path | None = None,
    trials: int = 20,
    out: str | Path | None = None,
    workers_per_trial: int = 1,
    gpus_per_trial: float = 0.0,
    concurrent: int = 0,
    search: Search = "tpe",
    storage: str | None = None,
    rungs: int = 3,
    winners: int = 3,
    students: int | None = None,
    progress: bool = True,
    **overrides: Any,
) -> SweepResult:
    """Search the settings of ``space``. Called again with the same ``out`` it goes on; more ``trials`` are added.

    ``sweep("tune_spaces/loss_weights.yaml", "digits", data="digits/train.beton", trials=30)``

    Args:
        space: a space's file (see docs/sweep.md), or the space.
        preset_or_config: a preset's name, a configuration file, or a `Config`: what trials start from, and the first
            trial.
        data: beton of the training images.
        val_data: beton of the images that trials are judged by; None is ``<stem>-val.beton`` beside ``data``.
        test_data: beton that the winners are scored on with the whole protocol; None is ``val_data``.
        trials: how many altogether, those of earlier calls included.
        out: folder of the sweep; by default ``sweeps/<preset>-<space>``.
        workers_per_trial: Ray Train workers of a trial.
        gpus_per_trial: GPUs of a trial, also a fraction, shared out among its workers.
        concurrent: most trials at a time; 0 is as many as fit beside the pool.
        search: tpe, random, cmaes (one objective), nsga2 or nsga3.
        storage: URL of a database for Optuna's study; None keeps it in a journal file in ``out``.
        rungs: how often a trial is judged and may be stopped: at the end, at a third of its images, at a ninth, ….
        winners: how many of the best are evaluated with the whole protocol by a pool, which takes a CPU; 0 is none.
        students: students that judge a trial; None is 2. Their seeds are the same for all trials.
        progress: draw progress on standard error.
        **overrides: sections or fields of the configuration to change; ``seed`` is the search's too.

    Raises:
        ConfigError: the space, a setting or an argument is not valid, the folder holds another sweep, or the cluster
            has not room enough.
        DataError: a beton or its sidecar cannot be used, or there is no validation beton.
        DependencyError: a package is missing that the storage needs.
        Interrupted: Ctrl-C; the same call goes on.
        RunError: the sweep failed for a reason outside the settings. A trial that fails does not end the sweep.
    """
    from filelock import FileLock, Timeout

    plan = plan_sweep(
        space, preset_or_config, data=data, val_data=val_data, test_data=test_data, trials=trials, out=out,
        workers_per_trial=workers_per_trial, gpus_per_trial=gpus_per_trial, concurrent=concurrent, search=search,
        storage=storage, rungs=rungs, winners=winners, students=students, overrides=overrides,
    )  # fmt: skip
    folder = SweepFolder(plan.folder)
    plan.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(plan.folder / ".lock", timeout=0):
            folder.claim(plan.to_dict())
            from raycondense.cluster.sweep import run_sweep
            from raycondense.report.sweep import write_sweep_report

            run_sweep(plan, progress=progress)
            write_sweep_report(plan.folder)
    except KeyboardInterrupt:
        raise Interrupted(f"{plan.folder}: interrupted; run the same command to go on") from None
    except Timeout:
        raise ConfigError(
            f"{plan.folder}: another process is working in this folder; name another with --out"
        ) from None
    return SweepResult(plan.folder)


def plan_sweep(
    space: str | Path | Space,
    preset_or_config: str | Path | Config,
    *,
    data: str | Path,
    val_data: str | Path | None = None,
    test_data: str | Path | None = None,
    trials: int = 20,
    out: str | Path | None = None,
    workers_per_trial: int = 1,
    gpus_per_trial: float = 0.0,
    concurrent: int = 0,
    search: Search = "tpe",
    storage: str | None = None,
    rungs: int = 3,
    winners: int = 3,
    students: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> SweepPlan:
    """What `sweep` with the same arguments would do, after all checks that need no cluster; writes nothing.

    Raises:
        ConfigError, DataError: as in `sweep`.
    """
    from raycondense.data.sidecar import Sidecar
    from raycondense.evaluation.score import check_test_split

    train = Path(data).absolute()
    validation = Path(val_data).absolute() if val_data is not None else train.with_name(f"{train.stem}-val.beton")
    config = resolve_config(preset_or_config, overrides)
    loaded = space if isinstance(space, Space) else Space.load(space)
    resources = resources_of(config, workers_per_trial, gpus_per_trial, concurrent, winners)
    fitted, heights, judge = check_search(loaded, config, search=search, rungs=rungs, students=students)
    check_numbers(trials=(trials, 1), winners=(winners, 0))
    check_storage(storage)
    # The workers of a trial are those of the sweep; what they ask of the data is checked with them.
    workers = dataclasses.replace(config.cluster, workers=workers_per_trial)
    resolved = resolve_for_data(dataclasses.replace(config, cluster=workers), train)
    config = dataclasses.replace(resolved, cluster=config.cluster)
    classes = Sidecar.load(train).classes
    if val_data is None and not validation.is_file():
        raise DataError(
            f"{validation}: no such file, and trials are judged by validation images: cut them off the training images "
            "with raycondense prepare SOURCE OUT.beton --val-fraction 0.1, or name a beton with --val-data"
        )
    sidecars = {}
    for path in [validation] if test_data is None else [validation, Path(test_data).absolute()]:
        sidecars[path] = check_test_split(path, classes=classes, resolution=config.data.resolution)
        sidecars[path].verify(path)
    if sidecars[validation].split == "test":
        raise ConfigError(
            f"{validation}: split: found test, valid: a validation split; a sweep that chooses by test images says "
            "nothing about them any more (--test-data is for scoring the winners)"
        )
    if sidecars[validation].sha256 == Sidecar.load(train).sha256:
        raise ConfigError(f"{validation}: found the training images, valid: a validation split")
    tested = None if test_data is None else Path(test_data).absolute()
    start, moved = fitted.start(config)
    return SweepPlan(
        folder=Path(out or Path("sweeps") / f"{config.name}-{loaded.name}").absolute(),
        space=fitted,
        start=start,
        starts=tuple(fitted.more_starts(config)),
        moved=moved,
        config=config,
        data=train,
        data_sha256=Sidecar.load(train).sha256,
        val_data=validation,
        val_sha256=sidecars[validation].sha256,
        test_data=tested,
        test_sha256=None if tested is None else sidecars[tested].sha256,
        trials=trials,
        rungs=heights,
        judge=judge,
        winners=winners,
        resources=resources,
        search=search,
        seed=config.seed,
        storage=storage,
    )


def resources_of(config: Config, workers: int, gpus: float, concurrent: int, winners: int) -> Resources:
    """What trials and the pool take.

    Raises:
        ConfigError: a number that is not valid.
    """
    check_numbers(workers_per_trial=(workers, 1), concurrent=(concurrent, 0), gpus_per_trial=(gpus, 0))
    return Resources(
        workers=workers,
        cpus_per_worker=config.cluster.cpus_per_worker,
        gpus=gpus,
        concurrent=concurrent,
        pool_workers=1 if winners else 0,
    )


def check_search(
    space: Space, config: Config, *, search: str, rungs: int, students: int | None
) -> tuple[Space, tuple[int, ...], EvaluationConfig]:
    """The space fitted to ``config``, the rungs, and the protocol that judges, after their checks.

    Raises:
        ConfigError: the space does not fit, an unknown search or one that cannot have the space's objectives, rungs
            that are not valid.
    """
    from raycondense.evaluation.protocols import protocol

    if search not in SEARCHES:
        raise ConfigError(f"search: {choices_message('search', search, SEARCHES)}")
    if search == "cmaes" and len(space.objectives) > 1:
        raise ConfigError("search: found cmaes for two objectives, valid: tpe, random, nsga2, nsga3")
    check_numbers(rungs=(rungs, 1), **({} if students is None else {"students": (students, 1)}))
    step = config.condense.classes_per_step * config.condense.real_per_class * config.condense.accumulate
    judge = dataclasses.replace(
        protocol("fast", config.evaluation),
        # The student of the dataset: width 128 as a rule, less for tiny images.
        width=config.evaluation.width,
        architectures=config.evaluation.architectures[:1],
        accountings=("bank",),
        students=students or STUDENTS,
        robustness=False,
    )
    return space.for_config(config), rungs_of(config.condense.images, rungs, step_images=step), judge


def check_numbers(**numbers: tuple[float, int]) -> None:
    """Compare numbers with the least that is valid.

    Raises:
        ConfigError: one is less, or not finite.
    """
    for name, (found, least) in numbers.items():
        if not least <= found < float("inf"):
            raise ConfigError(f"{name}: found {found!r}, valid: {least} or more")


def check_storage(storage: str | None) -> None:
    """Refuse what is no database's URL.

    Raises:
        ConfigError: it is not.
    """
    if storage is not None and "://" not in storage:
        raise ConfigError(
            f"storage: found {without_secrets(storage)!r}, valid: a database's URL, e.g. sqlite:///study.db or "
            "postgresql://user@host/name (without one the study is a journal file in the sweep's folder)"
        )


def describe_sweep(
    space: Space,
    config: Config,
    *,
    resources: Resources,
    rungs: tuple[int, ...],
    judge: EvaluationConfig,
    trials: int,
    there: Mapping[str, float],
    where: str = "this machine",
) -> list[str]:
    """What a dry run prints: the space, the first trial, examples, rungs, and the resources that will be taken.

    Args:
        space: fitted to ``config``.
        config: what trials start from.
        resources: of trials and pool.
        rungs: images seen at which trials are judged.
        judge: how they are judged.
        trials: how many.
        there: what is there, by Ray's names.
        where: where that is.
    """
    start, moved = space.start(config)
    objectives = {"accuracy": "most validation accuracy", "bytes": "least bytes"}
    lines = [f"space {space.name}: {' '.join(space.description.split())}".rstrip(": ")]
    lines += [f"  {line}" for line in space.lines()]
    lines += [f"  {line}" for line in space.left_out]
    lines.append(f"objectives: {' and '.join(objectives[name] for name in space.objectives)}")
    lines += ["", f"trial 0, as {config.name} has it: {_values(start)}"]
    lines += [f"  {path}: its own value lies outside of the space, the nearest one inside is taken" for path in moved]
    rng = random.Random(config.seed)
    for point in space.more_starts(config):
        lines.append(f"starting point: {_values(point)}")
    lines += [f"for example: {_values(space.sample(rng))}" for _ in range(SAMPLES)]
    heights = ", ".join(f"{images:,}" for images in rungs)
    lines += [
        "",
        f"{trials} trials, judged at {heights} images by {judge.students} students ({judge.architectures[0]}, at most "
        f"{judge.max_steps} steps, fewer at lower rungs)",
    ]
    pool = f" + {_amounts(resources.pool)} for the pool" if resources.pool_workers else ""
    lines.append(f"resources: {_amounts(resources.trial)} a trial{pool}; {where} has {_amounts(there)}")
    short = resources.shortage(there, where)
    fitting = resources.fitting(there)
    lines.append(f"short: {short}" if short else f"{fitting} trial{'s' * (fitting != 1)} at a time")
    if there.get("GPU") and not resources.gpus:
        lines.append("trials run on CPUs although there are GPUs: --gpus-per-trial says how much of one each takes")
    return lines


def resources_here() -> dict[str, float]:
    """CPUs and GPUs of this machine that this process may use, by Ray's names."""
    import torch

    from raycondense.data.cpus import usable_cpus

    return {"CPU": float(usable_cpus()), "GPU": float(torch.cuda.device_count())}


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} {format_value(value)}" for path, value in values.items())


def _amounts(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}{'s' * (amount != 1)}" for name, amount in resources.items())

"""What ``raycondense sweep`` does."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from raycondense.cli import parse
from raycondense.config import Config
from raycondense.errors import ConfigError
from raycondense.tuning.plan import Search
from raycondense.tuning.result import PROMOTED_ENDINGS, SweepResult
from raycondense.tuning.space import Space
from raycondense.verbs import start_config


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Search the settings of SPACE with many short runs, judged by validation images. The same command goes on where an
    interrupted one stopped; a larger --trials adds trials."""

    space: tyro.conf.Positional[Path]
    """The space, YAML or JSON: tune_spaces/ holds some to start from, docs/sweep.md explains them."""
    preset: str | None = None
    """Preset that trials start from (`raycondense presets` lists them)."""
    config_file: Path | None = None
    """Configuration to start from instead, YAML or JSON."""
    data: Path | None = None
    """Beton of the training images; a dry run can do without."""
    val_data: Path | None = None
    """Beton that trials are judged by; by default <stem>-val.beton beside the training images."""
    test_data: Path | None = None
    """Beton that winners are scored on; by default the validation images."""
    trials: int = 20
    """Trials altogether, those of earlier calls included."""
    out: Path | None = None
    """Folder of the sweep; by default sweeps/<preset>-<space>."""
    workers_per_trial: int = 1
    """Ray Train workers of a trial."""
    gpus_per_trial: float = 0.0
    """GPUs of a trial, also a fraction, shared out among its workers."""
    concurrent: int = 0
    """Most trials at a time; 0 is as many as fit beside the pool."""
    search: Search = "tpe"
    """How values are proposed: tpe (multivariate, with constant liar), random, cmaes, or nsga2 and nsga3 for two
    objectives."""
    storage: str | None = None
    """URL of a database for Optuna's study, e.g. sqlite:///study.db; by default a journal file in the folder."""
    rungs: int = 3
    """How often a trial is judged and may be stopped: at its end, at a third of its images, at a ninth, …"""
    winners: int = 3
    """How many of the best are evaluated with the whole protocol while the sweep goes on; 0 is none."""
    students: int | None = None
    """Students that judge a trial; by default 2."""
    promote: Path | None = None
    """When all is done, write the best trial's configuration to this .yaml, for `raycondense fit --config-file`."""
    dry_run: bool = False
    """Print the space, examples and the resources that will be taken, and stop."""
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


def sweep(words: list[str]) -> int:
    """``raycondense sweep SPACE --preset digits --data train.beton``"""
    default = Sweep(space=tyro.MISSING, config=start_config(words))
    flags = parse(Sweep, "sweep", words, default=default)
    if flags.promote is not None and flags.promote.suffix.lower() not in PROMOTED_ENDINGS:
        raise ConfigError(f"--promote: found {flags.promote}, valid: a file that ends in {', '.join(PROMOTED_ENDINGS)}")
    if flags.dry_run:
        print("\n".join(_dry_run(flags)))
        return 0
    from raycondense import api

    if flags.data is None:
        raise ConfigError(
            "--data: missing; valid: a .beton, made with: raycondense prepare SOURCE OUT.beton --val-fraction 0.1"
        )
    result = api.sweep(flags.space, flags.config, data=flags.data, **_arguments(flags))
    print("\n".join(_found(result)))
    if flags.promote is not None:
        result.promote(flags.promote)
        print(f"{flags.promote}: trial {result.best.number}, for raycondense fit --config-file {flags.promote}")
    return 0


def _arguments(flags: Sweep) -> dict[str, Any]:
    """What the command line hands on as it is."""
    names = (
        "val_data", "test_data", "trials", "out", "workers_per_trial", "gpus_per_trial", "concurrent", "search",
        "storage", "rungs", "winners", "students",
    )  # fmt: skip
    return {name: getattr(flags, name) for name in names}


def _dry_run(flags: Sweep) -> list[str]:
    from raycondense.api import sweeping

    if flags.data is not None:
        plan = sweeping.plan_sweep(flags.space, flags.config, data=flags.data, **_arguments(flags))
        space, config, resources, rungs, judge = plan.space, plan.config, plan.resources, plan.rungs, plan.judge
    else:
        config = flags.config
        sweeping.check_numbers(trials=(flags.trials, 1), winners=(flags.winners, 0))
        space, rungs, judge = sweeping.check_search(
            Space.load(flags.space), config, search=flags.search, rungs=flags.rungs, students=flags.students
        )
        resources = sweeping.resources_of(
            config, flags.workers_per_trial, flags.gpus_per_trial, flags.concurrent, flags.winners
        )
    return sweeping.describe_sweep(
        space, config, resources=resources, rungs=rungs, judge=judge, trials=flags.trials,
        there=sweeping.resources_here(),
        where=f"this machine{' (not the cluster that RAY_ADDRESS names)' if os.environ.get('RAY_ADDRESS') else ''}",
    )  # fmt: skip


def _found(result: SweepResult) -> list[str]:
    folder = result.records
    lines = [result.table(), ""]
    lines += [f"winner {winner.rank}: trial {winner.trial}, {winner.artifact}" for winner in result.winners]
    if folder.store.is_dir():
        lines.append(f"their evaluation: raycondense leaderboard {folder.store}")
    if folder.report.is_file():
        lines.append(f"report: {folder.report}")
    return lines

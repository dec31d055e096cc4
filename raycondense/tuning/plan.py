"""A sweep that is resolved and checked: everything that its trials and its pool need, as plain values and paths.

`raycondense.api.sweeping` makes a plan from what a user typed; `raycondense.cluster.sweep` carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from raycondense.config import Config, EvaluationConfig
from raycondense.configfile import config_to_dict
from raycondense.redact import without_secrets
from raycondense.tuning.space import Space

Search = Literal["tpe", "random", "cmaes", "nsga2", "nsga3"]
SEARCHES: tuple[str, ...] = get_args(Search)
REDUCTION = 3
"""Each rung takes so many times the images of the one below, and ASHA lets one trial of so many go on (its η)."""
LEAST_STEPS = 100
"""Steps of the students at the lowest rungs: fewer no longer tell bad trials from good ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """CPUs and GPUs that trials and the pool of the winners' evaluation take."""

    workers: int = 1
    """Ray Train workers of a trial."""
    cpus_per_worker: float = 1.0
    """CPUs of each of them."""
    gpus: float = 0.0
    """GPUs of a whole trial, shared out among its workers."""
    concurrent: int = 0
    """Most trials at a time; 0 is as many as fit."""
    pool_workers: int = 1
    """Actors that evaluate winners while the sweep goes on; 0 where there are none."""

    @property
    def gpus_per_worker(self) -> float:
        """Share of a GPU that one worker of a trial, or one actor of the pool, takes."""
        return self.gpus / self.workers

    @property
    def trial(self) -> dict[str, float]:
        """What one trial takes, by Ray's names."""
        return _resources(self.workers * self.cpus_per_worker, self.gpus)

    @property
    def pool(self) -> dict[str, float]:
        """What the pool takes, by Ray's names."""
        return _resources(float(self.pool_workers), self.pool_workers * self.gpus_per_worker)

    def fitting(self, there: Mapping[str, float]) -> int:
        """How many trials run at a time beside the pool where ``there`` is what the cluster has; 0 where none fits."""
        rooms = [
            int((there.get(name, 0.0) - self.pool.get(name, 0.0)) / amount + 1e-6)
            for name, amount in self.trial.items()
        ]
        most = max(0, min(rooms))
        return min(most, self.concurrent) if self.concurrent else most

    def shortage(self, there: Mapping[str, float], where: str = "the cluster") -> str:
        """What is missing for the trials that were asked for (one, where as many as fit were) and the pool.

        Returns:
            E.g. ``needs 3 CPUs a trial + 1 for the pool, the cluster has 2``; empty where everything fits.
        """
        trials = max(1, self.concurrent)
        for name, amount in self.trial.items():
            pool, has = self.pool.get(name, 0.0), there.get(name, 0.0)
            if trials * amount + pool > has + 1e-6:
                several = f" for each of {trials} trials" if trials > 1 else " a trial"
                plural = "" if amount == 1 else "s"
                beside = f" + {pool:g} for the pool" if pool else ""
                return f"needs {amount:g} {name}{plural}{several}{beside}, {where} has {has:g}"
        return ""


def _resources(cpus: float, gpus: float) -> dict[str, float]:
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {})}


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepPlan:
    """A whole sweep. All paths are absolute, and the same on every node of a cluster."""

    folder: Path
    """`raycondense.tuning.records.SweepFolder` of the sweep; the caller holds its lock."""
    space: Space
    """What is searched, resolved for ``config``: no relative range and no parameter that never applies is left."""
    start: Mapping[str, Any]
    """The configuration's own values in ``space``: the first trial."""
    starts: tuple[Mapping[str, Any], ...] = ()
    """The space's own starting points: the trials after the first."""
    moved: tuple[str, ...]
    """Parameters whose own value lies outside of the space, so that ``start`` has the nearest one in it."""
    config: Config
    """What trials start from, its data resolved; ``cluster`` is the user's own (see `trial_config`)."""
    data: Path
    """Beton of the training images."""
    data_sha256: str
    val_data: Path
    """Beton of the validation images, by which trials are judged."""
    val_sha256: str
    test_data: Path | None
    """Beton that winners are scored on; None is ``val_data``."""
    test_sha256: str | None
    trials: int
    """Trials altogether, those of earlier calls included."""
    rungs: tuple[int, ...]
    """Real images seen in the stage ``condense`` at which trials are judged, ascending; the last is the whole run."""
    judge: EvaluationConfig
    """How trials are judged at the last rung: the protocol ``fast`` with fixed students and one architecture; see
    `judge_at` for the lower ones."""
    winners: int
    """How many of the best trials get the full protocol (``config.evaluation``); 0 is none."""
    resources: Resources
    search: Search
    seed: int
    """Seed of the search; the trials' own is ``config.seed``, the same for all."""
    storage: str | None
    """URL of Optuna's storage; None is the journal file ``SweepFolder.study``."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """``("accuracy",)``, which is maximised, or ``("accuracy", "bytes")``, of which the second is minimised."""
        return self.space.objectives

    @property
    def points(self) -> tuple[Mapping[str, Any], ...]:
        """Values of the first trials: the configuration's own, and those that the space names."""
        return (self.start, *self.starts)

    @property
    def name(self) -> str:
        """Name of the sweep and of its Optuna study."""
        return self.folder.name

    @property
    def ipc(self) -> int:
        """Images per class of the bank that trials are judged by: the largest."""
        return max(self.config.codebook.ipc)

    def judge_at(self, images: int) -> EvaluationConfig:
        """How trials are judged that have seen so many real images: the lower the rung, the fewer steps.

        Trials are compared inside of a rung only, where all have the same budget. The low rungs, which most trials
        reach, have to tell the bad from the rest, and would otherwise cost more than the training between them.
        """
        below = sum(rung > images for rung in self.rungs)
        steps = self.judge.max_steps
        return replace(self.judge, max_steps=min(steps, max(LEAST_STEPS, steps // REDUCTION**below)))

    def trial_config(self, values: Mapping[str, Any]) -> Config:
        """The configuration of a trial: ``values`` applied, and workers with the trial's resources.

        Raises:
            ConfigError: the values do not go together.
        """
        resources = self.resources
        config = self.space.apply(self.config, values)
        cluster = replace(
            config.cluster,
            workers=resources.workers,
            cpus_per_worker=resources.cpus_per_worker,
            gpus_per_worker=resources.gpus_per_worker,
        )
        return replace(config, cluster=cluster)

    def to_dict(self) -> dict[str, Any]:
        """What ``sweep.json`` says: plain values, without passwords."""
        return {
            "space": self.space.to_dict(),
            "start": dict(self.start),
            "config": config_to_dict(self.config),
            "data": {"path": str(self.data), "sha256": self.data_sha256},
            "val_data": {"path": str(self.val_data), "sha256": self.val_sha256},
            "test_data": None if self.test_data is None else {"path": str(self.test_data), "sha256": self.test_sha256},
            "objectives": list(self.objectives),
            "rungs": list(self.rungs),
            "judge": config_to_dict(self.judge),
            "search": self.search,
            "seed": self.seed,
            "storage": None if self.storage is None else without_secrets(self.storage),
            "trials": self.trials,
            "winners": self.winners,
            "resources": {"trial": self.resources.trial, "pool": self.resources.pool},
        }


def rungs_of(images: int, number: int, *, step_images: int = 1) -> tuple[int, ...]:
    """Rungs, each `REDUCTION` times the one below, the last at ``images``.

    Args:
        images: real images that a whole run sees.
        number: how many rungs; fewer where the lowest would be less than one step.
        step_images: real images of a step.
    """
    found: Sequence[int] = [images // REDUCTION**power for power in reversed(range(number))]
    return tuple(rung for rung in found if rung >= step_images)

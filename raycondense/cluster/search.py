"""Optuna under Ray Tune: the study of a sweep, and the searcher that asks it for trials and tells it what they gave.

Not Ray's own ``OptunaSearch``: that tells Optuna of a trial stopped early as of a complete one, so that scores after
different budgets are compared, and knows a trial only as long as its process lives. Here the study is all there is to
know: a stopped trial is pruned in it, and one that a killed driver left running is taken up again under its number.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from raycondense.cluster.cma import CarefulCmaEsSampler
from raycondense.errors import ConfigError, DependencyError, RunError
from raycondense.evaluation.work import content_hash
from raycondense.redact import without_secrets
from raycondense.seeds import derive_seed
from raycondense.tuning.plan import SweepPlan
from raycondense.tuning.records import SweepFolder, TrialRecord

logger = logging.getLogger("raycondense")

IDENTITY = "raycondense_sweep"
"""Attribute of a study: the content hash of what all of its trials have in common."""
WORST = 0.0
"""Accuracy of a trial that found none."""


def open_study(plan: SweepPlan) -> optuna.Study:
    """The study of a sweep, made where there is none yet, with the configuration's own values as its first trial.

    Raises:
        ConfigError: the storage cannot be opened, or holds another sweep under this name.
        DependencyError: the database's driver is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)[: len(plan.objectives)]
    study = optuna.create_study(
        study_name=plan.name, storage=open_storage(plan), directions=directions, load_if_exists=True
    )
    identity = content_hash(
        [plan.space.to_dict(), list(plan.objectives), plan.data_sha256, plan.val_sha256, list(plan.rungs), plan.seed]
    )
    found = study.user_attrs.get(IDENTITY)
    if not study.get_trials(deepcopy=False):
        study.set_user_attr(IDENTITY, identity)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(plan.objectives))
        for point in plan.points:
            study.enqueue_trial(plan.space.suggestions(point))
    elif found != identity or (finished(study) and not SweepFolder(plan.folder).events.exists()):
        where = plan.folder / "study.log" if plan.storage is None else without_secrets(plan.storage)
        raise ConfigError(
            f"{where}: study {plan.name!r} is not this sweep's, which lies in {plan.folder}; name another folder "
            "with --out, whose name is the study's"
        )
    return study


def open_storage(plan: SweepPlan) -> BaseStorage:
    """Optuna's storage: the journal in the sweep's folder, or the database that the user named.

    Raises:
        ConfigError, DependencyError: see `open_study`.
    """
    if plan.storage is None:
        journal = SweepFolder(plan.folder).study
        journal.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(journal)))
    shown = without_secrets(plan.storage)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return RDBStorage(plan.storage, engine_kwargs={"pool_pre_ping": True})
    except ImportError as error:
        raise DependencyError(f"storage: {shown} needs a driver that does not import: {error}") from error
    except Exception as error:  # SQLAlchemy's and the driver's own classes, which nobody else here knows
        reason = str(error).strip().splitlines()[0].replace(plan.storage, shown) if str(error).strip() else repr(error)
        raise ConfigError(
            f"storage: cannot open {shown}: {reason}; valid: an SQLAlchemy URL such as sqlite:///study.db or "
            "postgresql://user:password@host/database"
        ) from error


def sampler(plan: SweepPlan, number: int) -> BaseSampler:
    """Optuna's sampler for trial ``number``: seeded by it, so that a sweep that goes on draws nothing twice."""
    seed = derive_seed(plan.seed, f"search {number}") % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match plan.search:
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=population(plan))
            case "nsga3":
                return optuna.samplers.NSGAIIISampler(seed=seed, population_size=population(plan))
            case "cmaes":
                return CarefulCmaEsSampler(seed=seed, warn_independent_sampling=False)
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def population(plan: SweepPlan) -> int:
    """Trials of a generation of NSGA-II and NSGA-III: a fifth of all, so that a sweep has some generations."""
    return max(4, min(50, plan.trials // 5))


class StudySearch(Searcher):
    """Suggests the trials of a sweep to Ray Tune, each as ``{"trial": number, "values": {path: value}}``.

    Args:
        plan: the sweep.
        study: as `open_study` gave it.
        resumed: trials that an earlier call left running: they come first, under their old numbers.
    """

    def __init__(self, plan: SweepPlan, study: optuna.Study, resumed: Sequence[TrialRecord] = ()) -> None:
        super().__init__(metric="accuracy", mode="max")
        self._plan, self._study = plan, study
        self._resumed = list(resumed)
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Tune's question for the next trial."""
        if self._resumed:
            record = self._resumed.pop(0)
            number, values = record.number, dict(record.values)
        else:
            # The study decides what a trial is called: asked once, a number is never given again.
            self._study.sampler = sampler(self._plan, len(self._study.get_trials(deepcopy=False)))
            asked = self._study.ask()
            number, values = asked.number, self._plan.space.draw(asked, whole=self._plan.search == "cmaes")
        self._numbers[trial_id] = number
        return {"trial": number, "values": values}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A rung was reached, and the trial goes on."""
        _note(self._study, self._numbers[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended, in whatever way: it never stays running in the study."""
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return
        if error or not result or "accuracy" not in result:
            worst = {"final": True, "accuracy": WORST, "bytes": worst_bytes(self._plan, self._study)}
            tell(self._plan, self._study, number, worst)
        else:
            tell(self._plan, self._study, number, result)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study holds everything (see `take_up`)."""
        Path(checkpoint_path).write_text("{}", encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Never called: a sweep goes on from its study."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles searchers into its own record of an experiment, which nothing reads here."""
        return {}


def tell(plan: SweepPlan, study: optuna.Study, number: int, result: Mapping[str, Any]) -> None:
    """Tell the study how a trial has ended: with its ``final`` result, or stopped after the one of a rung."""
    if not result.get("final"):
        _note(study, number, result)
        study.tell(number, state=TrialState.PRUNED)
        return
    values = [float(result.get(name, math.inf)) for name in plan.objectives]
    if not all(map(math.isfinite, values)):
        raise RunError(f"trial {number}: {', '.join(plan.objectives)}: found {values}, which a study cannot hold")
    study.tell(number, values)


def worst_bytes(plan: SweepPlan, study: optuna.Study) -> int:
    """More bytes than any trial so far had: what a trial that left nothing is told with."""
    if "bytes" not in plan.objectives:
        return 0
    position = plan.objectives.index("bytes")
    seen = [int(trial.values[position]) for trial in _numbers(study, TrialState.COMPLETE)]
    return max(seen, default=2**30)


def take_up(plan: SweepPlan, study: optuna.Study) -> list[TrialRecord]:
    """Bring study and folder of an earlier call together, which a kill may have left one event apart.

    Returns:
        The trials that were running.
    """
    folder = SweepFolder(plan.folder)
    records = {record.number: record for record in folder.trials()}
    running = []
    for trial in study.get_trials(deepcopy=False):
        record = records.get(trial.number)
        if trial.state == TrialState.RUNNING:
            if record is None:
                # Asked for and never started: nobody knows its values, but for those of the starting points.
                study.tell(trial.number, state=TrialState.FAIL)
                if trial.number < len(plan.points):
                    study.enqueue_trial(plan.space.suggestions(plan.points[trial.number]))
            elif record.ended:
                final = record.state != "stopped"
                tell(plan, study, trial.number, _as_result(plan, study, record) | {"final": final})
            else:
                running.append(record)
        elif trial.state.is_finished() and record is not None and not record.ended:
            state = "stopped" if trial.state == TrialState.PRUNED else "complete" if record.artifact else "failed"
            reason = None if state == "complete" else "the sweep was killed as this trial ended"
            folder.append({"trial": trial.number, "event": "end", "state": state, "reason": reason})
    return running


def finished(study: optuna.Study) -> int:
    """How many trials have ended, those that were never started apart."""
    return len(_numbers(study, TrialState.COMPLETE, TrialState.PRUNED))


def _as_result(plan: SweepPlan, study: optuna.Study, record: TrialRecord) -> dict[str, Any]:
    accuracy = record.accuracy if record.state in ("complete", "stopped") and record.accuracy is not None else WORST
    size = record.bytes if record.bytes is not None else worst_bytes(plan, study)
    return {"accuracy": accuracy, "bytes": size, "images": record.images}


def _numbers(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=states)


def _note(study: optuna.Study, number: int, result: Mapping[str, Any]) -> None:
    """Write the accuracy at a rung into the study, where it has one objective: Optuna prunes by no other."""
    if len(study.directions) > 1 or not result.get("images"):
        return
    frozen = study.get_trials(deepcopy=False)[number]
    trial = optuna.trial.Trial(study, frozen._trial_id)
    if int(result["images"]) not in frozen.intermediate_values:
        trial.report(float(result["accuracy"]), step=int(result["images"]))

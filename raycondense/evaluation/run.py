"""The one door to a number: `evaluate` trains students on an artefact's banks and on baselines and scores them.

It checks everything that a user may have got wrong before the first student trains, lists the jobs, runs them
and returns an `Evaluation`. It writes nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raycondense.artifact.load import Artifact, load
from raycondense.config import EvaluationConfig
from raycondense.configfile import config_from_dict
from raycondense.data.sidecar import Sidecar
from raycondense.errors import ArtifactError, ConfigError, DataError, RaycondenseError, RunError, choices_message
from raycondense.evaluation.baselines import check_enough_images, find_train_data
from raycondense.evaluation.carry_out import OnProgress, Runner, carry_out
from raycondense.evaluation.methods import FROM_CODES, METHOD_NAMES, OURS, SMALL
from raycondense.evaluation.plan import Plan, Planner
from raycondense.evaluation.queue import Outcome, run_here
from raycondense.evaluation.result import Evaluation, summarise
from raycondense.evaluation.score import check_test_split
from raycondense.evaluation.store import Store
from raycondense.models import STUDENTS

PathLike = str | os.PathLike[str]


def evaluate(
    artifact: PathLike | Artifact,
    data: PathLike,
    *,
    config: EvaluationConfig | None = None,
    ipc: Sequence[int] | None = None,
    train_data: PathLike | None = None,
    device: str | torch.device | None = None,
    store: Store | None = None,
    runner: Runner = run_here,
    progress: OnProgress | None = None,
) -> Evaluation:
    """Find out what a condensed dataset is worth: train students on it from scratch and score them.

    Every student of a row has a seed of its own (0, 1, …). Baselines run under the same recipe; their images depend
    on the student's seed too.

    Args:
        artifact: its folder (or a ``hf-hub:`` name), or one that was loaded from a folder.
        data: beton of the split to score on; it is read once a student, after its last step.
        config: the protocol; None takes the one in the artefact's recipe.
        ipc: banks to evaluate; None is all of them.
        train_data: beton of the training images, for baselines; None looks for the one that the artefact was
            condensed from where the run's ``run.json`` says and beside ``data``.
        device: where students train; None takes CUDA where there is one.
        store: where results and what they need are kept: what is there already is not done again. None keeps nothing.
        runner: what runs the works; by default this process, one after another.
        progress: called after each work with the number done, the number of all, and its outcome.

    Raises:
        ConfigError: an unknown architecture, baseline or bank; the valid ones are named.
        DataError: a beton is missing, damaged or does not fit the artefact.
        ArtifactError: the artefact is missing or damaged, or was not loaded from a folder.
        RunError: nothing could be found for a reason outside the settings. Where only some works fail, twice, the
            others are returned and these are listed in `Evaluation.failures`.
    """
    return evaluate_many(
        [artifact], data, config=config, ipc=ipc, train_data=train_data, device=device, store=store, runner=runner,
        progress=progress,
    )[0]  # fmt: skip


def evaluate_many(
    artifacts: Sequence[PathLike | Artifact],
    data: PathLike,
    *,
    config: EvaluationConfig | None = None,
    ipc: Sequence[int] | None = None,
    train_data: PathLike | None = None,
    device: str | torch.device | None = None,
    store: Store | None = None,
    runner: Runner = run_here,
    progress: OnProgress | None = None,
) -> list[Evaluation]:
    """`evaluate` of several artefacts of one dataset at once: what they share, such as baselines, is done once.

    Arguments and errors are those of `evaluate`.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    asked = [_ask(artifact, Path(data), config, ipc, train_data, str(device)) for artifact in artifacts]
    with _opened(store) as opened:
        found, failed = carry_out([one.plan for one in asked], opened, runner, progress)
    return [one.answer(found, failed) for one in asked]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was asked of one artefact."""

    artifact: Artifact
    config: EvaluationConfig
    test: Sidecar
    train: Sidecar | None
    plan: Plan

    def answer(self, found: Mapping[str, Mapping[str, Any]], failed: Mapping[str, Outcome]) -> Evaluation:
        """The evaluation, from the rows that were found and the outcomes that were not, by key of what they lack."""
        plan, train = self.plan, self.train
        results = [found[job.key] for job in plan.jobs if job.key in found]
        wanted = [*plan.before, *(job.key for job in plan.jobs), *(one.key for one in plan.diagnosed)]
        failures = {id(failed[key]): failed[key] for key in wanted if key in failed}.values()
        if failures and not results:
            # Nothing was found at all: the first reason is what the user has to know.
            first = next(iter(failures))
            raise (
                first.exception
                if isinstance(first.exception, RaycondenseError)
                else RunError(f"{first.label}: {first.error}")
            )
        methods = list(METHOD_NAMES)
        diagnosed = sorted(plan.diagnosed, key=lambda one: (one.ipc, methods.index(one.images.method)))
        return Evaluation(
            rows=summarise(results, self.config.architectures),
            config=self.config,
            artifact=str(self.artifact.path),
            test=_identity(self.test) | {"resolution": self.artifact.resolution, "reads": len(results)},
            train=None
            if train is None
            else _identity(train) | {"condensed_from": _is_condensed_from(self.artifact, train)},
            results=tuple(results),
            diagnostics=tuple(found[one.key] for one in diagnosed if one.key in found),
            failures=tuple({"label": outcome.label, "error": str(outcome.error)} for outcome in failures),
            missing=tuple(plan.missing),
        )


def _ask(
    artifact: PathLike | Artifact,
    data: Path,
    config: EvaluationConfig | None,
    ipc: Sequence[int] | None,
    train_data: PathLike | None,
    device: str,
) -> _Asked:
    """Check everything that a user may have got wrong, and plan."""
    artifact = artifact if isinstance(artifact, Artifact) else load(artifact)
    if artifact.path is None:
        raise ArtifactError("evaluate: this artefact has no folder, which students are trained from; save it first")
    config = config or _recipe_config(artifact)
    banks = _check_names(artifact, config, ipc)
    test = check_test_split(data, classes=artifact.classes, resolution=artifact.resolution)
    if config.validation_only and test.split == "test":
        raise ConfigError(
            f"{data}: split: found test, valid for protocol {config.protocol}, which is for choosing: a validation "
            "split (prepare cuts one off the training images with --val-fraction)"
        )
    train_path = _train_path(artifact, data, config, train_data)
    train = None if train_path is None else _check_train_data(train_path, artifact, config, banks)
    # Absolute, because actors may have other working directories.
    where = None if train_path is None else train_path.absolute()
    planner = Planner(artifact, config, data.absolute(), test, where, train, device)
    return _Asked(artifact, config, test, train, planner.plan(banks))


@contextmanager
def _opened(store: Store | None) -> Iterator[Store]:
    """The store, or one that is gone afterwards."""
    if store is not None:
        yield store
        return
    with tempfile.TemporaryDirectory(prefix="raycondense-") as folder:
        yield Store(folder)


def _recipe_config(artifact: Artifact) -> EvaluationConfig:
    recipe = artifact.recipe.get("config")
    if not isinstance(recipe, dict):
        raise ArtifactError(f"{artifact.path}: recipe.json holds no configuration; name a protocol with config")
    return config_from_dict(recipe, source=f"{artifact.path}/recipe.json").evaluation


def _check_names(artifact: Artifact, config: EvaluationConfig, ipc: Sequence[int] | None) -> tuple[int, ...]:
    """The banks to evaluate, ascending, after every name was found to be valid."""
    for name in config.architectures:
        if name not in STUDENTS:
            raise ConfigError(f"evaluation.architectures: {choices_message('architecture', name, STUDENTS)}")
    if config.reference not in STUDENTS:
        raise ConfigError(f"evaluation.reference: {choices_message('architecture', config.reference, STUDENTS)}")
    baselines = [name for name in METHOD_NAMES if name != OURS]
    for name in config.baselines:
        if name not in baselines:
            raise ConfigError(f"evaluation.baselines: {choices_message('baseline', name, baselines)}")
    banks = artifact.ipcs if ipc is None else tuple(sorted(set(ipc)))
    if not banks:
        raise ConfigError(f"ipc: found none, valid: {', '.join(map(str, artifact.ipcs))}")
    if set(config.accountings) != {"bytes"}:  # which takes the bank that fits, whatever it is
        for bank in banks:
            artifact.config.codebook.bank_slice(bank)
    elif banks[0] < 1:
        raise ConfigError(f"ipc: found {banks[0]}, valid: 1 or more")
    return banks


def _train_path(artifact: Artifact, test: Path, config: EvaluationConfig, named: PathLike | None) -> Path | None:
    """The beton of the training images; None where nothing needs it."""
    if named is not None:
        return Path(named)
    found = find_train_data(artifact, beside=test)
    wanted = [name for name in config.baselines if name not in FROM_CODES]
    if found is None and (wanted or config.labels == "soft" or config.diagnostics):
        why = "soft labels" if config.labels == "soft" else "baselines" if wanted else "diagnostics"
        raise DataError(
            f"{why} need the training images, and their beton is neither in the run's folder's run.json nor beside "
            f"{test}: name it with --train-data (train_data), or evaluate with no evaluation.baselines, hard labels "
            "and --no-diagnostics"
        )
    return found


def _check_train_data(path: Path, artifact: Artifact, config: EvaluationConfig, ipc: Sequence[int]) -> Sidecar:
    sidecar = Sidecar.load(path)
    if sidecar.classes != artifact.classes:
        raise DataError(
            f"{path}: classes: found {sidecar.num_classes}, valid: the artefact's {artifact.num_classes} classes in "
            "the same order (--train-data names the images that it was condensed from)"
        )
    if sidecar.resolution < artifact.resolution:
        raise DataError(
            f"{path}: resolution: found {sidecar.resolution} px, valid: the artefact's {artifact.resolution} px or more"
        )
    sidecar.verify(path)
    for name in config.baselines:
        if name not in FROM_CODES:
            places = artifact.config.codebook.images_per_class(1) if name in SMALL else 1
            check_enough_images(name, path, sidecar, max(ipc) * places)
    return sidecar


def _is_condensed_from(artifact: Artifact, train: Sidecar) -> bool:
    return bool(artifact.recipe.get("data", {}).get("sha256") == train.sha256)


def _identity(sidecar: Sidecar) -> dict[str, Any]:
    return {
        "source": sidecar.source,
        "split": sidecar.split,
        "sha256": sidecar.sha256,
        "images": sidecar.num_images,
    }

"""Put an evaluation into its artefact: ``scores.json`` and the card's table, and read it back."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from raycondense.artifact.format import SCORES
from raycondense.artifact.load import Artifact, load
from raycondense.artifact.save import save_scores as write_scores
from raycondense.configfile import config_to_dict
from raycondense.evaluation.result import FORMAT_VERSION, Evaluation, result_key, sort_rows, with_scores

CHOOSES_ROWS = ("architectures", "baselines", "accountings", "robustness", "diagnostics")
"""Settings that say which rows there are and not how a row is measured."""


def save_scores(folder: str | os.PathLike[str], evaluation: Evaluation) -> Evaluation:
    """Write an evaluation into the artefact at ``folder`` and return what stands there now.

    Rows of an earlier evaluation stay where they were measured by the same protocol on the same split and are not
    among the new ones (another architecture, another bank); an evaluation by another protocol is replaced whole.

    Raises:
        ArtifactError: there is no artefact at ``folder``, or its ``scores.json`` is damaged.
    """
    before = scores_to_add_to(load(folder))
    if before is not None and _same_protocol(before, evaluation):
        evaluation = _merged(before, evaluation)
    write_scores(folder, evaluation.to_dict())
    return evaluation


def scores_to_add_to(artifact: Artifact) -> Evaluation | None:
    """The evaluation that a new one is added to; None where there is none, or one of an older version.

    What an older version wrote cannot be read any more, which must not keep anybody from evaluating anew.

    Raises:
        ArtifactError: ``scores.json`` is damaged.
    """
    outdated = artifact.scores.get("format_version", FORMAT_VERSION) in range(FORMAT_VERSION)
    return None if outdated else saved_scores(artifact)


def saved_scores(artifact: Artifact) -> Evaluation | None:
    """The evaluation in an artefact's ``scores.json``; None where it was never evaluated.

    Raises:
        ArtifactError: ``scores.json`` is damaged.
    """
    if not artifact.scores:
        return None
    return Evaluation.from_dict(artifact.scores, source=f"{artifact.path or 'artefact'}/{SCORES}")


def _same_protocol(old: Evaluation, new: Evaluation) -> bool:
    def protocol(evaluation: Evaluation) -> Any:
        config = {k: v for k, v in config_to_dict(evaluation.config).items() if k not in CHOOSES_ROWS}
        return config, evaluation.test["sha256"], evaluation.test["resolution"]

    if old.train is not None and new.train is not None and old.train["sha256"] != new.train["sha256"]:
        return False
    return bool(protocol(old) == protocol(new))


def _merged(old: Evaluation, new: Evaluation) -> Evaluation:
    measured = {row.key for row in new.rows}
    results = (*(r for r in old.results if result_key(r) not in measured), *new.results)
    old_rows = (row for row in old.rows if row.key not in measured)

    def both(name: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys((*getattr(old.config, name), *getattr(new.config, name))))

    config = dataclasses.replace(
        new.config, architectures=both("architectures"), baselines=both("baselines"), accountings=both("accountings")
    )
    diagnosed = {row.get("key", i): row for i, row in enumerate((*old.diagnostics, *new.diagnostics))}
    return dataclasses.replace(
        new,
        rows=sort_rows(with_scores([*old_rows, *new.rows]), config.architectures),
        config=config,
        train=new.train or old.train,
        results=results,
        diagnostics=tuple(diagnosed.values()),
        test={**new.test, "reads": len(results)},
    )

"""An evaluation whose betons are at URIs: they are staged where it runs, once."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from raycondense import api
from raycondense.artifact.load import load
from raycondense.data.staging import staged_betons
from raycondense.evaluation.baselines import find_train_data


def test_betons_of_an_evaluation_may_be_at_uris(tiny_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    artifact = shutil.copytree(tiny_run.artifact, tmp_path / "artifact")
    config = dataclasses.replace(
        api.recorded_protocol(artifact), students=1, baselines=("random",), max_steps=2, diagnostics=False
    )
    arguments = {"config": config, "ipc": [1], "device": "cpu", "progress": False, "save": False}
    at_uris = api.evaluate(artifact, tiny_run.test.as_uri(), train_data=tiny_run.train.as_uri(), **arguments)
    at_paths = api.evaluate(artifact, tiny_run.test, train_data=tiny_run.train, **arguments)
    accuracies = [[(row.method, row.accuracy) for row in found.rows] for found in (at_uris, at_paths)]
    assert accuracies[0] == accuracies[1]
    assert len(accuracies[0]) == 2
    assert len(staged_betons()) == 2
    # Nothing says where the artefact was condensed; what was staged here is known by its content.
    found = find_train_data(load(artifact))
    assert found is not None
    assert found.is_relative_to(tmp_path / "cache")
    assert found.read_bytes() == tiny_run.train.read_bytes()

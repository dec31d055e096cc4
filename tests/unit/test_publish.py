"""What a finished run leaves: the artefact, and beside it what it started from."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch

from raycondense import api, condense, publish
from raycondense.artifact import save
from raycondense.artifact.initial import find_initial
from raycondense.artifact.load import load
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.errors import ArtifactError, CheckpointError, Interrupted
from raycondense.host import LocalHost
from raycondense.presets import get_preset
from raycondense.state import TrainState


def tiny() -> Config:
    return override(
        get_preset("digits"),
        {
            "data": {"loader": "resident", "num_classes": 10},
            "generator": {"width": 8, "max_width": 8, "class_dim": 4},
            "codebook": {"ipc": [1, 2], "dim": 8},
            "extractors": {"width": 8, "weights": "random"},
            "losses.ce": 0.0,
            "initialise": {"steps": 3, "batch": 16},
            "condense": {"images": 160, "real_per_class": 8, "classes_per_step": 10},
            "cluster.workers": 0,
        },
    )


@pytest.fixture
def finished(digits: Path, tmp_path: Path) -> TrainState:
    return condense.run(tiny(), digits / "train.beton", LocalHost(tmp_path / "run", device="cpu"))


def test_a_run_publishes_its_outcome_and_its_start(finished: TrainState, digits: Path, tmp_path: Path) -> None:
    folder = publish.publish(finished, digits / "train.beton", tmp_path / "run" / "artifact")
    artifact, initial = load(folder), load(folder.parent / "initial")
    assert find_initial(artifact) == initial.path
    assert finished.initial is not None
    assert torch.equal(artifact.codebook.codes, finished.average.codebook.codes)
    assert torch.equal(initial.codebook.codes, finished.initial["codebook.codes"])
    for name, weight in initial.generator.state_dict().items():
        assert torch.equal(weight, finished.initial[f"generator.{name}"]), name
    assert not torch.equal(artifact.bank(2).images, initial.bank(2).images)
    assert (artifact.recipe["state"], initial.recipe["state"]) == ("condensed", "initial")
    assert {**initial.recipe, "state": "condensed"} == artifact.recipe
    assert "before condensation" in (folder.parent / "initial" / "README.md").read_text().partition("##")[0]
    assert "before condensation" not in (folder / "README.md").read_text()


def test_the_last_checkpoint_holds_all_that_is_published(finished: TrainState, digits: Path, tmp_path: Path) -> None:
    """As on Ray Train, where the driver knows the checkpoint alone."""
    train = digits / "train.beton"
    checkpoint = tmp_path / "run" / "checkpoints" / "4-done-000000000"
    publish.publish(finished, train, tmp_path / "here" / "artifact")
    publish.publish(publish.state_from_checkpoint(tiny(), train, checkpoint), train, tmp_path / "there" / "artifact")
    for name in ("artifact", "initial"):
        for file in (tmp_path / "here" / name).iterdir():
            assert file.read_bytes() == (tmp_path / "there" / name / file.name).read_bytes(), (name, file.name)


def test_a_run_is_finished_only_when_both_are_written(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the first of both, the same command writes both; the second alone marks a finished run."""
    real, calls = save.save_artifact, iter(range(10))

    def dies_at_the_second(*arguments: object, **named: object) -> object:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(publish, "save_artifact", dies_at_the_second)
    run, train = tmp_path / "run", digits / "train.beton"
    with pytest.raises(Interrupted):
        api.fit(tiny(), data=train, out=run, device="cpu", progress=False)
    assert (run / "initial" / "config.json").is_file()
    assert not (run / "artifact").exists()
    shutil.rmtree(run / "initial")
    result = api.fit(tiny(), data=train, out=run, device="cpu", progress=False)
    assert find_initial(result.artifact) == run / "initial"
    assert next(calls) == 4
    again = api.fit(tiny(), data=train, out=run, device="cpu", progress=False)
    assert next(calls) == 5, "finished: nothing is written again"
    assert again.artifact_path == result.artifact_path


def test_without_a_start_the_artefact_is_published_alone(
    finished: TrainState, digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finished.initial = None
    with caplog.at_level(logging.WARNING, "raycondense"):
        folder = publish.publish(finished, digits / "train.beton", tmp_path / "run" / "artifact")
    assert find_initial(load(folder)) is None
    assert not (folder.parent / "initial").exists()
    assert f"{folder.parent / 'initial'}: not written: this run was begun by an older raycondense" in caplog.text


def test_what_cannot_be_published(finished: TrainState, digits: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "artifact"
    (folder.parent / "initial").mkdir()
    (folder.parent / "initial" / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"run/initial: exists and is no artefact"):
        publish.publish(finished, digits / "train.beton", folder)
    assert not folder.exists()
    finished.stage = "condense"
    with pytest.raises(CheckpointError, match="still in stage 'condense'"):
        publish.publish(finished, digits / "train.beton", folder)

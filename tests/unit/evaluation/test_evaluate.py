"""`evaluate`: from an artefact and a test split to rows, in one process and in several."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pickle
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch

from raycondense.artifact.load import load
from raycondense.config import EvaluationConfig
from raycondense.data.beton import BetonReader
from raycondense.data.sidecar import Sidecar
from raycondense.errors import ArtifactError, ConfigError, DataError, RunError
from raycondense.evaluation import pool, run
from raycondense.evaluation.jobs import Job, job_images, run_job
from raycondense.evaluation.pool import run_jobs
from raycondense.evaluation.run import evaluate, list_jobs
from raycondense.evaluation.scores import save_scores, saved_scores

FAST = EvaluationConfig(width=8, students=2, epochs=30, max_steps=4)


def jobs_of(tiny_run, config: EvaluationConfig = FAST) -> list[Job]:
    test, train = Sidecar.load(tiny_run.test), Sidecar.load(tiny_run.train)
    return list_jobs(
        load(tiny_run.artifact), tiny_run.test, test, config=config, ipc=(1, 2), train_path=tiny_run.train, train=train,
        device="cpu",
    )  # fmt: skip


def test_rows_of_every_method_bank_and_architecture(tiny_run) -> None:
    seen = []
    found = evaluate(
        tiny_run.artifact,
        tiny_run.test,
        config=dataclasses.replace(FAST, students=1, architectures=("convnet", "alexnet")),
        device="cpu",
        progress=lambda done, total, result: seen.append((done, total, result["method"])),
    )
    methods = [("raycondense", 1), ("random real", 1), ("k-means medoids", 1)]
    methods += [(name, 2) for name, _ in methods] + [("whole set", 0)]
    assert [(row.method, row.ipc) for row in found.rows if row.architecture == "convnet"] == methods
    assert [(row.method, row.ipc) for row in found.rows if row.architecture == "alexnet"] == methods
    assert [(done, total) for done, total, _ in seen] == [(i, 14) for i in range(1, 15)]
    assert seen[0][2] == "whole"  # the longest first
    ours, random, whole = (found.row(name, ipc=ipc) for name, ipc in (methods[3], methods[4], methods[6]))
    assert (ours.images, random.images, whole.images) == (6, 6, 30)
    assert (ours.bytes, random.bytes) == (load(tiny_run.artifact).sizes(2).bytes, 6 * 3 * 8 * 8)
    assert (ours.steps, ours.accounting) == (4, "bank")
    assert found.test == {
        "source": "tiny", "split": "test", "sha256": Sidecar.load(tiny_run.test).sha256, "images": 24, "resolution": 8,
        "reads": 14,
    }  # fmt: skip
    assert found.train is not None
    assert found.train["condensed_from"] is True


def test_the_test_split_is_read_by_one_function_once_a_student(tiny_run, monkeypatch) -> None:
    reads = []
    original = BetonReader.images

    def images(self: BetonReader, *arguments: object) -> object:
        reads.append((self.path, sys._getframe(1).f_code.co_name))
        return original(self, *arguments)

    monkeypatch.setattr(BetonReader, "images", images)
    found = evaluate(tiny_run.artifact, tiny_run.test, config=dataclasses.replace(FAST, max_steps=1), device="cpu")
    of_test = [function for path, function in reads if path == tiny_run.test]
    assert of_test == ["score_on_test_split"] * 14
    assert found.test["reads"] == 14


def test_the_recipe_is_the_default_protocol_and_the_bank_can_be_chosen(tiny_run) -> None:
    found = evaluate(str(tiny_run.artifact), tiny_run.test, ipc=[2, 2])
    assert found.config == EvaluationConfig(width=8, students=2, max_steps=4)
    assert {row.ipc for row in found.rows} == {2, 0}
    assert {row.students for row in found.rows} == {2}


def test_real_images_of_an_easy_dataset_are_learned(tiny_run) -> None:
    config = EvaluationConfig(width=16, students=2, max_steps=80, lr=0.02, baselines=("random", "whole"))
    found = evaluate(load(tiny_run.artifact), tiny_run.test, config=config, ipc=[2], device="cpu")
    assert found.row("whole set", ipc=0).accuracy > 0.9
    assert found.row("random real", ipc=2).accuracy > 0.6


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tiny_run) -> None:
    jobs = jobs_of(tiny_run, dataclasses.replace(FAST, baselines=("random",), max_steps=2))
    done = []
    one, two = run_jobs(jobs), run_jobs(jobs, workers=2, progress=lambda *step: done.append(step[0]))
    for results in (one, two):
        for result in results:
            assert result.pop("seconds") >= result.pop("train_seconds") > 0
    assert one == two
    assert done == list(range(1, len(jobs) + 1))
    assert [(r["method"], r["ipc"], r["student"]) for r in one] == [(j.method, j.ipc, j.student) for j in jobs]


@pytest.mark.slow
def test_a_failing_job_ends_the_others(tiny_run, tmp_path) -> None:
    jobs = jobs_of(tiny_run, dataclasses.replace(FAST, baselines=(), epochs=10**7, max_steps=0))
    lost = dataclasses.replace(jobs[0], test=str(tmp_path / "absent.beton"), config=FAST)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"absent\.beton"):
        run_jobs([jobs[1], lost], workers=2)
    assert time.monotonic() - start < 60  # not the days that the other student would take


@pytest.mark.slow
def test_a_process_that_dies_is_an_error_of_ours(tiny_run, monkeypatch) -> None:
    monkeypatch.setattr(pool, "run_job", functools.partial(max, 1, key=os._exit))  # pickles, and ends its process
    with pytest.raises(RunError, match="a process of the evaluation died"):
        run_jobs(jobs_of(tiny_run)[:2], workers=2)


def test_a_name_twice_would_count_students_twice() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.baselines.*each name once"):
        EvaluationConfig(baselines=("random", "random"))
    with pytest.raises(ConfigError, match=r"evaluation\.architectures.*each name once"):
        EvaluationConfig(architectures=("convnet", "vit", "convnet"))


def test_jobs_are_self_contained_and_their_results_plain(tiny_run) -> None:
    jobs = jobs_of(tiny_run)
    assert len(jobs) == (3 * 2 + 1) * 2
    assert pickle.loads(pickle.dumps(jobs[0])) == jobs[0]
    result = run_job(jobs[0])
    assert json.loads(json.dumps(result)) == result
    assert (result["method"], result["student"], result["steps"], result["test_images"]) == ("raycondense", 0, 4, 24)
    assert result["accuracy"] == result["correct"] / 24


def test_students_share_a_bank_and_draw_their_own_random_images(tiny_run) -> None:
    first, second = (job for job in jobs_of(tiny_run) if (job.method, job.ipc) == ("raycondense", 2))
    assert torch.equal(job_images(first).images, job_images(second).images)
    assert torch.equal(job_images(first).images, load(tiny_run.artifact).bank(2).images)
    first, second = (job for job in jobs_of(tiny_run) if (job.method, job.ipc) == ("random", 2))
    assert not torch.equal(job_images(first).images, job_images(second).images)


def test_another_artefact_in_the_same_folder_is_read_anew(tiny_run, tmp_path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(tiny_run.artifact, folder)
    artifact = load(folder)
    arguments = {
        "config": FAST, "ipc": (1,), "train_path": None, "train": None, "device": "cpu",
    }  # fmt: skip
    test = Sidecar.load(tiny_run.test)
    config = dataclasses.replace(FAST, baselines=())
    before = job_images(list_jobs(artifact, tiny_run.test, test, **(arguments | {"config": config}))[0])
    from raycondense.artifact.weights import write_weights

    with torch.no_grad():
        artifact.codebook.codes.mul_(-3)
    write_weights(folder / "generator.safetensors", artifact.generator, artifact.codebook, "float32")
    after = job_images(list_jobs(load(folder), tiny_run.test, test, **(arguments | {"config": config}))[0])
    assert not torch.equal(before.images, after.images)


def test_long_jobs_cost_more(tiny_run) -> None:
    job = jobs_of(tiny_run)[0]
    whole = dataclasses.replace(job, source_images=10_000)
    large = dataclasses.replace(job, architecture="resnet18")
    assert job.cost < whole.cost
    assert job.cost < large.cost


@pytest.mark.parametrize(
    ("config", "ipc", "message"),
    [
        (dataclasses.replace(FAST, architectures=("resnet",)), None, r"architectures.*'resnet'.*resnet18"),
        (dataclasses.replace(FAST, baselines=("herding",)), None, r"baselines.*'herding'.*random, kmeans, whole"),
        (FAST, [3], r"ipc.*3.*1, 2"),
        (FAST, [], r"ipc: found none"),
    ],
)
def test_unknown_names_are_errors_before_anything_is_trained(tiny_run, monkeypatch, config, ipc, message) -> None:
    monkeypatch.setattr(run, "run_jobs", lambda *_, **__: pytest.fail("a student was trained"))
    with pytest.raises(ConfigError, match=message):
        evaluate(tiny_run.artifact, tiny_run.test, config=config, ipc=ipc)


def test_data_that_do_not_fit_are_errors(tiny_run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run, "run_jobs", lambda *_, **__: pytest.fail("a student was trained"))
    moved = tmp_path / "artifact"
    shutil.copytree(tiny_run.artifact, moved)
    with pytest.raises(DataError, match="--train-data"):
        evaluate(moved, tiny_run.test, config=FAST)
    with pytest.raises(DataError, match="valid: the artefact's 3 classes"):
        evaluate(moved, tiny_run.test, config=FAST, train_data=two_classes(tmp_path))
    with pytest.raises(DataError, match="valid: the artefact's 3 classes"):
        evaluate(moved, two_classes(tmp_path), config=FAST)
    with pytest.raises(ArtifactError, match="no such folder"):
        evaluate(tmp_path / "absent", tiny_run.test)
    artifact = load(moved)
    artifact.path = None
    with pytest.raises(ArtifactError, match="no folder"):
        evaluate(artifact, tiny_run.test)
    with pytest.raises(ConfigError, match="workers: found 0"):
        run_jobs(jobs_of(tiny_run), workers=0)


def two_classes(folder: Path) -> Path:
    import numpy as np

    from raycondense.data.dataset_writer import DatasetWriter, Origin
    from raycondense.data.encoding import Encoding

    path, origin = folder / "two.beton", Origin(source="two", split="test", seed=0)
    with DatasetWriter(path, 2, classes=("top", "bottom"), encoding=Encoding(8, "raw", 90), origin=origin) as writer:
        for label in range(2):
            writer.add(np.full((8, 8, 3), 100 * label, np.uint8), label)
    return path


def test_scores_are_kept_in_the_artefact_and_rows_of_one_protocol_add_up(tiny_run, tmp_path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(tiny_run.artifact, folder)
    assert saved_scores(load(folder)) is None
    config = dataclasses.replace(FAST, students=1, baselines=("random",))
    arguments = {"train_data": tiny_run.train, "device": "cpu"}
    first = evaluate(folder, tiny_run.test, config=config, ipc=[1], **arguments)
    assert save_scores(folder, first) == first == saved_scores(load(folder))
    second = evaluate(
        folder, tiny_run.test, config=dataclasses.replace(config, architectures=("alexnet",)), ipc=[1, 2], **arguments
    )
    both = save_scores(folder, second)
    assert both == saved_scores(load(folder))
    assert [row.key for row in both.rows[:2]] == [("raycondense", "convnet", 1), ("random real", "convnet", 1)]
    assert len(both.rows) == 6
    assert both.test["reads"] == 6
    assert both.config.architectures == ("convnet", "alexnet")
    assert "| raycondense | alexnet | 2 |" in (folder / "README.md").read_text()
    # Another protocol's rows are never put beside these.
    third = evaluate(folder, tiny_run.test, config=dataclasses.replace(config, lr=0.02), ipc=[1], **arguments)
    assert save_scores(folder, third) == third == saved_scores(load(folder))

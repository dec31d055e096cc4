"""`evaluate`: from an artefact and a split to rows; what is kept is not done again."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from raycondense import api
from raycondense.artifact.load import load
from raycondense.artifact.weights import write_weights
from raycondense.config import EvaluationConfig
from raycondense.data.beton import BetonReader
from raycondense.data.sidecar import Sidecar
from raycondense.errors import ArtifactError, ConfigError, DataError, RunError
from raycondense.evaluation.jobs import Job, JobGroup, grouped
from raycondense.evaluation.plan import Plan, Planner
from raycondense.evaluation.queue import Outcome, run_here
from raycondense.evaluation.run import evaluate, evaluate_many
from raycondense.evaluation.scores import save_scores, saved_scores
from raycondense.evaluation.store import Store
from raycondense.evaluation.work import Work

FAST = EvaluationConfig(
    width=8, students=2, epochs=30, max_steps=4, reference_steps=3, pixel_dm_steps=2, pixel_dm_real=4,
    baselines=("random", "kmeans", "whole"), diagnostics=False,
)  # fmt: skip
ALL = dataclasses.replace(
    FAST, students=1, diagnostics=True,
    baselines=("random", "herding", "kmeans", "pixel-dm", "random-codes", "initial-codes", "whole"),
)  # fmt: skip


def plan_of(tiny_run, config: EvaluationConfig = FAST, artifact: Path | None = None) -> Plan:
    test, train = Sidecar.load(tiny_run.test), Sidecar.load(tiny_run.train)
    planner = Planner(load(artifact or tiny_run.artifact), config, tiny_run.test, test, tiny_run.train, train, "cpu")
    return planner.plan((1, 2))


class Counting:
    """A runner that tells which works it was given."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    def __call__(self, works: Sequence[Work], store: Store, on_outcome: Any) -> list[Outcome]:
        self.labels += [work.label for work in works]
        return run_here(works, store, on_outcome)


def nothing(works: Sequence[Work], store: Store, on_outcome: Any) -> list[Outcome]:
    pytest.fail(f"{len(works)} works were run")


def test_one_table_with_all_rows(tiny_run) -> None:
    seen = []
    found = evaluate(
        tiny_run.artifact, tiny_run.test, config=ALL, device="cpu",
        progress=lambda done, total, outcome: seen.append((done, total, outcome.label)),
    )  # fmt: skip
    methods = ("raycondense", "random", "herding", "kmeans", "pixel-dm", "random-codes", "initial-codes")
    assert [(row.method, row.ipc) for row in found.rows] == [(m, k) for k in (1, 2) for m in methods] + [("whole", 0)]
    assert not found.failures
    assert not found.missing
    ours, random, whole = found.row("raycondense", ipc=2), found.row("random", ipc=2), found.row("whole", ipc=0)
    assert (ours.images, random.images, whole.images) == (6, 6, 30)
    assert (ours.bytes, random.bytes) == (load(tiny_run.artifact).sizes(2).bytes, 6 * 3 * 8 * 8)
    assert (ours.steps, ours.accounting, ours.labels) == (4, "bank", "hard")
    assert ours.hlr == pytest.approx(whole.accuracy - ours.accuracy)
    assert ours.ior == pytest.approx(ours.accuracy - random.accuracy)
    assert ours.generation_seconds > 0
    # 15 students, the reference network, five sets that are found once, one diagnosis of all sets.
    assert [(done, total) for done, total, _ in seen] == [(i, 23) for i in range(1, 24)]
    assert [(row["method"], row["ipc"]) for row in found.diagnostics] == [(m, k) for k in (1, 2) for m in methods]
    assert found.diagnostics[0]["spread_ratio"] is None
    assert found.diagnostics[7]["spread_ratio"] >= 0
    assert found.test == {
        "source": "tiny", "split": "test", "sha256": Sidecar.load(tiny_run.test).sha256, "images": 24, "resolution": 8,
        "reads": 15,
    }  # fmt: skip
    assert found.train is not None
    assert found.train["condensed_from"] is True


def test_the_test_split_is_read_by_one_function_which_records_it(tiny_run, tmp_path, monkeypatch) -> None:
    reads = []
    original = BetonReader.images

    def images(self: BetonReader, *arguments: object) -> object:
        caller = sys._getframe(1).f_globals["__name__"]
        reads.append((self.path, caller))
        return original(self, *arguments)

    monkeypatch.setattr(BetonReader, "images", images)
    store = Store(tmp_path)
    found = evaluate(tiny_run.artifact, tiny_run.test, config=ALL, device="cpu", store=store)
    assert {module for path, module in reads if path == tiny_run.test} <= {"raycondense.evaluation.score"}
    recorded = [json.loads(line) for line in store.reads.read_text().splitlines()]
    assert len(recorded) == found.test["reads"] == 15
    assert {line["sha256"] for line in recorded} == {Sidecar.load(tiny_run.test).sha256}


def test_what_is_done_is_not_done_again(tiny_run, tmp_path) -> None:
    store, count = Store(tmp_path), Counting()
    config = dataclasses.replace(FAST, students=1)
    first = evaluate(tiny_run.artifact, tiny_run.test, config=config, ipc=[1], store=store, runner=count)
    assert len(count.labels) == 5  # three students by IPC 1 and the whole set, and the k-means
    again = evaluate(tiny_run.artifact, tiny_run.test, config=config, ipc=[1], store=Store(tmp_path), runner=nothing)
    assert again.rows == first.rows
    assert again.results == first.results
    # Only what is new is run: the second students; the k-means images are there.
    more = Counting()
    evaluate(
        tiny_run.artifact, tiny_run.test, config=dataclasses.replace(config, students=2), ipc=[1], store=store,
        runner=more,
    )  # fmt: skip
    assert sorted(label for label in more.labels if "student 1" in label) == sorted(
        label.replace("student 0", "student 1") for label in count.labels if "student" in label
    )
    assert not [label for label in more.labels if "student 0" in label]
    # Another recipe is other work, and so is another split; another artefact shares the baselines.
    other = Counting()
    evaluate(
        tiny_run.artifact, tiny_run.test, config=dataclasses.replace(config, lr=0.02), ipc=[1], store=store,
        runner=other,
    )  # fmt: skip
    assert len([label for label in other.labels if "student" in label]) == 4
    moved = tmp_path / "moved" / "artifact"
    shutil.copytree(tiny_run.artifact, moved)
    artifact = load(moved)
    with torch.no_grad():
        artifact.codebook.codes.mul_(-3)
    write_weights(moved / "generator.safetensors", artifact.generator, artifact.codebook, "float32")
    new = Counting()
    evaluate(moved, tiny_run.test, config=config, ipc=[1], store=store, runner=new, train_data=tiny_run.train)
    assert new.labels == ["raycondense, IPC 1, convnet, student 0"]


def test_several_artefacts_share_what_they_can(tiny_run, tmp_path) -> None:
    other = tmp_path / "artifact"
    shutil.copytree(tiny_run.folder / "initial", other)
    count = Counting()
    config = dataclasses.replace(FAST, students=1)
    first, second = evaluate_many(
        [tiny_run.artifact, other], tiny_run.test, config=config, ipc=[1], train_data=tiny_run.train, runner=count
    )
    assert len([label for label in count.labels if label.startswith("raycondense")]) == 2
    assert len([label for label in count.labels if label.startswith("whole")]) == 1
    assert first.row("whole", ipc=0) == second.row("whole", ipc=0)
    assert first.artifact != second.artifact
    alone = evaluate(other, tiny_run.test, config=config, ipc=[1], train_data=tiny_run.train)
    assert [row.accuracy for row in alone.rows] == [row.accuracy for row in second.rows]


def test_bytes_and_stream(tiny_run, tmp_path) -> None:
    config = dataclasses.replace(
        FAST, students=1, accountings=("bank", "bytes", "stream"), baselines=("random", "initial-codes"),
        weights="int8",
    )  # fmt: skip
    count = Counting()
    found = evaluate(tiny_run.artifact, tiny_run.test, config=config, store=Store(tmp_path), runner=count)
    # The tiny generator takes more bytes than two tiny images a class: said, not left out in silence.
    assert [row.method for row in found.rows if row.accounting == "bytes"] == ["random", "random"]
    assert len([note for note in found.notes if "no row raycondense by bytes" in note]) == 2
    # What bank and bytes share is trained once.
    assert len([label for label in count.labels if label.startswith("random,")]) == 2
    assert found.row("random", ipc=2, accounting="bytes").accuracy == found.row("random", ipc=2).accuracy
    stream = found.row("raycondense", ipc=2, accounting="stream")
    assert stream.images == 4 * 6 > found.row("raycondense", ipc=2).images
    assert stream.generation_seconds > 0
    large = evaluate(
        tiny_run.artifact, tiny_run.test, ipc=[300],
        config=dataclasses.replace(config, accountings=("bytes",), baselines=()),
    )  # fmt: skip
    row = large.row("raycondense", ipc=300, accounting="bytes")
    assert (row.images, row.bytes <= 300 * 3 * 3 * 8 * 8) == (6, True)


def test_soft_labels_stand_beside_hard_ones(tiny_run) -> None:
    config = dataclasses.replace(FAST, students=1, labels="soft", cutmix=0.5)
    found = evaluate(tiny_run.artifact, tiny_run.test, config=config, ipc=[2])
    soft, hard = found.row("raycondense", ipc=2), found.row("raycondense", ipc=2, labels="hard")
    assert (soft.labels, soft.label_bytes) == ("soft", 4 * 6 * 3 * 2)
    assert (hard.teacher_bytes, hard.label_bytes) == (0, 0)
    assert soft.teacher_bytes > 1000
    assert found.row("whole", ipc=0).labels == "hard"
    assert found.row("random", ipc=2).labels == "soft"


def test_robustness_trains_ours_and_random_without_augmentation_too(tiny_run) -> None:
    config = dataclasses.replace(FAST, students=1, robustness=True)
    found = evaluate(tiny_run.artifact, tiny_run.test, config=config, ipc=[2])
    plain = [row.method for row in found.rows if not row.augmented]
    assert plain == ["raycondense", "random"]
    assert found.row("raycondense", ipc=2).ars is not None
    assert found.row("kmeans", ipc=2).ars is None


def test_a_protocol_for_choosing_refuses_a_test_split(tiny_run) -> None:
    config = dataclasses.replace(FAST, protocol="fast", validation_only=True)
    with pytest.raises(ConfigError, match=r"split: found test.*fast.*validation"):
        evaluate(tiny_run.artifact, tiny_run.test, config=config, runner=nothing)


def test_an_artefact_without_its_start_has_no_such_rows_and_says_so(tiny_run, tmp_path) -> None:
    alone = tmp_path / "artifact"
    shutil.copytree(tiny_run.artifact, alone)
    config = dataclasses.replace(FAST, students=1, baselines=("random-codes", "initial-codes"))
    found = evaluate(alone, tiny_run.test, config=config, ipc=[1])
    assert [row.method for row in found.rows] == ["raycondense"]
    assert "no rows random-codes, initial-codes" in found.missing[0]


def test_the_recipe_is_the_default_protocol_and_the_bank_can_be_chosen(tiny_run) -> None:
    found = evaluate(str(tiny_run.artifact), tiny_run.test, ipc=[2, 2])
    assert (found.config.width, found.config.students, found.config.max_steps) == (8, 2, 4)
    assert {row.ipc for row in found.rows} == {2, 0}
    assert {row.students for row in found.rows} == {2}


def test_real_images_of_an_easy_dataset_are_learned(tiny_run) -> None:
    config = dataclasses.replace(FAST, width=16, epochs=1000, max_steps=80, lr=0.02, baselines=("random", "whole"))
    found = evaluate(load(tiny_run.artifact), tiny_run.test, config=config, ipc=[2], device="cpu")
    assert found.row("whole", ipc=0).accuracy > 0.9
    assert found.row("random", ipc=2).accuracy > 0.6


def test_what_fails_is_reported_and_does_not_stop_the_others(tiny_run, tmp_path) -> None:
    def broken(works: Sequence[Work], store: Store, on_outcome: Any) -> list[Outcome]:
        good = [work for work in works if "random" not in work.label]
        bad = [work for work in works if "random" in work.label]
        lost = RunError("its worker died")
        failed = [Outcome(work.key, work.label, [], str(lost), lost, 2, 0.0) for work in bad]
        return [*run_here(good, store, on_outcome), *failed]

    config = dataclasses.replace(FAST, students=1, baselines=("random", "whole"))
    found = evaluate(tiny_run.artifact, tiny_run.test, config=config, ipc=[1], runner=broken, store=Store(tmp_path))
    assert [row.method for row in found.rows] == ["raycondense", "whole"]
    assert found.failures == ({"label": "random, IPC 1, convnet, student 0", "error": "its worker died"},)
    assert "attention: failed: random, IPC 1, convnet, student 0: its worker died" in found.table()
    again = evaluate(tiny_run.artifact, tiny_run.test, config=config, ipc=[1], store=Store(tmp_path))
    assert [row.method for row in again.rows] == ["raycondense", "random", "whole"]
    only = dataclasses.replace(config, baselines=("random",))
    with pytest.raises(RunError, match="its worker died"):
        evaluate(
            tiny_run.artifact, tiny_run.test, config=only, ipc=[1],
            runner=lambda works, store, on: [
                Outcome(w.key, w.label, [], "x", RunError("its worker died"), 2, 0.0) for w in works
            ],
        )  # fmt: skip


def test_a_name_twice_would_count_students_twice() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.baselines.*each name once"):
        EvaluationConfig(baselines=("random", "random"))
    with pytest.raises(ConfigError, match=r"evaluation\.architectures.*each name once"):
        EvaluationConfig(architectures=("convnet", "vit", "convnet"))


def test_jobs_are_self_contained_and_their_results_plain(tiny_run, tmp_path) -> None:
    jobs = plan_of(tiny_run).jobs
    assert len(jobs) == (3 * 2 + 1) * 2
    assert len({job.key for job in jobs}) == len(jobs)
    copied = pickle.loads(pickle.dumps(jobs[0]))
    assert copied == jobs[0]
    assert copied.key == jobs[0].key
    (result,) = jobs[0].run(Store(tmp_path))
    assert json.loads(json.dumps(result)) == result
    assert (result["method"], result["student"], result["steps"], result["test_images"]) == ("raycondense", 0, 4, 24)
    assert result["accuracy"] == result["correct"] / 24
    assert result["key"] == jobs[0].key


def test_keys_change_with_what_decides_the_result_and_with_nothing_else(tiny_run) -> None:
    def keys(**changes: Any) -> set[str]:
        return {job.key for job in plan_of(tiny_run, dataclasses.replace(FAST, **changes)).jobs}

    base = keys()
    for same in ({"diagnostics": True}, {"reference_steps": 9}, {"temperature": 2.0}, {"validation_only": True}):
        assert keys(**same) == base, same
    for other in ({"lr": 0.02}, {"augment": ("flip",)}, {"max_steps": 5}, {"width": 16}, {"cutmix": 0.5}):
        assert not keys(**other) & base, other


def test_students_share_a_bank_and_draw_their_own_random_images(tiny_run, tmp_path) -> None:
    def two(method: str) -> list[Any]:
        jobs = [job for job in plan_of(tiny_run).jobs if (job.images.method, job.ipc) == (method, 2)]
        return [job.images.load(Store(tmp_path)).images for job in jobs]

    first, second = two("raycondense")
    assert torch.equal(first, second)
    assert torch.equal(first, load(tiny_run.artifact).bank(2).images)
    first, second = two("random")
    assert not torch.equal(first, second)


def test_another_artefact_in_the_same_folder_is_read_anew(tiny_run, tmp_path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(tiny_run.artifact, folder)
    before = plan_of(tiny_run, artifact=folder).jobs[0].images.load(Store(tmp_path))
    artifact = load(folder)
    with torch.no_grad():
        artifact.codebook.codes.mul_(-3)
    write_weights(folder / "generator.safetensors", artifact.generator, artifact.codebook, "float32")
    after = plan_of(tiny_run, artifact=folder).jobs[0].images.load(Store(tmp_path))
    assert not torch.equal(before.images, after.images)


def test_long_jobs_cost_more(tiny_run) -> None:
    job = plan_of(tiny_run).jobs[0]
    whole = dataclasses.replace(job, images=dataclasses.replace(job.images, images=10_000))
    assert job.cost < whole.cost
    assert job.cost < dataclasses.replace(job, architecture="resnet18").cost


def test_students_of_a_row_can_be_trained_together(tiny_run, tmp_path) -> None:
    jobs = plan_of(tiny_run, dataclasses.replace(FAST, baselines=("random",))).jobs
    groups = grouped(jobs)
    assert [len(group.jobs) for group in groups if isinstance(group, JobGroup)] == [2, 2, 2, 2]
    group = groups[-1]
    assert isinstance(group, JobGroup)
    together = group.run(Store(tmp_path))
    alone = [row for job in group.jobs for row in job.run(Store(tmp_path))]
    timed = ("finished_at", "seconds", "train_seconds", "generation_seconds")
    for one, other in zip(together, alone, strict=True):
        assert one.pop("loss") == pytest.approx(other.pop("loss"), rel=1e-3)
        assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}
    assert isinstance(grouped(jobs[:1])[0], Job)


@pytest.mark.parametrize(
    ("config", "ipc", "message"),
    [
        (dataclasses.replace(FAST, architectures=("resnet",)), None, r"architectures.*'resnet'.*resnet18"),
        (dataclasses.replace(FAST, baselines=("hering",)), None, r"baselines.*'hering'.*'herding'.*random, herding"),
        (dataclasses.replace(FAST, reference="conv"), None, r"reference.*'conv'.*convnet"),
        (FAST, [3], r"ipc.*3.*1, 2"),
        (FAST, [], r"ipc: found none"),
        (dataclasses.replace(FAST, accountings=("bytes",)), [0], r"ipc: found 0"),
    ],
)
def test_unknown_names_are_errors_before_anything_is_trained(tiny_run, config, ipc, message) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(tiny_run.artifact, tiny_run.test, config=config, ipc=ipc, runner=nothing)


def test_data_that_do_not_fit_are_errors(tiny_run, tmp_path) -> None:
    moved = tmp_path / "artifact"
    shutil.copytree(tiny_run.artifact, moved)
    with pytest.raises(DataError, match="--train-data"):
        evaluate(moved, tiny_run.test, config=FAST, runner=nothing)
    with pytest.raises(DataError, match="diagnostics need the training images"):
        evaluate(moved, tiny_run.test, config=dataclasses.replace(FAST, baselines=(), diagnostics=True), runner=nothing)
    with pytest.raises(DataError, match="valid: the artefact's 3 classes"):
        evaluate(moved, tiny_run.test, config=FAST, train_data=two_classes(tmp_path), runner=nothing)
    with pytest.raises(DataError, match="valid: the artefact's 3 classes"):
        evaluate(moved, two_classes(tmp_path), config=FAST, runner=nothing)
    with pytest.raises(ArtifactError, match="no such folder"):
        evaluate(tmp_path / "absent", tiny_run.test, runner=nothing)
    artifact = load(moved)
    artifact.path = None
    with pytest.raises(ArtifactError, match="no folder"):
        evaluate(artifact, tiny_run.test, runner=nothing)


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
    assert [row.key[:3] for row in both.rows[:2]] == [("raycondense", "convnet", 1), ("random", "convnet", 1)]
    assert len(both.rows) == 6
    assert both.test["reads"] == 6
    assert both.config.architectures == ("convnet", "alexnet")
    assert "| raycondense | alexnet | 2 |" in (folder / "README.md").read_text()
    # Another protocol's rows are never put beside these.
    third = evaluate(folder, tiny_run.test, config=dataclasses.replace(config, lr=0.02), ipc=[1], **arguments)
    assert save_scores(folder, third) == third == saved_scores(load(folder))


def test_damaged_scores_are_known_before_anything_is_trained(tiny_run, tmp_path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(tiny_run.artifact, folder)
    (folder / "scores.json").write_text('{"format_version": 2}')
    with pytest.raises(ArtifactError, match=r"scores\.json"):
        api.evaluate(folder, tiny_run.test, store=tmp_path / "store", train_data=tiny_run.train, progress=False)
    assert not (tmp_path / "store").exists()
    (folder / "scores.json").write_text('{"format_version": 1}')
    config = dataclasses.replace(FAST, students=1, baselines=())
    api.evaluate(folder, tiny_run.test, config=config, progress=False)
    assert saved_scores(load(folder)) is not None

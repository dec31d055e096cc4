"""`plan_sweep`, `sweep` and the dry run, all of it that needs no Ray."""

from __future__ import annotations

import shutil
import sys
import types
from pathlib import Path

import pytest

import raycondense
from raycondense.api.sweeping import check_search, describe_sweep, plan_sweep, resources_of
from raycondense.configfile import config_to_dict, override
from raycondense.data.sidecar import Sidecar
from raycondense.errors import ConfigError, DataError, Interrupted, RunError
from raycondense.presets import get_preset
from raycondense.tuning.plan import SweepPlan
from raycondense.tuning.records import SweepFolder
from raycondense.tuning.space import Space

SPACE = Space.from_dict({"parameters": {"losses.intra": {"log": [0.001, 10], "off": 0.2}}})


def planned(digits: Path, **changes) -> SweepPlan:
    return plan_sweep(SPACE, "digits", data=digits / "train.beton", **changes)


def test_a_plan_holds_everything_resolved(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = planned(
        digits, trials=7, workers_per_trial=2, gpus_per_trial=0.5, test_data=digits / "test.beton", students=3,
        overrides={"seed": 5, "cluster.workers": 4, "evaluation.architectures": ["resnet18", "convnet"]},
    )  # fmt: skip
    assert plan.folder == tmp_path / "sweeps" / "digits-space"
    assert plan.val_data == digits / "train-val.beton"
    assert plan.val_sha256 == Sidecar.load(plan.val_data).sha256
    assert plan.data_sha256 == Sidecar.load(plan.data).sha256
    assert plan.test_sha256 == Sidecar.load(digits / "test.beton").sha256
    assert (plan.trials, plan.seed, plan.rungs, plan.ipc) == (7, 5, (14_222, 42_666, 128_000), 10)
    assert (plan.start, plan.moved) == ({"losses.intra": 0.1}, ())
    judge = plan.judge
    assert (judge.protocol, judge.students, judge.architectures, judge.width) == ("fast", 3, ("resnet18",), 32)
    assert (judge.validation_only, judge.baselines, judge.diagnostics) == (True, (), False)
    assert plan.config.cluster.workers == 4, "the user's own"
    trial = plan.trial_config({"losses.intra": 2.0})
    assert trial.losses.intra == 2.0
    assert (trial.cluster.workers, trial.cluster.gpus_per_worker, trial.seed) == (2, 0.25, 5)
    assert plan.resources.pool == {"CPU": 1.0, "GPU": 0.25}
    told = plan.to_dict()
    assert told["config"] == config_to_dict(plan.config)
    assert Space.from_dict(told["space"]) == plan.space


def test_own_values_outside_of_the_space_are_told(digits):
    plan = plan_sweep(
        Space.from_dict({"parameters": {"losses.intra": {"log": [1, 10]}}}), "digits", data=digits / "train.beton"
    )
    assert (plan.start, plan.moved) == ({"losses.intra": 1.0}, ("losses.intra",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, r"trials: found 0, valid: 1 or more"),
        ({"winners": -1}, r"winners: found -1"),
        ({"rungs": 0}, r"rungs: found 0"),
        ({"students": 0}, r"students: found 0"),
        ({"workers_per_trial": 0}, r"workers_per_trial: found 0"),
        ({"gpus_per_trial": float("nan")}, r"gpus_per_trial: found nan"),
        ({"concurrent": -1}, r"concurrent: found -1"),
        ({"search": "bayes"}, r"search: unknown search 'bayes'.*; valid: tpe, random, cmaes, nsga2, nsga3"),
        ({"storage": "study.db"}, r"storage: found 'study\.db', valid: a database's URL"),
        ({"overrides": {"losses.intro": 1}}, r"losses\.intro"),
        ({"workers_per_trial": 11}, r"condense\.classes_per_step: found 10.*11 workers"),
    ],
)
def test_mistakes_are_found_before_anything_starts(digits, changes, message):
    with pytest.raises(ConfigError, match=message):
        planned(digits, **changes)


def test_trials_are_judged_by_validation_images_alone(digits, tmp_path):
    with pytest.raises(ConfigError, match=r"test\.beton: split: found test, valid: a validation split"):
        planned(digits, val_data=digits / "test.beton")
    with pytest.raises(ConfigError, match=r"train\.beton: found the training images"):
        planned(digits, val_data=digits / "train.beton")
    for name in ("train.beton", "train.beton.json"):
        shutil.copy(digits / name, tmp_path / name)
    with pytest.raises(DataError, match=r"train-val\.beton: no such file.*--val-fraction.*--val-data"):
        plan_sweep(SPACE, "digits", data=tmp_path / "train.beton")


def test_cmaes_searches_one_objective():
    both = Space.from_dict({**SPACE.to_dict(), "objectives": ["accuracy", "bytes"]})
    with pytest.raises(ConfigError, match="cmaes for two objectives, valid: tpe, random, nsga2, nsga3"):
        check_search(both, get_preset("digits"), search="cmaes", rungs=1, students=None)


@pytest.mark.parametrize("preset", ["digits", "cifar10"])
def test_a_dry_run_says_what_will_happen(preset):
    config = override(get_preset(preset), {"seed": 1})
    space, rungs, judge = check_search(SPACE, config, search="tpe", rungs=2, students=None)

    def lines(concurrent: int, **there: float) -> list[str]:
        resources = resources_of(config, 2, 0.0, concurrent, 3)
        return describe_sweep(
            space, config, resources=resources, rungs=rungs, judge=judge, trials=9, there=there, where="here"
        )

    found = lines(0, CPU=8.0, GPU=1.0)
    text = "\n".join(found)
    assert "losses.intra  0.001 to 10" in text
    assert f"trial 0, as {preset} has it: losses.intra {config.losses.intra or 'off'}" in text
    examples = [line for line in found if line.startswith("for example: losses.intra ")]
    assert len(set(examples)) == 3
    assert examples == [line for line in lines(0, CPU=1.0) if line.startswith("for example")], "by seed"
    assert f"9 trials, judged at {rungs[0]:,}, {rungs[1]:,} images by 2 students" in text
    assert "resources: 2 CPUs a trial + 1 CPU for the pool; here has 8 CPUs and 1 GPU" in text
    assert "3 trials at a time" in text
    assert "although there are GPUs: --gpus-per-trial" in text
    assert "short: needs 2 CPUs for each of 4 trials + 1 for the pool, here has 8" in "\n".join(lines(4, CPU=8.0))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[SweepPlan]:
    """Plans that were handed to the cluster, where each trial ends at once with a better accuracy."""
    plans: list[SweepPlan] = []

    def run_sweep(plan: SweepPlan, *, progress: bool) -> None:
        assert progress is False
        plans.append(plan)
        folder = SweepFolder(plan.folder)
        for number in range(len(folder.trials()), plan.trials):
            values = {"losses.intra": number / 10}
            folder.append({"trial": number, "event": "start", "values": values})
            folder.append({"trial": number, "event": "rung", "images": plan.rungs[-1], "accuracy": number / 100})
            folder.append({"trial": number, "event": "end", "state": "complete"})

    fake = types.ModuleType("raycondense.cluster.sweep")
    fake.run_sweep = run_sweep  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "raycondense.cluster.sweep", fake)
    return plans


def test_a_sweep_goes_on_with_more_trials_and_leaves_a_page(cluster, digits, tmp_path):
    out = tmp_path / "s"
    arguments = {"data": digits / "train.beton", "out": out, "winners": 0, "progress": False}
    result = raycondense.sweep(SPACE, "digits", trials=2, **arguments)
    assert result.best.number == 1
    result = raycondense.sweep(SPACE, "digits", trials=5, **arguments)
    assert (result.best.number, result.config().losses.intra) == (4, 0.4)
    assert [plan.trials for plan in cluster] == [2, 5]
    assert (out / "sweep.html").is_file()
    assert (tmp_path / "page.html") == raycondense.write_report(out, out=tmp_path / "page.html")
    with pytest.raises(ConfigError, match=r"holds a sweep with config\.losses\.inter = 0\.1, now 0\.5"):
        raycondense.sweep(SPACE, "digits", trials=5, losses={"inter": 0.5}, **arguments)
    assert len(cluster) == 2


def test_one_process_at_a_time_works_in_a_folder(cluster, digits, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(ConfigError, match="another process is working in this folder"):
        raycondense.sweep(SPACE, "digits", data=digits / "train.beton", out=tmp_path, progress=False)
    assert not cluster


@pytest.mark.parametrize(("raised", "expected"), [(KeyboardInterrupt(), Interrupted), (RunError("lost"), RunError)])
def test_what_ends_a_sweep_passes_through(cluster, digits, tmp_path, monkeypatch, raised, expected):
    def run_sweep(plan: SweepPlan, *, progress: bool) -> None:
        raise raised

    monkeypatch.setattr(sys.modules["raycondense.cluster.sweep"], "run_sweep", run_sweep)
    with pytest.raises(expected):
        raycondense.sweep(SPACE, "digits", data=digits / "train.beton", out=tmp_path / "s", progress=False)
    monkeypatch.undo()

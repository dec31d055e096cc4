"""Sweeps for real: Ray Tune, Optuna, trials that condense, kills. Tiny: what is found is worth nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from raycondense.api.sweeping import plan_sweep
from raycondense.artifact.load import load
from raycondense.cluster.search import open_study, sampler
from raycondense.cluster.sweep import run_sweep
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.errors import ConfigError
from raycondense.evaluation.store import Store
from raycondense.presets import get_preset
from raycondense.storage import read_lines
from raycondense.tuning.plan import SweepPlan
from raycondense.tuning.records import SweepFolder, TrialRecord
from raycondense.tuning.space import Space

pytestmark = pytest.mark.cluster

SETTINGS: dict[str, Any] = {
    "data": {"loader": "resident"},
    "generator": {"width": 8, "max_width": 8, "class_dim": 4},
    "codebook": {"ipc": [1, 3], "dim": 8},
    "extractors": {"width": 8, "weights": "random"},
    "losses": {"ce": 0, "intra": 0.5, "inter": 0.5},
    "initialise": {"steps": 150, "batch": 30},
    "condense": {"images": 9 * 800, "real_per_class": 8, "log_images": 400, "checkpoint_images": 100_000},
    "evaluation": {
        "width": 8, "students": 1, "max_steps": 20, "baselines": ["random"], "diagnostics": False, "batch": 32,
    },
    "cluster": {"workers": 1},
}  # fmt: skip
# The start of a generator that nothing was fitted to is worth much less at the first rung.
START = {"parameters": {"initialise.method": {"choice": ["reconstruct", "none"]}}}


def plan_of(digits: Path, out: Path, space: dict[str, Any], *, changes: dict[str, Any] | None = None, **arguments: Any):
    config: Config = override(override(get_preset("digits"), SETTINGS), changes or {})
    defaults = {"trials": 2, "concurrent": 1, "winners": 2, "students": 1, "search": "random"}
    plan = plan_sweep(
        Space.from_dict(space), config, data=digits / "train.beton", out=out, **{**defaults, **arguments}
    )  # fmt: skip
    plan = dataclasses.replace(plan, judge=dataclasses.replace(plan.judge, max_steps=100, batch=16))
    plan.folder.mkdir(parents=True, exist_ok=True)
    SweepFolder(plan.folder).claim(plan.to_dict())
    return plan


def seed_that_draws(plan: SweepPlan, name: str, value: Any) -> SweepPlan:
    """``plan`` with the first seed whose second trial has ``value``."""
    for seed in range(50):
        plan = dataclasses.replace(plan, seed=seed)
        study = optuna.create_study(sampler=sampler(plan, 1))
        if plan.space.draw(study.ask())[name] == value:
            return plan
    raise AssertionError("no seed found")


def events(plan: SweepPlan) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_lines(SweepFolder(plan.folder).events)]


def trials(plan: SweepPlan) -> list[TrialRecord]:
    return SweepFolder(plan.folder).trials()


def measured(plan: SweepPlan) -> dict[str, Any]:
    """Rows of the store by key: when they were found, and of what."""
    rows = Store(SweepFolder(plan.folder).store).tables["results"].read().to_pylist()
    return {row["key"]: (row["finished_at"], row["method"], row["source"]) for row in rows}


def test_a_worse_trial_is_stopped_and_the_next_takes_its_place(digits: Path, ray_session: None, tmp_path: Path) -> None:
    plan = seed_that_draws(plan_of(digits, tmp_path / "s", START, trials=3), "initialise.method", "none")
    run_sweep(plan, progress=False)
    own, worse, third = trials(plan)
    assert own.values == plan.start == {"initialise.method": "reconstruct"}
    assert (own.state, len(own.rungs), own.rungs[-1][0]) == ("complete", 3, 7200)
    assert (worse.state, len(worse.rungs), worse.artifact) == ("stopped", 1, None)
    assert "best third" in str(worse.reason)
    assert worse.accuracy is not None
    assert own.rungs[0][1] > worse.accuracy
    stopped = next(e["time"] for e in events(plan) if e["trial"] == 1 and e["event"] == "end")
    assert third.ended
    assert third.started > stopped  # one at a time: it had to wait for what the stopped one gave back
    # The trial is judged by what it published.
    assert own.artifact is not None
    assert load(own.artifact).config.codebook.ipc == (1, 3)
    assert (own.artifact.parent / "initial" / "config.json").is_file()
    assert not list(plan.folder.glob("trials/*/checkpoints"))
    study = open_study(plan)
    assert [t.state for t in study.trials[:2]] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert study.trials[0].value == own.accuracy
    # Winners, the configuration's own values and the baselines stand in the store.
    winners = SweepFolder(plan.folder).winners()
    assert [w.trial for w in winners][:1] == [0]
    rows = measured(plan)
    assert {method for _, method, _ in rows.values()} == {"raycondense", "random"}
    # More trials of a finished sweep: what was done is not done again.
    before = events(plan)
    more = dataclasses.replace(plan, trials=4)
    run_sweep(more, progress=False)
    assert events(plan)[: len(before)] == before
    assert {e["trial"] for e in events(plan)[len(before) :]} == {3}
    assert {key: value for key, value in measured(plan).items() if key in rows} == rows


def test_a_trial_that_diverges_has_a_reason_and_the_sweep_goes_on(
    digits: Path, ray_session: None, tmp_path: Path
) -> None:
    """With two objectives at once."""
    space = {
        "parameters": {
            "condense.lr_generator": {"choice": [5e-4, 1e18]},
            "generator.width": {"choice": [8, 16]},
        },
        "objectives": ["accuracy", "bytes"],
    }
    changes = {"condense.grad_clip": 0, "generator.max_width": 16}
    plan = seed_that_draws(
        plan_of(digits, tmp_path / "s", space, changes=changes, trials=3, search="nsga2", concurrent=2),
        "condense.lr_generator",
        1e18,
    )
    run_sweep(plan, progress=False)
    records = trials(plan)
    broken = [record for record in records if record.values["condense.lr_generator"] == 1e18]
    assert broken
    for record in broken:
        assert record.state == "diverged", record
        assert "finite" in str(record.reason)
        assert record.accuracy == 0.0
    whole = [record for record in records if record not in broken]
    assert all(record.state == "complete" and len(record.rungs) == 3 for record in whole)
    study = open_study(plan)
    assert len(study.directions) == 2
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert [tuple(trial.values) for trial in study.trials] == [(r.accuracy, r.bytes) for r in records]
    assert {w.trial for w in SweepFolder(plan.folder).winners()} <= {record.number for record in whole}


def test_what_is_short_is_said_before_anything_starts(digits: Path, ray_session: None, tmp_path: Path) -> None:
    plan = plan_of(digits, tmp_path / "s", START)
    plan = dataclasses.replace(plan, resources=dataclasses.replace(plan.resources, cpus_per_worker=4.0))
    with pytest.raises(ConfigError, match=r"needs 4 CPUs a trial \+ 1 for the pool, the cluster has 4"):
        run_sweep(plan, progress=False)
    assert not (plan.folder / "tune").exists()


# What a process of its own runs: the sweep that is described in a file, on a Ray of its own.
DRIVER = """
import json, os, shutil, sys, tempfile
from pathlib import Path
import ray
sys.path.insert(0, os.path.dirname({test!r}))
from test_sweep import plan_of
asked = json.loads(Path(sys.argv[1]).read_text())
folder = tempfile.mkdtemp(prefix="rt", dir="/tmp")
ray.init(address="local", num_cpus=asked["cpus"], num_gpus=0, include_dashboard=asked["dashboard"], _temp_dir=folder,
         object_store_memory=100 * 1024**2, log_to_driver=False, configure_logging=False)
from raycondense.cluster.sweep import run_sweep
where = Path(asked["digits"]), Path(asked["out"])
plan = plan_of(*where, asked["space"], changes=asked["changes"], **asked["arguments"])
try:
    run_sweep(plan, progress=False)
finally:
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
"""


def start_driver(tmp_path: Path, **asked: Any) -> subprocess.Popen[str]:
    path = tmp_path / "asked.json"
    path.write_text(json.dumps({"changes": {}, "dashboard": False, "cpus": 3, **asked}, default=str))
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_JOB_ID")}
    code = DRIVER.format(test=__file__)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def condensed(plan: SweepPlan, trial: int) -> list[int]:
    """Steps of stage condense in the log of a trial, in the order in which they were logged."""
    lines = read_lines(SweepFolder(plan.folder).trial(trial) / "log.jsonl")
    return [r["step"] for r in map(json.loads, lines) if r["stage"] == "condense"]


def trial_processes(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """Those in which Tune runs trials, by the titles that Ray gives its workers."""
    titles = {process: " ".join(process.cmdline()) for process in psutil.Process(driver.pid).children(recursive=True)}
    found = [process for process, title in titles.items() if title.startswith("ray::") and "Func" in title]
    assert found, sorted(titles.values())
    return found


def wait_for(what: Callable[[], bool], driver: subprocess.Popen[str], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.timeout(600)
@pytest.mark.long
def test_a_killed_driver_and_a_killed_trial_lose_nothing_that_was_done(digits: Path, tmp_path: Path) -> None:
    space = {"parameters": {"losses.inter": {"log": [0.01, 1]}}}
    changes = {"condense.images": 9 * 4000, "condense.checkpoint_images": 4000, "initialise.steps": 20}
    arguments = {"trials": 3, "rungs": 1, "concurrent": 1, "winners": 1, "search": "tpe"}
    asked = {"digits": digits, "out": tmp_path / "s", "space": space, "changes": changes, "arguments": arguments}
    plan = plan_of(digits, tmp_path / "s", space, changes=changes, **arguments)
    driver = start_driver(tmp_path, **asked)
    try:
        second = SweepFolder(plan.folder).trial(1) / "checkpoints"
        wait_for(lambda: any(int(path.name[-9:]) for path in second.glob("3-condense-*")), driver)
        orphans = trial_processes(driver)
    finally:
        driver.kill()
        driver.communicate(timeout=60)
    psutil.wait_procs(orphans, timeout=30)
    assert [record.ended for record in trials(plan)] == [True, False]
    before, steps = events(plan), condensed(plan, 1)
    assert steps
    driver = start_driver(tmp_path, **asked)
    try:
        # And while it goes on, a trial's own process dies: that trial starts again.
        wait_for(lambda: len(condensed(plan, 2)) > 1, driver)
        for process in trial_processes(driver):
            process.kill()
    except BaseException:
        driver.kill()
        raise
    output, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, output
    assert events(plan)[: len(before)] == before
    assert [(record.state, len(record.rungs)) for record in trials(plan)] == [("complete", 1)] * 3
    begun = [e["trial"] for e in events(plan) if e["event"] == "start"]
    assert begun == [0, 1, 1, 2, 2]
    again = condensed(plan, 1)[len(steps) :]
    assert again
    assert again[0] > steps[0]  # from its checkpoint and not from the start
    study = open_study(plan)
    assert all(trial.state.is_finished() for trial in study.trials)
    assert len(study.trials) == 3
    assert measured(plan)


@pytest.mark.timeout(600)
@pytest.mark.long
def test_trials_of_two_workers_are_stopped_and_give_back_what_they_had(digits: Path, tmp_path: Path) -> None:
    """The dashboard is what tells Ray that the workers of a stopped trial are nobody's any more."""
    plan = seed_that_draws(
        plan_of(digits, tmp_path / "seed", START, trials=3, winners=1, workers_per_trial=2),
        "initialise.method", "none",
    )  # fmt: skip
    asked = {"trials": 3, "winners": 1, "workers_per_trial": 2, "concurrent": 1}
    driver = start_driver(
        tmp_path, digits=digits, out=tmp_path / "s", space=START, arguments=asked, dashboard=True, cpus=3,
        changes={"seed": plan.seed},
    )  # fmt: skip
    output, _ = driver.communicate(timeout=570)
    assert driver.returncode == 0, output
    own, worse, third = trials(dataclasses.replace(plan, folder=tmp_path / "s"))
    assert (own.state, len(own.rungs)) == ("complete", 3)
    assert (worse.state, len(worse.rungs)) == ("stopped", 1)
    assert third.state in ("complete", "stopped"), third
    assert SweepFolder(tmp_path / "s").winners()

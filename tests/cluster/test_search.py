"""Studies without Ray: what is asked, what is told, and what a kill leaves behind."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import math
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from raycondense.api.sweeping import plan_sweep
from raycondense.cluster.search import StudySearch, finished, open_study, sampler, take_up
from raycondense.cluster.sweep import Rungs
from raycondense.cluster.watch import caption, line, rows, time_left
from raycondense.errors import ConfigError
from raycondense.tuning.plan import SEARCHES, SweepPlan
from raycondense.tuning.records import SweepFolder
from raycondense.tuning.space import Space

SPACE = {
    "parameters": {
        "losses.intra": {"log": [0.001, 10], "off": 0.3},
        "condense.lr_generator": {"log": [1e-5, 1e-2]},
        "codebook.dim": {"int": [16, 64], "log": True},
    }
}
Make = Callable[..., SweepPlan]


@pytest.fixture
def make(digits: Path, tmp_path: Path) -> Make:
    def make(space: dict[str, Any] = SPACE, out: str = "sweep", **settings: Any) -> SweepPlan:
        return plan_sweep(
            Space.from_dict(space), "digits", data=digits / "train.beton", out=tmp_path / out,
            **{"trials": 8, **settings},
        )  # fmt: skip

    return make


def drawn(plan: SweepPlan, number: int) -> list[dict[str, Any]]:
    search = StudySearch(plan, open_study(plan))
    found = []
    for index in range(number):
        found.append(search.suggest(f"t{index}"))
        search.on_trial_complete(f"t{index}", {"final": True, "accuracy": 0.1 * index, "bytes": 100 * index})
    return found


@pytest.mark.parametrize("search", SEARCHES)
def test_trials_begin_with_the_configurations_own_values_and_stay_in_the_space(make: Make, search: str) -> None:
    two = {**SPACE, "objectives": ["accuracy", "bytes"]} if search.startswith("nsga") else SPACE
    plan = make(two, search=search, trials=25)
    found = drawn(plan, 25)
    assert [one["trial"] for one in found] == list(range(25))
    assert found[0]["values"] == plan.start
    assert all(plan.space.contains(one["values"]) for one in found)
    intra = [one["values"]["losses.intra"] for one in found]
    assert 0.0 in intra  # a real zero
    assert len(set(intra)) > 10


def test_starting_points_come_after_the_configurations_own_values(make: Make) -> None:
    plan = make({**SPACE, "starts": [{"losses.intra": 0.5}]})
    found = drawn(plan, 3)
    assert found[0]["values"] == plan.start
    assert found[1]["values"] == {**plan.start, "losses.intra": 0.5}
    assert found[2]["values"]["losses.intra"] != 0.5


def test_cmaes_climbs(make: Make) -> None:
    """On a bowl its later trials come closer to the bottom than its first, in switches and weights."""
    space = {"parameters": {f"losses.{name}": {"log": [0.001, 10], "off": 0.2} for name in ("intra", "inter")}}
    plan = make(space, search="cmaes", trials=200)
    search = StudySearch(plan, open_study(plan))
    far: list[float] = []
    for index in range(200):
        values = search.suggest(f"t{index}")["values"]
        logs = [math.log10(values[f"losses.{name}"] or 10.0) + 2 for name in ("intra", "inter")]  # best at 0.01
        far.append(math.hypot(*logs))
        search.on_trial_complete(f"t{index}", {"final": True, "accuracy": 1 - far[-1] / 5, "bytes": 1})
    assert all(name in trial.params for trial in search._study.trials[1:] for name in ("losses.intra", "losses.intra?"))
    assert sum(far[-40:]) < 0.5 * sum(far[1:41])


def test_the_seed_decides_and_a_sweep_that_goes_on_draws_what_an_unbroken_one_does(make: Make) -> None:
    whole = drawn(make(out="a/sweep"), 8)
    broken = make(out="b/sweep")
    first = drawn(broken, 5)
    SweepFolder(broken.folder).append({"trial": 0, "event": "start"})  # the folder of a sweep that has begun
    search = StudySearch(broken, open_study(broken))
    rest = []
    for index in range(5, 8):
        rest.append(search.suggest(f"t{index}"))
        search.on_trial_complete(f"t{index}", {"final": True, "accuracy": 0.1 * index, "bytes": 0})
    assert first + rest == whole
    assert drawn(make(out="c/sweep", overrides={"seed": 1}), 3)[1:] != whole[1:3]


def test_a_stopped_trial_is_pruned_and_a_failed_one_has_the_worst_score(make: Make) -> None:
    plan = make()
    study = open_study(plan)
    search = StudySearch(plan, study)
    for name in "abc":
        search.suggest(name)
    search.on_trial_result("a", {"images": 14000, "accuracy": 0.4, "bytes": 5})
    search.on_trial_complete("a", {"images": 42000, "accuracy": 0.5, "bytes": 5})
    search.on_trial_complete("b", {"final": True, "images": 0, "accuracy": 0.0, "bytes": 5, "state": "diverged"})
    search.on_trial_complete("c", error=True)
    a, b, c = study.trials
    assert (a.state, a.intermediate_values) == (TrialState.PRUNED, {14000: 0.4, 42000: 0.5})
    assert [(t.state, t.value) for t in (b, c)] == [(TrialState.COMPLETE, 0.0)] * 2
    assert finished(study) == 3
    search.on_trial_complete("c", error=True)  # Tune may say so twice


def test_of_two_objectives_a_dead_trial_takes_as_many_bytes_as_the_largest(make: Make) -> None:
    plan = make({**SPACE, "objectives": ["accuracy", "bytes"]})
    study = open_study(plan)
    search = StudySearch(plan, study)
    for name in "ab":
        search.suggest(name)
    search.on_trial_complete("a", {"final": True, "accuracy": 0.5, "bytes": 700})
    search.on_trial_complete("b", error=True)
    assert [trial.values for trial in study.trials] == [[0.5, 700.0], [0.0, 700.0]]
    assert [trial.number for trial in study.best_trials] == [0]


def test_what_a_kill_left_is_taken_up(make: Make) -> None:
    plan = make()
    folder = SweepFolder(plan.folder)
    search = StudySearch(plan, open_study(plan))
    asked = {name: search.suggest(name) for name in "abcdef"}
    for name in "abcde":  # f was asked for and never started
        folder.append({"trial": asked[name]["trial"], "event": "start", "values": asked[name]["values"]})
    end = {"event": "end", "images": 128_000, "accuracy": 0.9, "bytes": 10}
    search.on_trial_complete("a", {"final": True, "accuracy": 0.8, "bytes": 10})  # told, not written down
    folder.append({"trial": 1, **end, "state": "complete"})  # written down, not told
    folder.append({"trial": 2, **end, "state": "stopped", "images": 14_000, "accuracy": 0.3})
    folder.append({"trial": 3, **end, "state": "diverged", "accuracy": 0.0})
    # Another process:
    study = open_study(plan)
    running = take_up(plan, study)
    assert [record.number for record in running] == [4]
    assert running[0].values == asked["e"]["values"]
    states = [trial.state for trial in study.trials]
    complete, pruned, fail = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
    assert states[:6] == [complete, complete, pruned, complete, TrialState.RUNNING, fail]
    assert [study.trials[n].value for n in (0, 1, 3)] == [0.8, 0.9, 0.0]
    assert finished(study) == 4
    assert folder.trials()[0].ended
    # It comes first, under its number; then new ones, whose numbers nobody had.
    search = StudySearch(plan, study, running)
    assert search.suggest("x") == {"trial": 4, "values": asked["e"]["values"]}
    assert search.suggest("y")["trial"] == 6
    search.on_trial_complete("x", {"final": True, "accuracy": 0.7, "bytes": 10})
    assert study.trials[4].value == 0.7
    assert take_up(plan, open_study(plan)) == []


def test_a_first_trial_that_was_never_started_comes_again(make: Make) -> None:
    plan = make()
    StudySearch(plan, open_study(plan)).suggest("a")
    study = open_study(plan)
    assert take_up(plan, study) == []
    assert StudySearch(plan, study).suggest("b") == {"trial": 1, "values": plan.start}


def test_another_sweeps_study_is_refused(make: Make, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    open_study(make(out="one/sweep", storage=url))
    open_study(make(out="one/sweep", storage=url))
    with pytest.raises(ConfigError, match=r"study 'sweep' is not this sweep's"):
        open_study(make(out="two/sweep", storage=url, overrides={"seed": 5}))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////nowhere/at/all/study.db", "unable to open database file"),
        ("nonsense://user:secret@host/db", "nonsense"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_line_without_a_password(make: Make, url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        open_study(make(storage=url))
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_sqlite_holds_what_the_journal_holds(make: Make, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    assert drawn(make(out="a/sweep", storage=url), 4) == drawn(make(out="b/sweep"), 4)
    study = optuna.load_study(study_name="sweep", storage=url)
    assert study.best_value == pytest.approx(0.3)
    assert (tmp_path / "b" / "sweep" / "study.log").is_file()


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    """URL of a PostgreSQL that lives as long as the test; none as root, so somebody else runs it."""
    driver = next((name for name in ("psycopg2", "psycopg") if importlib.util.find_spec(name)), None)
    if driver is None:
        pytest.skip("PostgreSQL: no driver (psycopg2 or psycopg) is installed")
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), *filter(None, [shutil.which("initdb")])]
    if not found:
        pytest.skip("PostgreSQL: no server is installed (initdb)")
    programs = Path(found[-1]).parent
    somebody = {"user": "nobody"} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    folder.chmod(0o777)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    call = functools.partial(subprocess.run, cwd=folder, check=True, capture_output=True, timeout=60, **somebody)
    try:
        call([programs / "initdb", "-D", folder / "data", "-U", "tester", "--auth=trust", "--no-sync"])
        call([
            programs / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log",
            "-o", f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}", "start",
        ])  # fmt: skip
    except subprocess.CalledProcessError as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"PostgreSQL: no server can be started: {error.stderr.decode().strip()[-200:]}")
    try:
        yield f"postgresql+{driver}://tester:secret@127.0.0.1:{port}/postgres"
    finally:
        call([programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"])
        shutil.rmtree(folder, ignore_errors=True)


def test_postgresql_holds_what_the_journal_holds(make: Make, postgresql: str) -> None:
    plan = make(out="a/sweep", storage=postgresql)
    assert drawn(plan, 4) == drawn(make(out="b/sweep"), 4)
    assert optuna.load_study(study_name="sweep", storage=postgresql).best_value == pytest.approx(0.3)
    with pytest.raises(ConfigError, match="cannot open") as error:
        open_study(make(out="c/sweep", storage=postgresql.replace("/postgres", "/nowhere")))
    assert "secret" not in str(error.value)


class Known:
    """As much of Tune's trial as its scheduler asks for."""

    def __init__(self, name: str, values: dict[str, Any]) -> None:
        self.trial_id = name
        self.config = {"values": values}


def test_rungs_stop_the_worse_and_spare_the_configurations_own_values() -> None:
    rungs = Rungs({"losses.intra": 0.1}, (100, 300, 900))
    rungs.remember("earlier", ((100, 0.5), (300, 0.6), (900, 0.7)))

    def result(name: str, images: int, accuracy: float, **values: Any) -> str:
        trial = Known(name, values)
        rungs.on_trial_add(None, trial)
        return rungs.on_trial_result(None, trial, {"images": images, "accuracy": accuracy})

    assert result("worse", 112, 0.4) == "STOP"
    assert result("better", 112, 0.55) == "CONTINUE"
    assert result("later", 305, 0.5) == "STOP"
    assert result("own", 112, 0.1, **{"losses.intra": 0.1}) == "CONTINUE"
    # A diverged trial's worst score came after an unknown number of images: no rung.
    broken = Known("broken", {})
    rungs.on_trial_add(None, broken)
    assert rungs.on_trial_result(None, broken, {"images": 900, "accuracy": 0.0, "final": True}) == "CONTINUE"
    assert result("third", 905, 0.65) == "STOP"


def test_the_sampler_is_another_for_every_trial(make: Make) -> None:
    plan = make(search="random")

    def number(trial: int) -> float:
        study = optuna.create_study(sampler=sampler(plan, trial))
        return study.ask().suggest_float("x", 0, 1)

    assert number(3) == number(3)
    assert len({number(trial) for trial in range(10)}) == 10
    assert number(3) != optuna.create_study(sampler=sampler(dataclasses.replace(plan, seed=1), 3)).ask().suggest_float(
        "x", 0, 1
    )


def test_what_a_person_sees(make: Make) -> None:
    plan = make()
    folder = SweepFolder(plan.folder)
    folder.append({"trial": 0, "event": "start", "values": plan.start})
    folder.append({"trial": 0, "event": "rung", "images": 128_000, "accuracy": 0.871, "bytes": 9})
    folder.append({"trial": 0, "event": "end", "state": "complete", "accuracy": 0.871})
    folder.append({"trial": 1, "event": "start", "values": plan.start})
    folder.append({"trial": 1, "event": "rung", "images": 14_222, "accuracy": 0.5})
    log = folder.trial(1) / "log.jsonl"
    log.parent.mkdir(parents=True)
    seen = {"stage": "condense", "step": 40, "images": 28000, "total": 128000, "images_per_second": 1000}
    log.write_text(json.dumps({**seen, "loss/intra": 0.25}) + "\n")
    trials = folder.trials()
    done, running = rows(folder, plan, trials)
    assert done == ["0", "complete", "128,000 / 128,000", "87.1", "87.1", "", ""]
    assert running == ["1", "condense", "28,000 / 128,000", "50.0", "50.0", "1 min 40 s", "intra 0.25"]
    assert "best 87.1 % (trial 0); about 2 min left" in caption(plan, trials, 120)
    assert line(trials[0]) == "trial 0: 87.1 % at 128,000 images, complete"
    assert time_left(0, 5, 10) is None
    assert time_left(2, 5, 10) == 25

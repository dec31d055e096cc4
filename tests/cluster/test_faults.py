"""Knocks that a run takes: real processes, nodes, files and connections are broken while it trains.

Lost workers and drivers are in test_train.py.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from ray.train import RunConfig

from raycondense import api, condense
from raycondense.checkpoint import STATE, find_damage
from raycondense.errors import RunError
from raycondense.host import LocalHost
from raycondense.testing.runs import (
    STEP_IMAGES,
    images_seen,
    published,
    records,
    settings,
    tell_when_going_on,
    wait_for,
)
from raycondense.testing.wire import Wire

pytestmark = pytest.mark.cluster
CHECKPOINT_STEPS = 7  # of raycondense.testing.runs.settings


def equal(one: Path, other: Path) -> None:
    """Both runs have published the same, bit by bit."""
    for part in ("artifact", "initial"):
        found = published(other, part)
        for name, value in published(one, part).items():
            assert torch.equal(value, found[name]), (part, name)


def repeated(folder: Path) -> int:
    """How many steps of condensation were done twice, to a log record."""
    steps = [record["step"] for record in records(folder) if record["stage"] == "condense"]
    return sum(max(0, before - after) for before, after in pairwise(steps))


def checkpoints(folder: Path) -> list[Path]:
    """Those that Ray has committed, oldest first."""
    snapshot = json.loads((folder / "ray" / "checkpoint_manager_snapshot.json").read_text())
    return [folder / "ray" / one["checkpoint_dir_name"] for one in snapshot["checkpoint_results"]]


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def training_processes() -> list[psutil.Process]:
    everyone = psutil.Process().children(recursive=True)
    return [process for process in everyone if "RayTrainWorker" in " ".join(process.cmdline())]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the user was told on the driver."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def scene(name: str, train: Path, out: Path) -> dict[str, Any]:
    """Play a scene of several_nodes.py and return what was seen."""
    script = Path(__file__).with_name("several_nodes.py")
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_JOB_ID")}
    environment |= {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
    command = [sys.executable, str(script), name, str(train), str(out)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = process.communicate(timeout=540)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # it ends its nodes
            process.communicate(timeout=60)
    assert process.returncode == 0, output[-3000:]
    seen: dict[str, Any] = json.loads(Path(f"{out}.json").read_text())
    print(name, seen)
    return seen


@pytest.mark.long
def test_a_checkpoint_cut_in_half_is_passed_over(
    unbroken: Path, digits: Path, ray_session: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker dies, and the newest checkpoint turns out to be damaged: the one before it is gone on from."""
    harmed: list[str] = []

    def harm() -> None:
        wait_for(lambda: images_seen(tmp_path) >= 20 * STEP_IMAGES, 600)
        workers = training_processes()
        for worker in workers:
            worker.suspend()
        time.sleep(0.5)  # what they had reported comes in
        newest = checkpoints(tmp_path)[-1]
        cut(newest / STATE)
        harmed.append(newest.name)
        for worker in workers:
            worker.kill()
        tell_when_going_on(tmp_path, "workers killed, checkpoint cut")

    thread = threading.Thread(target=harm)
    thread.start()
    api.fit(settings(), data=digits / "train.beton", out=tmp_path, progress=False)
    thread.join()
    told = [warning for warning in warnings_in(caplog) if "damaged" in warning]
    assert len(told) == 1
    assert told[0].startswith(f"checkpoint {harmed[0]} is damaged (state.pt has ")
    assert "going on from 3-condense-" in told[0]
    assert CHECKPOINT_STEPS - 3 <= repeated(tmp_path) <= 2 * CHECKPOINT_STEPS + 3
    equal(unbroken, tmp_path)
    assert all(find_damage(checkpoint) is None for checkpoint in checkpoints(tmp_path))


@pytest.mark.long
def test_a_list_of_checkpoints_cut_in_half_costs_nothing(
    unbroken: Path, digits: Path, ray_session: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray's own list, which it does not write atomically; beside it a damaged checkpoint."""
    data = digits / "train.beton"

    def kill() -> None:
        wait_for(lambda: images_seen(tmp_path) >= 20 * STEP_IMAGES, 600)
        for worker in training_processes():
            worker.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(RunError, match="run the same command to go on from the last checkpoint"):
        api.fit(settings(**{"cluster.max_failures": 0}), data=data, out=tmp_path, progress=False)
    thread.join()
    before, newest = checkpoints(tmp_path)[-2:]
    cut(newest / STATE)
    cut(tmp_path / "ray" / "checkpoint_manager_snapshot.json")
    # One that was stored and never listed is as good as any; this one is not whole either.
    for path in sorted((tmp_path / "ray").iterdir()):
        if path.is_dir() and path.name > newest.name:
            cut(path / STATE)
    api.fit(settings(), data=data, out=tmp_path, progress=False)
    told = warnings_in(caplog)
    assert any("checkpoint_manager_snapshot.json: cannot be read (JSONDecodeError); looking" in line for line in told)
    assert any(line.startswith(f"checkpoint {newest.name} is damaged") and before.name in line for line in told)
    equal(unbroken, tmp_path)


@pytest.fixture
def wire(s3: Any) -> Iterator[Wire]:
    wire = Wire(s3.port)
    yield wire
    wire.close()


def run_on_s3(
    s3: Any, wire: Wire, digits: Path, out: Path, forbidden: str, seconds: float, *, everything: bool = False
) -> float:
    """A run whose storage cannot be reached for a while; how many seconds it was.

    What is asked for a file whose name holds ``forbidden`` is cut off, and ``everything`` from then on.
    """
    gone: list[float] = []

    def harm() -> None:
        wait_for(lambda: images_seen(out) >= 20 * STEP_IMAGES, 600)
        wire.forbidden = forbidden.encode()
        wait_for(lambda: wire.cut_off > 0, 120)
        if everything:
            wire.cut()
        began = time.monotonic()
        time.sleep(seconds)
        wire.forbidden = None
        wire.mend()
        gone.append(time.monotonic() - began)
        tell_when_going_on(out, "storage is back")

    thread = threading.Thread(target=harm)
    thread.start()
    uri = s3.uri(s3.bucket(), wire.port)
    environment = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    api.fit(
        settings(), data=digits / "train.beton", out=out, progress=False,
        run_config=RunConfig(name="ray", storage_path=uri, worker_runtime_env={"env_vars": environment}),
    )  # fmt: skip
    thread.join()
    return gone[0]


@pytest.fixture
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("_credentials")
def test_storage_out_of_reach_is_waited_for(
    unbroken: Path, digits: Path, ray_session: None, tmp_path: Path, s3: Any, wire: Wire,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Twenty seconds without S3 from a checkpoint on: nothing is lost, and nothing is done twice."""
    gone = run_on_s3(s3, wire, digits, tmp_path, STATE, 20, everything=True)
    assert gone >= 20
    told = warnings_in(caplog)
    assert any(" storage cannot be reached, trying again for " in line for line in told), told
    assert any(": storage is back after " in line for line in told), told
    assert repeated(tmp_path) == 0
    equal(unbroken, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("_credentials")
def test_storage_that_fails_ray_itself_is_outlasted(
    unbroken: Path, digits: Path, ray_session: None, tmp_path: Path, s3: Any, wire: Wire,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Checkpoints arrive and Ray's list of them does not: its controller gives up, and another one goes on."""
    run_on_s3(s3, wire, digits, tmp_path, "checkpoint_manager_snapshot", 10)
    assert any("going on from the last checkpoint in " in line for line in warnings_in(caplog))
    assert repeated(tmp_path) <= 2 * CHECKPOINT_STEPS + 3
    equal(unbroken, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_lost_node_costs_one_interval(unbroken: Path, digits: Path, tmp_path: Path) -> None:
    """One of two nodes is killed, another one comes: the run ends with the same bits."""
    seen = scene("node_killed", digits / "train.beton", tmp_path / "run")
    # Ray hears of the dead one, or first of the other one's broken connection to it.
    assert any(re.match(r"worker \d (was lost|failed) \(", line) for line in seen["warnings"]), seen["warnings"]
    assert repeated(tmp_path / "run") <= 2 * CHECKPOINT_STEPS + 3
    equal(unbroken, tmp_path / "run")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_notice_that_a_machine_will_be_taken_away_saves_a_checkpoint(digits: Path, tmp_path: Path) -> None:
    """No checkpoint was due for a long time: what is gone on from is the notice's."""
    seen = scene("machine_taken_away", digits / "train.beton", tmp_path / "run")
    assert any("will be taken away in 1" in line and "saving a checkpoint now" in line for line in seen["warnings"])
    assert seen["saved"]["seconds"] < 12
    saved = int(seen["checkpoints_at_the_end"][-1].rpartition("-")[2])
    assert saved >= 20
    assert saved < seen["taken"]["first_record_after"] <= saved + 3
    # Steps that were done twice, before and after: the same losses.
    by_step: dict[int, list[dict[str, Any]]] = {}
    for record in records(tmp_path / "run"):
        if record["stage"] == "condense":
            by_step.setdefault(record["step"], []).append({k: v for k, v in record.items() if k.startswith("loss/")})
    twice = [found for found in by_step.values() if len(found) == 2]
    assert twice
    assert all(before == after for before, after in twice)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_elastic_run_takes_the_workers_that_there_are(digits: Path, tmp_path: Path) -> None:
    """One worker, then two, then one: the losses are those of one worker within two per cent."""
    seen = scene("elastic", digits / "train.beton", tmp_path / "run")
    sizes = [line.split()[2] for line in seen["warnings"] if line.startswith("training with ")]
    assert sizes == ["1", "2", "1"]
    config = settings(**{"cluster.workers": 0, "condense.images": 400 * STEP_IMAGES})
    condense.run(config, digits / "train.beton", LocalHost(tmp_path / "alone", device="cpu"))

    def at_the_end(folder: Path) -> float:
        last = [record["loss/match"] for record in records(folder) if record["stage"] == "condense"][-30:]
        return sum(last) / len(last)

    assert at_the_end(tmp_path / "run") == pytest.approx(at_the_end(tmp_path / "alone"), rel=0.02)
    assert repeated(tmp_path / "run") <= 2 * (2 * CHECKPOINT_STEPS + 3)

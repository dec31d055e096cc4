"""Runs with data and storage in S3 (a real server on loopback): one machine ends, another goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from raycondense import api
from raycondense.configfile import save_config
from raycondense.errors import ConfigError, DataError, RunError
from raycondense.remote import Place
from raycondense.storage import read_lines
from raycondense.testing.runs import published, settings, wait_for

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def bucket(s3: Any, digits: Path) -> str:
    """A bucket with ``train.beton`` of the digits in it."""
    name: str = s3.bucket()
    for file in ("train.beton", "train.beton.json"):
        Place.at(s3.uri(f"{name}/{file}")).upload(digits / file)
    return name


def kill_a_worker_when(ready: Callable[[], bool]) -> threading.Thread:
    def kill() -> None:
        wait_for(ready, 200)
        workers = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
        workers[-1].send_signal(signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def checkpoints(storage: str) -> list[str]:
    """Those of the condensation that are whole."""
    return [name for name in Place.at(storage).files() if "3-condense" in name and name.endswith("clock.json")]


def test_a_run_in_s3_goes_on_on_another_machine(s3: Any, bucket: str, unbroken: Path, tmp_path: Path) -> None:
    """What the first machine has goes with it; the second one has the URIs alone, and ends with the same codes as a run
    that nothing happened to."""
    config = settings(**{"data.cache": str(tmp_path / "cache"), "cluster.max_failures": 0})
    data, storage = s3.uri(f"{bucket}/train.beton"), s3.uri(f"{bucket}/runs/one")
    killer = kill_a_worker_when(lambda: len(checkpoints(storage)) > 1)
    with pytest.raises(RunError, match="run the same command to go on"):
        api.fit(config, data=data, out=tmp_path / "lost", storage=storage, progress=False)
    killer.join()
    before = len(read_lines(tmp_path / "lost" / "log.jsonl"))
    assert not (tmp_path / "lost" / "ray").exists()
    shutil.rmtree(tmp_path / "lost")
    shutil.rmtree(tmp_path / "cache")
    result = api.fit(config, data=data, out=tmp_path / "spare", storage=storage, progress=False)
    # It did not begin again: what the log says first is of the machine that was lost.
    records = result.log
    assert before >= 3
    assert records[before]["stage"] == "condense"
    assert 1 < records[before]["step"] <= records[before - 1]["step"] + 10
    for name, value in published(unbroken).items():
        assert torch.equal(value, published(result.folder)[name]), name
    assert len(list((tmp_path / "cache").rglob("*.beton"))) == 1
    stored = Place.at(storage).files()
    assert {"run.json", "log.jsonl", "artifact/config.json", "initial/config.json"} <= stored.keys()
    assert any(name.startswith("ray/4-done") for name in stored)
    assert json.loads((tmp_path / "spare" / "run.json").read_text())["data"]["path"] == data
    # On a third machine the same call finds it finished.
    started = time.monotonic()
    third = api.fit(config, data=data, out=tmp_path / "third", storage=storage, progress=False)
    assert time.monotonic() - started < 15
    for name in (name for name in stored if not name.startswith("ray/")):
        assert (third.folder / name).read_bytes() == (result.folder / name).read_bytes(), name
    # Another run does not get in there, and this one does not forget where its checkpoints are.
    with pytest.raises(ConfigError, match=r"s3://.*/runs/one.*: holds a run with seed = 0, now 1; .*--storage"):
        api.fit(config, data=data, out=tmp_path / "other", storage=storage, seed=1, progress=False)
    with pytest.raises(ConfigError, match=r"storage: found none, but the run in .*/spare is kept at s3://.*runs/one"):
        api.fit(config, data=data, out=tmp_path / "spare", progress=False)


def test_data_that_changed_under_way_are_refused_by_the_worker(
    s3: Any, bucket: str, ray_session: None, digits: Path, tmp_path: Path
) -> None:
    """The driver reads the sidecar alone, so that the beton is another one is the workers' to find; in one line."""
    content = bytearray((digits / "train.beton").read_bytes())
    content[-1] ^= 1
    (tmp_path / "changed").write_bytes(content)
    Place.at(s3.uri(f"{bucket}/changed.beton")).upload(tmp_path / "changed")
    Place.at(s3.uri(f"{bucket}/changed.beton.json")).upload(digits / "train.beton.json")
    config = settings(**{"data.cache": str(tmp_path / "cache"), "cluster.max_failures": 0, "cluster.workers": 1})
    with pytest.raises(DataError, match=r"s3://.*changed.beton.*: its SHA-256 is not the one in its sidecar"):
        api.fit(config, data=s3.uri(f"{bucket}/changed.beton"), out=tmp_path / "run", progress=False)


@pytest.mark.timeout(600)
@pytest.mark.long
def test_another_machine_goes_on_after_the_head_is_lost(s3: Any, bucket: str, unbroken: Path, tmp_path: Path) -> None:
    """The driver is killed and its machine's folder with it; the same command on another one ends with the same codes
    as a run that nothing happened to."""
    save_config(settings(), tmp_path / "settings.yaml")
    storage = s3.uri(f"{bucket}/runs/lost")
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_JOB_ID")}
    environment["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.4"

    def command(out: str) -> list[str]:
        return [
            sys.executable, "-m", "raycondense.cli", "fit", "--config-file", str(tmp_path / "settings.yaml"),
            "--data", s3.uri(f"{bucket}/train.beton"), "--out", str(tmp_path / out), "--storage", storage,
            "--data.cache", str(tmp_path / f"cache-{out}"),
        ]  # fmt: skip

    driver = subprocess.Popen(command("head"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: driver.poll() is not None or len(checkpoints(storage)) > 1, 200)
    finally:
        driver.send_signal(signal.SIGKILL)
        _, errors = driver.communicate(timeout=60)
    assert driver.returncode == -9, errors
    # Its workers outlive it for some seconds.
    log, since = 0, time.monotonic()
    while time.monotonic() - since < 4:
        now = len(Place.at(storage).files())
        log, since = now, since if now == log else time.monotonic()
        time.sleep(0.2)
    shutil.rmtree(tmp_path / "head")
    assert not any(name.startswith("artifact") for name in Place.at(storage).files())
    done = subprocess.run(command("spare"), env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    for name, value in published(unbroken).items():
        assert torch.equal(value, published(tmp_path / "spare")[name]), name

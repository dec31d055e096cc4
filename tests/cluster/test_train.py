"""Ray Train for real: two workers compute what one does, and kills lose nothing."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from raycondense import api, condense
from raycondense.cli import main
from raycondense.cluster.start import alone, connect
from raycondense.configfile import save_config
from raycondense.errors import ConfigError
from raycondense.host import LocalHost
from raycondense.state import TrainState
from raycondense.testing.runs import images_seen, published, records, settings, tell_when_going_on, wait_for

pytestmark = pytest.mark.cluster


def wait_for_quiet(folder: Path, seconds: float = 4.0) -> None:
    """Until nothing was logged for some seconds: workers outlive a killed driver."""
    known, since = -1, time.monotonic()
    while time.monotonic() - since < seconds:
        if len(records(folder)) != known:
            known, since = len(records(folder)), time.monotonic()
        time.sleep(0.1)


def test_two_workers_compute_what_one_does(unbroken: Path, digits: Path, tmp_path: Path) -> None:
    config = settings()
    state: TrainState = condense.run(config, digits / "train.beton", LocalHost(tmp_path, device="cpu"))
    # A step of the pool stage is one network a worker, so only its outcome can be compared.
    alone, together = ([r for r in records(folder) if r["stage"] != "pool"] for folder in (tmp_path, unbroken))
    assert [r["images"] for r in alone] == [r["images"] for r in together]
    # The first steps are equal but for the order of sums; later Adam magnifies what the order changed.
    first = next(i for i, r in enumerate(alone) if r["stage"] == "condense")
    for one, two in list(zip(alone, together, strict=True))[: first + 5]:
        for name in (key for key in one if key.startswith("loss/")):
            assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), (one["stage"], one["step"], name)
    for name, value in published(unbroken).items():
        mine = state.average.codebook.codes if name == "codes" else state.average.generator.state_dict()[name]
        torch.testing.assert_close(value, mine.detach(), rtol=0.05, atol=0.02, msg=name)
    assert state.initial is not None
    for name, value in published(unbroken, "initial").items():
        mine = state.initial["codebook.codes" if name == "codes" else f"generator.{name}"]
        torch.testing.assert_close(value, mine, rtol=0.05, atol=0.02, msg=name)


def test_a_killed_worker_costs_nothing(unbroken: Path, digits: Path, ray_session: None, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_one() -> None:
        wait_for(lambda: images_seen(tmp_path) >= 7 * 8 * 12)
        workers = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
        victim = workers[-1]
        victim.send_signal(signal.SIGKILL)
        killed.append(victim.pid)
        tell_when_going_on(tmp_path, "a worker killed")

    thread = threading.Thread(target=kill_one)
    thread.start()
    api.fit(settings(), data=digits / "train.beton", out=tmp_path, progress=False)
    thread.join()
    assert killed
    steps = [r["step"] for r in records(tmp_path) if r["stage"] == "condense"]
    repeated = len(steps) - len(set(steps))
    # It went back to the last checkpoint, not to the start: at most two intervals of five steps.
    assert 0 < repeated <= 10
    for part in ("artifact", "initial"):
        for name, value in published(unbroken, part).items():
            assert torch.equal(value, published(tmp_path, part)[name]), (part, name)


def test_ray_train_is_spared_what_a_machine_alone_has_no_use_for(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    watcher = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
    connect()
    monkeypatch.delenv(watcher, raising=False)
    with alone():
        assert os.environ[watcher] == "0"
        # By this name Ray Train looks for it before it starts one.
        assert ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")
    # A later run of this process may be on a cluster that loses machines.
    assert watcher not in os.environ
    monkeypatch.setenv(watcher, "1")
    with alone():
        assert os.environ[watcher] == "1"


@pytest.mark.parametrize(
    ("ending", "code"),
    [(signal.SIGKILL, -9), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)],
    ids=["killed", "ctrl-c"],
)
def test_a_driver_that_ended_goes_on_by_the_same_command(
    unbroken: Path, digits: Path, tmp_path: Path, ending: signal.Signals, code: int
) -> None:
    save_config(settings(), tmp_path / "settings.yaml")
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "raycondense.cli", "fit", "--config-file", str(tmp_path / "settings.yaml"),
        "--data", str(digits / "train.beton"), "--out", str(out),
    ]  # fmt: skip
    # The session's Ray is another cluster: this driver starts its own.
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_JOB_ID")}
    # Slow reports keep the workers of a killed driver from finishing before they end too.
    environment["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.4"
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: images_seen(out) >= 7 * 8 * 12)
    finally:
        driver.send_signal(ending)
        _, errors = driver.communicate(timeout=60)
    assert driver.returncode == code, errors
    if ending == signal.SIGINT:
        assert "run the same command to go on" in errors.splitlines()[-1]
    wait_for_quiet(out)
    assert not (out / "artifact").exists()
    before = len(records(out))
    environment["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert again.returncode == 0, again.stderr
    assert "artefact:" in again.stdout
    resumed = records(out)[before:]
    assert resumed[0]["stage"] == "condense"
    assert resumed[0]["step"] > 1
    for name, value in published(unbroken).items():
        assert torch.equal(value, published(out)[name]), name
    # Once more: it is finished, so nothing starts.
    started = time.monotonic()
    assert main(command[3:]) == 0
    assert time.monotonic() - started < 10
    assert records(out)[before:] == resumed


@pytest.mark.long
def test_a_mistake_found_by_a_worker_is_told_in_one_line(digits: Path, ray_session: None, tmp_path: Path) -> None:
    config = settings(**{"initialise.method": "gan", "initialise.gan_batch": 1, "cluster.max_failures": 0})
    with pytest.raises(ConfigError, match=r"initialise.gan_batch: found 1, valid: 2 \(the workers\) or more"):
        api.fit(config, data=digits / "train.beton", out=tmp_path, progress=False)


def test_more_workers_than_cpus_are_refused(ray_session: None, tmp_path: Path, digits: Path) -> None:
    from raycondense.cluster.trainer import check_room, scaling_config

    with pytest.raises(ConfigError, match=r"cluster.workers: 9 workers need 9 CPUs, this machine has 4"):
        check_room(scaling_config(settings(**{"cluster.workers": 9})))


def test_rays_own_configurations_are_passed_through(digits: Path, ray_session: None, tmp_path: Path) -> None:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

    config = settings(
        **{"condense.images": 112, "initialise.steps": 2, "extractors.pool_size": 2, "data.loader": "auto"}
    )
    result = api.fit(
        config,
        data=digits / "train.beton",
        out=tmp_path / "run",
        progress=False,
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="mine", storage_path=str(tmp_path / "storage")),
        failure_config=FailureConfig(max_failures=0),
        checkpoint_config=CheckpointConfig(num_to_keep=1),
    )
    kept = [p.name for p in (tmp_path / "storage" / "mine").iterdir() if "done" in p.name]
    assert kept == ["4-done-000000000"]
    assert not (result.folder / "ray").exists()
    # The default loader, in a real worker: each log record says what read.
    reader = "ffcv" if importlib.util.find_spec("ffcv") else "resident"
    assert {r["stage"]: r.get("loader") for r in records(result.folder)} == {
        "pool": reader, "reconstruct": None, "condense": reader,
    }  # fmt: skip
    assert result.artifact.bank(3).images.shape == (30, 3, 8, 8)

"""What all tests share: an environment of their own, Ray once a session, and real images where there are any."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

# Ray reads these at its import, in this process and in the workers that inherit them.
os.environ.update(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "1000",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1",
        # For a test's own S3 server; no test may reach a real account.
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nobodys-secret",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
)
os.environ.pop("RAY_ADDRESS", None)

TEST_DATA = "RAYCONDENSE_TEST_DATA"
LONG_TESTS = "RAYCONDENSE_LONG_TESTS"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start Ray come last: what is quick to fail fails first. What takes minutes waits to be asked for."""
    items.sort(key=lambda item: item.get_closest_marker("cluster") is not None)
    if not os.environ.get(LONG_TESTS):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason=f"takes minutes; {LONG_TESTS}=1 runs it"))


@pytest.fixture(autouse=True)
def _neutral_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's shell reaches a test."""
    for name in list(os.environ):
        if name.startswith("RAYCONDENSE_") and name != TEST_DATA:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray on this machine, once for all tests marked ``cluster``: 4 logical CPUs, no dashboard.

    A test that needs another Ray (several nodes, a dashboard, a driver to kill) starts it in a process of its own.
    """
    import ray

    # Not pytest's own folder: the sockets in here have paths of at most 107 bytes.
    folder = tempfile.mkdtemp(prefix="rt", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=0,
        resources={"trial_slot": 4},
        include_dashboard=False,
        object_store_memory=150 * 1024**2,
        log_to_driver=False,
        configure_logging=False,
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


class S3Server:
    """An S3 server on loopback, in a process of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def bucket(self) -> str:
        """A fresh bucket's name."""
        name = f"bucket-{secrets.token_hex(6)}"
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.port}/{name}", method="PUT"), timeout=20)
        return name

    def uri(self, path: str, port: int | None = None) -> str:
        """URI of ``bucket/key``; through another port where a proxy stands before the server."""
        return f"s3://{path}?scheme=http&endpoint_override=127.0.0.1:{port or self.port}&region=us-east-1"


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server that is empty at first."""
    pytest.importorskip("moto")
    pytest.importorskip("flask_cors")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "the S3 server has ended"
                assert time.monotonic() < end, "the S3 server does not answer"
                time.sleep(0.1)
        yield S3Server(port)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with train.beton, train-val.beton and test.beton of scikit-learn's digits at 8 px."""
    from raycondense.data.prepare import prepare

    folder = tmp_path_factory.mktemp("digits")
    prepare("digits", folder / "train.beton", resolution=8, split="train", val_fraction=0.1, workers=1)
    prepare("digits", folder / "test.beton", resolution=8, split="test", workers=1)
    return folder


@pytest.fixture(scope="session")
def real_images() -> Path:
    """Folder of real images (cifar10/, imagenette_subset/, …); tests that want it skip where it is absent."""
    folder = os.environ.get(TEST_DATA)
    if not folder:
        pytest.skip(f"no real images: {TEST_DATA} names no folder")
    if not Path(folder).is_dir():
        pytest.fail(f"{TEST_DATA}: no such folder: {folder}")
    return Path(folder)

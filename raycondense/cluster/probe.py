"""``python -m raycondense.cluster.probe``: start Ray on this machine, run a task, stop it.

`raycondense.doctor` runs this in a process of its own: a Ray that hangs or dies must not take the caller along.
"""

from __future__ import annotations

import os
import shutil
import tempfile

import ray


def answer() -> int:
    """The task."""
    return 42


def start_ray_and_stop() -> None:
    """Start a Ray of one CPU without dashboard, run a task in it and stop it."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    # Ray's sockets lie in here, and their paths have a limit of 107 bytes: no long TMPDIR.
    folder = tempfile.mkdtemp(prefix="rc", dir="/tmp")
    try:
        ray.init(
            address="local",
            num_cpus=1,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=80 * 1024**2,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=folder,
        )
        found = ray.get(ray.remote(answer).remote(), timeout=60)
        if found != answer():
            raise RuntimeError(f"a task returned {found}, not {answer()}")
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    start_ray_and_stop()
    print("ok")

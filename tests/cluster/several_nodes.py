"""A run on a cluster of several Ray nodes on this machine, some of which are lost or join meanwhile.

A process of its own, as a cluster's nodes are started and ended in the main thread of the driver that joins it:
``python several_nodes.py SCENARIO TRAIN.beton OUT``. What was seen goes to ``OUT.json``.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Read by Ray at its import. A dead node is found in three seconds, a machine's notice in one.
os.environ.update(
    {
        "RAY_health_check_initial_delay_ms": "0",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    }
)

import ray
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from raycondense import api
from raycondense.config import Config
from raycondense.testing.runs import STEP_IMAGES, images_seen, records, settings, wait_for

NOTICE_SECONDS = 12


class Scene:
    """A cluster, at first of one node for one worker, a run on it in a thread, and what happened when."""

    def __init__(self, train: Path, out: Path) -> None:
        self.train, self.out = train, out
        self.folder = tempfile.mkdtemp(prefix="rt", dir="/tmp")
        self.seen: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._failure: BaseException | None = None
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 1024**2,
                "temp_dir": self.folder,
            },
        )  # fmt: skip

    def add_node(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=80 * 1024**2)

    def start(self, config: Config) -> None:
        """Begin the run."""
        ray.init(self.cluster.address, logging_level=logging.ERROR, log_to_driver=False, configure_logging=False)
        handler = logging.Handler()
        handler.emit = lambda record: self.warnings.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("raycondense").addHandler(handler)

        def fit() -> None:
            try:
                api.fit(config, data=self.train, out=self.out, progress=False)
            except BaseException as error:
                self._failure = error

        self._thread = threading.Thread(target=fit)
        self._begun = time.monotonic()
        self._thread.start()

    def wait(self, what: Callable[[], bool], seconds: float = 240) -> None:
        def either() -> bool:
            if self._failure is not None:
                raise self._failure
            return what()

        wait_for(either, seconds)

    def at_step(self, step: int) -> None:
        """Wait until so many steps of condensation are in the log."""
        self.wait(lambda: images_seen(self.out) >= step * STEP_IMAGES)

    def goes_on(self, name: str) -> None:
        """After a fault: wait until training goes on, and note for how long it did not and what it did again."""
        since = time.monotonic()
        time.sleep(1.0)  # what the lost workers had reported comes in
        before = [record["step"] for record in records(self.out) if record["stage"] == "condense"]
        known = len(records(self.out))
        self.wait(lambda: len(records(self.out)) > known)
        first = records(self.out)[known]
        self.seen[name] = {
            "seconds": round(time.monotonic() - since, 1),
            "last_step": max(before),
            "first_record_after": first["step"],
            "stage": first["stage"],
        }

    def checkpoints(self) -> list[str]:
        """Names of the checkpoints that Ray has committed."""
        snapshot = self.out / "ray" / "checkpoint_manager_snapshot.json"
        return [one["checkpoint_dir_name"] for one in json.loads(snapshot.read_text())["checkpoint_results"]]

    def end(self) -> None:
        """Wait for the run and note what was seen."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self.seen["seconds"] = round(time.monotonic() - self._begun, 1)

    def close(self) -> None:
        Path(f"{self.out}.json").write_text(json.dumps(self.seen | {"warnings": self.warnings}, indent=2))
        ray.shutdown()
        self.cluster.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)


def node_killed(scene: Scene) -> None:
    """One of two nodes is lost without a word; another one comes instead."""
    lost = scene.add_node()
    scene.start(settings())
    scene.at_step(20)
    scene.cluster.remove_node(lost, allow_graceful=False)
    scene.add_node()
    scene.goes_on("killed")
    scene.end()


def machine_taken_away(scene: Scene) -> None:
    """A spot machine's notice; it is lost twelve seconds later, and another one comes instead."""
    lost = scene.add_node()
    # So seldom that a checkpoint can only be the notice's.
    scene.start(settings(**{"condense.checkpoint_images": 10**6, "condense.images": 300 * STEP_IMAGES}))
    scene.at_step(20)
    spoken, deadline = time.monotonic(), time.time_ns() // 10**6 + NOTICE_SECONDS * 1000
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    gcs = ray._raylet.GcsClient(address=scene.cluster.address)
    accepted, why = gcs.drain_node(lost.node_id, reason, "spot", deadline)
    assert accepted, why
    scene.wait(lambda: any("condense" in name and name[-9:] != "000000000" for name in scene.checkpoints()), 30)
    scene.seen["saved"] = {"seconds": round(time.monotonic() - spoken, 1), "checkpoint": scene.checkpoints()[-1]}
    scene.add_node()
    time.sleep(max(0.0, spoken + NOTICE_SECONDS - time.monotonic()))
    scene.seen["checkpoints_at_the_end"] = scene.checkpoints()
    scene.cluster.remove_node(lost, allow_graceful=False)
    scene.goes_on("taken")
    scene.end()


def elastic(scene: Scene) -> None:
    """One node at first; a second one joins, and is lost again."""
    changes = {"cluster.workers": [1, 4], "cluster.resize_seconds": 3, "condense.images": 400 * STEP_IMAGES}
    scene.start(settings(**changes))
    scene.at_step(10)
    joined = scene.add_node()
    scene.wait(lambda: any("training with 2 workers" in warning for warning in scene.warnings))
    scene.goes_on("joined")
    scene.cluster.remove_node(joined, allow_graceful=False)
    scene.goes_on("lost")
    scene.end()


if __name__ == "__main__":
    scene = Scene(Path(sys.argv[2]), Path(sys.argv[3]))
    try:
        {"node_killed": node_killed, "machine_taken_away": machine_taken_away, "elastic": elastic}[sys.argv[1]](scene)
    finally:
        scene.close()

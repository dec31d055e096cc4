"""Log records as Ray metrics, which every node offers to Prometheus; ``clusters/grafana.json`` draws them.

Ray puts ``ray_`` before the names here: ``ray_raycondense_images_per_second``. Units are Prometheus's base units.
"""

from __future__ import annotations

from ray.util.metrics import Gauge

from raycondense.host import Record

METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "raycondense_images_per_second": ("Real images seen per second, all workers together.", ("run", "stage")),
    "raycondense_step_seconds": (
        "Seconds of a step by what they were spent on, mean over workers and over the steps of a log record.",
        ("run", "stage", "part"),
    ),
    "raycondense_loss": (
        "Each loss of a step, unweighted, and total, their weighted sum; mean over the steps of a log record.",
        ("run", "stage", "term"),
    ),
    "raycondense_progress_ratio": ("Share of a stage that is done, 0 to 1.", ("run", "stage")),
    "raycondense_workers": ("Training workers.", ("run",)),
    "raycondense_gpu_memory_bytes": ("Most GPU memory that tensors of a worker took.", ("run", "rank")),
}
"""Name → description and labels."""


class RunMetrics:
    """Gauges of one worker of a run; they are gone from Ray's endpoint some time after its process.

    Args:
        run: label of the run, such as the name of its folder.
        rank: of this worker. What all workers share is rank 0's to tell.
        world_size: number of workers.
    """

    def __init__(self, run: str, rank: int = 0, world_size: int = 1) -> None:
        self._run, self._rank, self._world_size = run, rank, world_size
        self._gauges = {name: Gauge(name, *described) for name, described in METRICS.items()}

    def record(self, record: Record) -> None:
        """Take the newest log record."""
        if "gpu_memory_bytes" in record:
            self._set("gpu_memory_bytes", record["gpu_memory_bytes"], rank=str(self._rank))
        if self._rank != 0:
            return
        stage = str(record["stage"])
        self._set("workers", self._world_size)
        self._set("progress_ratio", min(1.0, float(record["images"]) / float(record["total"])), stage=stage)
        self._set("images_per_second", record["images_per_second"], stage=stage)
        for name, value in record.items():
            kind, _, part = name.partition("/")
            if kind == "loss":
                self._set("loss", value, stage=stage, term=part)
            elif kind == "seconds":
                self._set("step_seconds", value, stage=stage, part=part)

    def _set(self, name: str, value: float | str, **labels: str) -> None:
        self._gauges[f"raycondense_{name}"].set(float(value), {"run": self._run} | labels)

"""How a condensation scales: measured with one and two workers here, predicted for 8 and 64 GPUs.

Real Ray Train, FFCV and messages, made-up JPEG images; each worker keeps its number of classes (weak scaling)::

    python benchmarks/scaling.py                                    # about 10 minutes on two quiet CPUs
    python benchmarks/scaling.py --out docs/results/scaling.md
    python benchmarks/scaling.py --codes 1 --real 16 --steps 4 --presets imagenet1k_64     # about 3 minutes

Configurations take turns, medians over steps and runs. "by the clock" is the split that every log record has;
"CPU" is what the worker's own thread computed in it, which other work on the machine does not touch. The model
(`benchmarks/scaling_model.py`) counts a step's operations and messages and is held against both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raycondense.config import Config
from raycondense.configfile import config_from_dict, config_to_dict, override
from raycondense.data.class_plan import ClassPlan
from raycondense.data.cpus import usable_cpus
from raycondense.data.decode import encode_jpeg
from raycondense.data.ffcv_batches import FfcvClassBatches
from raycondense.data.sidecar import Sidecar
from raycondense.presets import get_preset
from raycondense.stopwatch import PARTS, Stopwatch
from raycondense.storage import write_text
from raycondense.testing.betons import photo_like, write_samples

sys.path.insert(0, str(Path(__file__).parent))
from provenance import provenance
from scaling_model import MACHINES, Device, Prediction, StepModel, count_step, for_timing, predict, weak

WARM = 2  # steps of a run that do not count
UNIQUE = 64  # different images of a beton
RANK_FILE = "rank-{}.json"
Split = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["imagenet1k_64", "imagenet1k_128"], help="to predict")
    parser.add_argument("--classes", type=int, default=1, help="classes of a worker in a measured step")
    parser.add_argument("--codes", type=int, default=2, help="codes of a bank in a measured step")
    parser.add_argument("--real", type=int, default=64, help="real images a class in a measured step")
    parser.add_argument("--steps", type=int, default=8, help="measured steps of a run")
    parser.add_argument("--repeats", type=int, default=2, help="runs with each number of workers")
    parser.add_argument("--out", type=Path, help="write the tables to this Markdown file as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {"classes_per_step": options.classes, "codes_per_step": options.codes, "real_per_class": options.real}
    small = for_timing(get_preset(options.presets[0]), condense=sizes)
    with tempfile.TemporaryDirectory(prefix="raycondense-scaling-") as name:
        folder = Path(name)
        load = os.getloadavg()[0]
        runs = measure(small, folder, options)
        loaders = {preset: loader_rate(get_preset(preset), folder) for preset in options.presets}
        load = max(load, os.getloadavg()[0])
    here = this_machine()
    launch = seconds_of_an_operation()
    slow = slowdown(small, here, runs[1])
    say("counting the operations of whole steps")
    models = {preset: StepModel.counted(with_precision(get_preset(preset), "bfloat16")) for preset in options.presets}
    text = "\n".join(
        [
            *measured_table(small, runs, load),
            *model_table(small, here, launch, slow, runs),
            *(
                line
                for preset in options.presets
                for line in predictions(models[preset], launch, slow, loaders[preset])
            ),
            *provenance(),
        ]
    )
    print(text)
    if options.out is not None:
        write_text(options.out, f"# Scaling\n\n{text}")


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------ measuring


class Run:
    """What the workers of one run wrote: a split by the clock and one of CPU time for every step and worker."""

    def __init__(self, folder: Path, workers: int) -> None:
        found = [json.loads((folder / RANK_FILE.format(rank)).read_text()) for rank in range(workers)]
        self.clock: list[Split] = [split for rank in found for split in rank["clock"][WARM:]]
        self.cpu: list[Split] = [split for rank in found for split in rank["cpu"][WARM:]]
        steps = len(found[0]["clock"])
        self.reduced = found[0]["reduced"] / steps
        self.gathered = found[0]["gathered"] / steps


def measure(config: Config, folder: Path, options: argparse.Namespace) -> dict[int, list[Run]]:
    """Runs with one and two workers, in turn."""
    import ray

    beton = make_beton(config, folder)
    sockets = tempfile.mkdtemp(prefix="rb", dir="/tmp")
    os.environ.update(
        {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    )
    ray.init(
        address="local", num_cpus=4, num_gpus=0, include_dashboard=False, log_to_driver=False,
        configure_logging=False, object_store_memory=150 * 1024**2, _temp_dir=sockets,
    )  # fmt: skip
    runs: dict[int, list[Run]] = {1: [], 2: []}
    try:
        for repeat in range(options.repeats):
            for workers in (1, 2) if repeat % 2 == 0 else (2, 1):
                out = folder / f"run-{workers}-{repeat}"
                out.mkdir()
                say(f"{workers} worker{'s' * (workers > 1)}, run {repeat + 1} of {options.repeats}")
                run_workers(config, beton, out, workers, options.steps + WARM)
                runs[workers].append(Run(out, workers))
    finally:
        ray.shutdown()
        shutil.rmtree(sockets, ignore_errors=True)
    return runs


def make_beton(config: Config, folder: Path) -> Path:
    """As many classes as the configuration has, the same few images in all."""
    resolution, count = config.data.resolution, config.condense.real_per_class
    path = folder / f"{resolution}.beton"
    files = [encode_jpeg(image, 90) for image in photo_like(UNIQUE, resolution, seed=0)]
    classes = config.data.num_classes
    samples = ((label, files[index % UNIQUE]) for label in range(classes) for index in range(count))
    write_samples(path, samples, classes * count, resolution=resolution, encoding="jpeg", quality=90)
    return path


def run_workers(config: Config, beton: Path, out: Path, workers: int, steps: int) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    classes = config.condense.classes_per_step * workers
    step = classes * config.condense.real_per_class
    changes = {"classes_per_step": classes, "images": steps * step, "log_images": step, "checkpoint_images": 10**12}
    settings = {"config": config_to_dict(override(config, {"condense": changes})), "beton": str(beton), "out": str(out)}
    TorchTrainer(
        worker,
        train_loop_config=settings,
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="ray", storage_path=str(out)),
    ).fit()


def worker(settings: dict[str, Any]) -> None:
    """Condense, and write down what the stopwatch read at every step and what travelled."""
    import raycondense.progress
    from raycondense import condense
    from raycondense.cluster.host import RayHost

    class CountingHost(RayHost):
        """Counts bytes of float32, what the log sends being of other types, and keeps nothing."""

        reduced = gathered = 0

        def all_reduce(self, tensors: Sequence[Tensor]) -> None:
            self.reduced += sum(4 * tensor.numel() for tensor in tensors if tensor.dtype == torch.float32)
            super().all_reduce(tensors)

        def all_gather(self, tensor: Tensor, lengths: Sequence[int] | None = None) -> list[Tensor]:
            found = super().all_gather(tensor, lengths)
            self.gathered += sum(4 * part.numel() for part in found if part.dtype == torch.float32)
            return found

        def save_checkpoint(self, name: str, write: Callable[[Path], None]) -> None:
            """Nobody goes on from here."""

    readings: dict[str, list[Split]] = {"clock": [], "cpu": []}

    class TwoClocks(Stopwatch):
        """The stopwatch, and beside it one of this thread's CPU time."""

        def __init__(self, device: torch.device | None = None) -> None:
            super().__init__(device)
            self._thread: Split = dict.fromkeys(PARTS, 0.0)
            self._thread_since = 0.0

        def start(self, part: str | None) -> None:
            if self._part is None and not readings["clock"]:
                host.reduced = host.gathered = 0  # what came before the first step
            now = time.thread_time()
            if self._part is not None:
                self._thread[self._part] += now - self._thread_since
            self._thread_since = now
            super().start(part)

        def read(self) -> Split:
            found = super().read()
            if found:
                readings["clock"].append(found)
                readings["cpu"].append(self._thread)
                self._thread = dict.fromkeys(PARTS, 0.0)
            return found

    raycondense.progress.Stopwatch = TwoClocks  # type: ignore[misc]
    torch.set_num_threads(1)
    host = CountingHost()
    condense.run(config_from_dict(settings["config"]), Path(settings["beton"]), host)
    text = json.dumps({**readings, "reduced": host.reduced, "gathered": host.gathered})
    (Path(settings["out"]) / RANK_FILE.format(host.rank)).write_text(text)


def loader_rate(config: Config, folder: Path, seconds: float = 4.0) -> float:
    """Images per second of CPU time that class-grouped FFCV hands over at the configuration's resolution."""
    say(f"loader at {config.data.resolution} px")
    beton = folder / f"{config.data.resolution}.beton"
    if not beton.exists():
        make_beton(config, folder)
    plan = ClassPlan(
        Sidecar.load(beton), seed=0, classes_per_step=config.condense.classes_per_step,
        real_per_class=min(Sidecar.load(beton).counts), read_block=config.data.read_block,
    )  # fmt: skip
    with FfcvClassBatches(beton, plan, resolution=config.data.resolution, workers=1) as batches:
        steps = (batch.images.shape[0] * batch.images.shape[1] for batch in batches.steps())
        next(steps)
        begun, count = time.process_time(), 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            count += next(steps)
        return count / (time.process_time() - begun)


# ------------------------------------------------------------------------------------------------ calibration


def best(work: Callable[[], object], repeats: int = 7) -> float:
    """CPU seconds of ``work``, the fastest of several."""
    work()
    found = []
    for _ in range(repeats):
        begun = time.thread_time()
        work()
        found.append(time.thread_time() - begun)
    return min(found)


def this_machine() -> Device:
    """What one CPU of this machine gives to matrix products and to memory."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    big, other = torch.randn(2**25), torch.empty(2**25)
    full = 2 * 1024**3 / best(lambda: a @ b)
    half = 2 * 1024**3 / best(lambda: a.bfloat16() @ b.bfloat16())
    return Device(name="here", half=half, full=full, memory=2 * 4 * 2**25 / best(lambda: other.copy_(big)))


def seconds_of_an_operation() -> float:
    """CPU seconds that Python and torch take for an operation with next to nothing to compute."""
    sizes = {"classes_per_step": 1, "real_per_class": 1}
    tiny = override(for_timing(get_preset("digits")), {"condense": sizes, "codebook.ipc": [1]})
    tiny = override(tiny, {"generator": {"width": 4, "max_width": 4}, "extractors.width": 4, "losses.ce": 0.5})
    operations: list[Any] = []

    def count() -> None:
        operations[:] = count_step(tiny, 1)

    count()
    state_and_step = best(lambda: count_step(tiny, 1, counting=False), 5)
    only_state = best(lambda: count_step(tiny, 0, counting=False), 5)
    return max(1e-6, state_and_step - only_state) / len(operations)


def slowdown(config: Config, here: Device, runs: list[Run]) -> Split:
    """By part, how many times the roofline's time it took here (CPU time); 1 where the model has nothing."""
    model = StepModel.counted(with_precision(config, "float32")).compute(here, config.condense.classes_per_step)
    spent = medians([split for run in runs for split in run.cpu])
    return {part: spent[part] / model[part] if model[part] > 1e-4 else 1.0 for part in PARTS}


def with_precision(config: Config, precision: str) -> Config:
    return override(config, {"condense.precision": precision})


def medians(splits: list[Split]) -> Split:
    return {part: statistics.median(split[part] for split in splits) for part in PARTS}


# ------------------------------------------------------------------------------------------------ report


def measured_table(config: Config, runs: dict[int, list[Run]], load: float) -> list[str]:
    sizes = config.condense
    real = sizes.classes_per_step * sizes.real_per_class
    lines = [
        "## Measured: one and two workers",
        "",
        f"{config.name}'s networks at {config.data.resolution} px; {sizes.classes_per_step} class with "
        f"{sizes.real_per_class} real images and {sizes.codes_per_step} codes a bank for each worker, one CPU each. "
        f"Milliseconds of a step, medians of {len(runs[1][0].clock)} steps × {len(runs[1])} runs. "
        f"Load average of the machine up to {load:.0f} on {usable_cpus()} CPUs.",
        "",
        "| part | 1 worker, clock | 2 workers, clock | 1 worker, CPU | 2 workers, CPU |",
        "|---|---:|---:|---:|---:|",
    ]
    columns = [medians([s for run in runs[n] for s in getattr(run, kind)]) for kind in ("clock", "cpu") for n in (1, 2)]
    for part in PARTS:
        lines.append(f"| {part} | " + " | ".join(f"{1e3 * column[part]:.1f}" for column in columns) + " |")
    totals = [
        statistics.median(sum(s.values()) for run in runs[n] for s in getattr(run, kind))
        for kind in ("clock", "cpu")
        for n in (1, 2)
    ]
    lines.append("| **step** | " + " | ".join(f"{1e3 * total:.1f}" for total in totals) + " |")
    rates = [n * real / total for n, total in zip((1, 2, 1, 2), totals, strict=True)]
    lines.append("| real images/s | " + " | ".join(f"{rate:.1f}" for rate in rates) + " |")
    lines += [
        "",
        f"Weak-scaling efficiency of two workers: {totals[0] / totals[1]:.0%} by the clock, "
        f"{totals[2] / totals[3]:.0%} of CPU time.",
        "",
    ]
    return lines


def model_table(config: Config, here: Device, launch: float, slow: Split, runs: dict[int, list[Run]]) -> list[str]:
    model = StepModel(override(config, {"condense.classes_per_step": 2 * config.condense.classes_per_step}), [], [])
    run = runs[2][0]
    lines = [
        "## The model, held against it",
        "",
        f"One CPU here gives {here.full / 1e9:.0f} GFLOP/s in float32 matrix products and {here.memory / 1e9:.1f} "
        f"GB/s; "
        f"Python and torch take {1e6 * launch:.0f} µs an operation. "
        "Measured CPU time over the roofline's: "
        + ", ".join(f"{part} {slow[part]:.1f}" for part in ("generator", "extractors", "losses", "update"))
        + ".",
        "",
        "| bytes a step, two workers | counted on the way | by the model |",
        "|---|---:|---:|",
        f"| all-reduced: the generator's gradient | {run.reduced:,.0f} | {model.reduced_bytes():,} |",
        f"| gathered: codes' gradients and class centers | {run.gathered:,.0f} | "
        f"{model.gathered_codes_bytes() + model.gathered_centers_bytes():,} |",
        "",
    ]
    return lines


def predictions(model: StepModel, launch: float, slow: Split, per_cpu: float) -> list[str]:
    """Tables for one preset: the preset as it is, and with steps that grow with the number of GPUs."""
    config, condense = model.config, model.config.condense
    lines = [
        f"## Predicted: {config.name}",
        "",
        f"A step of the preset: {condense.classes_per_step} classes, "
        f"{condense.classes_per_step * condense.real_per_class:,} real and "
        f"{condense.classes_per_step * model.codes:,} synthetic images, "
        f"{model.flops(condense.classes_per_step) / 1e12:.1f} TFLOP, {model.launches} operations. It all-reduces "
        f"{model.reduced_bytes() / 1e6:.1f} MB (the generator's gradient) and gathers "
        f"{model.gathered_codes_bytes() / 1e6:.2f} MB of codes' gradients and "
        f"{model.gathered_centers_bytes() / 1e6:.2f} MB of class centers. One CPU decodes {per_cpu:,.0f} images/s.",
        "",
        "| nodes | GPUs | classes a GPU | compute ms | launching ms | travel ms | step ms | "
        "real images/s needed | a node | CPUs to decode, a node | hours |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    per_gpu = max(1, condense.classes_per_step // 8)
    for machine in MACHINES:
        machine = replace(machine, device=replace(machine.device, launch=launch))
        for gpus in (1, 8, 64):
            lines.append(row(predict(model, machine, gpus, slow), per_cpu, ""))
        grown = replace(model, config=weak(config, 64, per_gpu))
        lines.append(row(predict(grown, machine, 64, slow), per_cpu, " (weak)"))
    return [*lines, ""]


def row(found: Prediction, per_cpu: float, note: str) -> str:
    times = (found.compute, found.host, found.travel, found.step)
    cells = [
        f"{found.nodes} × ({found.machine.name})" if found.gpus > 1 else found.machine.device.name,
        f"{found.gpus}{note}",
        f"{found.classes_per_gpu}",
        *(f"{1e3 * seconds:.1f}" for seconds in times),
        f"{found.rate:,.0f}",
        f"{found.rate / found.nodes:,.0f}",
        f"{found.rate / found.nodes / per_cpu:.1f}",
        f"{found.hours:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

"""How close a condensation step comes to what the device can do: arithmetic, gaps between kernels, images/s, memory.

Steps on made-up images shaped like the presets' (CIFAR-10, Tiny-ImageNet, ImageNet-1k at 64 px). The peak is measured:
the best of a few large matrix products in the precision that the step runs in. torch counts the operations, forwards
and backwards, of whole steps and of the part in the extractors; their time is taken by the step's own stopwatch::

    python benchmarks/device.py --out docs/results/device-cuda.md
    python benchmarks/device.py --device cpu --scale 0.1 --out docs/results/device-cpu.md

Gaps are the part of a step's time in which no kernel runs (CUDA only).
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from guard import Row, keep
from provenance import provenance
from step import new_state, stepper
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from raycondense.artifact.sizes import format_bytes
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.data.cpus import usable_cpus
from raycondense.execution import compile_networks, computes_in_bfloat16
from raycondense.memory import freed_memory_kept
from raycondense.presets import get_preset
from raycondense.seeds import seeded_generator
from raycondense.stopwatch import Stopwatch

SHAPES = ("cifar10", "tiny_imagenet", "imagenet1k_64")
SIDE = {"cuda": 8192, "cpu": 2048}
"""Of the matrices whose product shows the peak."""


class Found(NamedTuple):
    """What a shape's steps took."""

    images: int
    """Real and generated images of a step."""
    seconds: float
    extractor_seconds: float
    flops: float
    """Of a step: two for a multiplication and an addition."""
    extractor_flops: float
    gaps: float | None
    memory: int | None


class Shape:
    """Steps of one preset.

    Args:
        config: of one worker.
        device: where to compute.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        settings = config.condense
        self._device, self._config = device, config
        self._state, self._stopwatch = new_state(config, device), Stopwatch(device)
        side, random = config.data.resolution, seeded_generator("images")
        shape = (settings.classes_per_step, settings.real_per_class, 3, side, side)
        self._images = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8).to(device)
        self._step = stepper(config, self._state, self._images, device, self._stopwatch)

    def take(self, number: int) -> None:
        """One step with its update; the stopwatch stands still afterwards."""
        self._step(number)
        self._stopwatch.start(None)

    def measure(self, repeats: int) -> Found:
        """Count, compile, warm up, time and profile."""
        whole, extractors = self._counted()
        compile_networks(self._config, self._state, self._device)
        for number in range(2):
            self.take(number)
        self._stopwatch.read()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        taken, parts = [], []
        for number in range(repeats):
            begun = time.perf_counter()
            self.take(number)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            taken.append(time.perf_counter() - begun)
            parts.append(self._stopwatch.read()["extractors"])
        seconds, banks = statistics.median(taken), self._config.codebook
        codes = sum(
            min(self._config.condense.codes_per_step or 1 << 30, banks.images_per_class(ipc)) for ipc in banks.ipc
        )
        images = len(self._images) * (self._images.shape[1] + codes)
        cuda = self._device.type == "cuda"
        return Found(
            images, seconds, statistics.median(parts), whole, extractors,
            1 - self._kernel_seconds() / seconds if cuda else None,
            torch.cuda.max_memory_allocated(self._device) if cuda else None,
        )  # fmt: skip

    def _counted(self) -> tuple[float, float]:
        """Floating-point operations of a step and of the extractor's part of it."""
        with FlopCounterMode(display=False) as counter:
            self.take(0)
        counts = counter.get_flop_counts()
        extractors = sum(sum(found.values()) for name, found in counts.items() if name == "Extractor")
        return float(counter.get_total_flops()), float(extractors)

    def _kernel_seconds(self) -> float:
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            self.take(0)
            torch.cuda.synchronize(self._device)
        return sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the fastest of ten large matrix products."""
    side, best = SIDE[device.type], 0.0
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    for _ in range(10):
        begun = time.perf_counter()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - begun))
    return best


def shaped(preset: str, scale: float, more: dict[str, Any]) -> Config:
    """A preset whose steps take ``scale`` of its classes, one at least."""
    config = get_preset(preset)
    classes = max(1, round(scale * config.condense.classes_per_step))
    return override(config, {"condense.classes_per_step": classes, **more})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), metavar="PRESET")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the presets' classes in a step")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="of the CPU")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    lines = [
        "| shape | precision | images | ms a step | images/s | TFLOP a step | of the peak | extractors: of the peak "
        "| gaps | memory |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    rows, peaks = [], {}
    for preset in options.shapes:
        settings = {"condense.precision": options.precision, "condense.compile": options.compile}
        config = shaped(preset, options.scale, settings)
        dtype = torch.bfloat16 if computes_in_bfloat16(config, device) else torch.float32
        with freed_memory_kept(device):
            peaks.setdefault(dtype, peak(device, dtype))
            found = Shape(config, device).measure(options.repeats)
        share = found.flops / found.seconds / peaks[dtype]
        extractors = found.extractor_flops / found.extractor_seconds / peaks[dtype]
        cells = [
            f"{preset}, {config.condense.classes_per_step} classes", str(dtype).removeprefix("torch."),
            str(found.images), f"{1e3 * found.seconds:.0f}", f"{found.images / found.seconds:.0f}",
            f"{found.flops / 1e12:.2f}", f"{share:.0%}", f"{extractors:.0%}",
            "–" if found.gaps is None else f"{found.gaps:.0%}",
            "–" if found.memory is None else format_bytes(found.memory),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        rows.append(Row(f"{preset}: extractors, part of the peak", extractors, "higher"))
    known = ", ".join(f"{value / 1e12:.2f} TFLOP/s in {str(dtype)[6:]}" for dtype, value in peaks.items())
    text = "\n".join([
        f"Peak: {known}. Medians of {options.repeats} steps.", "", *lines,
        *provenance(device=options.device, threads=options.threads),
    ])  # fmt: skip
    print(text)
    keep(options.out, "The step and the device", text, rows)


if __name__ == "__main__":
    main()

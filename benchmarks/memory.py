"""Peak memory of a condensation step, in one pass and in two.

Two-pass gradients (GLaD, arXiv 2305.01649) keep no graph of the generator while the loss is computed and send the
loss's gradient through it a few images at a time: the same gradient, and a peak that does not grow with the codes of a
step. Every cell is a process of its own, on made-up images; memory is what the step adds to what was there before::

    python benchmarks/memory.py --preset imagenet1k_64 --classes 64 --two-pass 0 512 128
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from provenance import provenance
from settings import changes

from raycondense.artifact.sizes import format_bytes
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.data.batches import ClassBatch
from raycondense.data.normalize import Normalize
from raycondense.host import LocalHost
from raycondense.presets import get_preset
from raycondense.state import TrainState
from raycondense.step import CondenseStep
from raycondense.storage import write_text
from raycondense.updates import Updater

STEPS = 3
"""The first sets up what later ones have."""


def measure(config: Config, device: str) -> dict[str, float]:
    """Peak bytes that steps add, seconds of the last one, and images that it generates."""
    # Untrained networks are as large as trained ones.
    config = override(config, {"extractors.weights": "random", "losses.ce": 0.0, "initialise.method": "none"})
    settings = config.condense
    host = LocalHost(Path("."), device=device)
    state = TrainState(config, num_classes=config.data.num_classes, device=host.device)
    normalize = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).to(host.device)
    step = CondenseStep(config, state, normalize, host)
    updater = Updater(state.model, host, lr_generator=settings.lr_generator, lr_codebook=settings.lr_codebook)
    random, side = torch.Generator().manual_seed(0), config.data.resolution
    shape = (settings.classes_per_step, settings.real_per_class, 3, side, side)
    images = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    before = _peak(host.device)
    seconds = 0.0
    for number in range(STEPS):
        begun = time.perf_counter()
        batch = ClassBatch(torch.arange(settings.classes_per_step), images, number)
        step(batch, updater, step_classes=settings.classes_per_step)
        updater.apply()
        if host.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begun
    generated = len(step._positions(0)[0]) * settings.classes_per_step
    return {"bytes": _peak(host.device) - before, "seconds": seconds, "generated": generated}


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="imagenet1k_64")
    parser.add_argument("--classes", type=int, nargs="+", default=[64], help="classes in a step")
    parser.add_argument(
        "--two-pass", type=int, nargs="+", default=[0, 512, 128], help="images at a time; 0 is one pass"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="settings, values as YAML")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--report", type=Path, help="write the table to this Markdown file as well")
    parser.add_argument("--cell", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    base = override(get_preset(options.preset), changes(options.set))
    if options.cell:
        classes, chunk = options.cell
        config = override(base, {"condense.classes_per_step": classes, "condense.two_pass": chunk})
        print(json.dumps(measure(config, options.device)))
        return
    lines = ["| classes in a step | images generated | two_pass | peak of a step | × one pass | seconds |",
             "|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for classes in options.classes:
        first = None
        for chunk in options.two_pass:
            command = [sys.executable, *sys.argv, "--cell", str(classes), str(chunk)]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            first = first or found["bytes"]
            lines.append(
                f"| {classes} | {found['generated']} | {chunk or 'one pass'} | {format_bytes(found['bytes'])} | "
                f"{found['bytes'] / first:.2f} | {found['seconds']:.2f} |"
            )
    config = base
    text = "\n".join([
        f"Preset {options.preset}{' with ' + ', '.join(options.set) if options.set else ''}: {config.data.num_classes} "
        f"classes at {config.data.resolution} px, {config.condense.real_per_class} real images a class in a step.", "",
        *lines, *provenance(device=options.device),
    ])  # fmt: skip
    print(text)
    if options.report is not None:
        write_text(options.report, f"# Memory of a step\n\n{text}")


if __name__ == "__main__":
    main()

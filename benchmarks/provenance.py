"""What every committed table ends with: the command that made it, its revision, and the machine that it ran on."""

from __future__ import annotations

import platform
import shlex
import sys
from pathlib import Path

import torch

from raycondense.artifact.recipe import git_revision
from raycondense.data.cpus import usable_cpus


def cpu_name() -> str:
    """The processor's own name."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def provenance(*more: str, device: str = "cpu", threads: int | None = None) -> list[str]:
    """Lines of Markdown: the command line of this process, then processor, CPUs, versions and git revision.

    Args:
        more: sentences that follow.
        device: the GPU's name is added for CUDA.
        threads: that were used, where it were not all CPUs.
    """
    gpu = f"{torch.cuda.get_device_name(device)}; " if torch.device(device).type == "cuda" else ""
    cpus = f"{usable_cpus()} CPUs" if threads is None else f"{threads} of {usable_cpus()} CPUs"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    revision, dirty, _ = (git_revision() or "unknown").partition("-dirty")
    versions += f"; revision {revision[:12]}{' with changes' if dirty else ''}"
    machine = " ".join([f"{gpu}{cpu_name()}, {cpus}; {versions}.", *more])
    return ["", f"`{shlex.join(['python', *sys.argv])}`", "", machine, ""]

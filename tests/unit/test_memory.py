"""`raycondense.memory`: freed memory stays for the next step, and goes back after the last."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raycondense.memory import freed_memory_kept

MEGABYTES = 64

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told anything")


def pages_mapped_by(count: int) -> int:
    """Pages of memory that the system had to map while large tensors came and went one after another."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.ones(MEGABYTES * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def test_the_next_tensor_takes_the_memory_of_the_last() -> None:
    one = pages_mapped_by(1)
    with freed_memory_kept(torch.device("cpu")):
        pages_mapped_by(30)  # the first few find places where no small block is in the way
        assert pages_mapped_by(10) < one
        kept = resident_megabytes()
    assert resident_megabytes() < kept - MEGABYTES / 2
    assert pages_mapped_by(1) > one / 2


def test_the_system_gets_its_memory_back_after_an_error() -> None:
    kept = 0.0

    def diverge() -> None:
        nonlocal kept
        with freed_memory_kept(torch.device("cpu")):
            pages_mapped_by(3)
            kept = resident_megabytes()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        diverge()
    assert resident_megabytes() < kept - MEGABYTES / 2


def test_training_on_a_gpu_leaves_the_process_as_it_is() -> None:
    # In a process of its own: no setting of an earlier test.
    code = (
        "import torch; from raycondense.memory import freed_memory_kept\n"
        "with freed_memory_kept(torch.device('cuda')):\n"
        "    import test_memory as here; print(here.pages_mapped_by(10) / here.pages_mapped_by(1))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) > 9

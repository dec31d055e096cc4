"""The whole set as one uint8 tensor on the device: no threads, no decoding after the start."""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator
from pathlib import Path

import torch
from torch import Tensor

from raycondense.data.batches import Batches, ClassBatches, PlanT, ShuffledBatches
from raycondense.data.beton import BetonReader
from raycondense.data.class_plan import ClassPlan, ShuffledPlan
from raycondense.data.sidecar import Sidecar, check_resolution
from raycondense.errors import DataError

_PIECE = 2048  # images decoded at a time while loading


def load_resident(path: str | os.PathLike[str], *, resolution: int, device: torch.device | str, threads: int) -> Tensor:
    """All images of a beton.

    Args:
        path: the beton.
        resolution: side R in pixels, at most the stored one.
        device: where to put them.
        threads: threads that decode.

    Returns:
        uint8 [N, 3, R, R] on ``device``.

    Raises:
        DataError: the beton is damaged, its images are smaller, or they do not fit in the device's memory.
    """
    device = torch.device(device)
    reader = BetonReader(path, threads=threads)
    check_resolution(path, reader.sidecar, resolution)
    needed, free = len(reader) * 3 * resolution**2, free_bytes(device)
    if free is not None and needed > free:
        raise DataError(
            f"{path}: {len(reader)} images of {resolution} px take {needed / 2**30:.1f} GiB, {device} has "
            f"{free / 2**30:.1f} GiB free; set data.loader to ffcv (docs/install.md), or lower data.resolution"
        )
    images = torch.empty(len(reader), 3, resolution, resolution, dtype=torch.uint8, device=device)
    for start in range(0, len(reader), _PIECE):
        piece = reader.images(range(start, min(start + _PIECE, len(reader))), resolution)
        images[start : start + len(piece)] = torch.from_numpy(piece).to(device)
    return images


def free_bytes(device: torch.device) -> int | None:
    """Memory of ``device`` that can still be had, in bytes; None where nothing tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    known = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        if "MemAvailable" in fields:
            known.append(int(fields["MemAvailable"].split()[0]) * 1024)
    # A container's limit (cgroup v2). Its page cache counts as used but is given up on demand: leave it out.
    limit, stat = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.stat")
    if limit.is_file() and stat.is_file() and limit.read_text().strip().isdigit():
        used = dict(line.split() for line in stat.read_text().splitlines())
        known.append(max(0, int(limit.read_text()) - int(used.get("anon", 0))))
    return min(known) if known else None


class Resident(Batches[PlanT]):
    """Batches out of the device's memory.

    Args:
        path: the beton.
        plan: made for its sidecar.
        resolution: side of the images in pixels.
        device: where the set lives.
        workers: threads that decode while it is loaded.
        os_cache: taken for the sake of one signature; nothing is read after loading.

    Raises:
        DataError: see `load_resident`.
    """

    loader = "resident"

    def __init__(
        self,
        path: str | os.PathLike[str],
        plan: PlanT,
        *,
        resolution: int,
        device: torch.device | str = "cpu",
        workers: int = 1,
        os_cache: bool = True,
    ) -> None:
        super().__init__(Sidecar.load(path), plan, resolution=resolution, device=device)
        self._resident = load_resident(path, resolution=resolution, device=device, threads=workers)

    def _images(self, start: int) -> Generator[Tensor, None, None]:
        for step in itertools.count(start):
            yield self._resident.index_select(0, torch.from_numpy(self.plan.indices(step)).to(self.device))


class ResidentClassBatches(Resident[ClassPlan], ClassBatches):
    """Class-grouped batches out of the device's memory."""


class ResidentShuffledBatches(Resident[ShuffledPlan], ShuffledBatches):
    """Shuffled batches out of the device's memory."""

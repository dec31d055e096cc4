"""The loop's surroundings inside a Ray Train worker."""

from __future__ import annotations

import json
import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from raycondense.checkpoint import find_damage
from raycondense.cluster.metrics import RunMetrics
from raycondense.host import GOING_BACK, Host, Record, all_damaged
from raycondense.patience import patiently

logger = logging.getLogger("raycondense")

RECORD = "raycondense_record"
NAME = re.compile(r"[0-9]-[a-z]+-[0-9]{9}(-again)*")
NOTICE_SECONDS = 10.0
"""Between two checkpoints while a machine is about to be taken away."""


class RayHost(Host):
    """A worker of a `TorchTrainer`: collectives by torch.distributed, logs and checkpoints by ``ray.train.report``.

    A report is a barrier, and Ray polls it (``RAY_TRAIN_HEALTH_CHECK_INTERVAL_S``), so log records should be
    seconds apart: ``condense.log_images`` says how far.

    Args:
        run: label of the run in Ray's metrics.
        patience: seconds that storage may be out of reach.
        tell: takes messages for the user; None logs them here, in the worker.
        search: look into storage for checkpoints when Ray knows of none, such as after its list was lost.
    """

    def __init__(
        self,
        *,
        run: str = "",
        patience: float = 600.0,
        tell: Callable[[str], None] | None = None,
        search: bool = False,
    ) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device = ray.train.torch.get_device()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self._metrics = RunMetrics(run, self.rank, self.world_size)
        self._patience = patience
        self._tell = tell or (lambda message: logger.warning("%s", message))
        self._search = search
        self._taken: set[str] = set()
        self._saved_under_notice: float | None = None

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        self.begin_all_reduce(tensors)()

    def begin_all_reduce(self, tensors: Sequence[Tensor]) -> Callable[[], None]:
        if self.world_size == 1 or not tensors:
            return lambda: None
        # One message for all tensors of a type: a generator has dozens of small ones.
        groups = [[t for t in tensors if t.dtype == dtype] for dtype in dict.fromkeys(t.dtype for t in tensors)]
        flats = [torch.cat([tensor.detach().flatten() for tensor in group]) for group in groups]
        works = [dist.all_reduce(flat, async_op=True) for flat in flats]

        def wait() -> None:
            for group, flat, work in zip(groups, flats, works, strict=True):
                work.wait()
                parts = flat.split([tensor.numel() for tensor in group])
                torch._foreach_copy_(group, [part.view_as(t) for t, part in zip(group, parts, strict=True)])

        return wait

    def all_gather(self, tensor: Tensor, lengths: Sequence[int] | None = None) -> list[Tensor]:
        mine = tensor.detach().contiguous()
        if self.world_size == 1:
            return [mine]
        if lengths is None:
            own = torch.tensor([len(mine)], device=mine.device)
            everyones = own.new_empty(self.world_size)
            dist.all_gather_into_tensor(everyones, own)
            lengths = everyones.tolist()
        # Gathers want equal shapes: pad to the longest, cut afterwards.
        longest = max(lengths)
        padded = (
            mine if len(mine) == longest else torch.cat([mine, mine.new_zeros(longest - len(mine), *mine.shape[1:])])
        )
        gathered = mine.new_empty(self.world_size, longest, *mine.shape[1:])
        dist.all_gather_into_tensor(gathered.flatten(0, 1), padded)
        return [part[:length] for part, length in zip(gathered, lengths, strict=True)]

    def log(self, record: Record) -> None:
        self._metrics.record(record)
        ray.train.report({RECORD: json.dumps(record)})

    def save_checkpoint(self, name: str, write: Callable[[Path], None]) -> None:
        # Ray would keep both under one name, and later remove the new one as the old.
        while name in self._taken:
            name += "-again"
        if self.rank != 0:
            ray.train.report({}, checkpoint=None, checkpoint_dir_name=name)
            return
        with tempfile.TemporaryDirectory(prefix="raycondense-") as folder:
            write(Path(folder))
            ray.train.report(
                self.metrics_of(Path(folder)),
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=name,
                checkpoint_upload_fn=self._upload,
            )

    def metrics_of(self, checkpoint: Path) -> dict[str, Any]:
        """What is reported with a checkpoint, on rank 0."""
        return {}

    def _upload(self, checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        storage = ray.train.get_context().get_storage()
        return patiently(
            lambda: storage.persist_current_checkpoint(checkpoint, name),
            f"checkpoint {name}", seconds=self._patience, tell=self._tell,
        )  # fmt: skip

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        committed = ray.train.CheckpointConsistencyMode.COMMITTED
        reported = ray.train.get_all_reported_checkpoints(consistency_mode=committed)
        checkpoints = [one.checkpoint for one in reported if one.checkpoint is not None]
        self._taken = {PurePosixPath(checkpoint.path).name for checkpoint in checkpoints}
        if not checkpoints and self._search:
            checkpoints = patiently(self._stored, "checkpoints", seconds=self._patience, tell=self._tell)
        damaged: list[tuple[str, str]] = []
        for checkpoint in reversed(checkpoints):
            name = PurePosixPath(checkpoint.path).name
            with ExitStack() as stack:
                folder, reason = self._fetch(checkpoint, name, stack)
                if reason is None:
                    for bad, why in damaged if self.rank == 0 else ():
                        self._tell(GOING_BACK % (PurePosixPath(bad).name, why, name))
                    yield folder
                    return
            damaged.append((checkpoint.path, reason))
        if damaged:
            raise all_damaged(*damaged[0], len(damaged) - 1)
        yield None

    def _stored(self) -> list[ray.train.Checkpoint]:
        """What lies in storage and is called like a checkpoint, oldest first, as rank 0 sees it.

        Ray knows of none of them, and it may never have: a whole one is as good as any.
        """
        from pyarrow import fs

        storage = ray.train.get_context().get_storage()
        filesystem, folder = storage.storage_filesystem, storage.experiment_fs_path
        found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)) if self.rank == 0 else ()
        names = sorted(info.base_name for info in found if NAME.fullmatch(info.base_name) and not info.is_file)
        names = ray.train.collective.broadcast_from_rank_zero(names)
        return [ray.train.Checkpoint(f"{folder}/{name}", filesystem) for name in names]

    def _fetch(self, checkpoint: ray.train.Checkpoint, name: str, stack: ExitStack) -> tuple[Path, str | None]:
        """A checkpoint's folder on this node, open as long as ``stack``, and what any rank found wrong with it."""

        def fetch() -> tuple[Path, str | None]:
            folder = Path(stack.enter_context(checkpoint.as_directory()))
            return folder, find_damage(folder)

        folder, reason = patiently(fetch, f"checkpoint {name}", seconds=self._patience, tell=self._tell)
        damaged = torch.tensor([float(reason is not None)], device=self.device)
        self.all_reduce([damaged])
        return folder, reason if reason or not damaged.item() else "as another worker reads it"

    def should_stop(self) -> bool:
        return False

    def wants_checkpoint(self) -> bool:
        """True at the notice that a worker's node will be taken away, and then every `NOTICE_SECONDS`."""
        notice = ray.train.get_preemption_info()  # rank 0's, on every rank
        if notice is None:
            self._saved_under_notice = None
            return False
        now, since = time.monotonic(), self._saved_under_notice
        if not ray.train.collective.broadcast_from_rank_zero(since is None or now - since >= NOTICE_SECONDS):
            return False
        if self.rank == 0 and since is None:
            left = (
                "" if notice.deadline_ms is None else f" in {max(0.0, notice.deadline_ms / 1000 - time.time()):.0f} s"
            )
            ranks = ", ".join(map(str, notice.preempted_ranks))
            self._tell(f"the machine of worker {ranks} will be taken away{left}: saving a checkpoint now")
        self._saved_under_notice = now
        return True

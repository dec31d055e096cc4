"""The loop's surroundings inside a Ray Train worker."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from raycondense.host import Host, Record

RECORD = "raycondense_record"


class RayHost(Host):
    """A worker of a `TorchTrainer`: collectives by torch.distributed, logs and checkpoints by ``ray.train.report``.

    A report is a barrier, and Ray polls it (``RAY_TRAIN_HEALTH_CHECK_INTERVAL_S``), so log records should be
    seconds apart: ``condense.log_images`` says how far.
    """

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device = ray.train.torch.get_device()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        if self.world_size == 1 or not tensors:
            return
        # One message for all tensors of a type: a generator has dozens of small ones.
        for dtype in {tensor.dtype for tensor in tensors}:
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.detach().flatten() for tensor in same])
            dist.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in same])
            for tensor, part in zip(same, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

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
        ray.train.report({RECORD: json.dumps(record)})

    def save_checkpoint(self, name: str, write: Callable[[Path], None]) -> None:
        if self.rank != 0:
            ray.train.report({}, checkpoint=None, checkpoint_dir_name=name)
            return
        with tempfile.TemporaryDirectory(prefix="raycondense-") as folder:
            write(Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({}, checkpoint=checkpoint, checkpoint_dir_name=name)

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as folder:
            yield Path(folder)

    def should_stop(self) -> bool:
        return False

"""The loop's only view of its surroundings: who am I, who else is there, where do checkpoints and logs go.

`LocalHost` runs in one process; its counterpart for Ray Train is in `raycondense.cluster`. There are no
others. Every rank calls every method the same number of times and in the same order.
"""

from __future__ import annotations

import json
import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raycondense.checkpoint import find_damage
from raycondense.errors import CheckpointError
from raycondense.patience import patiently
from raycondense.storage import append_line, atomic_folder
from raycondense.tensorboard import EventFiles

Record = Mapping[str, float | str]
GOING_BACK = "checkpoint %s is damaged (%s); going on from %s, the one before"
logger = logging.getLogger("raycondense")


class Host(ABC):
    """Rank, device, collectives, log and checkpoints of one training process.

    Attributes:
        rank: number of this process, 0 to ``world_size - 1``.
        world_size: number of processes.
        device: where this process computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @abstractmethod
    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over all ranks."""

    def begin_all_reduce(self, tensors: Sequence[Tensor]) -> Callable[[], None]:
        """`all_reduce` that may go on in the background: the tensors hold the sums once the returned function was
        called. Other collectives may be called before that."""
        self.all_reduce(tensors)
        return lambda: None

    @abstractmethod
    def all_gather(self, tensor: Tensor, lengths: Sequence[int] | None = None) -> list[Tensor]:
        """Every rank's ``tensor`` by rank, without gradient; shapes may differ in the first dimension.

        Args:
            tensor: what this rank gives.
            lengths: first dimension of every rank's tensor; None asks the ranks, which costs another message.
        """

    @abstractmethod
    def log(self, record: Record) -> None:
        """Take a log record (plain numbers and strings; ``images`` is the clock). Rank 0's is kept."""

    @abstractmethod
    def save_checkpoint(self, name: str, write: Callable[[Path], None]) -> None:
        """Store a checkpoint. ``write`` fills an empty folder and is called on rank 0 only.

        Names sort by age; a checkpoint of the same name is replaced. Storage that cannot be reached is tried again.

        Raises:
            RunError: storage is full, or did not come back.
        """

    @abstractmethod
    def latest_checkpoint(self) -> AbstractContextManager[Path | None]:
        """Folder of the newest whole checkpoint, readable inside the ``with`` block; None where there was never one.

        Damaged ones are passed over with a warning, the same on every rank.

        Raises:
            CheckpointError: there are checkpoints, and none of them is whole.
        """

    @abstractmethod
    def should_stop(self) -> bool:
        """True when the run was asked to end after this step (the same answer on every rank)."""

    def wants_checkpoint(self) -> bool:
        """True when a checkpoint is wanted now, whenever the next is due (the same answer on every rank).

        Asked after every log record. It is where a machine is about to be taken away.
        """
        return False


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, host: Host, lengths: Sequence[int]) -> Tensor:
        ctx.host, ctx.lengths = host, list(lengths)
        return torch.cat(host.all_gather(own, lengths))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous()
        ctx.host.all_reduce([total])
        return total.split(ctx.lengths)[ctx.host.rank], None, None


def gathered(own: Tensor, host: Host, lengths: Sequence[int]) -> Tensor:
    """Every rank's ``own`` one after the other, with a gradient: a rank's is the sum of what all ranks ask of it.

    Args:
        own: what this rank gives, [n, …].
        host: of this rank; all ranks call, and go backwards, together.
        lengths: n of every rank.
    """
    if host.world_size == 1:
        return own
    everyones: Tensor = _Gathered.apply(own, host, lengths)
    return everyones


class LocalHost(Host):
    """One process, files in a run folder.

    Args:
        folder: run folder; ``log.jsonl``, ``checkpoints/`` and ``tensorboard/`` are written in it.
        device: where to compute; None takes CUDA where there is one.
        keep: how many checkpoints stay.
        patience: seconds that storage may be out of reach.
        on_log: called with every record (to draw progress).
        stop: asked after every step whether to end.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str | torch.device | None = None,
        keep: int = 2,
        patience: float = 600.0,
        on_log: Callable[[Record], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.rank, self.world_size = 0, 1
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.folder = folder.absolute()
        self._keep = keep
        self._patience = patience
        self._on_log = on_log
        self._stop = stop
        self._events = EventFiles(self.folder)

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Nothing to add up in one process."""

    def all_gather(self, tensor: Tensor, lengths: Sequence[int] | None = None) -> list[Tensor]:
        return [tensor.detach()]

    def log(self, record: Record) -> None:
        append_line(self.folder / "log.jsonl", json.dumps(record))
        self._events.append(record)
        if self._on_log is not None:
            self._on_log(record)

    def save_checkpoint(self, name: str, write: Callable[[Path], None]) -> None:
        def store() -> None:
            with atomic_folder(self.folder / "checkpoints" / name) as temporary:
                write(temporary)
            checkpoints = self._checkpoints()
            # Newer ones are damaged: the run went back to an older one and has come this far again.
            newer = [old for old in checkpoints if old.name > name]
            for old in checkpoints[: -self._keep - len(newer)] + newer:
                shutil.rmtree(old)

        patiently(store, f"checkpoint {name}", seconds=self._patience, tell=logger.warning)

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        damaged: list[tuple[Path, str]] = []
        for checkpoint in reversed(self._checkpoints()):
            reason = find_damage(checkpoint)
            if reason is None:
                for bad, why in damaged:
                    logger.warning(GOING_BACK, bad.name, why, checkpoint.name)
                yield checkpoint
                return
            damaged.append((checkpoint, reason))
        if damaged:
            raise all_damaged(*damaged[0], len(damaged) - 1)
        yield None

    def should_stop(self) -> bool:
        return self._stop()

    def _checkpoints(self) -> list[Path]:
        folder = self.folder / "checkpoints"
        # Hidden names are half-written: `atomic_folder` renames when it is done.
        return sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []


def all_damaged(checkpoint: Path | str, reason: str, others: int) -> CheckpointError:
    """The error of a run without a whole checkpoint; ``checkpoint`` is the newest and has ``others`` before it."""
    more = f", and so are the {others} before it" if others else " and there is no other"
    return CheckpointError(f"{checkpoint}: damaged checkpoint ({reason}){more}; to begin anew name another run folder")

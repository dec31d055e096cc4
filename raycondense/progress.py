"""Clock, log and checkpoints of a stage, the same for every stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from raycondense.config import Config
from raycondense.errors import DivergedError, Interrupted
from raycondense.host import Host
from raycondense.state import TrainState
from raycondense.stopwatch import Stopwatch


class Progress:
    """Moves the clock, writes the log and saves checkpoints while a stage runs.

    Losses stay on the device and are read once per log record: reading them every step would make the host
    wait for the device every step.
    """

    def __init__(self, config: Config, state: TrainState, host: Host) -> None:
        self._config, self._state, self._host = config, state, host
        self._sums: dict[str, Tensor] = {}
        self._bad_steps: dict[str, Tensor] = {}
        self._steps = 0
        self._logged, self._saved = state.images, state.images
        self._since = time.perf_counter()
        self.stopwatch = Stopwatch(host.device)
        """What it measures stands in the log records, for stages that start its parts."""
        self.facts: dict[str, float | str] = {}
        """What stands in every log record beside the numbers, such as the loader that reads."""
        self._last_checkpoint = state.name if state.images else "none"

    def after_steps(
        self,
        named: dict[str, Tensor],
        *,
        images: int,
        total: int,
        optimizers: Callable[[], dict[str, Any]],
        steps: int = 1,
    ) -> None:
        """Count an update's steps and real images, and log, save and stop where it is time.

        Args:
            named: this rank's share of each loss, summed over the steps; the sum over ranks is the loss.
            images: real images of the steps, all ranks together.
            total: the clock at which the stage ends.
            optimizers: returns the optimizers' state for a checkpoint.
            steps: steps that the update took.

        Raises:
            DivergedError: a loss became non-finite since the last log record.
            Interrupted: the host asked to stop.
        """
        state, host = self._state, self._host
        for name, value in named.items():
            never = torch.full((), -1, dtype=torch.int64, device=value.device)
            first = self._bad_steps.get(name, never)
            self._bad_steps[name] = torch.where((first < 0) & ~torch.isfinite(value), state.step, first)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        state.step += steps
        state.images += images
        self._steps += steps
        end = state.images >= total
        stop = host.should_stop()
        save = state.images - self._saved >= self._config.condense.checkpoint_images or stop
        if state.images - self._logged >= self._config.condense.log_images or end or save:
            self._log(total)
            save = save or host.wants_checkpoint()
        if save and not end:
            state.optimizers = optimizers()
            host.save_checkpoint(state.name, state.save)
            self._saved, self._last_checkpoint = state.images, state.name
        if stop and not end:
            raise Interrupted(f"stopped at {state.images} images of stage {state.stage}; run the same command to go on")

    def _log(self, total: int) -> None:
        state, host = self._state, self._host
        names = list(self._sums)
        sums = torch.stack([self._sums[name].double() / self._steps for name in names])
        bad = torch.stack([self._bad_steps[name] for name in names])
        split = self.stopwatch.read()
        # The mean over ranks: the sum of the parts is the time of a step, as all ranks wait for each other.
        seconds = sums.new_tensor([value / (self._steps * host.world_size) for value in split.values()])
        host.all_reduce([sums, seconds])
        everywhere = torch.stack(host.all_gather(bad))
        values = dict(zip(names, sums.tolist(), strict=True))
        for name, steps in zip(names, everywhere.T.tolist(), strict=True):
            wrong = [step for step in steps if step >= 0]
            if wrong:
                raise DivergedError(
                    f"loss {name!r} became non-finite at step {min(wrong)} of stage {state.stage}; "
                    f"last good checkpoint: {self._last_checkpoint}; lower condense.lr_generator or the loss's weight"
                )
        now = time.perf_counter()
        rate = (state.images - self._logged) / max(now - self._since, 1e-9)
        record: dict[str, float | str] = {"stage": state.stage, "step": state.step, "images": state.images}
        record |= {"total": total, "images_per_second": rate}
        record |= self.facts
        record |= {f"loss/{name}": value for name, value in values.items()}
        record |= {f"seconds/{part}": value for part, value in zip(split, seconds.tolist(), strict=True)}
        if host.device.type == "cuda":
            record["gpu_memory_bytes"] = torch.cuda.max_memory_allocated(host.device)
        host.log(record)
        self._sums, self._bad_steps, self._steps = {}, {}, 0
        self._logged, self._since = state.images, time.perf_counter()

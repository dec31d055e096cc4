"""Gradients of all workers, added up and applied: Adam to the generator, sparse Adam to the codes.

Only the codes that a step used have a gradient, so workers exchange those rows and not the whole codebook.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from raycondense.host import Host
from raycondense.state import CondensedModel
from raycondense.stopwatch import Stopwatch


class Updater:
    """Optimizers of a `CondensedModel` that stay equal on all ranks.

    Args:
        model: what is optimised.
        host: adds gradients up over the ranks.
        lr_generator: Adam's learning rate; 0 freezes the generator.
        lr_codebook: sparse Adam's learning rate; 0 freezes the codes.
        grad_clip: largest norm of the generator's gradient; 0 is no limit.
        stopwatch: told when workers exchange gradients.
    """

    def __init__(
        self,
        model: CondensedModel,
        host: Host,
        *,
        lr_generator: float,
        lr_codebook: float,
        grad_clip: float = 0.0,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self._model = model
        self._host = host
        self._stopwatch = stopwatch or Stopwatch()
        self._rates = (lr_generator, lr_codebook)
        self._grad_clip = grad_clip
        self._generator = list(model.generator.parameters()) if lr_generator else []
        for parameter in model.generator.parameters():
            parameter.requires_grad_(lr_generator > 0)
            parameter.grad = None  # what an earlier stage left would be added to ours
        # One kernel for all parameters.
        self._adam = torch.optim.Adam(self._generator, lr=lr_generator, fused=True) if lr_generator else None
        self._sparse_adam = torch.optim.SparseAdam([model.codebook.codes], lr=lr_codebook) if lr_codebook else None
        self._code_rows: list[Tensor] = []
        self._code_gradients: list[Tensor] = []

    @property
    def codes_need_gradient(self) -> bool:
        """False when the codes are frozen."""
        return self._sparse_adam is not None

    def add_code_gradient(self, classes: Tensor, positions: Tensor, gradient: Tensor) -> None:
        """Remember the gradient [N, d] of the codes at ``positions`` [N] of ``classes`` [N] until `apply`."""
        self._code_rows.append(classes * self._model.codebook.codes.shape[1] + positions)
        self._code_gradients.append(gradient)

    def apply(self, *, accumulated: int = 1, lr_factor: float = 1.0) -> None:
        """Sum the gradients over ranks, divide them by ``accumulated`` steps, update, and forget them.

        Args:
            accumulated: steps whose gradients were added up.
            lr_factor: what the learning rates are multiplied with now (see `cosine`).
        """
        gradients: list[Tensor] = []
        if self._adam is not None:
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._generator]
            for parameter, gradient in zip(self._generator, gradients, strict=True):
                parameter.grad = gradient
        # On its way while the codes are updated.
        with self._stopwatch.part("all_reduce"):
            wait = self._host.begin_all_reduce(gradients)
        if self._sparse_adam is not None:
            self._update_codes(self._sparse_adam, accumulated, lr_factor)
        with self._stopwatch.part("all_reduce"):
            wait()
        if self._adam is not None:
            if accumulated > 1:
                torch._foreach_div_(gradients, float(accumulated))
            if self._grad_clip:
                torch.nn.utils.clip_grad_norm_(self._generator, self._grad_clip)
            self._step(self._adam, self._rates[0] * lr_factor)

    def _update_codes(self, optimizer: torch.optim.Optimizer, accumulated: int, lr_factor: float) -> None:
        codes = self._model.codebook.codes
        empty = codes.new_empty(0, codes.shape[-1])
        rows = torch.cat([*self._code_rows, torch.empty(0, dtype=torch.long, device=codes.device)])
        rows, values = self._gathered(rows, torch.cat([*self._code_gradients, empty]))
        self._code_rows, self._code_gradients = [], []
        if not len(rows):
            return
        # Within a step no code comes twice: said here, as torch would make the host wait for a GPU to find out.
        rows, order = rows.sort()
        where = torch.stack((rows // codes.shape[1], rows % codes.shape[1]))
        gradient = torch.sparse_coo_tensor(
            where, values[order] / accumulated, codes.shape, check_invariants=False, is_coalesced=accumulated == 1
        )
        codes.grad = gradient.coalesce()
        self._step(optimizer, self._rates[1] * lr_factor)

    def _gathered(self, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All ranks' rows int64 [n] and values float32 [n, d], in one message: a row's bits travel as two floats."""
        if self._host.world_size == 1:
            return rows, values
        packed = torch.cat([rows.view(torch.float32).view(-1, 2), values], dim=1)
        with self._stopwatch.part("all_reduce"):
            together = torch.cat(self._host.all_gather(packed))
        return together[:, :2].contiguous().view(torch.int64).flatten(), together[:, 2:]

    @staticmethod
    def _step(optimizer: torch.optim.Optimizer, lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Both optimizers' states, by name."""
        parts = {"generator": self._adam, "codebook": self._sparse_adam}
        return {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Read `state_dict` back; an empty one is a fresh start."""
        if state and self._adam is not None:
            self._adam.load_state_dict(state["generator"])
        if state and self._sparse_adam is not None:
            self._sparse_adam.load_state_dict(state["codebook"])


def cosine(progress: float) -> float:
    """Learning-rate factor of a half cosine at ``progress`` 0 to 1: from 1 down to 0."""
    return 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))

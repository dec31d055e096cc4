"""CMA-ES without trust in whoever writes to the study.

Optuna keeps the state of its CMA-ES pickled in the study, and unpickles what it finds there: with a shared database,
whoever may write a trial could have code run by everybody who searches. Here it is unpickled with the classes of that
state alone.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from optuna.samplers import CmaEsSampler
from optuna.trial import FrozenTrial

from raycondense.errors import RunError

ALLOWED = {
    ("cmaes._cma", "CMA"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
}
"""Module and name of everything that a state of CMA-ES consists of."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of CMA-ES")
        return super().find_class(module, name)


class CarefulCmaEsSampler(CmaEsSampler):
    """Optuna's sampler, which reads its state with `ALLOWED` classes only."""

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        """Optuna's own method in the place of `pickle.loads`.

        Raises:
            RunError: what a trial of the study keeps is no state of CMA-ES.
        """
        for trial in reversed(completed_trials):
            kept = {k: v for k, v in trial.system_attrs.items() if k.startswith(self._attr_key_optimizer)}
            if not kept:
                continue
            try:
                return _Unpickler(io.BytesIO(bytes.fromhex(self._concat_optimizer_attrs(kept)))).load()
            except Exception as error:  # whatever a damaged pickle makes the unpickler trip over
                raise RunError(
                    f"trial {trial.number} of the study: its state of CMA-ES cannot be used: {error}; name another "
                    "folder with --out, or another --storage"
                ) from error
        return None

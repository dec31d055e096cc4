"""Marks of time out of every process of a run, for `startup.py`: what began when, seen from outside the package.

`startup.py` puts a copy of this file where Python looks for ``sitecustomize``, so that Ray's processes have it too. It
imports nothing but the standard library and does nothing unless ``STARTUP_TRACE`` names a folder.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

MODULES = {"torch", "torch._dynamo", "ray", "ray.train", "ffcv", "numba", "sklearn", "sklearn.cluster"}
"""Imports that are marked."""
FUNCTIONS = {
    "raycondense.cluster.start": ["connect"],
    "raycondense.cluster.trainer": ["fit_on_ray", "train_worker"],
    "ray.train.v2.api.data_parallel_trainer": ["DataParallelTrainer.fit"],
    "ray.train.v2._internal.execution.worker_group.worker_group": ["WorkerGroup._start"],
    "ray.train.torch.config": ["_TorchBackend.on_start"],
    "raycondense.condense": ["run", "train_pool", "fit_reconstruction"],
    "raycondense.state": ["TrainState.__init__"],
    "raycondense.initialise.pool": ["open_shuffled_batches", "dsa"],
    "raycondense.step": ["CondenseStep.__call__"],
}
"""Module → functions whose first `CALLS` calls are marked. What is not there is not marked."""
CALLS = 2


class Marks:
    """A file of lines: seconds of the clock that all processes share, CPU seconds of this one, and what it was."""

    def __init__(self, folder: str) -> None:
        self._file = open(os.path.join(folder, f"{os.getpid()}.tsv"), "a", buffering=1)  # noqa: SIM115
        self("begin python")

    def __call__(self, what: str) -> None:
        self._file.write(f"{time.monotonic():.3f}\t{time.process_time():.3f}\t{what}\n")

    def around(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """``function`` whose first calls are marked."""
        calls = 0

        @functools.wraps(function)
        def marked(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > CALLS:
                return function(*arguments, **named)
            number = calls
            self(f"begin {name} {number}")
            try:
                return function(*arguments, **named)
            finally:
                self(f"end {name} {number}")

        return marked


class Finder:
    """Stands before Python's own finders and has the modules above marked."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._seen: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name in self._seen or not (name in MODULES or name in FUNCTIONS):
            return None
        self._seen.add(name)
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            if name in MODULES:
                self._marks(f"begin import {name}")
            execute(module)
            if name in MODULES:
                self._marks(f"end import {name}")
            for function in FUNCTIONS.get(name, ()):
                *owners, last = function.split(".")
                owner = functools.reduce(lambda inner, part: getattr(inner, part, None), owners, module)
                if hasattr(owner, last):
                    setattr(owner, last, self._marks.around(getattr(owner, last), function))

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("STARTUP_TRACE"):
    sys.meta_path.insert(0, Finder(Marks(os.environ["STARTUP_TRACE"])))  # type: ignore[arg-type]

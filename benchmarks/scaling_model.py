"""What a condensation step costs on hardware that is not here: work counted by operation, times of a roofline.

`benchmarks/scaling.py` measures, compares this model with what it measured, and predicts; docs/scaling.md reads it out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from raycondense.config import Config
from raycondense.configfile import override
from raycondense.data.batches import ClassBatch
from raycondense.data.normalize import Normalize
from raycondense.host import LocalHost
from raycondense.state import TrainState
from raycondense.step import CondenseStep
from raycondense.stopwatch import PARTS, Stopwatch
from raycondense.updates import Updater

FLOAT = 4
"""Bytes of what travels between workers: gradients, codes and centers are float32."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a worker computes with, at rates that a good kernel reaches."""

    name: str
    half: float
    """Floating-point operations per second in bfloat16."""
    full: float
    """The same in float32."""
    memory: float
    """Bytes per second."""
    launch: float = 0.0
    """Seconds between two operations that one process can ask for at most."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A node."""

    name: str
    device: Device
    gpus: int
    inside: float
    """Bytes per second that a GPU's ring all-reduce gets inside the node."""
    network: float
    """Bytes per second of the node's network."""
    latency: float = 20e-6
    """Seconds of a hop from GPU to GPU."""


MATH, MEMORY = 0.4, 0.7
"""Shares of a GPU's peaks that its convolutions of few channels, and what only moves memory, are taken to reach."""
H100 = Device(name="H100", half=MATH * 989e12, full=MATH * 67e12, memory=MEMORY * 3.35e12)
A100 = Device(name="A100", half=MATH * 312e12, full=MATH * 19.5e12, memory=MEMORY * 2.04e12)
A10G = Device(name="A10G", half=MATH * 70e12, full=MATH * 31e12, memory=MEMORY * 0.6e12)
MACHINES = (
    Machine(name="8 × H100, NVLink, 3200 Gb/s", device=H100, gpus=8, inside=300e9, network=400e9),
    Machine(name="8 × A100, NVLink, 400 Gb/s", device=A100, gpus=8, inside=200e9, network=50e9),
    Machine(name="8 × A10G, PCIe, 100 Gb/s", device=A10G, gpus=8, inside=10e9, network=12.5e9),
)
NETWORK_SHARE = 0.7
"""Of a network's rate that NCCL is taken to reach."""


@dataclass(frozen=True)
class Operation:
    """Counted work of one operation (or of several alike)."""

    part: str
    flops: float
    bytes: float
    half: bool

    def seconds(self, device: Device) -> float:
        return max(self.flops / (device.half if self.half else device.full), self.bytes / device.memory)


@dataclass
class Work(TorchDispatchMode):
    """Counts floating-point operations, bytes read and written, and launches of everything that torch does inside.

    Convolutions and matrix products are not done, only counted: their results are zeros.
    """

    operations: list[Operation] = field(default_factory=list)
    part: str | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def __hash__(self) -> int:
        return id(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        count = flop_registry.get(func._overloadpacket)
        out = _zeros(func, args, kwargs) if count else func(*args, **kwargs)
        if self.part is not None:
            read, written = _tensors([args, kwargs]), _tensors(out)
            memory = {value.untyped_storage().data_ptr() for value in read}
            fresh = [value for value in written if value.untyped_storage().data_ptr() not in memory]
            # What neither writes new memory nor changes old is a view.
            if fresh or func._schema.is_mutable:
                flops = count(*args, **kwargs, out_val=out) if count else sum(value.numel() for value in written)
                moved = sum(value.numel() * value.element_size() for value in [*read, *(fresh or written)])
                half = any(value.dtype == torch.bfloat16 for value in written)
                self.operations.append(Operation(self.part, float(flops), float(moved), half))
        return out


def _zeros(func: Any, args: Any, kwargs: Any) -> Any:
    """Zeros in the shapes of what ``func`` would give."""
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    return tree_map_only(Tensor, lambda tensor: torch.zeros_like(tensor, device="cpu"), func(*args, **kwargs))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.layout == torch.strided else []
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []


class _Parts(Stopwatch):
    """Tells the counter what the step is at."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work

    def start(self, part: str | None) -> None:
        self._work.part = self._part = part


def for_timing(config: Config, **changes: Any) -> Config:
    """``config`` with a pool of one hardly trained network and no initialisation: a step costs the same."""
    quick = {"extractors": {"pool_size": 1, "train_steps": 1, "train_batch": 8}, "initialise.method": "none"}
    return override(override(config, quick), changes)


def count_step(config: Config, classes: int, *, counting: bool = True) -> list[Operation]:
    """The operations of a step of one worker with so many classes, counted while they are done on the CPU."""
    config = for_timing(config)
    state = TrainState(config, num_classes=config.data.num_classes, device=torch.device("cpu"))
    if state.pool.untrained:
        state.pool.set_trained(0, torch.randn_like(state.pool.trained(0)) * 0.05)
    host = LocalHost(Path("/nowhere"), device="cpu")
    work = Work()
    watch = _Parts(work)
    updater = Updater(
        state.model, host, lr_generator=1e-3, lr_codebook=1e-2, grad_clip=config.condense.grad_clip, stopwatch=watch
    )
    step = CondenseStep(config, state, Normalize((0.5,) * 3, (0.25,) * 3), host, watch)
    if not classes:
        return []
    shape = (classes, config.condense.real_per_class, 3, config.data.resolution, config.data.resolution)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    batch = ClassBatch(torch.arange(classes), images, 0)
    with work if counting else nullcontext():
        step(batch, updater, step_classes=classes)
        updater.apply()
        state.update_average(1)
    return work.operations


@functools.cache
def sizes(config: Config) -> tuple[int, int]:
    """Parameters of the generator, and numbers in a feature."""
    state = TrainState(config, num_classes=config.data.num_classes, device=torch.device("cpu"))
    return sum(parameter.numel() for parameter in state.model.generator.parameters()), state.pool.embedding_dim


@dataclass(frozen=True)
class StepModel:
    """Seconds of a step by part, linear in the classes that a worker has in it.

    Args:
        config: the configuration.
        one: operations of a step with one class.
        two: the same with two.
    """

    config: Config
    one: Sequence[Operation]
    two: Sequence[Operation]

    @classmethod
    def counted(cls, config: Config) -> StepModel:
        return cls(config, count_step(config, 1), count_step(config, 2))

    def compute(self, device: Device, classes: float) -> dict[str, float]:
        """Roofline seconds of each part with so many classes a worker."""
        found = {}
        for part in PARTS:
            one, two = (sum(o.seconds(device) for o in ops if o.part == part) for ops in (self.one, self.two))
            found[part] = max(one, one + (two - one) * (classes - 1))
        return found

    def flops(self, classes: float) -> float:
        one, two = (sum(o.flops for o in ops) for ops in (self.one, self.two))
        return one + (two - one) * (classes - 1)

    @property
    def launches(self) -> int:
        """Operations of a step, whatever its size."""
        return len(self.one)

    @property
    def codes(self) -> int:
        """Codes of a class in a step, all banks together."""
        wanted = self.config.condense.codes_per_step
        return sum(min(wanted, ipc) if wanted else ipc for ipc in self.config.codebook.ipc)

    def reduced_bytes(self) -> int:
        """Gradient of the generator, which every worker gives and gets."""
        return FLOAT * self._sizes[0]

    @property
    def _sizes(self) -> tuple[int, int]:
        # The size of a step does not matter here, and must not make it be built again.
        return sizes(for_timing(self.config, **{"condense.classes_per_step": 1}))

    def gathered_codes_bytes(self) -> int:
        """Gradients of a step's codes with their places (two floats), all workers together."""
        condense = self.config.condense
        return FLOAT * condense.classes_per_step * self.codes * (self.config.codebook.dim + 2)

    def gathered_centers_bytes(self) -> int:
        """Class centers of a step, one a bank, all workers together."""
        return FLOAT * self.config.condense.classes_per_step * len(self.config.codebook.ipc) * self._sizes[1]


@dataclass(frozen=True)
class Prediction:
    """A step on a number of GPUs. Times in seconds; rates in images per second, all workers together."""

    machine: Machine
    gpus: int
    classes_per_gpu: int
    compute: float
    host: float
    """What launching the step's operations takes at least."""
    travel: float
    step: float
    rate: float
    """Real images per second: what the loaders must give."""
    hours: float
    """For ``condense.images``."""

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.machine.gpus)


def travel_seconds(machine: Machine, gpus: int, reduced: float, gathered: float) -> float:
    """An all-reduce of ``reduced`` bytes and two all-gathers of ``gathered`` bytes together: each link carries what a
    ring's does, and messages make as many hops as a tree has levels, there and back."""
    if gpus == 1:
        return 0.0
    share = (gpus - 1) / gpus
    rate = machine.inside if gpus <= machine.gpus else min(machine.inside, NETWORK_SHARE * machine.network)
    hops = 3 * 2 * math.log2(gpus)
    return share * (2 * reduced + gathered) / rate + hops * machine.latency


def predict(model: StepModel, machine: Machine, gpus: int, slowdown: dict[str, float]) -> Prediction:
    """The step of ``model.config`` on so many GPUs.

    Args:
        model: counted work.
        machine: the nodes.
        gpus: number of workers.
        slowdown: by part, how many times a roofline's time it takes.
    """
    condense = model.config.condense
    classes = -(-condense.classes_per_step // gpus)  # the worker that has most
    compute = sum(slowdown[part] * seconds for part, seconds in model.compute(machine.device, classes).items())
    host = model.launches * machine.device.launch
    gathered = model.gathered_codes_bytes() + model.gathered_centers_bytes()
    travel = travel_seconds(machine, gpus, model.reduced_bytes(), gathered)
    step = max(compute, host) + travel
    rate = condense.classes_per_step * condense.real_per_class / step
    return Prediction(machine, gpus, classes, compute, host, travel, step, rate, condense.images / rate / 3600)


def weak(config: Config, gpus: int, classes_per_gpu: int) -> Config:
    """``config`` with steps that grow with the number of GPUs, as far as there are classes."""
    classes = min(config.data.num_classes, gpus * classes_per_gpu)
    return replace(config, condense=replace(config.condense, classes_per_step=classes))

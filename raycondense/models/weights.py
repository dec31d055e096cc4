"""All weights of a network as one vector: drawn from a seed, copied and blended in a few operations.

A step may need fresh extractor weights, so making them must cost a millisecond, not the construction of a module.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from raycondense.seeds import seeded_generator

ALIGNMENT = 16
"""Every tensor starts at a multiple of this many floats (64 bytes), as convolution kernels like it."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """Place and distribution of one parameter in the vector."""

    offset: int
    shape: torch.Size
    distribution: Literal["uniform", "normal", "constant"]
    scale: float
    """Bound of a uniform, standard deviation of a normal distribution, or the constant."""


class WeightLayout:
    """Where each parameter of ``module`` lies in one vector, and how fresh weights are distributed.

    Distributions are torch's own: convolutions and linear layers uniform within ``± fan_in^-½`` (what
    `torch.nn.Conv2d` and `torch.nn.Linear` do), norms one and zero.

    Args:
        module: consists of `Conv2d`, `Linear` and `GroupNorm` layers; a meta-device module will do.
        conv: ``"fan_out"`` draws convolutions as torchvision's ResNet does, normal with variance ``2 / fan_out``.

    Attributes:
        size: length of the vector, a little more than the number of parameters.
    """

    def __init__(self, module: nn.Module, *, conv: Literal["default", "fan_out"] = "default") -> None:
        self._slots: list[_Slot] = []
        self.size = 0
        for layer in module.modules():
            weight: Tensor | None = getattr(layer, "weight", None)
            bias: Tensor | None = getattr(layer, "bias", None)
            if weight is None:
                continue
            if isinstance(layer, nn.GroupNorm):
                self._add(weight, "constant", 1.0)
            elif isinstance(layer, nn.Conv2d) and conv == "fan_out":
                self._add(weight, "normal", math.sqrt(2 / (weight.numel() // weight.shape[1])))
            elif isinstance(layer, nn.Conv2d | nn.Linear):
                self._add(weight, "uniform", weight[0].numel() ** -0.5)
            else:
                raise TypeError(f"WeightLayout: no distribution is known for {type(layer).__name__}")
            if isinstance(layer, nn.GroupNorm) and bias is not None:
                self._add(bias, "constant", 0.0)
            elif bias is not None:
                self._add(bias, "uniform", weight[0].numel() ** -0.5)

    def _add(self, parameter: Tensor, distribution: Literal["uniform", "normal", "constant"], scale: float) -> None:
        self._slots.append(_Slot(self.size, parameter.shape, distribution, scale))
        self.size += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT

    def views(self, vector: Tensor) -> list[Tensor]:
        """The parameters as views of ``vector`` [size], in the order of the module's layers."""
        return [vector[s.offset : s.offset + s.shape.numel()].view(s.shape) for s in self._slots]

    def draw(self, seed: int) -> Tensor:
        """Fresh weights [size] on the CPU, a function of ``seed`` alone."""
        vector = torch.zeros(self.size, device="cpu")
        generator = seeded_generator(seed, "weights")
        for slot, view in zip(self._slots, self.views(vector), strict=True):
            if slot.distribution == "uniform":
                view.uniform_(-slot.scale, slot.scale, generator=generator)
            elif slot.distribution == "normal":
                view.normal_(std=slot.scale, generator=generator)
            else:
                view.fill_(slot.scale)
        return vector

    def collect(self, module: nn.Module) -> Tensor:
        """The weights of ``module`` as a vector [size] of their own on the module's device."""
        parameters = self._parameters(module)
        vector = torch.zeros(self.size, device=parameters[0].device)
        for view, parameter in zip(self.views(vector), parameters, strict=True):
            view.copy_(parameter.detach())
        return vector

    def bind(self, module: nn.Module, vector: Tensor) -> None:
        """Make the parameters of ``module`` views of ``vector``: who writes the vector changes the network."""
        for view, parameter in zip(self.views(vector), self._parameters(module), strict=True):
            parameter.data = view

    @staticmethod
    def _parameters(module: nn.Module) -> list[nn.Parameter]:
        """Parameters in the order of the slots: layer by layer, weight before bias."""
        found = []
        for layer in module.modules():
            for name in ("weight", "bias"):
                parameter = getattr(layer, name, None)
                if parameter is not None:
                    found.append(parameter)
        return found

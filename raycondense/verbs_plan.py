"""What ``raycondense plan`` does."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from raycondense.cli import parse
from raycondense.config import Config
from raycondense.storage import write_text
from raycondense.verbs import start_config

GIGABYTE = 1e9


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say what a run will take, from a few steps on made-up images on this machine: size, memory, speed, time and cost.
    The numbers are those of workers like this machine's device."""

    preset: str | None = None
    """Preset to plan for (`raycondense presets` lists them)."""
    config_file: Path | None = None
    """Configuration to plan for instead, YAML or JSON."""
    data: Path | None = None
    """Beton of the training images, to measure the loader with and to take the number of classes from."""
    gpus: int = 1
    """Workers of the run, each with a GPU like this machine's (or a CPU like it)."""
    gpu_memory: float = 0.0
    """Gigabytes (10^9 bytes) of a worker's GPU; where a step needs more, what to change is found. 0 does not ask."""
    price: float = 0.0
    """Of a worker for an hour, in any currency; 0 leaves the cost out."""
    device: str | None = None
    """Where to take the steps; by default CUDA where there is one."""
    json: Path | None = None
    """Also write the numbers to this file."""
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


def plan(words: list[str]) -> int:
    """``raycondense plan --preset imagenet1k_64 --gpus 8 --gpu-memory 80``"""
    flags = parse(Plan, "plan", words, default=Plan(config=start_config(words)))
    from raycondense import api

    found = api.plan(
        flags.config, data=flags.data, gpus=flags.gpus,
        gpu_memory=flags.gpu_memory * GIGABYTE if flags.gpu_memory else None, price=flags.price, device=flags.device,
    )  # fmt: skip
    print("\n".join(found.lines()))
    if flags.json:
        write_text(flags.json, json.dumps(found.to_dict(), indent=2))
    return 0

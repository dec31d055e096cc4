"""How much work fits into a wall-clock budget: condensation and pixel DM for a given number of seconds."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from raycondense import condense
from raycondense.config import Config
from raycondense.configfile import config_to_dict, override
from raycondense.data.sidecar import Sidecar
from raycondense.errors import ConfigError
from raycondense.evaluation.pixel_dm import pixel_dm
from raycondense.host import LocalHost, Record
from raycondense.publish import publish
from raycondense.state import TrainState
from raycondense.storage import read_json, write_json

PROBE_STEPS = 12
"""Steps of the short run that tells how many fit into the budget; the first half only warms up."""
UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds_of(text: str) -> float:
    """``"90s"``, ``"10m"`` or ``"1.5h"`` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"found {text!r}, valid: a time such as 90s, 10m or 1h")
    return float(match[1]) * UNITS[match[2]]


def once(done: Path, description: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` returns, from the file ``done`` where an earlier call has left it there.

    Raises:
        ConfigError: the earlier call's description was another one.
    """
    if done.is_file():
        found: dict[str, Any] = read_json(done)
        if found["description"] != json.loads(json.dumps(description)):
            raise ConfigError(f"{done}: other settings, another budget or device; name another folder with --out")
        return found
    found = {"description": description, **work()}
    done.parent.mkdir(parents=True, exist_ok=True)
    write_json(done, found)
    return found


def fit(config: Config, train: Path, out: Path, device: str, budget: float) -> dict[str, Any]:
    """Condense for ``budget`` seconds into ``out/artifact``; ``seconds``, ``initialisation`` and ``steps`` of it.

    Initialisation is part of the budget; what a process does once (imports, kernels, the first look at a file) and the
    short run that measures the rate are not.
    """
    description = {"config": config_to_dict(config), "budget": budget, "device": device}
    return once(out / "fit.json", description, lambda: _fit(config, train, out, device, budget))


def _fit(config: Config, train: Path, out: Path, device: str, budget: float) -> dict[str, Any]:
    step_images = config.condense.real_per_class * config.condense.classes_per_step
    probe = override(config, {"condense.images": PROBE_STEPS * step_images, "condense.log_images": 1})
    short = {"initialise.steps": 1, "initialise.gan_images": 1, "extractors.train_steps": 1}
    condense.run(override(probe, {**short, "condense.images": 1}), train, _host(out / "warm", device))

    begun = time.perf_counter()
    state = _state(config, train, device)
    condense.advance(config, train, state, _host(out / "run", device), until="condense")
    before = time.perf_counter() - begun

    seen: list[tuple[float, int]] = []

    def note(record: Record) -> None:
        seen.append((time.perf_counter(), int(record["images"])))

    (out / "begun").mkdir(exist_ok=True)
    state.save(out / "begun")
    copy = _state(probe, train, device)
    copy.load(out / "begun")
    condense.advance(probe, train, copy, _host(out / "probe", device, note), until="done")
    (first, few), (last, many) = seen[len(seen) // 2 - 1], seen[-1]
    rate = (many - few) / (last - first)
    images = int(rate * (budget - before)) // step_images * step_images
    if images < step_images:
        raise ConfigError(
            f"--budget: found {budget:g} s, valid: more than the {before:.0f} s that initialisation takes"
        )
    print(f"initialisation {before:.0f} s, then {rate:.0f} real images/s: {images // step_images} steps", flush=True)
    begun = time.perf_counter()
    whole = override(config, {"condense.images": images})
    state.config = whole  # the schedules of the rest follow the number of images
    condense.advance(whole, train, state, _host(out / "run", device), until="done")
    seconds = before + time.perf_counter() - begun
    publish(state, train, out / "artifact")
    for name in ("warm", "run", "probe", "begun"):
        shutil.rmtree(out / name, ignore_errors=True)
    return {"seconds": seconds, "initialisation": before, "steps": images // step_images}


def _state(config: Config, train: Path, device: str) -> TrainState:
    return TrainState(config, num_classes=Sidecar.load(train).num_classes, device=torch.device(device))


def _host(folder: Path, device: str, note: Callable[[Record], None] | None = None) -> LocalHost:
    shutil.rmtree(folder, ignore_errors=True)
    return LocalHost(folder, device=device, on_log=note)


def pixel_steps(config: Config, train: Path, ipc: int, factor: int, device: str, budget: float) -> int:
    """Steps of pixel DM that fit into the budget; reading the real images is not counted."""

    def seconds(steps: int) -> float:
        begun, settings = time.perf_counter(), config.evaluation
        pixel_dm(
            train, ipc=ipc, steps=steps, lr=settings.pixel_dm_lr, real_per_class=settings.pixel_dm_real,
            width=settings.width, augment=settings.augment, seed=0, resolution=config.data.resolution, factor=factor,
            device=device,
        )  # fmt: skip
        return time.perf_counter() - begun

    seconds(1)
    short, long = seconds(1), seconds(1 + PROBE_STEPS)
    return max(1, int(budget * PROBE_STEPS / max(long - short, 1e-9)))

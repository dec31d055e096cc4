"""A made-up sweep on disk, for whoever tests what reads or shows one."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raycondense.config import Config, EvaluationConfig
from raycondense.configfile import config_to_dict
from raycondense.tuning.records import SweepFolder
from raycondense.tuning.space import Space

SPACE: dict[str, Any] = {
    "description": "weights of the losses",
    "parameters": {
        "losses.intra": {"log": [0.001, 10], "off": 0.2},
        "losses.inter": {"log": [0.001, 10], "off": 0.2},
        "losses.ce": {"uniform": [0, 1]},
        "codebook.dim": {"int": [16, 128], "log": True},
        "extractors.weights": {"choice": ["random", "trained", "blend"]},
    },
    "objectives": ["accuracy", "bytes"],
}
RUNGS = (1111, 3333, 10000)


def accuracy_of(values: Mapping[str, Any]) -> float:
    """A smooth hill, whose top is at intra 0.1 and trained extractors; inter, ce and dim matter little."""
    intra = values.get("losses.intra", 0.1)
    hill = 0.25 if not intra else 0.34 * math.exp(-((math.log10(intra) + 1) ** 2) / 1.5)
    inter = values.get("losses.inter", 0.0)
    aside = 0.05 if not inter else 0.08 * math.exp(-((math.log10(inter) + 0.5) ** 2) / 2)
    pool = {"random": 0.0, "blend": 0.06, "trained": 0.09}[values.get("extractors.weights", "random")]
    return 0.3 + hill + aside + pool + 0.02 * values.get("losses.ce", 0.0)


def made_sweep(
    path: str | Path, *, trials: int = 36, space: Mapping[str, Any] = SPACE, seed: int = 0, **told: Any
) -> SweepFolder:
    """Write ``sweep.json`` and ``trials.jsonl`` of a sweep with trials of every state, if there are enough.

    Args:
        path: the folder.
        trials: how many were started.
        space: as its file has it.
        seed: of the trials' values.
        told: other fields of ``sweep.json``.
    """
    folder, dice = SweepFolder(path), random.Random(seed)
    read = Space.from_dict(space)
    config = Config(name="made-up")
    start, _ = read.start(config)
    folder.claim(
        {
            "space": read.to_dict(), "start": start, "config": config_to_dict(config),
            "data": {"path": "/data/train.beton", "sha256": "ab" * 32},
            "val_data": {"path": "/data/train-val.beton", "sha256": "cd" * 32}, "test_data": None,
            "objectives": list(read.objectives), "rungs": list(RUNGS),
            "judge": {**config_to_dict(EvaluationConfig()), "name": "fast"}, "search": "tpe", "seed": seed,
            "storage": None, "trials": trials, "winners": 3,
            "resources": {"trial": {"CPU": 1.0}, "pool": {"CPU": 1.0}}, **told,
        }
    )  # fmt: skip
    for number in range(trials):
        _trial(folder, number, start if number == 0 else read.sample(dice), trials, dice)
    return folder


def _trial(folder: SweepFolder, number: int, values: Mapping[str, Any], trials: int, dice: random.Random) -> None:
    time = 1_800_000_000.0 + 20 * number
    best = accuracy_of(values)
    folder.append({"trial": number, "event": "start", "time": time, "values": dict(values)})
    if number == trials - 1 and trials > 1:
        return  # running, and not yet judged
    if number % 13 == 7:
        reason = "loss/match was not finite at step 17 (lr_generator 0.01)"
        folder.append(
            {"trial": number, "event": "end", "time": time + 9, "state": "diverged", "accuracy": 0.0, "reason": reason}
        )
        return
    if number % 17 == 11:
        error: dict[str, Any] = {"state": "failed", "reason": "out of memory: <tried to allocate 20 GiB>"}
        folder.append({"trial": number, "event": "end", "time": time + 4, **error})
        return
    size = 4 * (4000 + 40 * int(values.get("codebook.dim", 64)) * 10)
    reached = len(RUNGS) if best > 0.55 or number < 2 else 1 + (best > 0.45)
    for rung, images in enumerate(RUNGS[:reached]):
        accuracy = best * (1 - 0.35 * 0.4**rung) + dice.gauss(0, 0.008)
        folder.append(
            {
                "trial": number, "event": "rung", "time": time + 5 * (rung + 1), "images": images,
                "accuracy": accuracy, "bytes": size, "seconds": 5.0 * 3**rung,
            }
        )  # fmt: skip
    if number == trials - 2 and trials > 2:
        return  # running, judged at its first rungs
    state = "complete" if reached == len(RUNGS) else "stopped"
    why = None if state == "complete" else f"below the best third at rung {reached} of {len(RUNGS)}"
    artifact = f"trials/{number:05d}/artifact" if state == "complete" else None
    folder.append(
        {"trial": number, "event": "end", "time": time + 20, "state": state, "reason": why, "artifact": artifact}
    )

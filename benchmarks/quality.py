"""What images are worth at equal wall-clock time: ours against pixel DM, medoids and random real images.

Ours takes the budget once, for all banks and with its initialisation; pixel DM takes it anew for every number of images
per class. How many steps fit into it is measured first, so the device should be doing nothing else. All rows are
judged by the same students, on the images of ``--test``: to choose settings, name the ``-val`` beton there::

    raycondense prepare fashion_mnist/train-*.parquet f/train.beton --resolution 16 --val-fraction 0.1
    raycondense prepare fashion_mnist/test-*.parquet f/test.beton --resolution 16 --split test
    python benchmarks/quality.py --preset fashion_mnist --data f/train.beton --test f/test.beton --budget 10m \\
        --set data.resolution=16 --out runs/quality/fashion --report docs/results/quality-fashion.md

Stopped at any time, the same command goes on: a condensation that had not ended begins again (or its time would not
be one budget), students that had ended are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from settings import changes

import raycondense
from raycondense import condense
from raycondense.api.fitting import resolve_for_data
from raycondense.config import Config
from raycondense.configfile import config_to_dict, override
from raycondense.errors import ConfigError, RaycondenseError
from raycondense.evaluation.methods import METHOD_NAMES
from raycondense.evaluation.pixel_dm import pixel_dm
from raycondense.evaluation.result import Row
from raycondense.host import LocalHost, Record
from raycondense.presets import get_preset
from raycondense.publish import publish
from raycondense.storage import read_json, write_json, write_text

PROBE_STEPS = 12
"""Steps of the short run that tells how many fit into the budget; the first half only warms up."""
BASELINES = ("random", "kmeans", "pixel-dm", "initial-codes")
UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds_of(text: str) -> float:
    """``"90s"``, ``"10m"`` or ``"1.5h"`` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"found {text!r}, valid: a time such as 90s, 10m or 1h")
    return float(match[1]) * UNITS[match[2]]


def fit(config: Config, train: Path, out: Path, device: str, budget: float) -> dict[str, Any]:
    """Condense for ``budget`` seconds into ``out/artifact``; what was done, also of an earlier call."""
    done = out / "fit.json"
    description = {"config": config_to_dict(config), "budget": budget, "device": device}
    if done.is_file():
        found: dict[str, Any] = read_json(done)
        if found["description"] != json.loads(json.dumps(description)):
            raise ConfigError(f"{done}: other settings, another budget or device; name another folder with --out")
        return found
    seen: list[tuple[float, int]] = []

    def note(record: Record) -> None:
        if record["stage"] == "condense":
            seen.append((time.perf_counter(), int(record["images"])))

    most = config.condense.real_per_class * config.condense.classes_per_step
    probe = override(config, {"condense.images": PROBE_STEPS * most, "condense.log_images": 1})
    # What a process does once (imports, kernels, caches) is not of the method.
    short = {"initialise.steps": 1, "initialise.gan_images": 1, "extractors.train_steps": 1}
    _condense(override(probe, short), train, out / "probe", device)
    begun = time.perf_counter()
    _condense(probe, train, out / "probe", device, note)
    step_images = seen[0][1]
    (first, few), (last, many) = seen[len(seen) // 2 - 1], seen[-1]
    rate = (many - few) / (last - first)
    before = first - begun - few / rate
    images = int(rate * (budget - before)) // step_images * step_images
    if images < step_images:
        raise ConfigError(
            f"--budget: found {budget:g} s, valid: more than the {before:.0f} s that initialisation takes"
        )
    print(f"initialisation {before:.0f} s, then {rate:.0f} real images/s: {images // step_images} steps", flush=True)

    begun = time.perf_counter()
    state = _condense(override(config, {"condense.images": images}), train, out / "run", device)
    seconds = time.perf_counter() - begun
    publish(state, train, out / "artifact")
    found = {"description": description, "seconds": seconds, "steps": images // step_images}
    write_json(done, found)
    return found


def _condense(config: Config, train: Path, folder: Path, device: str, note: Any = None) -> Any:
    shutil.rmtree(folder, ignore_errors=True)
    return condense.run(config, train, LocalHost(folder, device=device, on_log=note))


def pixel_steps(config: Config, train: Path, ipc: int, device: str, budget: float) -> int:
    """Steps of pixel DM that fit into the budget; reading the real images is not counted."""

    def seconds(steps: int) -> float:
        begun, settings = time.perf_counter(), config.evaluation
        pixel_dm(
            train, ipc=ipc, steps=steps, lr=settings.pixel_dm_lr, real_per_class=settings.pixel_dm_real,
            width=settings.width, augment=settings.augment, seed=0, resolution=config.data.resolution, device=device,
        )  # fmt: skip
        return time.perf_counter() - begun

    seconds(1)
    short, long = seconds(1), seconds(1 + PROBE_STEPS)
    return max(1, int(budget * PROBE_STEPS / max(long - short, 1e-9)))


def table(rows: list[Row], fitted: dict[str, Any], steps: dict[int, int]) -> str:
    """Accuracy by method and images per class; what ours has more, in points."""
    banks = sorted(steps)
    found = {(row.method, row.ipc): row for row in rows}
    heads = [f"IPC {ipc}" for ipc in banks] + [f"ours less it, IPC {ipc}" for ipc in banks]
    lines = [f"| method | {' | '.join(heads)} | steps |", f"|---|{'---:|' * (len(heads) + 1)}"]
    for method in ("raycondense", *BASELINES):
        cells = [f"{100 * found[method, n].accuracy:.1f} ± {100 * (found[method, n].std or 0):.1f}" for n in banks]
        less = [100 * (found["raycondense", n].accuracy - found[method, n].accuracy) for n in banks]
        cells += [f"{gain:+.1f}" if method != "raycondense" else "" for gain in less]
        own = {"raycondense": f"{fitted['steps']}", "pixel-dm": " / ".join(str(steps[n]) for n in banks)}
        lines.append(f"| {METHOD_NAMES[method]} | {' | '.join(cells)} | {own.get(method, '')} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--data", type=Path, required=True, help="beton of the training images")
    parser.add_argument("--test", type=Path, required=True, help="beton that students are scored on")
    parser.add_argument("--budget", type=seconds_of, default=600.0, help="wall-clock time, such as 90s or 10m")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="settings, values as YAML")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True, help="folder of the artefact and of what students found")
    parser.add_argument("--report", type=Path, help="write the table to this Markdown file as well")
    options = parser.parse_args()
    fixed = {"seed": options.seed, "codebook.ipc": options.ipc, "cluster.workers": 0, "evaluation.baselines": BASELINES}
    config = resolve_for_data(override(get_preset(options.preset), {**changes(options.set), **fixed}), options.data)
    fitted = fit(config, options.data, options.out, options.device, options.budget)
    steps: dict[int, int] = {}
    rows: list[Row] = []
    for ipc in options.ipc:
        counted = options.out / f"pixel-dm-{ipc}.json"
        if not counted.is_file():
            write_json(counted, pixel_steps(config, options.data, ipc, options.device, options.budget))
        steps[ipc] = read_json(counted)
        judge = dataclasses.replace(config.evaluation, pixel_dm_steps=steps[ipc])
        rows += raycondense.evaluate(
            options.out / "artifact", options.test, config=judge, ipc=[ipc], train_data=options.data,
            device=options.device, store=options.out / "store", save=False,
        ).rows  # fmt: skip
    text = "\n".join([
        f"Budget {options.budget:g} s; ours took {fitted['seconds']:.0f} s. Preset {options.preset}"
        f"{' with ' + ', '.join(options.set) if options.set else ''}, seed {options.seed}; bank accounting, "
        f"{config.evaluation.students} students a row ({config.evaluation.protocol} protocol). Accuracy in % on "
        f"`{options.test.name}`.", "", table(rows, fitted, steps), *provenance(device=options.device),
    ])  # fmt: skip
    print(text)
    if options.report is not None:
        write_text(options.report, f"# Quality at equal time: {options.preset}\n\n{text}")


if __name__ == "__main__":
    try:
        main()
    except RaycondenseError as error:
        sys.exit(str(error))

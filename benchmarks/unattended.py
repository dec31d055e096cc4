"""Fill the time of a borrowed GPU: the measurements that wait for one, most valuable first, a few minutes at a time.

Each call works until ``--minutes`` are over and leaves everything in ``--out``; the next call goes on. A measurement is
a command of this folder that can itself be stopped and started again; one that fails is noted and passed over, and
one whose data is missing is left out::

    raycondense prepare 'cifar10/train-*.parquet' data/cifar10/train.beton --val-fraction 0.1
    raycondense prepare cifar10 data/cifar10/test.beton --split test
    python benchmarks/unattended.py --data data --out runs/gpu --minutes 9.5

``session.json`` holds what each measurement took and how it ended; tables are in ``<name>.md``, numbers in
``<name>/table.json``. ``--quick`` is a rehearsal at a size that a CPU does in minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from raycondense.storage import write_json

HERE = Path(__file__).parent
LEAST_SECONDS = 20
"""Less is left: no measurement is started."""
QUICK = ["evaluation.max_steps=20", "evaluation.students=2", "evaluation.width=16", "extractors.width=16",
         "extractors.pool_size=1", "extractors.train_steps=5", "initialise.steps=5", "condense.images=12800",
         "generator.width=16", "generator.max_width=32", "data.loader=resident"]  # fmt: skip


NO_DIM = ("--no-dim",)


class Measurement(NamedTuple):
    """One command."""

    name: str
    script: str
    data: str
    """Folder of ``train.beton`` and ``test.beton`` in ``--data``; empty where made-up images do."""
    arguments: list[str]


def plan(quick: bool) -> list[Measurement]:
    """All measurements, most valuable first."""
    budget = "40s" if quick else "3m"
    every = ["--set", "data.loader=resident", *(QUICK if quick else [])]

    def quality(name: str, data: str, preset: str, *ipc: int, more: Sequence[str] = (), **settings: Any) -> Measurement:
        banks = [str(number) for number in ipc]
        words = [f"{path.replace('__', '.')}={json.dumps(value)}" for path, value in settings.items()]
        return Measurement(
            name, "quality.py", data, ["--preset", preset, "--budget", budget, "--ipc", *banks, *more, *every, *words]
        )

    def ablations(name: str, data: str, preset: str, *names: str, seeds: int = 5) -> Measurement:
        studies = [f"{study}:{1 if quick else seeds}" for study in names]
        return Measurement(name, "ablations.py", data, ["--preset", preset, "--studies", *studies, *every])

    few = ["--repeats", "2"] if quick else []
    return [
        Measurement("device", "device.py", "", [*few, *(["--scale", "0.02", "--compile", "off"] if quick else [])]),
        Measurement("step", "step.py", "", [*few, *(["--classes", "2", "--real", "8"] if quick else [])]),
        Measurement("work", "work.py", "", [*few, *(["--studies", "2"] if quick else [])]),
        quality("cifar10-10", "cifar10", "cifar10", 10),
        quality("cifar10-1-50", "cifar10", "cifar10", 1, 50, more=NO_DIM),
        ablations("losses", "cifar10", "cifar10", "losses"),
        quality("cifar100-10", "cifar100", "cifar100", 10, more=NO_DIM),
        quality("imagenette-10", "imagenette", "imagenette", 10, more=NO_DIM, data__resolution=64),
        quality(
            "cifar10-bytes-10",
            "cifar10",
            "cifar10",
            10,
            more=("--accounting", "bytes"),
            evaluation__weights="int8",
            generator__width=16,
            generator__max_width=32,
            generator__class_dim=8,
            codebook__dim=32,
            codebook__ipc=[50],
        ),
        quality(
            "cifar10-soft-10",
            "cifar10",
            "cifar10",
            10,
            more=NO_DIM,
            evaluation__protocol="soft",
            evaluation__labels="soft",
            evaluation__optimizer="adamw",
            evaluation__lr=1e-3,
            evaluation__lr_schedule="cosine",
            evaluation__cutmix=1.0,
        ),
        quality("fashion_mnist", "fashion_mnist", "fashion_mnist", 1, 10, 50, more=NO_DIM),
        ablations("method", "cifar10", "cifar10", "pool", "matching", "ce", "start", "generator", seeds=3),
        ablations("sizes", "cifar10", "cifar10", "weights", "small", "shape", "bytes", seeds=3),
    ]


def carry_out(one: Measurement, data: Path, out: Path, seconds: float) -> tuple[str, float]:
    """Run a measurement for at most so many seconds: "done", "stopped" or "failed", and the seconds that it took."""
    train, test = data / one.data / "train.beton", data / one.data / "test.beton"
    table = str(out / f"{one.name}.md")
    places = ["--out", table]
    if one.data:
        places = ["--data", str(train), "--out", str(out / one.name), "--report", table]
    if one.script == "quality.py":
        places += ["--test", str(test)]
    begun = time.perf_counter()
    with (out / f"{one.name}.log").open("a", encoding="utf-8") as log:
        try:
            code = subprocess.run(
                [sys.executable, str(HERE / one.script), *one.arguments, *places],
                stdout=log, stderr=subprocess.STDOUT, timeout=seconds, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return "stopped", time.perf_counter() - begun
    return ("failed" if code else "done"), time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of folders of betons")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.5, help="after which this call ends")
    parser.add_argument("--only", nargs="+", default=[], help="names of measurements; by default all")
    parser.add_argument("--quick", action="store_true", help="a rehearsal of everything, with numbers of no value")
    options = parser.parse_args()
    known = plan(options.quick)
    for name in options.only:
        if name not in {one.name for one in known}:
            parser.error(f"--only: found {name!r}, valid: {', '.join(one.name for one in known)}")
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    session = options.out / "session.json"
    ended: dict[str, Any] = json.loads(session.read_text()) if session.is_file() else {}
    for one in known:
        if (options.only and one.name not in options.only) or ended.get(one.name, {}).get("state") in (
            "done",
            "failed",
        ):
            continue
        if one.data and not (options.data / one.data / "train.beton").is_file():
            print(f"{one.name}: left out, no {options.data / one.data / 'train.beton'}", flush=True)
            continue
        left = end - time.monotonic()
        if left < LEAST_SECONDS:
            break
        state, seconds = carry_out(one, options.data, options.out, left)
        before = ended.get(one.name, {}).get("seconds", 0.0)
        ended[one.name] = {"state": state, "seconds": round(before + seconds, 1)}
        write_json(session, ended)
        print(f"{one.name}: {state} after {before + seconds:.0f} s", flush=True)
    for file in sorted(options.out.glob("*.md")):
        print(f"\n{file.read_text(encoding='utf-8')}", flush=True)


if __name__ == "__main__":
    main()

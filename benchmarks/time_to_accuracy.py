"""Seconds from raw images to condensed ones that reach a fixed validation accuracy: ours against pixel DM.

Each method gets one budget after the other, from the shortest on, until students of its images reach the accuracy;
each budget is a run of its own, as learning rates fall towards its end. Counted are `prepare`, which both need, and
ours' whole training or pixel DM's steps; not the students that judge. The accuracy is on validation images, which are
cut from the training set::

    python benchmarks/time_to_accuracy.py --dataset ./cifar10 --preset cifar10_16 --ipc 10 --target 42 \\
        --budgets 10s 20s 40s 80s 160s --out runs/time --report docs/results/time-to-accuracy.md

Stopped at any time, the same command goes on. The device should be doing nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from equal_time import fit, once, pixel_steps, seconds_of
from guard import Row, keep
from paired import threads
from provenance import provenance
from settings import changes

import raycondense
from raycondense.api.fitting import resolve_for_data
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.errors import ConfigError, RaycondenseError
from raycondense.evaluation.methods import METHOD_NAMES, OURS
from raycondense.presets import get_preset

VAL_FRACTION = 0.1
PIXEL_DM = "pixel-dm"


class Run(NamedTuple):
    """One budget of one method."""

    seconds: float
    steps: int
    accuracy: float
    """In [0, 1]."""
    std: float


class Race:
    """The runs of one table.

    Args:
        options: the command line's.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.train = options.out / "train.beton"
        base = override(get_preset(options.preset), {
            "codebook.ipc": [options.ipc], "cluster.workers": 0, "evaluation.baselines": [],
            "evaluation.diagnostics": False, **changes(options.set),
        })  # fmt: skip
        self.prepare_seconds = once(
            options.out / "prepare.json", {"dataset": options.dataset}, functools.partial(self._prepare, base)
        )["seconds"]
        self.config = resolve_for_data(base, self.train)

    def _prepare(self, config: Config) -> dict[str, Any]:
        found = raycondense.prepare(
            self.options.dataset, self.train, resolution=config.data.resolution, val_fraction=VAL_FRACTION,
            overwrite=True,
        )  # fmt: skip
        return {"seconds": found.seconds}

    def ours(self, budget: float) -> Run | None:
        """Condense for ``budget`` seconds; None where initialisation alone takes longer."""
        out = self.options.out / f"ours-{budget:g}"
        try:
            fitted = fit(self.config, self.train, out, self.options.device, budget)
        except ConfigError as error:
            print(error, flush=True)
            return None
        return Run(fitted["seconds"], fitted["steps"], *self._judged(OURS, out / "artifact"))

    def pixel_dm(self, budget: float) -> Run:
        """As many steps of pixel DM as fit into ``budget`` seconds. An artefact of ours says where the images are."""
        options = self.options

        def count() -> dict[str, Any]:
            begun = time.perf_counter()
            steps = pixel_steps(self.config, self.train, options.ipc, 1, options.device, budget)
            return {"steps": steps, "probe": time.perf_counter() - begun}

        steps = int(once(options.out / f"pixel-dm-{budget:g}.json", {"budget": budget}, count)["steps"])
        artifact = next(options.out.glob("ours-*/artifact"))
        return Run(budget, steps, *self._judged(PIXEL_DM, artifact, pixel_dm_steps=steps))

    def _judged(self, method: str, artifact: Path, **settings: Any) -> tuple[float, float]:
        baselines = () if method == OURS else (method,)
        judge = dataclasses.replace(self.config.evaluation, baselines=baselines, **settings)
        found = raycondense.evaluate(
            artifact, self.options.out / "train-val.beton", config=judge, ipc=[self.options.ipc], train_data=self.train,
            device=self.options.device, store=self.options.out / "store", save=False,
        )  # fmt: skip
        row = next(row for row in found.rows if row.method == method)
        return row.accuracy, row.std or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="what `raycondense prepare` takes")
    parser.add_argument("--preset", default="cifar10_16")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--target", type=float, required=True, help="validation accuracy to reach, in %%")
    parser.add_argument("--budgets", type=seconds_of, nargs="+", required=True, help="ascending, such as 20s 1m")
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="settings, values as YAML")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True, help="folder of everything kept")
    parser.add_argument("--report", type=Path, help="write the table to this Markdown file as well")
    options = parser.parse_args()
    threads(options.threads)
    race = Race(options)
    lines = ["| method | budget | steps | accuracy |", "|---|---:|---:|---:|"]
    reached: dict[str, float] = {}
    for method, run in ((OURS, race.ours), (PIXEL_DM, race.pixel_dm)):
        for budget in options.budgets:
            found = run(budget)
            if found is None:
                continue
            total = race.prepare_seconds + found.seconds
            accuracy = f"{100 * found.accuracy:.1f} ± {100 * found.std:.1f}"
            lines.append(f"| {METHOD_NAMES[method]} | {total:.0f} s | {found.steps} | {accuracy} |")
            print(lines[-1], flush=True)
            if 100 * found.accuracy >= options.target:
                reached[method] = total
                break
    verdicts = [
        f"{METHOD_NAMES[method]} reaches {options.target:g} % "
        + (f"in {reached[method]:.0f} s." if method in reached else "in none of the budgets.")
        for method in (OURS, PIXEL_DM)
    ]
    rows = []
    if OURS in reached:
        ratio = reached.get(PIXEL_DM, race.prepare_seconds + options.budgets[-1]) / reached[OURS]
        verdicts.append(f"The ratio is {ratio:.1f}{'' if PIXEL_DM in reached else ' or more'}.")
        rows.append(Row(f"seconds to {options.target:g} %: pixel DM / ours", ratio, "higher"))
    judge = race.config.evaluation
    text = "\n".join([
        " ".join(verdicts), "",
        f"Preset {options.preset}, {options.ipc} images per class; mean ± standard deviation of {judge.students} "
        f"students on validation images. The first {race.prepare_seconds:.0f} s of every row are `prepare`.", "",
        *lines, *provenance(device=options.device, threads=options.threads),
    ])  # fmt: skip
    print(text)
    keep(options.report, "Time to a fixed accuracy", text, rows)


if __name__ == "__main__":
    try:
        main()
    except RaycondenseError as error:
        sys.exit(str(error))

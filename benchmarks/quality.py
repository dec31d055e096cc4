"""What images are worth at equal wall-clock time: ours against pixel DM, a DiM-style GAN, medoids and random images.

For every number of images per class each method has the budget once, with its initialisation: ours, pixel DM, pixel DM
with as many small images in the place of each as ours has (``codebook.factor``), and a GAN with logit matching in the
manner of DiM (which has it once for all banks). All rows are judged by the same students with the same recipe and
number of steps::

    python benchmarks/quality.py --dataset digits --budget 30s --out runs/quality/digits
    python benchmarks/quality.py --dataset ./cifar10 --preset cifar10_16 --budget 3m --out runs/quality/cifar10 \\
        --bank-set 50:codebook.factor=1 --report docs/results/quality-cifar10-16.md

``--dataset`` is what ``raycondense prepare`` takes: it is prepared once, at the preset's resolution, with a tenth of
each class cut off for validation. Or name betons with ``--data`` and ``--test``: to choose settings, a ``-val`` beton
as the test.

Stopped at any time, the same command goes on: a condensation that had not ended begins again (or its time would not
be one budget), students that had ended are kept. Ours is measured first, so the device should be doing nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from dim import NoiseStream, fit_dim, noise_bank
from equal_time import fit, once, pixel_steps, seconds_of
from paired import threads
from provenance import provenance
from safetensors.torch import load_file, save_file
from settings import changes

import raycondense
from raycondense.api.fitting import resolve_for_data
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.data.normalize import Normalize
from raycondense.data.sidecar import Sidecar
from raycondense.errors import RaycondenseError
from raycondense.evaluation.methods import METHOD_NAMES, OURS, SMALL
from raycondense.evaluation.score import score_on_test_split
from raycondense.evaluation.train import TrainingSet, train_student
from raycondense.models import Generator
from raycondense.presets import get_preset
from raycondense.seeds import derive_seed
from raycondense.storage import write_json, write_text

VAL_FRACTION = 0.1
BASELINES = ("random", "kmeans", "initial-codes")
ORDER = (OURS, "pixel-dm", "pixel-dm-small", "kmeans", "kmeans-small", "random", "initial-codes", "dim")
NAMES = METHOD_NAMES | {"dim": "GAN, logits matched"}
Cells = dict[tuple[str, str, int], tuple[float, float]]
"""(method, accounting, images per class) → mean accuracy in [0, 1] and standard deviation over students."""


class Benchmark:
    """The work of one table.

    Args:
        options: the command line's.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        fixed = {
            "seed": options.seed,
            "cluster.workers": 0,
            "evaluation.baselines": [],
            "evaluation.diagnostics": False,
        }
        self.base = override(get_preset(options.preset), {**changes(options.set), **fixed})
        self.test = Sidecar.load(options.test)
        self.train = Sidecar.load(options.data)
        self.cells: Cells = {}
        self.facts: list[dict[str, Any]] = []

    def config(self, ipc: int) -> Config:
        """Settings of the run with one bank of ``ipc`` images per class."""
        prefix = f"{ipc}:"
        own = changes([word.removeprefix(prefix) for word in self.options.bank_set if word.startswith(prefix)])
        images = {} if self.options.accounting == "bytes" else {"codebook.ipc": [ipc]}
        return resolve_for_data(override(self.base, {**images, **own}), self.options.data)

    def bank(self, ipc: int) -> None:
        """Condense for one number of images per class and judge all rows but the GAN's."""
        options, config = self.options, self.config(ipc)
        out = options.out / f"ipc-{ipc}"
        fitted = fit(config, options.data, out, options.device, options.budget)
        self.facts.append({"ipc": ipc, "factor": config.codebook.factor, **fitted})
        self._evaluate(out, config, ipc, accountings=(options.accounting,), baselines=BASELINES)
        if options.accounting == "bank":
            self._evaluate(out, config, ipc, accountings=("stream",))
        for method, factor in (("pixel-dm", 1), ("pixel-dm-small", config.codebook.factor)):
            if method == "pixel-dm" or factor > 1:
                steps = self._pixel_steps(out / f"{method}.json", config, ipc, factor)
                self.facts[-1][method] = steps
                extra = ("kmeans-small",) if method in SMALL else ()
                self._evaluate(
                    out,
                    config,
                    ipc,
                    accountings=(options.accounting,),
                    baselines=(method, *extra),
                    pixel_dm_steps=steps,
                )

    def _pixel_steps(self, file: Path, config: Config, ipc: int, factor: int) -> int:
        options = self.options

        def count() -> dict[str, Any]:
            return {"steps": pixel_steps(config, options.data, ipc, factor, options.device, options.budget)}

        return int(once(file, {"ipc": ipc, "factor": factor, "budget": options.budget}, count)["steps"])

    def _evaluate(self, out: Path, config: Config, ipc: int, **settings: Any) -> None:
        options, judge = self.options, dataclasses.replace(config.evaluation, **settings)
        found = raycondense.evaluate(
            out / "artifact", options.test, config=judge, ipc=[ipc], train_data=options.data, device=options.device,
            store=options.out / "store", save=False,
        )  # fmt: skip
        # With soft labels there is a row of hard ones beside ours: soft ones are a table of their own.
        for row in (row for row in found.rows if row.labels == judge.labels):
            self.cells[row.method, row.accounting, ipc] = (row.accuracy, row.std or 0.0)

    def gan(self) -> None:
        """Train the DiM-style generator and judge it as banks and as streams."""
        options, config = self.options, self.config(options_ipc := self.options.ipc[-1])
        out, weights = options.out / "dim", options.out / "dim" / "generator.safetensors"
        generator = Generator(
            config.generator, num_classes=self.train.num_classes, latent_dim=config.codebook.dim,
            resolution=config.data.resolution,
        ).to(options.device)  # fmt: skip

        def train() -> dict[str, Any]:
            made, facts = fit_dim(config, options.data, out / "run", options.device, options.budget)
            out.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.cpu() for name, tensor in made.state_dict().items()}, weights)
            return facts

        facts = once(out / "fit.json", {"budget": options.budget, "ipc": options_ipc}, train)
        self.facts.append({"dim": facts})
        generator.load_state_dict(load_file(weights, device=str(options.device)))
        dim, classes = config.codebook.dim, self.train.num_classes
        for ipc in options.ipc:
            bank = noise_bank(generator, dim, classes, ipc, seed=options.seed)
            stream = NoiseStream(generator, dim, classes, classes * ipc, seed=options.seed)
            sets: list[tuple[str, TrainingSet]] = [("bank", bank), ("stream", stream)]
            for accounting, images in sets:
                done = out / f"{accounting}-{ipc}.json"
                description = {"students": config.evaluation.students}
                mean, std = once(done, description, functools.partial(self._students, config, images))["accuracy"]
                self.cells["dim", accounting, ipc] = (mean, std)

    def _students(self, config: Config, images: TrainingSet) -> dict[str, Any]:
        accuracies = []
        normalize = Normalize(self.train.mean, self.train.std)
        for student in range(config.evaluation.students):
            trained = train_student(
                images, config.evaluation, architecture="convnet", num_classes=self.train.num_classes,
                normalize=normalize, seed=derive_seed("dim student", student), device=self.options.device,
            )  # fmt: skip
            score = score_on_test_split(
                trained.model, self.options.test, classes=self.test.classes, resolution=config.data.resolution,
                normalize=normalize, device=self.options.device, who="dim",
            )  # fmt: skip
            accuracies.append(score.accuracy)
        found = torch.tensor(accuracies, dtype=torch.float64)
        return {"accuracy": [float(found.mean()), float(found.std()) if len(found) > 1 else 0.0]}


def prepared(source: str, config: Config, folder: Path) -> tuple[Path, Path]:
    """Betons of the training images (a tenth is cut off beside it) and of the test images of ``source``."""
    betons = folder / "train.beton", folder / "test.beton"
    for beton, split, cut in zip(betons, ("train", "test"), (VAL_FRACTION, 0.0), strict=True):
        if not beton.is_file():
            beton.parent.mkdir(parents=True, exist_ok=True)
            raycondense.prepare(source, beton, resolution=config.data.resolution, split=split, val_fraction=cut)
    return betons


def table(cells: Cells, banks: Sequence[int]) -> list[str]:
    """Accuracy by method, accounting and images per class, and what ours has more in the same accounting."""
    heads = [f"IPC {ipc}" for ipc in banks] + [f"ours less it, IPC {ipc}" for ipc in banks]
    lines = [f"| method | accounting | {' | '.join(heads)} |", f"|---|---|{'---:|' * len(heads)}"]
    for accounting in ("bank", "bytes", "stream"):
        for method in ORDER:
            found = [cells.get((method, accounting, ipc)) for ipc in banks]
            if not any(found):
                continue
            texts = ["–" if cell is None else f"{100 * cell[0]:.1f} ± {100 * cell[1]:.1f}" for cell in found]
            for cell, ipc in zip(found, banks, strict=True):
                ours = cells.get((OURS, accounting, ipc))
                shown = cell is not None and ours is not None and method != OURS
                texts.append(f"{100 * (ours[0] - cell[0]):+.1f}" if shown and ours and cell else "")
            lines.append(f"| {NAMES[method]} | {accounting} | {' | '.join(texts)} |")
    return lines


def report(benchmark: Benchmark) -> str:
    """The table and what belongs to it, in Markdown."""
    options = benchmark.options
    judge = benchmark.base.evaluation
    work = []
    for fact in benchmark.facts:
        if "dim" in fact:
            work.append(f"GAN {fact['dim']['gan_steps']:.0f} steps, then {fact['dim']['steps']:.0f} of logits.")
            continue
        small = f", pixel DM small {fact['pixel-dm-small']}" if "pixel-dm-small" in fact else ""
        work.append(
            f"IPC {fact['ipc']} (codebook.factor {fact['factor']}): ours {fact['seconds']:.0f} s, "
            f"{fact['initialisation']:.0f} of them initialisation, {fact['steps']} steps; "
            f"pixel DM {fact.get('pixel-dm')} steps{small}."
        )
    chosen = [*options.set, *options.bank_set]
    preset = f"{options.preset}{' with ' + ', '.join(chosen) if chosen else ''}"
    recipe = (
        f"{judge.optimizer} {judge.lr:g} {judge.lr_schedule}, batch {judge.batch}, at most {judge.epochs} epochs and "
        f"{judge.max_steps or 'any number of'} steps, {judge.labels} labels, ConvNet of width {judge.width}"
    )
    heading = (
        f"Budget {options.budget:g} s a row. Preset {preset}, seed {options.seed}. Accuracy in % on the "
        f"{benchmark.test.num_images} images of `{options.test.name}` (split {benchmark.test.split}), mean ± standard "
        f"deviation of {judge.students} students ({recipe}; the same for all rows)."
    )
    notes = [f"- {line}" for line in work]
    lines = [
        heading,
        "",
        *table(benchmark.cells, options.ipc),
        "",
        *notes,
        *provenance(device=options.device, threads=options.threads),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset", help="what `raycondense prepare` takes: a name, folder, npz file or Parquet shards"
    )
    parser.add_argument("--preset", help="by default the one named like --dataset")
    parser.add_argument("--data", type=Path, help="beton of the training images, instead of --dataset")
    parser.add_argument("--test", type=Path, help="beton that students are scored on, with --data")
    parser.add_argument("--budget", type=seconds_of, default=600.0, help="wall-clock time of a row, such as 90s or 10m")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="settings, values as YAML")
    parser.add_argument(
        "--bank-set", nargs="*", default=[], metavar="IPC:PATH=VALUE", help="settings of one bank's run"
    )
    parser.add_argument(
        "--accounting", choices=("bank", "bytes"), default="bank",
        help="bytes: ours is the largest bank that takes no more than so many uint8 images, with evaluation.weights",
    )  # fmt: skip
    parser.add_argument("--no-dim", action="store_true", help="leave the GAN out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True, help="folder of the artefacts and of what students found")
    parser.add_argument("--report", type=Path, help="write the table to this Markdown file as well")
    options = parser.parse_args()
    if (options.dataset is None) == (options.data is None) or (options.data is None) != (options.test is None):
        parser.error("name --dataset, or --data and --test")
    threads(options.threads)
    options.preset = options.preset or options.dataset or parser.error("--data goes with --preset")
    if options.dataset is not None:
        options.data, options.test = prepared(options.dataset, get_preset(options.preset), options.out / "data")
    benchmark = Benchmark(options)
    for ipc in options.ipc:
        benchmark.bank(ipc)
        print("\n".join(table(benchmark.cells, [ipc])), flush=True)
    if not options.no_dim and options.accounting == "bank":
        benchmark.gan()
    text = report(benchmark)
    print(text)
    cells = [dict(zip(("method", "accounting", "ipc", "accuracy", "std"), (*k, *v), strict=True))
             for k, v in benchmark.cells.items()]  # fmt: skip
    write_json(options.out / "table.json", {"cells": cells, "facts": benchmark.facts})
    if options.report is not None:
        write_text(options.report, f"# Quality at equal time: {options.preset}\n\n{text}")


if __name__ == "__main__":
    try:
        main()
    except RaycondenseError as error:
        sys.exit(str(error))

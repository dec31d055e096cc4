"""What each part of the method brings: one table a question, every variant paired with the preset by seed.

Students are scored on the validation images beside ``--data``, so that choices made by these tables touch no test
split. Runs that share initialisation or condensation share it here too; stopped at any time, the same command goes on::

    raycondense prepare 'cifar10/train-*.parquet' c16/train.beton --resolution 16 --val-fraction 0.1
    python benchmarks/ablations.py --preset cifar10_16 --data c16/train.beton --out runs/ablations \\
        --studies losses:5 pool:3 start:3 --report docs/results/ablations.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from paired import Record, Runner, paired_table, threads
from provenance import provenance
from selecting import select_judge
from settings import changes

from raycondense.api.fitting import resolve_for_data
from raycondense.artifact.rounding import rounded_bytes
from raycondense.artifact.sizes import format_bytes
from raycondense.config import Config, GeneratorConfig
from raycondense.configfile import override
from raycondense.errors import RaycondenseError
from raycondense.presets import get_preset
from raycondense.storage import write_text

BASE = "preset"
Changes = dict[str, Any]


class Study(NamedTuple):
    """One question."""

    question: str
    variants: dict[str, Changes]
    """Row → what it changes in the preset; the preset itself is a row of every study."""


def studies(config: Config) -> dict[str, Study]:
    """All questions, for variants around ``config``."""
    losses, generator, (ipc,) = config.losses, config.generator, config.codebook.ipc
    paper = {
        "losses.intra": losses.intra or 3.0,
        "losses.inter": losses.inter or 3.0,
    }
    neither = dict.fromkeys(paper, 0.0)
    plain = {"losses.regression": 0.0}
    return {
        "losses": Study(
            f"The paper's two losses, λ_intra = {paper['losses.intra']:g} and λ_inter = {paper['losses.inter']:g}, and "
            "the feature regression",
            {
                "neither": plain | neither,
                "intra": plain | paper | {"losses.inter": 0.0},
                "inter": plain | paper | {"losses.intra": 0.0},
                "both": plain | paper,
                "regression and both": paper,
            },
        ),
        "regression": Study(
            "Feature regression: weight and ridge",
            {
                f"weight {times * losses.regression:g}, ridge {ridge:g}": {
                    "losses.regression": times * losses.regression, "losses.regression_ridge": ridge,
                }
                for times, ridge in ((1.0, losses.regression_ridge / 10), (0.3, losses.regression_ridge),
                                     (3.0, losses.regression_ridge))
            },
        ),
        "precision": Study(
            "Number format, and networks compiled",
            {
                "float32": {"condense.precision": "float32"},
                "bfloat16": {"condense.precision": "bfloat16"},
                "compiled": {"condense.compile": "on"},
            },
        ),
        "factor": Study(
            "Images in the place of one (multi-formation)",
            {f"factor {factor}": {"codebook.factor": factor} for factor in (1, 2)},
        ),
        "pool": Study(
            "Feature extractors",
            {
                "random": {"extractors.weights": "random", "losses.ce": 0.0},
                "trained": {"extractors.weights": "trained"},
                "blend, no cross-entropy": {"losses.ce": 0.0},
                "blend of 1": {"extractors.pool_size": 1},
                "blend of 6": {"extractors.pool_size": 6},
                "a quarter of the training": {"extractors.train_steps": max(1, config.extractors.train_steps // 4)},
            },
        ),
        "matching": Study(
            "Matching form",
            {
                "characteristic functions, weight 300": {
                    "losses.matching": "characteristic", "losses.matching_weight": 300.0, "losses.inter": 0.0,
                },
                "none but cross-entropy": {"losses.matching_weight": 0.0},
            },
        ),
        "ce": Study("Weight of the cross-entropy", {f"{ce:g}": {"losses.ce": ce} for ce in (0.0, 0.5, 5.0)}),
        "start": Study(
            "Initialisation",
            {
                "none": {"initialise.method": "none"},
                "gan": {"initialise.method": "gan"},
                "a quarter of the steps": {"initialise.steps": max(1, config.initialise.steps // 4)},
            },
        ),
        "generator": Study(
            "Training of the generator",
            {
                "frozen generator": {"condense.lr_generator": 0.0},
                "frozen codes": {"condense.lr_codebook": 0.0},
                "generator 4 times faster": {"condense.lr_generator": 4 * config.condense.lr_generator},
                "generator 4 times slower": {"condense.lr_generator": config.condense.lr_generator / 4},
                "no running mean": {"condense.ema_images": 0},
            },
        ),
        "shape": Study(
            "Width of the generator against numbers of a code",
            {
                "half the width": _widths(generator, 0.5),
                "twice the width": _widths(generator, 2),
                "half the width, codes 4 times longer": {
                    **_widths(generator, 0.5), "codebook.dim": 4 * config.codebook.dim,
                },
            },
        ),
        "bytes": Study(
            f"Codes per class against width, all in the bytes of {ipc} images per class (int8)",
            {
                f"width {width}, codes of {dim}": found
                for width, dim in ((8, 32), (16, 16), (16, 32), (20, 32))
                if (found := _within(config, ipc, width, dim))
            },
        ),
        "weights": Study(
            "How weights are stored", {kind: {"evaluation.weights": kind} for kind in ("float16", "int8")}
        ),
        "small": Study(
            "Smaller generators, float16",
            {
                f"width {width}": {
                    "generator.width": width, "generator.max_width": 2 * width, "codebook.dim": dim,
                    "evaluation.weights": "float16",
                }
                for width, dim in ((32, 32), (16, 32), (8, 32))
            },
        ),
        "students": Study(
            "Student recipe",
            {
                "sgd": {"evaluation.optimizer": "sgd", "evaluation.lr": 0.01, "evaluation.lr_schedule": "step"},
                "with CutMix": {"evaluation.cutmix": 0.5},
                "three times the steps": {"evaluation.max_steps": 3 * config.evaluation.max_steps},
            },
        ),
        "select": Study(
            "Over-generate, then keep the best by teacher agreement and k-center coverage",
            {
                f"{times} times as many": {
                    "codebook.ipc": [times * ipc], "condense.codes_per_step": config.codebook.images_per_class(ipc),
                }
                for times in (2, 4)
            },
        ),
    }  # fmt: skip


def _within(config: Config, ipc: int, width: int, dim: int) -> Changes | None:
    """A smaller generator with as many codes as fit into ``ipc`` uint8 images a class; None for too few."""
    budget = ipc * config.data.num_classes * 3 * config.data.resolution**2
    changed: Changes = {
        "generator": {"width": width, "max_width": 2 * width, "class_dim": 8}, "codebook.dim": dim,
        "evaluation.weights": "int8", "condense.codes_per_step": 4 * ipc,
    }  # fmt: skip
    fitting = [
        bank for bank in range(1, 200)
        if rounded_bytes(override(config, {**changed, "codebook.ipc": [bank]}), "int8", bank) <= budget
    ]  # fmt: skip
    return {**changed, "codebook.ipc": [max(fitting)]} if fitting and max(fitting) >= ipc else None


def _widths(generator: GeneratorConfig, factor: float) -> Changes:
    return {
        "generator.width": int(factor * generator.width), "generator.max_width": int(factor * generator.max_width)
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--data", type=Path, required=True, help="train beton, its -val beside it")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="settings, values as YAML")
    parser.add_argument(
        "--studies",
        nargs="+",
        metavar="NAME[:SEEDS]",
        default=[],
        help="and with how many seeds; by default all, with 3",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--report", type=Path, help="write all tables to this Markdown file as well")
    options = parser.parse_args()
    threads(options.threads)
    fixed = {"codebook.ipc": [options.ipc], "cluster.workers": 0}
    base = resolve_for_data(override(get_preset(options.preset), {**changes(options.set), **fixed}), options.data)
    known = studies(base)
    wanted: dict[str, int] = {}
    for word in options.studies or known:
        name, _, seeds = word.partition(":")
        if name not in known or not (seeds or "3").isdecimal():
            parser.error(f"--studies: found {word!r}, valid: {', '.join(known)}, and :5 behind it for 5 seeds")
        wanted[name] = int(seeds or 3)
    runner = Runner(options.data, options.out, options.device)
    selecting = Runner(
        options.data, options.out, options.device, select_judge(options.data, options.ipc, options.device)
    )
    found: dict[str, list[Record]] = {}
    for seed in range(max(wanted.values())):
        for name in (name for name, seeds in wanted.items() if seed < seeds):
            rows = {BASE: {}, **known[name].variants}
            for variant, changed in rows.items():
                chosen = selecting if name == "select" and changed else runner
                config = override(override(base, changed), {"seed": seed})
                found.setdefault(name, []).append(chosen.run(name, variant, config))
            print(f"{known[name].question}\n" + "\n".join(paired_table(found[name], BASE)), flush=True)
    text = "\n".join(_section(known[name], records, base) for name, records in found.items())
    judge = base.evaluation
    text = "\n".join([
        f"Preset {options.preset}{' with ' + ', '.join(options.set) if options.set else ''}, IPC {options.ipc}, "
        f"`{options.data.parent.name}`; validation accuracy of {judge.students} students a run ({judge.optimizer} "
        f"{judge.lr:g}, {judge.max_steps} steps, width {judge.width}). *less preset*: paired by seed, ± half of the "
        "95 % confidence interval over seeds.", "", text,
        *provenance(device=options.device, threads=options.threads),
    ])  # fmt: skip
    if options.report is not None:
        write_text(options.report, f"# Ablations\n\n{text}")


def _section(study: Study, records: list[Record], base: Config) -> str:
    lines = [f"## {study.question}", "", *paired_table(records, BASE)]
    sizes = {
        name: format_bytes(rounded_bytes(one := override(base, changed), one.evaluation.weights))
        for name, changed in {BASE: {}, **study.variants}.items()
    }
    if len(set(sizes.values())) > 1:
        lines += ["", "Sizes: " + ", ".join(f"{name} {size}" for name, size in sizes.items()) + "."]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    try:
        main()
    except RaycondenseError as error:
        sys.exit(str(error))

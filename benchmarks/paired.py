"""Variants of a configuration, paired by seed: runs that share what they have in common, and a table of differences.

Two runs with the same initialisation (extractor pool, reconstruction) take it from the same checkpoint, two with the
same condensation share the artefact, so a study costs little more than what differs. Everything is kept in ``out`` and
nothing is done twice: stopped at any time, the same call goes on.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from raycondense import condense
from raycondense.config import Config
from raycondense.configfile import config_to_dict
from raycondense.evaluation.run import evaluate
from raycondense.evaluation.work import content_hash
from raycondense.host import LocalHost
from raycondense.publish import publish
from raycondense.storage import append_line, read_lines

Record = dict[str, Any]
INITIALISATION = ("seed", "data", "generator", "codebook", "extractors", "augment", "initialise")
"""Parts of a configuration that say where a condensation starts."""
CONFIDENCE = 0.95
Judge = Callable[[Path, Config], float]
"""(artefact's folder, configuration) → accuracy in [0, 1]."""


class Runner:
    """Runs configurations and keeps what was found.

    Args:
        train: beton of the training images; its ``-val`` beton is beside it.
        out: folder of everything kept.
        device: where to compute.
        judge: None is the students of ``config.evaluation`` on the validation images.
    """

    def __init__(self, train: Path, out: Path, device: str = "cpu", judge: Judge | None = None) -> None:
        self._train, self._out, self._device = train, out, device
        self._judge = judge or self._students
        self._kept = out / "runs.jsonl"
        out.mkdir(parents=True, exist_ok=True)

    def records(self) -> list[Record]:
        """Everything that was found so far."""
        return [json.loads(line) for line in read_lines(self._kept)] if self._kept.exists() else []

    def run(
        self,
        study: str,
        variant: str,
        config: Config,
        *,
        changed: AbstractContextManager[Any] | None = None,
        label: str = "",
    ) -> Record:
        """The record of a variant, from an earlier call where there is one.

        Args:
            study: name of the table that it is for.
            variant: name of its row.
            config: what to run; its seed pairs it with the other variants.
            changed: inside of it the condensation behaves otherwise than ``config`` says.
            label: tells such a condensation from the plain one.
        """
        key = content_hash([config_to_dict(config), label, str(self._train)])
        for record in self.records():
            if (record["study"], record["variant"], record["key"]) == (study, variant, key):
                return record
        begun = time.perf_counter()
        artifact = self._artifact(config, changed or nullcontext(), label)
        found = {
            "study": study, "variant": variant, "seed": config.seed, "key": key,
            "accuracy": self._judge(artifact, config), "seconds": time.perf_counter() - begun,
        }  # fmt: skip
        append_line(self._kept, json.dumps(found))
        return found

    def _artifact(self, config: Config, changed: AbstractContextManager[Any], label: str) -> Path:
        values = config_to_dict(config)
        execution = [config.condense.precision, config.condense.compile]  # of the reconstruction too
        start = self._out / "starts" / content_hash([[values[name] for name in INITIALISATION], execution])[:16]
        whole = content_hash([{k: v for k, v in values.items() if k != "evaluation"}, label])
        artifact = self._out / "artifacts" / whole[:16] / "artifact"
        if artifact.is_dir():
            return artifact
        with tempfile.TemporaryDirectory() as temporary:
            host = LocalHost(Path(temporary), device=self._device, keep=100)
            checkpoints = Path(temporary) / "checkpoints"
            if start.exists():
                shutil.copytree(start, checkpoints)
            with changed:
                state = condense.run(config, self._train, host)
            if not start.exists():
                # A configuration without initialisation has no such checkpoint, and nothing to share.
                for path in checkpoints.glob("*-condense-000000000"):
                    shutil.copytree(path, start / path.name)
            publish(state, self._train, artifact)
        return artifact

    def _students(self, artifact: Path, config: Config) -> float:
        validation = self._train.with_name(f"{self._train.stem}-val.beton")
        judge = dataclasses.replace(config.evaluation, baselines=(), diagnostics=False)
        return evaluate(artifact, validation, config=judge, device=self._device).rows[0].accuracy


def paired_table(records: Iterable[Record], base: str, heading: str = "variant") -> list[str]:
    """Mean accuracy, and the difference to ``base`` of the same seeds with its 95 % confidence interval (Student)."""
    found: Mapping[tuple[str, int], float] = {(r["variant"], r["seed"]): 100 * r["accuracy"] for r in records}
    lines = [f"| {heading} | seeds | accuracy % | less {base} |", "|---|---:|---:|---:|"]
    for variant in dict.fromkeys(name for name, _ in found):
        seeds = [seed for name, seed in found if name == variant]
        gains = [found[variant, seed] - found[base, seed] for seed in seeds if (base, seed) in found]
        gain = f"{statistics.mean(gains):+.2f}{interval(gains)}" if gains and variant != base else ""
        mean = statistics.mean(found[variant, seed] for seed in seeds)
        lines.append(f"| {variant} | {len(seeds)} | {mean:.2f} | {gain} |")
    return lines


def interval(values: list[float]) -> str:
    """`` ± `` and half of the confidence interval of the mean; empty for a single value."""
    if len(values) < 2:
        return ""
    from scipy.stats import t

    quantile = float(t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1))
    return f" ± {quantile * statistics.stdev(values) / len(values) ** 0.5:.2f}"


def threads(number: int) -> None:
    """Use so many CPU threads; results of different numbers may differ in the last bits."""
    torch.set_num_threads(number)

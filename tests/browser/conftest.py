"""A real browser, and the report of a small run on digits to look at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from raycondense.artifact.format import PREVIEW
from raycondense.artifact.preview import contact_sheet, encode_png
from raycondense.artifact.save import save_artifact
from raycondense.config import CodebookConfig, Config, DataConfig, EvaluationConfig, GeneratorConfig
from raycondense.data.sidecar import Sidecar
from raycondense.evaluation.columns import DIAGNOSTICS
from raycondense.evaluation.methods import METHOD_NAMES
from raycondense.evaluation.result import Evaluation, Row
from raycondense.models import Codebook, Generator
from raycondense.report.html import write_report
from raycondense.report.sweep import write_sweep_report
from raycondense.testing.sweeps import made_sweep
from raycondense.tuning.records import Winner
from raycondense.tuning.result import rank

from .devtools import NAMES, Chromium, Tab, find_chromium

SWEEP_TRIALS = 36


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """Started once; tests that want it skip where there is none."""
    program = find_chromium()
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH")
    with Chromium(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def tab(chromium: Chromium) -> Iterator[Tab]:
    """A new page."""
    with chromium.tab() as page:
        yield page


@pytest.fixture(scope="session")
def report(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a report with every section; its folder's name needs quoting."""
    folder = tmp_path_factory.mktemp("reports") / "a run: #1 & <more>"
    folder.mkdir()
    config = Config(
        name="browser",
        data=DataConfig(resolution=8),
        generator=GeneratorConfig(width=8, max_width=8, class_dim=4),
        codebook=CodebookConfig(ipc=(1, 10), dim=4),
    )
    save_artifact(
        folder / "artifact",
        generator=Generator(config.generator, num_classes=10, latent_dim=4, resolution=8, seed=0),
        codebook=Codebook(config.codebook, 10, seed=0),
        config=config,
        sidecar=Sidecar.load(digits / "train.beton"),
    )
    records = [
        {"stage": stage, "images": i, "loss/match": 1 / (1 + i), "loss/intra": i % 3}
        for stage in ("reconstruct", "condense")
        for i in range(9)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return write_report(folder, evaluation=_evaluation(), train_data=digits / "train.beton").as_uri()


@pytest.fixture(scope="session")
def sweep_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of the page of a sweep with trials of every state; its folder's name needs quoting."""
    folder = made_sweep(tmp_path_factory.mktemp("sweeps") / "a sweep: #1 & <more>", trials=SWEEP_TRIALS)
    dice = torch.Generator().manual_seed(0)
    winners = []
    for place, trial in enumerate(rank(folder.trials(), ("accuracy",), 3), 1):
        artifact = folder.trial(trial.number) / "artifact"
        artifact.mkdir(parents=True)
        images = torch.randint(0, 256, (10, 10, 3, 8, 8), generator=dice, dtype=torch.uint8)
        (artifact / PREVIEW).write_bytes(encode_png(contact_sheet(images)))
        winners.append(Winner(trial.number, place, artifact))
    folder.write_winners(winners)
    return write_sweep_report(folder.path).as_uri()


def _evaluation() -> Evaluation:
    """Made-up numbers for every method, with every column."""
    architectures = ("convnet", "resnet18")
    rows = [
        Row(
            method=method, architecture=architecture, ipc=ipc, accuracy=0.3 + 0.06 * place + 0.002 * ipc, std=0.012,
            students=5, images=10 * ipc, bytes=1920 * (ipc or 120), steps=900, seconds=12.5, labels=labels,
            hlr=0.2, ior=0.1, lrs=0.3, ars=0.4, teacher_bytes=10**6 * (labels == "soft"),
        )
        for architecture in architectures
        for labels in ("hard", "soft")
        for place, method in enumerate(METHOD_NAMES)
        for ipc in ((1, 10, 50) if method != "whole" else (0,))
    ]  # fmt: skip
    diagnostics = [
        {"method": method, "ipc": ipc, "accounting": "bank", "reference": "r", **dict.fromkeys(DIAGNOSTICS, 0.5)}
        for ipc in (1, 10)
        for method in METHOD_NAMES
    ]
    return Evaluation(
        rows=tuple(rows),
        config=EvaluationConfig(architectures=architectures),
        artifact="x",
        test={"source": "digits", "split": "test", "sha256": "ab" * 32, "images": 450, "resolution": 8, "reads": 10},
        diagnostics=tuple(diagnostics),
        failures=({"label": "pixel DM", "error": "long_word_without_a_break_" * 9},),
    )

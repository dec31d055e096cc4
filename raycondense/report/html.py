"""``report.html``: a run on one page, in one file that can be sent around and opened without a network."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import Any

from raycondense.artifact.format import CONFIG
from raycondense.artifact.load import Artifact, load
from raycondense.artifact.sizes import format_bytes
from raycondense.display import duration
from raycondense.errors import RunError
from raycondense.evaluation.baselines import find_train_data
from raycondense.evaluation.columns import percent
from raycondense.evaluation.diagnostics import Embed
from raycondense.evaluation.methods import OURS
from raycondense.evaluation.protocols import protocol_label
from raycondense.evaluation.result import Evaluation
from raycondense.evaluation.scores import saved_scores
from raycondense.report.features import feature_space, random_features
from raycondense.report.figures import loss_figure
from raycondense.report.images import class_sheets
from raycondense.report.log import RunLog, read_log
from raycondense.report.markup import facts, note, picture, section
from raycondense.report.page import page, settings, tile_row
from raycondense.report.pictures import images_section, neighbours_section, plane_section
from raycondense.report.scores import accuracy_section, diagnostics_section, scores_section
from raycondense.storage import write_text

FILE = "report.html"
STAGES = {
    "pool": "training of the extractor pool",
    "gan": "GAN pre-training",
    "reconstruct": "reconstruction",
    "condense": "condensation",
}
UNTRAINED = "an untrained ConvNet of fixed random weights"


def write_report(
    run_folder: str | os.PathLike[str],
    *,
    evaluation: Evaluation | None = None,
    train_data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    embed: Embed | None = None,
) -> Path:
    """Write the report of a run, finished or not, and return where it is.

    It shows what there is: accuracies and scores, real beside generated images, nearest neighbours and the plane of
    features, losses, the recipe.

    Args:
        run_folder: folder of a run (``log.jsonl``, ``artifact/``), or an artefact's own folder.
        evaluation: accuracies to show; None takes the ones in the artefact's ``scores.json``.
        train_data: beton of the training images; None takes the one in the run's ``run.json``, and where that is gone
            the report shows generated images alone.
        out: where to write; by default ``report.html`` in ``run_folder``.
        embed: features of the trained reference network, for neighbours and the plane: uint8 images [N, 3, R, R] to
            [N, d]; None takes an untrained network's, and the page says so.

    Raises:
        RunError: the folder is not of a run or an artefact, or the disk is full.
        ArtifactError: the artefact is damaged.
        DataError: ``train_data`` cannot be used.
    """
    folder = Path(run_folder)
    place = folder if (folder / CONFIG).is_file() else folder / "artifact"
    artifact = load(place) if (place / CONFIG).is_file() else None
    log = read_log(folder / "log.jsonl")
    if artifact is None and not log.stages:
        raise RunError(f"{folder}: found neither log.jsonl nor an artefact, valid: a run's folder or an artefact's")
    sections = []
    if artifact is not None:
        evaluation = evaluation or saved_scores(artifact)
        train = Path(train_data) if train_data is not None else find_train_data(artifact)
        sections += [accuracy_section(evaluation), scores_section(evaluation)]
        sections.append(diagnostics_section(() if evaluation is None else evaluation.diagnostics))
        sections.append(images_section(class_sheets(artifact, train), artifact))
        if train is not None:
            space = feature_space(artifact, train, embed or random_features(artifact))
            seen_through = UNTRAINED if embed is None else _reference(evaluation)
            sections += [neighbours_section(space, seen_through), plane_section(space, seen_through)]
    sections.append(_losses(log))
    if artifact is not None:
        sections.append(_recipe(artifact, evaluation))
    title = folder.absolute().name
    body = page(title, _subtitle(artifact, log), _tiles(artifact, evaluation), sections)
    path = Path(out) if out is not None else folder / FILE
    write_text(path, body)
    return path


def _reference(evaluation: Evaluation | None) -> str:
    kind = "" if evaluation is None else f" ({evaluation.config.reference}, trained on all real images)"
    return f"the reference network{kind}"


def _subtitle(artifact: Artifact | None, log: RunLog) -> str:
    if artifact is None:
        stage = list(log.stages)[-1]
        last = log.stages[stage][-1]
        total = f" of {last['total']:,}" if isinstance(last.get("total"), int) else ""
        return f"not finished: {STAGES.get(stage, stage)}, {last['images']:,}{total} images seen"
    data = artifact.recipe.get("data", {})
    counts = data.get("counts", [])
    source = f", condensed from {sum(counts):,} images of {data.get('source', '?')}" if counts else ""
    return f"{artifact.num_classes} classes at {artifact.resolution} px{source}"


def _tiles(artifact: Artifact | None, evaluation: Evaluation | None) -> str:
    if artifact is None:
        return ""
    banks = ", ".join(map(str, artifact.ipcs))
    tiles = [
        ("artefact", format_bytes(artifact.bytes), f"{artifact.num_parameters:,} parameters"),
        ("images per class", banks, f"weighs {artifact.ipc_equivalent:.2g} IPC in floats"),
    ]
    counts = artifact.recipe.get("data", {}).get("counts")
    if counts:
        pixels = sum(counts) * 3 * artifact.resolution**2
        tiles.append(
            (
                "smaller than data",
                f"{pixels / artifact.bytes:,.{0 if pixels > 10 * artifact.bytes else 1}f}×",
                f"{format_bytes(pixels)} of pixels",
            )
        )
    ours = [] if evaluation is None else [row for row in evaluation.rows if row.method == OURS]
    if ours:
        best = max(ours, key=lambda row: (row.architecture == ours[0].architecture, row.augmented, row.ipc))
        told = f"{best.architecture}, IPC {best.ipc}, {best.accounting}"
        tiles.insert(0, ("accuracy %", percent(best.accuracy, best.std), told))
    return tile_row(tiles)


def _losses(log: RunLog) -> str:
    curves = log.curves()
    if not curves:
        return section("Losses", "<p>No losses were logged (no <code>log.jsonl</code> in the folder).</p>")
    parts = []
    for stage in dict.fromkeys(curve.stage for curve in curves):
        figures = "".join(picture(loss_figure(curve)) for curve in curves if curve.stage == stage)
        parts.append(f'<h3>{escape(STAGES.get(stage, stage))}</h3><div class="figures">{figures}</div>')
    if log.damaged:
        parts.append(note(f"{log.damaged} damaged lines of log.jsonl were left out."))
    return section("Losses", "".join(parts))


def _recipe(artifact: Artifact, evaluation: Evaluation | None) -> str:
    recipe = artifact.recipe
    data = recipe.get("data", {})
    versions = ", ".join(f"{name} {version}" for name, version in recipe.get("versions", {}).items() if version)
    known: dict[str, Any] = {
        "preset": recipe.get("config", {}).get("name"),
        "seed": recipe.get("seeds", {}).get("condense"),
        "data": f"{data.get('source', '?')} ({data.get('split', '?')})" if data else None,
        "data SHA-256": data.get("sha256"),
        "revision": recipe.get("git_revision"),
        "versions": versions or None,
    }
    parts = ["<h3>Condensation</h3>", facts(known), settings("all settings", recipe.get("config", {}))]
    if evaluation is not None:
        parts += ["<h3>Evaluation</h3>", facts(_circumstances(evaluation))]
        parts.append(settings("all settings of the protocol", evaluation.to_dict()["config"]))
    return section("Recipe", "".join(parts))


def _circumstances(evaluation: Evaluation) -> dict[str, Any]:
    """What the students were trained on and with, as their results tell."""

    def told(name: str) -> str | None:
        values = dict.fromkeys(str(result[name]) for result in evaluation.results if result.get(name))
        return ", ".join(values) or None

    seconds = sum(result.get("seconds", 0.0) for result in evaluation.results)
    test = evaluation.test
    return {
        "protocol": protocol_label(evaluation.config),
        "scored on": f"{test['images']:,} images of {test['source']} ({test['split']})",
        "test SHA-256": test["sha256"],
        "students": f"{len(evaluation.results):,}, {duration(seconds)} in all" if evaluation.results else None,
        "device": told("device"),
        "torch": told("torch"),
        "raycondense": told("raycondense"),
    }

"""``report.html``: a run on one page, in one file that can be sent around and opened without a network."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from raycondense.artifact.format import CONFIG
from raycondense.artifact.load import Artifact, load
from raycondense.artifact.sizes import format_bytes
from raycondense.errors import RunError
from raycondense.evaluation.baselines import find_train_data
from raycondense.evaluation.result import OURS, Evaluation, Row, percent
from raycondense.evaluation.scores import saved_scores
from raycondense.report.figures import Figure, accuracy_figure, loss_figure
from raycondense.report.images import ClassSheet, class_sheets
from raycondense.report.log import RunLog, read_log
from raycondense.report.style import CSS
from raycondense.storage import write_text

FILE = "report.html"
STAGES = {
    "pool": "training of the extractor pool",
    "gan": "GAN pre-training",
    "reconstruct": "reconstruction",
    "condense": "condensation",
}
# The page may not fetch or run anything, whatever a class name or a path holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(
    run_folder: str | os.PathLike[str],
    *,
    evaluation: Evaluation | None = None,
    train_data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the report of a run, finished or not, and return where it is.

    It shows what there is: accuracies, real beside generated images, losses, the recipe.

    Args:
        run_folder: folder of a run (``log.jsonl``, ``artifact/``), or an artefact's own folder.
        evaluation: accuracies to show; None takes the ones in the artefact's ``scores.json``.
        train_data: beton of the training images; None takes the one in the run's ``run.json``, and where that is gone
            the report shows generated images alone.
        out: where to write; by default ``report.html`` in ``run_folder``.

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
        sections = [_accuracy(evaluation), _images(class_sheets(artifact, train), artifact)]
    sections.append(_losses(log))
    if artifact is not None:
        sections.append(_recipe(artifact))
    title = folder.absolute().name
    page = _page(title, _subtitle(artifact, log), _tiles(artifact, evaluation), sections)
    path = Path(out) if out is not None else folder / FILE
    write_text(path, page)
    return path


def _page(title: str, subtitle: str, tiles: str, sections: Iterable[str]) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)} – raycondense</title>
<style>{CSS}</style>
</head>
<body>
<main>
<header>
<h1>{escape(title)}</h1>
<p>{escape(subtitle)}</p>
{tiles}
</header>
{"".join(sections)}
<footer>Written by raycondense. Nothing on this page is fetched from anywhere.</footer>
</main>
</body>
</html>
"""


def _section(heading: str, body: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n{body}\n</section>\n"


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
        best = max(ours, key=lambda row: (row.architecture == ours[0].architecture, row.ipc))
        note = f"{best.architecture}, IPC {best.ipc}, {best.accounting}"
        tiles.insert(0, ("accuracy %", percent(best.accuracy, best.std), note))
    cells = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def _accuracy(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return _section("Accuracy", "<p>Not evaluated yet: <code>raycondense evaluate</code> fills this in.</p>")
    rows = evaluation.rows
    figures = [accuracy_figure([row for row in rows if row.architecture == name]) for name in _architectures(rows)]
    notes = "".join(f"<li>{escape(note)}</li>" for note in evaluation.notes)
    return _section(
        "Accuracy",
        f'{_score_table(rows)}\n<ul class="notes">{notes}</ul>\n'
        f'<h3>Per architecture</h3><div class="figures wide">{"".join(map(_picture, figures))}</div>',
    )


def _architectures(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.architecture for row in rows))


def _score_table(rows: Sequence[Row]) -> str:
    text = ("method", "student", "accounting")
    head = ("method", "accuracy %", "IPC", "student", "images", "size", "students", "accounting")
    cells = "".join(f'<th scope="col"{_number(name not in text)}>{name}</th>' for name in head)
    lines = []
    for row in rows:
        values = (
            row.method, percent(row.accuracy, row.std), str(row.ipc or "–"), row.architecture, f"{row.images:,}",
            format_bytes(row.bytes), str(row.students), row.accounting,
        )  # fmt: skip
        line = "".join(
            f"<td{_number(name not in text)}>{escape(value)}</td>" for name, value in zip(head, values, strict=True)
        )
        lines.append(('<tr class="ours">' if row.method == OURS else "<tr>") + line + "</tr>")
    region = '<div class="scroll" tabindex="0" role="region" aria-label="Table of accuracies">'
    return f"{region}<table><thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


def _number(number: bool) -> str:
    return ' class="number"' if number else ""


def _images(sheets: Sequence[ClassSheet], artifact: Artifact) -> str:
    some = f" {len(sheets)} of {artifact.num_classes} classes are shown." if len(sheets) < artifact.num_classes else ""
    real = "" if sheets[0].real else " The training images are not at hand, so no real images are shown beside them."
    intro = f'<p class="notes">The first images of the bank with {artifact.ipcs[-1]} images per class.{some}{real}</p>'
    blocks = []
    for sheet in sheets:
        kinds = (("real", sheet.real), ("generated", sheet.generated))
        strips = "".join(_strip(kind, pngs, sheet.name) for kind, pngs in kinds if pngs)
        blocks.append(f'<div class="class"><h3>{escape(sheet.name)}</h3><div class="pair">{strips}</div></div>')
    return _section("Images", intro + "".join(blocks))


def _strip(kind: str, pngs: Sequence[bytes], name: str) -> str:
    images = "".join(
        f'<img src="{_data("image/png", png)}" alt="{escape(f"{kind} image {i} of class {name}")}">'
        for i, png in enumerate(pngs, 1)
    )
    # At least five columns, so that a bank of one image is not shown as large as the page.
    return f'<div><p>{kind}</p><div class="strip" style="--columns: {max(len(pngs), 5)}">{images}</div></div>'


def _losses(log: RunLog) -> str:
    curves = log.curves()
    if not curves:
        return _section("Losses", "<p>No losses were logged (no <code>log.jsonl</code> in the folder).</p>")
    parts = []
    for stage in dict.fromkeys(curve.stage for curve in curves):
        figures = "".join(_picture(loss_figure(curve)) for curve in curves if curve.stage == stage)
        parts.append(f'<h3>{escape(STAGES.get(stage, stage))}</h3><div class="figures">{figures}</div>')
    if log.damaged:
        parts.append(f'<p class="notes">{log.damaged} damaged lines of log.jsonl were left out.</p>')
    return _section("Losses", "".join(parts))


def _recipe(artifact: Artifact) -> str:
    recipe = artifact.recipe
    data = recipe.get("data", {})
    versions = ", ".join(f"{name} {version}" for name, version in recipe.get("versions", {}).items() if version)
    facts: dict[str, Any] = {
        "preset": recipe.get("config", {}).get("name"),
        "seed": recipe.get("seeds", {}).get("condense"),
        "data": f"{data.get('source', '?')} ({data.get('split', '?')})" if data else None,
        "data SHA-256": data.get("sha256"),
        "revision": recipe.get("git_revision"),
        "versions": versions or None,
    }
    told = "".join(f"<dt>{k}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items() if v is not None)
    settings = json.dumps(recipe.get("config", {}), indent=2, ensure_ascii=False)
    return _section(
        "Recipe",
        f'<dl class="facts">{told}</dl><details><summary>all settings</summary><pre>{escape(settings)}</pre></details>',
    )


def _picture(figure: Figure) -> str:
    """A figure that follows the reader's light or dark setting."""
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{_data("image/svg+xml", figure.dark)}">'
    light = f'<img src="{_data("image/svg+xml", figure.light)}" alt="{escape(figure.alt)}">'
    return f"<picture>{dark}{light}</picture>"


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"

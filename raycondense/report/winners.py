"""The winners of a sweep as a section of its page: what they look like, and what they are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raycondense.artifact.format import PREVIEW, WEIGHTS
from raycondense.evaluation.columns import percent
from raycondense.evaluation.methods import FROM_GENERATOR, METHOD_NAMES, OURS
from raycondense.report.markup import accuracy_cell, cell, line, note, png, row_head, section, table
from raycondense.storage import read_file
from raycondense.tuning.records import SweepFolder, TrialRecord, Winner

MOST_SHEETS = 6
MOST_PREVIEW_BYTES = 64 << 20
PNG = b"\x89PNG\r\n\x1a\n"


def winners_section(
    folder: SweepFolder, trials: Sequence[TrialRecord], winners: Sequence[Winner], own: int | None
) -> str:
    """Scores and contact sheets of the best trials; of those that the search leads with, where there are none yet.

    Args:
        folder: of the sweep; its store may hold what the evaluation found so far.
        trials: all.
        winners: the best first.
        own: number of the trial with the configuration's own values.
    """
    if not winners:
        return section("Winners", "<p>None yet: trials become winners at their last rung.</p>")
    places = {winner.trial: winner.artifact for winner in winners}
    artifacts = {trial.number: trial.artifact for trial in trials if trial.number == own and trial.artifact} | places
    body = _scores(folder, artifacts, {winner.trial: winner.rank for winner in winners}, own)
    accuracies = {trial.number: trial.accuracy for trial in trials}
    sheets = []
    for winner in winners[:MOST_SHEETS]:
        accuracy = accuracies.get(winner.trial)
        told = "" if accuracy is None else f" <small>{percent(accuracy)} % of validation images</small>"
        caption = f"<figcaption><strong>{winner.rank}. trial {winner.trial}</strong>{told}</figcaption>"
        try:
            content = _preview(winner.artifact)
        except (OSError, ValueError):
            sheets.append(f"<figure>{caption}<p>its artefact is gone</p></figure>")
            continue
        alt = f"contact sheet of trial {winner.trial}, winner {winner.rank}: a row of images a class"
        sheets.append(f"<figure>{caption}{png(content, alt)}</figure>")
    return section("Winners", f'{body}<h3>Contact sheets</h3><div class="sheets">{"".join(sheets)}</div>')


def _preview(artifact: Path) -> bytes:
    """The contact sheet of an artefact, and no file that a link calls so: the page may be sent around."""
    path = artifact / PREVIEW
    if path.is_symlink():
        raise ValueError(f"{path}: is a link")
    content = read_file(path, MOST_PREVIEW_BYTES)
    if not content.startswith(PNG):
        raise ValueError(f"{path}: is no PNG")
    return content


def _scores(
    folder: SweepFolder, artifacts: Mapping[int, Path], ranks: Mapping[int, int], own: int | None
) -> str:  # fmt: skip
    """What the pool has found so far by the full protocol."""
    from raycondense.data.sidecar import file_sha256
    from raycondense.evaluation.leaderboard import entries
    from raycondense.evaluation.schemas import to_rows
    from raycondense.evaluation.store import Store

    if not folder.store.is_dir():
        return note("Their evaluation by the full protocol has not begun.")
    found = entries(to_rows(Store(folder.store).tables["results"].read()))
    # Accountings and labels of other kinds stand in the leaderboard; here what all methods have.
    plain = [e for e in found if (e["accounting"], e["labels"], e["augmented"]) == ("bank", "hard", True)]
    if not plain:
        return note("Their evaluation by the full protocol has found nothing yet.")
    sources = {
        file_sha256(path / WEIGHTS): number for number, path in artifacts.items() if (path / WEIGHTS).is_file()
    }  # fmt: skip
    lines: dict[tuple[Any, ...], dict[tuple[str, int], str]] = {}
    for entry in plain:
        number = sources.get(entry["source_sha256"]) if entry["method"] in FROM_GENERATOR else None
        if entry["method"] in FROM_GENERATOR and number is None:
            continue  # a former winner, or another artefact of the same store
        rank = ranks.get(number, len(ranks) + 1) if number is not None else 0
        key = (list(METHOD_NAMES).index(entry["method"]), rank, entry["method"], number)
        lines.setdefault(key, {})[(entry["architecture"], entry["ipc"])] = percent(entry["accuracy"], entry["std"])
    columns = sorted({column for cells in lines.values() for column in cells if column[1]})
    body = []
    for (_, _, method, number), cells in sorted(lines.items(), key=lambda item: item[0][:2]):
        aside = "" if number is None else f"winner {ranks[number]}" if number in ranks else ""
        aside = ", ".join(text for text in (aside, "own" * (number is not None and number == own)) if text)
        name = f"trial {number}" if method == OURS else METHOD_NAMES[method]
        name += f", trial {number}" if method != OURS and number is not None else ""
        values = [cells.get(column) or cells.get((column[0], 0)) for column in columns]
        body.append(
            line(
                [row_head(name, aside), *(accuracy_cell(v) if v else cell("–") for v in values)],
                ours=method == OURS and number in ranks,
            )
        )
    head = [("", False), *((f"{architecture}, IPC {ipc}", True) for architecture, ipc in columns)]
    said = ", ".join(sorted({str(entry["split"]) for entry in plain}))
    protocols = ", ".join(sorted({str(entry["protocol"]) for entry in plain}))
    told = note(f"Accuracy in %, protocol {protocols}, split {said}: mean ± standard deviation over students.")
    return told + table("Scores of the winners", head, body)

"""``sweep.html``: a sweep on one page, finished or not, in one file that opens without a network."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from raycondense.artifact.sizes import format_bytes
from raycondense.display import duration
from raycondense.evaluation.columns import percent
from raycondense.report.markup import MISSING, cell, details, facts, line, note, plot, row_head, section, table
from raycondense.report.page import page, settings, tile_row
from raycondense.report.parameters import parameters_section
from raycondense.report.scales import OFF, UNUSED, shown
from raycondense.report.sweep_figures import (
    BROKEN,
    KINDS,
    front_of,
    history_figure,
    judged,
    pareto_figure,
    rungs_figure,
)
from raycondense.report.winners import winners_section
from raycondense.storage import write_text
from raycondense.tuning.parameter import Parameter
from raycondense.tuning.records import SweepFolder, TrialRecord, Winner
from raycondense.tuning.result import rank
from raycondense.tuning.space import Space

MOST_TRIALS = 10
"""Trials of the table that is seen at once."""
SEARCHES = {"tpe": "TPE", "random": "random", "cmaes": "CMA-ES", "nsga2": "NSGA-II", "nsga3": "NSGA-III"}
STYLE = """
td.words { white-space: normal; min-width: 8rem; overflow-wrap: anywhere; }
td.words small, tbody th small { display: block; }
tbody th small { white-space: nowrap; font-weight: 400; }
.plot { margin: 0; }
.plot h3 { margin: 0.25rem 0 0.4rem; }
.figures { align-items: start; }
.sheets { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: 1rem 1.5rem; }
.sheets figure { margin: 0; }
.sheets img { width: 100%; height: auto; display: block; border-radius: 6px; image-rendering: pixelated;
  background: #fff; }
.sheets figcaption { margin: 0 0 0.4rem; }
"""


class _Sweep(NamedTuple):
    """What was read of a sweep."""

    folder: SweepFolder
    told: Mapping[str, Any]
    """``sweep.json``."""
    space: Space
    trials: list[TrialRecord]
    winners: list[Winner]
    own: int | None
    """The trial with the configuration's own values."""

    @property
    def ranked(self) -> list[TrialRecord]:
        """The best first: those that saw all images, then others with an accuracy; last those that came to nothing."""
        whole = rank(self.trials, ("accuracy",))
        rest = [trial for trial in self.trials if trial.state not in BROKEN and trial not in whole]
        rest.sort(key=lambda trial: (trial.accuracy is None, -(trial.accuracy or 0.0), trial.number))
        return [*whole, *rest, *(trial for trial in self.trials if trial.state in BROKEN)]

    @property
    def ranks(self) -> dict[int, int]:
        """Trial → its rank, of winners."""
        return {winner.trial: winner.rank for winner in self.winners}


def write_sweep_report(folder: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the page of a sweep, finished or not, and return where it is.

    Args:
        folder: of a sweep (``sweep.json``, ``trials.jsonl``).
        out: where to write; by default ``sweep.html`` in ``folder``.

    Raises:
        ConfigError: there is no sweep in the folder, or its ``sweep.json`` is damaged.
        RunError: a record of a trial is damaged, or the disk is full.
        DataError: a file of the winners' results is damaged.
    """
    sweep = _read(SweepFolder(folder))
    sections = [_trials(sweep)]
    if judged(sweep.trials):
        sections += [_search(sweep), parameters_section(sweep.space, sweep.trials)]
    if "bytes" in sweep.space.objectives and any(trial.bytes for trial in judged(sweep.trials)):
        sections.append(_front(sweep))
    sections.append(winners_section(sweep.folder, sweep.trials, sweep.winners, sweep.own))
    sections.append(_configuration(sweep))
    path = sweep.folder.report if out is None else Path(out)
    write_text(path, page(sweep.folder.path.name, _subtitle(sweep), _tiles(sweep), sections, style=STYLE))
    return path


def _read(folder: SweepFolder) -> _Sweep:
    told, trials = folder.describe(), folder.trials()
    space = Space.from_dict(told.get("space", {}), source=f"{folder.path}/sweep.json")
    start = told.get("start")
    own = next((trial.number for trial in trials if start and dict(trial.values) == start), None)
    return _Sweep(
        folder,
        told,
        space,
        trials,
        folder.winners(),
        own,
    )


def _subtitle(sweep: _Sweep) -> str:
    kind, count = str(sweep.told.get("search", "")), len(sweep.space.parameters)
    planned, done = sweep.told.get("trials"), sum(trial.ended for trial in sweep.trials)
    preset = sweep.told.get("config", {}).get("name")
    return (
        f"{SEARCHES.get(kind, kind)} search over {count} parameter{'s' * (count != 1)}"
        f"{f' of {preset}' if preset else ''}, {done}{f' of {planned}' if planned else ''} trials done"
    )


def _tiles(sweep: _Sweep) -> str:
    known = judged(sweep.ranked)
    counts = Counter(trial.state for trial in sweep.trials)
    states = ", ".join(f"{counts[state]} {name}" for state, name in KINDS.items() if counts[state])
    tiles = []
    if known:
        best = known[0]
        aside = "" if best.state == "complete" else ", not at its last rung yet"
        tiles.append(("best accuracy %", percent(best.accuracy or 0.0), f"trial {best.number}, validation{aside}"))
        own = next((trial for trial in known if trial.number == sweep.own), None)
        if own is not None:
            gain = 100 * ((best.accuracy or 0.0) - (own.accuracy or 0.0))
            beaten = f"the best is {gain:.1f} points above" if own is not best else "none is better"
            moved = "".join(f"; {path} moved into the space" for path in _moved(sweep.told))
            tiles.append(
                ("configuration's own %", percent(own.accuracy or 0.0), f"trial {own.number}; {beaten}{moved}")
            )
    tiles.append(("trials", str(len(sweep.trials)), states or "none yet"))
    spent = sum(trial.seconds or 0.0 for trial in sweep.trials)
    images = sum(trial.images for trial in sweep.trials)
    tiles.append(("time of all trials", duration(spent), f"{images:,} real images seen"))
    return tile_row(tiles)


def _moved(told: Mapping[str, Any]) -> list[str]:
    """Parameters whose own value lies outside of the space, so that the first trial has another."""
    found = []
    for path, value in told.get("start", {}).items():
        own: Any = told.get("config", {})
        for name in path.split("."):
            own = own.get(name) if isinstance(own, Mapping) else None
        if own != value:
            found.append(path)
    return found


def _trials(sweep: _Sweep) -> str:
    ranked = sweep.ranked
    if not ranked:
        return section("Trials", "<p>No trial was started yet.</p>")
    judge = sweep.told.get("judge", {})
    protocol = f" (protocol {judge['name']})" if judge.get("name") else ""
    students = f"{judge['students']} {'/'.join(judge['architectures'])} students" if "students" in judge else "students"
    intro = note(
        f"The best first, by the accuracy of {students}{protocol} on validation images "
        " at the last rung that a trial reached. Winners are tinted; own: the configuration's own values."
    )
    parts = [intro, _table(sweep, ranked[:MOST_TRIALS], "The best trials")]
    if len(ranked) > MOST_TRIALS:
        parts.append(details(f"all {len(ranked)} trials", _table(sweep, ranked, "All trials")))
    return section("Trials", "".join(parts))


def _table(sweep: _Sweep, trials: Sequence[TrialRecord], label: str) -> str:
    sized = any(trial.bytes is not None for trial in trials)
    head = [("trial", False), ("accuracy %", True)]
    head += [(parameter.path, True) for parameter in sweep.space.parameters]
    head += [*([("size", True)] if sized else []), ("images", True), ("time", True), ("state", False)]
    lines = []
    for trial in trials:
        place = sweep.ranks.get(trial.number)
        aside = [f"winner {place}"] * (place is not None) + ["own"] * (trial.number == sweep.own)
        accuracy = MISSING if trial.accuracy is None or trial.state in BROKEN else percent(trial.accuracy)
        cells = [row_head(str(trial.number), ", ".join(aside)), cell(accuracy)]
        cells += [cell(_value(parameter, trial.values)) for parameter in sweep.space.parameters]
        cells += [cell(MISSING if trial.bytes is None else format_bytes(trial.bytes))] if sized else []
        cells += [cell(f"{trial.images:,}"), cell(MISSING if trial.seconds is None else duration(trial.seconds))]
        cells.append(_state(trial))
        lines.append(line(cells, ours=place is not None))
    return table(label, head, lines)


def _value(parameter: Parameter, values: Mapping[str, Any]) -> str:
    if parameter.path not in values:
        return UNUSED if values else MISSING
    value = values[parameter.path]
    return OFF if parameter.off is not None and value == 0 else shown(value)


def _words(text: str, small: str = "") -> str:
    """A cell of words, which may take several lines."""
    aside = f" <small>{escape(small)}</small>" if small else ""
    return f'<td class="words">{escape(text)}{aside}</td>'


def _state(trial: TrialRecord) -> str:
    return _words(KINDS.get(trial.state, trial.state), trial.reason or "")


def _search(sweep: _Sweep) -> str:
    best = [winner.trial for winner in sweep.winners] or [
        trial.number for trial in rank(sweep.trials, ("accuracy",), 3)
    ]
    rungs = sweep.told.get("rungs") or sorted({images for trial in sweep.trials for images, _ in trial.rungs})
    plots = [plot(history_figure(sweep.trials, sweep.own), "In the order of trials")]
    if any(trial.rungs for trial in sweep.trials):
        plots.append(plot(rungs_figure(sweep.trials, best[:6], rungs), "At rungs"))
    return section("Search", f'<div class="figures wide">{"".join(plots)}</div>')


def _front(sweep: _Sweep) -> str:
    intro = note("Trials on the line are better in accuracy than all that are smaller.")
    lines = [
        line([row_head(str(t.number)), cell(percent(t.accuracy or 0.0)), cell(format_bytes(t.bytes or 0)), _state(t)])
        for t in front_of(sweep.trials)
    ]
    head = [("trial", False), ("accuracy %", True), ("size", True), ("state", False)]
    body = f"{plot(pareto_figure(sweep.trials))}<div>{table('Trials of the Pareto front', head, lines)}</div>"
    return section("Accuracy against bytes", f'{intro}<div class="figures wide">{body}</div>')


def _configuration(sweep: _Sweep) -> str:
    told = sweep.told
    resources = told.get("resources", {}).get("trial")
    known = {
        "search": SEARCHES.get(str(told.get("search")), told.get("search")),
        "objectives": ", ".join(sweep.space.objectives),
        "seed": told.get("seed"),
        "rungs": ", ".join(f"{rung:,}" for rung in told.get("rungs", ())) or None,
        "a trial takes": ", ".join(f"{amount:g} {name}" for name, amount in (resources or {}).items()) or None,
        "study": told.get("storage") or sweep.folder.study.name,
        "space": sweep.space.description or None,
    }
    for name, key in (("training images", "data"), ("validation images", "val_data"), ("test images", "test_data")):
        if told.get(key):
            known[name] = f"{Path(told[key]['path']).name}, SHA-256 {told[key]['sha256']}"
    lines = [line([row_head(p.path), _words(p.text())]) for p in sweep.space.parameters]
    parts = [facts(known), table("The space", [("parameter", False), ("searched", False)], lines)]
    parts.append(settings("all settings that trials start from", told.get("config", {})))
    parts.append(settings("all settings of the protocol that judges trials", told.get("judge", {})))
    return section("Configuration", "".join(parts))

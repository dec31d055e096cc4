"""What a sweep tells of its parameters, as a section of its page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from raycondense.report.importance import LEAST_TRIALS, Forest, fit_forest
from raycondense.report.markup import plot, section
from raycondense.report.space_figures import parallel_figure, plane_figure
from raycondense.report.sweep_figures import BROKEN, importance_figure, judged
from raycondense.tuning.records import TrialRecord
from raycondense.tuning.space import Space

PLANE = ("losses.intra", "losses.inter")
"""Repulsion within and between classes: the two whose balance everybody asks about."""
WEAK_FIT = 0.3
"""A forest that foretells less of the variance is called weak."""


def parameters_section(space: Space, trials: Sequence[TrialRecord]) -> str:
    """Parallel coordinates, importances, and the plane of the weights of repulsion where both are searched.

    Args:
        space: what is searched.
        trials: one or more of them judged.
    """
    known = [trial for trial in judged(trials) if trial.values]
    forest = fit_forest(space.parameters, [t.values for t in known], [t.accuracy or 0.0 for t in known])
    plots = [plot(parallel_figure(space.parameters, trials), "Parallel coordinates")]
    notes = ["Parallel coordinates: a line a trial, from top to bottom; the best stands out, the worst recede."]
    if any(trial.state in BROKEN for trial in trials):
        notes[0] += " Those that diverged or failed are dashed and end in a cross."
    if set(PLANE) <= {parameter.path for parameter in space.parameters}:
        first, second = (space.parameter(path) for path in PLANE)
        usable = forest if forest is not None and set(PLANE) <= {p.path for p in forest.parameters} else None
        plots.append(plot(plane_figure(first, second, trials, usable), f"{first.path} by {second.path}"))
        told = f"{first.path} by {second.path}: points are trials, the best ringed"
        behind = "; behind them, paler, what the forest expects there over all other parameters"
        notes.append(f"{told}{behind if usable is not None else ''}.")
    if forest is not None:
        plots.append(plot(importance_figure(forest.importances()), "Importances by the last accuracy"))
        early = _early_forest(space, known)
        if early is not None:
            plots.append(plot(importance_figure(early.importances()), "Importances at the first rung"))
        notes += _told_of(forest, early)
    else:
        notes.append(f"Importances take {LEAST_TRIALS} trials with different accuracies that lie inside of the space.")
    items = "".join(f"<li>{escape(text)}</li>" for text in notes)
    return section("Parameters", f'<div class="figures wide">{"".join(plots)}</div><ul class="notes">{items}</ul>')


def _early_forest(space: Space, known: Sequence[TrialRecord]) -> Forest | None:
    """What the first rung says, which all trials reached alike; None where no trial was stopped before the last."""
    rungs = {trial.rungs[0][0] for trial in known if trial.rungs}
    if not rungs or all(len(trial.rungs) == 1 for trial in known) or not any(t.state == "stopped" for t in known):
        return None
    first = [trial for trial in known if trial.rungs and trial.rungs[0][0] == min(rungs)]
    return fit_forest(space.parameters, [t.values for t in first], [t.rungs[0][1] for t in first])


def _told_of(forest: Forest, early: Forest | None) -> list[str]:
    texts = [
        "Importances: functional analysis of variance (Hutter, Hoos and Leyton-Brown 2014) of a random forest fitted "
        f"to {forest.trials} trials. A bar is the share of the accuracy's variance over the whole space that a "
        "parameter has by itself. Trials that diverged or failed are left out."
    ]
    if early is not None:
        texts.append(
            "Trials that were stopped early count with their last accuracy, which is lower because they saw fewer "
            "images too; at the first rung all trials are alike."
        )
    fits = f"{forest.fit:.2f}" + ("" if early is None else f" (at the first rung {early.fit:.2f})")
    weak = min(forest.fit, forest.fit if early is None else early.fit) < WEAK_FIT
    texts.append(
        f"How far the forest foretells trials that it has not seen (out-of-bag R²): {fits}"
        + ("; so little that the bars are hints at most." if weak else "; 1 would be exactly.")
    )
    return texts

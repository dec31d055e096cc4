"""Figures of the space of a sweep: parallel coordinates, and the plane of two parameters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raycondense.evaluation.columns import percent
from raycondense.report.figures import DARK, LIGHT, Figure, Theme, render
from raycondense.report.importance import Forest
from raycondense.report.scales import OFF_PLACE, Scale, shown
from raycondense.report.sweep_figures import BROKEN, judged
from raycondense.tuning.records import TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize

    from raycondense.tuning.parameter import Parameter

RAMPS = {
    LIGHT: ("#d9d5c3", "#a9cdb8", "#4fa8b8", "#2f6fc4", "#2a3a9a", "#241250"),
    DARK: ("#39404d", "#2f5f78", "#2f8f9d", "#5cc3a0", "#b5e48c", "#fdf6b2"),
}
"""Colours from the worst accuracy to the best: the best stands out most from the page."""
CELLS = 40
"""Cells of a side of the plane."""
OFF_ROOM = 0.06
"""Half of what the place of ``off`` takes of an axis."""
_DIM = 0.1
"""Share of the worst trials that all have the colour of the worst: one bad trial would take all colours."""


def parallel_figure(parameters: Sequence[Parameter], trials: Sequence[TrialRecord]) -> Figure:
    """Parallel coordinates, lying: an axis a parameter one below the other, accuracy last, a line from top to bottom
    for each trial, so that as many axes as there are can be read on a phone.

    Args:
        parameters: of the space.
        trials: any; those without an accuracy are drawn dashed and end above the last axis.
    """
    drawn = [trial for trial in trials if trial.values]
    known = _best_last(drawn)
    broken = [trial for trial in drawn if trial.state in BROKEN]
    scales = [Scale.of(p, (trial.values.get(p.path) for trial in (*known, *broken))) for p in parameters]
    accuracies = [100 * (trial.accuracy or 0.0) for trial in known]
    low, high = min(accuracies), max(accuracies)

    def draw(axes: Axes, theme: Theme) -> None:
        ramp, norm = _colours(theme, accuracies)
        rows = len(scales) + 1
        for row, scale in enumerate(scales):
            _axis(axes, theme, row, scale.parameter.path, scale.ticks(), bool(scale.aside))
        ends = [(0.0, f"{low:.1f}"), (1.0, f"{high:.1f}")] if high > low else [(0.5, f"{low:.1f}")]
        _axis(axes, theme, rows - 1, "validation accuracy %", ends, False)
        places = _places(scales, [*known, *broken])
        for trial in broken:
            axes.plot(
                places[trial.number], range(rows - 1), color=theme.series[1], linewidth=0.7, alpha=0.7,
                linestyle=(0, (3, 2)), zorder=2,
            )  # fmt: skip
            axes.plot([places[trial.number][-1]], [rows - 2], "x", color=theme.series[1], markersize=4.5, zorder=5)
        # The best come last and lie above; the more others there are, the fainter they are.
        faint, strong = min(0.7, 20 / len(known)), max(3, len(known) // 12)
        for place, (trial, accuracy) in enumerate(zip(known, accuracies, strict=True)):
            end = (accuracy - low) / (high - low) if high > low else 0.5
            best, good = trial is known[-1], len(known) - place <= strong
            axes.plot(
                [*places[trial.number], end], range(rows), color=ramp(norm(accuracy)), alpha=1.0 if good else faint,
                linewidth=2.2 if best else 1.2 if good else 0.9, zorder=4 if best else 3, solid_joinstyle="round",
            )  # fmt: skip
        start = min(scale.start for scale in scales)
        axes.set_xlim(start - 0.03, 1.03)
        axes.set_ylim(rows - 0.45, -0.45)
        axes.set_axis_off()

    alt = f"Parallel coordinates of {len(known)} trials over {', '.join(p.path for p in parameters)} and accuracy"
    if known:
        best = "; ".join(f"{p.path} {shown(known[-1].values.get(p.path))}" for p in parameters)
        alt += f"; the best, {percent(known[-1].accuracy or 0.0)} %: {best}"
    return render(draw, alt, width=3.6, height=0.3 + 0.56 * (len(scales) + 1))


def plane_figure(
    first: Parameter, second: Parameter, trials: Sequence[TrialRecord], forest: Forest | None
) -> Figure:  # fmt: skip
    """Two parameters: trials as points, coloured by accuracy, over what a forest expects between them.

    Args:
        first: on the x axis.
        second: on the y axis.
        trials: any; those without both parameters are left out.
        forest: fitted to the whole space; None draws points alone.
    """
    drawn = [trial for trial in trials if {first.path, second.path} <= trial.values.keys()]
    known = _best_last(drawn)
    broken = [trial for trial in drawn if trial.state in BROKEN]
    everyone = [*known, *broken]
    x, y = (Scale.of(p, (trial.values.get(p.path) for trial in everyone)) for p in (first, second))
    accuracies = [100 * (trial.accuracy or 0.0) for trial in known]

    def draw(axes: Axes, theme: Theme) -> None:
        ramp, norm = _colours(theme, accuracies)
        if forest is not None:
            _background(axes, x, y, forest, ramp, norm)
        across, up = _places([x], everyone), _places([y], everyone)
        axes.scatter(
            [across[t.number][0] for t in known], [up[t.number][0] for t in known], c=accuracies, cmap=ramp, norm=norm,
            s=30, edgecolors=theme.ink, linewidths=0.6, zorder=3, clip_on=False,
        )  # fmt: skip
        if known:
            best = known[-1]
            axes.plot(
                across[best.number], up[best.number], "o", markersize=11, markerfacecolor="none",
                markeredgecolor=theme.ink, markeredgewidth=1.2, zorder=4, clip_on=False,
            )  # fmt: skip
        axes.plot(
            [across[t.number][0] for t in broken], [up[t.number][0] for t in broken], "x", color=theme.series[1],
            markersize=5, markeredgewidth=1.5, zorder=3, clip_on=False,
        )  # fmt: skip
        for scale, axis, set_limits in ((x, axes.xaxis, axes.set_xlim), (y, axes.yaxis, axes.set_ylim)):
            ticks = scale.ticks()
            axis.set_ticks([place for place, _ in ticks], [text for _, text in ticks])
            set_limits(scale.start - (0.06 if scale.aside else 0.02), 1.02)
        axes.set_xlabel(first.path, fontsize=8)
        axes.set_ylabel(second.path, fontsize=8)
        axes.tick_params(length=2, color=theme.muted)
        if len(set(accuracies)) > 1:
            _bar(axes, theme, ramp, norm)

    alt = f"{first.path} by {second.path}: {len(known)} trials coloured by accuracy"
    if known:
        best = known[-1]
        where = " by ".join(shown(best.values[path]) for path in (first.path, second.path))
        alt += f"; the best, {percent(best.accuracy or 0.0)} %, at {where}"
    return render(draw, alt, width=3.6, height=3.3)


def _best_last(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Judged trials; those that saw all images come after those that did not, as in the ranking."""
    return sorted(judged(trials), key=lambda trial: (trial.state == "complete", trial.accuracy or 0.0))


def _places(scales: Sequence[Scale], trials: Sequence[TrialRecord]) -> Mapping[int, list[float]]:
    """Where each trial stands on each axis; those at the same choice or ``off`` stand side by side."""
    found: dict[int, list[float]] = {trial.number: [] for trial in trials}
    for scale in scales:
        path = scale.parameter.path
        same: dict[float, list[TrialRecord]] = {}
        for trial in trials:
            same.setdefault(scale.place(trial.values.get(path)), []).append(trial)
        room = 0.6 / len(scale.parameter.choices) if scale.parameter.kind == "choice" else 0.07
        for place, members in same.items():
            apart = scale.parameter.kind == "choice" or place == OFF_PLACE
            for i, trial in enumerate(sorted(members, key=lambda trial: trial.number)):
                aside = room * ((i + 0.5) / len(members) - 0.5) if apart else 0.0
                found[trial.number].append(place + aside)
    return found


def _axis(
    axes: Axes, theme: Theme, row: int, name: str, ticks: Sequence[tuple[float, str]], has_off: bool
) -> None:  # fmt: skip
    behind = {"boxstyle": "round,pad=0.1", "facecolor": theme.card, "edgecolor": "none", "alpha": 0.82}
    axes.plot([0, 1], [row, row], color=theme.muted, linewidth=1, zorder=1)
    if has_off:
        axes.plot([OFF_PLACE - 0.035, OFF_PLACE + 0.035], [row, row], color=theme.muted, linewidth=1, zorder=1)
    start = min((place for place, _ in ticks), default=0.0)
    axes.text(
        min(0.0, start - 0.035 if has_off else 0.0), row - 0.13, name, fontsize=8, fontweight="bold", color=theme.ink,
        va="bottom", zorder=6, bbox=behind,
    )  # fmt: skip
    for place, text in ticks:
        axes.plot([place, place], [row - 0.05, row + 0.05], color=theme.muted, linewidth=1, zorder=1)
        axes.text(
            place, row + 0.12, text, fontsize=7.5, color=theme.muted, ha="center", va="top", zorder=6, bbox=behind
        )  # fmt: skip


def _background(axes: Axes, x: Scale, y: Scale, forest: Forest, ramp: Colormap, norm: Normalize) -> None:
    """What the forest expects over all other parameters, with a column and a row of their own for ``off``."""
    for (across, at), (up, over) in itertools.product(_blocks(x), _blocks(y)):
        expected = np.ma.masked_invalid(100 * forest.plane(x.parameter.path, y.parameter.path, at, over))
        axes.pcolormesh(across, up, expected, cmap=ramp, norm=norm, alpha=0.5, rasterized=True, linewidth=0, zorder=1)


def _blocks(scale: Scale) -> list[tuple[Any, list[Any]]]:
    """Edges of cells and the value in the middle of each, for the range and for ``off``."""
    if scale.parameter.kind == "choice":
        return [(np.linspace(0, 1, len(scale.parameter.choices) + 1), list(scale.parameter.choices))]
    edges = np.linspace(0, 1, CELLS + 1)
    inside = (edges, [scale.value(place) for place in (edges[:-1] + edges[1:]) / 2])
    return [inside, (np.array([OFF_PLACE - OFF_ROOM, OFF_PLACE + OFF_ROOM]), [0.0])] if scale.zero else [inside]


def _colours(theme: Theme, accuracies: Sequence[float]) -> tuple[Colormap, Normalize]:
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    ramp = LinearSegmentedColormap.from_list("accuracy", RAMPS[theme])
    low, high = (float(np.quantile(accuracies, _DIM)), max(accuracies)) if accuracies else (0.0, 100.0)
    # Of trials that are all alike, all are the best.
    return ramp, Normalize(low if high > low else low - 1.0, high, clip=True)


def _bar(axes: Axes, theme: Theme, ramp: Colormap, norm: Normalize) -> None:
    from matplotlib.cm import ScalarMappable

    figure: Any = axes.figure
    bar = figure.colorbar(ScalarMappable(norm, ramp), ax=axes, location="top", aspect=40, pad=0.02, shrink=1.0)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7.5, colors=theme.muted)
    bar.set_label("validation accuracy %", fontsize=8, color=theme.muted)

"""Figures of a sweep's trials: the search as it went on, rungs, importances, accuracy against bytes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raycondense.artifact.sizes import format_bytes
from raycondense.evaluation.columns import percent
from raycondense.report.figures import Figure, Theme, render, short
from raycondense.tuning.records import RUNNING, TrialRecord
from raycondense.tuning.result import pareto_front, rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BROKEN = ("diverged", "failed")
"""States of trials without an accuracy that means anything."""
KINDS = {
    "complete": "finished",
    "stopped": "stopped early",
    RUNNING: "running",
    "diverged": "diverged",
    "failed": "failed",
}
"""State → what people call it, in the order of legends."""
OWN = "configuration's own"
_WIDTH = 3.5


def judged(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials whose accuracy says something, in their order."""
    return [trial for trial in trials if trial.accuracy is not None and trial.state not in BROKEN]


def front_of(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The Pareto front of the complete trials, the most accurate first."""
    return pareto_front([trial for trial in rank(trials, ("accuracy",)) if trial.bytes is not None])


def history_figure(trials: Sequence[TrialRecord], own: int | None) -> Figure:
    """Accuracy of each trial in the order of the search, with the best so far of those that saw all images.

    Args:
        trials: by number.
        own: number of the trial with the configuration's own values.
    """
    from matplotlib.ticker import MaxNLocator

    known, broken = judged(trials), [trial for trial in trials if trial.state in BROKEN]
    whole = sorted(rank(trials, ("accuracy",)), key=lambda trial: trial.number)
    best = list(itertools.accumulate((100 * (trial.accuracy or 0.0) for trial in whole), max))

    def draw(axes: Axes, theme: Theme) -> None:
        if whole:
            numbers, end = [trial.number for trial in whole], max(trial.number for trial in trials)
            axes.step([*numbers, end], [*best, best[-1]], where="post", color=theme.accent, linewidth=1.6, zorder=2)
        for state in KINDS:
            members = [trial for trial in known if trial.state == state]
            _marks(axes, theme, [t.number for t in members], [100 * (t.accuracy or 0.0) for t in members], state)
        if broken:
            # Not at 0 %: their place is below all that was measured.
            low, high = axes.get_ylim() if known else (0.0, 100.0)
            floor = low - 0.1 * (high - low)
            for state in BROKEN:
                members = [trial for trial in broken if trial.state == state]
                _marks(axes, theme, [t.number for t in members], [floor] * len(members), state)
            axes.axhline(low - 0.03 * (high - low), color=theme.grid, linewidth=0.8)
            axes.set_ylim(low - 0.17 * (high - low), high)
            axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
        for trial in known:
            if trial.number == own:
                _marks(axes, theme, [trial.number], [100 * (trial.accuracy or 0.0)], OWN)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
        last = max(trial.number for trial in trials)
        axes.set_xlim(-0.5 - 0.03 * last, last + 0.5 + 0.03 * last)
        axes.set_xlabel("trial", fontsize=8)
        _finish(axes, theme)
        states = [state for state in KINDS if any(t.state == state for t in (*known, *broken))]
        rings = [OWN] * any(trial.number == own for trial in known)
        _legend(axes, theme, [*states, *rings], line="best so far")

    told = f", the best so far from {best[0]:.1f} to {best[-1]:.1f} %" if best else ""
    return render(
        draw, f"Search: accuracy of {len(known)} trials in their order{told}, {len(broken)} without", width=_WIDTH,
        height=2.75,
    )  # fmt: skip


def rungs_figure(trials: Sequence[TrialRecord], best: Sequence[int], rungs: Sequence[int]) -> Figure:
    """Accuracy at rungs, one thin line a trial.

    Args:
        trials: any.
        best: numbers of the winners, the best first; they are told apart from the others.
        rungs: real images seen at each.
    """
    from matplotlib.ticker import NullLocator

    shown = [trial for trial in trials if trial.rungs and trial.state not in BROKEN]

    def draw(axes: Axes, theme: Theme) -> None:
        for trial in shown:
            if trial.number not in best:
                images, accuracies = zip(*trial.rungs, strict=True)
                axes.plot(
                    images, [100 * value for value in accuracies], color=theme.other, linewidth=0.8, alpha=0.9,
                    marker=".", markersize=3.5, zorder=2,
                )  # fmt: skip
        for place, number in reversed(list(enumerate(best))):
            for trial in (trial for trial in shown if trial.number == number):
                images, accuracies = zip(*trial.rungs, strict=True)
                axes.plot(
                    images, [100 * value for value in accuracies], color=theme.series[place % len(theme.series)],
                    linewidth=1.5, marker="osD^v"[place % 5], markersize=3.5, zorder=3, label=f"trial {number}",
                )  # fmt: skip
        if len(rungs) > 1:
            axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(list(rungs), [short(float(f"{rung:.3g}")) for rung in rungs])
        axes.margins(x=0.05)
        axes.set_xlabel("real images seen", fontsize=8)
        _finish(axes, theme)
        if any(trial.number in best for trial in shown):
            figure: Any = axes.figure
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(
                handles[::-1], labels[::-1], loc="outside lower left", ncols=3, frameon=False, fontsize=7.5,
                labelcolor=theme.ink, handlelength=1.8, handletextpad=0.5, columnspacing=1.0, borderpad=0.1,
            )  # fmt: skip

    far = sum(len(trial.rungs) == len(rungs) for trial in shown)
    alt = f"Rungs: accuracy of {len(shown)} trials at up to {len(rungs)} rungs, {far} of them reached the last"
    return render(draw, alt, width=_WIDTH, height=2.75)


def importance_figure(shares: Mapping[str, float]) -> Figure:
    """Shares of the accuracy's variance, the largest above; what is missing to 1 stands last.

    Args:
        shares: path → share of the parameter by itself.
    """
    told = sorted(shares.items(), key=lambda item: -item[1])
    together = max(0.0, 1 - sum(shares.values()))
    bars = [*told, ("several together", together)]

    def draw(axes: Axes, theme: Theme) -> None:
        colours = [theme.accent] * len(told) + [theme.other]
        axes.barh(range(len(bars)), [100 * share for _, share in bars], height=0.72, color=colours)
        most = 100 * max(share for _, share in bars) or 1.0
        for place, (_, share) in enumerate(bars):
            axes.text(
                1.2 * most, place, f"{100 * share:.0f} %", va="center", ha="right", fontsize=8, color=theme.ink
            )  # fmt: skip
        axes.set_yticks(range(len(bars)), [name for name, _ in bars])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.2 * most)
        axes.set_xlabel("share of the accuracy's variance, %", fontsize=8)
        axes.xaxis.set_major_locator(_few(most))
        axes.grid(axis="x", color=theme.grid, linewidth=0.7)
        axes.tick_params(axis="y", length=0)

    alt = "; ".join(f"{name} {100 * share:.0f} %" for name, share in bars)
    return render(draw, f"Importances: {alt}", width=_WIDTH, height=0.75 + 0.27 * len(bars))


def pareto_figure(trials: Sequence[TrialRecord]) -> Figure:
    """Accuracy against bytes, with the front."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    front = front_of(trials)[::-1]
    sized = [trial for trial in judged(trials) if trial.bytes]

    def draw(axes: Axes, theme: Theme) -> None:
        sizes = [trial.bytes or 1 for trial in sized]
        axes.set_xscale("log")
        # So far to the right that the last step can be seen.
        end = max(sizes) * (max(sizes) / min(sizes)) ** 0.04
        if front:
            x, y = [trial.bytes or 1 for trial in front], [100 * (trial.accuracy or 0.0) for trial in front]
            axes.step([*x, end], [*y, y[-1]], where="post", color=theme.accent, linewidth=1.4, zorder=2)
        for state in KINDS:
            members = [trial for trial in sized if trial.state == state]
            _marks(axes, theme, [t.bytes or 1 for t in members], [100 * (t.accuracy or 0.0) for t in members], state)
        near, last = (max(sizes) / min(sizes)) ** 0.07, 0.0
        for trial in front:
            size = trial.bytes or 1
            # Above the line, or below it where the trial before is near.
            above = size > last * near
            axes.annotate(
                str(trial.number), (size, 100 * (trial.accuracy or 0.0)), xytext=(-4, 4) if above else (4, -4),
                textcoords="offset points", ha="right" if above else "left", va="bottom" if above else "top",
                fontsize=7.5, color=theme.ink, zorder=5,
            )  # fmt: skip
            last = size if above else 0.0
        few = max(sizes) < 30 * min(sizes)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=12))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(int(value)).replace(".0", "")))
        axes.margins(x=0.08, y=0.12)
        axes.set_xlabel("bytes of generator and codes", fontsize=8)
        _finish(axes, theme)
        states = [state for state in KINDS if any(trial.state == state for trial in sized)]
        _legend(axes, theme, states, line="Pareto front, by trial")

    told = "; ".join(
        f"trial {t.number} {percent(t.accuracy or 0.0)} % in {format_bytes(t.bytes or 0)}" for t in front
    )  # fmt: skip
    return render(draw, f"Pareto front of accuracy and bytes: {told}", width=_WIDTH, height=2.9)


def _style(theme: Theme, state: str) -> dict[str, Any]:
    """How the mark of a state looks: it is told by its shape, not by its colour alone."""
    return {
        "complete": {"marker": "o", "markerfacecolor": theme.accent, "markeredgecolor": theme.card, "markersize": 6},
        "stopped": {"marker": "o", "markerfacecolor": theme.card, "markeredgecolor": theme.muted, "markersize": 4.5},
        RUNNING: {"marker": "^", "markerfacecolor": theme.card, "markeredgecolor": theme.series[2], "markersize": 5.5},
        "diverged": {"marker": "x", "markeredgecolor": theme.series[1], "markersize": 5, "markeredgewidth": 1.5},
        "failed": {"marker": "+", "markeredgecolor": theme.series[4], "markersize": 6.5, "markeredgewidth": 1.5},
        OWN: {"marker": "o", "markerfacecolor": "none", "markeredgecolor": theme.ink, "markersize": 9.5},
    }[state]


def _marks(axes: Axes, theme: Theme, x: Sequence[float], y: Sequence[float], state: str) -> None:
    if x:
        axes.plot(x, y, linestyle="", zorder=3, clip_on=False, **_style(theme, state))


def _legend(axes: Axes, theme: Theme, states: Sequence[str], *, line: str) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=theme.accent, linewidth=1.6, label=line)]
    handles += [Line2D([], [], linestyle="", label=KINDS.get(state, state), **_style(theme, state)) for state in states]
    figure: Any = axes.figure
    figure.legend(
        handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=7.5, labelcolor=theme.ink,
        handlelength=1.4, handletextpad=0.4, columnspacing=0.9, borderpad=0.1,
    )  # fmt: skip


def _finish(axes: Axes, theme: Theme) -> None:
    axes.set_ylabel("validation accuracy %", fontsize=8)
    axes.grid(axis="y", color=theme.grid, linewidth=0.7)


def _few(most: float) -> Any:
    from matplotlib.ticker import FixedLocator

    step = next(step for step in (1, 2, 5, 10, 20, 25) if most / step <= 5)
    return FixedLocator([step * i for i in range(int(most / step) + 1)])

"""Figures of accuracy: against images per class, against bytes, and as bars where there is one number of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raycondense.evaluation.columns import percent
from raycondense.evaluation.methods import FROM_GENERATOR, METHOD_NAMES, OURS
from raycondense.evaluation.result import Row
from raycondense.report.figures import Figure, Theme, render, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "os^DvPXph<>d"
"""One a method, in the order of `METHOD_NAMES`."""
DASHES: dict[str, Any] = {"bank": "-", "bytes": (0, (4, 1.5)), "stream": (0, (1, 1.2))}
"""Accounting → the line that it is drawn with."""
DODGE = 0.035
"""How far methods stand apart that have the same images per class, as a share of their number."""


@dataclass(frozen=True, slots=True)
class _Series:
    """The rows of one line."""

    name: str
    place: int
    """Of its method in `METHOD_NAMES`: decides marker and colour, so that they mean the same in every figure."""
    ours: bool
    dashes: Any
    rows: tuple[Row, ...]


def ipc_figure(rows: Sequence[Row]) -> Figure:
    """Accuracy against images per class (logarithmic), with error bars over students.

    Args:
        rows: of one architecture, labels and augmentation.
    """

    def draw(axes: Axes, theme: Theme) -> None:
        series = _series(rows)
        for i, one in enumerate(series):
            dodge = (1 + DODGE) ** (i - (len(series) - 1) / 2)
            _line(axes, theme, one, [row.ipc * dodge for row in one.rows])
        ipcs = sorted({row.ipc for row in rows if row.ipc})
        axes.set_xscale("log")
        axes.set_xticks(ipcs, [str(ipc) for ipc in ipcs], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_xlabel("images per class", fontsize=8)
        _finish(axes, theme, rows)

    return _figure(draw, rows, "images per class")


def bytes_figure(rows: Sequence[Row]) -> Figure:
    """Accuracy against the bytes that have to be kept (logarithmic), with error bars over students.

    Args:
        rows: of one architecture, labels and augmentation.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    sizes = [row.bytes for row in rows]

    def draw(axes: Axes, theme: Theme) -> None:
        for one in _series(rows):
            _line(axes, theme, one, [row.bytes for row in one.rows])
        for row in _whole(rows):
            axes.plot([row.bytes], [100 * row.accuracy], "*", color=theme.ink, markersize=8, linestyle="")
        axes.set_xscale("log")
        few = max(sizes) < 30 * min(sizes)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=12))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _bytes(value)))
        axes.set_xlabel("bytes kept: generator and codes, or pixels", fontsize=8)
        _finish(axes, theme, rows)

    return _figure(draw, rows, "bytes")


def bars_figure(rows: Sequence[Row]) -> Figure:
    """Horizontal bars of accuracy with the standard deviation over students, for rows of one number of images.

    Args:
        rows: of one architecture, labels and augmentation, one or more.
    """
    bars = [row for one in _series(rows) for row in one.rows] or list(rows)
    whole = [row for row in rows if not row.ipc and row not in bars]

    def draw(axes: Axes, theme: Theme) -> None:
        places = range(len(bars))
        spread: list[Any] = [100 * (row.std or 0.0) for row in bars]
        means = [100 * row.accuracy for row in bars]
        axes.barh(
            places, means, height=0.78, color=[theme.accent if row.method == OURS else theme.other for row in bars]
        )
        axes.errorbar(means, places, xerr=spread, fmt="none", ecolor=theme.ink, elinewidth=1, capsize=2)
        for place, mean in zip(places, means, strict=True):
            # In a column of their own, where no bar or line crosses them.
            axes.text(112, place, f"{mean:.1f}", va="center", ha="right", fontsize=8, color=theme.ink)
        for row in whole:
            axes.axvline(100 * row.accuracy, color=theme.muted, linewidth=1, linestyle=(0, (4, 3)))
            axes.set_title(f"{name_of(row)}: {percent(row.accuracy)}", loc="right", fontsize=8, color=theme.muted)
        axes.set_yticks(places, [name_of(row) for row in bars])
        axes.invert_yaxis()
        axes.set_xlim(0, 112)
        axes.set_xticks(range(0, 101, 25))
        axes.set_xlabel("accuracy %", fontsize=8)
        axes.grid(axis="x", color=theme.grid, linewidth=0.7)
        axes.tick_params(axis="y", length=0)

    return render(draw, _told(rows, "method"), width=3.7, height=0.9 + 0.28 * len(bars))


def name_of(row: Row) -> str:
    """The method and, where it is not the fixed bank, the accounting."""
    return row.name if row.accounting == "bank" else f"{row.name} ({row.accounting})"


def _series(rows: Sequence[Row]) -> list[_Series]:
    methods = list(METHOD_NAMES)
    found: dict[str, list[Row]] = {}
    for row in rows:
        # Pixels by bytes are the same images as by number.
        if row.ipc and (row.accounting == "bank" or row.method in FROM_GENERATOR):
            found.setdefault(name_of(row), []).append(row)
    return [
        _Series(
            name=name,
            place=methods.index(members[0].method),
            ours=members[0].method == OURS,
            dashes=DASHES[members[0].accounting],
            rows=tuple(sorted(members, key=lambda row: row.ipc)),
        )
        for name, members in sorted(found.items(), key=lambda item: methods.index(item[1][0].method))
    ]


def _whole(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not row.ipc]


def _line(axes: Axes, theme: Theme, one: _Series, places: Sequence[float]) -> None:
    colour, means = theme.series[one.place], [100 * row.accuracy for row in one.rows]
    spread: list[Any] = [100 * (row.std or 0.0) for row in one.rows]
    above = 3 if one.ours else 2
    axes.errorbar(
        places, means, yerr=spread, fmt="none", ecolor=colour, elinewidth=1, capsize=2, zorder=above
    )  # fmt: skip
    axes.plot(
        places, means, label=one.name, color=colour, marker=MARKERS[one.place], markersize=5.5 if one.ours else 4.5,
        markerfacecolor=colour if one.ours else theme.card, markeredgewidth=1.2, linewidth=2.0 if one.ours else 1.2,
        linestyle=one.dashes, zorder=above,
    )  # fmt: skip


def _finish(axes: Axes, theme: Theme, rows: Sequence[Row]) -> None:
    for row in _whole(rows):
        axes.axhline(100 * row.accuracy, color=theme.ink, linewidth=1, linestyle=(0, (5, 3)), zorder=1, label=row.name)
    axes.set_ylabel("accuracy %", fontsize=8)
    axes.margins(x=0.06)
    axes.grid(axis="y", color=theme.grid, linewidth=0.7)
    figure: Any = axes.figure
    # The whole set's line comes last, as in the table.
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i] == METHOD_NAMES["whole"])
    figure.legend(
        [handles[i] for i in order], [labels[i] for i in order], loc="outside lower left", ncols=2, frameon=False,
        fontsize=7.5, labelcolor=theme.ink, handlelength=2.3, handletextpad=0.5, columnspacing=1.0, borderpad=0.1,
    )  # fmt: skip


def _figure(draw: Callable[[Axes, Theme], None], rows: Sequence[Row], against: str) -> Figure:
    entries = len(_series(rows)) + len(_whole(rows))
    return render(draw, _told(rows, against), width=3.5, height=2.3 + 0.17 * ((entries + 1) // 2))


def _told(rows: Sequence[Row], against: str) -> str:
    values = (
        f"{name_of(row)}{f', IPC {row.ipc}' if row.ipc else ''} {percent(row.accuracy, row.std)} %" for row in rows
    )
    return f"Accuracy of {rows[0].architecture} students against {against}: {'; '.join(values)}"


def _bytes(value: float) -> str:
    number = short(value)
    return f"{number[:-1]} {number[-1]}B" if number[-1].isalpha() else f"{number} B"

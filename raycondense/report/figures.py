"""Figures as SVG, each drawn once for a light and once for a dark page.

A figure is a small picture that reads well on a phone; the page puts several side by side where there is room.
Text stays text (drawn in the reader's font), and the same numbers give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raycondense.evaluation.result import OURS, Row, percent
from raycondense.report.log import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 400
"""Points of a drawn curve; longer logs are thinned."""


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a page."""

    ink: str
    muted: str
    grid: str
    accent: str
    other: str


LIGHT = Theme(ink="#1d2129", muted="#5b6472", grid="#e3e6eb", accent="#2f5fd0", other="#aab3c2")
DARK = Theme(ink="#e7eaf0", muted="#9aa4b4", grid="#2c323c", accent="#7ea6ff", other="#566072")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure for both themes."""

    alt: str
    """What it shows, in words."""
    light: bytes
    """SVG."""
    dark: bytes
    """SVG."""


def loss_figure(curve: Curve) -> Figure:
    """A loss against real images seen."""
    step = -(-len(curve.images) // MOST_POINTS)
    # The last point always stays: it is the one that people read off.
    kept = sorted({*range(0, len(curve.images), step), len(curve.images) - 1})
    images, values = [curve.images[i] for i in kept], [curve.values[i] for i in kept]

    def draw(axes: Axes, theme: Theme) -> None:
        axes.plot(images, values, color=theme.accent, linewidth=1.4)
        axes.set_title(curve.name, loc="left", fontsize=9, color=theme.ink)
        axes.set_xlabel("images seen", fontsize=8)
        axes.xaxis.set_major_formatter(lambda value, _: _short(value))
        axes.margins(x=0.02)
        axes.grid(axis="y", color=theme.grid, linewidth=0.7)

    first, last = curve.values[0], curve.values[-1]
    alt = f"Loss {curve.name} in stage {curve.stage}: from {first:.4g} to {last:.4g}"
    return _render(draw, alt, width=3.4, height=2.0)


def accuracy_figure(rows: Sequence[Row]) -> Figure:
    """Horizontal bars of accuracy with the standard deviation over students, grouped by images per class.

    Args:
        rows: of one architecture, one or more.
    """
    bars = [row for row in rows if row.ipc] or list(rows)
    whole = [row for row in rows if not row.ipc and row not in bars]
    labels = [f"{row.method}, IPC {row.ipc}" if row.ipc else row.method for row in bars]
    # A gap between groups of different images per class.
    places: list[float] = []
    for i, row in enumerate(bars):
        places.append(places[-1] + (1.0 if row.ipc == bars[i - 1].ipc else 1.6) if places else 0.0)

    def draw(axes: Axes, theme: Theme) -> None:
        colours = [theme.accent if row.method == OURS else theme.other for row in bars]
        spread: list[Any] = [100 * (row.std or 0.0) for row in bars]
        means = [100 * row.accuracy for row in bars]
        axes.barh(places, means, height=0.78, color=colours)
        axes.errorbar(means, places, xerr=spread, fmt="none", ecolor=theme.ink, elinewidth=1, capsize=2)
        for place, mean in zip(places, means, strict=True):
            # In a column of their own, where no bar or line crosses them.
            axes.text(112, place, f"{mean:.1f}", va="center", ha="right", fontsize=8, color=theme.ink)
        for row in whole:
            axes.axvline(100 * row.accuracy, color=theme.muted, linewidth=1, linestyle=(0, (4, 3)))
            axes.set_title(f"{row.method}: {percent(row.accuracy)}", loc="right", fontsize=8, color=theme.muted)
        axes.set_yticks(places, labels)
        axes.invert_yaxis()
        axes.set_xlim(0, 112)
        axes.set_xticks(range(0, 101, 25))
        axes.set_xlabel("accuracy %", fontsize=8)
        axes.grid(axis="x", color=theme.grid, linewidth=0.7)
        axes.tick_params(axis="y", length=0)

    values = [
        (f"{row.method}, IPC {row.ipc}" if row.ipc else row.method, percent(row.accuracy, row.std)) for row in rows
    ]
    told = "; ".join(f"{name} {value} %" for name, value in values)
    height = 0.9 + 0.3 * (places[-1] + 1)
    return _render(draw, f"Accuracy of {rows[0].architecture} students: {told}", width=4.6, height=height)


def _render(draw: Callable[[Axes, Theme], None], alt: str, *, width: float, height: float) -> Figure:
    light, dark = (_svg(draw, theme, width, height) for theme in (LIGHT, DARK))
    return Figure(alt, light, dark)


def _svg(draw: Callable[[Axes, Theme], None], theme: Theme, width: float, height: float) -> bytes:
    """Draw one theme. No pyplot: it would open windows and keep figures alive."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "raycondense",
        "font.size": 8,
        "axes.edgecolor": theme.grid,
        "axes.labelcolor": theme.muted,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "ytick.labelcolor": theme.ink,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
    }
    with matplotlib.rc_context(style):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(canvas)
        draw(canvas.add_subplot(), theme)
        buffer = io.BytesIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    # The document type names a file on the web; no reader needs it.
    return re.sub(rb"<!DOCTYPE.*?>\s*", b"", buffer.getvalue(), flags=re.DOTALL)


def _short(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"

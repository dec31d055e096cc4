"""Figures as SVG, each drawn once for a light and once for a dark page.

A figure is a small picture that reads well on a phone; the page puts several side by side where there is room.
Text stays text (drawn in the reader's font), and the same numbers give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raycondense.report.log import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 400
"""Points of a drawn curve; longer logs are thinned."""
RASTER_DPI = 150
"""Of clouds of points, which are pictures inside of the SVG."""


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a page."""

    ink: str
    muted: str
    grid: str
    accent: str
    other: str
    card: str
    """Behind the figure."""
    series: tuple[str, ...]
    """Colours that tell lines and classes apart, readable on ``card``; markers and names do it without colour."""


LIGHT = Theme(
    ink="#1d2129", muted="#5b6472", grid="#e3e6eb", accent="#2f5fd0", other="#aab3c2", card="#ffffff",
    series=(
        "#2f5fd0", "#c2560a", "#1b7f5c", "#8a4fbe", "#c0304f", "#0f7f95", "#8a6d1d", "#d03d98", "#4d5a6b", "#6b8e23",
        "#7a4a2b",
    ),
)  # fmt: skip
DARK = Theme(
    ink="#e7eaf0", muted="#9aa4b4", grid="#2c323c", accent="#7ea6ff", other="#566072", card="#1a1e25",
    series=(
        "#7ea6ff", "#f0a05a", "#5fcfa3", "#c79bf0", "#ff8fa3", "#5fc9dd", "#d9bf6a", "#f58fd0", "#b3bfd0", "#a9c95c",
        "#d8a68a",
    ),
)  # fmt: skip


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
        axes.xaxis.set_major_formatter(lambda value, _: short(value))
        axes.margins(x=0.02)
        axes.grid(axis="y", color=theme.grid, linewidth=0.7)

    first, last = curve.values[0], curve.values[-1]
    alt = f"Loss {curve.name} in stage {curve.stage}: from {first:.4g} to {last:.4g}"
    return render(draw, alt, width=3.4, height=2.0)


def render(draw: Callable[[Axes, Theme], None], alt: str, *, width: float, height: float) -> Figure:
    """Draw a figure for both themes.

    Args:
        draw: draws on the axes of a figure with the colours of a theme.
        alt: what it shows, in words.
        width: in inches, of 72 points; text has 8 points.
        height: in inches.
    """
    light, dark = (_svg(draw, theme, width, height) for theme in (LIGHT, DARK))
    return Figure(alt, light, dark)


def _svg(draw: Callable[[Axes, Theme], None], theme: Theme, width: float, height: float) -> bytes:
    """Draw one theme. No pyplot: it would open windows and keep figures alive."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    style: Any = {
        "svg.fonttype": "none",
        # A class may be called "$x$".
        "text.parse_math": False,
        "svg.hashsalt": "raycondense",
        "font.size": 8,
        "text.color": theme.ink,
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
        canvas.savefig(buffer, format="svg", transparent=True, metadata=no_metadata, dpi=RASTER_DPI)
    # The document type names a file on the web; no reader needs it.
    return re.sub(rb"<!DOCTYPE.*?>\s*", b"", buffer.getvalue(), flags=re.DOTALL)


def short(value: float) -> str:
    """A number as ``1.5M``."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"

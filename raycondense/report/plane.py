"""Clouds of points in the plane of features: all classes together, and each class by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from raycondense.report.features import PlaneClass
from raycondense.report.figures import Figure, Theme, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_SIDES = ((1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
MOST_BEHIND = 60
"""Points of each other class behind a class's own."""


def plane_figure(classes: Sequence[PlaneClass], explained: float) -> Figure:
    """All classes: real images as dots, generated ones as triangles, centers with the class's name or number.

    Args:
        classes: up to ten are told apart by colour too; labels tell all apart.
        explained: share of the real images' variance on the plane.
    """

    def draw(axes: Axes, theme: Theme) -> None:
        # Kind by kind, so that no class's dots hide another's centers.
        for i, one in enumerate(classes):
            _cloud(axes, one.real, _colour(theme, i), marker="o", size=4, alpha=0.35)
        for i, one in enumerate(classes):
            _cloud(axes, one.generated, _colour(theme, i), marker="^", size=22, edge=theme.card)
        for i, one in enumerate(classes):
            (x, y), (u, v) = one.real_center, one.generated_center
            axes.plot([x, u], [y, v], color=theme.ink, linewidth=1, zorder=4)
            for place, marker, size in (((x, y), "o", 9), ((u, v), "^", 10)):
                axes.plot(
                    *place, marker, color=_colour(theme, i), markersize=size, markeredgecolor=theme.ink,
                    markeredgewidth=1.2, zorder=5,
                )  # fmt: skip
        behind = {"boxstyle": "round,pad=0.12", "facecolor": theme.card, "edgecolor": "none", "alpha": 0.8}
        for i, (one, label, (x, y)) in enumerate(zip(classes, _labels(classes), _label_sides(classes), strict=True)):
            axes.annotate(
                label, one.real_center, xytext=(7 * x, 7 * y), textcoords="offset points", fontsize=9,
                ha={-1: "right", 0: "center", 1: "left"}[x], va={-1: "top", 0: "center", 1: "bottom"}[y], zorder=6,
                color=_colour(theme, i), fontweight="bold", bbox=behind,
            )  # fmt: skip
        _bare(axes, theme)
        figure: Any = axes.figure
        figure.legend(
            handles=_legend(theme), loc="outside lower center", ncols=2, frameon=False, fontsize=7.5,
            handletextpad=0.2, columnspacing=1.2, borderpad=0.1,
        )  # fmt: skip

    alt = f"{len(classes)} classes of real and generated images on two principal components of real features"
    return render(draw, f"{alt} ({100 * explained:.0f} % of the variance)", width=3.6, height=3.8)


def class_figure(classes: Sequence[PlaneClass], index: int) -> Figure:
    """One class: its real images before those of all others, and its generated ones."""
    one, label = classes[index], _labels(classes)[index]
    title = _shortened(one.name if label == one.name else f"{label} · {one.name}")

    def draw(axes: Axes, theme: Theme) -> None:
        for other in classes:
            if other is not one:
                _cloud(axes, other.real[:MOST_BEHIND], theme.other, marker="o", size=2, alpha=0.25)
        _cloud(axes, one.real, _colour(theme, index), marker="o", size=5, alpha=0.6)
        _cloud(axes, one.generated, theme.ink, marker="^", size=26, edge=theme.card)
        axes.set_title(title, loc="left", fontsize=11, color=theme.ink)
        _bare(axes, theme)

    alt = f"Class {one.name}: {len(one.generated)} generated images among {len(one.real)} real ones"
    return render(draw, alt, width=2.2, height=2.1)


def _labels(classes: Sequence[PlaneClass]) -> list[str]:
    """What stands beside the centers: names where they are short, else numbers, which the small figures tell."""
    short = all(len(one.name) <= 2 for one in classes)
    return [one.name if short else str(i) for i, one in enumerate(classes, 1)]


def _label_sides(classes: Sequence[PlaneClass]) -> list[tuple[int, int]]:
    """Where each class's name stands beside its center, (-1 to 1, -1 to 1): away from other centers and names."""
    centers = torch.tensor([center for one in classes for center in (one.real_center, one.generated_center)])
    points = torch.cat([one.real.float() for one in classes])
    # How far a label's middle is from its center, as a share of the figure.
    step = 0.045 * float((points.max(0).values - points.min(0).values).max())
    taken, sides = centers, []
    for one in classes:
        places = torch.tensor(one.real_center) + step * torch.tensor(_SIDES, dtype=torch.float32)
        best = int(torch.cdist(places, taken).min(1).values.argmax())
        sides.append(_SIDES[best])
        taken = torch.cat([taken, places[best : best + 1]])
    return sides


def _cloud(
    axes: Axes, points: Any, colour: str, *, marker: str, size: float, alpha: float = 1.0, edge: str = "none"
) -> None:
    x, y = points.T.tolist()
    # A picture inside of the SVG: thousands of points as elements would be several megabytes.
    axes.scatter(
        x, y, s=size, c=colour, marker=marker, alpha=alpha, linewidths=0.5 if edge != "none" else 0, edgecolors=edge,
        rasterized=True,
    )  # fmt: skip


def _colour(theme: Theme, index: int) -> str:
    return theme.series[index % len(theme.series)]


def _bare(axes: Axes, theme: Theme) -> None:
    # Directions of features have no unit and no meaning of their own; only distances are to be seen.
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(theme.grid)


def _legend(theme: Theme) -> list[Any]:
    from matplotlib.lines import Line2D

    def mark(label: str, marker: str, size: float, edge: str) -> Line2D:
        return Line2D(
            [], [], linestyle="", marker=marker, markersize=size, markerfacecolor=theme.muted, markeredgecolor=edge,
            label=label,
        )  # fmt: skip

    return [
        mark("real image", "o", 3, "none"), mark("center of real images", "o", 8, theme.ink),
        mark("generated image", "^", 5, theme.card), mark("center of generated images", "^", 8, theme.ink),
    ]  # fmt: skip


def _shortened(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"

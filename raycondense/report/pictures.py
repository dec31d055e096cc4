"""What there is to look at, as sections of the page: images, nearest neighbours, the plane of features."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from raycondense.artifact.load import Artifact
from raycondense.report.features import FeatureSpace, Neighbour
from raycondense.report.images import ClassSheet, small_pngs
from raycondense.report.markup import note, picture, png, section
from raycondense.report.plane import class_figure, plane_figure


def images_section(sheets: Sequence[ClassSheet], artifact: Artifact) -> str:
    """Real beside generated images of each class."""
    some = f" {len(sheets)} of {artifact.num_classes} classes are shown." if len(sheets) < artifact.num_classes else ""
    real = "" if sheets[0].real else " The training images are not at hand, so no real images are shown beside them."
    intro = note(f"The first images of the bank with {artifact.ipcs[-1]} images per class.{some}{real}")
    blocks = []
    for sheet in sheets:
        kinds = (("real", sheet.real), ("generated", sheet.generated))
        strips = "".join(_strip(kind, pngs, sheet.name) for kind, pngs in kinds if pngs)
        blocks.append(f'<div class="class"><h3>{escape(sheet.name)}</h3><div class="pair">{strips}</div></div>')
    return section("Images", intro + "".join(blocks))


def _strip(kind: str, pngs: Sequence[bytes], name: str) -> str:
    images = "".join(png(content, f"{kind} image {i} of class {name}") for i, content in enumerate(pngs, 1))
    # At least five columns, so that a bank of one image is not shown as large as the page.
    return f'<div><p>{kind}</p><div class="strip" style="--columns: {max(len(pngs), 5)}">{images}</div></div>'


def neighbours_section(space: FeatureSpace, seen_through: str) -> str:
    """The generated images that are nearest to a training image, beside it."""
    among = f"{space.searched:,} training images"
    if space.searched < space.available:
        among = f"{space.searched:,} of the {space.available:,} training images of these classes, drawn at random"
    intro = note(
        f"Is anything copied? Of each class the generated images that come nearest to a training image, each with that "
        f"image, by Euclidean distance in the features of {seen_through}, among {among}. 1× is as far as real images "
        "usually are from the nearest other one; near 0× is a copy."
    )
    blocks = []
    for name, members in groupby(space.neighbours, key=lambda one: one.name):
        pairs = "".join(_pair(one) for one in members)
        blocks.append(f'<div class="twins"><h3>{escape(name)}</h3><div>{pairs}</div></div>')
    return section("Nearest training images", f'{intro}<div class="neighbours">{"".join(blocks)}</div>')


def _pair(one: Neighbour) -> str:
    (generated,), (real,) = small_pngs(one.generated[None]), small_pngs(one.real[None])
    images = png(generated, f"generated image of class {one.name}") + png(
        real, f"nearest real image of class {one.name}"
    )
    ratio = "" if one.ratio is None else f"<strong>{one.ratio:.2f}×</strong> "
    caption = f"<figcaption>{ratio}<small>{one.distance:.3g}</small></figcaption>"
    return f'<figure><div class="two">{images}</div>{caption}</figure>'


def plane_section(space: FeatureSpace, seen_through: str) -> str:
    """Real and generated images as points."""
    intro = note(
        f"Real and generated images in the features of {seen_through}, on the two directions in which real images vary "
        f"most ({100 * space.explained:.0f} % of their variance). A line joins the centers of a class's real and "
        "generated images. The small figures show and name each class by itself."
    )
    each = "".join(picture(class_figure(space.plane, i)) for i in range(len(space.plane)))
    body = f'{picture(plane_figure(space.plane, space.explained))}<div class="figures small">{each}</div>'
    return section("Feature space", f'{intro}<div class="space">{body}</div>')

"""The methods that an evaluation compares: their keys and what people call them."""

from __future__ import annotations

OURS = "raycondense"
METHOD_NAMES = {
    OURS: OURS,
    "random": "random real",
    "herding": "herding",
    "kmeans": "k-means medoids",
    "pixel-dm": "pixel DM",
    "random-small": "random real, small",
    "kmeans-small": "k-means medoids, small",
    "pixel-dm-small": "pixel DM, small",
    "random-codes": "generator, random codes",
    "initial-codes": "generator, first codes",
    "whole": "whole set",
}
"""Method → its name in tables, in the order of their rows."""
FROM_GENERATOR = (OURS, "random-codes", "initial-codes")
"""Methods whose images a generator makes: ours, and the same generator before condensation."""
FROM_CODES = ("random-codes", "initial-codes")
"""Methods that need the run's generator as it was before condensation."""
SMALL = {"random-small": "random", "kmeans-small": "kmeans", "pixel-dm-small": "pixel-dm"}
"""Methods that put as many small images in the place of each image as the artefact does (``codebook.factor``), and what
chooses them: they tell what the smaller images alone bring."""
FOUND_ONCE = ("herding", "kmeans", "pixel-dm", "kmeans-small", "pixel-dm-small")
"""Methods whose images take long to find; they are found once and every student takes the same."""
DRAWN = ("random", "random-small", "random-codes")
"""Methods that draw other images for every student."""

"""Losses: pure functions of tensors, one file an idea, each with its equation and source.

Each says how values and gradients of workers with different classes add up. All are finite, with finite gradients, for
one code a class, one class, identical features and zero features.
"""

from raycondense.losses.classification import cross_entropy
from raycondense.losses.inter_class import inter_class
from raycondense.losses.intra_class import intra_class, spread
from raycondense.losses.matching import draw_frequencies, matching_characteristic, matching_mean
from raycondense.losses.realism import discriminator_hinge, realism
from raycondense.losses.regression import feature_regression

__all__ = [
    "cross_entropy",
    "discriminator_hinge",
    "draw_frequencies",
    "feature_regression",
    "inter_class",
    "intra_class",
    "matching_characteristic",
    "matching_mean",
    "realism",
    "spread",
]

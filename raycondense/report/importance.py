"""Which parameters of a sweep the accuracy depends on: functional analysis of variance of a random forest.

Hutter, Hoos and Leyton-Brown, *An Efficient Approach for Assessing Hyperparameter Importance*, ICML 2014. A forest is
fitted to the trials. Each of its trees is constant on boxes, so the mean over all other parameters, under the
distribution that the space is sampled from, is an exact sum over leaves (the paper's equations 6 to 8), and so is the
share of the tree's variance that this mean has: the importance of a parameter by itself.

Optuna's evaluator computes the same, but weighs logarithmic ranges uniformly in the value itself, so that nine tenths
of [0.001, 10] lie above 1; here the space counts as it is sampled, with the probability of ``off``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from raycondense.report.scales import snapped, unit_place

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from raycondense.tuning.parameter import Parameter

TREES = 64
"""As many as Optuna's evaluator takes."""
LEAST_TRIALS = 8
"""A forest of fewer says nothing."""


@dataclass(frozen=True, slots=True)
class _Tree:
    """A tree as boxes of the unit cube."""

    low: NDArray[np.float64]
    """Of each leaf, [leaves, parameters]."""
    high: NDArray[np.float64]
    values: NDArray[np.float64]
    """[leaves]."""

    @property
    def volumes(self) -> NDArray[np.float64]:
        return np.asarray((self.high - self.low).prod(axis=1))

    def variance(self) -> float:
        mean = float(self.values @ self.volumes)
        return max(0.0, float(self.values**2 @ self.volumes) - mean**2)

    def marginal(self, index: int, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean over all parameters but one, at places of that one: [places]."""
        others = self.values * self._without(index)
        return np.asarray(self._holds(index, places) @ others)

    def marginal_of_two(
        self, first: int, second: int, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The mean over all parameters but two: [y, x]."""
        others = self.values * self._without(first, second)
        return np.asarray((self._holds(second, y) * others) @ self._holds(first, x).T)

    def share(self, index: int) -> float:
        """The variance of the mean over all parameters but one."""
        edges = np.unique(np.concatenate([self.low[:, index], self.high[:, index]]))
        means = self.marginal(index, (edges[:-1] + edges[1:]) / 2)
        mean = float(self.values @ self.volumes)
        return max(0.0, float(np.diff(edges) @ means**2) - mean**2)

    def _holds(self, index: int, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Whether each leaf reaches over each place: [places, leaves], 0 or 1."""
        at = places[:, None]
        inside = (self.low[:, index] <= at) & ((at < self.high[:, index]) | ((at >= 1) & (self.high[:, index] >= 1)))
        return inside.astype(np.float64)

    def _without(self, *indices: int) -> NDArray[np.float64]:
        rest = [i for i in range(self.low.shape[1]) if i not in indices]
        return np.asarray((self.high - self.low)[:, rest].prod(axis=1))


@dataclass(frozen=True, slots=True)
class Forest:
    """A forest over the space of a sweep.

    Attributes:
        trials: it was fitted to.
        fit: share of the accuracies' variance that it foretells of trials that it has not seen (out of bag, R²); 0 and
            below: it foretells nothing, and its importances mean nothing.
    """

    parameters: tuple[Parameter, ...]
    trials: int
    fit: float
    trees: tuple[_Tree, ...]

    def importances(self) -> dict[str, float]:
        """Path of a parameter → share of the variance that it has by itself, 0 to 1, mean over trees.

        What is missing to 1 comes from several parameters together.
        """
        return {
            parameter.path: float(np.mean([tree.share(i) / tree.variance() for tree in self.trees]))
            for i, parameter in enumerate(self.parameters)
        }

    def plane(self, first: str, second: str, x: Sequence[Any], y: Sequence[Any]) -> NDArray[np.float64]:
        """The accuracy that is expected over all other parameters, at values of two: [y, x]; NaN outside the space."""
        (i, one), (j, other) = self._find(first), self._find(second)
        at = [np.array([unit_place(p, v) for v in values], np.float64) for p, values in ((one, x), (other, y))]
        found = np.asarray(np.mean([tree.marginal_of_two(i, j, *at) for tree in self.trees], axis=0))
        # Outside of the space there is nothing to expect.
        found[:, np.isnan(at[0])] = found[np.isnan(at[1])] = np.nan
        return found

    def _find(self, path: str) -> tuple[int, Parameter]:
        return next((i, p) for i, p in enumerate(self.parameters) if p.path == path)


def fit_forest(
    parameters: Sequence[Parameter], values: Sequence[Mapping[str, Any]], accuracies: Sequence[float], *, seed: int = 0
) -> Forest | None:
    """Fit a forest to trials; None where they are too few, or all alike.

    Args:
        parameters: of the space. Those that had no say in some trial are left out, as in Optuna's evaluator.
        values: of each trial; a trial that lies outside of the space is left out.
        accuracies: of each trial.
        seed: of the forest.
    """
    from sklearn.ensemble import RandomForestRegressor

    rows, targets = [], []
    parameters = [parameter for parameter in parameters if all(parameter.path in point for point in values)]
    for point, accuracy in zip(values, accuracies, strict=True):
        row = [unit_place(parameter, point[parameter.path]) for parameter in parameters]
        if None not in row:
            rows.append(row)
            targets.append(accuracy)
    if not parameters or len(rows) < LEAST_TRIALS or np.ptp(targets) == 0:
        return None
    parameters, places = _ordered(parameters, np.array(rows, np.float64), np.array(targets))
    model = RandomForestRegressor(TREES, oob_score=True, random_state=seed).fit(places, targets)
    trees = [_boxes(estimator.tree_, parameters, places) for estimator in model.estimators_]
    kept = tuple(tree for tree in trees if tree.variance() > 0)
    return Forest(tuple(parameters), len(rows), float(model.oob_score_), kept) if kept else None


def _ordered(
    parameters: Sequence[Parameter], places: NDArray[np.float64], targets: NDArray[np.float64]
) -> tuple[list[Parameter], NDArray[np.float64]]:
    """Choices of words in the order of their mean accuracy, so that a tree can part them as it likes by single splits.

    Breiman, Friedman, Olshen and Stone, *Classification and Regression Trees*, 1984, section 4.2.
    """
    found, columns = [], []
    for parameter, column in zip(parameters, places.T, strict=True):
        if parameter.kind == "choice" and not all(_is_number(choice) for choice in parameter.choices):
            stretch = np.floor(column * len(parameter.choices)).astype(int)
            means = [
                float(targets[stretch == i].mean()) if (stretch == i).any() else float(targets.mean())
                for i in range(len(parameter.choices))
            ]
            order = sorted(range(len(means)), key=means.__getitem__)
            found.append(replace(parameter, choices=tuple(parameter.choices[i] for i in order)))
            columns.append(np.array([(order.index(i) + 0.5) / len(order) for i in stretch]))
        else:
            found.append(parameter)
            columns.append(column)
    return found, np.stack(columns, axis=1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _boxes(tree: Any, parameters: Sequence[Parameter], places: NDArray[np.float64]) -> _Tree:
    """The leaves of scikit-learn's tree as boxes."""
    first = [
        min((place for place in column if place > (parameter.off or 0.0)), default=1.0)
        for parameter, column in zip(parameters, places.T.tolist(), strict=True)
    ]
    boxes = []
    todo = [(0, np.zeros(len(parameters)), np.ones(len(parameters)))]
    while todo:
        node, low, high = todo.pop()
        if tree.children_left[node] < 0:
            boxes.append((low, high, float(tree.value[node].item())))
            continue
        i = int(tree.feature[node])
        split = snapped(parameters[i], float(tree.threshold[node]), first[i])
        left, right = high.copy(), low.copy()
        left[i] = right[i] = split
        todo += [(int(tree.children_left[node]), low, left), (int(tree.children_right[node]), right, high)]
    return _Tree(np.array([b[0] for b in boxes]), np.array([b[1] for b in boxes]), np.array([b[2] for b in boxes]))

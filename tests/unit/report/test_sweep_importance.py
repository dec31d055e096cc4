"""Importances of parameters: against variances that are known, and against Optuna's evaluator."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from raycondense.report.importance import LEAST_TRIALS, Forest, fit_forest
from raycondense.report.scales import snapped, unit_place
from raycondense.tuning.space import Space

Score = Callable[[Mapping[str, Any]], float]


def space(**parameters: Any) -> Space:
    return Space.from_dict({"parameters": {name.replace("__", "."): one for name, one in parameters.items()}})


def forest(read: Space, score: Score, trials: int = 400, seed: int = 0) -> Forest:
    dice = random.Random(seed)
    values = [read.sample(dice) for _ in range(trials)]
    found = fit_forest(read.parameters, values, [score(one) for one in values])
    assert found is not None
    return found


def test_a_sum_has_the_variances_of_its_terms() -> None:
    read = space(losses__ce={"uniform": [0, 1]}, losses__realism={"uniform": [0, 1]}, losses__intra={"uniform": [0, 1]})
    found = forest(read, lambda v: 2 * v["losses.ce"] + v["losses.realism"])
    shares = found.importances()
    # Variances of 2x and y on the unit interval are 4/12 and 1/12.
    assert shares["losses.ce"] == pytest.approx(0.8, abs=0.05)
    assert shares["losses.realism"] == pytest.approx(0.2, abs=0.05)
    assert shares["losses.intra"] < 0.01
    assert sum(shares.values()) <= 1 + 1e-9
    assert found.fit > 0.95
    assert found.trials == 400


def test_what_two_do_only_together_is_no_ones_by_itself() -> None:
    read = space(losses__ce={"uniform": [0, 1]}, losses__realism={"uniform": [0, 1]})
    shares = forest(read, lambda v: (v["losses.ce"] - 0.5) * (v["losses.realism"] - 0.5)).importances()
    assert all(share < 0.15 for share in shares.values()), shares


def test_the_distribution_of_the_space_counts_and_not_that_of_the_trials() -> None:
    """A search looks mostly where it is good; a function's variance over the space does not change by that."""
    read = space(losses__intra={"log": [0.001, 10], "off": 0.5}, losses__ce={"uniform": [0, 1]})
    dice = random.Random(0)
    values = [read.sample(dice) for _ in range(2000)]
    crowded = [one for one in values if one["losses.intra"] > 0][:300] + [
        one for one in values if not one["losses.intra"]
    ][:30]
    found = fit_forest(read.parameters, crowded, [(one["losses.intra"] > 0) + one["losses.ce"] for one in crowded])
    assert found is not None
    # Off with probability 1/2 has variance 1/4, ce has 1/12; among these trials it would be 0.08 against 0.083.
    assert found.importances()["losses.intra"] == pytest.approx(0.75, abs=0.04)


def test_zero_is_a_place_of_its_own_and_not_a_small_number() -> None:
    read = space(losses__intra={"log": [0.001, 10], "off": 0.2}, losses__inter={"log": [0.001, 10], "off": 0.2})
    found = forest(read, lambda v: 0.5 if v["losses.intra"] == 0 else 0.1 * math.log10(v["losses.intra"]))
    plane = found.plane("losses.intra", "losses.inter", [0.0, 0.001, 0.1, 10.0], [0.0, 1.0])
    assert plane.shape == (2, 4)
    assert plane[0] == pytest.approx([0.5, -0.3, -0.1, 0.1], abs=0.02)
    assert plane[1] == pytest.approx(plane[0], abs=0.01)
    # Outside of the space, and in the gap between zero and the range, nothing is expected.
    assert np.isnan(found.plane("losses.intra", "losses.inter", [20.0, 1e-4], [1.0])).all()


def test_choices_of_words_have_no_order() -> None:
    read = space(
        extractors__weights={"choice": ["random", "trained", "blend"]}, losses__ce={"uniform": [0, 1]}
    )  # fmt: skip
    worth = {"random": 0.0, "trained": 1.0, "blend": 0.0}
    found = forest(read, lambda v: worth[v["extractors.weights"]] + 0.1 * v["losses.ce"], trials=60)
    assert found.importances()["extractors.weights"] == pytest.approx(1, abs=0.03)
    plane = found.plane("extractors.weights", "losses.ce", list(worth), [0.5])
    assert plane[0] == pytest.approx([0.05, 1.05, 0.05], abs=0.03)


def test_too_few_trials_or_all_alike_tell_nothing() -> None:
    read = space(losses__ce={"uniform": [0, 1]})
    points = [{"losses.ce": i / 100} for i in range(LEAST_TRIALS)]
    scores = [float(i) for i in range(LEAST_TRIALS)]
    assert fit_forest(read.parameters, points, scores) is not None
    assert fit_forest(read.parameters, points[1:], scores[1:]) is None
    assert fit_forest(read.parameters, points, [0.5] * LEAST_TRIALS) is None
    # A starting point outside of the space does not count.
    assert fit_forest(read.parameters, [{"losses.ce": 2.0}, *points[1:]], scores) is None


def test_a_parameter_that_had_no_say_in_some_trials_is_left_out() -> None:
    read = space(
        extractors__weights={"choice": ["random", "trained"]},
        extractors__train_steps={"int": [10, 200], "when": {"extractors.weights": ["trained"]}},
    )
    shares = forest(read, lambda v: v.get("extractors.train_steps", 0) / 200).importances()
    assert list(shares) == ["extractors.weights"]


def test_the_same_trials_give_the_same_numbers() -> None:
    read = space(losses__ce={"uniform": [0, 1]}, losses__realism={"uniform": [0, 1]})
    first, second = (forest(read, lambda v: v["losses.ce"] * v["losses.realism"], 50) for _ in range(2))
    assert first.importances() == second.importances()


def test_places_are_uniform_under_the_space() -> None:
    """Samples of the space, whatever it is of, are uniform on the unit interval."""
    read = space(
        losses__intra={"log": [0.001, 10], "off": 0.3}, losses__ce={"uniform": [0, 1]},
        codebook__dim={"int": [2, 9], "log": True}, extractors__weights={"choice": ["random", "trained", "blend"]},
        generator__width={"choice": [8, 16]},
    )  # fmt: skip
    dice = random.Random(1)
    samples = [read.sample(dice) for _ in range(4000)]
    for parameter in read.parameters:
        places = np.array([unit_place(parameter, values[parameter.path]) for values in samples], np.float64)
        assert places.min() > 0
        assert places.max() < 1
        assert places.mean() == pytest.approx(0.5, abs=0.03), parameter.path
        # Discrete values stand in the middle of their stretch: the spread is at most that of a uniform number.
        assert places.std() < 12**-0.5 + 0.01
    (intra, _, dim, weights, _) = read.parameters
    assert unit_place(intra, 0) == pytest.approx(0.15)
    assert unit_place(intra, 0.001) == pytest.approx(0.3)
    assert unit_place(intra, 1e-4) is None
    assert unit_place(dim, 10) is None
    assert unit_place(weights, "none") is None
    assert snapped(intra, 0.2, 0.31) == pytest.approx(0.3)
    assert snapped(intra, 0.5, 0.31) == pytest.approx(0.5)
    assert snapped(weights, 0.35, 0.0) == pytest.approx(1 / 3)


def test_on_a_linear_space_shares_are_those_of_optunas_evaluator() -> None:
    optuna = pytest.importorskip("optuna")
    read = space(
        losses__intra={"uniform": [0, 4]}, losses__ce={"uniform": [0, 1]}, codebook__dim={"int": [16, 128]}
    )  # fmt: skip

    def score(v: Mapping[str, Any]) -> float:
        return math.sin(v["losses.intra"]) + v["losses.ce"] * v["codebook.dim"] / 100

    dice = random.Random(2)
    values = [read.sample(dice) for _ in range(150)]
    found = fit_forest(read.parameters, values, [score(one) for one in values])
    assert found is not None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    kinds = {
        "losses.intra": optuna.distributions.FloatDistribution(0, 4),
        "losses.ce": optuna.distributions.FloatDistribution(0, 1),
        "codebook.dim": optuna.distributions.IntDistribution(16, 128),
    }
    study.add_trials([optuna.create_trial(params=one, distributions=kinds, value=score(one)) for one in values])
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    theirs = evaluator.evaluate(study)
    ours = found.importances()
    assert ours.keys() == theirs.keys()
    assert min(ours.values()) > 0.03
    for path, share in ours.items():
        assert share == pytest.approx(theirs[path], abs=0.03), path

"""Axes of a sweep's figures, and what the figures tell in words and marks."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from raycondense.report.figures import Figure
from raycondense.report.scales import OFF_PLACE, Scale, shown
from raycondense.report.space_figures import parallel_figure, plane_figure
from raycondense.report.sweep_figures import front_of, history_figure, importance_figure, pareto_figure, rungs_figure
from raycondense.testing.sweeps import RUNGS, made_sweep
from raycondense.tuning.parameter import Parameter
from raycondense.tuning.records import TrialRecord
from raycondense.tuning.space import Space


def trial(number: int, accuracy: float | None, state: str = "complete", **values: Any) -> TrialRecord:
    known: dict[str, Any] = {"bytes": 1000, "values": {"losses.intra": 0.1, "losses.inter": 0.0}}
    known["rungs"] = () if accuracy is None else ((100, accuracy),)
    return TrialRecord(number=number, accuracy=accuracy, state=state, **{**known, **values})


def words(figure: Figure) -> list[str]:
    """Text of a figure; both themes have the same."""
    light, dark = (re.findall(r"<text[^>]*>([^<]*)</text>", svg.decode()) for svg in (figure.light, figure.dark))
    assert light == dark
    assert figure.light != figure.dark
    return [text.replace("−", "-") for text in light]


INTRA = Parameter(path="losses.intra", kind="float", low=0.001, high=10.0, log=True, off=0.2)


def test_off_stands_apart_from_a_logarithmic_range() -> None:
    scale = Scale.of(INTRA, [0.1, 0.0])
    assert [scale.place(value) for value in (0.001, 0.1, 10.0)] == pytest.approx([0, 0.5, 1])
    assert scale.place(0.0) == scale.place(0) == OFF_PLACE < -0.1
    assert [text for _, text in scale.ticks()] == ["off", "0.001", "0.01", "0.1", "1", "10"]
    assert scale.value(scale.place(0.37)) == pytest.approx(0.37)


def test_off_is_there_where_a_start_is_zero_though_the_space_has_none() -> None:
    plain = Parameter(path="losses.intra", kind="float", low=0.01, high=1.0, log=True)
    assert Scale.of(plain, [0.5]).aside == ""
    scale = Scale.of(plain, [0.0, 5.0])
    assert scale.aside == "off"
    # A starting point beyond the range widens the axis.
    assert scale.place(5.0) == pytest.approx(1)
    assert scale.place(1.0) < 1
    # Where zero is in the range it is nothing special.
    linear = Parameter(path="losses.ce", kind="float", low=0.0, high=1.0)
    assert Scale.of(linear, [0.0]).place(0.0) == 0
    assert Scale.of(linear, [0.0]).aside == ""


def test_a_parameter_without_a_say_stands_apart_too() -> None:
    assert Scale.of(INTRA, [None]).aside == "off / unused"
    choice = Parameter(path="extractors.weights", kind="choice", choices=("random", "trained"))
    scale = Scale.of(choice, [None, "random"])
    assert scale.aside == "unused"
    assert [(place, text) for place, text in scale.ticks()] == [
        (OFF_PLACE, "unused"), (0.25, "random"), (0.75, "trained")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0.0, 1.0, False, ["0", "0.25", "0.5", "0.75", "1"]),
        (16, 128, True, ["20", "50", "100"]),
        (1e-5, 1e-2, True, ["1e-5", "1e-4", "0.001", "0.01"]),
        (1e-9, 1.0, True, ["1e-9", "1e-7", "1e-5", "0.001", "0.1"]),
        (3.0, 3.1, False, ["3", "3.02", "3.05", "3.08", "3.1"]),
        (200, 5000, False, ["2000", "4000"]),
    ],
)
def test_ticks_are_few_and_round(low: float, high: float, log: bool, expected: list[str]) -> None:
    kind: Any = "float" if isinstance(low, float) else "int"
    scale = Scale.of(Parameter(path="x", kind=kind, low=low, high=high, log=log))
    assert [text for _, text in scale.ticks()] == expected
    assert all(-0.01 <= place <= 1.01 for place, _ in scale.ticks())


def test_values_are_short() -> None:
    assert [shown(v) for v in (0, 0.12345, 1.0, 4e-5, 123456.0, 64, 100000, True, "blend", None)] == [
        "0", "0.123", "1", "4e-5", "1.2e5", "64", "100000", "True", "blend", "unused"
    ]  # fmt: skip


def test_the_best_so_far_saw_all_images() -> None:
    trials = [
        trial(0, 0.5), trial(1, 0.9, "stopped"), trial(2, 0.4), trial(3, 0.0, "diverged"), trial(4, 0.6),
        trial(5, 0.3, "running"), trial(6, None, "failed"),
    ]  # fmt: skip
    figure = history_figure(trials, own=0)
    assert "of 5 trials" in figure.alt
    assert "from 50.0 to 60.0 %, 2 without" in figure.alt
    text = words(figure)
    assert text[-7:] == [
        "best so far", "finished", "stopped early", "running", "diverged", "failed", "configuration's own"
    ]  # fmt: skip
    # The diverged trial's 0 % is a mark below, not a number that squeezes all others.
    assert "0" not in [t for t in text[text.index("trial") + 1 :] if t.isdigit()]
    assert "configuration's own" not in words(history_figure(trials, own=None))


def test_history_of_nothing_but_failures() -> None:
    figure = history_figure([trial(0, None, "failed"), trial(1, 0.0, "diverged")], own=0)
    assert "of 0 trials" in figure.alt
    assert "failed" in words(figure)


def test_rungs_name_the_best_and_count_who_came_how_far() -> None:
    trials = [
        trial(3, 0.6, rungs=((100, 0.3), (300, 0.5), (900, 0.6))),
        trial(4, 0.4, "stopped", rungs=((100, 0.4),)),
        trial(5, 0.0, "diverged", rungs=((100, 0.4),)),
    ]
    figure = rungs_figure(trials, [3], [100, 300, 900])
    assert "of 2 trials at up to 3 rungs, 1 of them reached the last" in figure.alt
    text = words(figure)
    assert {"100", "300", "900", "trial 3"} <= set(text)
    assert "trial 4" not in text


def test_importances_stand_in_order_with_what_is_left() -> None:
    figure = importance_figure({"a.x": 0.1, "b.y": 0.65})
    text = words(figure)
    assert [t for t in text if t in ("a.x", "b.y", "several together")] == ["b.y", "a.x", "several together"]
    assert [t for t in text if t.endswith("%") and t[0].isdigit()] == ["65 %", "10 %", "25 %"]
    assert figure.alt == "Importances: b.y 65 %; a.x 10 %; several together 25 %"


def test_the_front_is_of_complete_trials() -> None:
    trials = [
        trial(0, 0.5, bytes=1000), trial(1, 0.6, bytes=3000), trial(2, 0.55, bytes=4000),
        trial(3, 0.9, "stopped", bytes=10), trial(4, 0.5, bytes=1500), trial(5, 0.7, bytes=None),
    ]  # fmt: skip
    assert [one.number for one in front_of(trials)] == [1, 0]
    figure = pareto_figure(trials)
    assert figure.alt == (
        "Pareto front of accuracy and bytes: trial 0 50.0 % in 1.0 kB; trial 1 60.0 % in 3.0 kB"
    )  # fmt: skip
    assert {"0", "1"} <= set(words(figure))


def test_parallel_coordinates_have_an_axis_for_each_parameter(tmp_path: Path) -> None:
    folder = made_sweep(tmp_path / "sweep")
    space = Space.from_dict(folder.describe()["space"])
    figure = parallel_figure(space.parameters, folder.trials())
    text = words(figure)
    paths = [parameter.path for parameter in space.parameters]
    assert [t for t in text if t in (*paths, "validation accuracy %")] == [*paths, "validation accuracy %"]
    assert text.count("off") == 2
    assert {"random", "trained", "blend"} <= set(text)
    assert "Parallel coordinates of 30 trials" in figure.alt
    best = max((t for t in folder.trials() if t.state == "complete"), key=lambda t: t.accuracy or 0)
    assert f"codebook.dim {best.values['codebook.dim']}" in figure.alt
    # Diverged and failed trials are dashed.
    assert figure.light.decode().count("stroke-dasharray") == 5


def test_a_plane_of_two_weights_has_off_on_both_axes(tmp_path: Path) -> None:
    folder = made_sweep(tmp_path / "sweep", trials=12)
    space = Space.from_dict(folder.describe()["space"])
    figure = plane_figure(
        space.parameter("losses.intra"), space.parameter("losses.inter"), folder.trials(), None
    )  # fmt: skip
    text = words(figure)
    assert text.count("off") == 2
    assert {"losses.intra", "losses.inter", "validation accuracy %"} <= set(text)


def test_one_trial_is_enough() -> None:
    inter = Parameter(path="losses.inter", kind="float", low=0.001, high=10.0, log=True, off=0.2)
    only = [trial(0, 0.5)]
    assert "the best, 50.0 %, at 0.1 by 0" in plane_figure(INTRA, inter, only, None).alt
    assert "of 1 trials" in parallel_figure([INTRA, inter], only).alt
    assert math.isclose(Scale.of(INTRA, [0.1]).place(0.1), 0.5)
    for figure in (history_figure(only, 0), rungs_figure(only, [0], RUNGS), pareto_figure(only)):
        assert words(figure)

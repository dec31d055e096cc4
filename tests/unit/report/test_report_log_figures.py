"""A run's log as curves, and figures of curves and accuracies."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from raycondense.evaluation.result import Row
from raycondense.report.figures import MOST_POINTS, Figure, accuracy_figure, loss_figure
from raycondense.report.log import Curve, read_log

SVG = "{http://www.w3.org/2000/svg}"


def write(path: Path, *records: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def record(images: int, value: float = 1.0, stage: str = "condense") -> dict[str, object]:
    return {"stage": stage, "step": images, "images": images, "loss/match": value, "images_per_second": 5.0}


def texts(svg: bytes) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def row(method: str, ipc: int, accuracy: float, std: float | None = 0.02) -> Row:
    return Row(
        method=method, architecture="convnet", ipc=ipc, accuracy=accuracy, std=std, students=3, images=10, bytes=100,
        steps=5, seconds=1.0,
    )  # fmt: skip


def test_losses_of_each_stage_become_curves(tmp_path) -> None:
    path = write(
        tmp_path / "log", record(5, 3.0, "reconstruct"), record(9, 2.0, "reconstruct"), record(4), record(8, 0.5)
    )
    curves = read_log(path).curves()
    assert curves == [
        Curve("reconstruct", "match", (5.0, 9.0), (3.0, 2.0)),
        Curve("condense", "match", (4.0, 8.0), (1.0, 0.5)),
    ]


def test_what_a_resumed_run_did_again_is_shown_once(tmp_path) -> None:
    path = write(tmp_path / "log", record(10, 5.0), record(20, 4.0), record(30, 3.0), record(20, 4.5), record(30, 3.5))
    (curve,) = read_log(path).curves()
    assert curve.images == (10.0, 20.0, 30.0)
    assert curve.values == (5.0, 4.5, 3.5)


def test_a_log_that_is_absent_damaged_or_too_short_draws_nothing(tmp_path) -> None:
    assert read_log(tmp_path / "absent").curves() == []
    path = write(tmp_path / "log", record(10), {"note": "no clock"}, {"stage": "condense", "images": 20, "loss/x": 1.0})
    path.write_text(path.read_text() + '{"half a li\n' + "[1]\n")
    log = read_log(path)
    assert log.damaged == 3
    assert log.curves() == []


def test_values_that_are_not_finite_are_left_out(tmp_path) -> None:
    path = write(tmp_path / "log", record(10), record(20, float("nan")), record(30, 2.0))
    (curve,) = read_log(path).curves()
    assert curve.images == (10.0, 30.0)


def test_a_loss_figure_is_the_same_for_the_same_numbers_and_fetches_nothing() -> None:
    curve = Curve("condense", "match", (0.0, 500_000.0, 1_000_000.0), (3.0, 2.0, 1.5))
    figure = loss_figure(curve)
    assert figure == loss_figure(curve)
    assert figure.light != figure.dark
    assert figure.alt == "Loss match in stage condense: from 3 to 1.5"
    for svg in (figure.light, figure.dark):
        assert {"match", "images seen", "1M"} <= set(texts(svg))
        assert b"DOCTYPE" not in svg
        links = [v for e in ElementTree.fromstring(svg).iter() for k, v in e.attrib.items() if k.endswith("href")]
        assert all(link.startswith("#") for link in links)


def test_a_long_curve_is_thinned_and_keeps_its_last_value() -> None:
    n = 10 * MOST_POINTS + 3
    values = [1.0] * (n - 1) + [50.0]
    long = loss_figure(Curve("condense", "match", tuple(map(float, range(n))), tuple(values)))
    assert len(long.light) < 60_000
    assert "50" in texts(long.light)  # the axis reaches it


@pytest.mark.parametrize("std", [0.02, None])
def test_accuracies_are_written_beside_their_bars(std) -> None:
    rows = [row("raycondense", 1, 0.412, std), row("random real", 1, 0.3, std), row("raycondense", 10, 0.671, std)]
    figure: Figure = accuracy_figure([*rows, row("whole set", 0, 0.848)])
    found = texts(figure.light)
    for expected in ("raycondense, IPC 1", "random real, IPC 1", "41.2", "30.0", "67.1", "whole set: 84.8"):
        assert expected in found
    assert "random real, IPC 1 30.0" in figure.alt
    assert "whole set 84.8 ± 2.0 %" in figure.alt


def test_the_whole_set_alone_is_a_bar() -> None:
    assert "whole set" in texts(accuracy_figure([row("whole set", 0, 0.5)]).dark)

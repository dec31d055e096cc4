"""A run's log as curves, and figures of losses and accuracies."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from raycondense.evaluation.methods import METHOD_NAMES
from raycondense.evaluation.result import Row
from raycondense.report.curves import MARKERS, bars_figure, bytes_figure, ipc_figure
from raycondense.report.figures import DARK, LIGHT, MOST_POINTS, loss_figure
from raycondense.report.log import Curve, read_log

SVG = "{http://www.w3.org/2000/svg}"


def write(path: Path, *records: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def record(images: int, value: float = 1.0, stage: str = "condense") -> dict[str, object]:
    return {"stage": stage, "step": images, "images": images, "loss/match": value, "images_per_second": 5.0}


def texts(svg: bytes) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def row(method: str, ipc: int, accuracy: float, std: float | None = 0.02, **values: Any) -> Row:
    known: dict[str, Any] = {"students": 3, "images": 10, "bytes": 100, "steps": 5, "seconds": 1.0, **values}
    return Row(method=method, architecture="convnet", ipc=ipc, accuracy=accuracy, std=std, **known)


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
    figure = bars_figure([row("raycondense", 1, 0.412, std), row("random", 1, 0.3, std), row("whole", 0, 0.848)])
    assert {"raycondense", "random real", "41.2", "30.0", "whole set: 84.8"} <= set(texts(figure.light))
    assert "random real, IPC 1 30.0" in figure.alt
    assert "whole set 84.8 ± 2.0 %" in figure.alt


def test_the_whole_set_alone_is_a_bar() -> None:
    assert "whole set" in texts(bars_figure([row("whole", 0, 0.5)]).dark)


ROWS = (
    row("raycondense", 1, 0.4), row("raycondense", 50, 0.7, None), row("random", 1, 0.3), row("random", 50, 0.5),
    row("raycondense", 50, 0.8, accounting="stream"), row("whole", 0, 0.9),
)  # fmt: skip


def test_accuracy_against_images_per_class_has_a_line_a_method() -> None:
    figure = ipc_figure(ROWS)
    assert {"1", "50", "raycondense", "raycondense (stream)", "random real", "whole set"} <= set(texts(figure.light))
    assert "raycondense (stream), IPC 50 80.0 ± 2.0 %" in figure.alt
    assert figure == ipc_figure(ROWS)
    assert figure.light != figure.dark


def test_pixels_by_bytes_are_not_drawn_twice() -> None:
    again = (*ROWS, row("random", 1, 0.3, accounting="bytes"), row("raycondense", 1, 0.6, accounting="bytes"))
    found = set(texts(ipc_figure(again).light))
    assert "raycondense (bytes)" in found
    assert "random real (bytes)" not in found
    assert "random real (bytes)" not in texts(bars_figure(again).light)


def test_accuracy_against_bytes_has_marks_in_bytes() -> None:
    rows = [row("raycondense", 1, 0.4, bytes=2_000), row("random", 1, 0.3, bytes=1_500_000), row("whole", 0, 0.9)]
    found = set(texts(bytes_figure(rows).light))
    assert {"10 kB", "100 kB", "1 MB", "raycondense", "random real", "whole set"} <= found
    near = [row("raycondense", 1, 0.4, bytes=1_000), row("random", 1, 0.3, bytes=3_000)]
    assert {"1 kB", "2 kB"} <= set(texts(bytes_figure(near).light))


def test_every_method_has_a_marker_and_a_colour_of_its_own() -> None:
    count = len(METHOD_NAMES)
    assert len(set(MARKERS[:count])) == count
    for theme in (LIGHT, DARK):
        assert len(set(theme.series[:count])) == count


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_lines_and_text_stand_out_from_the_page(theme) -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(colour: str) -> float:
        low, high = sorted((luminance(colour), luminance(theme.card)))
        return (high + 0.05) / (low + 0.05)

    assert min(map(contrast, theme.series)) >= 3  # of WCAG 2, for graphics
    assert min(contrast(theme.ink), contrast(theme.muted)) >= 4.5  # and for text

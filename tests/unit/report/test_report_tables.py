"""Numbers on the page: which stand together, what they mean, what failed."""

from __future__ import annotations

import dataclasses
from typing import Any

from raycondense.config import ACCOUNTINGS
from raycondense.evaluation.columns import DIAGNOSTICS
from raycondense.report.curves import DASHES
from raycondense.report.html import write_report
from raycondense.report.scores import BANDS, MEASURES

from .page import Page, row


def test_methods_stand_below_each_other_and_images_per_class_side_by_side(run, evaluation) -> None:
    rows = (
        row("raycondense", 1, 0.4), row("random", 1, 0.3, std=None), row("raycondense", 10, 0.6),
        row("raycondense", 10, 0.7, accounting="stream"), row("random", 50, 0.5), row("whole", 0, 0.8),
    )  # fmt: skip
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, rows=rows)))
    assert page.tables["Accuracies in %, convnet students"] == [
        ["accuracy %", "IPC 1", "IPC 10", "IPC 50"],
        [BANDS["bank"]],
        ["raycondense", "40.0 ± 1.2", "60.0 ± 1.2", "–"],
        ["random real", "30.0", "–", "50.0 ± 1.2"],
        ["whole set", "80.0 ± 1.2"],
        [BANDS["stream"]],
        ["raycondense", "–", "70.0 ± 1.2", "–"],
    ]
    one = dataclasses.replace(evaluation, rows=(row("whole", 0, 0.8), row("random", 1, 0.5)))
    assert Page(write_report(run, evaluation=one)).tables["Accuracies in %, convnet students"] == [
        ["accuracy %", "IPC 1"],
        ["random real", "50.0 ± 1.2"],
        ["whole set", "80.0 ± 1.2"],
    ]


def test_pixels_by_bytes_stand_only_beside_generators(run, evaluation) -> None:
    rows = (row("raycondense", 2, 0.4), row("random", 2, 0.3), row("random", 2, 0.3, accounting="bytes"))
    label = "Accuracies in %, convnet students"
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, rows=rows)))
    assert [line[0] for line in page.tables[label]] == ["accuracy %", "raycondense", "random real"]
    rows = (*rows, row("raycondense", 2, 0.5, accounting="bytes"))
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, rows=rows)))
    assert [line[0] for line in page.tables[label]][3:] == [
        "random real", BANDS["bytes"], "raycondense", "random real"
    ]  # fmt: skip


def test_every_accounting_has_a_heading() -> None:
    assert set(BANDS) == set(ACCOUNTINGS) == set(DASHES)


def test_what_may_not_be_compared_has_tables_of_its_own(run, evaluation) -> None:
    rows = (
        row("raycondense", 2, 0.4), row("raycondense", 2, 0.6, labels="soft", teacher_bytes=2000, label_bytes=3000),
        row("raycondense", 2, 0.3, augmented=False), row("raycondense", 2, 0.5, "vit"),
    )  # fmt: skip
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, rows=rows)))
    found = {label: lines[1][1] for label, lines in page.tables.items() if label.startswith("Accuracies")}
    assert found == {
        "Accuracies in %, convnet students": "40.0 ± 1.2",
        "Accuracies in %, convnet students, soft labels": "60.0 ± 1.2",
        "Accuracies in %, convnet students, without augmentation": "30.0 ± 1.2",
        "Accuracies in %, vit students": "50.0 ± 1.2",
    }


def test_all_columns_are_there_and_only_where_they_say_something(run, evaluation) -> None:
    rows = (
        row("raycondense", 2, 0.4, hlr=0.1234, ior=0.05, lrs=0.26, ars=None, generation_seconds=2.5, images=1234567),
        row("raycondense", 2, 0.6, labels="soft", teacher_bytes=2000, label_bytes=3_000_000, accounting="bytes"),
    )
    table = Page(write_report(run, evaluation=dataclasses.replace(evaluation, rows=rows))).tables[
        "All columns of all rows"
    ]
    hard, soft = (dict(zip(table[0], line, strict=True)) for line in table[1:])
    assert hard["HLR"] == "0.123"
    assert hard["accuracy %"] == "40.0 ± 1.2"
    assert (hard["images"], hard["size"]) == ("1,234,567", "1.0 kB")
    assert "2.50" in hard.values()
    assert (soft["labels"], soft["accounting"], soft["HLR"]) == ("soft", "bytes", "–")
    assert (soft["teacher"], soft["label bytes"]) == ("2.0 kB", "3.0 MB")
    assert "ARS" not in table[0]
    plain = Page(write_report(run, evaluation=evaluation)).tables["All columns of all rows"][0]
    assert not {"HLR", "labels", "teacher", "label bytes"} & set(plain)


def test_scores_stand_with_what_they_mean(run, evaluation) -> None:
    rows = (
        row("raycondense", 2, 0.4, hlr=0.1234, ior=0.05), row("random", 2, 0.4, ior=0.0),
        row("raycondense", 2, 0.4, accounting="stream", hlr=0.1), row("raycondense", 10, 0.4, "vit", hlr=-0.2),
    )  # fmt: skip
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, rows=rows)))
    assert page.tables["Scores of raycondense"] == [
        ["", "HLR", "IOR"],
        ["convnet students"],
        ["IPC 2", "0.123", "0.050"],
        ["IPC 2 stream", "0.100", "–"],
        ["vit students"],
        ["IPC 10", "-0.200", "–"],
    ]
    assert "hard-label recovery" in page.text
    assert "augmentation-robust score" not in page.text.partition("Against real images")[2]
    assert "Scores of raycondense" not in Page(write_report(run, evaluation=evaluation)).tables


def diagnostics(method: str, ipc: int, **values: float | None) -> dict[str, Any]:
    measured = dict.fromkeys(DIAGNOSTICS, 0.5)
    return {
        "method": method,
        "ipc": ipc,
        "accounting": "bank",
        "reference": "vit, 400 steps",
        **measured,
        **values,
    }


def test_diagnostics_stand_with_a_line_on_each_column(run, evaluation) -> None:
    found = (
        diagnostics("raycondense", 1, spread_ratio=None), diagnostics("random", 1, spread_ratio=None),
        diagnostics("raycondense", 10, spread_ratio=0.98765),
    )  # fmt: skip
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, diagnostics=found)))
    lines = page.tables["Diversity and realism"]
    assert lines[0] == ["images of", *DIAGNOSTICS.values()]
    assert [line[:2] for line in lines[1:]] == [
        ["IPC 1"], ["raycondense", "–"], ["random real", "–"], ["IPC 10"], ["raycondense", "0.988"]
    ]  # fmt: skip
    assert "trained on the real images (vit, 400 steps)" in page.text
    assert all(MEASURES[name] in page.text for name in DIAGNOSTICS)
    # A column of nothing but dashes tells nothing.
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, diagnostics=found[:2])))
    assert DIAGNOSTICS["spread_ratio"] not in page.tables["Diversity and realism"][0]
    assert "Diversity and realism" not in Page(write_report(run, evaluation=evaluation)).text


def test_what_failed_stands_first_and_as_text(run, evaluation) -> None:
    failed = {"label": "pixel DM <images>", "error": "out of memory"}
    broken = dataclasses.replace(evaluation, failures=(failed,), missing=("no first codes",))
    page = Page(write_report(run, evaluation=broken))
    assert page.text.index("pixel DM <images>: out of memory") < page.text.index("convnet students")
    assert "no first codes" in page.text
    assert "Attention" not in Page(write_report(run, evaluation=evaluation)).text
    many = tuple({"label": f"work {i}", "error": "lost"} for i in range(30))
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, failures=many)))
    assert page.text.index("work 4: lost") < page.text.index("and 25 more") < page.text.index("work 5: lost")
    assert "work 29: lost" in page.text

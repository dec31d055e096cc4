"""The leaderboard: numbers by hand, scores only between what was measured alike, and what a user asks for."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from raycondense.errors import ConfigError
from raycondense.evaluation.leaderboard import COLUMNS, ENTRIES, ORDER, SHOWN, entries, leaderboard
from raycondense.evaluation.schemas import MEASURES
from raycondense.evaluation.store import Store
from raycondense.testing.results import made_row

NUMBERS = itertools.count(10_000)
SHARED: dict[str, Any] = {
    "dataset": "digits", "split": "test", "protocol": "dm", "architecture": "convnet", "accounting": "bank",
    "labels": "hard", "augmented": True, "teacher_bytes": 0,
    "label_bytes": 0, "test_sha256": "7e57", "train_sha256": "7ea1", "recipe_sha256": "dm-hard",
    "schedule_sha256": "dm", "set_sha256": None, "source_sha256": "7ea1", "artifact_sha256": None,
}  # fmt: skip


def students(method: str, accuracies: list[float], ipc: int = 10, **values: Any) -> list[dict[str, Any]]:
    """Rows of one entry."""
    rows = []
    for student, accuracy in enumerate(accuracies):
        row = made_row(next(NUMBERS), method=method, ipc=ipc, accuracy=accuracy, **SHARED)
        rows.append({**row, "student": student, **values})
    return rows


def one(found: list[dict[str, Any]], **values: Any) -> dict[str, Any]:
    (entry,) = [entry for entry in found if all(entry[name] == value for name, value in values.items())]
    return entry


def normalised(value: float) -> float:
    return (math.exp(value) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "board")
    rows = [
        *students("raycondense", [0.40, 0.50, 0.60], source_sha256="a", artifact_sha256="a", bytes=1500, seconds=2.0),
        *students("random", [0.30, 0.32], bytes=2500),
        *students("whole", [0.90], ipc=0, bytes=10**6),
        *students("raycondense", [0.2], ipc=1, source_sha256="a", artifact_sha256="a", loss=None),
    ]
    diagnosis = made_row(1, "diagnostics", method="kmeans", coverage=0.25, density=None, source="train|x.beton")
    store.record([{"table": "results", **row} for row in rows] + [{"table": "diagnostics", **diagnosis}])
    return store


# Entries.


def test_an_entry_is_mean_and_deviation_over_students():
    rows = students("raycondense", [0.40, 0.50, 0.60], bytes=1500)
    rows[0] |= {"seconds": 1.0, "train_seconds": 0.5, "generation_seconds": 0.25, "loss": None}
    rows[1] |= {"seconds": 2.0, "train_seconds": 1.5, "generation_seconds": 0.0}
    rows[2] |= {"seconds": 6.0, "train_seconds": 4.0, "generation_seconds": 0.5, "finished_at": 1.8e9}
    rows[2] |= {"source": "moved/here"}
    (entry,) = entries(rows)
    assert list(entry) == list(ENTRIES)
    assert entry["accuracy"] == pytest.approx(0.5)
    assert entry["std"] == pytest.approx(0.1)
    assert (entry["students"], entry["diverged"]) == (3, 1)
    assert (entry["seconds"], entry["train_seconds"], entry["generation_seconds"]) == (3.0, 2.0, 0.25)
    assert (entry["finished_at"], entry["source"], entry["bytes"]) == (1.8e9, "moved/here", 1500)


def test_one_student_has_no_deviation():
    (entry,) = entries(students("random", [0.25]))
    assert (entry["accuracy"], entry["std"], entry["students"]) == (0.25, None, 1)


@pytest.mark.parametrize(
    "difference",
    [
        {"method": "kmeans"}, {"architecture": "resnet18"}, {"ipc": 1}, {"accounting": "bytes"}, {"labels": "soft"},
        {"augmented": False}, {"recipe_sha256": "other"}, {"test_sha256": "other"}, {"train_sha256": "other"},
        {"source_sha256": "other"}, {"set_sha256": "other"}, {"bytes": 77}, {"split": "val"},
    ],
)  # fmt: skip
def test_what_was_measured_otherwise_is_another_entry(difference: dict[str, Any]):
    assert len(entries(students("random", [0.1, 0.2]) + students("random", [0.3]))) == 1
    other = [{**row, **difference} for row in students("random", [0.3, 0.4])]
    found = entries(students("random", [0.1, 0.2]) + other)
    assert sorted(round(entry["accuracy"], 6) for entry in found) == [0.15, 0.35]


@pytest.mark.parametrize("difference", [{"source": "elsewhere"}, {"device": "b"}, {"seconds": 9.0}, {"dataset": "b"}])
def test_where_and_how_fast_makes_no_other_entry(difference: dict[str, Any]):
    rows = students("random", [0.1, 0.2])
    rows[1] |= difference
    assert len(entries(rows)) == 1


def test_a_student_counts_once_the_newest():
    old = [{**row, "finished_at": 1e9} for row in students("pixel-dm", [0.1, 0.1, 0.4])]
    new = [{**row, "finished_at": 2e9} for row in students("pixel-dm", [0.2, 0.3])]
    for rows in (old + new, new + old):
        (entry,) = entries(rows)
        assert entry["students"] == 3
        assert entry["accuracy"] == pytest.approx(0.3)


# Scores.


def test_scores_by_hand():
    plain = {"augmented": False, "recipe_sha256": "dm-plain"}
    found = entries(
        [
            *students("raycondense", [0.5, 0.7], source_sha256="a"),
            *students("raycondense", [0.5], source_sha256="a", **plain),
            *students("random", [0.4]),
            *students("random", [0.25], **plain),
            *students("whole", [0.9], ipc=0),
        ]
    )
    ours = one(found, method="raycondense", augmented=True)
    assert ours["hlr"] == pytest.approx(0.3)
    assert ours["ior"] == pytest.approx(0.2)
    assert ours["lrs"] == pytest.approx(normalised(0.5 * 0.2 - 0.5 * 0.3))
    assert ours["ars"] == pytest.approx(normalised(0.5 * 0.2 + 0.5 * 0.25))
    assert one(found, method="random", augmented=True)["ior"] == 0
    assert one(found, method="whole")["hlr"] is None


def test_soft_labels_are_scored_by_hard_ones_of_the_same_schedule():
    soft = {"labels": "soft", "recipe_sha256": "s"}
    rows = [
        *students("raycondense", [0.8], source_sha256="a", **soft),
        *students("raycondense", [0.5], source_sha256="a"),
        *students("random", [0.7], **soft),
        *students("whole", [0.9], ipc=0),
    ]
    found = one(entries(rows), labels="soft", method="raycondense")
    assert found["hlr"] == pytest.approx(0.4)
    assert found["ior"] == pytest.approx(0.1)
    # Rows of old stores do not say their schedule: then only what has the same recipe is compared.
    unsaid = one(entries([{**row, "schedule_sha256": None} for row in rows]), labels="soft", method="raycondense")
    assert unsaid["hlr"] is None
    assert unsaid["ior"] == pytest.approx(0.1)


def test_with_two_recipes_that_fit_only_the_same_recipe_is_compared():
    plain = {"augmented": False}
    rows = [
        *students("raycondense", [0.5], source_sha256="a"),
        *students("random", [0.4]),
        *students("raycondense", [0.4], source_sha256="a", recipe_sha256="plain", **plain),
        *students("random", [0.3], recipe_sha256="plain", **plain),
    ]
    assert one(entries(rows), method="raycondense", augmented=True)["ars"] == pytest.approx(normalised(0.1))
    other = students("random", [0.1], recipe_sha256="augmented-otherwise")
    found = one(entries(rows + other), method="raycondense", augmented=True)
    assert found["ars"] is None
    assert found["ior"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    "difference",
    [
        {"test_sha256": "other"}, {"train_sha256": "other"}, {"architecture": "vgg11"}, {"split": "val"},
        {"schedule_sha256": "other", "recipe_sha256": "other"}, {"ipc": 50}, {"accounting": "bytes"},
    ],
)  # fmt: skip
def test_nothing_is_scored_against_what_was_measured_otherwise(difference: dict[str, Any]):
    ours = students("raycondense", [0.5], source_sha256="a")
    assert one(entries(ours + students("random", [0.4])), method="raycondense")["ior"] == pytest.approx(0.1)
    other = [{**row, **difference} for row in students("random", [0.4])]
    assert one(entries(ours + other), method="raycondense")["ior"] is None


def test_artefacts_of_one_store_do_not_mix():
    rows = [
        *students("raycondense", [0.5], source_sha256="a"),
        *students("raycondense", [0.6], source_sha256="b"),
        *students("random", [0.4]),
        *students("whole", [0.9], ipc=0),
    ]
    found = entries(rows)
    assert one(found, source_sha256="a")["hlr"] == pytest.approx(0.4)
    assert one(found, source_sha256="b")["hlr"] == pytest.approx(0.3)


def test_two_references_that_fit_give_no_score():
    rows = [
        *students("raycondense", [0.5], source_sha256="a"),
        *students("random", [0.4]),
        *students("random", [0.3], set_sha256="cropped"),
    ]
    assert one(entries(rows), method="raycondense")["ior"] is None


# As text.


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_and_json_have_every_column_raw(store: Store):
    for view in ("entries", "students", "diagnostics"):
        rows = json.loads(leaderboard(store, view, format="json"))
        lines = parsed(leaderboard(store, view, format="csv"))
        assert len(rows) == len(lines) == {"entries": 4, "students": 7, "diagnostics": 1}[view]
        for row, line in zip(rows, lines, strict=True):
            assert list(row) == list(line) == list(COLUMNS[view])
            for name, value in row.items():
                text = str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
                assert line[name] == text, name
    whole = next(row for row in json.loads(leaderboard(store, format="json")) if row["method"] == "whole")
    assert whole["accuracy"] == 0.9
    assert whole["ipc"] == 0
    assert whole["std"] is None
    assert whole["augmented"] is True
    assert whole["finished_at"] == "2023-11-14T22:13:20.125+00:00"


def test_the_table_is_for_people(store: Store):
    lines = leaderboard(store).splitlines()
    assert lines[0].split() == [
        "method", "architecture", "ipc", "accuracy", "%", "hlr", "ior", "lrs", "students", "diverged",
        "images", "bytes", "seconds",
    ]  # fmt: skip
    assert lines[2].split()[:7] == ["whole", "convnet", "0", "90.0", "–", "–", "–"]
    (ours,) = [line for line in lines if "50.0 ± 10.0" in line]
    assert ours.split()[:3] == ["raycondense", "convnet", "10"]
    assert "0.400  0.190" in ours
    assert "1.5 kB" in ours
    assert "- dataset: digits, split: test, protocol: dm, accounting: bank, labels: hard, augmented: yes" in lines
    assert not any("|" in line for line in lines)


def test_markdown_has_a_rule_and_the_same_width_everywhere(store: Store):
    lines = leaderboard(store, "diagnostics", format="markdown").splitlines()
    assert lines[0].startswith("| method |")
    assert set(lines[1]) == set("|-: ")
    assert len({len(line) for line in lines[:3]}) == 1
    assert "train\\|x.beton" in lines[2]
    assert "25.0" in lines[2]
    assert "density" not in lines[0]
    assert "train|x.beton" in leaderboard(store, "diagnostics")


def test_columns_in_which_rows_differ_are_shown(store: Store):
    row = students("random", [0.5], labels="soft", recipe_sha256="soft", label_bytes=7000)[0]
    store.record([{"table": "results", **row}])
    head = leaderboard(store).splitlines()[0].split()
    assert {"labels", "label_bytes", "diverged"} <= set(head)
    assert not {"accounting", "teacher_bytes"} & set(head)
    assert "diverged" not in leaderboard(store, where=["ipc=10"])


def test_columns_are_as_asked(store: Store):
    text = leaderboard(store, columns="ipc, method,source_sha256,std,accuracy", where=["ipc=10"], format="markdown")
    assert [cell.strip() for cell in text.splitlines()[0].strip("|").split("|")] == [
        "ipc", "method", "source_sha256", "std %", "accuracy %",
    ]  # fmt: skip
    assert "50.0 ±" not in text
    assert leaderboard(store, columns="method", where=["ipc=0"], format="csv") == "method\nwhole\n"


@pytest.mark.parametrize(
    ("where", "left"),
    [
        (["ipc=10"], ["raycondense 10", "random 10"]),
        (["ipc!=10"], ["raycondense 1", "whole 0"]),
        (["ipc=0,1"], ["raycondense 1", "whole 0"]),
        (["ipc>=1", "ipc<10"], ["raycondense 1"]),
        (["accuracy > 0.5"], ["whole 0"]),
        (["accuracy>=50%"], ["raycondense 10", "whole 0"]),
        (["accuracy<=20%"], ["raycondense 1"]),
        (["method=random,whole"], ["random 10", "whole 0"]),
        (["method=ra*", "method!=random"], ["raycondense 10", "raycondense 1"]),
        (["std=none"], ["raycondense 1", "whole 0"]),
        (["std!=none"], ["raycondense 10", "random 10"]),
        (["std>0"], ["raycondense 10", "random 10"]),
        (["artifact_sha256=none"], ["random 10", "whole 0"]),
        (["source_sha256=7e"], ["random 10", "whole 0"]),
        (["augmented=no"], []),
        (["augmented=YES", "diverged=1"], ["raycondense 1"]),
        (["finished_at>=2023-11-14", "finished_at<2023-11-14T22:14", "ipc=0"], ["whole 0"]),
        (["finished_at<2023-11-14"], []),
        # References stay references when they are filtered out.
        (["method=raycondense", "ior>0.1"], ["raycondense 10"]),
    ],
)
def test_conditions(store: Store, where: list[str], left: list[str]):
    rows = parsed(leaderboard(store, where=where, format="csv"))
    assert sorted(f"{row['method']} {row['ipc']}" for row in rows) == sorted(left)


def test_text_has_no_case_to_ignore_and_no_prefix(store: Store):
    for where in ("method=Random", "method=rand", "dataset=igits"):
        assert parsed(leaderboard(store, where=[where], format="csv")) == []


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        ("accuracy", [0.2, 0.31, 0.5, 0.9]),
        ("-accuracy", [0.9, 0.5, 0.31, 0.2]),
        ("-ipc,accuracy", [0.31, 0.5, 0.2, 0.9]),
        ("std,-accuracy", [0.31, 0.5, 0.9, 0.2]),
        ("-std,accuracy", [0.5, 0.31, 0.2, 0.9]),
        ("", [0.9, 0.2, 0.5, 0.31]),
    ],
)
def test_order(store: Store, sort: str, first: list[float]):
    rows = json.loads(leaderboard(store, sort=sort, format="json"))
    assert [round(row["accuracy"], 9) for row in rows] == first


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        ({"where": ["acuracy=1"]}, ["--where acuracy=1", "unknown column 'acuracy'", "did you mean 'accuracy'"]),
        ({"where": ["accuracy"]}, ["--where accuracy", "COLUMN=VALUE", ">="]),
        ({"where": ["accuracy>=50"]}, ["found '50'", "in [0, 1]"]),
        ({"where": ["accuracy=good"]}, ["accuracy: found 'good'", "a finite float"]),
        ({"where": ["ipc=1.5"]}, ["ipc: found '1.5'", "an int"]),
        ({"where": ["ipc=none"]}, ["ipc: found 'none'"]),
        ({"where": ["augmented=maybe"]}, ["found 'maybe'", "yes", "no"]),
        ({"where": ["method>a"]}, ["method has no order", "=, !="]),
        ({"where": ["finished_at>soon"]}, ["found 'soon'", "2026-01-31"]),
        ({"sort": "-acuracy"}, ["--sort", "did you mean 'accuracy'"]),
        ({"columns": "method,acuracy"}, ["--columns", "did you mean 'accuracy'"]),
        ({"columns": ","}, ["--columns: found none"]),
        ({"view": "diagnostics", "sort": "accuracy"}, ["unknown column 'accuracy'", "coverage"]),
        ({"view": "students", "where": ["std>0"]}, ["unknown column 'std'"]),
    ],
)
def test_mistakes_name_the_thing_and_what_is_valid(store: Store, asked: dict[str, Any], parts: list[str]):
    for where in (store, Store(store.root.parent / "empty")):
        with pytest.raises(ConfigError) as caught:
            leaderboard(where, **asked)
        for part in parts:
            assert part in str(caught.value)


def test_no_rows_say_why(store: Store, tmp_path: Path):
    assert "method=randon: no such row; there are: random, raycondense, whole" in leaderboard(
        store, where=["ipc=10", "method=randon"]
    )
    assert "ipc=3: no such row; there are: 0, 1, 10" in leaderboard(store, where=["ipc=3"])
    assert "no row fulfils all" in leaderboard(store, where=["ipc=10", "method=whole"])
    empty = Store(tmp_path / "empty")
    assert leaderboard(empty) == f"{empty.root}: no results yet\n"
    assert leaderboard(empty, "diagnostics") == f"{empty.root}: no diagnostics yet\n"
    assert json.loads(leaderboard(empty, format="json")) == []
    assert leaderboard(empty, columns="method,ipc", format="csv") == "method,ipc\n"


def test_what_is_shown_and_sorted_by_exists():
    for view, columns in COLUMNS.items():
        assert set(SHOWN[view]) <= set(columns)
        assert {name.removeprefix("-") for name in ORDER[view].split(",")} <= set(columns)
    assert set(MEASURES) <= set(SHOWN["diagnostics"])

"""Rows, the table and JSON of an evaluation."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from raycondense.config import EvaluationConfig
from raycondense.errors import ArtifactError
from raycondense.evaluation.columns import DIAGNOSTICS, percent
from raycondense.evaluation.result import Evaluation, summarise


def result(method: str, accuracy: float, *, ipc: int = 1, student: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "method": method, "architecture": "convnet", "ipc": ipc, "student": student, "accuracy": accuracy, "images": 10,
        "bytes": 1234, "steps": 5, "seconds": 2.0, "loss": 0.1, "accounting": "bank", "labels": "hard",
        "augmented": True, "teacher_bytes": 0, "label_bytes": 0, "generation_seconds": 0.25,
    } | changes  # fmt: skip


def evaluation(*results: dict[str, Any], **changes: Any) -> Evaluation:
    config = EvaluationConfig(architectures=("convnet", "resnet18"))
    arguments: dict[str, Any] = {
        "rows": summarise(results, config.architectures),
        "config": config,
        "artifact": "runs/x/artifact",
        "test": {"source": "digits", "split": "test", "sha256": "ab", "images": 450, "resolution": 8, "reads": 3},
        "train": {"source": "digits", "split": "train", "sha256": "cd", "images": 900, "condensed_from": True},
        "results": tuple(results),
    }
    return Evaluation(**(arguments | changes))


def test_rows_are_means_over_students_ordered_by_architecture_ipc_and_method() -> None:
    rows = evaluation(
        result("whole", 0.9, ipc=0),
        result("random", 0.2, ipc=10),
        result("raycondense", 0.5, ipc=10),
        result("raycondense", 0.3, architecture="resnet18"),
        result("random", 0.1),
        result("raycondense", 0.4, student=1),
        result("raycondense", 0.2, student=0, seconds=4.0),
    ).rows
    assert [row.key[:3] for row in rows] == [
        ("raycondense", "convnet", 1),
        ("random", "convnet", 1),
        ("raycondense", "convnet", 10),
        ("random", "convnet", 10),
        ("whole", "convnet", 0),
        ("raycondense", "resnet18", 1),
    ]
    assert (rows[0].accuracy, rows[0].students, rows[0].seconds) == (pytest.approx(0.3), 2, 3.0)
    assert rows[0].std == pytest.approx(0.02**0.5)  # n - 1 in the denominator
    assert rows[1].std is None


def test_rows_of_other_accountings_labels_and_augmentation_stand_apart() -> None:
    found = evaluation(
        result("raycondense", 0.6, labels="soft", label_bytes=2_000, teacher_bytes=900),
        result("raycondense", 0.4),
        result("raycondense", 0.3, augmented=False),
        result("raycondense", 0.5, accounting="stream", images=5000),
        result("random", 0.3),
        result("random", 0.25, augmented=False),
        result("random", 0.5, labels="soft"),
        result("whole", 0.9, ipc=0),
        config=EvaluationConfig(architectures=("convnet",), accountings=("bank", "stream"), labels="soft"),
    )
    assert len(found.rows) == 8
    soft, hard = found.row("raycondense", ipc=1), found.row("raycondense", ipc=1, labels="hard")
    assert (soft.accuracy, hard.accuracy) == (0.6, 0.4)
    assert found.row("whole", ipc=0).accuracy == 0.9
    # The soft row's HLR is that of its hard counterpart; its IOR compares soft with soft.
    assert (soft.hlr, hard.hlr) == (pytest.approx(0.5), pytest.approx(0.5))
    assert (soft.ior, hard.ior) == (pytest.approx(0.1), pytest.approx(0.1))
    assert hard.lrs == pytest.approx((math.exp(-0.2) - math.exp(-1)) / (math.e - math.exp(-1)))
    assert hard.ars == pytest.approx((math.exp(0.075) - math.exp(-1)) / (math.e - math.exp(-1)))
    table = found.table()
    assert "| labels | DSA |" in table
    assert "the teacher (convnet) takes 900 B" in table
    assert "accounting stream: fresh samples" in table


def test_the_table_names_accounting_spread_sizes_and_split() -> None:
    found = evaluation(result("raycondense", 0.4), result("raycondense", 0.5, student=1), result("whole", 0.9, ipc=0))
    lines = found.table().splitlines()
    assert len({len(line) for line in lines[:4]}) == 1
    assert "| raycondense | convnet |   1 | 45.0 ± 7.1 |" in lines[2]
    assert "1.2 kB | bank" in lines[2]
    assert "| whole set   | convnet |   – |       90.0 |" in lines[3]
    assert " HLR |" in lines[0]
    assert "0.450" in lines[2]
    assert "test split (450 images)" in found.table()
    assert "protocol dm: sgd 0.01 (step)" in found.table()
    assert "attention" not in found.table()


def test_notes_say_what_went_wrong() -> None:
    found = evaluation(
        result("raycondense", 0.1, loss=None),
        result("raycondense", 0.5, student=1),
        test={"source": "digits", "split": "train", "sha256": "cd", "images": 900, "resolution": 8, "reads": 2},
        train={"source": "digits", "split": "train", "sha256": "ef", "images": 900, "condensed_from": False},
    )
    attention = [note for note in found.notes if note.startswith("attention")]
    assert len(attention) == 3
    assert "no test accuracies" in attention[0]
    assert "another file" in attention[1]
    assert "1 of 2 students of raycondense" in attention[2]


def test_json_round_trip_and_row_lookup() -> None:
    diagnosed = {"method": "kmeans", "ipc": 1} | dict.fromkeys(DIAGNOSTICS, 0.5) | {"spread_ratio": None}
    found = evaluation(
        result("raycondense", 0.4),
        result("kmeans", 0.3),
        diagnostics=(diagnosed,),
        failures=({"label": "random, IPC 1", "error": "its worker died"},),
        missing=("no rows random-codes",),
    )
    again = Evaluation.from_json(found.to_json())
    assert again == found
    assert again.table() == found.table()
    assert "| k-means medoids |   1 |             – |" in again.table()
    assert "attention: failed: random, IPC 1: its worker died" in again.table()
    assert "attention: no rows random-codes" in again.table()
    assert again.row("kmeans", ipc=1).accuracy == 0.3
    with pytest.raises(KeyError, match="2"):
        again.row("raycondense", ipc=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(format_version=99), "format_version: found 99"),
        (lambda values: values.pop("rows"), "rows"),
        (lambda values: values["rows"][0].pop("ipc"), "ipc"),
        (lambda values: values["rows"][0].update(method="kmean"), "unknown method 'kmean'.*kmeans"),
        (lambda values: values["rows"][0].update(accounting="banks"), "unknown accounting"),
        (lambda values: values["config"].update(epochs=-1), "epochs"),
    ],
)
def test_damaged_json_is_an_error_of_ours(change, message) -> None:
    values = json.loads(evaluation(result("raycondense", 0.4)).to_json())
    change(values)
    with pytest.raises(ValueError, match=rf"s\.json.*{message}"):
        Evaluation.from_json(json.dumps(values), source="s.json")


def test_what_is_not_json_is_an_error_of_ours() -> None:
    with pytest.raises(ArtifactError, match=r"s\.json: not JSON"):
        Evaluation.from_json("{", source="s.json")
    with pytest.raises(ArtifactError, match="format_version: found None"):
        Evaluation.from_json("[]")


def test_percent() -> None:
    assert percent(0.489, 0.006) == "48.9 ± 0.6"
    assert percent(1.0) == "100.0"

"""Scores of DD-Ranking: their scale, what they refuse, and which rows they are made of."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycondense.evaluation.measures import Scores, ars, hlr, ior, lrs, normalised, scores_of

ZERO = 0.2689414
"""The score of nothing lost and nothing won."""
fractions = st.floats(0, 1)


@dataclasses.dataclass(frozen=True)
class Row:
    method: str
    accuracy: float
    ipc: int = 10
    architecture: str = "convnet"
    accounting: str = "bank"
    labels: str = "hard"
    augmented: bool = True
    artifact: str = ""


def scores(*rows: Row, **arguments) -> list[Scores]:
    return scores_of(rows, **arguments)


def test_differences_have_the_papers_signs() -> None:
    assert hlr(0.85, 0.65) == pytest.approx(0.2)
    assert ior(0.65, 0.3) == pytest.approx(0.35)


def test_the_scale_goes_from_0_over_a_quarter_to_1() -> None:
    assert normalised(-1) == 0
    assert normalised(0) == pytest.approx(ZERO)
    assert normalised(1) == pytest.approx(1)


def test_lrs_by_hand() -> None:
    assert lrs(hlr=0.2, ior=0.2) == pytest.approx(ZERO)
    expected = (math.exp(0.05) - math.exp(-1)) / (math.e - math.exp(-1))
    assert lrs(hlr=0.2, ior=0.3) == pytest.approx(expected)
    assert lrs(hlr=0.7, ior=0.3, weight=1) == pytest.approx(normalised(0.3))
    assert lrs(hlr=0.7, ior=0.3, weight=0) == pytest.approx(normalised(-0.7))


def test_ars_by_hand() -> None:
    assert ars(0.6, 0.4, 0.5, 0.4) == pytest.approx(normalised(0.15))
    assert ars(0.6, 0.4, 0.5, 0.4, weight=0.9) == pytest.approx(normalised(0.19))
    assert ars(0.6, 0.4, 0.2, 0.4) == pytest.approx(ZERO)


@given(full=fractions, synthetic=fractions, random=fractions, weight=fractions)
def test_lrs_of_accuracies_stays_in_its_range(full, synthetic, random, weight) -> None:
    score = lrs(hlr(full, synthetic), ior(synthetic, random), weight)
    assert 0 <= score <= 1
    better = min(1.0, synthetic + 0.1)
    assert lrs(hlr(full, better), ior(better, random), weight) >= score


@given(st.tuples(fractions, fractions, fractions, fractions), fractions)
def test_ars_of_accuracies_stays_in_its_range(accuracies, weight) -> None:
    assert 0 <= ars(*accuracies, weight) <= 1


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda bad: hlr(bad, 0.5), "full_hard"),
        (lambda bad: hlr(0.5, bad), "synthetic_hard"),
        (lambda bad: ior(bad, 0.5), "synthetic"),
        (lambda bad: ior(0.5, bad), "random"),
        (lambda bad: lrs(bad, 0.5), "hlr"),
        (lambda bad: lrs(0.5, bad), "ior"),
        (lambda bad: lrs(0.5, 0.5, bad), "weight"),
        (lambda bad: ars(bad, 0.5, 0.5, 0.5), "synthetic_augmented"),
        (lambda bad: ars(0.5, bad, 0.5, 0.5), "random_augmented"),
        (lambda bad: ars(0.5, 0.5, bad, 0.5), "synthetic_plain"),
        (lambda bad: ars(0.5, 0.5, 0.5, bad), "random_plain"),
        (lambda bad: ars(0.5, 0.5, 0.5, 0.5, bad), "weight"),
        (normalised, "value"),
    ],
)
@pytest.mark.parametrize("bad", [48.9, -1.5, math.nan])
def test_percentages_are_refused_by_name(call, name, bad) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: found {bad}.*to 1 \(a fraction"):
        call(bad)


def test_a_hard_label_evaluation() -> None:
    ours, random, whole = scores(Row("raycondense", 0.6), Row("random", 0.3), Row("whole", 0.8, ipc=0))
    assert ours["hlr"] == pytest.approx(0.2)
    assert ours["ior"] == pytest.approx(0.3)
    assert ours["lrs"] == pytest.approx(normalised(0.05))
    assert ours["ars"] is None
    assert random == {"hlr": pytest.approx(0.5), "ior": 0, "lrs": pytest.approx(normalised(-0.25)), "ars": None}
    assert whole == {"hlr": None, "ior": None, "lrs": None, "ars": None}


def test_soft_labels_are_won_against_soft_and_lost_against_hard() -> None:
    rows = (
        Row("raycondense", 0.7, labels="soft"),
        Row("raycondense", 0.5),
        Row("random", 0.6, labels="soft"),
        Row("random", 0.3),
        Row("whole", 0.8, ipc=0),
    )
    soft, hard, *_ = scores(*rows)
    assert soft["hlr"] == hard["hlr"] == pytest.approx(0.3)
    assert soft["ior"] == pytest.approx(0.1)
    assert hard["ior"] == pytest.approx(0.2)
    assert soft["lrs"] == pytest.approx(normalised(0.05 - 0.15))
    # Without its hard-label counterpart nothing is known of what it recovers.
    (alone, *_) = scores(rows[0], *rows[2:])
    assert (alone["hlr"], alone["lrs"]) == (None, None)
    assert alone["ior"] == pytest.approx(0.1)


def test_robustness_takes_four_rows() -> None:
    rows = [
        Row("raycondense", 0.6),
        Row("raycondense", 0.5, augmented=False),
        Row("random", 0.4),
        Row("random", 0.4, augmented=False),
        Row("whole", 0.8, ipc=0),
    ]
    ours, ours_plain, random, random_plain, _ = scores(*rows)
    assert ours["ars"] == ours_plain["ars"] == pytest.approx(ars(0.6, 0.4, 0.5, 0.4))
    assert random["ars"] == random_plain["ars"] == pytest.approx(ZERO)
    assert ours_plain["ior"] == pytest.approx(0.1)
    assert ours_plain["hlr"] is None  # the whole set was measured with augmentation alone
    for absent in range(4):
        left = [row for i, row in enumerate(rows) if i != absent]
        assert [s["ars"] for s, row in zip(scores(*left), left, strict=True) if row.method == "raycondense"] == (
            [None] if absent < 2 else [None, None]
        )


@pytest.mark.parametrize(
    "other", [{"ipc": 50}, {"architecture": "resnet18"}, {"accounting": "bytes"}, {"labels": "soft"}]
)
def test_random_images_of_another_kind_do_not_count(other) -> None:
    ours, _, _ = scores(Row("raycondense", 0.6), Row("random", 0.3, **other), Row("whole", 0.8, ipc=0))
    assert ours == {"hlr": pytest.approx(0.2), "ior": None, "lrs": None, "ars": None}


def test_each_accounting_has_its_own_random_images_and_shares_the_whole_set() -> None:
    rows = (
        Row("raycondense", 0.6),
        Row("raycondense", 0.65, accounting="bytes"),
        Row("raycondense", 0.7, accounting="stream"),
        Row("random", 0.3),
        Row("random", 0.35, accounting="bytes"),
        Row("whole", 0.8, ipc=0),
    )
    bank, by_bytes, stream, *_ = scores(*rows)
    assert [s["ior"] for s in (bank, by_bytes, stream)] == [pytest.approx(0.3), pytest.approx(0.3), None]
    assert [s["hlr"] for s in (bank, by_bytes, stream)] == pytest.approx([0.2, 0.15, 0.1])


def test_rows_of_several_evaluations_are_told_apart() -> None:
    rows = (
        Row("raycondense", 0.6, artifact="a"),
        Row("raycondense", 0.7, artifact="b"),
        Row("raycondense", 0.2, artifact="b", architecture="vit"),
        Row("random", 0.3),
        Row("random", 0.1, architecture="vit"),
    )
    with pytest.raises(ValueError, match=r"two of raycondense, convnet, ipc 10, bank, hard labels, augmented True"):
        scores(*rows)
    found = scores(*rows, origin=lambda row: row.artifact)
    assert [s["ior"] for s in found] == pytest.approx([0.3, 0.4, 0.1, 0, 0])
    twice = (Row("random", 0.3, artifact="a"), Row("random", 0.4, artifact="b"))
    with pytest.raises(ValueError, match="two of random"):
        scores(*twice, origin=lambda row: row.artifact)
    assert [s["ior"] for s in scores(*twice, group=lambda row: row.artifact)] == [0, 0]


def test_no_rows_no_scores() -> None:
    assert scores() == []

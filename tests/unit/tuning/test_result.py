"""Which trials are the best, and what is promoted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from raycondense.configfile import config_to_dict, load_config, override
from raycondense.errors import ConfigError, RunError
from raycondense.presets import get_preset
from raycondense.tuning.records import SweepFolder, TrialRecord, Winner
from raycondense.tuning.result import SweepResult, pareto_front, rank, summary


def trial(number: int, accuracy: float | None, size: int | None = None, state: str = "complete") -> TrialRecord:
    return TrialRecord(number=number, accuracy=accuracy, bytes=size, state=state)


def test_complete_trials_are_ranked_by_accuracy_and_equal_ones_by_age():
    trials = [
        trial(0, 0.5), trial(1, 0.7), trial(2, 0.9, state="stopped"), trial(3, 0.7), trial(4, None),
        trial(5, 0.95, state="running"), trial(6, 0.0, state="diverged"),
    ]  # fmt: skip
    assert [t.number for t in rank(trials, ("accuracy",))] == [1, 3, 0]
    assert [t.number for t in rank(trials, ("accuracy",), 2)] == [1, 3]
    assert rank([], ("accuracy",)) == []


def test_with_bytes_the_front_comes_first_and_then_the_next():
    trials = [
        trial(0, 0.5, 100), trial(1, 0.7, 200), trial(2, 0.6, 300), trial(3, 0.7, 150), trial(4, 0.4, 99),
        trial(5, 0.4, 99), trial(6, 0.65, 160), trial(7, 0.3, None),
    ]  # fmt: skip
    both = ("accuracy", "bytes")
    assert [t.number for t in pareto_front(trials)] == [3, 0, 4]
    assert [t.number for t in rank(trials, both)] == [3, 0, 4, 1, 6, 5, 2]
    assert [t.number for t in rank(trials, both, 2)] == [3, 0]
    assert [t.number for t in rank(trials, ("accuracy",), 3)] == [1, 3, 6]


@pytest.fixture
def sweep(tmp_path: Path) -> SweepResult:
    config = override(get_preset("digits"), {"cluster.workers": 5})
    folder = SweepFolder(tmp_path / "digits-weights")
    folder.claim(
        {
            "objectives": ["accuracy"], "config": config_to_dict(config), "search": "tpe", "seed": 3,
            "judge": {"students": 2, "max_steps": 400}, "data": {"path": "t", "sha256": "aa"},
            "val_data": {"path": "v", "sha256": "bb"},
        }
    )  # fmt: skip
    for number, (accuracy, state) in enumerate([(0.5, "complete"), (0.75, "complete"), (0.9, "stopped")]):
        values = {"losses.intra": 0.25 * number, "losses.ce": 1e-3}
        folder.append({"trial": number, "event": "start", "values": values})
        folder.append({"trial": number, "event": "rung", "images": 900, "accuracy": accuracy, "bytes": 5})
        folder.append({"trial": number, "event": "end", "state": state})
    folder.write_winners([Winner(1, 1, folder.trial(1) / "artifact")])
    return SweepResult(folder.path)


def test_a_result_reads_the_folder(sweep):
    assert sweep.best.number == 1
    assert [t.number for t in sweep.front] == [1]
    assert [w.trial for w in sweep.winners] == [1]
    assert summary(sweep.trials) == "3 trials: 2 complete, 1 stopped early"
    lines = sweep.table().splitlines()
    assert lines[0].split() == ["trial", "accuracy", "%", "losses.intra", "losses.ce"]
    assert lines[1].split() == ["1", "75.00", "0.25", "0.001"]
    assert lines[2].split() == ["0", "50.00", "off", "0.001"]
    assert lines[3] == "3 trials: 2 complete, 1 stopped early"


def test_the_winner_is_promoted_to_a_file_that_says_where_it_comes_from(sweep, tmp_path):
    path = sweep.promote(tmp_path / "new" / "digits_tuned.yaml")
    promoted = load_config(path)
    expected = override(get_preset("digits"), {"losses.intra": 0.25, "losses.ce": 1e-3, "cluster.workers": 5})
    assert promoted == dataclasses.replace(expected, name="digits_tuned")
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    for part in ("Trial 1 of the sweep digits-weights", "75.00 %", "losses.intra: 0.25", "tpe, seed 3", "aa", "bb"):
        assert part in head
    assert load_config(sweep.promote(tmp_path / "zero.yml", trial=0)).losses.intra == 0.0


def test_what_cannot_be_promoted(sweep, tmp_path):
    with pytest.raises(ConfigError, match=r"ending '\.json'; valid: \.yaml, \.yml"):
        sweep.promote(tmp_path / "a.json")
    with pytest.raises(RunError, match="trial: found 9, valid: 0 to 2"):
        sweep.promote(tmp_path / "a.yaml", trial=9)
    sweep.records.events.write_text("")
    with pytest.raises(RunError, match=r"no trial is complete \(found no trial\)"):
        _ = sweep.best
    sweep.records.append({"trial": 0, "event": "end", "state": "diverged", "reason": "nan"})
    with pytest.raises(RunError, match=r"no trial is complete \(found 1 diverged\)"):
        sweep.promote(tmp_path / "a.yaml")
    assert not list(tmp_path.glob("*.yaml"))

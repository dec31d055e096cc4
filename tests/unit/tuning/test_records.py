"""What a sweep leaves on disk: appended events, and what they add up to."""

from __future__ import annotations

import json

import pytest

from raycondense.errors import ConfigError, RunError
from raycondense.tuning.records import SweepFolder, TrialRecord, Winner


@pytest.fixture
def folder(tmp_path) -> SweepFolder:
    return SweepFolder(tmp_path / "sweep")


def test_events_add_up_to_records(folder):
    folder.append({"trial": 1, "event": "start", "values": {"losses.intra": 0.5}, "time": 100.0})
    folder.append({"trial": 0, "event": "start", "values": {"losses.intra": 0.0}, "time": 101.0})
    folder.append({"trial": 1, "event": "rung", "images": 900, "accuracy": 0.25, "bytes": 4000, "time": 110.0})
    (one,) = [trial for trial in folder.trials() if trial.number == 1]
    assert (one.state, one.ended, one.rungs, one.images, one.seconds) == ("running", False, ((900, 0.25),), 900, 10.0)
    folder.append({"trial": 1, "event": "rung", "images": 2700, "accuracy": 0.5, "bytes": 4000, "seconds": 30.0})
    folder.append({"trial": 1, "event": "end", "state": "complete", "artifact": "trials/00001/artifact", "time": 140.0})
    folder.append({"trial": 0, "event": "end", "state": "stopped", "reason": "rung 900", "time": 141.0})
    zero, one = folder.trials()
    assert one == TrialRecord(
        number=1, values={"losses.intra": 0.5}, rungs=((900, 0.25), (2700, 0.5)), state="complete", reason=None,
        accuracy=0.5, bytes=4000, seconds=30.0, artifact=folder.path / "trials/00001/artifact", started=100.0,
    )  # fmt: skip
    assert (zero.state, zero.reason, zero.accuracy, zero.seconds, zero.images) == ("stopped", "rung 900", None, 40.0, 0)
    assert zero.ended


def test_a_trial_that_goes_on_after_a_kill_keeps_its_rungs(folder):
    folder.append({"trial": 0, "event": "start", "values": {"a": 1}, "time": 1.0})
    folder.append({"trial": 0, "event": "rung", "images": 10, "accuracy": 0.1, "time": 2.0})
    folder.append({"trial": 0, "event": "end", "state": "failed", "reason": "worker died", "time": 3.0})
    folder.append({"trial": 0, "event": "start", "values": {"a": 1}, "time": 9.0})
    (trial,) = folder.trials()
    assert (trial.state, trial.reason, trial.rungs, trial.started) == ("running", None, ((10, 0.1),), 1.0)
    # The rung is judged again, because the checkpoint was older.
    folder.append({"trial": 0, "event": "rung", "images": 10, "accuracy": 0.2})
    assert folder.trials()[0].rungs == ((10, 0.2),)


def test_numbers_that_are_not_finite_do_not_break_the_file(folder):
    folder.append({"trial": 0, "event": "rung", "images": 10, "accuracy": float("nan"), "bytes": 7})
    folder.append({"trial": 0, "event": "end", "state": "diverged", "accuracy": 0.0, "reason": "loss/intra is nan"})
    assert json.loads(folder.events.read_text().splitlines()[0])["accuracy"] is None
    (trial,) = folder.trials()
    assert (trial.state, trial.accuracy, trial.rungs, trial.bytes) == ("diverged", 0.0, (), 7)


def test_a_line_that_a_kill_cut_is_left_out(folder):
    folder.append({"trial": 0, "event": "start", "values": {}})
    with folder.events.open("a") as file:
        file.write('{"trial": 0, "event": "rung", "ima')
    assert [trial.number for trial in folder.trials()] == [0]


def test_a_damaged_line_is_named(folder):
    folder.append({"trial": 0, "event": "start", "values": {}})
    with folder.events.open("a") as file:
        file.write("{}\n")
    with pytest.raises(RunError, match=r"trials\.jsonl: line 2 is damaged"):
        folder.trials()


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"trial": 0, "event": "begin"}, "valid: a trial's number and one of start, rung, end"),
        ({"event": "start"}, "valid: a trial's number"),
        (
            {"trial": 0, "event": "end", "state": "done"},
            "state: found 'done', valid: complete, stopped, div",
        ),
        ({"trial": 0, "event": "end"}, "state: found None"),
    ],
)
def test_events_that_there_are_none_of_are_refused(folder, event, message):
    with pytest.raises(ValueError, match=message):
        folder.append(event)
    assert not folder.events.exists()


def test_an_empty_folder_has_no_trials_and_no_winners(folder):
    assert (folder.trials(), folder.winners()) == ([], [])
    with pytest.raises(ConfigError, match="holds no sweep"):
        folder.describe()


def test_winners_are_kept_with_the_folder_also_where_it_is_moved(folder, tmp_path):
    inside, beside = folder.trial(3) / "artifact", folder.trial(7) / "artifact"
    folder.write_winners([Winner(7, 2, beside), Winner(3, 1, inside)])
    assert folder.winners() == [Winner(3, 1, inside), Winner(7, 2, beside)]
    folder.path.rename(tmp_path / "moved")
    moved = SweepFolder(tmp_path / "moved")
    assert moved.winners()[0].artifact == tmp_path / "moved" / "trials" / "00003" / "artifact"
    (moved.path / "winners.json").write_text("[{}]")
    with pytest.raises(RunError, match=r"winners\.json: damaged"):
        moved.winners()


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "trials/../../elsewhere", "link/secret", "a\0b", "x" * 5000])
def test_no_record_of_a_stranger_leads_out_of_the_folder(folder, tmp_path, name):
    folder.path.mkdir(exist_ok=True)
    (tmp_path / "elsewhere").mkdir()
    (folder.path / "link").symlink_to(tmp_path / "elsewhere")
    (folder.path / "winners.json").write_text(json.dumps([{"trial": 1, "rank": 1, "artifact": name}]))
    with pytest.raises(RunError, match="valid: a path inside"):
        folder.winners()
    end = {"trial": 1, "event": "end", "time": 1.0, "state": "complete", "artifact": name}
    folder.events.write_text(json.dumps(end) + "\n")
    with pytest.raises(RunError, match=r"line 1: damaged: artifact: found .* valid: a path inside"):
        folder.trials()


def test_a_folder_is_of_one_sweep(folder):
    told = {
        "space": {"a": [1, (2,)]},
        "config": {"losses": {"intra": 0.1}},
        "trials": 3,
        "data": {"path": "a", "sha256": "x"},
    }
    folder.claim(told)
    assert folder.describe()["trials"] == 3
    # More trials, and the same images at another place, are still the same sweep.
    folder.claim({**told, "trials": 9, "data": {"path": "b", "sha256": "x"}})
    assert folder.describe()["trials"] == 9
    for other, message in (
        (
            {"config": {"losses": {"intra": 0.2}}},
            r"config\.losses\.intra = 0\.1, now 0\.2; name another folder with",
        ),
        ({"data": {"path": "a", "sha256": "y"}}, r'data\.sha256 = "x", now "y"'),
        ({"space": {"a": [1, [3]]}}, r"space\.a = \[1, \[2\]\], now \[1, \[3\]\]"),
        ({"space": {}, "seed": 1}, r"and 1 more"),
    ):
        with pytest.raises(ConfigError, match=message):
            folder.claim({**told, **other})
    assert folder.describe()["trials"] == 9


def test_a_folder_of_something_else_is_left_alone(folder):
    (folder.path).mkdir()
    (folder.path / ".lock").touch()
    folder.claim({})
    (folder.path / "sweep.json").unlink()
    (folder.path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="holds something that is no sweep"):
        folder.claim({})
    assert not (folder.path / "sweep.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "damaged"), ("[]", "format_version: found None"), ('{"format_version": 9}', "format_version: found 9")],
)
def test_a_damaged_description_is_named(folder, text, message):
    folder.path.mkdir()
    (folder.path / "sweep.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"sweep\.json: {message}"):
        folder.describe()

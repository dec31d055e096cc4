"""What stands on standard error where there is no terminal: share, time left and rate of what this run has done."""

import pytest

from raycondense import display


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def test_rate_and_time_left_do_not_count_what_was_done_before(clock, capsys):
    with display.Display() as shown:
        for seconds, done in ((0, 6000), (20, 7000), (40, 8000), (60, 10000)):
            clock[0] = 100.0 + seconds
            shown.count("prepare", done, 10000, unit="images")
    assert capsys.readouterr().err.splitlines() == [
        "prepare:  60% (6,000/10,000) …  ",
        "prepare:  70% (7,000/10,000) 60 s left  50 images/s",
        "prepare:  80% (8,000/10,000) 40 s left  50 images/s",
        "prepare: 100% (10,000/10,000) 0 s left  67 images/s",
    ]


def test_a_bar_begins_where_the_work_does(clock, capsys, monkeypatch):
    """Rich takes the speed from what is added to the bar; what it starts with is no work."""
    monkeypatch.setattr(display.sys.stderr, "isatty", lambda: True, raising=False)
    with display.Display() as shown:
        for seconds, done in ((0, 6000), (20, 7000), (40, 8000)):
            clock[0] = 100.0 + seconds
            shown.count("prepare", done, 10000, unit="images")
        (task,) = shown._live.tasks
        assert (task.completed, task.total, task.fields["note"]) == (8000, 10000, "50 images/s")
        assert sum(sample.completed for sample in task._progress) == 2000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"), (0.42, "0.4 s"), (0.97, "1 s"), (4, "4 s"), (59.6, "1 min"), (200, "3 min 20 s"),
        (7500, "2 h 5 min"), (273_600, "3 d 4 h"), (86_400, "1 d"),
    ],
)  # fmt: skip
def test_durations(seconds, text):
    assert display.duration(seconds) == text

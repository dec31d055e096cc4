"""Work that a thread repeats."""

from __future__ import annotations

import threading
import time

import pytest

from raycondense.background import repeated


def test_it_is_called_while_the_block_runs_and_at_its_end() -> None:
    calls: list[str] = []
    twice = threading.Event()

    def work() -> None:
        calls.append(threading.current_thread().name)
        if len(calls) == 2:
            twice.set()

    with repeated(work, 0.01):
        assert twice.wait(10)
    known = len(calls)
    assert known >= 3
    assert set(calls) == {"work"}
    time.sleep(0.05)
    assert len(calls) == known, "nothing after the block"


def test_what_ends_early_is_not_waited_for_and_called_once() -> None:
    calls: list[int] = []
    begun = time.monotonic()
    with pytest.raises(KeyError), repeated(lambda: calls.append(1), 60):
        raise KeyError
    assert calls == [1]
    assert time.monotonic() - begun < 10

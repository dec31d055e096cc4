"""What a person sees of a sweep while it runs: a live table on a terminal, a line for each ended trial elsewhere."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from raycondense.display import LiveTable, duration
from raycondense.storage import read_lines
from raycondense.tuning.plan import SweepPlan
from raycondense.tuning.records import RUNNING, SweepFolder, TrialRecord
from raycondense.tuning.result import rank, summary

HEADS = ("trial", "state", "images", "accuracy %", "best %", "left", "losses")
SECONDS = 1.0
"""Between two looks at the folder."""
ENDED = 8
"""Ended trials in the table, the latest; those that run are all in it."""


class Watch:
    """Context manager that follows a sweep's folder from a thread of its own and draws what it finds.

    Args:
        plan: the sweep.
        enabled: False draws nothing.
    """

    def __init__(self, plan: SweepPlan, enabled: bool) -> None:
        self._plan, self._enabled = plan, enabled
        self._folder = SweepFolder(plan.folder)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        if self._enabled:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        begun = time.time()
        before = {record.number for record in self._folder.trials() if record.ended}
        told = set(before)
        live = LiveTable(True, HEADS)
        with live:
            last = False
            while not last:
                last = self._over.wait(SECONDS)
                trials = self._folder.trials()
                ended = {record.number for record in trials if record.ended}
                left = time_left(len(ended - before), self._plan.trials - len(ended), time.time() - begun)
                live.draw(rows(self._folder, self._plan, trials), caption(self._plan, trials, left))
                if not sys.stderr.isatty():
                    for record in trials:
                        if record.number in ended - told:
                            print(f"{line(record)}  ({caption(self._plan, trials, left)})", file=sys.stderr)
                told |= ended


def rows(folder: SweepFolder, plan: SweepPlan, trials: Sequence[TrialRecord]) -> list[list[str]]:
    """A row for every trial that runs and for the latest that have ended."""
    ended = sorted((t for t in trials if t.ended), key=lambda t: t.started + (t.seconds or 0.0))[-ENDED:]
    return [_row(folder, plan, trial) for trial in [*ended, *(t for t in trials if not t.ended)]]


def caption(plan: SweepPlan, trials: Sequence[TrialRecord], left: float | None) -> str:
    """How the sweep stands, e.g. ``12 of 30 trials: 4 complete, …; best 87.1 % (trial 3); 14 min left``."""
    best = rank(trials, ("accuracy",), 1)
    parts = [f"{summary(trials)} (of {plan.trials})"]
    if best:
        parts.append(f"best {_percent(best[0].accuracy)} % (trial {best[0].number})")
    if left is not None:
        parts.append(f"about {duration(left)} left")
    return "; ".join(parts)


def line(trial: TrialRecord) -> str:
    """An ended trial in one line."""
    reason = f": {trial.reason}" if trial.reason else ""
    return f"trial {trial.number}: {_percent(trial.accuracy)} % at {trial.images:,} images, {trial.state}{reason}"


def time_left(ended: int, to_do: int, seconds: float) -> float | None:
    """Seconds that ``to_do`` trials will take if ``ended`` took ``seconds``; None before any has ended."""
    return seconds / ended * max(0, to_do) if ended else None


def _row(folder: SweepFolder, plan: SweepPlan, trial: TrialRecord) -> list[str]:
    images, left, losses, state = trial.images, "", "", trial.state
    if trial.state == RUNNING:
        log = _last_record(folder, trial.number)
        if log:
            state = str(log.get("stage", RUNNING))
            if state == "condense":
                images = max(images, int(log["images"]))
            rest = float(log["total"]) - float(log["images"])
            left = duration(rest / max(float(log["images_per_second"]), 1e-9)) if rest > 0 else ""
            losses = " ".join(f"{key[5:]} {value:.3g}" for key, value in log.items() if key.startswith("loss/"))
    best = max((accuracy for _, accuracy in trial.rungs), default=None)
    seen = f"{images:,} / {plan.rungs[-1]:,}"
    return [str(trial.number), state, seen, _percent(trial.accuracy), _percent(best), left, losses]


def _last_record(folder: SweepFolder, number: int) -> dict[str, Any]:
    lines = read_lines(folder.trial(number) / "log.jsonl")
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return found


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{100 * accuracy:.1f}"

"""Log records as TensorBoard event files, for ``tensorboard --logdir runs``.

A stage is a run of its own there, because each has a clock of its own: real images seen. Nothing is kept open between
records, so a kill leaves at most one incomplete last event, which TensorBoard passes over.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"
"""In the run folder; in it one folder a stage."""
_CLOCK = ("images", "total", "step")
logger = logging.getLogger("raycondense")


class EventFiles:
    """Appends log records to event files. One that cannot be written is a warning and no more.

    Args:
        folder: run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._files: dict[str, Path] = {}
        self._broken = False

    def append(self, record: Mapping[str, float | str]) -> None:
        """Add a log record: its numbers by name, at ``images``."""
        try:
            self._append(str(record["stage"]), record)
        except OSError as error:
            if not self._broken:
                logger.warning("%s: no TensorBoard events from here on: %s", self._folder, error)
            self._broken = True

    def _append(self, stage: str, record: Mapping[str, float | str]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        now, step = time.time(), int(record["images"])
        numbers = {name: value for name, value in record.items() if name not in _CLOCK and not isinstance(value, str)}
        events = []
        if stage not in self._files:
            name = f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
            self._files[stage] = self._folder / stage / name
            self._files[stage].parent.mkdir(parents=True, exist_ok=True)
            events.append(Event(wall_time=now, file_version="brain.Event:2"))
            # What a process wrote that got further than its last checkpoint counts no more.
            events.append(Event(wall_time=now, step=step, session_log=SessionLog(status=SessionLog.START)))
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        events.append(Event(wall_time=now, step=step, summary=Summary(value=values)))
        with self._files[stage].open("ab", buffering=0) as file:
            file.write(_framed(events))


def _framed(events: list[Any]) -> bytes:
    """Events as an event file has them: each with its length and checksums."""
    import io

    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    return buffer.getvalue()

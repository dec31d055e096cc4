"""A run's folder at a URI: brought here when a driver starts, taken there while the run goes on and when it ends.

Ray Train keeps its checkpoints below the same URI, in ``ray/``, on its own. With both, the same command goes on on any
machine.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raycondense.background import repeated
from raycondense.errors import ConfigError, DataError, RunError
from raycondense.patience import patiently
from raycondense.remote import Place, is_passing
from raycondense.storage import MOST_JSON_BYTES, atomic_folder, parse_json

logger = logging.getLogger("raycondense")

ELSEWHERE = ("ray", "checkpoints")
"""Folders that are not copied: Ray's, which is there already, and those of a process without Ray."""
PUBLISHED = ("initial", "artifact")
"""In the order in which they are copied: a run whose ``artifact/config.json`` stands is finished."""
SECONDS_BETWEEN_COPIES = 30.0


@dataclass
class RunStorage:
    """Where a run is kept beside its folder on this machine.

    Attributes:
        place: the run's folder there.
        folder: the run's folder here.
        patience: seconds that the storage may be out of reach when the run ends.
    """

    place: Place
    folder: Path
    patience: float
    _known: dict[str, tuple[int, int]] = field(default_factory=dict)
    """What was copied last: size and time of each file here."""

    @classmethod
    def at(cls, location: str | Path, folder: Path, patience: float) -> RunStorage:
        """The storage that ``location``, a URI or a path, names.

        Raises:
            ConfigError: no file system that pyarrow knows, or no folder in it.
            RunError: the storage does not answer or refuses.
        """
        place = Place.at(location)
        if not place.path.strip("/"):
            raise ConfigError(f"{place.shown}: names no folder; valid: a folder of its own for every run")
        return cls(place, folder, patience)

    def description(self) -> dict[str, Any] | None:
        """The ``run.json`` that is stored; None where no run is.

        Raises:
            ConfigError: it is damaged.
            RunError: the storage does not answer or refuses.
        """
        place = self.place / "run.json"
        if place.size() is None:
            return None
        try:
            found = parse_json(place.read(MOST_JSON_BYTES).decode("utf-8"))
        except (ValueError, DataError) as error:
            raise ConfigError(f"{place.shown}: damaged ({error}); name another storage with --storage") from error
        if not isinstance(found, dict):
            raise ConfigError(f"{place.shown}: damaged; name another storage with --storage")
        return found

    def is_finished(self) -> bool:
        """Whether the artefact is stored.

        Raises:
            RunError: the storage does not answer or refuses.
        """
        return (self.place / "artifact/config.json").size() is not None

    def fetch(self) -> None:
        """Bring here what is stored and not here; the longer of both logs is the run's.

        Raises:
            DataError: a stored file's name would lead out of the folder.
            RunError: the storage does not answer or refuses, or the disk is full.
        """
        stored = self.place.files(leave_out=ELSEWHERE)
        for name, size in stored.items():
            target = self.folder / name
            first = name.split("/")[0]
            if first in PUBLISHED or name == "run.json" or first.startswith("."):
                continue
            if not target.exists() or (name == "log.jsonl" and size > target.stat().st_size):
                (self.place / name).download(target)
        for part in PUBLISHED:
            if f"{part}/config.json" in stored and not (self.folder / part / "config.json").is_file():
                with atomic_folder(self.folder / part) as temporary:
                    for name in (name for name in stored if name.startswith(f"{part}/")):
                        (self.place / name).download(temporary / name.removeprefix(f"{part}/"))

    def push(self, *, finished: bool = False) -> None:
        """Copy what has changed here since it was copied last.

        Args:
            finished: also what is published, in an order that makes the run finished there last of all; and wait
                for storage that is out of reach.

        Raises:
            RunError: the storage does not answer or refuses.
        """
        for path in self._files(finished):
            name = path.relative_to(self.folder).as_posix()
            try:
                now = (path.stat().st_size, path.stat().st_mtime_ns)
                if self._known.get(name) != now:
                    self._upload(path, name, self.patience if finished else 0.0)
                    self._known[name] = now
            except FileNotFoundError:
                continue  # replaced by its writer at this moment

    def _upload(self, path: Path, name: str, seconds: float) -> None:
        place = self.place / name
        if not seconds:
            place.upload(path)
            return
        patiently(lambda: place.upload(path), place.shown, seconds=seconds, tell=logger.warning, passing=is_passing)

    def _files(self, finished: bool) -> list[Path]:
        published, others = [], []
        for path in sorted(self.folder.rglob("*")):
            parts = path.relative_to(self.folder).parts
            if parts[0] in ELSEWHERE or any(part.startswith(".") for part in parts) or not path.is_file():
                continue
            if parts[0] in PUBLISHED:
                last = parts == ("artifact", "config.json")
                published.append((PUBLISHED.index(parts[0]), last, path))
            else:
                others.append(path)
        return others + [path for *_, path in sorted(published)] * finished

    @contextmanager
    def kept_up(self) -> Iterator[None]:
        """Copy what changes (the log above all) while the block runs, and at its end, however it ends."""
        complained = False

        def copy() -> None:
            nonlocal complained
            try:
                self.push()
                complained = False
            except (RunError, OSError) as error:
                if not complained:
                    logger.warning("the run's log cannot be stored for now: %s", error)
                complained = True

        with repeated(copy, SECONDS_BETWEEN_COPIES):
            yield
        self.push(finished=True)

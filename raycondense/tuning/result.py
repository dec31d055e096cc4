"""What a sweep found: `rank` says which trials are the best, `SweepResult` is what people get."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycondense.config import Config
from raycondense.configfile import config_from_dict, config_to_yaml, override
from raycondense.errors import ConfigError, RunError
from raycondense.storage import write_text
from raycondense.tuning.records import SweepFolder, TrialRecord, Winner

PROMOTED_ENDINGS = (".yaml", ".yml")


def rank(trials: Iterable[TrialRecord], objectives: Sequence[str], most: int | None = None) -> list[TrialRecord]:
    """The best trials among those that are complete, the best first; of equal ones the earlier.

    With two objectives, those that no other beats in both come first (the Pareto front), then those that only they
    beat, and so on; inside of a front the most accurate is first.

    Args:
        trials: records; those that were stopped, failed or still run are left out, their budgets were others.
        objectives: ``("accuracy",)`` or ``("accuracy", "bytes")``.
        most: how many to return; None is all.
    """
    known = [trial for trial in trials if trial.state == "complete" and trial.accuracy is not None]
    if len(objectives) < 2:
        return sorted(known, key=lambda trial: (-(trial.accuracy or 0.0), trial.number))[:most]
    left = [trial for trial in known if trial.bytes is not None]
    ranked: list[TrialRecord] = []
    while left and (most is None or len(ranked) < most):
        front = pareto_front(left)
        ranked += front
        left = [trial for trial in left if trial not in front]
    return ranked[:most]


def pareto_front(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials that no other beats in accuracy and bytes, the most accurate first; of equal ones the earliest.

    Those of unknown accuracy or bytes are left out.
    """
    known = [(trial.accuracy, trial.bytes, trial) for trial in trials]
    order = sorted((-a, b, trial.number, trial) for a, b, trial in known if a is not None and b is not None)
    front: list[TrialRecord] = []
    smallest = float("inf")
    for _, size, _, trial in order:
        if size < smallest:
            front.append(trial)
            smallest = size
    return front


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found, finished or not.

    Attributes:
        folder: the sweep's folder (see `raycondense.tuning.records.SweepFolder`).
    """

    folder: Path

    @property
    def records(self) -> SweepFolder:
        """The files of the sweep."""
        return SweepFolder(self.folder)

    @property
    def objectives(self) -> tuple[str, ...]:
        """``("accuracy",)`` or ``("accuracy", "bytes")``."""
        return tuple(self.records.describe().get("objectives", ("accuracy",)))

    @property
    def trials(self) -> list[TrialRecord]:
        """Every trial, by number."""
        return self.records.trials()

    @property
    def winners(self) -> list[Winner]:
        """The trials that went to the evaluation pool, the best first."""
        return self.records.winners()

    @property
    def front(self) -> list[TrialRecord]:
        """The complete trials that no other beats in accuracy and bytes, the most accurate first."""
        return pareto_front(rank(self.trials, ("accuracy",)))

    @property
    def best(self) -> TrialRecord:
        """The complete trial of the highest validation accuracy.

        Raises:
            RunError: no trial is complete.
        """
        ranked = rank(self.trials, self.objectives, 1)
        if not ranked:
            states = [trial.state for trial in self.trials]
            found = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "no trial"
            raise RunError(f"{self.folder}: no trial is complete (found {found})")
        return ranked[0]

    def config(self, trial: int | None = None) -> Config:
        """The configuration of a trial, with the user's own ``cluster``; None is the best one's.

        Raises:
            RunError: there is no such trial, or none is complete.
        """
        record = self.best if trial is None else self._trial(trial)
        described = self.records.describe()
        base = config_from_dict(described.get("config", {}), source=f"{self.folder}/sweep.json")
        return override(base, record.values)

    def promote(self, path: str | Path, trial: int | None = None) -> Path:
        """Write a trial's configuration as a file for ``raycondense fit --config-file``, saying where it comes from.

        Args:
            path: ``….yaml``; its stem becomes the configuration's name.
            trial: number of the trial; None is the best one.

        Raises:
            ConfigError: another ending.
            RunError: there is no such trial, or none is complete.
        """
        path = Path(path)
        if path.suffix.lower() not in PROMOTED_ENDINGS:
            raise ConfigError(f"{path}: ending {path.suffix!r}; valid: {', '.join(PROMOTED_ENDINGS)}")
        record = self.best if trial is None else self._trial(trial)
        config = dataclasses.replace(self.config(record.number), name=path.stem)
        lines = [f"# {line}".rstrip() for line in self._origin(record)]
        write_text(path, "\n".join([*lines, "", config_to_yaml(config)]))
        return path

    def table(self, most: int = 10) -> str:
        """The best trials for people: accuracy in %, bytes where they are searched, values; then how all stand."""
        trials, objectives = self.trials, self.objectives
        ranked = rank(trials, objectives, most)
        paths = list(dict.fromkeys(path for trial in ranked for path in trial.values))
        heads = ["trial", "accuracy %", *(["bytes"] if len(objectives) > 1 else []), *paths]
        rows = [
            [
                str(trial.number),
                f"{100 * (trial.accuracy or 0):.2f}",
                *([f"{trial.bytes:,}" if trial.bytes is not None else ""] if len(objectives) > 1 else []),
                *(format_value(trial.values.get(path)) for path in paths),
            ]
            for trial in ranked
        ]
        widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [heads, *rows]
        ]
        return "\n".join([*lines, summary(trials)])

    def _trial(self, number: int) -> TrialRecord:
        for trial in self.trials:
            if trial.number == number:
                return trial
        raise RunError(f"{self.folder}: trial: found {number}, valid: 0 to {len(self.trials) - 1}")

    def _origin(self, record: TrialRecord) -> list[str]:
        described, trials = self.records.describe(), self.trials
        accuracy = "unknown" if record.accuracy is None else f"{100 * record.accuracy:.2f} %"
        judge = {"students": "?", "max_steps": "?", **described.get("judge", {})}
        known = {name: described.get(name, {}).get("sha256") for name in ("data", "val_data")}
        lines = [
            f"Trial {record.number} of the sweep {self.folder.name} ({record.state}): the preset "
            f"{described.get('config', {}).get('name', '?')} with",
            *(f"    {path}: {format_value(value)}" for path, value in record.values.items()),
            f"Validation accuracy {accuracy} at {record.images:,} images ({judge['students']} students, at most "
            f"{judge['max_steps']} steps).",
            f"Search {described.get('search')}, seed {described.get('seed')}: {summary(trials)}.",
            f"Data {known['data']}, validation {known['val_data']} (SHA-256).",
        ]
        return lines


def format_value(value: Any) -> str:
    """A searched value for people."""
    if isinstance(value, float):
        return "off" if value == 0 else f"{value:.4g}"
    return "" if value is None else str(value)


def summary(trials: Sequence[TrialRecord]) -> str:
    """How the trials stand, e.g. ``30 trials: 12 complete, 17 stopped early, 1 diverged``."""
    words = {"complete": "complete", "stopped": "stopped early", "running": "not ended"}
    states = [trial.state for trial in trials]
    counts = {state: states.count(state) for state in ("complete", "stopped", "diverged", "failed", "running")}
    parts = [f"{count} {words.get(state, state)}" for state, count in counts.items() if count]
    return f"{len(trials)} trial{'s' * (len(trials) != 1)}" + (f": {', '.join(parts)}" if parts else "")

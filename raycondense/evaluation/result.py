"""What an evaluation found: one row per method, architecture and images per class, as table and as JSON.

Nothing is trained or read here; `raycondense.evaluation.run` makes an `Evaluation`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycondense.artifact.sizes import format_bytes
from raycondense.config import EvaluationConfig
from raycondense.configfile import config_to_dict, section_from_dict
from raycondense.errors import ArtifactError

FORMAT_VERSION = 1
ACCOUNTING = "bank"
OURS = "raycondense"
METHOD_NAMES = {OURS: OURS, "random": "random real", "kmeans": "k-means medoids", "whole": "whole set"}
"""How rows call the method of a job, in the order of the rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Accuracy of one method, architecture and number of images per class, over students."""

    method: str
    """A value of `METHOD_NAMES`."""
    architecture: str
    ipc: int
    """Images per class; 0 is the whole training set."""
    accuracy: float
    """Mean top-1 accuracy over students, in [0, 1]."""
    std: float | None
    """Standard deviation over students (n - 1 in the denominator); None with one student."""
    students: int
    images: int
    """Images that a student was trained on."""
    bytes: int
    """What has to be kept to have these images: the artefact, or uint8 pixels."""
    steps: int
    """Training steps of a student."""
    seconds: float
    """Mean wall-clock seconds of a student: getting the images, training and scoring."""
    accounting: str = ACCOUNTING
    """How images are counted (method.md, accountings): ``bank`` is a fixed set, decoded once."""

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells rows apart: method, architecture, images per class."""
        return self.method, self.architecture, self.ipc


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """All rows of one evaluation, and what they were measured with."""

    rows: tuple[Row, ...]
    config: EvaluationConfig
    artifact: str
    """The artefact's folder as it was given."""
    test: Mapping[str, Any]
    """Which images were scored: ``source``, ``split``, ``sha256``, ``images``, ``resolution`` (of a student's input)
    and ``reads``, how many students the split was read for."""
    train: Mapping[str, Any] | None = None
    """Where baselines were drawn from: ``source``, ``split``, ``sha256``, ``images``, and ``condensed_from``,
    whether the artefact was condensed from the same file. None without baselines."""
    results: tuple[Mapping[str, Any], ...] = ()
    """One plain dict a student, as `raycondense.evaluation.jobs.run_job` returned it."""

    def row(self, method: str, *, ipc: int, architecture: str | None = None) -> Row:
        """The row of a method (as rows call it); the first architecture where none is named.

        Raises:
            KeyError: there is no such row.
        """
        architecture = architecture or self.config.architectures[0]
        for row in self.rows:
            if (row.method, row.ipc, row.architecture) == (method, ipc, architecture):
                return row
        raise KeyError(f"no row for method {method!r}, ipc {ipc}, architecture {architecture!r}")

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers has to know: protocol, split, and what went wrong."""
        config, test = self.config, self.test
        epochs = f"{config.epochs} epochs" + (f", at most {config.max_steps} steps" if config.max_steps else "")
        augment = "DSA " + "+".join(config.augment) if config.augment else "no augmentation"
        notes = [
            f"top-1 accuracy in % on the {test['split']} split ({test['images']} images), mean ± std over students, "
            "last step",
            f"accounting: {ACCOUNTING} (fixed images, decoded once); size: the artefact's file, or uint8 pixels",
            f"recipe: {config.optimizer} {config.lr:g} ({config.lr_schedule}), weight decay {config.weight_decay:g}, "
            f"batch {config.batch}, {epochs}, {augment}, hard labels",
        ]
        if test["split"] == "train":
            notes.append("attention: scored on the train split; these are no test accuracies")
        if self.train is not None and not self.train["condensed_from"]:
            notes.append("attention: baselines were drawn from another file than the artefact was condensed from")
        for row in self.rows:
            bad = sum(r["loss"] is None for r in self.results if result_key(r) == row.key)
            if bad:
                who = f"{row.method} ({row.architecture}, {row.images:,} images)"
                notes.append(f"attention: {bad} of {row.students} students of {who} diverged")
        return tuple(notes)

    def table(self) -> str:
        """The rows as a Markdown table, aligned so that it also reads well as plain text, and the notes below it."""
        head = ("method", "student", "IPC", "accuracy %", "students", "images", "size", "accounting", "s/student")
        body = [
            (
                row.method, row.architecture, str(row.ipc) if row.ipc else "–", percent(row.accuracy, row.std),
                str(row.students), f"{row.images:,}", format_bytes(row.bytes), row.accounting, f"{row.seconds:.1f}",
            )
            for row in self.rows
        ]  # fmt: skip
        widths = [max(len(cells[i]) for cells in (head, *body)) for i in range(len(head))]
        left = {0, 1, 7}

        def line(cells: tuple[str, ...]) -> str:
            padded = (
                cell.ljust(width) if i in left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
            return "| " + " | ".join(padded) + " |"

        rule = "| " + " | ".join("-" * w if i in left else "-" * (w - 1) + ":" for i, w in enumerate(widths)) + " |"
        return "\n".join([line(head), rule, *map(line, body), "", *(f"- {note}" for note in self.notes)]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """A dict of plain values; `from_dict` reads it back."""
        return {
            "format_version": FORMAT_VERSION,
            "artifact": self.artifact,
            "test": dict(self.test),
            "train": None if self.train is None else dict(self.train),
            "config": config_to_dict(self.config),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "results": [dict(result) for result in self.results],
        }

    def to_json(self) -> str:
        """The evaluation as JSON; `from_json` reads it back."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str = "evaluation") -> Evaluation:
        """Read what `to_dict` made.

        Args:
            values: the dict.
            source: the file it came from, for messages.

        Raises:
            ArtifactError: the dict is damaged or from a newer version.
        """
        version = values.get("format_version") if isinstance(values, Mapping) else None  # type: ignore[redundant-expr]
        if version != FORMAT_VERSION:
            raise ArtifactError(f"{source}: format_version: found {version!r}, valid: {FORMAT_VERSION}")
        try:
            return cls(
                rows=tuple(Row(**row) for row in values["rows"]),
                config=section_from_dict(EvaluationConfig, values["config"], name="evaluation", source=source),
                artifact=values["artifact"],
                test=values["test"],
                train=values["train"],
                results=tuple(values["results"]),
            )
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{source}: not an evaluation of raycondense: {error}") from error

    @classmethod
    def from_json(cls, text: str, *, source: str = "evaluation") -> Evaluation:
        """Read what `to_json` made.

        Raises:
            ArtifactError: the text is damaged or from a newer version.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ArtifactError(f"{source}: not JSON: {error}") from error
        return cls.from_dict(values, source=source)


def summarise(results: Iterable[Mapping[str, Any]], architectures: Sequence[str]) -> tuple[Row, ...]:
    """Students' results as rows, in the order of `sort_rows`."""
    groups: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault(result_key(result), []).append(result)
    rows = []
    for (method, architecture, ipc), members in groups.items():
        accuracies = [member["accuracy"] for member in members]
        rows.append(
            Row(
                method=method,
                architecture=architecture,
                ipc=ipc,
                accuracy=statistics.fmean(accuracies),
                std=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
                students=len(members),
                images=members[0]["images"],
                bytes=members[0]["bytes"],
                steps=members[0]["steps"],
                seconds=statistics.fmean(member["seconds"] for member in members),
            )
        )
    return sort_rows(rows, architectures)


def result_key(result: Mapping[str, Any]) -> tuple[str, str, int]:
    """`Row.key` of the row that a student's result belongs to."""
    return METHOD_NAMES[result["method"]], result["architecture"], result["ipc"]


def sort_rows(rows: Iterable[Row], architectures: Sequence[str]) -> tuple[Row, ...]:
    """Rows by architecture, images per class (the whole set last) and method."""
    methods, order = list(METHOD_NAMES.values()), list(architectures)
    return tuple(sorted(rows, key=lambda r: (order.index(r.architecture), r.ipc or math.inf, methods.index(r.method))))


def percent(mean: float, std: float | None = None) -> str:
    """A fraction as ``48.9 ± 0.6`` per cent."""
    return f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if std is not None else "")

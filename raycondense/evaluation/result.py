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
from raycondense.config import ACCOUNTINGS, EvaluationConfig
from raycondense.configfile import config_to_dict, section_from_dict
from raycondense.errors import ArtifactError, choices_message
from raycondense.evaluation.columns import DIAGNOSTICS, diagnostics_table, score_table
from raycondense.evaluation.measures import scores_of
from raycondense.evaluation.methods import FROM_GENERATOR, METHOD_NAMES
from raycondense.evaluation.protocols import protocol_label
from raycondense.shapes import OBJECT, fault
from raycondense.storage import parse_json

FORMAT_VERSION = 2
ACCOUNTING_NOTES = {
    "bank": "fixed images, decoded once; size: generator and codes, or uint8 pixels",
    "bytes": "the largest bank whose generator and codes take no more bytes than IPC uint8 images per class",
    "stream": "fresh samples for as many steps as the bank's students take; images counts the different ones",
}
RowKey = tuple[str, str, int, str, str, bool]
_TOLD = {"source": str, "split": str, "sha256": str, "images": int}
_KEY = {"method": str, "architecture": str, "ipc": int, "accounting": str, "labels": str, "augmented": bool}
_SHAPE = {
    "artifact": str,
    "test": {**_TOLD, "resolution": int, "reads?": int},
    "train": ({**_TOLD, "condensed_from": bool}, None),
    "config": OBJECT,
    "rows": [{**_KEY, "accuracy": float, "std": (float, None), "students": int, "images": int, "bytes": int,
              "steps": int, "seconds": float, "teacher_bytes?": int, "label_bytes?": int, "generation_seconds?": float,
              **dict.fromkeys(("hlr?", "ior?", "lrs?", "ars?"), (float, None))}],
    "results": [{**_KEY, "loss": (float, None), "seconds?": float}],
    "diagnostics": [{"key?": str, "method": str, "ipc": int, "accounting?": str, "reference?": str,
                     **dict.fromkeys(DIAGNOSTICS, (float, None))}],
    "failures": [{"label": str, "error": str}],
    "missing": [str],
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Accuracy of one method, architecture and number of images per class, over students."""

    method: str
    """A key of `raycondense.evaluation.methods.METHOD_NAMES`."""
    architecture: str
    ipc: int
    """Images per class (of the bytes accounting: whose pixels take the bytes that are allowed); 0 is the whole set."""
    accuracy: float
    """Mean top-1 accuracy over students, in [0, 1]."""
    std: float | None
    """Standard deviation over students (n - 1 in the denominator); None with one student."""
    students: int
    images: int
    """Different images that a student was trained on, before augmentation."""
    bytes: int
    """What has to be kept to have these images: the generator and its codes, or uint8 pixels."""
    steps: int
    """Training steps of a student."""
    seconds: float
    """Mean wall-clock seconds of a student: getting the images, training and scoring."""
    accounting: str = "bank"
    """How images are counted: a key of `raycondense.config.ACCOUNTINGS`."""
    labels: str = "hard"
    """``hard``, or ``soft``: the reference network's probabilities for each augmented view."""
    augmented: bool = True
    """Whether students were trained with augmentation."""
    teacher_bytes: int = 0
    """Bytes of the network that gave soft labels."""
    label_bytes: int = 0
    """Bytes that the soft labels of all views of a training would take in float16."""
    generation_seconds: float = 0.0
    """Mean wall-clock seconds of making the images."""
    hlr: float | None = None
    """Hard-label recovery, see `raycondense.evaluation.measures`; likewise the following."""
    ior: float | None = None
    """Improvement over random real images."""
    lrs: float | None = None
    """Label-robust score."""
    ars: float | None = None
    """Augmentation-robust score."""

    @property
    def name(self) -> str:
        """The method, for people."""
        return METHOD_NAMES[self.method]

    @property
    def key(self) -> RowKey:
        """What tells rows apart: method, architecture, images per class, accounting, labels, augmented."""
        return self.method, self.architecture, self.ipc, self.accounting, self.labels, self.augmented


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
    """One plain dict a student, as `raycondense.evaluation.jobs.Job.run` returned it."""

    diagnostics: tuple[Mapping[str, Any], ...] = ()
    """One plain dict an image set (see `raycondense.evaluation.diagnostics`)."""
    failures: tuple[Mapping[str, Any], ...] = ()
    """What failed twice and is missing from the rows: ``label`` and ``error``."""
    missing: tuple[str, ...] = ()
    """Rows that were asked for and cannot be had, and why."""

    def row(
        self,
        method: str,
        *,
        ipc: int,
        architecture: str | None = None,
        accounting: str = "bank",
        labels: str | None = None,
        augmented: bool = True,
    ) -> Row:
        """One row, by what tells rows apart; the first architecture and the protocol's own labels where none are named.

        Raises:
            KeyError: there is no such row.
        """
        architecture = architecture or self.config.architectures[0]
        labels = labels or ("hard" if method == "whole" else self.config.labels)
        key: RowKey = (method, architecture, ipc, accounting, labels, augmented)
        for row in self.rows:
            if row.key == key:
                return row
        raise KeyError(f"no row {key}")

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers has to know: protocol, split, and what went wrong."""
        config, test = self.config, self.test
        epochs = f"{config.epochs} epochs" + (f", at most {config.max_steps} steps" if config.max_steps else "")
        augment = "DSA " + "+".join(config.augment) if config.augment else "no augmentation"
        mixed = f", CutMix in {100 * config.cutmix:g} % of the steps" if config.cutmix else ""
        soft = config.labels == "soft"
        labels = f"soft labels at temperature {config.temperature:g}" if soft else "hard labels"
        notes = [
            f"top-1 accuracy in % on the {test['split']} split ({test['images']} images), mean ± std over students, "
            "last step",
            *(f"accounting {name}: {ACCOUNTING_NOTES[name]}" for name in config.accountings),
            f"protocol {protocol_label(config)}: {config.optimizer} {config.lr:g} ({config.lr_schedule}), "
            f"weight decay {config.weight_decay:g}, batch {config.batch}, {epochs}, {augment}{mixed}, {labels}",
        ]
        if any(row.method in FROM_GENERATOR for row in self.rows) and config.weights != "float32":
            notes.append(f"generators and codes were rounded to {config.weights} before they were decoded and counted")
        if any(row.hlr is not None or row.ior is not None for row in self.rows):
            notes.append(
                "HLR: whole set minus this, hard labels; IOR: this minus random real; LRS, ARS: label- and "
                "augmentation-robust score (DD-Ranking), all as fractions"
            )
        if soft:
            taught = max((row for row in self.rows if row.labels == "soft"), key=lambda r: r.label_bytes, default=None)
            if taught is not None:
                teacher, stored = format_bytes(taught.teacher_bytes), format_bytes(taught.label_bytes)
                notes.append(
                    f"soft labels reward compute more than data: the teacher ({config.reference}) takes {teacher}, "
                    f"the labels of a training, were they stored, up to {stored}"
                )
        if test["split"] == "train":
            notes.append("attention: scored on the train split; these are no test accuracies")
        if self.train is not None and not self.train["condensed_from"]:
            notes.append("attention: baselines were drawn from another file than the artefact was condensed from")
        notes += [f"attention: {missing}" for missing in self.missing]
        for row in self.rows:
            bad = sum(r["loss"] is None for r in self.results if result_key(r) == row.key)
            if bad:
                who = f"{row.name} ({row.architecture}, {row.images:,} images)"
                notes.append(f"attention: {bad} of {row.students} students of {who} diverged")
        for failure in self.failures:
            label, error = failure["label"], failure["error"]
            notes.append(f"attention: failed: {error if error.startswith(label) else f'{label}: {error}'}")
        return tuple(notes)

    def table(self) -> str:
        """The rows as a Markdown table, aligned so that it also reads well as plain text, and the notes below it."""
        parts = [score_table(self.rows)]
        if self.diagnostics:
            parts.append(diagnostics_table(self.diagnostics))
        parts.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(parts) + "\n"

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
            "diagnostics": [dict(row) for row in self.diagnostics],
            "failures": [dict(failure) for failure in self.failures],
            "missing": list(self.missing),
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
            raise ArtifactError(f"{source}: format_version: found {version!r}, valid: {FORMAT_VERSION} (evaluate anew)")
        try:
            wrong = fault(values, _SHAPE)
            if wrong:
                raise ArtifactError(f"{source}: not an evaluation of raycondense: {wrong}")
            rows = tuple(Row(**row) for row in values["rows"])
            found = [*values["rows"], *values["results"], *values["diagnostics"]]
            for name, valid in (("method", METHOD_NAMES), ("accounting", ACCOUNTINGS), ("labels", ("hard", "soft"))):
                for row in found:
                    if row.get(name, valid) not in (*valid, valid):
                        raise ArtifactError(f"{source}: {choices_message(name, row[name], valid)}")
            return cls(
                rows=rows,
                config=section_from_dict(EvaluationConfig, values["config"], name="evaluation", source=source),
                artifact=values["artifact"],
                test=values["test"],
                train=values["train"],
                results=tuple(values["results"]),
                diagnostics=tuple(values["diagnostics"]),
                failures=tuple(values["failures"]),
                missing=tuple(values["missing"]),
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
            values = parse_json(text)
        except ValueError as error:
            raise ArtifactError(f"{source}: not JSON: {error}") from error
        return cls.from_dict(values, source=source)


def summarise(results: Iterable[Mapping[str, Any]], architectures: Sequence[str]) -> tuple[Row, ...]:
    """Students' results as rows with their scores, in the order of `sort_rows`."""
    groups: dict[RowKey, list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault(result_key(result), []).append(result)
    rows = []
    for (method, architecture, ipc, accounting, labels, augmented), members in groups.items():
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
                accounting=accounting,
                labels=labels,
                augmented=augmented,
                teacher_bytes=members[0]["teacher_bytes"],
                label_bytes=members[0]["label_bytes"],
                generation_seconds=statistics.fmean(member["generation_seconds"] for member in members),
            )
        )
    return sort_rows(with_scores(rows), architectures)


def with_scores(rows: Sequence[Row]) -> list[Row]:
    """Rows with the scores that compare them with each other; None where a row to compare with is missing."""
    return [dataclasses.replace(row, **scores) for row, scores in zip(rows, scores_of(rows), strict=True)]


def result_key(result: Mapping[str, Any]) -> RowKey:
    """`Row.key` of the row that a student's result belongs to."""
    key: RowKey = tuple(result[k] for k in ("method", "architecture", "ipc", "accounting", "labels", "augmented"))
    return key


def sort_rows(rows: Iterable[Row], architectures: Sequence[str]) -> tuple[Row, ...]:
    """Rows by architecture, images per class (the whole set last), accounting, labels, augmentation and method."""
    methods, order = list(METHOD_NAMES), list(architectures)

    def place(row: Row) -> tuple[Any, ...]:
        return (
            order.index(row.architecture), row.ipc or math.inf, ACCOUNTINGS.index(row.accounting), row.labels,
            not row.augmented, methods.index(row.method),
        )  # fmt: skip

    return tuple(sorted(rows, key=place))

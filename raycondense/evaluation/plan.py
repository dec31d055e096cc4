"""Which works an evaluation consists of: the students of every row, and what they need first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from raycondense.artifact.format import WEIGHTS
from raycondense.artifact.initial import find_initial
from raycondense.artifact.load import Artifact, load
from raycondense.artifact.rounding import largest_bank_within, rounded_bytes
from raycondense.artifact.sizes import format_bytes
from raycondense.config import EvaluationConfig
from raycondense.data.sidecar import Sidecar, file_sha256
from raycondense.evaluation.diagnosis import Diagnosed
from raycondense.evaluation.jobs import Job
from raycondense.evaluation.methods import DRAWN, FOUND_ONCE, FROM_CODES, FROM_GENERATOR, OURS, SMALL
from raycondense.evaluation.reference import Domain, Reference, reference_of
from raycondense.evaluation.sets import SetSpec, SetWork
from raycondense.evaluation.whole import class_limit


@dataclass(slots=True)
class Plan:
    """The works of an evaluation."""

    jobs: list[Job] = field(default_factory=list)
    """Students, in the order of rows."""
    before: dict[str, Reference | SetWork] = field(default_factory=dict)
    """What they need first, by key."""
    diagnosed: list[Diagnosed] = field(default_factory=list)
    """Sets whose diversity and realism are measured."""
    missing: list[str] = field(default_factory=list)
    """Rows that were asked for and cannot be had, and why."""


@dataclass(frozen=True)
class Planner:
    """Lists the works; what a user may have got wrong has been checked before (see `raycondense.evaluation.run`)."""

    artifact: Artifact
    config: EvaluationConfig
    test_path: Path
    test: Sidecar
    train_path: Path | None
    train: Sidecar | None
    device: str
    _sha256: dict[Path, str] = field(default_factory=dict, init=False, compare=False, repr=False)

    def plan(self, ipc: Sequence[int]) -> Plan:
        """The works for banks of ``ipc`` images per class."""
        plan = Plan()
        initial = self._initial(plan)
        for architecture in self.config.architectures:
            for accounting in self.config.accountings:
                for images_per_class in (*ipc, 0):
                    for spec in self._sets(plan, initial, accounting, images_per_class):
                        plan.jobs += self._students(spec, architecture, accounting, images_per_class)
        for job in plan.jobs:
            if job.reference is not None:
                plan.before[job.reference.key] = job.reference
        if self.config.diagnostics and self.train is not None:
            self._diagnose(plan)
        return plan

    @cached_property
    def domain(self) -> Domain:
        """What students take in and give out."""
        return Domain.of(self.artifact)

    @cached_property
    def reference(self) -> Reference | None:
        """The reference network; None without training images."""
        if self.train is None or self.train_path is None:
            return None
        return reference_of(self.artifact, self.config, self.train_path, self.train, self.device)

    @cached_property
    def _class_limit(self) -> int:
        return 0 if self.train is None else class_limit(self.train, self.artifact.resolution)

    def _initial(self, plan: Plan) -> Artifact | None:
        """The run's generator before condensation, where the artefact still lies beside it."""
        wanted = [name for name in self.config.baselines if name in FROM_CODES]
        folder = find_initial(self.artifact) if wanted else None
        if folder is None and wanted:
            plan.missing.append(
                f"no rows {', '.join(wanted)}: the generator before condensation is not beside {self.artifact.path}"
            )
        return None if folder is None else load(folder)

    def _sets(self, plan: Plan, initial: Artifact | None, accounting: str, ipc: int) -> Iterator[SetSpec]:
        """What the rows of an accounting and a number of images per class are trained on; 0 is the whole set."""
        baselines = self.config.baselines
        if not ipc:
            if "whole" in baselines and accounting == "bank":
                yield self._real("whole", 0)
            return
        stream = accounting == "stream"
        for method, artifact in ((OURS, self.artifact), ("random-codes", initial), ("initial-codes", initial)):
            if artifact is None or method not in (OURS, *baselines):
                continue
            bank: int | None = ipc
            if accounting == "bytes":
                budget = ipc * self.artifact.num_classes * self._pixels
                bank = largest_bank_within(artifact, self.config.weights, budget)
                if bank is None:
                    smallest = rounded_bytes(artifact, self.config.weights, min(artifact.ipcs))
                    plan.missing.append(
                        f"no row {method} by bytes at IPC {ipc}: the smallest bank takes {format_bytes(smallest)} in "
                        f"{self.config.weights}, {ipc} uint8 images per class take {format_bytes(budget)}"
                    )
                    continue
            assert bank is not None
            yield self._generated(method, artifact, bank, stream)
        if not stream:
            for method in baselines:
                if method in SMALL and self._factor == 1:
                    missing = f"no row {method}: the artefact's images are whole ones (codebook.factor 1)"
                    plan.missing += [missing] if missing not in plan.missing else []
                elif method in FOUND_ONCE:
                    yield self._found(plan, method, ipc)
                elif method in ("random", "random-small"):
                    yield self._real(method, ipc)

    def _hash(self, path: Path) -> str:
        # Asked for once for each architecture, accounting and bank.
        if path not in self._sha256:
            self._sha256[path] = file_sha256(path)
        return self._sha256[path]

    @property
    def _pixels(self) -> int:
        return 3 * self.artifact.resolution**2

    @property
    def _factor(self) -> int:
        return self.artifact.config.codebook.factor

    def _generated(self, method: str, artifact: Artifact, bank: int, stream: bool) -> SetSpec:
        assert artifact.path is not None
        return SetSpec(
            method=method, bank=bank, source=str(artifact.path), source_sha256=self._hash(artifact.path / WEIGHTS),
            domain=self.domain, images=artifact.num_classes * artifact.config.codebook.images_per_class(bank),
            bytes=rounded_bytes(artifact, self.config.weights, bank), weights=self.config.weights, stream=stream,
        )  # fmt: skip

    def _real(self, method: str, ipc: int, needs: tuple[str, ...] = ()) -> SetSpec:
        assert self.train is not None
        factor = self._factor if method in SMALL else 1
        places = ipc * self.artifact.num_classes if ipc else self.train.num_images
        return SetSpec(
            method=method, bank=ipc, source=str(self.train_path), source_sha256=self.train.sha256, domain=self.domain,
            images=places * factor**2, bytes=places * self._pixels, needs=needs, factor=factor,
        )  # fmt: skip

    def _found(self, plan: Plan, method: str, ipc: int) -> SetSpec:
        assert self.train is not None
        reference = self.reference if method == "herding" else None
        work = SetWork(
            method=method, bank=ipc, train=str(self.train_path), train_sha256=self.train.sha256, domain=self.domain,
            config=self.config, reference=reference, device=self.device, factor=self._factor if method in SMALL else 1,
            most=0 if SMALL.get(method, method) == "pixel-dm" else self._class_limit,
        )  # fmt: skip
        if reference is not None:
            plan.before[reference.key] = reference
        plan.before[work.key] = work
        return self._real(method, ipc, needs=(work.key,))

    def _students(self, spec: SetSpec, architecture: str, accounting: str, ipc: int) -> Iterator[Job]:
        for config, augmented in self._recipes(spec.method):
            for student in range(config.students):
                drawn = spec.method in DRAWN or spec.stream
                yield Job(
                    images=dataclasses.replace(spec, draw=student) if drawn else spec,
                    ipc=ipc,
                    accounting=accounting,
                    architecture=architecture,
                    student=student,
                    config=config,
                    augmented=augmented,
                    test=str(self.test_path),
                    test_sha256=self.test.sha256,
                    dataset=self.test.source,
                    train_sha256=self._train_sha256(spec.method),
                    reference=self.reference if config.labels == "soft" else None,
                    device=self.device,
                )

    def _recipes(self, method: str) -> Iterator[tuple[EvaluationConfig, bool]]:
        """The ways in which the students of a method are trained."""
        config = self.config
        hard = dataclasses.replace(config, labels="hard")
        # With soft labels the scores also ask what ours and the whole set are worth with hard ones.
        if config.labels == "soft" and method in (OURS, "whole"):
            yield hard, True
        if method != "whole" or config.labels == "hard":
            yield config, True
        if config.robustness and method in (OURS, "random"):
            yield dataclasses.replace(config, augment=(), cutmix=0.0), False

    def _train_sha256(self, method: str) -> str | None:
        if method in FROM_GENERATOR:
            found = self.artifact.recipe.get("data", {}).get("sha256")
            return found if isinstance(found, str) else None
        return None if self.train is None else self.train.sha256

    def _diagnosed(self, job: Job, reference: Reference) -> Diagnosed:
        return Diagnosed(images=job.images, ipc=job.ipc, reference=reference, most=self._class_limit)

    def _diagnose(self, plan: Plan) -> None:
        """Every set of a fixed number of images is measured."""
        reference = self.reference
        assert reference is not None
        plan.before[reference.key] = reference
        fixed = [job for job in plan.jobs if job.accounting == "bank" and job.ipc and not job.images.draw]
        sets = {(one := self._diagnosed(job, reference)).key: one for job in fixed}
        plan.diagnosed += sets.values()

"""The work of measuring diversity and realism of sets of images in the reference network's features."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from raycondense.evaluation.diagnostics import diagnose_all
from raycondense.evaluation.reference import Reference, step_cost, whole_set
from raycondense.evaluation.sets import SetSpec
from raycondense.evaluation.store import Store
from raycondense.evaluation.train import ImageSet
from raycondense.evaluation.work import content_hash

VERSION = 1
"""Goes up when a measure changes its meaning, so that kept rows are measured anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosed:
    """One set of images that is measured."""

    images: SetSpec
    ipc: int
    reference: Reference

    @property
    def key(self) -> str:
        """Content hash of the images and the network that they are seen through."""
        return content_hash(
            {"diagnosis": self.images.key, "ipc": self.ipc, "reference": self.reference.key, "version": VERSION}
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """Measure several sets against the same real images, which are embedded once."""

    sets: tuple[Diagnosed, ...]
    """One or more, with the same reference network."""

    @property
    def key(self) -> str:
        """Content hash of the sets' keys."""
        return content_hash([one.key for one in self.sets])

    @property
    def cost(self) -> float:
        """See `raycondense.evaluation.work.Work.cost`: one look at every real image."""
        reference = self.sets[0].reference
        return step_cost(reference.config, reference.config.reference, reference.train_images, reference.domain) / 3

    @property
    def needs(self) -> tuple[str, ...]:
        """The works that find the images and train the reference network."""
        keys = [key for one in self.sets for key in one.images.needs]
        return tuple(dict.fromkeys([self.sets[0].reference.key, *keys]))

    @property
    def label(self) -> str:
        """For people."""
        return f"diagnostics of {len(self.sets)} image sets"

    def run(self, store: Store) -> list[dict[str, Any]]:
        """Measure."""
        start = time.perf_counter()
        reference = self.sets[0].reference
        images = []
        for one in self.sets:
            loaded = one.images.load(store, reference.device)
            assert isinstance(loaded, ImageSet), "a stream has no fixed images to measure"
            images.append(loaded)
        domain = reference.domain
        found = diagnose_all(
            images,
            whole_set(reference.train, reference.train_sha256, domain.resolution),
            reference.embed(store),
            num_classes=len(domain.classes),
        )
        seconds = (time.perf_counter() - start) / len(self.sets)
        return [
            {
                "table": "diagnostics",
                "key": one.key,
                "finished_at": time.time(),
                "method": one.images.method,
                "ipc": one.ipc,
                "accounting": "bank",
                "source": one.images.source,
                "source_sha256": one.images.source_sha256,
                "train_sha256": reference.train_sha256,
                "classes": len(domain.classes),
                "resolution": domain.resolution,
                "images": len(data.labels),
                "reference": f"{reference.config.reference}, {reference.config.reference_steps} steps",
                **measured.to_dict(),
                "seconds": seconds,
            }
            for one, data, measured in zip(self.sets, images, found, strict=True)
        ]

"""The work of measuring diversity and realism of sets of images in the reference network's features."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from raycondense.evaluation import whole
from raycondense.evaluation.diagnostics import diagnose_all
from raycondense.evaluation.images import ImageSet
from raycondense.evaluation.reference import Reference, step_cost
from raycondense.evaluation.sets import SetSpec
from raycondense.evaluation.store import Store
from raycondense.evaluation.whole import classes_of, image_bytes, whole_set
from raycondense.evaluation.work import content_hash

VERSION = 1
"""Goes up when a measure changes its meaning, so that kept rows are measured anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosed:
    """One set of images that is measured."""

    images: SetSpec
    ipc: int
    reference: Reference
    most: int = 0
    """See `raycondense.evaluation.whole.class_limit`."""

    @property
    def key(self) -> str:
        """Content hash of the images, the real ones that they are held against and the network that sees both."""
        values = {"diagnosis": self.images.key, "ipc": self.ipc, "reference": self.reference.key, "version": VERSION}
        return content_hash(values | ({"most": self.most} if self.most else {}))

    @property
    def bytes(self) -> int:
        """Of the images in memory."""
        return image_bytes(self.images.images, self.images.domain.resolution)


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """Measure several sets against the same real images, which are embedded once."""

    sets: tuple[Diagnosed, ...]
    """One or more, with the same reference network and the same real images."""

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
            classes_of(whole_set(reference.train, reference.train_sha256, domain.resolution), self.sets[0].most),
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


def grouped(diagnosed: Iterable[Diagnosed]) -> list[Diagnosis]:
    """Sets that are measured against the same real images together, as far as they all fit in `KEPT_BYTES`.

    Every work looks at all real images again, so as few as memory allows.
    """
    groups: list[list[Diagnosed]] = []
    last: dict[tuple[str, int], list[Diagnosed]] = {}
    for one in diagnosed:
        alike = (one.reference.key, one.most)
        group = last.get(alike)
        if group is None or sum(other.bytes for other in group) + one.bytes > whole.KEPT_BYTES:
            last[alike] = group = []
            groups.append(group)
        group.append(one)
    return [Diagnosis(sets=tuple(group)) for group in groups]

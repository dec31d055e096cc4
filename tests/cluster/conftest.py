"""What tests of runs on Ray share."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from raycondense import api
from raycondense.background import repeated
from raycondense.testing.runs import settings

Series = dict[tuple[str, frozenset[tuple[str, str]]], set[float]]
"""Values by name and labels."""
LABELS = ("run", "stage", "term", "part", "rank")


@dataclass(frozen=True)
class Watched:
    """A run's folder, and what Ray's endpoint showed of our metrics meanwhile."""

    folder: Path
    series: Series


@contextmanager
def scraped(interval: float = 0.25) -> Iterator[Series]:
    """Every value that Ray's endpoint on this node shows of our metrics while the block runs."""
    import ray
    from prometheus_client.parser import text_string_to_metric_families

    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: Series = {}

    def scrape() -> None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                text = answer.read().decode()
        except (urllib.error.URLError, TimeoutError):
            return
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if "raycondense" in sample.name:
                    labels = frozenset((k, v) for k, v in sample.labels.items() if k in LABELS)
                    found.setdefault((sample.name, labels), set()).add(sample.value)

    with repeated(scrape, interval):
        yield found


@pytest.fixture(scope="session")
def watched(digits: Path, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A run of two workers that nothing happened to."""
    folder = tmp_path_factory.mktemp("unbroken")
    with scraped() as series:
        api.fit(settings(), data=digits / "train.beton", out=folder, progress=False)
    return Watched(folder, series)


@pytest.fixture(scope="session")
def unbroken(watched: Watched) -> Path:
    """Run folder of two workers that nothing happened to."""
    return watched.folder

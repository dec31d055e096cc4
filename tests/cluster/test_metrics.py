"""What a real Ray offers to Prometheus while a run is training, TensorBoard's files of it, and the dashboard."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from raycondense import api
from raycondense.cluster.metrics import METRICS
from raycondense.configfile import override
from raycondense.presets import get_preset
from raycondense.stopwatch import PARTS
from raycondense.storage import read_lines

pytestmark = pytest.mark.cluster

Series = dict[tuple[str, frozenset[tuple[str, str]]], set[float]]
OURS = ("run", "stage", "term", "part", "rank")


@contextmanager
def scraped(interval: float = 0.25) -> Iterator[Series]:
    """Every value that Ray's endpoint on this node shows of our metrics while the block runs."""
    import ray

    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: Series = {}
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(interval):
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    text = answer.read().decode()
            except (urllib.error.URLError, TimeoutError):
                continue
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if "raycondense" in sample.name:
                        labels = frozenset((k, v) for k, v in sample.labels.items() if k in OURS)
                        found.setdefault((sample.name, labels), set()).add(sample.value)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="module")
def watched(digits: Path, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Series]:
    """Run folder of two workers, and what was scraped while they trained."""
    folder = tmp_path_factory.mktemp("runs") / "watched"
    settings: dict[str, Any] = {
        "data.loader": "resident",
        "generator": {"width": 8, "max_width": 8, "class_dim": 4},
        "codebook": {"ipc": [1, 3], "dim": 8},
        "extractors": {"width": 8, "weights": "random"},
        "losses.ce": 0.0,
        "initialise": {"steps": 4, "batch": 16},
        "condense": {"images": 80 * 150, "real_per_class": 8, "log_images": 400, "checkpoint_images": 10**9},
        "cluster": {"workers": 2, "max_failures": 0},
    }
    with scraped() as series:
        api.fit(override(get_preset("digits"), settings), data=digits / "train.beton", out=folder, progress=False)
    return folder, series


def records(folder: Path, stage: str = "condense") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in read_lines(folder / "log.jsonl")]
    return [record for record in found if record["stage"] == stage]


def test_ray_offers_what_the_log_says(watched: tuple[Path, Series]) -> None:
    folder, series = watched
    logged = records(folder)
    run, stage = ("run", "watched"), ("stage", "condense")
    expected: dict[tuple[str, frozenset[tuple[str, str]]], set[float]] = {
        ("ray_raycondense_workers", frozenset({run})): {2.0},
        ("ray_raycondense_images_per_second", frozenset({run, stage})): {r["images_per_second"] for r in logged},
        ("ray_raycondense_progress_ratio", frozenset({run, stage})): {r["images"] / r["total"] for r in logged},
    }
    for term in ("match", "intra", "inter", "total"):
        labels = frozenset({run, stage, ("term", term)})
        expected["ray_raycondense_loss", labels] = {r[f"loss/{term}"] for r in logged}
    for part in PARTS:
        labels = frozenset({run, stage, ("part", part)})
        expected["ray_raycondense_step_seconds", labels] = {r[f"seconds/{part}"] for r in logged}
    mine = {key: values for key, values in series.items() if run in key[1] and ("stage", "reconstruct") not in key[1]}
    assert mine.keys() == expected.keys()
    for key, values in mine.items():
        assert values <= expected[key], key
    # It moves: more than one log record was seen.
    assert len(mine["ray_raycondense_progress_ratio", frozenset({run, stage})]) > 1


def test_the_split_adds_up_to_the_step(watched: tuple[Path, Series]) -> None:
    for record in records(watched[0])[1:]:
        split = sum(record[f"seconds/{part}"] for part in PARTS)
        # The rest of the wall clock is the log record itself, which waits for Ray.
        assert 0 < split <= 80 / record["images_per_second"] * 1.05
        assert record["seconds/all_reduce"] > 0


def test_tensorboard_reads_the_run(watched: tuple[Path, Series]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, logged = watched[0], records(watched[0])
    events: Any = EventAccumulator(str(folder / "tensorboard" / "condense")).Reload()
    for tag in ("loss/match", "images_per_second", "seconds/extractors"):
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert found == [(r["images"], pytest.approx(r[tag], rel=1e-6)) for r in logged]
    assert (folder / "tensorboard" / "reconstruct").is_dir()


def test_the_dashboard_draws_what_ray_offers(watched: tuple[Path, Series]) -> None:
    """Every name and label that a query of the dashboard uses was scraped (GPU memory apart, where there is no GPU)."""
    offered: dict[str, set[str]] = {}
    for name, labels in watched[1]:
        offered.setdefault(name, set()).update(key for key, _ in labels)
    described = {f"ray_{name}": set(labels) for name, (_, labels) in METRICS.items()}
    assert {name: described[name] for name in offered} == offered
    dashboard = json.loads((Path(__file__).parents[2] / "clusters" / "grafana.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    used = {name for query in queries for name in re.findall(r"\bray_raycondense_\w+", query)}
    assert used == described.keys()
    assert used - offered.keys() <= {"ray_raycondense_gpu_memory_bytes"}


def test_panels_have_places_names_and_labels_of_their_own() -> None:
    dashboard = json.loads((Path(__file__).parents[2] / "clusters" / "grafana.json").read_text(encoding="utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    variables = {f"${variable['name']}" for variable in dashboard["templating"]["list"]}
    for target in (target for panel in panels for target in panel["targets"]):
        selectors = re.findall(r"ray_(raycondense_\w+)(?:\{([^}]*)\})?", target["expr"])
        assert selectors
        for name, labels in selectors:
            assert set(re.findall(r"(\w+)\s*=", labels)) <= set(METRICS[name][1]), target["expr"]
        assert set(re.findall(r"\$\w+", target["expr"])) <= variables
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= set(METRICS[selectors[0][0]][1])

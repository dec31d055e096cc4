"""What a real Ray offers to Prometheus while a run is training, TensorBoard's files of it, and the dashboard."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from raycondense.cluster.metrics import METRICS
from raycondense.stopwatch import PARTS
from raycondense.testing.runs import STEP_IMAGES, records

pytestmark = pytest.mark.cluster


def logged_by(folder: Path) -> list[dict[str, Any]]:
    """Log records of the condensation."""
    return [record for record in records(folder) if record["stage"] == "condense"]


def test_ray_offers_what_the_log_says(watched: Any) -> None:
    logged = logged_by(watched.folder)
    run, stage = ("run", watched.folder.name), ("stage", "condense")
    expected: dict[tuple[str, frozenset[tuple[str, str]]], set[float]] = {
        ("ray_raycondense_workers", frozenset({run})): {2.0},
        ("ray_raycondense_images_per_second", frozenset({run, stage})): {r["images_per_second"] for r in logged},
        ("ray_raycondense_progress_ratio", frozenset({run, stage})): {r["images"] / r["total"] for r in logged},
    }
    for term in ("match", "intra", "inter", "regression", "ce", "total"):
        labels = frozenset({run, stage, ("term", term)})
        expected["ray_raycondense_loss", labels] = {r[f"loss/{term}"] for r in logged}
    for part in PARTS:
        labels = frozenset({run, stage, ("part", part)})
        expected["ray_raycondense_step_seconds", labels] = {r[f"seconds/{part}"] for r in logged}
    other = {("stage", "pool"), ("stage", "reconstruct")}
    mine = {key: values for key, values in watched.series.items() if run in key[1] and not other & key[1]}
    assert mine.keys() == expected.keys()
    for key, values in mine.items():
        assert values <= expected[key], key
    # It moves: more than one log record was seen.
    assert len(mine["ray_raycondense_progress_ratio", frozenset({run, stage})]) > 1


def test_the_split_adds_up_to_the_step(watched: Any) -> None:
    for record in logged_by(watched.folder)[1:]:
        split = sum(record[f"seconds/{part}"] for part in PARTS)
        # The rest of the wall clock is the log record itself, which waits for Ray.
        assert 0 < split <= STEP_IMAGES / record["images_per_second"] * 1.05
        assert record["seconds/all_reduce"] > 0


def test_tensorboard_reads_the_run(watched: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, logged = watched.folder, logged_by(watched.folder)
    events: Any = EventAccumulator(str(folder / "tensorboard" / "condense")).Reload()
    for tag in ("loss/match", "images_per_second", "seconds/extractors"):
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert found == [(r["images"], pytest.approx(r[tag], rel=1e-6)) for r in logged]
    assert (folder / "tensorboard" / "reconstruct").is_dir()


def test_the_dashboard_draws_what_ray_offers(watched: Any) -> None:
    """Every name and label that a query of the dashboard uses was scraped (GPU memory apart, where there is no GPU)."""
    offered: dict[str, set[str]] = {}
    for name, labels in watched.series:
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

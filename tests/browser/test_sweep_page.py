"""`sweep.html` as a person sees it: a real headless Chromium opens it from a file."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raycondense.report.sweep import write_sweep_report
from raycondense.testing.sweeps import made_sweep

from .conftest import SWEEP_TRIALS
from .devtools import UNFOLD, Tab

pytestmark = pytest.mark.browser

# The picture of an alternative text as pixels of the page's own rendering of it, [H, W, 4].
DRAWN = """(async () => {{
  const image = [...document.images].find(i => i.alt.startsWith({alt!r}));
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.clientWidth * 2, image.clientHeight * 2];
  const context = canvas.getContext('2d');
  await image.decode();
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL('image/png'); }})()"""


def drawn(tab: Tab, alt: str) -> np.ndarray:
    """RGBA [H, W, 4] of a figure at twice the size at which it is shown."""
    _, _, content = tab.evaluate(DRAWN.format(alt=alt)).partition(",")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGBA"), np.int64)


def near(image: np.ndarray, colour: str, within: int = 24) -> np.ndarray:
    """Bool [H, W]: where the figure has this colour."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.abs(image[..., :3] - rgb).max(-1) < within) & (image[..., 3] > 200)


def test_every_section_is_there_and_every_figure_can_be_seen(tab: Tab, sweep_page: str) -> None:
    tab.open(sweep_page, width=1100)
    headings = tab.evaluate("[...document.querySelectorAll('h2')].map(each => each.textContent)")
    assert headings == ["Trials", "Search", "Parameters", "Accuracy against bytes", "Winners", "Configuration"]
    assert tab.evaluate("document.title") == "a sweep: #1 & <more> – raycondense"
    images = tab.evaluate("[...document.images].map(i => [i.alt, i.complete, i.naturalWidth, i.clientWidth])")
    kinds = {
        "Search": 1, "Rungs": 1, "Parallel": 1, "losses.intra by": 1, "Importances": 2, "Pareto": 1, "contact sheet": 3
    }  # fmt: skip
    for kind, count in kinds.items():
        assert sum(alt.startswith(kind) for alt, *_ in images) == count, kind
    assert len(images) == sum(kinds.values())
    assert [alt for alt, complete, natural, shown in images if not (alt and complete and natural and shown)] == []


def test_on_a_phone_tables_scroll_by_themselves_and_say_which_trial(tab: Tab, sweep_page: str) -> None:
    tab.open(sweep_page, width=390)
    tab.evaluate(UNFOLD)
    tables = tab.evaluate(
        "[...document.querySelectorAll('[role=region]')].map(r => [r.ariaLabel, r.scrollWidth - r.clientWidth])"
    )
    beyond = dict(tables)
    assert set(beyond) == {"The best trials", "All trials", "Trials of the Pareto front", "The space"}
    assert beyond["All trials"] > 0
    # What is told in few columns needs no scrolling.
    assert beyond["Trials of the Pareto front"] == beyond["The space"] == 0
    stays = (
        "(() => { const r = document.querySelector('[aria-label=\"All trials\"]'); r.scrollLeft = 300;"
        " return r.querySelector('tbody th').getBoundingClientRect().left - r.getBoundingClientRect().left; })()"
    )
    assert tab.evaluate(stays) == pytest.approx(0, abs=1)


def test_on_a_phone_the_text_of_figures_can_be_read(tab: Tab, sweep_page: str) -> None:
    """No letters of a figure are shown smaller than 9 pixels."""
    tab.open(sweep_page, width=390)
    figures = tab.evaluate(
        "[...document.querySelectorAll('picture img')].map(i => [i.alt, i.currentSrc, i.clientWidth])"
    )
    assert len(figures) == 7
    for alt, source, width in figures:
        svg = base64.b64decode(source.partition(",")[2]).decode()
        (whole,) = re.findall(r'viewBox="0 0 ([0-9.]+)', svg)
        sizes = [float(size) for size in re.findall(r"font-size: ([0-9.]+)px", svg)]
        assert sizes, alt
        assert min(sizes) * width / float(whole) > 9, alt


def test_off_is_a_strip_of_its_own_beside_the_plane(tab: Tab, sweep_page: str) -> None:
    """Between ``off`` and the range the card shows through, all the way along both axes."""
    tab.open(sweep_page, width=1100)
    image = drawn(tab, "losses.intra by")
    filled = image[..., 3] > 60
    height, width = filled.shape
    # Left to right through the middle: strip, gap, range.
    for cut in (filled[height // 2], filled[::-1, width // 2]):
        runs = [len(run) for run in "".join("x" if one else " " for one in cut).split()]
        long = [run for run in runs if run > 0.05 * len(cut)]
        assert len(long) == 2, runs
        assert long[0] < 0.2 * long[1] or long[1] < 0.2 * long[0]


def test_failed_trials_are_crosses_below_what_was_measured(tab: Tab, sweep_page: str) -> None:
    tab.open(sweep_page, width=1100)
    image = drawn(tab, "Search")
    # Of the chart alone: the legend below it has the same marks.
    chart = slice(0, int(0.75 * len(image)))
    diverged, points = near(image[chart], "#c2560a"), near(image[chart], "#2f5fd0")
    assert diverged.sum() > 50
    assert points.any()
    assert np.nonzero(diverged.any(1))[0].min() > np.nonzero(points.any(1))[0].max()


def test_all_trials_unfold_on_a_click(tab: Tab, sweep_page: str) -> None:
    tab.open(sweep_page, width=390)
    visible = "document.querySelector('[aria-label=\"All trials\"]').checkVisibility()"
    assert tab.evaluate(visible) is False
    tab.click("summary")
    assert tab.evaluate(visible) is True
    assert tab.evaluate("document.querySelectorAll('[aria-label=\"All trials\"] tbody tr').length") == SWEEP_TRIALS


def test_a_sweep_that_has_only_begun_can_be_looked_at(tab: Tab, tmp_path: Path) -> None:
    address = write_sweep_report(made_sweep(tmp_path, trials=1).path).as_uri()
    tab.open(address, width=390)
    assert tab.complaints == []
    assert tab.evaluate("document.images.length") >= 3
    assert tab.evaluate("document.documentElement.scrollWidth") == 390

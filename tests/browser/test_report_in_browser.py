"""`report.html` as a person sees it: a real headless Chromium opens it from a file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .devtools import Tab

pytestmark = pytest.mark.browser

UNFOLD = "document.querySelectorAll('details').forEach(each => each.open = true)"
WIDTHS = (320, 390, 1100, 1920)

# Text whose contrast with what lies behind it is less than WCAG 2's 4.5 (3 for large text).
FAINT = """(() => {
  const numbers = text => text.match(/[0-9.]+/g).map(Number);
  const light = rgb => { const c = rgb.slice(0, 3).map(v => v / 255).map(v =>
    v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]; };
  const behind = element => { for (let e = element; e; e = e.parentElement) {
    const rgb = numbers(getComputedStyle(e).backgroundColor);
    if (rgb.length === 3 || rgb[3] > 0) return rgb; } return [255, 255, 255]; };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) { const text = walker.currentNode.data.trim(), e = walker.currentNode.parentElement;
    if (!text || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), pair = [light(numbers(style.color)), light(behind(e))].sort((a, b) => a - b);
    const large = parseFloat(style.fontSize) >= 24;
    if ((pair[1] + 0.05) / (pair[0] + 0.05) < (large ? 3 : 4.5)) found.push(text); }
  return found; })()"""


def pixels(png: bytes) -> np.ndarray:
    """Float [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.float64)


def test_every_section_is_there_and_every_image_can_be_seen(tab: Tab, report: str) -> None:
    tab.open(report, width=1100)
    headings = tab.evaluate("[...document.querySelectorAll('h2')].map(each => each.textContent)")
    assert headings == [
        "Accuracy", "Against real images", "Diversity and realism", "Images", "Nearest training images",
        "Feature space", "Losses", "Recipe",
    ]  # fmt: skip
    assert tab.evaluate("document.title") == "a run: #1 & <more> – raycondense"
    images = tab.evaluate("[...document.images].map(i => [i.alt, i.complete, i.naturalWidth, i.clientWidth])")
    kinds = {"Accuracy of": 8, "real image": 100, "generated image": 120, "nearest real": 20, "Loss": 4, "Class": 10}
    for kind, count in kinds.items():
        assert sum(alt.startswith(kind) for alt, *_ in images) == count, kind
    assert [alt for alt, complete, natural, shown in images if not (alt and complete and natural and shown)] == []


def test_nothing_is_fetched_run_or_complained_about(tab: Tab, report: str) -> None:
    for dark in (False, True):
        tab.open(report, width=1100, dark=dark)
        tab.screenshot()
        assert tab.requests == [report]
        assert tab.complaints == []
    assert tab.evaluate("document.scripts.length") == 0


def test_a_page_with_faults_is_seen_to_have_them(tab: Tab, tmp_path: Path) -> None:
    """The eyes of the other tests."""
    page = tmp_path / "bad.html"
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'
    grey = '<p style="background: #fff; color: #bbb; font-size: 16px">grey</p>'
    wide = '<div style="width: 2000px; height: 1px"></div>'
    page.write_text(f'<body>{grey}{wide}<img src="absent.png"><script>console.log("x")</script>')
    tab.open(page.as_uri(), width=390)
    assert tab.requests == [page.as_uri(), (tmp_path / "absent.png").as_uri()]
    assert tab.complaints
    assert tab.evaluate(FAINT) == ["grey"]
    assert tab.evaluate("document.images[0].naturalWidth") == 0
    assert tab.evaluate("document.documentElement.scrollWidth") > 390
    page.write_text(f"{policy}<body><script>document.title = 1</script>")
    tab.open(page.as_uri(), width=390)
    assert any("Content Security Policy" in text for text in tab.complaints)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_never_wider_than_the_screen(tab: Tab, report: str, width: int) -> None:
    tab.open(report, width=width)
    tab.evaluate(UNFOLD)
    # A phone zooms out instead of scrolling: the window's inner width is what betrays it.
    assert tab.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    outside = f"[...document.images].filter(i => i.getBoundingClientRect().right > {width}).length"
    assert tab.evaluate(outside) == 0


def test_on_a_phone_accuracies_fit_and_wide_tables_scroll_by_themselves(tab: Tab, report: str) -> None:
    tab.open(report, width=390)
    tab.evaluate(UNFOLD)
    tables = tab.evaluate(
        "[...document.querySelectorAll('[role=region]')].map(r => [r.ariaLabel, r.scrollWidth - r.clientWidth,"
        " r.tabIndex, r.querySelector('th[scope=row]').getBoundingClientRect().width])"
    )
    beyond = {label: more for label, more, *_ in tables}
    assert len(beyond) == 4 + 3
    assert all(more == 0 for label, more in beyond.items() if label.startswith("Accuracies"))
    assert beyond["All columns of all rows"] > 0
    assert all(focus == 0 for _, _, focus, _ in tables)
    # The first column stays in sight.
    stays = (
        "(() => { const r = document.querySelector('[aria-label^=\"All columns\"]'); r.scrollLeft = 200;"
        " return r.querySelector('tbody th').getBoundingClientRect().left - r.getBoundingClientRect().left; })()"
    )
    assert tab.evaluate(stays) == pytest.approx(0, abs=1)


def test_light_and_dark_are_two_pages(tab: Tab, report: str) -> None:
    shots = {}
    for dark in (False, True):
        tab.open(report, width=390, dark=dark)
        shots[dark] = pixels(tab.screenshot())
        chosen = "i.currentSrc === (dark ? i.previousSibling.srcset : i.src) && i.src !== i.previousSibling.srcset"
        pictures = "[...document.querySelectorAll('picture img')]"
        assert tab.evaluate(f"(dark => {pictures}.filter(i => !({chosen})).map(i => i.alt))({str(dark).lower()})") == []
    assert shots[False].shape == shots[True].shape
    assert np.median(shots[False]) > 240
    assert np.median(shots[True]) < 40
    for shot in shots.values():
        # Not blank anywhere: every stretch as high as a phone's screen has something on it.
        heights = range(0, len(shot) - 844, 844)
        assert min(shot[top : top + 844].std() for top in heights) > 5


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_stands_out_from_what_is_behind_it(tab: Tab, report: str, dark: bool) -> None:
    tab.open(report, width=1100, dark=dark)
    tab.evaluate(UNFOLD)
    assert tab.evaluate(FAINT) == []


def test_the_rest_of_the_numbers_unfolds_on_a_click(tab: Tab, report: str) -> None:
    tab.open(report, width=390)
    visible = "document.querySelector('[aria-label^=\"All columns\"]').checkVisibility()"
    assert tab.evaluate(visible) is False
    x, y = tab.evaluate(
        "(() => { const s = document.querySelector('summary'); s.scrollIntoView({block: 'center'});"
        " const r = s.getBoundingClientRect(); return [r.x + 20, r.y + r.height / 2]; })()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    assert tab.evaluate(visible) is True

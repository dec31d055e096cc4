"""What holds for every page that raycondense writes, as a person sees it in a real headless Chromium."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .devtools import UNFOLD, Tab

pytestmark = pytest.mark.browser

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


@pytest.fixture(params=["report", "sweep_page"])
def any_page(request: pytest.FixtureRequest) -> str:
    """Address of a page of each kind."""
    return str(request.getfixturevalue(request.param))


def pixels(png: bytes) -> np.ndarray:
    """Float [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.float64)


def test_nothing_is_fetched_run_or_complained_about(tab: Tab, any_page: str) -> None:
    for dark in (False, True):
        tab.open(any_page, width=1100, dark=dark)
        tab.screenshot()
        assert tab.requests == [any_page]
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
def test_the_page_is_never_wider_than_the_screen(tab: Tab, any_page: str, width: int) -> None:
    tab.open(any_page, width=width)
    tab.evaluate(UNFOLD)
    # A phone zooms out instead of scrolling: the window's inner width is what betrays it.
    assert tab.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    outside = f"[...document.images].filter(i => i.getBoundingClientRect().right > {width}).length"
    assert tab.evaluate(outside) == 0


def test_light_and_dark_are_two_pages(tab: Tab, any_page: str) -> None:
    shots = {}
    for dark in (False, True):
        tab.open(any_page, width=390, dark=dark)
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
def test_all_text_stands_out_from_what_is_behind_it(tab: Tab, any_page: str, dark: bool) -> None:
    tab.open(any_page, width=1100, dark=dark)
    tab.evaluate(UNFOLD)
    assert tab.evaluate(FAINT) == []

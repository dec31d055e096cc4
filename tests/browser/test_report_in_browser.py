"""`report.html` as a person sees it: a real headless Chromium opens it from a file."""

from __future__ import annotations

import pytest

from .devtools import UNFOLD, Tab

pytestmark = pytest.mark.browser


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


def test_the_rest_of_the_numbers_unfolds_on_a_click(tab: Tab, report: str) -> None:
    tab.open(report, width=390)
    visible = "document.querySelector('[aria-label^=\"All columns\"]').checkVisibility()"
    assert tab.evaluate(visible) is False
    tab.click("summary")
    assert tab.evaluate(visible) is True

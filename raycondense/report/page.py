"""The frame of a page: head, title, tiles and footer around its sections."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from typing import Any

from raycondense.report.markup import details
from raycondense.report.style import CSS

# The page may not fetch or run anything, whatever a class name or a path holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, subtitle: str, tiles: str, sections: Iterable[str], *, style: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        subtitle: plain text.
        tiles: from `tile_row`, or empty.
        sections: from `raycondense.report.markup.section`.
        style: CSS of this kind of page, after that of all.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)} – raycondense</title>
<style>{CSS}{style}</style>
</head>
<body>
<main>
<header>
<h1>{escape(title)}</h1>
<p>{escape(subtitle)}</p>
{tiles}
</header>
{"".join(sections)}
<footer>Written by raycondense. Nothing on this page is fetched from anywhere.</footer>
</main>
</body>
</html>
"""


def tile_row(tiles: Iterable[tuple[str, str, str]]) -> str:
    """The few numbers that a reader wants first: name, value, and what the value is of."""
    cells = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(told)}</small></dd></div>"
        for name, value, told in tiles
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def settings(summary: str, values: Any) -> str:
    """Settings as JSON, folded."""
    return details(summary, f"<pre>{escape(json.dumps(values, indent=2, ensure_ascii=False))}</pre>")

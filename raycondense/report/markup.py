"""Small pieces of HTML that the sections of a report are built of."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from raycondense.report.figures import Figure

MISSING = "–"


def section(heading: str, body: str) -> str:
    """A card of the page."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n{body}\n</section>\n"


def details(summary: str, body: str) -> str:
    """What most readers do not need at once."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def note(text: str) -> str:
    """A paragraph that explains; ``text`` is plain text."""
    return f'<p class="notes">{escape(text)}</p>'


def explained(terms: Mapping[str, str]) -> str:
    """Terms and what they mean, one line each."""
    told = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in terms.items())
    return f'<dl class="terms">{told}</dl>'


def facts(values: Mapping[str, object]) -> str:
    """Names and values; what is None is left out."""
    told = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in values.items() if v is not None)
    return f'<dl class="facts">{told}</dl>'


def cell(text: str, *, number: bool = True) -> str:
    """A cell of a table; ``text`` is plain text."""
    return f"<td{_number(number)}>{escape(text)}</td>"


def accuracy_cell(value: str, span: int = 0) -> str:
    """A cell of ``48.9 ± 0.6``, whose spread a narrow screen puts below the mean; centred over ``span`` columns."""
    mean, sign, spread = value.partition("±")
    small = f" <small>±{escape(spread)}</small>" if sign else ""
    kind = f'class="all" colspan="{span}"' if span else 'class="number"'
    return f"<td {kind}>{escape(mean.strip())}{small}</td>"


def row_head(text: str, small: str = "") -> str:
    """The first cell of a line, which says what the line is of."""
    aside = f" <small>{escape(small)}</small>" if small else ""
    return f'<th scope="row">{escape(text)}{aside}</th>'


def line(cells: Iterable[str], *, ours: bool = False) -> str:
    """A line of a table."""
    kind = ' class="ours"' if ours else ""
    return f"<tr{kind}>{''.join(cells)}</tr>"


def band(text: str, columns: int) -> str:
    """A line that says what the lines below it are of."""
    return f'<tr class="band"><th scope="rowgroup" colspan="{columns}">{escape(text)}</th></tr>'


def table(label: str, head: Sequence[tuple[str, bool]], lines: Iterable[str]) -> str:
    """A table that scrolls sideways where the screen is narrower than it.

    Args:
        label: what it is, for screen readers.
        head: titles of the columns, and whether they hold numbers.
        lines: from `line` and `band`.
    """
    titles = "".join(f'<th scope="col"{_number(number)}>{escape(title)}</th>' for title, number in head)
    region = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
    return f"{region}<table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


def picture(figure: Figure) -> str:
    """A figure that follows the reader's light or dark setting."""
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{data_uri("image/svg+xml", figure.dark)}">'
    light = f'<img src="{data_uri("image/svg+xml", figure.light)}" alt="{escape(figure.alt)}">'
    return f"<picture>{dark}{light}</picture>"


def plot(figure: Figure, title: str = "") -> str:
    """A picture below its title, where it has one."""
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f'<figure class="plot">{heading}{picture(figure)}</figure>'


def png(content: bytes, alt: str) -> str:
    """A PNG file as an image of the page."""
    return f'<img src="{data_uri("image/png", content)}" alt="{escape(alt)}">'


def data_uri(kind: str, content: bytes) -> str:
    """A file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _number(number: bool) -> str:
    return ' class="number"' if number else ""

"""What tests of the report look at it with: a page as tags, text and tables; rows to put on it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from raycondense.evaluation.result import Row

VOID = {"meta", "img", "source", "br", "link"}


class Page(HTMLParser):
    """A page's tags, attributes and visible text; fails where tags are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.tables: dict[str, list[list[str]]] = {}
        """Label of the table → lines → cells."""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "div" and dict(attrs).get("role") == "region":
            self.tables[dict(attrs)["aria-label"] or ""] = []
        elif tag == "tr":
            self.lines.append([])
        elif tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.lines[-1][-1] += data

    @property
    def lines(self) -> list[list[str]]:
        """Of the newest table."""
        return list(self.tables.values())[-1]

    def addresses(self) -> list[str]:
        return [v or "" for _, attributes in self.tags for k, v in attributes.items() if k in ("src", "srcset", "href")]

    def alts(self, kind: str) -> list[str]:
        return [a["alt"] or "" for tag, a in self.tags if tag == "img" and (a["alt"] or "").startswith(kind)]


def row(method: str, ipc: int, accuracy: float, architecture: str = "convnet", **values: Any) -> Row:
    """A row of an evaluation."""
    known: dict[str, Any] = {"std": 0.012, "students": 5, "images": 3 * ipc, "bytes": 1000, "steps": 9, "seconds": 1.0}
    return Row(method=method, architecture=architecture, ipc=ipc, accuracy=accuracy, **{**known, **values})

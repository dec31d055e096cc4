"""What a person sees of long work: a bar with rate and time left on a terminal, now and then a line elsewhere.

Also how lengths of time are put into words, here and in reports and forecasts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from raycondense.host import Record

QUIET_SECONDS = 10.0  # between two lines where the output is not a terminal


def duration(seconds: float) -> str:
    """``"3 d 4 h"``, ``"2 h 5 min"``, ``"3 min 20 s"``, ``"4 s"`` or ``"0.4 s"``: seconds, 0 or more, in two units."""
    if seconds < 0.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, lower, lower_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // lower
            return f"{whole // size} {name}" + (f" {rest} {lower_name}" if rest else "")
    return f"{whole} s"


class _OnTerminal:
    """Context manager of what rich draws again and again in its place; draws nothing where there is no terminal."""

    def __init__(self, enabled: bool) -> None:
        self._on_terminal = enabled and sys.stderr.isatty()
        self._live: Any = None

    def _drawn(self) -> Any:
        """What rich draws; a context manager."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        if self._on_terminal:
            self._live = self._drawn()
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)


class Display(_OnTerminal):
    """Context manager that draws log records and counts of ``(done, total)``.

    Args:
        enabled: False draws nothing.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__(enabled)
        self._enabled = enabled
        self._tasks: dict[str, Any] = {}
        self._printed = 0.0
        self._started: dict[str, tuple[float, int]] = {}

    def _drawn(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        return Progress(
            TextColumn("{task.description:<12}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(),
            console=Console(stderr=True),
        )  # fmt: skip

    def record(self, record: Record) -> None:
        """Draw one log record of the loop."""
        losses = " ".join(
            f"{name.removeprefix('loss/')} {value:.4g}" for name, value in record.items() if name.startswith("loss/")
        )
        rate = float(record["images_per_second"])
        loader = f" by {record['loader']}" if "loader" in record else ""
        self.count(
            str(record["stage"]), int(record["images"]), int(record["total"]), f"{rate:,.0f} images/s{loader}  {losses}"
        )

    def count(self, name: str, done: int, total: int, note: str = "", unit: str = "") -> None:
        """Draw that ``done`` of ``total`` units of the work ``name`` are done, and with ``unit`` how many a second.

        What the first call tells of was done before: neither rate nor time left count it.
        """
        if not self._enabled:
            return
        now = time.monotonic()
        started, before = self._started.setdefault(name, (now, done))
        if unit and done > before:
            note = f"{(done - before) / max(now - started, 1e-3):,.0f} {unit}/s  {note}".rstrip()
        if self._live is not None:
            if name not in self._tasks:
                self._tasks[name] = self._live.add_task(name, total=total, completed=done, note="")
            self._live.update(self._tasks[name], completed=done, total=total, note=note)
        elif now - self._printed >= QUIET_SECONDS or done >= total:
            self._printed = now
            # The first sign of life is often long after the start, so a time left from it would be far off.
            seconds = (now - started) / max(done - before, 1) * max(total - done, 0)
            left = f"{seconds:.0f} s left" if now - started > 1 and done > before else "…"
            print(
                f"{name}: {min(done / max(total, 1), 1):4.0%} ({done:,}/{total:,}) {left}  {note}",
                file=sys.stderr,
            )


class LiveTable(_OnTerminal):
    """Context manager that draws a table again and again in its place on a terminal; elsewhere it draws nothing.

    Args:
        enabled: False draws nothing.
        heads: of the columns.
    """

    def __init__(self, enabled: bool, heads: Sequence[str]) -> None:
        super().__init__(enabled)
        self._heads = list(heads)

    def _drawn(self) -> Any:
        from rich.console import Console
        from rich.live import Live

        return Live(console=Console(stderr=True), auto_refresh=False)

    def draw(self, rows: Sequence[Sequence[str]], caption: str) -> None:
        """Draw ``rows`` and what stands below them."""
        if self._live is None:
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(*self._heads, caption=Text(caption), caption_justify="left", box=None, pad_edge=False)
        for row in rows:
            table.add_row(*map(Text, row))
        self._live.update(table, refresh=True)

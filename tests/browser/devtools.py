"""Drive a real headless Chromium through its DevTools pipe, with the standard library alone.

Chromium reads commands from file descriptor 3 and writes answers and events to 4: JSON with a zero byte after each.
The page's own policy forbids scripts; what is evaluated here comes from the debugger, which is not of the page.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 60.0
"""Longest wait for an answer; a busy machine takes a few seconds to start Chromium."""
MOST_HEIGHT = 16000
"""Pixels of a screenshot; a browser's surface has no more."""
# Descriptors have to be moved between fork and exec; first out of the way of each other.
LAUNCH = """
import fcntl, os, sys
away = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for number, wanted in zip(away, (3, 4)):
    os.dup2(number, wanted)
os.execvp(sys.argv[3], sys.argv[3:])
"""
UNFOLD = "document.querySelectorAll('details').forEach(each => each.open = true)"
"""JavaScript that opens whatever a page has folded."""
EVENTS = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")


def find_chromium() -> str | None:
    """The browser's program, or None where none is on PATH."""
    return next((found for found in map(shutil.which, NAMES) if found), None)


class Tab:
    """One page."""

    def __init__(self, chromium: Chromium, session: str) -> None:
        self._chromium, self._session = chromium, session
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command."""
        return self._chromium.call(method, parameters, self._session)

    def open(self, address: str, *, width: int, height: int = 800, dark: bool = False) -> None:
        """Load a page in a window of this size and colour scheme, up to its load event."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        answer = self.call("Page.navigate", url=address)
        assert "errorText" not in answer, f"{address}: {answer['errorText']}"
        self._chromium.wait(lambda: any(event["method"] == "Page.loadEventFired" for event in self.events))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Press the mouse on the first element that ``selector`` finds, near its left edge."""
        x, y = self.evaluate(
            f"(() => {{ const s = document.querySelector({json.dumps(selector)});"
            " s.scrollIntoView({block: 'center'});"
            " const r = s.getBoundingClientRect(); return [r.x + 20, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self) -> bytes:
        """The page as PNG, also below the window's edge."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], MOST_HEIGHT), "scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"])

    @property
    def complaints(self) -> list[str]:
        """What the console shows: broken policies, failed loads, exceptions."""
        return [json.dumps(event["params"]) for event in self.events if event["method"] in EVENTS]

    @property
    def requests(self) -> list[str]:
        """Addresses asked for since `open`, data in the page itself left out."""
        asked = (e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent")
        return [address for address in asked if not address.startswith("data:")]


class Chromium:
    """A headless browser with a profile of its own; a context manager.

    Args:
        program: what `find_chromium` found.
        profile: an empty folder.
    """

    def __init__(self, program: str, profile: Path) -> None:
        commands, self._out = os.pipe()
        self._in, answers = os.pipe()
        flags = (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--no-first-run", "--disable-background-networking", "--remote-debugging-pipe",
            f"--user-data-dir={profile}", "about:blank",
        )  # fmt: skip
        self._log = (profile / "stderr").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(commands), str(answers), program, *flags],
            pass_fds=(commands, answers), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            env={**os.environ, "HOME": str(profile)}, start_new_session=True,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._buffer = b""
        self._answers: dict[int, dict[str, Any]] = {}
        self._tabs: dict[str, Tab] = {}
        self._next = 0

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close", {})
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for descriptor in (self._in, self._out):
            os.close(descriptor)
        self._log.close()

    @contextlib.contextmanager
    def tab(self) -> Iterator[Tab]:
        """A new page, closed afterwards."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self._tabs[session] = tab = Tab(self, session)
        for domain in ("Page", "Network", "Log", "Runtime"):
            tab.call(f"{domain}.enable")
        yield tab
        del self._tabs[session]
        self.call("Target.closeTarget", {"targetId": target})

    def call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """Send a command to the browser, or to a page by its session, and wait for the answer."""
        self._next += 1
        number = self._next
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        self.wait(lambda: number in self._answers)
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    def wait(self, done: Callable[[], bool]) -> None:
        """Read answers and events until ``done()``."""
        end = time.monotonic() + SECONDS
        while not done():
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._in, 1 << 20) if ready else b""
            assert data, f"Chromium did not answer: {self._told()}"
            *messages, self._buffer = (self._buffer + data).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers[message["id"]] = message
                elif message.get("sessionId") in self._tabs:
                    self._tabs[message["sessionId"]].events.append(message)

    def _told(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:] or "it said nothing"

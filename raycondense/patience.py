"""Storage that cannot be reached for a while: try again with growing pauses, say so, and give up in the end."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from raycondense.errors import RunError

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
PASSING = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "ETIMEDOUT", "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EHOSTUNREACH", "EHOSTDOWN",
        "ENETUNREACH", "ENETDOWN", "ENOTCONN", "ENODEV", "ENXIO", "EREMOTEIO", "EROFS", "EPIPE", "EAGAIN",
    )
    if hasattr(errno, name)
)  # fmt: skip
"""Error numbers of discs and networks that may come back."""
FINAL = (
    "ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "INVALID_CLIENT_TOKEN", "SIGNATURE_DOES_NOT_MATCH",
    "MISSING_AUTHENTICATION", "UNRECOGNIZED_CLIENT", "INVALID_PARAMETER", "VALIDATION",
)  # fmt: skip
"""Answers of object stores that waiting does not change."""


def may_pass(error: BaseException) -> bool:
    """Whether ``error`` is one of storage that may be gone when it is tried again."""
    if not isinstance(error, OSError):
        return False
    if error.errno is None:  # an object store's; the text is all there is
        return not any(word in str(error) for word in FINAL)
    return error.errno in PASSING


def patiently(
    do: Callable[[], T],
    what: str,
    *,
    seconds: float,
    tell: Callable[[str], None],
    passing: Callable[[BaseException], bool] = may_pass,
) -> T:
    """``do()``, tried again while its error may pass, at pauses of 1, 2, 4, … 30 s.

    Args:
        do: may be called many times.
        what: of messages, such as ``"checkpoint 3-condense-000000100"``.
        seconds: how long to go on before it is given up.
        tell: takes a message at the first failure, at each longest pause, and when storage is back.
        passing: which errors are worth another try.

    Raises:
        RunError: storage did not come back.
    """
    begun, pause, tries = time.monotonic(), FIRST_PAUSE, 0
    while True:
        try:
            found = do()
        except Exception as error:
            lasted = time.monotonic() - begun
            if not passing(error):
                raise
            reason = " ".join(str(error).split())[:300]
            if lasted >= seconds:
                raise RunError(
                    f"{what}: storage cannot be reached for {lasted:.0f} s ({reason}); run the same command when it is "
                    "back, or wait longer with cluster.storage_patience"
                ) from error
            tries += 1
            if tries == 1 or pause == LONGEST_PAUSE:
                tell(f"{what}: storage cannot be reached, trying again for {seconds - lasted:.0f} s ({reason})")
            time.sleep(min(pause, max(0.1, seconds - lasted)))
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            if tries:
                tell(f"{what}: storage is back after {time.monotonic() - begun:.0f} s")
            return found

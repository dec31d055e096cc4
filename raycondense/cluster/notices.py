"""Messages from workers and from Ray Train's controller to the driver, whose user they are for.

They go through Ray's own key-value store: no process more, and they arrive while the sender waits for something else.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ray.experimental import internal_kv

from raycondense.background import repeated

logger = logging.getLogger("raycondense")

NAMESPACE = b"raycondense"
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Notices:
    """One run's messages; picklable."""

    run: str = field(default_factory=lambda: secrets.token_hex(8))

    def tell(self, message: str) -> None:
        """Send a warning to the driver; it also goes to this process's own log. Never raises."""
        logger.warning("%s", message)
        try:
            key = f"{self.run}/{time.time_ns():020d}-{secrets.token_hex(4)}"
            internal_kv._internal_kv_put(key.encode(), message.encode(), namespace=NAMESPACE)
        except Exception as error:  # a lost message is no reason to end a run
            logger.warning("the driver could not be told: %s", error)

    def take(self) -> list[str]:
        """The messages that nobody has taken yet, oldest first."""
        keys = sorted(internal_kv._internal_kv_list(f"{self.run}/".encode(), namespace=NAMESPACE) or [])
        messages = []
        for key in keys:
            message = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
            internal_kv._internal_kv_del(key, namespace=NAMESPACE)
            if message is not None:
                messages.append(message.decode())
        return messages

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Log messages as warnings, here on the driver, while the block runs."""

        def show() -> None:
            try:
                for message in self.take():
                    logger.warning("%s", message)
            except Exception as error:
                logger.debug("messages of the workers cannot be read: %s", error)

        with repeated(show, POLL_SECONDS):
            yield

"""Secrets out of text: passwords in URLs, keys in their queries, and what the environment calls a token or a password.

Every message of a `raycondense.errors.RaycondenseError`, every log record of ours and every address that is written to
a file goes through `without_secrets`. It knows text alone and imports nothing.
"""

from __future__ import annotations

import logging
import os
import re

HIDDEN = "***"
LEAST_SECRET = 8
"""Characters of a value of the environment that is looked for; shorter ones stand in ordinary words."""

_SECRET_NAME = (
    r"(?:passw(?:or)?d|passwd|pwd|secret|token|credential|signature|api[-_.]?key|access[-_.]?key|private[-_.]?key)"
)
# user:password@ up to the last @ before the path; a password that holds a / itself is found by the second form.
_IN_AUTHORITY = re.compile(r"(?<=://)([^\s/?#:@'\"]*):[^\s/?#'\"]*@")
_WITH_SLASH = re.compile(r"(?<=://)([^\s/?#:@'\"\[]+):(?!\*\*\*@|\d*(?:/|$))[^\s@'\"]*@")
_IN_QUERY = re.compile(rf"(?i)([?&;](?:[\w.-]*{_SECRET_NAME}[\w.-]*|sig|key)=)[^&;\s#'\"]+")
_NAMES = re.compile(rf"(?i){_SECRET_NAME}|(?:^|_)(?:PASS|AUTH|KEY)$")
# Names that only say where a secret lies, or how to ask for one; the shell's own PWD is the working directory.
_NOT_SECRET = re.compile(
    r"(?i)^(?:OLD)?PWD$|(?:_CREDENTIALS|_PATH|_FILE|_DIR|_MODE|_URL|_URI|_SOCK|_HOST|_PORT|_USER|_NAME|_ID)$"
)


def without_secrets(text: str) -> str:
    """``text`` with ``***`` in the place of secrets.

    Hidden are the password of ``scheme://user:password@host``; values of a URL's query whose names say that they are
    secret (``secret_key``, ``token``, ``password``, ``sig``, …); and the value of each environment variable with such
    a name (``AWS_SECRET_ACCESS_KEY``, ``RAY_AUTH_TOKEN``, ``HF_TOKEN``, …), wherever it stands.
    """
    if "://" in text or "=" in text:
        text = _IN_AUTHORITY.sub(rf"\1:{HIDDEN}@", text)
        text = _WITH_SLASH.sub(rf"\1:{HIDDEN}@", text)
        text = _IN_QUERY.sub(rf"\1{HIDDEN}", text)
    for value in _environment():
        text = text.replace(value, HIDDEN)
    return text


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name holds a secret."""
    return _NAMES.search(name) is not None and _NOT_SECRET.search(name) is None


def _environment() -> list[str]:
    """Values of the environment that are secret, the longest first: one may be a piece of another."""
    found = {value for name, value in os.environ.items() if len(value) >= LEAST_SECRET and is_secret_name(name)}
    return sorted(found, key=len, reverse=True)


class SecretsFilter(logging.Filter):
    """Takes secrets out of a log record before any handler sees it, also out of the traceback that it carries."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except Exception:  # a wrong format string is for the handler to complain about
            return True
        told = without_secrets(message)
        if told != message:
            record.msg, record.args = told, ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = without_secrets(logging.Formatter().formatException(record.exc_info))
        return True

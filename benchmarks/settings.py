"""Settings on the command line of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml


def changes(words: Sequence[str]) -> dict[str, Any]:
    """Settings and values of ``PATH=VALUE`` words, values as YAML."""
    return {path: yaml.safe_load(value) for path, _, value in (word.partition("=") for word in words)}

"""The errors that a user of raycondense can cause.

Every message names the file, field or flag at fault, says what was found and what would be valid. The
command line prints them as one line and exits with their ``exit_code``; a traceback means a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from raycondense.redact import without_secrets


class RaycondenseError(Exception):
    """Root of all errors that raycondense raises on purpose.

    Messages hold no secrets, wherever they came from: see `raycondense.redact`.

    Attributes:
        exit_code: exit status of the command line; 2 for a user's mistake, 1 for what went wrong in a run.
    """

    exit_code = 2

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_secrets(arg) if isinstance(arg, str) else arg for arg in args))


class ConfigError(RaycondenseError, ValueError):
    """A setting, preset name or flag is not valid."""


class DataError(RaycondenseError, ValueError):
    """A dataset, beton, sidecar or image cannot be used."""


class ArtifactError(RaycondenseError, ValueError):
    """An artefact folder is missing, incomplete, damaged or from a newer format."""


class DependencyError(RaycondenseError, ImportError):
    """An optional package that was asked for does not import; the message says how to install it."""


class CheckpointError(RaycondenseError, RuntimeError):
    """A checkpoint is missing, damaged or belongs to another configuration."""


class DivergedError(RaycondenseError, RuntimeError):
    """A loss became non-finite; the message names the step, the loss and the last good checkpoint."""

    exit_code = 1


class Interrupted(RaycondenseError):
    """A run was asked to stop; its state is in the last checkpoint and the same command goes on."""

    exit_code = 130


class RunError(RaycondenseError, RuntimeError):
    """A run failed for a reason outside the user's settings (a full disk, a lost worker)."""

    exit_code = 1


def choices_message(kind: str, found: object, valid: Iterable[object]) -> str:
    """One line that names a wrong choice, the nearest valid one and all valid ones.

    Args:
        kind: what was chosen, e.g. ``"preset"``.
        found: what the user gave.
        valid: every valid choice.
    """
    names = [str(name) for name in valid]
    near = difflib.get_close_matches(str(found), names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {kind} {str(found)!r}{hint}; valid: {', '.join(names) or 'none'}"

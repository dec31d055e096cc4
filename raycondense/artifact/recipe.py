"""``recipe.json``: everything needed to make the same artefact again, and to know what made it.

It holds no clock time and no host name: the same run writes the same bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import raycondense
from raycondense.artifact.format import FORMAT_VERSION, RunState
from raycondense.config import Config
from raycondense.configfile import config_to_dict
from raycondense.data.sidecar import Sidecar

LIBRARIES = ("torchvision", "ray", "ffcv", "numpy", "safetensors")
_GIT_SECONDS = 10


def make_recipe(
    config: Config,
    sidecar: Sidecar,
    train: str | os.PathLike[str] | None = None,
    state: RunState = "condensed",
) -> dict[str, Any]:
    """The resolved configuration, the dataset's identity, seeds, versions and the source revision.

    Args:
        config: the whole configuration of the run.
        sidecar: of the beton that was condensed.
        train: that beton; its name is told, not its folder.
        state: what of the run the artefact holds.
    """
    data = dataclasses.asdict(sidecar)
    for name in ("format_version", "mean", "std", "classes"):  # the last three are in config.json
        del data[name]
    return {
        "format_version": FORMAT_VERSION,
        "state": state,
        "config": config_to_dict(config),
        "data": {"file": None if train is None else Path(train).name, **data},
        "seeds": {"condense": config.seed, "prepare": sidecar.seed},
        "versions": versions(),
        "git_revision": git_revision(),
    }


def versions() -> dict[str, str | None]:
    """Versions of Python, raycondense and the libraries that matter; None where one is not installed."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "raycondense": raycondense.__version__,
        "torch": torch.__version__,  # says which build it is, as the package's metadata do not
    }
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


@functools.cache
def git_revision() -> str | None:
    """Commit of the checkout that raycondense runs from, with ``-dirty`` after it where files differ; else None."""
    package = Path(raycondense.__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(package), *arguments],
                capture_output=True, text=True, timeout=_GIT_SECONDS, check=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return None  # no git, or no checkout: an installed package has no revision
        return done.stdout.strip()

    top = git("rev-parse", "--show-toplevel")
    # A package inside another project's checkout (its virtual environment) is not of that project's revision.
    if top is None or Path(top).resolve() != package.parent:
        return None
    revision = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{revision}-dirty" if revision and changed else revision

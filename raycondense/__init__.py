"""raycondense: condense a labelled image dataset into a small generative model.

The public face is this module. Importing it is light: each name is fetched from its room at first use, so that
``import raycondense`` brings in neither torch nor ray.

    import raycondense

    artifact = raycondense.load("path/to/artifact")    # needs torch and safetensors alone
    bank = artifact.bank(10)                           # a torch Dataset of 10 images a class
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from raycondense.redact import SecretsFilter

__version__ = "0.1.0"

if TYPE_CHECKING:
    from raycondense import presets
    from raycondense.api import evaluate, fit, plan, sweep, write_report
    from raycondense.artifact.load import Artifact, load
    from raycondense.config import Config
    from raycondense.data.prepare import prepare

# On our own logger, so that no handler of whoever runs us, on whatever node, gets to see a password.
logging.getLogger(__name__).addFilter(SecretsFilter())

__all__ = [
    "Artifact", "Config", "__version__", "evaluate", "fit", "load", "plan", "prepare", "presets", "sweep",
    "write_report",
]  # fmt: skip

# Public name → module that holds it; "" is a module of its own.
_PLACES = {
    "Artifact": "artifact.load",
    "Config": "config",
    "evaluate": "api",
    "fit": "api",
    "load": "artifact.load",
    "plan": "api",
    "prepare": "data.prepare",
    "presets": "",
    "sweep": "api",
    "write_report": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = _PLACES[name]
    if not place:
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(f"{__name__}.{place}"), name)
    globals()[name] = value  # so that the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

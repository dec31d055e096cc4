"""The artifact room: a condensed dataset as a folder that needs torch and safetensors alone to be used.

`load` reads one, `save_artifact` writes one, `raycondense.artifact.export.export` turns its images into files for
any trainer. What writes is imported at first use, because it needs more than torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raycondense.artifact.load import Artifact, load

if TYPE_CHECKING:
    from raycondense.artifact.save import save_artifact, save_scores

__all__ = ["Artifact", "load", "save_artifact", "save_scores"]


def __getattr__(name: str) -> Any:
    if name not in ("save_artifact", "save_scores"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from raycondense.artifact import save

    return getattr(save, name)

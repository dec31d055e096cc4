"""What `raycondense info` says of a path: an artefact, a beton, a run folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from raycondense.config import AUGMENTATIONS, RESOLUTIONS
from raycondense.errors import ConfigError, RunError
from raycondense.presets import PRESETS
from raycondense.storage import read_json, read_records


def describe(path: str) -> dict[str, Any]:
    """Facts about an artefact's folder, a ``.beton`` or a run folder; of nothing, the choices there are.

    Raises:
        ConfigError: ``path`` is none of them.
        DataError, ArtifactError, RunError: it is one, but damaged.
    """
    if not path:
        from raycondense.evaluation.baselines import BASELINES
        from raycondense.models import STUDENTS

        return {
            "presets": list(PRESETS),
            "architectures": list(STUDENTS),
            "baselines": list(BASELINES),
            "augmentations": list(AUGMENTATIONS),
            "resolutions": list(RESOLUTIONS),
        }
    place = Path(path)
    if place.suffix == ".beton":
        from raycondense.data.sidecar import Sidecar

        sidecar = Sidecar.load(place)
        sidecar.verify(place, full=True)
        return {"kind": "beton", "images": sidecar.num_images, **dataclasses.asdict(sidecar)}
    if (place / "run.json").is_file():
        records = read_records(place / "log.jsonl")
        finished = (place / "artifact" / "config.json").is_file()
        try:
            run = dict(read_json(place / "run.json"))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{place / 'run.json'}: damaged: {error}") from error
        last = records[-1] if records else None
        # What the run started from, a baseline of evaluations; it stands there when the run is finished.
        initial = (place / "initial" / "config.json").is_file()
        return {"kind": "run", "finished": finished, "initial": initial, "last record": last, **run}
    if path.startswith("hf-hub:") or (place / "config.json").is_file():
        from raycondense.artifact.load import load

        artifact = load(path)
        return {
            "kind": "artefact",
            "state": artifact.recipe.get("state", "condensed"),
            "classes": list(artifact.classes),
            "resolution": artifact.resolution,
            "banks (images per class)": list(artifact.ipcs),
            "parameters": artifact.num_parameters,
            "bytes": artifact.bytes,
            "ipc_equivalent": artifact.ipc_equivalent,
        }
    raise ConfigError(f"{path}: found neither an artefact (config.json), a .beton nor a run folder (run.json)")

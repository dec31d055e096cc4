"""A run's folder belongs to one run: `claim_folder` writes down which, and refuses another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycondense.config import Config
from raycondense.configfile import FREE_TO_CHANGE, config_to_dict, differences
from raycondense.errors import ConfigError
from raycondense.storage import read_json, write_json

if TYPE_CHECKING:
    from raycondense.api.storing import RunStorage
    from raycondense.data.staging import BetonLocation


def claim_folder(
    folder: Path, config: Config, train: str | Path | BetonLocation, stored: RunStorage | None = None
) -> None:
    """Write ``run.json`` into a fresh run folder; in one that has it, check that it is of the same run.

    With ``stored`` the same is done there, and what is stored of the run and not here is brought here.

    Raises:
        ConfigError: the folder or the storage holds a run with other settings or other data, or the run that the folder
            holds is kept elsewhere.
        RunError: the storage does not answer or refuses.
    """
    from raycondense.data.staging import BetonLocation

    location = train if isinstance(train, BetonLocation) else BetonLocation.find(train)
    now: dict[str, Any] = {
        "config": config_to_dict(config),
        "data": {"path": location.shown, "sha256": location.sidecar().sha256},
        "storage": None if stored is None else stored.place.shown,
    }
    path = folder / "run.json"
    there = None if stored is None else stored.description()
    if stored is not None and there is not None:
        _check_same_run(stored.place.shown, there, now, "--storage")
    if path.is_file():
        try:
            here = read_json(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: damaged ({error}); name another run folder with --out") from error
        _check_same_run(str(folder), here, now, "--out")
        # Its checkpoints are where they were: without them the run would begin again.
        if there is None and here.get("storage") != now["storage"]:
            kept = f"is kept at {here['storage']}" if here.get("storage") else "is kept in this folder alone"
            raise ConfigError(
                f"storage: found {now['storage'] or 'none'}, but the run in {folder} {kept}; go on with that, or name "
                "another folder with --out"
            )
    if stored is not None and there is not None:
        stored.fetch()
    write_json(path, now)
    if stored is not None:
        (stored.place / "run.json").upload(path)


def _check_same_run(where: str, before: Any, now: Mapping[str, Any], flag: str) -> None:
    """Refuse a ``run.json`` that was found at ``where`` if it is of another run."""
    try:
        changes = list(differences(before["config"], now["config"], FREE_TO_CHANGE)) if before != now else []
        same_data = before["data"]["sha256"] == now["data"]["sha256"]
        data = before["data"]["path"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{where}/run.json: damaged ({error}); name another with {flag}") from error
    if not same_data:
        raise ConfigError(f"{where}: holds a run on other data ({data}); name another with {flag}")
    if changes:
        name, old, new = changes[0]
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        raise ConfigError(f"{where}: holds a run with {name} = {old!r}, now {new!r}{more}; name another with {flag}")

"""A run's folder at a URI: what is copied, in which order, and what is refused. S3 is a real server."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from raycondense import api
from raycondense.api import storing
from raycondense.api.storing import RunStorage
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.errors import ConfigError, RunError
from raycondense.presets import get_preset
from raycondense.remote import Place

FILES = {
    "run.json": "{}",
    "log.jsonl": "1\n2\n",
    "tensorboard/events": "e",
    "artifact/config.json": "c",
    "artifact/model.safetensors": "m",
    "initial/config.json": "i",
    "ray/checkpoint/state.pt": "not copied: Ray's",
    "checkpoints/x/state.pt": "not copied",
    ".lock": "",
}
COPIED = {name for name in FILES if not name.startswith(("ray/", "checkpoints/", "."))}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(params=["s3", "path"])
def location(request: pytest.FixtureRequest, s3: Any, tmp_path: Path) -> str:
    return s3.uri(f"{s3.bucket()}/runs/a") if request.param == "s3" else str(tmp_path / "shared" / "a")


def at(location: str, folder: Path) -> RunStorage:
    return RunStorage.at(location, folder, patience=1.0)


def test_a_finished_run_is_on_any_machine(location: str, tmp_path: Path) -> None:
    here = at(location, write(tmp_path / "here", FILES))
    here.push()
    assert not here.is_finished()
    assert here.place.files().keys() == {name for name in COPIED if name.split("/")[0] not in ("artifact", "initial")}
    here.push(finished=True)
    assert here.is_finished()
    assert here.place.files().keys() == COPIED
    there = at(location, tmp_path / "there")
    there.fetch()
    # What the run is is for `claim_folder` to say.
    assert {p.relative_to(there.folder).as_posix() for p in there.folder.rglob("*") if p.is_file()} == COPIED - {
        "run.json"
    }
    assert (there.folder / "artifact" / "model.safetensors").read_text() == "m"


def test_the_artefact_is_finished_by_its_last_file(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that ends half-way leaves no artefact that counts, and the next one ends it."""
    uploaded: list[str] = []
    upload = Place.upload

    def fail_at_last(place: Place, source: Path) -> None:
        if place.path.endswith("/artifact/config.json"):
            raise RunError("the network is gone")
        uploaded.append(source.name)
        upload(place, source)

    here = at(location, write(tmp_path / "here", FILES))
    with monkeypatch.context() as patched:
        patched.setattr(Place, "upload", fail_at_last)
        with pytest.raises(RunError, match="gone"):
            here.push(finished=True)
    assert uploaded[-1] == "model.safetensors"
    assert not here.is_finished()
    there = at(location, tmp_path / "there")
    there.fetch()
    assert not (there.folder / "artifact").exists()
    assert (there.folder / "initial" / "config.json").read_text() == "i"
    here.push(finished=True)
    assert here.is_finished()


def test_the_longer_log_is_the_runs(location: str, tmp_path: Path) -> None:
    at(location, write(tmp_path / "a", {"log.jsonl": "1\n2\n3\n"})).push()
    behind = at(location, write(tmp_path / "b", {"log.jsonl": "1\n"}))
    behind.fetch()
    assert (behind.folder / "log.jsonl").read_text() == "1\n2\n3\n"
    ahead = at(location, write(tmp_path / "c", {"log.jsonl": "1\n2\n3\n4\n"}))
    ahead.fetch()
    assert (ahead.folder / "log.jsonl").read_text() == "1\n2\n3\n4\n"


def test_what_changes_is_copied_while_the_run_goes_on(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "SECONDS_BETWEEN_COPIES", 0.05)
    stored = at(location, write(tmp_path / "here", {"log.jsonl": "1\n"}))

    def work() -> None:
        while (stored.place / "log.jsonl").size() != 2:
            time.sleep(0.02)
        (stored.folder / "log.jsonl").write_text("1\n2\n3\n")
        while (stored.place / "log.jsonl").size() != 6:
            time.sleep(0.02)
        write(stored.folder, {"artifact/config.json": "c", "log.jsonl": "1\n2\n3\n4\n"})
        raise KeyError

    with pytest.raises(KeyError), stored.kept_up():
        work()
    assert (stored.place / "log.jsonl").size() == 8
    assert not stored.is_finished()
    with stored.kept_up():
        pass
    assert stored.is_finished()


def test_storage_that_is_gone_does_not_end_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, {"storage": "a file where the folder was"})
    stored = at(str(tmp_path / "storage" / "a"), write(tmp_path / "here", {"log.jsonl": "1\n"}))
    with pytest.raises(KeyError), stored.kept_up():
        raise KeyError
    assert "the run's log cannot be stored" in caplog.text


def config(**changes: Any) -> Config:
    return override(get_preset("digits"), {"cluster.workers": 1} | changes)


def test_a_storage_is_one_runs(location: str, digits: Path, tmp_path: Path) -> None:
    train = digits / "train.beton"
    api.claim_folder(tmp_path / "a", config(), train, at(location, tmp_path / "a"))
    # A fresh folder and the same run: it is brought here.
    write(tmp_path / "a", {"log.jsonl": "1\n"})
    at(location, tmp_path / "a").push()
    api.claim_folder(tmp_path / "b", config(**{"data.workers": 7}), train, at(location, tmp_path / "b"))
    assert (tmp_path / "b" / "log.jsonl").read_text() == "1\n"
    assert json.loads((tmp_path / "b" / "run.json").read_text())["config"]["data"]["workers"] == 7
    with pytest.raises(ConfigError, match=r"/a.*: holds a run with seed = 0, now 3; name another with --storage"):
        api.claim_folder(tmp_path / "c", config(seed=3), train, at(location, tmp_path / "c"))
    with pytest.raises(ConfigError, match=r"holds a run on other data \(.*train.beton\); name another with --storage"):
        api.claim_folder(tmp_path / "d", config(), digits / "train-val.beton", at(location, tmp_path / "d"))
    (Place.at(location) / "run.json").upload(write(tmp_path / "e", {"damaged": "{"}) / "damaged")
    with pytest.raises(ConfigError, match=r"run.json.*: damaged .*; name another storage with --storage"):
        api.claim_folder(tmp_path / "f", config(), train, at(location, tmp_path / "f"))


def test_a_run_stays_where_its_checkpoints_are(digits: Path, tmp_path: Path) -> None:
    train, one, other = digits / "train.beton", tmp_path / "one", tmp_path / "other"
    api.claim_folder(tmp_path / "a", config(), train)
    with pytest.raises(ConfigError, match=r"storage: found .*/one, but the run in .*/a is kept in this folder alone"):
        api.claim_folder(tmp_path / "a", config(), train, at(str(one), tmp_path / "a"))
    api.claim_folder(tmp_path / "b", config(), train, at(str(one), tmp_path / "b"))
    with pytest.raises(ConfigError, match=r"storage: found none, but the run in .*/b is kept at .*/one; go on with"):
        api.claim_folder(tmp_path / "b", config(), train)
    with pytest.raises(ConfigError, match=r"storage: found .*/other, but the run in .*/b is kept at .*/one"):
        api.claim_folder(tmp_path / "b", config(), train, at(str(other), tmp_path / "b"))
    # A storage may move: what counts is that the run is there.
    one.rename(other)
    api.claim_folder(tmp_path / "b", config(), train, at(str(other), tmp_path / "b"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cluster.workers": 0}, r"storage: found '.*/a', valid without Ray \(cluster.workers 0\): none"),
        ({"run_config": object()}, r"storage: found '.*/a', valid with a run_config: none"),
    ],
)
def test_storage_needs_ray(arguments: dict[str, Any], message: str, digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        api.fit(config(), data=digits / "train.beton", out=tmp_path / "x", storage=tmp_path / "a", **arguments)
    assert not (tmp_path / "x").exists()


def test_without_ray_data_are_staged_too(s3: Any, digits: Path, tmp_path: Path) -> None:
    key = f"{s3.bucket()}/train.beton"
    for name in ("", ".json"):
        Place.at(s3.uri(key + name)).upload(digits / f"train.beton{name}")
    changes = {
        "data.loader": "resident", "data.cache": str(tmp_path / "cache"), "cluster.workers": 0, "condense.images": 80,
        "condense.real_per_class": 8, "initialise.method": "none", "generator.width": 8, "extractors.width": 8,
    }  # fmt: skip
    result = api.fit(config(**changes), data=s3.uri(key), out=tmp_path / "run", device="cpu", progress=False)
    assert len(list((tmp_path / "cache").rglob("train.beton"))) == 1
    assert result.artifact.recipe["data"]["file"] == "train.beton"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["path"] == s3.uri(key)

"""Places behind URIs, against a real S3 server and the local file system."""

from __future__ import annotations

import pickle
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from raycondense.errors import ConfigError, DataError, RunError
from raycondense.remote import Place, RemoteError, is_passing, is_uri, name_of, shown


@pytest.mark.parametrize(
    ("location", "uri", "name"),
    [
        ("s3://bucket/sets/train.beton?region=eu-west-1", True, "train.beton"),
        ("file:///data/a%20b.beton", True, "a b.beton"),
        ("gs://bucket/x/", True, "x"),
        ("/data/train.beton", False, "train.beton"),
        ("runs/s3:/x", False, "x"),
        (Path("train.beton"), False, "train.beton"),
    ],
)
def test_what_is_a_uri(location: Any, uri: bool, name: str) -> None:
    assert is_uri(location) is uri
    assert name_of(location) == name


def test_what_is_shown_of_a_uri() -> None:
    place = Place.at("s3://key:hidden@bucket/sets/train.beton?region=eu-west-1")
    assert place.path == "bucket/sets/train.beton"
    for one in (place, place / "x", place.sibling("x")):
        assert "hidden" not in one.shown
        assert one.shown.endswith("?region=eu-west-1")
    assert (place / "a/b").path == "bucket/sets/train.beton/a/b"
    assert place.sibling("train.beton.json").path == "bucket/sets/train.beton.json"
    assert place.sibling("train.beton.json").shown.partition("?")[0].endswith("@bucket/sets/train.beton.json")
    assert shown("abfs://box@account/x?sas_token=hidden&a=b") == "abfs://box@account/x?sas_token=***&a=b"


@pytest.fixture(params=["s3", "file", "path"])
def folder(request: pytest.FixtureRequest, s3: Any, tmp_path: Path) -> Place:
    """An empty folder of each kind."""
    if request.param == "s3":
        return Place.at(s3.uri(f"{s3.bucket()}/a/run"))
    return Place.at((tmp_path / "a" / "run").as_uri() if request.param == "file" else tmp_path / "a" / "run")


def test_files_go_there_and_back(folder: Place, tmp_path: Path) -> None:
    assert folder.files() == {}
    assert (folder / "x").size() is None
    source = tmp_path / "source"
    for name, content in {"log": b"1\n2\n", "artifact/w": b"w" * 9_000_000, "ray/c/d/e": b"", "ray/f": b"f"}.items():
        source.write_bytes(content)
        (folder / name).upload(source)
    assert folder.files() == {"log": 4, "artifact/w": 9_000_000, "ray/c/d/e": 0, "ray/f": 1}
    assert folder.files(leave_out=("ray",)) == {"log": 4, "artifact/w": 9_000_000}
    assert (folder / "log").read(4) == b"1\n2\n"
    with pytest.raises(DataError, match="found 4 bytes, valid: at most 3"):
        (folder / "log").read(3)
    with pytest.raises(DataError, match=r"run/nothing.*: no such file"):
        (folder / "nothing").read(3)
    (folder / "artifact/w").download(tmp_path / "back" / "w")
    assert (tmp_path / "back" / "w").read_bytes() == b"w" * 9_000_000
    with pytest.raises(RunError, match=r"run/nothing"):
        (folder / "nothing").download(tmp_path / "back" / "n")
    assert [p.name for p in (tmp_path / "back").iterdir()] == ["w"]


@pytest.mark.parametrize("name", ["x/../../../out", "/etc/x", "a/./b", "a\\..\\b"])
def test_names_that_climb_are_refused(name: str, s3: Any, tmp_path: Path) -> None:
    """An object store keeps any name; nothing of it is written before all are looked at."""
    bucket = s3.bucket()
    key = f"run/{name}".replace("\\", "%5C").replace("..", "%2E%2E").replace("/./", "/%2E/")
    url = f"http://127.0.0.1:{s3.port}/{bucket}/{key}"
    urllib.request.urlopen(urllib.request.Request(url, data=b"x", method="PUT"), timeout=20)
    with pytest.raises(DataError, match="valid: names inside the folder"):
        Place.at(s3.uri(f"{bucket}/run")).files()


def test_what_waiting_mends_and_what_not(s3: Any) -> None:
    """What the server says when it is out of reach is seen in the tests of staging."""
    with pytest.raises(RemoteError, match="NO_SUCH_BUCKET") as refused:
        Place.at(s3.uri("bucket-that-is-not/x")).upload(Path(__file__))
    assert not is_passing(refused.value)
    assert is_passing(OSError("When reading: AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7"))
    assert not is_passing(PermissionError(13, "no"))
    assert not is_passing(FileNotFoundError("no such key"))
    # Errors of workers travel to the driver.
    for passing in (True, False):
        again = pickle.loads(pickle.dumps(RemoteError("s3://b/x: gone", passing=passing)))
        assert (str(again), again.passing) == ("s3://b/x: gone", passing)


@pytest.mark.parametrize("uri", ["gopher://b/x", "file://host/x", "s3://b/x?colour=red"])
def test_what_no_file_system_knows(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"valid: a path, or a URI like s3://bucket/name"):
        Place.at(uri)

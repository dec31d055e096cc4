"""Betons behind URIs: copied once a node, going on after a kill, compared with their checksum. S3 is a real server."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raycondense.config import DataConfig
from raycondense.data import staging
from raycondense.data.sidecar import Sidecar
from raycondense.data.staging import BetonLocation
from raycondense.errors import ConfigError, DataError, RunError
from raycondense.remote import Place
from raycondense.testing.wire import Wire

PIECE = 64 * 1024
CONTENT = random.Random(5).randbytes(3_000_000)


def make_beton(folder: Path, content: bytes = CONTENT, size: int | None = None) -> Path:
    """Files that staging cannot tell from a beton and its sidecar: it does not look inside."""
    folder.mkdir(parents=True, exist_ok=True)
    beton = folder / "train.beton"
    beton.write_bytes(content)
    Sidecar(
        classes=("a", "b"), counts=(1, 1), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), resolution=8, encoding="raw",
        quality=None, source="made up", split="train", seed=0, sha256=hashlib.sha256(content).hexdigest(),
        size=len(content) if size is None else size,
    ).save(beton)  # fmt: skip
    return beton


@pytest.fixture
def wire(s3: Any) -> Iterator[Wire]:
    found = Wire(s3.port)
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "PIECE", PIECE)


@pytest.fixture
def stored(s3: Any, tmp_path: Path) -> str:
    """``bucket/key`` of a beton that S3 holds with its sidecar."""
    key = f"{s3.bucket()}/sets/train.beton"
    beton = make_beton(tmp_path / "made")
    for name in ("", ".json"):
        Place.at(s3.uri(key + name)).upload(beton.with_name(beton.name + name))
    return key


def child(uri: str, cache: Path) -> subprocess.Popen[str]:
    """A worker of its own that stages, and prints what it read first and where the beton is."""
    code = (
        "import sys\nfrom raycondense.data import staging\n"
        f"staging.PIECE = {PIECE}\n"
        "first = []\n"
        "path = staging.BetonLocation.find(sys.argv[1]).stage(sys.argv[2], lambda n, of: first.append(n))\n"
        "print(first[0] if first else 0, path)"
    )
    command = [sys.executable, "-c", code, uri, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def part_of(cache: Path) -> int:
    """Bytes of the half-made copy."""
    return max((p.stat().st_size for p in cache.rglob("*.part")), default=0)


def wait_until(what: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_path_is_read_where_it_lies(tmp_path: Path) -> None:
    beton = make_beton(tmp_path)
    found = BetonLocation.find(beton)
    assert not found.is_remote
    assert found.stage(str(tmp_path / "cache")) == beton
    assert found.sidecar() == Sidecar.load(beton)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("kind", ["s3", "file"])
def test_a_uri_is_staged_once(kind: str, s3: Any, stored: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    uri = s3.uri(stored) if kind == "s3" else (tmp_path / "made" / "train.beton").as_uri()
    found = BetonLocation.find(uri)
    # Whoever starts the run has the sidecar and not one byte of images.
    assert Sidecar.load(found.here(str(cache))) == Sidecar.load(tmp_path / "made" / "train.beton")
    assert not found.here(str(cache)).exists()
    seen: list[tuple[int, int]] = []
    beton = found.stage(str(cache), lambda there, size: seen.append((there, size)))
    assert beton.read_bytes() == CONTENT
    assert seen[0] == (PIECE, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert sorted(p.name for p in beton.parent.glob("[!.]*")) == ["train.beton", "train.beton.json"]
    # It is there: the second time nobody is asked.
    place = Place.at(uri)
    place.filesystem.delete_file(place.path)
    assert found.stage(str(cache)) == beton


def test_other_data_at_the_same_uri_is_another_file(s3: Any, stored: str, tmp_path: Path) -> None:
    uri, cache = s3.uri(stored), str(tmp_path / "cache")
    first = BetonLocation.find(uri)
    first.stage(cache)
    other = make_beton(tmp_path / "other", CONTENT[::-1])
    for name in ("", ".json"):
        Place.at(s3.uri(stored + name)).upload(other.with_name(other.name + name))
    assert BetonLocation.find(uri).stage(cache).read_bytes() == CONTENT[::-1]
    assert first.stage(cache).read_bytes() == CONTENT


def test_a_killed_copy_goes_on_where_it_was(s3: Any, stored: str, wire: Wire, tmp_path: Path) -> None:
    cache, uri = tmp_path / "cache", s3.uri(stored, wire.port)
    wire.bytes_a_second = 100_000  # of each of eight connections
    worker = child(uri, cache)
    wait_until(lambda: part_of(cache) > len(CONTENT) // 3)
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    there = part_of(cache)
    assert len(CONTENT) // 3 < there < len(CONTENT)
    wire.cut()
    time.sleep(0.5)  # until nothing of the dead worker's is on the way
    wire.bytes, wire.bytes_a_second = 0, 0.0
    wire.mend()
    seen: list[int] = []
    beton = BetonLocation.find(uri).stage(str(cache), lambda n, of: seen.append(n))
    assert beton.read_bytes() == CONTENT
    assert seen[0] == there + PIECE
    assert len(CONTENT) - there < wire.bytes < len(CONTENT) - there + 100_000  # some headers


def test_workers_of_a_node_copy_once(s3: Any, stored: str, wire: Wire, tmp_path: Path) -> None:
    wire.bytes_a_second = 200_000  # or the first would be done before the second has begun
    workers = [child(s3.uri(stored, wire.port), tmp_path / "cache") for _ in range(3)]
    found = []
    for worker in workers:
        out, errors = worker.communicate(timeout=60)
        assert worker.returncode == 0, errors
        found.append(out.split())
    assert sorted(int(first) for first, _ in found) == [0, 0, PIECE]
    assert len({path for _, path in found}) == 1
    assert Path(found[0][1]).read_bytes() == CONTENT
    assert len(CONTENT) < wire.bytes < len(CONTENT) + 40_000


def test_storage_out_of_reach_for_a_while(s3: Any, stored: str, wire: Wire, tmp_path: Path) -> None:
    told: list[str] = []
    found = BetonLocation.find(s3.uri(stored, wire.port))
    wire.bytes_a_second = 150_000

    def cut_off() -> None:
        wait_until(lambda: part_of(tmp_path / "cache") > len(CONTENT) // 4)
        wire.cut()
        wire.bytes_a_second = 0.0
        wait_until(lambda: any("cannot be reached" in message for message in told))
        wire.mend()

    thread = threading.Thread(target=cut_off)
    thread.start()
    beton = found.stage(str(tmp_path / "cache"), tell=told.append)
    thread.join()
    assert beton.read_bytes() == CONTENT
    assert "staging 3 MB to" in told[0]
    assert "train.beton" in next(message for message in told if "cannot be reached" in message)
    assert "staged in" in told[-1]


def test_a_damaged_part_is_copied_again(s3: Any, stored: str, tmp_path: Path) -> None:
    told: list[str] = []
    found, cache = BetonLocation.find(s3.uri(stored)), str(tmp_path / "cache")
    part = found.here(cache).with_name("train.beton.part")
    part.write_bytes(CONTENT[:1_000_000] + bytes(500_000))
    assert found.stage(cache, tell=told.append).read_bytes() == CONTENT
    assert any("damaged; copying all of it again" in message for message in told)
    assert not part.exists()


def test_what_is_not_the_sidecars_is_refused(s3: Any, stored: str, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_bytes(CONTENT[:-1] + b"x")
    Place.at(s3.uri(stored)).upload(tmp_path / "wrong")
    found, cache = BetonLocation.find(s3.uri(stored)), tmp_path / "cache"
    with pytest.raises(DataError, match=r"s3://.*train.beton.*: its SHA-256 is not the one in its sidecar"):
        found.stage(str(cache))
    assert not list(cache.rglob("*.beton")) + list(cache.rglob("*.part"))


def test_a_disk_that_is_too_small_is_known_before_anything_is_copied(tmp_path: Path) -> None:
    # A file with a hole: it says that it has eight terabytes and takes none.
    beton = make_beton(tmp_path, b"start", size=8 * 10**12)
    with beton.open("ab") as file:
        file.truncate(8 * 10**12)
    cache = tmp_path / "cache"
    with pytest.raises(
        RunError, match=r"cache/betons/train-\w+: .* free, 8 TB are to be staged from file:.*data.cache"
    ):
        BetonLocation.find(beton.as_uri()).stage(str(cache))
    assert part_of(cache) == 0


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RunError, match=r"cache.*cannot be written \(Not a directory\).*data.cache"):
        BetonLocation.find(make_beton(tmp_path / "made").as_uri()).stage(str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ("beton", DataError, r"train.beton\?.*: no such file, though its sidecar is there"),
        ("sidecar", DataError, r"train.beton.json\?.*: no such file"),
        ("shorter", DataError, r"train.beton.*: found 7 bytes, its sidecar says 3000000; copy both again"),
        ("text", DataError, r"train.beton.json\?.*: cannot be read as JSON"),
    ],
)
def test_what_is_missing_or_damaged_is_found_before_a_run(
    change: str, kind: type[Exception], message: str, s3: Any, stored: str, tmp_path: Path
) -> None:
    beton, sidecar = Place.at(s3.uri(stored)), Place.at(s3.uri(f"{stored}.json"))
    (tmp_path / "new").write_text("nothing")
    if change in ("beton", "sidecar"):
        place = beton if change == "beton" else sidecar
        place.filesystem.delete_file(place.path)
    else:
        (beton if change == "shorter" else sidecar).upload(tmp_path / "new")
    with pytest.raises(kind, match=message):
        BetonLocation.find(s3.uri(stored))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://me:hidden@host/train.beton", r"ftp://me:\*\*\*@host/train.beton: Unrecognized filesystem type"),
        (
            "s3://me:hidden@b/train.beton?colour=red",
            r"s3://me:\*\*\*@b/.*Unexpected query parameter.*valid: a path, or",
        ),
        ("s3://b/train.npz", r"s3://b/train.npz: not a beton; make one with"),
    ],
)
def test_mistakes_in_a_uri_show_no_password(uri: str, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        BetonLocation.find(uri)
    assert "hidden" not in str(caught.value)


def test_credentials_work_and_are_not_shown(s3: Any, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found = BetonLocation.find(s3.uri(stored).replace("s3://", "s3://me:hid%2Fden@"))
    assert found.sidecar().size == len(CONTENT)
    assert found.shown.startswith("s3://me:***@bucket-")
    assert "hid" not in found.shown


def test_the_cache_is_the_users_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert staging.cache_folder("") == tmp_path / ".cache" / "raycondense"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert staging.cache_folder("") == tmp_path / "xdg" / "raycondense"
    assert staging.cache_folder("~/nvme") == tmp_path / "nvme"
    with pytest.raises(ConfigError, match=r"data.cache: found 'cache', valid: an absolute path, or ~/…"):
        DataConfig(cache="cache")

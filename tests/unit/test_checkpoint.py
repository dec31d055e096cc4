"""Whole checkpoints and damaged ones, and storage that is out of reach for a while."""

from __future__ import annotations

import errno
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raycondense import patience
from raycondense.checkpoint import find_damage, write_files
from raycondense.errors import RunError
from raycondense.host import LocalHost
from raycondense.patience import may_pass, patiently


def write(folder: Path, value: float = 1.0) -> None:
    buffer = io.BytesIO()
    torch.save({"weights": torch.full((100,), value)}, buffer)
    folder.mkdir(exist_ok=True)
    write_files(folder, buffer.getbuffer(), {"format_version": 2, "stage": "condense", "step": 3, "images": 30})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def forget(path: Path) -> None:
    """What a checkpoint of raycondense 0.1 has in its clock."""
    clock = json.loads(path.read_text())
    del clock["files"]
    path.write_text(json.dumps(clock))


def old_and_cut(path: Path) -> None:
    forget(path)
    cut(path.with_name("state.pt"))


@pytest.mark.parametrize(
    ("file", "harm", "expected"),
    [
        ("state.pt", lambda path: None, None),
        ("clock.json", forget, None),
        ("clock.json", old_and_cut, "state.pt is not whole"),
        ("state.pt", cut, "of 1,"),
        ("state.pt", flip, "state.pt is not what was written"),
        ("state.pt", Path.unlink, "state.pt is missing"),
        ("clock.json", Path.unlink, "clock.json is missing"),
        ("clock.json", cut, "clock.json cannot be read"),
        ("clock.json", lambda path: path.write_bytes(b"\xff"), "clock.json cannot be read"),
        ("clock.json", lambda path: path.write_text("[]"), "clock.json is not a checkpoint's"),
        ("clock.json", lambda path: path.write_text('{"files": 3}'), "clock.json is not a checkpoint's"),
        ("clock.json", lambda path: path.write_text('{"files": {"x": 3}}'), "clock.json cannot be read"),
        ("clock.json", lambda path: path.write_text('{"files": {"state.pt": null}}'), "clock.json cannot be read"),
        ("clock.json", lambda path: shutil.rmtree(path.parent), "clock.json is missing"),
    ],
)
def test_damage_is_found(file: str, harm: Callable[[Path], object], expected: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    write(folder)
    harm(folder / file)
    found = find_damage(folder)
    assert found is None if expected is None else found is not None and expected in found, found


def test_unreadable_storage_is_not_damage(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "state.pt").unlink()
    (tmp_path / "checkpoint" / "state.pt").symlink_to("state.pt")
    with pytest.raises(OSError, match="symbolic links"):
        find_damage(tmp_path / "checkpoint")


def test_what_went_on_from_an_older_checkpoint_outlives_the_damaged_one(tmp_path: Path) -> None:
    """Of one kept checkpoint the newest by name is not the newest by time."""
    host = LocalHost(tmp_path, device="cpu", keep=1)
    host.save_checkpoint("3-condense-000000010", write)
    shutil.copytree(
        tmp_path / "checkpoints" / "3-condense-000000010", tmp_path / "checkpoints" / "3-condense-000000005"
    )
    cut(tmp_path / "checkpoints" / "3-condense-000000010" / "state.pt")
    with host.latest_checkpoint() as folder:
        assert folder is not None
        assert folder.name == "3-condense-000000005"
    host.save_checkpoint("3-condense-000000007", write)
    with host.latest_checkpoint() as folder:
        assert folder is not None
        assert folder.name == "3-condense-000000007"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3-condense-000000007"]


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.pauses = 0.0, []
        monkeypatch.setattr(patience.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(patience.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


def gone_until(clock: Clock, back: float, error: Exception) -> Callable[[], str]:
    def do() -> str:
        if clock.now < back:
            raise error
        return "stored"

    return do


def test_storage_that_comes_back_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = Clock(monkeypatch), []
    gone = gone_until(clock, 20, OSError("AWS Error NETWORK_CONNECTION during PutObject:\n curlCode: 7"))
    assert patiently(gone, "checkpoint 5", seconds=600, tell=told.append) == "stored"
    assert clock.pauses == [1, 2, 4, 8, 16]
    assert told == [
        "checkpoint 5: storage cannot be reached, trying again for 600 s (AWS Error NETWORK_CONNECTION during "
        "PutObject: curlCode: 7)",
        "checkpoint 5: storage is back after 31 s",
    ]


def test_storage_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = Clock(monkeypatch), []
    gone = gone_until(clock, 1e9, OSError(errno.ESTALE, "Stale file handle"))
    message = r"checkpoint 5: storage cannot be reached for 100 s \(\[Errno 116\] Stale file handle\); run the same"
    with pytest.raises(RunError, match=message):
        patiently(gone, "checkpoint 5", seconds=100, tell=told.append)
    assert clock.now == pytest.approx(100)
    assert len(told) == 4  # after 0, 31, 61 and 91 s


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (OSError(errno.EIO, "Input/output error"), True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (OSError("AWS Error SLOW_DOWN during PutObject"), True),
        (OSError("AWS Error ACCESS_DENIED during PutObject"), False),
        (OSError("AWS Error NO_SUCH_BUCKET during PutObject"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (ValueError("a bug"), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, passing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert may_pass(error) == passing
    if not passing:
        with pytest.raises(type(error)):
            patiently(gone_until(clock, 1, error), "x", seconds=600, tell=print)
        assert not clock.pauses


def test_a_checkpoint_is_written_again_whole_when_the_disk_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Clock(monkeypatch)
    tries = []

    def failing(folder: Path) -> None:
        write(folder)
        tries.append(folder)
        if len(tries) < 3:
            raise OSError(errno.EIO, "Input/output error")

    host = LocalHost(tmp_path, device="cpu")
    host.save_checkpoint("3-condense-000000010", failing)
    assert len(tries) == 3
    with host.latest_checkpoint() as folder:
        assert folder is not None
        assert find_damage(folder) is None
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3-condense-000000010"]
    assert "checkpoint 3-condense-000000010: storage is back after 3 s" in caplog.text

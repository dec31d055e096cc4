"""An interrupted `prepare`: the same command goes on, and ends with the bytes of a run that nothing broke."""

import functools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from raycondense.data import checkpoints
from raycondense.data.encoding import encode_jpeg
from raycondense.data.journal import Journal
from raycondense.data.prepare import prepare
from raycondense.data.sidecar import Sidecar
from raycondense.data.spool import Spool
from raycondense.errors import DataError, Interrupted, RunError

NUMBER, MANY, BAD = 400, 3600, (7, 170, 399)
WORK = ".x.beton.work"
PROGRAM = str(Path(sys.executable).with_name("raycondense"))
OPTIONS = {"resolution": 32, "encoding": "jpeg", "val_fraction": 0.25, "seed": 5, "skip_bad": True}


@pytest.fixture(autouse=True)
def checkpoints_often(monkeypatch):
    """In this process, after two chunks each. The command line in its own has those of everyday."""
    monkeypatch.setattr(checkpoints, "EVERY_IMAGES", 100)


@functools.cache
def image(number):
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return encode_jpeg(np.kron(pixels, np.ones((4, 4, 1), np.uint8)), 90)


def make_sources(root, number):
    """The same images as class folders and as Parquet shards, three of them damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [b"no image" if n in BAD else image(n % 400) for n in range(number)]
    labels = [n % 3 for n in range(number)]
    for label in range(3):
        (root / "folder" / f"class{label}").mkdir(parents=True)
    for n, (cell, label) in enumerate(zip(cells, labels, strict=True)):
        (root / "folder" / f"class{label}" / f"{n:04d}.jpg").write_bytes(cell)
    (root / "parquet").mkdir()
    for shard in range(2):
        part = slice(shard * number // 2, (shard + 1) * number // 2)
        table = pa.table({"image": cells[part], "label": labels[part]})
        pq.write_table(table, root / "parquet" / f"train-{shard}.parquet")
    return {"folder": root / "folder", "parquet": root / "parquet"}


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    return make_sources(tmp_path_factory.mktemp("sources"), NUMBER)


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """The same with images for long enough to be killed."""
    return make_sources(tmp_path_factory.mktemp("many"), MANY)


@pytest.fixture(scope="session")
def unbroken(sources, tmp_path_factory):
    """Bytes of every file of a run that nothing broke, of a kind of source, with a validation cut or without."""

    @functools.cache
    def run_through(kind, cut=True):
        folder = tmp_path_factory.mktemp("unbroken")
        prepare(sources[kind], folder / "x.beton", workers=1, **OPTIONS | ({} if cut else {"val_fraction": 0.0}))
        return contents(folder)

    return run_through


@pytest.fixture
def left(sources, tmp_path_factory, tmp_path):
    """Puts into ``tmp_path`` what a run leaves that is interrupted after some images; tells how many were done."""

    def put(kind, after=130):
        folder, number = _interrupted_once(kind, after, sources[kind], tmp_path_factory)
        shutil.copytree(folder / WORK, tmp_path / WORK)
        return number

    return put


_ONCE = {}


def _interrupted_once(kind, after, source, tmp_path_factory):
    if (kind, after) not in _ONCE:
        folder = tmp_path_factory.mktemp("interrupted")
        _ONCE[kind, after] = folder, len(interrupted(source, folder, after).sizes)
    return _ONCE[kind, after]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def words(source, out, *more, **options):
    flags = []
    for name, value in (OPTIONS | options).items():
        flag = f"--{name.replace('_', '-')}"
        flags += [flag] if value is True else [] if value is False else [flag, str(value)]
    return [PROGRAM, "prepare", str(source), str(out / "x.beton"), *flags, *more]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1"}


def start(command, out):
    """Start the real command line and wait until its journal tells of images."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    journal = out / WORK / "journal"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b"\n") >= 2:
            return process
        time.sleep(0.002)
    raise AssertionError(f"it ended before its first checkpoint: {process.communicate()[1]}")


def run(command):
    return subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)


def done_before(log, number=NUMBER):
    found = re.search(r"goes on from (\d+) of (\d+) images", log)
    assert found, log
    assert int(found[2]) == number
    return int(found[1])


@pytest.mark.parametrize(
    ("kind", "by", "workers"),
    [("folder", signal.SIGKILL, "1"), ("parquet", signal.SIGKILL, "1"), ("folder", signal.SIGINT, "2")],
)
def test_a_killed_command_goes_on(kind, by, workers, many, tmp_path):
    """Or interrupted, and run again with another number of workers; meanwhile nobody else may write the same files."""
    out = tmp_path / "out"
    process = start(words(many[kind], out, "--workers", workers), out)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(RunError, match=r"x\.beton: another `prepare` is writing this file at the moment"):
        prepare(many[kind], out / "x.beton", workers=1, **OPTIONS)
    with pytest.raises(RunError, match=r"x-val\.beton: another"):
        prepare(many[kind], out / "x-val.beton", workers=1, **OPTIONS)
    process.send_signal(by)
    process.send_signal(signal.SIGCONT)
    log = process.communicate()[1]
    if by == signal.SIGINT:
        assert process.returncode == 130
        assert re.search(r"error: \S+/x\.beton: interrupted; run the same command to go on from [\d,]+ of 3,600", log)
    else:
        assert process.returncode == -by
    assert [name for name in os.listdir(out) if not name.endswith(".lock")] == [WORK], "no final name yet"
    done = run(words(many[kind], out, "--workers", "3" if workers == "2" else "2"))
    assert done.returncode == 0, done.stderr
    before = done_before(done.stderr, MANY)
    assert 1024 <= before < MANY
    # The bar begins where the last one stopped.
    first = re.search(r"prepare: +\d+% \(([\d,]+)/", done.stderr)
    assert first is not None
    assert int(first[1].replace(",", "")) == before
    prepare(many[kind], tmp_path / "whole" / "x.beton", workers=1, **OPTIONS)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_interrupted_again_and_again(kind, cut, sources, unbroken, tmp_path):
    options = {} if cut else {"val_fraction": 0.0}
    numbers = [len(interrupted(sources[kind], tmp_path, after, **options).sizes) for after in (50, 100, 350)]
    assert numbers == [64, 128, 384]
    prepare(sources[kind], tmp_path / "x.beton", workers=1, **OPTIONS | options)
    assert contents(tmp_path) == unbroken(kind, cut)


def interrupted(source, out, after, **options):
    """Run until ``after`` images and Ctrl-C there; returns how many images the journal tells of."""

    def stop(done, total):
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"x\.beton: interrupted; run the same command to go on from [\d,]+ of 400"):
        prepare(source, out / "x.beton", **({"workers": 1, "progress": stop} | OPTIONS | options))
    journal, done = Journal.load(out / WORK / "journal")
    journal.close()
    return done


def test_images_that_were_read_are_not_read_again(sources, unbroken, tmp_path):
    """They can be overwritten: as long as size and time stay, nothing looks at their pixels."""
    copy = tmp_path / "folder"
    subprocess.run(["cp", "-a", sources["folder"], copy], check=True)
    (tmp_path / "out").mkdir()
    read, saved = [], {}
    files = sorted(copy.rglob("*.jpg"))

    done = interrupted(copy, tmp_path / "out", 200)
    number = len(done.sizes)
    assert number == 256
    order = prepared_order(copy)
    for index in order[:number]:
        file, found = files[index], files[index].stat()
        saved[file] = file.read_bytes()
        file.write_bytes(b"x" * found.st_size)
        os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    result = prepare(copy, tmp_path / "out" / "x.beton", workers=1, progress=lambda *now: read.append(now), **OPTIONS)
    assert read[0] == (number, NUMBER)
    assert read[-1] == (NUMBER, NUMBER)
    assert result.skipped == len(BAD)
    want = unbroken("folder")
    for name in ("x.beton", "x-val.beton"):
        assert (tmp_path / "out" / name).read_bytes() == want[name]
    assert set(os.listdir(tmp_path / "out")) == set(want)


def prepared_order(folder):
    from raycondense.data.prepare import _orders
    from raycondense.data.sources import open_source

    return np.concatenate(_orders(open_source(folder), OPTIONS["val_fraction"], OPTIONS["seed"]))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"resolution": 16}, "resolution was 32, is 16"),
        ({"encoding": "raw"}, "encoding was jpeg, is raw, quality was 90, is None"),
        ({"quality": 91}, "quality was 90, is 91"),
        ({"seed": 6}, "seed was 5, is 6"),
        ({"val_fraction": 0.5}, r"val_fraction was 0\.25, is 0\.5"),
        ({"skip_bad": False}, "it left out [1-9] images, and skip_bad is off now"),
    ],
)
def test_other_settings_begin_anew(options, why, sources, left, tmp_path, caplog):
    left("folder")
    with caplog.at_level(logging.INFO, "raycondense"):
        begin_only(sources["folder"], tmp_path, **options)
    assert re.search(f"x.beton: begins anew, not from what an interrupted run left: {why}$", caplog.text, re.M)
    assert "goes on" not in caplog.text


def begin_only(source, out, **options):
    """Begin and stop at the first sign of life."""

    def stop(done, total):
        assert done == 0
        raise RuntimeError("seen enough")

    with pytest.raises(RuntimeError, match="seen enough"):
        prepare(source, out / "x.beton", **({"workers": 1, "progress": stop} | OPTIONS | options))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            "add",
            "number of images was 400, is 401, the labels of the images changed, the names of the images changed",
        ),
        ("rename", "the names of the images changed"),
        ("touch", "images that were read have changed since"),
        ("shard", "the files of the source changed"),
    ],
)
def test_a_source_that_changed_begins_anew(change, why, sources, tmp_path, caplog):
    kind = "parquet" if change == "shard" else "folder"
    copy, out = tmp_path / "source", tmp_path / "out"
    subprocess.run(["cp", "-a", sources[kind], copy], check=True)
    interrupted(copy, out, 130)
    read, unread = (
        (sorted(copy.rglob("*.jpg"))[prepared_order(copy)[n]] for n in (0, -1)) if kind == "folder" else (0, 0)
    )
    if change == "add":
        (read.parent / "new.jpg").write_bytes(image(0))
    elif change == "rename":
        unread.rename(unread.with_name(f"{unread.stem}b.jpg"))
    else:
        os.utime(copy / "train-1.parquet" if change == "shard" else read, ns=(0, 12345))
    with caplog.at_level(logging.INFO, "raycondense"):
        begin_only(copy, out)
    assert f"begins anew, not from what an interrupted run left: {why}\n" in caplog.text


def test_a_bad_image_is_repaired_and_the_rest_goes_on(sources, unbroken, tmp_path, caplog):
    copy, out = tmp_path / "source", tmp_path / "out"
    subprocess.run(["cp", "-a", sources["folder"], copy], check=True)
    for number in BAD:
        (copy / f"class{number % 3}" / f"{number:04d}.jpg").write_bytes(image(0))
    late = sorted(copy.rglob("*.jpg"))[prepared_order(copy)[330]]
    whole = late.read_bytes()
    late.write_bytes(b"no image")
    options = OPTIONS | {"skip_bad": False}
    with pytest.raises(DataError, match=rf"{late.name}: this image cannot be decoded"):
        prepare(copy, out / "x.beton", workers=2, **options)
    assert os.listdir(out) == [WORK]
    late.write_bytes(whole)
    with caplog.at_level(logging.INFO, "raycondense"):
        prepare(copy, out / "x.beton", workers=1, **options)
    assert done_before(caplog.text) == 320
    prepare(copy, tmp_path / "whole" / "x.beton", workers=1, **options)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_run_that_stopped_at_a_bad_image_goes_on_without_it(sources, tmp_path, caplog):
    out = tmp_path / "out"
    with pytest.raises(DataError, match="this image cannot be decoded"):
        prepare(sources["folder"], out / "x.beton", workers=1, **OPTIONS | {"skip_bad": False})
    with caplog.at_level(logging.INFO, "raycondense"):
        prepare(sources["folder"], out / "x.beton", workers=1, **OPTIONS)
    assert "begins anew" not in caplog.text
    prepare(sources["folder"], tmp_path / "whole" / "x.beton", workers=1, **OPTIONS)
    assert contents(out) == contents(tmp_path / "whole")


# Damage


DAMAGES = {
    "a flipped bit": lambda head, one, two: head + one[:300] + bytes([one[300] ^ 1]) + one[301:] + two,
    "an empty file": lambda head, one, two: b"",
    "no head": lambda head, one, two: one + two,
    "text": lambda head, one, two: b"hello\n" * 3,
    "a lost line": lambda head, one, two: head + two + two,
    "a line twice": lambda head, one, two: head + one + one + two,
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_journal_begins_anew(how, sources, left, tmp_path, caplog):
    left("folder", 300)
    journal = tmp_path / WORK / "journal"
    journal.write_bytes(DAMAGES[how](*journal.read_bytes().splitlines(keepends=True)[:3]))
    with caplog.at_level(logging.INFO, "raycondense"):
        begin_only(sources["folder"], tmp_path)
    assert re.search("begins anew, not from what an interrupted run left: its journal is (damaged|empty)", caplog.text)


@pytest.mark.parametrize("tail", [b"\0" * 999, b"0123", b"deadbeef {}\n"])
def test_an_incomplete_last_line_costs_only_itself(tail, sources, unbroken, left, tmp_path, caplog):
    number = left("parquet")
    with (tmp_path / WORK / "journal").open("ab") as file:
        file.write(tail)
    with caplog.at_level(logging.INFO, "raycondense"):
        prepare(sources["parquet"], tmp_path / "x.beton", workers=1, **OPTIONS)
    assert done_before(caplog.text) == number
    assert contents(tmp_path) == unbroken("parquet")


@pytest.mark.parametrize(("kind", "file"), [("folder", "0.beton"), ("parquet", "spool-00")])
def test_files_that_are_too_short_begin_anew(kind, file, sources, unbroken, left, tmp_path, caplog):
    left(kind)
    os.truncate(tmp_path / WORK / file, 5000)
    with caplog.at_level(logging.INFO, "raycondense"):
        prepare(sources[kind], tmp_path / "x.beton", workers=1, **OPTIONS)
    assert re.search(rf"begins anew, .*: its files are damaged \(.*{file}: found 5000 bytes", caplog.text)
    assert contents(tmp_path) == unbroken(kind)


# Late interrupts: nothing is left to decode


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_all_decoded_and_nothing_finished(kind, sources, unbroken, tmp_path):
    done = interrupted(sources[kind], tmp_path, NUMBER)
    assert len(done.sizes) == NUMBER
    prepare(sources[kind], tmp_path / "x.beton", workers=1, **OPTIONS)
    assert contents(tmp_path) == unbroken(kind)


@pytest.mark.parametrize("drained", [1, 3, 5])
def test_killed_while_buckets_are_copied(drained, sources, unbroken, tmp_path, monkeypatch):
    monkeypatch.setattr("raycondense.data.spool._BUCKET_BYTES", NUMBER * 32 * 32 * 3 // 5)
    drop = Spool.drop

    def stop(self, bucket):
        drop(self, bucket)
        if bucket + 1 == drained:
            raise KeyboardInterrupt

    monkeypatch.setattr(Spool, "drop", stop)
    done = interrupted(sources["parquet"], tmp_path, NUMBER + 1)
    assert done.drained == drained
    monkeypatch.setattr(Spool, "drop", drop)
    prepare(sources["parquet"], tmp_path / "x.beton", workers=1, **OPTIONS)
    assert contents(tmp_path) == unbroken("parquet")


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    """An ``.npz`` of 30 images."""
    path = tmp_path_factory.mktemp("few") / "few.npz"
    np.savez(path, x=np.arange(30 * 64, dtype=np.uint32).astype(np.uint8).reshape(30, 8, 8), y=np.arange(30) % 3)
    return path


@pytest.mark.parametrize("moves", [0, 1, 2, 3, 4])
def test_killed_while_files_get_their_names(moves, few, tmp_path):
    """A real kill at each of the renames; no moment shows a beton beside a sidecar that is not its own."""
    code = f"""
import os, signal, sys
from raycondense.data import workplace
from raycondense.data.prepare import prepare
replace, moves = os.replace, 0
def move(old, new):
    global moves
    if "-val.beton" in str(new) or str(new).endswith(("out/x.beton", "out/x.beton.json")):
        if moves == {moves}:
            os.kill(os.getpid(), signal.SIGKILL)
        moves += 1
    replace(old, new)
workplace.os.replace = move
prepare({str(few)!r}, {str(tmp_path / "out" / "x.beton")!r}, workers=1, **{OPTIONS!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == (0 if moves == 4 else -signal.SIGKILL), done.stderr
    for name in ("x.beton", "x-val.beton"):
        if Sidecar.path(tmp_path / "out" / name).exists():
            Sidecar.load(tmp_path / "out" / name).verify(tmp_path / "out" / name, full=True)
    if moves < 4:
        prepare(few, tmp_path / "out" / "x.beton", workers=1, **OPTIONS)
    prepare(few, tmp_path / "whole" / "x.beton", workers=1, **OPTIONS)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# A full disk


def test_a_full_disk_is_said_and_gone_on_from(sources, unbroken, tmp_path, caplog):
    out = tmp_path / "small"
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=220k", "tmpfs", str(out)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small file system can be mounted here: that takes root")
    try:
        message = (
            r"x\.beton: no space left on the disk; free some space and run the same command to go on from \d+ of 400 "
            r"images \(they are in \S+/\.x\.beton\.work, remove it to give them up\)$"
        )
        with pytest.raises(RunError, match=message):
            prepare(sources["folder"], out / "x.beton", workers=1, **OPTIONS)
        assert os.listdir(out) == [WORK]
        subprocess.run(["mount", "-o", "remount,size=32m", str(out)], check=True)
        with caplog.at_level(logging.INFO, "raycondense"):
            prepare(sources["folder"], out / "x.beton", workers=1, **OPTIONS)
        assert done_before(caplog.text) >= 100
        assert contents(out) == unbroken("folder")
    finally:
        subprocess.run(["umount", str(out)], check=True)


def test_journal_is_text_that_people_can_read(left, tmp_path):
    left("folder")
    lines = (tmp_path / WORK / "journal").read_text().splitlines()
    head, block = (json.loads(line[9:]) for line in lines[:2])
    assert head["identity"]["resolution"] == 32
    assert set(block) == {"start", "sizes", "reasons", "totals", "seen"}
    assert (tmp_path / WORK / "journal").stat().st_size < 10_000

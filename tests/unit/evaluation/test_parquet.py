"""Tables of results: what is written is read, by many processes at once and after kills."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from raycondense.errors import DataError
from raycondense.evaluation.parquet import ParquetTable
from raycondense.evaluation.schemas import FORMAT_VERSION, SCHEMAS, VERSION_KEY, arrow_schema
from raycondense.evaluation.store import Store
from raycondense.testing.results import made_row

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*"))


@pytest.fixture
def table(tmp_path: Path) -> ParquetTable:
    return ParquetTable(tmp_path / "results", "results")


def test_rows_come_back_with_their_types(table: ParquetTable):
    rows = [
        made_row(0, accuracy=0.1 + 0.2, loss=None, train_sha256=None, augmented=False, method="größer|, \n'"),
        made_row(1, ipc=0, student=2**62, bytes=2**40, seconds=1e-9, finished_at=1_767_225_599.999),
    ]
    table.append(rows)
    found = ParquetTable(table.folder, "results").find(row["key"] for row in rows)
    assert list(found.values()) == rows
    for row in found.values():
        for name, column in SCHEMAS["results"].items():
            kind = {"string": str, "int64": int, "bool": bool}.get(column.type, float)
            assert row[name] is None or type(row[name]) is kind, name


def test_numbers_of_numpy_are_numbers(table: ParquetTable):
    import numpy as np

    table.append([made_row(0, ipc=np.int32(10), accuracy=np.float32(0.25), seconds=3)])
    (row,) = table.find(table.keys()).values()
    assert (row["ipc"], row["accuracy"], row["seconds"]) == (10, 0.25, 3.0)


def test_find_leaves_out_what_is_not_there(table: ParquetTable):
    assert table.keys() == frozenset()
    assert table.find(["nothing"]) == {}
    assert table.read().num_rows == 0
    table.append([made_row(1)])
    table.append([made_row(2), made_row(3)])
    assert set(table.find([made_row(3)["key"], made_row(1)["key"], "nothing"])) == {
        made_row(1)["key"],
        made_row(3)["key"],
    }
    assert table.keys() == {made_row(i)["key"] for i in (1, 2, 3)}


def test_nothing_is_written_for_no_rows(table: ParquetTable):
    table.append([])
    assert not table.folder.exists()


def test_read_has_one_row_a_key_the_newest_in_order_of_time(table: ParquetTable):
    table.append([made_row(1, finished_at=30.0, accuracy=0.3), made_row(2, finished_at=20.0)])
    table.append([made_row(1, finished_at=10.0, accuracy=0.1)])
    table.append([made_row(1, finished_at=40.0, accuracy=0.4), made_row(3, finished_at=5.0)])
    read = table.read()
    assert read.schema.equals(arrow_schema("results"), check_metadata=True)
    assert read["student"].to_pylist() == [3, 2, 1]
    assert read["accuracy"].to_pylist() == [0.5, 0.5, 0.4]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"acuracy": 0.5}, ["unknown column 'acuracy'", "did you mean 'accuracy'"]),
        ({"accuracy": 48.9}, ["column accuracy: found 48.9", "a finite float in [0, 1]"]),
        ({"accuracy": float("nan")}, ["column accuracy: found nan"]),
        ({"accuracy": None}, ["column accuracy: found None"]),
        ({"loss": float("inf")}, ["column loss: found inf", "or None"]),
        ({"ipc": 10.0}, ["column ipc: found 10.0", "an int >= 0"]),
        ({"ipc": True}, ["column ipc: found True"]),
        ({"student": 2**63}, ["column student: found 9223372036854775808"]),
        ({"augmented": 1}, ["column augmented: found 1", "a bool"]),
        ({"source": Path("x")}, ["column source: found", "text"]),
        ({"seconds": -1.0}, ["column seconds: found -1.0", ">= 0"]),
        ({"finished_at": "2026-01-01"}, ["column finished_at: found '2026-01-01'", "unix seconds"]),
    ],
)
def test_rows_that_do_not_fit_are_refused_whole(table: ParquetTable, change: Mapping[str, Any], parts: list[str]):
    with pytest.raises(DataError) as caught:
        table.append([made_row(1), made_row(2, **change)])
    for part in ["table results", *parts]:
        assert part in str(caught.value)
    assert not table.folder.exists()


def test_a_column_can_be_missing_only_where_none_is_valid(table: ParquetTable):
    row = made_row(1)
    del row["artifact_sha256"]
    table.append([row])
    assert table.find([row["key"]])[row["key"]]["artifact_sha256"] is None
    del row["steps"]
    with pytest.raises(DataError, match=r"table results, column steps: missing; valid: an int >= 0"):
        table.append([row])


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_files_say_units_meanings_and_version(tmp_path: Path, name: str):
    table = ParquetTable(tmp_path, name)
    table.append([made_row(1, name)])
    (path,) = tmp_path.glob("*.parquet")
    schema = pq.read_schema(path)
    assert schema.metadata[VERSION_KEY] == str(FORMAT_VERSION).encode()
    for column in SCHEMAS[name].values():
        field = schema.field(column.name)
        assert field.metadata[b"unit"] == column.unit.encode() != b""
        assert len(field.metadata[b"description"]) > 5
        assert field.nullable == column.nullable
    units = {field.name: field.metadata[b"unit"] for field in schema}
    assert units["seconds"] == b"s"
    assert units["resolution"] == b"px"
    if name == "results":
        assert units["accuracy"] == b"fraction"
        assert units["label_bytes"] == b"bytes"
        assert schema.field("finished_at").type == pa.timestamp("ms", tz="UTC")


def test_other_programs_read_the_folder(table: ParquetTable):
    table.append([made_row(1)])
    table.append([made_row(2)])
    assert pq.read_table(table.folder).num_rows == 2


def test_the_same_rows_take_the_same_file(table: ParquetTable):
    table.append([made_row(1), made_row(2)])
    before = files(table.folder)
    table.append([made_row(2, finished_at=1_700_000_001.0), made_row(1)])
    assert files(table.folder) == before
    table.append([made_row(1)])
    assert len(files(table.folder)) == 2
    assert len(table.keys()) == 2


def test_what_another_writes_is_seen_and_what_is_known_is_not_read_again(table: ParquetTable):
    table.append([made_row(1)])
    assert len(table.keys()) == 1
    (path,) = table.folder.glob("*.parquet")
    status, data = path.stat(), path.read_bytes()
    ParquetTable(table.folder, "results").append([made_row(2)])
    path.write_bytes(b"0" * len(data))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    # Same name, time and size: the file counts as known. A fresh reader finds it damaged.
    assert len(table.keys()) == 2
    with pytest.raises(DataError, match="damaged"):
        ParquetTable(table.folder, "results").keys()


def test_half_written_files_are_nobodys(table: ParquetTable):
    table.append([made_row(1)])
    (path,) = table.folder.glob("*.parquet")
    (table.folder / f".{path.name}.123.tmp").write_bytes(path.read_bytes()[:100])
    (table.folder / "part-unfinished.tmp").write_bytes(b"PAR1")
    (table.folder / "notes.txt").write_text("mine")
    assert len(ParquetTable(table.folder, "results").keys()) == 1


@pytest.mark.parametrize("damage", [lambda data: data[:-50], lambda data: b"", lambda data: data[:4] + b"\0" * 5000])
def test_damaged_files_are_named(table: ParquetTable, damage: Any):
    table.append([made_row(1)])
    (path,) = table.folder.glob("*.parquet")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{re.escape(path.name)}: damaged Parquet file .*; delete it") as caught:
        ParquetTable(table.folder, "results").read()
    assert "\n" not in str(caught.value)


def _rewrite(path: Path, change: Any) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def test_files_of_a_newer_version_are_refused(table: ParquetTable):
    table.append([made_row(1)])
    (path,) = table.folder.glob("*.parquet")
    _rewrite(path, lambda t: t.replace_schema_metadata({**t.schema.metadata, VERSION_KEY: b"99"}))
    with pytest.raises(DataError, match=r"format version: found 99, valid: up to \d+; .*upgrade"):
        table.keys()


def test_files_of_others_are_refused(table: ParquetTable):
    table.folder.mkdir()
    pq.write_table(pa.table({"key": ["a"]}), table.folder / "part-of-somebody.parquet")
    with pytest.raises(DataError, match=r"part-of-somebody.parquet: not a file of the table results"):
        table.keys()
    ParquetTable(table.folder.parent / "other", "diagnostics").append([made_row(1, "diagnostics")])
    shutil.rmtree(table.folder)
    shutil.copytree(table.folder.parent / "other", table.folder)
    with pytest.raises(DataError, match="not a file of the table results"):
        table.keys()


def test_columns_that_came_later_are_none_in_old_files(table: ParquetTable):
    table.append([made_row(1), made_row(2)])
    (path,) = table.folder.glob("*.parquet")
    _rewrite(path, lambda t: t.drop_columns(["artifact_sha256", "loss"]))
    table.append([made_row(3)])
    assert table.read()["artifact_sha256"].to_pylist().count(None) == 2
    _rewrite(path, lambda t: t.drop_columns(["accuracy"]))
    with pytest.raises(DataError, match="column accuracy: missing"):
        table.keys()


def test_a_table_travels_to_other_processes_without_its_rows(table: ParquetTable):
    table.append([made_row(1)])
    table.keys()
    data = pickle.dumps(table)
    assert len(data) < 500
    assert pickle.loads(data).keys() == table.keys()


def test_the_folder_may_not_be_a_file(tmp_path: Path):
    (tmp_path / "results").write_text("")
    with pytest.raises(DataError, match=r"results: Not a directory"):
        ParquetTable(tmp_path / "results", "results").keys()


# Compaction.


def test_compaction_leaves_one_file_and_every_row(table: ParquetTable):
    assert table.compact() == 0
    for number in range(5):
        table.append([made_row(number), made_row(0, finished_at=1e9 + number, accuracy=number / 10)])
    before = table.read()
    assert table.compact() == 5
    assert len(files(table.folder)) == 1
    fresh = ParquetTable(table.folder, "results")
    assert fresh.read().equals(before)
    assert table.read().equals(before)
    assert fresh.compact() == 0
    table.append([made_row(7)])
    assert fresh.compact() == 2
    assert len(table.keys()) == 6


def test_compaction_that_changes_nothing_keeps_the_merged_file(table: ParquetTable):
    table.append([made_row(1)])
    table.append([made_row(2)])
    table.compact()
    (name,) = files(table.folder)
    table.append([made_row(2)])
    # The merged keys are the same, so is the name: it must not be taken away with what was merged.
    assert table.compact() == 2
    assert files(table.folder) == [name]
    assert len(ParquetTable(table.folder, "results").keys()) == 2


@pytest.mark.parametrize("deleted", [0, 1, 2, 3])
def test_a_compaction_killed_at_any_point_loses_nothing(table: ParquetTable, tmp_path: Path, deleted: int):
    """The states it passes through: the merged file written, and no, some or all of the merged ones deleted."""
    for number in range(3):
        table.append([made_row(number)])
    saved = tmp_path / "saved"
    shutil.copytree(table.folder, saved)
    before = table.read()
    table.compact()
    for path in sorted(saved.glob("*.parquet"))[deleted:]:
        shutil.copy2(path, table.folder)
    fresh = ParquetTable(table.folder, "results")
    assert len(files(table.folder)) == 4 - deleted
    assert fresh.read().equals(before)
    assert fresh.compact() == (0 if deleted == 3 else 4 - deleted)
    assert len(files(table.folder)) == 1
    assert fresh.read().equals(before)


def test_a_file_that_was_replaced_during_compaction_stays(table: ParquetTable, monkeypatch: pytest.MonkeyPatch):
    table.append([made_row(1)])
    table.append([made_row(2)])
    write = table._write

    def write_while_another_does(prefix: str, merged: Any) -> Path:
        path = write(prefix, merged)
        ParquetTable(table.folder, "results").append([made_row(1, method="a longer name", finished_at=2e9)])
        return path

    monkeypatch.setattr(table, "_write", write_while_another_does)
    table.compact()
    assert table.find([made_row(1)["key"]])[made_row(1)["key"]]["method"] == "a longer name"


def test_one_compaction_at_a_time(table: ParquetTable):
    from filelock import FileLock

    table.append([made_row(1)])
    table.append([made_row(2)])
    with FileLock(table.folder / ".compact.lock"):
        assert table.compact() == 0
    assert table.compact() == 2


def test_leftovers_of_killed_writers_go_after_a_day(table: ParquetTable):
    table.append([made_row(1)])
    table.append([made_row(2)])
    for name, age in ((".part-old.parquet.1.tmp", 2 * 86400), (".part-new.parquet.1.tmp", 60)):
        (table.folder / name).write_bytes(b"")
        os.utime(table.folder / name, (time.time() - age,) * 2)
    table.compact()
    assert [path.name for path in table.folder.glob(".part*")] == [".part-new.parquet.1.tmp"]


@pytest.mark.parametrize("missed", ["vanished", "listing"])
def test_a_reader_starts_anew_when_a_compaction_comes_between(
    table: ParquetTable, monkeypatch: pytest.MonkeyPatch, missed: str
):
    for number in range(3):
        table.append([made_row(number)])
    reader = ParquetTable(table.folder, "results")
    listing = reader._list()
    table.compact()
    # First what a listing during the compaction may give: files that are gone, or neither those nor the merged one.
    stale = [listing if missed == "vanished" else listing[:0]]
    real = reader._list
    monkeypatch.setattr(reader, "_list", lambda: stale.pop() if stale else real())
    assert len(reader.keys()) == 3


def test_a_reader_does_not_try_for_ever(table: ParquetTable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table, "_list", lambda: ["part-that-never-comes.parquet"])
    monkeypatch.setattr("raycondense.evaluation.parquet.time.sleep", lambda seconds: None)
    with pytest.raises(DataError, match="kept changing"):
        table.keys()


# Several processes.

WRITER = """
import json, pathlib, sys
import pyarrow.parquet
from raycondense.evaluation.parquet import ParquetTable
folder, rows, stop = sys.argv[1], json.load(open(sys.argv[2])), pathlib.Path(sys.argv[3])
table = ParquetTable(folder, "results")
print("ready", flush=True)
sys.stdin.readline()
turn = 0
while turn == 0 or not stop.exists():
    for row in rows:
        table.append([row | {"finished_at": row["finished_at"] + turn}])
    turn += 1
"""
COMPACTOR = """
import pathlib, sys, time
import filelock, pyarrow.parquet
from raycondense.evaluation.parquet import ParquetTable
table = ParquetTable(sys.argv[1], "results")
print("ready", flush=True)
sys.stdin.readline()
stop = pathlib.Path(sys.argv[2])
while not stop.exists():
    table.compact()
    time.sleep(0.02)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def go(processes: list[subprocess.Popen[str]]) -> None:
    """Let them begin together."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def test_writers_readers_and_compactions_at_the_same_time(table: ParquetTable, tmp_path: Path):
    own = [[made_row(100 * writer + i) for i in range(12)] for writer in range(2)]
    shared = [made_row(1000 + i) for i in range(5)]
    stop = tmp_path / "stop"
    processes = [start(COMPACTOR, table.folder, stop)]
    for writer, rows in enumerate(own):
        (tmp_path / f"{writer}.json").write_text(json.dumps(rows + shared))
        processes.append(start(WRITER, table.folder, tmp_path / f"{writer}.json", stop))
    go(processes)
    seen: frozenset[str] = frozenset()
    compactions: set[tuple[str, int]] = set()
    end = time.monotonic() + 60
    while len(compactions) < 5 and time.monotonic() < end:
        now = table.keys()
        assert seen <= now, "a row that was there has gone"
        assert set(table.find(now)) == now
        seen = now
        merged = {(name, stamp) for name, (stamp, _) in table._files.items() if name.startswith("merged")}
        if merged - compactions:
            table.compact()
        compactions |= merged
    stop.touch()
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert len(compactions) >= 5
    expected = {row["key"]: row for row in [*own[0], *own[1], *shared]}
    fresh = ParquetTable(table.folder, "results")
    assert fresh.keys() == set(expected)
    fresh.compact()
    assert len(files(table.folder)) == 1
    for key, row in fresh.find(expected).items():
        assert row | {"finished_at": 0} == expected[key] | {"finished_at": 0}


def test_writers_killed_in_the_middle_leave_whole_rows(table: ParquetTable, tmp_path: Path):
    before = set()
    for turn in range(3):
        # Large rows of noise: so long does a write take that it is hit.
        rows = [made_row(1000 * turn + i, source=random.Random(i).randbytes(200_000).hex()) for i in range(20)]
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        code = WRITER.replace("for row in rows:", "for row in rows:\n        print(row['key'], flush=True)\n       ")
        process = start(code, table.folder, tmp_path / "rows.json", tmp_path / "never")
        go([process])
        assert process.stdout is not None
        announced = [process.stdout.readline().strip() for _ in range(2 + turn)]
        time.sleep(0.003 * turn)
        process.send_signal(signal.SIGKILL)
        out, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        announced += out.split()
        keys = ParquetTable(table.folder, "results").keys()
        # A row is announced before it is written, so only the last may be missing.
        assert set(announced[:-1]) | before <= keys <= set(announced) | before
        before = set(keys)
    assert ParquetTable(table.folder, "results").compact() >= 2
    assert table.keys() == before


def test_the_store_sorts_rows_into_tables(tmp_path: Path):
    store = Store(tmp_path / "store")
    diagnosis = made_row(5, "diagnostics")
    store.record([{"table": "results", **made_row(1)}, {"table": "diagnostics", **diagnosis}])
    assert set(store.find([made_row(1)["key"], diagnosis["key"]])) == {made_row(1)["key"]}
    assert store.find([diagnosis["key"]], "diagnostics") == {diagnosis["key"]: diagnosis}
    with pytest.raises(DataError, match=r"unknown table 'reslts' \(did you mean 'results'\?\)"):
        store.record([{"table": "reslts", **made_row(2)}])
    assert len(store.tables["results"].keys()) == 1


def test_a_store_of_many_files_is_tidied(tmp_path):
    store = Store(tmp_path)
    for number in range(4):
        store.record([made_row(number, "results") | {"table": "results"}])
    store.tidy(most=4)
    assert len(list((tmp_path / "results").glob("*.parquet"))) == 4
    store.tidy(most=3)
    assert len(list((tmp_path / "results").glob("*.parquet"))) == 1
    assert len(Store(tmp_path).tables["results"].keys()) == 4

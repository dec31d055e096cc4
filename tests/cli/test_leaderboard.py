"""``raycondense leaderboard`` as it is typed."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from raycondense.cli import main
from raycondense.evaluation.store import Store
from raycondense.testing.results import made_row


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        made_row(number, method=method, accuracy=accuracy, ipc=10)
        for number, (method, accuracy) in enumerate([("random", 0.25), ("raycondense", 0.5), ("raycondense", 0.75)])
    ]
    store = Store(tmp_path / "board")
    for row in rows:
        store.record([{"table": "results", **row}])
    store.record([{"table": "diagnostics", **made_row(9, "diagnostics", method="kmeans")}])
    return tmp_path / "board"


def typed(*words: object) -> int:
    return main(["leaderboard", *map(str, words)])


def test_the_command_as_a_program(folder: Path):
    done = subprocess.run(
        [sys.executable, "-m", "raycondense.cli", "leaderboard", folder, "--sort", "-accuracy", "--format", "csv"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [(row["method"], float(row["accuracy"])) for row in rows] == [("raycondense", 0.625), ("random", 0.25)]


def test_the_default_is_a_table_of_the_folder_leaderboard(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder.rename(folder.with_name("leaderboard"))
    monkeypatch.chdir(folder.parent)
    assert typed() == 0
    assert "62.5 ± 17.7" in capsys.readouterr().out


def test_sort_takes_a_minus_with_and_without_equals(folder: Path, capsys: pytest.CaptureFixture[str]):
    for sort in (["--sort", "-accuracy"], ["--sort=-accuracy"], ["--sort", "-ipc,-accuracy"]):
        assert typed(folder, "--format", "json", *sort) == 0
        assert [row["accuracy"] for row in json.loads(capsys.readouterr().out)] == [0.625, 0.25]


def test_conditions_add_up(folder: Path, capsys: pytest.CaptureFixture[str]):
    where = ["--where", "method=raycondense", "--where", "accuracy>=60%"]
    assert typed(*where, folder, "--students", "--format", "json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["accuracy"], row["student"]) == (0.75, 2)


@pytest.mark.parametrize(
    ("name", "start"), [("b.csv", "method,ipc"), ("b.json", "["), ("b.md", "| method"), ("b.txt", "method")]
)
def test_the_file_has_the_form_of_its_ending(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, start: str
):
    out = tmp_path / "new" / name
    assert typed(folder, "--columns", "method,ipc", "--out", out) == 0
    assert capsys.readouterr().out == f"{out}: written\n"
    assert out.read_text(encoding="utf-8").startswith(start)
    assert typed(folder, "--format", "csv", "--columns", "ipc", "--out", out) == 0
    assert out.read_text(encoding="utf-8").startswith("ipc\n10\n")


def test_diagnostics_and_compact(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert typed(folder, "--diagnostics", "--compact", "--format", "json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["method"] == "kmeans"
    assert said.err == "results: 3 files merged\ndiagnostics: 0 files merged\n"
    assert len(list((folder / "results").glob("*.parquet"))) == 1


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["nowhere"], ["nowhere: no such folder", "raycondense evaluate"]),
        ([""], ["a folder without results"]),
        (["board", "--students", "--diagnostics"], ["--students and --diagnostics"]),
        (["board", "--where", "acuracy=1"], ["did you mean 'accuracy'"]),
        (["board", "--where", "accuracy>=50"], ["found '50'", "[0, 1]"]),
        (["board", "--sort", "-acuracy"], ["did you mean 'accuracy'"]),
        (["board", "--format", "xml"], ["--format", "markdown"]),
        (["board", "--colums", "ipc"], ["--columns"]),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], parts: list[str]
):
    assert typed(folder.parent / words[0], *words[1:]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def test_a_damaged_file_is_named(folder: Path, capsys: pytest.CaptureFixture[str]):
    path = min((folder / "results").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-20])
    assert typed(folder) == 2
    assert f"{path}: damaged" in capsys.readouterr().err


def test_a_store_in_which_nothing_is_finished_says_so(folder: Path, capsys: pytest.CaptureFixture[str]):
    for path in (folder / "results").glob("*.parquet"):
        path.unlink()
    assert typed(folder) == 0
    assert "no results yet" in capsys.readouterr().out

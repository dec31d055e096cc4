"""`benchmarks/guard.py`: a ratio that got worse than the committed one is told, and ends with a status."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "guard.py"


@pytest.fixture
def guard() -> ModuleType:
    spec = importlib.util.spec_from_file_location("guard", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(found: Path, committed: Path, *more: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, SCRIPT, found, committed, *more], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_ratios_are_kept_beside_the_table_and_compared(guard: ModuleType, tmp_path: Path) -> None:
    committed = [guard.Row("speed", 4.0, "higher"), guard.Row("slope", 0.9, "lower")]
    guard.keep(tmp_path / "then.md", "Title", "text", committed)
    assert (tmp_path / "then.md").read_text() == "# Title\n\ntext"
    assert guard.load(tmp_path / "then.json") == committed
    for name, speed, slope, status in (("same", 4.0, 0.9, 0), ("better", 9.0, 0.1, 0), ("slow", 2.9, 0.9, 1),
                                       ("steep", 4.0, 1.2, 1)):  # fmt: skip
        rows = [guard.Row("speed", speed, "higher"), guard.Row("slope", slope, "lower"), guard.Row("new", 1.0, "lower")]
        guard.keep(tmp_path / f"{name}.md", "Title", "text", rows)
        assert run(tmp_path / f"{name}.json", tmp_path / "then.json")[0] == status, name
    status, text = run(tmp_path / "slow.json", tmp_path / "then.json")
    assert "| speed | 4.00 | 2.90 | worse by 28% |" in text
    assert run(tmp_path / "slow.json", tmp_path / "then.json", "--tolerance", "0.3")[0] == 0


def test_a_ratio_that_is_missing_is_worse(guard: ModuleType, tmp_path: Path) -> None:
    guard.keep(tmp_path / "then.md", "Title", "text", [guard.Row("speed", 4.0, "higher")])
    guard.keep(tmp_path / "now.md", "Title", "text", [])
    status, text = run(tmp_path / "now.json", tmp_path / "then.json")
    assert status == 1
    assert "missing" in text


def test_nothing_is_written_without_a_place(guard: ModuleType) -> None:
    guard.keep(None, "Title", "text", [])


def test_what_is_no_table_of_ratios_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(json.dumps([{"name": "speed"}]))
    status, text = run(tmp_path / "bad.json", tmp_path / "bad.json")
    assert status == 1
    assert "bad.json: cannot be read as a benchmark's ratios" in text
    assert "Traceback" not in text

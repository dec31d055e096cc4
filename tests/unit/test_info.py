"""What `raycondense info` says of runs and artefacts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from raycondense.info import describe


def test_a_run_tells_whether_it_is_finished_and_keeps_its_start(tiny_run: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(tiny_run.folder / "run.json", run)
    found = describe(str(run))
    assert (found["kind"], found["finished"], found["initial"], found["last record"]) == ("run", False, False, None)
    shutil.copytree(tiny_run.artifact, run / "initial")
    assert (describe(str(run))["finished"], describe(str(run))["initial"]) == (False, True)
    shutil.copytree(tiny_run.artifact, run / "artifact")
    (run / "log.jsonl").write_text('{"images": 1}\n{"images": 2}\n')
    found = describe(str(run))
    assert (found["finished"], found["initial"], found["last record"]) == (True, True, {"images": 2})
    assert found["data"]["path"] == str(tiny_run.train)


def test_an_artefact_tells_what_of_a_run_it_is(tiny_run: Any, tmp_path: Path) -> None:
    found = describe(str(tiny_run.artifact))
    assert (found["kind"], found["state"], found["banks (images per class)"]) == ("artefact", "condensed", [1, 2])
    initial = tmp_path / "initial"
    shutil.copytree(tiny_run.artifact, initial)
    recipe = (initial / "recipe.json").read_text()
    (initial / "recipe.json").write_text(recipe.replace('"state": "condensed"', '"state": "initial"'))
    assert describe(str(initial))["state"] == "initial"

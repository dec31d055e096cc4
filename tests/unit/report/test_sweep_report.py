"""`sweep.html` of made-up sweeps: whole, beginning, failing, and from strangers."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from raycondense.artifact.format import PREVIEW, WEIGHTS
from raycondense.data.sidecar import file_sha256
from raycondense.errors import ConfigError, RunError
from raycondense.evaluation.store import Store
from raycondense.report.page import POLICY
from raycondense.report.sweep import MOST_TRIALS, write_sweep_report
from raycondense.testing.results import made_row
from raycondense.testing.sweeps import made_sweep
from raycondense.tuning.records import SweepFolder, Winner
from raycondense.tuning.result import rank

from .page import Page

ONE: dict[str, Any] = {"parameters": {"losses.ce": {"uniform": [0, 1]}}}


@pytest.fixture
def sweep(tmp_path) -> SweepFolder:
    return made_sweep(tmp_path / "my <sweep>")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Page:
    """The page of a sweep with trials of every state."""
    return Page(write_sweep_report(made_sweep(tmp_path_factory.mktemp("sweeps") / "my <sweep>").path))


def with_winners(folder: SweepFolder, artifact: Path, count: int = 2) -> list[Winner]:
    """The best trials get artefacts that are copies of one, with weights of their own."""
    winners = []
    for place, trial in enumerate(rank(folder.trials(), ("accuracy",), count), 1):
        path = folder.trial(trial.number) / "artifact"
        shutil.copytree(artifact, path)
        (path / WEIGHTS).write_bytes(b"weights of trial %d" % trial.number)
        winners.append(Winner(trial.number, place, path))
    folder.write_winners(winners)
    return winners


def headings(page: Page) -> list[str]:
    return [text.split("</h2>")[0] for text in page.source.split("<h2>")[1:]]


def test_a_whole_sweep_has_every_section(whole) -> None:
    page = whole
    assert headings(page) == [
        "Trials", "Search", "Parameters", "Accuracy against bytes", "Winners", "Configuration"
    ]  # fmt: skip
    kinds = ("Search", "Rungs", "Parallel", "losses.intra by", "Importances", "Pareto")
    assert [len(page.alts(kind)) for kind in kinds] == [1, 1, 1, 1, 2, 1]
    assert "TPE search over 5 parameters of made-up, 34 of 36 trials done" in page.text
    assert "Hutter, Hoos and Leyton-Brown 2014" in page.text
    assert "out-of-bag R²" in page.text


def test_the_page_holds_everything_and_runs_nothing(whole) -> None:
    page = whole
    assert ("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}) in page.tags
    assert page.addresses()
    assert all(address.startswith("data:") for address in page.addresses())
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert "my <sweep>" in page.text
    # A reason is what a driver said: text, whatever is in it.
    assert "out of memory: <tried to allocate 20 GiB>" in page.text


def test_the_best_trials_come_first_and_all_are_there(whole) -> None:
    page = whole
    head, *best = page.tables["The best trials"]
    assert head == [
        "trial", "accuracy %", "losses.intra", "losses.inter", "losses.ce", "codebook.dim", "extractors.weights",
        "size", "images", "time", "state",
    ]  # fmt: skip
    assert len(best) == MOST_TRIALS
    accuracies = [float(cells[1]) for cells in best]
    assert accuracies == sorted(accuracies, reverse=True)
    every = page.tables["All trials"][1:]
    assert sorted(int(cells[0].split()[0]) for cells in every) == list(range(36))
    states = [cells[-1] for cells in every]
    assert states[0] == "finished"
    assert [state.split()[0] for state in states[-5:]] == ["diverged", "failed", "diverged", "failed", "diverged"]
    # Those without an accuracy have none in the table, though the search took 0 for them.
    assert {cells[1] for cells in every[-5:]} == {"–"}
    assert "diverged loss/match was not finite at step 17 (lr_generator 0.01)" in states
    kinds = {state.split()[0] for state in states}
    assert kinds == {"finished", "stopped", "running", "diverged", "failed"}


def test_zeros_that_switch_off_say_so(sweep, whole) -> None:
    cells = {line[0].split()[0]: line for line in whole.tables["All trials"]}
    for trial in sweep.trials():
        assert (cells[str(trial.number)][2] == "off") == (trial.values["losses.intra"] == 0)
    # The zero of a range that holds it is a number.
    assert cells["0"][4] == "0"


def test_own_values_are_the_measure(sweep, whole) -> None:
    page = whole
    own = sweep.trials()[0]
    best = rank(sweep.trials(), ("accuracy",))[0]
    assert f"{100 * (own.accuracy or 0):.1f}" in page.text
    gain = 100 * ((best.accuracy or 0) - (own.accuracy or 0))
    assert f"trial 0; the best is {gain:.1f} points above" in page.text
    assert "moved into the space" not in page.text
    assert [line[0] for line in page.tables["All trials"] if "own" in line[0]] == ["0 own"]


def test_own_values_outside_of_the_space_are_told(tmp_path) -> None:
    space = {"parameters": {"losses.intra": {"log": [0.5, 10]}}}
    page = Page(write_sweep_report(made_sweep(tmp_path, trials=3, space=space).path))
    assert "losses.intra moved into the space" in page.text


def test_winners_are_seen_and_marked(sweep, tiny_run) -> None:
    first, second = with_winners(sweep, tiny_run.artifact)
    page = Page(write_sweep_report(sweep.path))
    assert page.alts("contact sheet") == [
        f"contact sheet of trial {one.trial}, winner {one.rank}: a row of images a class" for one in (first, second)
    ]
    assert page.tables["The best trials"][1][0].startswith(f"{first.trial} winner 1")
    assert sum('class="ours"' in line for line in page.source.split("<tr")[1:]) == 4  # in both tables
    assert "has not begun" in page.text
    (second.artifact / PREVIEW).unlink()
    page = Page(write_sweep_report(sweep.path))
    assert len(page.alts("contact sheet")) == 1
    assert "its artefact is gone" in page.text


def test_what_the_pool_found_stands_with_the_winners(sweep, tiny_run) -> None:
    first, second = with_winners(sweep, tiny_run.artifact)
    common = {
        "ipc": 10, "architecture": "convnet", "accounting": "bank", "labels": "hard", "augmented": True, "split": "val"
    }  # fmt: skip
    sources = {one.trial: file_sha256(one.artifact / WEIGHTS) for one in (first, second)}
    rows = [
        made_row(0, **common, method="raycondense", source_sha256=sources[first.trial], accuracy=0.7),
        made_row(1, **common, method="raycondense", source_sha256=sources[first.trial], accuracy=0.8),
        made_row(2, **common, method="raycondense", source_sha256=sources[second.trial], accuracy=0.6),
        made_row(3, **common, method="random", source_sha256="aa", accuracy=0.5),
        made_row(4, **{**common, "ipc": 0}, method="whole", source_sha256="aa", accuracy=0.9),
        made_row(5, **common, method="raycondense", source_sha256="of a former winner", accuracy=0.1),
        made_row(6, **{**common, "accounting": "stream"}, method="raycondense", source_sha256="x", accuracy=0.2),
    ]
    for row in rows:
        row["bytes"] = 1000
    Store(sweep.store).record([{"table": "results", **row} for row in rows])
    page = Page(write_sweep_report(sweep.path))
    assert page.tables["Scores of the winners"] == [
        ["", "convnet, IPC 10"],
        [f"trial {first.trial} winner 1", "75.0 ± 7.1"],
        [f"trial {second.trial} winner 2", "60.0"],
        ["random real", "50.0"],
        ["whole set", "90.0"],
    ]
    assert "split val" in page.text


def test_one_objective_has_no_front(tmp_path) -> None:
    page = Page(write_sweep_report(made_sweep(tmp_path, trials=4, space=ONE).path))
    assert "Accuracy against bytes" not in headings(page)
    assert page.alts("losses.intra by") == []
    assert "Importances take 8 trials" in page.text
    assert "All trials" not in page.tables


def test_both_weights_of_repulsion_are_needed_for_their_plane(tmp_path) -> None:
    space = {"parameters": {"losses.intra": {"log": [0.001, 10], "off": 0.2}, "losses.ce": {"uniform": [0, 1]}}}
    page = Page(write_sweep_report(made_sweep(tmp_path, space=space).path))
    assert page.alts("losses.intra by") == []
    assert len(page.alts("Importances")) == 2


def test_a_sweep_that_has_only_begun_is_a_page(tmp_path) -> None:
    folder = made_sweep(tmp_path / "sweep", trials=0)
    assert write_sweep_report(folder.path) == folder.report
    page = Page(folder.report)
    assert headings(page) == ["Trials", "Winners", "Configuration"]
    assert "No trial was started yet" in page.text
    folder.append({"trial": 0, "event": "start", "values": {}})
    page = Page(write_sweep_report(folder.path))
    assert page.tables["The best trials"][1][:2] == ["0", "–"]
    assert page.tables["The best trials"][1][-1] == "running"
    folder.append({"trial": 0, "event": "end", "state": "failed", "reason": "no room"})
    assert "failed no room" in Page(write_sweep_report(folder.path)).text


def test_a_conditional_parameter_is_unused_where_it_has_no_say(tmp_path) -> None:
    space = {
        "parameters": {
            "extractors.weights": {"choice": ["random", "trained"]},
            "extractors.train_steps": {"int": [10, 200], "when": {"extractors.weights": ["trained"]}},
        }
    }
    page = Page(write_sweep_report(made_sweep(tmp_path, space=space).path))
    lines = page.tables["All trials"][1:]
    assert {line[3] == "unused" for line in lines if line[2] == "random"} == {True}
    assert {line[3] == "unused" for line in lines if line[2] == "trained"} == {False}


def test_the_same_sweep_gives_the_same_page_anywhere(sweep, whole, tmp_path) -> None:
    path = tmp_path / "elsewhere" / "x.html"
    assert write_sweep_report(sweep.path, path) == path
    assert path.read_text() == whole.source
    assert not sweep.report.exists()


def test_the_configuration_is_whole(whole) -> None:
    page = whole
    assert ["losses.intra", "0.001 to 10, uniform in the logarithm, or off (0) with probability 0.2"] in page.tables[
        "The space"
    ]
    assert "1,111, 3,333, 10,000" in page.text
    assert "train-val.beton, SHA-256 " + "cd" * 32 in page.text
    assert '"lr_generator"' in page.text


def test_what_is_no_sweep_is_refused(tmp_path, sweep) -> None:
    with pytest.raises(ConfigError, match="holds no sweep"):
        write_sweep_report(tmp_path / "nothing")
    sweep.events.write_text("{}\n")
    with pytest.raises(RunError, match="line 1 is damaged"):
        write_sweep_report(sweep.path)


def test_hundreds_of_trials_stay_a_page_that_can_be_sent(tmp_path) -> None:
    folder = made_sweep(tmp_path, trials=1, space=ONE)
    dice = random.Random(0)
    with folder.events.open("a") as file:
        for number in range(1, 500):
            values = {"losses.ce": dice.random()}
            start = {"trial": number, "time": 1.0, "event": "start", "values": values}
            rung = {"trial": number, "time": 2.0, "event": "rung", "images": 10000, "accuracy": dice.random()}
            end = {"trial": number, "time": 3.0, "event": "end", "state": "complete"}
            file.writelines(json.dumps(event) + "\n" for event in (start, rung, end))
    path = write_sweep_report(folder.path)
    assert len(Page(path).tables["All trials"]) == 501
    assert path.stat().st_size < 4_000_000

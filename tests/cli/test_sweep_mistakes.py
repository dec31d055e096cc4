"""``raycondense sweep`` as it is typed: dry runs, and mistakes in one line that names the thing and what is valid."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raycondense import api
from raycondense.cli import main
from raycondense.presets import get_preset
from raycondense.tuning.records import SweepFolder

SPACES = Path(__file__).resolve().parents[2] / "tune_spaces"
WEIGHTS = SPACES / "loss_weights.yaml"


def typed(*words: object) -> int:
    return main(["sweep", *map(str, words)])


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def mistake(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a wrong command prints."""
    assert typed(*words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_dry_run_as_a_program(tmp_path: Path):
    words = [
        WEIGHTS, "--preset", "cifar10", "--seed", "3", "--workers-per-trial", "1", "--concurrent", "1", "--dry-run",
    ]  # fmt: skip
    own = get_preset("cifar10").losses
    names = ("intra", "inter", "regression", "ce")
    first = {name: f"{getattr(own, name):g}" if getattr(own, name) else "off" for name in names}
    done = [
        subprocess.run(
            [sys.executable, "-m", "raycondense.cli", "sweep", *map(str, words)],
            capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert done[0].returncode == 0, done[0].stderr
    assert done[0].stdout == done[1].stdout, "examples depend on the seed alone"
    for part in (
        "space loss_weights: weights", "losses.intra       0.01 to 100", "losses.realism: left out",
        "most validation accuracy", "20 trials, judged at 711,111",
        f"trial 0, as cifar10 has it: {', '.join(f'losses.{name} {value}' for name, value in first.items())}\n",
        "resources: 1 CPU a trial + 1 CPU for the pool",
    ):  # fmt: skip
        assert part in done[0].stdout
    assert done[0].stdout.count("for example: ") == 3
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"


def test_a_dry_run_with_data_checks_it(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = [WEIGHTS, "--preset", "digits", "--dry-run", "--out", tmp_path / "s", "--data"]
    assert typed(*words, digits / "train.beton", "--initialise.method", "gan") == 0
    assert "losses.realism     0.001 to 1" in capsys.readouterr().out
    assert not (tmp_path / "s").exists()
    assert "none.beton" in mistake(capsys, *words, tmp_path / "none.beton")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("parameters: {losses.intro: {log: [1, 2]}}", ["mine.yaml", "losses.intro", "did you mean 'losses.intra'"]),
        ("parameters: {losses.intra: {int: [1, 2]}}", ["mine.yaml", "losses.intra: found int", "uniform: [low, high]"]),
        ("parameters: {losses.intra: {log: [2, 1]}}", ["mine.yaml", "losses.intra", "[2, 1], an empty range"]),
        ("parameters: {generator.width: {choice: [8, 9]}}", ["generator.width: found 9", "a multiple of 4"]),
        ("parameters: {losses.intra: {log: [1, 2]}}\nobjectives: [speed]", ["unknown objective 'speed'", "accuracy"]),
        ("parameters: [", ["mine.yaml", "not valid YAML"]),
    ],
)
def test_a_wrong_space(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, parts: list[str]):
    line = mistake(capsys, write(tmp_path, text), "--preset", "digits", "--dry-run")
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["--preset: missing", "cifar10"]),
        ([WEIGHTS], ["--preset: missing", "cifar10"]),
        (["nowhere.yaml", "--preset", "digits", "--dry-run"], ["nowhere.yaml: no such file"]),
        ([WEIGHTS, "--preset", "digitz"], ["unknown preset 'digitz'", "did you mean 'digits'"]),
        ([WEIGHTS, "--preset", "digits", "--config-file", "a.yaml"], ["--preset and --config-file: found both"]),
        ([WEIGHTS, "--preset", "digits"], ["--data: missing", "--val-fraction"]),
        ([WEIGHTS, "--preset", "digits", "--dry-run", "--trials", "0"], ["trials: found 0, valid: 1 or more"]),
        ([WEIGHTS, "--preset", "digits", "--dry-run", "--search", "bayes"], ["--search", "bayes", "nsga2"]),
        ([WEIGHTS, "--preset", "digits", "--dry-run", "--trails", "3"], ["--trails", "did you mean --trials"]),
        ([WEIGHTS, "--preset", "digits", "--promote", "best.json"], ["--promote: found best.json", ".yaml"]),
        ([SPACES / "generator_size.yaml", "--preset", "digits", "--dry-run", "--search", "cmaes"], ["two objectives"]),
    ],
)
def test_wrong_words(capsys: pytest.CaptureFixture[str], words: list[object], parts: list[str]):
    line = mistake(capsys, *words)
    for part in parts:
        assert part in line


def test_data_that_does_not_fit(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = [WEIGHTS, "--preset", "digits", "--out", tmp_path / "s", "--data"]
    for name in ("train.beton", "train.beton.json"):
        shutil.copy(digits / name, tmp_path / name)
    line = mistake(capsys, *words, tmp_path / "train.beton")
    assert "train-val.beton: no such file" in line
    assert "--val-data" in line
    line = mistake(capsys, *words, digits / "train.beton", "--val-data", digits / "test.beton")
    assert "split: found test, valid: a validation split" in line
    assert not (tmp_path / "s").exists()


def test_the_folder_of_another_sweep(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = [WEIGHTS, "--preset", "digits", "--data", digits / "train.beton", "--out", tmp_path]
    plan = api.plan_sweep(WEIGHTS, "digits", data=digits / "train.beton", out=tmp_path)
    SweepFolder(tmp_path).claim(plan.to_dict())
    assert "holds a sweep with config.seed = 0, now 1" in mistake(capsys, *words, "--seed", "1")
    assert "space.parameters" in mistake(capsys, *[SPACES / "joint.yaml", *words[1:]])
    line = mistake(capsys, *words, "--search", "random")
    assert 'search = "tpe", now "random"; name another folder with --out' in line
    (tmp_path / "sweep.json").write_text("{")
    assert "sweep.json: damaged" in mistake(capsys, *words)

"""Mistakes through the real command line: one line that names the thing and what is valid, exit code 2."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raycondense.cli import main
from raycondense.storage import read_lines

QUICK = [
    "--cluster.workers", "0", "--data.loader", "resident", "--extractors.weights", "random", "--losses.ce", "0",
    "--extractors.width", "8", "--initialise.steps", "5",
]  # fmt: skip


def raycondense(*words: object) -> subprocess.CompletedProcess[str]:
    """As the program does it, without the seconds that a new process takes to import."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main([str(word) for word in words])
    return subprocess.CompletedProcess(words, code, out.getvalue(), errors.getvalue())


def program(*words: object) -> subprocess.CompletedProcess[str]:
    """As a shell does it."""
    command = [sys.executable, "-m", "raycondense.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def assert_mistake(done: subprocess.CompletedProcess[str], *parts: str, code: int = 2) -> None:
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in lines[0]


def test_unknown_names() -> None:
    """Verbs, presets and flags are looked up before torch is imported, so these are quick."""
    assert_mistake(program("prepair"), "unknown verb 'prepair'", "did you mean 'prepare'?")
    assert_mistake(
        raycondense("fit", "--preset", "digitz"), "unknown preset 'digitz'", "did you mean 'digits'?", "cifar10"
    )
    assert_mistake(raycondense("fit"), "--preset: missing", "imagenet1k_64")
    assert_mistake(raycondense("fit", "--preset", "digits", "--losses.intro", "1"), "--losses.intro", "--losses.intra")
    done = raycondense("fit", "--preset", "digits", "--losses.matching", "meen")
    assert_mistake(done, "--losses.matching", "meen", "mean")
    assert_mistake(raycondense("fit", "--preset", "digits"), "--data: missing", "raycondense prepare")


def test_values_out_of_range() -> None:
    assert_mistake(
        raycondense("fit", "--preset", "digits", "--losses.intra", "-1"), "losses.intra: found -1.0", "0 (off)"
    )
    done = raycondense("fit", "--preset", "digits", "--data.resolution", "33")
    assert_mistake(done, "data.resolution: found 33", "8, 16, 32, 64, 128, 256")
    done = raycondense("fit", "--preset", "digits", "--extractors.weights", "random", "--losses.ce", "1")
    assert_mistake(done, "losses.ce", "extractors.weights")


def test_a_configuration_file_with_a_wrong_field(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: digits\nlosses:\n  intro: 1\n")
    assert_mistake(raycondense("fit", "--config-file", file), str(file), "losses.intro", "losses.intra")


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    out = tmp_path / "out.beton"
    assert_mistake(raycondense("prepare", "cifar11", out), "cifar11", "cifar10")
    (tmp_path / "empty").mkdir()
    assert_mistake(raycondense("prepare", tmp_path / "empty", out), str(tmp_path / "empty"))
    folder = tmp_path / "folder"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(folder / "cat" / "1.png")
    assert_mistake(raycondense("prepare", folder, out), "dog")
    (folder / "dog" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    assert_mistake(raycondense("prepare", folder, out), "bad.png")
    assert_mistake(raycondense("prepare", folder, out, "--resolution", "30"), "resolution: found 30", "8, 16, 32")
    assert not list(tmp_path.glob("*.beton*")), "nothing that looks finished is left"


def test_a_parquet_without_images(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"picture": [b"x"], "label": [0]}), tmp_path / "train-0.parquet")
    done = raycondense("prepare", tmp_path, tmp_path / "out.beton")
    assert_mistake(done, "train-0.parquet", "picture", "image")


def test_bad_images_are_skipped_and_listed_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(folder / name / f"{number}.png")
    (folder / "dog" / "bad.png").write_bytes(b"no image")
    done = raycondense("prepare", folder, tmp_path / "out.beton", "--skip-bad", "--resolution", "16")
    assert done.returncode == 0, done.stderr
    assert "6 images of 2 classes" in done.stdout
    assert "bad.png" in (tmp_path / "out.beton.skipped.txt").read_text()


@pytest.fixture
def copied(digits: Path, tmp_path: Path) -> Path:
    for name in ("train.beton", "train.beton.json"):
        shutil.copy(digits / name, tmp_path / name)
    return tmp_path / "train.beton"


def test_betons_that_do_not_fit(copied: Path, tmp_path: Path) -> None:
    fit = ["fit", "--preset", "digits", *QUICK, "--out", tmp_path / "run", "--data"]
    assert_mistake(raycondense(*fit, tmp_path / "none.beton"), "none.beton")
    assert_mistake(raycondense(*fit, tmp_path), str(tmp_path), "raycondense prepare")
    done = raycondense(*fit, copied, "--condense.real-per-class", "4000", "--initialise.method", "none")
    assert_mistake(done, "condense.real_per_class: found 4000", "valid: 1 to")
    assert_mistake(
        raycondense(*fit, copied, "--condense.classes-per-step", "11"), "condense.classes_per_step", "1 to 10"
    )
    assert_mistake(raycondense(*fit, copied, "--data.resolution", "64"), "8 px", "64")
    content = bytearray(copied.read_bytes())
    content[-5000] ^= 255
    copied.write_bytes(content)
    assert_mistake(raycondense("info", copied), "train.beton", "SHA-256")
    copied.write_bytes(content[:20_000])
    assert_mistake(raycondense(*fit, copied), "train.beton")
    sidecar = copied.with_name("train.beton.json")
    values = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(values | {"format_version": 99}))
    assert_mistake(raycondense(*fit, copied), "train.beton.json", "99")
    sidecar.unlink()
    assert_mistake(raycondense(*fit, copied), "train.beton.json", "raycondense prepare")


def test_artefacts_that_do_not_fit(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [
        "fit",
        "--preset",
        "digits",
        *QUICK,
        "--condense.images",
        "640",
        "--data",
        digits / "train.beton",
        "--out",
        run,
    ]
    done = raycondense(*words)
    assert done.returncode == 0, done.stderr
    artifact = run / "artifact"
    # The same folder with other settings is another run.
    assert_mistake(raycondense(*words, "--seed", "7"), "holds a run with seed = 0, now 7", "--out")
    assert_mistake(raycondense("export", artifact, tmp_path / "x.npz", "--ipc", "3"), "3", "1, 10")
    assert_mistake(raycondense("evaluate", artifact, "--data", digits / "test.beton", "--ipc", "7"), "7", "1, 10")
    done = raycondense("evaluate", artifact, "--data", digits / "test.beton", "--architectures", "convnot")
    assert_mistake(done, "convnot", "convnet")
    values = json.loads((artifact / "config.json").read_text())
    (artifact / "config.json").write_text(json.dumps(values | {"format_version": 99}))
    assert_mistake(raycondense("info", artifact), "config.json", "99")
    assert_mistake(raycondense("export", tmp_path / "nowhere", tmp_path / "x.npz"), "nowhere")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, where root may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system of 1 MB can be mounted here: that takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up(small_disk: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (600, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", x=images, y=np.arange(600) % 3)
    words = ["prepare", tmp_path / "set.npz", small_disk / "out.beton", "--resolution", "32"]
    assert_mistake(raycondense(*words), "out.beton", code=1)
    # JPEG sizes are not known beforehand, so this one finds out while it writes.
    assert_mistake(raycondense(*words, "--encoding", "jpeg", "--quality", "100"), "space", code=1)
    assert not list(small_disk.iterdir())


def test_a_disk_that_fills_up_with_checkpoints(small_disk: Path, digits: Path) -> None:
    words = ["fit", "--preset", "digits", *QUICK, "--data", digits / "train.beton", "--out", small_disk / "run"]
    done = raycondense(*words, "--condense.images", "640", "--generator.width", "32", "--generator.max-width", "64")
    assert_mistake(done, "checkpoints", "no space left", code=1)
    left = list((small_disk / "run" / "checkpoints").iterdir())
    # What did not fit is gone, and what did is whole.
    assert not [folder.name for folder in left if folder.name.startswith(".")]
    assert all(torch.load(folder / "state.pt", weights_only=True)["model"] for folder in left)


def test_ctrl_c_saves_and_the_same_command_goes_on(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["fit", "--preset", "digits", *QUICK, "--data", digits / "train.beton", "--out", run]
    words += ["--condense.images", "16000", "--condense.real-per-class", "8", "--condense.log-images", "640"]
    command = [sys.executable, "-m", "raycondense.cli", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not any('"condense"' in line for line in read_lines(run / "log.jsonl")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "run the same command to go on" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    before = len(read_lines(run / "log.jsonl"))
    done = raycondense(*words)
    assert done.returncode == 0, done.stderr
    stages = {json.loads(line)["stage"] for line in read_lines(run / "log.jsonl")[before:]}
    assert stages == {"condense"}, "what was done before was not done again"

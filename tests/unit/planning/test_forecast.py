"""`raycondense plan`: steps on made-up images, and what follows from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raycondense.cli import main
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.errors import ConfigError, RunError
from raycondense.planning import forecast as module
from raycondense.planning.dry_steps import Measured, workers_part
from raycondense.planning.forecast import forecast
from raycondense.presets import get_preset

TINY = {
    "generator": {"width": 8, "max_width": 8, "class_dim": 4},
    "codebook": {"ipc": [1, 2], "dim": 8},
    "extractors": {"width": 8, "weights": "trained", "pool_size": 3, "train_steps": 5, "train_batch": 32},
    "losses": {"ce": 0.5, "realism": 0.1},
    "initialise": {"method": "gan", "steps": 40, "batch": 16, "gan_images": 6400, "gan_batch": 32},
    "condense": {"images": 10_000, "real_per_class": 8, "classes_per_step": 10},
}  # fmt: skip


def tiny(**changes: object) -> Config:
    return override(override(get_preset("digits"), TINY), changes)


def as_if(monkeypatch: pytest.MonkeyPatch, peaks: dict[int, int | None]) -> list[Config]:
    """Measurements of a device that takes so many bytes at each ``condense.two_pass``; the configurations asked for."""
    asked = []

    def measure(config: Config, device: str) -> Measured | None:
        asked.append(config)
        peak = peaks[config.condense.two_pass]
        return None if peak is None else Measured({"pool": 1.0, "reconstruct": 0.5, "condense": 2.0}, peak)

    monkeypatch.setattr(module, "measure", measure)
    return asked


def test_every_stage_is_measured_for_real(digits: Path) -> None:
    found = forecast(tiny(), data=digits / "train.beton", device="cpu")
    assert set(found.measured.seconds) == {"pool", "gan", "reconstruct", "condense"}
    assert all(seconds > 0 for seconds in found.measured.seconds.values())
    assert found.measured.peak_bytes > 50e6, "a process with torch in it"
    assert found.loader is not None
    assert found.loader > 0
    assert found.steps == {"pool": 15, "gan": 200, "reconstruct": 40, "condense": 125}
    assert found.changed == ""
    assert sum(found.seconds.values()) > 0
    assert json.loads(json.dumps(found.to_dict()))["parameters"] == found.sizes.parameters


def test_a_worker_has_its_share() -> None:
    part = workers_part(tiny(), 4)
    assert part.condense.classes_per_step == 3, "the largest share of ten classes"
    assert (part.initialise.batch, part.initialise.gan_batch) == (4, 8)


def test_time_and_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    as_if(monkeypatch, {0: 10**9})
    found = forecast(tiny(), workers=5, price=36.0)
    # Three networks for five workers: one round of five steps. A worker's two classes have 16 real images.
    assert found.steps == {"pool": 5, "reconstruct": 40, "condense": 125}
    assert found.images_per_second == 8.0
    assert found.seconds == {"pool": 5.0, "reconstruct": 20.0, "condense": 250.0}
    assert found.cost == pytest.approx(36 * 5 * 275 / 3600)


def test_a_slow_loader_is_what_counts(monkeypatch: pytest.MonkeyPatch, digits: Path) -> None:
    as_if(monkeypatch, {0: 10**9})
    monkeypatch.setattr(module, "_loader_rate", lambda *_: 4.0)
    found = forecast(tiny(), data=digits / "train.beton", workers=5)
    assert found.images_per_second == 4.0
    assert found.seconds["condense"] == 500.0
    assert "is what the run waits for: more data.workers" in "\n".join(found.lines())


@pytest.mark.parametrize(
    ("two_pass", "peaks", "chosen"),
    [
        (0, {0: 5 * 10**9}, 0),
        (0, {0: None, 512: 12 * 10**9, 128: 8 * 10**9}, 128),
        (256, {256: 12 * 10**9, 128: None, 32: 10**9}, 32),
    ],
)
def test_what_fits_is_sought(
    monkeypatch: pytest.MonkeyPatch, two_pass: int, peaks: dict[int, int | None], chosen: int
) -> None:
    asked = as_if(monkeypatch, peaks)
    found = forecast(tiny(**{"condense.two_pass": two_pass}), gpu_memory=10e9)
    assert found.config.condense.two_pass == chosen
    assert [config.condense.two_pass for config in asked] == list(peaks)
    assert (f"with condense.two_pass {chosen} (found {two_pass}" in found.changed) == (chosen != two_pass)
    assert (found.changed in "\n".join(found.lines())) or not found.changed


def test_what_never_fits_is_an_error_that_names_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    as_if(monkeypatch, {0: None, 512: 9 * 10**9, 128: 9 * 10**9, 32: 9 * 10**9})
    with pytest.raises(RunError, match=r"of 1\.0 GB: a step needs 9\.0 GB .*condense\.real_per_class \(found 8\)"):
        forecast(tiny(), gpu_memory=1e9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 0}, "gpus: found 0, valid: 1 or more"),
        ({"workers": 11}, r"gpus: found 11, valid: at most condense.classes_per_step \(10\)"),
        ({"gpu_memory": -1.0}, "gpu_memory: found -1, valid: more than 0"),
        ({"price": -2.0}, "price: found -2, valid: 0 or more"),
    ],
)
def test_values_out_of_range(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        forecast(tiny(), **changes)


def test_the_verb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    as_if(monkeypatch, {0: 3 * 10**9})
    words = ["--preset", "imagenet1k_64", "--gpus", "8", "--gpu-memory", "80", "--price", "2.5"]
    assert main(["plan", *words, "--json", str(tmp_path / "plan.json")]) == 0
    out = capsys.readouterr().out
    for part in (
        "imagenet1k_64 on 8 workers", "7,787,203 parameters", "8 classes of 64 real images", "3.0 GB a worker",
        "80.0 GB are there", "256 real images a second", "at 2.5 a worker and hour",
    ):  # fmt: skip
        assert part in out
    assert json.loads((tmp_path / "plan.json").read_text())["workers"] == 8
    assert main(["plan", *words, "--gpus", "0"]) == 2
    assert "gpus: found 0, valid: 1 or more" in capsys.readouterr().err
    assert main(["plan"]) == 2
    assert "--preset: missing" in capsys.readouterr().err

"""The loop without Ray: stages, memory options, exact resume, non-finite losses, interruption."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raycondense import condense
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.errors import CheckpointError, DivergedError, Interrupted
from raycondense.host import LocalHost
from raycondense.losses import matching_mean
from raycondense.presets import get_preset
from raycondense.state import TrainState
from raycondense.storage import read_lines

TINY: dict[str, Any] = {
    "data.loader": "resident",
    "generator": {"width": 8, "max_width": 8, "class_dim": 4},
    "codebook": {"ipc": [1, 2], "dim": 8},
    "extractors": {"width": 8, "weights": "random", "pool_size": 2, "train_steps": 3, "train_batch": 32},
    "losses.ce": 0.0,
    "initialise": {"steps": 4, "batch": 16, "gan_images": 64, "gan_batch": 16},
    "condense": {
        "images": 10 * 8 * 6, "real_per_class": 8, "log_images": 160, "checkpoint_images": 160, "classes_per_step": 10,
    },
}  # fmt: skip


def tiny(**changes: Any) -> Config:
    return override(override(get_preset("digits"), TINY), changes)


def weights(state: TrainState) -> dict[str, Tensor]:
    parts = {"model": state.model, "average": state.average}
    return {f"{name}/{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def run(config: Config, digits: Path, folder: Path, stop: Callable[[], bool] = lambda: False) -> TrainState:
    return condense.run(config, digits / "train.beton", LocalHost(folder, device="cpu", stop=stop))


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_lines(folder / "log.jsonl")]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"initialise.method": "none"},
        {"initialise.method": "gan", "losses.realism": 0.1},
        {"extractors.weights": "trained", "losses.ce": 0.5},
        {"extractors.weights": "blend", "losses.matching": "characteristic", "losses.frequencies": 16},
        {"condense.classes_per_step": 4, "condense.codes_per_step": 1},
        {"condense.precision": "bfloat16"},
        {"extractors.architecture": "resnet18", "condense.images": 80, "initialise.method": "none"},
        {"augment.strategy": [], "extractors.draw": "rank"},
    ],
    ids=lambda changes: "+".join(f"{k.split('.')[-1]}={v}" for k, v in changes.items()) or "default",
)
def test_every_way_through_the_loop(changes: dict[str, Any], digits: Path, tmp_path: Path) -> None:
    config = tiny(**changes)
    state = run(config, digits, tmp_path)
    assert state.stage == "done"
    stages = [record["stage"] for record in records(tmp_path)]
    assert list(dict.fromkeys(stages)) == [stage for stage in state.stages() if stage != "done"]
    last = records(tmp_path)[-1]
    assert last["images"] >= config.condense.images
    used = {"match", "intra", "inter", "total"}
    used |= {name for name in ("ce", "realism") if getattr(config.losses, name)}
    assert {key.removeprefix("loss/") for key in last if key.startswith("loss/")} == used
    images = state.average(torch.arange(10), torch.arange(3))
    assert images.shape == (10, 3, 3, 8, 8)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


def test_reconstruction_comes_near_its_targets(digits: Path, tmp_path: Path) -> None:
    run(
        tiny(**{"initialise.steps": 60, "condense.images": 80, "generator.max_width": 32, "generator.width": 16}),
        digits,
        tmp_path,
    )
    errors = [record["loss/reconstruct"] for record in records(tmp_path) if record["stage"] == "reconstruct"]
    assert errors[-1] < errors[0] / 2


def test_matching_falls(digits: Path, tmp_path: Path) -> None:
    changes = {"condense.images": 80 * 60, "losses.intra": 0.0, "losses.inter": 0.0, "condense.log_images": 800}
    run(tiny(**changes, **{"initialise.method": "none", "condense.lr_generator": 5e-3}), digits, tmp_path)
    matches = [record["loss/match"] for record in records(tmp_path) if record["stage"] == "condense"]
    assert sum(matches[-2:]) < 0.7 * sum(matches[:2])


@pytest.mark.parametrize("seed", [0, 1])
def test_runs_repeat_themselves_and_seeds_differ(seed: int, digits: Path, tmp_path: Path) -> None:
    first = weights(run(tiny(seed=seed), digits, tmp_path / "a"))
    again = weights(run(tiny(seed=seed), digits, tmp_path / "b"))
    other = weights(run(tiny(seed=seed + 10), digits, tmp_path / "c"))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["model/codebook.codes"], other["model/codebook.codes"])


@pytest.mark.parametrize(
    "changes",
    [
        {"extractors.weights": "blend", "losses.ce": 0.5},
        {"initialise.method": "gan", "condense.checkpoint_images": 32},
        {"condense.accumulate": 2},
    ],
    ids=["blend", "gan", "accumulate"],
)
def test_interrupted_anywhere_it_ends_the_same(changes: dict[str, Any], digits: Path, tmp_path: Path) -> None:
    """Stopped after every third update until it is done: the weights are those of an unbroken run, bit by bit."""
    config = tiny(**changes)
    expected = weights(run(config, digits, tmp_path / "unbroken"))
    for _ in range(50):
        calls = iter(range(100))
        try:
            state = run(config, digits, tmp_path / "broken", stop=lambda calls=calls: next(calls) == 2)
            break
        except Interrupted:
            continue
    found = weights(state)
    different = [name for name, value in expected.items() if not torch.equal(value, found[name])]
    assert not different


def test_two_passes_give_the_gradient_of_one(digits: Path, tmp_path: Path) -> None:
    one = weights(run(tiny(), digits, tmp_path / "one"))
    two = weights(run(tiny(**{"condense.two_pass": 7}), digits, tmp_path / "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=2e-4, msg=name)


def test_a_loss_that_is_not_finite_stops_the_run(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(1000))

    def poisoned(real: Tensor, synthetic: Tensor) -> Tensor:
        value = matching_mean(real, synthetic)
        # Two banks a step: the ninth call is in step 4.
        return value * float("nan") if next(calls) == 8 else value

    monkeypatch.setattr("raycondense.losses.matching_mean", poisoned)
    where = r"'match' became non-finite at step 4 of stage condense.*3-condense-000000004"
    with pytest.raises(DivergedError, match=where):
        run(tiny(**{"condense.checkpoint_images": 160, "condense.log_images": 160}), digits, tmp_path)
    # What was saved before is whole, and nothing poisoned was saved after.
    checkpoints = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert checkpoints[-1] == "3-condense-000000004"
    state = torch.load(tmp_path / "checkpoints" / checkpoints[-1] / "state.pt", weights_only=True)
    assert all(bool(value.isfinite().all()) for value in state["model"].values())


def test_a_damaged_checkpoint_is_named(digits: Path, tmp_path: Path) -> None:
    run(tiny(), digits, tmp_path)
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"{newest.name}: damaged checkpoint"):
        run(tiny(), digits, tmp_path)


def test_only_so_many_checkpoints_stay(digits: Path, tmp_path: Path) -> None:
    run(tiny(**{"condense.checkpoint_images": 80}), digits, tmp_path)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2

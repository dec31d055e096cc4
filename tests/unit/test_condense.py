"""The loop without Ray: stages, memory options, exact resume, non-finite losses, interruption."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raycondense import condense
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.errors import CheckpointError, DivergedError, Interrupted, RunError
from raycondense.execution import why_not_compiled
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
    assert state.initial is not None
    parts = {"model": state.model.state_dict(), "average": state.average.state_dict(), "initial": state.initial}
    return {f"{name}/{key}": value for name, part in parts.items() for key, value in part.items()}


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
        {"losses.regression": 30.0},
        {"condense.precision": "bfloat16"},
        {"condense.compile": "on"},
        {"extractors.architecture": "resnet18", "condense.images": 80, "initialise.method": "none"},
        {"augment.strategy": [], "extractors.draw": "rank"},
    ],
    ids=lambda changes: "+".join(f"{k.split('.')[-1]}={v}" for k, v in changes.items()) or "default",
)
def test_every_way_through_the_loop(changes: dict[str, Any], digits: Path, tmp_path: Path) -> None:
    config = tiny(**changes)
    if config.condense.compile == "on" and (fault := why_not_compiled("cpu")):
        pytest.skip(f"torch.compile does not work here: {fault}")
    state = run(config, digits, tmp_path)
    assert state.stage == "done"
    stages = [record["stage"] for record in records(tmp_path)]
    assert list(dict.fromkeys(stages)) == [stage for stage in state.stages() if stage != "done"]
    last = records(tmp_path)[-1]
    assert last["images"] >= config.condense.images
    used = {"match", "intra", "inter", "total"}
    used |= {name for name in ("regression", "ce", "realism") if getattr(config.losses, name)}
    assert {key.removeprefix("loss/") for key in last if key.startswith("loss/")} == used
    images = state.average(torch.arange(10), torch.arange(3))
    assert images.shape == (10, 3, 3, 8, 8)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


@pytest.mark.parametrize("method", ["none", "reconstruct", "gan"])
@pytest.mark.parametrize("extractors", ["random", "trained"])
def test_what_condensation_started_from_is_kept(method: str, extractors: str, digits: Path, tmp_path: Path) -> None:
    config = tiny(**{"initialise.method": method, "extractors.weights": extractors, "cluster.checkpoints_kept": 100})
    host = LocalHost(tmp_path, device="cpu", keep=100)
    state = condense.run(config, digits / "train.beton", host)
    initial = state.initial
    assert initial is not None
    final = state.model.state_dict()
    assert not any(torch.equal(final[name], initial[name]) for name in ("codebook.codes", "generator.to_rgb.weight"))
    assert not any(value.requires_grad for value in initial.values())
    fresh = TrainState(config, num_classes=10, device=torch.device("cpu"))
    assert (fresh.initial is None) == (next(iter(fresh.stages())) != "condense")
    if method == "none":
        expected = fresh.model.state_dict()
    else:
        expected = torch.load(tmp_path / "checkpoints" / "3-condense-000000000" / "state.pt")["model"]
        assert not torch.equal(expected["codebook.codes"], fresh.model.codebook.codes)
    assert initial.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in initial.items())


def as_version_1(checkpoint: Path) -> None:
    """Make of a checkpoint what raycondense 0.1.0 wrote."""
    state = torch.load(checkpoint / "state.pt")
    del state["initial"]
    torch.save(state, checkpoint / "state.pt")
    clock = json.loads((checkpoint / "clock.json").read_text())
    del clock["files"]
    (checkpoint / "clock.json").write_text(json.dumps(clock | {"format_version": 1}))


@pytest.mark.parametrize(
    ("updates", "checkpoint", "kept"),
    [(1, "2-reconstruct-000000002", True), (4, "3-condense-000000000", True), (6, "3-condense-000000002", False)],
)
def test_a_checkpoint_of_the_older_format_is_gone_on_from(
    updates: int, checkpoint: str, kept: bool, digits: Path, tmp_path: Path
) -> None:
    """Its outcome is the same; what condensation started from is known only where it had not begun."""
    expected = weights(run(tiny(), digits, tmp_path / "unbroken"))
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        run(tiny(), digits, tmp_path / "old", stop=lambda: next(calls) == updates)
    for newer in sorted((tmp_path / "old" / "checkpoints").iterdir()):
        if newer.name > checkpoint:
            shutil.rmtree(newer)
    as_version_1(tmp_path / "old" / "checkpoints" / checkpoint)
    state = run(tiny(), digits, tmp_path / "old")
    assert (state.initial is not None) == kept
    found = weights(state) if kept else {f"model/{name}": value for name, value in state.model.state_dict().items()}
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_checkpoint_of_another_format_is_refused(digits: Path, tmp_path: Path) -> None:
    state = run(tiny(), digits, tmp_path)
    newest = tmp_path / "checkpoints" / "4-done-000000000"
    clock = json.loads((newest / "clock.json").read_text())
    (newest / "clock.json").write_text(json.dumps(clock | {"format_version": 3}))
    with pytest.raises(
        CheckpointError, match="4-done-000000000: checkpoint format 3, this raycondense reads formats 1"
    ):
        state.load(newest)
    as_version_1(newest)
    (newest / "clock.json").write_text(json.dumps(clock | {"format_version": 2}))
    with pytest.raises(CheckpointError, match=r"checkpoint of another model \('initial'\)"):
        state.load(newest)


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


EVERY_LOSS = {
    "losses": {"intra": 0.5, "inter": 0.5, "regression": 5.0, "ce": 0.5, "realism": 0.1},
    "extractors.weights": "trained", "initialise.method": "gan",
}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, EVERY_LOSS], ids=["default", "every-loss"])
def test_two_passes_give_the_gradient_of_one(changes: dict[str, Any], digits: Path, tmp_path: Path) -> None:
    one = weights(run(tiny(**changes), digits, tmp_path / "one"))
    two = weights(run(tiny(**changes, **{"condense.two_pass": 7}), digits, tmp_path / "two"))
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


@pytest.mark.parametrize(
    ("error", "stage", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "condense", r"set condense.two_pass \(found 0\) to 256"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "reconstruct",
            "lower initialise.batch",
        ),
    ],
)
def test_lack_of_memory_names_what_to_lower(
    error: RuntimeError, stage: str, message: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*args: Any, **kwargs: Any) -> Tensor:
        raise error

    places = {"condense": "raycondense.losses.matching_mean", "reconstruct": "torch.nn.functional.mse_loss"}
    monkeypatch.setattr(places[stage], lacking)
    with pytest.raises(RunError, match=f"stage {stage}: out of memory on cpu; {message}"):
        run(tiny(), digits, tmp_path)


def test_a_damaged_checkpoint_is_passed_over(digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The one before it is gone on from, and the run ends as if nothing had been; then all of them are damaged."""
    expected = weights(run(tiny(), digits, tmp_path / "unbroken"))
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        run(tiny(), digits, tmp_path / "run", stop=lambda: next(calls) == 8)
    checkpoints = tmp_path / "run" / "checkpoints"
    before, newest = sorted(checkpoints.iterdir())[-2:]
    (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:1000])
    caplog.clear()
    found = weights(run(tiny(), digits, tmp_path / "run"))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"checkpoint {newest.name} is damaged (state.pt has 1,000 of ")
    assert warning.endswith(f"bytes); going on from {before.name}, the one before")
    left = sorted(path.name for path in checkpoints.iterdir())
    for name in left:
        (checkpoints / name / "clock.json").unlink()
    message = f"{left[-1]}: damaged checkpoint \\(clock.json is missing\\), and so are the {len(left) - 1} before it"
    with pytest.raises(CheckpointError, match=message):
        run(tiny(), digits, tmp_path / "run")


def test_only_so_many_checkpoints_stay(digits: Path, tmp_path: Path) -> None:
    run(tiny(**{"condense.checkpoint_images": 80}), digits, tmp_path)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2

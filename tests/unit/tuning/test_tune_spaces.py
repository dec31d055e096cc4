"""The spaces that come along fit every preset."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from raycondense.configfile import override
from raycondense.presets import PRESETS, get_preset
from raycondense.tuning.space import Space

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted((ROOT / "tune_spaces").glob("*"))


def test_the_named_spaces_are_there():
    assert {path.name for path in FILES} == {
        "generator_size.yaml", "joint.yaml", "learning_rates.yaml", "loss_weights.yaml",
    }  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("method", ["own", "gan"])
def test_space_fits_preset(path, preset, method):
    config = get_preset(preset)
    if method == "gan":
        config = override(config, {"initialise.method": "gan"})
    space = Space.load(path).for_config(config)
    values, moved = space.start(config)
    assert not moved, "the preset's own values lie inside"
    assert space.apply(config, values) == config
    rng = random.Random(0)
    for _ in range(50):
        drawn = space.sample(rng)
        assert space.contains(drawn)
        space.apply(config, drawn)
    with_gan = {"losses.realism", "initialise.gan_lr"} & {parameter.path for parameter in Space.load(path).parameters}
    assert with_gan <= {parameter.path for parameter in space.parameters} if method == "gan" else not (
        with_gan & {parameter.path for parameter in space.parameters}
    )  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_space_is_commented_and_says_what_it_is_for(path):
    text, space = path.read_text(encoding="utf-8"), Space.load(path)
    assert text.startswith("# ")
    assert f"raycondense sweep tune_spaces/{path.name} " in text
    assert "docs/sweep.md" in text
    assert space.description
    assert text.count("\n  #") >= 2, "parameters have comments"


def test_loss_weights_have_a_real_zero_and_sizes_two_objectives():
    weights = Space.load(next(path for path in FILES if path.stem == "loss_weights"))
    names = ("intra", "inter", "regression", "ce", "realism")
    assert {p.path for p in weights.parameters} == {f"losses.{name}" for name in names}
    assert all(p.log and p.off for p in weights.parameters)
    assert weights.objectives == ("accuracy",)
    assert Space.load(next(path for path in FILES if path.stem == "generator_size")).objectives == ("accuracy", "bytes")


def test_the_example_in_the_documents_is_valid(tmp_path):
    (example,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "sweep.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "example.yaml").write_text(example)
    space = Space.load(tmp_path / "example.yaml").for_config(get_preset("cifar10"))
    assert len(space.parameters) == len(re.findall(r"^  \w", example, re.MULTILINE)) == 6

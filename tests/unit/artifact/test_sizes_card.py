"""Sizes in floats and bytes, and the card that tells them."""

import pytest
import torch
import yaml

from raycondense.artifact.card import make_card
from raycondense.artifact.sizes import format_bytes, sizes_of
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.errors import ConfigError
from raycondense.presets import get_preset


def test_sizes_are_counted_by_hand(artifact):
    generator = sum(p.numel() for p in artifact.generator.parameters())
    all_codes, one_ipc = 3 * 6 * 6, 3 * 3 * 8 * 8
    size = artifact.sizes()
    assert (size.generator_parameters, size.codebook_parameters) == (generator, all_codes)
    assert size.bytes == 4 * (generator + all_codes)
    assert size.ipc_equivalent == pytest.approx((generator + all_codes) / one_ipc)
    assert size.ipc_equivalent_uint8 == pytest.approx(4 * (generator + all_codes) / one_ipc)
    assert artifact.sizes(5).codebook_parameters == 3 * 5 * 6
    assert artifact.sizes(1).parameters == generator + 3 * 6
    assert artifact.num_parameters == size.parameters
    assert artifact.ipc_equivalent == size.ipc_equivalent
    assert artifact.bytes == (artifact.path / "generator.safetensors").stat().st_size
    assert 0 <= artifact.bytes - size.bytes < 5000, "the file's header"
    with pytest.raises(ConfigError, match="ipc: found 3, valid: 1, 5"):
        artifact.sizes(3)


def test_float16_counts_two_bytes(make_artifact):
    size = make_artifact(dtype="float16").sizes()
    assert size.bytes == 2 * size.parameters


def test_units_of_the_literature():
    # method.md: one IPC of CIFAR-10 is 30 720 floats, of ImageNet-1k at 64 px 12.3 M.
    cifar = sizes_of(get_preset("cifar10"))
    assert cifar.image_values == 30_720
    imagenet = sizes_of(get_preset("imagenet1k_64"))
    assert imagenet.image_values == 12_288_000
    assert imagenet.ipc_equivalent == pytest.approx(0.95, abs=0.005)
    assert 3e5 < cifar.generator_parameters < 1e6


def test_sizes_of_a_configuration_are_those_of_its_artefact(artifact):
    config = override(
        Config(),
        {
            "data": {"resolution": 8, "num_classes": 3},
            "generator": {"width": 8, "max_width": 16, "class_dim": 4},
            "codebook": {"ipc": [1, 5], "dim": 6},
        },
    )
    assert sizes_of(config) == artifact.sizes()
    assert sizes_of(config, dtype="float16", ipc=1).bytes == 2 * artifact.sizes(1).parameters
    with pytest.raises(ConfigError, match="num_classes: found 0"):
        sizes_of(Config())


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (5e15, "5000.0 TB")]
)
def test_bytes_as_text(number, text):
    assert format_bytes(number) == text


def test_card_has_front_matter_and_says_what_it_is(artifact):
    text = (artifact.path / "README.md").read_text()
    assert text == make_card(artifact)
    _, front, body = text.split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["library_name"] == "raycondense"
    assert "arxiv:2309.07698" in values["tags"]
    assert body.startswith("\n# tiny, condensed\n")
    assert "**reconstruction**" in body
    assert "2309.07698" in body
    assert "ab" * 32 in body
    assert "cat, dog, owl" in body
    assert f"{artifact.num_parameters:,}" in body


def test_card_has_no_accuracy_without_scores_and_only_theirs_with(artifact):
    assert "%" not in make_card(artifact).split("## Accuracy")[1].split("##")[0]
    assert "Not evaluated yet" in make_card(artifact)
    row = {"method": "raycondense", "architecture": "convnet", "students": 5, "accounting": "bank"}
    artifact.scores = {
        "test": {"split": "test", "source": "somewhere"},
        "rows": [
            row | {"ipc": 5, "accuracy": 0.45678, "std": 0.0123},
            row | {"method": "whole", "ipc": 0, "accuracy": 0.8, "std": None},
        ],
    }
    text = make_card(artifact)
    assert "| raycondense | convnet | 5 | 45.7 ± 1.2 | 5 | bank |" in text
    assert "| whole | convnet | all | 80.0 | 5 | bank |" in text
    assert "Not evaluated" not in text


def test_card_is_not_broken_by_names(artifact):
    hostile = "a|b\n# heading <script> [x](y) `c`"
    artifact.recipe["data"]["source"] = artifact.recipe["config"]["name"] = hostile
    body = make_card(artifact)
    assert "\n# heading" not in body
    assert "<script>" not in body.replace("\\<", "")
    assert body.count("\n# ") == 1


def test_card_of_an_artefact_without_recipe(artifact):
    artifact.recipe = {}
    assert "unknown number of images" in make_card(artifact)


def test_the_code_on_the_card_runs(artifact):
    pytest.importorskip("torchvision")
    code = make_card(artifact).split("```python\n")[1].split("```")[0]
    code = code.replace("path/to/this/folder", str(artifact.path)).replace("range(100)", "range(1)")
    names = {}
    exec(code, names)
    assert names["bank"].num_classes == 3
    assert all(torch.isfinite(p).all() for p in names["student"].parameters())

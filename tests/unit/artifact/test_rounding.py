"""Weights rounded to fewer bits: how far off they may be, what it does to images, and the bytes that are left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raycondense.artifact.load import Artifact, load
from raycondense.artifact.rounding import ROUNDING_DTYPES, largest_bank_within, rounded, rounded_bytes
from raycondense.config import Config
from raycondense.configfile import config_from_dict
from raycondense.errors import ArtifactError, ConfigError

Make = Callable[..., Artifact]


def weights(artifact: Artifact) -> dict[str, Tensor]:
    """The generator's weights, and each bank's codes."""
    slices = {ipc: artifact.config.codebook.bank_slice(ipc) for ipc in artifact.ipcs}
    codes = {f"codes of {ipc}": artifact.codebook.codes.detach()[:, part] for ipc, part in slices.items()}
    return artifact.generator.state_dict() | codes


def test_int8_is_off_by_half_a_step_at_most(artifact: Artifact) -> None:
    with torch.no_grad():
        artifact.generator.stem.weight[3] = 0.0
        artifact.generator.stem.weight[4] *= 1e-7  # smaller than any normal half-precision number
        artifact.generator.stem.weight[5, 0] = 40.0  # one large number costs its own row, no other
        artifact.codebook.codes[1, 0] *= 1e3  # another bank and class than the rest
    before, after = weights(artifact), weights(rounded(artifact, "int8"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        error = (after[name] - value).abs()
        if value.ndim == 1:
            assert torch.equal(after[name], value.half().float()), name
            continue
        rows, errors = value.flatten(1), error.flatten(1)
        # The scale is rounded up to half precision: by 2^-10 of itself, or by the smallest half-precision number.
        step = rows.abs().amax(1) / 127 * (1 + 2**-10) + 2**-24
        assert bool((errors.amax(1) <= 0.5 * step * (1 + 1e-6)).all()), name
        for row, left in zip(rows, after[name].flatten(1), strict=True):
            assert len(left.unique()) <= 255, name
            assert row.any() == left.any(), name
    stem = after["stem.weight"]
    assert len(stem[0].unique()) > 5, "not everything became zero"


def test_int8_of_known_numbers(artifact: Artifact) -> None:
    row = torch.tensor([127.0, -127.0, 63.4, 0.6, 0.4, -1.5, 0.0, 2.5, 12.0, -12.5])
    with torch.no_grad():
        artifact.generator.stem.weight[0] = row / 64
        artifact.codebook.codes[2, 1:] = torch.linspace(-254, 254, 30).view(5, 6)
    after = rounded(artifact, "int8")
    expected = torch.tensor([127.0, -127.0, 63.0, 1.0, 0.0, -2.0, 0.0, 2.0, 12.0, -12.0]) / 64
    assert torch.equal(after.generator.stem.weight[0], expected)
    assert torch.equal(after.codebook.codes[2, 1:].flatten(), (torch.linspace(-254, 254, 30) / 2).round() * 2)


@pytest.mark.parametrize("dtype", ROUNDING_DTYPES)
def test_rounding_again_changes_nothing(artifact: Artifact, dtype: Any) -> None:
    once = rounded(artifact, dtype)
    first, second = weights(once), weights(rounded(once, dtype))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_float16_is_a_cast_and_float32_changes_nothing(artifact: Artifact, tmp_path: Path, make_artifact: Make) -> None:
    before = weights(artifact)
    assert all(torch.equal(value, before[name]) for name, value in weights(rounded(artifact, "float32")).items())
    half = rounded(artifact, "float16")
    assert all(torch.equal(value, before[name].half().float()) for name, value in weights(half).items())
    assert {value.dtype for value in weights(half).values()} == {torch.float32}
    stored = load(make_artifact(tmp_path / "half", dtype="float16").path or "")
    assert torch.equal(half.bank(5).images, stored.bank(5).images), "the same as an artefact that is stored so"
    assert half.config == stored.config


def test_images_change_little(artifact: Artifact) -> None:
    """The weights' errors are 1/250 of a row's largest; more than 2 of 255 levels on average would be a mistake."""
    real = artifact.bank(5, normalize=False).images.float()
    differences = {}
    for dtype in ROUNDING_DTYPES:
        images = rounded(artifact, dtype).bank(5, normalize=False).images
        assert images.dtype == torch.uint8
        differences[dtype] = float((images.float() - real).abs().mean())
    assert differences["float32"] == 0 < differences["float16"] < differences["int8"] < 2
    assert real.std() > 20, "images that differ, so that little means little"


def test_the_artefact_itself_stays_as_it_was(artifact: Artifact) -> None:
    before = {name: value.clone() for name, value in weights(artifact).items()}
    other = rounded(artifact, "int8")
    assert (other.path, other.recipe, other.ipcs) == (None, artifact.recipe, artifact.ipcs)
    with torch.no_grad():
        for parameter in (*other.generator.parameters(), *other.codebook.parameters()):
            assert not parameter.requires_grad
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in weights(artifact).items())


def test_bytes_by_hand(artifact: Artifact) -> None:
    # 8 px, width 8, class embedding of 4, codes of 6: one block from 16 channels at 4 px to 8 channels at 8 px, so
    # norms of 16, 8 and 8 channels. Embedding, stem, modulation, two 3x3 convolutions, shortcut, to_rgb; then biases.
    matrices = [(3, 4), (16 * 16, 10), (2 * 32, 10), (8, 16 * 9), (8, 8 * 9), (8, 16), (3, 8 * 9)]
    vectors = [16 * 16, 2 * 32, 3]
    numbers = sum(rows * columns for rows, columns in matrices)
    assert artifact.generator.num_parameters == numbers + sum(vectors)
    scales = sum(rows for rows, _ in matrices)
    generator = numbers + 2 * scales + 2 * sum(vectors)
    assert rounded_bytes(artifact, "int8", 1) == generator + 3 * 1 * 6 + 2 * 3
    assert rounded_bytes(artifact, "int8", 5) == generator + 3 * 5 * 6 + 2 * 3
    assert rounded_bytes(artifact, "int8") == generator + 3 * 6 * 6 + 2 * 2 * 3
    assert rounded_bytes(artifact, "float16", 5) == 2 * (numbers + sum(vectors) + 3 * 5 * 6)
    assert rounded_bytes(artifact, "float32", 5) == 4 * (numbers + sum(vectors) + 3 * 5 * 6)


@pytest.mark.parametrize("ipc", [1, 5, None])
def test_bytes_agree_with_sizes(artifact: Artifact, ipc: int | None, tmp_path: Path, make_artifact: Make) -> None:
    half = make_artifact(tmp_path / "half", dtype="float16")
    assert rounded_bytes(artifact, "float32", ipc) == artifact.sizes(ipc).bytes
    assert (
        rounded_bytes(artifact, "float16", ipc)
        == half.sizes(ipc).bytes
        == rounded(artifact, "float16").sizes(ipc).bytes
    )
    # What is stored in two bytes is not counted with four.
    assert rounded_bytes(half, "float32", ipc) == half.sizes(ipc).bytes == rounded(half, "float32").sizes(ipc).bytes
    assert rounded_bytes(half, "int8", ipc) == rounded_bytes(artifact, "int8", ipc)
    config = config_from_dict(artifact.recipe["config"])
    for dtype in ROUNDING_DTYPES:
        assert rounded_bytes(config, dtype, ipc) == rounded_bytes(artifact, dtype, ipc)


def test_the_largest_bank_in_a_budget(artifact: Artifact) -> None:
    for dtype in ROUNDING_DTYPES:
        small, large = (rounded_bytes(artifact, dtype, ipc) for ipc in (1, 5))
        found = {
            budget: largest_bank_within(artifact, dtype, budget)
            for budget in (0, small - 1, small, large - 1, large, 10**9)
        }
        assert list(found.values()) == [None, None, 1, 1, 5, 5], dtype
    eight_bit = rounded_bytes(artifact, "int8", 5)
    assert largest_bank_within(artifact, "float16", eight_bit) is None, "fewer bits make room"


def test_what_cannot_be_rounded(artifact: Artifact) -> None:
    for mistake in (rounded, rounded_bytes, lambda a, d: largest_bank_within(a, d, 1)):
        with pytest.raises(ArtifactError, match=r"unknown rounding 'int9' \(did you mean 'int8'\?\); valid: float32, "):
            mistake(artifact, "int9")  # type: ignore[operator]
    with pytest.raises(ConfigError, match="ipc: found 3, valid: 1, 5"):
        rounded_bytes(artifact, "int8", 3)
    with pytest.raises(ConfigError, match=r"data\.num_classes: found 0"):
        rounded_bytes(Config(), "int8")
    with torch.no_grad():
        artifact.codebook.codes[0, 0, 0] = 1e5
    with pytest.raises(ArtifactError, match=r"codebook\.codes: .*too large to be stored as float16"):
        rounded(artifact, "float16")
    assert rounded(artifact, "int8").codebook.codes[0, 0, 0] == pytest.approx(1e5, rel=1e-3)
    with torch.no_grad():
        artifact.generator.stem.weight[0, 0] = 1e8
    with pytest.raises(ArtifactError, match=r"generator\.stem\.weight: .*too large to be stored as int8"):
        rounded(artifact, "int8")

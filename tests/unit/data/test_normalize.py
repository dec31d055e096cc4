"""Standardisation takes bytes and numbers in [0, 1] alike."""

import pytest
import torch

from raycondense.data.normalize import Normalize
from raycondense.errors import DataError

MEAN, STD = (0.1, 0.5, 0.9), (0.1, 0.2, 0.4)


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 3, 4, 4), (2, 5, 3, 4, 4)])
def test_bytes_and_numbers_agree(shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normalize = Normalize(MEAN, STD)
    found = normalize(images)
    assert found.dtype == torch.float32
    assert torch.equal(found, normalize(images / 255))
    for channel in range(3):
        part, wanted = found.select(-3, channel), images.select(-3, channel) / 255
        torch.testing.assert_close(part, (wanted - MEAN[channel]) / STD[channel])


def test_low_precision_comes_back_in_float32():
    assert Normalize(MEAN, STD)(torch.ones(3, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32


def test_gradients_pass():
    images = torch.rand(3, 2, 2, requires_grad=True)
    Normalize(MEAN, STD)(images).sum().backward()
    torch.testing.assert_close(images.grad[:, 0, 0], 1 / torch.tensor(STD))


def test_is_no_part_of_a_model():
    normalize = Normalize(MEAN, STD)
    assert not normalize.state_dict()
    assert not list(normalize.parameters())


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.2,) * 3), ((0.5,) * 3, (0.2,) * 4), ((0.5,) * 3, (0.2, 0.0, 0.2))]
)
def test_wrong_statistics(mean, std):
    with pytest.raises(DataError, match="valid: 3 numbers each, std more than 0"):
        Normalize(mean, std)

"""`raycondense.models.blocks`: images go through a network a few at a time, and nothing but rounding changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from raycondense.execution import why_not_compiled
from raycondense.models import blocks
from raycondense.models.blocks import Blocks, block_images
from raycondense.models.convnet import ConvNet


class Seen:
    """A network that notes how many images it gets at a time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        self.sizes.append(len(images))
        assert len(labels) == len(images)
        return images * 2 + labels[:, None]


@pytest.mark.parametrize("count", [1, 8, 9, 16, 20, 23])
def test_every_image_goes_through_once_in_nearly_equal_blocks(count: int) -> None:
    network = Seen()
    images, labels = torch.rand(count, 3), torch.arange(count)
    outputs = Blocks(network, image_bytes=blocks.CACHE_BYTES // 8)(images, labels)
    assert torch.equal(outputs, images * 2 + labels[:, None])
    assert sum(network.sizes) == count
    assert max(network.sizes) <= 8
    assert max(network.sizes) - min(network.sizes) < len(network.sizes)


def test_a_block_is_never_less_than_a_few_images() -> None:
    assert block_images(1 << 40) == blocks.FEWEST
    assert block_images(blocks.CACHE_BYTES // 100) == 100


def convnet(monkeypatch: pytest.MonkeyPatch, *, block: int) -> ConvNet:
    monkeypatch.setattr(blocks, "CACHE_BYTES", block * 4 * 8 * 16**2)
    torch.manual_seed(0)
    return ConvNet(width=8, depth=0, num_classes=3, resolution=16).double()


def gradients(network: ConvNet, images: Tensor) -> list[Tensor]:
    inputs = images.clone().requires_grad_()
    network(inputs).square().sum().backward()
    assert inputs.grad is not None
    return [inputs.grad, *[p.grad for p in network.parameters() if p.grad is not None]]


def test_blocks_have_the_values_and_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(21, 3, 16, 16, dtype=torch.float64)
    whole, parts = convnet(monkeypatch, block=1000), convnet(monkeypatch, block=8)
    torch.testing.assert_close(parts(images), whole(images))
    torch.testing.assert_close(gradients(parts, images), gradients(whole, images))


def test_a_copy_runs_its_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    network = convnet(monkeypatch, block=8)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.convs[0].weight.zero_()
    images = torch.rand(20, 3, 16, 16, dtype=torch.float64)
    assert not torch.equal(network.embed(images), other.embed(images))


@pytest.mark.slow
def test_compiled_blocks_have_the_values_and_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    if fault := why_not_compiled("cpu"):
        pytest.skip(f"torch.compile does not work here: {fault}")
    images = torch.rand(21, 3, 16, 16, dtype=torch.float64)
    whole, parts = convnet(monkeypatch, block=1000), convnet(monkeypatch, block=8)
    parts.compile_embedding()
    with torch.no_grad():
        torch.testing.assert_close(parts(images), whole(images))
    torch.testing.assert_close(gradients(parts, images), gradients(whole, images))


def test_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    assert convnet(monkeypatch, block=8).embed(torch.empty(0, 3, 16, 16, dtype=torch.float64)).shape == (0, 8 * 16)

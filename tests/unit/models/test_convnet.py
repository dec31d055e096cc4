import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raycondense.errors import ConfigError
from raycondense.models import ConvNet, convnet_depth
from raycondense.models.convnet import average_pool


def reference(depth, width, classes, side):
    """ConvNet as DC's and DM's code define it, layer by layer."""
    layers = []
    for index in range(depth):
        layers += [
            nn.Conv2d(width if index else 3, width, 3, padding=1),
            nn.GroupNorm(width, width, affine=True),
            nn.ReLU(),
            nn.AvgPool2d(2, 2),
        ]
    return nn.Sequential(*layers, nn.Flatten()), nn.Linear(width * (side // 2**depth) ** 2, classes)


@pytest.mark.parametrize(("resolution", "depth"), [(8, 2), (16, 2), (32, 3), (64, 4), (128, 5), (256, 6)])
def test_depth_by_resolution(resolution, depth):
    assert convnet_depth(resolution) == depth
    assert len(ConvNet(width=4, depth=0, num_classes=2, resolution=resolution).convs) == depth


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("resolution", [8, 32])
def test_is_the_network_of_the_literature(resolution, memory_format):
    depth = convnet_depth(resolution)
    ours = ConvNet(width=6, depth=0, num_classes=5, resolution=resolution)
    body, head = reference(depth, 6, 5, resolution)
    with torch.no_grad():
        for index in range(depth):
            nn.init.normal_(ours.norms[index].weight)
            nn.init.normal_(ours.norms[index].bias)
            for source, target in ((ours.convs, 4 * index), (ours.norms, 4 * index + 1)):
                body[target].load_state_dict(source[index].state_dict())
        head.load_state_dict(ours.head.state_dict())
    images = torch.randn(3, 3, resolution, resolution).contiguous(memory_format=memory_format)
    torch.testing.assert_close(ours.embed(images), body(images), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours(images), head(body(images)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", [4, 16, 32])
def test_average_pool(side):
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    torch.testing.assert_close(average_pool(x), F.avg_pool2d(x, 2))


def test_deepest_network_and_one_block_more():
    assert ConvNet(width=4, depth=3, num_classes=2, resolution=8).embed(torch.randn(2, 3, 8, 8)).shape == (2, 4)
    with pytest.raises(ConfigError, match=r"extractors\.depth: found 4 at data\.resolution 8, valid: at most 3"):
        ConvNet(width=4, depth=4, num_classes=2, resolution=8)


def test_unknown_resolution():
    with pytest.raises(ConfigError, match=r"data\.resolution: found 48, valid: 8, 16"):
        convnet_depth(48)

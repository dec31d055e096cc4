import math

import pytest
import torch
from torch import nn

from raycondense.models.weights import WeightLayout


def network():
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.GroupNorm(64, 64), nn.Flatten(), nn.Linear(1152, 400))


def test_distributions_are_torchs_own():
    torch.manual_seed(0)
    layout = WeightLayout(network())
    drawn = layout.views(layout.draw(0))
    for ours, default in zip(drawn, network().state_dict().values(), strict=True):
        assert ours.shape == default.shape
        largest = float(default.abs().max())
        assert abs(float(ours.std() - default.std())) <= 0.2 * float(default.std()) + 1e-9
        assert 0.9 * largest <= float(ours.abs().max()) <= 1.1 * largest
        assert abs(float(ours.mean() - default.mean())) <= 0.2 * largest


def test_resnets_distribution():
    layout = WeightLayout(nn.Conv2d(16, 64, 3, bias=False), conv="fan_out")
    (weight,) = layout.views(layout.draw(0))
    assert math.isclose(float(weight.std()), math.sqrt(2 / (64 * 9)), rel_tol=0.05)


def test_a_function_of_the_seed():
    layout = WeightLayout(network())
    assert torch.equal(layout.draw(1), layout.draw(1))
    assert not torch.equal(layout.draw(1), layout.draw(2))


def test_bound_network_follows_the_vector_and_collect_gives_it_back():
    module = network()
    layout = WeightLayout(module)
    vector = layout.draw(1)
    layout.bind(module, vector)
    assert torch.equal(module[0].weight, layout.views(vector)[0])
    vector.copy_(layout.draw(2))
    assert torch.equal(module[3].bias, layout.views(layout.draw(2))[-1])
    assert torch.equal(layout.collect(module), vector)


def test_unknown_layer():
    with pytest.raises(TypeError, match="BatchNorm2d"):
        WeightLayout(nn.Sequential(nn.BatchNorm2d(3)))

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raycondense.config import GeneratorConfig
from raycondense.errors import ConfigError
from raycondense.models import Generator
from raycondense.models.generator import _up_convolution

TINY = GeneratorConfig(width=4, max_width=8, class_dim=4)


def tiny(**changes):
    return Generator(**{"config": TINY, "num_classes": 3, "latent_dim": 5, "resolution": 8} | changes)


def codes_of(generator, count=4):
    codes = torch.randn(count, generator.latent_dim, generator=torch.Generator().manual_seed(0))
    return codes, torch.arange(count) % generator.num_classes


def meta_size(config, **facts):
    """Parameters without the memory for them."""
    with torch.device("meta"):
        generator = Generator.__new__(Generator)
        nn.Module.__init__(generator)
        generator.config = config
        generator.num_classes, generator.latent_dim, generator.resolution = facts.values()
        generator.factor = 1
        generator._build()
    return generator.num_parameters


def test_small_enough_for_a_small_set():
    config = GeneratorConfig(width=12, max_width=48, class_dim=16)
    assert 100_000 < tiny(config=config, num_classes=10, latent_dim=64, resolution=32).num_parameters < 300_000


def test_large_enough_for_imagenet():
    config = GeneratorConfig(width=96, max_width=768, blocks=2, class_dim=128)
    assert meta_size(config, num_classes=1000, latent_dim=128, resolution=128) > 50_000_000


def test_size_hardly_grows_with_classes():
    few, many = (meta_size(TINY, num_classes=n, latent_dim=5, resolution=32) for n in (10, 1000))
    assert many - few == 990 * TINY.class_dim


@pytest.mark.parametrize("resolution", [8, 32, 128])
def test_starts_grey_with_different_images(resolution):
    generator = tiny(config=GeneratorConfig(width=8, max_width=32), num_classes=4, latent_dim=64, resolution=resolution)
    with torch.no_grad():
        images = generator(*codes_of(generator, 16))
    assert 0.35 < images.mean() < 0.65
    assert 0.03 < images.std() < 0.2
    assert images.std(dim=0).mean() > 0.03  # across codes, not just across pixels


def test_gradients_are_of_one_order_through_the_depth():
    generator = tiny(config=GeneratorConfig(width=8, max_width=32), num_classes=4, latent_dim=16, resolution=64)
    generator(*codes_of(generator, 8)).square().mean().backward()
    sizes = [float(block.conv1.weight.grad.norm() / block.conv1.weight.detach().norm()) for block in generator.blocks]
    assert max(sizes) / min(sizes) < 30


def test_class_matters():
    generator = tiny()
    codes, _ = codes_of(generator)
    first, second = (generator(codes, torch.full((4,), label)) for label in (0, 1))
    assert (first - second).abs().max() > 1e-3


def test_without_class_embedding_the_code_is_all():
    generator = tiny(config=GeneratorConfig(width=4, max_width=8, class_dim=0))
    codes, _ = codes_of(generator)
    first, second = (generator(codes, torch.full((4,), label)) for label in (0, 1))
    assert torch.equal(first, second)


def test_weights_are_a_function_of_the_seed():
    state = torch.random.get_rng_state()
    first, again, other = tiny(seed=1), tiny(seed=1), tiny(seed=2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.stem.weight, other.stem.weight)


def test_channels_last_and_autocast():
    generator = tiny()
    codes, labels = codes_of(generator)
    images = generator(codes, labels)
    generator.to(memory_format=torch.channels_last)
    torch.testing.assert_close(generator(codes, labels), images, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = generator(codes, labels)
    assert rounded.dtype == torch.float32
    assert (rounded - images).abs().max() < 0.05


def test_state_dict_round_trip():
    first, second = tiny(seed=1), tiny(seed=2)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(*codes_of(first)), second(*codes_of(first)))


def test_double_precision_gradcheck():
    generator = tiny(config=GeneratorConfig(width=4, max_width=4, class_dim=0), latent_dim=2).double()
    codes = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: generator(c, torch.tensor([0, 1])), (codes,))


def test_up_convolution_is_nearest_upsampling_then_convolution():
    conv = nn.Conv2d(3, 5, 3, padding=1)
    x = torch.randn(2, 3, 4, 4)
    expected = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(_up_convolution(x, conv), expected, atol=1e-5, rtol=1e-5)


def test_learns_an_image():
    generator = tiny(config=GeneratorConfig(width=8, max_width=16, class_dim=0))
    codes, labels = codes_of(generator, 2)
    ramp = torch.linspace(0.1, 0.9, 8).expand(3, 8, 8)
    target = torch.stack([ramp, ramp.mT])
    optimizer = torch.optim.Adam(generator.parameters(), lr=5e-3)
    for _ in range(60):
        loss = F.mse_loss(generator(codes, labels), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert -10 * math.log10(float(loss.detach())) > 22  # decibels


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"resolution": 24}, "data.resolution: found 24, valid: 8, 16"),
        ({"num_classes": 0}, "data.num_classes: found 0"),
        ({"latent_dim": 0}, "codebook.dim: found 0"),
    ],
)
def test_names_what_is_wrong(changes, named):
    with pytest.raises(ConfigError, match=named):
        tiny(**changes)

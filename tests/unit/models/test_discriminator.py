import pytest
import torch

from raycondense.errors import ConfigError
from raycondense.losses import discriminator_hinge
from raycondense.models import Discriminator


@pytest.mark.parametrize("resolution", [8, 16, 64])
@pytest.mark.parametrize("width", [3, 4])
def test_scores(resolution, width):
    discriminator = Discriminator(width, 3, resolution)
    images = torch.randn(4, 3, resolution, resolution, requires_grad=True)
    scores = discriminator(images, torch.tensor([0, 1, 2, 0]))
    assert scores.shape == (4,)
    scores.sum().backward()
    assert images.grad.isfinite().all()
    assert images.grad.any()


def test_class_is_projected():
    discriminator = Discriminator(4, 3, 8).eval()
    images = torch.randn(2, 3, 8, 8)
    first, second = (discriminator(images, torch.full((2,), label)) for label in (0, 1))
    assert not torch.allclose(first, second)


def test_eval_is_pure():
    discriminator = Discriminator(4, 3, 8).eval()
    images, labels = torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    before = {name: tensor.clone() for name, tensor in discriminator.state_dict().items()}
    assert torch.equal(discriminator(images, labels), discriminator(images, labels))
    assert all(torch.equal(before[name], tensor) for name, tensor in discriminator.state_dict().items())


def test_weights_are_spectrally_normalised():
    discriminator = Discriminator(4, 3, 8).eval()
    norms = [torch.linalg.matrix_norm(block.conv1.weight.detach().flatten(1), 2) for block in discriminator.blocks]
    assert all(0.7 < float(norm) < 1.3 for norm in norms)  # power iteration finds it roughly


def test_weights_are_a_function_of_the_seed():
    state = torch.random.get_rng_state()
    first, again, other = (Discriminator(4, 3, 8, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_learns_to_tell_noise_from_grey():
    discriminator = Discriminator(4, 1, 8)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=5e-3)
    labels = torch.zeros(16, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(30):
        real = torch.randn(16, 3, 8, 8, generator=generator)
        fake = torch.randn(16, 3, 1, 1, generator=generator).expand(-1, -1, 8, 8)
        loss = discriminator_hinge(discriminator(real, labels), discriminator(fake, labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((4, 3, 12), "data.resolution: found 12"),
        ((4, 0, 8), "data.num_classes: found 0"),
        ((0, 3, 8), "width: found 0"),
    ],
)
def test_names_what_is_wrong(arguments, named):
    with pytest.raises(ConfigError, match=named):
        Discriminator(*arguments)

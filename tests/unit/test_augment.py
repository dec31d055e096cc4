import pytest
import torch
import torch.nn.functional as F

from raycondense.augment import OPERATIONS, _uniforms, dsa
from raycondense.config import AUGMENTATIONS
from raycondense.errors import ConfigError

every_operation = pytest.mark.parametrize("name", AUGMENTATIONS)


def images_of(count, side=8, seed=0, dtype=torch.float32):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def uniform(*values, count=1):
    """Hand-set random numbers [3, count]."""
    return torch.tensor([*values, *[0.0] * (3 - len(values))])[:, None].expand(3, count)


def test_operations_are_those_of_the_configuration():
    assert set(OPERATIONS) == set(AUGMENTATIONS)


@every_operation
def test_changes_images_and_keeps_their_shape_and_type(name):
    images = images_of(16)
    found = dsa(images, (name,), seed=1)
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert not torch.equal(found, images)


@every_operation
def test_a_function_of_seed_and_group_alone(name):
    """Siamese: neither the other images nor the place in the batch matter."""
    images = images_of(6)
    groups = torch.tensor([4, 7, 4, 1, 7, 900])
    together = dsa(images, (name,), 3, groups)
    order = torch.tensor([5, 2, 0])
    # The same arithmetic in another batch may round differently.
    torch.testing.assert_close(dsa(images[order], (name,), 3, groups[order]), together[order], atol=1e-6, rtol=1e-5)


@every_operation
def test_groups_share_parameters_and_differ_from_each_other(name):
    same = images_of(1).expand(40, -1, -1, -1)
    groups = torch.arange(20).repeat_interleave(2)
    found = dsa(same, (name,), 5, groups)
    torch.testing.assert_close(found[::2], found[1::2])
    assert len({tuple(image.flatten().tolist()) for image in found}) > 1


@every_operation
def test_without_groups_each_image_has_its_own(name):
    same = images_of(1).expand(20, -1, -1, -1)
    found = dsa(same, (name,), 5)
    assert len({tuple(image.flatten().tolist()) for image in found}) > 1
    torch.testing.assert_close(found, dsa(same, (name,), 5, torch.arange(20)))


@every_operation
def test_seeds_differ(name):
    images = images_of(8)
    found = {tuple(dsa(images, (name,), seed).flatten().tolist()) for seed in range(4)}
    assert len(found) == 4


@every_operation
def test_gradient(name):
    images = images_of(3, side=6, dtype=torch.float64).requires_grad_()
    groups = torch.tensor([2, 2, 5])
    assert torch.autograd.gradcheck(lambda x: dsa(x, (name,), 4, groups), (images,))


@every_operation
@pytest.mark.parametrize("side", [8, 32])
def test_channels_last_is_the_same(name, side):
    images = images_of(4, side)
    torch.testing.assert_close(
        dsa(images.contiguous(memory_format=torch.channels_last), (name,), 2), dsa(images, (name,), 2),
        atol=1e-5, rtol=1e-5,
    )  # fmt: skip


def test_one_operation_a_call_and_all_of_them_in_time():
    images = images_of(4)
    singles = [{name: dsa(images, (name,), seed) for name in AUGMENTATIONS} for seed in range(60)]
    seen = set()
    for seed, single in enumerate(singles):
        drawn = dsa(images, AUGMENTATIONS, seed)
        matching = [name for name, found in single.items() if torch.equal(found, drawn)]
        assert len(matching) == 1
        seen.update(matching)
    assert seen == set(AUGMENTATIONS)


def test_empty_strategy_changes_nothing():
    images = images_of(2)
    assert dsa(images, (), 0) is images


def test_global_generator_is_untouched():
    state = torch.random.get_rng_state()
    dsa(images_of(2), AUGMENTATIONS, 0)
    assert torch.equal(state, torch.random.get_rng_state())


def test_half_precision_stays():
    for name in AUGMENTATIONS:
        assert dsa(images_of(2).bfloat16(), (name,), 0).dtype == torch.bfloat16


def test_color():
    images = images_of(2, dtype=torch.float64)
    # Brightness + 0.25, saturation × 0.5, contrast × 1.2 (0.5 + 0.7), as DSA's code writes them.
    bright = images + 0.25
    grey = bright.mean(1, keepdim=True)
    pale = (bright - grey) * 0.5 + grey
    mean = pale.mean((1, 2, 3), keepdim=True)
    expected = (pale - mean) * 1.2 + mean
    found = OPERATIONS["color"](images, uniform(0.75, 0.25, 0.7, count=2))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("u", "shift"), [((0.0, 0.0), (-1, -1)), ((0.5, 0.99), (0, 1)), ((0.99, 0.4), (1, 0))])
def test_crop(u, shift):
    images = images_of(1)
    padded = F.pad(images, (1, 1, 1, 1))  # an eighth of 8 px
    y, x = shift[0] + 1, shift[1] + 1
    assert torch.equal(OPERATIONS["crop"](images, uniform(*u)), padded[:, :, y : y + 8, x : x + 8])


def test_crop_reaches_an_eighth_of_the_side():
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, 16, 16] = 1
    found = OPERATIONS["crop"](image.expand(2000, -1, -1, -1), torch.rand(3, 2000))
    rows = found[:, 0].amax(dim=2).argmax(dim=1)
    assert (int(rows.min()), int(rows.max())) == (12, 20)


@pytest.mark.parametrize(("u", "rows"), [(0.0, (0, 2)), (0.5, (2, 6)), (0.999, (6, 8))])
def test_cutout(u, rows):
    found = OPERATIONS["cutout"](torch.ones(1, 3, 8, 8), uniform(u, 0.5))
    expected = torch.ones(1, 3, 8, 8)
    expected[:, :, rows[0] : rows[1], 2:6] = 0
    assert torch.equal(found, expected)


def test_flip():
    images = images_of(1)
    assert torch.equal(OPERATIONS["flip"](images, uniform(0.1)), images.flip(3))
    assert torch.equal(OPERATIONS["flip"](images, uniform(0.9)), images)


def test_rotate():
    ramp = torch.linspace(-1, 1, 9).expand(1, 3, 9, 9)  # its value is the x coordinate
    found = OPERATIONS["rotate"](ramp, uniform(1.0))  # 15 degrees
    y, x = torch.meshgrid(torch.linspace(-1, 1, 9), torch.linspace(-1, 1, 9), indexing="ij")
    angle = torch.deg2rad(torch.tensor(15.0))
    expected = torch.cos(angle) * x - torch.sin(angle) * y
    torch.testing.assert_close(found[0, 0, 3:6, 3:6], expected[3:6, 3:6], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(OPERATIONS["rotate"](ramp, uniform(0.5)), ramp, atol=1e-5, rtol=1e-4)


def test_scale():
    ramp = torch.linspace(-1, 1, 9).expand(1, 3, 9, 9)
    found = OPERATIONS["scale"](ramp, uniform(1.0, 0.3))  # x zoomed out to the full 1.2
    torch.testing.assert_close(found[0, 0, 4, 2:7], 1.2 * torch.linspace(-1, 1, 9)[2:7], atol=1e-5, rtol=1e-4)


def test_random_numbers_are_uniform_and_unrelated():
    u = _uniforms(12345, torch.arange(20000))
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    histogram = torch.histc(u, bins=10, min=0, max=1) / u.numel()
    assert (histogram - 0.1).abs().max() < 0.005
    assert (torch.corrcoef(torch.stack([*u, u[0].roll(1)])) - torch.eye(4)).abs().max() < 0.03
    neighbour = _uniforms(12346, torch.arange(20000))
    assert abs(float(torch.corrcoef(torch.stack([u[0], neighbour[0]]))[0, 1])) < 0.03


def test_random_numbers_are_splitmix64():
    """Tensor arithmetic on signed numbers against plain integers."""

    def splitmix(seed, counter):
        x = (counter * 0x9E3779B97F4A7C15 + seed) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return ((x ^ (x >> 31)) >> 40) * 2.0**-24

    groups = [0, 5, 999, 2**40]
    for seed in (1, 2**63 - 1):
        expected = [[splitmix(seed, 3 * group + place) for group in groups] for place in range(3)]
        assert _uniforms(seed, torch.tensor(groups)).tolist() == expected


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ((images_of(2), ("colour",), 0), ConfigError, r"augment\.strategy: .*did you mean 'color'"),
        ((images_of(2)[0], ("flip",), 0), ValueError, "shape"),
        ((images_of(2)[..., :4], ("flip",), 0), ValueError, "shape"),
        ((images_of(2), ("flip",), 0, torch.tensor([1])), ValueError, "groups of shape"),
    ],
)
def test_names_what_is_wrong(arguments, error, named):
    with pytest.raises(error, match=named):
        dsa(*arguments)

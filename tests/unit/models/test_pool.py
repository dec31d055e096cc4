import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from raycondense.config import ExtractorConfig
from raycondense.errors import CheckpointError, ConfigError, DataError, DivergedError
from raycondense.models import ExtractorPool, build_extractor

FACTS = {"num_classes": 3, "resolution": 8, "seed": 7}


def pool_of(**changes):
    settings = {"width": 4, "pool_size": 2, "train_steps": 4} | changes
    return ExtractorPool(ExtractorConfig(**settings), **FACTS)


def weights_of(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()]).clone()


def batches(seed=0):
    """Endless batches of three classes that differ in brightness."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        labels = torch.randint(3, (12,), generator=generator)
        noise = torch.randn(12, 3, 8, 8, generator=generator)
        ramp = torch.linspace(-1, 1, 8)
        pattern = torch.stack([ramp.expand(8, 8), ramp.expand(8, 8).mT, -ramp.expand(8, 8)])
        yield noise * 0.3 + pattern[labels][:, None] * 2, labels


def trained_pool(**changes):
    pool = pool_of(**changes)
    for index in pool.untrained:
        pool.train_network(index, batches(index))
    return pool


def test_random_draws_are_a_function_of_the_step():
    pool = pool_of()
    first = weights_of(pool.draw(1))
    second = weights_of(pool.draw(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, weights_of(pool.draw(1)))
    assert torch.equal(first, weights_of(pool_of().draw(1, rank=3)))
    assert pool.untrained == []


def test_same_bits_in_another_process():
    code = (
        "from raycondense.config import ExtractorConfig\n"
        "from raycondense.models import ExtractorPool\n"
        "pool = ExtractorPool(ExtractorConfig(width=4), num_classes=3, resolution=8, seed=7)\n"
        "print(pool.draw(5).backbone.convs[0].weight.flatten()[:4].tolist())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(pool_of().draw(5).backbone.convs[0].weight.flatten()[:4].tolist())


@pytest.mark.parametrize("weights", ["random", "blend"])
def test_ranks_draw_their_own_if_asked(weights):
    pool = pool_of(draw="rank") if weights == "random" else trained_pool(weights=weights, draw="rank")
    first, second = (weights_of(pool.draw(1, rank=rank)) for rank in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, weights_of(pool.draw(1, rank=0)))


def test_the_network_of_a_seed_is_build_extractors():
    pool = pool_of(weights="trained")
    built = build_extractor(pool.config, num_classes=3, resolution=8, seed=pool._network_seed(0))
    pool.set_trained(0, pool._layout.collect(built))
    pool.set_trained(1, pool._layout.collect(built))
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(pool.draw(0)(images).embedding, built(images).embedding)


def test_parameters_need_no_gradient_but_images_get_one():
    network = pool_of().draw(0)
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    network(images).embedding.square().sum().backward()
    assert images.grad.any()
    assert all(p.grad is None for p in network.parameters())


def test_backward_through_exchanged_weights_is_refused():
    pool = pool_of()
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    loss = pool.draw(0)(images).embedding.square().sum()
    pool.draw(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_training_teaches_and_repeats():
    pool = pool_of(weights="trained", train_steps=40, train_lr=0.05)
    result = pool.train_network(0, batches())
    assert result.accuracy > 0.9
    assert result.loss < 0.5
    assert pool.untrained == [1]
    again = pool_of(weights="trained", train_steps=40, train_lr=0.05)
    assert again.train_network(0, batches()) == result
    assert torch.equal(pool.trained(0), again.trained(0))


def test_training_augments():
    seen = []
    pool = pool_of(weights="trained")
    pool.train_network(0, batches(), augment=lambda images, step: (seen.append(step), images)[1])
    assert seen == [0, 1, 2, 3]


def test_trained_draws_are_pool_networks():
    pool = trained_pool(weights="trained")
    vectors = {tuple(pool._weights.tolist()) for step in range(12) if pool.draw(step)}
    assert vectors == {tuple(pool.trained(index).tolist()) for index in (0, 1)}


def test_blends_lie_between_initial_and_trained_weights():
    pool = trained_pool(weights="blend", pool_size=1, train_steps=20, train_lr=0.05)
    start, end = pool._layout.draw(pool._network_seed(0)), pool.trained(0)
    shares = []
    for step in range(20):
        pool.draw(step)
        share = float(torch.dot(pool._weights - start, end - start) / (end - start).square().sum())
        torch.testing.assert_close(pool._weights, torch.lerp(start, end, share), atol=1e-5, rtol=1e-4)
        shares.append(share)
    assert min(shares) >= 0
    assert max(shares) <= 1
    assert max(shares) - min(shares) > 0.5


def test_draw_before_training():
    with pytest.raises(RuntimeError, match=r"pool networks \[0, 1\] are not trained"):
        pool_of(weights="blend").draw(0)


def test_too_few_batches():
    with pytest.raises(DataError, match=r"extractors\.train_steps: found 4, but the batches ended after 1"):
        pool_of(weights="trained").train_network(0, [next(batches())])


def test_divergence_is_named():
    with pytest.raises(DivergedError, match=r"smaller extractors\.train_lr than 1e\+30"):
        pool_of(weights="trained", train_lr=1e30).train_network(0, batches())


def test_state_dict_round_trip():
    pool, other = trained_pool(weights="blend"), pool_of(weights="blend")
    state = pool.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other.load_state_dict(state)
    assert other.untrained == []
    assert torch.equal(weights_of(pool.draw(3)), weights_of(other.draw(3)))


def test_half_trained_state_is_kept():
    pool, other = pool_of(weights="trained"), pool_of(weights="trained")
    pool.train_network(1, batches())
    other.load_state_dict(pool.state_dict())
    assert other.untrained == [0]


def test_random_pool_has_an_empty_state():
    pool = pool_of()
    pool.load_state_dict(pool.state_dict())
    assert sum(t.numel() for t in pool.state_dict().values()) == 0


def test_state_of_another_pool():
    with pytest.raises(CheckpointError, match="extractor pool"):
        pool_of(weights="trained", pool_size=3).load_state_dict(trained_pool(weights="trained").state_dict())


def test_global_generator_is_untouched():
    state = torch.random.get_rng_state()
    trained_pool(weights="blend").draw(0)
    assert torch.equal(state, torch.random.get_rng_state())


def test_cross_entropy_gradient_reaches_images():
    images = torch.randn(3, 3, 8, 8, requires_grad=True)
    F.cross_entropy(trained_pool(weights="trained").draw(0)(images).logits, torch.tensor([0, 1, 2])).backward()
    assert images.grad.any()


@pytest.mark.parametrize(
    ("facts", "named"), [({"resolution": 9}, "resolution: found 9"), ({"num_classes": 0}, "found 0")]
)
def test_names_what_is_wrong(facts, named):
    with pytest.raises(ConfigError, match=named):
        ExtractorPool(ExtractorConfig(width=4), **(FACTS | facts))

import pytest
import torch

from raycondense.config import CodebookConfig
from raycondense.errors import ConfigError
from raycondense.models import Codebook

CONFIG = CodebookConfig(ipc=(1, 3), dim=5, init_std=0.5)


def test_shape_and_spread():
    codebook = Codebook(CodebookConfig(ipc=(50,), dim=64, init_std=0.5), 10)
    assert codebook.codes.shape == (10, 50, 64)
    assert codebook.num_classes == 10
    assert abs(float(codebook.codes.detach().std()) - 0.5) < 0.01


def test_lookup_same_positions_for_all_classes():
    codebook = Codebook(CONFIG, 4)
    found = codebook.lookup(torch.tensor([3, 1]), torch.tensor([0, 2]))
    assert found.shape == (2, 2, 5)
    assert torch.equal(found[0, 1], codebook.codes[3, 2])
    assert torch.equal(found[1, 0], codebook.codes[1, 0])


def test_lookup_positions_by_class():
    codebook = Codebook(CONFIG, 4)
    found = codebook(torch.tensor([3, 1]), torch.tensor([[0, 2, 1], [3, 3, 0]]))
    assert found.shape == (2, 3, 5)
    assert torch.equal(found[1, 0], codebook.codes[1, 3])


def test_gradient_reaches_only_what_was_looked_up():
    codebook = Codebook(CONFIG, 4)
    codebook.lookup(torch.tensor([2]), torch.tensor([1])).sum().backward()
    expected = torch.zeros(4, 4, 5)
    expected[2, 1] = 1
    assert torch.equal(codebook.codes.grad, expected)


def test_banks_lie_side_by_side():
    codebook = Codebook(CONFIG, 2)
    positions = torch.arange(4)[CONFIG.bank_slice(3)]
    assert positions.tolist() == [1, 2, 3]
    assert codebook.lookup(torch.tensor([0]), positions).shape == (1, 3, 5)


def test_codes_are_a_function_of_the_seed():
    state = torch.random.get_rng_state()
    assert torch.equal(Codebook(CONFIG, 4, seed=1).codes, Codebook(CONFIG, 4, seed=1).codes)
    assert not torch.equal(Codebook(CONFIG, 4, seed=1).codes, Codebook(CONFIG, 4, seed=2).codes)
    assert torch.equal(state, torch.random.get_rng_state())


def test_names_what_is_wrong():
    with pytest.raises(ConfigError, match=r"data\.num_classes: found 0"):
        Codebook(CONFIG, 0)

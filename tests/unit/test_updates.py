"""Gradients are summed, scaled and applied; only the codes that were used move."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raycondense.config import CodebookConfig, Config, DataConfig, GeneratorConfig
from raycondense.host import LocalHost
from raycondense.state import CondensedModel
from raycondense.updates import Updater, cosine


class TwinHost(LocalHost):
    """A second rank that gives exactly what this one gives, for its own classes."""

    def __init__(self, folder: Path, shift: int) -> None:
        super().__init__(folder, device="cpu")
        self.world_size = 2
        self._shift = shift

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            tensor.mul_(2)

    def all_gather(self, tensor: Tensor, lengths: Sequence[int] | None = None) -> list[Tensor]:
        other = tensor.clone()
        rows = other[:, :2].contiguous().view(torch.int64) + self._shift
        other[:, :2] = rows.view(torch.float32)
        return [tensor, other]


@pytest.fixture
def model() -> CondensedModel:
    config = Config(
        data=DataConfig(resolution=8),
        generator=GeneratorConfig(width=8, max_width=8, class_dim=4),
        codebook=CodebookConfig(ipc=(2,), dim=4),
    )
    return CondensedModel(config, 6)


def test_only_used_codes_move(model: CondensedModel, tmp_path: Path) -> None:
    updater = Updater(model, LocalHost(tmp_path, device="cpu"), lr_generator=0.0, lr_codebook=0.1)
    before = model.codebook.codes.detach().clone()
    updater.add_code_gradient(torch.tensor([1, 4]), torch.tensor([0, 1]), torch.ones(2, 4))
    updater.apply()
    moved = (model.codebook.codes.detach() != before).any(-1)
    assert moved.nonzero().tolist() == [[1, 0], [4, 1]]
    # Adam's first step is the learning rate, against the gradient's sign.
    torch.testing.assert_close(model.codebook.codes.detach()[1, 0], before[1, 0] - 0.1)


def test_codes_of_other_ranks_arrive(model: CondensedModel, tmp_path: Path) -> None:
    """Rows travel as the bits of floats: large and small row numbers must survive."""
    updater = Updater(model, TwinHost(tmp_path, shift=2), lr_generator=0.0, lr_codebook=0.1)
    before = model.codebook.codes.detach().clone()
    updater.add_code_gradient(torch.tensor([0, 4]), torch.tensor([1, 1]), torch.ones(2, 4))
    updater.apply()
    moved = (model.codebook.codes.detach() != before).any(-1)
    assert moved.nonzero().tolist() == [[0, 1], [1, 1], [4, 1], [5, 1]]


def test_generator_gradients_are_summed_and_divided(model: CondensedModel, tmp_path: Path) -> None:
    updater = Updater(model, TwinHost(tmp_path, shift=0), lr_generator=1e-3, lr_codebook=0.0)
    for p in model.generator.parameters():
        p.grad = torch.full_like(p, 3.0)
    updater.apply(accumulated=3)
    # Adam's first moment after one step is a tenth of the gradient: 3 of each of 2 ranks, divided by 3 steps.
    moments = updater.state_dict()["generator"]["state"].values()
    assert moments
    for moment in moments:
        torch.testing.assert_close(moment["exp_avg"], torch.full_like(moment["exp_avg"], 0.2))
    assert all(p.grad is None for p in model.generator.parameters())


def test_frozen_generator_stays(model: CondensedModel, tmp_path: Path) -> None:
    updater = Updater(model, LocalHost(tmp_path, device="cpu"), lr_generator=0.0, lr_codebook=0.1)
    assert not any(p.requires_grad for p in model.generator.parameters())
    assert updater.codes_need_gradient


def test_state_survives(model: CondensedModel, tmp_path: Path) -> None:
    """Two updates in one life equal one update, a checkpoint, and another update."""

    def update(updater: Updater, value: float) -> None:
        for p in model.generator.parameters():
            p.grad = torch.full_like(p, value)
        updater.add_code_gradient(torch.tensor([2]), torch.tensor([0]), torch.full((1, 4), value))
        updater.apply()

    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    host = LocalHost(tmp_path, device="cpu")

    def fresh() -> Updater:
        return Updater(model, host, lr_generator=1e-2, lr_codebook=1e-1)

    whole = fresh()
    update(whole, 1.0)
    update(whole, -3.0)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    model.load_state_dict(start)
    first = fresh()
    update(first, 1.0)
    torch.save(first.state_dict(), tmp_path / "optimizers.pt")
    second = fresh()
    second.load_state_dict(torch.load(tmp_path / "optimizers.pt", weights_only=True))
    update(second, -3.0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(("progress", "factor"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (2.0, 0.0), (-1.0, 1.0)])
def test_cosine(progress: float, factor: float) -> None:
    assert cosine(progress) == pytest.approx(factor, abs=1e-12)

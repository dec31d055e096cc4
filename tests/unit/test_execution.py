"""`raycondense.execution`: what "auto" means on a device, and what happens where nothing can be compiled."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from raycondense import execution
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.errors import ConfigError
from raycondense.presets import get_preset
from raycondense.state import TrainState

CPU = torch.device("cpu")


def config(**changes: object) -> Config:
    base = {"extractors.weights": "random", "losses.ce": 0.0, "initialise.method": "none", "generator.max_width": 32}
    return override(get_preset("digits"), base | {k.replace("__", "."): v for k, v in changes.items()})


@pytest.mark.parametrize("instructions", [True, False])
@pytest.mark.parametrize(
    ("side", "precision", "with_instructions", "without"),
    [(8, "auto", False, False), (16, "auto", True, False), (64, "float32", False, False), (8, "bfloat16", True, True)],
)
def test_precision_on_a_cpu(
    instructions: bool, side: int, precision: str, with_instructions: bool, without: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    settings = config(data__resolution=side, condense__precision=precision)
    expected = with_instructions if instructions else without
    assert execution.computes_in_bfloat16(settings, CPU) == expected
    with execution.autocast(settings, CPU)():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if expected else torch.float32)


def compiled(settings: Config) -> bool:
    return execution.compile_networks(settings, TrainState(settings, num_classes=10, device=CPU), CPU)


def test_small_images_are_not_compiled_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "why_not_compiled", lambda device: "")
    assert not compiled(config(data__resolution=16))
    assert compiled(config(data__resolution=32))
    assert compiled(config(data__resolution=16, condense__compile="on"))
    assert not compiled(config(data__resolution=32, condense__compile="off"))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, "no-such-compiler"))
    execution.why_not_compiled.cache_clear()
    torch._dynamo.reset()
    yield
    execution.why_not_compiled.cache_clear()


@pytest.mark.slow
def test_without_a_compiler(no_compiler: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "raycondense"):
        assert not compiled(config(data__resolution=32))
    assert "going on with slower networks" in caplog.text
    assert "no-such-compiler" in caplog.text
    with pytest.raises(ConfigError, match=r"condense\.compile: found 'on'.*no-such-compiler"):
        compiled(config(condense__compile="on"))

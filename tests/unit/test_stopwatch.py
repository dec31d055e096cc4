"""Seconds by part: what counts as what, forwards and backwards, and that the split adds up to the step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from raycondense import condense, losses
from raycondense.configfile import override
from raycondense.host import LocalHost, Record
from raycondense.models.generator import Generator
from raycondense.models.pool import ExtractorPool
from raycondense.presets import get_preset
from raycondense.stopwatch import PARTS, Stopwatch

CPU = torch.device("cpu")


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let seconds pass: the stopwatch's clock moves at nothing else."""
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("raycondense.stopwatch.time", SimpleNamespace(perf_counter=lambda: now))
    return wait


def test_time_counts_as_the_part_that_was_begun_last(passing: Callable[[float], None]) -> None:
    watch = Stopwatch(CPU)
    watch.start("data")
    passing(2)
    watch.start("losses")
    passing(1)
    with watch.part("all_reduce"):
        passing(3)
    passing(1)
    watch.start(None)
    passing(5)
    found = watch.read()
    assert tuple(found) == PARTS
    assert found == {"data": 2, "generator": 0, "extractors": 0, "losses": 2, "all_reduce": 3, "update": 0}


def test_reading_begins_anew_and_stops(passing: Callable[[float], None]) -> None:
    watch = Stopwatch(CPU)
    assert watch.read() == {}
    watch.start("data")
    passing(1)
    assert watch.read()["data"] == 1
    passing(1)
    assert watch.read() == {}
    watch.start("update")
    passing(3)
    assert sum(watch.read().values()) == 3


def test_the_clock_is_the_real_one() -> None:
    watch = Stopwatch(CPU)
    watch.start("data")
    time.sleep(0.02)
    assert 0.02 <= watch.read()["data"] < 1


def test_without_a_device_nothing_is_measured() -> None:
    watch = Stopwatch()
    watch.start("data")
    with watch.part("losses"):
        pass
    assert watch.read() == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_devices_time_counts() -> None:
    device = torch.device("cuda")
    a = torch.randn(4096, 4096, device=device)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    watch = Stopwatch(device)
    begun = time.perf_counter()
    watch.start("generator")
    for _ in range(50):
        a @ a
    watch.start("losses")
    for _ in range(25):
        a @ a
    asked = time.perf_counter() - begun
    found = watch.read()
    whole = time.perf_counter() - begun
    assert asked < whole / 2
    assert found["generator"] + found["losses"] == pytest.approx(whole, rel=0.2)
    assert found["generator"] == pytest.approx(2 * found["losses"], rel=0.2)


class _Slow(torch.autograd.Function):
    """Takes its time in both directions."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        wait: Callable[[float], None],
        forward: float,
        backward: float,
    ) -> Tensor:
        ctx.wait, ctx.seconds = wait, backward  # type: ignore[attr-defined]
        wait(forward)
        return x.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.wait(ctx.seconds)  # type: ignore[attr-defined]
        return gradients[0].clone(), None, None, None


class _SlowHost(LocalHost):
    """A host whose messages take 5 s."""

    def __init__(self, folder: Path, wait: Callable[[float], None]) -> None:
        super().__init__(folder, device="cpu")
        self._wait = wait
        self.records: list[Record] = []

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        self._wait(5)

    def log(self, record: Record) -> None:
        self.records.append(record)


@pytest.mark.parametrize("two_pass", [0, 16])
def test_the_split_of_a_step(
    two_pass: int,
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    passing: Callable[[float], None],
) -> None:
    """Every part is slowed by an amount of its own, forwards and backwards; the split finds each amount again."""
    generate, draw, match = Generator.forward, ExtractorPool.draw, losses.matching_mean

    def slow_generator(self: Generator, *args: Tensor) -> Tensor:
        return _Slow.apply(generate(self, *args), passing, 1, 2)

    class SlowExtractor(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> object:
            return self.inner(_Slow.apply(images, passing, 10, 20))

    def slow_match(real: Tensor, synthetic: Tensor) -> Tensor:
        return match(real, _Slow.apply(synthetic, passing, 100, 200))

    monkeypatch.setattr(Generator, "forward", slow_generator)
    monkeypatch.setattr(ExtractorPool, "draw", lambda *args: SlowExtractor(draw(*args)))
    monkeypatch.setattr(losses, "matching_mean", slow_match)
    config = override(
        get_preset("digits"),
        {
            "data.loader": "resident",
            "generator": {"width": 8, "max_width": 8},
            "codebook": {"ipc": [2], "dim": 8},
            "extractors": {"width": 8, "weights": "random"},
            "losses.ce": 0.0,
            "initialise.method": "none",
            "condense": {"images": 4 * 80, "real_per_class": 8, "log_images": 160, "two_pass": two_pass},
        },
    )
    host = _SlowHost(tmp_path, passing)
    condense.run(config, digits / "train.beton", host)
    # 20 images, with two passes in two parts, each seen twice; 80 real images in five.
    once, twice = (0, 1) if not two_pass else (2, 2)
    generator = once * 1 + twice * (1 + 2)
    extractors = (5 if two_pass else 1) * 10 + once * 10 + twice * (10 + 20)
    expected = {
        "data": 0, "generator": generator, "extractors": extractors, "losses": 300, "all_reduce": 5, "update": 0,
    }  # fmt: skip
    assert len(host.records) == 2
    for record in host.records:
        found = {name: value for name, value in record.items() if name.startswith("seconds/")}
        assert found == {f"seconds/{part}": seconds for part, seconds in expected.items()}

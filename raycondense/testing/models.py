"""Contract checks for networks: what the loop and the evaluation rely on, for ours and for anyone's own.

Each check raises `AssertionError` with a message that says which promise was broken. Use tiny sizes: they run
everything a few times on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycondense.models import Extractor, Generator

M = TypeVar("M", bound=nn.Module)

TOLERANCE = 1e-4
"""Batches of other sizes may sum in another order."""


def check_generator(generator: Generator) -> None:
    """Images in [0, 1], each a function of its own code and label alone, and gradients for every weight."""
    codes, labels = _codes_and_labels(generator, 5)
    images = generator(codes, labels)
    shape = (5, 3, generator.resolution, generator.resolution)
    assert images.shape == shape, f"images have shape {tuple(images.shape)}, not {shape}"
    assert images.dtype == torch.float32, f"images are {images.dtype}, not float32"
    low, high = float(images.detach().min()), float(images.detach().max())
    assert 0 <= low <= high <= 1, f"images are in [{low}, {high}], not [0, 1]"
    alone = torch.cat([generator(codes[i : i + 1], labels[i : i + 1]) for i in range(5)])
    _assert_close(alone, images, "an image depends on its batch")
    _assert_close(generator.eval()(codes, labels), generator.train()(codes, labels), "eval() changes images")
    assert not list(generator.buffers()), "the generator has buffers: statistics of batches?"
    differences = (images[1:] - images[:1]).detach().abs().amax(dim=(1, 2, 3))
    assert float(differences.min()) > 1e-3, "different codes give the same image"
    _assert_gradients(generator, images.square().mean(), {"codes": codes})


def check_extractor(build: Callable[[int], Extractor], resolution: int) -> None:
    """Features of the promised shapes, a function of the seed and of each image alone.

    Args:
        build: makes the extractor from a seed.
        resolution: side of its images in pixels.
    """
    extractor = _check_seeded(build)
    images = torch.randn(4, 3, resolution, resolution, generator=torch.Generator().manual_seed(0)).requires_grad_()
    embedding, logits = extractor(images)
    shapes = (4, extractor.embedding_dim), (4, extractor.num_classes)
    found = tuple(embedding.shape), tuple(logits.shape)
    assert found == shapes, f"features have shapes {found}, not {shapes}"
    _assert_close(extractor.embed(images), embedding, "embed() and forward() differ")
    alone = torch.cat([extractor(images[i : i + 1]).embedding for i in range(4)])
    _assert_close(alone, embedding, "the features of an image depend on its batch")
    _assert_close(extractor.eval()(images).embedding, extractor.train()(images).embedding, "eval() changes features")
    by_channel = images.contiguous(memory_format=torch.channels_last)
    _assert_close(extractor(by_channel).embedding, embedding, "features depend on the memory format")
    spread = float(embedding.detach().std(dim=0).max())
    assert spread > 1e-3, "different images have the same features"
    _assert_gradients(extractor, logits.square().mean() + embedding.square().mean(), {"images": images})


def check_student(build: Callable[[int], nn.Module], *, num_classes: int, resolution: int) -> None:
    """Logits of the promised shape, weights a function of the seed, and a loss that training lowers.

    Args:
        build: makes the student from a seed.
        num_classes: size of the logits.
        resolution: side of its images in pixels.
    """
    student = _check_seeded(build)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, resolution, resolution, generator=generator)
    labels = torch.arange(8) % num_classes
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for _ in range(6):
        logits = student(images)
        assert logits.shape == (8, num_classes), f"logits have shape {tuple(logits.shape)}, not (8, {num_classes})"
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        untouched = [name for name, p in student.named_parameters() if p.grad is None]
        assert not untouched, f"no gradient reaches {', '.join(untouched)}"
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0], f"training does not lower the loss: {losses}"


def _check_seeded(build: Callable[[int], M]) -> M:
    """The same seed gives the same bits, another one other weights, and the global generator doesn't move."""
    state = torch.random.get_rng_state()
    network, again, other = build(1), build(1), build(2)
    assert torch.equal(state, torch.random.get_rng_state()), "building a network moved torch's global generator"
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name, tensor in again.state_dict().items():
        assert torch.equal(weights[name], tensor), f"{name} is not a function of the seed"
    changed = [name for name, tensor in other.state_dict().items() if not torch.equal(weights[name], tensor)]
    assert changed, "another seed gives the same weights"
    return network


def _codes_and_labels(generator: Generator, count: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    codes = torch.randn(count, generator.latent_dim, generator=random).requires_grad_()
    return codes, torch.arange(count) % generator.num_classes


def _assert_close(found: Tensor, expected: Tensor, message: str) -> None:
    distance = float((found - expected).detach().abs().max())
    assert distance <= TOLERANCE * max(1.0, float(expected.detach().abs().max())), f"{message} (by {distance:.2g})"


def _assert_gradients(module: nn.Module, loss: Tensor, inputs: dict[str, Tensor]) -> None:
    """A finite gradient that is not all zero reaches every parameter and input."""
    named = dict(module.named_parameters()) | inputs
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    for name, gradient in zip(named, gradients, strict=True):
        assert gradient is not None, f"no gradient reaches {name}"
        assert bool(gradient.isfinite().all()), f"the gradient of {name} is not finite"
        assert bool(gradient.any()), f"the gradient of {name} is zero"

"""`raycondense.evaluation.stream`: fresh images for every step of a student."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from raycondense.artifact.load import Artifact, load
from raycondense.config import EvaluationConfig
from raycondense.data.normalize import Normalize
from raycondense.errors import ConfigError
from raycondense.evaluation.stream import ImageStream
from raycondense.evaluation.train import train_student


class Painter(nn.Module):
    """Paints the label into the first channel and the code's first number into the second; notes batch sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    factor = 1

    def native(self, codes: Tensor, labels: Tensor) -> Tensor:
        self.sizes.append(len(codes))
        images = torch.zeros(len(codes), 3, 8, 8)
        images[:, 0] = (labels / 255)[:, None, None]
        images[:, 1] = codes[:, 0].clamp(0, 1)[:, None, None]
        return images


@pytest.fixture
def artifact(tiny_run) -> Artifact:
    """3 classes at 8 px, banks of 1 and 2 images per class."""
    return load(tiny_run.artifact)


@pytest.fixture
def painted(artifact: Artifact) -> Iterator[Artifact]:
    """The same with a generator that shows what it was given; bank 1 is at -5, bank 2 about 0.5."""
    artifact.generator = Painter()  # type: ignore[assignment]
    codes = artifact.codebook.codes.detach()
    codes[:, artifact.config.codebook.bank_slice(1), 0] = -5
    codes[:, artifact.config.codebook.bank_slice(2), 0] = torch.tensor([0.45, 0.55])
    return artifact


def test_a_batch_is_a_function_of_seed_and_step(artifact: Artifact) -> None:
    stream, again = ImageStream(artifact, 2, seed=3), ImageStream(artifact, 2, seed=3)
    first = [stream.batch(step, 7) for step in (0, 1, 2)]
    second = [again.batch(step, 7) for step in (2, 1, 0)][::-1]
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(first[0][0], ImageStream(artifact, 2, seed=4).batch(0, 7)[0])
    images, labels = first[0]
    assert (images.dtype, images.shape, labels.dtype) == (torch.uint8, (7, 3, 8, 8), torch.int64)


def test_every_image_is_new_and_counted(artifact: Artifact) -> None:
    stream = ImageStream(artifact, 1, seed=0)
    codes: list[Tensor] = []
    # The first layer that sees the codes, and the class embedding beside them.
    artifact.generator.stem.register_forward_pre_hook(lambda _, arguments: codes.append(arguments[0]))
    assert stream.images == 0
    for step in range(5):
        stream.batch(step, 12)
    assert stream.images == 60 == len(torch.cat(codes).unique(dim=0))


def test_classes_are_in_balance(artifact: Artifact) -> None:
    stream = ImageStream(artifact, 2, seed=0)
    for step in range(10):
        assert stream.batch(step, 6)[1].bincount(minlength=3).tolist() == [2, 2, 2]
    some = torch.stack([stream.batch(step, 4)[1].bincount(minlength=3) for step in range(30)])
    assert some.min() == 1
    assert some.max() == 2
    assert (some.sum(0) > 30).all(), "the class that comes twice is always the same"


def test_images_have_the_classes_of_their_labels_and_codes_near_their_bank(painted: Artifact) -> None:
    images, labels = ImageStream(painted, 2, seed=0).batch(0, 300)
    assert torch.equal(images[:, 0, 0, 0].long(), labels)
    assert max(painted.generator.sizes) <= 256
    values = images[:, 1, 0, 0].float() / 255
    assert 0.3 < float(values.min()) < float(values.max()) < 0.7
    assert len(values.unique()) > 5
    near_the_other = ImageStream(painted, 1, seed=0).batch(0, 30)[0][:, 1]
    assert not near_the_other.any()


def test_an_epoch_is_that_of_the_bank(artifact: Artifact) -> None:
    stream = ImageStream(artifact, 2, seed=0)
    assert (stream.images_per_epoch, stream.resolution) == (6, 8)
    with pytest.raises(ConfigError, match="1, 2"):
        ImageStream(artifact, 3, seed=0)


def test_a_student_of_a_stream_takes_the_steps_of_a_bank_and_says_what_it_saw(artifact: Artifact) -> None:
    config, stream = EvaluationConfig(width=8, epochs=3, batch=4), ImageStream(artifact, 2, seed=0)
    stream.batch(0, 100)  # not this student's
    before = stream.generation_seconds
    assert before > 0
    arguments = {
        "architecture": "convnet", "num_classes": 3, "normalize": Normalize((0.5,) * 3, (0.2,) * 3), "seed": 0,
    }  # fmt: skip
    student = train_student(stream, config, **arguments)
    assert (student.steps, student.images) == (6, 18)
    assert stream.images == 118
    assert student.generation_seconds == stream.generation_seconds - before > 0
    assert student.generation_seconds < student.seconds
    again = train_student(ImageStream(artifact, 2, seed=0), config, **arguments)
    assert again.loss == student.loss

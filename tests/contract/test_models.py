"""Every generator size, extractor and student of ours keeps the promises of `raycondense.testing.models`."""

import pytest
import torch

from raycondense.config import RESOLUTIONS, ExtractorConfig, GeneratorConfig
from raycondense.models import STUDENTS, Generator, build_extractor, build_student
from raycondense.testing.models import check_extractor, check_generator, check_student


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_generator(resolution):
    config = GeneratorConfig(width=4, max_width=16, class_dim=4)
    check_generator(Generator(config, num_classes=3, latent_dim=6, resolution=resolution))


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("class_dim", [0, 4])
@pytest.mark.parametrize("num_classes", [1, 7])
def test_generator_shapes(blocks, class_dim, num_classes):
    config = GeneratorConfig(width=4, max_width=8, blocks=blocks, class_dim=class_dim)
    check_generator(Generator(config, num_classes=num_classes, latent_dim=3, resolution=16))


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_convnet_extractor(resolution):
    config = ExtractorConfig(width=8)
    check_extractor(lambda seed: build_extractor(config, num_classes=3, resolution=resolution, seed=seed), resolution)


@pytest.mark.parametrize("resolution", [8, 64])
def test_resnet_extractor(resolution):
    config = ExtractorConfig(architecture="resnet18")
    check_extractor(lambda seed: build_extractor(config, num_classes=3, resolution=resolution, seed=seed), resolution)


@pytest.mark.parametrize("name", STUDENTS)
def test_student(name):
    check_student(
        lambda seed: build_student(name, num_classes=4, resolution=8, width=8, seed=seed), num_classes=4, resolution=8
    )


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("name", STUDENTS)
def test_student_takes_every_resolution(name, resolution):
    student = build_student(name, num_classes=4, resolution=resolution, width=8, seed=0).eval()
    with torch.no_grad():
        logits = student(torch.randn(2, 3, resolution, resolution))
    assert logits.shape == (2, 4)
    assert logits.isfinite().all()

import pytest
import torch

from raycondense.errors import ConfigError
from raycondense.models import STUDENTS, build_student


def test_unknown_name_gets_the_nearest():
    with pytest.raises(
        ConfigError, match=r"evaluation\.architectures: .*did you mean 'resnet18'.*valid: convnet, resnet18"
    ):
        build_student("resnet19", num_classes=2, resolution=8, seed=0)


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"resolution": 10}, "data.resolution: found 10"),
        ({"num_classes": 0}, "data.num_classes: found 0"),
        ({"width": 0}, "evaluation.width: found 0"),
    ],
)
def test_names_what_is_wrong(facts, named):
    with pytest.raises(ConfigError, match=named):
        build_student("convnet", **({"num_classes": 2, "resolution": 8, "seed": 0} | facts))


def test_small_resnet_keeps_its_pixels():
    small, large = (build_student("resnet18", num_classes=2, resolution=r, seed=0) for r in (32, 64))
    assert small.conv1.kernel_size == (3, 3)
    assert isinstance(small.maxpool, torch.nn.Identity)
    assert large.conv1.kernel_size == (7, 7)


def test_one_class():
    student = build_student("convnet", num_classes=1, resolution=8, width=4, seed=0)
    assert student(torch.randn(2, 3, 8, 8)).shape == (2, 1)


def test_every_student_says_what_it_is():
    assert all(student.description for student in STUDENTS.values())

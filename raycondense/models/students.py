"""Students: the networks that are trained on condensed images to find out what the images are worth.

Architectures other than the ConvNet are torchvision's, or built of its parts, adapted to small images the way the
condensation literature does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from raycondense.config import RESOLUTIONS
from raycondense.errors import ConfigError, choices_message
from raycondense.models.convnet import ConvNet
from raycondense.models.extractors import SMALL_IMAGE
from raycondense.seeds import derive_seed, seeded_construction


@dataclass(frozen=True, kw_only=True, slots=True)
class Student:
    """One student architecture.

    Attributes:
        build: makes the network from ``(num_classes, resolution, width)``.
        description: one line for people.
    """

    build: Callable[[int, int, int], nn.Module]
    description: str


def _convnet(num_classes: int, resolution: int, width: int) -> nn.Module:
    return ConvNet(width=width, depth=0, num_classes=num_classes, resolution=resolution)


def _resnet18(num_classes: int, resolution: int, width: int) -> nn.Module:
    from torchvision.models import resnet18

    net = resnet18(num_classes=num_classes)
    if resolution < SMALL_IMAGE:
        net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        net.maxpool = nn.Identity()
    module: nn.Module = net
    return module


def _vgg11(num_classes: int, resolution: int, width: int) -> nn.Module:
    from torchvision.models.vgg import make_layers

    layers: list[int | str] = []
    side = resolution
    for layer in (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"):
        if layer != "M":
            layers.append(layer)
        elif side > 1:  # at 8 and 16 px the last poolings have nothing left to pool
            layers.append("M")
            side //= 2
    features = make_layers(layers, batch_norm=True)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes))


def _alexnet(num_classes: int, resolution: int, width: int) -> nn.Module:
    # 5x5 stride 1 up to 32 px as in DC's code, then towards the original's 11x11 stride 4.
    kernel, stride = {64: (7, 2), 128: (11, 4), 256: (11, 4)}.get(resolution, (5, 1))
    side = resolution // stride // 8
    return nn.Sequential(
        nn.Conv2d(3, 128, kernel, stride, kernel // 2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(128, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(192, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 192, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(192, 192, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(192 * side * side, num_classes),
    )


def _vit(num_classes: int, resolution: int, width: int) -> nn.Module:
    from torchvision.models import VisionTransformer

    module: nn.Module = VisionTransformer(
        image_size=resolution,
        patch_size=max(2, resolution // 8),
        num_layers=6,
        num_heads=6,
        hidden_dim=192,
        mlp_dim=384,
        num_classes=num_classes,
    )
    return module


STUDENTS: dict[str, Student] = {
    "convnet": Student(build=_convnet, description="ConvNet-D with instance norm, the field's standard student"),
    "resnet18": Student(build=_resnet18, description="torchvision's ResNet-18; 3x3 stem without pooling below 64 px"),
    "vgg11": Student(build=_vgg11, description="torchvision's VGG-11 layers with batch norm, linear head (as DC's)"),
    "alexnet": Student(build=_alexnet, description="AlexNet as DC's code shrinks it: stride-1 stem up to 32 px"),
    "vit": Student(build=_vit, description="torchvision's VisionTransformer: 6 layers of 192, at most 8x8 patches"),
}
"""Every student architecture by name."""


def build_student(name: str, *, num_classes: int, resolution: int, width: int = 128, seed: int) -> nn.Module:
    """A student with fresh weights on the CPU: standardised [N, 3, R, R] to logits [N, num_classes].

    Args:
        name: a key of `STUDENTS`.
        num_classes: classes.
        resolution: side of the images in pixels.
        width: channels of the ConvNet; the other architectures have their own.
        seed: weights are a function of it; torch's global generators stay untouched.

    Raises:
        ConfigError: an unknown name, or a resolution, width or number of classes that cannot be.
    """
    if name not in STUDENTS:
        raise ConfigError(f"evaluation.architectures: {choices_message('architecture', name, STUDENTS)}")
    if resolution not in RESOLUTIONS:
        raise ConfigError(f"data.resolution: found {resolution!r}, valid: {', '.join(map(str, RESOLUTIONS))}")
    for setting, value in (("data.num_classes", num_classes), ("evaluation.width", width)):
        if value < 1:
            raise ConfigError(f"{setting}: found {value!r}, valid: 1 or more")
    with seeded_construction(derive_seed(seed, "student", name)):
        return STUDENTS[name].build(num_classes, resolution, width)

"""The torchvision datasets that can be named, as plain data: listing them must not import torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset of torchvision.

    Attributes:
        type_name: class in `torchvision.datasets`.
        splits: our name of a split → arguments of the class that choose it.
        classes: class names where torchvision's object has none.
    """

    type_name: str
    splits: dict[str, dict[str, Any]]
    classes: tuple[str, ...] = ()


_TRAIN_TEST: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_DIGITS = tuple("0123456789")


def _named(*splits: str) -> dict[str, dict[str, Any]]:
    return {split: {"split": split} for split in splits}


DATASETS: dict[str, Dataset] = {
    "cifar10": Dataset("CIFAR10", _TRAIN_TEST),
    "cifar100": Dataset("CIFAR100", _TRAIN_TEST),
    "dtd": Dataset("DTD", _named("train", "val", "test")),
    "fashion_mnist": Dataset("FashionMNIST", _TRAIN_TEST),
    "fgvc_aircraft": Dataset("FGVCAircraft", _named("train", "val", "test")),
    "flowers102": Dataset("Flowers102", _named("train", "val", "test")),
    "food101": Dataset("Food101", _named("train", "test")),
    "kmnist": Dataset("KMNIST", _TRAIN_TEST),
    "mnist": Dataset("MNIST", _TRAIN_TEST, _DIGITS),
    "oxford_iiit_pet": Dataset("OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "stl10": Dataset("STL10", _named("train", "test")),
    "svhn": Dataset("SVHN", _named("train", "test", "extra"), _DIGITS),
    "usps": Dataset("USPS", _TRAIN_TEST, _DIGITS),
}

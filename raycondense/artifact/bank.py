"""The bank: a fixed number of images a class, decoded once, as an ordinary dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from raycondense.data.normalize import Normalize
from raycondense.errors import ArtifactError

Transform = Callable[[Tensor], Any]


class BankDataset(Dataset[tuple[Any, int]]):
    """Images of a bank and their labels, in memory.

    An item is ``(image, label)``: the image is taken as uint8 [3, R, R], goes through ``transform`` if there is one,
    and is standardised (float32, mean 0 and standard deviation 1 over the real training images) unless
    ``normalize`` is off. So by default it can be fed to a network as it comes.

    Attributes:
        images: uint8 [N, 3, R, R], before ``transform`` and standardisation.
        labels: int64 [N].
        classes: names; label c is ``classes[c]``.
        ipc: images per class that the bank is counted as.
        factor: in the place of each of them are factor² images of a ``factor``-th of the side, enlarged.
        mean: of each channel of the real images / 255.
        std: of each channel of the real images / 255.
        transform: as given.
        normalize: as given.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        classes: tuple[str, ...],
        ipc: int,
        factor: int = 1,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        transform: Transform | None = None,
        normalize: bool = True,
    ) -> None:
        self.images, self.labels = images, labels
        self.classes, self.ipc, self.factor, self.mean, self.std = classes, ipc, factor, mean, std
        self.transform, self.normalize = transform, normalize
        self._present = Presentation(mean, std, transform=transform, normalize=normalize)

    @property
    def num_classes(self) -> int:
        """Number of classes: what a network's output has to have."""
        return len(self.classes)

    @property
    def images_per_class(self) -> int:
        """Images of each class: ``ipc``, or with a ``factor`` as many small ones as take their place."""
        return self.ipc * self.factor**2

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._present(self.images[index]), int(self.labels[index])

    def __repr__(self) -> str:
        return f"BankDataset({len(self)} images, {self.images_per_class} per class, {self.images.shape[-1]} px)"


class Presentation:
    """How an image leaves a dataset: uint8 → ``transform`` → standardised.

    Args:
        mean: of each channel of the real images / 255.
        std: of each channel of the real images / 255.
        transform: called with uint8 [3, R, R]. With ``normalize`` it returns an image tensor, uint8 or float in
            [0, 1]; without, what it likes.
        normalize: standardise what comes out of ``transform``.
    """

    def __init__(
        self,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        *,
        transform: Transform | None,
        normalize: bool,
    ) -> None:
        self._transform = transform
        self._normalize = Normalize(mean, std) if normalize else None

    def __call__(self, image: Tensor) -> Any:
        shown = image if self._transform is None else self._transform(image)
        if self._normalize is None:
            return shown
        if not isinstance(shown, Tensor):
            raise ArtifactError(
                f"transform: returned {type(shown).__name__}, valid: an image tensor (normalize=False takes anything)"
            )
        if shown.device != self._normalize.mean.device:
            self._normalize.to(shown.device)
        with torch.no_grad():
            return self._normalize(shown)

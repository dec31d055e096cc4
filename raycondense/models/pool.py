"""The pool of feature extractors: which network a step uses, and how the pool is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from raycondense.config import ExtractorConfig
from raycondense.errors import CheckpointError, DataError, DivergedError
from raycondense.models.extractors import Extractor, empty_extractor
from raycondense.seeds import SEED_BITS, derive_seed

MOMENTUM = 0.9
"""Of the SGD that trains pool networks."""


class NetworkTraining(NamedTuple):
    """How the training of a pool network ended: means over the last tenth of its steps, on augmented images."""

    loss: float
    accuracy: float


class ExtractorPool:
    """Which extractor a step uses: a function of (seed, step), or (seed, step, rank) with ``config.draw`` "rank".

    * ``random``: fresh weights each step, as in DM (arXiv 2110.04181, algorithm 1).
    * ``trained``: one of ``pool_size`` networks that were trained briefly on real data (IDM, arXiv 2307.09742).
    * ``blend``: such a network between its initial and its trained weights, ``w = (1 − u) w₀ + u w₁`` with
      u ~ U(0, 1) (NCFM, arXiv 2502.20653).

    Weights are drawn on the CPU, so every process gets the same bits. Trained weights are only the same on
    every rank when one rank trains a network and the others `set_trained` it.

    Args:
        config: the pool's settings.
        num_classes: size of the logits.
        resolution: side of the images in pixels.
        seed: the run's seed.
        device: where the networks compute.

    Attributes:
        network: the one module whose weights `draw` exchanges; its parameters need no gradient.
        embedding_dim: size D of its embeddings.
    """

    def __init__(
        self,
        config: ExtractorConfig,
        *,
        num_classes: int,
        resolution: int,
        seed: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self.config = config
        self.num_classes = num_classes
        self.resolution = resolution
        self.seed = seed
        self.device = torch.device(device)
        self.network, self._layout = empty_extractor(config, num_classes, resolution)
        self.network.to_empty(device=self.device).requires_grad_(False)
        self._weights = torch.zeros(self._layout.size, device=self.device)
        self._layout.bind(self.network, self._weights)
        self.embedding_dim = self.network.embedding_dim
        size = 0 if config.weights == "random" else config.pool_size
        self._trained = torch.zeros(size, self._layout.size, device=self.device)
        self._ready = [False] * size
        self._initial = torch.zeros(size if config.weights == "blend" else 0, self._layout.size, device=self.device)
        for index in range(len(self._initial)):
            self._initial[index] = self._layout.draw(self._network_seed(index))

    def _network_seed(self, index: int) -> int:
        return derive_seed(self.seed, "pool network", index)

    @property
    def untrained(self) -> list[int]:
        """Networks that still need `train_network` or `set_trained`; empty for ``random``."""
        return [index for index, ready in enumerate(self._ready) if not ready]

    @torch.no_grad()
    def draw(self, step: int, rank: int = 0) -> Extractor:
        """The extractor of a step.

        The same module comes back each time, with other weights: finish a step's backward pass before the next draw
        (autograd raises if you don't).

        Args:
            step: number of the step.
            rank: this worker; ignored unless ``config.draw`` is "rank".
        """
        where = (step,) if self.config.draw == "step" else (step, rank)
        if self.config.weights == "random":
            self._weights.copy_(self._layout.draw(derive_seed(self.seed, "extractor", *where)))
        else:
            if self.untrained:
                raise RuntimeError(f"pool networks {self.untrained} are not trained yet: train_network comes first")
            index = derive_seed(self.seed, "pool choice", *where) % self.config.pool_size
            if self.config.weights == "trained":
                self._weights.copy_(self._trained[index])
            else:
                blend = derive_seed(self.seed, "pool blend", *where) / 2**SEED_BITS
                torch.lerp(self._initial[index], self._trained[index], blend, out=self._weights)
        # Parameters share the vector's memory but not its version counter: tell autograd that they changed.
        torch.autograd.graph.increment_version(list(self.network.parameters()))
        return self.network

    def train_network(
        self,
        index: int,
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        augment: Callable[[Tensor, int], Tensor] | None = None,
    ) -> NetworkTraining:
        """Train network ``index`` from its own initial weights: SGD, momentum 0.9, cross-entropy.

        Args:
            index: 0 to ``pool_size - 1``.
            batches: standardised images [B, 3, R, R] and labels [B] on the pool's device; ``train_steps`` are taken.
            augment: called with the images and the step's number.

        Raises:
            DataError: the batches ended too early.
            DivergedError: the loss is not finite.
        """
        network, _ = empty_extractor(self.config, self.num_classes, self.resolution)
        network.to_empty(device=self.device)
        self._layout.bind(network, self._layout.draw(self._network_seed(index)).to(self.device))
        steps = self.config.train_steps
        optimizer = torch.optim.SGD(network.parameters(), lr=self.config.train_lr, momentum=MOMENTUM)
        tail = max(1, steps // 10)
        losses, accuracies = [], []
        iterator = iter(batches)
        for step in range(steps):
            batch = next(iterator, None)
            if batch is None:
                raise DataError(f"extractors.train_steps: found {steps}, but the batches ended after {step}")
            images, labels = batch
            logits = network(images if augment is None else augment(images, step)).logits
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step >= steps - tail:
                losses.append(loss.detach())
                accuracies.append((logits.argmax(1) == labels).float().mean())
        result = NetworkTraining(float(torch.stack(losses).mean()), float(torch.stack(accuracies).mean()))
        weights = self._layout.collect(network)
        if not bool(weights.isfinite().all()):
            raise DivergedError(
                f"training of pool network {index} ended with weights that are not finite; "
                f"try a smaller extractors.train_lr than {self.config.train_lr}"
            )
        self.set_trained(index, weights)
        return result

    def trained(self, index: int) -> Tensor:
        """Trained weights of network ``index`` as one vector, to send to other workers."""
        return self._trained[index]

    def set_trained(self, index: int, weights: Tensor) -> None:
        """Take the trained weights of network ``index`` (a vector that `trained` gave on another worker)."""
        self._trained[index].copy_(weights)
        self._ready[index] = True

    def state_dict(self) -> dict[str, Tensor]:
        """Trained weights, ``trained`` [pool_size, size], and which of them are, ``ready`` [pool_size] bool."""
        return {"trained": self._trained.cpu(), "ready": torch.tensor(self._ready, dtype=torch.bool)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave.

        Raises:
            CheckpointError: it is another pool's.
        """
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        expected = {"trained": tuple(self._trained.shape), "ready": (len(self._ready),)}
        if found != expected:
            raise CheckpointError(f"extractor pool: found tensors {found}, this configuration has {expected}")
        self._trained.copy_(state["trained"])
        self._ready = [bool(ready) for ready in state["ready"].tolist()]

"""One condensation step: real and synthetic images of some classes in, named losses and gradients out.

Workers take disjoint classes of a step. Every loss is written so that the sum of the ranks' gradients is the
gradient of the loss over all of the step's classes.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from raycondense import losses
from raycondense.augment import dsa
from raycondense.config import Config
from raycondense.data.batches import ClassBatch
from raycondense.data.normalize import Normalize
from raycondense.execution import autocast
from raycondense.host import Host, gathered
from raycondense.models.extractors import Extractor
from raycondense.seeds import derive_seed, seeded_generator
from raycondense.state import TrainState
from raycondense.stopwatch import Stopwatch
from raycondense.updates import Updater


class Targets(NamedTuple):
    """What the synthetic images of a step are compared with; made without a graph."""

    features: Tensor
    """Real features [C, M, D]."""
    spreads: list[Tensor | None]
    """For each bank real samples' repulsion [C], where the intra-class loss stops; None is no bound."""
    frequencies: Tensor | None
    """Random frequencies [T, D] of the characteristic-function distance."""


class Seen(NamedTuple):
    """What the losses know of n synthetic images."""

    embedding: Tensor
    """[n, D], of the extractor."""
    logits: Tensor
    """[n, num_classes], of the extractor."""
    scores: Tensor | None
    """[n], of the discriminator; None without the realism loss."""

    @property
    def parts(self) -> list[Tensor]:
        """The tensors that there are."""
        return [part for part in self if part is not None]

    @classmethod
    def joined(cls, seen: list[Seen]) -> Seen:
        """What was seen of all images, from what was seen of some at a time."""
        scores = [one.scores for one in seen if one.scores is not None]
        return cls(
            torch.cat([one.embedding for one in seen]),
            torch.cat([one.logits for one in seen]),
            torch.cat(scores) if scores else None,
        )


class CondenseStep:
    """Callable that does the forward and backward work of one step.

    Args:
        config: the whole configuration.
        state: model, pool and discriminator.
        normalize: standardises images with the dataset's mean and standard deviation.
        host: rank, device and collectives.
        stopwatch: told what the step is at, forwards and backwards.
    """

    def __init__(
        self,
        config: Config,
        state: TrainState,
        normalize: Normalize,
        host: Host,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self._config = config
        self._state = state
        self._normalize = normalize
        self._host = host
        self._stopwatch = stopwatch or Stopwatch()
        self._autocast = autocast(config, host.device)
        if state.discriminator is not None:
            state.discriminator.requires_grad_(False).eval()

    def __call__(self, batch: ClassBatch, updater: Updater, *, step_classes: int) -> dict[str, Tensor]:
        """Add this rank's gradients to the generator and to ``updater``.

        Args:
            batch: this rank's classes [C] and real images uint8 [C, M, 3, R, R].
            updater: takes the codes' gradients.
            step_classes: classes of this step on all ranks together.

        Returns:
            This rank's share of each loss, unweighted, detached, on the device: the sum over ranks is the loss.
            ``total`` is their weighted sum.
        """
        model, config, stopwatch = self._state.model, self._config, self._stopwatch
        classes = batch.classes.to(self._host.device)
        positions, banks = self._positions(batch.step)
        stopwatch.start("extractors")
        extractor = self._state.pool.draw(batch.step, self._host.rank)
        targets = self._targets(batch, extractor, banks)

        codes = model.codebook.codes.detach()[classes][:, positions].requires_grad_(updater.codes_need_gradient)
        labels = classes.repeat_interleave(len(positions))
        chunks = self._chunks(codes.flatten(0, 1), labels)
        two_pass = len(chunks) > 1
        with torch.no_grad() if two_pass else contextlib.nullcontext():
            seen = [self._see(*chunk, batch.step, extractor) for chunk in chunks]
        whole = Seen.joined(seen)
        if two_pass:
            for part in whole.parts:
                part.requires_grad_()
        named = self._losses(whole, labels, targets, banks, step_classes)
        weights = {
            "match": config.losses.matching_weight,
            "intra": config.losses.intra,
            "inter": config.losses.inter,
            "regression": config.losses.regression,
            "ce": config.losses.ce,
            "realism": config.losses.realism,
        }
        torch.stack([weights[name] * value for name, value in named.items()]).sum().backward()
        if two_pass:
            self._second_pass(chunks, whole, batch.step, extractor)
        stopwatch.start("update")
        if codes.grad is not None:
            updater.add_code_gradient(labels, positions.repeat(len(classes)), codes.grad.flatten(0, 1))

        # Every rank computes the whole inter-class loss; it reports its share, so that sums over ranks are right.
        if "inter" in named and self._shares_extractor:
            named["inter"] = named["inter"] / self._host.world_size
        shares = {name: value.detach() for name, value in named.items()}
        return shares | {"total": torch.stack([weights[name] * value for name, value in shares.items()]).sum()}

    def _see(self, codes: Tensor, labels: Tensor, step: int, extractor: Extractor) -> Seen:
        """What extractor and discriminator say of the images of codes [n, d]."""
        critic = self._state.discriminator if self._config.losses.realism else None
        self._stopwatch.start("generator")
        with self._autocast():
            images = self._state.model.generator(codes, labels)
            self._begins_backwards("generator", images)
            self._stopwatch.start("extractors")
            features = extractor(self._augmented(images, step, labels))
            self._begins_backwards("extractors", features.embedding)
            scores = None if critic is None else critic(self._normalize(images), labels)
        self._stopwatch.start("losses")
        return Seen(features.embedding, features.logits, scores)

    def _second_pass(self, chunks: list[tuple[Tensor, Tensor]], whole: Seen, step: int, extractor: Extractor) -> None:
        """Send the loss's gradient at what was seen back to the codes, a chunk at a time (GLaD, arXiv 2305.01649, does
        so for the generator alone): the same gradient, without the graph of all images at once."""
        size = self._config.condense.two_pass
        wanted = [part.grad is not None for part in whole.parts]
        gradients = [part.grad.split(size) for part in whole.parts if part.grad is not None]
        for chunk, chunk_gradients in zip(chunks, zip(*gradients, strict=True), strict=True):
            again = itertools.compress(self._see(*chunk, step, extractor).parts, wanted)
            torch.autograd.backward(list(again), list(chunk_gradients))

    def _chunks(self, values: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """``values`` [n, …] and ``labels`` [n] in parts of ``condense.two_pass``, or whole."""
        size = self._config.condense.two_pass or len(labels)
        return list(zip(values.split(size), labels.split(size), strict=True))

    def _begins_backwards(self, part: str, output: Tensor) -> None:
        """When the gradient of ``output`` is known, the backward pass of ``part`` begins."""
        if output.requires_grad:
            output.register_hook(lambda gradient: self._stopwatch.start(part))

    @property
    def _shares_extractor(self) -> bool:
        # Features of different extractors cannot be compared.
        return self._config.extractors.draw == "step"

    def _lengths(self, step_classes: int) -> list[int]:
        """Classes of every rank: the plan deals them out evenly, so nobody has to ask."""
        return [len(part) for part in np.array_split(range(step_classes), self._host.world_size)]

    def _positions(self, step: int) -> tuple[Tensor, list[slice]]:
        """Positions of the codes that this step uses, and where each bank is among them."""
        codebook, wanted = self._config.codebook, self._config.condense.codes_per_step
        random = seeded_generator(self._config.seed, "positions", step)
        positions, banks, start = [], [], 0
        for ipc in codebook.ipc:
            bank = codebook.bank_slice(ipc)
            chosen = torch.arange(bank.start, bank.stop)
            if wanted and wanted < len(chosen):
                chosen = chosen[torch.randperm(len(chosen), generator=random)[:wanted].sort().values]
            positions.append(chosen)
            banks.append(slice(start, start + len(chosen)))
            start += len(chosen)
        return torch.cat(positions).to(self._host.device), banks

    def _augmented(self, images: Tensor, step: int, labels: Tensor) -> Tensor:
        seed = derive_seed(self._config.seed, "augment", step)
        return dsa(self._normalize(images), self._config.augment.strategy, seed, groups=labels)

    @torch.no_grad()
    def _targets(self, batch: ClassBatch, extractor: Extractor, banks: list[slice]) -> Targets:
        config, device = self._config.losses, self._host.device
        images = batch.images.to(device)
        count, per_class = images.shape[:2]
        labels = batch.classes.to(device).repeat_interleave(per_class)
        with self._autocast():
            parts = [
                extractor(self._augmented(part, batch.step, names)).embedding
                for part, names in self._chunks(images.flatten(0, 1), labels)
            ]
        self._stopwatch.start("losses")
        features = torch.cat(parts).float().unflatten(0, (count, per_class))
        bounded = config.intra > 0 and config.intra_bounded
        spreads = [
            losses.spread(features, config.intra_temperature, bank.stop - bank.start) if bounded else None
            for bank in banks
        ]
        frequencies = None
        if config.matching == "characteristic":
            seed = derive_seed(self._config.seed, "frequencies", batch.step)
            frequencies = losses.draw_frequencies(config.frequencies, features.shape[-1], seed=seed, device=device)
        return Targets(features, spreads, frequencies)

    def _losses(
        self, seen: Seen, labels: Tensor, targets: Targets, banks: list[slice], step_classes: int
    ) -> dict[str, Tensor]:
        """Named losses of what was seen of C·K images: means over the step's classes and over banks."""
        config = self._config.losses
        count = len(targets.features)
        features = seen.embedding.float().unflatten(0, (count, -1))
        share = 1.0 / (step_classes * len(banks))
        named: dict[str, list[Tensor]] = {"match": []}
        for bank, bound in zip(banks, targets.spreads, strict=True):
            synthetic = features[:, bank]
            if targets.frequencies is not None:
                named["match"].append(
                    share * losses.matching_characteristic(targets.features, synthetic, targets.frequencies)
                )
            else:
                named["match"].append(share * losses.matching_mean(targets.features, synthetic))
            if config.intra:
                repulsion = losses.intra_class(synthetic, config.intra_temperature, bound)
                named.setdefault("intra", []).append(share * repulsion.sum())
        if config.inter:
            centers = torch.stack([features[:, bank].mean(1) for bank in banks], dim=1)
            named["inter"] = [self._inter(centers, step_classes)]
        if config.regression:
            everyones, first = features, 0
            if self._shares_extractor:
                everyones = gathered(features, self._host, self._lengths(step_classes))
                first = sum(self._lengths(step_classes)[: self._host.rank])
            named["regression"] = [
                share * losses.feature_regression(targets.features, everyones[:, bank], config.regression_ridge, first)
                for bank in banks
            ]
        total = len(labels) // count * step_classes
        if config.ce:
            named["ce"] = [losses.cross_entropy(seen.logits.float(), labels, total)]
        if seen.scores is not None:
            named["realism"] = [losses.realism(seen.scores.float(), total)]
        return {name: torch.stack(values).sum() for name, values in named.items()}

    def _inter(self, own: Tensor, step_classes: int) -> Tensor:
        """Inter-class loss, mean over banks, of all centers of the step; this rank's ``own`` [C, banks, D] carry the
        gradient."""
        temperature, share = self._config.losses.inter_temperature, 1.0
        if self._shares_extractor:
            with self._stopwatch.part("all_reduce"):
                centers = self._host.all_gather(own, self._lengths(step_classes))
            centers[self._host.rank] = own
            everyones = torch.cat(centers)
        else:
            everyones, share = own, len(own) / step_classes
        by_bank = [losses.inter_class(centers, temperature) for centers in everyones.unbind(1)]
        return share * torch.stack(by_bank).mean()

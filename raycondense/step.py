"""One condensation step: real and synthetic images of some classes in, named losses and gradients out.

Workers take disjoint classes of a step. Every loss is written so that the sum of the ranks' gradients is the
gradient of the loss over all of the step's classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from raycondense import losses
from raycondense.augment import dsa
from raycondense.config import Config
from raycondense.data.batches import ClassBatch
from raycondense.data.normalize import Normalize
from raycondense.host import Host, gathered
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
        wants_bf16 = config.condense.precision == "bfloat16" or (
            config.condense.precision == "auto" and host.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        device_type = host.device.type
        self._autocast: Callable[[], contextlib.AbstractContextManager[object]] = (
            (lambda: torch.autocast(device_type, torch.bfloat16)) if wants_bf16 else contextlib.nullcontext
        )
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

        stopwatch.start("generator")
        codes = model.codebook.codes.detach()[classes][:, positions].requires_grad_(updater.codes_need_gradient)
        labels = classes.repeat_interleave(len(positions))
        with self._autocast():
            if config.condense.two_pass:
                with torch.no_grad():
                    chunks = zip(*self._chunks(codes, labels), strict=True)
                    images = torch.cat([model.generator(part, names) for part, names in chunks])
                images.requires_grad_()
            else:
                images = model.generator(codes.flatten(0, 1), labels)
                self._begins_backwards("generator", images)
            named = self._losses(images, labels, batch.step, extractor, targets, banks, step_classes)
        weights = {
            "match": config.losses.matching_weight,
            "intra": config.losses.intra,
            "inter": config.losses.inter,
            "regression": config.losses.regression,
            "ce": config.losses.ce,
            "realism": config.losses.realism,
        }
        total = torch.stack([weights[name] * value for name, value in named.items()]).sum()
        if config.condense.two_pass:
            # GLaD's two passes: the loss's gradient at the images, then back through the generator in chunks.
            (gradient,) = torch.autograd.grad(total, images)
            stopwatch.start("generator")
            parts = zip(*self._chunks(codes, labels), gradient.split(config.condense.two_pass), strict=True)
            for part, names, part_gradient in parts:
                with self._autocast():
                    again = model.generator(part, names)
                again.backward(part_gradient.to(again.dtype))
        else:
            total.backward()
        stopwatch.start("update")
        if codes.grad is not None:
            updater.add_code_gradient(labels, positions.repeat(len(classes)), codes.grad.flatten(0, 1))

        # Every rank computes the whole inter-class loss; it reports its share, so that sums over ranks are right.
        if "inter" in named and self._shares_extractor:
            named["inter"] = named["inter"] / self._host.world_size
        shares = {name: value.detach() for name, value in named.items()}
        return shares | {"total": torch.stack([weights[name] * value for name, value in shares.items()]).sum()}

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

    def _chunks(self, codes: Tensor, labels: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        size = self._config.condense.two_pass
        return codes.flatten(0, 1).split(size), labels.split(size)

    def _augmented(self, images: Tensor, step: int, labels: Tensor) -> Tensor:
        seed = derive_seed(self._config.seed, "augment", step)
        return dsa(self._normalize(images), self._config.augment.strategy, seed, groups=labels)

    @torch.no_grad()
    def _targets(self, batch: ClassBatch, extractor: torch.nn.Module, banks: list[slice]) -> Targets:
        config, device = self._config.losses, self._host.device
        images = batch.images.to(device)
        count, per_class = images.shape[:2]
        labels = batch.classes.to(device).repeat_interleave(per_class)
        with self._autocast():
            features = extractor(self._augmented(images.flatten(0, 1), batch.step, labels)).embedding
        self._stopwatch.start("losses")
        features = features.float().unflatten(0, (count, per_class))
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
        self,
        images: Tensor,
        labels: Tensor,
        step: int,
        extractor: torch.nn.Module,
        targets: Targets,
        banks: list[slice],
        step_classes: int,
    ) -> dict[str, Tensor]:
        """Named losses of images [C·K, 3, R, R]: means over the step's classes and over banks."""
        config = self._config.losses
        self._stopwatch.start("extractors")
        found = extractor(self._augmented(images, step, labels))
        self._begins_backwards("extractors", found.embedding)
        self._stopwatch.start("losses")
        count = len(targets.features)
        features = found.embedding.float().unflatten(0, (count, -1))
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
            named["ce"] = [losses.cross_entropy(found.logits.float(), labels, total)]
        if config.realism and self._state.discriminator is not None:
            scores = self._state.discriminator(self._normalize(images), labels)
            named["realism"] = [losses.realism(scores.float(), total)]
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

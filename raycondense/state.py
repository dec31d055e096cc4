"""What a condensation carries from step to step, and how it is written to and read from a checkpoint.

Random state is not part of it: every draw is a function of the seed and the clock, so the clock is enough
to resume exactly.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raycondense.checkpoint import CLOCK, STATE, write_files
from raycondense.config import Config
from raycondense.errors import CheckpointError
from raycondense.models.codebook import Codebook
from raycondense.models.discriminator import Discriminator
from raycondense.models.generator import Generator
from raycondense.models.pool import ExtractorPool
from raycondense.seeds import derive_seed
from raycondense.shapes import fault
from raycondense.storage import read_json

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Checkpoints of version 1 do not hold `TrainState.initial`."""
_CLOCK = {"format_version": int, "stage": str, "step": int, "images": int}
STAGES = ("pool", "gan", "reconstruct", "condense", "done")


class CondensedModel(nn.Module):
    """Generator and codebook together: what is optimised, averaged and published.

    Args:
        config: the whole configuration.
        num_classes: number of classes of the dataset.
    """

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        seed = derive_seed(config.seed, "model")
        self.generator = Generator(
            config.generator,
            num_classes=num_classes,
            latent_dim=config.codebook.dim,
            resolution=config.data.resolution,
            factor=config.codebook.factor,
            seed=seed,
        )
        self.codebook = Codebook(config.codebook, num_classes, seed=seed)

    def forward(self, classes: Tensor, positions: Tensor) -> Tensor:
        """Images [C, K, 3, R, R] in [0, 1] of codes ``positions`` [K] of ``classes`` [C]."""
        codes = self.codebook.lookup(classes, positions)
        labels = classes.repeat_interleave(len(positions))
        return self.generator(codes.flatten(0, 1), labels).unflatten(0, (len(classes), -1))


class TrainState:
    """Model, running mean, extractor pool, discriminator and the clock.

    Attributes:
        initial: weights of the model as initialisation left them, on the CPU: what condensation has to beat. Taken
            when stage ``condense`` begins; None before, and in runs that go on from a checkpoint of version 1.
        stage: the stage being worked on, one of `STAGES`.
        step: steps done in this stage.
        images: real images seen in this stage, all ranks together.
        optimizers: state dicts of the stage's optimizers, by name; empty at the start of a stage.
    """

    def __init__(self, config: Config, *, num_classes: int, device: torch.device) -> None:
        self.config = config
        self.model = CondensedModel(config, num_classes).to(device)
        self.average = CondensedModel(config, num_classes).to(device).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.pool = ExtractorPool(
            config.extractors,
            num_classes=num_classes,
            resolution=config.data.resolution,
            seed=derive_seed(config.seed, "extractors"),
            device=device,
        )
        self.discriminator: Discriminator | None = None
        if config.initialise.method == "gan":
            self.discriminator = Discriminator(
                width=max(16, config.generator.width),
                num_classes=num_classes,
                resolution=config.data.resolution,
                seed=derive_seed(config.seed, "model"),
            ).to(device)
        self.initial: dict[str, Tensor] | None = None
        self._begin(next(iter(self.stages())))

    def stages(self) -> Iterator[str]:
        """The stages that this configuration goes through, in order."""
        wanted = {
            "pool": self.config.extractors.weights != "random",
            "gan": self.config.initialise.method == "gan",
            "reconstruct": self.config.initialise.method != "none",
        }
        return (stage for stage in STAGES if wanted.get(stage, True))

    def next_stage(self) -> None:
        """Go on to the following stage with a fresh clock and fresh optimizers."""
        order = list(self.stages())
        self._begin(order[order.index(self.stage) + 1])

    def _begin(self, stage: str) -> None:
        self.stage, self.step, self.images = stage, 0, 0
        self.optimizers: dict[str, Any] = {}
        if stage == "condense":
            self.initial = self._weights()

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.model.state_dict().items()}

    @property
    def name(self) -> str:
        """Checkpoint name; names sort by age."""
        return f"{STAGES.index(self.stage)}-{self.stage}-{self.step:09d}"

    def save(self, folder: Path) -> None:
        """Write the state into an existing folder."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "initial": self.initial,
            "pool": self.pool.state_dict(),
            "discriminator": None if self.discriminator is None else self.discriminator.state_dict(),
            "optimizers": self.optimizers,
        }
        # Through memory: on a full disk torch's own writer raises what cannot be told from a bug.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        clock = {"format_version": FORMAT_VERSION, "stage": self.stage, "step": self.step, "images": self.images}
        write_files(folder, buffer.getbuffer(), clock)

    def load(self, folder: Path) -> None:
        """Read a state back.

        Raises:
            CheckpointError: a file is missing or damaged, from a newer format, or of another configuration.
        """
        device = next(self.model.parameters()).device
        try:
            clock = read_json(folder / CLOCK)
            wrong = fault(clock, _CLOCK) or (
                "a clock before its start" if min(clock["step"], clock["images"]) < 0 else ""
            )
            if wrong:
                raise ValueError(f"{CLOCK}: {wrong}")
            state = torch.load(folder / STATE, map_location=device, weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # what torch's reader trips over in a damaged file can be anything
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise CheckpointError(
                f"{folder}: damaged checkpoint ({reason}); remove it to go on from an earlier one"
            ) from error
        version = clock["format_version"]
        if version not in READABLE_VERSIONS:
            valid = " and ".join(map(str, READABLE_VERSIONS))
            raise CheckpointError(f"{folder}: checkpoint format {version}, this raycondense reads formats {valid}")
        if clock["stage"] not in self.stages():
            raise CheckpointError(f"{folder}: stage {clock['stage']!r} is not one of {', '.join(self.stages())}")
        try:
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.pool.load_state_dict(state["pool"])
            if self.discriminator is not None:
                self.discriminator.load_state_dict(state["discriminator"])
            initial = None if version == 1 else state["initial"]
            self.initial = None if initial is None else {name: tensor.cpu() for name, tensor in initial.items()}
            self.optimizers = dict(state["optimizers"])
        except (RuntimeError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{folder}: checkpoint of another model ({reason})") from error
        self.stage, self.step, self.images = clock["stage"], clock["step"], clock["images"]
        if version == 1 and (self.stage, self.step) == ("condense", 0):
            self.initial = self._weights()

    @torch.no_grad()
    def update_average(self, images: int) -> None:
        """Move the running mean towards the weights by ``images`` real images (half-life ``condense.ema_images``).

        The mean's memory grows with the run until it reaches the half-life, so that it forgets the start.
        """
        half_life = self.config.condense.ema_images
        decay = 0.5 ** (images / half_life) if half_life else 0.0
        decay = min(decay, (1 + self.step) / (10 + self.step))
        mean: list[Tensor] = list(self.average.parameters())
        now: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(mean, now, 1 - decay)

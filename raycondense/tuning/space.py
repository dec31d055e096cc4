"""Search spaces: which settings are searched, where, and for which objectives; read from YAML and checked strictly.

    parameters:
      losses.intra: {log: [0.001, 10], off: 0.2}      # log-uniform; exactly 0 with probability 0.2
      losses.ce: {uniform: [0, 1], when: {extractors.weights: [trained, blend]}}
      codebook.dim: {int: [16, 128], log: true}
      generator.width: {times: [0.25, 0.5, 1]}        # factors of the configuration's own value
      extractors.weights: {choice: [random, blend]}
    objectives: [accuracy, bytes]
    starts:                                           # tried first, after the configuration's own values
      - {losses.intra: 0.5}

A space is used in two steps: `Space.load` checks what the file alone can get wrong, `Space.for_config` fits it to a
configuration: factors become values, parameters whose condition never holds are left out, and all ends of all ranges
are tried in it.
"""

from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raycondense.config import Config
from raycondense.configfile import config_from_dict, field_paths, override, read_mapping
from raycondense.errors import ConfigError, choices_message
from raycondense.tuning.parameter import Dice, Parameter, Suggest, value_at

OBJECTIVES = ("accuracy", "bytes")
"""Validation accuracy is maximised; bytes of the generator and its codes are minimised."""
FIELDS = ("description", "parameters", "objectives", "starts")
# By what trials are compared, and what has no say in the result.
SAME_FOR_ALL = (
    "name", "seed", "data", "evaluation", "cluster", "codebook.ipc", "condense.images", "condense.log_images",
    "condense.checkpoint_images", "condense.precision",
)  # fmt: skip
MOST_CORNERS = 1000
"""Combinations of ends that are all tried; of more, as many random ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """Parameters and objectives of a sweep."""

    parameters: tuple[Parameter, ...]
    """In the order in which they are drawn."""
    objectives: tuple[str, ...] = ("accuracy",)
    """``("accuracy",)`` or ``("accuracy", "bytes")``."""
    description: str = ""
    starts: tuple[Mapping[str, Any], ...] = ()
    """Points that are tried first: path → value; what one leaves out is as the configuration has it."""
    name: str = field(default="space", compare=False)
    """The file's, without its ending."""
    left_out: tuple[str, ...] = field(default=(), compare=False)
    """What `for_config` left out, and why; for people."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Space:
        """Read a space from a ``.yaml``, ``.yml`` or ``.json`` file.

        Raises:
            ConfigError: no such file, not YAML or JSON, an unknown setting (the nearest valid one is named), a
                setting that has to be the same for all trials, a wrong type, an empty range, a double name.
        """
        space = cls.from_dict(read_mapping(path), source=str(path))
        return replace(space, name=Path(path).stem)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str = "") -> Space:
        """A space from what a file holds; ``source`` is what messages start with.

        Raises:
            ConfigError: as in `load`.
        """
        lead = f"{source}: " if source else ""
        try:
            for name in values:
                if name not in FIELDS:
                    raise ConfigError(choices_message("field of a space", name, FIELDS))
            description = values.get("description", "")
            if not isinstance(description, str):
                raise ConfigError(f"description: found {description!r}, valid: text")
            objectives = _objectives(values.get("objectives", ["accuracy"]))
            parameters = tuple(_parameters(values.get("parameters")))
            starts = tuple(_starts(values.get("starts", []), [parameter.path for parameter in parameters]))
        except ConfigError as error:
            raise ConfigError(f"{lead}{error}") from None
        return cls(parameters=parameters, objectives=objectives, description=description.strip(), starts=starts)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads, as plain values."""
        return {
            **({"description": self.description} if self.description else {}),
            "parameters": {parameter.path: parameter.to_dict() for parameter in self.parameters},
            "objectives": list(self.objectives),
            **({"starts": [dict(start) for start in self.starts]} if self.starts else {}),
        }

    def parameter(self, path: str) -> Parameter:
        """The parameter at a path.

        Raises:
            KeyError: there is none.
        """
        return {parameter.path: parameter for parameter in self.parameters}[path]

    def for_config(self, config: Config) -> Space:
        """This space fitted to a configuration, and checked against it.

        Raises:
            ConfigError: a condition that no parameter can meet, a factor of 0, or a value or a combination of values
                that the configuration refuses.
        """
        kept: list[Parameter] = []
        left_out: list[str] = []
        for parameter in self.parameters:
            known = {p.path for p in kept}
            fixed = [(path, valid) for path, valid in parameter.when if path not in known]
            unmet = [(path, valid) for path, valid in fixed if value_at(config, path) not in valid]
            if unmet:
                path, valid = unmet[0]
                left_out.append(
                    f"{parameter.path}: left out, {path} is {value_at(config, path)!r} and not "
                    f"{' or '.join(map(repr, valid))}"
                )
                continue
            open_ones = tuple(condition for condition in parameter.when if condition[0] in known)
            kept.append(replace(parameter.times_resolved(config), when=open_ones))
        if not kept:
            raise ConfigError(f"{self.name}: no parameter is left: {'; '.join(left_out)}")
        space = replace(self, parameters=tuple(kept), left_out=tuple(left_out))
        space.check(config)
        space.more_starts(config)
        return space

    def check(self, config: Config) -> None:
        """Build ``config`` with every end of every range, and with the ends of all ranges together.

        Raises:
            ConfigError: a value, or a combination of values, that the configuration refuses.
        """
        for values in self._corners():
            complaint = self._complaint(config, values)
            if complaint is None:
                continue
            if any(self._complaint(config, {path: value}) == complaint for path, value in values.items()):
                raise ConfigError(f"{self.name}: {complaint}")
            together = ", ".join(f"{path} = {_text(value)}" for path, value in values.items())
            raise ConfigError(f"{self.name}: {complaint} (in the combination {together})")

    def _complaint(self, config: Config, values: Mapping[str, Any]) -> str | None:
        try:
            self.apply(config, values)
        except ConfigError as error:
            return str(error)
        return None

    def _corners(self) -> Iterator[dict[str, Any]]:
        ends = [parameter.ends() for parameter in self.parameters]
        if math.prod(map(len, ends)) <= MOST_CORNERS:
            combinations: Iterator[Sequence[Any]] = itertools.product(*ends)
        else:
            dice = random.Random(0)
            # Both sides at once first, then mixtures.
            extremes = ([one[0] for one in ends], [one[-1] for one in ends])
            mixed = ([dice.choice(one) for one in ends] for _ in range(MOST_CORNERS))
            every = ([e if i == j else one[0] for j, one in enumerate(ends)] for i, own in enumerate(ends) for e in own)
            combinations = itertools.chain(extremes, every, mixed)
        for combination in combinations:
            values: dict[str, Any] = {}
            for parameter, value in zip(self.parameters, combination, strict=True):
                if parameter.applies(values):
                    values[parameter.path] = value
                elif parameter.off is not None:
                    values[parameter.path] = parameter.zero
            yield values

    def draw(self, suggest: Suggest, whole: bool = False) -> dict[str, Any]:
        """Values of a trial, from whatever suggests numbers: an ``optuna.Trial``, or `Dice`.

        A parameter ``p`` with ``off`` asks first for ``p?`` in [0, 1], which switches it off below ``off``, and only
        then for ``p`` itself. Where ``p``'s condition does not hold it is off, or, if it cannot be, left as it is.

        Args:
            suggest: asked for each number.
            whole: also ask for what is off or does not apply, so that all trials have the same parameters: CMA-ES
                searches only those, and would search nothing but switches.
        """
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.applies(values):
                values[parameter.path] = parameter.draw(suggest, whole)
                continue
            if whole:
                parameter.draw(suggest, whole)
            if parameter.off is not None:
                values[parameter.path] = parameter.zero
        return values

    def sample(self, rng: random.Random) -> dict[str, Any]:
        """Random values of a trial."""
        return self.draw(Dice(rng))

    def suggestions(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What has to be suggested for `draw` to give ``values``: Optuna's parameters of that point."""
        found: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.path in values:
                found |= parameter.suggestions(values[parameter.path])
        return found

    def apply(self, config: Config, values: Mapping[str, Any]) -> Config:
        """``config`` with the values of a trial, all at once.

        Raises:
            ConfigError: a value or a combination is not valid.
        """
        return override(config, values)

    def contains(self, values: Mapping[str, Any]) -> bool:
        """Whether ``values`` are what `draw` could give."""
        seen: dict[str, Any] = {}
        for parameter in self.parameters:
            applies = parameter.applies(seen)
            if not applies and parameter.off is None:
                continue
            if parameter.path not in values:
                return False
            value = seen[parameter.path] = values[parameter.path]
            if not (parameter.contains(value) if applies else parameter.is_off(value)):
                return False
        return set(seen) == set(values)

    def start(self, config: Config) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The configuration's own values, as a point of the space.

        Returns:
            The values, and the paths of those that lie outside, in whose place the nearest value inside was taken.
        """
        values, moved = self._point(self._values_of(config))
        return values, tuple(moved)

    def more_starts(self, config: Config) -> list[dict[str, Any]]:
        """The space's own starting points, completed by the configuration.

        Raises:
            ConfigError: a value that lies outside of its parameter's range.
        """
        wanted = self._values_of(config)
        own, _ = self._point(wanted)
        points: list[dict[str, Any]] = []
        for index, start in enumerate(self.starts):
            values, moved = self._point({**wanted, **own, **start})
            for parameter in self.parameters:
                if parameter.path in start and parameter.path in moved and parameter.applies(values):
                    given = start[parameter.path]
                    raise ConfigError(
                        f"{self.name}: starts[{index}].{parameter.path}: found {given!r}, valid: {parameter.text()}"
                    )
            points.append(values)
        return points

    def _values_of(self, config: Config) -> dict[str, Any]:
        return {parameter.path: value_at(config, parameter.path) for parameter in self.parameters}

    def _point(self, wanted: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The point nearest to ``wanted``, and the paths whose value is another one there."""
        values: dict[str, Any] = {}
        moved: list[str] = []
        for parameter in self.parameters:
            given = wanted[parameter.path]
            if parameter.applies(values):
                values[parameter.path] = parameter.nearest(given)
                moved += [] if parameter.contains(given) else [parameter.path]
            elif parameter.off is not None:
                values[parameter.path] = parameter.zero
                moved += [] if parameter.is_off(given) else [parameter.path]
        return values, moved

    def lines(self) -> list[str]:
        """The space for people, one line a parameter."""
        width = max(len(parameter.path) for parameter in self.parameters)
        return [f"{parameter.path:<{width}}  {parameter.text()}" for parameter in self.parameters]


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _objectives(found: Any) -> tuple[str, ...]:
    valid = "[accuracy] or [accuracy, bytes]"
    if not isinstance(found, (list, tuple)) or not found:
        raise ConfigError(f"objectives: found {found!r}, valid: {valid}")
    for name in found:
        if name not in OBJECTIVES:
            raise ConfigError(f"objectives: {choices_message('objective', name, OBJECTIVES)}")
    if tuple(found) not in (OBJECTIVES[:1], OBJECTIVES):
        raise ConfigError(f"objectives: found [{', '.join(found)}], valid: {valid}")
    return tuple(found)


def _parameters(found: Any) -> Iterator[Parameter]:
    if not isinstance(found, Mapping) or not found:
        raise ConfigError(f"parameters: found {found!r}, valid: one or more, e.g. 'losses.intra: {{log: [0.01, 1]}}'")
    seen: list[str] = []
    for path, settings in found.items():
        check_path(path)
        parameter = Parameter.from_dict(str(path), settings)
        for other, values in parameter.when:
            if other in found and other not in seen:
                raise ConfigError(f"{path}.when: {other} has to stand before {path}")
            for value in values:
                if not isinstance(value, str | bool | int | float):
                    raise ConfigError(f"{path}.when.{other}: found {value!r}, valid: a value, or a list of values")
            if other not in field_paths():
                config_from_dict({other: 0}, source=f"{path}.when")
        seen.append(str(path))
        yield parameter


def _starts(found: Any, paths: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    if not isinstance(found, (list, tuple)) or not all(isinstance(start, Mapping) and start for start in found):
        raise ConfigError(f"starts: found {found!r}, valid: a list of points, e.g. '- {{losses.intra: 0.5}}'")
    for index, start in enumerate(found):
        for path in start:
            if path not in paths:
                raise ConfigError(f"starts[{index}]: {choices_message('parameter of this space', path, paths)}")
        yield dict(start)


def check_path(path: Any) -> None:
    """Refuse what is no setting, and settings by which trials are compared.

    Raises:
        ConfigError: with the nearest name.
    """
    if path not in field_paths():
        # The reader of configurations knows the nearest name, also for the name of a section.
        config_from_dict({path: 0})
        raise ConfigError(f"{path}: valid: the full name of a setting")
    for fixed in SAME_FOR_ALL:
        if path == fixed or str(path).startswith(f"{fixed}."):
            raise ConfigError(
                f"{path}: cannot be searched: it has to be the same for all trials, which are compared by it; set it "
                f"in the configuration (--{str(path).replace('_', '-')})"
            )

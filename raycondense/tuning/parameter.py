"""One parameter of a search space: a range or a list of choices for one setting."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from raycondense.config import Config
from raycondense.errors import ConfigError, choices_message

FORMS = ("log", "uniform", "int", "choice", "times")
VALID = {
    float: "log: [low, high], uniform: [low, high], choice: [...] or times: [...]",
    int: "int: [low, high], choice: [...] or times: [...]",
    str: "choice: [...]",
    bool: "choice: [true, false]",
}
"""Type of a setting → the forms that its parameter may have."""


class Suggest(Protocol):
    """What values are asked of; an ``optuna.Trial`` is one."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number in [low, high], uniform in it or in its logarithm."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number in [low, high]."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        ...


class Dice:
    """Random suggestions."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        if log:
            # Rounding may lead out of the range by a bit.
            return min(high, max(low, math.exp(self._rng.uniform(math.log(low), math.log(high)))))
        return self._rng.uniform(low, high)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        if log:
            # As Optuna: every whole number owns the logarithms from a half below it to a half above.
            return min(high, max(low, round(math.exp(self._rng.uniform(math.log(low - 0.5), math.log(high + 0.5))))))
        return self._rng.randint(low, high)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._rng.choice(choices)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """Where one setting is searched."""

    path: str
    """Of the setting, e.g. ``losses.intra``."""
    kind: Literal["float", "int", "choice"]
    low: float | int | None = None
    """Least value of a float or int, apart from 0 for off."""
    high: float | int | None = None
    """Largest value of a float or int."""
    log: bool = False
    """Drawn uniformly in the logarithm."""
    off: float | None = None
    """Probability of exactly 0 instead of a value of the range; None is no such thing."""
    choices: tuple[Any, ...] = ()
    """Values of a choice."""
    times: bool = False
    """``choices`` are factors of the configuration's own value (until `times_resolved`)."""
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """Conditions: another setting has to have one of these values, else this one is off, or stays as it is."""

    @property
    def switch(self) -> str:
        """Name of what decides whether the parameter is off."""
        return f"{self.path}?"

    @property
    def zero(self) -> float | int:
        """The value of off."""
        return 0 if self.kind == "int" else 0.0

    def is_off(self, value: Any) -> bool:
        """Whether ``value`` is that of off."""
        return self.off is not None and _is_number(value) and value == 0

    @classmethod
    def from_dict(cls, path: str, found: Any) -> Parameter:
        """Read what stands behind a setting's name in a space's file.

        Raises:
            ConfigError: an unknown key, a form that does not fit the setting's type, an empty range.
        """
        kind = type(value_at(Config(), path))
        if kind not in VALID:
            raise ConfigError(f"{path}: cannot be searched, valid: a setting with a single value")
        if not isinstance(found, Mapping):
            raise ConfigError(f"{path}: found {found!r}, valid: {{{VALID[kind]}}}")
        # YAML 1.1 reads a bare ``off`` as false.
        found = {"off" if key is False else key: value for key, value in found.items()}
        for key in found:
            if key not in (*FORMS, "off", "when"):
                raise ConfigError(f"{path}: {choices_message('key', key, (*FORMS, 'off', 'when'))}")
        # ``log`` is a form of its own, or says of ``int`` that it is logarithmic.
        forms = [form for form in FORMS if form in found and not (form == "log" and "int" in found)]
        if len(forms) != 1 or f"{forms[0]}:" not in VALID[kind]:
            raise ConfigError(f"{path}: found {', '.join(forms) or 'no range'}, valid: {VALID[kind]}")
        (form,) = forms
        parameter = cls(path=path, kind="choice", when=_conditions(path, found.get("when")))
        if form in ("choice", "times"):
            choices = _choices(path, form, found[form])
            parameter = replace(parameter, choices=choices, times=form == "times")
        else:
            logarithmic = form == "log" or _flag(path, found.get("log", False))
            low, high = _range(path, form, found[form], logarithmic)
            whole = form == "int"
            parameter = replace(parameter, kind="int" if whole else "float", low=low, high=high, log=logarithmic)
        if "off" in found:
            parameter = replace(parameter, off=_probability(path, found["off"], parameter))
        return parameter

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads."""
        found: dict[str, Any]
        if self.kind == "choice":
            found = {"times" if self.times else "choice": list(self.choices)}
        elif self.kind == "int":
            found = {"int": [self.low, self.high], **({"log": True} if self.log else {})}
        else:
            found = {"log" if self.log else "uniform": [self.low, self.high]}
        if self.off is not None:
            found["off"] = self.off
        if self.when:
            found["when"] = {path: list(values) for path, values in self.when}
        return found

    def times_resolved(self, config: Config) -> Parameter:
        """With values in place of factors of the configuration's own value; whole numbers are rounded.

        Raises:
            ConfigError: the configuration's own value is 0.
        """
        if not self.times:
            return self
        own = value_at(config, self.path)
        if not own:
            raise ConfigError(f"{self.path}: times: the configuration's own value is 0; valid: choice, or a range")
        values = [round(own * factor) if isinstance(own, int) else own * factor for factor in self.choices]
        return replace(self, choices=tuple(dict.fromkeys(values)), times=False)

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether the conditions hold where ``values`` were drawn before."""
        return all(path in values and values[path] in valid for path, valid in self.when)

    def ends(self) -> tuple[Any, ...]:
        """The extreme values: 0 where the parameter may be off, low and high, or all choices; a 0 comes first."""
        if self.kind == "choice":
            return self.choices
        return (*(() if self.off is None else (self.zero,)), self.low, self.high)

    def draw(self, suggest: Suggest, whole: bool = False) -> Any:
        """A value; see `raycondense.tuning.space.Space.draw`."""
        off = self.off is not None and suggest.suggest_float(self.switch, 0.0, 1.0) < self.off
        if off and not whole:
            return self.zero
        value = self._value(suggest)
        return self.zero if off else value

    def _value(self, suggest: Suggest) -> Any:
        if self.kind == "choice":
            return suggest.suggest_categorical(self.path, list(self.choices))
        assert self.low is not None
        assert self.high is not None
        if self.kind == "int":
            return suggest.suggest_int(self.path, int(self.low), int(self.high), log=self.log)
        return suggest.suggest_float(self.path, float(self.low), float(self.high), log=self.log)

    def suggestions(self, value: Any) -> dict[str, Any]:
        """What has to be suggested for ``value``."""
        if self.off is None:
            return {self.path: value}
        if value == 0:
            return {self.switch: self.off / 2}
        return {self.switch: (1 + self.off) / 2, self.path: value}

    def contains(self, value: Any) -> bool:
        """Whether `draw` could give ``value``."""
        if self.kind == "choice":
            # True == 1 in Python; not here.
            return any((value, isinstance(value, bool)) == (c, isinstance(c, bool)) for c in self.choices)
        if not _is_number(value) or self.is_off(value):
            return self.is_off(value)
        assert self.low is not None
        assert self.high is not None
        return bool(self.low <= value <= self.high) and (self.kind == "float" or value == int(value))

    def nearest(self, value: Any) -> Any:
        """``value``, or the nearest one in the range or among the choices (the first of those, of text)."""
        if self.contains(value):
            return self.zero if self.is_off(value) else value
        if self.kind == "choice":
            numeric = not isinstance(value, (str, bool)) and not any(isinstance(c, (str, bool)) for c in self.choices)
            return min(self.choices, key=lambda choice: abs(choice - value)) if numeric else self.choices[0]
        assert self.low is not None
        assert self.high is not None
        return min(self.high, max(self.low, value))

    def text(self) -> str:
        """The range for people."""
        if self.kind == "choice":
            text = ("the configuration's times " if self.times else "") + ", ".join(map(str, self.choices))
        else:
            text = f"{self.low:g} to {self.high:g}" + (", whole" if self.kind == "int" else "")
            text += ", uniform in the logarithm" if self.log else ""
        if self.off is not None:
            text += f", or off (0) with probability {self.off:g}"
        for path, values in self.when:
            text += f", where {path} is {' or '.join(map(str, values))}"
        return text


def value_at(config: Config, path: str) -> Any:
    """The value of a setting, e.g. ``value_at(config, "losses.intra")``."""
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _is_number(value: Any) -> bool:
    # Python compares any whole number with the largest float; `math.isfinite` fails on what is larger.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _range(path: str, form: str, found: Any, log: bool) -> tuple[float | int, float | int]:
    if not isinstance(found, (list, tuple)) or len(found) != 2 or not all(map(_is_number, found)):
        raise ConfigError(f"{path}: {form}: found {found!r}, valid: [low, high], two finite numbers")
    low, high = found
    if form == "int":
        if low != int(low) or high != int(high):
            raise ConfigError(f"{path}: int: found {found!r}, valid: [low, high], two whole numbers")
        low, high = int(low), int(high)
    else:
        low, high = float(low), float(high)
    if low >= high:
        raise ConfigError(f"{path}: {form}: found {found!r}, an empty range, valid: [low, high] with low < high")
    if log and low <= 0:
        raise ConfigError(f"{path}: {form}: found {found!r}, valid for a logarithm: more than 0 (off: 0.2 adds the 0)")
    return low, high


def _choices(path: str, form: str, found: Any) -> tuple[Any, ...]:
    if not isinstance(found, (list, tuple)) or len(found) < 2:
        raise ConfigError(f"{path}: {form}: found {found!r}, valid: a list of two or more")
    if form == "times":
        if not all(_is_number(value) and value > 0 for value in found):
            raise ConfigError(f"{path}: times: found {found!r}, valid: factors, more than 0")
    elif not all(isinstance(value, (str, bool)) or _is_number(value) for value in found):
        raise ConfigError(f"{path}: choice: found {found!r}, valid: numbers, words, true and false")
    if len({(type(value), value) for value in found}) != len(found):
        raise ConfigError(f"{path}: {form}: found {found!r}, valid: each value once")
    return tuple(found)


def _probability(path: str, found: Any, parameter: Parameter) -> float:
    if parameter.kind == "choice":
        raise ConfigError(f"{path}: off: found with a choice, valid with a range (a choice may hold 0 itself)")
    if not _is_number(found) or not 0 < found < 1:
        raise ConfigError(f"{path}: off: found {found!r}, valid: a probability between 0 and 1")
    assert parameter.low is not None
    if parameter.low <= 0:
        raise ConfigError(f"{path}: off: found with a range that holds 0 itself, valid with a range above 0")
    return float(found)


def _flag(path: str, found: Any) -> bool:
    if not isinstance(found, bool):
        raise ConfigError(f"{path}: log: found {found!r}, valid beside int: true or false")
    return found


def _conditions(path: str, found: Any) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    if found is None:
        return ()
    if not isinstance(found, Mapping) or not found:
        raise ConfigError(f"{path}: when: found {found!r}, valid: settings with the values at which {path} matters")
    conditions = []
    for other, values in found.items():
        valid = values if isinstance(values, (list, tuple)) else [values]
        conditions.append((str(other), tuple(valid)))
    return tuple(conditions)

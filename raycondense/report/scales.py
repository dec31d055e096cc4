"""Where the values of a sweep's parameters stand: on drawn axes, and in the unit interval that they were sampled from.

``off`` is a place of its own on both. On a logarithmic axis zero is nowhere, so it stands apart, below the range.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raycondense.tuning.parameter import Parameter

OFF = "off"
UNUSED = "unused"
OFF_PLACE = -0.17
"""Where ``off`` stands on an axis whose range goes from 0 to 1."""


MOST_TICKS = 5


@dataclass(frozen=True, slots=True)
class Scale:
    """The axis of a parameter."""

    parameter: Parameter
    low: float
    """Left end of the range; a choice has its number in ``choices``."""
    high: float
    zero: bool
    """Whether 0 stands apart."""
    absent: bool
    """Whether trials are on the axis in which the parameter had no say; they stand with those that are off."""

    @classmethod
    def of(cls, parameter: Parameter, values: Iterable[Any] = ()) -> Scale:
        """An axis that holds ``values`` too: a starting point may lie outside of the range that is searched."""
        values = list(values)
        absent, known = None in values, [value for value in values if value is not None]
        if parameter.kind == "choice":
            return cls(parameter, -0.5, len(parameter.choices) - 0.5, False, absent)
        numbers = [float(value) for value in known]
        zero = bool(parameter.off) or (parameter.log and any(number <= 0 for number in numbers))
        inside = [number for number in numbers if not (zero and number <= 0)]
        ends = [*inside, *_ends(parameter)]
        return cls(parameter, min(ends), max(ends), zero, absent)

    @property
    def aside(self) -> str:
        """What stands below the range; empty where nothing does."""
        return " / ".join([OFF] * self.zero + [UNUSED] * self.absent)

    @property
    def start(self) -> float:
        """Left end of everything on the axis."""
        return OFF_PLACE if self.aside else 0.0

    def place(self, value: Any) -> float:
        """Where a value stands: 0 to 1, or `OFF_PLACE`; None is a parameter that had no say."""
        if value is None:
            return OFF_PLACE
        if self.parameter.kind == "choice":
            return (_number(self.parameter, value) - self.low) / (self.high - self.low)
        if self.zero and float(value) <= 0:
            return OFF_PLACE
        return _share(float(value), self.low, self.high, self.parameter.log)

    def value(self, place: float) -> float:
        """The number at a place, 0 to 1, of a range."""
        if self.parameter.log:
            return self.low * (self.high / self.low) ** place
        return self.low + place * (self.high - self.low)

    def ticks(self, most: int = MOST_TICKS) -> list[tuple[float, str]]:
        """Places with what stands beside them."""
        if self.parameter.kind == "choice":
            return self._with_aside([(self.place(choice), shown(choice)) for choice in self.parameter.choices])
        marks = _log_marks(self.low, self.high, most) if self.parameter.log else _marks(self.low, self.high, most)
        if self.parameter.kind == "int":
            marks = [mark for mark in marks if mark == round(mark)]
        return self._with_aside([(self.place(mark), shown(mark)) for mark in marks])

    def _with_aside(self, ticks: list[tuple[float, str]]) -> list[tuple[float, str]]:
        return [(OFF_PLACE, self.aside), *ticks] if self.aside else ticks


def unit_place(parameter: Parameter, value: Any) -> float | None:
    """Where a value stands in the unit interval whose uniform distribution is the space's; None outside of the space.

    The first ``off`` of the interval is the zero, the rest the range; each choice has a stretch of the same length.
    """
    if parameter.kind == "choice":
        return (_number(parameter, value) + 0.5) / len(parameter.choices) if value in parameter.choices else None
    number, off = float(value), float(parameter.off or 0.0)
    if off and number == 0:
        return off / 2
    # A whole number stands for the stretch of half a step on both sides of it.
    half = 0.5 if parameter.kind == "int" else 0.0
    least, most = _ends(parameter)
    low, high = least - half, most + half
    if not low <= number <= high:
        return None
    return off + (1 - off) * _share(number, low, high, parameter.log)


def snapped(parameter: Parameter, place: float, first: float) -> float:
    """A split of the unit interval, moved to where the space has an edge.

    Args:
        parameter: of the interval.
        place: half-way between two values that were seen, as a tree splits.
        first: the least place that was seen in the range.
    """
    if parameter.kind == "choice":
        return round(place * len(parameter.choices)) / len(parameter.choices)
    off = float(parameter.off or 0.0)
    return off if off / 2 < place <= first else place


def shown(value: Any) -> str:
    """A value for people; None is a parameter that had no say."""
    if value is None:
        return UNUSED
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) and abs(value) < 1e7:
        return str(value)
    if value and not 1e-3 <= abs(value) < 1e5:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _ends(parameter: Parameter) -> tuple[float, float]:
    assert parameter.low is not None
    assert parameter.high is not None
    return float(parameter.low), float(parameter.high)


def _number(parameter: Parameter, value: Any) -> int:
    return list(parameter.choices).index(value)


def _share(number: float, low: float, high: float, log: bool) -> float:
    if high <= low:
        return 0.5
    if log:
        return math.log(number / low) / math.log(high / low)
    return (number - low) / (high - low)


def _marks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from ``low`` to ``high``."""
    least = (high - low or 1.0) / (most - 1)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{step * i:.6g}") for i in range(first, last + 1)]


def _log_marks(low: float, high: float, most: int) -> list[float]:
    """Powers of ten between ``low`` and ``high``, and twice and five times them where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    kinds: Sequence[tuple[int, ...]] = ((1, 2, 5), (1, 3), (1,))
    for factors in kinds:
        found = [f * 10.0**p for p in powers for f in factors if low * 0.999 <= f * 10.0**p <= high * 1.001]
        if len(found) <= most:
            break
    else:
        found = found[:: -(-len(found) // most)]
    # Floats of powers of ten, without their last digits.
    return [float(f"{mark:.6g}") for mark in found] or [low, high]

"""Whether a value read from JSON looks as it must: what files from strangers go through before anybody indexes them."""

from __future__ import annotations

import math
from typing import Any

OBJECT, LIST = {str: object}, [object]
"""Any object, any list."""
TEXT, WHOLE, NUMBER, FLAG = str, int, float, bool
"""``float`` is a finite number, whole ones too; ``int`` and ``float`` take no ``true`` and ``false``."""
_NAMES = {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}


def fault(value: Any, shape: Any, place: str = "") -> str:
    """What is wrong with ``value``, in one line; empty where nothing is.

    Args:
        value: what `raycondense.storage.read_json` gave.
        shape: ``str``, ``int``, ``float`` or ``bool``; ``object`` for anything; a tuple of shapes and None for one of
            them; ``[shape]`` for a list; ``{str: shape}`` for an object; ``{"name": shape, "other?": shape}`` for one
            with these fields (``?``: it may be missing), among others.
        place: what messages start with.
    """
    if isinstance(shape, tuple):
        faults = [fault(value, one, place) for one in shape]
        return "" if "" in faults else faults[0]
    if shape is None or shape is object:
        return "" if shape is object or value is None else _message(place, value, "null")
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _message(place, value, "a list")
        return _first(fault(inner, shape[0], f"{place}[{i}]") for i, inner in enumerate(value))
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return _message(place, value, "an object")
        if str in shape:
            return _first(fault(inner, shape[str], _inside(place, key)) for key, inner in value.items())
        return _first(_field(value, name, inner, place) for name, inner in shape.items())
    found = type(value)
    if found is shape or (shape is float and found is int):
        return "" if found is not float or math.isfinite(value) else _message(place, value, _NAMES[shape])
    return _message(place, value, _NAMES[shape])


def _field(value: dict[str, Any], name: str, shape: Any, place: str) -> str:
    key = name.removesuffix("?")
    if key not in value:
        return "" if key != name else f"{_inside(place, key)}: missing"
    return fault(value[key], shape, _inside(place, key))


def _first(faults: Any) -> str:
    return next((one for one in faults if one), "")


def _inside(place: str, key: str) -> str:
    return f"{place}.{key[:40]}" if place else key[:40]


def _message(place: str, value: Any, valid: str) -> str:
    return f"{place or 'the value'}: found {_short(value)}, valid: {valid}"


def _short(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

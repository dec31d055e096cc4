"""Damage for `tools/fuzz.py`: bytes, JSON values, archives and numbers at known places, all from one random generator.

Every function takes a `random.Random` and gives a new value; equal generators give equal damage.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

MOST_BYTES = 1 << 18
NUMBERS = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 4096, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
           2**40, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3.5, -0.0, 1e-320, 1e308, 2**31, 2**63, 2**64, -(2**63), 10**400, float("nan"),
    float("inf"), float("-inf"), "", "a", "0", "nan", "..", "../../etc/passwd", "/etc/passwd", "/dev/zero", "\x00",
    "\ud800", "é" * 300, "x" * 5000, "<script>alert(1)</script>", "%s%n{0}", [], {}, [[]], [None], [1, 2, 3],
    ["a", "a"], [0.5, 0.5, 0.5], {"a": 1}, {"": {}}, [1e999], "1" * 5000,
)  # fmt: skip
"""What a stranger may put in the place of any JSON value."""


def damage(dice: random.Random, data: bytes, others: Sequence[bytes] = (), words: Sequence[bytes] = ()) -> bytes:
    """``data`` after one to eight changes of its bytes.

    Args:
        dice: decides.
        data: what to damage.
        others: inputs of the same kind, to take pieces from.
        words: pieces that mean something to the reader.
    """
    out = bytearray(data)
    for _ in range(min(8, 1 + int(dice.expovariate(0.7)))):
        place = dice.randrange(len(out) + 1)
        # Heads and tails are where formats keep what they believe.
        if out and dice.random() < 0.4:
            place = (
                dice.randrange(min(len(out), 128)) if dice.random() < 0.6 else -1 - dice.randrange(min(len(out), 64))
            )
            place %= len(out)
        length = min(len(out) - place, 1 + int(dice.expovariate(0.1)))
        match dice.randrange(10):
            case 0 if length:
                out[place] ^= 1 << dice.randrange(8)
            case 1 if length:
                out[place] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
            case 2:
                out[place:place] = dice.randbytes(1 + dice.randrange(8))
            case 3:
                del out[place : place + length]
            case 4:
                out[place:place] = out[place : place + length] * dice.choice((1, 1, 2, 50))
            case 5:
                del out[place:]
            case 6 | 7:
                size, number = dice.choice((1, 2, 4, 8)), dice.choice(NUMBERS) + dice.choice((-1, 0, 0, 1))
                order = dice.choice(("little", "big"))
                piece = (number % 256**size).to_bytes(size, order)
                out[place : place + size] = piece
            case 8 if words:
                word = dice.choice(words)
                out[place : place + (len(word) if dice.random() < 0.5 else 0)] = word
            case 9 if others:
                other = dice.choice(others)
                start = dice.randrange(len(other) + 1)
                out[place : place + length] = other[start : start + 1 + int(dice.expovariate(0.02))]
            case _:
                out[place : place + length] = dice.randbytes(length)
    return bytes(out[:MOST_BYTES])


def damage_value(dice: random.Random, value: Any, names: Sequence[str] = ()) -> Any:
    """A JSON value after one to four changes anywhere inside it; ``names`` are keys that mean something."""
    for _ in range(1 + int(dice.expovariate(1.0))):
        value = _change(dice, value, names)
    return value


def _change(dice: random.Random, value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, (dict, list)) and value and dice.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = dice.choice(keys)
        copy = value.copy()
        action = dice.random()
        if action < 0.75:
            copy[key] = _change(dice, value[key], names)
        elif action < 0.85:
            del copy[key]
        elif isinstance(copy, dict):
            name = dice.choice([*names, *value, "x", ""]) if names or value else "x"
            copy[name] = dice.choice([value[key], *VALUES[:8], dice.choice(VALUES)])
        else:
            copy[key:key] = [value[key]] * dice.choice((1, 2, 100))
        return copy
    match dice.randrange(8):
        case 0 if isinstance(value, (int, float)) and not isinstance(value, bool):
            return dice.choice((-value, value * 2, value + 1, value - 1, [value], 0.5, 1.5))
        case 1 if isinstance(value, str) and value:
            place = dice.randrange(len(value))
            return value[:place] + dice.choice(("", "/../", "\x00", "é", value)) + value[place + 1 :]
        case 2:
            return {"a": value}
        case 3:
            return [value]
        case 4:
            nested: Any = value
            for _ in range(dice.choice((5, 50, 400, 3000))):
                nested = [nested] if dice.random() < 0.5 else {"a": nested}
            return nested
        case _:
            return dice.choice(VALUES)


def json_bytes(value: Any) -> bytes:
    """``value`` as JSON, also where it is nested deeper than Python's own writer goes."""
    try:
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")[:MOST_BYTES]
    except RecursionError:
        depth, inner = 0, value
        while isinstance(inner, (dict, list)) and len(inner) == 1:
            depth += 1
            inner = inner[0] if isinstance(inner, list) else next(iter(inner.values()))
        return b"[" * max(depth, 5000) + b"1" + b"]" * max(depth, 5000)


def damage_json(dice: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """A JSON file: mostly another value, else other bytes."""
    if dice.random() < 0.2:
        return damage(dice, data, others, words)
    return json_bytes(damage_value(dice, json.loads(data), [word.decode() for word in words]))


def damage_yaml(dice: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """A YAML file: other bytes, or another value in its flow style, which is JSON."""
    if dice.random() < 0.5:
        return damage(dice, data, others, words)
    import yaml

    value = yaml.safe_load(data)
    return json_bytes(damage_value(dice, json.loads(json.dumps(value, default=str))))


def damage_lines(dice: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """A file of JSON lines: one line damaged, left out or repeated."""
    if dice.random() < 0.15:
        return damage(dice, data, others, words)
    lines = data.splitlines(keepends=True)
    place = dice.randrange(len(lines))
    match dice.randrange(6):
        case 0:
            del lines[place]
        case 1:
            lines.insert(dice.randrange(len(lines) + 1), lines[place])
        case _:
            lines[place] = damage_json(dice, lines[place].rstrip(b"\n"), (), words) + b"\n"
    return b"".join(lines)[:MOST_BYTES]


def damage_zip(dice: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """An archive: other bytes, or sound around a damaged member."""
    if dice.random() < 0.4:
        return damage(dice, data, others, words)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    place = dice.randrange(len(members))
    name, content = members[place]
    match dice.randrange(8):
        case 0:
            del members[place]
        case 1:
            members[place] = (dice.choice(members)[0], content)
        case 2:
            members[place] = (name, dice.choice(members)[1])
        case _:
            members[place] = (name, damage(dice, content, [m for _, m in members], words))
    out = io.BytesIO()
    kind = dice.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members:
            entry = zipfile.ZipInfo(name)  # of 1980: the same bytes whenever this runs
            entry.compress_type = kind
            archive.writestr(entry, content)
    return out.getvalue()


def damage_safetensors(dice: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """A safetensors file: other bytes, or another header of the right length."""
    if dice.random() < 0.4:
        return damage(dice, data, others, words)
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    if dice.random() < 0.2:
        body = damage(dice, body)
    text = json_bytes(damage_value(dice, header, [word.decode() for word in words]) if dice.random() < 0.8 else header)
    return struct.pack("<Q", len(text)) + text + body


def numbers_at(places: Sequence[tuple[int, int]]) -> Callable[..., bytes]:
    """A damage that mostly sets numbers at known ``places`` (position, size in bytes), little-endian."""

    def damage_numbers(dice: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
        if dice.random() < 0.35:
            return damage(dice, data, others, words)
        out = bytearray(data)
        for _ in range(1 + int(dice.expovariate(1.0))):
            position, size = dice.choice(places)
            before = int.from_bytes(out[position : position + size], "little")
            number = dice.choice((*NUMBERS, before + 1, before - 1, before * 2, before + 8, len(data), len(data) - 1))
            out[position : position + size] = (number % 256**size).to_bytes(size, "little")
        return bytes(out)

    return damage_numbers

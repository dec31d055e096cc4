"""Configurations to and from plain dicts, YAML and JSON, strictly: whatever is not understood is an error.

A file holds only what its author wants to change: fields that it leaves out keep the value of the preset that
its ``preset`` key names, or the default of `raycondense.config.Config`. This module does not decide what values
are good; the dataclasses of `raycondense.config` do.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import numbers
import os
from collections.abc import Container, Hashable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from raycondense.config import Config
from raycondense.errors import ConfigError
from raycondense.storage import write_text

MAX_FILE_BYTES = 1 << 17
MOST_VALUES = 20_000
"""Values of a YAML file once every alias stands for what it names: some lines of aliases can name billions."""
ENDINGS = (".yaml", ".yml", ".json")
FREE_TO_CHANGE = (
    "cluster", "evaluation", "condense.log_images", "condense.checkpoint_images", "data.workers", "data.cache",
)  # fmt: skip
"""What may differ between a run and its continuation: where and how it runs and is judged, not what it computes."""

Section = TypeVar("Section")


def config_to_dict(config: Any) -> dict[str, Any]:
    """A configuration (or one section of it) as a dict of plain numbers, strings, lists and dicts."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            value = config_to_dict(value)
        out[field.name] = list(value) if isinstance(value, tuple) else value
    return out


def config_from_dict(values: Mapping[str, Any], *, base: Config | None = None, source: str = "") -> Config:
    """A whole configuration from a dict such as `config_to_dict` makes.

    Args:
        values: nested dict (``{"losses": {"intra": 0.1}}``), dotted keys (``{"losses.intra": 0.1}``) or both.
        base: where fields that ``values`` leaves out come from; None takes the defaults.
        source: what messages start with, usually the file's name.

    Raises:
        ConfigError: an unknown field (the nearest valid one is named), a value of the wrong type or out of range,
            or one field set twice to different values.
    """
    return section_from_dict(Config, values, base=base, source=source)


def override(config: Config, values: Mapping[str, Any], *, source: str = "") -> Config:
    """``config`` with some fields replaced, all at once, so that fields which depend on each other may change together.

    ``override(config, {"losses.intra": 0.3, "extractors": {"weights": "blend"}, "losses.ce": 0.5})``

    Raises:
        ConfigError: as in `config_from_dict`.
    """
    return config_from_dict(values, base=config, source=source)


def section_from_dict(
    cls: type[Section], values: Mapping[str, Any], *, base: Section | None = None, name: str = "", source: str = ""
) -> Section:
    """One dataclass of `raycondense.config` from a dict; ``name`` is its place in the whole, e.g. ``"generator"``.

    Raises:
        ConfigError: as in `config_from_dict`.
    """
    lead = f"{source}: " if source else ""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{lead}{name or 'the configuration'}: found {_describe(values)}, valid: fields with values")
    try:
        merged: dict[str, Any] = {}
        _merge(cls, values, name, merged)
        plain = config_to_dict(base) if base is not None else {}
        return _build(cls, plain, merged, name)
    except ConfigError as error:
        raise ConfigError(f"{lead}{error}") from error.__cause__


def load_config(path: str | os.PathLike[str], *, base: Config | None = None) -> Config:
    """Read a configuration from a ``.yaml``, ``.yml`` or ``.json`` file.

    The file may name a preset to start from (``preset: cifar10``); otherwise it starts from ``base``, or the defaults.

    Raises:
        ConfigError: no such file, another ending, not YAML or JSON, or a field that is not valid.
    """
    values = dict(read_mapping(path))
    if "preset" in values:
        from raycondense.presets import get_preset  # presets know this module's readers, not the other way round

        preset = values.pop("preset")
        if not isinstance(preset, str):
            raise ConfigError(f"{path}: preset: found {_describe(preset)}, valid: the name of a preset")
        try:
            base = get_preset(preset)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    return config_from_dict(values, base=base, source=str(path))


def save_config(config: Config, path: str | os.PathLike[str]) -> None:
    """Write every field of ``config`` to a ``.yaml``, ``.yml`` or ``.json`` file, whole or not at all.

    Raises:
        ConfigError: another ending.
    """
    ending = _ending(path)
    values = config_to_dict(config)
    write_text(path, json.dumps(values, indent=2) + "\n" if ending == ".json" else config_to_yaml(values))


def config_to_yaml(values: Mapping[str, Any] | Config) -> str:
    """A configuration as YAML text, in the order of its fields, short lists on one line."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    Dumper.add_representer(
        list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
    )
    plain = config_to_dict(values) if isinstance(values, Config) else dict(values)
    text: str = yaml.dump(plain, Dumper=Dumper, sort_keys=False, default_flow_style=False, width=100)
    return text


def read_mapping(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Read a YAML or JSON file that holds one mapping, refusing keys that stand in it twice.

    Raises:
        ConfigError: no such file, another ending, too large, not YAML or JSON, or something else than a mapping.
    """
    ending = _ending(path)
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{path}: no such file; valid: a configuration in {', '.join(ENDINGS)}")
    size = file.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: found {size} bytes, valid: a configuration of at most {MAX_FILE_BYTES}")
    try:
        text = file.read_text(encoding="utf-8")
        values = json.loads(text, object_pairs_hook=_unique_keys) if ending == ".json" else _load_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise ConfigError(f"{path}: not valid {ending[1:].upper()}: {' '.join(str(error).split())}") from error
    if values is None and ending != ".json":
        return {}  # an empty YAML file, or one of comments only, changes nothing
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: found {_describe(values)}, valid: fields with values, e.g. 'seed: 1'")
    return values


def _ending(path: str | os.PathLike[str]) -> str:
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise ConfigError(f"{path}: ending {ending!r} of a configuration file; valid: {', '.join(ENDINGS)}")
    return ending


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ConfigError(f"{key}: set twice")
        out[key] = value
    return out


@functools.cache
def _yaml_loader() -> Any:
    """PyYAML's safe loader that reads ``5e-4`` as a number (YAML 1.1 asks for a dot) and refuses double keys."""
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        def get_single_node(self) -> Any:
            node = super().get_single_node()
            if node is not None and _values_below(node, {}) > MOST_VALUES:
                raise ConfigError(f"found more than {MOST_VALUES} values (aliases count as what they name)")
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[Any] = set()
            for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, Hashable):
                    raise ConfigError(f"line {key_node.start_mark.line + 1}: found {_describe(key)}, valid: a name")
                if key in seen:
                    raise ConfigError(f"{key}: set twice (line {key_node.start_mark.line + 1})")
                seen.add(key)
            return super().construct_mapping(node, deep=deep)

    number = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader


def _values_below(node: Any, known: dict[int, int]) -> int:
    """Values of a YAML node, aliases written out; more than `MOST_VALUES` where it holds itself."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1
        children = node.value if isinstance(node.value, list) else ()
        inner = [one for child in children for one in (child if isinstance(child, tuple) else (child,))]
        known[id(node)] = 1 + sum(_values_below(one, known) for one in inner)
    return known[id(node)]


def _load_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=_yaml_loader())
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


@functools.cache
def _field_types(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@functools.cache
def field_paths(cls: type = Config, prefix: str = "") -> tuple[str, ...]:
    """Dotted names of all fields that hold a value, e.g. ``"losses.intra"``."""

    def walk() -> Iterator[str]:
        for name, hint in _field_types(cls).items():
            path = f"{prefix}.{name}" if prefix else name
            if dataclasses.is_dataclass(hint):
                yield from field_paths(hint, path)  # type: ignore[arg-type]  # a class, not an instance
            else:
                yield path

    return tuple(walk())


def _merge(cls: type, values: Mapping[Any, Any], place: str, into: dict[str, Any]) -> None:
    """Bring dotted and nested keys into one nested dict, checking names on the way."""
    types = _field_types(cls)
    for key, value in values.items():
        head, _, rest = str(key).partition(".")
        path = f"{place}.{head}" if place else head
        if head not in types:
            raise ConfigError(_unknown(cls, place, str(key)))
        if dataclasses.is_dataclass(types[head]):
            inner = {rest: value} if rest else value
            if not isinstance(inner, Mapping):
                raise ConfigError(f"{path}: found {_describe(value)}, valid: fields with values")
            _merge(types[head], inner, path, into.setdefault(head, {}))
        elif rest:
            raise ConfigError(f"{path}.{rest}: {path} is a value and has no fields")
        elif head in into and into[head] != value:
            raise ConfigError(f"{path}: set twice, to {_describe(into[head])} and to {_describe(value)}")
        else:
            into[head] = value


def _unknown(cls: type, place: str, key: str) -> str:
    """A message that names the nearest field, also of another section: people write ``intra`` for ``losses.intra``."""
    full = f"{place}.{key}" if place else key
    everything = field_paths() if cls is Config or place in _field_types(Config) else field_paths(cls, place)
    leaf = key.rpartition(".")[2]
    near = difflib.get_close_matches(full, [*everything, *_field_types(Config)], n=1, cutoff=0.75)
    near = near or [path for path in everything if path.rpartition(".")[2] == leaf]
    near = near or difflib.get_close_matches(full, everything, n=1)
    hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
    here = f" in {place}" if place else ""
    return f"unknown field {full!r}{hint}; valid{here}: {', '.join(_field_types(cls))}"


def _build(cls: type[Section], base: Mapping[str, Any], changes: Mapping[str, Any], place: str) -> Section:
    arguments: dict[str, Any] = {}
    for name, hint in _field_types(cls).items():  # type: ignore[arg-type]  # classes are hashable
        path = f"{place}.{name}" if place else name
        if dataclasses.is_dataclass(hint):
            arguments[name] = _build(hint, base.get(name, {}), changes.get(name, {}), path)  # type: ignore[arg-type]
        elif name in changes or name in base:
            arguments[name] = _convert(hint, changes.get(name, base.get(name)), path)
    return cls(**arguments)


def _convert(hint: Any, value: Any, path: str) -> Any:
    """``value`` as the type of a field: whole floats count as integers (``images: 1e6``), never bools as numbers."""
    if isinstance(hint, UnionType):  # one number or several: the value's own shape says which
        several = isinstance(value, (list, tuple))
        return _convert(next(one for one in get_args(hint) if (get_origin(one) is tuple) == several), value, path)
    if get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{path}: found {_describe(value)}, valid: a list")
        return tuple(_convert(get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if get_origin(hint) is Literal:
        if not isinstance(value, str):
            raise ConfigError(f"{path}: found {_describe(value)}, valid: {', '.join(get_args(hint))}")
        return value  # which string, the dataclass checks itself
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if hint is int and number and _is_finite(value) and value == int(value):
        return int(value)
    if hint is float and number and _is_finite(value):
        return float(value)
    if hint in (bool, str) and isinstance(value, hint) and (hint is bool or _is_unicode(value)):
        return value
    valid = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}[hint]
    raise ConfigError(f"{path}: found {_describe(value)}, valid: {valid}")


def _is_finite(value: Any) -> bool:
    """Of any number."""
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False


def _is_unicode(text: str) -> bool:
    """Whether a text can be written down: JSON and YAML can name half a character."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], free: Container[str], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Where two nested descriptions differ: name, what it was, what it is, by name.

    Args:
        before: as JSON has it.
        now: likewise.
        free: names, such as ``"cluster"`` or ``"data.workers"``, that may differ with all that is in them.
        prefix: of the names.
    """
    for key in sorted(before.keys() | now.keys()):
        name, old, new = f"{prefix}{key}", before.get(key), now.get(key)
        if name in free or old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, free, f"{name}.")
        else:
            yield name, old, new


def _describe(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"

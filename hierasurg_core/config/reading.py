"""The strict reading of YAML files and `key=value` texts into the config dataclasses, and their writing.

Owns how text becomes a typed value. It refuses unknown sections and keys (with a suggestion), keys given
twice and values of a wrong type; what a value may be is the dataclasses' own affair.

A file has one section a command:

    generate:
      phase: calot
      steps: 20
    train-s2m:
      lr: 1e-4
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast

import yaml

from hierasurg_core.artifacts import atomic_file
from hierasurg_core.config.paths import as_path
from hierasurg_core.config.ranks import LAST
from hierasurg_core.config.runs import SECTIONS
from hierasurg_core.config.yaml_nodes import plain, read_yaml
from hierasurg_core.errors import UsageError, shown
from hierasurg_core.text_files import MAX_DIGITS

Config = TypeVar("Config")

_NOTHING = (None, "", "null", "~")


def load_config(
    cls: type[Config],
    section: str,
    *,
    files: Sequence[Path],
    overrides: Mapping[str, object],
    sets: Sequence[str],
) -> Config:
    """Builds a config from its defaults and, each winning over those before, files, options and `--set`.

    Args:
        cls: The dataclass to build.
        section: The command's name, which is its section in the files.
        files: YAML (or JSON) files, the later the stronger; each must exist. A relative path inside a file
            is relative to the working folder, not to the file.
        overrides: Values by field name; None means that the option was not given.
        sets: "key=value" texts; "a.b=value" reaches into a nested dataclass.

    Raises:
        UsageError: A file is missing or no YAML, a key is unknown, or a value has the wrong type or range.

    Example:
        >>> load_config(GenerateConfig, "generate", files=[], overrides={"seed": 3}, sets=["steps=20"]).steps
        20
    """
    values: dict[str, Any] = {}
    for _, given in _layers(cls, section, files, overrides, sets):
        _update(values, given, cls)
    return _build(cls, values)


def given_settings(
    cls: type,
    section: str,
    *,
    files: Sequence[Path],
    overrides: Mapping[str, object],
    sets: Sequence[str],
) -> dict[str, str]:
    """Returns which settings were given, and by what: an option ("--seed"), "--set", or a file's path.

    Takes what `load_config` takes. Where several places give a setting, the one that wins is named.

    Raises:
        UsageError: As `load_config`.
    """
    origins: dict[str, str] = {}
    for origin, given in _layers(cls, section, files, overrides, sets):
        origins |= {key: origin or f"--{key.replace('_', '-')}" for key in given}
    return origins


def _layers(
    cls: type,
    section: str,
    files: Sequence[Path],
    overrides: Mapping[str, object],
    sets: Sequence[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields where settings come from and the settings, the weakest first; "" stands for options."""
    for file in files:
        yield str(file), _checked(cls, _read_section(file, section), f"{file}: {section}.")
    options = {key: value for key, value in overrides.items() if value is not None}
    yield "", _checked(cls, options, "")
    for text in sets:
        yield "--set", _checked(cls, _read_set(text, section, cls), "--set ")


def to_dict(config: object) -> dict[str, Any]:
    """Returns a config dataclass as plain values that YAML and JSON can say.

    They stand in the order of the fields; those marked `ranks.LAST` come after the others.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"{config!r} is no config")
    fields = sorted(dataclasses.fields(config), key=lambda field: LAST in field.metadata)
    return {field.name: _plain(getattr(config, field.name)) for field in fields}


def write_config(path: Path, section: str, config: object) -> None:
    """Writes a resolved config as YAML that is itself a valid `--config` of the command `section`.

    Raises:
        ResourceError: The file cannot be written.
    """
    text = yaml.safe_dump({section: to_dict(config)}, sort_keys=False, allow_unicode=True)
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _read_section(file: Path, section: str) -> Mapping[str, object]:
    name = f"the config {file}"
    node = read_yaml(file, name)
    try:
        content: object = plain(node)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from error
    sections = _as_mapping(content)
    if sections is None:
        raise UsageError(f"the config {file} holds no sections: begin it with '{section}:'")
    for name in sections:
        if name not in SECTIONS and name != section:
            raise UsageError(f"{file}: unknown section {suggest(name, [*SECTIONS, section])}")
    chosen = _as_mapping(sections.get(section))
    if chosen is None:
        raise UsageError(f"{file}: section '{section}' must hold 'key: value' lines")
    return chosen


def _as_mapping(value: object) -> Mapping[str, object] | None:
    """A mapping as it is, nothing as an empty one, and None for anything else."""
    if value in _NOTHING:
        return {}
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else None


def _read_set(text: str, section: str, cls: type) -> Mapping[str, object]:
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise UsageError(f"--set {text!r} is not of the form key=value")
    if path[0] == section and len(path) > 1 and section not in _field_types(cls):
        path = path[1:]
    nested: object = value.strip()
    for part in reversed(path):
        nested = {part: nested}
    return cast(Mapping[str, object], nested)


def _checked(cls: type, given: Mapping[str, object], where: str) -> dict[str, Any]:
    """Types what was given; nested dataclasses become mappings of what was given of them."""
    fields = _field_types(cls)
    checked: dict[str, Any] = {}
    for raw_key, value in given.items():
        key = str(raw_key).replace("-", "_")
        if key not in fields:
            raise UsageError(f"{where}unknown key {suggest(str(raw_key), list(fields))}")
        kind = fields[key]
        if dataclasses.is_dataclass(kind):
            inner = _as_mapping(value)
            if inner is None:
                raise UsageError(f"{where}{key} must hold keys of its own, not {shown(value)}")
            checked[key] = _checked(cast(type, kind), inner, f"{where}{key}.")
        else:
            checked[key] = _typed(kind, value, f"{where}{key}")
    return checked


def _update(values: dict[str, Any], newer: Mapping[str, Any], cls: type) -> None:
    fields = _field_types(cls)
    for key, value in newer.items():
        if dataclasses.is_dataclass(fields[key]):
            _update(values.setdefault(key, {}), value, cast(type, fields[key]))
        else:
            values[key] = value


def _build(cls: type[Config], values: Mapping[str, Any]) -> Config:
    fields = _field_types(cls)
    arguments: dict[str, Any] = {
        key: _build(cast(type, fields[key]), value) if dataclasses.is_dataclass(fields[key]) else value
        for key, value in values.items()
    }
    return cls(**arguments)


def _field_types(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _typed(kind: Any, value: object, name: str) -> Any:
    """Reads one value as the type of its field; text is read as that type would be written."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None or (type(None) in arguments and value in _NOTHING):
            return None
        inner = [argument for argument in arguments if argument is not type(None)]
        return _typed(inner[0], value, name)
    if origin is Literal:
        for choice in arguments:
            if str(choice) == str(value):
                return choice
        raise UsageError(f"{name} must be one of {', '.join(map(str, arguments))}, not {_said(value)}")
    if origin is tuple:
        items = cast("Sequence[object]", value) if isinstance(value, (list, tuple)) else str(value).split(",")
        return tuple(_typed(arguments[0], item, name) for item in items)
    if kind is Path and isinstance(value, (str, Path)):
        return as_path(name, str(value))
    result = _READERS[kind](value) if isinstance(value, (str, int, float, Path)) else None
    if result is None:
        raise UsageError(f"{name} must be {_KINDS[kind]}, not {_said(value)}")
    return result


def _read_bool(value: object) -> bool | None:
    return {"true": True, "yes": True, "false": False, "no": False}.get(str(value).lower())


def _read_int(value: object) -> int | None:
    """Python itself refuses to read numbers of more than 4300 digits, with an error of its own."""
    text = str(value)
    return int(text) if len(text) <= MAX_DIGITS and re.fullmatch(r"[+-]?[0-9]+", text) else None


def _read_float(value: object) -> float | None:
    try:
        return None if isinstance(value, bool) else float(str(value))
    except ValueError:
        return None


def _read_str(value: object) -> str | None:
    return str(value)


_READERS: Mapping[Any, Callable[[object], Any]] = types.MappingProxyType(
    {bool: _read_bool, int: _read_int, float: _read_float, str: _read_str}
)
_KINDS: Mapping[Any, str] = types.MappingProxyType(
    {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
)


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in cast("tuple[object, ...]", value)]
    return str(value) if isinstance(value, Path) else value


def _said(value: object) -> str:
    """Quotes text as it stands in a file, and cuts what is long."""
    return str(value) if isinstance(value, (int, float, Path)) else shown(value)


def suggest(name: object, known: Iterable[str]) -> str:
    """The name with a suggestion: "'step' (did you mean 'steps'?)"."""
    names = sorted(set(known))
    near = difflib.get_close_matches(str(name)[:100].replace("-", "_"), names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(names)}"
    return f"{shown(str(name))} ({hint})"

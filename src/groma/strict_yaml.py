"""Files of a user that change fields of a configuration: YAML, read strictly.

    training:
      loop: {steps: 100}
      optimizer:
        lr: 2e-5        # YAML reads this as text; where a number is expected it is one here

An unknown key, a key written twice or a value of another type is an error that names file, key and remedy.
"""

import math
import types
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from groma.errors import InputError

T = TypeVar("T")


def read_overrides(path: Path, config: T) -> T:
    """Change the fields of a configuration that a YAML file names.

    Args:
        path: The file.
        config: A dataclass, nested ones included; it stays as it is.

    Returns:
        The changed configuration; its own checks have run.

    Raises:
        InputError: The file cannot be read, a key is unknown, or a value does not fit.
    """
    values = _read(path)
    if values is None:  # an empty file changes nothing
        return config
    return _apply(config, values, file=str(path), key="")


def to_yaml(config: Any) -> str:
    """A configuration as YAML that `read_overrides` reads back to the same."""
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which by itself would let the later of two equal keys win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping without a key that occurs twice."""
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # a SafeLoader
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not a YAML file: {' '.join(str(error).split())}.") from None


def _apply(config: Any, values: Any, *, file: str, key: str) -> Any:
    """`config` with the fields that `values` names; `key` is the path that led here."""
    where = f"{file}: {key}" if key else file
    kinds = get_type_hints(type(config))
    changed: dict[str, Any] = {}
    for name, value in _known_fields(values, type(config), where=where).items():
        inner = f"{key}.{name}" if key else name
        old = getattr(config, name)
        if is_dataclass(old):
            changed[name] = _apply(old, value, file=file, key=inner)
        else:
            changed[name] = _convert(value, kinds[name], where=f"{file}: {inner}")
    try:
        return replace(config, **changed)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _build(kind: Any, values: Any, *, where: str) -> Any:
    """A dataclass that has no default to start from, such as one of a list."""
    kinds = get_type_hints(kind)
    given = {
        name: _convert(value, kinds[name], where=f"{where}.{name}")
        for name, value in _known_fields(values, kind, where=where).items()
    }
    needed = [field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING]
    if missing := [name for name in needed if name not in given]:
        raise InputError(f"{where}: {', '.join(missing)} missing.")
    try:
        return kind(**given)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _known_fields(values: Any, kind: Any, *, where: str) -> dict[str, Any]:
    """The mapping as it is, once every key is a field of the dataclass."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected a mapping of fields, got {values!r}.")
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            close = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}."
            raise InputError(f"{where}: unknown key {name!r}; {hint}")
    return dict(values)


def _convert(value: Any, kind: Any, *, where: str) -> Any:
    """A YAML value as the type that a field has."""
    if is_dataclass(kind):
        return _build(kind, value, where=where)
    origin, choices = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value in choices and type(value) in {type(choice) for choice in choices}:
            return value
        raise InputError(f"{where}: expected one of {', '.join(map(repr, choices))}, got {value!r}.")
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in choices:
            return None
        (inner,) = (choice for choice in choices if choice is not types.NoneType)
        return _convert(value, inner, where=where)
    if origin is tuple:
        return _convert_tuple(value, choices, where=where)
    if origin is dict:  # replaces the old one as a whole
        return _convert_dict(value, choices, where=where)
    match kind, value:
        case builtin, _ if builtin in (bool, str) and isinstance(value, builtin):
            return value
        case builtin, int() if builtin in (int, float) and not isinstance(value, bool):
            return builtin(value)
        case builtin, float() if builtin is float:
            return value
        case builtin, str() if builtin is float and (number := _as_number(value)) is not None:
            return number
        case builtin, str() if builtin is Path:
            return Path(value)
    raise InputError(f"{where}: expected {_name(kind)}, got {value!r}.")


def _convert_tuple(value: Any, choices: tuple[Any, ...], *, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise InputError(f"{where}: expected a list, got {value!r}.")
    kinds = choices[:1] * len(value) if choices[1:] == (...,) else choices
    if len(kinds) != len(value):
        raise InputError(f"{where}: expected a list of {len(kinds)}, got {value!r}.")
    return tuple(
        _convert(item, kind, where=f"{where}[{number}]")
        for number, (item, kind) in enumerate(zip(value, kinds, strict=True))
    )


def _convert_dict(value: Any, choices: tuple[Any, Any], *, where: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: expected a mapping, got {value!r}.")
    key_kind, value_kind = choices
    return {
        _convert(name, key_kind, where=f"{where}: key"): _convert(item, value_kind, where=f"{where}.{name}")
        for name, item in value.items()
    }


def _as_number(text: str) -> float | None:
    """What YAML 1.1 takes for text though it is a number: 2e-5, 1e3."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text (put it in quotes)", bool: "true or false"}
    return names.get(kind, str(kind))


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, tuples as lists, paths as text."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return str(value) if isinstance(value, Path) else value

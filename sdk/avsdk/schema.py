"""JSON and TOML documents to frozen dataclasses and back: parsed once, at the edge; unknown keys are errors.

Every file that avsdk writes carries ``schema = 1``. A document of a newer schema is refused, never guessed at.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, Union

from avsdk.errors import Refused

SCHEMA = 1

T = TypeVar("T")


def decode(kind: type[T], document: object, *, where: str, refused: type[Refused] = Refused) -> T:
    """Build the dataclass ``kind`` from a parsed JSON or TOML ``document``.

    ``where`` names the file in messages. Raises ``refused`` on an unknown or missing key or a value of another type.
    Field types may be: str, int, float, bool, Any, None, Optional/Union of these, tuple[X, ...], Mapping[str, X],
    Literal and nested dataclasses.
    """
    return typing.cast(T, _decode(kind, document, where, refused))


def check_schema(document: object, *, where: str, refused: type[Refused] = Refused) -> dict[str, Any]:
    """Return the document without its ``schema`` key; refuse a newer one or a document that is no object."""
    if not isinstance(document, dict):
        raise refused(f"{where} holds a {type(document).__name__}", expected="an object with a 'schema' key")
    found = document.get("schema")
    if found != SCHEMA or isinstance(found, bool):
        newer = isinstance(found, int) and found > SCHEMA
        raise refused(
            f"{where} has schema {found!r}",
            expected=f"schema {SCHEMA}, the one this avsdk reads",
            fix="upgrade avsdk" if newer else "rebuild the file with this avsdk",
        )
    return {key: value for key, value in document.items() if key != "schema"}


def encode(value: object) -> Any:
    """The JSON form of a dataclass, recursively; tuples become lists, ``None`` stays."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def _decode(kind: Any, value: object, where: str, refused: type[Refused]) -> object:
    if kind is Any or kind is object:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where, refused)
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin is Union or (sys.version_info >= (3, 10) and origin is types.UnionType):
        return _decode_union(arguments, value, where, refused)
    if origin is typing.Literal:
        if value not in arguments:
            raise refused(f"{where} is {value!r}", expected=f"one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise refused(f"{where} is {value!r}", expected="a list")
        return tuple(_decode(arguments[0], item, f"{where}[{i}]", refused) for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise refused(f"{where} is {value!r}", expected="an object")
        return {str(key): _decode(arguments[1], item, f"{where}.{key}", refused) for key, item in value.items()}
    return _decode_scalar(kind, value, where, refused)


def _decode_scalar(kind: Any, value: object, where: str, refused: type[Refused]) -> object:
    if kind is type(None):
        fits = value is None
    elif kind is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    elif kind is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    else:
        fits = isinstance(value, kind)
    if not fits:
        raise refused(f"{where} is {value!r}", expected=f"a value of type {getattr(kind, '__name__', kind)}")
    return float(typing.cast(float, value)) if kind is float else value


def _decode_union(arguments: tuple[Any, ...], value: object, where: str, refused: type[Refused]) -> object:
    for candidate in arguments:
        try:
            return _decode(candidate, value, where, refused)
        except refused:
            continue
    raise refused(f"{where} is {value!r}", expected=" or ".join(getattr(a, "__name__", str(a)) for a in arguments))


def _decode_dataclass(kind: Any, value: object, where: str, refused: type[Refused]) -> object:
    if not isinstance(value, Mapping):
        raise refused(f"{where} is {value!r}", expected=f"an object with the keys of {kind.__name__}")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise refused(
            f"{where} has the unknown key {unknown[0]!r}",
            expected=f"only: {', '.join(fields)}",
            fix="remove the key, or use the avsdk version that wrote the file",
        )
    arguments = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = _decode(hints[name], value[name], f"{where}.{name}", refused)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise refused(f"{where} lacks the key {name!r}", expected=f"the keys of {kind.__name__}")
    return kind(**arguments)

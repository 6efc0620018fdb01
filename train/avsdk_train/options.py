"""Settings of a command as a frozen dataclass: a flat TOML file and ``--set key=value``, both checked alike.

    schema = 1
    sizes = [256, 512]
    style_weight = 0.02

An unknown key gets the nearest known one. Lists on the command line are separated by commas.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from avsdk.errors import Refused, UnknownName, UsageError
from avsdk.schema import decode
from avsdk_train.recipe import read_recipe_document, value_from_text

T = TypeVar("T")


def options_from(
    kind: type[T], pairs: Sequence[str], *, what: str, file: Path | None = None, preset: Mapping[str, Any] | None = None
) -> T:
    """Build the dataclass ``kind``: its defaults, then ``preset``, then the file, then the ``key=value`` pairs.

    ``what`` names the command in messages. Raises ``UsageError``.
    """
    hints = typing.get_type_hints(kind)
    document = dict(preset or {})
    if file is not None:
        document.update(read_recipe_document(file))
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {pair!r} has no '='", expected="--set key=value")
        _refuse_unknown(key, hints, what)
        document[key] = value_from_text(key, text, _without_none(hints[key]))
    for key in document:
        _refuse_unknown(key, hints, what)
    try:
        return decode(kind, document, where=f"the settings of {what}")
    except Refused as error:
        raise UsageError(error.failed, expected=error.expected, fix=error.fix) from error


def option_lines(settings: Any) -> list[str]:
    """``key=value`` for each setting that is not at its default."""
    return [
        f"{field.name}={_text(getattr(settings, field.name))}"
        for field in dataclasses.fields(settings)
        if getattr(settings, field.name) != field.default
    ]


def _refuse_unknown(key: str, hints: Mapping[str, Any], what: str) -> None:
    if key not in hints:
        raise UnknownName.among(f"setting of {what}:", key, hints)


def _without_none(kind: Any) -> Any:
    """``float`` for ``float | None``: a setting that is computed where it is not given."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(part for part in typing.get_args(kind) if part is not types.NoneType)
    return kind


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)

"""The published schema of a report, made from its dataclasses: ``make report-schema`` writes ``report.schema.json``.

JSON Schema, draft 2020-12. Further keys are allowed, for keys only grow; those that are known must be what they are.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from avsdk.files import write_atomic
from avsdk.schema import SCHEMA
from avsdk_bench.report import Report

FILE = Path(__file__).with_name("report.schema.json")
MOST_TEXT = 100_000
MOST_ITEMS = 1_000_000
_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_UNITS = ("_ms", "_mb", "_s", "_runs", "_switches", "_rounds", "_share")
_COUNTS = {"n", "rounds", "threads", "cores", "operators", "samples", "pairs"}


@cache
def published() -> dict[str, Any]:
    """The schema as it was published."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def report_schema() -> dict[str, Any]:
    """The schema of the dataclasses as they are now."""
    kinds: dict[str, Any] = {}
    root = _of(Report, kinds, False)
    kinds["Report"]["properties"] = {"schema": {"const": SCHEMA}, **kinds["Report"]["properties"]}
    kinds["Report"]["required"] = ["schema", *kinds["Report"]["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "avsdk bench report",
        "description": "What `avsdk bench` writes. Times in ms, sizes in MB (10^6 bytes), shares from 0 to 1.",
        **root,
        "$defs": dict(sorted(kinds.items())),
    }


def _of(kind: Any, kinds: dict[str, Any], counted: bool) -> dict[str, Any]:
    """The schema of one type; ``counted`` numbers are never negative."""
    if dataclasses.is_dataclass(kind):
        return _of_dataclass(typing.cast(type, kind), kinds)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of(item, kinds, counted) for item in arguments]}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is tuple and arguments[-1] is not ...:
        items = [_of(item, kinds, counted) for item in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0], kinds, counted), "maxItems": MOST_ITEMS}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of(arguments[1], kinds, counted)}
    if kind in _SCALARS:
        bound = {"minimum": 0} if counted and kind in (int, float) else {}
        return {"type": _SCALARS[kind], **bound, **({"maxLength": MOST_TEXT} if kind is str else {})}
    return {}


def _of_dataclass(kind: type, kinds: dict[str, Any]) -> dict[str, Any]:
    if kind.__name__ not in kinds:
        kinds[kind.__name__] = {}  # it may hold itself
        hints = typing.get_type_hints(kind)
        fields = dataclasses.fields(kind)
        kinds[kind.__name__] = {
            "description": " ".join((inspect.getdoc(kind) or "").replace("``", "`").split()),
            "type": "object",
            "properties": {
                field.name: _of(hints[field.name], kinds, field.name in _COUNTS or field.name.endswith(_UNITS))
                for field in fields
            },
            "required": [
                field.name
                for field in fields
                if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            ],
        }
    return {"$ref": f"#/$defs/{kind.__name__}"}


if __name__ == "__main__":
    write_atomic(FILE, json.dumps(report_schema(), indent=1) + "\n")

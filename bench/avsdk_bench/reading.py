"""Reports read back from files. A report may be a stranger's: it is hostile until it was checked."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from avsdk.errors import Refused, UsageError
from avsdk.schema import check_schema, decode
from avsdk_bench.report import Report
from avsdk_bench.report_schema import published

MOST_BYTES = 256 << 20
_MOST_DEPTH = 30
_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),),
    "integer": (int,), "number": (int, float),
}  # fmt: skip
_KNOWN = {
    "$ref", "$defs", "$schema", "title", "description", "type", "properties", "required", "items", "prefixItems",
    "additionalProperties", "anyOf", "enum", "const", "minimum", "maxLength", "maxItems", "minItems",
}  # fmt: skip


def read_report(path: Path) -> Report:
    """The report in a file. Raises ``UsageError`` where there is none, ``Refused`` where it is damaged or hostile."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise Refused(f"{path} has {size} bytes", expected=f"a report of at most {MOST_BYTES}")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is not text", expected="a report, which is JSON") from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", expected="a report", fix="avsdk bench BUNDLE --out R.json"
        ) from error
    return report_from_text(text, where=str(path))


def report_from_text(text: str, *, where: str) -> Report:
    """The report in a JSON text, checked; ``where`` names it in messages."""
    try:
        document = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{where} is not JSON: {error}", expected="a report, as avsdk bench --out writes it") from error
    return report_from_json(document, where=where)


def report_from_json(document: object, *, where: str) -> Report:
    """The report in a parsed document, checked against the published schema and for sense."""
    check_schema(document, where=where)
    for problem in violations(document, published()):
        raise Refused(f"{where}: {problem}", expected="a report as avsdk bench --out writes it (report.schema.json)")
    report = decode(Report, _known(Report, document), where=where)
    for problem in _nonsense(report):
        raise Refused(f"{where}: {problem}", expected="a report as avsdk bench --out writes it")
    return report


def violations(value: object, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None, at: str = "$",
               depth: int = 0) -> Iterator[str]:  # fmt: skip
    """What a document does not meet, of the part of JSON Schema that the published one uses."""
    root = schema if root is None else root
    assert set(schema) <= _KNOWN, set(schema) - _KNOWN
    if depth > _MOST_DEPTH:
        yield f"{at} is nested too deep"
        return
    if "$ref" in schema:
        yield from violations(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, at, depth + 1)
    if "anyOf" in schema and all(any(violations(value, item, root, at, depth + 1)) for item in schema["anyOf"]):
        yield next(problem for item in schema["anyOf"] for problem in violations(value, item, root, at, depth + 1))
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at} is {_short(value)}, not one of {', '.join(map(repr, schema['enum']))}"
    if "const" in schema and value != schema["const"]:
        yield f"{at} is {_short(value)}, not {schema['const']!r}"
    kind = schema.get("type")
    if kind is None:
        return
    if not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "boolean"):
        yield f"{at} is {_short(value)}, not of type {kind}"
        return
    yield from _bounds(value, schema, at)
    yield from _parts(value, schema, root, at, depth)


def _bounds(value: Any, schema: Mapping[str, Any], at: str) -> Iterator[str]:
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{at} is {_short(value)}, less than {schema['minimum']}"
    if isinstance(value, str) and len(value) > schema.get("maxLength", len(value)):
        yield f"{at} has {len(value)} characters"
    if isinstance(value, list) and not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{at} has {len(value)} items"


def _parts(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str, depth: int) -> Iterator[str]:
    if isinstance(value, list):
        fixed = schema.get("prefixItems", ())
        for place, item in enumerate(value):
            part = fixed[place] if place < len(fixed) else schema.get("items")
            if part is not None:
                yield from violations(item, part, root, f"{at}[{place}]", depth + 1)
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{at} lacks the key {name!r}"
        named, others = schema.get("properties", {}), schema.get("additionalProperties")
        for name, item in value.items():
            part = named.get(name, others)
            if part is not None:
                yield from violations(
                    item,
                    part,
                    root,
                    f"{at}.{name if name.isidentifier() and len(name) < 60 else _short(name)}",
                    depth + 1,
                )


def _known(kind: Any, value: Any) -> Any:
    """The value without the keys of a newer avsdk, recursively by the dataclasses that it is read into."""
    if value is None:
        return None
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return {name: _known(hints[name], item) for name, item in value.items() if name in hints}
    arguments = typing.get_args(kind)
    inner = [item for item in arguments if dataclasses.is_dataclass(item)]
    if inner and isinstance(value, list):
        return [_known(inner[0], item) for item in value]
    if inner and isinstance(typing.get_origin(kind), type) and issubclass(typing.get_origin(kind) or object, Mapping):
        return {name: _known(inner[0], item) for name, item in value.items()}
    return _known(inner[0], value) if inner else value


def _nonsense(report: Report) -> Iterator[str]:
    """What has the right types and cannot be."""
    for place, row in enumerate(report.rows):
        if row.machine and row.machine not in report.elsewhere:
            yield f"row {place} is from {row.machine!r}, which the report does not describe"
        if row.status in ("measured", "replayed") and row.p50_ms is None:
            yield f"row {place} is {row.status} and has no median"
        if row.p50_ci_ms is not None and not row.p50_ci_ms[0] <= row.p50_ci_ms[1]:
            yield f"row {place} has an interval that ends before it begins"
    for kind in (report.comparisons, report.baseline, report.vendors):
        for item in kind:
            places = (item.row, getattr(item, "reference", 0))
            if not all(0 <= place < len(report.rows) for place in places):
                yield f"a comparison names row {max(places)} of {len(report.rows)}"


def _no_number(text: str) -> NoReturn:
    message = f"{text} is no number"
    raise ValueError(message)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

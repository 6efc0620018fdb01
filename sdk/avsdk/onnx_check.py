"""ONNX files from strangers, looked through by our own code before any native parser opens them.

A small reader of protobuf's wire format walks the whole model: main graph, subgraphs, functions, training graphs and
sparse tensors. It skips weights by their length, finds every reference to a file outside the model, and refuses those
that leave the model's folder, are links, or lie about their size. The field numbers are those of onnx.proto3.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

from avsdk.errors import ModelRefused, NotAvailable, UsageError
from avsdk.files import safe_join

MAX_FILE_BYTES = 2**31 - 1
"""Where protobuf itself ends."""
MAX_EXTERNAL_BYTES = 64 << 30
_MAX_DEPTH = 100
_MAX_FIELDS = 20_000_000
_MAX_LOCATION = 1024
_EXTERNAL_KEYS = ("location", "offset", "length", "checksum")
_NUMBER = re.compile(r"[0-9]{1,18}")
TYPE_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
"""Bits per element by ``TensorProto.DataType``; strings (8) have none."""

# Message -> field number -> its name here and what it holds: "int", "ints" (repeated, packed or not), "str", or another
# message, with "*" where it is repeated. Fields that are not listed are skipped by their length.
_SCHEMA: Mapping[str, Mapping[int, tuple[str, str]]] = {
    "model": {1: ("ir", "int"), 7: ("graph", "graph"), 8: ("opsets", "opset*"), 14: ("metadata", "entry*"),
              20: ("training", "training*"), 25: ("functions", "function*")},
    "opset": {1: ("domain", "str"), 2: ("version", "int")},
    "entry": {1: ("key", "str"), 2: ("value", "str")},
    "training": {1: ("initialization", "graph"), 2: ("algorithm", "graph")},
    "function": {7: ("nodes", "node*"), 9: ("opsets", "opset*"), 11: ("attributes", "attribute*")},
    "graph": {1: ("nodes", "node*"), 5: ("initializers", "tensor*"), 11: ("inputs", "value*"),
              12: ("outputs", "value*"), 15: ("sparse", "sparse*")},
    "node": {4: ("op", "str"), 5: ("attributes", "attribute*"), 7: ("domain", "str")},
    "attribute": {5: ("tensor", "tensor"), 6: ("graph", "graph"), 10: ("tensors", "tensor*"), 11: ("graphs", "graph*"),
                  22: ("sparse", "sparse"), 23: ("sparses", "sparse*")},
    "tensor": {1: ("dims", "ints"), 2: ("type", "int"), 8: ("name", "str"), 13: ("external", "entry*"),
               14: ("location", "int")},
    "sparse": {1: ("values", "tensor"), 2: ("indices", "tensor")},
    "value": {1: ("name", "str"), 2: ("type", "type")},
    "type": {1: ("tensor", "tensor_type")},
    "tensor_type": {1: ("type", "int"), 2: ("shape", "shape")},
    "shape": {1: ("dims", "dim*")},
    "dim": {1: ("size", "int"), 2: ("name", "str")},
}  # fmt: skip

_KEPT_WHOLE = frozenset({"opset", "entry", "value", "type", "tensor_type", "shape", "dim"})
"""Small messages whose content is returned to their parent; graphs, nodes and tensors are judged and dropped."""


@dataclass(frozen=True)
class ValueFact:
    """One input or output of the main graph; an axis is its size, its name, or None where the file says neither."""

    name: str
    type: int
    shape: tuple[Union[int, str, None], ...]  # noqa: UP007  (read at run time, on Python 3.9 too)


@dataclass(frozen=True)
class OnnxFacts:
    """What a model file says of itself, read without a native parser.

    ``opsets`` maps domains to versions, "" being ONNX's own. ``ops`` counts nodes, subgraphs and functions included.
    ``external`` are the files beside it, by name; ``size`` is the bytes of all files together.
    """

    ir: int
    opsets: Mapping[str, int]
    ops: Mapping[str, int]
    external: tuple[str, ...]
    size: int
    inputs: tuple[ValueFact, ...] = ()
    outputs: tuple[ValueFact, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return self.opsets.get("", 0)


@dataclass(frozen=True)
class OnnxLimits:
    """The newest IR version and opset that an engine reads."""

    ir: int
    opset: int

    def refusal(self, facts: OnnxFacts) -> str:
        """Why a model is too new; empty when it is not."""
        if facts.ir > self.ir:
            return f"it has IR version {facts.ir}, newer than {self.ir}"
        if facts.opset > self.opset:
            return f"it has opset {facts.opset}, newer than {self.opset}"
        return ""


def require_limits(facts: OnnxFacts, limits: OnnxLimits, *, engine: str) -> None:
    """Raise ``NotAvailable`` when the engine cannot read a model this new."""
    reason = limits.refusal(facts)
    if reason:
        raise NotAvailable(
            f"{engine} cannot read this ONNX model: {reason}",
            expected=f"IR version {limits.ir} and opset {limits.opset}, or older",
            fix="export the model again from its PyTorch source, or convert it with onnx.version_converter",
        )


def check_onnx(path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> OnnxFacts:
    """Read a model file's structure and judge every file that it refers to.

    Raises ``ModelRefused`` for what is empty, no ONNX model, truncated, too deep or too large, and for external data
    that is not a plain file in the model's folder with all the bytes it promises.
    """
    status = _status(path)
    if status.st_size == 0:
        raise ModelRefused(f"{path} is empty", expected="an ONNX model", fix="get or copy it again")
    if status.st_size > max_bytes:
        raise ModelRefused(
            f"{path} has {status.st_size} bytes",
            expected=f"at most {max_bytes}",
            fix="keep the weights in external data",
        )
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _Walk(path, content).facts()


def _status(path: Path) -> os.stat_result:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise UsageError(f"no file {path}", expected="an ONNX model file") from error
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read: {error.strerror}", expected="an ONNX model file") from error
    if not stat.S_ISREG(status.st_mode):
        raise ModelRefused(f"{path} is not a regular file", expected="an ONNX model file")
    return status


class _Walk:
    """One pass over one model file."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path = path
        self.content = content
        self.fields = 0
        self.ops: Counter[str] = Counter()
        self.external: dict[str, int] = {}

    def facts(self) -> OnnxFacts:
        size = len(self.content)
        model = self._message("model", 0, size, 0)
        if not isinstance(model.get("ir"), int) or "graph" not in model:
            raise self._refused("is no ONNX model: it has no IR version or no graph")
        total = sum(self.external.values())
        if total > MAX_EXTERNAL_BYTES:
            raise self._refused(f"refers to {total} bytes of external data", f"at most {MAX_EXTERNAL_BYTES}")
        graph = model["graph"]
        weights = set(graph["names"])
        return OnnxFacts(
            ir=model["ir"],
            opsets=_opsets(model.get("opsets", ())),
            ops=dict(self.ops),
            external=tuple(self.external),
            size=size + total,
            inputs=tuple(_value(item) for item in graph["inputs"] if item.get("name", "") not in weights),
            outputs=tuple(_value(item) for item in graph["outputs"]),
            metadata={item.get("key", ""): item.get("value", "") for item in model.get("metadata", ())},
        )

    def _message(self, kind: str, start: int, end: int, depth: int) -> dict[str, Any]:
        """The listed fields of the message in ``content[start:end]``; tensors and nodes are judged on the way."""
        if depth > _MAX_DEPTH:
            raise self._refused(f"is nested deeper than {_MAX_DEPTH} levels")
        schema = _SCHEMA[kind]
        found: dict[str, Any] = {}
        for number, wire, value, stop in self._fields(start, end):
            if number not in schema:
                continue
            name, held = schema[number]
            if held in ("int", "ints"):
                self._take_number(found, name, held, wire, value, stop)
            elif wire == 2 and held == "str":
                found[name] = self._text(value, stop)
            elif wire == 2:
                self._take_message(found, name, held, self._message(held.rstrip("*"), value, stop, depth + 1))
        return self._judged(kind, found)

    def _take_number(self, found: dict[str, Any], name: str, held: str, wire: int, value: int, stop: int) -> None:
        if held == "int" and wire == 0:
            found[name] = _signed(value)
        elif held == "ints" and wire == 0:
            found.setdefault(name, []).append(_signed(value))
        elif held == "ints" and wire == 2:
            position = value
            while position < stop:
                number, position = self._varint(position, stop)
                found.setdefault(name, []).append(_signed(number))

    def _take_message(self, found: dict[str, Any], name: str, held: str, message: dict[str, Any]) -> None:
        if not held.endswith("*"):
            if name in found:  # parsers would merge the two, and so see another message than this one
                raise self._refused(f"gives the field {name!r} twice where there is one")
            found[name] = message
        elif held[:-1] in _KEPT_WHOLE or message:
            found.setdefault(name, []).append(message)

    def _judged(self, kind: str, found: dict[str, Any]) -> dict[str, Any]:
        """What the parent needs of a message."""
        if kind in _KEPT_WHOLE or kind == "model":
            return found
        if kind == "tensor":
            self._check_tensor(found)
            return {"name": found["name"]} if "name" in found else {}
        if kind == "node":
            domain = _own(found.get("domain", ""))
            self.ops[f"{domain}.{found.get('op', '')}" if domain else found.get("op", "")] += 1
        if kind == "graph":
            names = [tensor["name"] for tensor in found.get("initializers", ())]
            return {"names": names, "inputs": found.get("inputs", []), "outputs": found.get("outputs", [])}
        return {}

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Every field as (number, wire type, value or start of its bytes, end of its bytes)."""
        position = start
        while position < end:
            self.fields += 1
            if self.fields > _MAX_FIELDS:
                raise self._refused(f"has more than {_MAX_FIELDS} fields")
            tag, position = self._varint(position, end)
            number, wire = tag >> 3, tag & 7
            value = position
            if wire == 0:
                value, position = self._varint(position, end)
            elif wire == 2:
                length, value = self._varint(position, end)
                position = value + length
            elif wire in (1, 5):
                position += 8 if wire == 1 else 4
            else:
                raise self._refused(f"has the wire type {wire} at byte {start}, which ONNX does not use")
            if number == 0 or position > end:
                raise self._refused(f"is damaged or truncated: a field at byte {value} ends at {position}, past {end}")
            yield number, wire, value, position

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        result = shift = 0
        while position < end and shift < 70:
            byte = self.content[position]
            position += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result & (2**64 - 1), position
            shift += 7
        raise self._refused(f"is damaged or truncated at byte {position}")

    def _text(self, start: int, stop: int) -> str:
        try:
            return self.content[start:stop].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._refused(f"holds text at byte {start} that is not UTF-8") from error

    def _check_tensor(self, tensor: Mapping[str, Any]) -> None:
        entries = tensor.get("external", [])
        if not entries and tensor.get("location", 0) != 1:
            return
        name = tensor.get("name", "")
        keys = [entry.get("key", "") for entry in entries]
        strange = [key for key in keys if key not in _EXTERNAL_KEYS or keys.count(key) > 1]
        if strange or "location" not in keys:
            what = f"the key {strange[0]!r}" if strange else "no location"
            once = f"each once: {', '.join(_EXTERNAL_KEYS)}"
            raise self._refused(f"has {what} in the external data of {name!r}", once)
        given = {entry["key"]: entry.get("value", "") for entry in entries if "key" in entry}
        file = self._external_file(name, given["location"])
        offset, length = (self._number(name, key, given.get(key)) for key in ("offset", "length"))
        size = file.stat().st_size
        start = offset or 0
        needed = max(length or 0, 0 if length is not None else _bytes_needed(tensor))
        promised = _bytes_needed(tensor)
        if start + needed > size or (length is not None and promised > length):
            raise self._refused(
                f"says that {name!r} takes {max(needed, promised)} bytes from {start} on of {given['location']!r}",
                f"no more than the file's {size} bytes" + ("" if length is None else f" and the given length {length}"),
            )
        self.external[given["location"]] = size

    def _external_file(self, name: str, location: str) -> Path:
        """The file in the model's folder. Raises ``ModelRefused`` for any other place, marker, link or hard link."""
        where = f"external data of {name!r}"
        if "_ORT_MEM" in location or "_ORT_NATIVE" in location or location.startswith("*"):
            raise self._refused(f"points the {where} into memory: {location!r}", "a file in the model's folder")
        if self.path.is_symlink():
            raise self._refused(f"is a symbolic link, and has {where}", "the model file itself, beside its data")
        long = len(location) > _MAX_LOCATION or any(len(part.encode()) > 255 for part in location.split("/"))
        if long or not location.isprintable() or re.match(r"[A-Za-z]:", location):
            raise self._refused(f"has the location {location[:80]!r} for the {where}", "a short relative path")
        try:
            file = safe_join(self.path.parent, location, refused=ModelRefused)
        except ModelRefused as error:
            raise self._refused(f"has bad {where}: {error.failed}", "a plain file in the model's folder") from error
        if file.stat().st_nlink > 1:
            raise self._refused(f"has {where} in {location!r}, which has hard links", "a file with one name")
        return file

    def _number(self, name: str, key: str, text: str | None) -> int | None:
        if text is None:
            return None
        if not _NUMBER.fullmatch(text):
            raise self._refused(f"has the {key} {text[:40]!r} for the external data of {name!r}", "a decimal number")
        return int(text)

    def _refused(self, failed: str, expected: str = "a whole, well-formed ONNX model") -> ModelRefused:
        return ModelRefused(f"{self.path} {failed}", expected=expected, fix="get the model again from who made it")


def _bytes_needed(tensor: Mapping[str, Any]) -> int:
    """What the tensor's shape and type take; 0 where the file does not say, more than any file for a negative shape."""
    elements = 1
    for size in tensor.get("dims", ()):
        if size < 0:
            return 1 << 62
        elements *= size
    return -(-elements * TYPE_BITS.get(tensor.get("type", 0), 0) // 8)


def _value(item: Mapping[str, Any]) -> ValueFact:
    tensor = item.get("type", {}).get("tensor", {})
    dims = tensor.get("shape", {}).get("dims", [])
    shape = tuple(dim.get("name") or (dim["size"] if dim.get("size", -1) >= 0 else None) for dim in dims)
    return ValueFact(item.get("name", ""), tensor.get("type", 0), shape)


def _opsets(entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The newest version of each domain: a second entry must not hide it."""
    found: dict[str, int] = {}
    for entry in entries:
        domain = _own(entry.get("domain", ""))
        found[domain] = max(found.get(domain, 0), entry.get("version", 0))
    return found


def _own(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value

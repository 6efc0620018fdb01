"""Counting the work of an ONNX graph, in a child process, for ``avsdk_bench.work``; needs the onnx package.

Sizes are written in, shapes inferred, constants folded, and nodes fused as every engine fuses them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from avsdk.schema import encode
from avsdk_bench.flops import CONTROL, MOVES, VIEWS, Count, Node, counted
from avsdk_bench.fusing import Part, fused
from avsdk_targets.rewrites.draft import Known, Shape, known_of
from avsdk_targets.rewrites.functions import inlined
from avsdk_targets.rewrites.static import fold, write_sizes
from avsdk_targets.rewrites.weights import Shelf

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_READS_WHAT_IT_GIVES = frozenset("Gather GatherElements GatherND Slice Expand Tile Split Trilu Compress".split())
"""Operators that read of their first input no more than they write."""
_MOST_ROUNDS = 8


def count_graph(onnx: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The ``Work`` of the model's graph at these input shapes, as a document; ``misfit`` says why they do not fit."""
    path = Path(onnx)
    try:
        model, shelf, dequantised = _sized(path, shapes)
    except _MISFITS as error:
        return {"misfit": next(iter(str(error).strip().splitlines()), type(error).__name__), "work": None}
    counting = _Counting(model, shelf, dequantised)
    return {"misfit": "", "work": encode(counting.work())}


_MISFITS = (onnx.shape_inference.InferenceError,)


def _sized(path: Path, shapes: Mapping[str, Sequence[int]]) -> tuple[onnx.ModelProto, Shelf, set[str]]:
    """The model with the sizes written in and what is then constant computed, until nothing more is.

    The names are of what was dequantised, weights included, which are constants now.
    """
    model = onnx.load(path, load_external_data=False)
    shelf = Shelf(model, path.parent)
    if model.functions:
        model = inlined(model, ())
    write_sizes(model, shapes)
    dequantised = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    for _ in range(_MOST_ROUNDS):
        if not fold(model, shelf):
            break
    return model, shelf, dequantised


class _Counting:
    """The main graph as it is counted."""

    def __init__(self, model: onnx.ModelProto, shelf: Shelf, dequantised: set[str]) -> None:
        self._dequantised = dequantised
        self._graph = model.graph
        self._known: Known = known_of(model)
        self._weights = {item.name for item in self._graph.initializer} | {
            item.name for item in self._graph.input if item.name in shelf
        }
        self._inputs = [item.name for item in self._graph.input if item.name not in shelf]
        self._outputs = {item.name for item in self._graph.output}
        self._missing: dict[str, None] = {}

    def work(self) -> dict[str, Any]:
        parts = [part for node in self._graph.node for part in self._part(node)]
        operators = fused(parts, self._outputs)
        return {
            "operators": operators,
            "given": sum(self._size(name) or 0 for name in self._inputs),
            "answered": sum(self._size(name) or 0 for name in self._outputs),
            "not_counted": tuple(self._missing),
        }

    def _part(self, node: onnx.NodeProto) -> Iterator[Part]:
        """The node with its count; nothing where it cannot be counted, which is noted."""
        if node.op_type == "Constant":
            return
        where = f"{node.op_type} {node.name}".strip()
        if node.op_type in CONTROL:
            self._missing[f"the body of {where}"] = None
            return
        foreign = node.domain not in ("", "ai.onnx")
        names = (*node.input, *node.output)
        shapes = [self._shape(name) for name in names]
        unknown = [name for name, shape in zip(names, shapes, strict=True) if name and shape is None]
        if unknown and node.op_type not in VIEWS:
            self._missing[f"{where}: the size of {unknown[0]!r} is not known before it runs"] = None
            return
        inputs, outputs = shapes[: len(node.input)], shapes[len(node.input) :]
        described = Node(node.op_type, tuple(inputs), tuple(outputs), _attributes(node))
        try:
            count = None if foreign else counted(described)
        except (LookupError, ValueError):
            count = None
        if count is None:
            self._missing[f"{where}: an operator that is not known"] = None
            return
        yield self._measured(node, count)

    def _measured(self, node: onnx.NodeProto, count: Count) -> Part:
        weights = [name for name in node.input if self._is_weight(name)]
        data = [name for name in dict.fromkeys(node.input) if name and not self._is_weight(name)]
        results = [name for name in node.output if name]
        moved = node.op_type not in VIEWS
        written = results if moved else []
        if not moved:
            data_read: list[str] = []
        elif node.op_type in _READS_WHAT_IT_GIVES:
            data_read = [*results, *data[1:]]
        else:
            data_read = data
        held = [name for name in weights if moved and node.op_type not in _READS_WHAT_IT_GIVES]
        if node.op_type in ("Gather", "GatherND") and weights:  # rows of a table: what is given, and its places
            data_read = [*results, *data]
        return Part(
            name=node.name or (results[0] if results else node.op_type),
            op=node.op_type,
            count=count,
            inputs=tuple(data),
            outputs=tuple(results),
            read={name: self._float(name) for name in data_read},
            weights=sum(self._float(name) for name in held),
            written=sum(self._float(name) for name in written),
            other_bytes=sum(self._other(name) for name in (*data_read, *held, *written)),
            shape=tuple(self._shape(results[0]) or ()) if results else (),
            movement=node.op_type in MOVES,
            quantised=self._quantised(node),
        )

    def _quantised(self, node: onnx.NodeProto) -> bool:
        """Whether it multiplies integers, or what was dequantised just before, which engines take as integers."""
        if node.op_type in ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"):
            return True
        return len(node.input) >= 2 and set(node.input[:2]) <= self._dequantised

    def _is_weight(self, name: str) -> bool:
        return name in self._weights or name in self._known.constants

    def _shape(self, name: str) -> tuple[int, ...] | None:
        found: Shape | None = self._known.shapes.get(name) if name else None
        sizes = [size for size in found or () if size is not None]
        return None if found is None or len(sizes) < len(found) else tuple(sizes)

    def _size(self, name: str) -> int | None:
        shape = self._shape(name)
        return None if shape is None else math.prod(shape)

    def _float(self, name: str) -> int:
        return (self._size(name) or 0) if self._known.types.get(name) in _FLOATS else 0

    def _other(self, name: str) -> int:
        kind = self._known.types.get(name, TensorProto.UNDEFINED)
        if kind in _FLOATS or kind in (TensorProto.UNDEFINED, TensorProto.STRING):
            return 0
        return (self._size(name) or 0) * int(helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found = {item.name: helper.get_attribute_value(item) for item in node.attribute if not item.ref_attr_name}
    return {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value for name, value in found.items()
    }

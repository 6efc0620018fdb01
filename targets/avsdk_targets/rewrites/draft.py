"""What a rule of this package works on: one node, what is known of its tensors, and the nodes that take its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Shape = tuple[int | None, ...]


class CannotSpellOut(Exception):
    """The node is beyond the rule; the text says what of it."""


@dataclass
class Known:
    """What is known of a model's tensors: element type, shape (None is an unknown size), value where constant.

    ``taken`` are all names, so that a new one is none of them.
    """

    opset: int
    types: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def forget(self, name: str, *, but_type: bool) -> None:
        """Know no more of a tensor, or nothing but its type."""
        self.constants.pop(name, None)
        self.shapes.pop(name, None)
        if not but_type:
            self.types.pop(name, None)

    def fresh_name(self, prefix: str) -> str:
        """A name that no tensor has; taken from then on."""
        name = next(name for number in self.numbers for name in (f"{prefix}{number}",) if name not in self.taken)
        self.taken.add(name)
        return name


class Draft:
    """The nodes that take the place of one. Methods that add a node return the name of its result."""

    def __init__(self, node: onnx.NodeProto, known: Known) -> None:
        self.node = node
        self.known = known
        self.nodes: list[onnx.NodeProto] = []
        self._prefix = f"{node.name or node.op_type}__"
        self._made: dict[tuple[object, ...], str] = {}

    # -- what stands there ---------------------------------------------------------------------------------------------

    def input(self, index: int) -> str:
        """The name of an input; empty where it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def output(self, index: int) -> str:
        """The name of an output; empty where it is left out."""
        return self.node.output[index] if index < len(self.node.output) else ""

    def attribute(self, name: str, default: Any) -> Any:
        """The value of an attribute, text decoded."""
        for item in self.node.attribute:
            if item.name == name:
                value = helper.get_attribute_value(item)
                if isinstance(value, bytes):
                    return value.decode()
                return [part.decode() if isinstance(part, bytes) else part for part in value] if item.strings else value
        return default

    def type(self, name: str) -> int:
        """The element type of a tensor."""
        if name not in self.known.types:
            raise CannotSpellOut(f"the type of {name!r} is not known")
        return self.known.types[name]

    def rank(self, name: str) -> int:
        """The number of axes of a tensor."""
        if name not in self.known.shapes:
            raise CannotSpellOut(f"the rank of {name!r} is not known")
        return len(self.known.shapes[name])

    def sizes(self, name: str) -> list[int]:
        """The sizes of a tensor; all must be fixed."""
        self.rank(name)
        sizes = [size for size in self.known.shapes[name] if size is not None]
        if len(sizes) != len(self.known.shapes[name]):
            raise CannotSpellOut(f"{name!r} has an axis of no fixed size")
        return sizes

    def constant(self, name: str) -> Array:
        """The value of a constant tensor."""
        if name not in self.known.constants:
            raise CannotSpellOut(f"{name!r} is no constant")
        return self.known.constants[name]

    # -- what is to stand there ----------------------------------------------------------------------------------------

    def add(self, op: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """One node with one result, named ``out`` or anew; an equal one is not added again."""
        key = (op, inputs, *((name, _key(value)) for name, value in attributes.items()))
        if not out and key in self._made:
            return self._made[key]
        result = out or self.known.fresh_name(self._prefix)
        if not out:
            self._made[key] = result
        self.nodes.append(helper.make_node(op, list(inputs), [result], name=f"{op}__{result}", **attributes))
        return result

    def value(self, array: Array | float | Sequence[Any], kind: int = 0) -> str:
        """A constant: integers as int64, a number in the element type ``kind``."""
        if kind:
            tensor = numpy_helper.from_array(np.asarray(array, helper.tensor_dtype_to_np_dtype(kind)))
        else:
            tensor = numpy_helper.from_array(np.asarray(array) if isinstance(array, np.ndarray) else _whole(array))
        return self.add("Constant", value=tensor)

    def ints(self, *numbers: int) -> str:
        """A one-dimensional int64 constant."""
        return self.value(np.asarray(numbers, np.int64))

    def cast(self, name: str, kind: int, out: str = "") -> str:
        """The tensor in another element type."""
        return self.add("Cast", name, out=out, to=kind)

    def reduced(self, op: str, name: str, axes: Sequence[int], *, keep: bool = True, out: str = "") -> str:
        """``ReduceMean`` and its like, whose axes became an input with opset 18 (``ReduceSum``: 13)."""
        if op == "ReduceSum" or self.known.opset >= 18:
            return self.add(op, name, self.ints(*axes), out=out, keepdims=int(keep))
        return self.add(op, name, out=out, axes=list(axes), keepdims=int(keep))

    def reshaped(self, name: str, sizes: Sequence[int], out: str = "") -> str:
        """The tensor with other sizes; 0 keeps one, -1 is the rest."""
        return self.add("Reshape", name, self.ints(*sizes), out=out)

    def part(self, name: str, axis: int, start: int, stop: int) -> str:
        """``name[start:stop]`` on one axis."""
        return self.add("Slice", name, self.ints(start), self.ints(stop), self.ints(axis))


Rule = Callable[[Draft], None]


def known_of(model: onnx.ModelProto) -> Known:
    """Infer the types and shapes of a model whose weights may be shelved, and gather its constants.

    Two branches may use one name for different tensors: of such a name no more is known than they have in common.
    """
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    known = Known(opset)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    defined: set[str] = set()
    for graph in graphs_of(inferred.graph):
        own = _known_of_graph(graph, opset)
        here = {*own.constants, *(item.name for item in graph.input), *_results(graph)}
        for name in here & defined:
            same_type = own.types.get(name) == known.types.get(name)
            for facts in (own, known):
                facts.forget(name, but_type=same_type)
        defined |= here
        known.types.update(own.types)
        known.shapes.update(own.shapes)
        known.constants.update(own.constants)
        known.taken.update(known.types, here, (name for node in graph.node for name in node.input))
    return known


def _known_of_graph(graph: onnx.GraphProto, opset: int) -> Known:
    known = Known(opset)
    for item in (*graph.input, *graph.output, *graph.value_info):
        _learn(known, item)
    for tensor in graph.initializer:
        _learn_constant(known, tensor.name, tensor)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            _learn_constant(known, node.output[0], node.attribute[0].t)
    return known


def _results(graph: onnx.GraphProto) -> Iterator[str]:
    return (name for node in graph.node for name in node.output)


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the bodies of its control flow."""
    yield graph
    for node in graph.node:
        for item in node.attribute:
            for body in (item.g, *item.graphs) if item.HasField("g") or item.graphs else ():
                yield from graphs_of(body)


def _learn(known: Known, item: onnx.ValueInfoProto) -> None:
    tensor = item.type.tensor_type
    if not item.type.HasField("tensor_type") or not tensor.elem_type:
        return
    known.types[item.name] = tensor.elem_type
    if tensor.HasField("shape"):
        known.shapes[item.name] = tuple(
            axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim
        )


def _learn_constant(known: Known, name: str, tensor: onnx.TensorProto) -> None:
    known.types[name] = tensor.data_type
    known.shapes[name] = tuple(tensor.dims)
    if tensor.data_location != TensorProto.EXTERNAL:
        known.constants[name] = numpy_helper.to_array(tensor)


def _key(value: Any) -> object:
    return (
        value.SerializeToString()
        if isinstance(value, TensorProto)
        else tuple(value)
        if isinstance(value, list)
        else value
    )


def _whole(numbers: Any) -> Array:
    return np.asarray(numbers, np.int64)

"""A whole ONNX graph as Arria 10 would compute it: products in block floating point, all else in fp32.

The graph is cut before and after every node whose products the FPGA makes. What enters such a node is rounded to fp16,
as the accelerator's buffers hold it, then to block floating point along the channels that are summed; its filters are
rounded to block floating point once. Sums are made in fp32, and the result is rounded to fp16 again. What lies between
runs as it is. The accelerator's own order of summation is not known, so this shows the loss, not the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from avsdk_targets.block_floating_point import quantised
from avsdk_targets.fpga_architecture import Architecture
from avsdk_targets.fpga_layers import MULTIPLIED, Partition, name_of

Array = NDArray[Any]
Runner = Callable[[bytes], Callable[[Mapping[str, Array]], dict[str, Array]]]
"""Loads a small ONNX model; what it returns runs it in fp32."""

_LARGEST = float(np.finfo(np.float16).max)


class Emulation:
    """A graph cut into pieces. ``overflows`` counts values beyond fp16's range, which are held at its largest."""

    def __init__(
        self, model: onnx.ModelProto, architecture: Architecture, on_fpga: Collection[str], runner: Runner
    ) -> None:
        self.overflows = 0
        self._architecture = architecture
        self._model = model
        self._constants = {item.name: item for item in model.graph.initializer}
        self._constants.update(_constant_nodes(model.graph.node))
        self._outputs = [item.name for item in model.graph.output]
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self._values: dict[str, onnx.ValueInfoProto] = {
            item.name: item for item in (*inferred.input, *inferred.output, *inferred.value_info)
        }
        self._pieces = [self._piece(nodes, multiplied, runner) for nodes, multiplied in _cut(model.graph, on_fpga)]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs for one set of inputs."""
        known: dict[str, Array] = dict(feeds)
        for piece in self._pieces:
            given = {name: known[name] for name in piece.inputs}
            if piece.multiplied is None:
                known.update(piece.execute(given))
                continue
            values, filters = piece.multiplied.input[:2]
            given[values] = self._in_blocks(self._half(given[values]), piece.multiplied, 0)
            if filters in given:  # made by the graph from constants, so the suite's compiler rounds them as well
                given[filters] = self._in_blocks(given[filters], piece.multiplied, 1)
            known.update({name: self._half(array) for name, array in piece.execute(given).items()})
        return {name: known[name] for name in self._outputs}

    def _piece(self, nodes: list[NodeProto], multiplied: NodeProto | None, runner: Runner) -> _Piece:
        """A model of these nodes alone, loaded."""
        made = {name for node in nodes for name in node.output if name}
        used = {name for node in nodes for name in _names_used(node)}
        later = {name for node in self._model.graph.node if node not in nodes for name in _names_used(node)}
        inputs = sorted(used - made - set(self._constants))
        constants = [self._constants[name] for name in sorted(used & set(self._constants))]
        if multiplied is not None:
            constants = [self._rounded(item, multiplied) for item in constants]
        graph = onnx.helper.make_graph(
            nodes,
            "piece",
            [self._value(name) for name in inputs],
            [self._value(name) for name in sorted(made & (later | set(self._outputs)))],
            constants,
        )
        piece = onnx.helper.make_model(graph, opset_imports=self._model.opset_import)
        piece.ir_version = self._model.ir_version
        return _Piece(tuple(inputs), multiplied, runner(piece.SerializeToString()))

    def _value(self, name: str) -> onnx.ValueInfoProto:
        return self._values.get(name) or onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)

    def _rounded(self, constant: onnx.TensorProto, node: NodeProto) -> onnx.TensorProto:
        """The node's filters in block floating point; its bias in fp16."""
        array = numpy_helper.to_array(constant)
        array = self._in_blocks(array, node, 1) if constant.name == node.input[1] else self._half(array)
        return numpy_helper.from_array(array, constant.name)

    def _in_blocks(self, array: Array, node: NodeProto, side: int) -> Array:
        unit = self._architecture
        axis, groups = _summed_axis(node, side)
        return quantised(array, unit.block_format, block=unit.c_vector, axis=axis, groups=groups)

    def _half(self, array: Array) -> Array:
        self.overflows += int(np.count_nonzero(np.abs(array) > _LARGEST))
        return np.clip(array, -_LARGEST, _LARGEST).astype(np.float16).astype(np.float32)


@dataclass(frozen=True)
class _Piece:
    """``multiplied``: the node whose inputs are rounded; None for what runs as it is."""

    inputs: tuple[str, ...]
    multiplied: NodeProto | None
    execute: Callable[[Mapping[str, Array]], dict[str, Array]]


def _cut(graph: onnx.GraphProto, on_fpga: Collection[str]) -> Iterator[tuple[list[NodeProto], NodeProto | None]]:
    """Runs of nodes; each that the FPGA multiplies is one of its own, and named again."""
    between: list[NodeProto] = []
    for index, node in enumerate(graph.node):
        if node.op_type in MULTIPLIED and name_of(node, index) in on_fpga:
            if between:
                yield between, None
            yield [node], node
            between = []
        elif node.op_type != "Constant":
            between.append(node)
    if between:
        yield between, None


def emulation_of(model: onnx.ModelProto, architecture: Architecture, placed: Partition, runner: Runner) -> Emulation:
    """The graph with its nodes placed as ``placed`` says."""
    on_fpga = frozenset(layer.name for layer in placed.layers if layer.on_fpga)
    return Emulation(model, architecture, on_fpga, runner)


def _summed_axis(node: NodeProto, side: int) -> tuple[int, int]:
    """The axis that the multipliers sum over, of input 0 or 1 of the node, and its number of groups."""
    given = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    groups = int(given.get("group", 1))
    if node.op_type == "Conv":
        return (1, groups) if side == 0 else (1, 1)
    if node.op_type == "ConvTranspose":
        return (1, groups) if side == 0 else (0, groups)
    if node.op_type == "Gemm":
        turned = bool(given.get("transA" if side == 0 else "transB", 0))
        return (0 if turned else 1, 1) if side == 0 else (1 if turned else 0, 1)
    return (-1, 1) if side == 0 else (-2, 1)


def _names_used(node: NodeProto) -> Iterator[str]:
    """The tensors that a node reads, those of its subgraphs' nodes included."""
    yield from (name for name in node.input if name)
    for item in node.attribute:
        for graph in (item.g, *item.graphs):
            for inner in graph.node:
                yield from _names_used(inner)


def _constant_nodes(nodes: Iterable[NodeProto]) -> dict[str, onnx.TensorProto]:
    found = {}
    for node in nodes:
        if node.op_type == "Constant":
            value = onnx.helper.get_attribute_value(node.attribute[0])
            tensor = value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(_plain_constant(value))
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copy.name = node.output[0]
            found[node.output[0]] = copy
    return found


def _plain_constant(value: Any) -> Array:
    """The value of ``value_int``, ``value_floats`` and their like."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "f" else array

"""Rewrite an fp32 ONNX model to compute in fp16, with fp32 at its borders and in the operations that need it.

For engines whose networks are strongly typed: what the file says is what runs. Every cast is written out, each tensor
is cast once at most, and every node gets a name. Needs the onnx package, so only a compiler's child imports it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from avsdk.errors import NotAvailable

# fmt: off
_FULL = frozenset({
    # Sums over many elements, and what follows them: fp16 overflows at 65504 and loses small terms.
    "BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization",
    "MeanVarianceNormalization", "RMSNormalization", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMean",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "CumSum", "Softmax", "LogSoftmax", "Exp", "Log", "Pow", "Sqrt",
    "Reciprocal", "Erf",
    # Coordinates, counters, and what is of a fixed type.
    "AffineGrid", "GridSample", "Range", "Constant", "ConstantOfShape", "RandomNormal", "RandomUniform", "Cast",
    "CastLike", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "NonMaxSuppression",
})
# fmt: on
_FIXED_INPUTS: Mapping[str, frozenset[int]] = {"Resize": frozenset({1, 2}), "Upsample": frozenset({1})}
"""Inputs that the ONNX standard keeps in fp32, whatever the data is."""

_HALF_MAX = 65504.0


def half_from_full(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model computing in fp16; inputs and outputs keep their types.

    Raises ``NotAvailable`` for control flow, whose bodies this does not follow.
    """
    branching = next(
        (node.op_type for node in model.graph.node if any(item.HasField("g") for item in node.attribute)), None
    )
    if branching:
        raise NotAvailable(f"the graph holds {branching}, whose body is not cast to fp16", expected="no control flow")
    inferred = onnx.shape_inference.infer_shapes(model)
    return _Rewrite(inferred).result()


class _Rewrite:
    """One pass over the nodes in their order, which ONNX requires to be topological."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        graph = model.graph
        self._weights = {item.name: item for item in graph.initializer if item.data_type == TensorProto.FLOAT}
        typed = [*graph.input, *graph.output, *graph.value_info]
        self._floats = {item.name for item in typed if item.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._outputs = {item.name for item in graph.output}
        self._half: set[str] = set()
        self._casts: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._added: list[onnx.TensorProto] = []

    def result(self) -> onnx.ModelProto:
        for index, node in enumerate(self._model.graph.node):
            node.name = node.name or f"{node.op_type}_{index}"
            self._place(node)
        for name in sorted(self._outputs & self._half):
            self._nodes.append(_cast(f"{name}__fp16", name, TensorProto.FLOAT))
        graph = self._model.graph
        used = {name for node in self._nodes for name in node.input} | self._outputs
        weights = [item for item in (*graph.initializer, *self._added) if item.name in used]
        made = helper.make_graph(self._nodes, graph.name, list(graph.input), list(graph.output), initializer=weights)
        return helper.make_model(made, opset_imports=list(self._model.opset_import), ir_version=self._model.ir_version)

    def _place(self, node: onnx.NodeProto) -> None:
        fixed = _FIXED_INPUTS.get(node.op_type, frozenset())
        floats = [index for index, name in enumerate(node.input) if self._is_float(name) and index not in fixed]
        makes_floats = [name for name in node.output if name in self._floats]
        half = node.op_type not in _FULL and bool(floats) and not any(self._overflows(node.input[i]) for i in floats)
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        for index in range(len(node.input)):
            if self._is_float(node.input[index]):
                wants_half = half and index in floats
                copied.input[index] = self._as(
                    node.input[index], TensorProto.FLOAT16 if wants_half else TensorProto.FLOAT
                )
        for index, name in enumerate(node.output):
            if half and name in makes_floats:
                self._half.add(name)
                copied.output[index] = self._stored(name)
        self._nodes.append(copied)

    def _is_float(self, name: str) -> bool:
        return name in self._floats or name in self._weights

    def _overflows(self, name: str) -> bool:
        weight = self._weights.get(name)
        return weight is not None and bool(np.any(np.abs(numpy_helper.to_array(weight)) > _HALF_MAX))

    def _stored(self, name: str) -> str:
        """Where a half tensor lives: a graph output keeps its own name for the fp32 copy."""
        return f"{name}__fp16" if name in self._outputs else name

    def _as(self, name: str, kind: int) -> str:
        """The name under which the tensor is found in this type, casting it once where needed."""
        if name in self._weights:
            return self._weight_as(name, kind)
        stored_as = TensorProto.FLOAT16 if name in self._half else TensorProto.FLOAT
        if stored_as == kind:
            return self._stored(name) if name in self._half else name
        if (name, kind) not in self._casts:
            suffix = "fp16" if kind == TensorProto.FLOAT16 else "fp32"
            self._casts[name, kind] = f"{name}__as_{suffix}"
            self._nodes.append(_cast(self._stored(name) if name in self._half else name, f"{name}__as_{suffix}", kind))
        return self._casts[name, kind]

    def _weight_as(self, name: str, kind: int) -> str:
        if kind == TensorProto.FLOAT:
            return name
        if (name, kind) not in self._casts:
            self._casts[name, kind] = f"{name}__fp16"
            halved = numpy_helper.to_array(self._weights[name]).astype(np.float16)
            self._added.append(numpy_helper.from_array(halved, f"{name}__fp16"))
        return self._casts[name, kind]


def _cast(source: str, result: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"cast_{result}", to=kind)

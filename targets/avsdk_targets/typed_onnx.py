"""What the types in an ONNX model say of how an engine that obeys them will compute.

Needs the onnx package, so only a compiler's child imports it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, external_data_helper, numpy_helper

_MOVES = frozenset(
    "Cast Concat DepthToSpace DequantizeLinear Expand Flatten Gather Identity Pad QuantizeLinear Reshape Resize Slice "
    "SpaceToDepth Split Squeeze Tile Transpose Unsqueeze Upsample".split()
)
"""Operations that compute nothing; they count in no precision's share."""
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
_PRODUCTS = frozenset({"Attention", "Einsum", "Gemm", "MatMul", *_RECURRENT})
_POINTED = frozenset({"DequantizeLinear", "QuantizeLinear"})
_NAMES: Mapping[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


_SMALL = 256
"""Elements up to which a tensor may be a shape, an axis or a zero point, which types are inferred from."""


def without_weights(path: Path) -> onnx.ModelProto:
    """The model as its file has it; of the tensors kept in other files, only the small ones are read."""
    model = onnx.load(path, load_external_data=False)
    for item in model.graph.initializer:
        if external_data_helper.uses_external_data(item) and math.prod(item.dims) <= _SMALL:
            external_data_helper.load_external_data_for_tensor(item, str(path.parent))
            item.data_location = TensorProto.DEFAULT
            del item.external_data[:]
    return model


class TypedGraph:
    """The main graph with shape and type of every tensor at one set of input shapes."""

    def __init__(self, model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
        sized = onnx.ModelProto()
        sized.CopyFrom(model)
        for item in sized.graph.input:
            for dimension, size in zip(item.type.tensor_type.shape.dim, shapes.get(item.name, ())):
                dimension.dim_value = size
        for item in sized.graph.output:
            item.type.tensor_type.ClearField("shape")
        del sized.graph.value_info[:]
        self._graph = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
        tensors = (*self._graph.input, *self._graph.output, *self._graph.value_info)
        typed = {item.name: item.type.tensor_type for item in tensors}
        self._shapes: dict[str, list[int]] = {
            name: [size.dim_value for size in kind.shape.dim] for name, kind in typed.items()
        }
        self._kinds: dict[str, int] = {name: kind.elem_type for name, kind in typed.items()}
        self._shapes.update({item.name: list(item.dims) for item in self._graph.initializer})
        self._kinds.update({item.name: item.data_type for item in self._graph.initializer})
        self._makers = {name: node for node in self._graph.node for name in node.output}

    def shares(self) -> dict[str, float]:
        """Share of FLOPs per precision; what follows a DequantizeLinear on data and weight computes in int8."""
        counted: Counter[str] = Counter()
        for node in self._graph.node:
            kind = self._precision(node)
            if kind and node.op_type not in _MOVES:
                counted[kind] += self._flops(node)
        total = sum(counted.values()) or 1
        return {name: count / total for name, count in counted.items() if count}

    def asymmetric(self) -> str:
        """The name of the first quantising node whose zero point is not zero; empty where all are."""
        weights = {item.name: item for item in self._graph.initializer}
        for node in self._graph.node:
            point = weights.get(node.input[2]) if node.op_type in _POINTED and len(node.input) > 2 else None
            if point is not None and not point.external_data and numpy_helper.to_array(point).any():
                return _called(node)
        return ""

    def full_products(self) -> Iterator[tuple[str, str]]:
        """What Turing has no fp32 kernels for and is in fp32 here: operator and name of each node."""
        for node in self._graph.node:
            if not node.input or self._kinds.get(node.input[0]) != TensorProto.FLOAT:
                continue
            volume = node.op_type in _CONVOLUTIONS and len(self._shapes.get(node.input[0], ())) == 5
            if volume or node.op_type in _PRODUCTS:
                yield ("3-D " if volume else "") + node.op_type, _called(node)

    def _precision(self, node: onnx.NodeProto) -> str:
        if not node.input or not node.output:
            return ""
        if node.op_type in _CONVOLUTIONS | _PRODUCTS and all(self._dequantised(name) for name in node.input[:2]):
            return "int8"
        return _NAMES.get(self._kinds.get(node.input[0], 0), "")

    def _dequantised(self, name: str) -> bool:
        return name in self._makers and self._makers[name].op_type == "DequantizeLinear"

    def _flops(self, node: onnx.NodeProto) -> int:
        """Two per multiply-add of convolutions and matrix products; one per output element of the others."""
        outputs: list[list[int]] = [self._shapes[name] for name in node.output if name in self._shapes]
        elements = math.prod(outputs[0]) if outputs else 0
        first = self._shapes.get(node.input[0], [])
        if node.op_type in _CONVOLUTIONS and node.input[1] in self._shapes:
            return 2 * elements * math.prod(self._shapes[node.input[1]][1:])
        if node.op_type in {"MatMul", "Gemm"} and first:
            return 2 * elements * first[-1]
        if node.op_type in _RECURRENT and len(first) == 3:  # per step and row: the weights of input and state, once
            weights = [math.prod(self._shapes.get(name, [0])) for name in node.input[1:3]]
            return 2 * first[0] * first[1] * sum(weights)
        return elements


def _called(node: onnx.NodeProto) -> str:
    return node.name or (f"the node that makes {node.output[0]}" if node.output else node.op_type)

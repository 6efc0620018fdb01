"""Rewrite an fp32 ONNX model to compute in fp16 or bf16, with fp32 at its borders and in the operations that need it.

For engines whose networks are strongly typed: what the file says is what runs. Every cast is written out, each tensor
is cast once at most, and every node gets a name. Needs the onnx package, so only a compiler's child imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from avsdk.errors import NotAvailable

# fmt: off
_FULL = frozenset({
    # Sums over many elements, and what follows them: fp16 overflows at 65504 and loses small terms.
    "BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization",
    "MeanVarianceNormalization", "RMSNormalization", "LRN", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "GlobalAveragePool", "GlobalLpPool", "LpPool", "CumSum",
    "CumProd", "Softmax", "LogSoftmax", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Erf", "Cosh", "Sinh", "Tan", "STFT",
    "DFT", "Det",
    # Coordinates, counters, and what is of a fixed type.
    "AffineGrid", "GridSample", "Range", "Constant", "ConstantOfShape", "RandomNormal", "RandomUniform", "Cast",
    "CastLike", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "NonMaxSuppression",
})
# fmt: on
_FULL_FOR: Mapping[str, frozenset[str]] = {"fp16": _FULL, "bf16": _FULL | {"ConvTranspose", "GRU"}}
"""TensorRT for RTX 1.7.1 has no bf16 kernel for the one, and its parser mixes types in the other."""
_SCALED = frozenset({"Add", "Clip", "Div", "Max", "Min", "Mul", "Sub"})
"""With a constant, these follow what came before: a variance stays in fp32 until its root is taken."""
_CHOICES = frozenset({"ArgMax", "ArgMin", "TopK"})
_ON_THE_WAY = frozenset({
    "Abs", "Add", "Clip", "Div", "Expand", "Identity", "Mul", "Neg", "Reshape", "Squeeze", "Sub", "Sum", "Transpose",
    "Unsqueeze",
})  # fmt: skip
_PAIRED = frozenset({"Einsum", "Gemm", "MatMul"})
_LAYOUT = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_FIXED_INPUTS: Mapping[str, frozenset[int]] = {"Resize": frozenset({1, 2}), "Upsample": frozenset({1})}
"""Inputs that are kept in fp32, whatever the data is."""

_KINDS: Mapping[str, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_LARGEST: Mapping[str, float] = {"fp16": 65504.0, "bf16": 3.38e38}
_SMALLEST: Mapping[str, float] = {"fp16": 6.104e-5, "bf16": 1.18e-38}
"""The smallest number that the format holds with its full digits."""
_INLINE_BYTES = 1 << 30
"""From here on weights go into a file of their own: protobuf ends at 2 GiB."""

_WEIGHTS_ALONE_IR = 4
"""From this IR version on weights need not be inputs too."""
_INFERRED_WHOLE_BYTES = 1 << 28
"""Below this the types are inferred from the model with its weights, which costs one copy of it."""


def half_from_full(model: onnx.ModelProto, precision: str = "fp16") -> onnx.ModelProto:
    """The same model computing in ``fp16`` or ``bf16``; inputs and outputs keep their types.

    External weights must be loaded. Raises ``NotAvailable`` for control flow, whose bodies this does not follow, for
    sparse weights, and where the type of a tensor is not known.
    """
    branching = next(
        (node.op_type for node in model.graph.node if any(item.HasField("g") for item in node.attribute)), None
    )
    if branching:
        raise NotAvailable(
            f"the graph holds {branching}, whose body is not cast to {precision}",
            expected="no control flow",
            fix="--precision fp32, or a model without it",
        )
    if model.graph.sparse_initializer:
        raise NotAvailable(
            f"the graph holds the sparse weights {model.graph.sparse_initializer[0].values.name!r}, which are not cast "
            f"to {precision}",
            expected="dense weights",
            fix="--precision fp32, or export the model with dense weights",
        )
    return _Rewrite(model, precision).result()


def save_onnx(model: onnx.ModelProto, path: Path) -> list[str]:
    """Write the model, its weights in a file beside it where it is large; returns the names of the files."""
    weights = f"{path.stem}.weights" if _weight_bytes(model) > _INLINE_BYTES else None
    onnx.save(model, path, save_as_external_data=weights is not None, location=weights)
    return [path.name, *([weights] if weights and (path.parent / weights).exists() else [])]


def _weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the weights that are loaded; protobuf itself cannot say of a model that passes its limit."""
    return sum(len(item.raw_data) for item in model.graph.initializer)


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with the types of its inner tensors, found without the weights, which may pass protobuf's 2 GiB."""
    bare = onnx.ModelProto()
    if _weight_bytes(model) < _INFERRED_WHOLE_BYTES:
        bare.CopyFrom(model)
    else:
        _copy_without_large(model, bare)
    return onnx.shape_inference.infer_shapes(bare).graph


def _copy_without_large(model: onnx.ModelProto, bare: onnx.ModelProto) -> None:
    weights = list(model.graph.initializer)
    del model.graph.initializer[:]
    bare.CopyFrom(model)
    model.graph.initializer.extend(weights)
    for item in weights:
        if len(item.raw_data) <= 1024:
            bare.graph.initializer.append(item)
        else:  # shape and type are enough; an input of that name gives them
            bare.graph.input.append(helper.make_tensor_value_info(item.name, item.data_type, list(item.dims)))


class _Rewrite:
    """One pass over the nodes in their order, which ONNX requires to be topological."""

    def __init__(self, model: onnx.ModelProto, precision: str) -> None:
        self._model, self._precision, self._kind = model, precision, _KINDS[precision]
        self._opsets = {item.domain: item.version for item in model.opset_import}
        graph = model.graph
        self._constants = [item for node in graph.node for item in _constant_of(node)]
        weights = (*graph.initializer, *self._constants)
        self._weights = {item.name: item for item in weights if item.data_type == TensorProto.FLOAT}
        typed = [*graph.input, *graph.output, *_inferred(model).value_info]
        _require_types(graph, {item.name for item in typed} | {item.name for item in weights}, precision)
        self._floats = {item.name for item in typed if item.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._outputs = {item.name for item in graph.output}
        self._taken = {name for node in graph.node for name in (*node.input, *node.output)} | self._outputs
        self._sensitive = _distances(graph) | _grams(graph)
        self._half: set[str] = set()
        self._kept: set[str] = set()
        self._casts: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._added: list[onnx.TensorProto] = []

    def result(self) -> onnx.ModelProto:
        made_constants = {item.name for item in self._constants}
        for index, node in enumerate(self._model.graph.node):
            if node.op_type == "Constant" and node.output[0] in made_constants:
                continue
            node.name = node.name or f"{node.op_type}_{index}"
            self._place(node)
        for name in sorted(self._outputs & self._half):
            self._nodes.append(_cast(self._stored(name), name, TensorProto.FLOAT))
        graph = self._model.graph
        used = {name for node in self._nodes for name in node.input} | self._outputs
        weights = [item for item in (*graph.initializer, *self._constants, *self._added) if item.name in used]
        held = {item.name for item in graph.initializer}
        inputs = [item for item in graph.input if item.name not in held]  # IR 3 lists the weights there as well
        made = helper.make_graph(self._nodes, graph.name, inputs, list(graph.output), initializer=weights)
        return helper.make_model(
            made,
            opset_imports=list(self._model.opset_import),
            ir_version=max(self._model.ir_version, _WEIGHTS_ALONE_IR),
            functions=list(self._model.functions),
        )

    def _place(self, node: onnx.NodeProto) -> None:
        inputs, outputs = self._castable(node)
        half = node.op_type not in _FULL_FOR[self._precision] and bool(inputs) and not self._stays_full(node, inputs)
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        for index in range(len(node.input)):
            if self._is_float(node.input[index]):
                wants_half = half and index in inputs
                copied.input[index] = self._as(node.input[index], self._kind if wants_half else TensorProto.FLOAT)
        for index, name in enumerate(node.output):
            if half and index in outputs:
                self._half.add(name)
                copied.output[index] = self._stored(name)
        if not half:
            self._kept.update(node.output)
        self._nodes.append(copied)

    def _castable(self, node: onnx.NodeProto) -> tuple[list[int], list[int]]:
        """Which inputs and outputs are fp32 tensors that the standard also allows in fp16; none for foreign nodes.

        The lists of bf16 are longer in every later opset, while engines take it wherever they take fp16.
        """
        if node.domain not in {"", "ai.onnx"}:
            return [], []
        schema = onnx.defs.get_schema(node.op_type, self._opsets.get("", self._opsets.get("ai.onnx", 1)))
        fixed = _FIXED_INPUTS.get(node.op_type, frozenset())
        inputs = [
            index
            for index, name in enumerate(node.input)
            if self._is_float(name) and index not in fixed and _takes_half(schema.inputs, index)
        ]
        outputs = [
            index
            for index, name in enumerate(node.output)
            if name in self._floats and _takes_half(schema.outputs, index)
        ]
        return inputs, outputs

    def _stays_full(self, node: onnx.NodeProto, inputs: list[int]) -> bool:
        names = [node.input[index] for index in inputs]
        compared = node.op_type in _CHOICES and node.input[0] in self._sensitive
        if compared or node.output[0] in self._sensitive or any(self._unfit(name) for name in names):
            return True
        if node.op_type == "Div" and node.input[1] in self._kept:  # by a norm, which passes fp16's range sooner
            return True
        data = [name for name in names if name not in self._weights]
        return node.op_type in _SCALED and len(data) == 1 and len(names) > 1 and data[0] in self._kept

    def _is_float(self, name: str) -> bool:
        return name in self._floats or name in self._weights

    def _unfit(self, name: str) -> bool:
        """A weight with a number too large for the format, or a single one that it would round to next to nothing."""
        if name not in self._weights:
            return False
        values = np.abs(numpy_helper.to_array(self._weights[name]))
        if values.size == 1:
            return bool(0 < values.reshape(()) < _SMALLEST[self._precision]) or self._too_large(values)
        return self._too_large(values)

    def _too_large(self, values: Any) -> bool:
        return bool(np.any((values > _LARGEST[self._precision]) & np.isfinite(values)))

    def _stored(self, name: str) -> str:
        """Where a half tensor lives: a graph output keeps its own name for the fp32 copy."""
        if name not in self._outputs:
            return name
        if (name, self._kind) not in self._casts:
            self._casts[name, self._kind] = self._free(f"{name}__{self._precision}")
        return self._casts[name, self._kind]

    def _free(self, name: str) -> str:
        """The name, or one like it where the model has a tensor of that name."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _as(self, name: str, kind: int) -> str:
        """The name under which the tensor is found in this type, casting it once where needed."""
        if name in self._weights:
            return self._weight_as(name, kind)
        stored_as = self._kind if name in self._half else TensorProto.FLOAT
        stored = self._stored(name) if name in self._half else name
        if stored_as == kind:
            return stored
        if (name, kind) not in self._casts:
            suffix = "fp32" if kind == TensorProto.FLOAT else self._precision
            self._casts[name, kind] = self._free(f"{name}__as_{suffix}")
            self._nodes.append(_cast(stored, self._casts[name, kind], kind))
        return self._casts[name, kind]

    def _weight_as(self, name: str, kind: int) -> str:
        if kind == TensorProto.FLOAT:
            return name
        if (name, kind) not in self._casts:
            self._casts[name, kind] = self._free(f"{name}__{self._precision}")
            halved = numpy_helper.to_array(self._weights[name]).astype(helper.tensor_dtype_to_np_dtype(kind))
            self._added.append(numpy_helper.from_array(halved, self._casts[name, kind]))
        return self._casts[name, kind]


def _distances(graph: onnx.GraphProto) -> set[str]:
    """What the products whose results are compared, and what lies between, make: distances to a codebook.

    They are differences of large, nearly equal numbers, and a rounded one picks another code.
    """
    maker = {name: node for node in graph.node for name in node.output}
    waiting = [node.input[0] for node in graph.node if node.op_type in _CHOICES]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        node = maker.get(name)
        if node is None or name in found or node.op_type not in _ON_THE_WAY | _PAIRED:
            continue
        found.update(node.output)
        if node.op_type in _ON_THE_WAY:
            waiting += node.input
    return found


def _grams(graph: onnx.GraphProto) -> set[str]:
    """What the products of a tensor with itself make: Gram matrices, whose sums over all places pass fp16's range."""
    maker = {name: node for node in graph.node for name in node.output}

    def source(name: str) -> str:
        while name in maker and maker[name].op_type in _LAYOUT:
            name = maker[name].input[0]
        return name

    return {
        node.output[0]
        for node in graph.node
        if node.op_type in _PAIRED and len(node.input) > 1 and source(node.input[0]) == source(node.input[1])
    }


def _require_types(graph: onnx.GraphProto, known: set[str], precision: str) -> None:
    """Raise ``NotAvailable`` for a tensor of unknown type that a node reads: what it meets could be of another type."""
    maker = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        for name in node.input:
            if name in maker and name not in known and _constant_of(maker[name]) == []:
                domain = maker[name].domain
                raise NotAvailable(
                    f"the type of {name!r} is not known, which {f'{domain}.' if domain else ''}{maker[name].op_type} "
                    f"makes, so the graph is not cast to {precision}",
                    expected="operators whose types ONNX can infer",
                    fix="--precision fp32, or export the model with ONNX's own operators",
                )


def _takes_half(formals: Any, index: int) -> bool:
    """Whether the standard lets the parameter be fp16; the last one may stand for any number more."""
    return bool(formals) and "tensor(float16)" in formals[min(index, len(formals) - 1)].types


def _constant_of(node: onnx.NodeProto) -> list[onnx.TensorProto]:
    """The fp32 tensor of a Constant node, which is then a weight like the others."""
    if node.op_type != "Constant" or len(node.attribute) != 1:
        return []
    attribute = node.attribute[0]
    value: Any = None
    if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
        value = numpy_helper.to_array(attribute.t)
    elif attribute.name == "value_float":
        value = np.float32(attribute.f)
    elif attribute.name == "value_floats":
        value = np.array(attribute.floats, np.float32)
    return [] if value is None else [numpy_helper.from_array(np.asarray(value, np.float32), node.output[0])]


def _cast(source: str, result: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"cast_{result}", to=kind)

"""Fixed sizes written into a model, and what is then constant computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from avsdk_targets.rewrites.draft import Array, Known, graphs_of, known_of
from avsdk_targets.rewrites.weights import Shelf

_MAX_FOLDED_BYTES = 64 << 20
_NEVER = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}

_READ_OTHERWISE = {"DFT", "LRN", "LpNormalization", "Resize", "STFT", "Upsample"}
"""ONNX's own evaluator gives other numbers here than ONNX Runtime, as in ``align_corners`` of ``Resize``, or shapes."""


def write_sizes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Give the inputs these shapes and infer the others, in place; whether that changed anything."""
    changed = False
    for item in model.graph.input:
        wanted = shapes.get(item.name)
        axes = item.type.tensor_type.shape.dim
        if wanted is None or [axis.dim_value for axis in axes] == list(wanted):
            continue
        changed = True
        del axes[:]
        for size in wanted:
            axes.add().dim_value = size
    if changed:
        del model.graph.value_info[:]
        for item in model.graph.output:
            item.type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        model.CopyFrom(inferred)
    return changed


def fold(model: onnx.ModelProto, shelf: Shelf) -> int:
    """Compute the nodes whose operands are constants, or shapes that are fixed, in place; how many there were."""
    known = known_of(model)
    folded = {}
    kept = []
    for node in model.graph.node:
        results = _computed(node, known, shelf)
        if results is None:
            kept.append(node)
            continue
        for name, value in zip(node.output, results):
            known.constants[name] = value
            folded[name] = value
    if not folded:
        return 0
    outputs = {item.name for item in model.graph.output}
    used = {name for node in kept for name in node.input} | _captured(kept)
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    del graph.node[:], graph.value_info[:]
    for name in sorted(outputs & folded.keys()):  # an output needs a node that makes it
        graph.node.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(folded[name])))
    graph.node.extend(kept)
    graph.initializer.extend(
        numpy_helper.from_array(folded[name], name) for name in sorted(used & folded.keys() - outputs)
    )
    model.graph.CopyFrom(graph)
    return len(folded)


def _captured(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Names that bodies of control flow may take from outside."""
    bodies = [body for node in nodes for item in node.attribute if item.HasField("g") for body in graphs_of(item.g)]
    return {name for body in bodies for node in body.node for name in node.input} | {
        item.name for body in bodies for item in body.output
    }


def _computed(node: onnx.NodeProto, known: Known, shelf: Shelf) -> list[Array] | None:
    """The node's results, or None where they are not constant, or large."""
    if (
        node.domain not in ("", "ai.onnx")
        or node.op_type in _NEVER | _READ_OTHERWISE
        or any(item.HasField("g") for item in node.attribute)
    ):
        return None
    if node.op_type == "Constant" and node.output[0] in known.constants:
        return [known.constants[node.output[0]]]
    if node.op_type == "Shape":
        return _shape(node, known)
    feeds = {}
    for name in filter(None, node.input):
        if name not in known.constants and name not in shelf:
            return None
        feeds[name] = known.constants[name] if name in known.constants else shelf.value(name)
    for name in filter(None, node.output):
        shape = known.shapes.get(name)
        if shape is None or None in shape or int(np.prod([size or 0 for size in shape])) * 8 > _MAX_FOLDED_BYTES:
            return None
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], "one", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", known.opset)], ir_version=10)
    try:
        found = iter(ReferenceEvaluator(model).run(None, feeds))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return None  # left for the engine to compute
    return [np.asarray(next(found)) if name else np.zeros(0) for name in node.output]


def _shape(node: onnx.NodeProto, known: Known) -> list[Array] | None:
    shape = known.shapes.get(node.input[0])
    limits = {item.name: item.i for item in node.attribute}
    part = None if shape is None else shape[limits.get("start", 0) : limits.get("end", len(shape))]
    return None if part is None or None in part else [np.asarray(part, np.int64)]

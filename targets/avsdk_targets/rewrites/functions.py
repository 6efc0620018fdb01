"""Operators that ONNX itself defines by others: replaced by that definition."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import onnx
from onnx import defs, helper, inliner

from avsdk_targets.rewrites.draft import CannotSpellOut, Known, graphs_of, known_of
from avsdk_targets.rewrites.weights import replace

_DOMAIN = "avsdk.bodies"


def has_body(op: str, opset: int) -> bool:
    """Whether ONNX defines this operator by others."""
    if not defs.has(op, max_inclusive_version=opset):
        return False
    schema: Any = defs.get_schema(op, opset)
    return bool(schema.has_function or schema.has_context_dependent_function)


def body_opset(op: str, opset: int) -> int:
    """The oldest opset, not below this one, whose operators the definition of ``op`` is written in."""
    schema: Any = defs.get_schema(op, opset)
    versions: list[int] = [*schema.function_opset_versions, *schema.context_dependent_function_opset_versions]
    return max(opset, min(versions))


def inlined(model: onnx.ModelProto, ops: Collection[str]) -> onnx.ModelProto:
    """The model with its own functions, and these operators of ONNX, replaced by their bodies.

    Raises ``CannotSpellOut`` where ONNX itself cannot.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    if not ops:
        return model
    model = _with_types(model)
    try:
        if _make_gapped_local(model, ops):
            model = inliner.inline_local_functions(model)
            replace(model.opset_import, [item for item in model.opset_import if item.domain != _DOMAIN])
        return inliner.inline_selected_functions(model, [("", op) for op in sorted(ops)], inline_schema_functions=True)
    except (RuntimeError, ValueError) as error:
        raise CannotSpellOut(f"ONNX's own definition cannot be written out: {str(error).strip()[:200]}") from error


def _make_gapped_local(model: onnx.ModelProto, ops: Collection[str]) -> int:
    """Write every node's defaults, and make functions of the model of those whose body depends on which operands stand.

    The inliner finds no type for an operand that is left out before another one, as an attention's mask may be.
    """
    known = known_of(model)
    for graph in graphs_of(model.graph):
        for node in graph.node:
            if node.op_type not in ops or node.domain not in ("", "ai.onnx"):
                continue
            _write_defaults(node, known.opset)
            schema: Any = defs.get_schema(node.op_type, known.opset)
            if "" in node.input and schema.has_context_dependent_function:
                model.functions.append(_body(node, schema, known, f"{node.op_type}_{len(model.functions)}"))
                node.op_type, node.domain = model.functions[-1].name, _DOMAIN
    if model.functions:
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return len(model.functions)


def _body(node: onnx.NodeProto, schema: Any, known: Known, name: str) -> onnx.FunctionProto:
    types = [
        helper.make_tensor_type_proto(known.types[operand], None) if operand in known.types else onnx.TypeProto()
        for operand in node.input
    ]
    versions: list[int] = schema.context_dependent_function_opset_versions
    version = max(item for item in versions if item <= known.opset)
    found = schema.get_context_dependent_function_with_opset_version(
        version, node.SerializeToString(), [item.SerializeToString() for item in types]
    )
    function = onnx.FunctionProto()
    function.ParseFromString(found)
    function.name, function.domain = name, _DOMAIN
    return function


def _with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """The inliner asks for the types of operands, and looks for them among the values of a graph, not its weights."""
    typed = onnx.shape_inference.infer_shapes(model)
    for tensor in typed.graph.initializer:
        typed.graph.value_info.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return typed


def _write_defaults(node: onnx.NodeProto, opset: int) -> None:
    """A body refers to attributes of its node, and the inliner takes one that is left out for absent."""
    present = {item.name for item in node.attribute}
    for name, attribute in defs.get_schema(node.op_type, opset).attributes.items():
        if name not in present and attribute.default_value.name:
            node.attribute.append(attribute.default_value)

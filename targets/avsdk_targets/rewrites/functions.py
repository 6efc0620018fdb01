"""Operators that ONNX itself defines by others: replaced by that definition."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import onnx
from onnx import defs, inliner

from avsdk_targets.rewrites.draft import CannotSpellOut, graphs_of


def has_body(op: str, opset: int) -> bool:
    """Whether ONNX defines this operator by others."""
    if not defs.has(op, max_inclusive_version=opset):
        return False
    schema: Any = defs.get_schema(op, opset)
    return bool(schema.has_function or schema.has_context_dependent_function)


def inlined(model: onnx.ModelProto, ops: Collection[str]) -> onnx.ModelProto:
    """The model with its own functions, and these operators of ONNX, replaced by their bodies.

    Raises ``CannotSpellOut`` where ONNX itself cannot, as for an attention with a cache.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    if not ops:
        return model
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    for graph in graphs_of(model.graph):
        for node in graph.node:
            if node.op_type in ops and node.domain in ("", "ai.onnx"):
                _write_defaults(node, opset)
    try:
        return inliner.inline_selected_functions(model, [("", op) for op in sorted(ops)], inline_schema_functions=True)
    except (RuntimeError, ValueError) as error:
        raise CannotSpellOut(f"ONNX's own definition cannot be written out: {str(error).strip()[:200]}") from error


def _write_defaults(node: onnx.NodeProto, opset: int) -> None:
    """A body refers to attributes of its node, and the inliner takes one that is left out for absent."""
    present = {item.name for item in node.attribute}
    for name, attribute in defs.get_schema(node.op_type, opset).attributes.items():
        if name not in present and attribute.default_value.name:
            node.attribute.append(attribute.default_value)

"""What ONNX's converter leaves unsaid on the way up: defaults whose meaning changed, which it does not write.

Before opset 11 a ``Resize``, and the ``Upsample`` that became one, took corners as the origin (``asymmetric``), and the
nearest neighbour below, or above where it made smaller, as ONNX Runtime reads those opsets; since then pixels have
centres. Before opset 13 ``Hardmax`` flattened all axes from ``axis`` on, 1 where not said; since then it takes one.
"""

from __future__ import annotations

import onnx
from onnx import helper

from avsdk_targets.rewrites.draft import CannotSpellOut, Known, graphs_of

_CENTRES, _ONE_AXIS = 11, 13


def say_old_defaults(model: onnx.ModelProto, before: int, known: Known) -> None:
    """Write what a model of opset ``before`` meant into its nodes, in place, now that it has the opset of ``known``.

    Raises ``CannotSpellOut`` where the newer operator cannot say it.
    """
    for graph in graphs_of(model.graph):
        for node in graph.node:
            if node.domain not in ("", "ai.onnx"):
                continue
            if node.op_type == "Resize" and before < _CENTRES <= known.opset:
                _write(node, "coordinate_transformation_mode", "asymmetric")
                _write(node, "nearest_mode", _nearest(node, known))
            elif node.op_type == "Hardmax" and before < _ONE_AXIS <= known.opset:
                _write(node, "axis", _last_axis(node, known))


def _nearest(node: onnx.NodeProto, known: Known) -> str:
    modes = {helper.get_attribute_value(item) for item in node.attribute if item.name == "mode"}
    if modes & {b"linear", b"cubic"}:
        return "floor"  # says nothing there
    scales = known.constants.get(node.input[2]) if len(node.input) > 2 else None
    if scales is None:
        text = (
            f"the scales of {node.name or node.output[0]!r} are no constants, and before opset 11 they chose the pixel"
        )
        raise CannotSpellOut(text)
    if (scales < 1).any() and (scales > 1).any():
        text = f"{node.name or node.output[0]!r} makes one axis smaller and another larger, by the nearest neighbour"
        raise CannotSpellOut(text)
    return "ceil" if (scales < 1).any() else "floor"


def _last_axis(node: onnx.NodeProto, known: Known) -> int:
    axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
    shape = known.shapes.get(node.input[0])
    if shape is None or axis % len(shape) != len(shape) - 1:
        text = f"Hardmax over all axes from {axis} on"
        raise CannotSpellOut(text)
    return axis


def _write(node: onnx.NodeProto, name: str, value: int | str) -> None:
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])

"""Models brought to an older opset, node by node, down to opset 13.

A node whose operator has not changed in between stays. One whose operator has is admitted when the older definition
covers what this node uses of it: attributes at their defaults are dropped, types and operands are compared with the
older definition, and the rules below mend what moved, such as axes from an operand into an attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, defs, helper

from avsdk_targets.rewrites.activations import cast_like
from avsdk_targets.rewrites.draft import CannotSpellOut, Draft, Known

LOWEST = 13

_NEW_VALUES: Mapping[tuple[str, str, str], int] = {
    ("Pad", "mode", "wrap"): 19,
    ("Resize", "coordinate_transformation_mode", "half_pixel_symmetric"): 19,
    ("Resize", "keep_aspect_ratio_policy", "not_larger"): 18,
    ("Resize", "keep_aspect_ratio_policy", "not_smaller"): 18,
    ("ScatterND", "reduction", "max"): 18,
    ("ScatterND", "reduction", "min"): 18,
    ("ScatterElements", "reduction", "max"): 18,
    ("ScatterElements", "reduction", "min"): 18,
    ("DepthToSpace", "mode", "CRD"): 11,
}
"""Values of attributes, with the opset that brought them: definitions do not list what a text may be."""

_OLD_NAMES = {("GridSample", "mode", "linear"): "bilinear", ("GridSample", "mode", "cubic"): "bicubic"}
"""Values that opset 20 renamed."""

_REDUCTIONS = {
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSumSquare",
}  # fmt: skip


def exists(op: str, opset: int) -> bool:
    """Whether ONNX's own operators of this opset have ``op``."""
    return defs.has(op, max_inclusive_version=opset) and not defs.get_schema(op, opset).deprecated


def has_rule(op: str) -> bool:
    """Whether a rule below writes the operator for opsets that do not have it."""
    return op in _GONE


def lower_node(draft: Draft, opset: int) -> None:
    """Write the node as ``opset`` has it. Raises ``CannotSpellOut`` naming what the older operator lacks."""
    op = draft.node.op_type
    old = defs.get_schema(op, opset) if exists(op, opset) else None
    if old is None:
        if op not in _GONE:
            raise CannotSpellOut(f"opset {opset} has no {op}")
        _GONE[op](draft)
    elif op in _MOVED and opset < _MOVED[op][0]:
        _MOVED[op][1](draft, old)
    else:
        _kept(draft, old)


def _kept(draft: Draft, old: defs.OpSchema, *, without: frozenset[str] = frozenset(), inputs: int = 99) -> None:
    """The node with its first ``inputs`` operands, without what the older operator does not know."""
    node = onnx.NodeProto()
    node.CopyFrom(draft.node)
    names = list(node.input)[:inputs]
    while names and not names[-1]:
        names.pop()
    del node.input[:]
    node.input.extend(names)
    if len(names) > old.max_input:
        raise CannotSpellOut(f"{old.name} of opset {old.since_version} has {old.max_input} operands, not {len(names)}")
    attributes = [item for item in node.attribute if item.name not in without and _admitted(draft, item, old)]
    del node.attribute[:]
    node.attribute.extend(attributes)
    _require_types(draft.known, node, old)
    draft.nodes.append(node)


def _admitted(draft: Draft, item: onnx.AttributeProto, old: defs.OpSchema) -> bool:
    """Whether the older operator takes the attribute; one that it lacks is left out at its default value."""
    value = draft.attribute(item.name, None)
    since = _NEW_VALUES.get((old.name, item.name, value if isinstance(value, str) else ""), 0)
    if item.name in old.attributes:
        if since > old.since_version:
            raise CannotSpellOut(f"{old.name} of opset {old.since_version} has no {item.name}={value}")
        renamed = _OLD_NAMES.get((old.name, item.name, value if isinstance(value, str) else ""))
        if renamed and old.since_version < 20:
            item.s = renamed.encode()
        return True
    new = defs.get_schema(old.name, draft.known.opset).attributes.get(item.name)
    default = helper.get_attribute_value(new.default_value) if new is not None and new.default_value.name else None
    default = default.decode() if isinstance(default, bytes) else default
    if value == default or not value or (isinstance(value, list) and set(value) == {1}):
        return False  # a list of ones is the default of dilations
    raise CannotSpellOut(f"{old.name} of opset {old.since_version} has no attribute {item.name}")


def _require_types(known: Known, node: onnx.NodeProto, old: defs.OpSchema) -> None:
    for names, formals, verb in ((node.input, old.inputs, "take"), (node.output, old.outputs, "give")):
        for index, name in enumerate(names):
            kind = known.types.get(name)
            if kind is None:
                continue
            text = f"tensor({TensorProto.DataType.Name(kind).lower()})"
            if text not in formals[min(index, len(formals) - 1)].types:
                raise CannotSpellOut(f"{old.name} of opset {old.since_version} does not {verb} {text}")


# -- operators whose form moved ----------------------------------------------------------------------------------------


def _axes_to_attribute(draft: Draft, old: defs.OpSchema) -> None:
    """Opset 18 brought ``noop_with_empty_axes``: nothing is summed then, but each element still goes its way."""
    axes = draft.constant(draft.input(1)).tolist() if draft.input(1) else []
    if not axes and draft.attribute("noop_with_empty_axes", 0):
        x, out = draft.input(0), draft.output(0)
        if old.name == "ReduceSumSquare":
            draft.add("Mul", x, x, out=out)
        elif old.name in {"ReduceL1", "ReduceL2"}:
            draft.add("Max", x, draft.add("Neg", x), out=out)
        else:
            draft.add("Log" if old.name == "ReduceLogSum" else "Identity", x, out=out)
        return
    _kept(draft, old, without=frozenset({"noop_with_empty_axes"}), inputs=1)
    if axes:
        draft.nodes[-1].attribute.append(helper.make_attribute("axes", axes))


def _split(draft: Draft, old: defs.OpSchema) -> None:
    """Opset 18 brought ``num_outputs``, whose last part may be smaller; before, parts without sizes are equal."""
    if draft.input(1):
        _kept(draft, old)
        return
    number = draft.attribute("num_outputs", len(draft.node.output))
    draft.rank(draft.input(0))
    size = draft.known.shapes[draft.input(0)][draft.attribute("axis", 0)]
    if size is None:
        raise CannotSpellOut("the split axis has no fixed size")
    part = -(-size // number)
    sizes = draft.ints(*([part] * (number - 1)), size - part * (number - 1))
    _kept(draft, old, without=frozenset({"num_outputs"}))
    draft.nodes[-1].input.append(sizes)


def _pad(draft: Draft, old: defs.OpSchema) -> None:
    """Opset 18 brought an operand ``axes``: the pads of the others are 0."""
    if not draft.input(3):
        _kept(draft, old)
        return
    rank = draft.rank(draft.input(0))
    axes = [int(axis) % rank for axis in draft.constant(draft.input(3))]
    given = draft.constant(draft.input(1))
    pads = np.zeros((2, rank), np.int64)
    pads[:, axes] = given.reshape(2, len(axes))
    whole = draft.value(pads.reshape(-1))
    _kept(draft, old, inputs=3)
    draft.nodes[-1].input[1] = whole


def _resize(draft: Draft, old: defs.OpSchema) -> None:
    """Opset 18 brought an attribute ``axes``: scales and sizes of the others are written out."""
    axes = draft.attribute("axes", None)
    known = draft.known.shapes.get(draft.input(0))
    policy = draft.attribute("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        raise CannotSpellOut(f"Resize of opset {old.since_version} has no keep_aspect_ratio_policy={policy}")
    if axes is None:
        _kept(draft, old)
        return
    if known is None:
        raise CannotSpellOut("the rank of what is resized is not known")
    axes = [axis % len(known) for axis in axes]
    whole = {}
    for place, full in ((2, np.ones(len(known), np.float32)), (3, np.asarray([size or -1 for size in known]))):
        if draft.input(place):
            full[axes] = draft.constant(draft.input(place))
            if (full < 0).any():
                raise CannotSpellOut("an axis that is not resized has no fixed size")
            whole[place] = draft.value(full if place == 2 else full.astype(np.int64))
    if draft.input(1) and draft.attribute("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise CannotSpellOut("a region of interest given for some axes")
    _kept(draft, old, without=frozenset({"axes"}))
    for place, name in whole.items():
        draft.nodes[-1].input[place] = name


def _reshape(draft: Draft, old: defs.OpSchema) -> None:
    """Opset 14 brought ``allowzero``, which says nothing where no size is 0."""
    plain = draft.attribute("allowzero", 0) and 0 not in draft.constant(draft.input(1))
    _kept(draft, old, without=frozenset({"allowzero"}) if plain else frozenset())


def _shape(draft: Draft, old: defs.OpSchema) -> None:
    """Opset 15 brought ``start`` and ``end``."""
    start, end = draft.attribute("start", 0), draft.attribute("end", None)
    if not start and end is None:
        _kept(draft, old)
        return
    whole = draft.add("Shape", draft.input(0))
    far = np.iinfo(np.int64).max if end is None else end
    draft.add("Slice", whole, draft.ints(start), draft.ints(far), draft.ints(0), out=draft.output(0))


def _roi_align(draft: Draft, old: defs.OpSchema) -> None:
    """Opset 16 moved the samples by half a pixel unless the node says otherwise; before, they are not moved."""
    mode = draft.attribute("coordinate_transformation_mode", "half_pixel")
    if mode != "output_half_pixel":
        raise CannotSpellOut(f"RoiAlign of opset {old.since_version} has no coordinate_transformation_mode={mode}")
    _kept(draft, old, without=frozenset({"coordinate_transformation_mode"}))


def _trilu(draft: Draft) -> None:
    """Opset 14 brought it: a product with zeros and ones, as the sizes are fixed."""
    x = draft.input(0)
    rows, columns = draft.sizes(x)[-2:]
    shift = int(draft.constant(draft.input(1)).reshape(-1)[0]) if draft.input(1) else 0
    keep = (
        np.tri(rows, columns, shift, bool)
        if not draft.attribute("upper", 1)
        else ~np.tri(rows, columns, shift - 1, bool)
    )
    zero = draft.value(0, draft.type(x))
    draft.add("Where", draft.value(keep), x, zero, out=draft.output(0))


_MOVED: dict[str, tuple[int, Callable[[Draft, defs.OpSchema], None]]] = {
    **{op: (18, _axes_to_attribute) for op in _REDUCTIONS},
    "Split": (18, _split),
    "Pad": (18, _pad),
    "Resize": (18, _resize),
    "Reshape": (14, _reshape),
    "RoiAlign": (16, _roi_align),
    "Shape": (15, _shape),
}
_GONE: dict[str, Callable[[Draft], None]] = {"CastLike": cast_like, "Trilu": _trilu}

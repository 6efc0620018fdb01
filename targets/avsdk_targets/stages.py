"""Cuts an ONNX graph at its instance norms, for ``avsdk.bands`` to run in bands of rows.

Only what is understood is cut: a picture in, a map out, made of convolutions of odd kernels padded to keep their size,
padding, nearest-neighbour enlargement by whole factors, and operations on single values. Any other graph stays whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, lcm
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from avsdk.spec import LARGEST_SIZE, AxisRange, GraphSpec, TensorSpec
from avsdk.stages import Norm, Stage, Stages

ROOM = "stages"
_SAME = {"Relu", "LeakyRelu", "Elu", "PRelu", "Sigmoid", "Tanh", "Clip", "Abs", "Neg", "Identity", "Softplus",
         "HardSigmoid", "HardSwish", "Gelu", "Mish", "Exp", "Sqrt"}  # fmt: skip
_JOINS = {"Add", "Sub", "Mul", "Div"}
_NORM = "InstanceNormalization"
_FLOAT_BYTES = 4


class _NotCut(Exception):
    """The graph is not of the kind that can be cut."""


@dataclass(frozen=True)
class _Map:
    """What is known of one map: channels, rows of the picture per row, reach and pending padding in rows, and level.

    ``reach``: rows of the picture that it depends on within its stage, on either side. ``level``: how many norms lie
    before it on the longest way. ``padding``: top, left, bottom and right, of maps that are padded and not yet
    convolved.
    """

    channels: int
    step: Fraction
    reach: Fraction = Fraction(0)
    level: int = 0
    padding: tuple[int, ...] = (0, 0, 0, 0)

    def bytes_per_pixel(self) -> float:
        return float(_FLOAT_BYTES * self.channels / self.step**2)


@dataclass
class _Cut:
    model: onnx.ModelProto
    source: str
    constants: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    maps: dict[str, _Map] = field(default_factory=dict)
    norms: list[onnx.NodeProto] = field(default_factory=list)
    levels: dict[int, list[onnx.NodeProto]] = field(default_factory=dict)


def write_stages(onnx_file: Path, graph: GraphSpec, folder: Path) -> Stages | None:
    """Write the stages of a graph beneath ``folder`` (a bundle); None where the graph cannot be cut."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        return None
    shapes = (graph.inputs[0].shape, graph.outputs[0].shape)
    if any(len(shape) != 4 or isinstance(shape[2], int) or isinstance(shape[3], int) for shape in shapes):
        return None
    if {graph.inputs[0].dtype, graph.outputs[0].dtype} != {"float32"} or not isinstance(shapes[0][1], int):
        return None
    model = onnx.load(onnx_file)
    try:
        return _written(_cut(model, graph), graph, folder)
    except _NotCut:
        return None


def _cut(model: onnx.ModelProto, graph: GraphSpec) -> _Cut:
    cut = _Cut(
        model, graph.inputs[0].name, {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    )
    cut.maps[graph.inputs[0].name] = _Map(int(graph.inputs[0].shape[1]), Fraction(1))
    for node in model.graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
            cut.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            continue
        if len(node.output) != 1:
            raise _NotCut
        found = _through(node, cut)
        cut.maps[node.output[0]] = found
        if node.op_type == _NORM:
            cut.norms.append(node)
        else:
            cut.levels.setdefault(found.level, []).append(node)
    answer = cut.maps.get(graph.outputs[0].name)
    if answer is None or answer.step != 1 or any(answer.padding) or graph.outputs[0].name in _results(cut):
        raise _NotCut
    crossing = _crossing(cut).values()
    if any(item.step < 1 or item.step.denominator != 1 or any(item.padding) for item in crossing):
        raise _NotCut
    return cut


def _through(node: onnx.NodeProto, cut: _Cut) -> _Map:
    """The map that a node gives. Raises ``_NotCut`` for what is not understood."""
    given = [cut.maps[name] for name in node.input if name in cut.maps]
    others = [name for name in node.input if name and name not in cut.maps]
    if not given or any(name not in cut.constants for name in others):
        raise _NotCut
    first = given[0]
    level = max(item.level for item in given)
    # Within its own stage a map that an earlier stage kept is read as it is: its reach starts anew.
    reach = max(item.reach if item.level == level else Fraction(0) for item in given)
    if node.op_type == _NORM and len(given) == 1 and not any(first.padding):
        if node.input[0] in {cut.source, *_results(cut)}:  # the moments of a map are gathered where a stage makes it
            raise _NotCut
        return _Map(first.channels, first.step, level=level + 1)
    if node.op_type in _SAME and len(given) == 1:
        return _Map(first.channels, first.step, reach, level, first.padding)
    if node.op_type in _JOINS and len({(item.step, item.padding) for item in given}) == 1:
        shapes = [cut.constants[name].shape for name in others]
        if all(_per_channel(shape) for shape in shapes) and len({item.channels for item in given}) == 1:
            return _Map(first.channels, first.step, reach, level, first.padding)
    if len(given) == 1 and node.input[0] in cut.maps:
        if node.op_type == "Pad":
            return _Map(first.channels, first.step, reach, level, _padding(node, cut, first))
        if node.op_type == "Conv":
            return _convolved(node, cut, first, reach)
        if node.op_type == "Resize" and not any(first.padding):
            step = first.step / _factor(node, cut)
            # A row that lies between two of the smaller map is copied from the one above it.
            return _Map(first.channels, step, reach + first.step - step, level)
    raise _NotCut


def _per_channel(shape: Sequence[int]) -> bool:
    """Whether a constant is the same at every place of a map."""
    return all(size == 1 for size in shape) or (len(shape) in (3, 4) and tuple(shape[-2:]) == (1, 1))


def _padding(node: onnx.NodeProto, cut: _Cut, given: _Map) -> tuple[int, ...]:
    pads = cut.constants.get(node.input[1]) if len(node.input) > 1 else None
    if pads is None or len(node.input) > 3 or len(pads) != 8 or any(pads[[0, 1, 4, 5]]) or (pads < 0).any():
        raise _NotCut
    added = tuple(int(pads[place]) for place in (2, 3, 6, 7))
    return tuple(old + new for old, new in zip(given.padding, added, strict=True))


def _convolved(node: onnx.NodeProto, cut: _Cut, given: _Map, reach: Fraction) -> _Map:
    """A convolution of an odd kernel whose padding, before it or its own, keeps the middle of the kernel in place."""
    said = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    weight = cut.constants[node.input[1]]
    kernel = weight.shape[2:]
    strides, dilations = said.get("strides", [1, 1]), said.get("dilations", [1, 1])
    own = said.get("pads", [0, 0, 0, 0])
    total = [old + new for old, new in zip(given.padding, own, strict=True)]
    half = [dilation * (size // 2) for size, dilation in zip(kernel, dilations, strict=True)]
    fits = len(kernel) == 2 and all(size % 2 for size in kernel) and total == [*half, *half]
    if not fits or said.get("auto_pad", b"NOTSET") != b"NOTSET" or strides[0] != strides[1]:
        raise _NotCut
    return _Map(weight.shape[0], given.step * strides[0], reach + given.step * half[0], given.level)


def _factor(node: onnx.NodeProto, cut: _Cut) -> int:
    """The whole factor of a nearest-neighbour enlargement that is the same wherever a band begins."""
    said = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    scales = cut.constants.get(node.input[2]) if len(node.input) == 3 else None
    if scales is None or len(scales) != 4 or scales[0] != 1 or scales[1] != 1 or scales[2] != scales[3]:
        raise _NotCut
    plain = said.get("mode", b"nearest") == b"nearest" and said.get("nearest_mode") == b"floor"
    factor = int(scales[2])
    if factor != scales[2] or factor < 1 or not plain or said.get("coordinate_transformation_mode") != b"asymmetric":
        raise _NotCut
    return factor


def _results(cut: _Cut) -> set[str]:
    return {node.output[0] for node in cut.norms}


def _crossing(cut: _Cut) -> dict[str, _Map]:
    """The maps that are kept: what a norm reads, and what a later stage reads."""
    names = {node.input[0] for node in cut.norms}
    for level, nodes in cut.levels.items():
        for node in nodes:
            names |= {name for name in node.input if name in cut.maps and cut.maps[name].level < level}
    return {name: cut.maps[name] for name in names - _results(cut)}


def _written(cut: _Cut, graph: GraphSpec, folder: Path) -> Stages:
    room = folder / ROOM / graph.name
    room.mkdir(parents=True)
    kept = {**_crossing(cut), graph.outputs[0].name: cut.maps[graph.outputs[0].name]}
    rows = {name: int(cut.maps[name].step) for name in (graph.inputs[0].name, *kept)}
    norms = tuple(Norm(node.input[0], node.output[0], _epsilon(node)) for node in cut.norms)
    multiple = lcm(*rows.values(), *(ceil(item.step) for item in cut.maps.values()))
    parameters = room / "norms.npz"
    arrays = dict(_parameters(cut))
    np.savez(parameters, **arrays)  # type: ignore[arg-type]
    stages = tuple(
        _stage(cut, graph, level, nodes, kept, room / f"{index:02}.onnx", multiple)
        for index, (level, nodes) in enumerate(sorted(cut.levels.items()))
    )
    whole = _most_held(list(cut.model.graph.node), cut, {graph.inputs[0].name}, {graph.outputs[0].name})
    return Stages(rows, norms, f"{ROOM}/{graph.name}/{parameters.name}", stages, multiple, whole)


def _epsilon(node: onnx.NodeProto) -> float:
    return next((float(item.f) for item in node.attribute if item.name == "epsilon"), 1e-5)


def _parameters(cut: _Cut) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for node in cut.norms:
        yield f"{node.output[0]}.scale", cut.constants[node.input[1]]
        yield f"{node.output[0]}.bias", cut.constants[node.input[2]]


def _stage(
    cut: _Cut,
    graph: GraphSpec,
    level: int,
    nodes: list[onnx.NodeProto],
    kept: Mapping[str, _Map],
    file: Path,
    multiple: int,
) -> Stage:
    """Write one stage: its nodes, the constants that they read, and its maps in and out."""
    made = {node.output[0] for node in nodes}
    taken = dict.fromkeys(name for node in nodes for name in node.input if name in cut.maps and name not in made)
    given = [node.output[0] for node in nodes if node.output[0] in kept]
    used = dict.fromkeys(name for node in nodes for name in node.input if name in cut.constants)
    inputs, outputs = ([_tensor(name, cut.maps[name]) for name in names] for names in (taken, given))
    axes = {axis: AxisRange(1, LARGEST_SIZE, default=64) for item in inputs for axis in item.shape[2:]}
    spec = GraphSpec(f"{graph.name}.{level:02}", tuple(inputs), tuple(outputs), {str(key): axes[key] for key in axes})
    constants = [numpy_helper.from_array(cut.constants[name], name) for name in used]
    values = [[_value(item) for item in items] for items in (inputs, outputs)]
    body = helper.make_graph(nodes, spec.name, values[0], values[1], constants)
    model = helper.make_model(body, opset_imports=cut.model.opset_import, ir_version=cut.model.ir_version)
    model.producer_name = "avsdk"
    file.write_bytes(model.SerializeToString(deterministic=True))
    reach = max(cut.maps[name].reach for name in given)
    held = _most_held(nodes, cut, set(taken), set(given))
    return Stage(f"{ROOM}/{graph.name}/{file.name}", spec, ceil(reach / multiple) * multiple, held)


def _tensor(name: str, found: _Map) -> TensorSpec:
    step = int(found.step)
    return TensorSpec(name, "float32", (1, found.channels, f"rows_{step}", f"columns_{step}"))


def _value(item: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(item.name, onnx.TensorProto.FLOAT, item.shape)


def _most_held(nodes: Sequence[onnx.NodeProto], cut: _Cut, inputs: set[str], outputs: set[str]) -> float:
    """Bytes per pixel of the picture that are held at once, each map from its maker to its last reader."""
    last = {name: place for place, node in enumerate(nodes) for name in node.input}
    held = dict.fromkeys(inputs)
    most = 0.0
    for place, node in enumerate(nodes):
        if node.output[0] in cut.maps:
            held[node.output[0]] = None
        most = max(most, sum(cut.maps[name].bytes_per_pixel() for name in held))
        held = {name: None for name in held if name in inputs | outputs or last.get(name, -1) > place}
    return most

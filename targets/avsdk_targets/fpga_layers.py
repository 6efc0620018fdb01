"""Which nodes of an ONNX graph the FPGA AI Suite's accelerator computes, and which stay on the processor, with why.

The limits are those of the FPGA AI Suite Handbook 2025.3, 6.2.1 Supported Layers and Hyperparameter Ranges. Additions
of two tensors are not in that table; they are counted as served since the suite's published figures include ResNet-50.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from avsdk_targets.fpga_architecture import Architecture

SOURCE = (
    "https://www.intel.com/content/www/us/en/docs/programmable/863373/2025-3/"
    "supported-layers-and-hyperparameter-ranges.html"
)
MULTIPLIED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""The operators whose inputs the multipliers take in block floating point."""

_FILTER, _FILTER_DEPTH, _STRIDE, _PAD = 28, 14, 15, 2**16 - 1
_DECONVOLUTION_STRIDES = (1, 2, 4, 8)
_POOL_WINDOW, _AVERAGE_WINDOW, _POOL_PAD, _POOL_STRIDE = 13, 27, 2, 4
_SOFTMAX_CHANNELS = 4096
_HALF_MAX = float(np.finfo(np.float16).max)
_CLAMPS = ("enable_clamp", "enable_round_clamp")
_ACTIVATIONS = {
    "Relu": ("enable_relu", *_CLAMPS), "Clip": _CLAMPS, "PRelu": ("enable_prelu",), "LeakyRelu": ("enable_leaky_relu",),
    "HardSigmoid": ("enable_hsigmoid",), "HardSwish": ("enable_hswish",), "Sigmoid": ("enable_sigmoid",),
    "Tanh": ("enable_tanh",),
}  # fmt: skip
"""The switches of the .arch file, of which one must be on. A file has one of ReLU and the clamps, which serve ReLU."""
_CARRIED = frozenset({"Identity", "Dropout", "Flatten"})
"""They compute nothing, and go where their input is."""


@dataclass(frozen=True)
class Layer:
    """One node: where it is computed, why not on the FPGA, and its work.

    ``cycles``: clocks of the multipliers at full rate, 0 for what they do not compute.
    """

    name: str
    op: str
    on_fpga: bool
    reason: str
    flops: int
    cycles: int = 0


@dataclass(frozen=True)
class Partition:
    """The HETERO:FPGA,CPU plan of a graph, in the order of its nodes."""

    layers: tuple[Layer, ...]

    @property
    def fpga_share(self) -> float:
        """Share of the work (FLOPs) on the FPGA."""
        total = sum(layer.flops for layer in self.layers)
        return sum(layer.flops for layer in self.layers if layer.on_fpga) / total if total else 0.0

    @property
    def subgraphs(self) -> int:
        """Runs of consecutive nodes on the FPGA; each costs a transfer there and back."""
        placed = [False, *(layer.on_fpga for layer in self.layers)]
        return sum(now and not before for before, now in zip(placed, placed[1:], strict=False))

    @property
    def cycles(self) -> int:
        """Clocks of the multipliers for one input."""
        return sum(layer.cycles for layer in self.layers)

    def refused(self) -> dict[str, tuple[str, ...]]:
        """The reasons for which nodes stay on the processor, and those nodes."""
        found: dict[str, tuple[str, ...]] = {}
        for layer in self.layers:
            if not layer.on_fpga:
                found[layer.reason] = (*found.get(layer.reason, ()), layer.name)
        return found


@dataclass(frozen=True)
class _Facts:
    """What the rules look at: attributes, shapes by tensor, the tensors that are constant, the architecture.

    ``batch``: how many inputs are computed at once. ``held``: the constants that the file stores, by name.
    """

    node: NodeProto
    shapes: Mapping[str, tuple[int, ...]]
    constants: frozenset[str]
    architecture: Architecture
    batch: int
    held: Mapping[str, onnx.TensorProto]
    given: Mapping[str, Any] = field(default_factory=dict)

    def shape(self, index: int) -> tuple[int, ...]:
        name = self.node.input[index] if index < len(self.node.input) else ""
        return self.shapes.get(name, ())

    def is_constant(self, index: int) -> bool:
        return index < len(self.node.input) and self.node.input[index] in self.constants

    def integers(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        return tuple(int(value) for value in self.given.get(name, default))


def partition(model: onnx.ModelProto, architecture: Architecture) -> Partition:
    """Judge every node of the main graph; its inputs' sizes must be fixed in the model."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes, constants = _shapes(inferred.graph), _constants(model.graph)
    batch, held = batch_of(model), {item.name: item for item in model.graph.initializer}
    layers: list[Layer] = []
    where: dict[str, bool] = {}
    for index, node in enumerate(model.graph.node):
        given = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        facts = _Facts(node, shapes, constants, architecture, batch, held, given)
        if set(node.input) <= constants | {""}:
            continue  # folded before anything runs
        reason = _carried(facts, where) if node.op_type in _CARRIED else _refusal(facts)
        flops = _flops(facts)
        cycles = _cycles(facts) if not reason and node.op_type in MULTIPLIED else 0
        layers.append(Layer(name_of(node, index), node.op_type, not reason, reason, flops, cycles))
        where.update(dict.fromkeys(node.output, not reason))
    return Partition(tuple(layers))


def batch_of(model: onnx.ModelProto) -> int:
    """The first size of the first input; 1 where it is not fixed."""
    given = {item.name for item in model.graph.initializer}
    first = next((item for item in model.graph.input if item.name not in given), None)
    axes = first.type.tensor_type.shape.dim if first is not None else ()
    return int(axes[0].dim_value) or 1 if axes else 1


def name_of(node: NodeProto, index: int) -> str:
    """The node's name, made from its place in the graph where the file gives none."""
    return node.name or f"{node.op_type}_{index}"


def _refusal(facts: _Facts) -> str:
    """Why the FPGA does not compute this node; empty where it does."""
    op = facts.node.op_type
    if facts.node.domain not in {"", "ai.onnx"}:
        return f"the operator {op} of the domain {facts.node.domain!r} is not listed"
    if op in _ACTIVATIONS:
        switches = _ACTIVATIONS[op]
        return f"the .arch file does not enable {switches[0]}" if facts.architecture.lacks(*switches) else ""
    rule = _RULES.get(op)
    return rule(facts) if rule else f"{op} is not listed"


def _carried(facts: _Facts, where: Mapping[str, bool]) -> str:
    first = facts.node.input[0]
    return "" if where.get(first, False) else f"{facts.node.op_type} goes where its input is"


def _convolution(facts: _Facts) -> str:
    kernel = facts.shape(1)[2:]
    if not facts.is_constant(1):
        return "Conv whose filters are computed is not listed"
    if len(kernel) not in {2, 3}:
        return (
            f"Conv over {len(kernel)} axes is not listed, over 2 or 3 is" if kernel else "the filter's size is unknown"
        )
    group, together = int(facts.given.get("group", 1)), facts.shape(1)[1]
    if group > 1 and together > 1:
        return f"Conv with {group} groups of {together} channels is not listed, with 1 group or 1 channel each is"
    if group > 1 and facts.architecture.lacks("depthwise"):
        return "the .arch file has no depthwise module"
    largest = (*((_FILTER_DEPTH,) if len(kernel) == 3 else ()), *facts.architecture.filter_max)
    for size, most in zip(kernel, (min(item, _FILTER) for item in largest), strict=True):
        if size > most:
            return f"Conv with a filter of {size} is above the limit of {most}"
    return _spatial(facts, "Conv")


def _spatial(facts: _Facts, op: str) -> str:
    stride = max(facts.integers("strides", (1,)))
    if stride > _STRIDE:
        return f"{op} with stride {stride} is above the limit of {_STRIDE}"
    pad = max(facts.integers("pads", (0,)))
    return f"{op} with padding {pad} is above the limit of {_PAD}" if pad > _PAD else ""


def _deconvolution(facts: _Facts) -> str:
    kernel, strides = facts.shape(1)[2:], facts.integers("strides", (1, 1))
    if not facts.is_constant(1) or len(kernel) != 2:
        return f"ConvTranspose over {len(kernel)} axes or with computed filters is not listed"
    if int(facts.given.get("group", 1)) != 1:
        return f"ConvTranspose with {facts.given['group']} groups is not listed"
    if max(kernel) > _FILTER:
        return f"ConvTranspose with a filter of {max(kernel)} is above the limit of {_FILTER}"
    if strides[0] not in _DECONVOLUTION_STRIDES or len(set(strides)) > 1:
        return f"ConvTranspose with strides {list(strides)} is not one of 1, 2, 4, 8 on both axes"
    pad = max(facts.integers("pads", (0,)))
    least = min(kernel) - 1
    return f"ConvTranspose with padding {pad} is above the limit of {least}, its filter less 1" if pad > least else ""


def _product(facts: _Facts) -> str:
    if not facts.is_constant(1):
        return f"{facts.node.op_type} of two computed tensors is not listed"
    rows = prod(facts.shape(0)[:-1])
    if len(facts.shape(1)) != 2 or rows != facts.batch:
        op = facts.node.op_type
        return f"{op} of {rows} rows in a batch of {facts.batch} is not listed, a fully connected layer has one each"
    return ""


def _pool(facts: _Facts) -> str:
    op, window = facts.node.op_type, facts.integers("kernel_shape", ())
    most = _POOL_WINDOW if op == "MaxPool" else _AVERAGE_WINDOW
    if facts.architecture.lacks("pool") and op == "MaxPool":
        return "the .arch file has no pool module"
    if max(window, default=0) > most:
        return f"{op} with a window of {max(window)} is above the limit of {most}"
    if op == "AveragePool" and len(set(window)) > 1:
        return f"AveragePool with a window of {list(window)} is not square"
    pad, stride = max(facts.integers("pads", (0,))), max(facts.integers("strides", (1,)))
    if pad > _POOL_PAD:
        return f"{op} with padding {pad} is above the limit of {_POOL_PAD}"
    return f"{op} with stride {stride} is above the limit of {_POOL_STRIDE}" if stride > _POOL_STRIDE else ""


def _global_pool(facts: _Facts) -> str:
    window = facts.shape(0)[2:]
    if not window or max(window) > _AVERAGE_WINDOW or len(set(window)) > 1:
        return f"GlobalAveragePool over {list(window)} is not a square of at most {_AVERAGE_WINDOW}"
    return ""


def _softmax(facts: _Facts) -> str:
    shape = facts.shape(0)
    axis = int(facts.given.get("axis", -1))
    channels = shape[axis] if shape else 0
    if facts.architecture.lacks("softmax"):
        return "the .arch file has no softmax module"
    return f"Softmax over {channels} is above the limit of {_SOFTMAX_CHANNELS}" if channels > _SOFTMAX_CHANNELS else ""


def _scale_shift(facts: _Facts) -> str:
    """Scale and shift are held in fp16."""
    stored = [facts.held[name] for name in facts.node.input[1:5] if name in facts.held]
    if len(stored) < 4:
        return "BatchNormalization whose scale is computed is not listed"
    scale, shift, mean, variance = (numpy_helper.to_array(item).astype(np.float64) for item in stored)
    factor = scale / np.sqrt(variance + float(facts.given.get("epsilon", 1e-5)))
    largest = float(np.abs(np.concatenate([factor, shift - mean * factor])).max(initial=0.0))
    if largest > _HALF_MAX:
        return f"BatchNormalization with a scale or shift of {largest:.3g} is above fp16's limit of {_HALF_MAX:g}"
    return ""


def _multiplication(facts: _Facts) -> str:
    return (
        "the .arch file does not enable enable_eltwise_mult" if facts.architecture.lacks("enable_eltwise_mult") else ""
    )


def _depth_to_space(facts: _Facts) -> str:
    mode = facts.given.get("mode", b"DCR")
    return "" if mode == b"DCR" else f"DepthToSpace with mode {mode.decode()} is not listed, DCR (blocks first) is"


_RULES: Mapping[str, Callable[[_Facts], str]] = {
    "Conv": _convolution,
    "ConvTranspose": _deconvolution,
    "Gemm": _product,
    "MatMul": _product,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "Softmax": _softmax,
    "BatchNormalization": _scale_shift,
    "Add": lambda facts: "",
    "Mul": _multiplication,
    "DepthToSpace": _depth_to_space,
}


def _flops(facts: _Facts) -> int:
    elements = prod(facts.shapes.get(facts.node.output[0], (0,)))
    return 2 * elements * _inner(facts) if facts.node.op_type in MULTIPLIED else elements


def _inner(facts: _Facts) -> int:
    """Products that are summed into one output element."""
    weights = facts.shape(1)
    if facts.node.op_type == "Conv":
        return prod(weights[1:])
    if facts.node.op_type == "ConvTranspose":
        strides = facts.integers("strides", (1,) * len(weights[2:]))
        return max(1, weights[0] * prod(weights[2:]) // prod(strides)) if weights else 0
    transposed = facts.node.op_type == "Gemm" and bool(facts.given.get("transB", 0))
    return (weights[-1] if transposed else weights[-2]) if len(weights) > 1 else 0


def _cycles(facts: _Facts) -> int:
    """Clocks: input channels in steps of c_vector, filters in steps of k_vector, places in steps of the lanes."""
    out, unit = facts.shapes.get(facts.node.output[0], ()), facts.architecture
    if facts.node.op_type in {"Gemm", "MatMul"}:
        return _steps(_inner(facts), unit.c_vector) * _steps(out[-1] if out else 0, unit.k_vector) * prod(out[:-1])
    group = int(facts.given.get("group", 1))
    places = out[0] * prod(out[2:-1]) * _steps(out[-1], unit.num_lanes) if out else 0
    if group > 1:
        return _steps(group, unit.k_vector) * prod(facts.shape(1)[2:]) * places
    channels = facts.shape(0)[1] if len(facts.shape(0)) > 1 else 0
    kernel = _inner(facts) // max(1, channels)
    return _steps(channels, unit.c_vector) * _steps(out[1] if out else 0, unit.k_vector) * kernel * places


def _steps(count: int, width: int) -> int:
    return -(-count // width)


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    found = {item.name: tuple(item.dims) for item in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        axes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(axis.HasField("dim_value") for axis in axes):
            found[value.name] = tuple(axis.dim_value for axis in axes)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t).shape
    return found


def _constants(graph: onnx.GraphProto) -> frozenset[str]:
    """Tensors that are known before anything runs."""
    known = {item.name for item in graph.initializer} | {""}
    for node in graph.node:
        if set(node.input) <= known:
            known |= set(node.output)
    return frozenset(known - {""})

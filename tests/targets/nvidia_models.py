"""Small ONNX models, one per kind of layer, for the compilers of NVIDIA's engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from avsdk.errors import AvsdkError
from avsdk.schema import encode
from avsdk.spec import AxisRange, GraphSpec, TensorSpec

Nodes = list[onnx.NodeProto]
Weights = dict[str, np.ndarray]


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0, 0.1, shape).astype(np.float32)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _node(kind: str, inputs: str, outputs: str = "y", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def conv() -> tuple[Nodes, Weights]:
    return [_node("Conv", "x w b", "c", pads=[1, 1, 1, 1]), _node("Relu", "c")], {
        "w": _random(8, 4, 3, 3), "b": _random(8)}  # fmt: skip


def deconv() -> tuple[Nodes, Weights]:
    return [_node("ConvTranspose", "x w", strides=[2, 2])], {"w": _random(4, 8, 2, 2)}


def conv3d() -> tuple[Nodes, Weights]:
    return [_node("Conv", "x w", pads=[1] * 6)], {"w": _random(8, 4, 3, 3, 3)}


def instance_norm() -> tuple[Nodes, Weights]:
    return [_node("InstanceNormalization", "x s b")], {"s": _random(4), "b": _random(4)}


def layer_norm() -> tuple[Nodes, Weights]:
    return [_node("LayerNormalization", "x s b")], {"s": _random(16), "b": _random(16)}


def gemm() -> tuple[Nodes, Weights]:
    return [_node("Gemm", "x w b", transB=1)], {"w": _random(8, 16), "b": _random(8)}


def einsum() -> tuple[Nodes, Weights]:
    return [_node("Einsum", "x w", equation="bti,io->bto")], {"w": _random(16, 8)}


def gru() -> tuple[Nodes, Weights]:
    return [_node("GRU", "x w r b", "y h", hidden_size=8, linear_before_reset=1)], {
        "w": _random(1, 24, 16), "r": _random(1, 24, 8), "b": _random(1, 48)}  # fmt: skip


def lstm() -> tuple[Nodes, Weights]:
    return [_node("LSTM", "x w r b", "y h c", hidden_size=8)], {
        "w": _random(1, 32, 16), "r": _random(1, 32, 8), "b": _random(1, 64)}  # fmt: skip


def attention() -> tuple[Nodes, Weights]:
    """Two heads of eight over the last axis: projections, scores, softmax, mixing."""
    nodes = []
    for name in "qkv":
        nodes += [_node("MatMul", f"x w{name}", f"{name}0"), _node("Reshape", f"{name}0 heads", f"{name}1")]
        nodes += [_node("Transpose", f"{name}1", f"{name}2", perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3])]
    nodes += [_node("MatMul", "q2 k2", "scores"), _node("Mul", "scores scale", "scaled")]
    nodes += [_node("Softmax", "scaled", "p", axis=-1), _node("MatMul", "p v2", "mixed")]
    nodes += [_node("Transpose", "mixed", "back", perm=[0, 2, 1, 3]), _node("Reshape", "back flat")]
    weights = {f"w{name}": _random(16, 16) for name in "qkv"}
    return nodes, {**weights, "heads": _ints(0, 0, 2, 8), "flat": _ints(0, 0, 16), "scale": np.float32([0.35])}


def grid_sample() -> tuple[Nodes, Weights]:
    return [_node("GridSample", "x grid", padding_mode="zeros")], {"grid": _random(1, 6, 6, 2)}


def quantised_conv(zero_point: int = 0) -> tuple[Nodes, Weights]:
    nodes = [_node("QuantizeLinear", "x s zx", "xq"), _node("DequantizeLinear", "xq s zx", "xd")]
    nodes += [_node("DequantizeLinear", "wq s z", "wd"), _node("Conv", "xd wd", pads=[1, 1, 1, 1])]
    weights = np.random.default_rng(0).integers(-127, 128, (8, 4, 3, 3)).astype(np.int8)
    return nodes, {"wq": weights, "s": np.float32(0.05), "z": np.int8(0), "zx": np.int8(zero_point)}  # type: ignore[dict-item]


def skewed_conv() -> tuple[Nodes, Weights]:
    return quantised_conv(zero_point=3)


def quantised_product() -> tuple[Nodes, Weights]:
    nodes = [_node("QuantizeLinear", "x s z", "xq"), _node("DequantizeLinear", "xq s z", "xd")]
    nodes += [_node("DequantizeLinear", "wq s z", "wd"), _node("MatMul", "xd wd")]
    weights = np.random.default_rng(0).integers(-127, 128, (16, 8)).astype(np.int8)
    return nodes, {"wq": weights, "s": np.float32(0.05), "z": np.int8(0)}  # type: ignore[dict-item]


_IMAGE, _VOLUME, _STEPS, _ROWS = (1, 4, 8, 8), (1, 4, 4, 8, 8), (1, 6, 16), (2, 16)
MODELS: dict[str, tuple[Callable[[], tuple[Nodes, Weights]], tuple[int, ...]]] = {
    "conv": (conv, _IMAGE), "deconv": (deconv, _IMAGE), "conv3d": (conv3d, _VOLUME),
    "instance_norm": (instance_norm, _IMAGE), "layer_norm": (layer_norm, _STEPS), "gemm": (gemm, _ROWS),
    "einsum": (einsum, _STEPS), "gru": (gru, _STEPS), "lstm": (lstm, _STEPS), "attention": (attention, _STEPS),
    "grid_sample": (grid_sample, _IMAGE), "quantised_conv": (quantised_conv, _IMAGE),
    "quantised_product": (quantised_product, _STEPS), "skewed_conv": (skewed_conv, _IMAGE),
}  # fmt: skip


def model_of(nodes: Nodes, weights: Weights, shape: tuple[int, ...], opset: int = 20) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)
    made.graph.output[0].CopyFrom(inferred.graph.output[0])
    return made


def named_model(name: str) -> onnx.ModelProto:
    make, shape = MODELS[name]
    return model_of(*make(), shape)


def spec_of(model: onnx.ModelProto) -> GraphSpec:
    tensors = [
        TensorSpec(item.name, "float32", tuple(size.dim_value for size in item.type.tensor_type.shape.dim))
        for item in (model.graph.input[0], model.graph.output[0])
    ]
    return GraphSpec("net", tuple(tensors[:1]), tuple(tensors[1:]), {})


# -- a network like the style network ----------------------------------------------------------------------------------

STYLE_SHAPE = ("batch", 3, "height", "width")
STYLE_SPEC = GraphSpec(
    "transform",
    (TensorSpec("image", "float32", STYLE_SHAPE),),
    (TensorSpec("styled", "float32", STYLE_SHAPE),),
    {"batch": AxisRange(1, 64, 1, 1), "height": AxisRange(16, 1024, 4, 64), "width": AxisRange(16, 1024, 4, 64)},
)


def _weight(name: str, *shape: int) -> onnx.TensorProto:
    values = np.random.default_rng(len(name)).normal(0, 0.1, shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def style_like(**changes: onnx.TensorProto) -> onnx.ModelProto:
    """Pad, conv, instance norm, ReLU, nearest enlargement, conv: the operations of the style network, small."""
    nodes = [
        helper.make_node("Pad", ["image", "pads"], ["padded"], mode="reflect"),
        helper.make_node("Conv", ["padded", "w1", "b1"], ["c1"], strides=[2, 2]),
        helper.make_node("InstanceNormalization", ["c1", "scale", "shift"], ["n1"]),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node(
            "Resize", ["r1", "", "scales"], ["u1"], mode="nearest", coordinate_transformation_mode="asymmetric"
        ),
        helper.make_node("Conv", ["u1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "image"], ["styled"]),
    ]
    weights = [
        _weight("w1", 8, 3, 3, 3), _weight("b1", 8), _weight("w2", 3, 8, 3, 3), _weight("b2", 3),
        numpy_helper.from_array(np.ones(8, np.float32), "scale"),
        numpy_helper.from_array(np.zeros(8, np.float32), "shift"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "pads"),
    ]  # fmt: skip
    weights = [changes.get(item.name, item) for item in weights]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, STYLE_SHAPE) for name in ("image", "styled")]
    graph = helper.make_graph(nodes, "transform", tensors[:1], tensors[1:], initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


# -- what the toolchain's Python is asked to do ------------------------------------------------------------------------


def build_each(request: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Build every case of ``request["cases"]`` (name, arch, precision) in one child; what each gave, or its error."""
    from avsdk_targets.compilers.tensorrt_rtx import build

    answers = {}
    for name, arch, precision in request["cases"]:
        folder = Path(request["folder"], f"{name}-{arch}-{precision}")
        folder.mkdir()
        model = named_model(name)
        onnx.save(model, folder / "net.onnx")
        job = {"onnx": str(folder / "net.onnx"), "graph": encode(spec_of(model)), "arch": arch, "precision": precision,
               "device": "gpu", "sizes": None, "options": {}, "out": str(folder)}  # fmt: skip
        try:
            answers[f"{name} {arch} {precision}"] = build(job)["options"]
        except AvsdkError as error:
            answers[f"{name} {arch} {precision}"] = {"refused": error.failed, "fix": error.fix}
    return answers

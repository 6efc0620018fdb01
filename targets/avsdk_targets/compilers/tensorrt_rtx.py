"""TensorRT for RTX: the host half. ONNX -> engine file, ahead of time, on a machine without GPU or driver.

What an engine file holds is compiled to kernels on the user's GPU when it first runs, so a build here proves that the
graph was accepted, not that it runs: the parity record of such a bundle says ``not_run``.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from avsdk.errors import NotAvailable
from avsdk.onnx_check import OnnxLimits
from avsdk_targets.compiler import Compiler
from avsdk_targets.toolchain import PackageNeed

_CAPABILITIES = {"sm75": "SM75", "sm80": "SM80", "sm86": "SM86", "sm89": "SM89", "sm120": "SM120", "sm121": "SM121"}
_MOVES = {"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Resize", "Slice", "Transpose"}
"""Operations that compute nothing; they count in no precision's share."""


class TensorRtRtxCompiler(Compiler):
    """``fp16``: cast before the build, norms kept in fp32. ``fp32`` where the device multiplies matrices in fp32."""

    engine = "tensorrt_rtx"
    package = PackageNeed("tensorrt_rtx", "tensorrt-rtx-cu12", "1.7", "1.8")
    toolchain = "tensorrt_rtx"
    onnx_limits = OnnxLimits(ir=12, opset=22)
    precisions = ("fp16", "fp32")

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """The function that runs in the toolchain."""
        return build

    def refusal(self, device: str, arch: str, precision: str) -> str:
        """TensorRT for RTX serves Turing, Ampere, Ada and Blackwell consumer and workstation GPUs, and no others."""
        if arch not in _CAPABILITIES:
            built = ", ".join(_CAPABILITIES)
            return f"TensorRT for RTX does not build for {device} ({arch or 'no GPU'}): it has {built}"
        if arch == "sm75" and precision == "fp32":
            return (
                "TensorRT for RTX has no fp32 matrix products on Turing (sm75); fp16 is built instead: --precision fp16"
            )
        return super().refusal(device, arch, precision)


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Cast where asked, parse, set the profile, build for one compute capability. Runs in the child."""
    import onnx
    import tensorrt_rtx

    model = onnx.load(request["onnx"])
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    if request["precision"] == "fp16":
        from avsdk_targets.half_onnx import half_from_full

        model = half_from_full(model)
    profile = _profile(request["graph"], request["sizes"], request["options"])
    plan = _plan(tensorrt_rtx, model.SerializeToString(), request["arch"], profile)
    usual = {name: shapes["opt"] for name, shapes in profile.items()}
    name = f"{request['graph']['name']}.{request['arch']}.rtx"
    Path(request["out"], name).write_bytes(plan)
    version = tensorrt_rtx.__version__
    options = {
        "tensorrt_rtx": version,
        "arch": request["arch"],
        "profile": profile,
        "sha256": hashlib.sha256(plan).hexdigest(),
        "precision_shares": _precision_shares(onnx, model, usual),
    }
    return {
        "files": [name],
        "options": options,
        "built_with": {"tensorrt-rtx": version, "onnx": metadata.version("onnx")},
    }


def _plan(trt: Any, model: bytes, arch: str, profile: Mapping[str, Mapping[str, list[int]]]) -> bytes:
    logger = _logger(trt)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = "; ".join(f"{error.node_operator()} ({error.node_name()}): {error.desc()}" for error in errors)
        raise NotAvailable(
            f"TensorRT for RTX cannot read the graph: {reasons}", fix="choose another target: avsdk devices"
        )
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default: it would compute an fp32 graph in less
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, _CAPABILITIES[arch]), 0)
    if profile:
        shapes = builder.create_optimization_profile()
        for name, sizes in profile.items():
            shapes.set_shape(name, sizes["min"], sizes["opt"], sizes["max"])
        config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise NotAvailable(
            f"TensorRT for RTX refused to build the graph for {arch}: {'; '.join(logger.errors) or 'no reason given'}",
            expected="a graph that this GPU generation can run",
            fix="choose another precision or target: avsdk devices",
        )
    return bytes(plan)


def _profile(
    graph: Mapping[str, Any], sizes: Mapping[str, int] | None, options: Mapping[str, Any]
) -> dict[str, dict[str, list[int]]]:
    """The smallest, usual and largest shape of every input with a dynamic axis; fixed sizes make all three equal.

    ``options["max_sizes"]`` lowers the largest sizes of the axes that it names.
    """
    axes = graph["axes"]
    largest = {name: axis["max"] for name, axis in axes.items()}
    largest.update(options.get("max_sizes", {}))
    ends = {
        "min": dict(sizes or {name: axis["min"] for name, axis in axes.items()}),
        "opt": dict(sizes or {name: axis["default"] for name, axis in axes.items()}),
        "max": dict(sizes or largest),
    }
    return {
        item["name"]: {
            end: [axis if isinstance(axis, int) else known[axis] for axis in item["shape"]]
            for end, known in ends.items()
        }
        for item in graph["inputs"]
        if any(isinstance(axis, str) for axis in item["shape"])
    }


def _logger(trt: Any) -> Any:
    """A logger that keeps the errors, since a refused build returns nothing but writes why."""

    class Lines(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Lines()


def _precision_shares(onnx: Any, model: Any, shapes: Mapping[str, list[int]]) -> dict[str, float]:
    """Share of FLOPs per precision at the usual sizes: in a strongly typed network the model says what runs."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for item in sized.graph.input:
        for dimension, size in zip(item.type.tensor_type.shape.dim, shapes.get(item.name, ())):
            dimension.dim_value = size
    for item in sized.graph.output:
        item.type.tensor_type.ClearField("shape")
    del sized.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    typed = {item.name: item.type.tensor_type for item in (*graph.input, *graph.output, *graph.value_info)}
    known = {name: ([size.dim_value for size in kind.shape.dim], kind.elem_type) for name, kind in typed.items()}
    known.update({item.name: (list(item.dims), item.data_type) for item in graph.initializer})
    names = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    shares: Counter[str] = Counter()
    for node in graph.node:
        kind = known.get(node.input[0], ([], 0))[1] if node.input else 0
        if node.op_type not in _MOVES and kind in names and node.output[0] in known:
            shares[names[kind]] += _flops(node, known)
    total = sum(shares.values()) or 1
    return {name: count / total for name, count in shares.items()}


def _flops(node: Any, known: Mapping[str, tuple[list[int], int]]) -> int:
    """Two per multiply-add of convolutions and matrix products; one per output element of the others."""
    elements = math.prod(known[node.output[0]][0])
    if node.op_type in {"Conv", "ConvTranspose"} and node.input[1] in known:
        return 2 * elements * math.prod(known[node.input[1]][0][1:])
    if node.op_type in {"MatMul", "Gemm"} and known[node.input[0]][0]:
        return 2 * elements * known[node.input[0]][0][-1]
    return elements

"""TensorRT for RTX: the host half. ONNX -> engine file, ahead of time, on a machine without GPU or driver.

What an engine file holds is compiled to kernels on the user's GPU when it first runs, so a build here proves that the
graph was accepted, not that it runs: the parity record of such a bundle says ``not_run``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from avsdk.errors import NotAvailable
from avsdk_targets.compiler import Compiler
from avsdk_targets.onnx_check import OnnxLimits
from avsdk_targets.toolchain import PackageNeed

_CAPABILITIES = {"sm75": "SM75", "sm80": "SM80", "sm86": "SM86", "sm89": "SM89", "sm120": "SM120", "sm121": "SM121"}
_MAX_ELEMENTS = 2**31 - 1
"""The most elements that a tensor may have at the largest sizes of a profile."""


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
    name = f"{request['graph']['name']}.{request['arch']}.rtx"
    Path(request["out"], name).write_bytes(plan)
    version = tensorrt_rtx.__version__
    options = {"tensorrt_rtx": version, "arch": request["arch"], "profile": profile}
    return {
        "files": [name],
        "options": options,
        "built_with": {"tensorrt-rtx": version, "onnx": metadata.version("onnx")},
    }


def _plan(trt: Any, model: bytes, arch: str, profile: Mapping[str, Mapping[str, list[int]]]) -> bytes:
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        reasons = "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
        raise NotAvailable(
            f"TensorRT for RTX cannot read the graph: {reasons}",
            expected="operations it knows",
            fix="choose another target",
        )
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, _CAPABILITIES[arch]), 0)
    if profile:
        shapes = builder.create_optimization_profile()
        for name, sizes in profile.items():
            shapes.set_shape(name, sizes["min"], sizes["opt"], sizes["max"])
        config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        sys.stderr.flush()
        raise NotAvailable(
            f"TensorRT for RTX refused to build the graph for {arch}; the lines above say why",
            expected="a graph that this GPU generation can run",
            fix="choose another precision or target: avsdk devices",
        )
    return bytes(plan)


def _profile(
    graph: Mapping[str, Any], sizes: Mapping[str, int] | None, options: Mapping[str, Any]
) -> dict[str, dict[str, list[int]]]:
    """The smallest, usual and largest shape of every input with a dynamic axis; fixed sizes make all three equal.

    ``options["max_sizes"]`` lowers the largest sizes: an axis that is not asked for beyond its default need not go there.
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

"""TensorRT for RTX: the host half. ONNX -> engine file, ahead of time, on a machine without GPU or driver.

What an engine file holds is compiled to kernels on the user's GPU when it first runs, so a build here proves that the
graph was accepted, not that it runs: the parity record of such a bundle says ``not_run``.
"""

from __future__ import annotations

from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

from avsdk.onnx_check import OnnxLimits
from avsdk_targets.compiler import Compiler
from avsdk_targets.rewrite import RewritePlan
from avsdk_targets.tensorrt_network import LACKING, PRECISIONS, SETTINGS, EngineBuild, Vendor
from avsdk_targets.toolchain import PackageNeed

_CAPABILITIES = {"sm75": "SM75", "sm80": "SM80", "sm86": "SM86", "sm89": "SM89", "sm120": "SM120", "sm121": "SM121"}


class TensorRtRtxCompiler(Compiler):
    """``fp16`` and ``bf16``: cast before the build, norms kept in fp32; ``fp32`` without TF32; ``int8`` by Q/DQ."""

    engine = "tensorrt_rtx"
    package = PackageNeed("tensorrt_rtx", "tensorrt-rtx-cu12", "1.7", "1.8")
    toolchain = "tensorrt_rtx"
    onnx_limits = OnnxLimits(ir=13, opset=24)
    precisions = PRECISIONS
    takes_qdq = True
    needs_ranges = True
    settings = SETTINGS
    rewrites = RewritePlan(opset=(7, 24), ir=13, lacking=LACKING)

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """The function that runs in the toolchain."""
        return build

    def refusal(self, device: str, arch: str, precision: str) -> str:
        """TensorRT for RTX serves Turing, Ampere, Ada and Blackwell consumer and workstation GPUs, and no others."""
        if arch not in _CAPABILITIES:
            built = ", ".join(_CAPABILITIES)
            return f"TensorRT for RTX does not build for {device} ({arch or 'no GPU'}): it has {built}"
        if arch == "sm75" and precision == "bf16":
            return "Turing (sm75) has no bf16: --precision fp16"
        return super().refusal(device, arch, precision)


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Cast where asked, parse, set the profile, build for one compute capability. Runs in the child."""
    import tensorrt_rtx

    arch = request["arch"]
    with TemporaryDirectory(prefix="avsdk-network-") as folder:
        made = EngineBuild(Vendor(tensorrt_rtx, "TensorRT for RTX", "tensorrt_rtx"), request, folder)
        made.config.num_compute_capabilities = 1
        made.config.set_compute_capability(getattr(tensorrt_rtx.ComputeCapability, _CAPABILITIES[arch]), 0)
        return made.finish({"arch": arch, "exact": str(tensorrt_rtx.__version__)})

"""ONNX Runtime: the host half. The artifact is the bundle's own ONNX model, loaded once to prove it acceptable."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from avsdk.onnx_check import OnnxLimits
from avsdk_targets.compiler import Compiler
from avsdk_targets.toolchain import PackageNeed


class OnnxRuntimeCompiler(Compiler):
    """ONNX -> ONNX: what ships is the model itself; the runtime optimises it when it is loaded."""

    engine = "onnxruntime"
    package = PackageNeed("onnxruntime", "onnxruntime", "1.20", "")
    onnx_limits = OnnxLimits(ir=13, opset=26)
    precisions = ("fp32",)

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Loads the model once, in the child."""
        return build


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Load the model with every optimisation on; the file itself is what ships."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    onnxruntime.InferenceSession(request["onnx"], options, providers=["CPUExecutionProvider"])
    return {"files": [], "options": {}, "built_with": {"onnxruntime": onnxruntime.__version__}}

"""Movidius Myriad X: the host half. ONNX -> blob, offline, in the toolchain ``myriad``.

What runs in there is ``avsdk_targets.myriad_blob``, since that Python's numpy is too old for this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from avsdk.onnx_check import OnnxLimits
from avsdk_targets.compiler import Compiled, CompileJob, Compiler
from avsdk_targets.myriad_blob import build, cmx_count, shave_count, stream_count
from avsdk_targets.rewrite import RewritePlan
from avsdk_targets.toolchain import PackageNeed

LACKING = frozenset({
    "Abs", "AffineGrid", "Attention", "CastLike", "Celu", "CenterCropPad", "Einsum", "GRU", "Gelu",
    "GroupNormalization", "HardSigmoid", "HardSwish", "LSTM", "LayerNormalization", "MeanVarianceNormalization", "Mish",
    "NegativeLogLikelihoodLoss", "RMSNormalization", "ReduceL1", "RotaryEmbedding", "Selu",
    "SoftmaxCrossEntropyLoss", "Softsign", "Swish",
})  # fmt: skip
"""What OpenVINO 2021.4 does not read, or its Myriad plugin does not compile, and is spelt out before."""


class MyriadCompiler(Compiler):
    """fp16 blobs at fixed sizes, for the release 2021.4.2 that the session runs them with."""

    engine = "openvino_myriad"
    package = PackageNeed("openvino.inference_engine", "openvino", "2021.4.2", "2021.4.3")
    toolchain = "myriad"
    onnx_limits = OnnxLimits(ir=7, opset=13)
    dynamic_axes = False
    precisions = ("fp16",)
    settings = {
        "shaves": "vector processors for this network, 1-16 (default: the device profile's)",
        "cmx_slices": "slices of on-chip memory for this network, 1-16 (default: as many as shaves)",
        "streams": "networks run at a time, 1-3 (default 1)",
        "input": "what float inputs are sent as: fp16 (default), fp32, or u8 for whole numbers 0-255",
        "platform": "what the compiler is told instead of asking a stick (default VPU_MYRIAD_2480)",
    }
    rewrites = RewritePlan(opset=(7, 13), ir=7, lacking=LACKING, static=True)

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """The function that runs in the toolchain."""
        return build

    def refusal(self, device: str, arch: str, precision: str) -> str:
        """Myriad X only."""
        if device != "myriad-x":
            return f"it compiles for myriad-x, not {device}"
        return super().refusal(device, arch, precision)

    def compile(self, job: CompileJob) -> Compiled:
        """Judge the counts before the model is rewritten."""
        shave_count(dict(job.options))
        cmx_count(dict(job.options))
        stream_count(dict(job.options))
        return super().compile(job)

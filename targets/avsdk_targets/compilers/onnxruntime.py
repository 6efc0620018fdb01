"""ONNX Runtime: the host half. The artifact is the bundle's own ONNX model, or that model rewritten or cast to fp16.

It is loaded once, on the CPU provider, to prove that the runtime accepts it; whether another provider runs every node
is proven where that provider is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from avsdk.errors import NotAvailable, UsageError
from avsdk.onnx_check import OnnxLimits, check_onnx
from avsdk_targets.compiler import CompileJob, Compiler
from avsdk_targets.quantised import require_plain, require_quantised
from avsdk_targets.rewrite import RewritePlan
from avsdk_targets.toolchain import Environment, PackageNeed, environment_for

_GPU = PackageNeed("onnxruntime", "onnxruntime-gpu", "1.20", "")
_DEVICES = ("cpu", "cuda", "tensorrt", "nv_tensorrt_rtx")


class OnnxRuntimeCompiler(Compiler):
    """ONNX -> ONNX: the runtime optimises the model when it is loaded. ``int8`` is the model's own Q/DQ."""

    engine = "onnxruntime"
    package = PackageNeed("onnxruntime", "onnxruntime", "1.20", "")
    onnx_limits = OnnxLimits(ir=13, opset=26)
    precisions = ("fp32", "fp16", "int8")
    settings: Mapping[str, str] = {
        "fallback": "deny (default): the device's provider runs every node; allow: the CPU runs what that one cannot",
    }
    devices: Mapping[str, str] = {"tensorrt": "nvidia", "nv_tensorrt_rtx": "nvidia"}
    rewrites = RewritePlan(opset=(7, 26), ir=13, lacking=frozenset({"Swish"}))

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Rewrites where asked and loads the model once, in the child."""
        return build

    def refusal(self, device: str, arch: str, precision: str) -> str:
        """One device per provider; the CPU provider computes fp16 in fp32, whatever the model says."""
        if device not in _DEVICES:
            return f"ONNX Runtime has no device {device!r} here: {', '.join(_DEVICES)}"
        if device == "cpu" and precision == "fp16":
            return "ONNX Runtime's CPU provider casts fp16 to fp32 and computes in that"
        return super().refusal(device, arch, precision)

    def notices(self, settings: Mapping[str, str]) -> tuple[str, ...]:
        """That the CPU provider may run nodes is said wherever it was asked for."""
        if settings.get("fallback") != "allow":
            return ()
        return ("nodes that the device's provider lacks run on the CPU, as asked; the placement says how many",)

    def environment(self, job: CompileJob | None = None) -> Environment:
        """Where the module ``onnxruntime`` is: it comes by two distributions."""
        del job
        try:
            return environment_for(self.package, None)
        except NotAvailable as error:
            try:
                return environment_for(_GPU, None)
            except NotAvailable:
                raise error from None


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Load the model with every optimisation on; what is not the bundle's own file is written beside it."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    fallback = _fallback(request)
    model, precision = Path(request["onnx"]), request["precision"]
    if precision == "int8":
        require_quantised(model)
    files: list[str] = []
    if precision == "fp16":
        require_plain(model, precision)
        files = _cast(model, Path(request["out"]))
    elif request.get("rewritten"):
        files = _copied(model, Path(request["out"]))
    loaded = Path(request["out"], files[0]) if files else model
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(loaded), options, providers=["CPUExecutionProvider"])
    kept: dict[str, Any] = {} if fallback == "deny" else {"session": {"fallback": fallback}}
    if request["device"] not in {"cpu", "cuda"}:
        kept["precision_shares"] = _typed_shares(loaded, request)
    return {"files": files, "options": kept, "built_with": {"onnxruntime": onnxruntime.__version__}}


def _fallback(request: Mapping[str, Any]) -> str:
    chosen = str(request["options"].get("fallback", "deny"))
    if chosen not in {"deny", "allow"}:
        raise UsageError(f"onnxruntime.fallback is {chosen!r}", expected="deny or allow")
    return chosen


def _copied(model: Path, out: Path) -> list[str]:
    """The model and the files that it keeps its weights in, beside each other as they lie."""
    names = [model.name, *check_onnx(model).external]
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.parent / name, out / name)
    return names


def _cast(model: Path, out: Path) -> list[str]:
    import onnx

    from avsdk_targets.half_onnx import half_from_full, save_onnx

    return save_onnx(half_from_full(onnx.load(model)), out / model.name)


def _typed_shares(model: Path, request: Mapping[str, Any]) -> dict[str, float]:
    """What the types in the model say, at its usual sizes: these providers run a graph as one node and show no more."""
    from avsdk_targets.typed_onnx import TypedGraph, without_weights

    sizes = request["sizes"] or {name: axis["default"] for name, axis in request["graph"]["axes"].items()}
    usual = {
        item["name"]: [axis if isinstance(axis, int) else sizes[axis] for axis in item["shape"]]
        for item in request["graph"]["inputs"]
    }
    return TypedGraph(without_weights(model), usual).shares()

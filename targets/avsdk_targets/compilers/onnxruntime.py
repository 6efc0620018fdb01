"""ONNX Runtime: the host half. The artifact is the bundle's own ONNX model, or that model rewritten or cast to fp16.

It is loaded once, on the CPU provider, to prove that the runtime accepts it; whether another provider runs every node
is proven where that provider is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from avsdk.engines.onnxruntime import reference_outputs
from avsdk.errors import NotAvailable, UsageError
from avsdk.golden import read_golden
from avsdk.onnx_check import OnnxLimits, check_onnx
from avsdk.onnxruntime_settings import SETTINGS, chosen_settings
from avsdk.parity import deviation
from avsdk_targets.compiler import CompileJob, Compiler
from avsdk_targets.quantised import require_plain, require_quantised
from avsdk_targets.rewrite import RewritePlan
from avsdk_targets.toolchain import Environment, PackageNeed, environment_for


@dataclass(frozen=True)
class Kinds:
    """The types of a quantised layer, in the quantiser's words. ``reduced``: weights of seven bits."""

    activations: str
    weights: str
    reduced: bool = False


KINDS = {
    "vnni": Kinds("QUInt8", "QInt8"),
    "x86": Kinds("QUInt8", "QInt8", reduced=True),
    "arm": Kinds("QInt8", "QInt8"),
    "exact": Kinds("QUInt8", "QUInt8"),
}
"""U8S8 is what VNNI multiplies. Without it x86 adds two such products in 16 bits, which saturates unless weights
have seven; S8S8 runs by U8S8's kernels there. Arm's dot products take S8S8, TensorRT's too, and symmetric. ``exact``
saturates nowhere, and is slower: it serves the ranking.
"""
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})
_MOVES = ("MaxPool", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze")
_RANKING_SAMPLES = 4

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
        **{name: f"{setting.meaning} ({setting.allowed})" for name, setting in SETTINGS.items()},
    }
    devices: Mapping[str, str] = {"tensorrt": "nvidia", "nv_tensorrt_rtx": "nvidia"}
    quantises = True
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

    def tunables(self, device: str, *, many: bool = False) -> Mapping[str, tuple[str, ...]]:
        """On the CPU: how far the graph is rewritten, and what is held and kept awake between runs."""
        del many
        if device != "cpu":
            return {}
        return {"optimisation": ("all", "extended"), "spinning": ("yes", "no"), "arena": ("yes", "no")}

    def session_options(self, settings: Mapping[str, str], device: str) -> dict[str, Any]:
        """How the session is made, and whether the CPU stands in."""
        del device
        return _session_options(settings)

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

    model, precision = Path(request["onnx"]), request["precision"]
    files: list[str] = []
    options: dict[str, Any] = _session_options(request["options"])
    if request.get("quantisation"):
        files, options["layers"] = _quantised(model, request)
    elif precision == "int8":
        require_quantised(model)
    if precision == "fp16":
        require_plain(model, precision)
        files = _cast(model, Path(request["out"]))
    elif request.get("rewritten") and not files:
        files = _copied(model, Path(request["out"]))
    loaded = Path(request["out"], files[0]) if files else model
    if precision == "int8":
        from avsdk_targets.onnx_layers import products

        options["products"] = products(loaded)
    session = onnxruntime.SessionOptions()
    session.log_severity_level = 3
    onnxruntime.InferenceSession(str(loaded), session, providers=["CPUExecutionProvider"])
    if request["device"] not in {"cpu", "cuda"}:
        options["precision_shares"] = _typed_shares(loaded, request)
    return {"files": files, "options": options, "built_with": {"onnxruntime": onnxruntime.__version__}}


def _session_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    fallback = str(settings.get("fallback", "deny"))
    if fallback not in {"deny", "allow"}:
        raise UsageError(f"onnxruntime.fallback is {fallback!r}", expected="deny or allow")
    recorded = {**({"fallback": fallback} if fallback == "allow" else {}), **chosen_settings(settings)}
    return {"session": recorded} if recorded else {}


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


# -- quantisation ------------------------------------------------------------------------------------------------------


def quantise(request: dict[str, Any]) -> dict[str, Any]:
    """In a child: the model of a compile request with Q/DQ in ``request["out"]``, for an engine that obeys that."""
    files, layers = _quantised(Path(request["onnx"]), request)
    return {"files": files, "layers": layers}


def _quantised(model: Path, request: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Static Q/DQ by ONNX Runtime's own quantiser; the file, and which layer computes in what."""
    from avsdk_targets.onnx_layers import named_layers, quantisable

    asked = request["quantisation"]
    named = named_layers(model, Path(asked["cache"]))
    layers = quantisable(named)
    arm = request["arch"].startswith(("arm", "aarch64", "cortex")) or "asimddp" in asked["isa"]
    symmetric = request["device"] != "cpu"
    kinds = KINDS["arm" if arm or symmetric else "vnni" if _VNNI & set(asked["isa"]) else "x86"]
    out = Path(request["out"]) / model.name
    chosen = [name for name in layers if name not in asked["kept"]]
    _write_quantised(named, out, Path(asked["samples"]), Path(asked["cache"]), chosen, kinds, symmetric=symmetric)
    names = [out.name, *check_onnx(out).external]
    return names, {name: "fp32" if name in asked["kept"] else "int8" for name in layers}


def rank_layers(onnx: str, calibrating: str, held_back: str, cache: str) -> list[dict[str, Any]]:
    """Each layer with what the model's SNR is when only that one computes in int8. Call it in a child process.

    The ranking serves every engine: that a value is rounded to 8 bits costs the same wherever it is done.
    """
    from avsdk_targets.onnx_layers import named_layers, quantisable

    named = named_layers(Path(onnx), Path(cache))
    samples = read_golden(Path(held_back))[:_RANKING_SAMPLES]
    answers = []
    for name, operator in quantisable(named).items():
        with TemporaryDirectory(prefix="avsdk-rank-") as folder:
            alone = Path(folder) / "alone.onnx"
            _write_quantised(named, alone, Path(calibrating), Path(cache), [name], KINDS["exact"])
            found = reference_outputs(str(alone), [feeds for feeds, _ in samples])
        snr = min(
            deviation("", key, wanted[key], answer[key]).snr_db
            for (_, wanted), answer in zip(samples, found)
            for key in wanted
        )
        answers.append({"layer": name, "operator": operator, "snr_db": snr})
    return answers


def _write_quantised(
    model: Path, out: Path, samples: Path, cache: Path, layers: Sequence[str], kinds: Kinds, *, symmetric: bool = False
) -> None:
    """Quantise these layers and what only moves values into them; the ranges are found once for a model."""
    from onnxruntime import quantization

    from avsdk_targets.onnx_layers import LAYERS, moves_into

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter([feeds for feeds, _ in read_golden(samples)])

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    quantization.quantize_static(
        model,
        out,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=[*LAYERS, *_MOVES],
        nodes_to_quantize=[*layers, *moves_into(model, layers, _MOVES)],
        per_channel=True,
        reduce_range=kinds.reduced,
        activation_type=getattr(quantization.QuantType, kinds.activations),
        weight_type=getattr(quantization.QuantType, kinds.weights),
        use_external_data_format=model.with_suffix(".data").exists(),
        extra_options={"ActivationSymmetric": symmetric, "ForceQuantizeNoInputCheck": True},
        calibration_cache_path=cache / f"{model.stem}-ranges.json",
    )

"""OpenVINO: the host half. ONNX -> IR (.xml and .bin) with fp32 weights, the precision being chosen at load; for an
NPU ONNX -> blob, ahead of time, where OpenVINO's NPU compiler library is at hand.

The native ONNX reader is used, never ``ovc`` or ``convert_model``; and like every child, this one refuses telemetry.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from avsdk.errors import NotAvailable
from avsdk.golden import read_golden
from avsdk.onnx_check import OnnxLimits
from avsdk.openvino_devices import device_units, last_line
from avsdk.openvino_settings import SETTINGS, checked_settings
from avsdk.worker import call_in_child
from avsdk_targets.compiler import Compiler, Verdict
from avsdk_targets.operator_table import Finding, NodeFact
from avsdk_targets.rewrite import RewritePlan
from avsdk_targets.toolchain import PackageNeed

_SERVED = {
    "cpu": ("fp32", "bf16", "fp16", "int8"),
    "gpu": ("fp32", "fp16", "int8"),
    "npu": ("fp16", "int8"),
}
_NPU_PLATFORMS = ("3720", "4000", "5010", "5020")
_NPU_TRIAL_TIMEOUT_S = 120.0
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})
_LAYERS = frozenset({"Convolution", "ConvolutionBackpropData", "GroupConvolution", "MatMul"})
_MOVES = frozenset({"Interpolate", "MaxPool", "Pad", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_IN_FLOAT = ["LogSoftmax", "MVN", "NormalizeL2", "Softmax", "SoftMax"]
"""Norms and softmax are never quantised: on the instance-norm networks that costs more than all convolutions."""
_NOT_QUANTISED = "int8 was asked for, and the model has no quantised operation"
_QUANTISE = "--calibration DIR quantises it on real inputs; or --precision fp32"
_NPU_LIBRARIES = ("libopenvino_intel_npu_compiler.so", "libopenvino_intel_npu_compiler_loader.so")
"""Intel's archive of the same release holds both in runtime/lib/intel64; the Linux wheel holds neither.

https://github.com/openvinotoolkit/openvino/issues/36374
"""


class OpenVinoCompiler(Compiler):
    """ONNX -> IR for ``cpu``, ``gpu`` and ``hetero:a+b`` with dynamic axes; a blob at fixed sizes for ``npu``.

    ``int8`` is built for models that bring their own QuantizeLinear and DequantizeLinear, and by NNCF for others.
    """

    engine = "openvino"
    package = PackageNeed("openvino", "openvino", "2025.0", "")
    onnx_limits = OnnxLimits(ir=14, opset=28)
    precisions = ("fp32", "bf16", "fp16", "int8")
    quantises = True
    devices: Mapping[str, str] = {"gpu": "host", "npu": "host", "hetero": "host"}
    rewrites = RewritePlan(
        opset=(7, 28), lacking=frozenset({"Bernoulli", "Celu", "NegativeLogLikelihoodLoss", "SwiGLU"})
    )
    settings = {name: f"{setting.meaning} ({setting.allowed})" for name, setting in SETTINGS.items()}

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Writes the IR or the blob, in the child."""
        return build

    def tunables(self, device: str, *, many: bool = False) -> Mapping[str, tuple[str, ...]]:
        """Whether threads stay on their cores; and how many requests execute side by side, where there are many."""
        if device != "cpu":
            return {}
        return {"pinning": ("yes", "no"), **({"streams": ("1", "2", "4")} if many else {})}

    def session_options(self, settings: Mapping[str, str], device: str) -> dict[str, Any]:
        """The plugin's settings, checked."""
        return _session_options(settings, device)

    def keeps_axes(self, device: str) -> bool:
        """An NPU is compiled for at fixed sizes."""
        return "npu" not in device_units(device)

    def refusal(self, device: str, arch: str, precision: str) -> str:
        """What OpenVINO's plugins do not compute in; all devices of a HETERO list must have the precision."""
        units = device_units(device)
        if not units:
            return f"it compiles for {', '.join(_SERVED)} or hetero:a+b of them, not {device}"
        for unit in units:
            if precision not in _SERVED[unit]:
                return f"openvino:{unit} computes in {', '.join(_SERVED[unit])}, not {precision}"
        return super().refusal(device, arch, precision)

    def check(self, device: str, arch: str, precision: str) -> Verdict:
        """Beside the package: for an NPU its compiler library, which is asked to compile a graph of one operation.

        HETERO compiles when it loads, on the machine that has the devices.
        """
        verdict = super().check(device, arch, precision)
        units = device_units(device)
        if not verdict.ok and units and not verdict.fix:
            return Verdict(False, verdict.reason, f"--precision {_SERVED[units[0]][0]}")
        if not verdict.ok or device != "npu":
            return verdict
        reason = _npu_trial(str(self.environment().python))
        return Verdict(not reason, reason, _npu_fix(self.identity().get("openvino", "")) if reason else "")

    def findings(
        self, model: Any, graph: str, nodes: Sequence[NodeFact], device: str, arch: str, precision: str
    ) -> Sequence[Finding]:
        """Beside the table: whether the model's own int8 and the precision asked for are of one mind."""
        found = list(super().findings(model, graph, nodes, device, arch, precision))
        quantised = _quantised_nodes(model)
        if precision == "int8" and not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
            found.append(Finding(graph, "", "", "precision", _NOT_QUANTISED, _QUANTISE, blocks=True))
        elif precision != "int8" and quantised:
            text = f"its int8 executes as int8, not as {precision}"
            found.append(Finding(graph, quantised[0], "", "precision", text, "--precision int8", blocks=True))
        return found


def _quantised_nodes(model: Any) -> list[str]:
    """The nodes whose products are made in int8: a DequantizeLinear feeds them."""
    made = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return [
        node.name or f"{node.op_type}_{index}"
        for index, node in enumerate(model.graph.node)
        if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"} and node.input[0] in made
    ]


@cache
def _npu_trial(python: str) -> str:
    """Why the NPU compiler does not work here, in its own words; empty where it does."""
    answer: dict[str, str] = call_in_child(
        npu_trial, name="openvino npu compiler", python=python, timeout_s=_NPU_TRIAL_TIMEOUT_S
    )
    return answer["reason"]


def _npu_fix(version: str) -> str:
    release = f"the OpenVINO {version} archive" if version else "OpenVINO's archive of the installed release"
    return (
        f"copy {' and '.join(_NPU_LIBRARIES)} from {release} (runtime/lib/intel64), or from Intel's package "
        "intel-driver-compiler-npu of that release, into the folder openvino/libs of the Python package"
    )


def npu_trial() -> dict[str, str]:
    """In the child: compile one ReLU for an NPU that need not be here."""
    import numpy
    import openvino
    from openvino import opset13

    data = opset13.parameter([1, 16], numpy.float32, "x")
    model = openvino.Model([opset13.result(opset13.relu(data))], [data], "trial")
    try:
        openvino.Core().compile_model(model, "NPU", _npu_config(_NPU_PLATFORMS[0])).export_model()
    except RuntimeError as error:
        return {"reason": _npu_reason(error)}
    return {"reason": ""}


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Read the ONNX, fix the sizes where asked, and write what the device loads."""
    import openvino

    kept = _session_options(request["options"], request["device"])
    core = openvino.Core()
    quantisation = request.get("quantisation")
    if quantisation:
        from avsdk_targets.onnx_layers import named_layers

        request = {**request, "onnx": str(named_layers(Path(request["onnx"]), Path(quantisation["cache"])))}
    model = _read(core, request)
    if request["precision"] == "int8" and not quantisation:
        _require_quantised(model, request["graph"]["name"])
    if request["sizes"] is not None:
        model.reshape({item["name"]: _sized(item["shape"], request["sizes"]) for item in request["graph"]["inputs"]})
    unread = _named(model, request["graph"])
    written = _write_blob if request["device"] == "npu" else _write_ir
    version = metadata.version("openvino")
    built_with = {"openvino": version}
    if quantisation:
        model = _quantised(model, request)
        built_with["nncf"] = metadata.version("nncf")
    files, options = written(core, model, request, version)
    if quantisation:
        options["layers"] = _layers(model, request["onnx"])
    options |= kept
    if unread:
        options["unread"] = unread
    return {"files": files, "options": {"openvino": version, **options}, "built_with": built_with}


def _session_options(settings: Mapping[str, Any], device: str) -> dict[str, Any]:
    checked = checked_settings({name: settings[name] for name in SETTINGS if name in settings}, device)
    return {"session": checked} if checked else {}


def _read(core: Any, request: Mapping[str, Any]) -> Any:
    """The model as OpenVINO's own reader gives it. Raises ``NotAvailable`` with the operators that it lacks."""
    try:
        return core.read_model(request["onnx"])
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = [line for line in lines if not line.startswith(("Exception from", "Check '", "FrontEnd API", "Loading"))]
        raise NotAvailable(
            f"OpenVINO cannot read graph {request['graph']['name']!r}: {' '.join(told or lines)[:400]}",
            expected="operators and types that OpenVINO's ONNX reader knows",
            fix="avsdk check MODEL --target all shows where it has a path",
        ) from error


def _named(model: Any, graph: Mapping[str, Any]) -> list[str]:
    """Name the model's inputs and outputs as the graph does; returns inputs that decide nothing, which are dropped.

    Where an output is an input as it came, both are one tensor, of which a file keeps one name: they are parted.
    Raises ``NotAvailable`` for an input that is not the graph's: unfed, it would be whatever lies in memory.
    """
    from openvino import opset13

    wanted = {item["name"]: item["shape"] for item in graph["inputs"]}
    found = {name: port for port in model.inputs for name in port.get_names() if name in wanted}
    for port in model.inputs:
        if wanted.keys() & port.get_names():
            continue
        fitting = [name for name, shape in wanted.items() if name not in found and _fits(port, shape)]
        if len(fitting) != 1:
            raise NotAvailable(
                f"OpenVINO made an input {sorted(port.get_names())} of graph {graph['name']!r}, which has no such",
                expected=f"the inputs {list(wanted)}",
                fix="another target: avsdk doctor lists them",
            )
        found[fitting[0]] = port
    for result in model.get_results():
        source = result.input_value(0)
        if source.get_node().get_type_name() == "Parameter":
            apart = opset13.reshape(source, opset13.shape_of(source), special_zero=False)
            result.input(0).replace_source_output(apart.output(0))
    for name, port in found.items():
        port.get_tensor().set_names({name})
    for index, item in enumerate(graph["outputs"]):
        if item["name"] not in model.output(index).get_names():
            model.output(index).get_tensor().set_names({item["name"]})
    return [name for name in wanted if name not in found]


def _fits(port: Any, shape: Sequence[int | str]) -> bool:
    """Whether an input that the reader named otherwise can be the one of this shape."""
    has = port.get_partial_shape()
    return (
        has.rank.is_static
        and len(has) == len(shape)
        and all(dim.is_dynamic or isinstance(size, str) or dim.get_length() == size for dim, size in zip(has, shape))
    )


def _write_ir(core: Any, model: Any, request: Mapping[str, Any], version: str) -> tuple[list[str], dict[str, Any]]:
    """Write the IR and read it back once."""
    import openvino

    name = f"{request['graph']['name']}.xml"
    openvino.save_model(model, Path(request["out"]) / name, compress_to_fp16=False)
    core.read_model(Path(request["out"]) / name)
    minimum = ".".join(version.split(".")[:2])
    return [name, name.replace(".xml", ".bin")], {"requires": {"engine": "openvino", "minimum": minimum}}


def _write_blob(core: Any, model: Any, request: Mapping[str, Any], version: str) -> tuple[list[str], dict[str, Any]]:
    """Compile for the NPU's platform and write what its runtime imports; a blob is bound to the release."""
    platform = str(request["options"].get("npu_platform") or _npu_here(core))
    if platform not in _NPU_PLATFORMS:
        raise NotAvailable(
            f"the NPU platform is {platform!r}",
            expected=f"one of: {', '.join(_NPU_PLATFORMS)}",
            fix="name the NPU that is meant: --target npu-3720 or npu-4000",
        )
    hint = SETTINGS["hint"].plugin_word(str(request["options"].get("hint", "latency")))
    try:
        compiled = core.compile_model(model, "NPU", {**_npu_config(platform), "PERFORMANCE_HINT": hint})
        blob = compiled.export_model()
    except RuntimeError as error:
        raise NotAvailable(
            f"OpenVINO's NPU compiler failed on graph {request['graph']['name']!r}: {_npu_reason(error)}",
            fix=_npu_fix(version),
        ) from error
    name = f"{request['graph']['name']}.npu{platform}.blob"
    Path(request["out"], name).write_bytes(blob.getvalue() if hasattr(blob, "getvalue") else blob)
    release = ".".join(version.split("-")[0].split(".")[:3])
    return [name], {"npu_platform": platform, "requires": {"engine": "openvino", "exact": release}}


def _npu_here(core: Any) -> str:
    """The platform of this machine's NPU; empty where there is none."""
    try:
        return str(core.get_property("NPU", "DEVICE_ARCHITECTURE"))
    except RuntimeError:
        return ""


def _npu_config(platform: str) -> dict[str, str]:
    return {"NPU_COMPILER_TYPE": "PLUGIN", "NPU_PLATFORM": platform, "INFERENCE_PRECISION_HINT": "f16"}


def _npu_reason(error: RuntimeError) -> str:
    """The line that says what is missing; the lines above it name OpenVINO's source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = [line for line in lines if "Cannot load library" in line]
    if missing:
        library = Path(missing[0].partition('"')[2].partition('"')[0]).name
        first = next((line for line in lines if "VCL" in line), "the NPU compiler was not loaded")
        return f"{first.partition(' Error:')[0].rstrip('.,')}: cannot load {library}, which the Linux wheel omits"
    return last_line(error)


def _quantised(model: Any, request: Mapping[str, Any]) -> Any:
    """The model quantised by NNCF on the calibration samples.

    Raises ``NotAvailable`` without NNCF, and for layers to be kept that OpenVINO's reader gave other names.
    """
    os.environ["NNCF_CI"] = "1"  # its own switch for what it reports
    try:
        import nncf
    except ImportError as error:
        raise NotAvailable(
            f"NNCF, which quantises for OpenVINO, cannot be imported: {error}",
            expected="nncf 3.0 or newer",
            fix="pip install 'avsdk[quantise]'",
        ) from error
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    asked = request["quantisation"]
    nncf.set_log_level(logging.ERROR)
    samples = [feeds for feeds, _ in read_golden(Path(asked["samples"]))]
    plain = request["device"] == "cpu" and not _VNNI & set(asked["isa"]) and "asimddp" not in asked["isa"]
    kept = [name for name in map(_onnx_name, _operations(model)) if name in asked["kept"]]
    lost = set(asked["kept"]) - set(kept)
    if lost:
        raise NotAvailable(f"OpenVINO's reader has no layer {min(lost)!r}, which is to stay in fp32")
    names = [node.get_friendly_name() for node in _operations(model) if _onnx_name(node) in kept]
    return nncf.quantize(
        model,
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset.MIXED if request["device"] == "cpu" else nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(samples),
        ignored_scope=nncf.IgnoredScope(names=names, types=_IN_FLOAT, validate=False),
        # Without VNNI two products of 8 bits are added in 16, which saturates: seven bits of the weights are used then.
        advanced_parameters=AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.ENABLE if plain else OverflowFix.DISABLE
        ),
    )


def _operations(model: Any) -> list[Any]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() in _LAYERS]


def _onnx_name(node: Any) -> str:
    """The name of the ONNX node that an operation was read from."""
    return str(node.get_friendly_name()).removesuffix("/WithoutBiases")


def _layers(model: Any, onnx: str) -> dict[str, str]:
    """Which of the ONNX layers compute in int8: a FakeQuantize feeds them, directly or through what only moves."""
    from avsdk_targets.onnx_layers import quantisable

    found = {}
    for node in _operations(model):
        source = node.input_value(0).get_node()
        while source.get_type_name() in _MOVES:
            source = source.input_value(0).get_node()
        found[_onnx_name(node)] = "int8" if source.get_type_name() == "FakeQuantize" else "fp32"
    return {name: found[name] for name in quantisable(Path(onnx)) if name in found}


def _require_quantised(model: Any, graph: str) -> None:
    if not any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()):
        raise NotAvailable(
            f"graph {graph!r}: {_NOT_QUANTISED}",
            expected="a model with QuantizeLinear and DequantizeLinear nodes",
            fix=_QUANTISE,
        )


def _sized(shape: list[int | str], sizes: dict[str, int]) -> list[int]:
    return [axis if isinstance(axis, int) else sizes[axis] for axis in shape]

"""OpenVINO: the host half. ONNX -> IR (.xml and .bin) with fp32 weights, the precision being chosen at load; for an
NPU ONNX -> blob, ahead of time, where OpenVINO's NPU compiler library is at hand.

The native ONNX reader is used, never ``ovc`` or ``convert_model``; and like every child, this one refuses telemetry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from avsdk.errors import NotAvailable
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
_NOT_QUANTISED = "int8 was asked for, and the model has no quantised operation"
_QUANTISE = "--precision fp32, or quantise the ONNX file first"
_NPU_LIBRARIES = ("libopenvino_intel_npu_compiler.so", "libopenvino_intel_npu_compiler_loader.so")
"""Intel's archive of the same release holds both in runtime/lib/intel64; the Linux wheel holds neither.

https://github.com/openvinotoolkit/openvino/issues/36374
"""


class OpenVinoCompiler(Compiler):
    """ONNX -> IR for ``cpu``, ``gpu`` and ``hetero:a+b`` with dynamic axes; a blob at fixed sizes for ``npu``.

    ``int8`` is built for models that bring their own QuantizeLinear and DequantizeLinear.
    """

    engine = "openvino"
    package = PackageNeed("openvino", "openvino", "2025.0", "")
    onnx_limits = OnnxLimits(ir=14, opset=28)
    precisions = ("fp32", "bf16", "fp16", "int8")
    devices: Mapping[str, str] = {"gpu": "host", "npu": "host", "hetero": "host"}
    rewrites = RewritePlan(
        opset=(7, 28), lacking=frozenset({"Bernoulli", "Celu", "NegativeLogLikelihoodLoss", "SwiGLU"})
    )
    settings = {name: f"{setting.meaning} ({setting.allowed})" for name, setting in SETTINGS.items()}

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Writes the IR or the blob, in the child."""
        return build

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

    settings = checked_settings(
        {name: request["options"][name] for name in SETTINGS if name in request["options"]}, request["device"]
    )
    core = openvino.Core()
    model = _read(core, request)
    if request["precision"] == "int8":
        _require_quantised(model, request["graph"]["name"])
    if request["sizes"] is not None:
        model.reshape({item["name"]: _sized(item["shape"], request["sizes"]) for item in request["graph"]["inputs"]})
    unread = _named(model, request["graph"])
    written = _write_blob if request["device"] == "npu" else _write_ir
    version = metadata.version("openvino")
    files, options = written(core, model, request, version)
    if settings:
        options["session"] = settings
    if unread:
        options["unread"] = unread
    return {"files": files, "options": {"openvino": version, **options}, "built_with": {"openvino": version}}


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


def _require_quantised(model: Any, graph: str) -> None:
    if not any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()):
        raise NotAvailable(
            f"graph {graph!r}: {_NOT_QUANTISED}",
            expected="a model with QuantizeLinear and DequantizeLinear nodes",
            fix=_QUANTISE,
        )


def _sized(shape: list[int | str], sizes: dict[str, int]) -> list[int]:
    return [axis if isinstance(axis, int) else sizes[axis] for axis in shape]
